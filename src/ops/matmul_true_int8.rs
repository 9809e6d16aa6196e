//! The exact product of int8 arrays.

use crate::element::OutputMut;
use crate::epilogue::{Epilogue, Output};
use crate::error::Result;
use crate::gemm::{check_k, Backend, Gemm, Lhs, Weights};
use crate::ops::broadcast::MatmulShape;
use crate::ops::default_backend;
use crate::ops::rows::merge;
use ndarray::{
    ArrayD, ArrayView, ArrayView2, ArrayViewD, ArrayViewMut2, ArrayViewMutD, Axis, Dimension, Ix2,
};

/// The name in errors.
const OP: &str = "matmul_true_int8";

/// Up to how many rows a matrix is small enough that copying a batch of them side by side beats one call each.
const FEW_ROWS: usize = 64;

/// The exact product `out[.., m, n] = sum over k of lhs[.., m, k] * rhs[.., k, n]` in int32.
///
/// Shapes follow `numpy.matmul` ([`MatmulShape`]): 1-D operands, broadcast batches. Any strides are read as they
/// are: transposed, reversed, repeated. All int8 values count, -128 included, and nothing is rounded. An empty sum
/// (K = 0) is 0.
///
/// A matrix that is multiplied with many others is packed once, and where the left operands of a batch share one
/// right operand they become one tall product.
///
/// # Errors
/// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) as [`MatmulShape::new`],
/// [`Error::KTooLong`](crate::Error::KTooLong) when K is above [`MAX_K`](crate::numerics::MAX_K).
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
    product(default_backend().as_ref(), true, lhs, rhs)
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
    product(backend, false, lhs, rhs)
}

fn product<D1: Dimension, D2: Dimension>(
    backend: &dyn Backend,
    parallel: bool,
    lhs: ArrayView<'_, i8, D1>,
    rhs: ArrayView<'_, i8, D2>,
) -> Result<ArrayD<i32>> {
    let shape = MatmulShape::new(OP, lhs.shape(), rhs.shape())?;
    check_k(shape.k, false)?;
    let mut out = ArrayD::zeros(shape.promoted(shape.m, shape.n));
    if shape.k > 0 && !out.is_empty() {
        let (lhs, rhs) = (shape.promote_lhs(lhs), shape.promote_rhs(rhs));
        let (lhs, rhs) = (shape.repeat(&lhs), shape.repeat(&rhs));
        batches(backend, parallel, lhs, rhs, out.view_mut())?;
    }
    Ok(out
        .into_shape_with_order(shape.output())
        .expect("axes of length 1 left out"))
}

/// Puts the batch axes along which the right operand changes before those along which it is repeated.
fn batches(
    backend: &dyn Backend,
    parallel: bool,
    lhs: ArrayViewD<'_, i8>,
    mut rhs: ArrayViewD<'_, i8>,
    out: ArrayViewMutD<'_, i32>,
) -> Result<()> {
    let axes = lhs.ndim() - 2;
    let changes = |axis: &usize| rhs.len_of(Axis(*axis)) > 1 && rhs.strides()[*axis] != 0;
    let (own, shared): (Vec<_>, Vec<_>) = (0..axes).partition(changes);
    let order = [&own[..], &shared[..], &[axes, axes + 1]].concat();
    for axis in shared.iter().rev() {
        rhs = rhs.index_axis_move(Axis(*axis), 0);
    }
    let each = Each { backend, parallel };
    each.right_operand(
        lhs.permuted_axes(order.clone()),
        rhs,
        out.permuted_axes(order),
    )
}

struct Each<'a> {
    backend: &'a dyn Backend,
    parallel: bool,
}

