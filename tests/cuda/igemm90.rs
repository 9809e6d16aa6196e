//! The Hopper GEMM (TMA, wgmma) against the naive oracle: every instance, splits of K, output types, parts of the
//! epilogue, ragged shapes, random schedules. Bits must be equal, and a workspace is left zero.

use crate::output::Out;
use crate::support::{self, device, stream, Placed, Random};
use half::{bf16, f16};
use imma::activation::Activation;
use imma::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use imma::cuda::cudarc::driver::{CudaSlice, CudaStream, CudaView, DeviceRepr};
use imma::cuda::kernels::igemm_sm90::{
    available, by_name, candidates, Instance, TensorMaps, Tile, TILES,
};
use imma::cuda::kernels::{
    igemm_sm90, quantize_cols, quantize_rows, GemmOperands, OnDevice, Shape,
};
use imma::cuda::{DeviceFloats, Matrix};
use imma::element::{FloatSlice, FloatView};
use imma::epilogue::Host;
use imma::epilogue::{Output, Scales, ZeroPoints};
use imma::gemm::Lhs;
use imma::gemm::Weights;
use imma::reference;
use imma::{DType, Epilogue, Error};
use ndarray::{Array2, ArrayView2};
use std::ops::Range;
use std::sync::Arc;

/// Whether there is anything to run: a device of compute capability 9.0 and a build for it.
pub fn runs() -> bool {
    match available(device()) {
        Ok(()) => true,
        Err(error) => {
            println!("not run: {error}");
            false
        }
    }
}

/// Operands of one product, on the host and placed on the device where TMA can read them.
struct Operands {
    a: Array2<i8>,
    w: Array2<i8>,
    device_a: Placed<i8>,
    device_w: Placed<i8>,
}

