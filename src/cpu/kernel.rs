//! The dot-product trait: everything that differs between instruction sets.
//!
//! A *kernel* multiplies one tile: `m` rows of packed activations by one panel of packed weights, over
//! the whole of K, so that sums never leave registers. Everything above it (packing, loops, epilogue)
//! is written once and compiled for the kernel's instructions through [`Kernel::vectorize`].
//!
//! ```text
//!            lhs panel, m rows                 rhs panel, NR columns
//!   group 0  [r0 k0..k3][r1 k0..k3] ...        [c0 k0..k3][c1 k0..k3] ...
//!   group 1  [r0 k4..k7][r1 k4..k7] ...        [c0 k4..k7][c1 k4..k7] ...
//! ```
//!
//! A group is KR consecutive k: one 32-bit word a row on the left (KR = 4 bytes, or KR = 2 values
//! widened to 16 bits), KR bytes a column on the right. K is padded with zeros to a whole group.

/// The order in which a kernel reads its operands.
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
    /// Activations lie in strips of [`STRIP_ROWS`] rows, cut into [`STRIP_BYTES`] bytes of each row in turn, and K is padded
    /// to whole cuts. Otherwise in groups of KR.
    pub strips: bool,
}

/// Rows of a strip.
pub(crate) const STRIP_ROWS: usize = 16;
/// Bytes of a row that lie together in a strip.
pub(crate) const STRIP_BYTES: usize = 64;

impl Layout {
    /// Groups that hold `k` values.
    pub fn groups(&self, k: usize) -> usize {
        if self.strips {
            k.div_ceil(STRIP_BYTES) * (STRIP_BYTES / self.kr)
        } else {
            k.div_ceil(self.kr)
        }
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
pub(crate) trait Kernel: Copy + Send + Sync + 'static {
    /// The kernel's name.
    const NAME: &'static str;
    /// The order in which it reads operands.
    const LAYOUT: Layout;
    /// Most rows a tile.
    const MR: usize;
    /// Whether what is read once is asked for ahead: vectors shorter than a cache line keep too few lines on their way
    /// by themselves. (Longer ones keep enough, and asking takes the places that lines on their way are noted in.)
    const ASKS_AHEAD: bool = true;

    /// The proof, where this CPU has the instructions.
    fn new() -> Option<Self>;

    /// Runs `f` compiled with this kernel's instructions.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;

    /// `acc[i][j] = init[i] + sum over k of lhs[i][k] * rhs[k][j]`, in wrapping int32, for `m <= MR` rows and
    /// the NR columns of a panel. `acc` is `[m][NR]`, overwritten. `trailing` is copied on the way.
    #[allow(clippy::too_many_arguments)]
    fn tile(
        self,
        m: usize,
        groups: usize,
        lhs: &[u32],
        rhs: &[u8],
        init: &[i32],
        acc: &mut [i32],
        trailing: Trailing,
    );
}

/// The finished rows of the tile before, on their way to the output: a kernel copies them while it computes, spread
/// over the tile. Stored all at once they would fill the store queue, and their cache lines would be waited for.
#[derive(Clone, Copy)]
pub(crate) struct Trailing {
    from: *const u8,
    from_stride: usize,
    to: *mut u8,
    to_stride: isize,
    rows: usize,
    bytes: usize,
}

impl Trailing {
    /// Nothing to copy.
    pub const NONE: Trailing = Trailing {
        from: core::ptr::null(),
        from_stride: 0,
        to: core::ptr::null_mut(),
        to_stride: 0,
        rows: 0,
        bytes: 0,
    };

    /// `rows` rows of `bytes` bytes each, strides in bytes.
    ///
    /// # Safety
    /// Until the value is no longer used, every row can be read at `from` and written at `to`, nobody else touches
    /// them, and they don't overlap.
    pub unsafe fn new(
        from: *const u8,
        from_stride: usize,
        to: *mut u8,
        to_stride: isize,
        rows: usize,
        bytes: usize,
    ) -> Self {
        Trailing {
            from,
            from_stride,
            to,
            to_stride,
            rows,
            bytes,
        }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// One row: from, to, bytes.
    #[inline(always)]
    pub fn row(&self, row: usize) -> (*const u8, *mut u8, usize) {
        let from = self.from.wrapping_add(row * self.from_stride);
        let to = self.to.wrapping_offset(row as isize * self.to_stride);
        (from, to, self.bytes)
    }

    /// Copies all rows: for kernels whose tile is too short of registers to do it on the way.
    #[inline(always)]
    pub fn copy(&self) {
        for row in 0..self.rows {
            let (from, to, bytes) = self.row(row);
            // SAFETY: the contract of `new`.
            unsafe {
                // The rows of whole tiles without a call.
                match bytes {
                    128 => core::ptr::copy_nonoverlapping(from, to, 128),
                    64 => core::ptr::copy_nonoverlapping(from, to, 64),
                    _ => core::ptr::copy_nonoverlapping(from, to, bytes),
                }
            }
        }
    }
}

/// Checks a tile's slices: after it, a kernel may read and write through pointers.
#[inline(always)]
pub(crate) fn check_tile<L: Kernel>(
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

/// Room for the largest tile of any kernel.
pub(crate) const ACC: usize = 12 * 32;
