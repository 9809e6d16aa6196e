//! Plans and operations on the device: the bits of the CPU, whatever the algorithm, batch and memory.

use crate::support::{self, device, fake, floats, same, stream, Random, Type};
use half::{bf16, f16};
use imma::activation::Activation;
use imma::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use imma::cuda::cudarc::driver::CudaStream;
use imma::cuda::kernels::{igemm_sm80, igemm_sm90};
use imma::cuda::{
    self as gpu, Algorithm, ChoiceCache, Device, DeviceElement, DeviceLhs, DeviceLinear,
    DeviceOutput, DeviceWeights, Input, Instance, Matrix, Operands, Plan, Problem, WeightOrder,
};
use imma::element::{FloatSlice, FloatView, OutputMut};
use imma::epilogue::Scales;
use imma::epilogue::{Output, ZeroPoints};
use imma::gemm::{ActivationQuant, Gemm, Lhs, Weights};
use imma::ops::{matmul_true_int8_on, q_matmul_int8_as, q_matmul_int8_as_on};
use imma::{matmul_true_int8, quant_int8, Backend, Cpu, DType, Epilogue, Error, Int8Linear};
use ndarray::{Array1, Array2, ArrayView2, Axis};
use std::path::PathBuf;
use std::sync::Arc;

/// M, N, K: none, one, ragged, aligned, long enough for algorithms that want a workspace.
const SHAPES: [(usize, usize, usize); 11] = [
    (0, 3, 5),
    (3, 0, 5),
    (3, 5, 0),
    (1, 1, 1),
    (1, 7, 33),
    (5, 4, 16),
    (17, 13, 31),
    (16, 32, 64),
    (33, 20, 130),
    (3, 9, 600),
    (2, 6, 4100),
];

fn matrix<T: Type>(random: &mut Random, rows: usize, cols: usize, by_row: bool) -> Array2<T> {
    Array2::from_shape_vec((rows, cols), floats(random, rows, cols, by_row)).unwrap()
}

fn integers(random: &mut Random, rows: usize, cols: usize) -> Array2<i8> {
    Array2::from_shape_simple_fn((rows, cols), || random.next() as i8)
}

fn assert_same<T: Type>(found: ArrayView2<'_, T>, want: ArrayView2<'_, T>, what: &str) {
    assert_eq!(found.dim(), want.dim(), "{what}");
    for ((at, f), w) in found.indexed_iter().zip(&want) {
        assert!(same(*f, *w), "{what}: {f:?} at {at:?}, expected {w:?}");
    }
}

trait Full: Type + DeviceElement {}
impl<T: Type + DeviceElement> Full for T {}

fn backend() -> Arc<dyn Backend> {
    device().clone()
}

fn q_matmul_like_the_cpu<T: Full, O: Full>(seed: u64) {
    let mut random = Random(seed);
    let stream = stream();
    for (m, n, k) in SHAPES {
        let a = matrix::<T>(&mut random, m, k, true);
        let b = matrix::<T>(&mut random, k, n, false);
        let what = format!("[{m}, {k}] x [{k}, {n}], {} -> {}", T::DTYPE, O::DTYPE);
        let want: Array2<O> = q_matmul_int8_as(a.view(), b.view()).unwrap();
        let found: Array2<O> = q_matmul_int8_as_on(device().as_ref(), a.view(), b.view()).unwrap();
        assert_same(found.view(), want.view(), &what);

        // The same on device arrays.
        let one = |v: &Array2<T>| match v.as_slice().unwrap() {
            [] => stream.clone_htod(&[T::default()]).unwrap(),
            all => stream.clone_htod(all).unwrap(),
        };
        let (da, db) = (one(&a), one(&b));
        let (da, db) = (
            Matrix::new(da.slice(..m * k), m, k),
            Matrix::new(db.slice(..k * n), k, n),
        );
        let c = gpu::q_matmul_int8::<T, O>(device(), &stream, da, db).unwrap();
        let c = stream.clone_dtoh(&c).unwrap();
        let found = Array2::from_shape_vec((m, n), c[..m * n].to_vec()).unwrap();
        assert_same(found.view(), want.view(), &format!("{what}, device arrays"));
    }
}

#[test]
fn q_matmul_int8_gives_the_bits_of_the_cpu() {
    q_matmul_like_the_cpu::<f32, f32>(1);
    q_matmul_like_the_cpu::<f16, f16>(2);
    q_matmul_like_the_cpu::<bf16, bf16>(3);
    q_matmul_like_the_cpu::<bf16, f32>(4);
    q_matmul_like_the_cpu::<f32, f16>(5);
}

#[test]
fn integer_products_and_quantising_are_those_of_the_cpu() {
    let (device, stream) = (device(), stream());
    let mut random = Random(6);
    for (m, n, k) in SHAPES {
        let (a, b) = (integers(&mut random, m, k), integers(&mut random, k, n));
        let want = matmul_true_int8(a.view(), b.view()).unwrap();
        let found = matmul_true_int8_on(device.as_ref(), a.view(), b.view()).unwrap();
        assert_eq!(found, want, "[{m}, {k}] x [{k}, {n}]");
        // Turned and reversed views are read as they are.
        let (at, bt) = (
            a.t().as_standard_layout().into_owned(),
            b.slice(ndarray::s![.., ..;-1]),
        );
        let want = matmul_true_int8(at.t(), bt).unwrap();
        let found = matmul_true_int8_on(device.as_ref(), at.t(), bt).unwrap();
        assert_eq!(found, want);

        // On device arrays, with rows that start anywhere.
        let (lda, ldb) = (k + random.below(5), n + random.below(5));
        let spread = |x: &Array2<i8>, ld: usize| {
            let mut all = vec![77i8; x.nrows() * ld + 1];
            for (r, row) in x.outer_iter().enumerate() {
                all[r * ld..][..x.ncols()].copy_from_slice(row.as_slice().unwrap());
            }
            stream.clone_htod(&all).unwrap()
        };
        let (da, db) = (spread(&a, lda), spread(&b, ldb));
        let da = Matrix::new(da.as_view(), m, k).with_stride(lda);
        let db = Matrix::new(db.as_view(), k, n).with_stride(ldb);
        let c = gpu::matmul_true_int8(device, &stream, da, db).unwrap();
        let c = stream.clone_dtoh(&c).unwrap();
        let want = matmul_true_int8(a.view(), b.view()).unwrap();
        assert!(
            want.iter().eq(&c[..m * n]),
            "[{m}, {k}] x [{k}, {n}], device arrays"
        );
    }
    let x: Array2<f32> = matrix(&mut random, 9, 31, true);
    let dx = stream.clone_htod(x.as_slice().unwrap()).unwrap();
    let q = gpu::quant_int8(device, &stream, &dx).unwrap();
    let want = quant_int8(x.view());
    assert!(want.iter().eq(&stream.clone_dtoh(&q).unwrap()));
}

