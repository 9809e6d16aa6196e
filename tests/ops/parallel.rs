//! Layers over several ranks: the bits of one rank, and a sentence for what goes wrong.

use super::random::Random;
use half::{bf16, f16};
use imma::activation::Activation;
use imma::element::{FloatSlice, FloatView, OutputMut};
use imma::epilogue::Output;
use imma::gemm::{ActivationQuant, Gemm, Lhs, PackedWeights, Split, Weights};
use imma::parallel::{Group, LayerOptions, ShardedLinear, WeightSlice};
use imma::quant::{InputTransform, Rotation};
use imma::{Backend, Cpu, Element, Epilogue, Error, Int8Linear, Result};
use ndarray::{concatenate, s, Array1, Array2, Axis};
use std::sync::Arc;
use std::time::Duration;

const SHARDS: [usize; 5] = [1, 2, 3, 4, 8];

fn backend() -> Arc<dyn Backend> {
    Arc::new(Cpu::new().with_threads(1).unwrap())
}

/// Runs one closure a rank and hands back what each answered.
fn ranks<R: Send>(count: usize, work: impl Fn(Group) -> R + Sync) -> Vec<R> {
    let groups = Group::of_threads(count);
    std::thread::scope(|scope| {
        let spawn = |group: Group| {
            let group = group.with_timeout(Duration::from_secs(20));
            scope.spawn(|| work(group))
        };
        let threads: Vec<_> = groups.into_iter().map(spawn).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// Cuts at random places; some parts are empty.
fn cuts(random: &mut Random, length: usize, ranks: usize, unit: usize) -> Split {
    let mut cuts: Vec<usize> = (1..ranks)
        .map(|_| random.below(length / unit + 1) * unit)
        .collect();
    cuts.extend([0, length]);
    cuts.sort_unstable();
    Split::at(&cuts).unwrap()
}

fn matrix(random: &mut Random, shape: (usize, usize)) -> Array2<f32> {
    Array2::from_shape_simple_fn(shape, || random.unit() * 3.0)
}

fn integers(random: &mut Random, shape: (usize, usize)) -> Array2<i8> {
    Array2::from_shape_simple_fn(shape, || random.next() as i8)
}

/// A layer as one rank has it, and everything that it is called with.
#[derive(Debug)]
struct Whole {
    weight: Weight,
    bias: Option<Array1<f32>>,
    residual: Option<Array2<f32>>,
    input: ActivationQuant,
    activation: Activation,
    gated: bool,
    x: Array2<f32>,
}

/// A weight `[N, K]`.
#[derive(Debug)]
enum Weight {
    Float(Array2<f32>),
    Int8(Array2<i8>, Vec<f32>),
    FloatGroups(Array2<f32>, usize),
    Int8Groups(Array2<i8>, Array2<f32>, usize),
}

impl Weight {
    fn dim(&self) -> (usize, usize) {
        match self {
            Weight::Float(w) | Weight::FloatGroups(w, _) => w.dim(),
            Weight::Int8(w, _) | Weight::Int8Groups(w, _, _) => w.dim(),
        }
    }

    fn pack(&self, backend: &dyn Backend) -> PackedWeights {
        let packed = match self {
            Weight::Float(w) => backend.pack(Weights::Float(FloatView::F32(w.t()))),
            Weight::Int8(w, scales) => backend
                .pack(Weights::Int8(w.t()))
                .and_then(|packed| packed.with_scales(scales)),
            Weight::FloatGroups(w, size) => backend.pack(Weights::FloatGroupwise {
                data: FloatView::F32(w.t()),
                size: *size,
            }),
            Weight::Int8Groups(w, scales, size) => backend.pack(Weights::Int8Groupwise {
                data: w.t(),
                scales: scales.t(),
                size: *size,
            }),
        };
        packed.unwrap()
    }
}

impl Whole {
    fn random(random: &mut Random, (m, n, k): (usize, usize, usize)) -> Self {
        let gated = n % 2 == 0 && random.below(3) == 0;
        let kind = random.below(4);
        let size = random.pick(&[32, 64, 128]);
        let weight = match kind {
            0 => Weight::Float(matrix(random, (n, k))),
            1 => Weight::Int8(
                integers(random, (n, k)),
                (0..n).map(|_| random.fraction()).collect(),
            ),
            2 => Weight::FloatGroups(matrix(random, (n, k)), size),
            _ => Weight::Int8Groups(
                integers(random, (n, k)),
                matrix(random, (n, k.div_ceil(size))),
                size,
            ),
        };
        let input = random.pick(&[
            ActivationQuant::PerToken,
            ActivationQuant::Static { scale: 0.01 },
            ActivationQuant::PerTokenAsymmetric,
            ActivationQuant::StaticAsymmetric {
                scale: 0.02,
                zero_point: -7,
            },
        ]);
        let symmetric = matches!(
            input,
            ActivationQuant::PerToken | ActivationQuant::Static { .. }
        );
        let input = if kind >= 2 && !symmetric {
            ActivationQuant::PerToken
        } else {
            input
        };
        let columns = if gated { n / 2 } else { n };
        let bias =
            (random.below(2) == 0).then(|| Array1::from_shape_simple_fn(n, || random.unit()));
        let residual = (random.below(2) == 0).then(|| matrix(random, (m, columns)));
        let mut x = matrix(random, (m, k));
        if m > 2 && k > 0 {
            // In the slice of one rank alone.
            x[[0, random.below(k)]] = f32::NAN;
            x[[1, random.below(k)]] = -f32::INFINITY;
            x[[2, random.below(k)]] = 1000.0;
        }
        if m > 3 {
            x.row_mut(3).fill(0.0);
        }
        Whole {
            weight,
            bias,
            residual,
            input,
            activation: random.pick(&[Activation::None, Activation::Silu, Activation::Relu]),
            gated,
            x,
        }
    }

    fn columns(&self) -> usize {
        self.weight.dim().0 / if self.gated { 2 } else { 1 }
    }

    fn product<T: Element>(&self) -> Array2<T> {
        let backend = backend();
        let weights = self.weight.pack(&*backend);
        let epilogue = Epilogue {
            bias: self
                .bias
                .as_ref()
                .map(|b| FloatSlice::F32(b.as_slice().unwrap())),
            activation: self.activation,
            gated: self.gated,
            residual: self.residual.as_ref().map(|r| FloatView::F32(r.view())),
            ..Epilogue::to(Output::of::<T>())
        };
        let lhs = Lhs::Float {
            data: FloatView::F32(self.x.view()),
            quant: self.input,
        };
        let mut out = Array2::default((self.x.nrows(), self.columns()));
        let gemm = Gemm::new(lhs, &weights, epilogue).unwrap();
        backend.gemm(&gemm, T::tag_mut(out.view_mut())).unwrap();
        out
    }

    /// The layer's result put together from what each rank gives.
    fn sharded<T: Element>(&self, columns: bool, split: &Split) -> Vec<Array2<T>> {
        ranks(split.ranks(), |group| {
            let own = split.range(group.rank());
            let (n, k) = self.weight.dim();
            let (rows, inputs) = if columns {
                (own.clone(), 0..k)
            } else {
                (0..n, own.clone())
            };
            let part = s![rows.clone(), inputs.clone()];
            let scales;
            let weight = match &self.weight {
                Weight::Float(w) => WeightSlice::Float(FloatView::F32(w.slice(part))),
                Weight::FloatGroups(w, size) => WeightSlice::FloatGroupwise {
                    data: FloatView::F32(w.slice(part)),
                    size: *size,
                },
                Weight::Int8(w, all) => WeightSlice::Int8 {
                    data: w.slice(part),
                    scales: &all[rows.clone()],
                    zero_points: None,
                },
                Weight::Int8Groups(w, all, size) => {
                    let groups = if inputs.is_empty() {
                        0..0
                    } else {
                        inputs.start / size..inputs.end.div_ceil(*size)
                    };
                    scales = all.slice(s![rows.clone(), groups]).to_owned();
                    WeightSlice::Int8Groupwise {
                        data: w.slice(part),
                        scales: scales.view(),
                        size: *size,
                    }
                }
            };
            let bias = self
                .bias
                .as_ref()
                .map(|b| &b.as_slice().unwrap()[rows.clone()]);
            let options = LayerOptions {
                bias: bias.map(FloatSlice::F32),
                input: self.input,
                activation: self.activation,
                gated: self.gated,
                ..LayerOptions::default()
            };
            let layer = if columns {
                ShardedLinear::column(&group, backend(), split, weight, options)
            } else {
                ShardedLinear::row(&group, backend(), split, weight, options)
            };
            let layer = layer.unwrap();
            let out = layer.own_outputs();
            assert_eq!(layer.own_inputs(), inputs);
            let residual = self.residual.as_ref().map(|r| r.slice(s![.., out.clone()]));
            let x = self.x.slice(s![.., inputs]);
            let mut y = Array2::<T>::default((x.nrows(), out.len()));
            let output = Output::of::<T>();
            let residual = residual.map(FloatView::F32);
            layer
                .run(
                    FloatView::F32(x),
                    residual,
                    output,
                    T::tag_mut(y.view_mut()),
                )
                .unwrap();
            if self.residual.is_none() {
                let gathered = layer.forward_gathered(x.mapv(T::from_f32).view()).unwrap();
                assert_eq!(gathered.dim(), (x.nrows(), self.columns()));
                if self.x.iter().all(|x| T::from_f32(*x).to_f32() == *x) {
                    let own = gathered.slice(s![.., out]).to_owned();
                    assert_same(&own, &y, &|| format!("gathered, {split:?}, {self:?}"));
                }
            }
            y
        })
    }
}

/// Bit for bit, NaN included: rows of NaN must be NaN in both.
fn assert_same<T: Element>(got: &Array2<T>, want: &Array2<T>, what: &dyn Fn() -> String) {
    let bits = |v: &T| {
        let v = v.to_f32();
        if v.is_nan() {
            None
        } else {
            Some(v.to_bits())
        }
    };
    assert_eq!(got.dim(), want.dim(), "{}", what());
    for ((at, got), want) in got.indexed_iter().zip(want) {
        assert_eq!(bits(got), bits(want), "at {at:?} of {}", what());
    }
}

fn check<T: Element>(whole: &Whole, split: &Split, columns: bool) {
    let want = whole.product::<T>();
    let parts = whole.sharded::<T>(columns, split);
    let what = || format!("{split:?}, columns split: {columns}, {whole:?}");
    if columns {
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        assert_same(&concatenate(Axis(1), &views).unwrap(), &want, &what);
    } else {
        for part in &parts {
            assert_same(part, &want, &what);
        }
    }
}

#[test]
fn any_number_of_shards_gives_the_bits_of_one() {
    let mut random = Random(17);
    let mut ran = 0;
    for round in 0..60 {
        let m = random.pick(&[0, 1, 4, 17]);
        let n = random.pick(&[1, 2, 33, 64, 90]);
        let k = random.pick(&[1, 5, 64, 129, 300]);
        let whole = Whole::random(&mut random, (m, n, k));
        for shards in SHARDS {
            // Scale groups are cut anywhere.
            let rows = cuts(&mut random, k, shards, 1);
            let columns = cuts(&mut random, n, shards, if whole.gated { 2 } else { 1 });
            match round % 3 {
                0 => {
                    check::<f32>(&whole, &rows, false);
                    check::<f32>(&whole, &columns, true);
                }
                1 => {
                    check::<f16>(&whole, &rows, false);
                    check::<f16>(&whole, &columns, true);
                }
                _ => {
                    check::<bf16>(&whole, &rows, false);
                    check::<bf16>(&whole, &columns, true);
                }
            }
            ran += 1;
        }
    }
    assert_eq!(ran, 300);
}

#[test]
fn many_rows_and_wide_layers_too() {
    let mut random = Random(5);
    for _ in 0..3 {
        let whole = Whole::random(&mut random, (300, 258, 517));
        for shards in [2, 3] {
            check::<f32>(&whole, &Split::even(517, shards).unwrap(), false);
            let columns = Split::even_in_units(258, shards, 2).unwrap();
            check::<bf16>(&whole, &columns, true);
        }
    }
}

/// A row that is not finite in one rank's slice alone is NaN as a whole, and no other row is.
#[test]
fn nan_and_infinity_in_one_slice_are_in_the_whole_row_and_nowhere_else() {
    let mut random = Random(3);
    let w = matrix(&mut random, (6, 40));
    for input in [
        ActivationQuant::PerToken,
        ActivationQuant::PerTokenAsymmetric,
        ActivationQuant::Static { scale: 0.1 },
        ActivationQuant::StaticAsymmetric {
            scale: 0.1,
            zero_point: 3,
        },
    ] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = matrix(&mut random, (3, 40));
            x[[1, 39]] = bad;
            let split = Split::even(40, 4).unwrap();
            let results = ranks(4, |group| {
                let own = s![.., split.range(group.rank())];
                let weight = WeightSlice::Float(FloatView::F32(w.slice(own)));
                let options = LayerOptions {
                    input,
                    ..LayerOptions::default()
                };
                let layer = ShardedLinear::row(&group, backend(), &split, weight, options)?;
                layer.forward(x.slice(own))
            });
            for y in results {
                let y = y.unwrap();
                for (i, row) in y.outer_iter().enumerate() {
                    assert!(
                        row.iter().all(|v| v.is_nan() == (i == 1)),
                        "{input:?} {bad}: {y}"
                    );
                }
            }
        }
    }
}

#[test]
fn integers_out_have_the_scales_of_whole_rows() {
    let mut random = Random(9);
    let (w, x) = (matrix(&mut random, (37, 50)), matrix(&mut random, (20, 50)));
    let backend = backend();
    let packed = backend.pack(Weights::Float(FloatView::F32(w.t()))).unwrap();
    let product = |output, out: OutputMut<'_>| {
        let lhs = Lhs::Float {
            data: FloatView::F32(x.view()),
            quant: ActivationQuant::PerToken,
        };
        let gemm = Gemm::new(lhs, &packed, Epilogue::to(output)).unwrap();
        backend.gemm(&gemm, out).unwrap();
    };
    let (mut want, mut one) = (Array2::<i8>::zeros((20, 37)), Array2::<i8>::zeros((20, 37)));
    let mut want_scales = vec![0.0; 20];
    let place = OutputMut::I8PerRow {
        data: want.view_mut(),
        scales: &mut want_scales,
    };
    product(Output::Int8PerRow, place);
    let known = Output::Int8 { scale: 0.3 };
    product(known, OutputMut::I8(one.view_mut()));
    let split = Split::even(50, 3).unwrap();
    ranks(3, |group| {
        let own = s![.., split.range(group.rank())];
        let weight = WeightSlice::Float(FloatView::F32(w.slice(own)));
        let options = LayerOptions::default();
        let layer = ShardedLinear::row(&group, backend.clone(), &split, weight, options).unwrap();
        let (mut q, mut scales) = (Array2::<i8>::zeros((20, 37)), vec![0.0; 20]);
        let x = || FloatView::F32(x.slice(own));
        let place = OutputMut::I8PerRow {
            data: q.view_mut(),
            scales: &mut scales,
        };
        layer.run(x(), None, Output::Int8PerRow, place).unwrap();
        assert_eq!((&q, &scales), (&want, &want_scales));
        layer
            .run(x(), None, known, OutputMut::I8(q.view_mut()))
            .unwrap();
        assert_eq!(q, one);
    });
}

