//! The tensor-core GEMM and the device epilogue against the naive oracle: every instance, splits of K, output types,
//! parts of the epilogue, ragged shapes, odd places in memory. Bits must be equal.

use crate::output::Out;
use crate::support::{self, device, same, stream, Placed, Random};
use half::{bf16, f16};
use imma::activation::Activation;
use imma::cuda::cudarc::driver::{CudaSlice, CudaStream, CudaView};
use imma::cuda::kernels::igemm_sm80::{by_name, candidates, Instance, Tile, TILES};
use imma::cuda::kernels::{self, igemm_sm80, Batches, GemmOperands, OnDevice, ScaleGroups, Shape};
use imma::cuda::{DeviceFloats, DeviceOutput, Matrix};
use imma::element::{FloatSlice, FloatView};
use imma::epilogue::Host;
use imma::epilogue::{Output, Scales, ZeroPoints};
use imma::gemm::Lhs;
use imma::gemm::Weights;
use imma::reference::{self, Product};
use imma::{Epilogue, Error};
use ndarray::{Array2, ArrayView2};
use std::ops::Range;
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

    /// The device's copy.
    fn matrix(&self) -> Matrix<DeviceFloats<'_>> {
        match self {
            Floats::F32(_, p) => p.geometry().over(DeviceFloats::F32(p.view())),
            Floats::F16(_, p) => p.geometry().over(DeviceFloats::F16(p.view())),
            Floats::BF16(_, p) => p.geometry().over(DeviceFloats::BF16(p.view())),
        }
    }

    /// The same as a vector.
    fn vector(&self) -> DeviceFloats<'_> {
        match self {
            Floats::F32(_, p) => DeviceFloats::F32(p.view()),
            Floats::F16(_, p) => DeviceFloats::F16(p.view()),
            Floats::BF16(_, p) => DeviceFloats::BF16(p.view()),
        }
    }
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

fn on_device(scales: &Option<Placed<f32>>) -> Scales<imma::cuda::DeviceVector<'_, f32>> {
    match scales {
        None => Scales::None,
        Some(scales) => Scales::PerVector(scales.view().into()),
    }
}

/// One product by one instance with a random epilogue, gated or not; also the stand-alone epilogue over the oracle's sums.
fn check<O: Out>(random: &mut Random, tile: &'static Tile, splits: usize, shape: [usize; 3]) {
    let gated = O::OUTPUT != Output::Raw && random.below(3) == 0;
    check_product::<O>(random, tile, splits, shape, gated);
}

