//! Finding the range that a slice's integers cover.

use crate::element::Element;
use crate::error::{Error, Result};
use crate::numerics;

/// How the range that a slice's scale covers is found from its elements `x`.
///
/// Symmetric quantisation covers `[-bound, bound]`, asymmetric `[lo, hi]` widened to include 0.0:
///
/// | calibration | bound | lo, hi |
/// |---|---|---|
/// | `AbsMax` | max \|x\| | min x, max x |
/// | `Constant(b)` | b | -b, b |
/// | `Percentile(p)` | the p-th percentile of \|x\| | the (100 - p)-th and p-th percentile of x |
/// | `MeanAbsolute { factor }` | b = factor * mean \|x\| | max(min x, -b), min(max x, b) |
/// | `MeanSquaredError { steps }` | max \|x\| * i / steps with the least error | (min x, max x) * i / steps with the least error |
///
/// What lies beyond the range clips. A range of zero counts as 1 (symmetric) or 255 (asymmetric), as
/// [`numerics::bound`] and [`numerics::asymmetric`] say.
///
/// **Non-finite elements**: for each calibration that looks at the data, a slice that holds NaN or infinity gets
/// zeros and a non-finite scale, so that it dequantises to NaN. `Constant` does not look: infinities clip and
/// NaN counts as 0.
///
/// Sums run in f64 and in one fixed order: a result depends on the slice's elements and their order alone.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Calibration {
    /// The largest magnitude: nothing clips.
    #[default]
    AbsMax,
    /// A bound known beforehand, above zero and finite.
    Constant(f32),
    /// A percentile in (0, 100], at least 50 for asymmetric quantisation.
    ///
    /// With the `n` values sorted, the one at position `(n - 1) * (p / 100)`, interpolated linearly in f64
    /// between its neighbours, then rounded to f32: the default method of `numpy.percentile`.
    Percentile(f64),
    /// A multiple of the mean magnitude.
    MeanAbsolute {
        /// The multiple, above zero and finite.
        factor: f32,
    },
    /// The clipping ratio among `1/steps, 2/steps, .. 1` with the least mean squared error after rounding to
    /// nearest; of equally good ones the largest. Never worse than `AbsMax`, which is the ratio 1.
    MeanSquaredError {
        /// Number of ratios tried, above zero; the work grows with it.
        steps: u32,
    },
}

impl Calibration {
    /// Refuses parameters that make no sense.
    pub(crate) fn check(self, asymmetric: bool) -> Result<()> {
        let refuse = |what, found: String, expected: &str| {
            Err(Error::Value {
                what,
                found,
                expected: expected.into(),
            })
        };
        match self {
            Calibration::AbsMax => Ok(()),
            // A finite bound whose inverse overflows would be taken for a slice of zeros.
            Calibration::Constant(b) if b > 0.0 && b.is_finite() && numerics::bound(b) == b => {
                Ok(())
            }
            Calibration::Constant(b) => refuse(
                "calibration: the constant bound",
                b.to_string(),
                "a finite number above zero with a finite inverse",
            ),
            Calibration::Percentile(p) if asymmetric && !(50.0..=100.0).contains(&p) => refuse(
                "calibration: the percentile",
                p.to_string(),
                "50 to 100 for asymmetric quantisation",
            ),
            Calibration::Percentile(p) if p > 0.0 && p <= 100.0 => Ok(()),
            Calibration::Percentile(p) => refuse(
                "calibration: the percentile",
                p.to_string(),
                "a number above 0, at most 100",
            ),
            Calibration::MeanAbsolute { factor } if factor > 0.0 && factor.is_finite() => Ok(()),
            Calibration::MeanAbsolute { factor } => refuse(
                "calibration: the factor",
                factor.to_string(),
                "a finite number above zero",
            ),
            Calibration::MeanSquaredError { steps: 0 } => {
                refuse("calibration: the number of steps", "0".into(), "at least 1")
            }
            Calibration::MeanSquaredError { .. } => Ok(()),
        }
    }

