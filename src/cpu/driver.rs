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
//! No task splits K: a tile's sums stay in registers from the first product to the epilogue (AMX cuts K within a block, where
//! it is long, and goes along the rows of the output: `amx/blocking.rs`), and weights are read from memory once a block. Weights that are used once are packed by the task that reads
//! them when all rows fit one block, so that they stay in its cache.

use super::aligned::AlignedBytes;
use super::caches::caches;
use super::engine::{Engine, Place};
use super::kernel::STRIP_ROWS;
use super::lhs::LhsBlock;
use super::rhs::{self, Source, Staging};
use super::store::{OutMatrix, Output};
use super::threads::Threads;
use crate::epilogue::{Epilogue, Host, Resolved, Scales};
use crate::gemm::Lhs;
use ndarray::ArrayView2;
use std::cell::RefCell;

/// Bytes of packed strips that a task holds where half of the second level is room for too few rows: the tiles then work
/// on a part of K at a time.
const STRIPS_BYTES: usize = 5 << 19;
/// Rows that are enough for the weights' way from memory not to be waited for by the tiles, and those that they get at most.
const STRIPS_ROWS: usize = 256;
const STRIPS_MOST: usize = 1024;

/// What a thread keeps between tasks, up to this many bytes each.
const KEEP_BYTES: usize = 3 << 20;

/// Products below this many multiply-adds stay on the calling thread.
pub(super) const SERIAL: usize = 1 << 19;

/// Columns that are packed at a time, at most.
const RUN_MOST: usize = 1024;

thread_local! {
    static BLOCK: RefCell<LhsBlock> = RefCell::default();
    static PANELS: RefCell<(AlignedBytes, Staging)> = RefCell::new((AlignedBytes::zeroed(0), Staging::default()));
}

/// Rows a block: a multiple of what is packed together whose packed words fit the budget, at least that many.
pub(super) fn block_rows<E: Engine>(k: usize) -> usize {
    let row_bytes = (E::LAYOUT.groups(k) * 4).max(1);
    // Half of the second level; the rest is for weights and the output.
    let resident = caches().second / 2 / row_bytes;
    if !E::LAYOUT.strips {
        return (resident / E::MR).clamp(1, 64) * E::MR;
    }
    let rows = if resident >= STRIPS_ROWS {
        resident.min(STRIPS_MOST)
    } else {
        let large = STRIPS_BYTES / row_bytes;
        large.min(STRIPS_ROWS + STRIPS_ROWS / 4).max(resident)
    };
    match rows / E::MR {
        0 => STRIP_ROWS,
        panels => panels * E::MR,
    }
}

/// Rows a task: the same number for each, and several tasks a worker where there are rows for it, as the last one to finish
/// is waited for.
fn task_rows<E: Engine>(m: usize, workers: usize, max_rows: usize) -> usize {
    let enough = if E::LAYOUT.strips {
        STRIPS_ROWS
    } else {
        2 * E::MR
    };
    let several: &[usize] = if E::LAYOUT.strips { &[4, 2] } else { &[4] };
    let each = several.iter().find(|each| m >= **each * enough * workers);
    let wanted = if workers > 1 {
        each.unwrap_or(&1) * workers
    } else {
        1
    };
    let tasks = m.div_ceil(max_rows).max(wanted);
    let rows = m.div_ceil(tasks.next_multiple_of(workers));
    if E::LAYOUT.strips {
        rows.next_multiple_of(E::MR).min(max_rows)
    } else {
        rows
    }
}

/// Whether all rows go into one block.
pub(crate) fn one_block<E: Engine>(m: usize, k: usize) -> bool {
    m <= block_rows::<E>(k)
}

/// `out = epilogue(lhs x weights)` with packed weights.
#[allow(clippy::too_many_arguments)]
pub(crate) fn gemm<E: Engine, O: Output>(
    engine: E,
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
    let max_rows = block_rows::<E>(k);
    // Enough rows for every worker to have two panels of its own: split rows.
    if m > max_rows || (workers > 1 && m >= 2 * E::MR * workers) {
        let rows = task_rows::<E>(m, workers, max_rows);
        threads.run(workers, m.div_ceil(rows), &|task| {
            let row0 = task * rows;
            let rows = rows.min(m - row0);
            with_block(|block| {
                block.fill(engine, lhs, epilogue, row0, rows);
                let place = Place {
                    row0,
                    col0: 0,
                    cols: n,
                    resolved,
                    out: &out,
                };
                // SAFETY: each task has rows of its own.
                unsafe { engine.tiles(block, weights, place) };
            });
        });
        return;
    }
    with_block(|block| {
        block.fill(engine, lhs, epilogue, 0, m);
        let block = &*block;
        by_columns::<E>(threads, workers, n, &|panel0, cols| {
            let start = panel0 * E::LAYOUT.panel_bytes(k);
            let place = Place {
                row0: 0,
                col0: panel0 * E::LAYOUT.nr,
                cols,
                resolved,
                out: &out,
            };
            // SAFETY: each task has columns of its own.
            unsafe { engine.tiles(block, &weights[start..], place) };
        });
    });
}

