//! Weights whose scales change along K, on the device: every instance against three loops, and the layer against the CPU's.

use crate::output::Out;
use crate::support::{self, device, stream, Placed, Random};
use half::{bf16, f16};
use imma::activation::Activation;
use imma::cuda::cudarc::driver::CudaStream;
use imma::cuda::kernels::igemm_groupwise::{choose, Instance, Tile, TILES};
use imma::cuda::kernels::{igemm_groupwise, GemmOperands, OnDevice, ScaleGroups, Shape};
use imma::cuda::{self as gpu, DeviceElement, DeviceFloats, DeviceLinear, DeviceWeights, Matrix};
use imma::epilogue::{Output, Scales, ZeroPoints};
use imma::quant::{Granularity, Quantizer};
use imma::{numerics, Cpu, DType, Element, Epilogue, Int8Linear};
use ndarray::{Array2, ArrayView2};
use std::sync::Arc;

/// How a finished float becomes an output.
pub trait Finished: Out {
    fn finished(v: f32) -> Self;
}
macro_rules! finished {
    ($($t:ty),*) => {$(
        impl Finished for $t {
            fn finished(v: f32) -> Self { <$t as Element>::from_f32(v) }
        }
    )*};
}
finished!(f32, f16, bf16);
impl Finished for i8 {
    fn finished(v: f32) -> Self {
        let Output::Int8 { scale } = Self::OUTPUT else {
            panic!("int8 is written by {}", Self::OUTPUT)
        };
        numerics::quantize(v * (1.0 / scale))
    }
}

/// Numbers of a type drawn at random.
enum Floats {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
}

/// The same in device memory.
enum PlacedFloats {
    F32(Placed<f32>),
    F16(Placed<f16>),
    BF16(Placed<bf16>),
}

impl Floats {
    fn new(random: &mut Random, values: Vec<f32>) -> Self {
        match random.below(3) {
            0 => Floats::F32(values),
            1 => Floats::F16(values.into_iter().map(f16::from_f32).collect()),
            _ => Floats::BF16(values.into_iter().map(bf16::from_f32).collect()),
        }
    }

    fn at(&self, i: usize) -> f32 {
        match self {
            Floats::F32(v) => v[i],
            Floats::F16(v) => v[i].to_f32(),
            Floats::BF16(v) => v[i].to_f32(),
        }
    }

    fn placed(
        &self,
        stream: &Arc<CudaStream>,
        random: &mut Random,
        rows: usize,
        cols: usize,
    ) -> PlacedFloats {
        match self {
            Floats::F32(v) => {
                PlacedFloats::F32(Placed::new(stream, random, v, rows, cols, f32::MAX))
            }
            Floats::F16(v) => {
                PlacedFloats::F16(Placed::new(stream, random, v, rows, cols, f16::MAX))
            }
            Floats::BF16(v) => {
                PlacedFloats::BF16(Placed::new(stream, random, v, rows, cols, bf16::MAX))
            }
        }
    }
}

impl PlacedFloats {
    fn data(&self) -> DeviceFloats<'_> {
        match self {
            PlacedFloats::F32(p) => DeviceFloats::F32(p.view()),
            PlacedFloats::F16(p) => DeviceFloats::F16(p.view()),
            PlacedFloats::BF16(p) => DeviceFloats::BF16(p.view()),
        }
    }

    fn matrix(&self) -> Matrix<DeviceFloats<'_>> {
        let geometry = match self {
            PlacedFloats::F32(p) => p.geometry(),
            PlacedFloats::F16(p) => p.geometry(),
            PlacedFloats::BF16(p) => p.geometry(),
        };
        geometry.over(self.data())
    }
}

fn bytes(random: &mut Random, count: usize) -> Vec<i8> {
    let mut out: Vec<i8> = (0..count).map(|_| random.next() as i8).collect();
    // Extremes, now and then everywhere.
    match random.below(6) {
        0 => out.fill(-128),
        1 => out.fill(127),
        _ => {}
    }
    out
}