    /// The magnitude that a symmetric slice covers, before [`numerics::bound`]; NaN or infinity for a slice that
    /// holds either.
    pub(crate) fn magnitude<T: Element>(self, slice: &[T]) -> f32 {
        if let Calibration::Constant(bound) = self {
            return bound;
        }
        let absmax = numerics::absmax(slice.iter().map(|x| x.to_f32()));
        if !absmax.is_finite() || slice.is_empty() {
            return absmax;
        }
        match self {
            Calibration::AbsMax | Calibration::Constant(_) => absmax,
            Calibration::Percentile(p) => {
                let mut sorted: Vec<f32> = slice.iter().map(|x| x.to_f32().abs()).collect();
                percentile(&mut sorted, p)
            }
            Calibration::MeanAbsolute { factor } => multiple_of_mean(slice, factor),
            Calibration::MeanSquaredError { steps } => {
                let ratio = best_ratio(steps, |ratio| {
                    let bound = numerics::bound(absmax * ratio);
                    let (multiplier, scale) = (numerics::multiplier(bound), numerics::scale(bound));
                    squared_error(slice, |x| {
                        f32::from(numerics::quantize(x * multiplier)) * scale
                    })
                });
                absmax * ratio
            }
        }
    }

    /// The ends of what an asymmetric slice covers, before [`numerics::asymmetric`]; not finite for a slice that
    /// holds NaN or infinity.
    pub(crate) fn range<T: Element>(self, slice: &[T]) -> (f32, f32) {
        if let Calibration::Constant(bound) = self {
            return (-bound, bound);
        }
        let absmax = numerics::absmax(slice.iter().map(|x| x.to_f32()));
        if !absmax.is_finite() || slice.is_empty() {
            return (-absmax, absmax);
        }
        // Everything is finite here, so that min and max are free of NaN.
        let values = || slice.iter().map(|x| x.to_f32());
        let (lo, hi) = (
            values().fold(f32::INFINITY, |a, x| if x < a { x } else { a }),
            values().fold(f32::NEG_INFINITY, |a, x| if x > a { x } else { a }),
        );
        match self {
            Calibration::AbsMax | Calibration::Constant(_) => (lo, hi),
            Calibration::Percentile(p) => {
                let mut sorted: Vec<f32> = values().collect();
                let hi = percentile(&mut sorted, p);
                (percentile(&mut sorted, 100.0 - p), hi)
            }
            Calibration::MeanAbsolute { factor } => {
                let bound = multiple_of_mean(slice, factor);
                (lo.max(-bound), hi.min(bound))
            }
            Calibration::MeanSquaredError { steps } => {
                let ratio = best_ratio(steps, |ratio| {
                    let a = numerics::asymmetric(lo * ratio, hi * ratio);
                    squared_error(slice, |x| {
                        let q = numerics::quantize_asymmetric(x, a.multiplier, a.zero_point);
                        (i32::from(q) - a.zero_point) as f32 * a.scale
                    })
                });
                (lo * ratio, hi * ratio)
            }
        }
    }
}

/// The p-th percentile of finite values, which are reordered; linear interpolation in f64.
fn percentile(values: &mut [f32], p: f64) -> f32 {
    let position = (values.len() - 1) as f64 * (p / 100.0);
    let (below, fraction) = (position.floor(), position.fract());
    let (_, lower, above) = values.select_nth_unstable_by(below as usize, f32::total_cmp);
    let lower = f64::from(*lower);
    let Some(upper) = above.iter().copied().min_by(f32::total_cmp) else {
        return lower as f32;
    };
    let step = f64::from(upper) - lower;
    // The form of numpy's lerp: exact at both ends.
    let value = if fraction >= 0.5 {
        f64::from(upper) - step * (1.0 - fraction)
    } else {
        lower + step * fraction
    };
    value as f32
}

