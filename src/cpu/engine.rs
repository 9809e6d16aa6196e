//! What multiplies a block of packed rows by panels of packed weights: a kernel, one tile of registers after the other,
//! or the tiles of AMX.
//!
//! Packing, the division among threads and the epilogue are written once for all of them.

use super::kernel::{Kernel, Layout, Trailing, ACC};
use super::lhs::{LhsBlock, LhsPanel};
use super::peak;
use super::store::{finish_tile, OutMatrix, Output};
use crate::epilogue::{Resolved, Tile};

/// Where the tiles of a block belong.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a, 'r, O> {
    /// The block's first row in the output.
    pub row0: usize,
    /// The first panel's first column in the product, and the number of columns.
    pub col0: usize,
    pub cols: usize,
    pub resolved: &'a Resolved<'r>,
    pub out: &'a OutMatrix<'a, O>,
}

/// One way to multiply. A value of the type is the proof that this CPU has the instructions.
pub(crate) trait Engine: Copy + Send + Sync + 'static {
    /// Its name.
    const NAME: &'static str;
    /// The order in which it reads operands.
    const LAYOUT: Layout;
    /// Most rows a panel of packed activations.
    const MR: usize;
    /// Panels of weights that it reads at a time, at best.
    const PANELS: usize;
    /// The kernel for what needs sums over ranges of K that start anywhere: itself, or the one whose instructions it uses.
    type Kernel: Kernel;

    /// The proof, where this CPU has the instructions.
    fn new() -> Option<Self>;

    /// That kernel.
    fn kernel(self) -> Self::Kernel;

    /// Runs `f` compiled with the vector instructions at hand.
    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        Kernel::vectorize(self.kernel(), f)
    }

    /// All tiles of a block of rows by panels of weights, the first of which starts `weights`, finished into `place`.
    ///
    /// # Safety
    /// No other thread reads or writes these rows and columns of the output at the same time.
    unsafe fn tiles<O: Output>(self, block: &LhsBlock, weights: &[u8], place: Place<'_, '_, O>);

    /// Operations a second on operands that cost nothing, the best of rounds that take about `seconds`.
    fn rate(self, seconds: f64) -> f64;
}

impl<L: Kernel> Engine for L {
    const NAME: &'static str = <L as Kernel>::NAME;
    const LAYOUT: Layout = <L as Kernel>::LAYOUT;
    const MR: usize = <L as Kernel>::MR;
    const PANELS: usize = 1;
    type Kernel = L;

    fn new() -> Option<Self> {
        <L as Kernel>::new()
    }

    #[inline(always)]
    fn kernel(self) -> L {
        self
    }

    unsafe fn tiles<O: Output>(self, block: &LhsBlock, weights: &[u8], place: Place<'_, '_, O>) {
        // SAFETY: the caller's.
        unsafe { in_registers(self, block, weights, place) }
    }

    fn rate(self, seconds: f64) -> f64 {
        peak::of_kernel(self, seconds)
    }
}

/// K is not split: a tile's sums stay in registers from the first product to the epilogue.
///
/// # Safety
/// No other thread reads or writes these rows and columns of the output at the same time.
unsafe fn in_registers<L: Kernel, O: Output>(
    kernel: L,
    block: &LhsBlock,
    weights: &[u8],
    place: Place<'_, '_, O>,
) {
    let Layout { nr, kr, .. } = <L as Kernel>::LAYOUT;
    let panel_bytes = block.groups() * nr * kr;
    // SAFETY: the caller's.
    unsafe {
        one_by_one(
            kernel,
            nr,
            block,
            place,
            #[inline(always)]
            |p, panel, acc, trailing| {
                let weights = &weights[p * panel_bytes..][..panel_bytes];
                let (m, groups) = (panel.m, block.groups());
                kernel.tile(m, groups, panel.words, weights, panel.init, acc, trailing);
            },
        );
    }
}

/// The tiles of a block, NR columns by a panel of rows each, finished one after the other: `sums(p, panel, acc, trailing)`
/// computes `[m, NR]` sums of the p-th NR columns, and copies what trails.
///
/// # Safety
/// No other thread reads or writes these rows and columns of the output at the same time.
#[inline(always)]
pub(super) unsafe fn one_by_one<L: Kernel, O: Output>(
    kernel: L,
    nr: usize,
    block: &LhsBlock,
    place: Place<'_, '_, O>,
    mut sums: impl FnMut(usize, &LhsPanel<'_>, &mut [i32], Trailing),
) {
    let Place {
        row0,
        col0,
        cols,
        resolved,
        out,
    } = place;
    // Two tiles of sums in turn: where the sums are the output, one trails while the next is computed.
    let mut tiles = [[0i32; ACC]; 2];
    let mut turn = 0;
    let mut finished = [O::default(); ACC];
    let mut trailing = Trailing::NONE;
    for p in 0..cols.div_ceil(nr) {
        let (col, width) = (col0 + p * nr, nr.min(cols - p * nr));
        for panel in block.panels() {
            let acc = &mut tiles[turn][..panel.m * nr];
            turn ^= 1;
            sums(p, &panel, acc, trailing);
            let tile = Tile {
                row: row0 + panel.row,
                col,
                rows: panel.m,
                cols: width,
                nr,
                scales: panel.scales,
                zero_points: panel.zero_points,
            };
            let from = finish_tile(kernel, resolved, &tile, acc, &mut finished);
            // SAFETY: these sums and `finished` are next written after the tile that copies them, and the elements
            // lie in the rows and columns that the caller vouches for.
            trailing = unsafe {
                let cols = (resolved.halved(col), resolved.halved(width));
                out.trailing(from, nr, (tile.row, tile.rows), cols)
            };
        }
    }
    trailing.copy();
}
