//! Products on the CPU.
//!
//! | module | what it holds |
//! |---|---|
//! | `gemm_properties` | every kernel against the oracle, on random problems |
//! | `grouped` | a product an expert in one call: the oracle, and rows alone and among others |
//! | `small` | products that Miri or valgrind can watch: `--test cpu small::` |

#[path = "../common/random.rs"]
mod random;

mod gemm_properties;
mod grouped;
mod small;
