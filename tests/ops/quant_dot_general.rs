//! The quantised dot_general against loops that share nothing with it, and what it promises beside the numbers.

use crate::labelled::{self, numbers, product, Case, Quant};
use half::{bf16, f16};
use imma::ops::{
    einsum, einsum_vjp, matmul_vjp, Accumulate, DimensionNumbers, DotGeneral, FloatDotGeneral,
    FrozenOperand, OperandQuant, Precision, ProductQuant, QuantDotGeneral, QuantGradient,
    SharedAxes,
};
use imma::quant::{Calibration, ErrorReport};
use imma::rounding::Rounding;
use imma::{matmul, Cpu, Element};
use ndarray::{arr1, arr2, s, Array2, ArrayD, Axis};
use proptest::prelude::*;
use std::sync::Arc;

fn dot<T: Element>(
    dot_general: &QuantDotGeneral,
    a: &ArrayD<T>,
    b: &ArrayD<T>,
    dims: &DimensionNumbers,
) -> ArrayD<T> {
    dot_general
        .dot_general(a.view(), b.view(), dims, Precision::Default)
        .unwrap()
}

type Gradients = (ArrayD<f32>, ArrayD<f32>, ArrayD<f32>);

fn gradients(dot_general: &QuantDotGeneral, case: &Case, g: &ArrayD<f32>) -> Gradients {
    let (a, b) = (case.a.view(), case.b.view());
    let (y, pullback) = dot_general
        .vjp(a, b, &case.dims(), Precision::Default)
        .unwrap();
    let (da, db) = pullback.backward(g.view()).unwrap();
    (y, da, db)
}

