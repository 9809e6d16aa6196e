//! The tensor-core GEMM and the device epilogue against the naive oracle: every instance, splits of K, output types,
//! parts of the epilogue, ragged shapes, odd places in memory. Bits must be equal.

use crate::output::Out;
use crate::support::{self, device, same, stream, Placed, Random};
use half::{bf16, f16};
use imma::cuda::cudarc::driver::{CudaSlice, CudaStream};
use imma::cuda::{
    by_name, choose, Batches, DeviceEpilogue, DeviceFloats, Igemm, Matrix, Tile, TILES,
};
use imma::reference::{self, Product};
use imma::{Activation, DType, Epilogue, Error, FloatSlice, FloatView, Lhs, Scales, Weights};
use ndarray::{Array2, ArrayView2};
use std::sync::Arc;

/// Host and device copies of floats of one of the three types.
enum Floats {
    F32(Vec<f32>, Placed<f32>),
    F16(Vec<f16>, Placed<f16>),
    BF16(Vec<bf16>, Placed<bf16>),
}

impl Floats {
    fn new(stream: &Arc<CudaStream>, random: &mut Random, rows: usize, cols: usize) -> Self {
        fn make<T: support::Type>(
            stream: &Arc<CudaStream>,
            random: &mut Random,
            rows: usize,
            cols: usize,
        ) -> (Vec<T>, Placed<T>) {
            let data: Vec<T> = (0..rows * cols)
                .map(|_| T::from_f32(random.unit() * 2.0))
                .collect();
            let placed = Placed::new(stream, random, &data, rows, cols, T::from_f32(-9.0));
            (data, placed)
        }
        match random.below(3) {
            0 => {
                let (a, b) = make(stream, random, rows, cols);
                Floats::F32(a, b)
            }
            1 => {
                let (a, b) = make(stream, random, rows, cols);
                Floats::F16(a, b)
            }
            _ => {
                let (a, b) = make(stream, random, rows, cols);
                Floats::BF16(a, b)
            }
        }
    }

    fn slice(&self) -> FloatSlice<'_> {
        match self {
            Floats::F32(v, _) => FloatSlice::F32(v),
            Floats::F16(v, _) => FloatSlice::F16(v),
            Floats::BF16(v, _) => FloatSlice::BF16(v),
        }
    }

    fn view(&self, m: usize, n: usize) -> FloatView<'_> {
        fn of<T>(v: &[T], m: usize, n: usize) -> ArrayView2<'_, T> {
            ArrayView2::from_shape((m, n), v).unwrap()
        }
        match self {
            Floats::F32(v, _) => FloatView::F32(of(v, m, n)),
            Floats::F16(v, _) => FloatView::F16(of(v, m, n)),
            Floats::BF16(v, _) => FloatView::BF16(of(v, m, n)),
        }
    }
}

/// Runs `$body` with `$floats` as `DeviceFloats` and its geometry.
macro_rules! with_device {
    ($floats:expr, $device:ident, $geometry:ident => $body:expr) => {
        match $floats {
            None => {
                let $device: Option<DeviceFloats<'_>> = None;
                let $geometry: Option<support::Geometry> = None;
                $body
            }
            Some(Floats::F32(_, p)) => {
                let (view, $geometry) = (p.view(), Some(p.geometry()));
                let $device = Some(DeviceFloats::F32(&view));
                $body
            }
            Some(Floats::F16(_, p)) => {
                let (view, $geometry) = (p.view(), Some(p.geometry()));
                let $device = Some(DeviceFloats::F16(&view));
                $body
            }
            Some(Floats::BF16(_, p)) => {
                let (view, $geometry) = (p.view(), Some(p.geometry()));
                let $device = Some(DeviceFloats::BF16(&view));
                $body
            }
        }
    };
}

/// Operands of one product, on the host and placed on the device.
struct Operands {
    a: Array2<i8>,
    w: Array2<i8>,
    device_a: Placed<i8>,
    device_w: Placed<i8>,
}

