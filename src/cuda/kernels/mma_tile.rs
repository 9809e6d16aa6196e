//! The tiles of the kernels that multiply through `mma.sync` (`cuda/igemm_mma.cuh`), as data.

use crate::cuda::runtime::Entry;

/// The tile that a block computes, and how; `F` is the family of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MmaTile<F> {
    /// Its name, `MxNxK`, with `_any` for operands that are not 16-byte aligned.
    pub name: &'static str,
    pub(super) entry: Entry<F>,
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

impl<F> MmaTile<F> {
    /// Dynamic shared memory, in bytes.
    pub const fn shared(&self) -> usize {
        self.stages * (self.m + self.n) * self.k
    }
}

/// A tile by its numbers, in the order in which they are read.
macro_rules! tile {
    ($prefix:literal, $m:literal x $n:literal x $k:literal $suffix:literal, stages $stages:literal, warps $warps:literal, registers $registers:literal, blocks $blocks:literal) => {
        $crate::cuda::kernels::mma_tile::MmaTile {
            name: concat!($m, "x", $n, "x", $k, $suffix),
            entry: $crate::cuda::runtime::Entry::new(concat!(
                $prefix, $m, "x", $n, "x", $k, $suffix
            )),
            m: $m,
            n: $n,
            k: $k,
            stages: $stages,
            warps: $warps,
            registers: $registers,
            blocks: $blocks,
            aligned: $suffix.is_empty(),
        }
    };
}
pub(super) use tile;

/// Rows of tiles that blocks walk together, for the sake of L2.
pub(super) const RASTER_ROWS: u32 = 8;