fn linear_like_the_cpu<T: Full>(seed: u64) {
    let mut random = Random(seed);
    let cpu: Arc<dyn Backend> = Arc::new(Cpu::new());
    for (m, n, k) in SHAPES {
        let w = matrix::<T>(&mut random, n, k, true);
        let x = matrix::<T>(&mut random, m, k, true);
        let bias = Array1::from_shape_simple_fn(n, || T::from_f32(random.unit()));
        let q = integers(&mut random, n, k);
        let scales: Vec<f32> = (0..n).map(|_| random.unit().abs()).collect();
        for (activation, quant) in [
            (Activation::None, ActivationQuant::PerToken),
            (Activation::Relu, ActivationQuant::PerTokenAsymmetric),
            (Activation::Silu, ActivationQuant::Static { scale: 0.02 }),
            (Activation::Gelu, ActivationQuant::PerToken),
            (
                Activation::None,
                ActivationQuant::StaticAsymmetric {
                    scale: 0.02,
                    zero_point: -3,
                },
            ),
        ] {
            let layers = |backend: &Arc<dyn Backend>, biased: bool| {
                let bias = biased.then(|| bias.view());
                let float = Int8Linear::from_float_on(backend.clone(), w.view(), bias);
                let int8 = Int8Linear::from_int8_on(backend.clone(), q.view(), &scales, bias);
                [float, int8].map(|layer| {
                    let layer = layer.unwrap().with_activation(activation);
                    let layer = layer.with_activation_quant(quant).unwrap();
                    layer.forward(x.view()).unwrap()
                })
            };
            for bias in [false, true] {
                let found = layers(&backend(), bias);
                let want = layers(&cpu, bias);
                let what = format!("[{m}, {k}] x [{k}, {n}], {activation:?}, {quant:?}, {bias}");
                for (found, want) in found.iter().zip(&want) {
                    assert_same(found.view(), want.view(), &what);
                }
            }
        }
    }
}

#[test]
fn a_linear_layer_gives_the_bits_of_the_cpu() {
    linear_like_the_cpu::<f32>(11);
    linear_like_the_cpu::<bf16>(12);
}

/// Rows that are not finite are NaN on a device too, whichever way they are quantised, and no other row notices.
#[test]
fn rows_that_are_not_finite_are_nan_whatever_quantises_them() {
    let mut random = Random(77);
    let cpu: Arc<dyn Backend> = Arc::new(Cpu::new());
    let quants = [
        ActivationQuant::PerToken,
        ActivationQuant::PerTokenAsymmetric,
        ActivationQuant::Static { scale: 0.02 },
        ActivationQuant::StaticAsymmetric {
            scale: 0.02,
            zero_point: -3,
        },
    ];
    // Rows that are no multiple of a vector, that are, and that are longer than a block holds.
    for (m, n, k) in [(4, 6, 33), (5, 16, 64), (3, 4, 33_000)] {
        let w = Array2::from_shape_simple_fn((n, k), || random.unit());
        for quant in quants {
            if k > 32_768 && quant != (ActivationQuant::Static { scale: 0.02 }) {
                continue;
            }
            let layer = |backend: &Arc<dyn Backend>| {
                let layer = Int8Linear::from_float_on(backend.clone(), w.view(), None).unwrap();
                layer.with_activation_quant(quant).unwrap()
            };
            let (here, there) = (layer(&cpu), layer(&backend()));
            let number = || bf16::from_f32(random.unit());
            let mut x = Array2::from_shape_simple_fn((m, k), number);
            let bad = [bf16::NAN, bf16::INFINITY, bf16::NEG_INFINITY];
            for (column, bad) in [0, k / 2, k - 1].into_iter().zip(bad) {
                x[[1, column]] = bad;
                let what = format!("[{m}, {k}], {quant:?}, {bad} at {column}");
                let found: Array2<bf16> = there.forward(x.view()).unwrap();
                assert!(found.row(1).iter().all(|y| y.is_nan()), "{what}");
                assert!(found.row(0).iter().all(|y| y.is_finite()), "{what}");
                assert_same(found.view(), here.forward(x.view()).unwrap().view(), &what);
                x[[1, column]] = bf16::ZERO;
            }
        }
    }
}

/// A plan with its operands on the device.
struct Job {
    plan: Plan,
    weights: DeviceWeights,
    x: Array2<f32>,
    w: Array2<f32>,
}

impl Job {
    fn new(stream: &Arc<CudaStream>, problem: Problem, by: Algorithm, seed: u64) -> Self {
        let mut random = Random(seed);
        let x = matrix::<f32>(&mut random, problem.m, problem.k, true);
        let w = matrix::<f32>(&mut random, problem.k, problem.n, false);
        let dw = stream.clone_htod(w.as_slice().unwrap()).unwrap();
        let dw = Matrix::new(&dw, problem.k, problem.n);
        let weights = DeviceWeights::pack(device(), stream, dw, WeightOrder::Inputs).unwrap();
        Job {
            plan: Plan::new(device(), problem, by).unwrap(),
            weights,
            x,
            w,
        }
    }

    /// Runs it over memory full of `poison`.
    fn run(&self, stream: &Arc<CudaStream>, poison: u8) -> Array2<f32> {
        let problem = self.plan.problem();
        let (m, n, k) = (problem.m, problem.n, problem.k);
        let x = stream.clone_htod(self.x.as_slice().unwrap()).unwrap();
        let poisoned = f32::from_bits(u32::from_ne_bytes([poison; 4]));
        let mut out = stream.clone_htod(&vec![poisoned; m * n]).unwrap();
        let bytes = vec![poison; self.plan.workspace_bytes().max(1)];
        let mut workspace = stream.clone_htod(&bytes).unwrap();
        let lhs = DeviceLhs::floats(Matrix::new(&x, m, k));
        let operands = Operands::new(lhs, self.weights.view(), Matrix::new(&mut out, m, n));
        self.plan.run(stream, operands, &mut workspace).unwrap();
        Array2::from_shape_vec((m, n), stream.clone_dtoh(&out).unwrap()).unwrap()
    }