#[test]
fn asymmetric_weights_and_transformed_inputs_give_the_bits_of_one_rank() {
    let mut random = Random(23);
    let (n, k) = (19, 96);
    let w = integers(&mut random, (n, k));
    let scales: Vec<f32> = (0..n).map(|_| random.fraction()).collect();
    let zero_points: Vec<i8> = (0..n).map(|_| random.next() as i8).collect();
    let multiplier: Vec<f32> = (0..k).map(|_| random.unit()).collect();
    let rotation = Rotation::Hadamard { block: 16 };
    let transform = |multiplier: &[f32]| {
        let transform = InputTransform::default().with_multiplier(multiplier);
        transform.unwrap().with_rotation(rotation).unwrap()
    };
    let x = matrix(&mut random, (7, k));
    let whole = Int8Linear::from_int8_asymmetric_on::<f32>(
        backend(),
        w.view(),
        &scales,
        &zero_points,
        None,
    )
    .unwrap()
    .with_input_transform(transform(&multiplier))
    .unwrap();
    let want = whole.forward(x.view()).unwrap();
    for shards in SHARDS {
        let split = Split::even_in_units(k, shards, 16).unwrap();
        for y in ranks(shards, |group| {
            let own = split.range(group.rank());
            let weight = WeightSlice::Int8 {
                data: w.slice(s![.., own.clone()]),
                scales: &scales,
                zero_points: Some(&zero_points),
            };
            let options = LayerOptions {
                transform: transform(&multiplier[own.clone()]),
                ..LayerOptions::default()
            };
            let layer = ShardedLinear::row(&group, backend(), &split, weight, options).unwrap();
            layer.forward(x.slice(s![.., own])).unwrap()
        }) {
            assert_eq!(y, want, "{shards} shards of K");
        }
        let split = Split::even(n, shards).unwrap();
        for y in ranks(shards, |group| {
            let own = split.range(group.rank());
            let weight = WeightSlice::Int8 {
                data: w.slice(s![own.clone(), ..]),
                scales: &scales[own.clone()],
                zero_points: Some(&zero_points[own]),
            };
            let options = LayerOptions {
                transform: transform(&multiplier),
                ..LayerOptions::default()
            };
            let layer = ShardedLinear::column(&group, backend(), &split, weight, options).unwrap();
            layer.forward_gathered(x.view()).unwrap()
        }) {
            assert_eq!(y, want, "{shards} shards of N");
        }
    }
}

