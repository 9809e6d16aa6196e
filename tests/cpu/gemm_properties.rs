//! Every backend against the oracle, bit for bit: shapes around tile edges, views, epilogues, extremes; each
//! CPU kernel by name, one to three threads, packed and unpacked weights.

use crate::random::Random;
use half::{bf16, f16};
use imma::activation::Activation;
use imma::element::{FloatSlice, FloatView, OutputMut};
use imma::epilogue::Host;
use imma::epilogue::{Output, Scales, ZeroPoints};
use imma::gemm::{interleave_gate_up, ActivationQuant, Gemm, Lhs, WeightScales, Weights};
use imma::numerics::{MAX_K, MAX_K_ZERO_POINT};
use imma::reference::{self, Product};
use imma::{Backend, Cpu, DType, Element, Epilogue, Error};
use ndarray::{s, Array1, Array2, ArrayView2, ArrayViewMut2, Axis};
use proptest::prelude::*;
use std::sync::OnceLock;

// ---------------------------------------------------------------------------------------------- backends

/// Each kernel this machine has with 1, 2 and 3 threads; what it lacks is named on stdout.
pub fn backends() -> &'static [(String, Cpu)] {
    static ALL: OnceLock<Vec<(String, Cpu)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = Vec::new();
        for kernel in Cpu::kernels() {
            if !kernel.available {
                println!("not run: {}", kernel.name);
                continue;
            }
            let cpu = Cpu::new()
                .with_kernel(kernel.name)
                .expect("it is available");
            assert_eq!(cpu.kernel_name(), kernel.name);
            for threads in 1..=3 {
                let cpu = cpu.clone().with_threads(threads).expect("a few threads");
                all.push((format!("{}, {threads} threads", kernel.name), cpu));
            }
        }
        assert!(all.iter().any(|(name, _)| name.starts_with("portable")));
        all
    })
}

// ------------------------------------------------------------------------------------------------- cases

/// How a matrix lies in memory; every view holds the same elements.
#[derive(Debug, Clone, Copy)]
enum View {
    RowMajor,
    ColumnMajor,
    Reversed,
    EveryOther,
    Window,
}

const VIEWS: [View; 5] = [
    View::RowMajor,
    View::ColumnMajor,
    View::Reversed,
    View::EveryOther,
    View::Window,
];

/// A matrix with its way of being seen.
struct Stored<T> {
    array: Array2<T>,
    view: View,
}

impl<T: Copy> Stored<T> {
    /// `filler` lies between and around the elements: what must never be read into a result.
    fn new(x: &Array2<T>, view: View, filler: T) -> Self {
        let (r, c) = x.dim();
        let array = match view {
            View::RowMajor => x.clone(),
            View::ColumnMajor => x.t().as_standard_layout().into_owned(),
            View::Reversed => x.slice(s![..;-1, ..;-1]).as_standard_layout().into_owned(),
            View::EveryOther => {
                let mut a = Array2::from_elem((2 * r, 3 * c), filler);
                a.slice_mut(s![..;2, ..;3]).assign(x);
                a
            }
            View::Window => {
                let mut a = Array2::from_elem((r + 3, c + 5), filler);
                a.slice_mut(s![1..r + 1, 2..c + 2]).assign(x);
                a
            }
        };
        Stored { array, view }
    }

    fn view(&self) -> ArrayView2<'_, T> {
        let a = &self.array;
        match self.view {
            View::RowMajor => a.view(),
            View::ColumnMajor => a.t(),
            View::Reversed => a.slice(s![..;-1, ..;-1]),
            View::EveryOther => a.slice(s![..;2, ..;3]),
            View::Window => a.slice(s![1..a.nrows() - 2, 2..a.ncols() - 3]),
        }
    }
}

/// A float matrix in one of the three types.
enum Floats {
    F32(Stored<f32>),
    F16(Stored<f16>),
    BF16(Stored<bf16>),
}

impl Floats {
    fn new(x: &Array2<f32>, dtype: DType, view: View) -> Self {
        match dtype {
            DType::F16 => Floats::F16(Stored::new(&x.mapv(f16::from_f32), view, f16::NAN)),
            DType::BF16 => Floats::BF16(Stored::new(&x.mapv(bf16::from_f32), view, bf16::NAN)),
            _ => Floats::F32(Stored::new(x, view, f32::NAN)),
        }
    }

    fn view(&self) -> FloatView<'_> {
        match self {
            Floats::F32(s) => f32::tag(s.view()),
            Floats::F16(s) => f16::tag(s.view()),
            Floats::BF16(s) => bf16::tag(s.view()),
        }
    }
}

/// A bias in one of the three types.
enum Bias {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
}

impl Bias {
    fn new(x: &[f32], dtype: DType) -> Self {
        match dtype {
            DType::F16 => Bias::F16(x.iter().map(|x| f16::from_f32(*x)).collect()),
            DType::BF16 => Bias::BF16(x.iter().map(|x| bf16::from_f32(*x)).collect()),
            _ => Bias::F32(x.to_vec()),
        }
    }

    fn slice(&self) -> FloatSlice<'_> {
        match self {
            Bias::F32(x) => FloatSlice::F32(x),
            Bias::F16(x) => FloatSlice::F16(x),
            Bias::BF16(x) => FloatSlice::BF16(x),
        }
    }
}

/// The left operand of a case.
#[derive(Debug, Clone, Copy)]
enum LhsKind {
    Int8,
    Float(DType, ActivationQuant),
}