impl Operands {
    fn new(stream: &Arc<CudaStream>, random: &mut Random, [m, n, k]: [usize; 3]) -> Self {
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
            let (offset, gap) = (16 * random.below(3), 16 * random.below(2));
            let stride = k.next_multiple_of(16) + gap;
            Placed::at(stream, &data, [rows, k], 0x55, offset, stride)
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

/// A workspace as a launch finds it, zero where that is asked for, with a guard after it.
struct Workspace {
    elements: CudaSlice<i32>,
    zeros: Range<usize>,
    len: usize,
}

impl Workspace {
    fn new(
        stream: &Arc<CudaStream>,
        instance: Instance,
        m: usize,
        n: usize,
        output: Output,
    ) -> Self {
        let len = instance.workspace(m, n, output);
        let zeros = instance.zeros(m, n, output);
        let mut host = vec![0x5555_5555i32; len];
        host[zeros.clone()].fill(0);
        host.extend([7; 16]);
        Workspace {
            elements: stream.clone_htod(&host).unwrap(),
            zeros,
            len,
        }
    }

    fn check(&self, stream: &Arc<CudaStream>, case: &str) {
        let host = stream.clone_dtoh(&self.elements).unwrap();
        let left = host[self.zeros.clone()].iter().position(|x| *x != 0);
        assert_eq!(left, None, "{case}: the workspace is not zero again");
        assert_eq!(host[self.len..], [7; 16], "{case}: past the workspace");
    }
}

/// A vector on the device, `at` elements behind the start of its allocation.
fn behind<T: DeviceRepr + Default + Clone>(
    stream: &Arc<CudaStream>,
    at: usize,
    v: &[T],
) -> CudaSlice<T> {
    let mut all = vec![T::default(); at];
    all.extend_from_slice(v);
    stream.clone_htod(&all).unwrap()
}

fn on_device(scales: &Option<CudaSlice<f32>>) -> Scales<imma::cuda::DeviceVector<'_, f32>> {
    match scales {
        None => Scales::None,
        Some(scales) => Scales::PerVector(scales.into()),
    }
}

/// An instance on any number of multiprocessors: on few, a block walks over many items.
fn on_some(random: &mut Random, tile: &'static Tile, splits: usize) -> Instance {
    Instance {
        tile,
        splits,
        multiprocessors: random.pick(&[None, Some(1), Some(2), Some(5)]),
        weights_ready: random.below(2) == 0,
    }
}

/// One product by one instance with a random epilogue, launched twice: the second finds what the first left.
pub fn check<O: Out>(random: &mut Random, instance: Instance, shape: [usize; 3]) {
    // Often scales and a bias alone, which have a way of their own; often where TMA can store.
    let (plain, aligned) = (random.below(3) == 0, random.below(2) == 0);
    check_way::<O>(random, instance, shape, plain, aligned);
}

/// `plain`: scales and a bias at most. `aligned`: the output starts, and its rows do, at multiples of 16 elements.
fn check_way<O: Out>(
    random: &mut Random,
    instance: Instance,
    [m, n, k]: [usize; 3],
    plain: bool,
    aligned: bool,
) {
    let Instance { tile, splits, .. } = instance;
    let (device, stream) = (device(), stream());
    if let Some(fake) = support::fake() {
        fake.set_seed(random.next());
    }
    let operands = Operands::new(&stream, random, [m, n, k]);
    let raw = O::OUTPUT == Output::Raw;
    let gated = !plain && !raw && n % 2 == 0 && random.below(3) == 0;
    let cols = if gated { n / 2 } else { n };
    let zeros: Option<Vec<i32>> = (!plain && m * n > 0 && random.below(3) > 0).then(|| {
        let count = random.pick(&[1, m]);
        (0..count).map(|_| random.below(256) as i32 - 128).collect()
    });
    let mut scales = |all: usize, size: f32| -> Option<Vec<f32>> {
        let count = random.pick(&[0, 1, all, all]);
        (!raw && m * n > 0 && count > 0)
            .then(|| (0..count).map(|_| (random.unit() + 1.5) * size).collect())
    };
    let (row, col) = (scales(m, 0.01), scales(n, 0.002));
    let mut floats = |count: usize| -> Option<Vec<f32>> {
        (!raw && count > 0 && random.below(3) > 0)
            .then(|| (0..count).map(|_| random.unit() * 2.0).collect())
    };
    let (bias, residual) = (floats(n * m.min(1)), floats(m * cols * usize::from(!plain)));
    // The bias in each type, and not always where a pair of it is one access.
    let bias_type = random.pick(&[DType::F32, DType::F16, DType::BF16]);
    let bias_at = random.pick(&[0, 0, 1]);
    let bias_f16: Option<Vec<f16>> =
        (bias.as_ref()).map(|v| v.iter().map(|x| f16::from_f32(*x)).collect());
    let bias_bf16: Option<Vec<bf16>> =
        (bias.as_ref()).map(|v| v.iter().map(|x| bf16::from_f32(*x)).collect());
    // The residual in one type: all are tried with igemm_sm80, whose epilogue this is.
    let residual: Option<Vec<bf16>> = residual.map(|v| v.into_iter().map(bf16::from_f32).collect());
    let activation = match raw || plain {
        true => Activation::None,
        false => random.pick(&[
            Activation::None,
            Activation::Relu,
            Activation::Silu,
            Activation::Gelu,
            Activation::GeluTanh,
        ]),
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
        bias: match bias_type {
            DType::F16 => bias_f16.as_deref().map(FloatSlice::F16),
            DType::BF16 => bias_bf16.as_deref().map(FloatSlice::BF16),
            _ => bias.as_deref().map(FloatSlice::F32),
        },
        activation,
        gated,
        residual: residual
            .as_deref()
            .map(|v| FloatView::BF16(ArrayView2::from_shape((m, cols), v).unwrap())),
        output: O::OUTPUT,
    };
    let lhs = Lhs::Int8(operands.a.view());
    let weights = Weights::Int8(operands.w.t());
    let want = O::of(reference::gemm(&lhs, &weights, &epilogue));

    let col_sums: Option<Vec<i32>> = zeros.is_some().then(|| {
        let rows = operands.w.rows().into_iter();
        rows.map(|row| row.iter().map(|x| i32::from(*x)).sum())
            .collect()
    });
    let case = format!(
        "{} split {splits} on {:?}, weights ready: {}, [{m}, {k}] x [{k}, {n}] -> {}, {epilogue:?}",
        tile.name,
        instance.multiprocessors,
        instance.weights_ready,
        O::TYPE
    );
    let row = row.map(|v| stream.clone_htod(&v).unwrap());
    let col = col.map(|v| stream.clone_htod(&v).unwrap());
    let zeros = zeros.map(|v| stream.clone_htod(&v).unwrap());
    let col_sums = col_sums.map(|v| stream.clone_htod(&v).unwrap());
    let bias = bias.map(|v| behind(&stream, bias_at, &v));
    let bias_f16 = bias_f16.map(|v| behind(&stream, bias_at, &v));
    let bias_bf16 = bias_bf16.map(|v| behind(&stream, bias_at, &v));
    let residual = residual.map(|v| Placed::new(&stream, random, &v, m, cols, bf16::MAX));
    let epilogue = Epilogue::<OnDevice<'_>> {
        row_scales: on_device(&row),
        col_scales: on_device(&col),
        row_zero_points: match &zeros {
            None => ZeroPoints::None,
            Some(zeros) => ZeroPoints::PerVector(zeros.into()),
        },
        bias: match bias_type {
            DType::F16 => bias_f16.as_ref().map(|v| v.slice(bias_at..).into()),
            DType::BF16 => bias_bf16.as_ref().map(|v| v.slice(bias_at..).into()),
            _ => bias.as_ref().map(|v| v.slice(bias_at..).into()),
        },
        activation,
        gated,
        residual: residual
            .as_ref()
            .map(|p| p.geometry().over(DeviceFloats::BF16(p.view()))),
        output: O::OUTPUT,
    };

