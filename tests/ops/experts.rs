//! Mixtures of experts: routing, permuting and combining against plain loops, and the experts against the oracle.

use crate::random::Random;
use half::bf16;
use imma::activation::Activation;
use imma::element::{FloatSlice, FloatView};
use imma::epilogue::{Host, Output, Scales};
use imma::gemm::{interleave_gate_up, GroupedWeights, Lhs, Weights};
use imma::ops::{
    default_backend, moe_combine, moe_permute, Int8Experts, QuantizedExperts, Routing,
};
use imma::quant::{Granularity, Quantizer};
use imma::reference::{self, Product};
use imma::{Element, Epilogue, Error};
use ndarray::{s, Array2, Array3, ArrayView2, Axis};

/// A router's choices: any, all the same, nobody's but a few experts', each token's own order.
fn choices(random: &mut Random, tokens: usize, k: usize, experts: usize) -> Array2<i32> {
    let favourite = random.below(experts) as i32;
    let skew = random.pick(&[0, 3, 100]);
    Array2::from_shape_simple_fn((tokens, k), || match random.below(100) < skew {
        true => favourite,
        false => random.below(experts) as i32,
    })
}

#[test]
fn routing_is_a_stable_sort_by_expert() {
    let mut random = Random(5);
    for _ in 0..200 {
        let experts = random.pick(&[1, 2, 5, 64]);
        let (tokens, k) = (random.below(40), random.below(5));
        let indices = choices(&mut random, tokens, k, experts);
        let here = match random.below(3) {
            0 => 0..experts,
            _ => {
                let a = random.below(experts + 1);
                a..a + random.below(experts + 1 - a)
            }
        };
        let routing = Routing::of_slice(indices.view(), experts, here.clone()).unwrap();
        let mut pairs: Vec<(i32, usize)> =
            indices.iter().enumerate().map(|(p, e)| (*e, p)).collect();
        pairs.retain(|(e, _)| here.contains(&(*e as usize)));
        pairs.sort();
        assert_eq!(routing.len(), pairs.len());
        assert_eq!(routing.is_empty(), pairs.is_empty());
        let rows: Vec<i32> = routing.rows().iter().copied().collect();
        for (row, (_, pair)) in pairs.iter().enumerate() {
            assert_eq!(rows[*pair], row as i32);
        }
        assert_eq!(
            rows.iter().filter(|r| **r == -1).count(),
            rows.len() - pairs.len()
        );
        let offsets = routing.offsets();
        assert_eq!((offsets.len(), offsets[0]), (here.len() + 1, 0));
        for (at, expert) in here.clone().enumerate() {
            let count = pairs.iter().filter(|(e, _)| *e as usize == expert).count();
            assert_eq!(offsets[at + 1] - offsets[at], count as i32);
        }
    }
}

#[test]
fn indices_of_nobody_are_refused_by_name() {
    for bad in [-1, 4, i32::MAX, i32::MIN] {
        let indices = Array2::from_elem((1, 2), bad);
        let text = Routing::new(indices.view(), 4).unwrap_err().to_string();
        assert_eq!(
            text,
            format!("the index of an expert is {bad}, expected one of 0..4")
        );
    }
    let none = Array2::zeros((0, 2));
    assert!(Routing::of_slice(none.view(), 4, 3..5).is_err());
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = 3..2;
    assert!(Routing::of_slice(none.view(), 4, reversed).is_err());
}

fn tokens<T: Element>(random: &mut Random, rows: usize, cols: usize) -> Array2<T> {
    Array2::from_shape_simple_fn((rows, cols), || {
        T::from_f32(match random.below(300) {
            0 => f32::NAN,
            1 => 0.0,
            _ => random.unit() * 4.0,
        })
    })
}

