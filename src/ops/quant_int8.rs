//! Floats to int8, elementwise.

use crate::element::Element;
use crate::numerics::quantize;
use ndarray::{Array, ArrayView, Dimension};

/// `clip(round_half_even(x), -127, 127)` of each element as int8; NaN gives 0.
///
/// Scaling is the caller's: multiply by `127 / absmax` first, as the JAX function of this name expects.
/// f16 and bf16 are widened to f32 first, which is exact. Any number of axes, any strides; the result has the
/// shape of `x`.
///
/// ```
/// use imma::quant_int8;
/// use ndarray::arr1;
/// let q = quant_int8(arr1(&[0.5f32, 1.5, -2.5, 200.0, f32::NAN]).view());
/// assert_eq!(q, arr1(&[0i8, 2, -2, 127, 0]));
/// ```
pub fn quant_int8<T: Element, D: Dimension>(x: ArrayView<'_, T, D>) -> Array<i8, D> {
    x.map(|x| quantize(x.to_f32()))
}