/// Gate and up over N, then down over K, as a transformer's feed-forward half: one pair of collectives.
#[test]
fn a_column_parallel_layer_feeds_a_row_parallel_one() {
    let mut random = Random(31);
    let (m, hidden, inner) = (5, 48, 70);
    let gate_up = matrix(&mut random, (2 * inner, hidden));
    let down = matrix(&mut random, (hidden, inner));
    let x = matrix(&mut random, (m, hidden));
    let half = |shards: usize| {
        let pairs = Split::even_in_units(2 * inner, shards, 2).unwrap();
        let inputs: Vec<usize> = pairs.cuts().iter().map(|cut| cut / 2).collect();
        let inputs = Split::at(&inputs).unwrap();
        ranks(shards, |group| {
            let first = gate_up.slice(s![pairs.range(group.rank()), ..]);
            let options = LayerOptions {
                activation: Activation::Silu,
                gated: true,
                ..LayerOptions::default()
            };
            let first = WeightSlice::Float(FloatView::F32(first));
            let first = ShardedLinear::column(&group, backend(), &pairs, first, options).unwrap();
            let second = down.slice(s![.., inputs.range(group.rank())]);
            let second = WeightSlice::Float(FloatView::F32(second));
            let options = LayerOptions::default();
            let second = ShardedLinear::row(&group, backend(), &inputs, second, options).unwrap();
            let mut y = Array2::<f32>::zeros((m, hidden));
            let between = first.forward(x.view()).unwrap();
            second
                .run(
                    FloatView::F32(between.view()),
                    Some(FloatView::F32(x.view())),
                    Output::F32,
                    OutputMut::F32(y.view_mut()),
                )
                .unwrap();
            y
        })
    };
    let want = half(1).remove(0);
    for shards in SHARDS {
        assert!(half(shards).iter().all(|y| *y == want), "{shards} shards");
    }
}

