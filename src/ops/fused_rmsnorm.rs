//! RMSNorm and per-token quantisation in one pass.
//!
//! The norm is that of Llama-like models as vLLM and Hugging Face compute it: statistics in f32, the normalised value
//! rounded to the element type T, then times the weight and rounded to T once more. Here the order in which the squares
//! are summed is fixed too ([`sum_of_squares`]), so that every backend gives the same bits.

use super::fused_rows::{float_rows, quantized_rows, rows_of};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::numerics::{check_epsilon, inverse_rms, sum_of_squares};
use crate::quant::QuantizedTensor;
use ndarray::{Array, ArrayView, ArrayView1, ArrayViewMut, Dimension};

/// RMSNorm of each row (last axis) of `x [.., K]`: the first half of [`rmsnorm_quantize`].
///
/// ```text
/// inverse = 1 / sqrt(sum_of_squares(x[r, :]) / K + epsilon)          in f32, each step rounded to nearest even
/// y[r, c] = T( T( x[r, c] * inverse ) * weight[c] )                  T(..) rounds to the element type
/// ```
///
/// The sum is [`sum_of_squares`]: a balanced tree. A row that holds NaN or infinity, and one whose sum of squares
/// overflows f32, becomes NaN. Any strides; the result is in row-major order.
///
/// # Errors
/// [`Error::Shape`] when `x` is 0-D, [`Error::Length`] when the weight does not have K elements, [`Error::Value`] for an epsilon
/// that is not a finite number above zero.
///
/// ```
/// use ndarray::{arr1, arr2};
/// let y = imma::ops::rmsnorm(arr2(&[[3.0f32, 4.0]]).view(), arr1(&[1.0f32, 0.5]).view(), 1e-6)?;
/// // The root of the mean square is sqrt(12.5).
/// assert!((y[[0, 0]] - 3.0 / 12.5f32.sqrt()).abs() < 1e-6 && (y[[0, 1]] - 2.0 / 12.5f32.sqrt()).abs() < 1e-6);
/// # Ok::<(), imma::Error>(())
/// ```
pub fn rmsnorm<T: Element, D: Dimension>(
    x: ArrayView<'_, T, D>,
    weight: ArrayView1<'_, T>,
    epsilon: f32,
) -> Result<Array<T, D>> {
    let norm = Norm::new("rmsnorm", &x.raw_dim(), weight, epsilon)?;
    let rows = x.rows().into_iter().collect();
    Ok(float_rows(x.raw_dim(), rows, |x: ArrayView1<'_, T>, y| {
        widen(x, y);
        norm.apply::<T>(y);
    }))
}

/// RMSNorm of each row (last axis) of `x [.., K]`, quantised with the row's own scale: what runs right before a product.
///
/// The bits of [`rmsnorm`] into T followed by the default [`Quantizer`](crate::Quantizer), without the
/// matrix between them; `cuda::Device::rmsnorm_quantize` gives the same.
///
/// # Errors
/// As [`rmsnorm`].
///
/// ```
/// use imma::Quantizer;
/// use ndarray::{arr1, arr2};
/// let (x, weight) = (arr2(&[[3.0f32, -4.0], [0.0, 0.0]]), arr1(&[1.0f32, 0.5]));
/// let q = imma::ops::rmsnorm_quantize(x.view(), weight.view(), 1e-6)?;
/// assert_eq!(q.matrix()?, arr2(&[[127i8, -85], [0, 0]]));
/// assert_eq!(q, Quantizer::default().quantize(imma::ops::rmsnorm(x.view(), weight.view(), 1e-6)?.view())?);
/// # Ok::<(), imma::Error>(())
/// ```
pub fn rmsnorm_quantize<T: Element, D: Dimension>(
    x: ArrayView<'_, T, D>,
    weight: ArrayView1<'_, T>,
    epsilon: f32,
) -> Result<QuantizedTensor> {
    let norm = Norm::new("rmsnorm_quantize", &x.raw_dim(), weight, epsilon)?;
    let rows = x.rows().into_iter().collect();
    quantized_rows(x.shape(), rows, |x: ArrayView1<'_, T>, y| {
        widen(x, y);
        norm.apply::<T>(y);
    })
}

