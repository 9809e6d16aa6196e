//! NVIDIA GPUs: the feature `cuda`.
//!
//! [`status()`] says whether and why not, in every build and on every machine. The rest exists with the feature:
//! `Device` is a GPU with this crate's kernels loaded, and its methods enqueue them on a stream of the caller's,
//! over memory of the caller's. `Plan` is a product of one shape with everything decided beforehand. A kernel's method
//! and a plan's run allocate nothing and wait for nothing, so they can be captured in a graph. A `Device` is also a
//! [`Backend`](crate::Backend): every operation over ndarray runs on it as on the CPU, with the same bits.
//!
//! The kernels are in `cuda/`, one file a family, and give the bits of [`numerics`](crate::numerics).

pub mod status;
pub use status::{status, Status};

#[cfg(feature = "cuda")]
mod autotune;
#[cfg(feature = "cuda")]
mod backend;
#[cfg(feature = "cuda")]
mod batches;
#[cfg(feature = "cuda")]
mod choice_cache;
#[cfg(feature = "cuda")]
mod choose;
#[cfg(feature = "cuda")]
pub mod cublaslt;
#[cfg(feature = "cuda")]
mod dequantize;
#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
mod epilogue;
#[cfg(feature = "cuda")]
mod epilogue_quantize;
#[cfg(feature = "cuda")]
mod finish;
#[cfg(feature = "cuda")]
mod fused_rmsnorm;
#[cfg(feature = "cuda")]
mod fused_silu_mul;
#[cfg(feature = "cuda")]
mod grouped_linear;
#[cfg(feature = "cuda")]
mod igemm;
#[cfg(feature = "cuda")]
mod igemm90;
#[cfg(feature = "cuda")]
mod igemm_grouped;
#[cfg(feature = "cuda")]
mod launch;
#[cfg(feature = "cuda")]
mod linear;
#[cfg(feature = "cuda")]
mod matrix;
#[cfg(feature = "cuda")]
mod module;
#[cfg(feature = "cuda")]
mod operand;
#[cfg(feature = "cuda")]
mod ops;
#[cfg(feature = "cuda")]
mod peak;
#[cfg(feature = "cuda")]
mod plan;
#[cfg(feature = "cuda")]
mod plan_check;
#[cfg(feature = "cuda")]
mod plan_run;
#[cfg(feature = "cuda")]
mod quantize_cols;
#[cfg(feature = "cuda")]
mod quantize_rows;
#[cfg(feature = "cuda")]
mod quantize_static;
#[cfg(feature = "cuda")]
mod quantize_tensor;
#[cfg(feature = "cuda")]
mod spec;
#[cfg(feature = "cuda")]
mod sums;
#[cfg(feature = "cuda")]
mod transpose_s8;
#[cfg(feature = "cuda")]
mod weights;
#[cfg(feature = "cuda")]
mod workspace;

/// The bindings that the device methods take their streams and slices from.
#[cfg(feature = "cuda")]
pub use cudarc;
#[cfg(feature = "cuda")]
pub use {
    batches::Batches,
    choice_cache::{CacheKey, ChoiceCache},
    dequantize::{Dequantize, Integer},
    device::Properties,
    epilogue::{DeviceEpilogue, DeviceFloats, OutputElement},
    grouped_linear::GroupedLinear,
    igemm::{by_name, choose, Choice, Igemm, Limits, Tile, GROUPED_TILES, TILES},
    igemm90::{by_name90, candidates90, choose90, Choice90, Igemm90, TensorMaps, Tile90, TILES90},
    igemm_grouped::choose_grouped,
    linear::Int8Linear,
    matrix::Matrix,
    module::{images, Device, Image},
    operand::{DeviceElement, DeviceFloatView, DeviceLhs, DeviceOutput, FloatBuffer, Operands},
    plan::Plan,
    spec::{Algorithm, Input, Spec},
    weights::{DeviceWeights, WeightOrder},
};

/// Parameter structs and constants of `cuda/params.h`.
#[cfg(feature = "cuda")]
#[allow(missing_docs, dead_code)]
mod params {
    #[cfg(feature = "bindgen")]
    include!(concat!(env!("OUT_DIR"), "/params.rs"));
    #[cfg(not(feature = "bindgen"))]
    include!("params.rs");
}
