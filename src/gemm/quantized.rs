//! Products as int8 with one scale a row.

use super::Gemm;
use crate::element::{DType, OutputMut};
use crate::error::{Error, Result};
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

/// Whether such an output fits the product.
pub(crate) fn check(gemm: &Gemm<'_>, out: (usize, usize), scales: &[f32]) -> Result<()> {
    if gemm.epilogue.out_scale.is_some() {
        return Err(Error::Epilogue {
            what: "an out_scale",
            output: DType::I8,
            expected: "none: each row gets its own",
        });
    }
    // Rows in f32 are contiguous; the integers go anywhere.
    gemm.check_output(out, (0, 1), DType::F32)?;
    if scales.len() != out.0 {
        return Err(Error::Length {
            what: "row scales of the output",
            found: scales.len(),
            expected: out.0,
        });
    }
    Ok(())
}

/// Computes a few rows in f32 with `product` and hands them to `each`, until all are done.
pub(crate) fn gemm(
    gemm: &Gemm<'_>,
    mut out: ArrayViewMut2<'_, i8>,
    scales: &mut [f32],
    product: impl Fn(&Gemm<'_>, OutputMut<'_>) -> Result<()>,
    each: impl Fn(Vec<Row<'_>>),
) -> Result<()> {
    check(gemm, out.dim(), scales)?;
    let (m, n) = out.dim();
    let strip = (STRIP_BYTES / 4 / n.max(1))
        .min(STRIP_ROWS)
        .clamp(1, m.max(1));
    let mut floats = Array2::<f32>::zeros((strip, n));
    // Once without rows too: weights of another layout are refused there.
    for first in (0..m.max(1)).step_by(strip) {
        let rows = strip.min(m - first);
        let mut floats = floats.slice_mut(s![..rows, ..]);
        product(&gemm.rows(first, rows), OutputMut::F32(floats.view_mut()))?;
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