pub fn check<O: Finished>(
    random: &mut Random,
    tile: &'static Tile,
    size: usize,
    [m, n, k]: [usize; 3],
) {
    let (device, stream) = (device(), stream());
    let groups = k.div_ceil(size);
    let (a, w) = (bytes(random, m * k), bytes(random, n * k));
    let scales: Vec<f32> = (0..groups * n).map(|_| random.unit() * 0.01).collect();
    let gated = n % 2 == 0 && random.below(4) == 0;
    let cols = if gated { n / 2 } else { n };
    let some = |random: &mut Random, count: usize| -> Option<Vec<f32>> {
        (count > 0 && random.below(2) == 0).then(|| (0..count).map(|_| random.unit()).collect())
    };
    let count = random.pick(&[1, m]) * m.min(1);
    let rows = some(random, count);
    let bias = some(random, n).map(|b| Floats::new(random, b));
    let residual = some(random, m * cols).map(|r| Floats::new(random, r));
    let activation = random.pick(&[
        Activation::None,
        Activation::Relu,
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
    ]);

    // The definition, one scalar at a time.
    let value = |i: usize, j: usize| {
        let mut v = 0f32;
        for g in 0..groups {
            let of_group = g * size..((g + 1) * size).min(k);
            let sum: i64 = of_group
                .map(|l| i64::from(a[i * k + l]) * i64::from(w[j * k + l]))
                .sum();
            v = (sum as i32 as f32).mul_add(scales[g * n + j], v);
        }
        let row = rows.as_ref().map_or(1.0, |r| r[i % r.len()]);
        match &bias {
            None => v * row,
            Some(bias) => v.mul_add(row, bias.at(j)),
        }
    };
    let mut want = Vec::new();
    for i in 0..m {
        for j in 0..cols {
            let mut v = if gated {
                activation.apply(value(i, 2 * j)) * value(i, 2 * j + 1)
            } else {
                activation.apply(value(i, j))
            };
            if let Some(residual) = &residual {
                v += residual.at(i * cols + j);
            }
            want.push(O::finished(v));
        }
    }

    let place = |random: &mut Random, data: &[i8], rows: usize| {
        if tile.aligned {
            let stride = k.next_multiple_of(16) + 16 * random.below(3);
            let offset = 16 * random.below(3);
            Placed::at(&stream, data, [rows, k], 77, offset, stride)
        } else {
            Placed::new(&stream, random, data, rows, k, 77)
        }
    };
    let (da, dw) = (place(random, &a, m), place(random, &w, n));
    let ds = Placed::new(&stream, random, &scales, groups, n, f32::NAN);
    let drows = rows.as_ref().map(|r| stream.clone_htod(r).unwrap());
    let dbias = bias.as_ref().map(|b| b.placed(&stream, random, 1, n));
    let dresidual = residual
        .as_ref()
        .map(|r| r.placed(&stream, random, m, cols));
    let epilogue = Epilogue::<OnDevice<'_>> {
        row_scales: match &drows {
            None => Scales::None,
            Some(rows) => Scales::PerVector(rows.into()),
        },
        bias: dbias.as_ref().map(PlacedFloats::data),
        activation,
        gated,
        residual: dresidual.as_ref().map(PlacedFloats::matrix),
        output: O::OUTPUT,
        ..Epilogue::default()
    };
    let mut output = Placed::filled(&stream, random, m, cols, O::POISON, O::GAP);
    let gout = output.geometry();
    let case = format!(
        "{} groups of {size}, [{m}, {k}] x [{k}, {n}] -> {}, {epilogue:?}",
        tile.name,
        O::TYPE
    );
    let operands = GemmOperands::new(
        da.geometry().over(da.view()),
        dw.geometry().over(dw.view()),
        gout.over(O::place(output.view_mut())),
        epilogue,
    );
    let groups = ScaleGroups {
        scales: ds.geometry().over(ds.view()),
        size,
    };
    let operands = operands.with_scale_groups(groups);
    igemm_groupwise(device, &stream, Instance { tile }, operands)
        .unwrap_or_else(|error| panic!("{case}: {error}"));
    if let Err(error) = stream.synchronize() {
        let fault = support::fake().and_then(|fake| fake.last_fault());
        panic!("{case}: {error:?} {}", fault.unwrap_or_default());
    }
    let found = output.read(&stream);
    assert_eq!(found.len(), want.len(), "{case}");
    let wrong = (0..want.len()).find(|i| !O::equal(found[*i], want[*i]));
    if let Some(i) = wrong {
        let (r, c) = (i / cols, i % cols);
        panic!(
            "{case}: [{r}, {c}] is {:?}, expected {:?}",
            found[i], want[i]
        );
    }
}