/// Columns of a source that are packed at a time: as many as stay in the second level until they are read, packed where
/// rows are contiguous, which are read from end to end at best; else as floats, which are read twice.
fn run_columns<E: Engine, T: Source>(source: &ArrayView2<'_, T>) -> usize {
    let k = source.nrows();
    let panel = if rhs::row_major(source) {
        E::LAYOUT.panel_bytes(k)
    } else {
        k * E::LAYOUT.nr * size_of::<T>()
    };
    let fit = caches().second / 2 / panel.max(1);
    let panels = fit.next_multiple_of(E::PANELS).max(E::PANELS);
    (panels * E::LAYOUT.nr).min(RUN_MOST)
}

/// `out = epilogue(lhs x source)` where all rows fit one block and the weights are used once: each task packs
/// its own panels. The epilogue has no parts by column but the scales found here.
pub(crate) fn gemm_once<E: Engine, T: Source, O: Output>(
    engine: E,
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
        block.fill(engine, lhs, &epilogue, 0, m);
        let block = &*block;
        by_columns::<E>(threads, workers, n, &|panel0, cols| {
            PANELS.with_borrow_mut(|(bytes, staging)| {
                let run = run_columns::<E, T>(source);
                let (first, end) = (panel0 * E::LAYOUT.nr, panel0 * E::LAYOUT.nr + cols);
                for col0 in (first..end).step_by(run) {
                    let cols = run.min(end - col0);
                    let (mut multipliers, mut scales) = ([1f32; RUN_MOST], [1f32; RUN_MOST]);
                    let (multipliers, scales) = (&mut multipliers[..cols], &mut scales[..cols]);
                    if scaled {
                        rhs::column_scales(engine.kernel(), source, col0, multipliers, scales);
                    }
                    bytes.resize(E::LAYOUT.panels(cols) * E::LAYOUT.panel_bytes(k));
                    rhs::pack(
                        engine,
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
                    let place = Place {
                        row0: 0,
                        col0: 0,
                        cols,
                        resolved: &resolved,
                        out: &out.columns_from(col0),
                    };
                    // SAFETY: each task has columns of its own.
                    unsafe { engine.tiles(block, bytes.as_slice(), place) };
                }
                if bytes.capacity_bytes() > KEEP_BYTES {
                    *bytes = AlignedBytes::zeroed(0);
                }
            });
        });
    });
}

/// Packs a whole source; the multipliers of its columns are known, or empty for integers.
pub(crate) fn pack<E: Engine, T: Source>(
    engine: E,
    threads: &Threads,
    source: &ArrayView2<'_, T>,
    scaled: bool,
) -> (AlignedBytes, Vec<f32>) {
    let (k, n) = source.dim();
    let panel_bytes = E::LAYOUT.panel_bytes(k);
    let mut bytes = AlignedBytes::zeroed(E::LAYOUT.panels(n) * panel_bytes);
    let mut scales = vec![1f32; n];
    let workers = if n * k < SERIAL / 8 {
        1
    } else {
        threads.count()
    };
    // Long pieces of contiguous rows, which are read twice from end to end; of others few columns, which stay near.
    // Some tasks a worker in any case.
    let most = if rhs::row_major(source) {
        RUN_MOST
    } else {
        4 * E::LAYOUT.nr
    };
    let share = if workers == 1 { n } else { n / (4 * workers) };
    let panels = (share.min(most) / E::LAYOUT.nr).max(4);
    let cols = panels * E::LAYOUT.nr;
    let chunk_bytes = (panels * panel_bytes).max(1);
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
        let mut multipliers = [1f32; RUN_MOST];
        let multipliers = &mut multipliers[..scales.len()];
        if scaled {
            rhs::column_scales(engine.kernel(), source, col0, multipliers, scales);
        }
        PANELS.with_borrow_mut(|(_, staging)| {
            rhs::pack(engine, source, col0, multipliers, staging, out)
        });
    });
    (bytes, scales)
}

/// Deals runs of panels to workers: `f(first panel, columns)`.
pub(super) fn by_columns<E: Engine>(
    threads: &Threads,
    workers: usize,
    n: usize,
    f: &(dyn Fn(usize, usize) + Sync),
) {
    let panels = E::LAYOUT.panels(n);
    let run = if workers == 1 {
        panels
    } else {
        panels.div_ceil(workers * 4).next_multiple_of(E::PANELS)
    };
    threads.run(workers, panels.div_ceil(run), &|task| {
        let panel0 = task * run;
        let first = panel0 * E::LAYOUT.nr;
        f(panel0, (run * E::LAYOUT.nr).min(n - first));
    });
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
