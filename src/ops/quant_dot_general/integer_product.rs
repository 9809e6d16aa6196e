//! A product of two quantised operands: int8 matrices through a backend, which finishes the sums with both scales.

use super::packed_once::PackedOnce;
use super::product::{only, Runner};
use super::quantized::Quantized;
use crate::element::Element;
use crate::epilogue::{Epilogue, Output, Scales};
use crate::error::{Error, Result};
use crate::gemm::{check_k, Backend, Gemm, Lhs, PackedWeights, Weights};
use crate::ops::dimension_numbers::DimensionNumbers;
use crate::ops::matrices::{contracted, each_matrix, each_matrix_mut, matrices};
use ndarray::{ArrayD, ArrayView2, ArrayViewMut2, Axis, CowArray, IxDyn};
use rayon::prelude::*;

/// `f32(sum of integers) * left scale * right scale`, each rounded to nearest even, then once to T.
pub(super) fn integer_product<T: Element>(
    runner: &Runner,
    lhs: &Quantized,
    rhs: &Quantized,
    packed: Option<&PackedOnce>,
    dims: &DimensionNumbers,
) -> Result<ArrayD<T>> {
    let shape = dims.output_shape(lhs.data.shape(), rhs.data.shape())?;
    let (left_axes, right_axes) = contracted_axes(dims, packed.is_some());
    let lhs_free = dims.lhs_free(lhs.data.ndim());
    let rhs_free = dims.rhs_free(rhs.data.ndim());
    let left = Matrices::new(lhs, &dims.lhs_batch, &lhs_free, &left_axes);
    let right = Matrices::new(rhs, &dims.rhs_batch, &rhs_free, &right_axes);
    check_k(left.k(), false)?;
    let mut out = ArrayD::<T>::default(shape);
    if out.is_empty() {
        return Ok(out);
    }
    let weights = PackedRight::new(runner.backend(), &right, packed)?;
    let lefts = each_matrix(left.data.view());
    let one = |(i, out): (usize, ArrayViewMut2<'_, T>)| {
        weights.multiply(i, lefts[i], left.scales.of(i), out)
    };
    let data = out.as_slice_mut().expect("made in standard layout");
    let outs = each_matrix_mut(data, left.rows(), right.rows());
    if runner.parallel() && outs.len() > 1 {
        outs.into_par_iter().enumerate().try_for_each(one)?;
    } else {
        outs.into_iter().enumerate().try_for_each(one)?;
    }
    Ok(out)
}

/// The contracted axes of both operands, in the order in which their elements are summed.
fn contracted_axes(dims: &DimensionNumbers, packed: bool) -> (Vec<usize>, Vec<usize>) {
    if !packed {
        return contracted(dims);
    }
    // Packed once for all left operands: in the right operand's own order.
    let (right, left) = contracted(&dims.swapped());
    (left, right)
}

/// The matrices `[free, contracted]` of one operand, one for each entry of the batch, with their scales.
struct Matrices<'a> {
    /// `[batch.., free, contracted]`.
    data: CowArray<'a, i8, IxDyn>,
    scales: MatrixScales,
}

impl<'a> Matrices<'a> {
    fn new(x: &'a Quantized, batch: &[usize], free: &[usize], contracted: &[usize]) -> Self {
        let data = matrices(x.data.view(), batch, free, contracted);
        let rows = data.len_of(Axis(batch.len()));
        Matrices {
            scales: MatrixScales::new(x, batch, free, rows),
            data,
        }
    }

    fn rows(&self) -> usize {
        self.data.len_of(Axis(self.data.ndim() - 2))
    }

    fn k(&self) -> usize {
        self.data.len_of(Axis(self.data.ndim() - 1))
    }
}

/// The right operand's matrices as a backend multiplies them: packed beforehand where they are kept, else one by one.
struct PackedRight<'a> {
    backend: &'a dyn Backend,
    matrices: Vec<ArrayView2<'a, i8>>,
    scales: &'a MatrixScales,
    kept: Option<&'a [PackedWeights]>,
}

impl<'a> PackedRight<'a> {
    fn new(
        backend: &'a dyn Backend,
        right: &'a Matrices<'a>,
        packed: Option<&'a PackedOnce>,
    ) -> Result<Self> {
        let mut new = PackedRight {
            backend,
            matrices: each_matrix(right.data.view()),
            scales: &right.scales,
            kept: None,
        };
        if let Some(once) = packed {
            new.kept = Some(once.get_or_pack(new.matrices.len(), |i| new.pack(i))?);
        }
        Ok(new)
    }

    fn pack(&self, i: usize) -> Result<PackedWeights> {
        let packed = self.backend.pack(Weights::Int8(self.matrices[i].t()))?;
        packed.with_scales(self.scales.slice(i))
    }

    /// Multiplies a left matrix and the `i`-th right one.
    fn multiply<T: Element>(
        &self,
        i: usize,
        lhs: ArrayView2<'_, i8>,
        row_scales: Scales<&[f32]>,
        mut out: ArrayViewMut2<'_, T>,
    ) -> Result<()> {
        let mut run = |weights: &PackedWeights| {
            let epilogue = Epilogue::to(Output::of::<T>()).with_row_scales(row_scales);
            let gemm = Gemm::new(Lhs::Int8(lhs), weights, epilogue)?;
            self.backend.gemm(&gemm, T::tag_mut(out.view_mut()))
        };
        let Some(kept) = self.kept else {
            return run(&self.pack(i)?);
        };
        match run(&kept[i]) {
            // Kept for the backend of an earlier call.
            Err(Error::PackedElsewhere { .. }) => run(&self.pack(i)?),
            other => other,
        }
    }
}

/// The scales of one operand, matrix by matrix.
struct MatrixScales {
    all: Vec<f32>,
    /// Scales per matrix; 0 when one scale serves all.
    each: usize,
}

impl MatrixScales {
    /// Scales of matrices of `rows` rows.
    fn new(x: &Quantized, batch: &[usize], free: &[usize], rows: usize) -> Self {
        if x.scales.len() == 1 {
            return MatrixScales {
                all: x.scales.iter().copied().collect(),
                each: 0,
            };
        }
        let full: Vec<usize> = [batch, free].concat();
        let full: Vec<usize> = full.iter().map(|&axis| x.data.shape()[axis]).collect();
        let scales = only(&x.scales, batch, free);
        let scales = scales.broadcast(full).expect("as many, or one, an axis");
        MatrixScales {
            all: scales.iter().copied().collect(),
            each: rows,
        }
    }

    /// Those of one matrix: one, or one per row.
    fn slice(&self, matrix: usize) -> &[f32] {
        match self.each {
            0 => &self.all,
            each => &self.all[matrix * each..][..each],
        }
    }

    fn of(&self, matrix: usize) -> Scales<&[f32]> {
        match self.each {
            0 => Scales::PerTensor(self.all[0]),
            _ => Scales::PerVector(self.slice(matrix)),
        }
    }
}
