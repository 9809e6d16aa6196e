//! Weights with one scale for each group of K and each column: the same kernels, run a group at a time.
//!
//! ```text
//!   K ->  | group 0        | group 1        | ... | last, may be shorter |
//!         | i32 tile       | i32 tile       |     | i32 tile             |    exact
//!              * scale[0][n]    * scale[1][n]           * scale[G-1][n]      v = fma(f32(sum), scale, v), in this order
//! ```
//!
//! A packed panel holds whole groups of KR consecutive k one after the other, and so do packed rows: a group of scales is
//! a range of both.

use super::driver::{by_columns, with_block};
use super::kernel::{Kernel, Trailing, ACC};
use super::lhs::{LhsBlock, LhsPanel};
use super::store::{convert, Finished, OutMatrix};
use super::threads::Threads;
use crate::epilogue::{Resolved, Tile};
use crate::gemm::Gemm;
use ndarray::ArrayView2;

/// Packed int8 weights with their scales.
pub(crate) struct Groups<'a> {
    /// K a group: a multiple of 4.
    pub size: usize,
    /// Panels of the kernel's layout.
    pub bytes: &'a [u8],
    /// `[K / size rounded up, N]`, in row-major order.
    pub scales: ArrayView2<'a, f32>,
}

/// What the tiles of a product share.
pub(super) struct Product<'a, 'e, L, O> {
    pub kernel: L,
    pub k: usize,
    pub groups: &'a Groups<'e>,
    pub resolved: &'a Resolved<'e>,
    pub out: OutMatrix<'a, O>,
}

/// `out = epilogue(lhs x weights)`.
pub(crate) fn gemm<'a, L: Kernel, O: Finished>(
    kernel: L,
    threads: &Threads,
    gemm: &Gemm<'_>,
    groups: &'a Groups<'a>,
    resolved: &'a Resolved<'a>,
    out: OutMatrix<'a, O>,
) {
    let (m, n, k) = gemm.mnk();
    if m == 0 || n == 0 {
        return;
    }
    let product = Product {
        kernel,
        k,
        groups,
        resolved,
        out,
    };
    let workers = threads.count();
    let rows = 4 * L::MR;
    if m > rows {
        threads.run(workers, m.div_ceil(rows), &|task| {
            let row0 = task * rows;
            with_block(|block| {
                let rows = rows.min(m - row0);
                block.fill(kernel, &gemm.lhs, &gemm.epilogue, row0, rows);
                // SAFETY: each task has rows of its own.
                unsafe { product.tiles(block, row0, 0, n) };
            });
        });
        return;
    }
    with_block(|block| {
        block.fill(kernel, &gemm.lhs, &gemm.epilogue, 0, m);
        let block = &*block;
        by_columns::<L>(threads, workers, n, &|panel0, cols| {
            // SAFETY: each task has columns of its own.
            unsafe { product.tiles(block, 0, panel0 * L::LAYOUT.nr, cols) };
        });
    });
}

impl<L: Kernel, O: Finished> Product<'_, '_, L, O> {
    /// All tiles of a block of rows and of `cols` columns from `col0` on, the first of a panel.
    ///
    /// # Safety
    /// No other thread writes these rows and columns of the output at the same time.
    pub unsafe fn tiles(&self, block: &LhsBlock, row0: usize, col0: usize, cols: usize) {
        let nr = L::LAYOUT.nr;
        let mut finished = [O::default(); ACC];
        for panel in block.panels() {
            let starts = self.starts(&panel);
            for first in (0..cols).step_by(nr) {
                let tile = Tile {
                    row: row0 + panel.row,
                    col: col0 + first,
                    rows: panel.m,
                    cols: nr.min(cols - first),
                    nr,
                    scales: panel.scales,
                    zero_points: panel.zero_points,
                };
                let mut sums = [0f32; ACC];
                self.sums(&panel, &starts, &tile, &mut sums);
                self.kernel.vectorize(
                    #[inline(always)]
                    || self.resolved.groupwise(&tile, &mut sums),
                );
                convert(self.kernel, self.resolved, &tile, &sums, &mut finished);
                let halved = |columns| self.resolved.halved(columns);
                let columns = (halved(tile.col), halved(tile.cols));
                let from = finished.as_ptr();
                // SAFETY: copied before `finished` is written again; the elements are of the rows and columns that the
                // caller vouches for.
                unsafe { self.out.trailing(from, nr, (tile.row, tile.rows), columns) }.copy();
            }
        }
    }

    /// Where the sums of each group and row start: -128 times the row's sum over the group, for weights stored plus 128.
    fn starts(&self, panel: &LhsPanel<'_>) -> Vec<i32> {
        let size = self.groups.size;
        let mut starts = vec![0; self.k.div_ceil(size) * panel.m];
        if !L::LAYOUT.biased {
            return starts;
        }
        assert_eq!(L::LAYOUT.kr, 4, "a biased word holds four bytes");
        let words = size / 4;
        for (g, starts) in starts.chunks_mut(panel.m).enumerate() {
            let end = ((g + 1) * words * panel.m).min(panel.words.len());
            for words in panel.words[g * words * panel.m..end].chunks(panel.m) {
                for (start, word) in starts.iter_mut().zip(words) {
                    let sum: i32 = word.to_ne_bytes().iter().map(|b| i32::from(*b as i8)).sum();
                    *start -= 128 * sum;
                }
            }
        }
        starts
    }

    /// One tile: its exact sums group by group, scaled and added up in f32.
    #[inline(always)]
    fn sums(&self, panel: &LhsPanel<'_>, starts: &[i32], tile: &Tile<'_>, sums: &mut [f32; ACC]) {
        let (nr, kr, m) = (L::LAYOUT.nr, L::LAYOUT.kr, panel.m);
        let all = L::LAYOUT.groups(self.k);
        let bytes = &self.groups.bytes[tile.col / nr * L::LAYOUT.panel_bytes(self.k)..];
        let words = self.groups.size / kr;
        let mut acc = [0i32; ACC];
        let acc = &mut acc[..m * nr];
        for (g, scales) in self.groups.scales.outer_iter().enumerate() {
            let (from, to) = (g * words, ((g + 1) * words).min(all));
            let lhs = &panel.words[from * m..to * m];
            let rhs = &bytes[from * nr * kr..to * nr * kr];
            let starts = &starts[g * m..][..m];
            self.kernel
                .tile(m, to - from, lhs, rhs, starts, acc, Trailing::NONE);
            let scales = &scales.to_slice().expect("row-major")[tile.col..tile.col + tile.cols];
            self.kernel.vectorize(
                #[inline(always)]
                || {
                    for i in 0..m {
                        let sums = &mut sums[i * nr..][..tile.cols];
                        let acc = &acc[i * nr..][..tile.cols];
                        for ((v, a), s) in sums.iter_mut().zip(acc).zip(scales) {
                            *v = (*a as f32).mul_add(*s, *v);
                        }
                    }
                },
            );
        }
    }
}
