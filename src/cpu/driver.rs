//! The loops: who computes which tiles, in which order.
//!
//! ```text
//!   many rows                              few rows
//!   for each block of rows (a task)        pack all rows once
//!     pack the block (fits half of L2)     for each run of panels (a task)
//!     for each panel of weights              for each panel of weights
//!       for each panel of rows: a tile         for each panel of rows: a tile
//! ```
//!
//! K is never split: a tile's sums stay in registers from the first product to the epilogue, and a panel of
//! weights is read from memory once a block. Weights that are used once are packed by the task that reads
//! them when all rows fit one block, so that they stay in its cache.

use super::aligned::AlignedBytes;
use super::leaf::{Leaf, Trailing, ACC};
use super::lhs::LhsBlock;
use super::rhs::{self, Source, Staging};
use super::store::{finish_tile, OutMatrix, Output};
use super::threads::Threads;
use crate::epilogue::{Epilogue, Host, Resolved, Scales};
use crate::gemm::Lhs;
use ndarray::ArrayView2;
use std::cell::RefCell;

/// Bytes of packed rows that a task holds: half of a typical L2, the rest is for weights.
const BLOCK_BYTES: usize = 384 << 10;

/// What a thread keeps between tasks, up to this many bytes each.
const KEEP_BYTES: usize = 2 << 20;

/// Products below this many multiply-adds stay on the calling thread.
const SERIAL: usize = 1 << 19;

thread_local! {
    static BLOCK: RefCell<LhsBlock> = RefCell::default();
    static PANELS: RefCell<(AlignedBytes, Staging)> = RefCell::new((AlignedBytes::zeroed(0), Staging::default()));
}

/// Rows a block: a multiple of MR whose packed words fit [`BLOCK_BYTES`], at least one panel.
fn block_rows<L: Leaf>(k: usize) -> usize {
    let row_bytes = (L::LAYOUT.groups(k) * 4).max(1);
    (BLOCK_BYTES / row_bytes / L::MR).clamp(1, 64) * L::MR
}

/// Whether all rows go into one block.
pub(crate) fn one_block<L: Leaf>(m: usize, k: usize) -> bool {
    m <= block_rows::<L>(k)
}

/// `out = epilogue(lhs x weights)` with packed weights.
#[allow(clippy::too_many_arguments)]
pub(crate) fn gemm<L: Leaf, O: Output>(
    leaf: L,
    threads: &Threads,
    lhs: &Lhs<'_>,
    epilogue: &Epilogue<Host<'_>>,
    resolved: &Resolved<'_>,
    weights: &[u8],
    out: OutMatrix<'_, O>,
    n: usize,
) {
    let (m, k) = lhs.dim();
    if m == 0 || n == 0 {
        return;
    }
    let workers = if m * n * k.max(1) < SERIAL {
        1
    } else {
        threads.count()
    };
    let max_rows = block_rows::<L>(k);
    // Enough rows for every worker to have two panels of its own: split rows.
    if m > max_rows || (workers > 1 && m >= 2 * L::MR * workers) {
        // Four tasks a worker where there are rows for it (the last one to finish is waited for), and the same
        // number for each.
        let wanted = if m >= 8 * L::MR * workers {
            4 * workers
        } else {
            workers
        };
        let tasks = m
            .div_ceil(max_rows)
            .max(if workers > 1 { wanted } else { 1 });
        let rows = m.div_ceil(tasks.next_multiple_of(workers));
        threads.run(workers, m.div_ceil(rows), |task| {
            let row0 = task * rows;
            let rows = rows.min(m - row0);
            with_block(|block| {
                block.fill(leaf, lhs, epilogue, row0, rows);
                // SAFETY: each task has rows of its own.
                unsafe { tiles(leaf, block, row0, weights, 0, n, resolved, &out) };
            });
        });
        return;
    }
    with_block(|block| {
        block.fill(leaf, lhs, epilogue, 0, m);
        let block = &*block;
        by_columns::<L>(threads, workers, n, |panel0, cols| {
            let start = panel0 * L::LAYOUT.panel_bytes(k);
            // SAFETY: each task has columns of its own.
            unsafe {
                tiles(
                    leaf,
                    block,
                    0,
                    &weights[start..],
                    panel0 * L::LAYOUT.nr,
                    cols,
                    resolved,
                    &out,
                )
            };
        });
    });
}

/// `out = epilogue(lhs x source)` where all rows fit one block and the weights are used once: each task packs
/// its own panels. The epilogue has no parts by column but the scales found here.
pub(crate) fn gemm_once<L: Leaf, T: Source, O: Output>(
    leaf: L,
    threads: &Threads,
    lhs: &Lhs<'_>,
    source: &ArrayView2<'_, T>,
    scaled: bool,
    out: OutMatrix<'_, O>,
) {
    let (m, k) = lhs.dim();
    let n = source.ncols();
    if m == 0 || n == 0 {
        return;
    }
    let workers = if n * k < SERIAL / 8 {
        1
    } else {
        threads.count()
    };
    let epilogue = Epilogue::default();
    with_block(|block| {
        block.fill(leaf, lhs, &epilogue, 0, m);
        let block = &*block;
        by_columns::<L>(threads, workers, n, |panel0, cols| {
            PANELS.with_borrow_mut(|(bytes, staging)| {
                // A few panels at a time, so that they are still in L2 when they are read.
                let run = (256 * 1024 / L::LAYOUT.panel_bytes(k).max(1)).clamp(1, 8) * L::LAYOUT.nr;
                let (first, end) = (panel0 * L::LAYOUT.nr, panel0 * L::LAYOUT.nr + cols);
                for col0 in (first..end).step_by(run) {
                    let cols = run.min(end - col0);
                    let (mut multipliers, mut scales) = ([1f32; 8 * 32], [1f32; 8 * 32]);
                    let (multipliers, scales) = (&mut multipliers[..cols], &mut scales[..cols]);
                    if scaled {
                        rhs::column_scales(leaf, source, col0, multipliers, scales);
                    }
                    bytes.resize(L::LAYOUT.panels(cols) * L::LAYOUT.panel_bytes(k));
                    rhs::pack(
                        leaf,
                        source,
                        col0,
                        multipliers,
                        staging,
                        bytes.as_mut_slice(),
                    );
                    let resolved = Resolved {
                        col_scales: if scaled {
                            Scales::PerVector(scales)
                        } else {
                            Scales::None
                        },
                        ..Resolved::default()
                    };
                    let out = out.columns_from(col0);
                    // SAFETY: each task has columns of its own.
                    unsafe { tiles(leaf, block, 0, bytes.as_slice(), 0, cols, &resolved, &out) };
                }
                if bytes.capacity_bytes() > KEEP_BYTES {
                    *bytes = AlignedBytes::zeroed(0);
                }
            });
        });
    });
}

