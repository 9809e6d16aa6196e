//! NEON: `sdot` by element, a tile of 12 rows by 8 columns; without `dotprod`, `smull` and `sadalp`, 4 by 8.
//!
//! ```text
//!   registers   24 accumulators (12 rows x 2), 2 of weights, 2 of activations in turn (4 rows' words each)
//!   a group     2 loads (pairs) and a third, 24 sdot = 384 multiply-adds
//! ```
//!
//! The inner loop as rustc 1.95 compiles it: 31 instructions for 24 `sdot` (1.29 each), 3 of them loads, no spills.
//! Fewer rows: 29 for 22 (11 rows), 22 for 16 (8), 24 for 16 (4 rows, two groups), 18 for 8 (1 row, four groups).
//!
//! `smull` of two bytes is at most `128 * 128`, which 16 bits hold; `smlal` would add a second and overflow, so
//! every product is widened to 32 bits as it is added: 47 instructions for 16 `smull`.
//!
//! Both kernels ran under emulation alone (`.ci/aarch64`): their results are checked, no speed is claimed.

use super::kernel::{check_tile, Kernel, Layout, Trailing};
use super::portable::N8K4;
use core::arch::{aarch64::*, asm};

macro_rules! kernel {
    ($kernel:ident, $name:literal, $features:literal, $have:expr, $mr:literal, $tile:ident, [$($m:literal: $u:literal),*]) => {
        #[derive(Clone, Copy)]
        pub(crate) struct $kernel(());

        impl Kernel for $kernel {
            const NAME: &'static str = $name;
            const LAYOUT: Layout = N8K4;
            const MR: usize = $mr;

            fn new() -> Option<Self> {
                $have.then_some($kernel(()))
            }

            #[inline(always)]
            fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
                #[target_feature(enable = $features)]
                #[inline]
                fn run<R>(f: impl FnOnce() -> R) -> R {
                    f()
                }
                // SAFETY: `self` exists only where `new` found these features.
                unsafe { run(f) }
            }

            #[inline]
            fn tile(self, m: usize, groups: usize, lhs: &[u32], rhs: &[u8], init: &[i32], acc: &mut [i32], trailing: Trailing) {
                check_tile::<Self>(m, groups, lhs, rhs, init, acc);
                let (lhs, rhs, init, acc) = (lhs.as_ptr(), rhs.as_ptr(), init.as_ptr(), acc.as_mut_ptr());
                // SAFETY: the features are there (`self`), and `check_tile` has seen `groups * m` words of lhs,
                // `groups` groups of rhs, `m` of init and `m * 8` of acc.
                unsafe {
                    match m {
                        $($m => $tile::<$m, $u>(groups, lhs, rhs, init, acc, trailing),)*
                        _ => unreachable!("check_tile has seen m <= MR"),
                    }
                }
            }
        }
    };
}

kernel!(NeonDot, "neon-dotprod", "neon,dotprod", std::arch::is_aarch64_feature_detected!("dotprod"), 12, dot_tile,
    [1: 4, 2: 4, 3: 2, 4: 2, 5: 1, 6: 1, 7: 1, 8: 1, 9: 1, 10: 1, 11: 1, 12: 1]);
kernel!(Neon, "neon", "neon", std::arch::is_aarch64_feature_detected!("neon"), 4, mull_tile,
    [1: 2, 2: 1, 3: 1, 4: 1]);

macro_rules! sdot {
    ($c:expr, $w:expr, $a:expr, $lane:expr) => {
        // The intrinsics by element are not stable. SAFETY: arithmetic on registers; the CPU has `dotprod`.
        unsafe {
            asm!("sdot {c:v}.4s, {w:v}.16b, {a:v}.4b[{lane}]", c = inout(vreg) $c, w = in(vreg) $w, a = in(vreg) $a,
                lane = const $lane, options(pure, nomem, nostack, preserves_flags))
        }
    };
}

/// `M` rows, `U` groups in flight.
///
/// # Safety
/// The CPU has `dotprod`; `lhs` is valid for `groups * M` words, `rhs` for `groups * 32` bytes, `init` for `M` and
/// `acc` for `M * 8` elements.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn dot_tile<const M: usize, const U: usize>(
    groups: usize,
    lhs: *const u32,
    rhs: *const u8,
    init: *const i32,
    acc: *mut i32,
    trailing: Trailing,
) {
    // SAFETY: every address below lies in the ranges the caller vouches for.
    unsafe {
        let mut c = [[[vdupq_n_s32(0); 2]; M]; U];
        for i in 0..M {
            c[0][i] = [vdupq_n_s32(*init.add(i)); 2];
        }
        let mut g = 0;
        for i in 0..M {
            // A stretch of groups for each row that trails: its lines are asked for one stretch before.
            if i < trailing.rows() {
                prefetch_write(trailing, i);
            }
            if i >= 1 && i <= trailing.rows() {
                copy_row(trailing, i - 1);
            }
            let end = groups * (i + 1) / M;
            while g + U <= end {
                dot_steps(&mut c, lhs.add(g * M), rhs.add(g * 32));
                g += U;
            }
        }
        while g < groups {
            let one = core::array::from_mut(&mut c[0]);
            dot_steps(one, lhs.add(g * M), rhs.add(g * 32));
            g += 1;
        }
        for i in M..=trailing.rows() {
            copy_row(trailing, i - 1);
        }
        for i in 0..M {
            for h in 0..2 {
                let mut sum = c[0][i][h];
                for c in &c[1..] {
                    sum = vaddq_s32(sum, c[i][h]);
                }
                vst1q_s32(acc.add(i * 8 + h * 4), sum);
            }
        }
    }
}