/// Rank 1 of 3 brings something else; every rank gets the same sentence.
fn disagreement(make: impl Fn(&Group, bool) -> Result<ShardedLinear> + Sync, parts: &[&str]) {
    for result in ranks(3, |group| make(&group, group.rank() == 1)) {
        let message = result.unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "'{part}' is not in: {message}");
        }
    }
}

#[test]
fn ranks_that_disagree_are_told_so_with_both_values() {
    let w = Array2::<f32>::ones((4, 12));
    let even = |k| Split::even(k, 3).unwrap();
    let row = |group: &Group, split: &Split, n: usize, options: LayerOptions<'_>| {
        let w = w.slice(s![..n, split.range(group.rank())]);
        let weight = WeightSlice::Float(FloatView::F32(w));
        ShardedLinear::row(group, backend(), split, weight, options)
    };
    let none = LayerOptions::default;
    disagreement(
        |group, odd| row(group, &even(12), if odd { 3 } else { 4 }, none()),
        &["ranks 0 and 1", "the number of outputs", "4 and 3"],
    );
    disagreement(
        |group, odd| row(group, &even(if odd { 9 } else { 12 }), 4, none()),
        &["ranks 0 and 1", "the number of inputs", "12 and 9"],
    );
    let (usual, other) = (even(12), Split::at(&[0, 4, 7, 12]).unwrap());
    disagreement(
        |group, odd| row(group, if odd { &other } else { &usual }, 4, none()),
        &["the cuts", "[0, 4, 8, 12] and [0, 4, 7, 12]"],
    );
    disagreement(
        |group, odd| {
            let input = ActivationQuant::Static { scale: 0.5 };
            let input = if odd {
                input
            } else {
                ActivationQuant::PerToken
            };
            row(group, &even(12), 4, LayerOptions { input, ..none() })
        },
        &[
            "how inputs are quantised",
            "PerToken and Static { scale: 0.5 }",
        ],
    );
    let biases = [[1.0f32, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 5.0]];
    disagreement(
        |group, odd| {
            let bias = Some(FloatSlice::F32(&biases[usize::from(odd)]));
            row(group, &even(12), 4, LayerOptions { bias, ..none() })
        },
        &["the bias", "digest"],
    );
    let half = w.mapv(f16::from_f32);
    disagreement(
        |group, odd| {
            let split = even(12);
            let own = s![.., split.range(group.rank())];
            let weight = match odd {
                true => FloatView::F16(half.slice(own)),
                false => FloatView::F32(w.slice(own)),
            };
            ShardedLinear::row(group, backend(), &split, WeightSlice::Float(weight), none())
        },
        &["the weight's type", "f32 and f16"],
    );
    // One is column-parallel, the others are row-parallel.
    disagreement(
        |group, odd| {
            let split = even(12);
            if !odd {
                return row(group, &split, 4, none());
            }
            let weight = WeightSlice::Float(FloatView::F32(w.slice(s![.., ..4])));
            ShardedLinear::column(group, backend(), &split, weight, none())
        },
        &["what is split", "inputs and outputs"],
    );
}

