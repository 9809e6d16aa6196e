//! Grouped products on every kernel of this machine: against the oracle, a product an expert; and a row's bits, whoever
//! else is there.

use crate::gemm_properties::backends;
use crate::random::Random;
use half::bf16;
use imma::activation::Activation;
use imma::element::{FloatSlice, OutputMut};
use imma::epilogue::{Host, Output, Scales, ZeroPoints};
use imma::gemm::{ActivationQuant, GroupedGemm, GroupedWeights, Lhs, Weights};
use imma::reference::{self, Product};
use imma::{Backend, Cpu, DType, Element, Epilogue, Error};
use ndarray::{s, Array2, ArrayView2};
use std::ops::Range;

/// What the experts' weights are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Int8,
    Float,
    Groupwise,
}

/// A problem with everything it is made of.
struct Case {
    m: usize,
    n: usize,
    k: usize,
    offsets: Vec<i32>,
    kind: Kind,
    output: Output,
    gated: bool,
    activation: Activation,
    /// Floats on the left, quantised on the way.
    floats: Option<ActivationQuant>,
    ints: Array2<i8>,
    x: Array2<f32>,
    weights: Vec<(Array2<i8>, Array2<f32>, Array2<f32>)>,
    row_scales: Vec<f32>,
    row_zeros: Option<Vec<i32>>,
    col_scales: Option<Vec<f32>>,
    bias: Option<Vec<bf16>>,
    residual: Option<Array2<f32>>,
}

/// Rows of each expert, some with none, some with nearly all; now and then rows before the first and after the last.
fn offsets(random: &mut Random, experts: usize, m: usize) -> Vec<i32> {
    let mut cuts: Vec<i32> = match random.below(4) {
        // One has all.
        0 => {
            let one = random.below(experts);
            (0..=experts)
                .map(|e| if e <= one { 0 } else { m as i32 })
                .collect()
        }
        // Nobody has any.
        1 if random.below(4) == 0 => vec![random.below(m + 1) as i32; experts + 1],
        _ => (0..=experts).map(|_| random.below(m + 1) as i32).collect(),
    };
    cuts.sort_unstable();
    if random.below(2) == 0 {
        (cuts[0], cuts[experts]) = (0, m as i32);
    }
    cuts
}

impl Case {
    fn new(random: &mut Random) -> Self {
        let experts = random.pick(&[1, 2, 3, 5, 9, 33]);
        let m = random.pick(&[0, 1, 2, 7, 30, 64, 150, 301]);
        let (n, k): (usize, usize) = (
            random.pick(&[1, 2, 17, 64, 130]),
            random.pick(&[0, 1, 4, 33, 96, 200]),
        );
        let kind = random.pick(&[Kind::Int8, Kind::Int8, Kind::Float, Kind::Groupwise]);
        let floats = (random.below(3) == 0).then(|| {
            random.pick(&[
                ActivationQuant::PerToken,
                ActivationQuant::PerTokenAsymmetric,
                ActivationQuant::Static { scale: 0.01 },
            ])
        });
        let floats = floats.map(|quant| match kind {
            Kind::Groupwise => ActivationQuant::PerToken,
            _ => quant,
        });
        let output = random.pick(&[
            Output::Raw,
            Output::F32,
            Output::F16,
            Output::BF16,
            Output::Int8 { scale: 0.1 },
            Output::Int8PerRow,
            Output::Int8PerRow,
        ]);
        let output = match output {
            Output::Raw if floats.is_some() || kind == Kind::Groupwise => Output::F32,
            output => output,
        };
        let raw = output == Output::Raw;
        let gated = !raw && random.below(3) == 0;
        let n = if gated { n.next_multiple_of(2) } else { n };
        let cols = if gated { n / 2 } else { n };
        let ints = |random: &mut Random, rows, cols| {
            Array2::from_shape_simple_fn((rows, cols), || random.next() as i8)
        };
        let units = |random: &mut Random, rows, cols| {
            Array2::from_shape_simple_fn((rows, cols), || random.unit() * 3.0)
        };
        let some = |random: &mut Random| random.below(2) == 0;
        let plain = floats.is_none() && kind != Kind::Groupwise;
        let offsets = offsets(random, experts, m);
        Case {
            weights: (0..experts)
                .map(|_| {
                    let groups = units(random, k.div_ceil(32), n).mapv(|x| x * 0.01);
                    (ints(random, k, n), units(random, k, n), groups)
                })
                .collect(),
            ints: ints(random, m, k),
            x: units(random, m, k),
            row_scales: (0..m).map(|_| random.unit() * 0.01).collect(),
            row_zeros: (plain && some(random))
                .then(|| (0..m).map(|_| i32::from(random.next() as i8)).collect()),
            col_scales: (!raw && kind != Kind::Groupwise && some(random))
                .then(|| (0..experts * n).map(|_| random.unit() * 0.01).collect()),
            bias: (!raw && some(random)).then(|| {
                (0..experts * n)
                    .map(|_| bf16::from_f32(random.unit()))
                    .collect()
            }),
            residual: (!raw && some(random)).then(|| units(random, m, cols)),
            activation: match raw {
                true => Activation::None,
                false => random.pick(&[Activation::None, Activation::Relu, Activation::Silu]),
            },
            m,
            n,
            k,
            offsets,
            kind,
            output,
            gated,
            floats,
        }
    }

