//! Batches of matrices multiplied by `numpy.matmul`'s rules, in as few calls of a backend as broadcasting and strides allow.

use crate::element::OutputMut;
use crate::epilogue::{Epilogue, Output};
use crate::error::Result;
use crate::gemm::{check_k, Backend, Gemm, Lhs, Weights};
use crate::ops::broadcast::{zeros, MatmulShape};
use crate::ops::rows::merge;
use ndarray::{
    ArrayD, ArrayView, ArrayView2, ArrayViewD, ArrayViewMut2, ArrayViewMutD, Axis, Dimension, Ix2,
};

/// Up to how many rows a matrix is small enough that copying a batch of them side by side beats one call each.
const FEW_ROWS: usize = 64;

/// What one matrix times another means, and how a backend is told.
///
/// Each row of the result may depend on its row of the left operand and on the right operand alone: rows of several
/// matrices become one tall product.
pub(crate) trait MatrixProduct {
    /// Elements of the operands.
    type In: Copy + Send + Sync;
    /// Elements of the result.
    type Out: Copy + Default + Send + Sync;
    /// Who multiplies, in errors.
    const OP: &'static str;

    /// A right operand that is used once.
    fn once(
        backend: &dyn Backend,
        lhs: ArrayView2<'_, Self::In>,
        rhs: ArrayView2<'_, Self::In>,
        out: ArrayViewMut2<'_, Self::Out>,
    ) -> Result<()>;
    /// A right operand that is packed for several products.
    fn weights(rhs: ArrayView2<'_, Self::In>) -> Weights<'_>;
    /// The left operand of one of them.
    fn lhs(lhs: ArrayView2<'_, Self::In>) -> Lhs<'_>;
    /// Where it goes.
    fn output(out: ArrayViewMut2<'_, Self::Out>) -> OutputMut<'_>;
}

/// The product of two arrays; entries of the batch may run side by side on rayon's current pool if `parallel`.
pub(crate) fn product<P: MatrixProduct, D1: Dimension, D2: Dimension>(
    backend: &dyn Backend,
    parallel: bool,
    lhs: ArrayView<'_, P::In, D1>,
    rhs: ArrayView<'_, P::In, D2>,
) -> Result<ArrayD<P::Out>> {
    let shape = MatmulShape::new(P::OP, lhs.shape(), rhs.shape())?;
    check_k(shape.k, false)?;
    let mut out = zeros(P::OP, shape.promoted(shape.m, shape.n))?;
    if shape.k > 0 && !out.is_empty() {
        let (lhs, rhs) = (shape.promote_lhs(lhs), shape.promote_rhs(rhs));
        let (lhs, rhs) = (shape.repeat(&lhs), shape.repeat(&rhs));
        batches::<P>(backend, parallel, lhs, rhs, out.view_mut())?;
    }
    Ok(out
        .into_shape_with_order(shape.output())
        .expect("axes of length 1 left out"))
}

/// Puts the batch axes along which the right operand changes before those along which it is repeated.
fn batches<P: MatrixProduct>(
    backend: &dyn Backend,
    parallel: bool,
    lhs: ArrayViewD<'_, P::In>,
    mut rhs: ArrayViewD<'_, P::In>,
    out: ArrayViewMutD<'_, P::Out>,
) -> Result<()> {
    let axes = lhs.ndim() - 2;
    let changes = |axis: &usize| rhs.len_of(Axis(*axis)) > 1 && rhs.strides()[*axis] != 0;
    let (own, shared): (Vec<_>, Vec<_>) = (0..axes).partition(changes);
    let order = [&own[..], &shared[..], &[axes, axes + 1]].concat();
    for axis in shared.iter().rev() {
        rhs = rhs.index_axis_move(Axis(*axis), 0);
    }
    let each = Each { backend, parallel };
    each.right_operand::<P>(
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
    fn right_operand<P: MatrixProduct>(
        &self,
        lhs: ArrayViewD<'_, P::In>,
        rhs: ArrayViewD<'_, P::In>,
        out: ArrayViewMutD<'_, P::Out>,
    ) -> Result<()> {
        if rhs.ndim() == 2 {
            let rhs = rhs.into_dimensionality().expect("two axes");
            return shared_right::<P>(self.backend, lhs, rhs, out);
        }
        let first = Axis(0);
        let middle = rhs.len_of(first) / 2;
        if middle == 0 {
            return self.right_operand::<P>(
                lhs.index_axis_move(first, 0),
                rhs.index_axis_move(first, 0),
                out.index_axis_move(first, 0),
            );
        }
        let (lhs, lhs_rest) = lhs.split_at(first, middle);
        let (rhs, rhs_rest) = rhs.split_at(first, middle);
        let (out, out_rest) = out.split_at(first, middle);
        let one = || self.right_operand::<P>(lhs, rhs, out);
        let other = || self.right_operand::<P>(lhs_rest, rhs_rest, out_rest);
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
fn shared_right<P: MatrixProduct>(
    backend: &dyn Backend,
    lhs: ArrayViewD<'_, P::In>,
    rhs: ArrayView2<'_, P::In>,
    out: ArrayViewMutD<'_, P::Out>,
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
        return P::once(backend, lhs, rhs, out);
    }
    let packed = backend.pack(P::weights(rhs))?;
    each_left(lhs, out, &mut |lhs, out| {
        let place = P::output(out);
        let epilogue = Epilogue::to(Output::for_place(&place)?);
        let gemm = Gemm::new(P::lhs(lhs), &packed, epilogue)?;
        backend.gemm(&gemm, place)
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
fn each_left<I, O>(
    lhs: ArrayViewD<'_, I>,
    mut out: ArrayViewMutD<'_, O>,
    product: &mut impl FnMut(ArrayView2<'_, I>, ArrayViewMut2<'_, O>) -> Result<()>,
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

fn matrix<T>(x: ArrayViewD<'_, T>) -> ArrayView2<'_, T> {
    x.into_dimensionality::<Ix2>().expect("two axes")
}