/// `factor * mean |x|` in f64, rounded to f32 and kept finite.
fn multiple_of_mean<T: Element>(slice: &[T], factor: f32) -> f32 {
    let sum = sum(slice, |x| f64::from(x.abs()));
    let bound = f64::from(factor) * (sum / slice.len() as f64);
    bound.min(f64::from(f32::MAX)) as f32
}

/// The ratio `i / steps` with the least error; the largest of equals.
fn best_ratio(steps: u32, mut error: impl FnMut(f32) -> f64) -> f32 {
    let mut best = (1.0, error(1.0));
    for i in (1..steps).rev() {
        let ratio = (f64::from(i) / f64::from(steps)) as f32;
        let e = error(ratio);
        if e < best.1 {
            best = (ratio, e);
        }
    }
    best.0
}

fn squared_error<T: Element>(slice: &[T], dequantized: impl Fn(f32) -> f32) -> f64 {
    sum(slice, |x| {
        let e = f64::from(x) - f64::from(dequantized(x));
        e * e
    })
}

/// A sum in f64 over eight interleaved lanes, which are added in order at the end.
fn sum<T: Element>(slice: &[T], f: impl Fn(f32) -> f64) -> f64 {
    let mut lanes = [0.0f64; 8];
    for chunk in slice.chunks(8) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x.to_f32());
        }
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_numpys() {
        // numpy.percentile([3, 1, 4, 1, 5, 9, 2, 6], p)
        let x = [3.0f32, -1.0, 4.0, -1.0, 5.0, -9.0, 2.0, 6.0];
        for (p, want) in [
            (100.0, 9.0),
            (50.0, 3.5),
            (90.0, 6.9),
            (25.0, 1.75),
            (1e-9, 1.0),
        ] {
            assert_eq!(Calibration::Percentile(p).magnitude(&x), want, "{p}");
        }
        assert_eq!(Calibration::Percentile(100.0).range(&x), (-9.0, 6.0));
        assert_eq!(Calibration::Percentile(75.0).range(&x), (-1.0, 4.25));
        assert_eq!(Calibration::Percentile(10.0).magnitude(&[2.5f32]), 2.5);
    }

    #[test]
    fn mean_and_constant() {
        let x = [1.0f32, -2.0, 3.0, -6.0];
        let mean = Calibration::MeanAbsolute { factor: 1.5 };
        assert_eq!(mean.magnitude(&x), 4.5);
        assert_eq!(mean.range(&x), (-4.5, 3.0));
        assert_eq!(Calibration::Constant(2.0).magnitude(&x), 2.0);
        assert_eq!(Calibration::Constant(2.0).range(&x), (-2.0, 2.0));
        let huge = [f32::MAX; 9];
        assert_eq!(
            Calibration::MeanAbsolute { factor: 4.0 }.magnitude(&huge),
            f32::MAX
        );
    }

    #[test]
    fn clipping_an_outlier_pays() {
        let mut x: Vec<f32> = (0..4000).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
        x.push(6.0);
        let bound = Calibration::MeanSquaredError { steps: 50 }.magnitude(&x);
        assert!(bound > 0.5 && bound < 6.0, "{bound}");
        let flat = [0.0f32; 5];
        assert_eq!(
            Calibration::MeanSquaredError { steps: 50 }.magnitude(&flat),
            0.0
        );
    }

    #[test]
    fn non_finite_slices_have_non_finite_ranges() {
        for calibration in [
            Calibration::AbsMax,
            Calibration::Percentile(50.0),
            Calibration::MeanAbsolute { factor: 1.0 },
            Calibration::MeanSquaredError { steps: 4 },
        ] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let x = [1.0f32, 2.0, bad, 0.0, 0.0, 0.0, 0.0];
                assert!(!calibration.magnitude(&x).is_finite(), "{calibration:?}");
                let (lo, hi) = calibration.range(&x);
                assert!(
                    numerics::asymmetric(lo, hi).scale.is_nan(),
                    "{calibration:?}"
                );
            }
            assert_eq!(calibration.magnitude::<f32>(&[]), 0.0);
        }
    }
}