    fn want(&self) -> Array2<f32> {
        q_matmul_int8_as(self.x.view(), self.w.view()).unwrap()
    }
}

/// Every algorithm that this device has for a product.
fn algorithms(problem: &Problem) -> Vec<Algorithm> {
    let plan = |a: &Algorithm| Plan::new(device(), problem.clone(), *a);
    let mut all = vec![Algorithm::Heuristic, "cublaslt".parse().unwrap()];
    let candidates = (0..8).map(|i| Instance::CublasLt(i).into());
    all.extend(candidates.take_while(|a| plan(a).is_ok()));
    for tile in &igemm_sm80::TILES {
        for splits in [1, 3] {
            let instance = igemm_sm80::Instance::new(tile).with_splits(splits);
            all.push(Instance::Sm80(instance).into());
        }
    }
    // On devices that have them, of operands that TMA reads.
    let names90 = igemm_sm90::TILES
        .iter()
        .flat_map(|tile| ["", "/2"].map(|s| format!("igemm_sm90:{}{s}", tile.name)));
    let tiles90 = names90.map(|name| name.parse().unwrap());
    all.extend(tiles90.filter(|a| plan(a).is_ok()));
    all
}

#[test]
fn any_algorithm_gives_the_same_bits_over_poisoned_memory() {
    let stream = stream();
    let mut workspaces = std::collections::BTreeSet::new();
    for (m, n, k) in [(3, 5, 7), (9, 12, 4096), (1, 24, 520)] {
        let problem = Problem::floats(m, n, k, DType::F32, DType::F32);
        let all = algorithms(&problem);
        assert!(all.len() > 2);
        for algorithm in all {
            let job = Job::new(&stream, problem.clone(), algorithm, 21);
            workspaces.insert(job.plan.workspace_bytes());
            for poison in [0xff, 0x7f] {
                let found = job.run(&stream, poison);
                let what = format!("{}, poison {poison:x}", job.plan);
                assert_same(found.view(), job.want().view(), &what);
            }
        }
    }
    assert!(workspaces.len() > 3, "candidates differ in their workspace");
}

#[test]
fn an_algorithm_is_named_and_read_again() {
    let mut all = algorithms(&Problem::floats(3, 5, 64, DType::F32, DType::F32));
    all.push(Algorithm::Autotuned);
    for algorithm in all {
        assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
    }
    for bad in [
        "",
        "igemm_sm80",
        "igemm_sm80:",
        "igemm_sm80:1x2x3",
        "igemm_sm80:64x64x128/0",
        "igemm_groupwise:64x64x128/2",
        "cublaslt:",
        "best",
    ] {
        assert!(bad.parse::<Algorithm>().is_err(), "{bad}");
    }
}

/// The bits, one NaN being as good as another.
fn bits(scales: &[f32]) -> Vec<u32> {
    let one = |s: &f32| if s.is_nan() { u32::MAX } else { s.to_bits() };
    scales.iter().map(one).collect()
}

