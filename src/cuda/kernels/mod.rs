//! The kernels, one module a `cuda/*.cu` and of its name: each checks its operands and enqueues on a stream of the caller's.
//!
//! They allocate nothing, wait for nothing and check everything first: after an error nothing was enqueued. All of them may
//! be captured in a graph (cudarc's event tracking must be off before the buffers are allocated).
//!
//! ```text
//!   params, families   what kernels take, and which
//!   quantize_rows, quantize_cols, quantize_static, dequantize, transpose_s8, rmsnorm_quantize, silu_mul_quantize, peak
//!   batches, epilogue_parts, checked, epilogue   operands of a product, and what finishes its sums; model: the cost models' own
//!   igemm_sm80, igemm_groupwise, igemm_sm90, cublaslt   who multiplies
//!   group_rows, igemm_grouped, quantize_grouped, moe_sort, moe_permute, moe_combine   mixtures of experts
//! ```

mod batches;
mod checked;
pub mod cublaslt;
mod dequantize;
mod epilogue;
mod epilogue_parts;
mod families;
mod group_rows;
pub mod igemm_grouped;
pub mod igemm_groupwise;
pub mod igemm_sm80;
pub mod igemm_sm90;
mod mma_tile;
mod model;
mod moe_combine;
mod moe_permute;
mod moe_sort;
mod peak;
mod quantize_cols;
mod quantize_grouped;
mod quantize_rows;
mod quantize_static;
mod rmsnorm_quantize;
mod silu_mul_quantize;
mod transpose_s8;

pub use batches::Batches;
pub use checked::{GemmOperands, ScaleGroups};
pub use dequantize::{dequantize, Dequantize, Integer};
pub use epilogue::epilogue;
pub use epilogue_parts::OnDevice;
pub use group_rows::GroupRows;
pub use igemm_grouped::igemm_grouped;
pub use igemm_groupwise::igemm_groupwise;
pub use igemm_sm80::igemm_sm80;
pub use igemm_sm90::igemm_sm90;
pub use model::{Candidate, Shape, Terms};
pub use moe_combine::moe_combine;
pub use moe_permute::moe_permute;
pub use moe_sort::{moe_sort, moe_sort_workspace};
pub use peak::{peak_len, peak_mma};
pub use quantize_cols::{quantize_cols, quantize_cols_asymmetric};
pub use quantize_rows::{
    quantize_rows, quantize_rows_asymmetric, quantize_rows_by, quantize_rows_given, row_extents,
};
pub use quantize_static::{quantize_static, quantize_static_asymmetric};
pub use rmsnorm_quantize::{add_rmsnorm_quantize, rmsnorm_quantize};
pub use silu_mul_quantize::silu_mul_quantize;
pub use transpose_s8::transpose_s8;

pub(super) use checked::{CheckedProduct, Parts};
pub(super) use epilogue::{enqueue as finish, Sums};
pub(super) use epilogue_parts::{hold as hold_epilogue, InRegions};
pub(super) use group_rows::HeldGroups;
pub(super) use igemm_grouped as grouped;
pub(super) use igemm_groupwise as groupwise;
pub(super) use igemm_sm80 as sm80;
pub(super) use igemm_sm90 as sm90;
pub(super) use model::{memory, NEXT_LAUNCH};
pub(super) use moe_combine::enqueue as combine;
pub(super) use moe_permute::enqueue as permute;
pub(super) use moe_sort::{enqueue as sort, Sort};
pub(super) use quantize_rows::{enqueue as quantise_rows, Constants, Place};
pub(super) use transpose_s8::enqueue as transpose;

/// For the tests of what does not compile: a launch and the families of kernels.
pub(super) mod contract {
    pub use super::families::{Peak, QuantizeRows};
}

/// Parameter structs and constants of `cuda/params.h`.
#[allow(missing_docs, dead_code)]
mod params {
    #[cfg(feature = "bindgen")]
    include!(concat!(env!("OUT_DIR"), "/params.rs"));
    #[cfg(not(feature = "bindgen"))]
    include!("params.rs");
}
