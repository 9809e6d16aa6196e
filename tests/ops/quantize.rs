//! Properties of quantised tensors, against definitions written out in f64.

use half::{bf16, f16};
use imma::numerics;
use imma::quant::{Calibration, ErrorReport, Granularity, QuantizedTensor, Quantizer};
use imma::rounding::Rounding;
use imma::{Element, Error};
use ndarray::{s, Array1, Array2, ArrayD, Axis, Dimension, IxDyn};
use proptest::prelude::*;

fn values() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => -4.0f32..4.0,
        1 => Just(0.0),
        1 => Just(-0.0),
        1 => -3e4f32..3e4,
        1 => -1e-30f32..1e-30,
    ]
}

/// One to four dimensions, empty ones included.
fn tensor() -> impl Strategy<Value = ArrayD<f32>> {
    prop::collection::vec(0..7usize, 1..=4).prop_flat_map(|shape| {
        let n = shape.iter().product::<usize>();
        prop::collection::vec(values(), n)
            .prop_map(move |x| ArrayD::from_shape_vec(IxDyn(&shape), x).unwrap())
    })
}

fn granularity() -> impl Strategy<Value = Granularity> {
    prop_oneof![
        Just(Granularity::PerTensor),
        Just(Granularity::PerToken),
        Just(Granularity::PerChannel),
        (1..9usize).prop_map(|size| Granularity::PerGroup { size }),
        (1..5usize).prop_map(|size| Granularity::PerGroupAlong { size, axis: 0 }),
    ]
}

fn calibration() -> impl Strategy<Value = Calibration> {
    prop_oneof![
        Just(Calibration::AbsMax),
        (0.01f32..10.0).prop_map(Calibration::Constant),
        (50.0..=100.0f64).prop_map(Calibration::Percentile),
        (0.1f32..5.0).prop_map(|factor| Calibration::MeanAbsolute { factor }),
        (1..20u32).prop_map(|steps| Calibration::MeanSquaredError { steps }),
    ]
}

fn quantizer() -> impl Strategy<Value = Quantizer> {
    (
        granularity(),
        calibration(),
        any::<bool>(),
        any::<Option<u64>>(),
    )
        .prop_map(|(granularity, calibration, asymmetric, seed)| {
            Quantizer::builder()
                .granularity(granularity)
                .calibration(calibration)
                .asymmetric(asymmetric)
                .rounding(seed.map_or(Rounding::NearestEven, |seed| Rounding::Stochastic { seed }))
                .build()
                .unwrap()
        })
}

/// The index of each element's scale, by the definition: which elements share one.
fn scale_index(q: &QuantizedTensor, at: &[usize]) -> usize {
    let last = at.len() - 1;
    let mut index = at.to_vec();
    match q.granularity() {
        Granularity::PerTensor => index.fill(0),
        Granularity::PerToken => index[last] = 0,
        Granularity::PerChannel => index[..last].fill(0),
        Granularity::PerGroup { size } => index[last] /= size,
        Granularity::PerGroupAlong { size, axis } => index[axis] /= size,
        other => panic!("a granularity this test does not know: {other:?}"),
    }
    let shape = q.scales_shape();
    index
        .iter()
        .zip(&shape)
        .fold(0, |linear, (i, n)| linear * n + i)
}

/// The elements of each slice in row-major order.
fn slices(q: &QuantizedTensor, x: &ArrayD<f32>) -> Vec<Vec<f32>> {
    let mut slices = vec![Vec::new(); q.scales().len()];
    for (at, x) in x.indexed_iter() {
        slices[scale_index(q, at.slice())].push(*x);
    }
    slices
}

fn same(a: &QuantizedTensor, b: &QuantizedTensor) -> bool {
    let bits = |q: &QuantizedTensor| q.scales().iter().map(|s| s.to_bits()).collect::<Vec<_>>();
    a.data() == b.data() && bits(a) == bits(b) && a.zero_points() == b.zero_points()
}

fn build(granularity: Granularity, calibration: Calibration) -> Quantizer {
    let builder = Quantizer::builder().granularity(granularity);
    builder.calibration(calibration).build().unwrap()
}