/// Operands of any kind, where they may lie, against the CPU's product.
fn anything_like_the_cpu<T: Full, O: Full>(seed: u64, cases: usize) {
    let (device, stream) = (device(), stream());
    let mut random = Random(seed);
    for case in 0..cases {
        let [m, n, k] = [
            1 + random.below(40),
            1 + random.below(70),
            random.below(300),
        ];
        let given = random.below(3) == 0;
        let x = matrix::<T>(&mut random, m, k, true);
        let q = integers(&mut random, m, k);
        let w = integers(&mut random, n, k);
        let positive = |random: &mut Random, n| -> Vec<f32> {
            (0..n).map(|_| random.unit().abs() * 0.01 + 1e-4).collect()
        };
        let w_scales = positive(&mut random, n);
        let row_scales = positive(&mut random, m);
        let zeros: Vec<i32> = (0..m).map(|_| random.below(256) as i32 - 128).collect();
        let bias = matrix::<bf16>(&mut random, 1, n, true);
        let gated = n % 2 == 0 && random.below(2) == 1;
        let columns = if gated { n / 2 } else { n };
        let residual = matrix::<f16>(&mut random, m, columns, true);
        let quant = random.pick(&[
            ActivationQuant::PerToken,
            ActivationQuant::PerTokenAsymmetric,
            ActivationQuant::Static { scale: 0.03 },
            ActivationQuant::StaticAsymmetric {
                scale: 0.03,
                zero_point: 11,
            },
        ]);
        let stride = k + random.pick(&[0, 0, 5, 16]);
        let offset: usize = random.pick(&[0, 0, 16, 3]);
        let [has_bias, has_residual, has_zeros, to_int8] = [0; 4].map(|_| random.below(2) == 1);
        let activation = random.pick(&[Activation::None, Activation::Silu, Activation::GeluTanh]);
        let per_row = to_int8 && random.below(2) == 1;
        let output = match (to_int8, per_row) {
            (true, true) => Output::Int8PerRow,
            (true, false) => Output::Int8 { scale: 0.05 },
            (false, _) => Output::of::<O>(),
        };
        let input = if given {
            Input::Int8 {
                stride,
                aligned: offset.is_multiple_of(16),
            }
        } else {
            Input::Float(T::DTYPE, quant)
        };
        let mut problem = Problem::floats(m, n, k, T::DTYPE, O::DTYPE)
            .with_input(input)
            .with_activation(activation)
            .with_output(output);
        problem.epilogue.gated = gated;
        problem.epilogue.bias = has_bias.then_some(DType::BF16);
        problem.epilogue.residual = has_residual.then_some(DType::F16);
        if given {
            problem = problem.with_row_scales();
            if has_zeros {
                problem = problem.with_row_zero_points();
            }
        }
        let mut all = algorithms(&problem);
        // Aligned tiles are refused for rows that do not start at multiples of 16 bytes.
        all.retain(|a| Plan::new(device, problem.clone(), *a).is_ok());
        let plan = Plan::new(device, problem.clone(), random.pick(&all)).unwrap();
        let what = format!("case {case} of {seed}: {plan}, stride {stride} at +{offset}");

        // The CPU's.
        let cpu = Cpu::new();
        let packed = cpu.pack(Weights::Int8(w.t())).unwrap();
        let epilogue = Epilogue {
            row_scales: if given {
                Scales::PerVector(&row_scales[..])
            } else {
                Scales::None
            },
            col_scales: Scales::PerVector(&w_scales[..]),
            row_zero_points: if given && has_zeros {
                ZeroPoints::PerVector(&zeros[..])
            } else {
                ZeroPoints::None
            },
            bias: has_bias.then(|| FloatSlice::BF16(bias.as_slice().unwrap())),
            activation,
            gated,
            residual: has_residual.then(|| FloatView::F16(residual.view())),
            output,
        };
        let lhs = if given {
            Lhs::Int8(q.view())
        } else {
            Lhs::Float {
                data: T::tag(x.view()),
                quant,
            }
        };
        let gemm = Gemm::new(lhs, &packed, epilogue).unwrap();
        let shape = (m, columns);
        let (mut want, mut want8) = (Array2::<O>::default(shape), Array2::<i8>::zeros(shape));
        let mut want_scales = vec![0f32; m];
        let out = match output {
            Output::Int8PerRow => OutputMut::I8PerRow {
                data: want8.view_mut(),
                scales: &mut want_scales,
            },
            Output::Int8 { .. } => OutputMut::I8(want8.view_mut()),
            _ => O::tag_mut(want.view_mut()),
        };
        cpu.gemm(&gemm, out).unwrap();

        // The device's.
        let mut host = vec![99i8; offset + m * stride + 1];
        for (r, row) in q.outer_iter().enumerate() {
            host[offset + r * stride..][..k].copy_from_slice(row.as_slice().unwrap());
        }
        let one = |data: &[T]| match data {
            [] => stream.clone_htod(&[T::default()]).unwrap(),
            all => stream.clone_htod(all).unwrap(),
        };
        let (dx, dq) = (
            one(x.as_slice().unwrap()),
            stream.clone_htod(&host).unwrap(),
        );
        let mut dw = w.as_slice().unwrap().to_vec();
        dw.push(0);
        let dw = stream.clone_htod(&dw).unwrap();
        let dw = Matrix::new(&dw, n, k);
        let order = WeightOrder::Outputs;
        let weights = DeviceWeights::pack_int8(device, &stream, dw, order, Some(&w_scales));
        let weights = weights.unwrap();
        let (ds, dz) = (
            stream.clone_htod(&row_scales).unwrap(),
            stream.clone_htod(&zeros).unwrap(),
        );
        let db = stream.clone_htod(bias.as_slice().unwrap()).unwrap();
        let dr = stream.clone_htod(residual.as_slice().unwrap()).unwrap();
        let mut out = stream
            .clone_htod(&vec![O::from_f32(7.0); m * columns])
            .unwrap();
        let mut out8 = stream.clone_htod(&vec![7i8; m * columns]).unwrap();
        let mut out_scales = stream.clone_htod(&vec![7f32; m]).unwrap();
        let mut workspace = stream
            .clone_htod(&vec![0xffu8; plan.workspace_bytes().max(1)])
            .unwrap();
        let lhs = if given {
            DeviceLhs::Int8 {
                data: Matrix::new(dq.slice(offset..), m, k).with_stride(stride),
                scales: Some((&ds).into()),
                zero_points: has_zeros.then(|| (&dz).into()),
            }
        } else {
            DeviceLhs::Float(Matrix::new(T::floats(dx.as_view()), m, k))
        };
        let place: DeviceOutput<'_> = match output {
            Output::Int8PerRow => DeviceOutput::I8PerRow {
                data: out8.as_view_mut(),
                scales: out_scales.as_view_mut(),
            },
            Output::Int8 { .. } => (&mut out8).into(),
            _ => O::output(out.as_view_mut()),
        };
        let mut operands = Operands::new(lhs, weights.view(), Matrix::new(place, m, columns));
        if has_bias {
            operands = operands.with_bias(&db);
        }
        if has_residual {
            operands = operands.with_residual(Matrix::new(&dr, m, columns));
        }
        plan.run(&stream, operands, &mut workspace).unwrap();
        if to_int8 {
            assert!(
                want8.iter().eq(&stream.clone_dtoh(&out8).unwrap()),
                "{what}"
            );
        } else {
            let found = stream.clone_dtoh(&out).unwrap();
            let found = Array2::from_shape_vec(shape, found).unwrap();
            assert_same(found.view(), want.view(), &what);
        }
        if per_row {
            let found = stream.clone_dtoh(&out_scales).unwrap();
            assert_eq!(bits(&found), bits(&want_scales), "{what}");
        }
    }
}

#[test]
fn plans_of_any_kind_give_the_bits_of_the_cpu() {
    anything_like_the_cpu::<f32, f32>(101, 40);
    anything_like_the_cpu::<f16, bf16>(102, 40);
    anything_like_the_cpu::<bf16, f16>(103, 40);
}

