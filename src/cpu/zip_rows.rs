//! Panels of a row-major source: KR rows are zipped into words, eight rows through all panels before the next.
//!
//! ```text
//!   row k    [c0 c1 .. ][ panel 1 ][ panel 2 ] ...     read from end to end, eight rows side by side
//!   row k+1  [c0 c1 .. ][ panel 1 ][ panel 2 ] ...
//!               |            |
//!   out      panel 0: groups of NR words      panel 1: its groups      ...     each written in whole cache lines
//! ```
//!
//! A few streams are what the hardware reads ahead of: going down a panel reads a piece of each row instead, and every piece
//! lies in another page.

use super::kernel::Layout;
use super::prefetch;
use super::rhs::{contiguous, Source};
use ndarray::ArrayView2;

/// Rows that go through all panels before the next.
const ROWS: usize = 8;

/// Some panels of a row-major source, from column `col0` on.
pub(crate) struct Panels<'a, 's, T> {
    pub layout: Layout,
    /// As [`Kernel::ASKS_AHEAD`](super::kernel::Kernel::ASKS_AHEAD).
    pub asks_ahead: bool,
    pub source: &'a ArrayView2<'s, T>,
    pub col0: usize,
    /// One a column; of integers there may be none.
    pub multipliers: &'a [f32],
}

impl<T: Source> Panels<'_, '_, T> {
    /// Packs as many as `out` has room for.
    #[inline(always)]
    pub fn zip_rows(&self, out: &mut [u8]) {
        // Widths as constants, so that the loops over columns become vectors.
        match self.layout.nr {
            32 => self.zip_rows_of::<32>(out),
            16 => self.zip_rows_of::<16>(out),
            _ => self.zip_rows_of::<8>(out),
        }
    }

    #[inline(always)]
    fn zip_rows_of<const NR: usize>(&self, out: &mut [u8]) {
        let Layout { nr, kr, biased, .. } = self.layout;
        assert_eq!(nr, NR);
        let (k, n) = self.source.dim();
        let panel_bytes = self.layout.panel_bytes(k);
        let panels = out.len() / panel_bytes;
        let flip = if biased { 0x80 } else { 0 };
        // A column that holds NaN or infinity has NaN or zero for a multiplier.
        let finite = self.multipliers.iter().all(|m| m.is_finite() && *m > 0.0);
        let whole = match finite {
            true => panels.min((n - self.col0) / NR),
            false => 0,
        };
        for rows in 0..k / ROWS {
            if kr == 4 {
                self.whole_groups::<NR, 4, { ROWS / 4 }>(rows * ROWS, whole, flip, out);
            } else {
                self.whole_groups::<NR, 2, { ROWS / 2 }>(rows * ROWS, whole, flip, out);
            }
        }
        let done = k / ROWS * (ROWS / kr);
        for (p, out) in out.chunks_exact_mut(panel_bytes).enumerate() {
            // The end of K, or all of it.
            let from = if p < whole { done } else { 0 };
            let first = p * NR;
            let columns = (self.col0 + first, NR.min(n - self.col0 - first));
            let mut scale = [1f32; NR];
            let known = self.multipliers.get(first..).unwrap_or(&[]);
            let known = &known[..known.len().min(columns.1)];
            scale[..known.len()].copy_from_slice(known);
            for (g, out) in out.chunks_exact_mut(NR * kr).enumerate().skip(from) {
                self.edge_group(g, columns, &scale, flip, out);
            }
        }
    }

    /// G groups of KR rows from row `k` on through the first `whole` panels, whose columns are all there and finite.
    #[inline(always)]
    fn whole_groups<const NR: usize, const KR: usize, const G: usize>(
        &self,
        k: usize,
        whole: usize,
        flip: u8,
        out: &mut [u8],
    ) {
        let panel_bytes = self.layout.panel_bytes(self.source.nrows());
        let (scales, _) = self.multipliers.as_chunks::<NR>();
        let ones = [1f32; NR];
        let mut rows: [[&[[T; NR]]; KR]; G] = [[&[]; KR]; G];
        for (r, row) in rows.as_flattened_mut().iter_mut().enumerate() {
            let all = contiguous(self.source, k + r);
            *row = &all[self.col0..][..whole * NR].as_chunks().0[..whole];
        }
        let far = ROWS as isize * self.source.strides()[0];
        for p in 0..whole {
            if self.asks_ahead {
                for row in rows.as_flattened() {
                    let far = row[p].as_ptr().wrapping_offset(far);
                    prefetch::all(far.cast(), size_of::<[T; NR]>());
                }
            }
            let scale = scales.get(p).unwrap_or(&ones);
            let out = &mut out[p * panel_bytes + k * NR..][..G * NR * KR];
            for (g, out) in out.chunks_exact_mut(NR * KR).enumerate() {
                let mut lines = [&rows[g][0][p]; KR];
                for (line, row) in lines.iter_mut().zip(&rows[g]) {
                    *line = &row[p];
                }
                zip(lines, scale, flip, T::quantize_finite, out);
            }
        }
    }

    /// A group of one panel where columns are missing, K ends within the group, or a column is not finite.
    #[inline(always)]
    fn edge_group<const NR: usize>(
        &self,
        group: usize,
        (first, cols): (usize, usize),
        scale: &[f32; NR],
        flip: u8,
        out: &mut [u8],
    ) {
        let (k, kr) = (self.source.nrows(), self.layout.kr);
        // Beyond K and beyond the last column, zeros.
        let mut edge = [[T::default(); NR]; 4];
        for (edge, row) in edge.iter_mut().zip(group * kr..k).take(kr) {
            edge[..cols].copy_from_slice(&contiguous(self.source, row)[first..first + cols]);
        }
        let [r0, r1, r2, r3] = &edge;
        if kr == 4 {
            zip([r0, r1, r2, r3], scale, flip, T::quantize, out);
        } else {
            zip([r0, r1], scale, flip, T::quantize, out);
        }
    }
}

/// Word `j` of `out` = the KR rows' integers of column `j`, in order.
#[inline(always)]
fn zip<T: Source, const NR: usize, const KR: usize>(
    rows: [&[T; NR]; KR],
    scale: &[f32; NR],
    flip: u8,
    quantize: impl Fn(T, f32) -> i8,
    out: &mut [u8],
) {
    const { assert!(KR == 2 || KR == 4) };
    let q = |r: usize, j: usize| quantize(rows[r][j], scale[j]) as u8 ^ flip;
    // (As words, so that columns are lanes.)
    if KR == 4 {
        let words: &mut [[u8; 4]; NR] = words(out);
        for (j, word) in words.iter_mut().enumerate() {
            let q = |r: usize| u32::from(q(r, j)) << (8 * r);
            *word = (q(0) | q(1) | q(2) | q(3)).to_le_bytes();
        }
    } else {
        let words: &mut [[u8; 2]; NR] = words(out);
        for (j, word) in words.iter_mut().enumerate() {
            let q = |r: usize| u16::from(q(r, j)) << (8 * r);
            *word = (q(0) | q(1)).to_le_bytes();
        }
    }
}

/// A group's bytes as one word a column.
#[inline(always)]
fn words<const NR: usize, const KR: usize>(group: &mut [u8]) -> &mut [[u8; KR]; NR] {
    let (words, _) = group.as_chunks_mut();
    words.try_into().expect("a group of NR words")
}