/// `numpy.percentile` by its definition: sort, then interpolate.
fn percentile(mut x: Vec<f64>, p: f64) -> f64 {
    x.sort_by(f64::total_cmp);
    let at = (x.len() - 1) as f64 * (p / 100.0);
    let (lo, hi) = (x[at.floor() as usize], x[at.ceil() as usize]);
    lo + (hi - lo) * at.fract()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Inside the range an element comes back to half a step; the integers are the scalar rule's.
    #[test]
    fn round_trips_lose_half_a_step(x in tensor(), granularity in granularity(), asymmetric in any::<bool>()) {
        let quantizer = Quantizer::builder().granularity(granularity).asymmetric(asymmetric);
        let q = quantizer.build().unwrap().quantize(x.view()).unwrap();
        let back = q.dequantize();
        for (at, x) in x.indexed_iter() {
            let scale = f64::from(q.scales()[scale_index(&q, at.slice())]);
            let error = (f64::from(*x) - f64::from(back[&at])).abs();
            // The ends of an asymmetric range share their step with the rounding of the zero point.
            let steps = if asymmetric { 1.0 } else { 0.5 };
            prop_assert!(error <= scale * (steps + 1e-4), "{x} came back as {}", back[&at]);
            if *x == 0.0 {
                prop_assert_eq!(back[&at], 0.0);
            }
        }
    }

    /// Absmax by the definition, slice by slice; each integer by the scalar rule.
    #[test]
    fn slices_are_the_granularitys(x in tensor(), granularity in granularity()) {
        let q = build(granularity, Calibration::AbsMax).quantize(x.view()).unwrap();
        prop_assert_eq!(q.scales_shape().iter().product::<usize>(), q.scales().len());
        let bounds: Vec<f32> = slices(&q, &x)
            .iter()
            .map(|s| numerics::bound(s.iter().fold(0.0, |a, x| a.max(x.abs()))))
            .collect();
        let want: Vec<f32> = bounds.iter().map(|b| b / 127.0).collect();
        prop_assert_eq!(q.scales(), want);
        for (at, x) in x.indexed_iter() {
            let bound = bounds[scale_index(&q, at.slice())];
            let want = (x * (127.0 / bound)).round_ties_even().clamp(-127.0, 127.0);
            prop_assert_eq!(f32::from(q.data()[&at]), want);
        }
    }

    /// Any strides hold the same tensor; f16 and bf16 are what they widen to.
    #[test]
    fn strides_and_types_do_not_matter(x in tensor(), quantizer in quantizer()) {
        let q = quantizer.quantize(x.view()).unwrap();
        let mut axes: Vec<usize> = (0..x.ndim()).rev().collect();
        let transposed = x.view().permuted_axes(axes.clone()).as_standard_layout().into_owned();
        axes.reverse();
        let column_major = transposed.view().reversed_axes();
        prop_assert_eq!(&column_major, &x.view());
        prop_assert!(same(&q, &quantizer.quantize(column_major).unwrap()));
        let mut reversed = x.clone();
        for axis in 0..x.ndim() {
            reversed.invert_axis(Axis(axis));
        }
        let mut reversed = reversed.as_standard_layout().into_owned();
        for axis in 0..x.ndim() {
            reversed.invert_axis(Axis(axis));
        }
        prop_assert!(same(&q, &quantizer.quantize(reversed.view()).unwrap()));

        let (h, b) = (x.mapv(f16::from_f32), x.mapv(bf16::from_f32));
        let wide = quantizer.quantize(h.mapv(f16::to_f32).view()).unwrap();
        prop_assert!(same(&quantizer.quantize(h.view()).unwrap(), &wide));
        let wide = quantizer.quantize(b.mapv(bf16::to_f32).view()).unwrap();
        prop_assert!(same(&quantizer.quantize(b.view()).unwrap(), &wide));
    }

    /// Each group is the tensor of that group alone, the short last one too.
    #[test]
    fn groups_are_tensors_of_their_own(
        rows in 1..4usize, k in 1..40usize, size in 1..17usize, calibration in calibration(), seed in any::<u64>(),
    ) {
        let x = Array2::from_shape_fn((rows, k), |(i, j)| {
            imma::rounding::uniform(seed, (i * k + j) as u64) * 8.0 - 3.0
        });
        let groups = build(Granularity::PerGroup { size }, calibration).quantize(x.view()).unwrap();
        let whole = build(Granularity::PerTensor, calibration);
        let per_row = k.div_ceil(size);
        for i in 0..rows {
            for g in 0..per_row {
                let span = s![i, g * size..k.min((g + 1) * size)];
                let alone = whole.quantize(x.slice(span)).unwrap();
                prop_assert_eq!(groups.scales()[i * per_row + g], alone.scales()[0]);
                let inside = groups.matrix().unwrap();
                prop_assert_eq!(inside.slice(span).into_dyn(), alone.data().view());
            }
        }
        // Along the other axis it is the transposed tensor.
        let along = build(Granularity::PerGroupAlong { size, axis: 0 }, calibration).quantize(x.t()).unwrap();
        prop_assert_eq!(along.data().t(), groups.data().view());
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values(
        x in prop::collection::vec(values(), 1..60),
        p in prop_oneof![50.0..=100.0f64, Just(50.0), Just(99.0), Just(100.0)],
    ) {
        let x = Array1::from(x);
        let close = |got: f32, want: f64| (f64::from(got) - want).abs() <= want.abs() * 1e-6;
        let symmetric = build(Granularity::PerTensor, Calibration::Percentile(p));
        let magnitude = percentile(x.iter().map(|x| f64::from(x.abs())).collect(), p);
        let bound = f64::from(numerics::bound(magnitude as f32));
        let scale = symmetric.quantize(x.view()).unwrap().scales()[0];
        prop_assert!(close(scale, bound / 127.0), "{scale} for {bound} / 127");

        let asymmetric = Quantizer::builder()
            .granularity(Granularity::PerTensor)
            .calibration(Calibration::Percentile(p))
            .asymmetric(true);
        let q = asymmetric.build().unwrap().quantize(x.view()).unwrap();
        let all: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let (lo, hi) = (percentile(all.clone(), 100.0 - p), percentile(all, p));
        let want = numerics::asymmetric(lo as f32, hi as f32);
        prop_assert!(close(q.scales()[0], f64::from(want.scale)));
        prop_assert!((q.zero_points().unwrap()[0] - want.zero_point).abs() <= 1);
    }

    #[test]
    fn searched_clipping_is_never_worse_than_absmax(
        x in tensor(), granularity in granularity(), asymmetric in any::<bool>(), steps in 1..40u32,
    ) {
        let noise = |calibration| {
            let builder = Quantizer::builder().granularity(granularity).asymmetric(asymmetric);
            let q = builder.calibration(calibration).build().unwrap().quantize(x.view()).unwrap();
            let back = q.dequantize();
            let square = |(x, y): (&f32, &f32)| (f64::from(*x) - f64::from(*y)).powi(2);
            x.iter().zip(&back).map(square).sum::<f64>()
        };
        let (searched, absmax) = (noise(Calibration::MeanSquaredError { steps }), noise(Calibration::AbsMax));
        prop_assert!(searched <= absmax * (1.0 + 1e-12), "{searched:e} > {absmax:e}");
    }

    #[test]
    fn the_mean_is_the_mean(x in prop::collection::vec(values(), 1..200), factor in 0.1f32..5.0) {
        let x = Array1::from(x);
        let q = build(Granularity::PerTensor, Calibration::MeanAbsolute { factor }).quantize(x.view()).unwrap();
        let mean = x.iter().map(|x| f64::from(x.abs())).sum::<f64>() / x.len() as f64;
        let want = f64::from(numerics::bound((f64::from(factor) * mean) as f32)) / 127.0;
        prop_assert!((f64::from(q.scales()[0]) - want).abs() <= want * 1e-6);
    }

    /// A slice with NaN or infinity dequantises to NaN, each of its elements, and no other slice is touched.
    #[test]
    fn non_finite_slices_are_never_silent(
        x in tensor(), quantizer in quantizer(), at in any::<prop::sample::Index>(),
        bad in prop::sample::select(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY][..]),
    ) {
        prop_assume!(!x.is_empty());
        let clean = quantizer.quantize(x.view()).unwrap();
        let mut y = x.clone();
        *y.iter_mut().nth(at.index(x.len())).unwrap() = bad;
        let q = quantizer.quantize(y.view()).unwrap();
        let at = at.index(x.len());
        let (place, _) = x.indexed_iter().nth(at).unwrap();
        let hit = scale_index(&q, place.slice());
        let (back, want) = (q.dequantize(), clean.dequantize());
        for (place, got) in back.indexed_iter() {
            let same_slice = scale_index(&q, place.slice()) == hit;
            if same_slice && !matches!(quantizer.calibration(), Calibration::Constant(_)) {
                prop_assert_eq!(q.data()[&place], 0);
                prop_assert!(got.is_nan());
            } else if x[&place].to_bits() == y[&place].to_bits() {
                prop_assert_eq!(got.to_bits(), want[&place].to_bits());
            }
        }
    }

    /// Element `i` is rounded with the number that belongs to `(seed, i)`, whatever its neighbours.
    #[test]
    fn stochastic_rounding_is_keyed_by_the_index(x in tensor(), seed in any::<u64>(), granularity in granularity()) {
        let q = Quantizer::builder()
            .granularity(granularity)
            .calibration(Calibration::Constant(4.0))
            .rounding(Rounding::Stochastic { seed })
            .build().unwrap()
            .quantize(x.view()).unwrap();
        for (i, (x, q)) in x.iter().zip(q.data()).enumerate() {
            let moved = x * (127.0 / 4.0) + imma::rounding::uniform(seed, i as u64);
            prop_assert_eq!(f32::from(*q), moved.floor().clamp(-127.0, 127.0));
        }
    }

    #[test]
    fn reports_are_the_definitions(x in tensor(), shift in -0.5f32..0.5) {
        let y = x.mapv(|x| x + shift);
        let report = ErrorReport::between(x.view(), y.view()).unwrap();
        let e: Vec<f64> = x.iter().zip(&y).map(|(x, y)| f64::from(*y) - f64::from(*x)).collect();
        let noise: f64 = e.iter().map(|e| e * e).sum();
        let signal: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
        prop_assert_eq!(report.max_abs, e.iter().fold(0.0, |a: f64, e| a.max(e.abs())));
        prop_assert_eq!(report.compared, x.len() as u64);
        if noise > 0.0 && signal > 0.0 {
            prop_assert!((report.relative_frobenius / (noise / signal).sqrt() - 1.0).abs() < 1e-9);
            prop_assert!((report.snr_db - 10.0 * (signal / noise).log10()).abs() < 1e-6);
        }
    }
}