impl Each<'_> {
    /// `lhs [own.., shared.., M, K] x rhs [own.., K, N]`: halves the first own axis until one right operand is left.
    fn right_operand(
        &self,
        lhs: ArrayViewD<'_, i8>,
        rhs: ArrayViewD<'_, i8>,
        out: ArrayViewMutD<'_, i32>,
    ) -> Result<()> {
        if rhs.ndim() == 2 {
            let rhs = rhs.into_dimensionality().expect("two axes");
            return shared_right(self.backend, lhs, rhs, out);
        }
        let first = Axis(0);
        let middle = rhs.len_of(first) / 2;
        if middle == 0 {
            return self.right_operand(
                lhs.index_axis_move(first, 0),
                rhs.index_axis_move(first, 0),
                out.index_axis_move(first, 0),
            );
        }
        let (lhs, lhs_rest) = lhs.split_at(first, middle);
        let (rhs, rhs_rest) = rhs.split_at(first, middle);
        let (out, out_rest) = out.split_at(first, middle);
        let one = || self.right_operand(lhs, rhs, out);
        let other = || self.right_operand(lhs_rest, rhs_rest, out_rest);
        if self.parallel {
            let (one, other) = rayon::join(one, other);
            one.and(other)
        } else {
            one()?;
            other()
        }
    }
}

/// `lhs [shared.., M, K] x rhs [K, N]`: as few products as the strides allow.
fn shared_right(
    backend: &dyn Backend,
    lhs: ArrayViewD<'_, i8>,
    rhs: ArrayView2<'_, i8>,
    out: ArrayViewMutD<'_, i32>,
) -> Result<()> {
    let copy;
    let mut lhs = lhs;
    // Folds the axes above M into M, from the last one up, as far as both sides can be viewed so.
    let shared = lhs.ndim() - 2;
    let outs = foldable(&out);
    let repeated = lhs.strides()[..shared].contains(&0);
    if foldable(&lhs) < outs && lhs.len_of(Axis(shared)) < FEW_ROWS && !repeated {
        copy = lhs.as_standard_layout().into_owned();
        lhs = copy.view();
    }
    let fold = foldable(&lhs).min(outs);
    let folded = shared - fold..shared + 1;
    let lhs = merge(lhs, folded.clone()).expect("counted above");
    let out = merge(out, folded).expect("counted above");
    if lhs.ndim() == 2 {
        let (lhs, out) = (matrix(lhs), out.into_dimensionality().expect("two axes"));
        return backend.matmul_int8(lhs, rhs, out);
    }
    let packed = backend.pack(Weights::Int8(rhs))?;
    each_left(lhs, out, &mut |lhs, out| {
        let gemm = Gemm::new(Lhs::Int8(lhs), &packed, Epilogue::to(Output::Raw))?;
        backend.gemm(&gemm, OutputMut::I32(out))
    })
}

/// How many axes above the last two can be folded into the rows by strides alone, counted from the last.
fn foldable<S: ndarray::RawData>(x: &ndarray::ArrayBase<S, ndarray::IxDyn>) -> usize {
    let rows = x.ndim() - 2;
    let (mut len, mut stride) = (x.len_of(Axis(rows)), x.strides()[rows]);
    for axis in (0..rows).rev() {
        let (above, above_stride) = (x.len_of(Axis(axis)), x.strides()[axis]);
        if len > 1 && above > 1 && above_stride != len as isize * stride {
            return rows - 1 - axis;
        }
        if len <= 1 {
            stride = above_stride;
        }
        len *= above;
    }
    rows
}

/// Calls `product` for each matrix of a batch.
fn each_left(
    lhs: ArrayViewD<'_, i8>,
    mut out: ArrayViewMutD<'_, i32>,
    product: &mut impl FnMut(ArrayView2<'_, i8>, ArrayViewMut2<'_, i32>) -> Result<()>,
) -> Result<()> {
    if lhs.ndim() == 2 {
        let out = out.into_dimensionality().expect("two axes");
        return product(matrix(lhs), out);
    }
    for (lhs, out) in lhs.outer_iter().zip(out.outer_iter_mut()) {
        each_left(lhs, out, product)?;
    }
    Ok(())
}

fn matrix(x: ArrayViewD<'_, i8>) -> ArrayView2<'_, i8> {
    x.into_dimensionality::<Ix2>().expect("two axes")
}
