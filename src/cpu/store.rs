//! The output: finished tiles, written by many threads into one matrix.

use super::kernel::{Kernel, Trailing, ACC};
use crate::element::Element;
use crate::epilogue::{Resolved, Tile};
use crate::numerics;
use ndarray::ArrayViewMut2;
use std::marker::PhantomData;

/// An output type: how finished sums become its elements.
pub(crate) trait Output: Copy + Default + Send + Sync + 'static {
    /// The sums are the output: `finish` corrects them where they are, and leaves `out` alone.
    const IN_PLACE: bool = false;

    /// Finishes the sums of a tile into `out`; each row into the first half of its columns when gated.
    fn finish<L: Kernel>(
        kernel: L,
        epilogue: &Resolved<'_>,
        tile: &Tile<'_>,
        acc: &mut [i32],
        out: &mut [Self; ACC],
    );
}

/// An output that is made of finished floats, one by one.
pub(crate) trait Finished: Output {
    /// What a finished float becomes.
    fn finished(epilogue: &Resolved<'_>, v: f32) -> Self;
}

/// Finishes a tile in f32: compiled once a kernel, not once more for each type of the output.
#[inline(never)]
fn floats<L: Kernel>(
    kernel: L,
    epilogue: &Resolved<'_>,
    tile: &Tile<'_>,
    acc: &mut [i32],
    out: &mut [f32; ACC],
) {
    kernel.vectorize(
        #[inline(always)]
        || epilogue.tile(tile, acc, out),
    );
}

/// Makes outputs of a tile's finished floats.
pub(crate) fn convert<L: Kernel, O: Finished>(
    kernel: L,
    epilogue: &Resolved<'_>,
    tile: &Tile<'_>,
    floats: &[f32; ACC],
    out: &mut [O; ACC],
) {
    let used = tile.rows * tile.nr;
    let (floats, out) = (&floats[..used], &mut out[..used]);
    kernel.vectorize(
        #[inline(always)]
        || {
            for (o, x) in out.iter_mut().zip(floats) {
                *o = O::finished(epilogue, *x);
            }
        },
    );
}

macro_rules! by_floats {
    ($($t:ty, $finished:expr;)*) => {$(
        impl Finished for $t {
            #[inline(always)]
            fn finished(epilogue: &Resolved<'_>, v: f32) -> Self {
                $finished(epilogue, v)
            }
        }
        impl Output for $t {
            fn finish<L: Kernel>(
                kernel: L,
                epilogue: &Resolved<'_>,
                tile: &Tile<'_>,
                acc: &mut [i32],
                out: &mut [Self; ACC],
            ) {
                let mut all = [0f32; ACC];
                floats(kernel, epilogue, tile, acc, &mut all);
                convert(kernel, epilogue, tile, &all, out);
            }
        }
    )*};
}
by_floats! {
    half::f16, |_, v| Element::from_f32(v);
    half::bf16, |_, v| Element::from_f32(v);
    i8, |epilogue: &Resolved<'_>, v: f32| numerics::quantize(v * epilogue.out_multiplier);
}

impl Finished for f32 {
    #[inline(always)]
    fn finished(_: &Resolved<'_>, v: f32) -> Self {
        v
    }
}

impl Output for f32 {
    fn finish<L: Kernel>(
        kernel: L,
        epilogue: &Resolved<'_>,
        tile: &Tile<'_>,
        acc: &mut [i32],
        out: &mut [Self; ACC],
    ) {
        floats(kernel, epilogue, tile, acc, out);
    }
}

impl Output for i32 {
    const IN_PLACE: bool = true;

    fn finish<L: Kernel>(
        kernel: L,
        epilogue: &Resolved<'_>,
        tile: &Tile<'_>,
        acc: &mut [i32],
        _: &mut [Self; ACC],
    ) {
        if epilogue.col_sums.is_some() {
            kernel.vectorize(
                #[inline(always)]
                || epilogue.correct(tile, acc),
            );
        }
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

    /// Where some rows and columns start, and the bytes from a row to the next: for sums that are the output, when these don't
    /// lie backwards.
    #[inline(always)]
    pub fn rows_of_sums(
        &self,
        (row, rows): (usize, usize),
        (col, cols): (usize, usize),
    ) -> Option<(*mut u8, usize)> {
        assert!(O::IN_PLACE && row + rows <= self.rows && col + cols <= self.cols);
        let stride = usize::try_from(self.row_stride).ok()?;
        let at = self.start.wrapping_add(row * stride + col);
        Some((at.cast(), stride * size_of::<O>()))
    }

    /// A finished tile that trails: `rows` rows of `cols` elements from `from` on, NR apart, which belong at
    /// (`row`, `col`).
    ///
    /// # Safety
    /// Until the value is no longer used `from` holds the tile, and nobody else reads or writes these elements here.
    #[inline(always)]
    pub unsafe fn trailing(
        &self,
        from: *const O,
        nr: usize,
        (row, rows): (usize, usize),
        (col, cols): (usize, usize),
    ) -> Trailing {
        assert!(row + rows <= self.rows && col + cols <= self.cols);
        let to = self.start.wrapping_offset(row as isize * self.row_stride);
        let (element, to) = (size_of::<O>(), to.wrapping_add(col));
        let to_stride = self.row_stride * element as isize;
        // SAFETY: rows and columns were just checked against the matrix, whose rows are contiguous; the rest is the
        // caller's.
        unsafe {
            Trailing::new(
                from.cast(),
                nr * element,
                to.cast(),
                to_stride,
                rows,
                cols * element,
            )
        }
    }
}

/// Finishes a tile; where its rows then start, NR elements apart: in `finished`, or in `acc`.
pub(crate) fn finish_tile<L: Kernel, O: Output>(
    kernel: L,
    epilogue: &Resolved<'_>,
    tile: &Tile<'_>,
    acc: &mut [i32],
    finished: &mut [O; ACC],
) -> *const O {
    O::finish(kernel, epilogue, tile, acc, finished);
    if O::IN_PLACE {
        acc.as_ptr().cast()
    } else {
        finished.as_ptr()
    }
}
