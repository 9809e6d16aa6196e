//! The contract between operations and backends: a checked problem, packed weights, and what a backend does.

pub(crate) mod agreement;
mod backend;
mod grouped;
pub(crate) mod groupwise;
mod packed;
mod pairs;
mod problem;
mod split;

pub use backend::{Backend, Weights};
pub use grouped::{GroupedGemm, GroupedWeights};
pub use packed::{PackedWeights, WeightScales};
pub use pairs::interleave_gate_up;
pub(crate) use problem::check_place;
pub(crate) use problem::{check_contraction, check_k};
pub use problem::{ActivationQuant, Gemm, Lhs};
pub use split::Split;
