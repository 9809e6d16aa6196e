//! The rounding rules, each defined in one place: every backend and every kernel gives these bits.
//!
//! With `absmax` the largest |x| of a slice (a row, a column, a tensor):
//!
//! ```text
//! bound    = absmax, or 1 where absmax is 0 or so small that 127 / absmax overflows
//! quantise   q = clip(round_half_even(x * (127 / bound)), -127, 127),  NaN -> 0
//! scale      = bound / 127
//! dequantise   (f32(acc) * scale_row) * scale_col, each step rounded to nearest even
//! ```
//!
//! The formula is the one of the JAX function `quant_int8(a * (127 / absmax))`; the treatment of
//! zero, tiny and non-finite slices follows from it: a slice that holds NaN or infinity quantises to
//! zeros with a NaN or infinite scale, so that its whole row or column of the product is NaN.
//!
//! The quantised [`dot_general`](crate::ops::QuantDotGeneral) of `bits` 2 to 8 has its own rule, which maps the bound to the
//! outer edge of the last bucket instead of its middle: [`bucket_edge`], [`edge_multiplier`], [`quantize_within`].

use crate::error::{Error, Result};

/// The largest int8 magnitude that quantising gives: -128 is never made, only accepted.
pub const QMAX: f32 = 127.0;

/// The longest contraction whose int32 sums are exact for any int8 data: `131_071 * 128 * 128 < 2^31`.
pub const MAX_K: usize = 131_071;

/// The longest contraction that is exact with zero points: `65_793 * 255 * 128 < 2^31`.
pub const MAX_K_ZERO_POINT: usize = 65_793;

/// max |x|: NaN if any element is NaN, infinity if any is infinite, 0 for an empty slice.
///
/// The maximum of the sign-cleared bit patterns as integers: NaN patterns lie above infinity's.
#[inline(always)]
pub fn absmax(values: impl IntoIterator<Item = f32>) -> f32 {
    let bits = values.into_iter().map(|x| x.to_bits() & 0x7fff_ffff);
    f32::from_bits(bits.fold(0, u32::max))
}

/// The value that maps to 127: `absmax`, or 1 where `127 / absmax` is not finite (zero and tiny slices).
///
/// NaN and infinity pass through.
///
/// ```
/// # use imma::numerics::bound;
/// assert_eq!(bound(2.5), 2.5);
/// assert_eq!(bound(0.0), 1.0);
/// assert_eq!(bound(1e-40), 1.0);
/// ```
#[inline(always)]
pub fn bound(absmax: f32) -> f32 {
    if (QMAX / absmax).is_infinite() {
        1.0
    } else {
        absmax
    }
}

/// What elements are multiplied by when they are quantised: `127 / bound`, rounded once.
#[inline(always)]
pub fn multiplier(bound: f32) -> f32 {
    QMAX / bound
}

/// The size of one quantisation step, which dequantises: `bound / 127`, rounded once.
#[inline(always)]
pub fn scale(bound: f32) -> f32 {
    bound / QMAX
}

/// Rounds half to even and clips to ±127; NaN gives 0. [`quant_int8`](crate::quant_int8) for one value.
///
/// ```
/// # use imma::numerics::quantize;
/// assert_eq!([2.5, 3.5, -0.5, 1e9, f32::NAN].map(quantize), [2, 4, 0, 127, 0]);
/// ```
#[inline(always)]
pub fn quantize(x: f32) -> i8 {
    let x = if x.is_nan() { 0.0 } else { x };
    // Clipping first gives the same value and lets the rounding be the magic addition below:
    // 1.5 * 2^23 + x has an ulp of 1, so that the sum's low bits are x rounded half to even.
    let x = if x > QMAX { QMAX } else { x };
    let x = if x < -QMAX { -QMAX } else { x };
    round(x)
}

/// Rounds half to even what rounds to -128..=127.
#[inline(always)]
pub(crate) fn round(x: f32) -> i8 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC).to_bits() as i8
}

