//! The oracle: what every backend is compared with, bit for bit.
//!
//! Slow on purpose. Three plain loops and one scalar at a time, written from the equations of
//! [`numerics`](crate::numerics) and [`epilogue`](crate::epilogue); it shares no packing, tiling, vectorised
//! rounding or shortcut with the backends. It shares only the activations' polynomials, which
//! [`activation`](crate::activation)'s tests check against f64.
//!
//! Functions here panic on operands that do not fit: they are for tests, where a panic is the right outcome.
//!
//! ```
//! use imma::reference;
//! use ndarray::arr2;
//! let a = arr2(&[[1.0f32, 2.0]]);
//! let w = arr2(&[[1.0f32], [-1.0]]);
//! // 64 * 127 - 127 * 127 steps of (2 / 127) * (1 / 127)
//! assert_eq!(reference::q_matmul(a.view(), w.view())[[0, 0]], -8001.0 * (2.0 / 127.0) * (1.0 / 127.0));
//! ```

use crate::element::{FloatSlice, FloatView};
use crate::epilogue::{Epilogue, Host, Output, Scales, ZeroPoints};
use crate::gemm::{ActivationQuant, Lhs, Weights};
use half::{bf16, f16};
use ndarray::{Array2, ArrayView1, ArrayView2, Axis};

/// One side of a product as integers, with a scale and a zero point for each of its rows or columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// The integers, in the shape of the floats.
    pub q: Array2<i8>,
    /// The scales, one per row or column.
    pub scales: Vec<f32>,
    /// The integers that stand for 0.0, one per row or column.
    pub zero_points: Vec<i32>,
}

/// A product in one of the output types.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Product {
    /// f32 elements.
    F32(Array2<f32>),
    /// f16 elements.
    F16(Array2<f16>),
    /// bf16 elements.
    BF16(Array2<bf16>),
    /// The exact sums.
    I32(Array2<i32>),
    /// Quantised again.
    I8(Array2<i8>),
    /// Quantised again, with one scale a row.
    I8PerRow {
        /// The integers.
        q: Array2<i8>,
        /// One a row.
        scales: Vec<f32>,
    },
}

/// `a [M, K] x b [K, N]`, exact: summed in i64, and refused where i32 can't hold the sum.
///
/// # Panics
/// When the shapes do not fit, or a sum lies outside i32.
pub fn matmul_i32(a: ArrayView2<'_, i8>, b: ArrayView2<'_, i8>) -> Array2<i32> {
    let ((m, k), (rows, n)) = (a.dim(), b.dim());
    assert_eq!(k, rows, "contracted dimensions");
    let mut out = Array2::zeros((m, n));
    for i in 0..m {
        for j in 0..n {
            let mut sum = 0i64;
            for l in 0..k {
                sum += i64::from(a[[i, l]]) * i64::from(b[[l, j]]);
            }
            out[[i, j]] = i32::try_from(sum).expect("a sum that i32 holds");
        }
    }
    out
}

/// `clip(round_half_even(x), -127, 127)`, NaN -> 0.
pub fn round_and_clip(x: f32) -> i8 {
    if x.is_nan() {
        0
    } else {
        x.round_ties_even().clamp(-127.0, 127.0) as i8
    }
}

/// One symmetric scale per row, from its own absmax: what floats become on the left of a product.
pub fn quantize_rows(x: ArrayView2<'_, f32>) -> Quantized {
    let (rows, columns) = x.dim();
    let mut out = Quantized::zeros(rows, columns, rows);
    for i in 0..rows {
        let mut absmax = 0.0f32;
        for j in 0..columns {
            let magnitude = x[[i, j]].abs();
            // Once NaN, always NaN.
            if magnitude.is_nan() || magnitude > absmax {
                absmax = magnitude;
            }
            if absmax.is_nan() {
                break;
            }
        }
        let bound = if (127.0 / absmax).is_infinite() {
            1.0
        } else {
            absmax
        };
        let multiplier = 127.0 / bound;
        for j in 0..columns {
            out.q[[i, j]] = round_and_clip(x[[i, j]] * multiplier);
        }
        out.scales[i] = bound / 127.0;
    }
    out
}