/// Packs a whole source; the multipliers of its columns are known, or empty for integers.
pub(crate) fn pack<L: Leaf, T: Source>(
    leaf: L,
    threads: &Threads,
    source: &ArrayView2<'_, T>,
    scaled: bool,
) -> (AlignedBytes, Vec<f32>) {
    let (k, n) = source.dim();
    let panel_bytes = L::LAYOUT.panel_bytes(k);
    let mut bytes = AlignedBytes::zeroed(L::LAYOUT.panels(n) * panel_bytes);
    let mut scales = vec![1f32; n];
    // Four panels a task: strips of whole cache lines a row, and work enough to share.
    let cols = 4 * L::LAYOUT.nr;
    let workers = if n * k < SERIAL / 8 {
        1
    } else {
        threads.count()
    };
    let chunk_bytes = (4 * panel_bytes).max(1);
    let tasks: Vec<_> = if panel_bytes == 0 {
        scales
            .chunks_mut(cols)
            .map(|s| (s, [].as_mut_slice()))
            .collect()
    } else {
        scales
            .chunks_mut(cols)
            .zip(bytes.as_mut_slice().chunks_mut(chunk_bytes))
            .collect()
    };
    threads.run_each(workers, tasks, |task, (scales, out)| {
        let col0 = task * cols;
        let mut multipliers = [1f32; 4 * 32];
        let multipliers = &mut multipliers[..scales.len()];
        if scaled {
            rhs::column_scales(leaf, source, col0, multipliers, scales);
        }
        PANELS.with_borrow_mut(|(_, staging)| {
            rhs::pack(leaf, source, col0, multipliers, staging, out)
        });
    });
    (bytes, scales)
}

/// Deals runs of panels to workers: `f(first panel, columns)`.
pub(super) fn by_columns<L: Leaf>(
    threads: &Threads,
    workers: usize,
    n: usize,
    f: impl Fn(usize, usize) + Sync,
) {
    let panels = L::LAYOUT.panels(n);
    let run = if workers == 1 {
        panels
    } else {
        panels.div_ceil(workers * 4)
    };
    threads.run(workers, panels.div_ceil(run), |task| {
        let panel0 = task * run;
        let first = panel0 * L::LAYOUT.nr;
        f(panel0, (run * L::LAYOUT.nr).min(n - first));
    });
}

/// All tiles of a block of rows and of `cols` columns of packed panels; `col0` is the first one's column in the
/// product: in the epilogue and, where that does not pair columns, in `out`.
///
/// # Safety
/// No other thread writes these rows and columns of `out` at the same time.
#[allow(clippy::too_many_arguments)]
unsafe fn tiles<L: Leaf, O: Output>(
    leaf: L,
    block: &LhsBlock,
    row0: usize,
    weights: &[u8],
    col0: usize,
    cols: usize,
    resolved: &Resolved<'_>,
    out: &OutMatrix<'_, O>,
) {
    let nr = L::LAYOUT.nr;
    let panel_bytes = block.groups() * nr * L::LAYOUT.kr;
    // Two tiles of sums in turn: where the sums are the output, one trails while the next is computed.
    let mut sums = [[0i32; ACC]; 2];
    let mut turn = 0;
    let mut finished = [O::default(); ACC];
    let mut trailing = Trailing::NONE;
    for p in 0..L::LAYOUT.panels(cols) {
        let weights = &weights[p * panel_bytes..][..panel_bytes];
        let (col, width) = (col0 + p * nr, nr.min(cols - p * nr));
        for panel in block.panels() {
            let acc = &mut sums[turn][..panel.m * nr];
            turn ^= 1;
            leaf.tile(
                panel.m,
                block.groups(),
                panel.words,
                weights,
                panel.init,
                acc,
                trailing,
            );
            let row = row0 + panel.row;
            let from = finish_tile(leaf, resolved, &panel, row, col, width, acc, &mut finished);
            // SAFETY: these sums and `finished` are next written after the tile that copies them, and the elements
            // lie in the rows and columns that the caller vouches for.
            trailing = unsafe {
                let cols = (resolved.halved(col), resolved.halved(width));
                out.trailing(from, nr, (row, panel.m), cols)
            };
        }
    }
    trailing.copy();
}

pub(super) fn with_block<R>(f: impl FnOnce(&mut LhsBlock) -> R) -> R {
    // Taken out while in use: a task may run another one (rayon steals while it waits).
    let mut block = BLOCK.take();
    let result = f(&mut block);
    if block.capacity_bytes() <= KEEP_BYTES {
        BLOCK.set(block);
    }
    result
}