    let mut workspace = Workspace::new(&stream, instance, m, n, O::OUTPUT);
    let maps = TensorMaps::default();
    let (a, w) = (&operands.device_a, &operands.device_w);
    for launch in ["first", "second"] {
        let mut output = if aligned {
            let (offset, gap) = (16 * random.below(3), 16 * random.below(2));
            let stride = cols.next_multiple_of(16) + gap;
            let poison = vec![O::POISON; m * cols];
            Placed::at(&stream, &poison, [m, cols], O::GAP, offset, stride)
        } else {
            Placed::filled(&stream, random, m, cols, O::POISON, O::GAP)
        };
        let gout = output.geometry();
        let mut given = GemmOperands::new(
            a.geometry().over(a.view()),
            w.geometry().over(w.view()),
            gout.over(O::place(output.view_mut())),
            epilogue.clone(),
        )
        .with_workspace(workspace.elements.as_view_mut());
        if let Some(sums) = &col_sums {
            given = given.with_col_sums(sums);
        }
        igemm_sm90(device, &stream, instance, &maps, given)
            .unwrap_or_else(|error| panic!("{case}: {error}"));
        if let Err(error) = stream.synchronize() {
            let fault = support::fake().and_then(|fake| fake.last_fault());
            panic!("{case}: {error:?} {}", fault.unwrap_or_default());
        }
        let found = output.read(&stream);
        assert_eq!(found.len(), want.len(), "{case}");
        let wrong: Vec<_> = (0..want.len())
            .filter(|i| !O::equal(found[*i], want[*i]))
            .collect();
        if let Some(i) = wrong.first() {
            panic!(
                "{launch} launch, {case}: [{}, {}] is {:?}, expected {:?}; {} of {} differ",
                i / cols,
                i % cols,
                found[*i],
                want[*i],
                wrong.len(),
                want.len()
            );
        }
        workspace.check(&stream, &case);
    }
}

fn check_any(random: &mut Random, instance: Instance, shape: [usize; 3]) {
    match random.below(5) {
        0 => check::<f32>(random, instance, shape),
        1 => check::<f16>(random, instance, shape),
        2 => check::<bf16>(random, instance, shape),
        3 => check::<i32>(random, instance, shape),
        _ => check::<i8>(random, instance, shape),
    }
}

/// Every instance over whole tiles, one less and one more, K of part of a step and more than the ring holds, with every
/// output type; many tiles a block.
#[test]
fn every_instance_gives_the_oracle_s_bits() {
    if !runs() {
        return;
    }
    let own = support::own_device();
    let random = &mut Random(90);
    for tile in TILES {
        let (m, n) = tile.rows();
        let long = 128 * (tile.stages + 2);
        let all = Instance::new(tile);
        check::<bf16>(random, all, [m, n, long]);
        check::<f32>(random, all, [m + 1, n + 1, 129]);
        check::<i8>(random, all, [m.max(4) - 1, n - 3, 3 * 128 - 5]);
        check::<i32>(random, all, [1, 1, 1]);
        check::<f16>(random, all, [5, 2 * n + 7, 272]);
        check_any(random, all, [2 * m + 3, n / 2 + 5, 160]);
        // One block (or cluster) walks over an odd and an even number of tiles, around the ring more than once.
        let one = Instance {
            multiprocessors: Some(1),
            weights_ready: true,
            ..all
        };
        check_any(random, one, [2 * m + 3, n + 5, 128 * 5]);
        check_any(random, one, [m * tile.cluster, 2 * n - 6, long]);
        for splits in [2, 3] {
            let some = on_some(random, tile, splits);
            check_any(random, some, [m / 2 + 3, n + 6, 5 * 128 + 33]);
        }
        // More parts than steps.
        let some = on_some(random, tile, 4);
        check_any(random, some, [3, 21, 129]);
        check_any(random, all, [0, 9, 33]);
        check_any(random, all, [9, 0, 33]);
    }
    let entries = |image: &&imma::cuda::Image| image.name == "igemm_sm90";
    let entries = imma::cuda::images().iter().find(entries).unwrap().entries;
    assert_eq!(entries.len(), TILES.len(), "an entry without a tile");
    support::check_all_launched(&own, "igemm90");
}

