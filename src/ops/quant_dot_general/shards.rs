//! A contraction cut into parts that are multiplied on their own and added in float.

use super::fields::ProductFields;
use crate::error::{Error, Result};
use crate::ops::dimension_numbers::DimensionNumbers;
use ndarray::{ArrayD, Axis, CowArray, IxDyn};

/// The dimension numbers of a product cut along its first contracted axis: the parts are the first batch axis.
///
/// `None` when there is nothing to cut.
pub(super) fn cut_dims(
    dims: &DimensionNumbers,
    shards: usize,
    fields: &ProductFields,
    lhs: &[usize],
) -> Result<Option<DimensionNumbers>> {
    let Some(&axis) = dims.lhs_contracting.first().filter(|_| shards > 1) else {
        return Ok(None);
    };
    if !lhs[axis].is_multiple_of(shards) {
        return Err(Error::Value {
            what: fields.shards,
            found: shards.to_string(),
            expected: format!("a divisor of the contracted length {}", lhs[axis]),
        });
    }
    let (lhs_contracting, lhs_batch) = cut_axes(&dims.lhs_contracting, &dims.lhs_batch);
    let (rhs_contracting, rhs_batch) = cut_axes(&dims.rhs_contracting, &dims.rhs_batch);
    Ok(Some(DimensionNumbers {
        lhs_contracting,
        rhs_contracting,
        lhs_batch,
        rhs_batch,
    }))
}

/// The axes of one operand after its first contracted axis `a` became `a` (parts) and `a + 1` (within a part).
pub(super) fn cut_axes(contracting: &[usize], batch: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let first = contracting[0];
    let moved = |&axis: &usize| axis + usize::from(axis >= first);
    let batches = batch.iter().map(moved);
    (
        contracting.iter().map(moved).collect(),
        std::iter::once(first).chain(batches).collect(),
    )
}

/// Where an operand is cut, and into how many parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub axis: usize,
    pub shards: usize,
}

/// An operand cut where `cut` says so; copied for that when it is not in row-major order.
pub(super) fn cut_at<'a, T: Clone>(
    x: CowArray<'a, T, IxDyn>,
    cut: Option<Cut>,
) -> CowArray<'a, T, IxDyn> {
    let Some(Cut { axis, shards }) = cut else {
        return x;
    };
    let mut shape = x.shape().to_vec();
    shape[axis] /= shards;
    shape.insert(axis, shards);
    let x = if x.is_standard_layout() {
        x
    } else {
        x.as_standard_layout().into_owned().into()
    };
    x.into_shape_with_order(shape).expect("as many elements")
}

/// The sum of the parts `[shards, ..]`, one after the other.
pub(super) fn add(parts: ArrayD<f32>) -> ArrayD<f32> {
    let mut parts = parts.axis_iter(Axis(0));
    let first = parts.next().expect("at least one part");
    parts.fold(first.to_owned(), |sum, part| sum + &part)
}
