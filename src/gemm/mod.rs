//! The contract between operations and backends: a checked problem, packed weights, and what a backend does.

mod backend;
mod packed;
mod problem;

pub use backend::{Backend, Weights};
pub use packed::PackedWeights;
pub(crate) use problem::{check_contraction, check_k};
pub use problem::{ActivationQuant, Gemm, Lhs};