pub fn check_product<O: Out>(
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
    let raw = O::OUTPUT == Output::Raw;
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

    fn host(scales: &Option<Vec<f32>>) -> Scales<&[f32]> {
        match scales.as_deref() {
            None => Scales::None,
            Some([one]) => Scales::PerTensor(*one),
            Some(all) => Scales::PerVector(all),
        }
    }
    let epilogue = Epilogue::<Host<'_>> {
        row_scales: host(&row),
        col_scales: host(&col),
        row_zero_points: match zeros.as_deref() {
            None => ZeroPoints::None,
            Some([one]) => ZeroPoints::PerTensor(*one),
            Some(all) => ZeroPoints::PerVector(all),
        },
        bias: bias.as_ref().map(Floats::slice),
        activation,
        gated,
        residual: residual.as_ref().map(|r| r.view(m, cols)),
        output: O::OUTPUT,
    };
    let lhs = Lhs::Int8(operands.a.view());
    let weights = Weights::Int8(operands.w.t());
    let want = O::of(reference::gemm(&lhs, &weights, &epilogue));
    let want_rows = (!raw).then(|| {
        let epilogue = epilogue.clone().with_output(Output::F32);
        match reference::gemm(&lhs, &weights, &epilogue) {
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
    let col_sums = col_sums.as_ref().map(|p| p.view());
    let instance = Instance::new(tile).with_splits(splits);
    let workspace = |output: Output| -> CudaSlice<i32> {
        let len = instance.workspace(m, n, output).max(1);
        stream.clone_htod(&vec![0x5555_5555; len]).unwrap()
    };
    let mut output = Placed::filled(&stream, random, m, cols, O::POISON, O::GAP);
    let mut alone = Placed::filled(&stream, random, m, cols, O::POISON, O::GAP);
    let mut rows = [(); 2].map(|()| Rows::new(&stream, random, m, cols));
    let sums = Placed::new(&stream, random, &sums, m, n, -5);
    let case = format!(
        "{} split {splits}, [{m}, {k}] x [{k}, {n}] -> {} {output}, {epilogue:?}",
        tile.name,
        O::TYPE
    );
    let epilogue = Epilogue::<OnDevice<'_>> {
        row_scales: on_device(&row),
        col_scales: on_device(&col),
        row_zero_points: match &zeros {
            None => ZeroPoints::None,
            Some(zeros) => ZeroPoints::PerVector(zeros.view().into()),
        },
        bias: bias.as_ref().map(Floats::vector),
        activation,
        gated,
        residual: residual.as_ref().map(Floats::matrix),
        output: O::OUTPUT,
    };
    let gemm = |epilogue: &Epilogue<OnDevice<'_>>, out: Matrix<DeviceOutput<'_>>| {
        let (a, w) = (&operands.device_a, &operands.device_w);
        let mut workspace = workspace(epilogue.output);
        let mut operands = GemmOperands::new(
            a.geometry().over(a.view()),
            w.geometry().over(w.view()),
            out,
            epilogue.clone(),
        )
        .with_workspace(workspace.as_view_mut());
        if let Some(sums) = &col_sums {
            operands = operands.with_col_sums(sums.slice(..));
        }
        igemm_sm80(device, &stream, instance, operands)
            .unwrap_or_else(|error| panic!("{case}: {error}"));
    };
    let finish = |epilogue: &Epilogue<OnDevice<'_>>, out: Matrix<DeviceOutput<'_>>| {
        let col_sums = col_sums.as_ref().map(|v| v.slice(..).into());
        let view = sums.view();
        let sums = sums.geometry().over(&view);
        kernels::epilogue(device, &stream, sums, epilogue, col_sums, out)
            .unwrap_or_else(|error| panic!("{case}: {error}"));
    };
    let g = output.geometry();
    gemm(&epilogue, g.over(O::place(output.view_mut())));
    let g = alone.geometry();
    finish(&epilogue, g.over(O::place(alone.view_mut())));
    if !raw {
        let epilogue = epilogue.clone().with_output(Output::Int8PerRow);
        let [by_gemm, by_sums] = &mut rows;
        gemm(&epilogue, by_gemm.place());
        finish(&epilogue, by_sums.place());
    }
    if let Some(want) = &want_rows {
        for (what, found) in ["igemm_sm80 to int8 by row", "epilogue to int8 by row"]
            .iter()
            .zip(rows)
        {
            found.check(&stream, want, &format!("{what} {case}"));
        }
    }
    for (what, found) in [
        ("igemm_sm80", output.read(&stream)),
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

    fn place(&mut self) -> Matrix<DeviceOutput<'_>> {
        let geometry = self.q.geometry();
        let place = DeviceOutput::I8PerRow {
            data: self.q.view_mut(),
            scales: self.scales.view_mut(),
        };
        geometry.over(place)
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
        let instance = Instance::new(tile).with_splits(splits);
        let mut out = stream.clone_htod(&vec![-1.0f32; rows * n]).unwrap();
        let mut workspace = stream
            .clone_htod(&vec![7i32; instance.workspace(rows, n, Output::F32).max(1)])
            .unwrap();
        let view = operands.device_a.view();
        let stride = operands.device_a.geometry().stride();
        let epilogue = Epilogue::<OnDevice<'_>> {
            row_scales: Scales::PerVector(scales.slice(first..first + rows).into()),
            col_scales: Scales::PerVector((&columns).into()),
            activation: Activation::Silu,
            ..Epilogue::default()
        };
        let operands = GemmOperands::new(
            Matrix::new(view.slice(first * stride..), rows, k).with_stride(stride),
            operands.device_w.geometry().over(operands.device_w.view()),
            Matrix::new((&mut out).into(), rows, n),
            epilogue,
        );
        let operands = operands.with_workspace(workspace.as_view_mut());
        igemm_sm80(device, &stream, instance, operands).unwrap();
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
        let instance = Instance::new(tile).with_splits(splits);
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
        // Of all products, or of the one that starts there.
        let epilogue = |rows: Range<usize>, cols: Range<usize>, first: usize, end: usize| {
            let residual = DeviceFloats::F32(residual.slice(first..end));
            Epilogue::<OnDevice<'_>> {
                row_scales: Scales::PerVector(row_scales.slice(rows).into()),
                col_scales: Scales::PerVector(col_scales.slice(cols.clone()).into()),
                bias: Some(DeviceFloats::F32(bias.slice(cols))),
                residual: Some(Matrix::new(residual, m, n)),
                activation: Activation::Relu,
                ..Epilogue::default()
            }
        };
        let space = instance.workspace(m, n, Output::F32);
        let mut workspace = stream
            .clone_htod(&vec![-1i32; (count * space).max(1)])
            .unwrap();
        let mut batched = |batches: Batches, out: &mut CudaSlice<f32>| {
            let operands = GemmOperands::new(
                Matrix::new(a.as_view(), m, k).with_stride(lda),
                Matrix::new(w.as_view(), n, k).with_stride(ldw),
                Matrix::new(out.into(), m, n).with_stride(ldc),
                epilogue(0..count * m, 0..columns, 0, count * m * n),
            );
            let operands = operands.with_batches(batches);
            let operands = operands.with_workspace(workspace.as_view_mut());
            igemm_sm80(device, &stream, instance, operands)
        };
        batched(batches, &mut found).unwrap_or_else(|error| panic!("case {case}: {error}"));
        for b in 0..count {
            let column = b * batches.cols;
            let rows = b * m..(b + 1) * m;
            let operands = GemmOperands::new(
                Matrix::new(a.slice(b * batches.a..), m, k).with_stride(lda),
                Matrix::new(w.slice(b * batches.w..), n, k).with_stride(ldw),
                Matrix::new(want.slice_mut(b * output..).into(), m, n).with_stride(ldc),
                epilogue(rows, column..column + n, b * m * n, (b + 1) * m * n),
            );
            // The simplest instance: any gives the same bits, as the tests above show.
            let one = Instance::new(by_name("64x64x128_any").unwrap());
            igemm_sm80(device, &stream, one, operands).unwrap();
        }
        let (found, want) = (
            stream.clone_dtoh(&found).unwrap(),
            stream.clone_dtoh(&want).unwrap(),
        );
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(
            bits(&found) == bits(&want),
            "case {case}: {instance}, [{m}, {n}, {k}], {batches:?}"
        );
        // Outputs that overlap, and a slice that ends early.
        let mut refused = |batches: Batches, expected: &str| {
            let mut out = stream.alloc_zeros::<f32>(len).unwrap();
            let error = batched(batches, &mut out).unwrap_err().to_string();
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
    let aligned = Instance::new(&TILES[0]);
    type Rows<'a> = Matrix<CudaView<'a, i8>>;
    let none = || Epilogue::<OnDevice<'_>>::to(Output::Raw);
    type Parts<'a> = Epilogue<OnDevice<'a>>;
    let mut run = |instance, a: Rows<'_>, w: Rows<'_>, rows: usize, epilogue: Parts<'_>| {
        let out = Matrix::new((&mut out).into(), rows, 3);
        let operands = GemmOperands::new(a, w, out, epilogue);
        igemm_sm80(device, &stream, instance, operands).unwrap_err()
    };
    let fine_a = || Matrix::new(a.as_view(), 4, 32);
    let fine_w = || Matrix::new(w.as_view(), 3, 32);
    let error = run(
        aligned,
        fine_a(),
        Matrix::new(w.as_view(), 3, 31),
        4,
        none(),
    );
    assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
    let error = run(aligned, fine_a(), fine_w(), 3, none());
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
        Matrix::new(a.as_view(), 5, 32),
        fine_w(),
        5,
        none(),
    );
    assert!(matches!(error, Error::Length { what: "a", .. }), "{error}");
    let odd = Matrix::new(a.slice(1..), 4, 32);
    let error = run(aligned, odd, fine_w(), 4, none());
    assert!(error.to_string().contains("_any"), "{error}");
    let error = run(
        aligned,
        Matrix::new(a.as_view(), 4, 24),
        Matrix::new(w.as_view(), 3, 24),
        4,
        none(),
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
    let error = run(aligned.with_splits(2), fine_a(), fine_w(), 4, none());
    assert!(error.to_string().contains("24 elements"), "{error}");
    let scales = stream.clone_htod(&[1.0f32; 4]).unwrap();
    let vector = || Scales::PerVector((&scales).into());
    let scaled = none().with_row_scales(vector());
    let error = run(aligned, fine_a(), fine_w(), 4, scaled);
    assert!(matches!(error, Error::Epilogue { .. }), "{error}");
    let long = none().with_col_scales(vector());
    let error = run(aligned, fine_a(), fine_w(), 4, long);
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
    // Zero points without the sums that go with them, and a place for another type than the epilogue's.
    let zeros = none().with_row_zero_points(ZeroPoints::PerTensor(3));
    let error = run(aligned, fine_a(), fine_w(), 4, zeros);
    assert!(error.to_string().contains("column sums alone"), "{error}");
    let error = run(aligned, fine_a(), fine_w(), 4, Epilogue::default());
    assert!(error.to_string().contains("i32"), "{error}");
    assert!(error.to_string().contains("f32"), "{error}");
    // Scales along K are another kernel's.
    let mut floats = stream.alloc_zeros::<f32>(12).unwrap();
    let operands = GemmOperands::new(
        fine_a(),
        fine_w(),
        Matrix::new((&mut floats).into(), 4, 3),
        Epilogue::default(),
    );
    let groups = ScaleGroups {
        scales: Matrix::new(scales.slice(..3), 1, 3),
        size: 32,
    };
    let error = igemm_sm80(device, &stream, aligned, operands.with_scale_groups(groups));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("igemm_groupwise"), "{error}");
    // Pairs of raw sums have no product, and a column alone is no pair.
    let refused = |n: usize| {
        let mut halves = stream.clone_htod(&[9i32; 4]).unwrap();
        let operands = GemmOperands::new(
            fine_a(),
            Matrix::new(w.as_view(), n, 32),
            Matrix::new((&mut halves).into(), 4, n / 2),
            none().with_gated(true),
        );
        let error = igemm_sm80(device, &stream, aligned, operands).unwrap_err();
        assert_eq!(stream.clone_dtoh(&halves).unwrap(), [9; 4]);
        error.to_string()
    };
    assert!(
        refused(2).contains("gated product with i32"),
        "{}",
        refused(2)
    );
    assert!(refused(3).contains("even number"), "{}", refused(3));
    // A given scale where rows get their own, one scale too few, no room for the sums, a full output for pairs.
    let by_row = |cols: usize, rows: usize, room: usize, epilogue: Parts<'_>| {
        let mut q = stream.clone_htod(&[9i8; 8]).unwrap();
        let mut scales = stream.clone_htod(&vec![9.0f32; rows]).unwrap();
        let mut room = stream.clone_htod(&vec![0i32; room]).unwrap();
        let place = DeviceOutput::I8PerRow {
            data: q.as_view_mut(),
            scales: scales.as_view_mut(),
        };
        let operands = GemmOperands::new(
            fine_a(),
            Matrix::new(w.as_view(), 2, 32),
            Matrix::new(place, 4, cols),
            epilogue,
        );
        let operands = operands.with_workspace(room.as_view_mut());
        let error = igemm_sm80(device, &stream, aligned, operands).unwrap_err();
        assert_eq!(stream.clone_dtoh(&q).unwrap(), [9; 8]);
        assert_eq!(stream.clone_dtoh(&scales).unwrap(), vec![9.0; rows]);
        error.to_string()
    };
    let fresh = || Epilogue::to(Output::Int8PerRow);
    let given = Epilogue::to(Output::Int8 { scale: 0.5 });
    for (error, expected) in [
        (by_row(2, 4, 8, given), "scales of the output's rows"),
        (by_row(2, 3, 8, fresh()), "scales"),
        (by_row(2, 4, 7, fresh()), "8 elements"),
        (by_row(2, 4, 8, fresh().with_gated(true)), "[4, 1]"),
        (by_row(1, 4, 8, fresh()), "[4, 2]"),
    ] {
        assert!(error.contains(expected), "{error}; expected {expected}");
    }
    assert_eq!(device.launches(), before);
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [9; 12]);
}

/// The choice is a function of the problem alone, and fits the device.
#[test]
fn the_choice_fits_and_repeats() {
    let properties = device().properties();
    let choose = |m: usize, n: usize, k: usize, aligned: bool| {
        candidates(Shape::new(m, n, k), aligned, properties)[0]
    };
    for (m, n, k) in [
        (1, 4096, 4096),
        (16, 4096, 8192),
        (17, 4096, 8192),
        (4096, 4096, 4096),
        (0, 5, 7),
    ] {
        for aligned in [true, false] {
            let choice = choose(m, n, k, aligned);
            println!("{m}x{k}x{n}: {choice}");
            assert_eq!(choice, choose(m, n, k, aligned));
            let Instance { tile, splits } = choice.instance;
            assert_eq!(tile.aligned, aligned);
            assert!(tile.shared() <= properties.shared_memory as usize && splits >= 1);
        }
    }
    // A big product takes a big tile, one token a small one and a split.
    let big = choose(4096, 4096, 4096, true).instance.tile;
    assert!(big.m * big.n >= 64 * 128, "{big:?}");
    let decode = choose(1, 4096, 8192, true);
    let Instance { tile, splits } = decode.instance;
    assert!(tile.m == 16 && splits > 1, "{decode}");
}
