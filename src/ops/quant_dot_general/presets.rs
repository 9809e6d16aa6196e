//! Configurations that serve most uses.
//!
//! The errors that each brings are those of the layer in `examples/data`, `[212, 384] x [384, 512]`, with random
//! gradients of its result: Frobenius norms of the difference from float, relative to float. `tests/ops/quant_dot_general.rs`
//! measures them.

use super::config::QuantDotGeneral;
use super::operand_config::{mix, OperandQuant};
use super::product_config::ProductQuant;
use crate::error::Result;
use crate::rounding::Rounding;

const VALID: &str = "a configuration that the tests build";

impl QuantDotGeneral {
    /// Both operands in int8, for serving: no gradients.
    ///
    /// On a real layer (`examples/data`) the result is off by 2.1 %.
    ///
    /// ```
    /// use imma::matmul;
    /// use imma::ops::{Precision, QuantDotGeneral};
    /// use ndarray::arr2;
    /// let (x, w) = (arr2(&[[1.0f32, -2.0], [3.0, 0.5]]), arr2(&[[0.5f32], [0.25]]));
    /// let y = matmul(x.view(), w.view(), Precision::Default, &QuantDotGeneral::int8_inference())?;
    /// assert!((y[[1, 0]] - 1.625).abs() < 0.02);
    /// # Ok::<(), imma::Error>(())
    /// ```
    pub fn int8_inference() -> Self {
        let builder = Self::builder().fwd(ProductQuant::int(8)).train(false);
        builder.build().expect(VALID)
    }

    /// All three products in integers; the backward ones start from the forward's integers.
    ///
    /// On a real layer (`examples/data`) with 8 bits the result is off by 2.1 %, the left operand's gradient by 1.2 %,
    /// the right one's by 3.9 % (1.3 % and 4.6 % with [`stochastic_gradients`](Self::stochastic_gradients), which is
    /// right on average); with 4 bits by 26 %, 18 % and 55 %.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value) for bits outside 2 to 8.
    pub fn fully_quantized(fwd_bits: u8, bwd_bits: u8) -> Result<Self> {
        let backward = ProductQuant::int(bwd_bits).reuse_forward(true);
        Self::builder()
            .fwd(ProductQuant::int(fwd_bits))
            .dlhs(backward)
            .drhs(backward)
            .build()
    }

    /// The forward product and the left operand's gradient in int8, the right operand's gradient (the weights') in
    /// float.
    ///
    /// On a real layer (`examples/data`) the result is off by 2.1 %, the left operand's gradient by 1.0 %, the right
    /// one's by nothing. The scheme is AQT's `config_v3`.
    pub fn v3() -> Self {
        Self::builder()
            .fwd(ProductQuant::int(8))
            .dlhs(ProductQuant::int(8))
            .build()
            .expect(VALID)
    }

    /// The same with the gradient of the result rounded stochastically wherever it is quantised, by seeds of its own.
    ///
    /// Rounding to nearest loses what is smaller than half an integer's step each time; this is right on average. Call
    /// [`at_step`](Self::at_step) on the result in each training step.
    pub fn stochastic_gradients(&self, seed: u64) -> Self {
        let stochastic = |product: ProductQuant, number: u64| {
            let lhs: OperandQuant = match product.lhs.bits() {
                None => product.lhs,
                Some(_) => product.lhs.rounding(Rounding::Stochastic {
                    seed: mix(seed, number),
                }),
            };
            ProductQuant { lhs, ..product }
        };
        QuantDotGeneral {
            dlhs: stochastic(self.dlhs, 0),
            drhs: stochastic(self.drhs, 1),
            ..self.clone()
        }
    }
}
