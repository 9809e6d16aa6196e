//! What multiplies a block of packed rows by panels of packed weights: a leaf, one tile of registers after the other,
//! or the tiles of AMX.
//!
//! Packing, the division among threads and the epilogue are written once for all of them.

use super::leaf::{Layout, Leaf, Trailing, ACC};
use super::lhs::LhsBlock;
use super::peak;
use super::store::{finish_tile, OutMatrix, Output};
use crate::epilogue::Resolved;

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
    /// The leaf for what needs sums over ranges of K that start anywhere: itself, or the one whose instructions it uses.
    type Leaf: Leaf;

    /// The proof, where this CPU has the instructions.
    fn new() -> Option<Self>;

    /// That leaf.
    fn leaf(self) -> Self::Leaf;

    /// Runs `f` compiled with the vector instructions at hand.
    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        Leaf::vectorize(self.leaf(), f)
    }

    /// All tiles of a block of rows by panels of weights, the first of which starts `weights`, finished into `place`.
    ///
    /// # Safety
    /// No other thread reads or writes these rows and columns of the output at the same time.
    unsafe fn tiles<O: Output>(self, block: &LhsBlock, weights: &[u8], place: Place<'_, '_, O>);

    /// Operations a second on operands that cost nothing, the best of rounds that take about `seconds`.
    fn rate(self, seconds: f64) -> f64;
}

impl<L: Leaf> Engine for L {
    const NAME: &'static str = <L as Leaf>::NAME;
    const LAYOUT: Layout = <L as Leaf>::LAYOUT;
    const MR: usize = <L as Leaf>::MR;
    const PANELS: usize = 1;
    type Leaf = L;

    fn new() -> Option<Self> {
        <L as Leaf>::new()
    }

    #[inline(always)]
    fn leaf(self) -> L {
        self
    }

    unsafe fn tiles<O: Output>(self, block: &LhsBlock, weights: &[u8], place: Place<'_, '_, O>) {
        // SAFETY: the caller's.
        unsafe { in_registers(self, block, weights, place) }
    }

    fn rate(self, seconds: f64) -> f64 {
        peak::of_leaf(self, seconds)
    }
}

/// K is not split: a tile's sums stay in registers from the first product to the epilogue.
///
/// # Safety
/// No other thread reads or writes these rows and columns of the output at the same time.
unsafe fn in_registers<L: Leaf, O: Output>(
    leaf: L,
    block: &LhsBlock,
    weights: &[u8],
    place: Place<'_, '_, O>,
) {
    let Layout { nr, kr, .. } = <L as Leaf>::LAYOUT;
    let Place {
        row0,
        col0,
        cols,
        resolved,
        out,
    } = place;
    let panel_bytes = block.groups() * nr * kr;
    // Two tiles of sums in turn: where the sums are the output, one trails while the next is computed.
    let mut sums = [[0i32; ACC]; 2];
    let mut turn = 0;
    let mut finished = [O::default(); ACC];
    let mut trailing = Trailing::NONE;
    for p in 0..cols.div_ceil(nr) {
        let weights = &weights[p * panel_bytes..][..panel_bytes];
        let (col, width) = (col0 + p * nr, nr.min(cols - p * nr));
        for panel in block.panels() {
            let acc = &mut sums[turn][..panel.m * nr];
            turn ^= 1;
            leaf.tile(
                panel.m,
                block.groups(),
                panel.words,
                weights,
                panel.init,
                acc,
                trailing,
            );
            let row = row0 + panel.row;
            let from = finish_tile(
                leaf,
                nr,
                resolved,
                &panel,
                row,
                col,
                width,
                acc,
                &mut finished,
            );
            // SAFETY: these sums and `finished` are next written after the tile that copies them, and the elements
            // lie in the rows and columns that the caller vouches for.
            trailing = unsafe {
                let cols = (resolved.halved(col), resolved.halved(width));
                out.trailing(from, nr, (row, panel.m), cols)
            };
        }
    }
    trailing.copy();
}