#[test]
fn what_one_rank_refuses_is_said_on_all_and_the_group_goes_on() {
    let w = Array2::<f32>::ones((4, 12));
    let split = Split::even(12, 3).unwrap();
    let messages = ranks(3, |group| {
        let own = s![.., split.range(group.rank())];
        let weight = || WeightSlice::Float(FloatView::F32(w.slice(own)));
        let bias = [1.0f32; 5];
        let options = LayerOptions {
            bias: (group.rank() == 2).then_some(FloatSlice::F32(&bias)),
            ..LayerOptions::default()
        };
        let refused = ShardedLinear::row(&group, backend(), &split, weight(), options);
        let options = LayerOptions::default();
        let layer = ShardedLinear::row(&group, backend(), &split, weight(), options).unwrap();
        // One rank calls it with other inputs, and with another number of rows.
        let columns = if group.rank() == 0 { 5 } else { 4 };
        let x = Array2::<f32>::ones((2, columns));
        let wrong = layer.forward(x.view());
        let x = Array2::<f32>::ones((2 + group.rank() / 2, 4));
        let uneven = layer.forward(x.view());
        let y = layer.forward(Array2::<f32>::ones((1, 4)).view()).unwrap();
        assert!((y[[0, 0]] - 12.0).abs() < 0.1);
        [refused.map(|_| ()), wrong.map(|_| ()), uneven.map(|_| ())]
            .map(|r| r.unwrap_err().to_string())
    });
    assert!(messages[2][0].contains("bias has 5 elements, expected 4"));
    for rank in 0..2 {
        let message = &messages[rank][0];
        assert!(message.contains("rank 2 failed: bias has 5"), "{message}");
    }
    assert!(messages[0][1].contains("[2, 5]"), "{}", messages[0][1]);
    assert!(
        messages[1][1].contains("rank 0 failed"),
        "{}",
        messages[1][1]
    );
    for message in messages.iter().map(|all| &all[2]) {
        assert!(
            message.contains("of 2 u32") && message.contains("of 3 u32"),
            "{message}"
        );
    }
}