#[test]
fn stochastic_rounding_is_unbiased_with_a_zero_point_too() {
    let n = 40_000;
    for asymmetric in [false, true] {
        let mut x = Array1::from_elem(n, 0.3f32);
        (x[0], x[1]) = (-1.0, 2.0);
        let q = Quantizer::builder()
            .granularity(Granularity::PerTensor)
            .asymmetric(asymmetric)
            .rounding(Rounding::Stochastic { seed: 5 })
            .build()
            .unwrap()
            .quantize(x.view())
            .unwrap();
        let back = q.dequantize();
        let mean = back.iter().skip(2).map(|x| f64::from(*x)).sum::<f64>() / (n - 2) as f64;
        // Five standard deviations of the mean of n draws one step apart.
        let bound = 5.0 * 0.5 * f64::from(q.scales()[0]) / (n as f64).sqrt();
        assert!((mean - f64::from(0.3f32)).abs() < bound, "{mean}");
    }
}

#[test]
fn threads_do_not_matter() {
    let x = Array2::from_shape_fn((33, 65), |(i, j)| ((i * 65 + j) as f32).sin());
    let quantizer = Quantizer::builder()
        .granularity(Granularity::PerGroup { size: 16 })
        .calibration(Calibration::MeanSquaredError { steps: 10 })
        .rounding(Rounding::Stochastic { seed: 1 })
        .build()
        .unwrap();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| quantizer.quantize(x.view()).unwrap())
    };
    assert!(same(&run(1), &run(2)) && same(&run(1), &run(3)));
}

