//! Which instance, and into how many parts K is split: a pure function of problem and device.

use super::tile::{Tile, TILES};
use super::Igemm;
use crate::cuda::device::Properties;
use std::fmt;

/// What the choice needs to know of a device.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Dynamic shared memory that a block may have, in bytes.
    pub shared: usize,
    /// Clocks a microsecond.
    pub clock: f64,
    /// Bytes a microsecond to and from memory.
    pub memory: f64,
}

impl From<&Properties> for Limits {
    fn from(properties: &Properties) -> Self {
        let or = |found: u32, unknown: f64| if found > 0 { f64::from(found) } else { unknown };
        Limits {
            multiprocessors: properties.multiprocessors as usize,
            shared: properties.shared_memory as usize,
            // A driver that does not say: those of an A100.
            clock: or(properties.clock, 1410.0),
            memory: or(properties.bandwidth, 1.555e6),
        }
    }
}

/// An instance and a split, with what spoke for them.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Choice {
    /// The instance.
    pub tile: &'static Tile,
    /// Parts of K, each a block's.
    pub splits: usize,
    /// Blocks of the launch.
    pub blocks: usize,
    /// Rounds in which the device runs them.
    pub waves: f64,
    /// The model's estimate, in clocks of a multiprocessor at full integer rate; for comparing choices alone.
    pub clocks: f64,
    /// The model's estimate of the whole in microseconds, launch and memory included.
    pub microseconds: f64,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "igemm_sm80 {} split {}: {} blocks, {:.2} waves, {:.1} us by the model",
            self.tile.name, self.splits, self.blocks, self.waves, self.microseconds
        )
    }
}

/// Multiply-adds a clock that one multiprocessor's tensor cores do (sm_80).
const RATE: f64 = 2048.0;
/// Bytes a clock from L2 to one multiprocessor.
const L2: f64 = 46.0;
/// Clocks before the first multiply-add and after the last: fill of the pipeline and epilogue.
const FIXED: f64 = 1500.0;
/// Microseconds from a launch to the first multiply-add, and what one more kernel behind it takes.
pub(in crate::cuda) const LAUNCH: f64 = 2.9;
pub(in crate::cuda) const NEXT_LAUNCH: f64 = 1.5;

/// The choice for `[m, k] x [k, n]`, `aligned` operands or not.
///
/// A block costs the longer of its multiply-adds and its reads, and its share of the epilogue; blocks run in waves.
/// Splitting K pays where blocks are fewer than multiprocessors, and costs the sums' way through memory.
pub fn choose(m: usize, n: usize, k: usize, aligned: bool, limits: Limits) -> Choice {
    let best = per_tile(m, n, k, aligned, limits).min_by(|a, b| a.clocks.total_cmp(&b.clocks));
    // The smallest tiles need 40 KiB, which every device since compute capability 8.0 has.
    best.unwrap_or_else(|| estimate(&TILES[0], 1, [m, n, k], limits))
}

/// The estimate for an instance and a split of choice.
pub(in crate::cuda) fn predict(igemm: Igemm, shape: [usize; 3], limits: Limits) -> Choice {
    estimate(igemm.tile, igemm.splits.max(1), shape, limits)
}

/// The best choices of several instances, the model's favourite first: what is worth measuring.
pub(in crate::cuda) fn candidates(
    m: usize,
    n: usize,
    k: usize,
    aligned: bool,
    limits: Limits,
) -> Vec<Choice> {
    let mut all: Vec<_> = per_tile(m, n, k, aligned, limits).collect();
    all.sort_by(|a, b| a.clocks.total_cmp(&b.clocks));
    all
}

/// The best split of every instance that fits the device.
fn per_tile(
    m: usize,
    n: usize,
    k: usize,
    aligned: bool,
    limits: Limits,
) -> impl Iterator<Item = Choice> {
    let fits = move |tile: &&Tile| tile.aligned == aligned && tile.shared() <= limits.shared;
    TILES.iter().filter(fits).filter_map(move |tile| {
        let steps = k.div_ceil(tile.k).max(1);
        // At least four stages a part, so that the pipeline fills.
        let most = (steps / 4).clamp(1, 32);
        let choices = (1..=most).filter_map(|splits| {
            let part = steps.div_ceil(splits);
            // The last part must not be empty.
            let whole = splits == 1 || steps.div_ceil(part) == splits;
            whole.then(|| estimate(tile, splits, [m, n, k], limits))
        });
        choices.min_by(|a, b| a.clocks.total_cmp(&b.clocks))
    })
}

fn estimate(tile: &'static Tile, splits: usize, [m, n, k]: [usize; 3], limits: Limits) -> Choice {
    let (tiles, outputs) = (m.div_ceil(tile.m) * n.div_ceil(tile.n), m * n);
    let part = k.div_ceil(tile.k).max(1).div_ceil(splits);
    let sms = limits.multiprocessors.max(1) as f64;
    let blocks = tiles * splits;
    let depth = (part * tile.k) as f64;
    let multiply = (tile.m * tile.n) as f64 * depth / RATE;
    let read = (tile.m + tile.n) as f64 * depth / L2;
    let epilogue = (tile.m * tile.n * 4) as f64 / L2;
    // Blocks beside each other on a multiprocessor share its rates.
    let waves = (blocks as f64 / sms).ceil();
    let mut clocks = waves * (multiply.max(read) + epilogue) + FIXED;
    if splits > 1 {
        // Written once and read once, by all multiprocessors, in another launch.
        clocks += 2.0 * (outputs * 4 * splits) as f64 / (L2 * sms) + FIXED;
    }
    // Operands and a result of two bytes once, and the sums' way there and back.
    let moved = if splits > 1 { 8 * splits } else { 0 };
    let memory = (m * k + n * k + (2 + moved) * outputs) as f64 / limits.memory;
    let launches = LAUNCH + if splits > 1 { NEXT_LAUNCH } else { 0.0 };
    let busy = (clocks - FIXED) / limits.clock;
    Choice {
        tile,
        splits,
        blocks,
        waves: blocks as f64 / (sms * tile.blocks as f64),
        clocks,
        // Neither hides behind the other altogether.
        microseconds: launches + busy.max(memory) + 0.1 * busy.min(memory),
    }
}