/// A side's quantiser for the crate and the same for the loops.
fn quantizer() -> impl Strategy<Value = (OperandQuant, Quant)> {
    let bound = prop_oneof![Just(None), Just(Some(1.0f32)), Just(Some(0.3))];
    (2u8..=8, bound, any::<bool>(), 0.5f32..1.5).prop_map(
        |(bits, bound, power_of_two, clipping)| {
            let calibration = match bound {
                None => Calibration::AbsMax,
                Some(b) => Calibration::Constant(b),
            };
            let operand = OperandQuant::int(bits)
                .calibration(calibration)
                .clipping(clipping)
                .power_of_two(power_of_two);
            let naive = Quant {
                bits,
                bound,
                clipping,
                power_of_two,
            };
            (operand, naive)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn integers_forward_and_backward_are_the_loops_bit_for_bit(
        case in Case::any(),
        [l, r, gl, wr, gr, xr] in [quantizer(), quantizer(), quantizer(), quantizer(), quantizer(), quantizer()],
    ) {
        let dot_general = QuantDotGeneral::builder()
            .fwd(ProductQuant::new(l.0, r.0))
            .dlhs(ProductQuant::new(gl.0, wr.0))
            .drhs(ProductQuant::new(gr.0, xr.0))
            .build()
            .unwrap();
        let g = numbers(&case.out_shape(), 5);
        let (y, da, db) = gradients(&dot_general, &case, &g);
        let Case { a, b, a_labels, b_labels, out_labels, .. } = &case;
        prop_assert_eq!(&y, &product((a_labels, a, Some(l.1)), (b_labels, b, Some(r.1)), out_labels));
        let g = |q| (&out_labels[..], &g, Some(q));
        prop_assert_eq!(&da, &product(g(gl.1), (b_labels, b, Some(wr.1)), a_labels));
        prop_assert_eq!(&db, &product(g(gr.1), (a_labels, a, Some(xr.1)), b_labels));
        prop_assert_eq!(&y, &dot(&dot_general, a, b, &case.dims()));
    }

    #[test]
    fn freezing_a_side_changes_no_bit(case in Case::any(), l in quantizer(), r in quantizer()) {
        let dot_general = QuantDotGeneral::builder()
            .fwd(ProductQuant::new(l.0, r.0))
            .train(false)
            .build()
            .unwrap();
        let dims = case.dims();
        let want = dot(&dot_general, &case.a, &case.b, &dims);
        let rhs = dot_general.freeze_rhs(case.b.view(), &dims).unwrap();
        let lhs = dot_general.freeze_lhs(case.a.view(), &dims).unwrap();
        for _ in 0..2 {
            let served = dot_general.dot_general_frozen_rhs(case.a.view(), &rhs, &dims).unwrap();
            prop_assert_eq!(&served, &want);
        }
        let served = dot_general.dot_general_frozen_lhs(&lhs, case.b.view(), &dims).unwrap();
        prop_assert_eq!(&served, &want);
    }

    #[test]
    fn einsum_puts_any_order_of_axes_right(case in Case::any(), swapped in any::<bool>(), seed in any::<u64>()) {
        let spec = case.shuffled(seed);
        let text = |labels: &[char]| labels.iter().collect::<String>();
        let (a, b) = ((text(&spec.a_labels), spec.a.view()), (text(&spec.b_labels), spec.b.view()));
        let ((first, x), (second, y)) = if swapped { (b, a) } else { (a, b) };
        let spec_text = format!("{first},{second}->{}", text(&spec.out_labels));
        // Eight bits on the left, four on the right: exchanging operands must not exchange quantisers.
        let quant = |bits| Quant { bits, bound: None, clipping: 1.0, power_of_two: true };
        let (left, right) = if swapped { (4, 8) } else { (8, 4) };
        let power = |bits| OperandQuant::int(bits).power_of_two(true);
        let dot_general = QuantDotGeneral::builder()
            .fwd(ProductQuant::new(power(left), power(right)))
            .build()
            .unwrap();
        // Powers of two, so that the order of the two steps does not show.
        let got = einsum(&spec_text, x.view(), y.view(), Precision::Default, &dot_general).unwrap();
        let bits = |side: u8| Some(quant(side));
        let want = product(
            (&spec.a_labels, &spec.a, bits(8)),
            (&spec.b_labels, &spec.b, bits(4)),
            &spec.out_labels,
        );
        prop_assert_eq!(got, want, "{}", spec_text);
    }

    #[test]
    fn shards_are_products_of_their_own(case in Case::any(), shards in 1usize..=3, bits in 2u8..=8) {
        prop_assume!(!case.dims().lhs_contracting.is_empty());
        let case = case.lengthened(shards);
        let dot_general = QuantDotGeneral::builder()
            .fwd(ProductQuant::int(bits).shards(shards))
            .build()
            .unwrap();
        let dims = case.dims();
        let (l, r) = (dims.lhs_contracting[0], dims.rhs_contracting[0]);
        let mut want: Option<ArrayD<f32>> = None;
        let quant = Some(Quant::absmax(bits));
        let part = case.a.shape()[l] / shards;
        for i in 0..shards {
            let span = ndarray::Slice::from(i * part..(i + 1) * part);
            let a = case.a.slice_axis(Axis(l), span).to_owned();
            let b = case.b.slice_axis(Axis(r), span).to_owned();
            let y = product((&case.a_labels, &a, quant), (&case.b_labels, &b, quant), &case.out_labels);
            want = Some(match want { None => y, Some(sum) => sum + y });
        }
        let want = want.unwrap();
        prop_assert_eq!(&dot(&dot_general, &case.a, &case.b, &dims), &want);
        let frozen = dot_general.freeze_rhs(case.b.view(), &dims).unwrap();
        let path = std::env::temp_dir().join(format!("imma-shards-{}.npz", std::process::id()));
        frozen.save(&path).unwrap();
        let loaded = FrozenOperand::load(&path).unwrap();
        prop_assert_eq!(&loaded, &frozen);
        let served = dot_general.dot_general_frozen_rhs(case.a.view(), &loaded, &dims).unwrap();
        prop_assert_eq!(&served, &want);
    }

    #[test]
    fn float_gradients_are_the_finite_differences(case in Case::any()) {
        let float = QuantDotGeneral::builder().build().unwrap();
        let g = numbers(&case.out_shape(), 3);
        let (y, da, db) = gradients(&float, &case, &g);
        let close = |got: f32, want: f64| (f64::from(got) - want).abs() <= 1e-4 * (1.0 + want.abs());
        let loss = |a: &ArrayD<f32>, b: &ArrayD<f32>| -> f64 {
            let y = product((&case.a_labels, a, None), (&case.b_labels, b, None), &case.out_labels);
            y.iter().zip(&g).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum()
        };
        let want = product((&case.a_labels, &case.a, None), (&case.b_labels, &case.b, None), &case.out_labels);
        for (got, want) in y.iter().zip(&want) {
            prop_assert!(close(*got, f64::from(*want)));
        }
        // The product is linear in each operand, so that a long step costs nothing.
        for i in 0..case.a.len() {
            let mut step = [case.a.clone(), case.a.clone()];
            *step[0].iter_mut().nth(i).unwrap() += 1.0;
            *step[1].iter_mut().nth(i).unwrap() -= 1.0;
            let want = (loss(&step[0], &case.b) - loss(&step[1], &case.b)) / 2.0;
            let got = *da.iter().nth(i).unwrap();
            prop_assert!(close(got, want), "da {got} {want}");
        }
        for i in 0..case.b.len() {
            let mut step = [case.b.clone(), case.b.clone()];
            *step[0].iter_mut().nth(i).unwrap() += 1.0;
            *step[1].iter_mut().nth(i).unwrap() -= 1.0;
            let want = (loss(&case.a, &step[0]) - loss(&case.a, &step[1])) / 2.0;
            let got = *db.iter().nth(i).unwrap();
            prop_assert!(close(got, want), "db {got} {want}");
        }
    }
}

fn matrix(rows: usize, columns: usize, seed: u64) -> ArrayD<f32> {
    numbers(&[rows, columns], seed)
}

#[test]
fn reused_integers_are_quantised_once_more() {
    // The reuse that the golden vectors show for matrices, here for axes in any order.
    let (a, b) = (numbers(&[3, 2, 5], 1), numbers(&[4, 5, 2], 2));
    let dims = DimensionNumbers {
        lhs_contracting: vec![2],
        rhs_contracting: vec![1],
        lhs_batch: vec![1],
        rhs_batch: vec![2],
    };
    let g = numbers(&[2, 3, 4], 3);
    let dot_general = QuantDotGeneral::fully_quantized(8, 6).unwrap();
    let (_, pullback) = dot_general
        .vjp(a.view(), b.view(), &dims, Precision::Default)
        .unwrap();
    let (da, db) = pullback.backward(g.view()).unwrap();
    let (six, eight) = (Some(Quant::absmax(6)), Quant::absmax(8));
    // a[m b k], b[n k b], g[b m n].
    let (qa, step_a) = labelled::quantize(&a, &[2], eight);
    let (qb, step_b) = labelled::quantize(&b, &[1], eight);
    let step_a = step_a.remove_axis(Axis(2)).reversed_axes();
    let step_b = step_b.remove_axis(Axis(1)).reversed_axes();
    let left = &g * &step_b.insert_axis(Axis(1));
    let right = &g * &step_a.insert_axis(Axis(2));
    let (al, bl, gl) = (['m', 'b', 'k'], ['n', 'k', 'b'], ['b', 'm', 'n']);
    assert_eq!(da, product((&gl, &left, six), (&bl, &qb, six), &al));
    assert_eq!(db, product((&gl, &right, six), (&al, &qa, six), &bl));
}

#[test]
fn stochastic_rounding_is_right_on_average() {
    let (a, b) = (matrix(3, 7, 1), matrix(7, 2, 2));
    let side = |seed| {
        // Nothing is clipped below the bound of 4.
        OperandQuant::int(4)
            .calibration(Calibration::Constant(4.0))
            .rounding(Rounding::Stochastic { seed })
    };
    let dot_general = QuantDotGeneral::builder()
        .fwd(ProductQuant::new(side(1), side(2)))
        .build()
        .unwrap();
    let exact = product(
        (&['m', 'k'], &a, None),
        (&['k', 'n'], &b, None),
        &['m', 'n'],
    );
    let steps = 20_000;
    let mut sum = Array2::<f64>::zeros((3, 2));
    for step in 0..steps {
        let y = dot(
            &dot_general.at_step(step),
            &a,
            &b,
            &DimensionNumbers::matmul(),
        );
        sum += &y
            .mapv(f64::from)
            .into_dimensionality::<ndarray::Ix2>()
            .unwrap();
    }
    let size = 4.0 / 7.5;
    for (got, want) in sum.iter().zip(&exact) {
        let mean = got / steps as f64;
        // A factor is off by at most a step, with a deviation of half a step at most; |factors| are at most 1 + a step.
        let deviation = 7f64.sqrt() * (2.0 * 0.5 * size * (1.0 + size)) / (steps as f64).sqrt();
        let off = (mean - f64::from(*want)).abs();
        assert!(off < 5.0 * deviation, "{mean} for {want}, {deviation}");
    }
}

#[test]
fn the_bits_depend_on_neither_threads_nor_strides() {
    let stochastic = |seed| OperandQuant::int(8).rounding(Rounding::Stochastic { seed });
    let mean = OperandQuant::int(8).calibration(Calibration::MeanAbsolute { factor: 2.5 });
    let percentile = OperandQuant::int(8).calibration(Calibration::Percentile(90.0));
    let backward = ProductQuant::new(stochastic(3), mean);
    let dot_general = QuantDotGeneral::builder()
        .fwd(ProductQuant::new(stochastic(1), stochastic(2)))
        .dlhs(backward)
        .drhs(ProductQuant::new(percentile, stochastic(4)))
        .build()
        .unwrap();
    let dims = DimensionNumbers {
        lhs_contracting: vec![2],
        rhs_contracting: vec![1],
        lhs_batch: vec![0],
        rhs_batch: vec![0],
    };
    // Enough elements for several tasks of each kind.
    let (a, b) = (numbers(&[3, 130, 257], 1), numbers(&[3, 257, 70], 2));
    let g = numbers(&[3, 130, 70], 3);
    let all = |a: &ArrayD<f32>, b: &ArrayD<f32>| {
        let (y, pullback) = dot_general
            .vjp(a.view(), b.view(), &dims, Precision::Default)
            .unwrap();
        (y, pullback.backward(g.view()).unwrap())
    };
    let want = all(&a, &b);
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        assert_eq!(pool.unwrap().install(|| all(&a, &b)), want, "{threads}");
    }
    // The same arrays in another memory order, and with gaps.
    let turned = |x: &ArrayD<f32>| {
        let order = vec![2, 0, 1];
        let x = x
            .view()
            .permuted_axes(order)
            .as_standard_layout()
            .into_owned();
        x.permuted_axes(vec![1, 2, 0])
    };
    let (ta, tb) = (turned(&a), turned(&b));
    assert!(ta == a && !ta.is_standard_layout());
    assert_eq!(all(&ta, &tb), want);
    let mut wide = ArrayD::zeros(vec![3, 130, 2 * 257]);
    wide.slice_mut(s![.., .., ..;2]).assign(&a);
    let gaps = wide.slice(s![.., .., ..;2]).into_dyn();
    let y = dot_general
        .dot_general(gaps, tb.view(), &dims, Precision::Default)
        .unwrap();
    assert_eq!(y, want.0);
    // To nearest, operands are quantised in whatever order they lie.
    let v3 = QuantDotGeneral::v3();
    assert_eq!(dot(&v3, &ta, &tb, &dims), dot(&v3, &a, &b, &dims));
    for kernel in Cpu::kernels().into_iter().filter(|l| l.available) {
        let cpu = Cpu::new().with_threads(2).unwrap().with_kernel(kernel.name);
        let on = dot_general.to_builder().backend(Arc::new(cpu.unwrap()));
        assert_eq!(
            dot(&on.build().unwrap(), &a, &b, &dims),
            want.0,
            "{}",
            kernel.name
        );
    }
}

#[test]
fn narrow_floats_are_widened_and_rounded_once() {
    fn check<T: Element + PartialEq>() {
        let (a, b) = (
            matrix(5, 33, 1).mapv(T::from_f32),
            matrix(33, 4, 2).mapv(T::from_f32),
        );
        let (wa, wb) = (a.mapv(T::to_f32), b.mapv(T::to_f32));
        let g = matrix(5, 4, 3).mapv(T::from_f32);
        let full = QuantDotGeneral::fully_quantized(8, 8).unwrap();
        let sharded = ProductQuant::int(8).shards(3);
        let sharded = QuantDotGeneral::builder().fwd(sharded).build().unwrap();
        for dot_general in [full, sharded, QuantDotGeneral::v3()] {
            let (y, back) =
                matmul_vjp(a.view(), b.view(), Precision::Default, &dot_general).unwrap();
            let (wy, wide) =
                matmul_vjp(wa.view(), wb.view(), Precision::Default, &dot_general).unwrap();
            assert_eq!(y, wy.mapv(T::from_f32));
            let (da, db) = back.backward(g.view()).unwrap();
            let (wda, wdb) = wide.backward(g.mapv(T::to_f32).view()).unwrap();
            assert_eq!(da, wda.mapv(T::from_f32));
            assert_eq!(db, wdb.mapv(T::from_f32));
        }
    }
    check::<f16>();
    check::<bf16>();
}

#[test]
fn a_clipped_gradient_is_zero_where_the_forward_clipped() {
    let a = arr2(&[[0.5f32, 1.0, 1.0001, -1.5]]).into_dyn();
    let b = arr1(&[1.0f32, 1.0, 1.0, 1.0]).into_dyn();
    let side = OperandQuant::int(8).calibration(Calibration::Constant(1.0));
    let with = |gradient, shards| {
        let fwd = ProductQuant::new(side.gradient(gradient), OperandQuant::int(8)).shards(shards);
        let dot_general = QuantDotGeneral::builder().fwd(fwd).build().unwrap();
        let (_, pullback) =
            matmul_vjp(a.view(), b.view(), Precision::Default, &dot_general).unwrap();
        pullback
            .backward(arr1(&[2.0f32]).into_dyn().view())
            .unwrap()
            .0
    };
    for shards in [1, 2] {
        let straight = with(QuantGradient::StraightThrough, shards);
        assert_eq!(straight, arr2(&[[2.0, 2.0, 2.0, 2.0]]).into_dyn());
        let clipped = with(QuantGradient::Clipped, shards);
        assert_eq!(clipped, arr2(&[[2.0, 2.0, 0.0, 0.0]]).into_dyn());
    }
    // By absmax nothing is beyond the bound, whatever the rounding of the multiplier.
    let side = OperandQuant::int(8).gradient(QuantGradient::Clipped);
    for power_of_two in [false, true] {
        let side = side.power_of_two(power_of_two);
        let dot_general = QuantDotGeneral::builder()
            .fwd(ProductQuant::new(side, side))
            .build()
            .unwrap();
        let (a, b) = (matrix(20, 9, 1), matrix(9, 20, 2));
        let (_, back) = matmul_vjp(a.view(), b.view(), Precision::Default, &dot_general).unwrap();
        let (da, db) = back.backward(matrix(20, 20, 3).view()).unwrap();
        assert!(da.iter().chain(&db).all(|x| *x != 0.0));
    }
}

#[test]
fn each_calibration_finds_its_bound_in_its_own_slice() {
    // Columns of a right operand: the slices lie across memory.
    let w = arr2(&[[1.0f32, 0.0], [-2.0, 8.0], [3.0, -4.0], [-6.0, 4.0]]).into_dyn();
    for (calibration, bounds) in [
        (Calibration::AbsMax, [6.0f32, 8.0]),
        (Calibration::MeanAbsolute { factor: 1.5 }, [4.5, 6.0]),
        (Calibration::Percentile(50.0), [2.5, 4.0]),
        (Calibration::Percentile(100.0), [6.0, 8.0]),
    ] {
        for clipping in [1.0f32, 0.5] {
            let rhs = OperandQuant::int(6)
                .calibration(calibration)
                .clipping(clipping);
            let fwd = ProductQuant::new(OperandQuant::int(8), rhs);
            let dot_general = QuantDotGeneral::builder().fwd(fwd).build().unwrap();
            let frozen = dot_general.freeze_rhs(w.view(), &DimensionNumbers::matmul());
            let frozen = frozen.unwrap();
            let multipliers = bounds.map(|b| 31.5 / (b * clipping));
            let steps: Vec<f32> = frozen.scales().iter().copied().collect();
            assert_eq!(steps, multipliers.map(|m| 1.0 / m), "{calibration:?}");
            for ((row, column), x) in w
                .view()
                .into_dimensionality::<ndarray::Ix2>()
                .unwrap()
                .indexed_iter()
            {
                let want = (x * multipliers[column])
                    .round_ties_even()
                    .clamp(-31.0, 31.0);
                assert_eq!(
                    f32::from(frozen.integers()[[row, column]]),
                    want,
                    "{calibration:?}"
                );
            }
        }
    }
}

#[test]
fn backward_products_can_be_in_shards_and_reuse_integers() {
    let (a, b, g) = (matrix(4, 5, 1), matrix(5, 6, 2), matrix(4, 6, 3));
    let eight = Some(Quant::absmax(8));
    for reuse in [false, true] {
        let dot_general = QuantDotGeneral::builder()
            .fwd(ProductQuant::int(8))
            .dlhs(ProductQuant::int(8).shards(3).reuse_forward(reuse))
            .drhs(ProductQuant::int(8).shards(2).reuse_forward(reuse))
            .build()
            .unwrap();
        let (_, back) = matmul_vjp(a.view(), b.view(), Precision::Default, &dot_general).unwrap();
        let (da, db) = back.backward(g.view()).unwrap();
        let (mut g_b, mut g_a, mut x_b, mut x_a) = (g.clone(), g.clone(), b.clone(), a.clone());
        if reuse {
            let (qb, steps) = labelled::quantize(&b, &[0], Quant::absmax(8));
            g_b = &g * &steps;
            x_b = qb;
            let (qa, steps) = labelled::quantize(&a, &[1], Quant::absmax(8));
            g_a = &g * &steps;
            x_a = qa;
        }
        let part = |x: &ArrayD<f32>, axis: usize, len: usize, i: usize| {
            let span = ndarray::Slice::from(i * len..(i + 1) * len);
            x.slice_axis(Axis(axis), span).to_owned()
        };
        let dlhs = |i| {
            let (g, b) = (part(&g_b, 1, 2, i), part(&x_b, 1, 2, i));
            product(
                (&['m', 'n'], &g, eight),
                (&['k', 'n'], &b, eight),
                &['m', 'k'],
            )
        };
        let drhs = |i| {
            let (g, a) = (part(&g_a, 0, 2, i), part(&x_a, 0, 2, i));
            product(
                (&['m', 'n'], &g, eight),
                (&['m', 'k'], &a, eight),
                &['k', 'n'],
            )
        };
        assert_eq!(da, dlhs(0) + dlhs(1) + dlhs(2));
        assert_eq!(db, drhs(0) + drhs(1));
    }
}

#[test]
fn one_float_side_and_float_sums_work() {
    let (a, b) = (numbers(&[2, 3, 6], 1), numbers(&[6, 2, 4], 2));
    let dims = DimensionNumbers {
        lhs_contracting: vec![2],
        rhs_contracting: vec![0],
        lhs_batch: vec![0],
        rhs_batch: vec![1],
    };
    let (float, four) = (OperandQuant::float(), OperandQuant::int(4));
    for (l, r) in [(float, four), (four, float), (four, four)] {
        let product = ProductQuant::new(l, r).accumulate(Accumulate::Float32);
        let dot_general = QuantDotGeneral::builder().fwd(product).build().unwrap();
        let quant = |side: OperandQuant| side.bits().map(Quant::absmax);
        let y = dot(&dot_general, &a, &b, &dims);
        let want = labelled::product(
            (&['b', 'm', 'k'], &a, quant(l)),
            (&['k', 'b', 'n'], &b, quant(r)),
            &['b', 'm', 'n'],
        );
        for (got, want) in y.iter().zip(&want) {
            assert!(
                (got - want).abs() <= 1e-5 * (1.0 + want.abs()),
                "{got} {want}"
            );
        }
    }
    // One scale for all: a row of the left operand no longer stands by itself.
    let all = OperandQuant::int(8).shared_axes(SharedAxes::All);
    let dot_general = QuantDotGeneral::builder()
        .fwd(ProductQuant::new(all, all))
        .build()
        .unwrap();
    let frozen = dot_general.freeze_lhs(a.view(), &dims).unwrap();
    assert_eq!(frozen.scales().shape(), [1, 1, 1]);
    let biggest = a.iter().fold(0f32, |m, x| m.max(x.abs()));
    assert_eq!(frozen.scales()[[0, 0, 0]], 1.0 / (127.5 / biggest));
}

#[test]
fn non_finite_slices_show_and_stay_where_they_are() {
    let mut a = matrix(4, 6, 1);
    a[[1, 2]] = f32::NAN;
    a[[3, 0]] = f32::INFINITY;
    let b = matrix(6, 3, 2);
    let y = matmul(
        a.view(),
        b.view(),
        Precision::Default,
        &QuantDotGeneral::v3(),
    )
    .unwrap();
    for ((row, _), value) in y
        .view()
        .into_dimensionality::<ndarray::Ix2>()
        .unwrap()
        .indexed_iter()
    {
        assert_eq!(value.is_nan(), row % 2 == 1, "row {row}: {value}");
    }
}

#[test]
fn empty_arrays_have_products_and_gradients() {
    for (m, k, n) in [(0, 3, 2), (3, 0, 2), (3, 2, 0), (0, 0, 0)] {
        let (a, b) = (matrix(m, k, 1), matrix(k, n, 2));
        for dot_general in [
            QuantDotGeneral::v3(),
            QuantDotGeneral::fully_quantized(8, 4).unwrap(),
        ] {
            let (y, back) =
                matmul_vjp(a.view(), b.view(), Precision::Default, &dot_general).unwrap();
            assert_eq!(y, ArrayD::<f32>::zeros(vec![m, n]));
            let (da, db) = back.backward(y.view()).unwrap();
            assert_eq!((da.shape(), db.shape()), (a.shape(), b.shape()));
        }
    }
}

#[test]
fn frozen_operands_survive_files_and_other_backends() {
    let dot_general = QuantDotGeneral::int8_inference();
    let dims = DimensionNumbers {
        lhs_contracting: vec![2],
        rhs_contracting: vec![0],
        lhs_batch: vec![0],
        rhs_batch: vec![2],
    };
    let (a, b) = (numbers(&[3, 5, 40], 1), numbers(&[40, 6, 3], 2));
    let frozen = dot_general.freeze_rhs(b.view(), &dims).unwrap();
    let path = std::env::temp_dir().join(format!("imma-frozen-test-{}.npz", std::process::id()));
    frozen.save(&path).unwrap();
    let loaded = FrozenOperand::load(&path).unwrap();
    assert_eq!(loaded, frozen);
    assert_eq!((loaded.bits(), loaded.shape()), (8, &[40, 6, 3][..]));
    let want = dot(&dot_general, &a, &b, &dims);
    let serve = |with: &QuantDotGeneral| with.dot_general_frozen_rhs(a.view(), &loaded, &dims);
    assert_eq!(serve(&dot_general).unwrap(), want);
    // Packed for the default backend by now.
    let portable = Cpu::new().with_kernel("portable").unwrap();
    let portable = dot_general.to_builder().backend(Arc::new(portable));
    assert_eq!(serve(&portable.build().unwrap()).unwrap(), want);

    let message = |e: imma::Error| e.to_string();
    let four = QuantDotGeneral::fully_quantized(4, 4).unwrap();
    assert!(message(serve(&four).unwrap_err()).contains("bits is 8, expected 4"));
    let float = QuantDotGeneral::builder().build().unwrap();
    assert!(message(serve(&float).unwrap_err()).contains("bits is 8, expected none"));
    let left = dot_general.dot_general_frozen_lhs(&loaded, b.view(), &dims);
    assert!(message(left.unwrap_err()).contains("side is Rhs, expected Lhs"));
    let other = dot_general.dot_general_frozen_rhs(a.view(), &loaded, &DimensionNumbers::matmul());
    assert!(message(other.unwrap_err()).contains("axes is contracting [0], batch [2]"));
    let sharded = ProductQuant::int(8).shards(4);
    let sharded = QuantDotGeneral::builder().fwd(sharded).build().unwrap();
    assert!(message(serve(&sharded).unwrap_err()).contains("shards is 1, expected 4"));

    // A file that was cut short, and members that don't fit.
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(FrozenOperand::load(&path).is_err());
    imma::npy::write_npz(&path, |npz| {
        npz.add_array("integers", &arr2(&[[100i8, 0]]))?;
        npz.add_array("steps", &arr2(&[[1.0f32, 1.0]]))?;
        npz.add_array("bits", &arr1(&[4i8]))?;
        npz.add_array("side", &arr1(&[1i8]))?;
        npz.add_array("sharded", &arr1(&[0i8]))?;
        npz.add_array("contracting", &arr1(&[0i8]))?;
        npz.add_array("batch", &ndarray::Array1::<i8>::zeros(0))
    })
    .unwrap();
    let error = FrozenOperand::load(&path).unwrap_err().to_string();
    assert!(
        error.contains("the integer 100") && error.contains("-7 to 7"),
        "{error}"
    );
    std::fs::remove_file(&path).unwrap();
    let error = FrozenOperand::load(&path).unwrap_err().to_string();
    assert!(error.contains("no such file"), "{error}");
}

#[test]
fn bad_configurations_are_refused_with_the_field_named() {
    let int = ProductQuant::int;
    let side = |change: fn(OperandQuant) -> OperandQuant| {
        ProductQuant::new(change(OperandQuant::int(8)), OperandQuant::int(8))
    };
    let float = ProductQuant::float;
    let reuse = int(8).reuse_forward(true);
    let cases = [
        ("fwd.lhs.bits is 1,", int(1), float(), float()),
        ("dlhs.lhs.bits is 9,", int(8), int(9), float()),
        (
            "drhs.rhs.bits is 0,",
            int(8),
            float(),
            ProductQuant::new(OperandQuant::int(2), OperandQuant::int(0)),
        ),
        (
            "fwd.rhs.bits is none beside",
            ProductQuant::new(OperandQuant::int(8), OperandQuant::float().clipping(0.5)),
            float(),
            float(),
        ),
        (
            "fwd.lhs.clipping is 0,",
            side(|s| s.clipping(0.0)),
            float(),
            float(),
        ),
        (
            "dlhs.lhs.clipping is NaN,",
            int(8),
            side(|s| s.clipping(f32::NAN)),
            float(),
        ),
        (
            "drhs.lhs.calibration is -1 ",
            int(8),
            float(),
            side(|s| s.calibration(Calibration::Constant(-1.0))),
        ),
        (
            "fwd.lhs.calibration is 101 ",
            side(|s| s.calibration(Calibration::Percentile(101.0))),
            float(),
            float(),
        ),
        (
            "fwd.lhs.calibration is MeanSquaredError",
            side(|s| s.calibration(Calibration::MeanSquaredError { steps: 5 })),
            float(),
            float(),
        ),
        (
            "fwd.accumulate is Int32 with a float",
            float().accumulate(Accumulate::Int32),
            float(),
            float(),
        ),
        (
            "drhs.accumulate is Int32 with a float",
            int(8),
            float(),
            ProductQuant::new(OperandQuant::int(8), OperandQuant::float())
                .accumulate(Accumulate::Int32),
        ),
        ("dlhs.shards is 0,", int(8), int(8).shards(0), float()),
        (
            "fwd.reuse_forward is true, expected false",
            reuse,
            float(),
            float(),
        ),
        (
            "dlhs.reuse_forward is true where the forward's operand is float",
            ProductQuant::new(OperandQuant::int(8), OperandQuant::float()),
            reuse,
            float(),
        ),
        (
            "drhs.reuse_forward is true where the forward's operand is float",
            ProductQuant::new(OperandQuant::float(), OperandQuant::int(8)),
            float(),
            reuse,
        ),
        (
            "dlhs.reuse_forward is true where the forward's contraction is in shards",
            int(8).shards(2),
            reuse,
            float(),
        ),
        (
            "drhs.lhs.gradient is Clipped",
            int(8),
            float(),
            side(|s| s.gradient(QuantGradient::Clipped)),
        ),
    ];
    for (expected, fwd, dlhs, drhs) in cases {
        let built = QuantDotGeneral::builder()
            .fwd(fwd)
            .dlhs(dlhs)
            .drhs(drhs)
            .build();
        let message = built.map(|_| ()).unwrap_err().to_string();
        assert!(
            message.starts_with(expected),
            "{message}, wanted {expected}"
        );
    }
    assert!(QuantDotGeneral::fully_quantized(8, 1).is_err());
}

#[test]
fn bad_calls_are_refused_by_name() {
    let (a, b) = (matrix(2, 6, 1), matrix(6, 3, 2));
    let v3 = QuantDotGeneral::v3();
    let call = |dot_general: &QuantDotGeneral, dims: DimensionNumbers, precision| {
        let called = dot_general.dot_general(a.view(), b.view(), &dims, precision);
        called.map(|_| ()).unwrap_err().to_string()
    };
    let precise = call(&v3, DimensionNumbers::matmul(), Precision::Highest);
    assert!(
        precise.starts_with("precision is Highest together with quantised"),
        "{precise}"
    );
    let dims = |lhs: &[usize], rhs: &[usize]| DimensionNumbers {
        lhs_contracting: lhs.to_vec(),
        rhs_contracting: rhs.to_vec(),
        ..DimensionNumbers::default()
    };
    let default = Precision::Default;
    assert!(call(&v3, dims(&[2], &[0]), default).starts_with("lhs_contracting"));
    assert!(call(&v3, dims(&[1, 1], &[0, 0]), default).starts_with("lhs_contracting"));
    assert!(call(&v3, dims(&[1], &[5]), default).starts_with("rhs_contracting"));
    assert!(v3.freeze_rhs(b.view(), &dims(&[1], &[5])).is_err());
    let sharded = QuantDotGeneral::builder().fwd(ProductQuant::int(8).shards(4));
    let message = call(
        &sharded.build().unwrap(),
        DimensionNumbers::matmul(),
        default,
    );
    assert!(message.starts_with("fwd.shards is 4, expected a divisor of the contracted length 6"));
    let serving = QuantDotGeneral::int8_inference();
    let refused = matmul_vjp(a.view(), b.view(), default, &serving);
    assert!(refused
        .err()
        .unwrap()
        .to_string()
        .starts_with("train is false"));
    let float = QuantDotGeneral::builder().build().unwrap();
    let refused = float.freeze_rhs(b.view(), &DimensionNumbers::matmul());
    assert!(refused
        .unwrap_err()
        .to_string()
        .starts_with("fwd.rhs.bits is none"));
    let (_, back) = matmul_vjp(a.view(), b.view(), default, &v3).unwrap();
    assert!(back.backward(matrix(2, 4, 1).view()).is_err());
    let (long_a, long_b) = (
        ArrayD::<f32>::zeros(vec![1, 131_072]),
        ArrayD::<f32>::zeros(vec![131_072, 1]),
    );
    let long = v3.dot_general(
        long_a.view(),
        long_b.view(),
        &DimensionNumbers::matmul(),
        default,
    );
    assert!(long.unwrap_err().to_string().starts_with("K = 131072"));
}

#[test]
fn einsum_sums_broadcasts_and_has_gradients() {
    let (a, b) = (numbers(&[2, 1, 3, 4], 1), numbers(&[5, 4, 6], 2));
    let y = einsum(
        "...ik,...kj->j...i",
        a.view(),
        b.view(),
        Precision::Default,
        &FloatDotGeneral,
    )
    .unwrap();
    let want = matmul(a.view(), b.view(), Precision::Default, &FloatDotGeneral).unwrap();
    assert_eq!(y.shape(), [6, 2, 5, 3]);
    let want = want.permuted_axes(vec![3, 0, 1, 2]);
    assert!(y.iter().zip(&want).all(|(y, w)| (y - w).abs() < 1e-5));

    // 'x' and 'y' are summed beforehand.
    let (a, b) = (numbers(&[2, 3, 4], 1), numbers(&[4, 5, 2], 2));
    let (y, back) = einsum_vjp(
        "xik,kjy->ji",
        a.view(),
        b.view(),
        Precision::Default,
        &FloatDotGeneral,
    )
    .unwrap();
    let labels = (['x', 'i', 'k'], ['k', 'j', 'y']);
    let want = product((&labels.0, &a, None), (&labels.1, &b, None), &['j', 'i']);
    assert!(y.iter().zip(&want).all(|(y, w)| (y - w).abs() < 1e-4));
    let g = numbers(&[5, 3], 3);
    let (da, db) = back.backward(g.view()).unwrap();
    assert_eq!((da.shape(), db.shape()), (a.shape(), b.shape()));
    let ones = ArrayD::ones(vec![2]);
    let db_sum = b.sum_axis(Axis(2));
    let partial = product(
        (&['j', 'i'], &g, None),
        (&['k', 'j'], &db_sum, None),
        &['i', 'k'],
    );
    let want = product(
        (&['x'], &ones, None),
        (&['i', 'k'], &partial, None),
        &['x', 'i', 'k'],
    );
    assert!(da.iter().zip(&want).all(|(y, w)| (y - w).abs() < 1e-4));

    let refused = einsum(
        "ik,kj->ij",
        a.view(),
        b.view(),
        Precision::Default,
        &FloatDotGeneral,
    );
    assert!(refused
        .unwrap_err()
        .to_string()
        .contains("left operand with 2 axes"));
    let (a, b) = (matrix(2, 3, 1), matrix(4, 5, 2));
    let refused = einsum(
        "ik,kj->ij",
        a.view(),
        b.view(),
        Precision::Default,
        &FloatDotGeneral,
    );
    assert!(refused
        .unwrap_err()
        .to_string()
        .contains("for 'k', which is 3 and 4"));
}

#[test]
fn einsum_gradients_come_back_to_the_operands_they_belong_to() {
    // The result is in order with the operands exchanged; quantisers and gradients stay with their operands.
    let (a, b, g) = (matrix(3, 5, 1), matrix(5, 4, 2), matrix(4, 3, 3));
    let power = |bits| OperandQuant::int(bits).power_of_two(true);
    let (fwd, dlhs) = (
        ProductQuant::new(power(8), power(4)),
        ProductQuant::new(power(5), power(6)),
    );
    let dot_general = QuantDotGeneral::builder()
        .fwd(fwd)
        .dlhs(dlhs)
        .drhs(dlhs.reuse_forward(true));
    let dot_general = dot_general.build().unwrap();
    let (y, back) = einsum_vjp(
        "ik,kj->ji",
        a.view(),
        b.view(),
        Precision::Default,
        &dot_general,
    )
    .unwrap();
    let (da, db) = back.backward(g.view()).unwrap();
    let (straight, back) =
        matmul_vjp(a.view(), b.view(), Precision::Default, &dot_general).unwrap();
    let (want_da, want_db) = back.backward(g.t()).unwrap();
    assert_eq!(y, straight.reversed_axes());
    assert_eq!((da, db), (want_da, want_db));
}

/// What the presets' documentation says of the sample.
#[test]
fn presets_err_as_documented_on_a_real_layer() {
    let read = |name: &str| {
        let path = format!("{}/examples/data/{name}", env!("CARGO_MANIFEST_DIR"));
        match imma::npy::read(path).unwrap() {
            imma::npy::NpyArray::F16(x) => x.mapv(|x| x.to_f32()),
            other => panic!("{} is no float16", other.dtype()),
        }
    };
    let (x, w) = (read("activations.npy"), read("weight.npy"));
    let g = numbers(&[x.shape()[0], w.shape()[1]], 9);
    let float = {
        let (y, back) =
            matmul_vjp(x.view(), w.view(), Precision::Default, &FloatDotGeneral).unwrap();
        let (dx, dw) = back.backward(g.view()).unwrap();
        [y, dx, dw]
    };
    let error = |dot_general: &QuantDotGeneral| {
        let (y, back) = matmul_vjp(x.view(), w.view(), Precision::Default, dot_general).unwrap();
        let (dx, dw) = back.backward(g.view()).unwrap();
        let mut errors = [0.0; 3];
        for (e, (got, want)) in errors.iter_mut().zip([y, dx, dw].iter().zip(&float)) {
            *e = ErrorReport::between(want.view(), got.view())
                .unwrap()
                .relative_frobenius;
        }
        errors
    };
    let serving = QuantDotGeneral::int8_inference()
        .to_builder()
        .train(true)
        .build()
        .unwrap();
    let full8 = QuantDotGeneral::fully_quantized(8, 8).unwrap();
    let full4 = QuantDotGeneral::fully_quantized(4, 4).unwrap();
    let stochastic = full8.stochastic_gradients(1);
    for (name, dot_general, documented) in [
        ("int8_inference", serving, [0.021, 0.0, 0.0]),
        ("v3", QuantDotGeneral::v3(), [0.021, 0.010, 0.0]),
        ("full8", full8, [0.021, 0.012, 0.039]),
        ("full8, stochastic", stochastic, [0.021, 0.013, 0.046]),
        ("full4", full4, [0.26, 0.18, 0.55]),
    ] {
        let errors = error(&dot_general);
        for (error, documented) in errors.iter().zip(documented) {
            // What is written is rounded to two digits.
            let off = (error - documented).abs();
            assert!(off <= 0.05 * documented + 1e-6, "{name}: {errors:?}");
        }
    }
}