/// One symmetric scale per column: what floats become on the right of a product.
pub fn quantize_cols(x: ArrayView2<'_, f32>) -> Quantized {
    let rows = quantize_rows(x.t());
    Quantized {
        q: rows.q.t().as_standard_layout().into_owned(),
        ..rows
    }
}

/// One symmetric scale for each group of `size` rows and each column; the scales are `[K / size rounded up, N]`.
pub fn quantize_groups(x: ArrayView2<'_, f32>, size: usize) -> (Array2<i8>, Array2<f32>) {
    let mut q = Array2::zeros(x.dim());
    let mut scales = Array2::zeros((x.nrows().div_ceil(size), x.ncols()));
    for (g, group) in x.axis_chunks_iter(Axis(0), size).enumerate() {
        let group = quantize_cols(group);
        for ((l, j), v) in group.q.indexed_iter() {
            q[[g * size + l, j]] = *v;
        }
        for (j, scale) in group.scales.iter().enumerate() {
            scales[[g, j]] = *scale;
        }
    }
    (q, scales)
}

/// One asymmetric scale and zero point per row, from its own minimum and maximum.
pub fn quantize_rows_asymmetric(x: ArrayView2<'_, f32>) -> Quantized {
    let (rows, columns) = x.dim();
    let mut out = Quantized::zeros(rows, columns, rows);
    for i in 0..rows {
        let (mut lo, mut hi, mut finite) = (0.0f32, 0.0f32, true);
        for j in 0..columns {
            let x = x[[i, j]];
            finite &= x.is_finite();
            lo = lo.min(x);
            hi = hi.max(x);
        }
        if !(finite && (hi - lo).is_finite()) {
            out.scales[i] = f32::NAN;
            continue;
        }
        let range = if (255.0 / (hi - lo)).is_infinite() {
            255.0
        } else {
            hi - lo
        };
        let multiplier = 255.0 / range;
        let zero = (-128.0 - lo * multiplier)
            .round_ties_even()
            .clamp(-128.0, 127.0);
        for j in 0..columns {
            let shifted = f64::from((x[[i, j]] * multiplier).round_ties_even()) + f64::from(zero);
            out.q[[i, j]] = shifted.clamp(-128.0, 127.0) as i8;
        }
        out.scales[i] = range / 255.0;
        out.zero_points[i] = zero as i32;
    }
    out
}

/// One scale for all rows, known beforehand.
pub fn quantize_static(x: ArrayView2<'_, f32>, scale: f32) -> Quantized {
    let multiplier = 1.0 / scale;
    Quantized {
        q: x.mapv(|x| round_and_clip(x * multiplier)),
        scales: of_finite(x, scale),
        zero_points: vec![0; x.nrows()],
    }
}

/// The scale for each row, NaN for one that is not finite.
fn of_finite(x: ArrayView2<'_, f32>, scale: f32) -> Vec<f32> {
    let finite = |row: ArrayView1<'_, f32>| row.iter().all(|x| x.is_finite());
    let rows = x.rows().into_iter();
    rows.map(|row| if finite(row) { scale } else { f32::NAN })
        .collect()
}

/// One scale and zero point for all rows, known beforehand.
pub fn quantize_static_asymmetric(
    x: ArrayView2<'_, f32>,
    scale: f32,
    zero_point: i32,
) -> Quantized {
    let multiplier = 1.0 / scale;
    Quantized {
        q: x.mapv(|x| {
            let rounded = f64::from((x * multiplier).round_ties_even());
            let rounded = if rounded.is_nan() { 0.0 } else { rounded };
            (rounded + f64::from(zero_point)).clamp(-128.0, 127.0) as i8
        }),
        scales: of_finite(x, scale),
        zero_points: vec![zero_point; x.nrows()],
    }
}

impl Quantized {
    fn zeros(rows: usize, columns: usize, slices: usize) -> Self {
        Quantized {
            q: Array2::zeros((rows, columns)),
            scales: vec![0.0; slices],
            zero_points: vec![0; slices],
        }
    }
}

