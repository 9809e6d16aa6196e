//! The float product over any axes.

use crate::element::{Element, FloatView, OutputMut};
use crate::error::{Error, Result};
use crate::ops::dimension_numbers::{DimensionNumbers, GradientDims};
use crate::ops::dot_general::{DotGeneral, Precision, Pullback};
use crate::ops::float_gemm::gemm_f32;
use crate::ops::matrices::{contracted, matrices};
use crate::ops::rows::in_order;
use ndarray::{
    Array2, ArrayD, ArrayView2, ArrayViewD, ArrayViewMut2, ArrayViewMutD, Axis, CowArray, Ix2,
};

/// [`DotGeneral`] in float: f32 products and f32 sums, through the `gemm` crate on rayon's current thread pool.
///
/// f16 and bf16 operands are widened (exact) and the sums rounded once to nearest even, also at
/// [`Precision::Default`]. Operands are read where they lie when the free and the contracted axes are each evenly
/// spaced, and copied otherwise. The order of the sums is the `gemm` crate's: a result differs from the exact one by
/// at most `K * 2^-24 * sum |lhs| |rhs|`, to first order, and may differ between machines.
///
/// ```
/// use imma::ops::{DimensionNumbers, DotGeneral, FloatDotGeneral, Precision};
/// use ndarray::arr2;
/// let (a, b) = (arr2(&[[1.0f32, 2.0]]).into_dyn(), arr2(&[[3.0f32], [4.0]]).into_dyn());
/// let dims = DimensionNumbers::matmul();
/// let (y, pullback) = FloatDotGeneral.vjp(a.view(), b.view(), &dims, Precision::Default)?;
/// assert_eq!(y, arr2(&[[11.0]]).into_dyn());
/// let (da, db) = pullback.backward(arr2(&[[10.0]]).into_dyn().view())?;
/// assert_eq!(da, arr2(&[[30.0, 40.0]]).into_dyn());
/// assert_eq!(db, arr2(&[[10.0], [20.0]]).into_dyn());
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FloatDotGeneral;

impl<T: Element> DotGeneral<T> for FloatDotGeneral {
    fn dot_general(
        &self,
        lhs: ArrayViewD<'_, T>,
        rhs: ArrayViewD<'_, T>,
        dims: &DimensionNumbers,
        _precision: Precision,
    ) -> Result<ArrayD<T>> {
        let shape = dims.output_shape(lhs.shape(), rhs.shape())?;
        let (lhs_contracted, rhs_contracted) = contracted(dims);
        let lhs = matrices(
            lhs.clone(),
            &dims.lhs_batch,
            &dims.lhs_free(lhs.ndim()),
            &lhs_contracted,
        );
        let rhs = matrices(
            rhs.clone(),
            &dims.rhs_batch,
            &dims.rhs_free(rhs.ndim()),
            &rhs_contracted,
        );
        let axes = dims.lhs_batch.len();
        let (m, n) = (lhs.len_of(Axis(axes)), rhs.len_of(Axis(axes)));
        let mut out = ArrayD::default([&shape[..axes], &[m, n]].concat());
        let mut rhs = rhs.view();
        rhs.swap_axes(axes, axes + 1);
        batches(lhs.view(), rhs, out.view_mut());
        Ok(out.into_shape_with_order(shape).expect("as many elements"))
    }

    fn vjp(
        &self,
        lhs: ArrayViewD<'_, T>,
        rhs: ArrayViewD<'_, T>,
        dims: &DimensionNumbers,
        precision: Precision,
    ) -> Result<(ArrayD<T>, Box<dyn Pullback<T>>)> {
        let out = self.dot_general(lhs.clone(), rhs.clone(), dims, precision)?;
        let pullback = FloatPullback {
            lhs: lhs.to_owned(),
            rhs: rhs.to_owned(),
            shape: out.shape().to_vec(),
            dims: dims.clone(),
            precision,
        };
        Ok((out, Box::new(pullback)))
    }

