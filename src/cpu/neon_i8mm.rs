//! NEON with `i8mm`: `smmla`, a tile of 10 rows by 8 columns made of blocks of 2 by 2.
//!
//! ```text
//!   smmla c, a, w      a: 2 rows of 8 k        w: 2 columns of 8 k        c: [r0c0][r0c1][r1c0][r1c1]
//!
//!   group g      [r0 k0..k3][r1 k0..k3][r2 k0..k3][r3 k0..k3]     zip1    [r0 k0..k7][r1 k0..k7]
//!   group g + 1  [r0 k4..k7][r1 k4..k7][r2 k4..k7][r3 k4..k7]     zip2    [r2 k0..k7][r3 k0..k7]
//!
//!   registers    20 accumulators (5 pairs of rows x 4 pairs of columns), 4 of weights, the rest of activations in turn
//! ```
//!
//! The inner loop as rustc 1.95 compiles it: 41 instructions for 20 `smmla` (2.05 each), no spills; 35 for 16 (8 rows), 49 for 20
//! (9 rows). Two more rows would spill.
//!
//! Two groups are zipped word by word on the way in, columns as rows, so the layout is that of the other NEON kernels and
//! weights packed for one serve all. One row would leave half of each block unused: it goes through `sdot`.
//!
//! The kernel ran under emulation alone (`.ci/aarch64`): its results are checked, no speed is claimed.

use super::kernel::{check_tile, Kernel, Layout, Trailing};
use super::neon::{copy_row, dot_tile, prefetch_write};
use super::portable::N8K4;
use core::arch::{aarch64::*, asm};

#[derive(Clone, Copy)]
pub(crate) struct NeonI8mm(());

impl Kernel for NeonI8mm {
    const NAME: &'static str = "neon-i8mm";
    const LAYOUT: Layout = N8K4;
    const MR: usize = 10;

    fn new() -> Option<Self> {
        let have = std::arch::is_aarch64_feature_detected!("i8mm")
            && std::arch::is_aarch64_feature_detected!("dotprod");
        have.then_some(NeonI8mm(()))
    }

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "neon,dotprod,i8mm")]
        #[inline]
        fn run<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: `self` exists only where `new` found these features.
        unsafe { run(f) }
    }

    #[inline]
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
        let (lhs, rhs, init, acc) = (lhs.as_ptr(), rhs.as_ptr(), init.as_ptr(), acc.as_mut_ptr());
        macro_rules! tiles {
            ($($m:literal: $pairs:literal, $u:literal;)*) => {
                match m {
                    1 => dot_tile::<1, 4>(groups, lhs, rhs, init, acc, trailing),
                    $($m => mm_tile::<$m, $pairs, $u>(groups, lhs, rhs, init, acc, trailing),)*
                    _ => unreachable!("check_tile has seen m <= MR"),
                }
            };
        }
        // SAFETY: the features are there (`self`), and `check_tile` has seen `groups * m` words of lhs, `groups` groups
        // of rhs, `m` of init and `m * 8` of acc.
        unsafe {
            tiles!(2: 1, 4; 3: 2, 2; 4: 2, 2; 5: 3, 1; 6: 3, 1; 7: 4, 1; 8: 4, 1; 9: 5, 1; 10: 5, 1;)
        }
    }
}

macro_rules! smmla {
    ($c:expr, $a:expr, $w:expr) => {
        // The intrinsic is not stable.
        asm!("smmla {c:v}.4s, {a:v}.16b, {w:v}.16b", c = inout(vreg) $c, a = in(vreg) $a, w = in(vreg) $w,
            options(pure, nomem, nostack, preserves_flags))
    };
}