/// Refuses a step size that can't be used: it must be above zero and finite, and so must be its inverse.
pub(crate) fn check_step(what: &'static str, scale: f32) -> Result<()> {
    if scale > 0.0 && scale.is_finite() && (1.0 / scale).is_finite() {
        return Ok(());
    }
    Err(Error::Value {
        what,
        found: scale.to_string(),
        expected: "a number above zero with a finite inverse".into(),
    })
}

/// Refuses what would divide by zero for a row of zeros.
pub(crate) fn check_epsilon(epsilon: f32) -> Result<()> {
    if epsilon > 0.0 && epsilon.is_finite() {
        return Ok(());
    }
    Err(Error::Value {
        what: "the norm's epsilon",
        found: epsilon.to_string(),
        expected: "a finite number above zero".into(),
    })
}

/// Elements of a piece of [`quantize_row`].
pub(crate) const PIECE: usize = 256;

/// Quantises a row with its own scale, which it returns: `out[i] = quantize(row[i] * multiplier(bound))` with the `bound`
/// of the row's [`absmax`]. Goes over the row twice, and calls `each` before every [`PIECE`] of it.
#[inline(always)]
pub(crate) fn quantize_row(row: &[f32], out: &mut [i8], mut each: impl FnMut()) -> f32 {
    let mut most = 0f32;
    for piece in row.chunks(PIECE) {
        each();
        // By the bits, as in `absmax`: NaN is above everything.
        let bits = absmax(piece.iter().copied()).to_bits();
        most = f32::from_bits(most.to_bits().max(bits));
    }
    let bound = bound(most);
    let multiplier = multiplier(bound);
    for (out, piece) in out.chunks_mut(PIECE).zip(row.chunks(PIECE)) {
        each();
        let pairs = out.iter_mut().zip(piece);
        if most.is_finite() {
            // No element is NaN, and none is above 127 by more than the product's rounding: nothing to clip.
            pairs.for_each(|(q, x)| *q = round(x * multiplier));
        } else {
            pairs.for_each(|(q, x)| *q = quantize(x * multiplier));
        }
    }
    scale(bound)
}

/// The sum of the squares of a row, in f32 and in one order that depends on nothing but the row: a balanced binary tree
/// over the elements by their index, as if zeros followed up to a power of two.
///
/// ```text
/// s[0][i] = x[i] * x[i]        s[l + 1][i] = s[l][2 i] + s[l][2 i + 1]        each rounded to nearest even
/// ```
///
/// Its relative error is at most about `(1 + log2 K) * 2^-24`, that of a running sum up to `K * 2^-24`.
///
/// ```
/// # use imma::numerics::sum_of_squares;
/// // In order, 2^24 + 1 + 1 would stay 2^24.
/// assert_eq!(sum_of_squares(&[4096.0, 0.0, 1.0, 1.0]), 16_777_218.0);
/// ```
pub fn sum_of_squares(x: &[f32]) -> f32 {
    const LEAF: usize = 64;
    if x.len() > LEAF {
        let (low, high) = x.split_at(x.len().next_power_of_two() / 2);
        return sum_of_squares(low) + sum_of_squares(high);
    }
    let mut sums = [0f32; LEAF];
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum = x * x;
    }
    let mut width = LEAF / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] = sums[2 * i] + sums[2 * i + 1];
        }
        width /= 2;
    }
    sums[0]
}

/// What RMSNorm multiplies a row of `length` elements by: `1 / sqrt(sum_of_squares / length + epsilon)`, each step rounded
/// to nearest even.
///
/// NaN where the sum is not finite, so that a row whose squares overflow becomes NaN and not silently zeros.
///
/// ```
/// # use imma::numerics::inverse_rms;
/// assert_eq!(inverse_rms(8.0, 2, 0.0), 0.5);
/// assert!(inverse_rms(f32::INFINITY, 2, 0.0).is_nan());
/// ```
#[inline]
pub fn inverse_rms(sum_of_squares: f32, length: usize, epsilon: f32) -> f32 {
    if !sum_of_squares.is_finite() {
        return f32::NAN;
    }
    1.0 / (sum_of_squares / length as f32 + epsilon).sqrt()
}