#[test]
fn a_rank_that_leaves_panics_or_does_not_come_ends_the_wait() {
    // It leaves.
    let results = ranks(3, |group| {
        (group.rank() != 1).then(|| group.all_reduce_max(&mut [1]).unwrap_err().to_string())
    });
    for message in results.into_iter().flatten() {
        assert!(
            message.contains("rank 1 left the group while others waited"),
            "{message}"
        );
    }
    // It panics.
    let groups = Group::of_threads(2);
    let message = std::thread::scope(|scope| {
        let mut groups = groups.into_iter();
        let (first, second) = (groups.next().unwrap(), groups.next().unwrap());
        let thread = scope.spawn(move || {
            let _member = second;
            std::panic::panic_any("planted");
        });
        assert!(thread.join().is_err());
        first.all_gather(b"x").unwrap_err().to_string()
    });
    assert!(message.contains("rank 1 panicked"), "{message}");
    // A time-out longer than clocks count is none.
    let sums = std::thread::scope(|scope| {
        let threads = Group::of_threads(2).into_iter().map(|group| {
            let group = group.with_timeout(Duration::MAX);
            scope.spawn(move || {
                let mut sum = [1];
                group.all_reduce_sum(&mut sum).map(|()| sum[0])
            })
        });
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap().unwrap())
            .sum::<i32>()
    });
    assert_eq!(sums, 4);
    // It does not come, and later calls say so at once.
    let mut groups = Group::of_threads(3);
    let group = groups.remove(0).with_timeout(Duration::from_millis(50));
    for _ in 0..2 {
        let error = group.all_reduce_sum(&mut [1, 2]).unwrap_err();
        assert!(matches!(
            error,
            Error::Group {
                rank: 0,
                ranks: 3,
                ..
            }
        ));
        let message = error.to_string();
        assert!(
            message.contains("ranks 1, 2 did not come to an all-reduce (sum) of 2 i32"),
            "{message}"
        );
        assert!(message.contains("0.05 s"), "{message}");
    }
}