/// Scales and a bias to an output that TMA can store to: whole tiles, edges inside of a box of it, many tiles a block.
#[test]
fn plain_results_are_stored_by_tma() {
    if !runs() {
        return;
    }
    let random = &mut Random(91);
    for tile in TILES.iter().filter(|tile| !tile.swapped) {
        let (m, n) = tile.rows();
        for (shape, multiprocessors) in [
            ([m, n, 160], None),
            ([2 * m + 3, n + 5, 130], Some(1)),
            ([m - 9, n - 33, 64], Some(2)),
        ] {
            let instance = Instance {
                multiprocessors,
                ..on_some(random, tile, 1)
            };
            check_way::<bf16>(random, instance, shape, true, true);
            check_way::<f16>(random, instance, shape, true, true);
            check_way::<f32>(random, instance, shape, true, true);
        }
    }
}

/// Small shapes at random, each under its own schedule.
#[test]
fn random_shapes_and_schedules() {
    if !runs() {
        return;
    }
    let random = &mut Random(91);
    for _ in 0..40 {
        let tile = &TILES[random.below(TILES.len())];
        let shape = [
            1 + random.below(150),
            1 + random.below(150),
            1 + random.below(500),
        ];
        let splits = 1 + random.below(3);
        let some = on_some(random, tile, splits);
        check_any(random, some, shape);
    }
}

/// Quantised by the kernel ahead, which the GEMM may overlap: the emulated driver stops a read before the wait of
/// what that kernel wrote, so weights that it writes can't be called ready.
#[test]
fn a_product_overlaps_the_kernel_that_quantises() {
    if !runs() {
        return;
    }
    let (device, stream) = (device(), stream());
    let random = &mut Random(92);
    let [m, n, k] = [20, 70, 640];
    let x: Vec<f32> = (0..m * k).map(|_| random.unit()).collect();
    let y: Vec<f32> = (0..k * n).map(|_| random.unit()).collect();
    let (x, y) = (
        stream.clone_htod(&x).unwrap(),
        stream.clone_htod(&y).unwrap(),
    );
    let mut a = stream.alloc_zeros::<i8>(m * k).unwrap();
    let mut w = stream.alloc_zeros::<i8>(n * k).unwrap();
    let mut row = stream.alloc_zeros::<f32>(m).unwrap();
    let mut col = stream.alloc_zeros::<f32>(n).unwrap();
    let nearest = imma::rounding::Rounding::NearestEven;
    let (from, to) = (Matrix::new(&y, k, n), Matrix::new(&mut w, n, k));
    quantize_cols(device, &stream, from, to, &mut col, nearest).unwrap();
    for tile in TILES {
        let mut results = Vec::new();
        for weights_ready in [false, true] {
            let (from, to) = (Matrix::new(&x, m, k), Matrix::new(&mut a, m, k));
            quantize_rows(device, &stream, from, to, &mut row, nearest).unwrap();
            let mut out = stream.alloc_zeros::<bf16>(m * n).unwrap();
            let instance = Instance {
                multiprocessors: Some(2),
                weights_ready,
                ..Instance::new(tile)
            };
            let epilogue = Epilogue::<OnDevice<'_>>::to(Output::BF16)
                .with_row_scales(Scales::PerVector((&row).into()))
                .with_col_scales(Scales::PerVector((&col).into()));
            let operands = GemmOperands::new(
                Matrix::new(a.as_view(), m, k),
                Matrix::new(w.as_view(), n, k),
                Matrix::new((&mut out).into(), m, n),
                epilogue,
            );
            igemm_sm90(device, &stream, instance, &TensorMaps::default(), operands).unwrap();
            results.push(stream.clone_dtoh(&out).unwrap());
        }
        assert_eq!(results[0], results[1], "{}", tile.name);
        assert!(results[0].iter().any(|x| x.to_f32() != 0.0));
    }
}