/// The outer edge of the last bucket of signed `bits`-bit integers that keep zero: `2^(bits - 1) - 0.5`.
///
/// The integers are those of magnitude at most `edge - 0.5`, as many on either side of zero.
///
/// ```
/// # use imma::numerics::bucket_edge;
/// assert_eq!([8, 4, 2].map(bucket_edge), [127.5, 7.5, 1.5]);
/// ```
#[inline]
pub fn bucket_edge(bits: u8) -> f32 {
    2f32.powi(i32::from(bits) - 1) - 0.5
}

/// What elements are multiplied by when `bound` is mapped to the edge of the last bucket: `edge / bound`, rounded once,
/// and down to a power of two on request.
///
/// A bound so small that the quotient overflows counts as 1, as in [`bound`]; NaN stays NaN, an infinite bound gives 0.
///
/// ```
/// # use imma::numerics::edge_multiplier;
/// assert_eq!(edge_multiplier(8, 2.0, false), 63.75);
/// assert_eq!(edge_multiplier(8, 2.0, true), 32.0);
/// assert_eq!(edge_multiplier(8, 0.0, false), 127.5);
/// ```
#[inline]
pub fn edge_multiplier(bits: u8, bound: f32, power_of_two: bool) -> f32 {
    let edge = bucket_edge(bits);
    let exact = edge / bound;
    let multiplier = if exact.is_infinite() { edge } else { exact };
    if power_of_two {
        power_of_two_below(multiplier)
    } else {
        multiplier
    }
}

/// The largest power of two that is not above a positive number; 0, NaN and infinity as they are.
fn power_of_two_below(x: f32) -> f32 {
    let bits = x.to_bits();
    if x.is_normal() {
        f32::from_bits(bits & 0x7f80_0000)
    } else if x.is_subnormal() {
        f32::from_bits(1 << bits.ilog2())
    } else {
        x
    }
}

/// Rounds half to even and clips to `±limit`, a whole number of at most 127; NaN gives 0.
///
/// ```
/// # use imma::numerics::quantize_within;
/// assert_eq!([2.5, -6.5, 7.5, f32::NAN].map(|x| quantize_within(x, 7.0)), [2, -6, 7, 0]);
/// ```
#[inline(always)]
pub fn quantize_within(x: f32, limit: f32) -> i8 {
    let x = if x > limit { limit } else { x };
    let x = if x < -limit { -limit } else { x };
    quantize(x)
}

/// Dequantises one sum without a bias: `(f32(acc) * row) * column`.
#[inline(always)]
pub fn dequantize(acc: i32, row: f32, column: f32) -> f32 {
    (acc as f32 * row) * column
}

/// The constants of an asymmetric slice: `x ~ (q - zero_point) * scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asymmetric {
    /// Size of one step: `(hi - lo) / 255`.
    pub scale: f32,
    /// What elements are multiplied by: `255 / (hi - lo)`.
    pub multiplier: f32,
    /// The integer that stands for 0.0, in -128..=127.
    pub zero_point: i32,
}

/// Constants that map `[min(lo, 0), max(hi, 0)]` onto -128..=127, so that 0.0 is exact.
///
/// A range so small that `255 / range` overflows counts as 255 (scale 1). NaN or infinity in either
/// end gives a NaN scale and zero integers.
///
/// ```
/// # use imma::numerics::{asymmetric, quantize_asymmetric};
/// let a = asymmetric(-1.0, 4.1);
/// assert_eq!(a.zero_point, -78);
/// assert_eq!(quantize_asymmetric(0.0, a.multiplier, a.zero_point), -78);
/// assert_eq!(quantize_asymmetric(4.1, a.multiplier, a.zero_point), 127);
/// ```
#[inline(always)]
pub fn asymmetric(lo: f32, hi: f32) -> Asymmetric {
    let finite = lo.is_finite() && hi.is_finite();
    let lo = if lo < 0.0 { lo } else { 0.0 };
    let hi = if hi > 0.0 { hi } else { 0.0 };
    let range = hi - lo;
    if !finite || !range.is_finite() {
        return Asymmetric {
            scale: f32::NAN,
            multiplier: f32::NAN,
            zero_point: 0,
        };
    }
    let range = if (255.0 / range).is_infinite() {
        255.0
    } else {
        range
    };
    let multiplier = 255.0 / range;
    let zero = (-128.0 - lo * multiplier).round_ties_even();
    Asymmetric {
        scale: range / 255.0,
        multiplier,
        zero_point: zero.clamp(-128.0, 127.0) as i32,
    }
}

