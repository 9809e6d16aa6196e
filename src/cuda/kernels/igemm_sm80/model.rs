//! What an instance costs on a device: a pure function of both.

use super::instance::{Instance, Tile, TILES};
use crate::cuda::kernels::model::{clock, memory, Candidate, Shape, Terms, LAUNCH, NEXT_LAUNCH};
use crate::cuda::runtime::Properties;

/// Bytes a clock from L2 to one multiprocessor.
const L2: f64 = 46.0;
/// Clocks before the first multiply-add and after the last: fill of the pipeline and epilogue.
const FIXED: f64 = 1500.0;

/// The best split of every tile that fits the device, the model's favourite first; never empty. `aligned`: whether operands
/// start, and their rows lie, at multiples of 16 bytes.
///
/// A block costs the longer of its multiply-adds and its reads, and its share of the epilogue; blocks run in waves.
/// Splitting K pays where blocks are fewer than multiprocessors, and costs the sums' way through memory.
pub fn candidates(shape: Shape, aligned: bool, device: &Properties) -> Vec<Candidate<Instance>> {
    let fits =
        |tile: &&Tile| tile.aligned == aligned && tile.shared() <= device.shared_memory as usize;
    let mut all: Vec<_> = TILES
        .iter()
        .filter(fits)
        .filter_map(|tile| best_split(tile, shape, device))
        .collect();
    if all.is_empty() {
        // The smallest tiles need 40 KiB, which every device since compute capability 8.0 has.
        all.push(estimate(
            Instance::new(if aligned { &TILES[0] } else { &TILES[9] }),
            shape,
            device,
        ));
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.into_iter().map(|(_, candidate)| candidate).collect()
}

/// What an instance takes.
pub fn predict(instance: Instance, shape: Shape, device: &Properties) -> Candidate<Instance> {
    estimate(instance, shape, device).1
}

fn best_split(
    tile: &'static Tile,
    shape: Shape,
    device: &Properties,
) -> Option<(f64, Candidate<Instance>)> {
    let steps = shape.k.div_ceil(tile.k).max(1);
    // At least four stages a part, so that the pipeline fills.
    let most = (steps / 4).clamp(1, 32);
    let choices = (1..=most).filter_map(|splits| {
        let part = steps.div_ceil(splits);
        // The last part must not be empty.
        let whole = splits == 1 || steps.div_ceil(part) == splits;
        let instance = Instance::new(tile).with_splits(splits);
        whole.then(|| estimate(instance, shape, device))
    });
    choices.min_by(|a, b| a.0.total_cmp(&b.0))
}

/// Clocks of a multiprocessor at full integer rate, by which instances are compared, and the candidate.
fn estimate(instance: Instance, shape: Shape, device: &Properties) -> (f64, Candidate<Instance>) {
    let Instance { tile, .. } = instance;
    let Shape { m, n, k } = shape;
    let splits = instance.splits.max(1);
    let (tiles, outputs) = (m.div_ceil(tile.m) * n.div_ceil(tile.n), m * n);
    let part = k.div_ceil(tile.k).max(1).div_ceil(splits);
    let multiprocessors = f64::from(device.multiprocessors.max(1));
    let blocks = tiles * splits;
    let depth = (part * tile.k) as f64;
    let multiply = (tile.m * tile.n) as f64 * depth / device.int8_rates().mma;
    let read = (tile.m + tile.n) as f64 * depth / L2;
    let epilogue = (tile.m * tile.n * 4) as f64 / L2;
    // Blocks beside each other on a multiprocessor share its rates.
    let waves = (blocks as f64 / multiprocessors).ceil();
    let mut clocks = waves * (multiply.max(read) + epilogue) + FIXED;
    if splits > 1 {
        // Written once and read once, by all multiprocessors, in another launch.
        clocks += 2.0 * (outputs * 4 * splits) as f64 / (L2 * multiprocessors) + FIXED;
    }
    // Operands and a result of two bytes once, and the sums' way there and back.
    let moved = if splits > 1 { 8 * splits } else { 0 };
    let memory = (m * k + n * k + (2 + moved) * outputs) as f64 / memory(device);
    let launches = LAUNCH + if splits > 1 { NEXT_LAUNCH } else { 0.0 };
    let terms = Terms {
        multiply: (clocks - FIXED) / clock(device),
        memory,
        fixed: launches,
    };
    let candidate = Candidate {
        instance,
        blocks,
        waves: blocks as f64 / (multiprocessors * tile.blocks as f64),
        microseconds: terms.whole(),
        terms,
    };
    (clocks, candidate)
}
