//! SiLU, product and per-token quantisation in one pass: the middle of a SwiGLU.

use super::fused_rows::{float_rows, quantized_rows, rows_of};
use crate::activation::Activation;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::quant::QuantizedTensor;
use ndarray::{Array, ArrayView, ArrayView1, Dimension};

/// `SiLU(gate) * up`, elementwise: the first half of [`silu_mul_quantize`].
///
/// ```text
/// y = T( T( silu(gate) ) * up )          silu(x) = x / (1 + exp(-x)) in f32, T(..) rounds to the element type
/// ```
///
/// SiLU is [`Activation::Silu`], the same bits on every backend. There are two roundings, as in a model that stores the
/// result of its activation function. NaN stays NaN. Any strides; the result is in row-major order.
///
/// # Errors
/// [`Error::ShapeMismatch`] when the two have different shapes, [`Error::Shape`] when they are 0-D.
///
/// ```
/// use ndarray::arr2;
/// let y = imma::ops::silu_mul(arr2(&[[0.0f32, 20.0]]).view(), arr2(&[[5.0f32, -2.0]]).view())?;
/// assert_eq!(y[[0, 0]], 0.0);
/// assert!((y[[0, 1]] + 40.0).abs() < 1e-4);
/// # Ok::<(), imma::Error>(())
/// ```
pub fn silu_mul<T: Element, D: Dimension>(
    gate: ArrayView<'_, T, D>,
    up: ArrayView<'_, T, D>,
) -> Result<Array<T, D>> {
    let rows = pairs("silu_mul", &gate, &up)?;
    Ok(float_rows(gate.raw_dim(), rows, fill))
}

/// `SiLU(gate) * up`, each row (last axis) quantised with its own scale: what runs right before a SwiGLU's last product.
///
/// The bits of [`silu_mul`] into T followed by the default [`Quantizer`](crate::Quantizer), without the matrix
/// between them; `cuda::Device::silu_mul_quantize` gives the same. Where one product made both halves as `[rows, 2 K]`,
/// they are two slices of it.
///
/// # Errors
/// As [`silu_mul`].
///
/// ```
/// use imma::Quantizer;
/// use ndarray::{arr2, s};
/// let both = arr2(&[[1.0f32, -2.0, 3.0, 0.5]]);
/// let (gate, up) = (both.slice(s![.., ..2]), both.slice(s![.., 2..]));
/// let q = imma::ops::silu_mul_quantize(gate, up)?;
/// assert_eq!(q, Quantizer::default().quantize(imma::ops::silu_mul(gate, up)?.view())?);
/// # Ok::<(), imma::Error>(())
/// ```
pub fn silu_mul_quantize<T: Element, D: Dimension>(
    gate: ArrayView<'_, T, D>,
    up: ArrayView<'_, T, D>,
) -> Result<QuantizedTensor> {
    let rows = pairs("silu_mul_quantize", &gate, &up)?;
    quantized_rows(gate.shape(), rows, fill)
}

type Pair<'a, T> = (ArrayView1<'a, T>, ArrayView1<'a, T>);

fn pairs<'a, T: Element, D: Dimension>(
    op: &'static str,
    gate: &'a ArrayView<'_, T, D>,
    up: &'a ArrayView<'_, T, D>,
) -> Result<Vec<Pair<'a, T>>> {
    if gate.shape() != up.shape() {
        return Err(Error::ShapeMismatch {
            op,
            lhs: gate.shape().to_vec(),
            rhs: up.shape().to_vec(),
            expected: "gate and up must have the same shape".into(),
        });
    }
    rows_of(op, "gate", &gate.raw_dim())?;
    Ok(gate.rows().into_iter().zip(up.rows()).collect())
}

fn fill<T: Element>((gate, up): Pair<'_, T>, y: &mut [f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        let activated = T::from_f32(Activation::Silu.apply(gate.to_f32())).to_f32();
        *y = T::from_f32(activated * up.to_f32()).to_f32();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::Quantizer;
    use half::f16;
    use ndarray::{s, Array2, ArrayD, IxDyn};

    #[test]
    fn every_step_is_rounded_to_the_element_type() {
        let both = Array2::from_shape_fn((5, 70), |(i, j)| {
            f16::from_f32(((i * 31 + j * 17) % 43) as f32 * 0.3 - 6.0)
        });
        let (gate, up) = (both.slice(s![.., ..35]), both.slice(s![.., 35..]));
        let y = silu_mul(gate, up).unwrap();
        ndarray::Zip::from(&y)
            .and(gate)
            .and(up)
            .for_each(|y, g, u| {
                let activated = f16::from_f32(Activation::Silu.apply(g.to_f32()));
                assert_eq!(*y, activated * *u);
            });
        let fused = silu_mul_quantize(gate, up).unwrap();
        assert_eq!(fused, Quantizer::default().quantize(y.view()).unwrap());
    }

    #[test]
    fn shapes_that_differ_are_refused() {
        let x = |shape: &[usize]| ArrayD::<f32>::zeros(IxDyn(shape));
        let error = silu_mul(x(&[2, 3]).view(), x(&[3, 2]).view()).unwrap_err();
        assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
        let error = silu_mul(x(&[]).view(), x(&[]).view()).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
        for shape in [[0, 3], [3, 0]] {
            let q = silu_mul_quantize(x(&shape).view(), x(&shape).view()).unwrap();
            assert_eq!((q.shape(), q.scales().len()), (&shape[..], shape[0]));
        }
    }
}