/// `clip(round_half_even(x * multiplier) + zero_point, -128, 127)`; NaN gives 0.
#[inline(always)]
pub fn quantize_asymmetric(x: f32, multiplier: f32, zero_point: i32) -> i8 {
    let scaled = x * multiplier;
    if scaled.is_nan() {
        return 0;
    }
    // Far outside int8's range the value clips anyway; within it the sum of integers is exact in f32.
    let rounded = scaled.clamp(-1024.0, 1024.0).round_ties_even() + zero_point as f32;
    rounded.clamp(-128.0, 127.0) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantize_is_round_half_even_then_clip() {
        let mut x = -140.0f32;
        while x < 140.0 {
            for x in [
                x,
                f32::from_bits(x.to_bits() + 1),
                f32::from_bits(x.to_bits().wrapping_sub(1)),
            ] {
                let want = x.round_ties_even().clamp(-127.0, 127.0) as i8;
                assert_eq!(quantize(x), want, "{x:?}");
            }
            x += 0.125;
        }
        assert_eq!(
            [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0].map(quantize),
            [127, -127, 0, 0]
        );
    }

    #[test]
    fn absmax_keeps_nan_and_infinity() {
        assert!(absmax([1.0, f32::NAN, 3.0]).is_nan());
        assert!(absmax([1.0, -f32::NAN, f32::INFINITY]).is_nan());
        assert_eq!(absmax([1.0, f32::NEG_INFINITY]), f32::INFINITY);
        assert_eq!(absmax([1.0, -3.0, -0.0]), 3.0);
        assert_eq!(absmax([]), 0.0);
    }

    #[test]
    fn tiny_slices_are_bounded_by_one() {
        // The smallest absmax with a finite 127 / absmax, and the one below it.
        let mut x = 127.0 / f32::MAX;
        while (127.0 / x).is_infinite() {
            x = f32::from_bits(x.to_bits() + 1);
        }
        assert_eq!(bound(x), x);
        assert_eq!(bound(f32::from_bits(x.to_bits() - 1)), 1.0);
        assert!(bound(f32::NAN).is_nan());
        assert_eq!(bound(f32::INFINITY), f32::INFINITY);
        assert!(multiplier(f32::NAN).is_nan());
        assert_eq!(multiplier(f32::INFINITY), 0.0);
    }

    #[test]
    fn powers_of_two_are_rounded_down() {
        for (x, want) in [
            (1.0, 1.0),
            (0.99, 0.5),
            (1000.0, 512.0),
            (f32::MIN_POSITIVE / 3.0, f32::MIN_POSITIVE / 4.0),
            (f32::MAX, 2f32.powi(127)),
            (0.0, 0.0),
            (f32::INFINITY, f32::INFINITY),
        ] {
            assert_eq!(power_of_two_below(x), want, "{x:e}");
        }
        assert!(power_of_two_below(f32::NAN).is_nan());
        assert!(edge_multiplier(4, f32::NAN, true).is_nan());
        assert_eq!(edge_multiplier(4, f32::INFINITY, true), 0.0);
        assert_eq!(edge_multiplier(2, 1e-45, false), 1.5);
    }

    #[test]
    fn the_limits_of_k_are_the_largest_exact_ones() {
        let worst = |k: usize, a: i64, w: i64| k as i64 * a * w;
        assert!(worst(MAX_K, 128, 128) <= i64::from(i32::MAX));
        assert!(worst(MAX_K + 1, 128, 128) > i64::from(i32::MAX));
        assert!(worst(MAX_K_ZERO_POINT, 255, 128) <= i64::from(i32::MAX));
        assert!(worst(MAX_K_ZERO_POINT + 1, 255, 128) > i64::from(i32::MAX));
    }
}
