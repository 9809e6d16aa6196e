//! The tiles of `cuda/igemm_sm90.cu`, as data.

use super::parameters::IgemmSm90;
use crate::cuda::runtime::Entry;

/// The tile that a block computes, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tile {
    /// Its name: rows of the tall side, rows of the wide side, and what is special.
    pub name: &'static str,
    pub(super) entry: Entry<IgemmSm90>,
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
pub(super) const STAGE_K: usize = 128;
/// Threads of a block: a producer and two consumer warpgroups.
pub(super) const THREADS: usize = 384;
/// Bytes of shared memory that each of eight consumer warps turns its sums in.
const STRIP: usize = 2560;

impl Tile {
    /// Dynamic shared memory, in bytes.
    pub const fn shared(&self) -> usize {
        self.stages * (self.tall + self.wide) * STAGE_K + 8 * STRIP + 16 * self.stages + 32
    }

    /// Whether results may be stored by TMA, and the rows of a box that each warp hands over (`BOX_ROWS`): normal tiles
    /// alone, since those of few tokens have little to store.
    pub(super) const fn stored_rows(&self) -> Option<usize> {
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
    pub(super) const fn tiles(&self, m: usize, n: usize) -> (usize, usize) {
        let (tall, wide) = if self.swapped { (n, m) } else { (m, n) };
        (
            tall.div_ceil(self.tall * self.cluster),
            wide.div_ceil(self.wide),
        )
    }

    /// Consumer warpgroups that count their parts of a tile on their own.
    pub(super) const fn readers(&self) -> usize {
        if self.pingpong {
            1
        } else {
            2
        }
    }
}

/// What is special about a tile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Each consumer warpgroup has half of the tall rows.
    Halves,
    /// They take tiles in turn.
    PingPong,
    /// In turn, and the weights are the tall operand.
    Swapped,
}

macro_rules! tile {
    ($name:literal: tall $tall:literal, wide $wide:literal, stages $stages:literal, cluster $cluster:literal, $form:expr) => {
        Tile {
            name: $name,
            entry: Entry::new(concat!("igemm_sm90_", $name)),
            tall: $tall,
            wide: $wide,
            stages: $stages,
            cluster: $cluster,
            pingpong: !matches!($form, Form::Halves),
            swapped: matches!($form, Form::Swapped),
        }
    };
}

/// Every tile.
#[rustfmt::skip]
pub const TILES: &[Tile] = &[
    tile!("128x256_cluster": tall 128, wide 256, stages 4, cluster 2, Form::Halves),
    tile!("64x256_cluster": tall 64, wide 256, stages 5, cluster 2, Form::PingPong),
    tile!("128x192": tall 128, wide 192, stages 5, cluster 1, Form::Halves),
    tile!("128x128": tall 128, wide 128, stages 6, cluster 1, Form::Halves),
    tile!("128x128_pingpong": tall 128, wide 128, stages 6, cluster 1, Form::PingPong),
    tile!("64x256": tall 64, wide 256, stages 5, cluster 1, Form::PingPong),
    tile!("64x192": tall 64, wide 192, stages 6, cluster 1, Form::PingPong),
    tile!("64x128": tall 64, wide 128, stages 8, cluster 1, Form::PingPong),
    tile!("64x64": tall 64, wide 64, stages 12, cluster 1, Form::PingPong),
    tile!("swapped_64x64": tall 64, wide 64, stages 12, cluster 1, Form::Swapped),
    tile!("swapped_64x48": tall 64, wide 48, stages 14, cluster 1, Form::Swapped),
    tile!("swapped_64x32": tall 64, wide 32, stages 16, cluster 1, Form::Swapped),
    tile!("swapped_64x24": tall 64, wide 24, stages 16, cluster 1, Form::Swapped),
    tile!("swapped_64x16": tall 64, wide 16, stages 20, cluster 1, Form::Swapped),
    tile!("swapped_64x8": tall 64, wide 8, stages 20, cluster 1, Form::Swapped),
];

/// The tile of that name.
pub fn by_name(name: &str) -> Option<&'static Tile> {
    TILES.iter().find(|tile| tile.name == name)
}
