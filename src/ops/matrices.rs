//! The operands of a general product as batches of matrices.

use crate::ops::dimension_numbers::DimensionNumbers;
use crate::ops::rows::merge;
use ndarray::{ArrayD, ArrayView2, ArrayViewD, ArrayViewMut2, Axis, CowArray, IxDyn};

/// The contracted axes of both operands, pair by pair, in the order of the left operand's.
///
/// The order of a sum is free: this one needs the fewest copies.
pub(crate) fn contracted(dims: &DimensionNumbers) -> (Vec<usize>, Vec<usize>) {
    let pairs = dims.lhs_contracting.iter().zip(&dims.rhs_contracting);
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_unstable();
    pairs.into_iter().unzip()
}

/// An operand as `[batch.., free, contracted]`, where it lies if its strides allow it.
pub(crate) fn matrices<'a, T: Copy>(
    x: ArrayViewD<'a, T>,
    batch: &[usize],
    free: &[usize],
    contracted: &[usize],
) -> CowArray<'a, T, IxDyn> {
    let x = x.permuted_axes([batch, free, contracted].concat());
    let middle = batch.len() + free.len();
    let view = merge(x.clone(), middle..x.ndim());
    if let Some(view) = view.and_then(|x| merge(x, batch.len()..middle)) {
        return view.into();
    }
    let count = |axes: &[usize]| axes.iter().product::<usize>();
    let ends = [
        count(&x.shape()[batch.len()..middle]),
        count(&x.shape()[middle..]),
    ];
    let shape = [&x.shape()[..batch.len()], &ends].concat();
    ArrayD::from_shape_vec(shape, x.iter().copied().collect())
        .expect("as many elements")
        .into()
}

/// The matrices of `[batch.., rows, columns]`, in row-major order of the batch.
pub(crate) fn each_matrix<'a, T>(x: ArrayViewD<'a, T>) -> Vec<ArrayView2<'a, T>> {
    if x.ndim() == 2 {
        return vec![x.into_dimensionality().expect("two axes")];
    }
    let entries = 0..x.len_of(Axis(0));
    entries
        .flat_map(|i| each_matrix(x.clone().index_axis_move(Axis(0), i)))
        .collect()
}

/// Contiguous `[batch, rows, columns]` data cut into its matrices.
pub(crate) fn each_matrix_mut<T>(
    data: &mut [T],
    rows: usize,
    columns: usize,
) -> Vec<ArrayViewMut2<'_, T>> {
    data.chunks_exact_mut((rows * columns).max(1))
        .map(|m| ArrayViewMut2::from_shape((rows, columns), m).expect("as many elements"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_viewed_where_their_axes_are_evenly_spaced() {
        let x = ArrayD::<i8>::zeros(vec![2, 5, 3, 4]);
        // Attention's operands, weights either way round, and a gradient's product over all but the last axis.
        for (batch, free, contracted, viewed) in [
            (&[0, 2][..], &[1][..], &[3][..], true),
            (&[0, 2], &[3], &[1], true),
            (&[], &[0, 1, 2], &[3], true),
            (&[], &[3], &[0, 1, 2], true),
            (&[], &[0, 2], &[1, 3], false),
        ] {
            let m = matrices(x.view(), batch, free, contracted);
            assert_eq!(m.is_view(), viewed, "{batch:?} {free:?} {contracted:?}");
            assert_eq!(m.ndim(), batch.len() + 2);
        }
    }
}
