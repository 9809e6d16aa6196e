//! Products as int8 with one scale a row: a few rows at a time in f32, quantised while they are in the cache.

use crate::element::OutputMut;
use crate::error::Result;
use crate::numerics;
use ndarray::{s, Array2, ArrayViewMut1, ArrayViewMut2, Axis};

/// Floats that are held at a time, in bytes; one row at least.
const STRIP_BYTES: usize = 4 << 20;
/// Rows that are held at a time, so that short ones need few places too.
const STRIP_ROWS: usize = 4096;

/// A finished row and what it becomes.
pub(crate) struct Row<'a> {
    floats: &'a [f32],
    scale: &'a mut f32,
    out: ArrayViewMut1<'a, i8>,
}

impl Row<'_> {
    /// Quantises it with its own scale.
    #[inline(always)]
    pub fn quantize(self) {
        let Row {
            floats,
            scale,
            mut out,
        } = self;
        *scale = match out.as_slice_mut() {
            Some(out) => numerics::quantize_row(floats, out, || ()),
            None => {
                let mut row = vec![0; floats.len()];
                let scale = numerics::quantize_row(floats, &mut row, || ());
                out.iter_mut().zip(row).for_each(|(to, q)| *to = q);
                scale
            }
        };
    }
}

/// Has a few rows computed in f32 by `product(first, end, place)` and hands them to `each`, until all are done. The output was
/// checked.
pub(crate) fn strips(
    mut out: ArrayViewMut2<'_, i8>,
    scales: &mut [f32],
    product: impl Fn(usize, usize, OutputMut<'_>) -> Result<()>,
    each: impl Fn(Vec<Row<'_>>),
) -> Result<()> {
    let (m, n) = out.dim();
    let strip = (STRIP_BYTES / 4 / n.max(1))
        .min(STRIP_ROWS)
        .clamp(1, m.max(1));
    let mut floats = Array2::<f32>::zeros((strip, n));
    // Once without rows too: weights of another layout are refused there.
    for first in (0..m.max(1)).step_by(strip) {
        let rows = strip.min(m - first);
        let mut floats = floats.slice_mut(s![..rows, ..]);
        product(first, first + rows, OutputMut::F32(floats.view_mut()))?;
        let mut out = out.slice_mut(s![first..first + rows, ..]);
        let rows = out
            .axis_iter_mut(Axis(0))
            .zip(&mut scales[first..first + rows]);
        let rows = rows.zip(floats.outer_iter());
        let rows = rows.map(|((out, scale), floats)| Row {
            floats: floats.to_slice().expect("a row of a row-major matrix"),
            scale,
            out,
        });
        each(rows.collect());
    }
    Ok(())
}