fn permuted_and_combined<T: Element + PartialEq>(random: &mut Random) {
    let experts = random.pick(&[1, 3, 17]);
    let (t, k) = (random.below(30), random.below(4));
    let (width, n) = (random.pick(&[0, 1, 5, 64]), random.pick(&[0, 1, 7, 48]));
    let indices = choices(random, t, k, experts);
    let here = random.below(2)..experts;
    let routing = Routing::of_slice(indices.view(), experts, here).unwrap();
    let x = tokens::<T>(random, t, width);
    let q = moe_permute(x.view(), &routing).unwrap();
    let alone = Quantizer::default().quantize(x.view()).unwrap();
    assert_eq!(q.shape(), [routing.len(), width]);
    let y = tokens::<T>(random, routing.len(), n);
    let weights = Array2::from_shape_simple_fn((t, k), || random.unit());
    let out = moe_combine(y.view(), &routing, weights.view()).unwrap();
    assert_eq!(out.dim(), (t, n));
    for token in 0..t {
        for j in 0..k {
            let row = routing.rows()[[token, j]];
            if row >= 0 {
                let row = row as usize;
                let integers = (q.matrix().unwrap(), alone.matrix().unwrap());
                assert_eq!(integers.0.row(row), integers.1.row(token));
                let (found, want) = (q.scales()[row], alone.scales()[token]);
                assert_eq!(found.to_bits(), want.to_bits());
            }
        }
        for c in 0..n {
            let mut v = 0f32;
            for j in 0..k {
                let row = routing.rows()[[token, j]];
                if row >= 0 {
                    let product = weights[[token, j]] * y[[row as usize, c]].to_f32();
                    v += product;
                }
            }
            let (found, want) = (out[[token, c]].to_f32(), T::from_f32(v).to_f32());
            assert!(found.to_bits() == want.to_bits() || found.is_nan() && want.is_nan());
        }
    }
}

#[test]
fn rows_go_to_their_experts_and_back() {
    let mut random = Random(6);
    for _ in 0..40 {
        permuted_and_combined::<f32>(&mut random);
        permuted_and_combined::<bf16>(&mut random);
        permuted_and_combined::<half::f16>(&mut random);
    }
    let routing = Routing::new(Array2::zeros((2, 2)).view(), 1).unwrap();
    let error = moe_permute(Array2::<f32>::zeros((3, 4)).view(), &routing).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Length {
                found: 3,
                expected: 2,
                ..
            }
        ),
        "{error}"
    );
    let (y, weights) = (Array2::<f32>::zeros((4, 3)), Array2::zeros((2, 2)));
    assert!(moe_combine(y.slice(s![..3, ..]), &routing, weights.view()).is_err());
    assert!(moe_combine(y.view(), &routing, weights.t().slice(s![.., ..1])).is_err());
}

/// The weights and biases of some experts.
struct Model {
    gate: Array3<f32>,
    up: Array3<f32>,
    down: Array3<f32>,
    biases: Option<[Array2<f32>; 3]>,
}

impl Model {
    fn new(random: &mut Random, experts: usize, outer: usize, inner: usize) -> Self {
        let mut weights = |n, k| Array3::from_shape_simple_fn((experts, n, k), || random.unit());
        let (gate, up, down) = (
            weights(inner, outer),
            weights(inner, outer),
            weights(outer, inner),
        );
        let mut bias = |n| Array2::from_shape_simple_fn((experts, n), || random.unit());
        let biases = [bias(inner), bias(inner), bias(outer)];
        Model {
            gate,
            up,
            down,
            biases: (random.below(2) == 0).then_some(biases),
        }
    }

    fn experts(&self, size: Option<usize>) -> Int8Experts {
        let (gate, up, down) = (self.gate.view(), self.up.view(), self.down.view());
        let backend = default_backend().clone();
        let experts = match size {
            None => Int8Experts::from_float(gate, up, down),
            Some(size) => Int8Experts::from_float_groupwise_on(backend, gate, up, down, size),
        };
        let experts = experts.unwrap();
        match &self.biases {
            None => experts,
            Some([gate, up, down]) => experts
                .with_biases(gate.view(), up.view(), down.view())
                .unwrap(),
        }
    }

