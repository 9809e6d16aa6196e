//! The products themselves: of integers through a backend, of anything else in float.

use super::integer_product::integer_product;
use super::operand::Operand;
use super::quantized::Quantized;
use crate::element::Element;
use crate::error::Result;
use crate::gemm::Backend;
use crate::ops::default_backend;
use crate::ops::dimension_numbers::DimensionNumbers;
use crate::ops::dot_general::{DotGeneral, Precision};
use crate::ops::float_dot_general::FloatDotGeneral;
use ndarray::{ArrayD, ArrayViewD, Axis};
use std::sync::Arc;

/// Where integer products run: the default backend, or the one given.
#[derive(Debug, Clone, Default)]
pub(super) struct Runner(pub Option<Arc<dyn Backend>>);

impl Runner {
    pub fn backend(&self) -> &dyn Backend {
        self.0
            .as_ref()
            .unwrap_or_else(|| default_backend())
            .as_ref()
    }

    /// Whether the entries of a batch may run side by side: on the default backend, which shares rayon's pool.
    pub fn parallel(&self) -> bool {
        self.0.is_none()
    }
}

/// The product of two operands that are ready, rounded once from f32; `integers` asks for int32 sums of two quantised
/// ones.
///
/// The dimension numbers have been checked.
pub(super) fn product<T: Element>(
    runner: &Runner,
    integers: bool,
    lhs: &Operand<'_, T>,
    rhs: &Operand<'_, T>,
    dims: &DimensionNumbers,
    precision: Precision,
) -> Result<ArrayD<T>> {
    if let (Operand::Float(lhs), Operand::Float(rhs)) = (lhs, rhs) {
        return FloatDotGeneral.dot_general(lhs.view(), rhs.view(), dims, precision);
    }
    match (lhs.quantized(), rhs.quantized()) {
        (Some(lhs), Some(quantized)) if integers => {
            integer_product(runner, lhs, quantized, rhs.packed(), dims)
        }
        _ => scaled_float_product(lhs, rhs, dims, precision),
    }
}

/// A float product of elements and integers, multiplied by the scales there are.
fn scaled_float_product<T: Element>(
    lhs: &Operand<'_, T>,
    rhs: &Operand<'_, T>,
    dims: &DimensionNumbers,
    precision: Precision,
) -> Result<ArrayD<T>> {
    let (l, r) = (lhs.numbers(), rhs.numbers());
    let mut out = FloatDotGeneral.dot_general(l.view(), r.view(), dims, precision)?;
    let (lhs_free, rhs_free) = (dims.lhs_free(l.ndim()), dims.rhs_free(r.ndim()));
    if let Some(Quantized { scales, .. }) = lhs.quantized() {
        out *= &on_result(scales, &dims.lhs_batch, &lhs_free, 0, rhs_free.len());
    }
    if let Some(Quantized { scales, .. }) = rhs.quantized() {
        out *= &on_result(scales, &dims.rhs_batch, &rhs_free, lhs_free.len(), 0);
    }
    Ok(out.mapv(T::from_f32))
}

/// Scales of an operand with the axes of the result: batch, `before` axes of length 1, its free axes, `after` more.
fn on_result<'a>(
    scales: &'a ArrayD<f32>,
    batch: &[usize],
    free: &[usize],
    before: usize,
    after: usize,
) -> ArrayViewD<'a, f32> {
    let mut scales = only(scales, batch, free);
    for _ in 0..before {
        scales = scales.insert_axis(Axis(batch.len()));
    }
    for _ in 0..after {
        let end = Axis(scales.ndim());
        scales = scales.insert_axis(end);
    }
    scales
}

/// Scales as `[batch.., free..]`: the contracted axes, along which they are shared, left out.
pub(super) fn only<'a>(
    scales: &'a ArrayD<f32>,
    batch: &[usize],
    free: &[usize],
) -> ArrayViewD<'a, f32> {
    let kept = [batch, free].concat();
    let contracted = (0..scales.ndim()).filter(|axis| !kept.contains(axis));
    let order = kept.iter().copied().chain(contracted).collect::<Vec<_>>();
    let mut scales = scales.view().permuted_axes(order);
    while scales.ndim() > kept.len() {
        scales = scales.index_axis_move(Axis(kept.len()), 0);
    }
    scales
}
