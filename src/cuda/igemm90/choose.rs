//! Which instance, and into how many parts K is split: a pure function of problem and device.
//!
//! Every rate below is a datasheet's or another project's figure for an H100 or H200: none was measured with these kernels.

use super::tile::{Tile90, STAGE_K, TILES90};
use super::Igemm90;
use crate::cuda::Properties;
use std::fmt;

/// An instance and a split, with what spoke for them.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Choice90 {
    /// What to launch.
    pub igemm: Igemm90,
    /// Tiles times parts of K.
    pub items: usize,
    /// Rounds of items, as a fraction.
    pub waves: f64,
    /// The model's estimate, in microseconds.
    pub microseconds: f64,
}

impl fmt::Display for Choice90 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "igemm_sm90 {} split {}: {} items, {:.2} waves, {:.1} us by the model",
            self.igemm.tile.name, self.igemm.splits, self.items, self.waves, self.microseconds
        )
    }
}

/// Clocks a microsecond under load.
const CLOCK: f64 = 1700.0;
/// Multiply-adds a clock of one multiprocessor: 1979 TOPS over 132 of them at 1.83 GHz.
const RATE: f64 = 4096.0;
/// Bytes a clock from shared memory into wgmma.
const SHARED: f64 = 128.0;
/// Bytes a clock from L2 to one multiprocessor.
const L2: f64 = 46.0;
/// Bytes a clock from memory to the whole device: 4.3 TB/s.
const MEMORY: f64 = 4.3e6 / CLOCK;
/// Clocks from the launch to the first multiply-add, and from the last store to the end.
const FIXED: f64 = 5000.0;
/// Clocks that finishing an element takes eight warps, and adding it to sums in memory.
const FINISH: f64 = 0.12;
const ADD: f64 = 0.12;
/// Steps that a part of K has at least, so that the ring pays.
const LEAST_STEPS: usize = 4;
const MOST_SPLITS: usize = 32;

/// The choice for `[m, k] x [k, n]`: the first of [`candidates90`].
pub fn choose90(m: usize, n: usize, k: usize, device: &Properties) -> Choice90 {
    // One for each instance, of which there are some.
    candidates90(m, n, k, device)[0]
}

/// Every instance with its best split, the quickest by the model first: what tuning would measure.
///
/// A step of a tile costs the longer of its multiply-adds (or what they read from shared memory) and its way from L2; items
/// run in rounds; what all of them read and write passes memory once. Tiles taken in turn hide all but the last epilogue.
pub fn candidates90(m: usize, n: usize, k: usize, device: &Properties) -> Vec<Choice90> {
    let steps = k.div_ceil(STAGE_K).max(1);
    let best_split = |tile: &'static Tile90| {
        let mut best = estimate(tile, 1, steps, [m, n, k], device);
        for splits in 2..=(steps / LEAST_STEPS).clamp(1, MOST_SPLITS) {
            let part = steps.div_ceil(splits);
            if steps.div_ceil(part) != splits {
                continue; // the last part would be empty
            }
            let choice = estimate(tile, splits, part, [m, n, k], device);
            if choice.microseconds < best.microseconds {
                best = choice;
            }
        }
        best
    };
    let mut all: Vec<_> = TILES90.iter().map(best_split).collect();
    all.sort_by(|a, b| a.microseconds.total_cmp(&b.microseconds));
    all
}

/// The estimate for an instance and a split of choice.
pub(in crate::cuda) fn predict90(
    igemm: Igemm90,
    shape: [usize; 3],
    device: &Properties,
) -> Choice90 {
    let steps = shape[2].div_ceil(STAGE_K).max(1);
    let splits = igemm.splits.max(1);
    estimate(igemm.tile, splits, steps.div_ceil(splits), shape, device)
}

fn estimate(
    tile: &'static Tile90,
    splits: usize,
    part: usize,
    [m, n, k]: [usize; 3],
    device: &Properties,
) -> Choice90 {
    let clusters = (device.multiprocessors as usize / tile.cluster).max(1);
    let (tall, wide) = tile.tiles(m, n);
    let items = tall * wide * splits;
    let rounds = items.div_ceil(clusters).max(1) as f64;

    // One wgmma is 64 x wide x 32.
    let width = tile.wide as f64;
    let wgmma = (64.0 * width * 32.0 / RATE).max((64.0 + width) * 32.0 / SHARED);
    let multiply = wgmma * (tile.tall / 64 * STAGE_K / 32) as f64;
    let load = ((tile.tall + tile.wide / tile.cluster) * STAGE_K) as f64 / L2;
    let main = part as f64 * multiply.max(load);
    // The rows that a narrow product does not have are not finished.
    let outputs = (tile.tall * tile.wide) as f64 * (m * n) as f64
        / ((tall * tile.cluster * tile.tall * wide * tile.wide).max(1)) as f64;
    let mut finish = outputs * FINISH;
    if splits > 1 {
        finish += outputs * ADD;
    }
    let busy = if tile.pingpong {
        // The other warpgroup multiplies meanwhile, where there is a next item.
        rounds * main.max(finish) + finish
    } else {
        rounds * (main + finish)
    };
    // Operands and outputs once; the sums of a split as often as it adds to them, and to take them.
    let added = if splits > 1 { 4 * (splits + 2) } else { 0 };
    let bytes = (m * k + n * k + (2 + added) * m * n) as f64;
    // Neither hides behind the other altogether.
    let memory = bytes / MEMORY;
    let clocks = busy.max(memory) + 0.1 * busy.min(memory) + FIXED;
    Choice90 {
        igemm: Igemm90 {
            tile,
            splits,
            multiprocessors: None,
            weights_ready: false,
        },
        items,
        waves: items as f64 / clusters as f64,
        microseconds: clocks / CLOCK,
    }
}