/// What the numbers look like.
#[derive(Debug, Clone, Copy)]
enum Data {
    /// All of int8, or floats of both signs.
    Full,
    /// -128 everywhere, or one large constant.
    Lowest,
    /// 127 everywhere.
    Highest,
    /// Mostly zeros, with whole rows and columns of them.
    Sparse,
    /// Floats with NaN, infinities, subnormals and outliers; int8 as `Full`.
    Wild,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum ScaleKind {
    None,
    PerTensor,
    PerVector,
}

impl ScaleKind {
    fn of(self, all: &[f32]) -> Scales<&[f32]> {
        match self {
            ScaleKind::None => Scales::None,
            ScaleKind::PerTensor => Scales::PerTensor(all.first().copied().unwrap_or(0.5)),
            ScaleKind::PerVector => Scales::PerVector(all),
        }
    }
}

#[derive(Debug, Clone)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    lhs: LhsKind,
    /// `None`: int8 weights.
    weights: Option<DType>,
    /// Inputs that share a scale of the weights; `None`: scales of columns.
    groups: Option<usize>,
    data: Data,
    views: [View; 3],
    row_scales: ScaleKind,
    col_scales: ScaleKind,
    /// None, one for all, one a row.
    zero_points: u8,
    bias: Option<DType>,
    residual: Option<DType>,
    activation: Activation,
    /// Pairs of columns: the output has N / 2.
    gated: bool,
    output: DType,
    seed: u64,
}

impl Case {
    fn plain(m: usize, n: usize, k: usize, data: Data) -> Self {
        Case {
            m,
            n,
            k,
            lhs: LhsKind::Int8,
            weights: None,
            groups: None,
            data,
            views: [View::RowMajor; 3],
            row_scales: ScaleKind::None,
            col_scales: ScaleKind::None,
            zero_points: 0,
            bias: None,
            residual: None,
            activation: Activation::None,
            gated: false,
            output: DType::I32,
            seed: 1,
        }
    }

    /// Drops what the contract refuses, so that every case is a legal one.
    fn legal(mut self) -> Self {
        if matches!(self.lhs, LhsKind::Float(..)) {
            (self.row_scales, self.zero_points) = (ScaleKind::None, 0);
            if self.output == DType::I32 {
                self.output = DType::F32;
            }
        }
        if self.output == DType::I32 {
            (self.row_scales, self.col_scales) = (ScaleKind::None, ScaleKind::None);
            (self.bias, self.residual) = (None, None);
            self.activation = Activation::None;
            self.gated = false;
        }
        if self.gated {
            self.n -= self.n % 2;
        }
        self
    }

    /// The same with group-wise weights, less what does not go with them.
    fn groupwise(mut self, size: usize) -> Self {
        (self.groups, self.col_scales, self.zero_points) = (Some(size), ScaleKind::None, 0);
        if let LhsKind::Float(
            _,
            quant
            @ (ActivationQuant::PerTokenAsymmetric | ActivationQuant::StaticAsymmetric { .. }),
        ) = &mut self.lhs
        {
            *quant = ActivationQuant::PerToken;
        }
        if self.output == DType::I32 {
            self.output = DType::BF16;
        }
        self
    }

    fn output_columns(&self) -> usize {
        if self.gated {
            self.n / 2
        } else {
            self.n
        }
    }
}

impl Random {
    fn int8(&mut self, rows: usize, columns: usize, data: Data) -> Array2<i8> {
        let zero = (
            self.next() as usize % (rows + 1),
            self.next() as usize % (columns + 1),
        );
        Array2::from_shape_fn((rows, columns), |(i, j)| match data {
            Data::Lowest => -128,
            Data::Highest => 127,
            Data::Sparse if i == zero.0 || j == zero.1 || !self.next().is_multiple_of(4) => 0,
            _ => self.next() as i8,
        })
    }

    fn floats(&mut self, rows: usize, columns: usize, data: Data) -> Array2<f32> {
        let zero = (
            self.next() as usize % (rows + 1),
            self.next() as usize % (columns + 1),
        );
        let shift = self.fraction();
        let wild = 2 * (rows * columns) as u64 / 3 + 8;
        Array2::from_shape_fn((rows, columns), |(i, j)| {
            let x = (self.fraction() - shift) * 4.0;
            match data {
                Data::Lowest => -3.0,
                Data::Highest => 0.7,
                Data::Sparse if i == zero.0 || j == zero.1 || !self.next().is_multiple_of(4) => 0.0,
                // A handful of special values, so that most rows and columns stay numbers.
                Data::Wild => match self.next() % wild {
                    0 => f32::NAN,
                    1 => f32::INFINITY,
                    2 => f32::NEG_INFINITY,
                    3 => 1e-41,
                    4 => 3e4,
                    5 => -0.0,
                    _ if i == zero.0 => x * 1e-39,
                    _ => x,
                },
                _ => x,
            }
        })
    }
}

/// The operands of a case, stored as its views say.
struct Operands {
    lhs_int8: Stored<i8>,
    lhs_float: Floats,
    weights_int8: Stored<i8>,
    weights_float: Floats,
    row_scales: Vec<f32>,
    col_scales: Vec<f32>,
    /// `[K / size rounded up, N]`.
    group_scales: Array2<f32>,
    zero_points: Vec<i32>,
    bias: Bias,
    residual: Floats,
}

impl Operands {
    fn new(case: &Case) -> Self {
        let mut random = Random(case.seed);
        let Case {
            m,
            n,
            k,
            data,
            views,
            ..
        } = *case;
        let lhs_type = match case.lhs {
            LhsKind::Float(dtype, _) => dtype,
            LhsKind::Int8 => DType::F32,
        };
        let float_lhs = random.floats(m, k, data);
        let float_weights = random.floats(k, n, data);
        let scale = |random: &mut Random| random.fraction() * 0.02 + 1e-4;
        let row_scales = (0..m).map(|_| scale(&mut random)).collect();
        let col_scales = (0..n).map(|_| scale(&mut random)).collect();
        let zero_points = (0..if case.zero_points == 1 { 1 } else { m })
            .map(|i| match i {
                0 => -128,
                1 => 127,
                _ => i32::from(random.next() as i8),
            })
            .collect();
        let bias: Vec<f32> = (0..n).map(|_| (random.fraction() - 0.5) * 10.0).collect();
        let residual = random.floats(m, case.output_columns(), Data::Full);
        let groups = case.groups.map_or(0, |size| k.div_ceil(size));
        let group_scales = Array2::from_shape_simple_fn((groups, n), || scale(&mut random));
        Operands {
            lhs_int8: Stored::new(&random.int8(m, k, data), views[0], 77),
            lhs_float: Floats::new(&float_lhs, lhs_type, views[0]),
            weights_int8: Stored::new(&random.int8(k, n, data), views[1], 77),
            weights_float: Floats::new(
                &float_weights,
                case.weights.unwrap_or(DType::F32),
                views[1],
            ),
            row_scales,
            col_scales,
            group_scales,
            zero_points,
            bias: Bias::new(&bias, case.bias.unwrap_or(DType::F32)),
            residual: Floats::new(&residual, case.residual.unwrap_or(DType::F32), views[2]),
        }
    }

