//! int8 matrix multiplication: quantise, multiply with exact int32 sums, dequantise in the same pass.

pub mod activation;
pub mod cpu;
pub mod cuda;
pub mod element;
pub mod epilogue;
pub mod error;
pub mod gemm;
pub mod npy;
pub mod numerics;
pub mod ops;
pub mod quant;
pub mod reference;
pub mod rounding;

pub use activation::Activation;
pub use cpu::Cpu;
pub use element::{DType, Element, FloatSlice, FloatView, OutputMut};
pub use epilogue::{Epilogue, Scales};
pub use error::{Error, Result};
pub use gemm::{ActivationQuant, Backend, Gemm, Lhs, PackedWeights, Weights};
pub use ops::{
    default_backend, matmul, matmul_float, matmul_true_int8, matmul_true_int8_on, q_matmul_int8,
    q_matmul_int8_as, q_matmul_int8_as_on, q_matmul_int8_on, quant_int8, DimensionNumbers,
    DotGeneral, FloatDotGeneral, GradientDims, Int8Linear, MatmulShape, Precision, Pullback,
};
pub use rounding::Rounding;