/// `U` groups: every row's word times both halves of the panel. At most 12 words.
///
/// The words of the groups lie one after the other, and are loaded by four; the last four may overlap those before.
/// Written out, so that no loop stays whose sums would then live in memory.
///
/// # Safety
/// As [`dot_tile`]: `lhs` is valid for `U * M` words, `rhs` for `U * 32` bytes.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn dot_steps<const M: usize, const U: usize>(
    c: &mut [[[int32x4_t; 2]; M]; U],
    lhs: *const u32,
    rhs: *const u8,
) {
    const { assert!(U * M <= 12) };
    macro_rules! words {
        ($($at:literal)*) => {$(
            if $at < U * M {
                let (c, w) = (&mut c[$at / M][$at % M], rhs.wrapping_add($at / M * 32));
                // SAFETY: the caller's; the four words end within `U * M`.
                let (w, a) = unsafe {
                    let w = [vld1q_s8(w.cast()), vld1q_s8(w.add(16).cast())];
                    let a = match U * M {
                        ..4 => vld1q_dup_u32(lhs.add($at)),
                        _ => vld1q_u32(lhs.add(first(U * M, $at))),
                    };
                    (w, a)
                };
                sdot!(c[0], w[0], a, lane(U * M, $at));
                sdot!(c[1], w[1], a, lane(U * M, $at));
            }
        )*};
    }
    words!(0 1 2 3 4 5 6 7 8 9 10 11);
}

/// Of `words` words, the first of the four among which that at `at` is loaded.
const fn first(words: usize, at: usize) -> usize {
    if at / 4 * 4 + 4 <= words {
        at / 4 * 4
    } else {
        words.saturating_sub(4)
    }
}

/// Which of those four it is.
const fn lane(words: usize, at: usize) -> usize {
    if words < 4 {
        0
    } else {
        (at - first(words, at)) % 4
    }
}

/// `M` rows, `U` groups in flight; sums of pairs, four vectors a row, joined at the end.
///
/// # Safety
/// As [`dot_tile`], without `dotprod`.
#[target_feature(enable = "neon")]
unsafe fn mull_tile<const M: usize, const U: usize>(
    groups: usize,
    lhs: *const u32,
    rhs: *const u8,
    init: *const i32,
    acc: *mut i32,
    trailing: Trailing,
) {
    trailing.copy();
    // SAFETY: every address below lies in the ranges the caller vouches for.
    unsafe {
        let mut c = [[[vdupq_n_s32(0); 4]; M]; U];
        let mut g = 0;
        while g + U <= groups {
            for (u, c) in c.iter_mut().enumerate() {
                mull_step(c, lhs.add((g + u) * M), rhs.add((g + u) * 32));
            }
            g += U;
        }
        while g < groups {
            mull_step(&mut c[0], lhs.add(g * M), rhs.add(g * 32));
            g += 1;
        }
        for i in 0..M {
            for h in 0..2 {
                let mut sum = vdupq_n_s32(*init.add(i));
                for c in &c {
                    sum = vaddq_s32(sum, vpaddq_s32(c[i][2 * h], c[i][2 * h + 1]));
                }
                vst1q_s32(acc.add(i * 8 + h * 4), sum);
            }
        }
    }
}

/// One group, exact: products in 16 bits, added in 32.
///
/// # Safety
/// As [`mull_tile`]: `lhs` is valid for `M` words, `rhs` for 32 bytes.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn mull_step<const M: usize>(c: &mut [[int32x4_t; 4]; M], lhs: *const u32, rhs: *const u8) {
    // SAFETY: the caller's.
    unsafe {
        let w = [vld1q_s8(rhs.cast()), vld1q_s8(rhs.add(16).cast())];
        for (i, c) in c.iter_mut().enumerate() {
            let a = vreinterpretq_s8_u32(vld1q_dup_u32(lhs.add(i)));
            for h in 0..2 {
                c[2 * h] = vpadalq_s16(c[2 * h], vmull_s8(vget_low_s8(w[h]), vget_low_s8(a)));
                c[2 * h + 1] = vpadalq_s16(c[2 * h + 1], vmull_high_s8(w[h], a));
            }
        }
    }
}

/// Asks for the cache lines of one row, to be written: a row of eight columns lies in two at most.
#[inline(always)]
pub(super) fn prefetch_write(trailing: Trailing, row: usize) {
    let (_, to, bytes) = trailing.row(row);
    prefetch_line(to);
    prefetch_line(to.wrapping_add(bytes.max(1) - 1));
}

#[inline(always)]
fn prefetch_line(address: *const u8) {
    // SAFETY: a hint; it reads and writes nothing and faults on no address.
    unsafe {
        asm!("prfm pstl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

/// Copies one row of at most 32 bytes, without a call that would have all sums saved: its first and its last
/// half, which may overlap.
///
/// # Safety
/// `trailing` has this row.
#[inline(always)]
pub(super) unsafe fn copy_row(trailing: Trailing, row: usize) {
    let (from, to, bytes) = trailing.row(row);
    debug_assert!(bytes <= 32);
    macro_rules! halves {
        ($t:ty) => {{
            let last = bytes - size_of::<$t>();
            // SAFETY: both halves lie in the row, which the contract of `Trailing::new` allows to copy.
            unsafe {
                let (a, b) = (from.cast::<$t>().read_unaligned(), from.add(last).cast::<$t>().read_unaligned());
                to.cast::<$t>().write_unaligned(a);
                to.add(last).cast::<$t>().write_unaligned(b);
            }
        }};
    }
    match bytes {
        16.. => halves!(u128),
        8.. => halves!(u64),
        4.. => halves!(u32),
        2.. => halves!(u16),
        1 => halves!(u8),
        0 => {}
    }
}
