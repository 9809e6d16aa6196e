//! The kernel for any CPU: plain Rust, nothing assumed.

use super::kernel::{check_tile, Kernel, Layout, Trailing};

/// Signed bytes, four k a group, eight columns a panel.
pub(crate) const N8K4: Layout = Layout {
    name: "n8k4-i8",
    nr: 8,
    kr: 4,
    biased: false,
    strips: false,
};

#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Kernel for Portable {
    const NAME: &'static str = "portable";
    const LAYOUT: Layout = N8K4;
    const MR: usize = 4;

    fn new() -> Option<Self> {
        Some(Portable)
    }

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        // A call, as it is for the others: where loops are unrolled around it, inlining takes minutes to compile.
        #[inline(never)]
        fn run<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        run(f)
    }

    fn tile(
        self,
        m: usize,
        groups: usize,
        lhs: &[u32],
        rhs: &[u8],
        init: &[i32],
        acc: &mut [i32],
        trailing: Trailing,
    ) {
        check_tile::<Self>(m, groups, lhs, rhs, init, acc);
        trailing.copy();
        for (row, start) in acc.chunks_exact_mut(8).zip(&init[..m]) {
            row.fill(*start);
        }
        let groups = lhs.chunks_exact(m).zip(rhs.chunks_exact(32)).take(groups);
        for (a, w) in groups {
            // One k at a time, so that the eight columns of a panel are the vector.
            let mut columns = [[0i32; 8]; 4];
            for (j, w) in w.chunks_exact(4).enumerate() {
                for k in 0..4 {
                    columns[k][j] = i32::from(w[k] as i8);
                }
            }
            for (row, a) in acc.chunks_exact_mut(8).zip(a) {
                for (k, a) in a.to_le_bytes().into_iter().enumerate() {
                    let a = i32::from(a as i8);
                    for j in 0..8 {
                        row[j] = row[j].wrapping_add(a * columns[k][j]);
                    }
                }
            }
        }
    }
}
