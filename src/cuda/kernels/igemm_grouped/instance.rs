//! The tiles of `cuda/igemm_grouped.cu`, and which of them a product takes.

use crate::cuda::kernels::families::IgemmGrouped;
use crate::cuda::kernels::mma_tile::{tile, MmaTile};
use crate::cuda::kernels::model::Shape;
use crate::cuda::runtime::Properties;
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// The tile that a block of this kernel computes at a time.
pub type Tile = MmaTile<IgemmGrouped>;

/// Every tile for weights with scales of columns or none, small ones first.
#[rustfmt::skip]
pub const TILES: [Tile; 7] = [
    tile!("igemm_grouped_", 16 x 64 x 128 "", stages 5, warps 4, registers 168, blocks 3),
    tile!("igemm_grouped_", 32 x 64 x 128 "", stages 4, warps 4, registers 168, blocks 3),
    tile!("igemm_grouped_", 64 x 64 x 128 "", stages 4, warps 4, registers 255, blocks 2),
    tile!("igemm_grouped_", 64 x 128 x 128 "", stages 4, warps 4, registers 255, blocks 1),
    tile!("igemm_grouped_", 128 x 128 x 64 "", stages 4, warps 8, registers 255, blocks 1),
    tile!("igemm_grouped_", 16 x 64 x 128 "_any", stages 5, warps 4, registers 168, blocks 3),
    tile!("igemm_grouped_", 64 x 64 x 128 "_any", stages 4, warps 4, registers 255, blocks 2),
];

/// Those for weights whose scales change along K.
#[rustfmt::skip]
pub const GROUPWISE_TILES: [Tile; 3] = [
    Tile { aligned: true, ..tile!("igemm_grouped_", 16 x 64 x 128 "_groupwise", stages 5, warps 4, registers 168, blocks 3) },
    Tile { aligned: true, ..tile!("igemm_grouped_", 64 x 64 x 128 "_groupwise", stages 4, warps 4, registers 255, blocks 2) },
    tile!("igemm_grouped_", 16 x 64 x 128 "_groupwise_any", stages 5, warps 4, registers 168, blocks 3),
];

/// The tile of that name.
pub fn by_name(name: &str) -> Option<&'static Tile> {
    let all = TILES.iter().chain(&GROUPWISE_TILES);
    all.into_iter().find(|tile| tile.name == name)
}

/// A tile; K is not split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// The tile.
    pub tile: &'static Tile,
}

impl Instance {
    /// Whether it is for weights whose scales change along K.
    pub fn is_groupwise(&self) -> bool {
        GROUPWISE_TILES.contains(self.tile)
    }

    /// The instance for a product of so many groups with at most `shape.m` rows in all: a pure function of what the host
    /// knows. `aligned`: whether operands start, and their rows lie, at multiples of 16 bytes.
    ///
    /// Rows are taken to be spread evenly: a tile that is taller than a group multiplies rows of nothing, one that is lower
    /// reads the group's weights more than once. Wide tiles are for products that fill the device with them.
    pub fn choose(
        shape: Shape,
        groups: usize,
        groupwise: bool,
        aligned: bool,
        device: &Properties,
    ) -> Self {
        let Shape { m, n, .. } = shape;
        let busy = groups.min(m).max(1);
        let rows = m.div_ceil(busy);
        let tile = match (groupwise, aligned) {
            (true, true) => &GROUPWISE_TILES[usize::from(rows > 16)],
            (true, false) => &GROUPWISE_TILES[2],
            (false, false) => &TILES[if rows > 16 { 6 } else { 5 }],
            (false, true) => match rows {
                0..=16 => &TILES[0],
                17..=32 => &TILES[1],
                _ => {
                    let wide = if rows <= 64 { &TILES[3] } else { &TILES[4] };
                    let tiles = busy * rows.div_ceil(wide.m) * n.div_ceil(wide.n);
                    match tiles >= device.multiprocessors as usize {
                        true => wide,
                        false => &TILES[2],
                    }
                }
            },
        };
        Instance { tile }
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tile.name)
    }
}

impl FromStr for Instance {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let named = by_name(text).map(|tile| Instance { tile });
        named.ok_or_else(|| {
            let names = TILES.iter().chain(&GROUPWISE_TILES).map(|tile| tile.name);
            Error::Value {
                what: "the tile",
                found: format!("'{text}'"),
                expected: format!("one of {}", names.collect::<Vec<_>>().join(" ")),
            }
        })
    }
}