impl Operands {
    fn new(
        stream: &Arc<CudaStream>,
        random: &mut Random,
        [m, n, k]: [usize; 3],
        aligned: bool,
    ) -> Self {
        let mut bytes = |rows: usize| {
            Array2::from_shape_simple_fn((rows, k), || match random.below(40) {
                0 => -128,
                1 => 127,
                _ => random.next() as i8,
            })
        };
        let (a, w) = (bytes(m), bytes(n));
        let mut place = |x: &Array2<i8>, rows: usize| {
            let data: Vec<i8> = x.iter().copied().collect();
            if aligned {
                let (offset, gap) = (16 * random.below(3), 16 * random.below(2));
                let stride = k.next_multiple_of(16) + gap;
                Placed::at(stream, &data, [rows, k], 0x55, offset, stride)
            } else {
                Placed::new(stream, random, &data, rows, k, 0x55)
            }
        };
        let (device_a, device_w) = (place(&a, m), place(&w, n));
        Operands {
            a,
            w,
            device_a,
            device_w,
        }
    }
}

/// One product by one instance with a random epilogue, gated or not; also the stand-alone epilogue over the oracle's sums.
fn check<O: Out>(random: &mut Random, tile: &'static Tile, splits: usize, shape: [usize; 3]) {
    let gated = O::DTYPE != DType::I32 && random.below(3) == 0;
    check_product::<O>(random, tile, splits, shape, gated);
}

