//! int8 matrix multiplication: quantise, multiply with exact int32 sums, dequantise in the same pass.
//!
//! Start with [`q_matmul_int8`] (floats in, floats out), [`matmul_true_int8`] (integers in, exact sums out) or
//! [`Int8Linear`] (weights packed once); train through int8 with [`QuantDotGeneral`] under [`matmul_vjp`] or
//! [`einsum_vjp`]. Below them lie [`quant`] (quantisers and quantised tensors) and the contract that every backend
//! fulfils: [`Backend`], [`Weights`], [`Gemm`], [`Epilogue`]. The rounding rules are in [`numerics`] and [`epilogue`];
//! every backend, instruction set and thread count gives those bits.
//!
//! ```
//! use imma::Int8Linear;
//! use ndarray::{arr2, Array2};
//! // y = x W^T + b with W [out, in] quantised per channel once, x per token in each call.
//! let layer = Int8Linear::from_float(arr2(&[[1.0f32, -2.0], [0.5, 0.25]]).view(), None)?;
//! let y: Array2<f32> = layer.forward(arr2(&[[2.0f32, 1.0]]).view())?;
//! assert!(y[[0, 0]].abs() < 0.02 && (y[[0, 1]] - 1.25).abs() < 0.02);
//! # Ok::<(), imma::Error>(())
//! ```

pub mod activation;
#[cfg(feature = "candle")]
pub mod candle;
#[cfg(feature = "safetensors")]
pub mod checkpoint;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "cuda/without.rs"]
pub mod cuda;
pub mod element;
pub mod epilogue;
pub mod error;
pub mod files;
pub mod gemm;
pub mod memory;
pub mod npy;
pub mod npz;
pub mod numerics;
pub mod ops;
pub mod quant;
pub mod reference;
pub mod rounding;

pub use activation::Activation;
pub use cpu::Cpu;
pub use element::{DType, Element, FloatSlice, FloatView, OutputMut};
pub use epilogue::{Epilogue, Output, Scales, ZeroPoints};
pub use error::{Error, Result};
pub use gemm::{
    interleave_gate_up, ActivationQuant, Backend, Gemm, Lhs, PackedWeights, WeightScales, Weights,
};
pub use ops::{
    add_rmsnorm_quantize, default_backend, einsum, einsum_vjp, matmul, matmul_float,
    matmul_true_int8, matmul_true_int8_on, matmul_vjp, q_matmul_int8, q_matmul_int8_as,
    q_matmul_int8_as_on, q_matmul_int8_broadcast, q_matmul_int8_broadcast_on, q_matmul_int8_on,
    quant_int8, rmsnorm, rmsnorm_quantize, silu_mul, silu_mul_quantize, Accumulate,
    DimensionNumbers, DotGeneral, FloatDotGeneral, FrozenOperand, GradientDims, Int8Linear,
    MatmulShape, OperandQuant, OutlierLinear, Precision, ProductQuant, Pullback, QuantDotGeneral,
    QuantDotGeneralBuilder, QuantGradient, SharedAxes, Side,
};
pub use rounding::Rounding;

/// The README's example, compiled and run with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