#[test]
fn rows_quantised_anew_through_the_backend() {
    let mut random = Random(104);
    for (m, n, k, gated) in [
        (3, 8, 40, false),
        (3, 8, 40, true),
        (2, 0, 5, false),
        (1, 0, 0, true),
        (0, 4, 4, false),
        (4, 6, 0, true),
    ] {
        let (a, w) = (integers(&mut random, m, k), integers(&mut random, k, n));
        let run = |backend: &dyn Backend| {
            let weights = backend.pack(Weights::Int8(w.view())).unwrap();
            let epilogue = Epilogue {
                row_scales: Scales::PerTensor(0.25),
                activation: Activation::Silu,
                gated,
                ..Epilogue::to(Output::Int8PerRow)
            };
            let gemm = Gemm::new(Lhs::Int8(a.view()), &weights, epilogue).unwrap();
            // By columns, too.
            let mut q = Array2::from_elem((if gated { n / 2 } else { n }, m), 9i8).reversed_axes();
            let mut scales = vec![9f32; m];
            let mut run = |scales: &mut [f32]| {
                let data = q.view_mut();
                backend.gemm(&gemm, OutputMut::I8PerRow { data, scales })
            };
            run(&mut scales).unwrap();
            let error = run(&mut vec![0.0; m + 1]);
            assert!(matches!(error, Err(Error::Length { .. })), "{error:?}");
            (q, bits(&scales))
        };
        let what = format!("[{m}, {k}] x [{k}, {n}], gated {gated}");
        assert_eq!(run(device().as_ref()), run(&Cpu::new()), "{what}");
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    let mut random = Random(31);
    let w = matrix::<f32>(&mut random, 24, 72, true);
    let layer = Int8Linear::from_float_on(backend(), w.view(), None).unwrap();
    let x = matrix::<f32>(&mut random, 4096, 72, true);
    let all = layer.forward(x.view()).unwrap();
    for i in [0, 1, 15, 16, 17, 127, 128, 2047, 4095] {
        let alone = layer.forward(x.slice(ndarray::s![i..=i, ..])).unwrap();
        let row = all.index_axis(Axis(0), i).insert_axis(Axis(0));
        assert_same(row, alone.view(), &format!("row {i} of 4096"));
    }
}

/// The emulator counts for the whole process, so this runs in one of its own.
#[test]
fn a_run_allocates_nothing_waits_for_nothing_and_is_captured() {
    let me = std::env::current_exe().unwrap();
    let output = std::process::Command::new(me)
        .args(["--exact", "device::capture", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by a_run_allocates_nothing_waits_for_nothing_and_is_captured, in a process of its own"]
fn capture() {
    let stream = stream();
    let (m, n, k) = (5, 7, 600);
    let problem = Problem::floats(m, n, k, DType::F32, DType::F32);
    let job = Job::new(&stream, problem, Algorithm::Heuristic, 41);
    let mut x = stream.clone_htod(job.x.as_slice().unwrap()).unwrap();
    let mut out = stream.clone_htod(&vec![7.0f32; m * n]).unwrap();
    let mut workspace = stream
        .alloc_zeros::<u8>(job.plan.workspace_bytes())
        .unwrap();
    stream.synchronize().unwrap();
    if let Some(fake) = fake() {
        fake.mark();
    }
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    let lhs = DeviceLhs::floats(Matrix::new(&x, m, k));
    let operands = Operands::new(lhs, job.weights.view(), Matrix::new(&mut out, m, n));
    job.plan.run(&stream, operands, &mut workspace).unwrap();
    if let Some(fake) = fake() {
        assert_eq!(fake.allocations_since_mark(), 0);
        assert_eq!(fake.frees_since_mark(), 0);
        assert_eq!(fake.synchronisations_since_mark(), 0);
    }
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().unwrap();
    assert_eq!(
        stream.clone_dtoh(&out).unwrap(),
        vec![7.0; m * n],
        "captured, not run"
    );
    let mut random = Random(42);
    for _ in 0..2 {
        let data = matrix::<f32>(&mut random, m, k, true);
        stream
            .memcpy_htod(data.as_slice().unwrap(), &mut x)
            .unwrap();
        graph.launch().unwrap();
        let found = stream.clone_dtoh(&out).unwrap();
        let found = Array2::from_shape_vec((m, n), found).unwrap();
        let want: Array2<f32> = q_matmul_int8_as(data.view(), job.w.view()).unwrap();
        assert_same(found.view(), want.view(), "replayed");
    }
}

#[test]
fn threads_run_one_plan_on_streams_of_their_own() {
    let problem = Problem::floats(9, 20, 64, DType::F32, DType::F32);
    let first = stream();
    let job = &Job::new(&first, problem, Algorithm::Heuristic, 51);
    first.synchronize().unwrap();
    let want = &job.want();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                let stream = stream();
                for _ in 0..5 {
                    assert_same(job.run(&stream, 0xff).view(), want.view(), "a thread's own");
                }
            });
        }
        // And through the backend, which has one stream for all.
        for seed in 0..2 {
            scope.spawn(move || {
                let mut random = Random(seed);
                let (a, b) = (integers(&mut random, 9, 30), integers(&mut random, 30, 11));
                let want = matmul_true_int8(a.view(), b.view()).unwrap();
                for _ in 0..5 {
                    let found = matmul_true_int8_on(device().as_ref(), a.view(), b.view());
                    assert_eq!(found.unwrap(), want);
                }
            });
        }
    });
}

#[test]
fn plans_that_make_no_sense_are_refused() {
    let floats = |m, n, k| Problem::floats(m, n, k, DType::F32, DType::F32);
    let static_input = |quant| floats(4, 4, 4).with_input(Input::Float(DType::F32, quant));
    let refuse = |problem: Problem, by| Plan::new(device(), problem, by).unwrap_err().to_string();
    for (problem, want) in [
        (
            floats(4, 4, 4).with_output(Output::Raw),
            "a float left operand with i32 output",
        ),
        (
            floats(4, 4, 4).with_output(Output::Int8 { scale: 0.0 }),
            "the output's scale is 0, expected a number above zero with a finite inverse",
        ),
        (
            floats(4, 4, 4).with_output(Output::Int8 { scale: f32::NAN }),
            "the output's scale is NaN",
        ),
        (
            floats(4, 4, 4).with_row_scales(),
            "the epilogue's row scales is given beside a float left operand",
        ),
        (
            floats(4, 5, 4).gated(),
            "the columns of a gated product is 5",
        ),
        (
            Problem::int8(4, 4, 4).gated(),
            "a gated product with i32 output",
        ),
        (
            Problem::int8(4, 4, 4).with_bias(DType::F32),
            "a bias, activation or residual with i32 output",
        ),
        (floats(4, 4, 4).with_bias(DType::I32), "the bias is i32"),
        (
            static_input(ActivationQuant::Static { scale: f32::NAN }),
            "the static activation scale is NaN",
        ),
        (floats(4, 4, 131_072), "K = 131072 is too long"),
        (
            Problem::floats(4, 4, 4, DType::I8, DType::F32),
            "the input's type is integers",
        ),
        (floats(usize::MAX / 2, 4, 64), "M is"),
        (
            static_input(ActivationQuant::StaticAsymmetric {
                scale: 1.0,
                zero_point: 128,
            }),
            "zero point is 128",
        ),
        (
            floats(4, 4, 64).with_scale_group(48),
            "the group size is 48",
        ),
    ] {
        let error = refuse(problem, Algorithm::Heuristic);
        assert!(error.contains(want), "{error}; expected {want}");
    }
    for (problem, by, want) in [
        (
            Problem::int8(4, 4, 70).with_input(Input::int8(71)),
            "igemm_sm80:64x64x128",
            "multiples of 16 bytes for the tile 64x64x128",
        ),
        (
            floats(4, 4, 4),
            "cublaslt:99",
            "cuBLASLt candidate '99' is not available here",
        ),
        (
            floats(4, 4, 64).with_scale_group(32),
            "igemm_sm80:64x64x128",
            "igemm_groupwise, for weights with scales along K",
        ),
        (
            floats(4, 4, 64),
            "igemm_groupwise:64x64x128",
            "weights with scales along K",
        ),
    ] {
        let error = refuse(problem, by.parse().unwrap());
        assert!(error.contains(want), "{error}; expected {want}");
    }
}

