//! Few rows: vectors instead of tiles, over the panels that the tiles read.
//!
//! At few rows a product takes as long as its weights take from memory, whoever multiplies. Loads of vectors keep more of
//! them on the way than loads of tiles do, and a row costs a vector one product for 64 bytes of weights.
//!
//! ```text
//!   a step   weights, two panels     [c0 k0..3][c1 k0..3]..[c15]    one vector for four k: 16 a panel
//!            activations, a strip    [r0 k0..63][r1 k0..63]..       four k of a row, for all columns
//! ```

use crate::cpu::engine::{one_by_one, Place};
use crate::cpu::kernel::{Kernel, STRIP_BYTES, STRIP_ROWS};
use crate::cpu::lhs::LhsBlock;
use crate::cpu::store::Output;

/// Most rows. On Emerald Rapids, weights in memory: 1 to 3 rows took vectors nine tenths of the tiles' time, 4 and 8 the same.
pub(crate) const FEW: usize = 3;
/// Columns at a time: two panels.
pub(crate) const WIDTH: usize = 32;
/// Bytes of a strip or a panel a step.
const STEP: usize = STRIP_ROWS * STRIP_BYTES;

/// Sums of few rows. A value of the type is the proof that this CPU has the instructions.
pub(crate) trait FewRows: Kernel {
    /// `acc[i][j] = sum over k of strip[i][k] * panels[j / 16][k][j % 16]`, in wrapping int32, for the first `m <= FEW` rows
    /// of a strip and the columns of two panels, over `steps` steps of 64 k. `acc` is `[m][32]`, overwritten.
    ///
    /// # Safety
    /// The strip and both panels hold that many steps of 1024 bytes.
    unsafe fn few_rows(
        self,
        m: usize,
        steps: usize,
        strip: *const u8,
        panels: [*const u8; 2],
        acc: &mut [i32],
    );
}

/// Multiplies a block of at most [`FEW`] rows by panels.
///
/// # Safety
/// No other thread reads or writes these rows and columns of the output at the same time.
pub(crate) unsafe fn run<L: FewRows, O: Output>(
    kernel: L,
    block: &LhsBlock,
    weights: &[u8],
    place: Place<'_, '_, O>,
) {
    let steps = block.groups() / 16;
    assert!(block.rows() <= FEW);
    let panels = place.cols.div_ceil(16);
    assert!(weights.len() >= panels * steps * STEP);
    // SAFETY: the output is the caller's to vouch for. Strips and panels are whole, and as many as is asserted.
    unsafe {
        one_by_one(kernel, WIDTH, block, place, |p, panel, acc, trailing| {
            kernel.vectorize(
                #[inline(always)]
                || trailing.copy(),
            );
            assert!(size_of_val(panel.words) >= steps * STEP);
            // A last panel alone is multiplied twice.
            let pair = [2 * p, (2 * p + 1).min(panels - 1)];
            let pair = pair.map(|panel| weights.as_ptr().wrapping_add(panel * steps * STEP));
            kernel.few_rows(panel.m, steps, panel.words.as_ptr().cast(), pair, acc);
        });
    }
}

