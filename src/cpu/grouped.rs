//! Grouped products: the blocks of all experts dealt to the threads together, so that none waits for an expert to be done.
//!
//! ```text
//!   many blocks of rows                          few (a handful of tokens)
//!   for each block of rows of an expert (a task) pack the rows of all blocks, as many as fit into the budget
//!     pack the block                             for each block and run of panels (a task)
//!     all tiles of the expert's weights            its tiles
//! ```
//!
//! What multiplies a block is what multiplies a single product's.

use super::driver::{block_rows, with_block, SERIAL};
use super::engine::{Engine, Place};
use super::groupwise::{Groups, Product};
use super::kernel::Kernel;
use super::lhs::LhsBlock;
use super::store::{Finished, OutMatrix, Output};
use super::threads::Threads;
use crate::epilogue::Resolved;
use crate::gemm::{Gemm, GroupedGemm};
use std::ops::Range;

/// Bytes of packed rows that are held at a time where blocks are few.
const PACKED_BYTES: usize = 2 << 20;
/// Elements to pack below which the calling thread does it.
const ALONE: usize = 1 << 16;

/// An expert's part in a product.
pub(super) struct Expert<'a, W> {
    /// Its rows of the left operand and of the output.
    pub rows: Range<usize>,
    pub weights: W,
    /// The epilogue, with the expert's own columns.
    pub resolved: Resolved<'a>,
}

/// The experts that take part, each with its number and its product: those that have rows, and the first, whose weights'
/// layout is asked for in any case.
pub(super) struct Members<'g> {
    pub products: Vec<(usize, Gemm<'g>)>,
    /// Widened to f32, `[E, N]`.
    pub bias: Option<Vec<f32>>,
}

impl<'g> Members<'g> {
    pub fn of(grouped: &GroupedGemm<'g>) -> Self {
        let busy = |expert: &usize| *expert == 0 || !grouped.rows_of(*expert).is_empty();
        let busy = (0..grouped.experts()).filter(busy);
        Members {
            products: busy.map(|e| (e, grouped.whole(e))).collect(),
            bias: grouped.epilogue().bias.map(|b| b.to_f32_vec()),
        }
    }
}

/// Packs rows `row0..row0 + rows` into a block.
type Fill<'a> = &'a (dyn Fn(&mut LhsBlock, usize, usize) + Sync);
/// Computes all tiles of a block that starts at a row, for the n-th expert and some columns.
type Tiles<'a> = &'a (dyn Fn(usize, &LhsBlock, usize, Range<usize>) + Sync);

/// `out = epilogue(lhs x weights)` with packed weights; the experts' rows are apart.
pub(super) fn gemm<E: Engine, O: Output>(
    engine: E,
    threads: &Threads,
    grouped: &GroupedGemm<'_>,
    experts: &[Expert<'_, &[u8]>],
    out: OutMatrix<'_, O>,
) {
    let (_, n, k) = grouped.mnk();
    let tiles = |expert: usize, block: &LhsBlock, row0: usize, cols: Range<usize>| {
        let Expert {
            weights, resolved, ..
        } = &experts[expert];
        let start = cols.start / E::LAYOUT.nr * E::LAYOUT.panel_bytes(k);
        let place = Place {
            row0,
            col0: cols.start,
            cols: cols.len(),
            resolved,
            out: &out,
        };
        // SAFETY: each task has rows or columns of its own, as the experts' rows are apart.
        unsafe { engine.tiles(block, &weights[start..], place) };
    };
    let fill = |block: &mut LhsBlock, row0: usize, rows: usize| {
        block.fill(engine, grouped.lhs(), grouped.epilogue(), row0, rows);
    };
    let spans: Vec<_> = experts.iter().map(|e| e.rows.clone()).collect();
    spread::<E>(threads, [n, k], &spans, &fill, &tiles);
}

/// The same with group-wise weights.
pub(super) fn groupwise<'o, 'e: 'o, L: Kernel, O: Finished>(
    kernel: L,
    threads: &Threads,
    grouped: &GroupedGemm<'_>,
    experts: &'o [Expert<'e, Groups<'e>>],
    out: OutMatrix<'o, O>,
) {
    let (_, n, k) = grouped.mnk();
    let tiles = |expert: usize, block: &LhsBlock, row0: usize, cols: Range<usize>| {
        let product = Product {
            kernel,
            k,
            groups: &experts[expert].weights,
            resolved: &experts[expert].resolved,
            out,
        };
        // SAFETY: as above.
        unsafe { product.tiles(block, row0, cols.start, cols.len()) };
    };
    let fill = |block: &mut LhsBlock, row0: usize, rows: usize| {
        block.fill(kernel, grouped.lhs(), grouped.epilogue(), row0, rows);
    };
    let spans: Vec<_> = experts.iter().map(|e| e.rows.clone()).collect();
    spread::<L>(threads, [n, k], &spans, &fill, &tiles);
}