fn check_product<O: Out>(
    random: &mut Random,
    tile: &'static Tile,
    splits: usize,
    [m, n, k]: [usize; 3],
    gated: bool,
) {
    let (device, stream) = (device(), stream());
    // Whole pairs.
    let n = if gated { n.next_multiple_of(2) } else { n };
    let cols = if gated { n / 2 } else { n };
    let operands = Operands::new(&stream, random, [m, n, k], tile.aligned);
    let raw = O::DTYPE == DType::I32;
    let some = |random: &mut Random| random.below(3) > 0;
    let zeros: Option<Vec<i32>> = some(random).then(|| {
        let count = random.pick(&[1, m]);
        (0..count).map(|_| random.below(256) as i32 - 128).collect()
    });
    let mut scales = |all: usize, size: f32| -> Option<Vec<f32>> {
        let count = random.pick(&[0, 1, all, all]);
        (!raw && count > 0 && all > 0)
            .then(|| (0..count).map(|_| (random.unit() + 1.5) * size).collect())
    };
    let (row, col) = (scales(m, 0.01), scales(n, 0.002));
    let bias = (!raw && some(random)).then(|| Floats::new(&stream, random, 1, n));
    let residual = (!raw && some(random)).then(|| Floats::new(&stream, random, m, cols));
    let activation = if raw {
        Activation::None
    } else {
        random.pick(&[
            Activation::None,
            Activation::Relu,
            Activation::Silu,
            Activation::Gelu,
            Activation::GeluTanh,
        ])
    };
    let out_scale = (O::DTYPE == DType::I8).then_some(0.037f32);

    fn host(scales: &Option<Vec<f32>>) -> Scales<'_> {
        match scales.as_deref() {
            None => Scales::None,
            Some([one]) => Scales::PerTensor(*one),
            Some(all) => Scales::PerVector(all),
        }
    }
    let epilogue = Epilogue {
        row_scales: host(&row),
        col_scales: host(&col),
        row_zero_points: zeros.as_deref(),
        bias: bias.as_ref().map(Floats::slice),
        activation,
        gated,
        residual: residual.as_ref().map(|r| r.view(m, cols)),
        out_scale,
    };
    let lhs = Lhs::Int8(operands.a.view());
    let weights = Weights::Int8(operands.w.t());
    let want = O::of(reference::gemm(&lhs, &weights, &epilogue, O::DTYPE));
    let want_rows = (!raw).then(|| {
        let epilogue = Epilogue {
            out_scale: None,
            ..epilogue.clone()
        };
        match reference::gemm(&lhs, &weights, &epilogue, DType::F32) {
            Product::F32(floats) => reference::quantize_rows(floats.view()),
            other => panic!("the oracle answered {other:?}"),
        }
    });
    let sums = reference::matmul_i32(operands.a.view(), operands.w.t());
    let sums: Vec<i32> = sums.into_iter().collect();
    let col_sums: Vec<i32> = operands
        .w
        .rows()
        .into_iter()
        .map(|row| row.iter().map(|x| i32::from(*x)).sum())
        .collect();

    fn place<T: cuda_data::Data>(
        stream: &Arc<CudaStream>,
        random: &mut Random,
        data: &Option<Vec<T>>,
    ) -> Option<Placed<T>> {
        let data = data.as_ref()?;
        Some(Placed::new(stream, random, data, 1, data.len(), T::GAP))
    }
    let col_sums = zeros.is_some().then_some(col_sums);
    let row = place(&stream, random, &row);
    let col = place(&stream, random, &col);
    let zeros = place(&stream, random, &zeros);
    let col_sums = place(&stream, random, &col_sums);
    let (row, col) = (
        row.as_ref().map(|p| p.view()),
        col.as_ref().map(|p| p.view()),
    );
    let zeros = zeros.as_ref().map(|p| p.view());
    let col_sums = col_sums.as_ref().map(|p| p.view());
    let igemm = Igemm { tile, splits };
    let mut workspace: CudaSlice<i32> = stream
        .clone_htod(&vec![0x5555_5555; igemm.workspace(m, n).max(1)])
        .unwrap();
    let mut output = Placed::filled(&stream, random, m, cols, O::POISON, O::GAP);
    let mut alone = Placed::filled(&stream, random, m, cols, O::POISON, O::GAP);
    let mut rows = [(); 2].map(|()| Rows::new(&stream, random, m, cols));
    let mut rows_workspace: CudaSlice<i32> = stream
        .clone_htod(&vec![0x5555_5555; igemm.workspace_quantized(m, n).max(1)])
        .unwrap();
    let sums = Placed::new(&stream, random, &sums, m, n, -5);
    let case = format!(
        "{} split {splits}, [{m}, {k}] x [{k}, {n}] -> {} {output}, {epilogue:?}",
        tile.name,
        O::DTYPE
    );
    let (ga, gw) = (operands.device_a.geometry(), operands.device_w.geometry());
    let (gout, galone, gsums) = (output.geometry(), alone.geometry(), sums.geometry());
    with_device!(&bias, bias_floats, _geometry => {
        with_device!(&residual, residual_floats, geometry => {
            let epilogue = DeviceEpilogue {
                row_scales: row.as_ref().map(|v| v as _),
                col_scales: col.as_ref().map(|v| v as _),
                row_zero_points: zeros.as_ref().map(|v| v as _),
                col_sums: col_sums.as_ref().map(|v| v as _),
                bias: bias_floats,
                activation,
                gated,
                residual: residual_floats.zip(geometry).map(|(floats, g)| g.over(floats)),
                out_scale,
            };
            let (a, w) = (operands.device_a.view(), operands.device_w.view());
            device
                .igemm(&stream, igemm, ga.over(&a), gw.over(&w), gout.over(&mut output.view_mut()), &epilogue,
                    Some(&mut workspace))
                .unwrap_or_else(|error| panic!("{case}: {error}"));
            device
                .epilogue(&stream, gsums.over(&sums.view()), galone.over(&mut alone.view_mut()), &epilogue)
                .unwrap_or_else(|error| panic!("{case}: {error}"));
            if !raw {
                let epilogue = DeviceEpilogue { out_scale: None, ..epilogue };
                let [by_gemm, by_sums] = &mut rows;
                let g = by_gemm.q.geometry();
                device
                    .igemm_quantized(&stream, igemm, ga.over(&a), gw.over(&w), g.over(&mut by_gemm.q.view_mut()),
                        &mut by_gemm.scales.view_mut(), &epilogue, &mut rows_workspace)
                    .unwrap_or_else(|error| panic!("quantised {case}: {error}"));
                let g = by_sums.q.geometry();
                device
                    .epilogue_quantized(&stream, gsums.over(&sums.view()), g.over(&mut by_sums.q.view_mut()),
                        &mut by_sums.scales.view_mut(), &epilogue)
                    .unwrap_or_else(|error| panic!("quantised {case}: {error}"));
            }
        })
    });
    if let Some(want) = &want_rows {
        for (what, found) in ["igemm_quantized", "epilogue_quantized"].iter().zip(rows) {
            found.check(&stream, want, &format!("{what} {case}"));
        }
    }
    for (what, found) in [
        ("igemm", output.read(&stream)),
        ("epilogue", alone.read(&stream)),
    ] {
        assert_eq!(found.len(), want.len(), "{what} {case}");
        let wrong: Vec<_> = (0..want.len())
            .filter(|i| !O::equal(found[*i], want[*i]))
            .collect();
        if let Some(i) = wrong.first() {
            panic!(
                "{what}, {case}: [{}, {}] is {:?}, expected {:?}; {} of {} differ",
                i / cols,
                i % cols,
                found[*i],
                want[*i],
                wrong.len(),
                want.len()
            );
        }
    }
}