    /// One token through one expert, by the oracle's steps.
    fn oracle<T: Element>(&self, x: ArrayView2<'_, T>, e: usize, size: Option<usize>) -> Vec<T> {
        let weights = |w: &Array2<f32>| w.clone().reversed_axes();
        let product = |lhs: &Lhs<'_>, w: &Array2<f32>, epilogue: &Epilogue<Host<'_>>| {
            let data = FloatView::F32(w.view());
            let weights = match size {
                None => Weights::Float(data),
                Some(size) => Weights::FloatGroupwise { data, size },
            };
            reference::gemm(lhs, &weights, epilogue)
        };
        let (gate, up) = (
            self.gate.index_axis(Axis(0), e),
            self.up.index_axis(Axis(0), e),
        );
        let both = weights(&interleave_gate_up(gate, up, Axis(0)).unwrap());
        let biases = self.biases.as_ref().map(|[gate, up, down]| {
            let (gate, up) = (gate.row(e), up.row(e));
            let both = interleave_gate_up(gate, up, Axis(0)).unwrap();
            (both.to_vec(), down.row(e).to_vec())
        });
        let lhs = Lhs::Float {
            data: T::tag(x),
            quant: Default::default(),
        };
        let mut epilogue = Epilogue::to(Output::Int8PerRow)
            .with_activation(Activation::Silu)
            .with_gated(true);
        epilogue.bias = biases.as_ref().map(|(both, _)| FloatSlice::F32(both));
        let Product::I8PerRow { q, scales } = product(&lhs, &both, &epilogue) else {
            panic!("another output");
        };
        let down = weights(&self.down.index_axis(Axis(0), e).to_owned());
        let mut epilogue =
            Epilogue::to(Output::of::<T>()).with_row_scales(Scales::PerVector(&scales[..]));
        epilogue.bias = biases.as_ref().map(|(_, down)| FloatSlice::F32(down));
        match product(&Lhs::Int8(q.view()), &down, &epilogue) {
            Product::F32(y) => y.iter().map(|y| T::from_f32(*y)).collect(),
            Product::F16(y) => y.iter().map(|y| T::from_f32(y.to_f32())).collect(),
            Product::BF16(y) => y.iter().map(|y| T::from_f32(y.to_f32())).collect(),
            other => panic!("the oracle answered {other:?}"),
        }
    }
}

fn bits<T: Element>(y: &Array2<T>) -> Vec<u32> {
    let one = |y: f32| if y.is_nan() { u32::MAX } else { y.to_bits() };
    y.iter().map(|y| one(y.to_f32())).collect()
}

fn experts_are_the_oracles<T: Element + PartialEq>(random: &mut Random) {
    let experts = random.pick(&[1, 2, 6]);
    let (outer, inner) = (random.pick(&[1, 20, 70]), random.pick(&[1, 33, 64]));
    let (t, k) = (random.below(12), 1 + random.below(3));
    let size = random.pick(&[None, None, Some(32)]);
    let model = Model::new(random, experts, outer, inner);
    let layer = model.experts(size);
    let indices = choices(random, t, k, experts);
    let weights = Array2::from_shape_simple_fn((t, k), || random.unit());
    let x = tokens::<T>(random, t, outer);
    let y = layer
        .forward(x.view(), indices.view(), weights.view())
        .unwrap();
    let mut want = Array2::<T>::default((t, outer));
    for token in 0..t {
        let mut sums = vec![0f32; outer];
        for j in 0..k {
            let expert = indices[[token, j]] as usize;
            let result = model.oracle(x.slice(s![token..token + 1, ..]), expert, size);
            for (sum, r) in sums.iter_mut().zip(result) {
                *sum += weights[[token, j]] * r.to_f32();
            }
        }
        for (want, sum) in want.row_mut(token).iter_mut().zip(sums) {
            *want = T::from_f32(sum);
        }
    }
    assert_eq!(
        bits(&y),
        bits(&want),
        "{experts} experts, {t} tokens of {outer}, {inner}"
    );
    // Alone, and in reverse.
    for token in 0..t {
        let one = s![token..token + 1, ..];
        let alone = layer.forward(x.slice(one), indices.slice(one), weights.slice(one));
        assert_eq!(bits(&alone.unwrap()), bits(&y.slice(one).to_owned()));
    }
    let back = s![..;-1, ..];
    let turned = layer.forward(x.slice(back), indices.slice(back), weights.slice(back));
    assert_eq!(bits(&turned.unwrap()), bits(&y.slice(back).to_owned()));
}

