//! int8 matrix multiplication: quantise, multiply with exact int32 sums, dequantise in the same pass.
//!
//! Start with [`q_matmul_int8`] (floats in, floats out), [`matmul_true_int8`] (integers in, exact sums out) or
//! [`Int8Linear`] (weights packed once); train through int8 with [`QuantDotGeneral`](ops::QuantDotGeneral) under
//! [`matmul_vjp`](ops::matmul_vjp()) or [`einsum_vjp`](ops::einsum_vjp()). All operations are in [`ops`]. Below them lie
//! [`quant`] (quantisers and quantised tensors) and the contract that every backend fulfils: [`Backend`],
//! [`Weights`](gemm::Weights), [`Gemm`](gemm::Gemm), [`Epilogue`]. The rounding rules are in [`numerics`] and [`epilogue`];
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

#![cfg_attr(docsrs, feature(doc_cfg))]

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
// The command needs them; no part of the API.
#[doc(hidden)]
pub mod files;
pub mod gemm;
#[doc(hidden)]
pub mod memory;
pub mod npy;
pub mod npz;
pub mod numerics;
pub mod ops;
pub mod parallel;
pub mod quant;
pub mod reference;
pub mod rounding;

// Their types are in the API: what goes in and comes out is of these versions.
pub use half;
pub use ndarray;

pub use cpu::Cpu;
pub use element::{DType, Element};
pub use epilogue::Epilogue;
pub use error::{Error, Result};
pub use gemm::Backend;
pub use ops::{matmul, matmul_true_int8, q_matmul_int8, quant_int8, Int8Linear};
pub use quant::Quantizer;

/// The README's example, compiled and run with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
