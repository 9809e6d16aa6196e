//! A tile with a split of K.

use super::tile::{by_name, Tile, STAGE_K, TILES};
use crate::cuda::kernels::model::{split_name, write_name};
use crate::epilogue::Output;
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// A tile and the parts of K for one product: one of the [`candidates`](super::candidates()), or named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// The tile.
    pub tile: &'static Tile,
    /// Parts into which K is split, at least 1. The sums are exact, so every split gives the same bits.
    pub splits: usize,
    /// Multiprocessors that the launch may fill, all where `None`: what is left runs other kernels beside it.
    pub multiprocessors: Option<usize>,
    /// Whether the weights were complete before the kernel ahead on the stream started, which is so for those of a layer:
    /// they are then read while it still runs. Where that kernel writes them this must be false, or the product is of
    /// old bytes.
    pub weights_ready: bool,
}

impl Instance {
    /// A tile, K in one part, on all multiprocessors, weights read when the kernel ahead is done.
    pub const fn new(tile: &'static Tile) -> Self {
        Instance {
            tile,
            splits: 1,
            multiprocessors: None,
            weights_ready: false,
        }
    }

    /// The same with K in so many parts.
    pub const fn with_splits(self, splits: usize) -> Self {
        Instance { splits, ..self }
    }

    /// int32 elements of workspace that an `[m, n]` product to `output` needs: whole sums for int8 with a scale a row, and
    /// with a split sums and counters.
    pub fn workspace(&self, m: usize, n: usize, output: Output) -> usize {
        whole_sums(m, n, output) + self.added(m, n)
    }

    /// Where of that workspace the elements are that must be zero before a launch (`stream.memset_zeros` makes them so), and
    /// are zero again after it.
    pub fn zeros(&self, m: usize, n: usize, output: Output) -> std::ops::Range<usize> {
        let first = whole_sums(m, n, output);
        first..first + self.added(m, n)
    }

    /// Sums of all parts, and counters.
    fn added(&self, m: usize, n: usize) -> usize {
        if self.splits <= 1 {
            return 0;
        }
        let (tall, wide) = self.tile.tiles(m, n);
        m * n + tall * self.tile.cluster * wide * self.tile.readers()
    }

    /// Steps of K that a part has, and parts of which none is empty.
    pub(super) fn parts(&self, k: usize) -> (usize, usize) {
        let steps = k.div_ceil(STAGE_K);
        let part = steps.div_ceil(self.splits.max(1)).max(1);
        (part, steps.div_ceil(part).max(1))
    }
}

/// Elements before those that sums are added up in, where whole sums are needed: the next part is aligned.
pub(super) fn whole_sums(m: usize, n: usize, output: Output) -> usize {
    match output {
        Output::Int8PerRow => (m * n).next_multiple_of(64),
        _ => 0,
    }
}

/// `TILE`, or `TILE/SPLITS`.
impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(f, self.tile.name, self.splits)
    }
}

impl FromStr for Instance {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let named = split_name(text)
            .and_then(|(name, splits)| Some(Instance::new(by_name(name)?).with_splits(splits)));
        named.ok_or_else(|| {
            let names: Vec<_> = TILES.iter().map(|tile| tile.name).collect();
            Error::Value {
                what: "the tile",
                found: format!("'{text}'"),
                expected: format!("NAME or NAME/SPLITS with a NAME of {}", names.join(" ")),
            }
        })
    }
}