    fn experts(&self) -> usize {
        self.weights.len()
    }

    fn lhs(&self, rows: Range<usize>) -> Lhs<'_> {
        match self.floats {
            None => Lhs::Int8(self.ints.slice(s![rows, ..])),
            Some(quant) => Lhs::Float {
                data: f32::tag(self.x.slice(s![rows, ..])),
                quant,
            },
        }
    }

    fn expert(&self, e: usize) -> Weights<'_> {
        let (ints, floats, scales) = &self.weights[e];
        match self.kind {
            Kind::Int8 => Weights::Int8(ints.view()),
            Kind::Float => Weights::Float(f32::tag(floats.view())),
            Kind::Groupwise => Weights::Int8Groupwise {
                data: ints.view(),
                scales: scales.view(),
                size: 32,
            },
        }
    }

    /// With the columns of some experts and some rows.
    fn epilogue(&self, experts: Range<usize>, rows: Range<usize>) -> Epilogue<Host<'_>> {
        let columns = experts.start * self.n..experts.end * self.n;
        let raw = self.output == Output::Raw;
        Epilogue {
            row_scales: match raw || self.floats.is_some() {
                true => Scales::None,
                false => Scales::PerVector(&self.row_scales[rows.clone()]),
            },
            row_zero_points: match &self.row_zeros {
                None => ZeroPoints::None,
                Some(zeros) => ZeroPoints::PerVector(&zeros[rows.clone()]),
            },
            col_scales: match &self.col_scales {
                None => Scales::None,
                Some(scales) => Scales::PerVector(&scales[columns.clone()]),
            },
            bias: self.bias.as_ref().map(|b| FloatSlice::BF16(&b[columns])),
            activation: self.activation,
            gated: self.gated,
            residual: (self.residual.as_ref()).map(|r| f32::tag(r.slice(s![rows, ..]))),
            output: self.output,
        }
    }

    fn columns(&self) -> usize {
        if self.gated {
            self.n / 2
        } else {
            self.n
        }
    }
}

/// An output of any type, whose untouched elements stay what they were.
#[derive(Debug, Clone, PartialEq)]
struct Out {
    f32: Array2<f32>,
    f16: Array2<half::f16>,
    bf16: Array2<bf16>,
    i32: Array2<i32>,
    i8: Array2<i8>,
    scales: Vec<f32>,
}

impl Out {
    fn new(m: usize, n: usize) -> Self {
        Out {
            f32: Array2::from_elem((m, n), 77.0),
            f16: Array2::from_elem((m, n), half::f16::from_f32(77.0)),
            bf16: Array2::from_elem((m, n), bf16::from_f32(77.0)),
            i32: Array2::from_elem((m, n), 77),
            i8: Array2::from_elem((m, n), 77),
            scales: vec![77.0; m],
        }
    }

    fn place(&mut self, output: Output) -> OutputMut<'_> {
        match output {
            Output::Raw => OutputMut::I32(self.i32.view_mut()),
            Output::F32 => OutputMut::F32(self.f32.view_mut()),
            Output::F16 => OutputMut::F16(self.f16.view_mut()),
            Output::BF16 => OutputMut::BF16(self.bf16.view_mut()),
            Output::Int8 { .. } => OutputMut::I8(self.i8.view_mut()),
            Output::Int8PerRow => OutputMut::I8PerRow {
                data: self.i8.view_mut(),
                scales: &mut self.scales,
            },
        }
    }

    /// Puts the oracle's answer for some rows.
    fn put(&mut self, rows: Range<usize>, product: Product) {
        let at = s![rows.clone(), ..];
        match product {
            Product::F32(x) => self.f32.slice_mut(at).assign(&x),
            Product::F16(x) => self.f16.slice_mut(at).assign(&x),
            Product::BF16(x) => self.bf16.slice_mut(at).assign(&x),
            Product::I32(x) => self.i32.slice_mut(at).assign(&x),
            Product::I8(x) => self.i8.slice_mut(at).assign(&x),
            Product::I8PerRow { q, scales } => {
                self.i8.slice_mut(at).assign(&q);
                self.scales[rows].copy_from_slice(&scales);
            }
            other => panic!("the oracle answered {other:?}"),
        }
    }

    /// Bits: NaN equals itself. Of all floats, scales included; then the integers.
    fn bits(&self) -> (Vec<u32>, &Array2<i32>, &Array2<i8>) {
        let one = |x: &f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
        let wide = self.f32.iter().chain(&self.scales).map(one);
        let halves = self.f16.iter().map(|x| x.to_bits());
        let halves = halves.chain(self.bf16.iter().map(|x| x.to_bits()));
        let floats = wide.chain(halves.map(u32::from)).collect();
        (floats, &self.i32, &self.i8)
    }
}

