//! The operations: the functions that callers use.
//!
//! ```text
//!   quant_int8          float -> int8                     broadcast   numpy.matmul's shape rules
//!   matmul_true_int8    int8 x int8 -> int32, exact       rows        many axes seen as one
//!   q_matmul_int8       float x float -> float through int8
//! ```
//!
//! They know backends only through [`Backend`](crate::Backend): the short forms use the [`default_backend`], the
//! `_on` forms the one they are given, and the bits are the same.

mod broadcast;
mod default_backend;
mod matmul_true_int8;
mod q_matmul_int8;
mod quant_int8;
mod rows;

pub use broadcast::MatmulShape;
pub use default_backend::default_backend;
pub use matmul_true_int8::{matmul_true_int8, matmul_true_int8_on};
pub use q_matmul_int8::{q_matmul_int8, q_matmul_int8_as, q_matmul_int8_as_on, q_matmul_int8_on};
pub use quant_int8::quant_int8;