#[test]
fn operands_that_are_not_the_plans_are_refused_before_anything_runs() {
    let (own, stream) = (support::own_device(), stream());
    let device = &*own;
    let (m, n, k) = (4, 6, 40);
    let floats = |k| Problem::floats(m, n, k, DType::F32, DType::F32);
    let job = Job::new(&stream, floats(k), Algorithm::Heuristic, 61);
    let longer = Job::new(&stream, floats(k + 1), Algorithm::Heuristic, 62);
    let x = stream.alloc_zeros::<f32>(m * k).unwrap();
    let half = stream.alloc_zeros::<f16>(m * k).unwrap();
    let ints = stream.alloc_zeros::<i8>(m * k).unwrap();
    let mut out = stream.clone_htod(&vec![7.0f32; m * n]).unwrap();
    let mut wide = stream.alloc_zeros::<i32>(m * n).unwrap();
    let mut narrow = stream.alloc_zeros::<i8>(m * n).unwrap();
    let mut narrow_scales = stream.alloc_zeros::<f32>(m).unwrap();
    let bytes = job.plan.workspace_bytes();
    let mut workspace = stream.alloc_zeros::<u8>(bytes + 1).unwrap();
    let before = device.launches();
    let lhs = |rows, cols| DeviceLhs::floats(Matrix::new(&x, rows, cols));
    macro_rules! refused {
        ($want:expr, $operands:expr) => {
            refused!($want, $operands, 0..bytes)
        };
        ($want:expr, $operands:expr, $range:expr) => {
            let mut space = workspace.slice_mut($range);
            let error = job.plan.run(&stream, $operands, &mut space).unwrap_err();
            assert!(
                error.to_string().contains($want),
                "{error}; expected {}",
                $want
            );
        };
    }
    macro_rules! with_lhs {
        ($lhs:expr) => {
            Operands::new($lhs, job.weights.view(), Matrix::new(&mut out, m, n))
        };
    }
    macro_rules! to {
        ($out:expr) => {
            Operands::new(lhs(m, k), job.weights.view(), $out)
        };
    }
    refused!("the workspace has", with_lhs!(lhs(m, k)), 0..bytes - 1);
    refused!(
        "an address that is a multiple of 256",
        with_lhs!(lhs(m, k)),
        1..bytes + 1
    );
    refused!("the left operand has shape [3, 40]", with_lhs!(lhs(3, k)));
    refused!(
        "the left operand has 160 elements, expected 199",
        with_lhs!(DeviceLhs::floats(Matrix::new(&x, m, k).with_stride(53)))
    );
    refused!(
        "the left operand's type is f16",
        with_lhs!(DeviceLhs::floats(Matrix::new(&half, m, k)))
    );
    refused!(
        "the left operand is integers",
        with_lhs!(DeviceLhs::int8(Matrix::new(ints.as_view(), m, k)))
    );
    refused!(
        "the weights has shape [6, 41]",
        Operands::new(
            lhs(m, k),
            longer.weights.view(),
            Matrix::new(&mut out, m, n)
        )
    );
    refused!(
        "column scales has 5 elements",
        with_lhs!(lhs(m, k)).with_col_scales(x.slice(..5))
    );
    refused!(
        "the bias's type is f32, expected none",
        with_lhs!(lhs(m, k)).with_bias(x.slice(..n))
    );
    refused!(
        "the residual's type is f32, expected none",
        with_lhs!(lhs(m, k)).with_residual(Matrix::new(x.slice(..m * n), m, n))
    );
    refused!(
        "the output's type is i32",
        to!(Matrix::new(&mut wide, m, n))
    );
    let mut short = stream.alloc_zeros::<f32>(m * n - 1).unwrap();
    refused!(
        "the output has 23 elements, expected 24",
        to!(Matrix::new(&mut short, m, n))
    );
    let per_row = DeviceOutput::I8PerRow {
        data: narrow.as_view_mut(),
        scales: narrow_scales.as_view_mut(),
    };
    refused!(
        "the output's type is i8 with a scale a row, expected f32",
        to!(Matrix::new(per_row, m, n))
    );
    // Addresses between elements: views made by reinterpreting bytes.
    let odd = stream.alloc_zeros::<u8>(4 * m * k + 4).unwrap();
    let odd = odd.slice(2..);
    // SAFETY: the bytes are there; nothing reads them at this address.
    let odd = |len| unsafe { odd.transmute::<f32>(len) }.unwrap();
    refused!(
        "the left operand is at address",
        with_lhs!(DeviceLhs::floats(Matrix::new(odd(m * k), m, k)))
    );
    refused!(
        "column scales is at address",
        with_lhs!(lhs(m, k)).with_col_scales(odd(n))
    );
    assert_eq!(device.launches(), before);
    assert_eq!(stream.clone_dtoh(&out).unwrap(), vec![7.0; m * n]);
}

#[test]
fn what_the_device_lacks_memory_for_is_an_error() {
    let (device, stream) = (device(), stream());
    let nothing = stream.alloc_zeros::<i8>(1).unwrap();
    // No operand has an element, the result has 2^42.
    let side = 1 << 21;
    let a = Matrix::new(nothing.as_view(), side, 0);
    let b = Matrix::new(nothing.as_view(), 0, side);
    let error = gpu::matmul_true_int8(device, &stream, a, b).unwrap_err();
    let out_of_memory = "CUDA_ERROR_OUT_OF_MEMORY";
    assert!(
        matches!(&error, Error::Cuda { name, .. } if name == out_of_memory),
        "{error}"
    );
    // The device goes on.
    let x = stream.clone_htod(&[1.5f32, -300.0]).unwrap();
    let q = gpu::quant_int8(device, &stream, &x).unwrap();
    assert_eq!(stream.clone_dtoh(&q).unwrap(), [2, -127]);
}