/// [`rmsnorm_quantize`] of `residual + x`, which replaces the residual.
///
/// ```text
/// residual[r, c] = T( residual[r, c] + x[r, c] )          then rmsnorm_quantize(residual, weight, epsilon)
/// ```
///
/// The sum is rounded to T before it is normalised, as if it had been stored and read again.
///
/// # Errors
/// As [`rmsnorm`], and [`Error::ShapeMismatch`] when the residual has another shape than `x`. Then it is untouched.
///
/// ```
/// use ndarray::{arr1, arr2};
/// let (x, mut residual) = (arr2(&[[1.0f32, -4.0]]), arr2(&[[2.0f32, 0.0]]));
/// let weight = arr1(&[1.0f32, 0.5]);
/// let q = imma::ops::add_rmsnorm_quantize(x.view(), residual.view_mut(), weight.view(), 1e-6)?;
/// assert_eq!(residual, arr2(&[[3.0, -4.0]]));
/// assert_eq!(q, imma::ops::rmsnorm_quantize(residual.view(), weight.view(), 1e-6)?);
/// # Ok::<(), imma::Error>(())
/// ```
pub fn add_rmsnorm_quantize<T: Element, D: Dimension>(
    x: ArrayView<'_, T, D>,
    mut residual: ArrayViewMut<'_, T, D>,
    weight: ArrayView1<'_, T>,
    epsilon: f32,
) -> Result<QuantizedTensor> {
    const OP: &str = "add_rmsnorm_quantize";
    let norm = Norm::new(OP, &x.raw_dim(), weight, epsilon)?;
    if residual.shape() != x.shape() {
        return Err(Error::ShapeMismatch {
            op: OP,
            lhs: x.shape().to_vec(),
            rhs: residual.shape().to_vec(),
            expected: "the residual must have the input's shape".into(),
        });
    }
    let sums = residual.rows_mut().into_iter();
    let rows: Vec<_> = x.rows().into_iter().zip(sums).collect();
    quantized_rows(x.shape(), rows, |(x, mut sum), y| {
        for ((y, x), sum) in y.iter_mut().zip(x).zip(&mut sum) {
            *sum = T::from_f32(sum.to_f32() + x.to_f32());
            *y = sum.to_f32();
        }
        norm.apply::<T>(y);
    })
}

/// A norm whose parts fit.
struct Norm {
    weight: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    fn new<T: Element, D: Dimension>(
        op: &'static str,
        shape: &D,
        weight: ArrayView1<'_, T>,
        epsilon: f32,
    ) -> Result<Self> {
        check_epsilon(epsilon)?;
        let k = rows_of(op, "the input", shape)?;
        if weight.len() != k {
            return Err(Error::Length {
                what: "weight",
                found: weight.len(),
                expected: k,
            });
        }
        Ok(Norm {
            weight: weight.iter().map(|w| w.to_f32()).collect(),
            epsilon,
        })
    }

    /// A row of values of T to the norm's, in place.
    fn apply<T: Element>(&self, row: &mut [f32]) {
        let inverse = inverse_rms(sum_of_squares(row), row.len(), self.epsilon);
        for (x, weight) in row.iter_mut().zip(&self.weight) {
            let normalized = T::from_f32(*x * inverse).to_f32();
            *x = T::from_f32(normalized * weight).to_f32();
        }
    }
}

