//! int8 matrix multiplication: quantise, multiply with exact int32 sums, dequantise in the same pass.

pub mod element;
pub mod error;
pub mod numerics;

pub use element::{DType, Element, FloatSlice, FloatView, OutputMut};
pub use error::{Error, Result};