/// Measures, writes the file, reads it again, and ignores one that is damaged.
#[test]
fn tuned_choices_are_remembered() {
    let folder = std::env::temp_dir().join(format!("imma-tuned-{}", std::process::id()));
    let path = folder.join("choices.txt");
    // Every device of a process reads the file that the variable names.
    let variables = [("IMMA_CHOICES", path.to_str().unwrap())];
    if !support::alone("device::tuned_choices_are_remembered", &variables) {
        return;
    }
    let path = PathBuf::from(std::env::var_os("IMMA_CHOICES").unwrap());
    let folder = path.parent().unwrap();
    let problem = Problem::floats(3, 8, 4096, DType::F32, DType::F32);
    let tuned = |device: &Device| Plan::new(device, problem.clone(), Algorithm::Autotuned);
    let stream = stream();
    let job = Job::new(&stream, problem.clone(), Algorithm::Autotuned, 71);
    assert!(job.plan.to_string().contains("measured: "), "{}", job.plan);
    assert_same(job.run(&stream, 0xff).view(), job.want().view(), "tuned");
    let (cache, warning) = ChoiceCache::load(&path, device().properties());
    assert_eq!((cache.len(), warning), (1, None));
    // From memory, and by a device that was opened anew from the file.
    let again = tuned(device()).unwrap();
    assert!(again.to_string().contains("measured earlier"), "{again}");
    let fresh = || Device::with_context(device().context()).unwrap();
    let again = tuned(&fresh()).unwrap();
    assert!(again.to_string().contains("measured earlier"), "{again}");
    // What was timed on an idle stream is measured again.
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("choices 4", "choices 3")).unwrap();
    let anew = tuned(&fresh()).unwrap();
    assert!(anew.to_string().contains("measured: "), "{anew}");
    let (cache, warning) = ChoiceCache::load(&path, device().properties());
    assert_eq!((cache.len(), warning), (1, None));
    std::fs::remove_dir_all(folder).unwrap();
}

