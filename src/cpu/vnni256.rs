//! VNNI on 256-bit registers, a tile of 6 rows by 16 columns: AVX-VNNI (the VEX encoding of client CPUs)
//! and the same tile in the EVEX encoding of AVX-512VL, so that either kind of machine tests the one tile.

use super::kernel::{check_tile, Kernel, Layout, Trailing};
use core::arch::x86_64::*;

/// Unsigned bytes (plus 128), four k a group, 16 columns a panel.
const LAYOUT: Layout = Layout {
    name: "vnni-n16k4-u8",
    nr: 16,
    kr: 4,
    biased: true,
    strips: false,
};

macro_rules! kernel {
    ($kernel:ident, $name:literal, $features:literal, [$($feature:tt),*], $dot:ident, $tile:ident, $step:ident) => {
        #[derive(Clone, Copy)]
        pub(crate) struct $kernel(());

        impl Kernel for $kernel {
            const NAME: &'static str = $name;
            const LAYOUT: Layout = LAYOUT;
            const MR: usize = 6;

            fn new() -> Option<Self> {
                let have = true $(&& is_x86_feature_detected!($feature))*;
                have.then_some($kernel(()))
            }

            #[inline(always)]
            fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
                #[target_feature(enable = $features)]
                #[inline]
                fn run<R>(f: impl FnOnce() -> R) -> R {
                    f()
                }
                // SAFETY: `self` exists only where `new` found every one of these features.
                unsafe { run(f) }
            }

            #[inline]
            fn tile(self, m: usize, groups: usize, lhs: &[u32], rhs: &[u8], init: &[i32], acc: &mut [i32], trailing: Trailing) {
                check_tile::<Self>(m, groups, lhs, rhs, init, acc);
                trailing.copy();
                let (lhs, rhs, init, acc) = (lhs.as_ptr(), rhs.as_ptr(), init.as_ptr(), acc.as_mut_ptr());
                // SAFETY: the features are there (`self`), and `check_tile` has seen `groups * m` words of lhs,
                // `groups` groups of rhs, `m` of init and `m * 16` of acc.
                unsafe {
                    match m {
                        1 => $tile::<1, 4>(groups, lhs, rhs, init, acc),
                        2 => $tile::<2, 2>(groups, lhs, rhs, init, acc),
                        3 => $tile::<3, 2>(groups, lhs, rhs, init, acc),
                        4 => $tile::<4, 1>(groups, lhs, rhs, init, acc),
                        5 => $tile::<5, 1>(groups, lhs, rhs, init, acc),
                        _ => $tile::<6, 1>(groups, lhs, rhs, init, acc),
                    }
                }
            }
        }

        /// `M` rows, `U` groups in flight.
        ///
        /// # Safety
        /// The CPU has the features; `lhs` is valid for `groups * M` words, `rhs` for `groups * 64` bytes, `init`
        /// for `M` and `acc` for `M * 16` elements.
        #[target_feature(enable = $features)]
        unsafe fn $tile<const M: usize, const U: usize>(
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
                        $step(c, lhs.add((g + u) * M), rhs.add((g + u) * 64));
                    }
                    g += U;
                }
                while g < groups {
                    $step(&mut c[0], lhs.add(g * M), rhs.add(g * 64));
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

        /// One group: every row's word times both halves of the panel.
        ///
        /// # Safety
        /// As the tile: `lhs` is valid for `M` words, `rhs` for 64 bytes.
        #[inline(always)]
        unsafe fn $step<const M: usize>(c: &mut [[__m256i; 2]; M], lhs: *const u32, rhs: *const u8) {
            // SAFETY: the caller's.
            unsafe {
                let w = [_mm256_loadu_si256(rhs.cast()), _mm256_loadu_si256(rhs.add(32).cast())];
                for (i, c) in c.iter_mut().enumerate() {
                    let a = _mm256_set1_epi32(*lhs.add(i) as i32);
                    c[0] = $dot(c[0], w[0], a);
                    c[1] = $dot(c[1], w[1], a);
                }
            }
        }
    };
}

kernel!(
    AvxVnni,
    "avx_vnni",
    "avxvnni,avx2,fma,bmi2",
    ["avxvnni", "avx2", "fma", "bmi2"],
    _mm256_dpbusd_avx_epi32,
    tile_vex,
    step_vex
);
kernel!(
    Avx512VlVnni,
    "avx512vl_vnni",
    "avx512f,avx512vl,avx512vnni,avx2,fma,bmi2",
    ["avx512f", "avx512vl", "avx512vnni", "avx2", "fma", "bmi2"],
    _mm256_dpbusd_epi32,
    tile_evex,
    step_evex
);