#[test]
fn parts_of_other_numbers_of_rows_are_not_put_together() {
    let w = Array2::<f32>::ones((4, 3));
    let split = Split::even(4, 2).unwrap();
    for result in ranks(2, |group| {
        let weight = WeightSlice::Float(FloatView::F32(w.slice(s![split.range(group.rank()), ..])));
        let options = LayerOptions::default();
        let layer = ShardedLinear::column(&group, backend(), &split, weight, options).unwrap();
        let rows = [2, 4][group.rank()];
        layer.forward_gathered(Array2::<f32>::ones((rows, 3)).view())
    }) {
        let message = result.unwrap_err().to_string();
        assert!(
            message.contains("elements, expected") && message.contains("rows"),
            "{message}"
        );
    }
}

#[test]
fn operations_in_another_order_are_named_on_both_ranks() {
    for result in ranks(2, |group| match group.rank() {
        0 => group.all_reduce_max(&mut [1; 4]),
        _ => group.all_reduce_sum(&mut [1; 4]),
    }) {
        let message = result.unwrap_err().to_string();
        for part in ["ranks", "(max) of 4 u32", "(sum) of 4 i32", "operation 0"] {
            assert!(message.contains(part), "{message}");
        }
    }
    let sums = ranks(4, |group| {
        let mut values = [i32::MAX, group.rank() as i32];
        group.all_reduce_sum(&mut values).unwrap();
        let mut from = [group.rank() as u32];
        group.broadcast(2, &mut from).unwrap();
        (
            values,
            from,
            group.all_gather(&vec![7; group.rank()]).unwrap().len(),
        )
    });
    // Sums wrap, as int32 does.
    assert!(sums.iter().all(|s| *s == ([-4, 6], [2], 4)), "{sums:?}");
}

