//! How one operand of one product is quantised.

use super::fields::OperandFields;
use crate::error::{Error, Result};
use crate::quant::Calibration;
use crate::rounding::Rounding;

/// Which elements of an operand share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SharedAxes {
    /// Those along the contracted axes: one scale for each row of the left operand, each column of the right one.
    #[default]
    Contracted,
    /// All of them: one scale for the operand.
    All,
}

/// How a gradient passes a quantiser, whose own derivative is zero nearly everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum QuantGradient {
    /// As if the quantiser were not there.
    #[default]
    StraightThrough,
    /// Straight through where an element lies within the bound, zero where it was clipped.
    Clipped,
}

/// How one operand of one product is quantised: to integers of 2 to 8 bits, or not at all.
///
/// With `edge = 2^(bits - 1) - 0.5`, and `bound` from the [`Calibration`] of the elements that share a scale, times
/// `clipping`:
///
/// ```text
/// multiplier = edge / bound                      rounded down to a power of two on request
/// q          = round_half_even(clip(x * multiplier, -(edge - 0.5), edge - 0.5))
/// scale      = 1 / multiplier                    what the product is multiplied by afterwards
/// ```
///
/// Zero stays zero and the bound falls on the outer edge of the last bucket. Integers of any width are kept as int8. A
/// bound of 0 counts as 1; NaN and infinity make their whole row or column NaN unless the bound is constant (then
/// infinities clip and NaN counts as 0). Stochastic rounding is `floor(x * multiplier + u)` with `u` in [0, 1) from the
/// seed and the element's row-major index in its operand; it is unbiased below the last half bucket, where clipping
/// begins. The rules are in [`numerics`](crate::numerics) and [`Rounding`].
///
/// The value is checked as part of a [`QuantDotGeneral`](crate::ops::QuantDotGeneral), whose errors name the field.
///
/// ```
/// use imma::ops::OperandQuant;
/// use imma::rounding::Rounding;
/// let gradients = OperandQuant::int(8).rounding(Rounding::Stochastic { seed: 3 });
/// assert_eq!(gradients.bits(), Some(8));
/// assert_eq!(OperandQuant::float().bits(), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OperandQuant {
    bits: Option<u8>,
    calibration: Calibration,
    clipping: f32,
    power_of_two: bool,
    shared_axes: SharedAxes,
    rounding: Rounding,
    gradient: QuantGradient,
}

impl Default for OperandQuant {
    fn default() -> Self {
        Self::float()
    }
}

impl OperandQuant {
    /// Not quantised.
    pub const fn float() -> Self {
        OperandQuant {
            bits: None,
            calibration: Calibration::AbsMax,
            clipping: 1.0,
            power_of_two: false,
            shared_axes: SharedAxes::Contracted,
            rounding: Rounding::NearestEven,
            gradient: QuantGradient::StraightThrough,
        }
    }

    /// Quantised to `bits` bits, 2 to 8, by the largest magnitude, to nearest even.
    pub const fn int(bits: u8) -> Self {
        OperandQuant {
            bits: Some(bits),
            ..Self::float()
        }
    }

    /// How the bound is found; absmax by default. `MeanSquaredError` is not supported here.
    pub fn calibration(self, calibration: Calibration) -> Self {
        OperandQuant {
            calibration,
            ..self
        }
    }

    /// What the bound is multiplied by; 1 by default. Less than 1 clips the largest elements.
    pub fn clipping(self, clipping: f32) -> Self {
        OperandQuant { clipping, ..self }
    }

    /// Whether the multiplier is rounded down to a power of two, so that scaling is exact; off by default.
    pub fn power_of_two(self, power_of_two: bool) -> Self {
        OperandQuant {
            power_of_two,
            ..self
        }
    }

    /// Which elements share a scale; by default those along the contracted axes.
    pub fn shared_axes(self, shared_axes: SharedAxes) -> Self {
        OperandQuant {
            shared_axes,
            ..self
        }
    }

    /// How scaled values become integers; to nearest even by default.
    pub fn rounding(self, rounding: Rounding) -> Self {
        OperandQuant { rounding, ..self }
    }

    /// How the gradient passes this quantiser; straight through by default.
    pub fn gradient(self, gradient: QuantGradient) -> Self {
        OperandQuant { gradient, ..self }
    }

    /// The width of the integers, `None` for float.
    pub fn bits(&self) -> Option<u8> {
        self.bits
    }

    pub(super) fn clips_gradient(&self) -> bool {
        self.gradient == QuantGradient::Clipped
    }

    pub(super) fn get_calibration(&self) -> Calibration {
        self.calibration
    }

    pub(super) fn get_clipping(&self) -> f32 {
        self.clipping
    }

    pub(super) fn scales_by_powers_of_two(&self) -> bool {
        self.power_of_two
    }

    pub(super) fn get_rounding(&self) -> Rounding {
        self.rounding
    }

    /// Whether one scale serves the whole operand.
    pub(super) fn one_scale(&self) -> bool {
        self.shared_axes == SharedAxes::All || matches!(self.calibration, Calibration::Constant(_))
    }

    /// Whether the integers depend on the order of the elements: then they are visited in row-major order.
    pub(super) fn needs_order(&self) -> bool {
        self.rounding != Rounding::NearestEven
            || matches!(self.calibration, Calibration::MeanAbsolute { .. })
    }

    /// Refuses settings that are out of range or contradict each other.
    pub(super) fn check(&self, fields: &OperandFields) -> Result<()> {
        let refuse = |what, found: String, expected: &str| {
            Err(Error::Value {
                what,
                found,
                expected: expected.into(),
            })
        };
        match self.bits {
            Some(bits) if !(2..=8).contains(&bits) => {
                return refuse(fields.bits, bits.to_string(), "2 to 8, or a float operand")
            }
            None if *self != Self::float() => return refuse(
                fields.bits,
                "none beside other settings of a quantiser".into(),
                "no other settings, since a float operand has no quantiser; or bits from 2 to 8",
            ),
            _ => {}
        }
        if !(self.clipping > 0.0 && self.clipping.is_finite()) {
            return refuse(
                fields.clipping,
                self.clipping.to_string(),
                "a finite number above zero",
            );
        }
        if let Calibration::MeanSquaredError { .. } = self.calibration {
            return refuse(
                fields.calibration,
                format!("{:?}", self.calibration),
                "AbsMax, Constant, MeanAbsolute or Percentile",
            );
        }
        self.calibration.check(false).map_err(|error| match error {
            Error::Value {
                what,
                found,
                expected,
            } => Error::Value {
                what: fields.calibration,
                found: format!("{found} ({what})"),
                expected,
            },
            other => other,
        })
    }

    /// The same with the seed of stochastic rounding, if there is one, mixed with `step`.
    pub(super) fn reseeded(self, step: u64) -> Self {
        match self.rounding {
            Rounding::Stochastic { seed } => self.rounding(Rounding::Stochastic {
                seed: mix(seed, step),
            }),
            Rounding::NearestEven => self,
        }
    }
}

/// A seed from a seed and a number: the finaliser of splitmix64 (Steele, Lea and Flood, 2014).
pub(super) fn mix(seed: u64, number: u64) -> u64 {
    let mut z = seed ^ number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
