//! The instances of `cuda/igemm_sm90.cu`, as data.

/// One instance: the tile that a block computes, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tile90 {
    /// Its name: rows of the tall side, rows of the wide side, and what is special.
    pub name: &'static str,
    pub(in crate::cuda) entry: &'static str,
    /// Rows of the operand on the 64-row side of wgmma: the left one, or the weights where `swapped`.
    pub tall: usize,
    /// Rows of the other operand.
    pub wide: usize,
    /// Stages in shared memory, each 128 bytes of K of both.
    pub stages: usize,
    /// Blocks of a cluster, beside each other along the tall side; they share what they load of the wide side.
    pub cluster: usize,
    /// Whether the two consumer warpgroups take tiles in turn; else each has half of the tall rows.
    pub pingpong: bool,
    /// Whether the weights are the tall operand: for few rows of the left one.
    pub swapped: bool,
}

/// Bytes of K that a stage holds: the span of the 128-byte swizzle.
pub(in crate::cuda) const STAGE_K: usize = 128;
/// Threads of a block: a producer and two consumer warpgroups.
pub(in crate::cuda) const THREADS: usize = 384;
/// Bytes of shared memory that each of eight consumer warps turns its sums in.
const STRIP: usize = 2560;

impl Tile90 {
    /// Dynamic shared memory, in bytes.
    pub const fn shared(&self) -> usize {
        self.stages * (self.tall + self.wide) * STAGE_K + 8 * STRIP + 16 * self.stages + 32
    }

    /// Whether results may be stored by TMA, and the rows of a box that each warp hands over (`BOX_ROWS`): normal tiles
    /// alone, since those of few tokens have little to store.
    pub(in crate::cuda) const fn stored_rows(&self) -> Option<usize> {
        if self.swapped {
            None
        } else {
            Some(8)
        }
    }

    /// Rows of the left operand and rows of the weights that a block's tile has.
    pub const fn rows(&self) -> (usize, usize) {
        if self.swapped {
            (self.wide, self.tall)
        } else {
            (self.tall, self.wide)
        }
    }

    /// Clusters' tiles along the tall side and tiles along the wide side of an `[m, n]` product.
    pub(in crate::cuda) const fn tiles(&self, m: usize, n: usize) -> (usize, usize) {
        let (tall, wide) = if self.swapped { (n, m) } else { (m, n) };
        (
            tall.div_ceil(self.tall * self.cluster),
            wide.div_ceil(self.wide),
        )
    }

    /// Consumer warpgroups that count their parts of a tile on their own.
    pub(in crate::cuda) const fn readers(&self) -> usize {
        if self.pingpong {
            1
        } else {
            2
        }
    }
}

macro_rules! tiles {
    ($($name:literal: $tall:literal $wide:literal, $stages:literal $cluster:literal $pingpong:literal $swapped:literal;)*) => {
        &[$(Tile90 {
            name: $name,
            entry: concat!("igemm_sm90_", $name),
            tall: $tall, wide: $wide, stages: $stages, cluster: $cluster, pingpong: $pingpong, swapped: $swapped,
        }),*]
    };
}

/// Every instance.
//  name: tall wide, stages cluster pingpong swapped
pub const TILES90: &[Tile90] = tiles! {
    "128x256_cluster": 128 256, 4 2 false false;
    "64x256_cluster": 64 256, 5 2 true false;
    "128x192": 128 192, 5 1 false false;
    "128x128": 128 128, 6 1 false false;
    "128x128_pingpong": 128 128, 6 1 true false;
    "64x256": 64 256, 5 1 true false;
    "64x192": 64 192, 6 1 true false;
    "64x128": 64 128, 8 1 true false;
    "64x64": 64 64, 12 1 true false;
    "swapped_64x64": 64 64, 12 1 true true;
    "swapped_64x48": 64 48, 14 1 true true;
    "swapped_64x32": 64 32, 16 1 true true;
    "swapped_64x24": 64 24, 16 1 true true;
    "swapped_64x16": 64 16, 20 1 true true;
    "swapped_64x8": 64 8, 20 1 true true;
};

/// The instance of that name.
pub fn by_name90(name: &str) -> Option<&'static Tile90> {
    TILES90.iter().find(|tile| tile.name == name)
}