/// An int8 output with a scale a row.
struct Rows {
    q: Placed<i8>,
    scales: Placed<f32>,
}

impl Rows {
    fn new(stream: &Arc<CudaStream>, random: &mut Random, m: usize, cols: usize) -> Self {
        Rows {
            q: Placed::filled(stream, random, m, cols, -77, -78),
            scales: Placed::filled(stream, random, 1, m, -77.0, -78.0),
        }
    }

    fn check(self, stream: &Arc<CudaStream>, want: &reference::Quantized, case: &str) {
        let (q, scales) = (self.q.read(stream), self.scales.read(stream));
        for (i, (found, want)) in scales.iter().zip(&want.scales).enumerate() {
            assert!(
                same(*found, *want),
                "{case}: the scale of row {i} is {found}, expected {want}"
            );
        }
        assert_eq!(scales.len(), want.scales.len(), "{case}");
        let want: Vec<i8> = want.q.iter().copied().collect();
        assert!(q == want, "{case}: other integers than expected");
    }
}

mod cuda_data {
    use imma::cuda::cudarc::driver::DeviceRepr;
    /// Vectors of the epilogue.
    pub trait Data: DeviceRepr + Copy + PartialEq + std::fmt::Debug {
        const GAP: Self;
    }
    impl Data for f32 {
        const GAP: Self = -3.0;
    }
    impl Data for i32 {
        const GAP: Self = -3;
    }
}

fn check_any(random: &mut Random, tile: &'static Tile, splits: usize, shape: [usize; 3]) {
    match random.below(5) {
        0 => check::<f32>(random, tile, splits, shape),
        1 => check::<f16>(random, tile, splits, shape),
        2 => check::<bf16>(random, tile, splits, shape),
        3 => check::<i32>(random, tile, splits, shape),
        _ => check::<i8>(random, tile, splits, shape),
    }
}