/// Every candidate is measured once, in a context that tracks events too, and a second tuning goes on where one ended.
#[test]
fn tuning_measures_every_candidate_and_goes_on() {
    let folder = std::env::temp_dir().join(format!("imma-tuning-{}", std::process::id()));
    let path = folder.join("choices.txt");
    let variables = [("IMMA_CHOICES", path.to_str().unwrap())];
    let name = "device::tuning_measures_every_candidate_and_goes_on";
    if !support::alone(name, &variables) {
        return;
    }
    let path = PathBuf::from(std::env::var_os("IMMA_CHOICES").unwrap());
    let device = device();
    // SAFETY: nothing was allocated here yet.
    unsafe { device.context().enable_event_tracking() };
    let problem = Problem::floats(2, 16, 256, DType::BF16, DType::BF16).with_bias(DType::F32);
    let mut seen = Vec::new();
    let tuning = gpu::tune(device, &problem, &mut |p| {
        seen.push((p.instance, p.done, p.of))
    });
    let tuning = tuning.unwrap();
    let measured: Vec<_> = tuning.all.iter().map(|(instance, _)| *instance).collect();
    let said: Vec<_> = seen.iter().map(|(instance, ..)| *instance).collect();
    assert_eq!(measured, said);
    assert!(seen
        .iter()
        .enumerate()
        .all(|(i, s)| s.1 == i && s.2 == seen.len()));
    // Each tile that this device has for such operands, and the library's candidates.
    for algorithm in algorithms(&problem) {
        let plan = Plan::new(device, problem.clone(), algorithm).unwrap();
        let whole = !plan.instance().to_string().contains('/');
        let known = measured.contains(&plan.instance());
        assert!(known || !whole || plan.kernel().contains("_any"), "{plan}");
    }
    for (i, instance) in measured.iter().enumerate() {
        assert!(!measured[..i].contains(instance), "{instance} twice");
    }
    let least = tuning
        .all
        .iter()
        .map(|(_, us)| *us)
        .fold(f64::MAX, f64::min);
    assert_eq!(tuning.best.microseconds, least);
    assert!(least > 0.0 && tuning.best.heuristic >= least);
    let heuristic = Plan::new(device, problem.clone(), Algorithm::Heuristic).unwrap();
    assert_eq!(tuning.all[0].0, heuristic.instance());
    // The file has it: an autotuned plan of another device, and another tuning, measure nothing.
    let fresh = Device::with_context(device.context()).unwrap();
    let again = gpu::tune(&fresh, &problem, &mut |p| panic!("measures {p:?}")).unwrap();
    assert_eq!((again.best, again.all.len()), (tuning.best, 0));
    let plan = Plan::new(&fresh, problem.clone(), Algorithm::Autotuned).unwrap();
    assert!(plan.to_string().contains("measured earlier"), "{plan}");
    assert_eq!(plan.instance(), tuning.best.instance);
    let nothing = Problem::floats(0, 16, 256, DType::BF16, DType::BF16);
    let error = gpu::tune(device, &nothing, &mut |_| {})
        .unwrap_err()
        .to_string();
    assert!(error.contains("[0, 16] result"), "{error}");
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn a_layer_on_device_memory_gives_the_bits_of_the_cpu() {
    let (device, stream) = (device(), stream());
    let mut random = Random(81);
    for (m, n, k) in [(1, 5, 33), (7, 12, 64), (4, 3, 0)] {
        let w = matrix::<bf16>(&mut random, n, k, true);
        let x = matrix::<bf16>(&mut random, m, k, true);
        let q = integers(&mut random, n, k);
        let upload = |data: &[bf16]| match data {
            [] => stream.clone_htod(&[bf16::ZERO]),
            all => stream.clone_htod(all),
        };
        let (dw, dx) = (
            upload(w.as_slice().unwrap()).unwrap(),
            upload(x.as_slice().unwrap()).unwrap(),
        );
        let turned = w.t().as_standard_layout().into_owned();
        let dt = upload(turned.as_slice().unwrap()).unwrap();
        let mut dq = q.as_slice().unwrap().to_vec();
        dq.push(0);
        let dq = stream.clone_htod(&dq).unwrap();
        let host = Int8Linear::from_float(w.view(), None).unwrap();
        let host8 = Int8Linear::from_int8::<bf16>(q.view(), &[0.25], None).unwrap();
        type Layer = DeviceLinear;
        let (outputs, inputs) = (WeightOrder::Outputs, WeightOrder::Inputs);
        let (by_rows, turned) = (Matrix::new(&dw, n, k), Matrix::new(&dt, k, n));
        let int8 = Matrix::new(&dq, n, k);
        let layers = [
            (Layer::from_float(device, &stream, by_rows, outputs), &host),
            (Layer::from_float(device, &stream, turned, inputs), &host),
            (
                Layer::from_int8(device, &stream, int8, outputs, &[0.25]),
                &host8,
            ),
        ];
        for (layer, host) in layers {
            let layer = layer.unwrap();
            let sums = stream.clone_dtoh(&layer.weights().col_sums()).unwrap();
            assert_eq!(sums, host.weights().col_sums());
            let y = layer.forward::<bf16, bf16>(&stream, Matrix::new(dx.as_view(), m, k));
            let y = stream.clone_dtoh(&y.unwrap()).unwrap();
            let y = Array2::from_shape_vec((m, n), y).unwrap();
            assert_same(
                y.view(),
                host.forward(x.view()).unwrap().view(),
                "per token",
            );
            let layer = layer.with_activation_quant(ActivationQuant::Static { scale: 0.05 });
            let host = host
                .clone()
                .with_activation_quant(ActivationQuant::Static { scale: 0.05 });
            let y = layer.forward::<bf16, bf16>(&stream, Matrix::new(dx.as_view(), m, k));
            let y = stream.clone_dtoh(&y.unwrap()).unwrap();
            let y = Array2::from_shape_vec((m, n), y).unwrap();
            assert_same(
                y.view(),
                host.unwrap().forward(x.view()).unwrap().view(),
                "static",
            );
        }
    }
}

/// Integers that start between multiples of 16 bytes are planned for; a plan for others names them.
#[test]
fn integers_that_start_anywhere_are_planned_for() {
    let (device, stream) = (device(), stream());
    let mut random = Random(91);
    let (m, n, k) = (5, 6, 64);
    let (a, w) = (integers(&mut random, m, k), integers(&mut random, k, n));
    let dw = stream.clone_htod(w.as_slice().unwrap()).unwrap();
    let dw = Matrix::new(&dw, k, n);
    let weights = DeviceWeights::pack_int8(device, &stream, dw, WeightOrder::Inputs, None).unwrap();
    let mut host = vec![0i8; 3];
    host.extend(a.iter());
    let da = stream.clone_htod(&host).unwrap();
    let mut out = stream.alloc_zeros::<i32>(m * n).unwrap();
    let mut run = |aligned| {
        let input = Input::Int8 { stride: k, aligned };
        let problem = Problem::int8(m, n, k).with_input(input);
        let plan = Plan::new(device, problem, Algorithm::Heuristic).unwrap();
        let mut workspace = stream
            .alloc_zeros::<u8>(plan.workspace_bytes().max(1))
            .unwrap();
        let lhs = DeviceLhs::int8(Matrix::new(da.slice(3..), m, k));
        let operands = Operands::new(lhs, weights.view(), Matrix::new(&mut out, m, n));
        plan.run(&stream, operands, &mut workspace)
            .map(|()| plan.kernel())
    };
    let error = run(true).unwrap_err().to_string();
    assert!(
        error.contains("the left operand is at address") && error.contains("multiple of 16"),
        "{error}"
    );
    assert!(run(false).unwrap().contains("_any"));
    let want = matmul_true_int8(a.view(), w.view()).unwrap();
    assert!(want.iter().eq(&stream.clone_dtoh(&out).unwrap()));
}

/// A layer keeps its plans, and refuses those of another.
#[test]
fn a_plan_belongs_to_its_layer() {
    let (device, stream) = (device(), stream());
    let (m, n, k) = (3, 8, 64);
    let w = stream.clone_htod(&vec![0.5f32; n * k]).unwrap();
    let layer = || {
        let w = Matrix::new(&w, n, k);
        DeviceLinear::from_float(device, &stream, w, WeightOrder::Outputs).unwrap()
    };
    let (plain, relu) = (layer(), layer().with_activation(Activation::Relu));
    let bias = stream.clone_htod(&vec![1f32; n]).unwrap();
    let biased = layer().with_bias(bias).unwrap();
    let fixed = layer().with_activation_quant(ActivationQuant::Static { scale: 0.5 });
    let x = stream.clone_htod(&vec![-1f32; m * k]).unwrap();
    let mut y = stream.clone_htod(&vec![7f32; m * n]).unwrap();
    let mut run = |layer: &DeviceLinear, plan: &Plan| {
        let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes()).unwrap();
        let (x, y) = (Matrix::new(&x, m, k), Matrix::new(&mut y, m, n));
        layer.run(plan, &stream, x, y, &mut workspace)
    };
    let plan = |layer: &DeviceLinear| layer.plan(m, DType::F32, DType::F32).unwrap();
    for (mine, others) in [
        (&plain, [&relu, &biased, &fixed]),
        (&relu, [&plain, &biased, &fixed]),
        (&biased, [&plain, &relu, &fixed]),
        (&fixed, [&plain, &relu, &biased]),
    ] {
        run(mine, &plan(mine)).unwrap();
        for other in others {
            let error = run(mine, &plan(other)).unwrap_err().to_string();
            assert!(error.contains("the plan is one for"), "{error}");
        }
    }
    // Another batch size is another plan's.
    let other = plain.plan(m + 1, DType::F32, DType::F32).unwrap();
    assert!(run(&plain, &other).is_err());
    // Coming back to a batch size answers the same plan: what it knows is shared.
    let first = format!("{:p}", plan(&plain).problem());
    for m in 1..40 {
        plain.plan(m, DType::F32, DType::F32).unwrap();
    }
    assert_eq!(first, format!("{:p}", plan(&plain).problem()));
}
