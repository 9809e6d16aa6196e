//! Many axes seen as one, without copying where the strides allow it.

use ndarray::{
    Array2, ArrayBase, ArrayD, ArrayViewD, ArrayViewMut2, ArrayViewMutD, Axis, CowArray,
};
use ndarray::{Ix2, IxDyn, RawData};
use rayon::prelude::*;
use std::ops::Range;

/// Makes one axis of `axes`, in logical order, when they are evenly spaced; `None` when they are not.
///
/// No axes make one of length 1.
pub(crate) fn merge<S: RawData>(
    mut x: ArrayBase<S, IxDyn>,
    axes: Range<usize>,
) -> Option<ArrayBase<S, IxDyn>> {
    if axes.is_empty() {
        return Some(x.insert_axis(Axis(axes.start)));
    }
    if x.is_empty() {
        let mut shape = x.shape().to_vec();
        let merged = shape.drain(axes.clone()).product();
        shape.insert(axes.start, merged);
        return x.into_shape_with_order(shape).ok();
    }
    for last in axes.skip(1).rev() {
        if !x.merge_axes(Axis(last - 1), Axis(last)) {
            return None;
        }
        x = x.index_axis_move(Axis(last - 1), 0);
    }
    Some(x)
}

/// `[.., K]` as `[rows, K]`, rows in logical order: a view when the leading axes are evenly spaced, else a copy.
///
/// The operand needs at least one axis.
pub(crate) fn as_rows<T: Copy>(x: ArrayViewD<'_, T>) -> CowArray<'_, T, Ix2> {
    let leading = 0..x.ndim() - 1;
    if let Some(view) = merge(x.clone(), leading.clone()) {
        if let Ok(view) = view.into_dimensionality::<Ix2>() {
            return view.into();
        }
    }
    let (rows, columns) = (
        x.shape()[leading.clone()].iter().product(),
        x.shape()[leading.end],
    );
    let data = x.iter().copied().collect();
    Array2::from_shape_vec((rows, columns), data)
        .expect("as many elements")
        .into()
}

/// The same for an output, which can't be a copy.
pub(crate) fn as_rows_mut<T>(x: ArrayViewMutD<'_, T>) -> Option<ArrayViewMut2<'_, T>> {
    let leading = 0..x.ndim() - 1;
    merge(x, leading)?.into_dimensionality().ok()
}

/// The same array with its axes in another order, in row-major layout.
pub(crate) fn in_order<T: Copy + Default + Send + Sync>(
    x: ArrayD<T>,
    axes: Vec<usize>,
) -> ArrayD<T> {
    let x = x.permuted_axes(axes);
    if x.is_standard_layout() {
        return x;
    }
    // A few rows at a time, so that the lines of memory that are read for one serve the next ones too.
    const ROWS: usize = 32;
    let mut out = ArrayD::default(x.raw_dim());
    let parts = out.axis_chunks_iter_mut(Axis(0), ROWS);
    let parts: Vec<_> = parts.zip(x.axis_chunks_iter(Axis(0), ROWS)).collect();
    parts
        .into_par_iter()
        .for_each(|(mut out, x)| out.assign(&x));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{s, Array3};

    fn numbers(shape: &[usize]) -> ArrayD<i32> {
        let n = shape.iter().product::<usize>() as i32;
        ArrayD::from_shape_vec(shape, (0..n).collect()).unwrap()
    }

    #[test]
    fn evenly_spaced_axes_are_viewed_and_others_copied() {
        let x = numbers(&[2, 3, 4]);
        let reversed = x.slice(s![..;-1, ..;-1, ..]).into_dyn();
        let gaps = x.slice(s![.., ..2, ..]).into_dyn();
        let swapped = x.view().permuted_axes(vec![1, 0, 2]);
        let point = x.view().index_axis_move(Axis(0), 1);
        for (x, viewed) in [
            (x.view(), true),
            (reversed, true),
            (gaps, false),
            (swapped, false),
            (point, true),
        ] {
            let rows = as_rows(x.clone());
            assert_eq!(rows.is_view(), viewed);
            assert!(rows.iter().eq(x.iter()));
        }
    }

    #[test]
    fn empty_and_missing_axes_work() {
        for shape in [&[0, 3, 4][..], &[2, 0, 4], &[2, 3, 0], &[4], &[0]] {
            let x = numbers(shape);
            let rows = as_rows(x.view());
            let leading: usize = shape[..shape.len() - 1].iter().product();
            assert_eq!(rows.dim(), (leading, shape[shape.len() - 1]));
        }
        let mut x = Array3::<i32>::zeros((0, 3, 4));
        assert_eq!(as_rows_mut(x.view_mut().into_dyn()).unwrap().dim(), (0, 4));
    }

    #[test]
    fn axes_are_put_in_order_by_parts() {
        let x = numbers(&[3, 70, 2]);
        for axes in [vec![1, 0, 2], vec![2, 1, 0], vec![0, 1, 2]] {
            let want = x.clone().permuted_axes(axes.clone());
            let got = in_order(x.clone(), axes);
            assert!(got.is_standard_layout() && got == want);
        }
        assert_eq!(in_order(numbers(&[0, 4]), vec![1, 0]).shape(), [4, 0]);
    }
}
