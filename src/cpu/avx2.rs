//! AVX2: `vpmaddwd` after widening to 16 bits, a tile of 6 rows by 16 columns.
//!
//! `vpmaddubsw` would multiply bytes directly, but its 16-bit sums saturate: `255 * 127 * 2` does not fit.
//! Widened, a pair's sum is at most `2 * 128 * 128`, exact in 32 bits.

use super::kernel::{check_tile, Kernel, Layout, Trailing};
use core::arch::x86_64::*;

/// Signed bytes, two k a group, 16 columns a panel.
const LAYOUT: Layout = Layout {
    name: "n16k2-i8",
    nr: 16,
    kr: 2,
    biased: false,
    strips: false,
};

#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Kernel for Avx2 {
    const NAME: &'static str = "avx2";
    const LAYOUT: Layout = LAYOUT;
    const MR: usize = 6;

    fn new() -> Option<Self> {
        let have = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi2");
        have.then_some(Avx2(()))
    }

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma,bmi2")]
        #[inline]
        fn run<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: `self` exists only where `new` found every one of these features.
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
        trailing.copy();
        let (lhs, rhs, init, acc) = (lhs.as_ptr(), rhs.as_ptr(), init.as_ptr(), acc.as_mut_ptr());
        // SAFETY: the features are there (`self`), and `check_tile` has seen `groups * m` words of lhs, `groups`
        // groups of rhs, `m` of init and `m * 16` of acc.
        unsafe {
            match m {
                1 => tile::<1, 4>(groups, lhs, rhs, init, acc),
                2 => tile::<2, 2>(groups, lhs, rhs, init, acc),
                3 => tile::<3, 2>(groups, lhs, rhs, init, acc),
                4 => tile::<4, 1>(groups, lhs, rhs, init, acc),
                5 => tile::<5, 1>(groups, lhs, rhs, init, acc),
                _ => tile::<6, 1>(groups, lhs, rhs, init, acc),
            }
        }
    }
}

/// `M` rows, `U` groups in flight.
///
/// # Safety
/// The CPU has AVX2; `lhs` is valid for `groups * M` words, `rhs` for `groups * 32` bytes, `init` for `M` and
/// `acc` for `M * 16` elements.
#[target_feature(enable = "avx2")]
unsafe fn tile<const M: usize, const U: usize>(
    groups: usize,
    lhs: *const u32,
    rhs: *const u8,
    init: *const i32,
    acc: *mut i32,
) {
    let mut c = [[[_mm256_setzero_si256(); 2]; M]; U];
    // SAFETY: every address below lies in the ranges the caller vouches for.
    unsafe {
        for i in 0..M {
            c[0][i] = [_mm256_set1_epi32(*init.add(i)); 2];
        }
        let mut g = 0;
        while g + U <= groups {
            for (u, c) in c.iter_mut().enumerate() {
                step(c, lhs.add((g + u) * M), rhs.add((g + u) * 32));
            }
            g += U;
        }
        while g < groups {
            step(&mut c[0], lhs.add(g * M), rhs.add(g * 32));
            g += 1;
        }
        for i in 0..M {
            for h in 0..2 {
                let mut sum = c[0][i][h];
                for c in &c[1..] {
                    sum = _mm256_add_epi32(sum, c[i][h]);
                }
                _mm256_storeu_si256(acc.add(i * 16 + h * 8).cast(), sum);
            }
        }
    }
}

/// One group: every row's pair times both halves of the panel.
///
/// # Safety
/// As [`tile`]: `lhs` is valid for `M` words, `rhs` for 32 bytes.
#[inline(always)]
unsafe fn step<const M: usize>(c: &mut [[__m256i; 2]; M], lhs: *const u32, rhs: *const u8) {
    // SAFETY: the caller's.
    unsafe {
        let w = [
            _mm256_cvtepi8_epi16(_mm_loadu_si128(rhs.cast())),
            _mm256_cvtepi8_epi16(_mm_loadu_si128(rhs.add(16).cast())),
        ];
        for (i, c) in c.iter_mut().enumerate() {
            let a = _mm256_set1_epi32(*lhs.add(i) as i32);
            c[0] = _mm256_add_epi32(c[0], _mm256_madd_epi16(w[0], a));
            c[1] = _mm256_add_epi32(c[1], _mm256_madd_epi16(w[1], a));
        }
    }
}
