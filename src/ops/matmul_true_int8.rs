//! The exact product of int8 arrays.

use crate::element::OutputMut;
use crate::error::Result;
use crate::gemm::{Backend, Lhs, Weights};
use crate::ops::batches::{product, MatrixProduct};
use crate::ops::default_backend;
use ndarray::{ArrayD, ArrayView, ArrayView2, ArrayViewMut2, Dimension};

/// The exact product `out[.., m, n] = sum over k of lhs[.., m, k] * rhs[.., k, n]` in int32.
///
/// Shapes follow `numpy.matmul` ([`MatmulShape`](crate::ops::MatmulShape)): 1-D operands, broadcast batches. Any strides are read as they
/// are: transposed, reversed, repeated. Every int8 value is allowed, -128 included, and nothing is rounded. An empty sum
/// (K = 0) is 0.
///
/// A matrix that is multiplied with many others is packed once, and where the left operands of a batch share one
/// right operand they become one tall product.
///
/// # Errors
/// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) as [`MatmulShape::new`](crate::ops::MatmulShape::new),
/// [`Error::KTooLong`](crate::Error::KTooLong) when K is above [`MAX_K`](crate::numerics::MAX_K),
/// [`Error::Memory`](crate::Error::Memory) when the result cannot be allocated.
///
/// ```
/// use imma::matmul_true_int8;
/// use ndarray::{arr1, arr2};
/// let product = matmul_true_int8(arr2(&[[1i8, 2], [-128, 4]]).view(), arr1(&[100i8, -128]).view())?;
/// assert_eq!(product, arr1(&[-156, -13_312]).into_dyn());
/// # Ok::<(), imma::Error>(())
/// ```
pub fn matmul_true_int8<D1: Dimension, D2: Dimension>(
    lhs: ArrayView<'_, i8, D1>,
    rhs: ArrayView<'_, i8, D2>,
) -> Result<ArrayD<i32>> {
    // The default backend works on rayon's current pool, and so may the batch.
    product::<Exact, _, _>(default_backend().as_ref(), true, lhs, rhs)
}

/// [`matmul_true_int8`] on a backend of choice; the same integers.
///
/// The entries of a batch that don't share an operand are given to the backend one after the other.
///
/// # Errors
/// As [`matmul_true_int8`], and those of the backend.
pub fn matmul_true_int8_on<D1: Dimension, D2: Dimension>(
    backend: &dyn Backend,
    lhs: ArrayView<'_, i8, D1>,
    rhs: ArrayView<'_, i8, D2>,
) -> Result<ArrayD<i32>> {
    product::<Exact, _, _>(backend, false, lhs, rhs)
}

/// int8 times int8 as they are.
struct Exact;

impl MatrixProduct for Exact {
    type In = i8;
    type Out = i32;
    const OP: &'static str = "matmul_true_int8";

    fn once(
        backend: &dyn Backend,
        lhs: ArrayView2<'_, i8>,
        rhs: ArrayView2<'_, i8>,
        out: ArrayViewMut2<'_, i32>,
    ) -> Result<()> {
        backend.matmul_int8(lhs, rhs, out)
    }

    fn weights(rhs: ArrayView2<'_, i8>) -> Weights<'_> {
        Weights::Int8(rhs)
    }

    fn lhs(lhs: ArrayView2<'_, i8>) -> Lhs<'_> {
        Lhs::Int8(lhs)
    }

    fn output(out: ArrayViewMut2<'_, i32>) -> OutputMut<'_> {
        OutputMut::I32(out)
    }
}