/// Rows of one expert that are packed together.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Block {
    expert: usize,
    row0: usize,
    rows: usize,
}

/// Deals out the work: `spans` are the experts' rows.
fn spread<E: Engine>(
    threads: &Threads,
    [n, k]: [usize; 2],
    spans: &[Range<usize>],
    fill: Fill<'_>,
    tiles: Tiles<'_>,
) {
    let total: usize = spans.iter().map(Range::len).sum();
    if total == 0 || n == 0 {
        return;
    }
    let workers = if total * n * k.max(1) < SERIAL {
        1
    } else {
        threads.count()
    };
    let most = block_rows::<E>(k);
    // The last task to finish is waited for: several for each worker.
    let enough = total
        .div_ceil(4 * workers)
        .clamp((2 * E::MR).min(most), most);
    let whole = if E::LAYOUT.strips { E::MR } else { 1 };
    let blocks = cut(spans, enough, whole);
    if workers == 1 || blocks.len() >= 4 * workers {
        threads.run(workers, blocks.len(), &|task| {
            let Block { expert, row0, rows } = blocks[task];
            with_block(|block| {
                fill(block, row0, rows);
                tiles(expert, block, row0, 0..n);
            });
        });
        return;
    }
    let row_bytes = E::LAYOUT.groups(k) * 4;
    let mut rest = &blocks[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fit = rest.iter().take_while(|block| {
            bytes += block.rows * row_bytes;
            bytes <= PACKED_BYTES
        });
        let (now, later) = rest.split_at(fit.count().max(1));
        by_columns::<E>(threads, workers, [n, k], now, fill, tiles);
        rest = later;
    }
}

/// Blocks of few rows: all packed, then each shared by several tasks.
fn by_columns<E: Engine>(
    threads: &Threads,
    workers: usize,
    [n, k]: [usize; 2],
    blocks: &[Block],
    fill: Fill<'_>,
    tiles: Tiles<'_>,
) {
    let rows: usize = blocks.iter().map(|block| block.rows).sum();
    let packers = if rows * k < ALONE { 1 } else { workers };
    let mut packed: Vec<LhsBlock> = blocks.iter().map(|_| LhsBlock::default()).collect();
    let each: Vec<_> = packed.iter_mut().zip(blocks).collect();
    threads.run_each(packers, each, |_, (packed, block)| {
        fill(packed, block.row0, block.rows);
    });
    let panels = E::LAYOUT.panels(n);
    let parts = (4 * workers).div_ceil(blocks.len());
    let run = panels.div_ceil(parts).next_multiple_of(E::PANELS);
    let runs = panels.div_ceil(run);
    threads.run(workers, blocks.len() * runs, &|task| {
        let (at, first) = (task / runs, task % runs * run * E::LAYOUT.nr);
        let cols = first..n.min(first + run * E::LAYOUT.nr);
        tiles(blocks[at].expert, &packed[at], blocks[at].row0, cols);
    });
}

/// Each span in blocks of about the same size, at most `most` rows and `whole` of them together but for a span's last.
fn cut(spans: &[Range<usize>], most: usize, whole: usize) -> Vec<Block> {
    let mut blocks = Vec::with_capacity(spans.len());
    for (expert, span) in spans.iter().enumerate() {
        let parts = span.len().div_ceil(most).max(1);
        let rows = span.len().div_ceil(parts).next_multiple_of(whole);
        // The multiple may be one too many.
        let rows = if rows > most {
            (most / whole).max(1) * whole
        } else {
            rows
        };
        for row0 in span.clone().step_by(rows.max(1)) {
            blocks.push(Block {
                expert,
                row0,
                rows: rows.min(span.end - row0),
            });
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_every_row_once() {
        let spans = [0..0, 3..4, 4..104, 104..104, 104..137];
        for (most, whole) in [(1, 1), (7, 1), (32, 16), (40, 16), (16, 16), (1000, 16)] {
            let blocks = cut(&spans, most, whole);
            let mut next = vec![0, 3, 4, 104, 104];
            for Block { expert, row0, rows } in blocks {
                assert_eq!(row0, next[expert]);
                assert!(rows > 0 && rows <= most, "{rows} of {most}");
                next[expert] += rows;
            }
            let ends: Vec<_> = spans.iter().map(|span| span.end).collect();
            assert_eq!(next, ends, "{most} {whole}");
        }
    }
}