#[test]
fn configurations_that_make_no_sense_name_their_part() {
    let message = |granularity, calibration, asymmetric| {
        let builder = Quantizer::builder()
            .granularity(granularity)
            .calibration(calibration);
        builder
            .asymmetric(asymmetric)
            .build()
            .unwrap_err()
            .to_string()
    };
    let calibration = |c| message(Granularity::PerTensor, c, false);
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-45] {
        assert!(
            calibration(Calibration::Constant(bad)).contains("the constant bound"),
            "{bad}"
        );
    }
    for bad in [0.0, -1.0, f64::NAN, 100.1, f64::INFINITY] {
        assert!(
            calibration(Calibration::Percentile(bad)).contains("the percentile"),
            "{bad}"
        );
    }
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let factor = Calibration::MeanAbsolute { factor: bad };
        assert!(calibration(factor).contains("the factor"), "{bad}");
    }
    let steps = calibration(Calibration::MeanSquaredError { steps: 0 });
    assert_eq!(
        steps,
        "calibration: the number of steps is 0, expected at least 1"
    );
    let one_sided = message(Granularity::PerToken, Calibration::Percentile(49.0), true);
    assert!(one_sided.contains("asymmetric"), "{one_sided}");
    let group = message(
        Granularity::PerGroup { size: 0 },
        Calibration::AbsMax,
        false,
    );
    assert!(group.contains("the group size"), "{group}");
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let scalar = ndarray::arr0(1.0f32);
    let refused = Quantizer::default().quantize(scalar.view()).unwrap_err();
    assert!(matches!(refused, Error::Shape { .. }), "{refused}");
    let along = build(
        Granularity::PerGroupAlong { size: 2, axis: 1 },
        Calibration::AbsMax,
    );
    assert!(along.quantize(Array1::<f32>::zeros(3).view()).is_err());
    let q = Quantizer::default()
        .quantize(Array1::<f32>::zeros(3).view())
        .unwrap();
    assert!(q.matrix().is_err());
    assert!(q.error(Array1::<f32>::zeros(4).view()).is_err());
}