/// Every instance over whole tiles, one less and one more, K of no step, part of one and more than the pipeline holds.
#[test]
fn every_instance_gives_the_oracle_s_bits() {
    let own = support::own_device();
    let random = &mut Random(11);
    for tile in &TILES {
        let (m, n, k) = (tile.m, tile.n, tile.k);
        for shape in [
            [m, n, k * (tile.stages + 2)],
            [m + 1, n + 1, k + 1],
            [m - 1, n - 3, 3 * k - 5],
            [1, 1, 1],
            [5, 2 * n + 7, 2 * k + 16],
        ] {
            check_any(random, tile, 1, shape);
        }
        check::<i32>(random, tile, 1, [m / 2 + 3, n / 2 + 5, k * 2]);
        // Every instance with pairs, to every type it can have, whole and split.
        let shape = [m / 2 + 3, n + 6, 3 * k + 20];
        for splits in [1, 3] {
            check_product::<f32>(random, tile, splits, [5, n / 2 + 3, 2 * k + 7], true);
            check_product::<f16>(random, tile, splits, [3, 18, k + 9], true);
            check_product::<bf16>(random, tile, splits, shape, true);
            check_product::<i8>(random, tile, splits, [2, 34, k], true);
        }
        check::<f32>(random, tile, 1, [7, 9, 0]);
        check_any(random, tile, 1, [0, 9, 33]);
        check_any(random, tile, 1, [9, 0, 33]);
        check_product::<f32>(random, tile, 1, [9, 0, 33], true);
        for splits in [2, 3] {
            check_any(random, tile, splits, [19, n + 6, 5 * k + 33]);
        }
        // More parts than steps: the last ones add nothing.
        check_any(random, tile, 4, [3, 21, k + 1]);
    }
    for _ in 0..60 {
        let tile = &TILES[random.below(TILES.len())];
        let shape = [
            1 + random.below(90),
            1 + random.below(90),
            random.below(400),
        ];
        let splits = 1 + random.below(3);
        check_any(random, tile, splits, shape);
    }
    let entries = |image: &&imma::cuda::Image| image.name == "igemm_sm80";
    let entries = imma::cuda::images().iter().find(entries).unwrap().entries;
    assert_eq!(entries.len(), TILES.len(), "an entry without a tile");
    support::check_all_launched(&own, "igemm");
}

/// A row's result is the same alone, in a batch of rows, by any instance and any split.
#[test]
fn a_row_does_not_depend_on_its_batch_tile_or_split() {
    let (device, stream) = (device(), stream());
    let random = &mut Random(12);
    let [m, n, k] = [150, 70, 640];
    let operands = Operands::new(&stream, random, [m, n, k], true);
    let scales: Vec<f32> = (0..m).map(|_| random.unit() + 1.5).collect();
    let columns: Vec<f32> = (0..n).map(|_| random.unit() + 1.5).collect();
    let scales = stream.clone_htod(&scales).unwrap();
    let columns = stream.clone_htod(&columns).unwrap();
    let run = |tile: &'static Tile, splits: usize, first: usize, rows: usize| -> Vec<u32> {
        let igemm = Igemm { tile, splits };
        let mut out = stream.clone_htod(&vec![-1.0f32; rows * n]).unwrap();
        let mut workspace = stream
            .clone_htod(&vec![7i32; igemm.workspace(rows, n).max(1)])
            .unwrap();
        let view = operands.device_a.view();
        let stride = operands.device_a.geometry().stride();
        let a = view.slice(first * stride..);
        let row_scales = scales.slice(first..first + rows);
        let epilogue = DeviceEpilogue {
            row_scales: Some(&row_scales),
            col_scales: Some(&columns),
            activation: Activation::Silu,
            ..DeviceEpilogue::default()
        };
        device
            .igemm(
                &stream,
                igemm,
                Matrix::new(&a, rows, k).with_stride(stride),
                operands.device_w.geometry().over(&operands.device_w.view()),
                Matrix::new(&mut out, rows, n),
                &epilogue,
                Some(&mut workspace),
            )
            .unwrap();
        let found = stream.clone_dtoh(&out).unwrap();
        found.iter().map(|x| x.to_bits()).collect()
    };
    let whole = run(by_name("128x128x64").unwrap(), 1, 0, m);
    for tile in &TILES {
        for splits in [1, 2, 5] {
            let row = random.below(m);
            let alone = run(tile, splits, row, 1);
            assert_eq!(alone, whole[row * n..][..n], "{} split {splits}", tile.name);
        }
    }
    for (first, rows) in [(0, 17), (33, 64), (100, 50)] {
        let some = run(by_name("32x64x128").unwrap(), 3, first, rows);
        assert_eq!(some, whole[first * n..][..rows * n]);
    }
}

