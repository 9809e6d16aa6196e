//! The output: finished tiles, written by many threads into one matrix.

use super::leaf::{Leaf, Target};
use super::lhs::LhsPanel;
use crate::element::Element;
use crate::epilogue::Resolved;
use crate::numerics;
use ndarray::ArrayViewMut2;
use std::marker::PhantomData;

/// An output type: how finished sums become its elements.
pub(crate) trait Output: Copy + Send + Sync + 'static {
    /// Finishes the sums of one row segment into `out`.
    fn finish(epilogue: &Resolved<'_>, at: Segment, acc: &mut [i32], out: &mut [Self]);
}

/// Where a row segment lies, and its row's constants.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub row: usize,
    pub col: usize,
    pub scale: f32,
    pub zero_point: i32,
}

/// Columns finished at a time: the widest panel.
const WIDTH: usize = 32;

macro_rules! float_output {
    ($($t:ty),*) => {$(
        impl Output for $t {
            #[inline(always)]
            fn finish(epilogue: &Resolved<'_>, at: Segment, acc: &mut [i32], out: &mut [Self]) {
                let mut row = [0f32; WIDTH];
                epilogue.row(at.row, at.col, at.scale, at.zero_point, acc, &mut row);
                for (o, x) in out.iter_mut().zip(&row) {
                    *o = <$t as Element>::from_f32(*x);
                }
            }
        }
    )*};
}
float_output!(half::f16, half::bf16);

impl Output for i8 {
    #[inline(always)]
    fn finish(epilogue: &Resolved<'_>, at: Segment, acc: &mut [i32], out: &mut [Self]) {
        let mut row = [0f32; WIDTH];
        epilogue.row(at.row, at.col, at.scale, at.zero_point, acc, &mut row);
        for (o, x) in out.iter_mut().zip(&row) {
            *o = numerics::quantize(x * epilogue.out_multiplier);
        }
    }
}

impl Output for i32 {
    #[inline(always)]
    fn finish(epilogue: &Resolved<'_>, at: Segment, acc: &mut [i32], out: &mut [Self]) {
        epilogue.correct(at.col, at.zero_point, acc);
        copy(acc, out);
    }
}

impl Output for f32 {
    #[inline(always)]
    fn finish(epilogue: &Resolved<'_>, at: Segment, acc: &mut [i32], out: &mut [Self]) {
        epilogue.row(at.row, at.col, at.scale, at.zero_point, acc, out);
    }
}

/// Copies as many elements as `to` has, a register at a time: a call of memcpy would cost more than 128 bytes do.
#[inline(always)]
fn copy<T: Copy>(from: &[T], to: &mut [T]) {
    let from = &from[..to.len()];
    let (to, to_rest) = to.as_chunks_mut::<16>();
    let (from, from_rest) = from.as_chunks::<16>();
    for (t, f) in to.iter_mut().zip(from) {
        *t = *f;
    }
    for (t, f) in to_rest.iter_mut().zip(from_rest) {
        *t = *f;
    }
}

/// A matrix with contiguous rows that several threads write, each its own tiles.
#[derive(Clone, Copy)]
pub(crate) struct OutMatrix<'a, O> {
    start: *mut O,
    row_stride: isize,
    rows: usize,
    cols: usize,
    life: PhantomData<&'a mut O>,
}

// SAFETY: the matrix is borrowed exclusively for 'a, and `segment`'s contract keeps writers apart.
unsafe impl<O: Send> Send for OutMatrix<'_, O> {}
// SAFETY: as above.
unsafe impl<O: Send> Sync for OutMatrix<'_, O> {}

impl<'a, O: Output> OutMatrix<'a, O> {
    /// Takes a view whose columns are contiguous (checked by the contract; here once more).
    pub fn new(mut view: ArrayViewMut2<'a, O>) -> Self {
        let (rows, cols) = view.dim();
        assert!(rows == 0 || cols <= 1 || view.strides()[1] == 1);
        OutMatrix {
            start: view.as_mut_ptr(),
            row_stride: view.strides()[0],
            rows,
            cols,
            life: PhantomData,
        }
    }

    /// The columns from `col` on, as a matrix of their own.
    pub fn columns_from(self, col: usize) -> Self {
        assert!(col <= self.cols);
        OutMatrix {
            // `wrapping_add` because an empty matrix may have a dangling start.
            start: self.start.wrapping_add(col),
            cols: self.cols - col,
            ..self
        }
    }

    /// Where a tile will be stored, as a hint for the leaf that computes it.
    #[inline(always)]
    pub fn target(&self, row: usize, col: usize, cols: usize) -> Target {
        let start = self.start.wrapping_offset(row as isize * self.row_stride);
        Target {
            start: start.wrapping_add(col).cast(),
            stride: self.row_stride * size_of::<O>() as isize,
            bytes: cols * size_of::<O>(),
        }
    }

    /// Elements `col..col + len` of a row.
    ///
    /// # Safety
    /// No two live segments overlap.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    unsafe fn segment(&self, row: usize, col: usize, len: usize) -> &mut [O] {
        assert!(row < self.rows && col + len <= self.cols);
        // SAFETY: row and columns were just checked against the matrix, whose rows are contiguous, and the caller
        // keeps segments apart.
        unsafe {
            let start = self.start.offset(row as isize * self.row_stride).add(col);
            std::slice::from_raw_parts_mut(start, len)
        }
    }
}

/// Finishes a tile: rows `row0..` of the output for the panel's rows, columns `col..col + cols`.
///
/// # Safety
/// No other thread writes these elements at the same time.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn store_tile<L: Leaf, O: Output>(
    leaf: L,
    epilogue: &Resolved<'_>,
    panel: &LhsPanel<'_>,
    row0: usize,
    col: usize,
    cols: usize,
    acc: &mut [i32],
    out: &OutMatrix<'_, O>,
) {
    leaf.vectorize(
        #[inline(always)]
        || {
            for (i, acc) in acc.chunks_exact_mut(L::LAYOUT.nr).take(panel.m).enumerate() {
                let at = Segment {
                    row: row0 + i,
                    col,
                    scale: panel.scales[i],
                    zero_point: panel.zero_points[i],
                };
                // SAFETY: rows of one tile are distinct, and the caller vouches for the tile.
                let out = unsafe { out.segment(at.row, col, cols) };
                O::finish(epilogue, at, &mut acc[..cols], out);
            }
        },
    );
}