/// Float in, float out: `quantize_rows(a) x quantize_cols(w)`, times both scales.
///
/// # Panics
/// When the shapes do not fit.
pub fn q_matmul(a: ArrayView2<'_, f32>, w: ArrayView2<'_, f32>) -> Array2<f32> {
    let (a, w) = (quantize_rows(a), quantize_cols(w));
    let sums = matmul_i32(a.q.view(), w.q.view());
    Array2::from_shape_fn(sums.dim(), |(i, j)| {
        (sums[[i, j]] as f32 * a.scales[i]) * w.scales[j]
    })
}

/// `epilogue(lhs [M, K] x weights [K, N])`: what a backend's `pack` and `gemm` together must give.
///
/// Float weights bring their own column scales unless the epilogue gives others; float left operands bring
/// their row scales and zero points.
///
/// # Panics
/// When shapes or lengths do not fit, or a sum lies outside i32.
pub fn gemm(lhs: &Lhs<'_>, weights: &Weights<'_>, epilogue: &Epilogue<Host<'_>>) -> Product {
    let m = lhs.dim().0;
    let a = match lhs {
        Lhs::Int8(q) => Quantized {
            q: q.to_owned(),
            scales: (0..m).map(|i| scale_at(&epilogue.row_scales, i)).collect(),
            zero_points: (0..m)
                .map(|i| match epilogue.row_zero_points {
                    ZeroPoints::None => 0,
                    ZeroPoints::PerTensor(one) => one,
                    ZeroPoints::PerVector(all) => all[i],
                })
                .collect(),
        },
        Lhs::Float { data, quant } => {
            let data = widened(data);
            match quant {
                ActivationQuant::PerToken => quantize_rows(data.view()),
                ActivationQuant::PerTokenAsymmetric => quantize_rows_asymmetric(data.view()),
                ActivationQuant::Static { scale } => quantize_static(data.view(), *scale),
                ActivationQuant::StaticAsymmetric { scale, zero_point } => {
                    quantize_static_asymmetric(data.view(), *scale, *zero_point)
                }
            }
        }
    };
    let n = weights.dim().1;
    let ones = vec![1.0; n];
    let (w, own, groups) = match weights {
        Weights::Int8(q) => (q.to_owned(), ones, None),
        Weights::Float(data) => {
            let w = quantize_cols(widened(data).view());
            (w.q, w.scales, None)
        }
        Weights::Int8Groupwise { data, scales, size } => {
            (data.to_owned(), ones, Some((scales.to_owned(), *size)))
        }
        Weights::FloatGroupwise { data, size } => {
            let (q, scales) = quantize_groups(widened(data).view(), *size);
            (q, ones, Some((scales, *size)))
        }
    };
    let col_scales: Vec<f32> = match epilogue.col_scales {
        Scales::None => own,
        given => (0..n).map(|j| scale_at(&given, j)).collect(),
    };
    let sums = corrected_sums(&a, w.view());
    let scaled = |i: usize, j: usize| match &groups {
        None => {
            let v = sums[[i, j]] as f32 * a.scales[i];
            biased(v, col_scales[j], j, epilogue)
        }
        Some((scales, size)) => {
            let v = over_groups(a.q.row(i), w.column(j), scales.column(j), *size);
            biased(v, a.scales[i], j, epilogue)
        }
    };
    let value = |(i, j): (usize, usize)| {
        let v = if epilogue.gated {
            epilogue.activation.apply(scaled(i, 2 * j)) * scaled(i, 2 * j + 1)
        } else {
            epilogue.activation.apply(scaled(i, j))
        };
        with_residual(v, i, j, epilogue)
    };
    let n = if epilogue.gated {
        assert_eq!(n % 2, 0, "a gated product has pairs of columns");
        assert_ne!(
            epilogue.output,
            Output::Raw,
            "pairs of raw sums have no product"
        );
        n / 2
    } else {
        n
    };
    let floats = || Array2::from_shape_fn((m, n), value);
    match epilogue.output {
        Output::Raw => Product::I32(sums),
        Output::F32 => Product::F32(floats()),
        Output::F16 => Product::F16(floats().mapv(f16::from_f32)),
        Output::BF16 => Product::BF16(floats().mapv(bf16::from_f32)),
        Output::Int8 { scale } => {
            let multiplier = 1.0 / scale;
            Product::I8(floats().mapv(|v| round_and_clip(v * multiplier)))
        }
        Output::Int8PerRow => {
            let Quantized { q, scales, .. } = quantize_rows(floats().view());
            Product::I8PerRow { q, scales }
        }
    }
}