/// A split product in a graph: one launch, which leaves the workspace as it found it.
#[test]
fn a_split_product_is_captured_and_replayed() {
    if !runs() {
        return;
    }
    let (device, stream) = (device(), stream());
    let [m, n, k] = [5, 30, 640];
    let mut a = stream.clone_htod(&vec![1i8; m * k]).unwrap();
    let w = stream.clone_htod(&vec![-3i8; n * k]).unwrap();
    let mut out = stream.clone_htod(&vec![7i32; m * n]).unwrap();
    let instance: Instance = "swapped_64x8/3".parse().unwrap();
    let mut workspace = Workspace::new(&stream, instance, m, n, Output::Raw);
    let maps = TensorMaps::default();
    let mut run = |a: &CudaSlice<i8>, out: &mut CudaSlice<i32>| {
        let operands = GemmOperands::new(
            Matrix::new(a.as_view(), m, k),
            Matrix::new(w.as_view(), n, k),
            Matrix::new(out.into(), m, n),
            Epilogue::to(Output::Raw),
        );
        let operands = operands.with_workspace(workspace.elements.as_view_mut());
        igemm_sm90(device, &stream, instance, &maps, operands).unwrap();
    };
    let want = |value: i8| vec![i32::from(value) * -3 * k as i32; m * n];
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    run(&a, &mut out);
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().unwrap();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), vec![7; m * n]);
    stream.memcpy_htod(&vec![-128i8; m * k], &mut a).unwrap();
    // Once: a captured launch counts once.
    graph.launch().unwrap();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), want(-128));
    stream.memcpy_htod(&vec![5i8; m * k], &mut a).unwrap();
    run(&a, &mut out);
    assert_eq!(stream.clone_dtoh(&out).unwrap(), want(5));
    workspace.check(&stream, "a graph");
}

