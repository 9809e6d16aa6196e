//! The contract between operations and backends: a checked problem, packed weights, and what a backend does.

mod backend;
mod packed;
mod pairs;
mod problem;

pub use backend::{Backend, Weights};
pub use packed::PackedWeights;
pub use pairs::interleave_gate_up;
pub(crate) use problem::{check_contraction, check_k};
pub use problem::{ActivationQuant, Gemm, Lhs};