fn want(case: &Case) -> Out {
    let mut want = Out::new(case.m, case.columns());
    for e in 0..case.experts() {
        let rows = case.offsets[e] as usize..case.offsets[e + 1] as usize;
        let epilogue = case.epilogue(e..e + 1, rows.clone());
        let product = reference::gemm(&case.lhs(rows.clone()), &case.expert(e), &epilogue);
        want.put(rows, product);
    }
    want
}

fn run(case: &Case, cpu: &dyn Backend) -> Out {
    let weights = (0..case.experts()).map(|e| case.expert(e));
    let weights = GroupedWeights::pack(cpu, weights).unwrap();
    let epilogue = case.epilogue(0..case.experts(), 0..case.m);
    let grouped = GroupedGemm::new(case.lhs(0..case.m), &case.offsets, &weights, epilogue).unwrap();
    let mut out = Out::new(case.m, case.columns());
    cpu.grouped_gemm(&grouped, out.place(case.output)).unwrap();
    out
}

/// The CPU with the loop of the contract in place of its own.
#[derive(Debug)]
struct OneByOne(Cpu);

impl Backend for OneByOne {
    fn name(&self) -> String {
        self.0.name()
    }
    fn kernel(&self, m: usize, n: usize, k: usize) -> String {
        self.0.kernel(m, n, k)
    }
    fn pack(&self, weights: Weights<'_>) -> imma::Result<imma::gemm::PackedWeights> {
        self.0.pack(weights)
    }
    fn gemm(&self, gemm: &imma::gemm::Gemm<'_>, out: OutputMut<'_>) -> imma::Result<()> {
        self.0.gemm(gemm, out)
    }
}

#[test]
fn random_problems_are_the_oracles_on_every_kernel() {
    let mut random = Random(18);
    for number in 0..60 {
        let case = Case::new(&mut random);
        let want = want(&case);
        let describe = |name: &str| {
            format!(
                "{name}, case {number}: {:?} [{}, {}] x [{}, {}], {} gated {}, offsets {:?}",
                case.kind, case.m, case.k, case.k, case.n, case.output, case.gated, case.offsets
            )
        };
        for (name, cpu) in backends() {
            assert_eq!(run(&case, cpu).bits(), want.bits(), "{}", describe(name));
        }
        let loops = run(&case, &OneByOne(Cpu::new()));
        assert_eq!(loops.bits(), want.bits(), "{}", describe("one by one"));
    }
}

/// Enough work for all threads, few rows an expert and many.
#[test]
fn large_problems_are_shared_by_threads() {
    let mut random = Random(4);
    for (experts, rows) in [(8, 8), (40, 61), (3, 700), (2, 1)] {
        let mut case = Case::new(&mut random);
        while case.kind == Kind::Float || case.floats.is_some() {
            case = Case::new(&mut random);
        }
        let (n, k): (usize, usize) = (322, 416);
        let ints = Array2::from_shape_simple_fn((rows, k), || random.next() as i8);
        let weights: Vec<_> = (0..experts)
            .map(|_| Array2::from_shape_simple_fn((k, n), || random.next() as i8))
            .collect();
        let mut offsets = offsets(&mut random, experts, rows);
        (offsets[0], offsets[experts]) = (0, rows as i32);
        let mut want = Array2::<i32>::zeros((rows, n));
        for e in 0..experts {
            let rows = offsets[e] as usize..offsets[e + 1] as usize;
            let sums = reference::matmul_i32(ints.slice(s![rows.clone(), ..]), weights[e].view());
            want.slice_mut(s![rows, ..]).assign(&sums);
        }
        for (name, cpu) in backends() {
            let each = weights.iter().map(|w| Weights::Int8(w.view()));
            let packed = GroupedWeights::pack(cpu, each).unwrap();
            let lhs = Lhs::Int8(ints.view());
            let grouped =
                GroupedGemm::new(lhs, &offsets, &packed, Epilogue::to(Output::Raw)).unwrap();
            let mut out = Array2::<i32>::zeros((rows, n));
            cpu.grouped_gemm(&grouped, OutputMut::I32(out.view_mut()))
                .unwrap();
            assert!(out == want, "{name}: {experts} experts, {rows} rows");
        }
    }
}