#[test]
fn what_may_not_be_cut_and_k_that_is_too_long_are_refused() {
    let refuse = |make: &(dyn Fn(&Group) -> Result<ShardedLinear> + Sync), parts: &[&str]| {
        for result in ranks(2, |group| make(&group)) {
            let message = result.unwrap_err().to_string();
            for part in parts {
                assert!(message.contains(part), "'{part}' is not in: {message}");
            }
        }
    };
    let w = Array2::<f32>::ones((6, 32));
    let options = LayerOptions {
        gated: true,
        ..LayerOptions::default()
    };
    let split = Split::even(6, 2).unwrap();
    refuse(
        &|group| {
            let weight = w.slice(s![split.range(group.rank()), ..]);
            let weight = WeightSlice::Float(FloatView::F32(weight));
            ShardedLinear::column(group, backend(), &split, weight, options.clone())
        },
        &["a cut of the split is 3", "pairs of gate and up"],
    );
    let rotation = Rotation::Hadamard { block: 8 };
    let transform = InputTransform::default().with_rotation(rotation).unwrap();
    let split = Split::at(&[0, 8, 32]).unwrap();
    let cut = Split::at(&[0, 12, 32]).unwrap();
    for (split, good) in [(&split, true), (&cut, false)] {
        let make = |group: &Group| {
            let weight = w.slice(s![.., split.range(group.rank())]);
            let weight = WeightSlice::Float(FloatView::F32(weight));
            let options = LayerOptions {
                transform: transform.clone(),
                ..LayerOptions::default()
            };
            ShardedLinear::row(group, backend(), split, weight, options)
        };
        if good {
            assert!(ranks(2, |group| make(&group)).iter().all(Result::is_ok));
        } else {
            // Rank 0's slice of 12 is no whole number of blocks, which is said first.
            refuse(&make, &["8"]);
        }
    }
    // Neither half is too long, the whole is.
    let split = Split::even(70_000, 2).unwrap();
    let long = Array2::<i8>::ones((1, 70_000));
    for (input, limit) in [
        (ActivationQuant::PerTokenAsymmetric, Some("65793")),
        (ActivationQuant::PerToken, None),
    ] {
        let make = |group: &Group| {
            let weight = WeightSlice::Int8 {
                data: long.slice(s![.., split.range(group.rank())]),
                scales: &[1.0],
                zero_points: None,
            };
            let options = LayerOptions {
                input,
                ..LayerOptions::default()
            };
            ShardedLinear::row(group, backend(), &split, weight, options)
        };
        match limit {
            Some(limit) => refuse(&make, &["K = 70000", limit]),
            None => assert!(ranks(2, |group| make(&group)).iter().all(Result::is_ok)),
        }
    }
    refuse(
        &|group| {
            let weight = WeightSlice::Float(FloatView::F32(w.view()));
            let split = Split::even(32, 3).unwrap();
            ShardedLinear::row(group, backend(), &split, weight, LayerOptions::default())
        },
        &["the number of parts is 3", "2 ranks"],
    );
}