fn check_any(random: &mut Random, tile: &'static Tile, size: usize, shape: [usize; 3]) {
    match random.below(4) {
        0 => check::<f32>(random, tile, size, shape),
        1 => check::<f16>(random, tile, size, shape),
        2 => check::<bf16>(random, tile, size, shape),
        _ => check::<i8>(random, tile, size, shape),
    }
}

/// Every instance and size of a group over whole tiles, one less and one more, K inside a group, of none and of many stages.
#[test]
fn every_instance_gives_the_definitions_bits() {
    let own = support::own_device();
    let random = &mut Random(31);
    for tile in &TILES {
        let (m, n, k) = (tile.m, tile.n, tile.k);
        for size in [32, 64, 128] {
            for shape in [
                [m, n, k * (tile.stages + 2)],
                [m + 1, n + 1, k + 1],
                [m - 1, n - 3, 3 * k - 5],
                [5, 2 * n + 6, 2 * k + 40],
            ] {
                check_any(random, tile, size, shape);
            }
            let ragged = [m / 2 + 3, n + 6, k + 77];
            check::<f32>(random, tile, size, ragged);
            check::<f16>(random, tile, size, ragged);
            check::<bf16>(random, tile, size, ragged);
            check::<i8>(random, tile, size, ragged);
            check::<f32>(random, tile, size, [1, 1, 1]);
            check::<f32>(random, tile, size, [7, 10, 0]);
            check_any(random, tile, size, [0, 9, 33]);
            check_any(random, tile, size, [9, 0, 33]);
        }
    }
    for _ in 0..40 {
        let tile = &TILES[random.below(TILES.len())];
        let shape = [
            1 + random.below(80),
            1 + random.below(80),
            random.below(500),
        ];
        let size = random.pick(&[32, 64, 128]);
        check_any(random, tile, size, shape);
    }
    let entries = |image: &&gpu::Image| image.name == "igemm_groupwise";
    let entries = gpu::images().iter().find(entries).unwrap().entries;
    assert_eq!(entries.len(), TILES.len(), "an entry without a tile");
    support::check_all_launched(&own, "groupwise");
}

fn noise<T: Element>(random: &mut Random, rows: usize, cols: usize) -> Array2<T> {
    Array2::from_shape_simple_fn((rows, cols), || T::from_f32(random.unit() * 3.0))
}

/// The CPU's quantising of weights, packed for the device.
fn pack<T: Element>(stream: &Arc<CudaStream>, w: ArrayView2<'_, T>, size: usize) -> DeviceWeights {
    let groups = Granularity::PerGroup { size };
    let quantizer = Quantizer::builder().granularity(groups).build().unwrap();
    let q = quantizer.quantize(w).unwrap();
    let (n, k) = w.dim();
    let scales = ArrayView2::from_shape((n, k.div_ceil(size)), q.scales()).unwrap();
    let integers = q.matrix().unwrap();
    DeviceWeights::groupwise(device(), stream, integers, scales, size).unwrap()
}

/// The device's layer and the CPU's, for rows together and alone.
fn layers_agree<T: DeviceElement + Out>(seed: u64) {
    let (device, stream) = (device(), stream());
    let random = &mut Random(seed);
    for (m, n, k, size) in [
        (1, 40, 96, 32),
        (5, 70, 200, 64),
        (20, 33, 130, 128),
        (70, 130, 256, 128),
        (3, 8, 0, 32),
        (0, 8, 64, 32),
    ] {
        let (w, x) = (noise::<f32>(random, n, k), noise::<T>(random, m, k));
        let bias: Vec<T> = (0..n).map(|_| T::from_f32(random.unit())).collect();
        let host = Int8Linear::from_float_groupwise_on(
            Arc::new(Cpu::new()),
            w.mapv(|w| T::from_f32(w)).view(),
            size,
            Some(ndarray::ArrayView1::from(&bias[..])),
        );
        let host = host.unwrap().with_activation(Activation::Silu);
        let want = host.forward(x.view()).unwrap();
        let weights = pack(&stream, w.mapv(|w| T::from_f32(w)).view(), size);
        let layer = DeviceLinear::from_weights(device, weights).unwrap();
        let layer = layer.with_bias(stream.clone_htod(&bias).map(T::owned).unwrap());
        let layer = layer.unwrap().with_activation(Activation::Silu);
        let weights = layer.weights();
        assert_eq!(
            (weights.k(), weights.n(), weights.scale_group()),
            (k, n, Some(size))
        );
        let run = |x: ArrayView2<'_, T>| {
            let mut rows: Vec<T> = x.iter().copied().collect();
            rows.push(T::from_f32(9.0));
            let rows = stream.clone_htod(&rows).unwrap();
            let (m, k) = x.dim();
            let view = Matrix::new(rows.slice(..m * k), m, k);
            let y = layer.forward::<T, T>(&stream, view).unwrap();
            stream.clone_dtoh(&y).unwrap()[..m * n].to_vec()
        };
        let same = |found: &[T], want: ArrayView2<'_, T>| {
            assert!(
                found.iter().zip(&want).all(|(a, b)| T::equal(*a, *b)),
                "{m} {n} {k} {size}"
            );
            assert_eq!(found.len(), want.len());
        };
        same(&run(x.view()), want.view());
        for i in (0..m).step_by(7) {
            let row = ndarray::s![i..i + 1, ..];
            same(&run(x.slice(row)), want.slice(row));
        }
    }
}