    fn swapped(&self) -> Option<Box<dyn DotGeneral<T>>> {
        Some(Box::new(FloatDotGeneral))
    }
}

struct FloatPullback<T> {
    lhs: ArrayD<T>,
    rhs: ArrayD<T>,
    shape: Vec<usize>,
    dims: DimensionNumbers,
    precision: Precision,
}

impl<T: Element> Pullback<T> for FloatPullback<T> {
    fn backward(&self, g: ArrayViewD<'_, T>) -> Result<(ArrayD<T>, ArrayD<T>)> {
        if g.shape() != self.shape {
            return Err(Error::Shape {
                op: "dot_general's backward",
                what: "the gradient",
                found: g.shape().to_vec(),
                expected: format!("{:?}, the shape of the result", self.shape),
            });
        }
        let product = |gradient: GradientDims, other: &ArrayD<T>| {
            let out = FloatDotGeneral.dot_general(
                g.clone(),
                other.view(),
                &gradient.dims,
                self.precision,
            )?;
            Ok(in_order(out, gradient.axes))
        };
        let (lhs, rhs) = (self.lhs.ndim(), self.rhs.ndim());
        Ok((
            product(self.dims.lhs_gradient(lhs, rhs), &self.rhs)?,
            product(self.dims.rhs_gradient(lhs, rhs), &self.lhs)?,
        ))
    }
}

/// `lhs [batch.., M, K] x rhs [batch.., K, N]`, halving batch axes until one matrix each is left.
fn batches<T: Element>(lhs: ArrayViewD<'_, T>, rhs: ArrayViewD<'_, T>, out: ArrayViewMutD<'_, T>) {
    if out.is_empty() {
        return;
    }
    if out.ndim() == 2 {
        let two = "two axes";
        return product(
            lhs.into_dimensionality().expect(two),
            rhs.into_dimensionality().expect(two),
            out.into_dimensionality().expect(two),
        );
    }
    let first = Axis(0);
    let middle = out.len_of(first) / 2;
    if middle == 0 {
        return batches(
            lhs.index_axis_move(first, 0),
            rhs.index_axis_move(first, 0),
            out.index_axis_move(first, 0),
        );
    }
    let (lhs, lhs_rest) = lhs.split_at(first, middle);
    let (rhs, rhs_rest) = rhs.split_at(first, middle);
    let (out, out_rest) = out.split_at(first, middle);
    rayon::join(
        || batches(lhs, rhs, out),
        || batches(lhs_rest, rhs_rest, out_rest),
    );
}

fn product<T: Element>(lhs: ArrayView2<'_, T>, rhs: ArrayView2<'_, T>, out: ArrayViewMut2<'_, T>) {
    let (m, n) = out.dim();
    let (lhs, rhs) = (widened(T::tag(lhs)), widened(T::tag(rhs)));
    let (lhs, rhs) = (lhs.view(), rhs.view());
    let sums = |out: &mut dyn FnMut(ArrayView2<'_, f32>)| {
        let mut wide = Array2::zeros((m, n));
        gemm_f32(lhs, rhs, wide.view_mut());
        out(wide.view());
    };
    match T::tag_mut(out) {
        OutputMut::F32(out) => gemm_f32(lhs, rhs, out),
        OutputMut::F16(mut out) => {
            sums(&mut |wide| out.zip_mut_with(&wide, |o, x| *o = Element::from_f32(*x)))
        }
        OutputMut::BF16(mut out) => {
            sums(&mut |wide| out.zip_mut_with(&wide, |o, x| *o = Element::from_f32(*x)))
        }
        OutputMut::I32(_) | OutputMut::I8(_) | OutputMut::I8PerRow { .. } => {
            unreachable!("elements are floats")
        }
    }
}

fn widened(x: FloatView<'_>) -> CowArray<'_, f32, Ix2> {
    match x {
        FloatView::F32(x) => x.into(),
        FloatView::F16(x) => x.mapv(Element::to_f32).into(),
        FloatView::BF16(x) => x.mapv(Element::to_f32).into(),
    }
}
