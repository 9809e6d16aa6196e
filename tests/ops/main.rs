//! The operations: against plain loops, their own definitions and what JAX answered.

#[path = "../common/random.rs"]
mod random;

mod experts;
mod floors;
mod golden;
mod labelled;
mod matmul;
mod parallel;
mod quant_dot_general;
mod quantize;