#[test]
fn a_layer_gives_the_bits_of_the_cpu_whatever_the_batch() {
    layers_agree::<f32>(41);
    layers_agree::<f16>(42);
    layers_agree::<bf16>(43);
}

/// Into a result with gaps, through a workspace that holds anything, twice.
#[test]
fn a_layer_runs_in_a_workspace_of_the_callers() {
    let (device, stream) = (device(), stream());
    let random = &mut Random(44);
    let (m, n, k, gap) = (9, 24, 80, 5);
    let (w, x) = (noise::<f32>(random, n, k), noise::<f32>(random, m, k));
    let want = Int8Linear::from_float_groupwise(w.view(), 32, None).unwrap();
    let want = want.forward(x.view()).unwrap();
    let layer = DeviceLinear::from_weights(device, pack(&stream, w.view(), 32)).unwrap();
    let x = stream.clone_htod(x.as_slice().unwrap()).unwrap();
    let plan = layer.plan(m, DType::F32, DType::F32).unwrap();
    let bytes = vec![0xff; plan.workspace_bytes()];
    let mut space = stream.clone_htod(&bytes).unwrap();
    for _ in 0..2 {
        let mut y = stream.clone_htod(&vec![7f32; m * (n + gap)]).unwrap();
        let place = Matrix::new(&mut y, m, n).with_stride(n + gap);
        let x = Matrix::new(&x, m, k);
        layer.run(&plan, &stream, x, place, &mut space).unwrap();
        let y = stream.clone_dtoh(&y).unwrap();
        for (row, want) in y.chunks(n + gap).zip(want.outer_iter()) {
            assert_eq!(&row[..n], want.as_slice().unwrap());
            assert_eq!(row[n..], [7f32; 5]);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_runs() {
    let (own, stream) = (support::own_device(), stream());
    let device = &*own;
    let (m, n, k) = (4, 8, 64);
    let a = stream.alloc_zeros::<i8>(m * k + 1).unwrap();
    let w = stream.alloc_zeros::<i8>(n * k).unwrap();
    let scales = stream.alloc_zeros::<f32>(2 * n).unwrap();
    let ones = stream.alloc_zeros::<f32>(n).unwrap();
    let mut out = stream.alloc_zeros::<f32>(m * n).unwrap();
    let mut sums = stream.alloc_zeros::<i32>(m * n).unwrap();
    let tile = &TILES[0];
    let before = device.launches();
    macro_rules! refused {
        ($want:expr, $a:expr, $scales:expr, $size:expr, $out:expr, $epilogue:expr) => {{
            let w = Matrix::new(w.as_view(), n, k);
            let operands = GemmOperands::new($a, w, $out, $epilogue);
            let groups = ScaleGroups {
                scales: $scales,
                size: $size,
            };
            let operands = operands.with_scale_groups(groups);
            let error = igemm_groupwise(device, &stream, Instance { tile }, operands);
            let error = error.unwrap_err().to_string();
            assert!(error.contains($want), "{error}; expected {}", $want);
        }};
    }
    macro_rules! out {
        () => {
            Matrix::new((&mut out).into(), m, n)
        };
    }
    let x = || Matrix::new(a.as_view(), m, k);
    let s = || Matrix::new(scales.as_view(), 2, n);
    let none = Epilogue::<OnDevice<'_>>::default;
    refused!("the group size is 48", x(), s(), 48, out!(), none());
    refused!("expected [1, 8]", x(), s(), 64, out!(), none());
    let turned = Matrix::new((&mut out).into(), n, m);
    refused!("expected [4, 8]", x(), s(), 32, turned, none());
    let sums = Matrix::new((&mut sums).into(), m, n);
    let raw = none().with_output(Output::Raw);
    refused!("i32 output", x(), s(), 32, sums, raw);
    let columns = none().with_col_scales(Scales::PerVector((&ones).into()));
    refused!("scales of columns", x(), s(), 32, out!(), columns);
    let zeros = stream.alloc_zeros::<i32>(m).unwrap();
    let sums_of = stream.alloc_zeros::<i32>(n).unwrap();
    let zeros = none().with_row_zero_points(ZeroPoints::PerVector((&zeros).into()));
    let groups = ScaleGroups {
        scales: s(),
        size: 32,
    };
    let operands = GemmOperands::new(x(), Matrix::new(w.as_view(), n, k), out!(), zeros)
        .with_col_sums(&sums_of)
        .with_scale_groups(groups);
    let error = igemm_groupwise(device, &stream, Instance { tile }, operands);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("zero points"), "{error}");
    let short = Matrix::new(a.as_view(), m, 60).with_stride(64);
    refused!("weights [N, K] with K = 60", short, s(), 32, out!(), none());
    let odd = Matrix::new(a.slice(1..), m, k);
    refused!("multiples of 16 bytes", odd, s(), 32, out!(), none());
    // Scales along K there must be, and a tile of this kernel's.
    let operands = GemmOperands::new(x(), Matrix::new(w.as_view(), n, k), out!(), none());
    let error = igemm_groupwise(device, &stream, Instance { tile }, operands);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("scale groups"), "{error}");
    let other = "32x64x128".parse::<Instance>().unwrap_err().to_string();
    assert!(other.contains("'32x64x128'"), "{other}");
    assert!(other.contains("one of 16x64x128 "), "{other}");
    let packed = |size| {
        let integers = Array2::<i8>::ones((n, k));
        let scales = Array2::<f32>::ones((n, k.div_ceil(size)));
        DeviceWeights::groupwise(device, &stream, integers.view(), scales.view(), size)
    };
    let error = packed(33).unwrap_err().to_string();
    assert!(error.contains("32, 64 or 128"), "{error}");
    assert_eq!(device.launches(), before);
    // Packing the weights of a layer sums them by launches of its own.
    let weights = || packed(32).unwrap();
    let layer = |bias: &[f32]| {
        let layer = DeviceLinear::from_weights(device, weights()).unwrap();
        layer.with_bias(stream.clone_htod(bias).unwrap())
    };
    for (bias, part) in [(&[0.0; 7][..], "bias has 7"), (&[0.0; 9], "bias has 9")] {
        let error = layer(bias).unwrap_err().to_string();
        assert!(error.contains(part), "{error}; expected {part}");
    }
    let layer = layer(&[0.0; 8]).unwrap();
    let plan = layer.plan(m, DType::F32, DType::F32).unwrap();
    let before = device.launches();
    let x = stream.alloc_zeros::<f32>(m * k).unwrap();
    let wrong = layer.forward::<f32, f32>(&stream, Matrix::new(x.as_view(), k, m));
    assert!(wrong.unwrap_err().to_string().contains("expected [64, 64]"));
    let needed = plan.workspace_bytes();
    let mut space = stream.alloc_zeros::<u8>(needed + 1).unwrap();
    for (range, part) in [
        (0..needed - 1, "the workspace has"),
        (1..needed + 1, "an address that is a multiple of 256"),
    ] {
        let y = Matrix::new(&mut out, m, n);
        let x = Matrix::new(&x, m, k);
        let error = layer.run(&plan, &stream, x, y, &mut space.slice_mut(range));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(part), "{error}; expected {part}");
    }
    assert_eq!(device.launches(), before);
}

/// Small tiles for few rows, large ones where they fill the device.
#[test]
fn the_choice_fits() {
    let mut properties = gpu::Properties::default();
    properties.multiprocessors = 132;
    for (m, n, want) in [
        (1, 4096, 16),
        (16, 4096, 16),
        (17, 4096, 64),
        (64, 4096, 64),
        (4096, 4096, 128),
    ] {
        for aligned in [true, false] {
            let tile = choose(Shape::new(m, n, 4096), aligned, &properties).tile;
            assert_eq!(tile.aligned, aligned);
            assert_eq!(tile.m, if aligned { want } else { want.min(64) }, "{m} {n}");
        }
    }
}