/// Maps are made when an operand is first met, and again only when it moves.
#[test]
fn tensor_maps_are_made_once() {
    if !runs() {
        return;
    }
    let Some(fake) = support::fake() else {
        return println!("not run: counts need the emulated driver");
    };
    let (device, stream) = (device(), stream());
    let a = stream.clone_htod(&[1i8; 8 * 64]).unwrap();
    let w = stream.clone_htod(&[2i8; 24 * 64]).unwrap();
    let mut out = stream.clone_htod(&[0i32; 8 * 24]).unwrap();
    let (instance, maps) = (Instance::new(&TILES[0]), TensorMaps::default());
    let mut run = |first: usize, rows: usize| {
        let operands = GemmOperands::new(
            Matrix::new(a.slice(first * 64..), rows, 64),
            Matrix::new(w.as_view(), 24, 64),
            Matrix::new((&mut out).into(), rows, 24),
            Epilogue::to(Output::Raw),
        );
        fake.mark();
        igemm_sm90(device, &stream, instance, &maps, operands).unwrap();
        assert_eq!(fake.launches_since_mark(None), 1);
        assert_eq!(fake.allocations_since_mark(), 0);
        assert_eq!(fake.synchronisations_since_mark(), 0);
        fake.calls_since_mark("cuTensorMapEncodeTiled")
    };
    assert_eq!(run(0, 8), 2);
    assert_eq!(run(0, 8), 0);
    assert_eq!(run(1, 7), 1, "other rows, the same weights");
    assert_eq!(run(1, 7), 0);
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [128; 8 * 24]);

    // A float output has one too, where its rows are aligned: 24 columns of f32 are, 3 are not.
    for (columns, encoded) in [(24, 3), (3, 2)] {
        let mut out = stream.clone_htod(&[0f32; 8 * 24]).unwrap();
        let maps = TensorMaps::default();
        for expected in [encoded, 0] {
            let operands = GemmOperands::new(
                Matrix::new(a.as_view(), 8, 64),
                Matrix::new(w.slice(..columns * 64), columns, 64),
                Matrix::new((&mut out).into(), 8, columns),
                Epilogue::default(),
            );
            fake.mark();
            igemm_sm90(device, &stream, instance, &maps, operands).unwrap();
            assert_eq!(fake.calls_since_mark("cuTensorMapEncodeTiled"), expected);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_runs() {
    if !runs() {
        return;
    }
    let (own, stream) = (support::own_device(), stream());
    let device = &*own;
    let a = stream.clone_htod(&[1i8; 4 * 32 + 16]).unwrap();
    let w = stream.clone_htod(&[1i8; 3 * 32]).unwrap();
    let mut out = stream.clone_htod(&[9i32; 12]).unwrap();
    let before = device.launches();
    let one = Instance::new(by_name("128x128").unwrap());
    let maps = TensorMaps::default();
    type Rows<'a> = Matrix<CudaView<'a, i8>>;
    let mut run = |instance, a: Rows<'_>, w: Rows<'_>, rows: usize| {
        let out = Matrix::new((&mut out).into(), rows, 3);
        let operands = GemmOperands::new(a, w, out, Epilogue::to(Output::Raw));
        igemm_sm90(device, &stream, instance, &maps, operands)
    };
    let fine_a = || Matrix::new(a.as_view(), 4, 32);
    let w32 = || Matrix::new(w.as_view(), 3, 32);
    let w24 = || Matrix::new(w.as_view(), 3, 24).with_stride(32);
    let error = run(one, fine_a(), Matrix::new(w.as_view(), 3, 31), 4).unwrap_err();
    assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
    let error = run(one, fine_a(), w32(), 3).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    let error = run(one, Matrix::new(a.as_view(), 5, 32), w32(), 5).unwrap_err();
    assert!(matches!(error, Error::Length { what: "a", .. }), "{error}");
    for (a, w) in [
        (Matrix::new(a.slice(1..), 4, 32), w32()),
        (Matrix::new(a.as_view(), 4, 24), w24()),
        (
            Matrix::new(a.as_view(), 4, 0).with_stride(32),
            Matrix::new(w.as_view(), 3, 0).with_stride(32),
        ),
    ] {
        let error = run(one, a, w, 4).unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("igemm_sm80"), "{error}");
    }
    let error = run(one.with_splits(2), fine_a(), w32(), 4).unwrap_err();
    assert!(error.to_string().contains("14 elements"), "{error}");
    assert_eq!(device.launches(), before);
    // The stride of a single row is never used.
    run(one, Matrix::new(a.as_view(), 1, 24), w24(), 1).unwrap();
    let (first, rest) = ([24; 3], [9; 9]);
    assert_eq!(
        stream.clone_dtoh(&out).unwrap(),
        [&first[..], &rest].concat()
    );
}

/// The choice is a function of problem and device alone, and its estimate is printed. On an H200's memory: the slower it is,
/// the less a split of K is worth.
#[test]
fn the_choice_fits_and_repeats() {
    let mut properties = device().properties().clone();
    properties.bandwidth = 4_800_000;
    let properties = &properties;
    let all = |m: usize, n: usize, k: usize| candidates(Shape::new(m, n, k), properties);
    let chosen = |m: usize, n: usize, k: usize| {
        let choice = all(m, n, k)[0];
        println!("[{m}, {k}] x [{k}, {n}]: {choice}");
        assert_eq!(choice, all(m, n, k)[0]);
        assert_eq!(choice.instance.to_string().parse(), Ok(choice.instance));
        let all = all(m, n, k);
        assert_eq!((all.len(), all[0]), (TILES.len(), choice));
        assert!(all.is_sorted_by(|a, b| a.microseconds <= b.microseconds));
        let Instance { tile, splits, .. } = choice.instance;
        assert!(TILES.contains(tile) && splits >= 1 && choice.microseconds > 0.0);
        // No part is empty, and none too short for the ring.
        let steps = k.div_ceil(128);
        assert!(
            splits == 1 || steps / splits >= 4 && (splits - 1) * steps.div_ceil(splits) < steps
        );
        choice
    };
    // Large products take large tiles, a few tokens the form in which they are the narrow side.
    let large = chosen(4096, 7168, 16384).instance;
    assert!(large.tile.tall * large.tile.wide >= 128 * 128 && large.splits == 1);
    for m in [1, 8, 9, 16, 17, 32, 33, 48, 64] {
        let few = chosen(m, 4096, 8192).instance;
        assert!(few.tile.rows().0 >= m && few.tile.tall == 64, "{few:?}");
        assert!(few.tile.swapped || m > 32, "{few:?}");
        assert!(
            few.splits > 1,
            "{few:?}: 64 tiles fill no 132 multiprocessors"
        );
    }
    for (m, n, k) in [
        (128, 4096, 8192),
        (256, 4096, 8192),
        (16, 8192, 21760),
        (8192, 8192, 8192),
    ] {
        chosen(m, n, k);
    }
    // More work never costs less by the model's own floor, memory.
    assert!(chosen(1, 8192, 8192).microseconds < chosen(1, 16384, 8192).microseconds);
    for shape in [(0, 5, 7), (5, 0, 7), (5, 7, 0), (1, 1, 1)] {
        chosen(shape.0, shape.1, shape.2);
    }
}
