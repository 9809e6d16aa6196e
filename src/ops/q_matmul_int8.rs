//! Float products through int8.

use crate::element::Element;
use crate::error::{Error, Result};
use crate::gemm::{check_k, Backend};
use crate::ops::broadcast::addressable;
use crate::ops::default_backend;
use crate::ops::rows::as_rows;
use ndarray::{Array, Array2, ArrayView, ArrayView2, Dimension};

/// The name in errors.
const OP: &str = "q_matmul_int8";

/// The product of floats through int8: each row of `a` and each column of `w` quantised with its own scale.
///
/// `a` is `[.., K]` (usually `[M, K]`; a vector or a batch counts as that many rows), `w` is `[K, N]`; the result is
/// `[.., N]`, with as many axes as `a`. With `bound(x)` the largest magnitude of a row or column:
///
/// ```text
/// qa[m, k] = clip(round_half_even(a[m, k] * (127 / bound(a[m, :]))), -127, 127)      qw[k, n] alike, by columns
/// out[m, n] = T( f32(sum over k of qa[m, k] * qw[k, n]) * (bound(a[m, :]) / 127) * (bound(w[:, n]) / 127) )
/// ```
///
/// The sum is an exact int32; each float step is rounded to nearest even in f32, and the result once more when T is
/// f16 or bf16. It is within 4 ulp of the division form `int32 / (127/bound_a * 127/bound_w)` in f32. A row or column
/// that holds NaN or infinity makes its row or column of the result NaN; rows of zeros give zeros. Row `m` of the
/// result depends on row `m` of `a` and on `w` alone, so that any way of batching gives the same bits.
///
/// # Errors
/// [`Error::ShapeMismatch`] when the last axis of `a` and the first of `w` differ, [`Error::Shape`] when `a` is 0-D,
/// [`Error::KTooLong`] when K is above [`MAX_K`](crate::numerics::MAX_K).
///
/// ```
/// use imma::q_matmul_int8;
/// use ndarray::arr2;
/// let a = arr2(&[[1.0f32, -2.0], [0.5, 0.25]]);
/// let w = arr2(&[[1.0f32], [0.5]]);
/// let out = q_matmul_int8(a.view(), w.view())?;
/// assert!((out[[1, 0]] - 0.625).abs() < 5e-3);
/// # Ok::<(), imma::Error>(())
/// ```
///
/// Weights that are used more than once are better packed once: [`Int8Linear`](crate::Int8Linear), the same bits.
pub fn q_matmul_int8<T: Element, D: Dimension>(
    a: ArrayView<'_, T, D>,
    w: ArrayView2<'_, T>,
) -> Result<Array<T, D>> {
    q_matmul_int8_as_on(default_backend().as_ref(), a, w)
}

/// [`q_matmul_int8`] on a backend of choice; the same bits.
///
/// # Errors
/// As [`q_matmul_int8`], and those of the backend.
pub fn q_matmul_int8_on<T: Element, D: Dimension>(
    backend: &dyn Backend,
    a: ArrayView<'_, T, D>,
    w: ArrayView2<'_, T>,
) -> Result<Array<T, D>> {
    q_matmul_int8_as_on(backend, a, w)
}

/// [`q_matmul_int8`] with another element type for the result, rounded once from f32.
///
/// # Errors
/// As [`q_matmul_int8`].
///
/// ```
/// use imma::q_matmul_int8_as;
/// use half::bf16;
/// use ndarray::{arr2, Array2};
/// let out: Array2<bf16> = q_matmul_int8_as(arr2(&[[2.0f32]]).view(), arr2(&[[3.0f32]]).view())?;
/// assert_eq!(out[[0, 0]], bf16::from_f32(6.0));
/// # Ok::<(), imma::Error>(())
/// ```
pub fn q_matmul_int8_as<T: Element, O: Element, D: Dimension>(
    a: ArrayView<'_, T, D>,
    w: ArrayView2<'_, T>,
) -> Result<Array<O, D>> {
    q_matmul_int8_as_on(default_backend().as_ref(), a, w)
}

/// [`q_matmul_int8_as`] on a backend of choice; the same bits.
///
/// # Errors
/// As [`q_matmul_int8`], and those of the backend.
pub fn q_matmul_int8_as_on<T: Element, O: Element, D: Dimension>(
    backend: &dyn Backend,
    a: ArrayView<'_, T, D>,
    w: ArrayView2<'_, T>,
) -> Result<Array<O, D>> {
    let (k, n) = w.dim();
    let shape = rows_times(OP, &a, k, n, w.shape())?;
    check_k(k, false)?;
    let a = as_rows(a.into_dyn());
    let mut out = Array2::<O>::default((a.nrows(), n));
    if !out.is_empty() {
        backend.matmul_quantized(T::tag(a.view()), T::tag(w), O::tag_mut(out.view_mut()))?;
    }
    Ok(out.into_shape_with_order(shape).expect("as many elements"))
}

/// The shape `[.., N]` of `a [.., K]` times a `[K, N]` matrix, whose shape as the caller wrote it is `other`.
pub(crate) fn rows_times<T, D: Dimension>(
    op: &'static str,
    a: &ArrayView<'_, T, D>,
    k: usize,
    n: usize,
    other: &[usize],
) -> Result<D> {
    let Some(last) = a.ndim().checked_sub(1) else {
        return Err(Error::Shape {
            op,
            what: "the left operand",
            found: vec![],
            expected: format!("[.., {k}]"),
        });
    };
    let refuse = |expected| {
        Err(Error::ShapeMismatch {
            op,
            lhs: a.shape().to_vec(),
            rhs: other.to_vec(),
            expected,
        })
    };
    if a.shape()[last] != k {
        return refuse(format!(
            "the left operand's last axis must have {k} elements"
        ));
    }
    let mut shape = a.raw_dim();
    shape[last] = n;
    if !addressable(shape.slice()) {
        return refuse("the result would have more elements than can be addressed".into());
    }
    Ok(shape)
}
