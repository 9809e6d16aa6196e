//! AVX-512 VNNI: `vpdpbusd` on 512-bit registers, a tile of 12 rows by 32 columns.
//!
//! ```text
//!   registers   24 accumulators (12 rows x 2), 2 of weights, 1 broadcast word of activations
//!   a group     2 loads of weights, 12 broadcasts, 24 vpdpbusd = 3072 multiply-adds
//! ```
//!
//! A tile of few rows has few accumulators, and the chain of dependent `vpdpbusd` would bound it: there
//! several groups run in accumulators of their own, summed at the end (exact in wrapping int32).

use super::kernel::{check_tile, Kernel, Layout, Trailing};
use super::prefetch;
use core::arch::x86_64::*;

/// Unsigned bytes (plus 128), four k a group, 32 columns a panel.
const LAYOUT: Layout = Layout {
    name: "vnni-n32k4-u8",
    nr: 32,
    kr: 4,
    biased: true,
    strips: false,
};

#[derive(Clone, Copy)]
pub(crate) struct Avx512Vnni(());

impl Kernel for Avx512Vnni {
    const NAME: &'static str = "avx512_vnni";
    const LAYOUT: Layout = LAYOUT;
    const MR: usize = 12;
    const ASKS_AHEAD: bool = false;

    fn new() -> Option<Self> {
        let have = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi2");
        have.then_some(Avx512Vnni(()))
    }

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,bmi2")]
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
        let (lhs, rhs, init, acc) = (lhs.as_ptr(), rhs.as_ptr(), init.as_ptr(), acc.as_mut_ptr());
        // SAFETY: the features are there (`self`), and `check_tile` has seen `groups * m` words of lhs, `groups`
        // groups of rhs, `m` of init and `m * 32` of acc.
        unsafe {
            match m {
                1 => tile::<1, 8>(groups, lhs, rhs, init, acc, trailing),
                2 => tile::<2, 4>(groups, lhs, rhs, init, acc, trailing),
                3 => tile::<3, 2>(groups, lhs, rhs, init, acc, trailing),
                4 => tile::<4, 2>(groups, lhs, rhs, init, acc, trailing),
                5 => tile::<5, 2>(groups, lhs, rhs, init, acc, trailing),
                6 => tile::<6, 1>(groups, lhs, rhs, init, acc, trailing),
                7 => tile::<7, 1>(groups, lhs, rhs, init, acc, trailing),
                8 => tile::<8, 1>(groups, lhs, rhs, init, acc, trailing),
                9 => tile::<9, 1>(groups, lhs, rhs, init, acc, trailing),
                10 => tile::<10, 1>(groups, lhs, rhs, init, acc, trailing),
                11 => tile::<11, 1>(groups, lhs, rhs, init, acc, trailing),
                _ => tile::<12, 1>(groups, lhs, rhs, init, acc, trailing),
            }
        }
    }
}

/// `M` rows, `U` groups in flight.
///
/// # Safety
/// The CPU has the features; `lhs` is valid for `groups * M` words, `rhs` for `groups * 128` bytes, `init` for
/// `M` and `acc` for `M * 32` elements.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,bmi2")]
unsafe fn tile<const M: usize, const U: usize>(
    groups: usize,
    lhs: *const u32,
    rhs: *const u8,
    init: *const i32,
    acc: *mut i32,
    trailing: Trailing,
) {
    let mut c = [[[_mm512_setzero_si512(); 2]; M]; U];
    // SAFETY: every address below lies in the ranges the caller vouches for.
    unsafe {
        for i in 0..M {
            c[0][i] = [_mm512_set1_epi32(*init.add(i)); 2];
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
                for (u, c) in c.iter_mut().enumerate() {
                    step(c, lhs.add((g + u) * M), rhs.add((g + u) * 128));
                }
                g += U;
            }
        }
        while g < groups {
            step(&mut c[0], lhs.add(g * M), rhs.add(g * 128));
            g += 1;
        }
        for i in M..=trailing.rows() {
            if i > M {
                prefetch_write(trailing, i - 1);
            }
            copy_row(trailing, i - 1);
        }
        for i in 0..M {
            for h in 0..2 {
                let mut sum = c[0][i][h];
                for c in &c[1..] {
                    sum = _mm512_add_epi32(sum, c[i][h]);
                }
                _mm512_storeu_si512(acc.add(i * 32 + h * 16).cast(), sum);
            }
        }
    }
}

/// Asks for the cache lines of one row, to be written.
#[inline(always)]
fn prefetch_write(trailing: Trailing, row: usize) {
    let (_, to, bytes) = trailing.row(row);
    let mut at = 0;
    while at < bytes {
        prefetch::to_write(to.wrapping_add(at));
        at += 64;
    }
    prefetch::to_write(to.wrapping_add(bytes - 1));
}

/// Copies one row of at most 128 bytes.
///
/// # Safety
/// The CPU has the features; `trailing` has this row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,bmi2")]
unsafe fn copy_row(trailing: Trailing, row: usize) {
    let (from, to, bytes) = trailing.row(row);
    // SAFETY: the contract of `Trailing::new`; the masks keep to the row's bytes.
    unsafe {
        if bytes == 128 {
            let (a, b) = (
                _mm512_loadu_si512(from.cast()),
                _mm512_loadu_si512(from.add(64).cast()),
            );
            _mm512_storeu_si512(to.cast(), a);
            _mm512_storeu_si512(to.add(64).cast(), b);
        } else {
            let mut at = 0;
            while at < bytes {
                let mask = _bzhi_u64(u64::MAX, (bytes - at).min(64) as u32);
                let part = _mm512_maskz_loadu_epi8(mask, from.add(at).cast());
                _mm512_mask_storeu_epi8(to.add(at).cast(), mask, part);
                at += 64;
            }
        }
    }
}

/// One group: every row's word times both halves of the panel.
///
/// # Safety
/// As [`tile`]: `lhs` is valid for `M` words, `rhs` for 128 bytes.
#[inline(always)]
unsafe fn step<const M: usize>(c: &mut [[__m512i; 2]; M], lhs: *const u32, rhs: *const u8) {
    // SAFETY: the caller's.
    unsafe {
        let w = [
            _mm512_loadu_si512(rhs.cast()),
            _mm512_loadu_si512(rhs.add(64).cast()),
        ];
        for (i, c) in c.iter_mut().enumerate() {
            let a = _mm512_set1_epi32(*lhs.add(i) as i32);
            c[0] = _mm512_dpbusd_epi32(c[0], w[0], a);
            c[1] = _mm512_dpbusd_epi32(c[1], w[1], a);
        }
    }
}
