//! How one of the three products is made.

use super::fields::ProductFields;
use super::operand_config::OperandQuant;
use crate::error::{Error, Result};

/// The type in which a product's terms are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Accumulate {
    /// int32, exact, when both operands are quantised; f32 otherwise.
    #[default]
    Auto,
    /// int32; refused when an operand is float.
    Int32,
    /// f32, also of integers: exact while the sums stay below 2^24.
    Float32,
}

/// How one product is made: the quantiser of each operand, the type of the sums, how the contraction is cut.
///
/// In the forward product the operands are the caller's. In the two backward ones the left operand is the gradient of
/// the result and the right operand is the forward's other operand: its right one for `dlhs`, its left one for `drhs`.
///
/// ```
/// use imma::ops::{OperandQuant, ProductQuant};
/// let weights_only = ProductQuant::new(OperandQuant::float(), OperandQuant::int(4));
/// assert_eq!(weights_only.lhs.bits(), None);
/// assert_eq!(ProductQuant::int(8).shards, 1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ProductQuant {
    /// The left operand.
    pub lhs: OperandQuant,
    /// The right operand.
    pub rhs: OperandQuant,
    /// The type in which the terms are summed.
    pub accumulate: Accumulate,
    /// Into how many parts of equal length the first contracted axis is cut; 1 leaves it whole.
    ///
    /// Each part is quantised and multiplied on its own, with its own scales; the parts' results are added in
    /// f32, in order. More parts mean smaller errors and shorter sums.
    pub shards: usize,
    /// Backward products only: start from the integers that the forward quantised the right operand to.
    ///
    /// The gradient is first multiplied by that operand's scales, and the integers are quantised once more over their
    /// new contracted axes.
    pub reuse_forward: bool,
}

impl Default for ProductQuant {
    fn default() -> Self {
        Self::float()
    }
}

impl ProductQuant {
    /// These quantisers, the contraction whole, nothing reused.
    pub const fn new(lhs: OperandQuant, rhs: OperandQuant) -> Self {
        ProductQuant {
            lhs,
            rhs,
            accumulate: Accumulate::Auto,
            shards: 1,
            reuse_forward: false,
        }
    }

    /// Both operands float.
    pub const fn float() -> Self {
        Self::new(OperandQuant::float(), OperandQuant::float())
    }

    /// Both operands quantised to `bits` bits by their largest magnitudes.
    pub const fn int(bits: u8) -> Self {
        Self::new(OperandQuant::int(bits), OperandQuant::int(bits))
    }

    /// The same with its terms summed in another type.
    pub fn accumulate(self, accumulate: Accumulate) -> Self {
        ProductQuant { accumulate, ..self }
    }

    /// The same with the contraction in `shards` parts.
    pub fn shards(self, shards: usize) -> Self {
        ProductQuant { shards, ..self }
    }

    /// The same starting from the forward's integers, or not.
    pub fn reuse_forward(self, reuse_forward: bool) -> Self {
        ProductQuant {
            reuse_forward,
            ..self
        }
    }

    /// Whether any operand is quantised.
    pub fn is_quantized(&self) -> bool {
        self.lhs.bits().is_some() || self.rhs.bits().is_some()
    }

    /// Whether the terms are summed in int32.
    pub(super) fn sums_integers(&self) -> bool {
        let both = self.lhs.bits().is_some() && self.rhs.bits().is_some();
        both && self.accumulate != Accumulate::Float32
    }

    pub(super) fn check(&self, fields: &ProductFields) -> Result<()> {
        self.lhs.check(&fields.lhs)?;
        self.rhs.check(&fields.rhs)?;
        if self.accumulate == Accumulate::Int32 && !self.sums_integers() {
            return refuse(
                fields.accumulate,
                "Int32 with a float operand",
                "Auto or Float32, or both operands quantised",
            );
        }
        if self.shards == 0 {
            return refuse(fields.shards, "0", "at least 1");
        }
        Ok(())
    }

    /// What is checked of a forward product alone.
    pub(super) fn check_forward(&self, fields: &ProductFields) -> Result<()> {
        if self.reuse_forward {
            return refuse(
                fields.reuse_forward,
                "true",
                "false: there is nothing before the forward product",
            );
        }
        Ok(())
    }

    /// What is checked of a backward product alone; `operand` is the forward's operand that multiplies the gradient.
    pub(super) fn check_backward(
        &self,
        fields: &ProductFields,
        forward: &ProductQuant,
        operand: &OperandQuant,
    ) -> Result<()> {
        if self.reuse_forward && operand.bits().is_none() {
            return refuse(
                fields.reuse_forward,
                "true where the forward's operand is float",
                "false, or that operand quantised",
            );
        }
        if self.reuse_forward && forward.shards > 1 {
            return refuse(
                fields.reuse_forward,
                "true where the forward's contraction is in shards",
                "false: each shard has scales of its own",
            );
        }
        let gradients = [
            (self.lhs, fields.lhs.gradient),
            (self.rhs, fields.rhs.gradient),
        ];
        for (operand, field) in gradients {
            if operand.clips_gradient() {
                return refuse(
                    field,
                    "Clipped",
                    "StraightThrough: gradients of gradients are not computed",
                );
            }
        }
        Ok(())
    }

    pub(super) fn reseeded(self, step: u64) -> Self {
        ProductQuant {
            lhs: self.lhs.reseeded(step),
            rhs: self.rhs.reseeded(step),
            ..self
        }
    }

    /// The product with its operands exchanged.
    pub(super) fn swapped(self) -> Self {
        ProductQuant {
            lhs: self.rhs,
            rhs: self.lhs,
            ..self
        }
    }
}

fn refuse(what: &'static str, found: &str, expected: &str) -> Result<()> {
    Err(Error::Value {
        what,
        found: found.into(),
        expected: expected.into(),
    })
}
