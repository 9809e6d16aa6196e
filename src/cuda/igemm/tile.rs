//! The instances of `cuda/igemm_sm80.cu` and `cuda/igemm_groupwise.cu`, as data.

/// One instance: the tile a block computes, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tile {
    /// Its name, `MxNxK`, with `_any` for operands that are not 16-byte aligned.
    pub name: &'static str,
    pub(in crate::cuda) entry: &'static str,
    /// Rows of the left operand.
    pub m: usize,
    /// Columns of the weights.
    pub n: usize,
    /// Bytes of k a stage.
    pub k: usize,
    /// Stages in shared memory.
    pub stages: usize,
    /// Warps of a block.
    pub warps: usize,
    /// Most registers a thread may have for the blocks below.
    pub registers: usize,
    /// Blocks a multiprocessor is meant to hold (sm_80's 164 KiB of shared memory).
    pub blocks: usize,
    /// Whether operands must start, and their rows lie, at multiples of 16 bytes.
    pub aligned: bool,
}

impl Tile {
    /// Dynamic shared memory, in bytes.
    pub const fn shared(&self) -> usize {
        self.stages * (self.m + self.n) * self.k
    }
}

macro_rules! tiles {
    ($prefix:literal: $($m:literal $n:literal $k:literal, $stages:literal $warps:literal $registers:literal $blocks:literal, $suffix:literal;)*) => {
        [$(Tile {
            name: concat!($m, "x", $n, "x", $k, $suffix),
            entry: concat!($prefix, $m, "x", $n, "x", $k, $suffix),
            m: $m, n: $n, k: $k, stages: $stages, warps: $warps, registers: $registers, blocks: $blocks,
            aligned: $suffix.is_empty(),
        }),*]
    };
}

/// Every instance, small tiles first.
//  m n k, stages warps registers blocks
pub const TILES: [Tile; 12] = tiles! { "igemm_sm80_":
    16 64 128, 5 4 168 3, "";
    32 64 128, 4 4 168 3, "";
    64 64 128, 4 4 255 2, "";
    64 128 128, 4 4 255 1, "";
    128 64 128, 4 4 255 1, "";
    128 128 64, 4 4 255 2, "";
    128 128 128, 3 8 255 1, "";
    128 256 64, 4 8 255 1, "";
    256 128 64, 4 8 255 1, "";
    16 64 128, 5 4 168 3, "_any";
    64 64 128, 4 4 255 2, "_any";
    128 128 64, 4 8 255 1, "_any";
};

/// Every instance for weights whose scales change along K, small tiles first.
pub const GROUPED_TILES: [Tile; 5] = tiles! { "igemm_groupwise_":
    16 64 128, 5 4 168 3, "";
    64 64 128, 4 4 255 2, "";
    128 128 64, 4 8 255 1, "";
    16 64 128, 5 4 168 3, "_any";
    64 64 128, 4 4 255 2, "_any";
};

/// The instance of that name.
pub fn by_name(name: &str) -> Option<&'static Tile> {
    TILES.iter().find(|tile| tile.name == name)
}