/// `sum over l of (a[i, l] - zero_point[i]) * w[l, j]`, in i64.
fn corrected_sums(a: &Quantized, w: ArrayView2<'_, i8>) -> Array2<i32> {
    let sums = matmul_i32(a.q.view(), w);
    Array2::from_shape_fn(sums.dim(), |(i, j)| {
        let mut column_sum = 0i64;
        for l in 0..w.nrows() {
            column_sum += i64::from(w[[l, j]]);
        }
        let sum = i64::from(sums[[i, j]]) - i64::from(a.zero_points[i]) * column_sum;
        i32::try_from(sum).expect("a sum that i32 holds")
    })
}

/// One element of a product with group-wise weights before its row's scale; each turn is one rounding.
fn over_groups(
    a: ArrayView1<'_, i8>,
    w: ArrayView1<'_, i8>,
    scales: ArrayView1<'_, f32>,
    size: usize,
) -> f32 {
    let mut v = 0f32;
    for (g, scale) in scales.iter().enumerate() {
        let mut sum = 0i64;
        for l in g * size..a.len().min((g + 1) * size) {
            sum += i64::from(a[l]) * i64::from(w[l]);
        }
        v = (sum as i32 as f32).mul_add(*scale, v);
    }
    v
}

/// One element from its last factor up to the activation, in one rounding.
fn biased(v: f32, factor: f32, j: usize, epilogue: &Epilogue<Host<'_>>) -> f32 {
    match epilogue.bias {
        None => v * factor,
        Some(FloatSlice::F32(bias)) => v.mul_add(factor, bias[j]),
        Some(FloatSlice::F16(bias)) => v.mul_add(factor, f16::to_f32(bias[j])),
        Some(FloatSlice::BF16(bias)) => v.mul_add(factor, bf16::to_f32(bias[j])),
    }
}

fn with_residual(v: f32, i: usize, j: usize, epilogue: &Epilogue<Host<'_>>) -> f32 {
    match &epilogue.residual {
        None => v,
        Some(FloatView::F32(r)) => v + r[[i, j]],
        Some(FloatView::F16(r)) => v + f16::to_f32(r[[i, j]]),
        Some(FloatView::BF16(r)) => v + bf16::to_f32(r[[i, j]]),
    }
}

fn scale_at(scales: &Scales<&[f32]>, i: usize) -> f32 {
    match scales {
        Scales::None => 1.0,
        Scales::PerTensor(s) => *s,
        Scales::PerVector(s) => s[i],
    }
}

