//! The dot-product trait: everything that differs between instruction sets.
//!
//! A *leaf* multiplies one tile: `m` rows of packed activations by one panel of packed weights, over
//! the whole of K, so that sums never leave registers. Everything above it (packing, loops, epilogue)
//! is written once and compiled for the leaf's instructions through [`Leaf::vectorize`].
//!
//! ```text
//!            lhs panel, m rows                 rhs panel, NR columns
//!   group 0  [r0 k0..k3][r1 k0..k3] ...        [c0 k0..k3][c1 k0..k3] ...
//!   group 1  [r0 k4..k7][r1 k4..k7] ...        [c0 k4..k7][c1 k4..k7] ...
//! ```
//!
//! A group is KR consecutive k: one 32-bit word a row on the left (KR = 4 bytes, or KR = 2 values
//! widened to 16 bits), KR bytes a column on the right. K is padded with zeros to a whole group.

/// The order in which a leaf reads its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Its name, which packed weights carry.
    pub name: &'static str,
    /// Columns a panel.
    pub nr: usize,
    /// Values of k a group: 4 (words of four bytes) or 2 (words of two 16-bit values).
    pub kr: usize,
    /// Weights are stored plus 128, as unsigned: `vpdpbusd` multiplies unsigned by signed. Accumulators then
    /// start at `-128 * sum(row)`.
    pub biased: bool,
}

impl Layout {
    /// Groups that hold `k` values.
    pub fn groups(&self, k: usize) -> usize {
        k.div_ceil(self.kr)
    }

    /// Bytes of one panel of weights.
    pub fn panel_bytes(&self, k: usize) -> usize {
        self.groups(k) * self.nr * self.kr
    }

    /// Panels that hold `n` columns.
    pub fn panels(&self, n: usize) -> usize {
        n.div_ceil(self.nr)
    }
}

/// One instruction set's tile. A value of the type is the proof that this CPU has the instructions.
pub(crate) trait Leaf: Copy + Send + Sync + 'static {
    /// The leaf's name.
    const NAME: &'static str;
    /// The order in which it reads operands.
    const LAYOUT: Layout;
    /// Most rows a tile.
    const MR: usize;

    /// The proof, where this CPU has the instructions.
    fn new() -> Option<Self>;

    /// Runs `f` compiled with this leaf's instructions.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;

    /// `acc[i][j] = init[i] + sum over k of lhs[i][k] * rhs[k][j]`, in wrapping int32, for `m <= MR` rows and
    /// the NR columns of a panel. `acc` is `[m][NR]`, overwritten. Where the tile will go is a hint.
    #[allow(clippy::too_many_arguments)]
    fn tile(
        self,
        m: usize,
        groups: usize,
        lhs: &[u32],
        rhs: &[u8],
        init: &[i32],
        acc: &mut [i32],
        target: Target,
    );
}

/// Where a tile will be stored: a leaf may ask for these cache lines while it computes, spread over the tile,
/// so that they do not queue before the operands. Never read or written through.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// First byte of the tile's first row.
    pub start: *const u8,
    /// Bytes between rows.
    pub stride: isize,
    /// Bytes of a row.
    pub bytes: usize,
}

/// Checks a tile's slices: after it, a leaf may read and write through pointers.
#[inline(always)]
pub(crate) fn check_tile<L: Leaf>(
    m: usize,
    groups: usize,
    lhs: &[u32],
    rhs: &[u8],
    init: &[i32],
    acc: &[i32],
) {
    assert!(m >= 1 && m <= L::MR);
    assert!(lhs.len() >= groups * m);
    assert!(rhs.len() >= groups * L::LAYOUT.nr * L::LAYOUT.kr);
    assert!(init.len() >= m);
    assert!(acc.len() >= m * L::LAYOUT.nr);
}

/// Room for the largest tile of any leaf.
pub(crate) const ACC: usize = 12 * 32;