/// A row alone has the bits that it has among others.
#[test]
fn a_row_does_not_know_who_else_is_there() {
    let mut random = Random(7);
    for _ in 0..20 {
        let case = Case::new(&mut random);
        let all = run(&case, &Cpu::new());
        for e in 0..case.experts() {
            for row in case.offsets[e]..case.offsets[e + 1] {
                if random.below(8) > 0 {
                    continue;
                }
                let row = row as usize;
                let weights = GroupedWeights::pack(&Cpu::new(), [case.expert(e)]).unwrap();
                let epilogue = case.epilogue(e..e + 1, row..row + 1);
                let lhs = case.lhs(row..row + 1);
                let grouped = GroupedGemm::new(lhs, &[0, 1], &weights, epilogue).unwrap();
                let mut alone = Out::new(1, case.columns());
                Cpu::new()
                    .grouped_gemm(&grouped, alone.place(case.output))
                    .unwrap();
                let among = Out {
                    f32: all.f32.slice(s![row..row + 1, ..]).to_owned(),
                    f16: all.f16.slice(s![row..row + 1, ..]).to_owned(),
                    bf16: all.bf16.slice(s![row..row + 1, ..]).to_owned(),
                    i32: all.i32.slice(s![row..row + 1, ..]).to_owned(),
                    i8: all.i8.slice(s![row..row + 1, ..]).to_owned(),
                    scales: vec![all.scales[row]],
                };
                assert_eq!(
                    alone.bits(),
                    among.bits(),
                    "{:?} {}",
                    case.kind,
                    case.output
                );
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_and_touches_nothing() {
    let cpu = Cpu::new();
    let w = Array2::<i8>::ones((4, 6));
    let pack = |w: ArrayView2<'_, i8>| cpu.pack(Weights::Int8(w)).unwrap();
    let weights = GroupedWeights::new(vec![pack(w.view()), pack(w.view())]).unwrap();
    let x = Array2::<i8>::ones((5, 4));
    let grouped = |offsets: &'static [i32], epilogue| {
        let lhs = Lhs::Int8(x.view());
        GroupedGemm::new(lhs, offsets, &weights, epilogue).map(|_| ())
    };
    let raw = || Epilogue::<Host<'_>>::to(Output::Raw);
    assert_eq!(grouped(&[0, 2, 5], raw()), Ok(()));
    assert_eq!(grouped(&[2, 2, 3], raw()), Ok(()));
    let said = |error: imma::Result<()>| error.unwrap_err().to_string();
    let text = said(grouped(&[0, 5], raw()));
    assert_eq!(text, "the experts' offsets has 2 elements, expected 3");
    for (offsets, found) in [
        (&[0, 3, 2][..], "2 for expert 2, expected a number in 3..=5"),
        (&[-1, 3, 4], "-1 for expert 0, expected a number in 0..=5"),
        (&[0, 3, 6], "6 for expert 2, expected a number in 3..=5"),
    ] {
        let text = said(grouped(offsets, raw()));
        assert!(text.ends_with(found), "{text}");
    }
    let bias = [0f32; 6];
    let short = Epilogue::to(Output::F32).with_bias(FloatSlice::F32(&bias));
    let text = said(grouped(&[0, 2, 5], short));
    assert_eq!(text, "bias has 6 elements, expected 12");

    let kinds = |weights: Vec<imma::gemm::PackedWeights>| GroupedWeights::new(weights).map(|_| ());
    assert!(matches!(kinds(vec![]), Err(Error::Value { .. })));
    let other = pack(Array2::ones((4, 8)).view());
    let text = said(kinds(vec![pack(w.view()), other]));
    assert!(text.contains("[4, 8]") && text.contains("[4, 6]"), "{text}");
    let scaled = pack(w.view()).with_scales(&[1.0]).unwrap();
    assert!(kinds(vec![pack(w.view()), scaled]).is_err());
    assert!(weights.slice(1..3).is_err() && weights.slice(1..1).is_err());
    assert_eq!(weights.slice(1..2).unwrap().experts(), 1);

    let lhs = Lhs::Int8(x.view());
    let product = GroupedGemm::new(lhs, &[0, 2, 5], &weights, raw()).unwrap();
    let mut small = Array2::<i32>::zeros((5, 5));
    let error = cpu.grouped_gemm(&product, OutputMut::I32(small.view_mut()));
    assert!(matches!(error, Err(Error::Shape { .. })), "{error:?}");
    let mut floats = Array2::<f32>::zeros((5, 6));
    let error = cpu.grouped_gemm(&product, OutputMut::F32(floats.view_mut()));
    assert!(matches!(
        error,
        Err(Error::Epilogue {
            output: DType::F32,
            ..
        })
    ));
}