fn widened(view: &FloatView<'_>) -> Array2<f32> {
    match view {
        FloatView::F32(v) => v.to_owned(),
        FloatView::F16(v) => v.mapv(f16::to_f32),
        FloatView::BF16(v) => v.mapv(bf16::to_f32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;
    use ndarray::{arr1, arr2};

    #[test]
    fn sums_are_exact() {
        let a = Array2::from_elem((1, 131_071), -128i8);
        assert_eq!(matmul_i32(a.view(), a.t())[[0, 0]], 131_071 * 16_384);
        let empty = matmul_i32(Array2::zeros((2, 0)).view(), Array2::zeros((0, 3)).view());
        assert_eq!(empty, Array2::<i32>::zeros((2, 3)));
    }

    #[test]
    #[should_panic(expected = "a sum that i32 holds")]
    fn sums_beyond_i32_are_refused() {
        let a = Array2::from_elem((1, 131_072), -128i8);
        matmul_i32(a.view(), a.t());
    }

    #[test]
    fn rows_are_quantised_by_hand() {
        let x = arr2(&[
            [1.0f32, -2.0, 0.5],
            [0.0, 0.0, 0.0],
            [f32::NAN, 1.0, 9.0],
            [1.0, f32::INFINITY, 0.0],
        ]);
        let rows = quantize_rows(x.view());
        assert_eq!(
            rows.q,
            arr2(&[[64, -127, 32], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
        );
        assert_eq!(rows.scales[..2], [2.0 / 127.0, 1.0 / 127.0]);
        assert!(rows.scales[2].is_nan() && rows.scales[3].is_infinite());
        assert_eq!(quantize_cols(x.t()).q, rows.q.t());
        assert_eq!(quantize_static(x.view(), 0.5).q.row(3), arr1(&[2, 127, 0]));
    }

    #[test]
    fn asymmetric_rows_are_quantised_by_hand() {
        let x = arr2(&[
            [0.0f32, 2.55, 0.01],
            [-1.0, -2.55, 0.0],
            [f32::NAN, 0.0, 1.0],
        ]);
        let rows = quantize_rows_asymmetric(x.view());
        assert_eq!(
            rows.q,
            arr2(&[[-128, 127, -127], [27, -128, 127], [0, 0, 0]])
        );
        assert_eq!(rows.zero_points, [-128, 127, 0]);
        assert!(rows.scales[2].is_nan());
    }

    #[test]
    fn an_epilogue_is_evaluated_by_hand() {
        let (a, w) = (arr2(&[[3i8, -4]]), arr2(&[[2i8, 1], [1, 5]]));
        let (bias, residual) = ([0.5f32, 0.25], arr2(&[[10.0f32, 20.0]]));
        let epilogue = Epilogue {
            row_scales: Scales::PerVector(&[0.5][..]),
            col_scales: Scales::PerVector(&[2.0, 4.0][..]),
            row_zero_points: ZeroPoints::PerTensor(1),
            bias: Some(FloatSlice::F32(&bias)),
            activation: Activation::Relu,
            residual: Some(FloatView::F32(residual.view())),
            ..Epilogue::default()
        };
        // Sums with zero point 1: [2*2 - 5*1, 2*1 - 5*5] = [-1, -23].
        let run = |epilogue: &Epilogue<Host<'_>>| {
            gemm(&Lhs::Int8(a.view()), &Weights::Int8(w.view()), epilogue)
        };
        assert_eq!(run(&epilogue), Product::F32(arr2(&[[10.0, 20.0]])));
        let linear = Epilogue {
            activation: Activation::None,
            output: Output::Int8 { scale: 0.5 },
            ..epilogue
        };
        // [-1 * 0.5 * 2 + 0.5 + 10, -23 * 0.5 * 4 + 0.25 + 20] = [9.5, -25.75]
        assert_eq!(run(&linear), Product::I8(arr2(&[[19, -52]])));
        let per_row = linear.clone().with_output(Output::Int8PerRow);
        // 9.5 * 127 / 25.75 = 46.9
        let (q, scales) = (arr2(&[[47, -127]]), vec![25.75 / 127.0]);
        assert_eq!(run(&per_row), Product::I8PerRow { q, scales });
        // Before the activation -0.5 and -45.75, as above without the residual: relu(-0.5) * -45.75 + 1, and without relu.
        let residual = arr2(&[[1.0f32]]);
        let gated = |activation| Epilogue {
            activation,
            gated: true,
            residual: Some(FloatView::F32(residual.view())),
            output: Output::F32,
            ..linear.clone()
        };
        for (activation, want) in [(Activation::Relu, 1.0), (Activation::None, 23.875)] {
            let found = run(&gated(activation));
            assert_eq!(found, Product::F32(arr2(&[[want]])));
        }
        let raw = Epilogue::to(Output::Raw).with_row_zero_points(ZeroPoints::PerTensor(1));
        assert_eq!(run(&raw), Product::I32(arr2(&[[-1, -23]])));
    }
}
