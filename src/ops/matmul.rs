//! `numpy.matmul` with any product underneath.

use crate::element::Element;
use crate::error::Result;
use crate::ops::broadcast::MatmulShape;
use crate::ops::dimension_numbers::{inverse, DimensionNumbers};
use crate::ops::dot_general::{DotGeneral, Precision, Pullback};
use crate::ops::float_dot_general::FloatDotGeneral;
use crate::ops::plan::Plan;
use ndarray::{ArrayD, ArrayView, Dimension};

/// The product of floats by `numpy.matmul`'s rules ([`MatmulShape`]), multiplied by `dot_general`.
///
/// `out[.., m, n] = sum over k of a[.., m, k] * b[.., k, n]`, in the operands' element type. Batch axes that both
/// operands have become batch axes of the [`DimensionNumbers`]; those that only one has, or that the other has with
/// length 1, become free axes, so that nothing is repeated before it is multiplied (or quantised). Any strides.
/// Precision and rounding are those of `dot_general`; [`FloatDotGeneral`] sums in f32 and rounds once.
///
/// # Errors
/// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) as [`MatmulShape::new`], and those of `dot_general`.
///
/// ```
/// use imma::matmul;
/// use imma::ops::{FloatDotGeneral, Precision};
/// use ndarray::{arr2, Array3};
/// let a = Array3::<f32>::ones((2, 1, 3));
/// let b = arr2(&[[1.0f32], [2.0], [3.0]]);
/// let y = matmul(a.view(), b.view(), Precision::Default, &FloatDotGeneral)?;
/// assert_eq!(y, Array3::from_elem((2, 1, 1), 6.0).into_dyn());
/// # Ok::<(), imma::Error>(())
/// ```
///
/// Source: `jax.numpy.matmul`, which maps the same axes onto `lax.dot_general`.
pub fn matmul<T: Element, D1: Dimension, D2: Dimension>(
    a: ArrayView<'_, T, D1>,
    b: ArrayView<'_, T, D2>,
    precision: Precision,
    dot_general: &dyn DotGeneral<T>,
) -> Result<ArrayD<T>> {
    let plan = plan(a.shape(), b.shape())?;
    plan.run(a.into_dyn(), b.into_dyn(), precision, dot_general)
}

/// [`matmul`] and what turns the result's gradient into those of the operands, in their shapes.
///
/// # Errors
/// As [`matmul`].
///
/// ```
/// use imma::ops::{matmul_vjp, Precision, QuantDotGeneral};
/// use ndarray::{arr1, arr2};
/// let (x, w) = (arr2(&[[1.0f32, -2.0]]), arr1(&[0.5f32, 0.25]));
/// let (y, pullback) = matmul_vjp(x.view(), w.view(), Precision::Default, &QuantDotGeneral::v3())?;
/// let (dx, dw) = pullback.backward(arr1(&[1.0f32]).into_dyn().view())?;
/// assert_eq!((y.shape(), dx.shape(), dw.shape()), (&[1][..], &[1, 2][..], &[2][..]));
/// assert_eq!(dw, arr1(&[1.0, -2.0]).into_dyn());
/// # Ok::<(), imma::Error>(())
/// ```
pub fn matmul_vjp<T: Element, D1: Dimension, D2: Dimension>(
    a: ArrayView<'_, T, D1>,
    b: ArrayView<'_, T, D2>,
    precision: Precision,
    dot_general: &dyn DotGeneral<T>,
) -> Result<(ArrayD<T>, Box<dyn Pullback<T>>)> {
    let plan = plan(a.shape(), b.shape())?;
    plan.vjp(a.into_dyn(), b.into_dyn(), precision, dot_general)
}

/// [`matmul`] with [`FloatDotGeneral`] at [`Precision::Default`].
///
/// # Errors
/// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) as [`MatmulShape::new`].
///
/// ```
/// use imma::ops::matmul_float;
/// use ndarray::arr1;
/// let dot = matmul_float(arr1(&[1.0f32, 2.0]).view(), arr1(&[3.0f32, 4.0]).view())?;
/// assert_eq!(dot.first(), Some(&11.0));
/// # Ok::<(), imma::Error>(())
/// ```
pub fn matmul_float<T: Element, D1: Dimension, D2: Dimension>(
    a: ArrayView<'_, T, D1>,
    b: ArrayView<'_, T, D2>,
) -> Result<ArrayD<T>> {
    matmul(a, b, Precision::Default, &FloatDotGeneral)
}

/// A matmul expressed in dimension numbers.
fn plan(lhs: &[usize], rhs: &[usize]) -> Result<Plan> {
    let shape = MatmulShape::new("matmul", lhs, rhs)?;
    let lhs_batch = &lhs[..lhs.len().saturating_sub(2)];
    let rhs_batch = &rhs[..rhs.len().saturating_sub(2)];
    let axes = shape.batch.len();
    // Where each axis of the product goes in the result: batch axes first, then the left operand's free axes,
    // then the right one's.
    let (mut batch, mut left, mut right) = (vec![], vec![], vec![]);
    let (mut squeeze_lhs, mut squeeze_rhs) = (vec![], vec![]);
    let mut dims = DimensionNumbers::default();
    for axis in 0..axes {
        let l = (axis + lhs_batch.len()).checked_sub(axes);
        let r = (axis + rhs_batch.len()).checked_sub(axes);
        match (l, r) {
            (Some(l), Some(_)) if lhs[l] == 1 => {
                squeeze_lhs.push(l);
                right.push(axis);
            }
            (Some(_), Some(r)) if rhs[r] == 1 => {
                squeeze_rhs.push(r);
                left.push(axis);
            }
            (Some(_), Some(_)) => {
                dims.lhs_batch.push(batch.len() + left.len());
                dims.rhs_batch.push(batch.len() + right.len());
                batch.push(axis);
            }
            (Some(_), None) => left.push(axis),
            (None, _) => right.push(axis),
        }
    }
    dims.rhs_contracting.push(batch.len() + right.len());
    let rows = !shape.lhs_vector;
    if rows {
        left.push(axes);
    }
    if !shape.rhs_vector {
        right.push(axes + usize::from(rows));
    }
    dims.lhs_contracting.push(batch.len() + left.len());
    Ok(Plan {
        squeeze_lhs,
        squeeze_rhs,
        dims,
        axes: inverse(&[batch, left, right].concat()),
        swap: false,
    })
}