/// By the definition.
impl FewRows for crate::cpu::portable::Portable {
    unsafe fn few_rows(
        self,
        m: usize,
        steps: usize,
        strip: *const u8,
        panels: [*const u8; 2],
        acc: &mut [i32],
    ) {
        acc.fill(0);
        // SAFETY: the caller's.
        let of =
            |at: *const u8| unsafe { core::slice::from_raw_parts(at.cast::<i8>(), steps * STEP) };
        let (strip, panels) = (of(strip), panels.map(of));
        for (i, row) in acc.chunks_exact_mut(WIDTH).take(m).enumerate() {
            for k in 0..steps * STRIP_BYTES {
                let (step, k) = (k / STRIP_BYTES * STEP, k % STRIP_BYTES);
                let a = i32::from(strip[step + i * STRIP_BYTES + k]);
                for (j, sum) in row.iter_mut().enumerate() {
                    let w = panels[j / 16][step + k / 4 * 64 + j % 16 * 4 + k % 4];
                    *sum = sum.wrapping_add(a * i32::from(w));
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod vnni {
    use super::{FewRows, FEW, STEP, WIDTH};
    use crate::cpu::avx512_vnni::Avx512Vnni;
    use crate::cpu::kernel::{STRIP_BYTES, STRIP_ROWS};
    use core::arch::x86_64::*;

    impl FewRows for Avx512Vnni {
        unsafe fn few_rows(
            self,
            m: usize,
            steps: usize,
            strip: *const u8,
            panels: [*const u8; 2],
            acc: &mut [i32],
        ) {
            assert!((1..=FEW).contains(&m) && acc.len() >= m * WIDTH);
            let acc = acc.as_mut_ptr();
            // SAFETY: the features are there (`self`), the steps too (the caller's), and `acc` was seen to hold m rows.
            unsafe {
                match m {
                    1 => sums::<1, 4>(steps, strip, panels, acc),
                    2 => sums::<2, 2>(steps, strip, panels, acc),
                    _ => sums::<3, 2>(steps, strip, panels, acc),
                }
            }
        }
    }

    /// `M` rows, `U` groups of four k in flight (a divisor of 16).
    ///
    /// `vpdpbusd` multiplies unsigned by signed: weights are taken plus 128, and the sums start at `-128 * sum(row)`.
    ///
    /// # Safety
    /// The CPU has the features; the strip and both panels hold `steps` steps, `acc` is valid for `M * 32` elements.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,bmi2")]
    unsafe fn sums<const M: usize, const U: usize>(
        steps: usize,
        strip: *const u8,
        panels: [*const u8; 2],
        acc: *mut i32,
    ) {
        let mut c = [[[_mm512_setzero_si512(); 2]; M]; U];
        let mut row_sums = [_mm512_setzero_si512(); M];
        // SAFETY: every address below lies in the steps, or the rows of `acc`, that the caller vouches for.
        unsafe {
            for step in 0..steps {
                for i in 0..M {
                    let row = strip.add(step * STEP + i * STRIP_BYTES);
                    let row = _mm512_loadu_si512(row.cast());
                    row_sums[i] = _mm512_dpbusd_epi32(row_sums[i], _mm512_set1_epi8(-128), row);
                }
            }
            for step in 0..steps {
                let a = strip.add(step * STEP);
                let b = [panels[0].add(step * STEP), panels[1].add(step * STEP)];
                let mut g = 0;
                while g < STRIP_ROWS {
                    for u in 0..U {
                        group(
                            &mut c[u],
                            a.add(4 * (g + u)),
                            b[0].add(64 * (g + u)),
                            b[1].add(64 * (g + u)),
                        );
                    }
                    g += U;
                }
            }
            for i in 0..M {
                // 128 times the row's sum, as it was summed beside.
                let start = _mm512_set1_epi32(_mm512_reduce_add_epi32(row_sums[i]).wrapping_neg());
                for h in 0..2 {
                    let mut sum = start;
                    for c in &c {
                        sum = _mm512_add_epi32(sum, c[i][h]);
                    }
                    _mm512_storeu_si512(acc.add(i * WIDTH + h * 16).cast(), sum);
                }
            }
        }
    }

    /// One group of four k: every row's word times both panels.
    ///
    /// # Safety
    /// As [`sums`]: `a` is at the word of the first row of a strip, `b0` and `b1` are valid for 64 bytes.
    #[inline(always)]
    unsafe fn group<const M: usize>(
        c: &mut [[__m512i; 2]; M],
        a: *const u8,
        b0: *const u8,
        b1: *const u8,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let bias = _mm512_set1_epi8(-128);
            let w0 = _mm512_xor_si512(_mm512_loadu_si512(b0.cast()), bias);
            let w1 = _mm512_xor_si512(_mm512_loadu_si512(b1.cast()), bias);
            for i in 0..M {
                let word = a.add(i * STRIP_BYTES).cast::<i32>().read_unaligned();
                let word = _mm512_set1_epi32(word);
                c[i][0] = _mm512_dpbusd_epi32(c[i][0], w0, word);
                c[i][1] = _mm512_dpbusd_epi32(c[i][1], w1, word);
            }
        }
    }
}