#[test]
fn experts_have_the_bits_of_single_products_alone_and_in_any_batch() {
    let mut random = Random(8);
    for _ in 0..25 {
        experts_are_the_oracles::<f32>(&mut random);
        experts_are_the_oracles::<bf16>(&mut random);
    }
}

#[test]
fn slices_of_experts_do_their_own_tokens() {
    let mut random = Random(9);
    let (experts, t) = (6, 20);
    let model = Model::new(&mut random, experts, 24, 16);
    let all = model.experts(None);
    // One choice a token: what ranks compute is then disjoint, and their sum exact.
    let indices = choices(&mut random, t, 1, experts);
    let weights = Array2::from_shape_simple_fn((t, 1), || random.unit());
    let x = tokens::<f32>(&mut random, t, 24).mapv(|x| if x.is_nan() { 0.5 } else { x });
    let want = all
        .forward(x.view(), indices.view(), weights.view())
        .unwrap();
    let mut sum = Array2::<f32>::zeros(want.dim());
    for range in [0..1, 1..4, 4..6] {
        let rank = all.slice(range.clone()).unwrap();
        assert_eq!(rank.place(), (range.clone(), experts));
        let y = rank
            .forward(x.view(), indices.view(), weights.view())
            .unwrap();
        sum += &y;
        let at = s![range.clone(), .., ..];
        let own = Int8Experts::from_float(
            model.gate.slice(at),
            model.up.slice(at),
            model.down.slice(at),
        );
        let mut own = own.unwrap().with_place(range.start, experts).unwrap();
        if let Some([gate, up, down]) = &model.biases {
            let rows = s![range, ..];
            own = own
                .with_biases(gate.slice(rows), up.slice(rows), down.slice(rows))
                .unwrap();
        }
        let again = own
            .forward(x.view(), indices.view(), weights.view())
            .unwrap();
        assert_eq!(bits(&again), bits(&y));
    }
    assert_eq!(sum, want);
    let within = all.slice(1..4).unwrap().slice(1..3).unwrap();
    assert_eq!(within.place(), (2..4, experts));
    assert!(all.slice(4..7).is_err() && all.slice(2..2).is_err());
    assert!(all.clone().with_place(1, experts).is_err());
    assert!(all.with_place(usize::MAX, experts).is_err());
}

