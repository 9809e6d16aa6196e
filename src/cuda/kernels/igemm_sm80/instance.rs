//! The tiles of `cuda/igemm_sm80.cu`, and one of them with a split of K.

use crate::cuda::kernels::families::IgemmSm80;
use crate::cuda::kernels::mma_tile::{tile, MmaTile};
use crate::cuda::kernels::model::{split_name, write_name};
use crate::epilogue::Output;
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// The tile that a block of this kernel computes.
pub type Tile = MmaTile<IgemmSm80>;

/// Every tile, small ones first.
#[rustfmt::skip]
pub const TILES: [Tile; 12] = [
    tile!("igemm_sm80_", 16 x 64 x 128 "", stages 5, warps 4, registers 168, blocks 3),
    tile!("igemm_sm80_", 32 x 64 x 128 "", stages 4, warps 4, registers 168, blocks 3),
    tile!("igemm_sm80_", 64 x 64 x 128 "", stages 4, warps 4, registers 255, blocks 2),
    tile!("igemm_sm80_", 64 x 128 x 128 "", stages 4, warps 4, registers 255, blocks 1),
    tile!("igemm_sm80_", 128 x 64 x 128 "", stages 4, warps 4, registers 255, blocks 1),
    tile!("igemm_sm80_", 128 x 128 x 64 "", stages 4, warps 4, registers 255, blocks 2),
    tile!("igemm_sm80_", 128 x 128 x 128 "", stages 3, warps 8, registers 255, blocks 1),
    tile!("igemm_sm80_", 128 x 256 x 64 "", stages 4, warps 8, registers 255, blocks 1),
    tile!("igemm_sm80_", 256 x 128 x 64 "", stages 4, warps 8, registers 255, blocks 1),
    tile!("igemm_sm80_", 16 x 64 x 128 "_any", stages 5, warps 4, registers 168, blocks 3),
    tile!("igemm_sm80_", 64 x 64 x 128 "_any", stages 4, warps 4, registers 255, blocks 2),
    tile!("igemm_sm80_", 128 x 128 x 64 "_any", stages 4, warps 8, registers 255, blocks 1),
];

/// The tile of that name.
pub fn by_name(name: &str) -> Option<&'static Tile> {
    TILES.iter().find(|tile| tile.name == name)
}

/// A tile and the parts of K for one product: one of the [`candidates`](super::candidates()), or named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// The tile.
    pub tile: &'static Tile,
    /// Parts into which K is split, at least 1. The sums are exact, so every split gives the same bits.
    pub splits: usize,
}

impl Instance {
    /// A tile, K in one part.
    pub const fn new(tile: &'static Tile) -> Self {
        Instance { tile, splits: 1 }
    }

    /// The same with K in so many parts.
    pub const fn with_splits(self, splits: usize) -> Self {
        Instance { splits, ..self }
    }

    /// int32 elements of workspace that an `[m, n]` product to `output` needs: the sums of each part, where they can't stay
    /// in registers.
    pub fn workspace(&self, m: usize, n: usize, output: Output) -> usize {
        match (self.splits, output) {
            (0 | 1, Output::Int8PerRow) => m * n,
            (0 | 1, _) => 0,
            (splits, _) => splits * m * n,
        }
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
        named.ok_or_else(|| Error::Value {
            what: "the tile",
            found: format!("'{text}'"),
            expected: format!(
                "NAME or NAME/SPLITS with a NAME of {}",
                TILES.map(|tile| tile.name).join(" ")
            ),
        })
    }
}