    fn lhs(&self, case: &Case) -> Lhs<'_> {
        match case.lhs {
            LhsKind::Int8 => Lhs::Int8(self.lhs_int8.view()),
            LhsKind::Float(_, quant) => Lhs::Float {
                data: self.lhs_float.view(),
                quant,
            },
        }
    }

    fn weights(&self, case: &Case) -> Weights<'_> {
        match (case.weights, case.groups) {
            (None, None) => Weights::Int8(self.weights_int8.view()),
            (Some(_), None) => Weights::Float(self.weights_float.view()),
            (None, Some(size)) => Weights::Int8Groupwise {
                data: self.weights_int8.view(),
                scales: self.group_scales.view(),
                size,
            },
            (Some(_), Some(size)) => Weights::FloatGroupwise {
                data: self.weights_float.view(),
                size,
            },
        }
    }

    fn epilogue(&self, case: &Case) -> Epilogue<Host<'_>> {
        Epilogue {
            row_scales: case.row_scales.of(&self.row_scales),
            col_scales: case.col_scales.of(&self.col_scales),
            row_zero_points: match case.zero_points {
                0 => ZeroPoints::None,
                1 => ZeroPoints::PerTensor(self.zero_points[0]),
                _ => ZeroPoints::PerVector(&self.zero_points),
            },
            bias: case.bias.map(|_| self.bias.slice()),
            activation: case.activation,
            gated: case.gated,
            residual: case.residual.map(|_| self.residual.view()),
            output: written_as(case.output),
        }
    }
}

/// What makes elements of that type; int8 with a scale that is given.
fn written_as(dtype: DType) -> Output {
    match dtype {
        DType::F32 => Output::F32,
        DType::F16 => Output::F16,
        DType::BF16 => Output::BF16,
        DType::I32 => Output::Raw,
        _ => Output::Int8 { scale: 0.037 },
    }
}

// ----------------------------------------------------------------------------------------------- checking

/// What a product must be written into: every other row of a wider array, from the last up; what lies between
/// must stay as it is.
struct Written<T> {
    array: Array2<T>,
    filler: T,
    n: usize,
}

impl<T: Copy + PartialEq> Written<T> {
    fn new((m, n): (usize, usize), filler: T) -> Self {
        Written {
            array: Array2::from_elem((2 * m, n + 3), filler),
            filler,
            n,
        }
    }

    fn view(&mut self) -> ArrayViewMut2<'_, T> {
        self.array.slice_mut(s![..;-2, ..self.n])
    }

    /// The product; panics when something else was written.
    fn take(mut self) -> Array2<T> {
        let product = self.view().to_owned();
        let filler = self.filler;
        self.view().fill(filler);
        let beside = self.array.iter().filter(|x| **x != filler).count();
        assert_eq!(beside, 0, "elements written beside the product");
        product
    }
}

macro_rules! product {
    ($dim:expr, $output:expr, |$out:ident| $run:expr) => {{
        macro_rules! one {
            ($tag:ident, $filler:expr) => {{
                let mut written = Written::new($dim, $filler);
                let $out = OutputMut::$tag(written.view());
                $run.map(|()| Product::$tag(written.take()))
            }};
        }
        match $output {
            DType::F32 => one!(F32, -7.5f32),
            DType::F16 => one!(F16, f16::from_f32(-7.5)),
            DType::BF16 => one!(BF16, bf16::from_f32(-7.5)),
            DType::I32 => one!(I32, 1_234_567_890i32),
            _ => one!(I8, 99i8),
        }
    }};
}

/// The elements as bits, all NaN alike.
fn bits(product: &Product) -> Array2<i64> {
    let float = |x: f32, bits: u32| {
        if x.is_nan() {
            i64::MAX
        } else {
            i64::from(bits)
        }
    };
    match product {
        Product::F32(a) => a.mapv(|x| float(x, x.to_bits())),
        Product::F16(a) => a.mapv(|x| float(x.to_f32(), u32::from(x.to_bits()))),
        Product::BF16(a) => a.mapv(|x| float(x.to_f32(), u32::from(x.to_bits()))),
        Product::I32(a) => a.mapv(i64::from),
        Product::I8(a) => a.mapv(i64::from),
        other => panic!("an output type this test does not know: {other:?}"),
    }
}

fn same(what: &str, got: &Product, want: &Product) -> Result<(), String> {
    let (g, w) = (bits(got), bits(want));
    if g == w {
        return Ok(());
    }
    let wrong = g.indexed_iter().filter(|(at, x)| w[*at] != **x);
    let ((i, j), _) = wrong.clone().next().expect("a difference");
    Err(format!(
        "{what}: {} of {} elements differ, the first at [{i}, {j}]: bits {:#x}, the oracle has {:#x}",
        wrong.count(),
        g.len(),
        g[[i, j]],
        w[[i, j]]
    ))
}

fn run(backend: &dyn Backend, case: &Case, o: &Operands) -> Result<Product, Error> {
    let weights = backend.pack(o.weights(case))?;
    let gemm = Gemm::new(o.lhs(case), &weights, o.epilogue(case))?;
    product!((case.m, case.output_columns()), case.output, |out| backend
        .gemm(&gemm, out))
}