#[test]
fn int8_weights_are_what_quantising_floats_gives() {
    let mut random = Random(10);
    let model = Model::new(&mut random, 3, 20, 12);
    let per_channel = Quantizer::builder()
        .granularity(Granularity::PerToken)
        .build()
        .unwrap();
    let quantised = |weights: &Array3<f32>| {
        let (e, n, k) = weights.dim();
        let rows = weights.view().into_shape_with_order((e * n, k)).unwrap();
        let q = per_channel.quantize(rows).unwrap();
        let data = q
            .matrix()
            .unwrap()
            .to_owned()
            .into_shape_with_order((e, n, k))
            .unwrap();
        (
            data,
            Array2::from_shape_vec((e, n), q.scales().to_vec()).unwrap(),
        )
    };
    let parts = [&model.gate, &model.up, &model.down].map(quantised);
    let [gate, up, down] = [0, 1, 2].map(|i| QuantizedExperts {
        data: parts[i].0.view(),
        scales: parts[i].1.view(),
    });
    let backend = default_backend().clone();
    let layer = Int8Experts::from_int8_on(backend.clone(), gate, up, down).unwrap();
    let floats = Model {
        biases: None,
        ..model
    }
    .experts(None);
    let x = tokens::<f32>(&mut random, 9, 20);
    let (indices, weights) = (choices(&mut random, 9, 2, 3), Array2::ones((9, 2)));
    let of = |layer: &Int8Experts| {
        layer
            .forward(x.view(), indices.view(), weights.view())
            .unwrap()
    };
    assert_eq!(bits(&of(&layer)), bits(&of(&floats)));

    let swapped = Int8Experts::from_int8_on(backend.clone(), gate, down, up);
    assert!(matches!(swapped, Err(Error::Shape { .. })));
    let scales = QuantizedExperts {
        scales: down.scales,
        ..gate
    };
    assert!(matches!(
        Int8Experts::from_int8_on(backend.clone(), scales, up, down),
        Err(Error::Shape { .. })
    ));
    let bad = Array2::from_elem((3, 12), f32::NAN);
    let scales = QuantizedExperts {
        scales: bad.view(),
        ..gate
    };
    assert!(matches!(
        Int8Experts::from_int8_on(backend, scales, up, down),
        Err(Error::Value { .. })
    ));
}

#[test]
fn what_does_not_fit_is_refused() {
    let ones = |shape: (usize, usize, usize)| Array3::<f32>::ones(shape);
    let of = |gate, up, down| {
        Int8Experts::from_float(ones(gate).view(), ones(up).view(), ones(down).view())
    };
    let layer = of((2, 4, 6), (2, 4, 6), (2, 6, 4)).unwrap();
    assert_eq!(
        (layer.experts(), layer.features(), layer.intermediate()),
        (2, 6, 4)
    );
    for (gate, up, down) in [
        ((2, 4, 6), (2, 4, 5), (2, 6, 4)),
        ((2, 4, 6), (2, 4, 6), (2, 4, 6)),
        ((2, 4, 6), (2, 4, 6), (3, 6, 4)),
    ] {
        assert!(matches!(of(gate, up, down), Err(Error::Shape { .. })));
    }
    assert!(matches!(
        of((0, 4, 6), (0, 4, 6), (0, 6, 4)),
        Err(Error::Value { .. })
    ));
    let forward = |x: (usize, usize), indices: (usize, usize), weights: (usize, usize)| {
        let (x, weights) = (Array2::<f32>::ones(x), Array2::ones(weights));
        layer.forward(x.view(), Array2::zeros(indices).view(), weights.view())
    };
    assert_eq!(forward((3, 6), (3, 2), (3, 2)).unwrap().dim(), (3, 6));
    assert_eq!(forward((0, 6), (0, 2), (0, 2)).unwrap().dim(), (0, 6));
    assert!(matches!(
        forward((3, 5), (3, 2), (3, 2)),
        Err(Error::Shape { .. })
    ));
    assert!(matches!(
        forward((2, 6), (3, 2), (3, 2)),
        Err(Error::Length { .. })
    ));
    assert!(matches!(
        forward((3, 6), (3, 2), (3, 1)),
        Err(Error::Shape { .. })
    ));
    let bias = Array2::<f32>::ones((2, 5));
    assert!(layer
        .clone()
        .with_biases(bias.view(), bias.view(), bias.view())
        .is_err());
    // Integers without scales are no layer's weights.
    let bare = |k, n| {
        let w = Array2::<i8>::ones((k, n));
        let weights = default_backend().pack(Weights::Int8(w.view())).unwrap();
        GroupedWeights::new(vec![weights]).unwrap()
    };
    let error = Int8Experts::from_grouped(default_backend().clone(), bare(6, 8), bare(4, 6));
    let text = error.unwrap_err().to_string();
    assert!(text.contains("none for expert 0"), "{text}");
}