/// One batched call against one call a product: apart, rows in turn, and operands that are shared.
#[test]
fn a_batch_is_its_products_one_by_one() {
    let (device, stream) = (device(), stream());
    let random = &mut Random(91);
    for case in 0..24 {
        let tile = random.pick(&TILES.each_ref());
        let splits = random.pick(&[1, 1, 3]);
        let igemm = Igemm { tile, splits };
        let [m, n, k] = [
            1 + random.below(40),
            1 + random.below(90),
            random.below(300),
        ];
        let count = 1 + random.below(4);
        let pad = |x: usize| {
            if tile.aligned {
                x.next_multiple_of(16)
            } else {
                x
            }
        };
        let (lda, ldw) = (pad(k + random.below(3)), pad(k + random.below(3)));
        let shared_w = random.below(2) == 0;
        let in_turn = random.below(2) == 0;
        let (ldc, output) = if in_turn {
            (count * n, n)
        } else {
            (n, m * n + random.below(5))
        };
        let batches = Batches {
            count,
            a: m * lda,
            w: if shared_w { 0 } else { n * ldw },
            output,
            residual: m * n,
            rows: m,
            cols: if shared_w { 0 } else { n },
        };
        let bytes = |random: &mut Random, len: usize| -> Vec<i8> {
            (0..len.max(1)).map(|_| random.next() as i8).collect()
        };
        let units = |random: &mut Random, len: usize| -> Vec<f32> {
            (0..len).map(|_| random.unit() * 0.1).collect()
        };
        let a = stream.clone_htod(&bytes(random, count * m * lda)).unwrap();
        let w = stream.clone_htod(&bytes(random, count * n * ldw)).unwrap();
        let row_scales = stream.clone_htod(&units(random, count * m)).unwrap();
        let columns = if shared_w { n } else { count * n };
        let col_scales = stream.clone_htod(&units(random, columns)).unwrap();
        let bias = stream.clone_htod(&units(random, columns)).unwrap();
        let residual = stream.clone_htod(&units(random, count * m * n)).unwrap();
        let len = (count - 1) * output + (m - 1) * ldc + n;
        let poison = vec![-77.0f32; len];
        let mut found = stream.clone_htod(&poison).unwrap();
        let mut want = stream.clone_htod(&poison).unwrap();
        let epilogue = DeviceEpilogue {
            row_scales: Some(&row_scales),
            col_scales: Some(&col_scales),
            bias: Some(DeviceFloats::F32(&bias)),
            residual: Some(Matrix::new(DeviceFloats::F32(&residual), m, n)),
            activation: Activation::Relu,
            ..DeviceEpilogue::default()
        };
        let space = igemm.workspace(m, n);
        let mut workspace = stream
            .clone_htod(&vec![-1i32; (count * space).max(1)])
            .unwrap();
        device
            .igemm_batched(
                &stream,
                igemm,
                &batches,
                Matrix::new(&a, m, k).with_stride(lda),
                Matrix::new(&w, n, k).with_stride(ldw),
                Matrix::new(&mut found, m, n).with_stride(ldc),
                &epilogue,
                Some(&mut workspace),
            )
            .unwrap_or_else(|error| panic!("case {case}: {error}"));
        for b in 0..count {
            let column = b * batches.cols;
            let row_scales = row_scales.slice(b * m..(b + 1) * m);
            let col_scales = col_scales.slice(column..column + n);
            let bias = bias.slice(column..column + n);
            let residual = residual.slice(b * m * n..(b + 1) * m * n);
            let epilogue = DeviceEpilogue {
                row_scales: Some(&row_scales),
                col_scales: Some(&col_scales),
                bias: Some(DeviceFloats::F32(&bias)),
                residual: Some(Matrix::new(DeviceFloats::F32(&residual), m, n)),
                activation: Activation::Relu,
                ..DeviceEpilogue::default()
            };
            // The simplest instance: any gives the same bits, as the tests above show.
            let one = Igemm {
                tile: by_name("64x64x128_any").unwrap(),
                splits: 1,
            };
            device
                .igemm(
                    &stream,
                    one,
                    Matrix::new(&a.slice(b * batches.a..), m, k).with_stride(lda),
                    Matrix::new(&w.slice(b * batches.w..), n, k).with_stride(ldw),
                    Matrix::new(&mut want.slice_mut(b * output..), m, n).with_stride(ldc),
                    &epilogue,
                    None,
                )
                .unwrap();
        }
        let (found, want) = (
            stream.clone_dtoh(&found).unwrap(),
            stream.clone_dtoh(&want).unwrap(),
        );
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(
            bits(&found) == bits(&want),
            "case {case}: {igemm}, [{m}, {n}, {k}], {batches:?}"
        );
        // Outputs that overlap, and a slice that ends early.
        let mut refused = |batches: Batches, expected: &str| {
            let mut out = stream.alloc_zeros::<f32>(len).unwrap();
            let error = device
                .igemm_batched(
                    &stream,
                    igemm,
                    &batches,
                    Matrix::new(&a, m, k).with_stride(lda),
                    Matrix::new(&w, n, k).with_stride(ldw),
                    Matrix::new(&mut out, m, n).with_stride(ldc),
                    &epilogue,
                    Some(&mut workspace),
                )
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}; expected {expected}");
        };
        if count > 1 {
            refused(
                Batches {
                    output: n - 1,
                    ..batches
                },
                "batch stride",
            );
            refused(
                Batches {
                    output: output + 1,
                    ..batches
                },
                "output has",
            );
            refused(
                Batches {
                    rows: m + 1,
                    ..batches
                },
                "row scales",
            );
            if k > 0 {
                refused(
                    Batches {
                        a: batches.a + 16,
                        ..batches
                    },
                    "a has",
                );
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_runs() {
    let (own, stream) = (support::own_device(), stream());
    let device = &*own;
    let a = stream.clone_htod(&[1i8; 4 * 32 + 16]).unwrap();
    let w = stream.clone_htod(&[1i8; 3 * 32]).unwrap();
    let mut out = stream.clone_htod(&[9i32; 12]).unwrap();
    let before = device.launches();
    let aligned = Igemm {
        tile: &TILES[0],
        splits: 1,
    };
    let mut run =
        |igemm, a: Matrix<&_>, w: Matrix<&_>, rows: usize, epilogue: &DeviceEpilogue<'_>| {
            let out = Matrix::new(&mut out, rows, 3);
            device
                .igemm::<i32>(&stream, igemm, a, w, out, epilogue, None)
                .unwrap_err()
        };
    let (fine_a, fine_w) = (a.slice(..), w.slice(..));
    let none = DeviceEpilogue::default();
    let error = run(
        aligned,
        Matrix::new(&fine_a, 4, 32),
        Matrix::new(&fine_w, 3, 31),
        4,
        &none,
    );
    assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
    let error = run(
        aligned,
        Matrix::new(&fine_a, 4, 32),
        Matrix::new(&fine_w, 3, 32),
        3,
        &none,
    );
    assert!(
        matches!(
            error,
            Error::Shape {
                what: "the output",
                ..
            }
        ),
        "{error}"
    );
    let error = run(
        aligned,
        Matrix::new(&fine_a, 5, 32),
        Matrix::new(&fine_w, 3, 32),
        5,
        &none,
    );
    assert!(matches!(error, Error::Length { what: "a", .. }), "{error}");
    let odd = a.slice(1..);
    let error = run(
        aligned,
        Matrix::new(&odd, 4, 32),
        Matrix::new(&fine_w, 3, 32),
        4,
        &none,
    );
    assert!(error.to_string().contains("_any"), "{error}");
    let error = run(
        aligned,
        Matrix::new(&fine_a, 4, 24),
        Matrix::new(&fine_w, 3, 24),
        4,
        &none,
    );
    assert!(
        matches!(
            error,
            Error::Value {
                what: "alignment",
                ..
            }
        ),
        "{error}"
    );
    let split = Igemm {
        splits: 2,
        ..aligned
    };
    let error = run(
        split,
        Matrix::new(&fine_a, 4, 32),
        Matrix::new(&fine_w, 3, 32),
        4,
        &none,
    );
    assert!(error.to_string().contains("24 elements"), "{error}");
    let scales = stream.clone_htod(&[1.0f32; 4]).unwrap();
    let scaled = DeviceEpilogue {
        row_scales: Some(&scales),
        ..none
    };
    let error = run(
        aligned,
        Matrix::new(&fine_a, 4, 32),
        Matrix::new(&fine_w, 3, 32),
        4,
        &scaled,
    );
    assert!(matches!(error, Error::Epilogue { .. }), "{error}");
    let long = DeviceEpilogue {
        col_scales: Some(&scales),
        ..none
    };
    let error = run(
        aligned,
        Matrix::new(&fine_a, 4, 32),
        Matrix::new(&fine_w, 3, 32),
        4,
        &long,
    );
    assert!(
        matches!(
            error,
            Error::Length {
                what: "column scales",
                ..
            }
        ),
        "{error}"
    );
    // Pairs of raw sums have no product, and a column alone is no pair.
    let pairs = DeviceEpilogue {
        gated: true,
        ..none
    };
    let refused = |n: usize| {
        let mut halves = stream.clone_htod(&[9i32; 4]).unwrap();
        let error = device
            .igemm::<i32>(
                &stream,
                aligned,
                Matrix::new(&fine_a, 4, 32),
                Matrix::new(&fine_w, n, 32),
                Matrix::new(&mut halves, 4, n / 2),
                &pairs,
                None,
            )
            .unwrap_err();
        assert_eq!(stream.clone_dtoh(&halves).unwrap(), [9; 4]);
        error.to_string()
    };
    assert!(
        refused(2).contains("gated product with i32"),
        "{}",
        refused(2)
    );
    assert!(refused(3).contains("even number"), "{}", refused(3));
    // A fresh scale beside a given one, one scale too few, no room for the sums, a full output for pairs.
    let quantized = |cols: usize, rows: usize, room: usize, epilogue: &DeviceEpilogue<'_>| {
        let mut q = stream.clone_htod(&[9i8; 8]).unwrap();
        let mut scales = stream.clone_htod(&vec![9.0f32; rows]).unwrap();
        let error = device
            .igemm_quantized(
                &stream,
                aligned,
                Matrix::new(&fine_a, 4, 32),
                Matrix::new(&fine_w, 2, 32),
                Matrix::new(&mut q, 4, cols),
                &mut scales,
                epilogue,
                &mut stream.clone_htod(&vec![0i32; room]).unwrap(),
            )
            .unwrap_err();
        assert_eq!(stream.clone_dtoh(&q).unwrap(), [9; 8]);
        assert_eq!(stream.clone_dtoh(&scales).unwrap(), vec![9.0; rows]);
        error.to_string()
    };
    let given = DeviceEpilogue {
        out_scale: Some(0.5),
        ..none
    };
    for (error, expected) in [
        (quantized(2, 4, 8, &given), "its own"),
        (quantized(2, 3, 8, &none), "scales"),
        (quantized(2, 4, 7, &none), "8 elements"),
        (quantized(2, 4, 8, &pairs), "[4, 1]"),
        (quantized(1, 4, 8, &none), "[4, 2]"),
    ] {
        assert!(error.contains(expected), "{error}; expected {expected}");
    }
    assert_eq!(device.launches(), before);
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [9; 12]);
}

/// The choice is a function of the problem alone, and fits the device.
#[test]
fn the_choice_fits_and_repeats() {
    let limits = device().limits().unwrap();
    for (m, n, k) in [
        (1, 4096, 4096),
        (16, 4096, 8192),
        (17, 4096, 8192),
        (4096, 4096, 4096),
        (0, 5, 7),
    ] {
        for aligned in [true, false] {
            let choice = choose(m, n, k, aligned, limits);
            println!("{m}x{k}x{n}: {choice}");
            assert_eq!(choice, choose(m, n, k, aligned, limits));
            assert_eq!(choice.tile.aligned, aligned);
            assert!(choice.tile.shared() <= limits.shared && choice.splits >= 1);
        }
    }
    // A big product takes a big tile, one token a small one and a split.
    let big = choose(4096, 4096, 4096, true, limits).tile;
    assert!(big.m * big.n >= 64 * 128, "{big:?}");
    let decode = choose(1, 4096, 8192, true, limits);
    assert!(decode.tile.m == 16 && decode.splits > 1, "{decode}");
}
