//! A product and those of its gradients, checked together.

use super::fields::{DLHS, DRHS, FWD};
use super::product::Runner;
use super::product_config::ProductQuant;
use crate::error::{Error, Result};
use crate::gemm::Backend;
use crate::ops::dot_general::Precision;
use std::sync::Arc;

/// [`DotGeneral`](crate::ops::DotGeneral) with quantised operands: pass it to [`matmul`](crate::matmul) or
/// [`einsum`](crate::ops::einsum()) to multiply through int8, in training and in serving.
///
/// Three products are configured, each with a quantiser for either operand (see [`OperandQuant`](crate::ops::OperandQuant) for the
/// numbers and [`ProductQuant`] for the rest):
///
/// ```text
/// fwd    out  = q(lhs) . q(rhs)
/// dlhs   dlhs = q(g)   . q(rhs)      g the gradient of out
/// drhs   drhs = q(g)   . q(lhs)
/// ```
///
/// Where both operands are quantised, the product is an exact int32 sum, then `f32(sum) * left scale * right scale`,
/// each rounded to nearest even, then once to the element type; it runs on a [`Backend`]. Otherwise it is a float
/// product ([`FloatDotGeneral`](crate::ops::FloatDotGeneral)'s), multiplied by the scales of the operand that is quantised. Training and serving
/// give the same bits: the forward product does not depend on `train`, nor on whether an operand is a [`FrozenOperand`].
///
/// Gradients pass the forward's quantisers straight through, or only where nothing was clipped
/// ([`QuantGradient`](crate::ops::QuantGradient)).
///
/// ```
/// use imma::matmul;
/// use imma::ops::{OperandQuant, Precision, ProductQuant, QuantDotGeneral};
/// use ndarray::arr2;
/// let dot_general = QuantDotGeneral::builder()
///     .fwd(ProductQuant::new(OperandQuant::int(8), OperandQuant::int(4)))
///     .train(false)
///     .build()?;
/// let (x, w) = (arr2(&[[1.0f32, -2.0]]), arr2(&[[0.5f32], [0.25]]));
/// let y = matmul(x.view(), w.view(), Precision::Default, &dot_general)?;
/// assert!(y[[0, 0]].abs() < 0.1);
/// # Ok::<(), imma::Error>(())
/// ```
///
/// Source of the scheme: AQT, Accurate Quantized Training (Lew et al.).
///
/// [`FrozenOperand`]: crate::ops::FrozenOperand
#[derive(Debug, Clone)]
pub struct QuantDotGeneral {
    pub(super) fwd: ProductQuant,
    pub(super) dlhs: ProductQuant,
    pub(super) drhs: ProductQuant,
    pub(super) train: bool,
    pub(super) runner: Runner,
}

/// A [`QuantDotGeneral`] that has not been checked yet; see [`QuantDotGeneral::builder`].
#[derive(Debug, Clone)]
#[must_use = "call build() to get the dot_general"]
pub struct QuantDotGeneralBuilder(QuantDotGeneral);

impl QuantDotGeneralBuilder {
    /// The forward product; float by default.
    pub fn fwd(mut self, fwd: ProductQuant) -> Self {
        self.0.fwd = fwd;
        self
    }

    /// The product that gives the left operand's gradient; float by default.
    pub fn dlhs(mut self, dlhs: ProductQuant) -> Self {
        self.0.dlhs = dlhs;
        self
    }

    /// The product that gives the right operand's gradient; float by default.
    pub fn drhs(mut self, drhs: ProductQuant) -> Self {
        self.0.drhs = drhs;
        self
    }

    /// Whether gradients may be asked for; on by default. The forward product is the same either way.
    pub fn train(mut self, train: bool) -> Self {
        self.0.train = train;
        self
    }

    /// Where integer products run; by default the [`default_backend`](crate::ops::default_backend). Every backend gives the same bits.
    pub fn backend(mut self, backend: Arc<dyn Backend>) -> Self {
        self.0.runner = Runner(Some(backend));
        self
    }

    /// Checks the parts.
    ///
    /// # Errors
    /// [`Error::Value`] that names the field, such as `dlhs.rhs.bits`: bits outside 2 to 8, a calibration or clipping
    /// that is out of range, a quantiser's settings on a float operand, int32 sums of float operands, zero shards, reuse
    /// of a forward operand that is float or in shards (or by the forward product itself), a clipped gradient of a
    /// gradient.
    pub fn build(self) -> Result<QuantDotGeneral> {
        let QuantDotGeneral {
            fwd, dlhs, drhs, ..
        } = &self.0;
        fwd.check(&FWD)?;
        fwd.check_forward(&FWD)?;
        dlhs.check(&DLHS)?;
        dlhs.check_backward(&DLHS, fwd, &fwd.rhs)?;
        drhs.check(&DRHS)?;
        drhs.check_backward(&DRHS, fwd, &fwd.lhs)?;
        Ok(self.0)
    }
}

impl QuantDotGeneral {
    /// Starts from three float products, with gradients.
    pub fn builder() -> QuantDotGeneralBuilder {
        QuantDotGeneralBuilder(QuantDotGeneral {
            fwd: ProductQuant::float(),
            dlhs: ProductQuant::float(),
            drhs: ProductQuant::float(),
            train: true,
            runner: Runner::default(),
        })
    }

    /// The same settings, to change some of them.
    pub fn to_builder(&self) -> QuantDotGeneralBuilder {
        QuantDotGeneralBuilder(self.clone())
    }

    /// The forward product.
    pub fn fwd(&self) -> ProductQuant {
        self.fwd
    }

    /// The product that gives the left operand's gradient.
    pub fn dlhs(&self) -> ProductQuant {
        self.dlhs
    }

    /// The product that gives the right operand's gradient.
    pub fn drhs(&self) -> ProductQuant {
        self.drhs
    }

    /// Whether gradients may be asked for.
    pub fn train(&self) -> bool {
        self.train
    }

    /// The same with every seed of stochastic rounding mixed with `step`: other random numbers for each training step.
    ///
    /// ```
    /// use imma::ops::QuantDotGeneral;
    /// let dot_general = QuantDotGeneral::fully_quantized(8, 8)?.stochastic_gradients(1);
    /// assert_ne!(dot_general.at_step(0).dlhs(), dot_general.at_step(1).dlhs());
    /// # Ok::<(), imma::Error>(())
    /// ```
    pub fn at_step(&self, step: u64) -> Self {
        QuantDotGeneral {
            fwd: self.fwd.reseeded(step),
            dlhs: self.dlhs.reseeded(step),
            drhs: self.drhs.reseeded(step),
            ..self.clone()
        }
    }

    /// The same for exchanged operands: each keeps its quantisers.
    pub(super) fn swap_operands(&self) -> Self {
        QuantDotGeneral {
            fwd: self.fwd.swapped(),
            dlhs: self.drhs,
            drhs: self.dlhs,
            ..self.clone()
        }
    }

    /// Refuses a precision for float products where operands are quantised.
    pub(super) fn check_precision(&self, precision: Precision) -> Result<()> {
        if precision != Precision::Default && self.fwd.is_quantized() {
            return Err(Error::Value {
                what: "precision",
                found: format!("{precision:?} together with quantised operands"),
                expected: "Default: integers are multiplied exactly".into(),
            });
        }
        Ok(())
    }
}
