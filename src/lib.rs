//! int8 matrix multiplication: quantise, multiply with exact int32 sums, dequantise in the same pass.

pub mod activation;
pub mod cpu;
pub mod cuda;
pub mod element;
pub mod epilogue;
pub mod error;
pub mod gemm;
pub mod numerics;
pub mod rounding;

pub use activation::Activation;
pub use cpu::Cpu;
pub use element::{DType, Element, FloatSlice, FloatView, OutputMut};
pub use epilogue::{Epilogue, Scales};
pub use error::{Error, Result};
pub use gemm::{ActivationQuant, Backend, Gemm, Lhs, PackedWeights, Weights};
pub use rounding::Rounding;