/// `M` rows as `P` pairs, `U` times two groups in flight. The second row of a last pair of one is the first again, and left out.
///
/// # Safety
/// The CPU has `i8mm`; `lhs` is valid for `groups * M` words, `rhs` for `groups * 32` bytes, `init` for `M` and `acc` for
/// `M * 8` elements.
#[target_feature(enable = "neon,i8mm")]
unsafe fn mm_tile<const M: usize, const P: usize, const U: usize>(
    groups: usize,
    lhs: *const u32,
    rhs: *const u8,
    init: *const i32,
    acc: *mut i32,
    trailing: Trailing,
) {
    const { assert!(P == M.div_ceil(2) && P <= 5) };
    // SAFETY: every address below lies in the ranges the caller vouches for.
    unsafe {
        let mut c = [[[vdupq_n_s32(0); 4]; P]; U];
        for p in 0..P {
            let first = vdup_n_s32(*init.add(2 * p));
            let second = vdup_n_s32(*init.add(M.min(2 * p + 2) - 1));
            c[0][p] = [vcombine_s32(first, second); 4];
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
            while g + 2 * U <= end {
                mm_steps::<M, P, U, true>(&mut c, lhs.add(g * M), rhs.add(g * 32));
                g += 2 * U;
            }
        }
        while g + 2 <= groups {
            let one = core::array::from_mut(&mut c[0]);
            mm_steps::<M, P, 1, true>(one, lhs.add(g * M), rhs.add(g * 32));
            g += 2;
        }
        if g < groups {
            let one = core::array::from_mut(&mut c[0]);
            mm_steps::<M, P, 1, false>(one, lhs.add(g * M), rhs.add(g * 32));
        }
        for i in M..=trailing.rows() {
            copy_row(trailing, i - 1);
        }
        for p in 0..P {
            for h in 0..2 {
                // Two blocks side by side, as two rows of four columns.
                let [mut left, mut right] = [c[0][p][2 * h], c[0][p][2 * h + 1]];
                for c in &c[1..] {
                    left = vaddq_s32(left, c[p][2 * h]);
                    right = vaddq_s32(right, c[p][2 * h + 1]);
                }
                let (left, right) = (vreinterpretq_s64_s32(left), vreinterpretq_s64_s32(right));
                let (first, second) = (vzip1q_s64(left, right), vzip2q_s64(left, right));
                let to = acc.add(2 * p * 8 + h * 4);
                vst1q_s32(to, vreinterpretq_s32_s64(first));
                if 2 * p + 1 < M {
                    vst1q_s32(to.add(8), vreinterpretq_s32_s64(second));
                }
            }
        }
    }
}

/// `U` times two groups, or a last one and zeros: every pair of rows times the four pairs of columns. At most 5 pairs in all.
///
/// Written out, so that no loop stays whose sums would then live in memory. What the pairs share is loaded once.
///
/// # Safety
/// As [`mm_tile`]: `lhs` is valid for the groups' `M` words each, `rhs` for their 32 bytes each.
#[target_feature(enable = "neon,i8mm")]
#[inline]
unsafe fn mm_steps<const M: usize, const P: usize, const U: usize, const TWO: bool>(
    c: &mut [[[int32x4_t; 4]; P]; U],
    lhs: *const u32,
    rhs: *const u8,
) {
    const { assert!(U * P <= 5) };
    macro_rules! pairs {
        ($($at:literal)*) => {$(
            if $at < U * P {
                let c = &mut c[$at / P][$at % P];
                // SAFETY: the caller's; `smmla` is there by the features.
                unsafe {
                    let rhs = rhs.add($at / P * 64);
                    let a = row_pair::<M, TWO>(lhs.add($at / P * 2 * M), $at % P * 2);
                    let (w, v) = (vld1q_u32(rhs.cast()), next_columns::<TWO>(rhs));
                    smmla!(c[0], a, vzip1q_u32(w, v));
                    smmla!(c[1], a, vzip2q_u32(w, v));
                    let (w, v) = (vld1q_u32(rhs.add(16).cast()), next_columns::<TWO>(rhs.add(16)));
                    smmla!(c[2], a, vzip1q_u32(w, v));
                    smmla!(c[3], a, vzip2q_u32(w, v));
                }
            }
        )*};
    }
    pairs!(0 1 2 3 4);
}

/// The same four columns of the next group.
///
/// # Safety
/// `rhs` is valid for 48 bytes, if there is a next group.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn next_columns<const TWO: bool>(rhs: *const u8) -> uint32x4_t {
    match TWO {
        // SAFETY: the caller's.
        true => unsafe { vld1q_u32(rhs.add(32).cast()) },
        false => vdupq_n_u32(0),
    }
}

/// Rows `row` and `row + 1`, eight k of each.
///
/// # Safety
/// As [`mm_steps`].
#[target_feature(enable = "neon,i8mm")]
#[inline]
unsafe fn row_pair<const M: usize, const TWO: bool>(lhs: *const u32, row: usize) -> uint32x4_t {
    // SAFETY: the caller's; two words are read where there are two rows.
    unsafe {
        let next = lhs.wrapping_add(M + row);
        let (first, second) = match (row + 1 < M, TWO) {
            (true, true) => (vld1_u32(lhs.add(row)), vld1_u32(next)),
            (true, false) => (vld1_u32(lhs.add(row)), vdup_n_u32(0)),
            (false, true) => (vld1_dup_u32(lhs.add(row)), vld1_dup_u32(next)),
            (false, false) => (vld1_dup_u32(lhs.add(row)), vdup_n_u32(0)),
        };
        vcombine_u32(vzip1_u32(first, second), vzip2_u32(first, second))
    }
}