/// One legal case on one backend, packed and (where there is such a call) unpacked, against the oracle's answer.
fn check(backend: &dyn Backend, case: &Case, o: &Operands, want: &Product) -> Result<(), String> {
    let dim = (case.m, case.n);
    let fail = |e: Error| format!("refused: {e}");
    same("packed", &run(backend, case, o).map_err(fail)?, want)?;
    let plain = case.groups.is_none()
        && case.row_scales == ScaleKind::None
        && case.col_scales == ScaleKind::None
        && case.zero_points == 0
        && case.bias.is_none()
        && case.residual.is_none()
        && case.activation == Activation::None
        && !case.gated;
    match (case.lhs, case.weights) {
        (LhsKind::Int8, None) if plain && case.output == DType::I32 => {
            let mut out = Written::new(dim, -5i32);
            let (a, w) = (o.lhs_int8.view(), o.weights_int8.view());
            backend.matmul_int8(a, w, out.view()).map_err(fail)?;
            same("matmul_int8", &Product::I32(out.take()), want)?;
        }
        (LhsKind::Float(_, ActivationQuant::PerToken), Some(_))
            if plain && case.output != DType::I8 =>
        {
            let (a, w) = (|| o.lhs_float.view(), || o.weights_float.view());
            let got = product!(dim, case.output, |out| backend.matmul_quantized(
                a(),
                w(),
                out
            ));
            same("matmul_quantized", &got.map_err(fail)?, want)?;
        }
        _ => {}
    }
    Ok(())
}

/// A case on every backend of this machine.
fn check_everywhere(case: &Case) -> Result<(), String> {
    let operands = Operands::new(case);
    let want = reference::gemm(
        &operands.lhs(case),
        &operands.weights(case),
        &operands.epilogue(case),
    );
    let mut failures = Vec::new();
    for (name, cpu) in backends() {
        if let Err(e) = check(cpu, case, &operands, &want) {
            failures.push(format!("{name}: {e}"));
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(format!("{case:?}\n{}", failures.join("\n")))
    }
}

// --------------------------------------------------------------------------------------------- strategies

fn around(step: usize, most: usize) -> impl Strategy<Value = usize> {
    (0..=most / step, -1isize..=1).prop_map(move |(i, d)| (i * step).saturating_add_signed(d))
}

fn rows() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..=16usize, 3 => 0..=40usize, 1 => Just(97usize), 1 => Just(130usize)]
}

fn columns() -> impl Strategy<Value = usize> {
    prop_oneof![
        0..=17usize,
        around(8, 80),
        around(16, 130),
        around(32, 200),
        around(64, 200)
    ]
}

fn depth() -> impl Strategy<Value = usize> {
    prop_oneof![
        0..=20usize,
        around(2, 40),
        around(4, 80),
        around(16, 200),
        around(64, 300)
    ]
}

fn float_type() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::BF16)]
}

fn view() -> impl Strategy<Value = View> {
    prop::sample::select(&VIEWS[..])
}

fn lhs() -> impl Strategy<Value = LhsKind> {
    let quant = prop_oneof![
        2 => Just(ActivationQuant::PerToken),
        1 => Just(ActivationQuant::PerTokenAsymmetric),
        1 => Just(ActivationQuant::Static { scale: 0.0123 }),
        1 => (-128i32..=127).prop_map(|zero_point| ActivationQuant::StaticAsymmetric { scale: 0.0123, zero_point }),
    ];
    prop_oneof![
        Just(LhsKind::Int8),
        (float_type(), quant).prop_map(|(dtype, quant)| LhsKind::Float(dtype, quant)),
    ]
}

fn data() -> impl Strategy<Value = Data> {
    prop_oneof![
        4 => Just(Data::Full),
        1 => Just(Data::Lowest),
        1 => Just(Data::Highest),
        1 => Just(Data::Sparse),
        2 => Just(Data::Wild),
    ]
}

fn scales() -> impl Strategy<Value = ScaleKind> {
    prop_oneof![
        Just(ScaleKind::None),
        Just(ScaleKind::PerTensor),
        Just(ScaleKind::PerVector)
    ]
}

fn activation() -> impl Strategy<Value = Activation> {
    prop_oneof![
        3 => Just(Activation::None),
        1 => Just(Activation::Relu),
        1 => Just(Activation::Silu),
        1 => Just(Activation::Gelu),
        1 => Just(Activation::GeluTanh),
    ]
}

fn output() -> impl Strategy<Value = DType> {
    prop_oneof![float_type(), Just(DType::I32), Just(DType::I8)]
}

fn case() -> impl Strategy<Value = Case> {
    let operands = (
        lhs(),
        prop::option::of(float_type()),
        data(),
        [view(), view(), view()],
    );
    let scaling = (scales(), scales(), 0..=2u8);
    let rest = (
        prop::option::of(float_type()),
        prop::option::of(float_type()),
        activation(),
        prop::bool::weighted(0.3),
        output(),
        any::<u64>(),
    );
    ((rows(), columns(), depth()), operands, scaling, rest).prop_map(
        |((m, n, k), (lhs, weights, data, views), (rows, cols, zero_points), rest)| {
            let (bias, residual, activation, gated, output, seed) = rest;
            Case {
                m,
                n,
                k,
                lhs,
                weights,
                groups: None,
                data,
                views,
                row_scales: rows,
                col_scales: cols,
                zero_points,
                bias,
                residual,
                activation,
                gated,
                output,
                seed,
            }
            .legal()
        },
    )
}

/// Nothing but the product: the cases that the unpacked calls serve too.
fn bare(float: bool) -> impl Strategy<Value = Case> {
    case().prop_map(move |mut case| {
        (case.row_scales, case.col_scales) = (ScaleKind::None, ScaleKind::None);
        (case.zero_points, case.bias, case.residual) = (0, None, None);
        (case.activation, case.gated) = (Activation::None, false);
        if float {
            let dtype = case.weights.unwrap_or(DType::F32);
            case.weights = Some(dtype);
            case.lhs = match case.lhs {
                LhsKind::Int8 => LhsKind::Float(dtype, ActivationQuant::PerToken),
                LhsKind::Float(d, _) => LhsKind::Float(d, ActivationQuant::PerToken),
            };
            if matches!(case.output, DType::I8 | DType::I32) {
                case.output = DType::F32;
            }
        } else {
            (case.lhs, case.weights) = (LhsKind::Int8, None);
            case.output = DType::I32;
        }
        case
    })
}

