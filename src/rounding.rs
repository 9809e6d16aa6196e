//! Stochastic rounding from a counter: the same bits for any thread count, launch shape and backend.

use crate::numerics;

/// How a scaled value becomes an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Rounding {
    /// To nearest, ties to even.
    #[default]
    NearestEven,
    /// Up with the probability of the fraction, down otherwise: the expected value is the value itself.
    ///
    /// Random numbers come from Philox 4x32-10 keyed by `seed`, with the element's linear (row-major)
    /// index as counter, so that a result depends on nothing but data, seed and index.
    Stochastic {
        /// The key.
        seed: u64,
    },
}

impl Rounding {
    /// Quantises `x`, the element at linear index `index`: `clip(round(x * multiplier), -127, 127)`; NaN gives 0.
    #[inline(always)]
    pub fn quantize(self, x: f32, multiplier: f32, index: u64) -> i8 {
        match self {
            Rounding::NearestEven => numerics::quantize(x * multiplier),
            Rounding::Stochastic { seed } => {
                numerics::quantize((x * multiplier + uniform(seed, index)).floor())
            }
        }
    }

    /// Quantises `x` to integers of magnitude at most `limit`: `clip(round(x * multiplier), -limit, limit)`; NaN gives 0.
    #[inline(always)]
    pub fn quantize_within(self, x: f32, multiplier: f32, limit: f32, index: u64) -> i8 {
        let scaled = match self {
            Rounding::NearestEven => x * multiplier,
            Rounding::Stochastic { seed } => (x * multiplier + uniform(seed, index)).floor(),
        };
        numerics::quantize_within(scaled, limit)
    }

    /// Quantises `x` in an asymmetric slice: `clip(round(x * multiplier) + zero_point, -128, 127)`; NaN gives 0.
    #[inline(always)]
    pub fn quantize_asymmetric(self, x: f32, multiplier: f32, zero_point: i32, index: u64) -> i8 {
        match self {
            Rounding::NearestEven => numerics::quantize_asymmetric(x, multiplier, zero_point),
            Rounding::Stochastic { seed } => {
                let rounded = (x * multiplier + uniform(seed, index)).floor();
                numerics::quantize_asymmetric(rounded, 1.0, zero_point)
            }
        }
    }
}

/// The number in [0, 1), a multiple of 2^-24, that belongs to an element.
#[inline]
pub fn uniform(seed: u64, index: u64) -> f32 {
    let group = index >> 2;
    let words = philox4x32_10(
        [group as u32, (group >> 32) as u32, 0, 0],
        [seed as u32, (seed >> 32) as u32],
    );
    (words[(index & 3) as usize] >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Philox 4x32 with ten rounds (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011).
#[inline]
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let mul = |a: u32, b: u32| {
        let p = u64::from(a) * u64::from(b);
        ((p >> 32) as u32, p as u32)
    };
    for _ in 0..10 {
        let (hi0, lo0) = mul(0xD251_1F53, counter[0]);
        let (hi1, lo1) = mul(0xCD9E_8D57, counter[2]);
        counter = [
            hi1 ^ counter[1] ^ key[0],
            lo1,
            hi0 ^ counter[3] ^ key[1],
            lo0,
        ];
        key[0] = key[0].wrapping_add(0x9E37_79B9);
        key[1] = key[1].wrapping_add(0xBB67_AE85);
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        // Known answers of the Random123 distribution.
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn stochastic_rounding_is_unbiased() {
        let rounding = Rounding::Stochastic { seed: 7 };
        for x in [0.25f32, -0.75, 3.5, -100.125] {
            let n = 100_000u64;
            let sum: f64 = (0..n)
                .map(|i| f64::from(rounding.quantize(x, 1.0, i)))
                .sum();
            // Five standard deviations of the mean of n Bernoulli draws.
            let bound = 5.0 * 0.5 / (n as f64).sqrt();
            assert!((sum / n as f64 - f64::from(x)).abs() < bound, "{x}");
        }
        assert_eq!(rounding.quantize(f32::NAN, 1.0, 3), 0);
        assert_eq!(rounding.quantize(1e9, 1.0, 3), 127);
        assert_eq!(rounding.quantize(-1e9, 1.0, 3), -127);
    }
}