#[test]
fn clipping_is_counted() {
    let x = ndarray::arr1(&[0.5f32, 1.0, 1.001, -1.5, f32::from_f32(9.0), 0.0]);
    let q = build(Granularity::PerTensor, Calibration::Constant(1.0))
        .quantize(x.view())
        .unwrap();
    let report = q.error(x.view()).unwrap();
    assert_eq!(report.clipped, Some(2));
    assert_eq!(report.max_abs, 8.0);
    assert!(report.to_string().ends_with("2 clipped"));
    let absmax = build(Granularity::PerTensor, Calibration::AbsMax)
        .quantize(x.view())
        .unwrap();
    assert_eq!(absmax.error(x.view()).unwrap().clipped, Some(0));
}

/// Rows and columns as a product quantises them are what the oracle says.
#[test]
fn the_oracle_agrees() {
    let x = Array2::from_shape_fn((9, 31), |(i, j)| {
        ((i * 31 + j) as f32 * 0.7).sin() * (i as f32)
    });
    let rows = imma::reference::quantize_rows(x.view());
    let q = Quantizer::default().quantize(x.view()).unwrap();
    assert_eq!(
        (q.matrix().unwrap(), q.scales()),
        (rows.q.view(), &rows.scales[..])
    );
    let columns = imma::reference::quantize_cols(x.view());
    let q = build(Granularity::PerChannel, Calibration::AbsMax)
        .quantize(x.view())
        .unwrap();
    assert_eq!(
        (q.matrix().unwrap(), q.scales()),
        (columns.q.view(), &columns.scales[..])
    );
    let rows = imma::reference::quantize_rows_asymmetric(x.view());
    let q = Quantizer::builder()
        .asymmetric(true)
        .build()
        .unwrap()
        .quantize(x.view())
        .unwrap();
    assert_eq!(
        (q.matrix().unwrap(), q.scales()),
        (rows.q.view(), &rows.scales[..])
    );
    assert_eq!(q.zero_points(), Some(&rows.zero_points[..]));
}