/// `PROPTEST_CASES` asks for more than the few that run by default.
fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: asked.and_then(|n| n.parse().ok()).unwrap_or(cases),
        failure_persistence: None,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(192))]

    #[test]
    fn any_legal_product_is_the_oracles(case in case()) {
        check_everywhere(&case).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn int8_products_are_the_oracles(case in bare(false)) {
        check_everywhere(&case).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn float_products_are_the_oracles(case in bare(true)) {
        check_everywhere(&case).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(config(128))]

    #[test]
    fn groupwise_products_are_the_oracles(
        case in case(),
        size in prop::sample::select(&[32usize, 64, 128][..]),
    ) {
        let case = case.groupwise(size);
        check_everywhere(&case).map_err(TestCaseError::fail)?;
        let o = Operands::new(&case);
        for (name, cpu) in backends() {
            check_quantized(cpu, &case, &o)
                .map_err(|e| TestCaseError::fail(format!("{name}: {case:?}: {e}")))?;
        }
    }
}

/// Blocks of rows, and runs of columns for every worker.
#[test]
fn long_and_wide_groupwise_products() {
    let mut failures = Vec::new();
    for (m, n, k, size) in [
        (1, 1030, 3001, 64),
        (300, 70, 260, 32),
        (67, 259, 1025, 128),
    ] {
        let case = Case {
            bias: Some(DType::F16),
            residual: Some(DType::F32),
            row_scales: ScaleKind::PerVector,
            ..Case::plain(m, n, k, Data::Full)
        };
        failures.extend(check_everywhere(&case.groupwise(size)).err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What does not go with group-wise weights is refused by name.
#[test]
fn parts_that_do_not_go_with_groups_are_refused() {
    let cpu = Cpu::new();
    let (w, a) = (Array2::<i8>::ones((40, 3)), Array2::<i8>::ones((2, 40)));
    let scales = Array2::<f32>::ones((2, 3));
    let pack = |size, scales: ndarray::ArrayView2<'_, f32>| {
        cpu.pack(Weights::Int8Groupwise {
            data: w.view(),
            scales: scales.view(),
            size,
        })
    };
    let weights = pack(32, scales.view()).unwrap();
    assert_eq!(weights.group_size(), Some(32));
    let refused = |epilogue| {
        let gemm = Gemm::new(Lhs::Int8(a.view()), &weights, epilogue);
        gemm.unwrap_err().to_string()
    };
    for (error, expected) in [
        (
            refused(Epilogue::to(Output::Raw)),
            "group-wise weights with i32",
        ),
        (
            refused(Epilogue::default().with_col_scales(Scales::PerTensor(1.0))),
            "scales of columns with f32",
        ),
        (
            refused(Epilogue::default().with_row_zero_points(ZeroPoints::PerTensor(3))),
            "zero points with f32",
        ),
        (
            pack(33, scales.view()).unwrap_err().to_string(),
            "the group size is 33",
        ),
        (
            pack(32, scales.t()).unwrap_err().to_string(),
            "expected [2, 3]",
        ),
        (
            weights.clone().with_scales(&[1.0]).unwrap_err().to_string(),
            "one for every 32 inputs",
        ),
    ] {
        assert!(error.contains(expected), "{error}; expected {expected}");
    }
}

/// Products as int8 with a scale a row against the oracle's floats and their quantisation.
fn check_quantized(backend: &dyn Backend, case: &Case, o: &Operands) -> Result<(), String> {
    let floats = o.epilogue(case).with_output(Output::F32);
    let floats = match reference::gemm(&o.lhs(case), &o.weights(case), &floats) {
        Product::F32(floats) => floats,
        other => return Err(format!("the oracle answered {other:?}")),
    };
    let want = reference::quantize_rows(floats.view());
    let fail = |e: Error| format!("refused: {e}");
    let weights = backend.pack(o.weights(case)).map_err(fail)?;
    let epilogue = o.epilogue(case).with_output(Output::Int8PerRow);
    let gemm = Gemm::new(o.lhs(case), &weights, epilogue).map_err(fail)?;
    let mut out = Written::new((case.m, case.output_columns()), 99i8);
    // Rows from the last up; for some cases columns too.
    let mut view = out.view();
    let turned = case.seed.is_multiple_of(3);
    if turned {
        view.invert_axis(Axis(1));
    }
    let mut scales = vec![-1f32; case.m];
    let place = OutputMut::I8PerRow {
        data: view,
        scales: &mut scales,
    };
    backend.gemm(&gemm, place).map_err(fail)?;
    let mut found = out.take();
    if turned {
        found.invert_axis(Axis(1));
    }
    same("quantised", &Product::I8(found), &Product::I8(want.q))?;
    let column = |scales: Vec<f32>| Product::F32(Array1::from(scales).insert_axis(Axis(1)));
    same("scales", &column(scales), &column(want.scales))
}

/// Several strips of rows, the last one shorter, and more rows than one has of a single column.
#[test]
fn quantised_products_of_several_strips() {
    for (m, n, gated) in [(70, 40_000, false), (5, 600_000, true), (5000, 1, false)] {
        let case = Case {
            gated,
            output: DType::F32,
            row_scales: ScaleKind::PerVector,
            zero_points: 2,
            residual: Some(DType::BF16),
            ..Case::plain(m, n, 3, Data::Full)
        };
        let o = Operands::new(&case);
        for cpu in [Cpu::new(), Cpu::new().with_threads(1).unwrap()] {
            check_quantized(&cpu, &case, &o).unwrap_or_else(|e| panic!("{case:?}: {e}"));
        }
    }
}

fn per_row<'a>(data: &'a mut Array2<i8>, scales: &'a mut [f32]) -> OutputMut<'a> {
    OutputMut::I8PerRow {
        data: data.view_mut(),
        scales,
    }
}

/// Why the CPU refuses the product of `lhs` and `n` columns.
fn refusal<'a>(
    lhs: &'a Array2<i8>,
    [n, cols]: [usize; 2],
    epilogue: Epilogue<Host<'a>>,
    dtype: DType,
) -> String {
    let cpu = Cpu::new();
    let weights = Array2::ones((lhs.ncols(), n));
    let weights = cpu.pack(Weights::Int8(weights.view())).unwrap();
    let epilogue = epilogue.with_output(written_as(dtype));
    let result = Gemm::new(Lhs::Int8(lhs.view()), &weights, epilogue)
        .and_then(|gemm| product!((lhs.nrows(), cols), dtype, |out| cpu.gemm(&gemm, out)));
    result.unwrap_err().to_string()
}

/// What pairs and fresh scales do not go with is refused, and nothing is written.
#[test]
fn pairs_and_fresh_scales_that_do_not_fit_are_refused() {
    let cpu = Cpu::new();
    let lhs = Array2::<i8>::ones((2, 3));
    let pairs = || Epilogue {
        gated: true,
        ..Epilogue::default()
    };
    let residual = Array2::<f32>::zeros((2, 4));
    for (error, expected) in [
        (
            refusal(&lhs, [4, 2], pairs(), DType::I32),
            "a gated product with i32",
        ),
        (refusal(&lhs, [5, 2], pairs(), DType::F32), "5"),
        (refusal(&lhs, [4, 4], pairs(), DType::F32), "[2, 2]"),
        (
            refusal(
                &lhs,
                [4, 2],
                Epilogue {
                    residual: Some(FloatView::F32(residual.view())),
                    ..pairs()
                },
                DType::F32,
            ),
            "[2, 2]",
        ),
    ] {
        assert!(error.contains(expected), "{error}; expected {expected}");
    }
    let quantized = |cols: usize, rows: usize, output: Output| {
        let weights = cpu
            .pack(Weights::Int8(Array2::ones((3, 4)).view()))
            .unwrap();
        let epilogue = Epilogue::to(output);
        let gemm = Gemm::new(Lhs::Int8(lhs.view()), &weights, epilogue).unwrap();
        let (mut q, mut scales) = (Array2::from_elem((2, cols), 9i8), vec![9f32; rows]);
        let error = cpu.gemm(&gemm, per_row(&mut q, &mut scales));
        assert!(q.iter().all(|x| *x == 9) && scales.iter().all(|x| *x == 9.0));
        error.unwrap_err().to_string()
    };
    for (error, expected) in [
        (
            quantized(4, 2, Output::Int8 { scale: 0.5 }),
            "Output::Int8 with i8 output: a place OutputMut::I8",
        ),
        (
            quantized(4, 2, Output::F32),
            "Output::F32 with i8 output: a place OutputMut::F32",
        ),
        (quantized(4, 3, Output::Int8PerRow), "row scales"),
        (quantized(3, 2, Output::Int8PerRow), "[2, 4]"),
    ] {
        assert!(error.contains(expected), "{error}; expected {expected}");
    }
    // Weights in another kernel's layout, without rows too. On ARM all kernels share one.
    let weights = |kernel: &str| {
        let cpu = Cpu::new().with_kernel(kernel).unwrap();
        cpu.pack(Weights::Int8(Array2::ones((3, 4)).view()))
            .unwrap()
    };
    let (own, portable) = (weights(cpu.kernel_name()), weights("portable"));
    let none = Array2::<i8>::ones((0, 3));
    let gemm = Gemm::new(
        Lhs::Int8(none.view()),
        &portable,
        Epilogue::to(Output::Int8PerRow),
    )
    .unwrap();
    let result = cpu.gemm(&gemm, per_row(&mut Array2::zeros((0, 4)), &mut []));
    assert_eq!(
        matches!(result, Err(Error::PackedElsewhere { .. })),
        own.layout() != portable.layout(),
        "{result:?}"
    );
}

/// Slices of gate and up in turn, along either axis, of any view; what has no such layout is refused.
#[test]
fn gate_and_up_are_interleaved() {
    let gate = Array2::from_shape_fn((3, 4), |(i, j)| (10 * i + j) as i8);
    let up = gate.mapv(|x| -x - 1);
    for axis in [0, 1] {
        let both = interleave_gate_up(gate.view(), up.view(), Axis(axis)).unwrap();
        assert_eq!(both.len_of(Axis(axis)), 2 * gate.len_of(Axis(axis)));
        for j in 0..gate.len_of(Axis(axis)) {
            let (even, odd) = (
                both.index_axis(Axis(axis), 2 * j),
                both.index_axis(Axis(axis), 2 * j + 1),
            );
            assert_eq!(even, gate.index_axis(Axis(axis), j));
            assert_eq!(odd, up.index_axis(Axis(axis), j));
        }
        let turned = interleave_gate_up(gate.t(), up.t(), Axis(1 - axis)).unwrap();
        assert_eq!(turned.t(), both);
    }
    let bias = interleave_gate_up(gate.row(0), up.row(0), Axis(0)).unwrap();
    assert_eq!(bias.to_vec(), [0, -1, 1, -2, 2, -3, 3, -4]);
    let none = Array2::<f32>::zeros((3, 0));
    let both = interleave_gate_up(none.view(), none.view(), Axis(1)).unwrap();
    assert_eq!(both.dim(), (3, 0));
    assert!(matches!(
        interleave_gate_up(gate.view(), up.t(), Axis(0)),
        Err(Error::ShapeMismatch { .. })
    ));
    assert!(interleave_gate_up(gate.view(), up.view(), Axis(2)).is_err());
}

proptest! {
    #![proptest_config(config(96))]

    #[test]
    fn quantised_products_are_the_oracles(mut case in case()) {
        case.output = DType::F32;
        let o = Operands::new(&case);
        for (name, cpu) in backends() {
            check_quantized(cpu, &case, &o)
                .map_err(|e| TestCaseError::fail(format!("{name}: {case:?}: {e}")))?;
        }
    }
}

proptest! {
    #![proptest_config(config(48))]

    /// Row `i` of a batch is row `i` alone.
    #[test]
    fn batches_do_not_matter(case in case(), row in any::<prop::sample::Index>()) {
        prop_assume!(case.m > 0);
        let o = Operands::new(&case);
        let i = row.index(case.m);
        for (name, cpu) in backends() {
            let all = run(cpu, &case, &o).unwrap();
            let one = Case { m: 1, ..case.clone() };
            let weights = cpu.pack(o.weights(&case)).unwrap();
            let all_epilogue = o.epilogue(&case);
            let epilogue = Epilogue {
                row_scales: match all_epilogue.row_scales {
                    Scales::PerVector(s) => Scales::PerVector(&s[i..=i]),
                    other => other,
                },
                row_zero_points: match all_epilogue.row_zero_points {
                    ZeroPoints::PerVector(z) => ZeroPoints::PerTensor(z[i]),
                    other => other,
                },
                residual: all_epilogue.residual.as_ref().map(|r| row_of(r, i)),
                ..all_epilogue.clone()
            };
            let lhs = match o.lhs(&case) {
                Lhs::Int8(v) => Lhs::Int8(v.slice_move(s![i..=i, ..])),
                Lhs::Float { data, quant } => Lhs::Float { data: match data {
                    FloatView::F32(v) => FloatView::F32(v.slice_move(s![i..=i, ..])),
                    FloatView::F16(v) => FloatView::F16(v.slice_move(s![i..=i, ..])),
                    FloatView::BF16(v) => FloatView::BF16(v.slice_move(s![i..=i, ..])),
                    _ => unreachable!("three float types"),
                }, quant },
                _ => unreachable!("two kinds of left operand"),
            };
            let gemm = Gemm::new(lhs, &weights, epilogue).unwrap();
            let alone = product!((1, case.output_columns()), one.output, |out| cpu.gemm(&gemm, out)).unwrap();
            let (all, alone) = (bits(&all), bits(&alone));
            prop_assert_eq!(all.index_axis(Axis(0), i), alone.index_axis(Axis(0), 0), "{}, row {}", name, i);
        }
    }
}

fn row_of<'a>(view: &FloatView<'a>, i: usize) -> FloatView<'a> {
    match view.clone() {
        FloatView::F32(v) => FloatView::F32(v.slice_move(s![i..=i, ..])),
        FloatView::F16(v) => FloatView::F16(v.slice_move(s![i..=i, ..])),
        FloatView::BF16(v) => FloatView::BF16(v.slice_move(s![i..=i, ..])),
        _ => unreachable!("three float types"),
    }
}

