//! What an instance costs on a device: a pure function of both.
//!
//! Every rate below is a datasheet's or another project's figure for an H100 or H200: none was measured with these kernels.
//! Bandwidth, clock and the rate of `wgmma` are those of the device's properties.

use super::instance::Instance;
use super::tile::{Tile, STAGE_K, TILES};
use crate::cuda::kernels::model::{clock, memory, Candidate, Shape, Terms};
use crate::cuda::runtime::Properties;

/// Bytes a clock from shared memory into wgmma.
const SHARED: f64 = 128.0;
/// Bytes a clock from L2 to one multiprocessor.
const L2: f64 = 46.0;
/// Clocks from the launch to the first multiply-add, and from the last store to the end.
const FIXED: f64 = 5000.0;
/// Clocks that finishing an element takes eight warps, and adding it to sums in memory.
const FINISH: f64 = 0.12;
const ADD: f64 = 0.12;
/// Steps that a part of K has at least, so that the ring pays.
const LEAST_STEPS: usize = 4;
const MOST_SPLITS: usize = 32;

/// Every tile with its best split, the quickest by the model first; never empty.
///
/// A step of a tile costs the longer of its multiply-adds (or what they read from shared memory) and its way from L2; items
/// run in rounds; what all of them read and write passes memory once. Tiles taken in turn hide all but the last epilogue.
pub fn candidates(shape: Shape, device: &Properties) -> Vec<Candidate<Instance>> {
    let steps = shape.k.div_ceil(STAGE_K).max(1);
    let best_split = |tile: &'static Tile| {
        let mut best = estimate(Instance::new(tile), shape, device);
        for splits in 2..=(steps / LEAST_STEPS).clamp(1, MOST_SPLITS) {
            let part = steps.div_ceil(splits);
            if steps.div_ceil(part) != splits {
                continue; // the last part would be empty
            }
            let choice = estimate(Instance::new(tile).with_splits(splits), shape, device);
            if choice.microseconds < best.microseconds {
                best = choice;
            }
        }
        best
    };
    let mut all: Vec<_> = TILES.iter().map(best_split).collect();
    all.sort_by(|a, b| a.microseconds.total_cmp(&b.microseconds));
    all
}

/// What an instance takes.
pub fn predict(instance: Instance, shape: Shape, device: &Properties) -> Candidate<Instance> {
    estimate(instance, shape, device)
}

fn estimate(instance: Instance, shape: Shape, device: &Properties) -> Candidate<Instance> {
    let Shape { m, n, k } = shape;
    let Instance { tile, .. } = instance;
    let splits = instance.splits.max(1);
    let part = k.div_ceil(STAGE_K).max(1).div_ceil(splits);
    let clusters = (device.multiprocessors as usize / tile.cluster).max(1);
    let (tall, wide) = tile.tiles(m, n);
    let items = tall * wide * splits;
    let rounds = items.div_ceil(clusters).max(1) as f64;

    // One wgmma is 64 x wide x 32.
    let width = tile.wide as f64;
    let wgmma =
        (64.0 * width * 32.0 / device.int8_rates().native).max((64.0 + width) * 32.0 / SHARED);
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
    let terms = Terms {
        multiply: busy / clock(device),
        memory: bytes / memory(device),
        fixed: FIXED / clock(device),
    };
    Candidate {
        instance,
        blocks: items,
        waves: items as f64 / clusters as f64,
        microseconds: terms.whole(),
        terms,
    }
}