fn widen<T: Element>(x: ArrayView1<'_, T>, to: &mut [f32]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to = x.to_f32();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::Quantizer;
    use half::bf16;
    use ndarray::{arr1, s, Array1, Array2, Array3, ArrayD, IxDyn};

    /// Level by level over a padded row, as in the definition.
    fn tree(x: &[f32]) -> f32 {
        let mut level: Vec<f32> = x.iter().map(|x| x * x).collect();
        level.resize(x.len().next_power_of_two(), 0.0);
        while level.len() > 1 {
            level = level.chunks(2).map(|pair| pair[0] + pair[1]).collect();
        }
        level[0]
    }

    #[test]
    fn squares_are_summed_by_a_balanced_tree() {
        for n in (0..300).chain([511, 512, 513, 4095, 4097, 11_008]) {
            let x: Vec<f32> = (0..n)
                .map(|i| ((i * 7919) % 1013) as f32 * 0.37 - 180.0)
                .collect();
            let want = if n == 0 { 0.0 } else { tree(&x) };
            assert_eq!(sum_of_squares(&x).to_bits(), want.to_bits(), "{n}");
        }
    }

    #[test]
    fn every_step_is_rounded_to_the_element_type() {
        let numbers =
            |i: usize, j: usize| bf16::from_f32(((i * 31 + j * 17) % 23) as f32 * 0.11 - 1.2);
        let x = Array2::from_shape_fn((5, 77), |(i, j)| numbers(i, j));
        let weight = Array1::from_shape_fn(77, |j| numbers(3, j));
        let y = rmsnorm(x.view(), weight.view(), 1e-5).unwrap();
        for (x, y) in x.rows().into_iter().zip(y.rows()) {
            let wide: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
            let inverse = 1.0 / (tree(&wide) / 77.0 + 1e-5).sqrt();
            for ((x, w), y) in wide.iter().zip(&weight).zip(y) {
                assert_eq!(*y, bf16::from_f32(x * inverse) * *w);
            }
        }
        let fused = rmsnorm_quantize(x.view(), weight.view(), 1e-5).unwrap();
        assert_eq!(fused, Quantizer::default().quantize(y.view()).unwrap());
    }

    #[test]
    fn strides_and_axes_change_nothing() {
        let x = Array3::from_shape_fn((2, 3, 8), |(i, j, k)| (i * 5 + j * 3 + k) as f32 - 7.0);
        let weight = arr1(&[1.0f32, 2.0, -1.0, 0.5, 0.0, 1.5, 3.0, 1.0]);
        let want = rmsnorm_quantize(x.view(), weight.view(), 1e-6).unwrap();
        let mut spread = Array3::<f32>::zeros((2, 3, 16));
        spread.slice_mut(s![.., .., ..;2]).assign(&x);
        let strided = spread.slice(s![.., .., ..;2]);
        assert_eq!(
            rmsnorm_quantize(strided, weight.view(), 1e-6).unwrap(),
            want
        );

        let mut residual = Array3::<f32>::ones((2, 3, 16));
        let place = residual.slice_mut(s![.., .., ..;2]);
        let added = add_rmsnorm_quantize(strided, place, weight.view(), 1e-6).unwrap();
        let sum = &x + 1.0;
        assert_eq!(residual.slice(s![.., .., ..;2]), sum);
        assert_eq!(
            residual.slice(s![.., .., 1..;2]),
            Array3::<f32>::ones((2, 3, 8))
        );
        assert_eq!(
            added,
            rmsnorm_quantize(sum.view(), weight.view(), 1e-6).unwrap()
        );
    }

    #[test]
    fn rows_that_are_no_numbers_say_so() {
        let weight = Array1::<f32>::ones(2);
        let x = ndarray::arr2(&[
            [0.0f32, 0.0],
            [f32::NAN, 1.0],
            [f32::INFINITY, 1.0],
            [1e30, 1.0],
        ]);
        let q = rmsnorm_quantize(x.view(), weight.view(), 1e-6).unwrap();
        assert!(q.data().iter().all(|q| *q == 0));
        assert_eq!(q.scales()[0], 1.0 / 127.0);
        assert!(
            q.scales()[1..].iter().all(|s| s.is_nan()),
            "{:?}",
            q.scales()
        );
    }

    #[test]
    fn empty_shapes_work_and_others_are_refused() {
        for shape in [[0, 3], [3, 0]] {
            let x = Array2::<f32>::zeros(shape);
            let weight = Array1::<f32>::ones(shape[1]);
            let q = rmsnorm_quantize(x.view(), weight.view(), 1e-6).unwrap();
            assert_eq!((q.shape(), q.scales().len()), (&shape[..], shape[0]));
            assert_eq!(
                rmsnorm(x.view(), weight.view(), 1e-6).unwrap().shape(),
                shape
            );
        }
        let x = Array2::<f32>::zeros((2, 3));
        let weight = Array1::<f32>::ones(3);
        for epsilon in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let error = rmsnorm(x.view(), weight.view(), epsilon).unwrap_err();
            assert!(matches!(error, Error::Value { .. }), "{error}");
        }
        let error = rmsnorm(x.view(), weight.slice(s![..2]), 1e-6).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Length {
                    found: 2,
                    expected: 3,
                    ..
                }
            ),
            "{error}"
        );
        let point = ArrayD::<f32>::zeros(IxDyn(&[]));
        let error = rmsnorm(point.view(), weight.view(), 1e-6).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
        let mut residual = Array2::<f32>::ones((3, 3));
        let error =
            add_rmsnorm_quantize(x.view(), residual.view_mut(), weight.view(), 1e-6).unwrap_err();
        assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
        assert_eq!(residual, Array2::<f32>::ones((3, 3)));
    }
}