// ------------------------------------------------------------------------------------------------ extremes

/// Few rows and columns around every edge of the tiles, all combinations; failing shapes are listed together.
#[test]
fn shapes_around_tile_edges() {
    let mut failures = Vec::new();
    for m in [
        0, 1, 2, 3, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 49, 65,
    ] {
        for n in [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65] {
            for k in [0, 1, 2, 3, 4, 5, 63, 64, 65] {
                let case = Case::plain(m, n, k, Data::Full);
                failures.extend(check_everywhere(&case).err());
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} shapes:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// The longest exact contraction, with the largest sums there are.
#[test]
fn the_longest_contraction_is_exact() {
    for (data, unit) in [(Data::Lowest, 16_384), (Data::Highest, 16_129)] {
        for (m, n) in [(1, 3), (7, 33)] {
            let case = Case::plain(m, n, MAX_K, data);
            let o = Operands::new(&case);
            let want = Product::I32(Array2::from_elem((m, n), MAX_K as i32 * unit));
            for (name, cpu) in backends() {
                check(cpu, &case, &o, &want).unwrap_or_else(|e| panic!("{name}: {case:?}: {e}"));
            }
        }
    }
    // -128 against 127 reaches the other end.
    let a = Array2::from_elem((2, MAX_K), -128i8);
    let w = Array2::from_elem((MAX_K, 2), 127i8);
    for (name, cpu) in backends() {
        for (a, w) in [(a.view(), w.view()), (w.t(), a.t())] {
            let mut out = Array2::zeros((2, 2));
            cpu.matmul_int8(a, w, out.view_mut()).unwrap();
            assert_eq!(
                out,
                Array2::from_elem((2, 2), -(MAX_K as i32) * 16_256),
                "{name}"
            );
        }
    }
}

/// The longest contraction with zero points, at its extreme: (-128 - 127) * -128 a step.
#[test]
fn the_longest_contraction_with_zero_points_is_exact() {
    let a = Array2::from_elem((2, MAX_K_ZERO_POINT), -128i8);
    let w = Array2::from_elem((MAX_K_ZERO_POINT, 3), -128i8);
    for (name, cpu) in backends() {
        let weights = cpu.pack(Weights::Int8(w.view())).unwrap();
        let epilogue = Epilogue::to(Output::Raw).with_row_zero_points(ZeroPoints::PerTensor(127));
        let gemm = Gemm::new(Lhs::Int8(a.view()), &weights, epilogue).unwrap();
        let mut out = Array2::<i32>::zeros((2, 3));
        cpu.gemm(&gemm, OutputMut::I32(out.view_mut())).unwrap();
        assert_eq!(
            out,
            Array2::from_elem((2, 3), MAX_K_ZERO_POINT as i32 * 255 * 128),
            "{name}"
        );
    }
}

#[test]
fn longer_contractions_are_refused_by_name() {
    let k = MAX_K + 1;
    let (a, w) = (Array2::<i8>::zeros((1, k)), Array2::<i8>::zeros((k, 1)));
    let (fa, fw) = (Array2::<f32>::zeros((1, k)), Array2::<f32>::zeros((k, 1)));
    for (name, cpu) in backends() {
        let refused = |answer: imma::Result<()>| {
            let message = answer.expect_err(name).to_string();
            assert!(
                message.contains("131072") && message.contains("131071"),
                "{name}: {message}"
            );
        };
        let mut out = Array2::from_elem((1, 1), 42i32);
        refused(cpu.pack(Weights::Int8(w.view())).map(|_| ()));
        refused(cpu.matmul_int8(a.view(), w.view(), out.view_mut()));
        assert_eq!(out[[0, 0]], 42, "{name}: written although refused");
        let mut out = Array2::from_elem((1, 1), 42f32);
        let (fa, fw) = (f32::tag(fa.view()), f32::tag(fw.view()));
        refused(cpu.matmul_quantized(fa, fw, f32::tag_mut(out.view_mut())));
        assert_eq!(out[[0, 0]], 42.0, "{name}: written although refused");
    }
    // With zero points the limit is lower.
    let w = Array2::<i8>::zeros((MAX_K_ZERO_POINT + 1, 1));
    let a = Array2::<i8>::zeros((1, MAX_K_ZERO_POINT + 1));
    let weights = Cpu::new().pack(Weights::Int8(w.view())).unwrap();
    let epilogue = Epilogue::default().with_row_zero_points(ZeroPoints::PerVector(&[0][..]));
    let refused = Gemm::new(Lhs::Int8(a.view()), &weights, epilogue).unwrap_err();
    assert!(
        matches!(
            refused,
            Error::KTooLong {
                limit: MAX_K_ZERO_POINT,
                ..
            }
        ),
        "{refused}"
    );
}

/// Blocking along K and N: longer than any cache block, few rows and many.
#[test]
fn long_and_wide_products() {
    let mut failures = Vec::new();
    for (m, n, k) in [
        (1, 1030, 3001),
        (3, 70, 20_000),
        (67, 259, 1025),
        (300, 33, 2049),
        (900, 40, 40),
        // Blocks of K with partial sums, the last block short; columns that end within a pair of panels.
        (70, 81, 2500),
        (330, 50, 8200),
    ] {
        let plain = Case::plain(m, n, k, Data::Full);
        failures.extend(check_everywhere(&plain).err());
        // Everything that belongs to a row or a column.
        let integers = Case {
            row_scales: ScaleKind::PerVector,
            col_scales: ScaleKind::PerVector,
            zero_points: 2,
            bias: Some(DType::F16),
            residual: Some(DType::F32),
            output: DType::F32,
            ..plain.clone()
        };
        failures.extend(check_everywhere(&integers).err());
        for quant in [
            ActivationQuant::PerToken,
            ActivationQuant::PerTokenAsymmetric,
        ] {
            let floats = Case {
                lhs: LhsKind::Float(DType::BF16, quant),
                weights: Some(DType::F32),
                output: DType::BF16,
                ..plain.clone()
            };
            failures.extend(check_everywhere(&floats).err());
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Outputs that do not fit and weights packed elsewhere are refused, and nothing is written.
#[test]
fn what_does_not_fit_is_refused_and_nothing_is_written() {
    let a = Array2::from_elem((2, 4), 1i8);
    let w = Array2::from_elem((4, 3), 1i8);
    for (name, cpu) in backends() {
        let weights = cpu.pack(Weights::Int8(w.view())).unwrap();
        let raw = || Epilogue::to(Output::Raw);
        let gemm = Gemm::new(Lhs::Int8(a.view()), &weights, raw()).unwrap();
        for shape in [(3, 2), (2, 4), (1, 3), (0, 0)] {
            let mut out = Array2::from_elem(shape, 42i32);
            assert!(
                cpu.gemm(&gemm, OutputMut::I32(out.view_mut())).is_err(),
                "{name}"
            );
            assert!(
                cpu.matmul_int8(a.view(), w.view(), out.view_mut()).is_err(),
                "{name}"
            );
            assert!(out.iter().all(|x| *x == 42), "{name}");
        }
        let mut transposed = Array2::from_elem((3, 2), 42i32);
        let out = OutputMut::I32(transposed.view_mut().reversed_axes());
        assert!(cpu.gemm(&gemm, out).is_err(), "{name}");
        let out = transposed.view_mut().reversed_axes();
        assert!(cpu.matmul_int8(a.view(), w.view(), out).is_err(), "{name}");
        assert!(transposed.iter().all(|x| *x == 42), "{name}");
        assert!(cpu
            .matmul_int8(w.view(), w.view(), Array2::zeros((4, 3)).view_mut())
            .is_err());
        for (other_name, other) in backends() {
            let foreign = other.pack(Weights::Int8(w.view())).unwrap();
            if foreign.layout() == weights.layout() {
                continue;
            }
            let gemm = Gemm::new(Lhs::Int8(a.view()), &foreign, raw()).unwrap();
            let mut out = Array2::from_elem((2, 3), 42i32);
            let refused = cpu.gemm(&gemm, OutputMut::I32(out.view_mut())).unwrap_err();
            assert!(
                matches!(refused, Error::PackedElsewhere { .. }),
                "{name}, {other_name}"
            );
            assert!(out.iter().all(|x| *x == 42), "{name}");
        }
    }
}

/// Packed weights know their integers' column sums and take scales afterwards.
#[test]
fn packed_weights_carry_sums_and_scales() {
    let w = Random(3).int8(70, 37, Data::Full);
    let sums: Array1<i32> = w.mapv(i32::from).sum_axis(Axis(0));
    let a = Random(4).int8(5, 70, Data::Full);
    let scales: Vec<f32> = (0..37).map(|j| 0.01 + j as f32 * 1e-3).collect();
    let epilogue = |scales| Epilogue {
        col_scales: scales,
        ..Epilogue::default()
    };
    let want = |scales| {
        let (lhs, weights) = (Lhs::Int8(a.view()), Weights::Int8(w.view()));
        reference::gemm(&lhs, &weights, &epilogue(scales))
    };
    for (name, cpu) in backends() {
        let packed = cpu.pack(Weights::Int8(w.view())).unwrap();
        let none = &WeightScales::None;
        assert_eq!((packed.k(), packed.n(), packed.scales()), (70, 37, none));
        assert_eq!(packed.col_sums(), sums.as_slice().unwrap(), "{name}");
        for (given, as_epilogue) in [
            (&scales[..], Scales::PerVector(&scales[..])),
            (&[0.25][..], Scales::PerTensor(0.25)),
        ] {
            let weights = packed.clone().with_scales(given).unwrap();
            let gemm = Gemm::new(Lhs::Int8(a.view()), &weights, Epilogue::default()).unwrap();
            let got = product!((5, 37), DType::F32, |out| cpu.gemm(&gemm, out)).unwrap();
            same(name, &got, &want(as_epilogue)).unwrap();
        }
        assert!(packed.with_scales(&[1.0; 2]).is_err());
    }
}
