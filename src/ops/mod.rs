//! The operations: the functions that callers use.
//!
//! ```text
//!   quant_int8          float -> int8
//!   matmul_true_int8    int8 x int8 -> int32, exact
//!   q_matmul_int8       float x float -> float through int8
//!   linear              the same with weights packed once, bias, activation function
//!   outlier_linear      ... with outlier channels multiplied as floats
//!   fused_rmsnorm       RMSNorm and quantise, what runs before a product
//!   fused_silu_mul      SiLU x product and quantise, the same
//!   experts             mixtures of experts: routing, tokens to their experts and back, the experts
//!   matmul              float x float -> float by numpy's rules, over any dot_general
//!   einsum              the same for products named by letters
//!
//!   broadcast           numpy.matmul's shape rules      dimension_numbers   lax.dot_general's shape rules
//!   dot_general         the trait and its gradients     float_dot_general   its float implementation
//!   quant_dot_general   its quantised implementation    matrices            operands as batches of matrices
//!   batches             any number of matrix products by those rules
//!   plan                a product expressed as one dot_general
//!   rows                many axes seen as one           float_gemm          the call into the gemm crate
//! ```
//!
//! They know backends only through [`Backend`](crate::Backend): the short forms use the [`default_backend`], the
//! `_on` forms the one they are given, and the bits are the same.

mod batches;
mod broadcast;
mod default_backend;
mod dimension_numbers;
mod dot_general;
mod einsum;
mod einsum_spec;
mod experts;
mod float_dot_general;
mod float_gemm;
mod fused_rmsnorm;
mod fused_rows;
mod fused_silu_mul;
mod linear;
#[cfg(test)]
mod linear_groupwise;
mod matmul;
mod matmul_true_int8;
mod matrices;
#[cfg(test)]
mod naive;
mod outlier_linear;
mod plan;
mod q_matmul_int8;
mod quant_dot_general;
mod quant_int8;
mod rows;

pub use broadcast::MatmulShape;
pub use default_backend::default_backend;
pub use dimension_numbers::{DimensionNumbers, GradientDims};
pub use dot_general::{DotGeneral, Precision, Pullback};
pub use einsum::{einsum, einsum_vjp};
pub use experts::{moe_combine, moe_permute, Int8Experts, QuantizedExperts, Routing};
pub use float_dot_general::FloatDotGeneral;
pub use fused_rmsnorm::{add_rmsnorm_quantize, rmsnorm, rmsnorm_quantize};
pub use fused_silu_mul::{silu_mul, silu_mul_quantize};
pub use linear::Int8Linear;
pub(crate) use linear::{check_zero_points, differences};
pub use matmul::{matmul, matmul_float, matmul_vjp};
pub use matmul_true_int8::{matmul_true_int8, matmul_true_int8_on};
pub use outlier_linear::OutlierLinear;
pub use q_matmul_int8::{
    q_matmul_int8, q_matmul_int8_as, q_matmul_int8_as_on, q_matmul_int8_broadcast,
    q_matmul_int8_broadcast_on, q_matmul_int8_on,
};
pub use quant_dot_general::{
    Accumulate, FrozenOperand, OperandQuant, ProductQuant, QuantDotGeneral, QuantDotGeneralBuilder,
    QuantGradient, SharedAxes, Side,
};
pub use quant_int8::quant_int8;
