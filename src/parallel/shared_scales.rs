//! Float weights whose inputs are split, quantised with the scales of the whole weight.

use super::Group;
use crate::element::{Element, FloatView};
use crate::error::Result;
use crate::numerics;
use ndarray::{Array2, ArrayView2};
use std::ops::Range;

/// Quantises `[N, range]` of a weight `[N, K]` that has one scale for each output and `size` inputs, `[N, K / size rounded
/// up]`: all of them come back, the same on every rank.
pub(super) fn quantize(
    group: &Group,
    slice: &FloatView<'_>,
    range: &Range<usize>,
    k: usize,
    size: usize,
) -> Result<(Array2<i8>, Array2<f32>)> {
    match slice {
        FloatView::F32(slice) => of(group, slice, range, k, size),
        FloatView::F16(slice) => of(group, slice, range, k, size),
        FloatView::BF16(slice) => of(group, slice, range, k, size),
    }
}

fn of<T: Element>(
    group: &Group,
    slice: &ArrayView2<'_, T>,
    range: &Range<usize>,
    k: usize,
    size: usize,
) -> Result<(Array2<i8>, Array2<f32>)> {
    let size = size.max(1);
    let n = slice.nrows();
    let at = |i: usize| (range.start + i) / size;
    let mut extents = Array2::<u32>::zeros((n, k.div_ceil(size)));
    for ((j, i), x) in slice.indexed_iter() {
        let bits = numerics::absmax([x.to_f32()]).to_bits();
        let extent = &mut extents[[j, at(i)]];
        *extent = bits.max(*extent);
    }
    group.all_reduce_max(extents.as_slice_mut().expect("row-major"))?;
    let bounds = extents.mapv(|bits| numerics::bound(f32::from_bits(bits)));
    let q = Array2::from_shape_fn(slice.dim(), |(j, i)| {
        numerics::quantize(slice[[j, i]].to_f32() * numerics::multiplier(bounds[[j, at(i)]]))
    });
    Ok((q, bounds.mapv(numerics::scale)))
}
