//! NVIDIA GPUs: the feature `cuda`.
//!
//! [`status()`] says whether and why not, in every build and on every machine. The rest exists with the feature:
//! `Device` is a GPU with this crate's kernels loaded, and its methods enqueue them on a stream of the caller's,
//! over memory of the caller's. They allocate nothing and wait for nothing, so they can be captured in a graph.
//!
//! The kernels are in `cuda/`, one file a family, and give the bits of [`numerics`](crate::numerics).

pub mod status;
pub use status::{status, Status};

#[cfg(feature = "cuda")]
mod dequantize;
#[cfg(feature = "cuda")]
mod epilogue;
#[cfg(feature = "cuda")]
mod igemm;
#[cfg(feature = "cuda")]
mod launch;
#[cfg(feature = "cuda")]
mod matrix;
#[cfg(feature = "cuda")]
mod module;
#[cfg(feature = "cuda")]
mod quantize_cols;
#[cfg(feature = "cuda")]
mod quantize_rows;
#[cfg(feature = "cuda")]
mod quantize_static;
#[cfg(feature = "cuda")]
mod transpose_s8;

/// The bindings that the device methods take their streams and slices from.
#[cfg(feature = "cuda")]
pub use cudarc;
#[cfg(feature = "cuda")]
pub use {
    dequantize::{Dequantize, Integer},
    epilogue::{DeviceEpilogue, DeviceFloats, OutputElement},
    igemm::{by_name, choose, Choice, Igemm, Limits, Tile, TILES},
    matrix::Matrix,
    module::{images, Device, Image},
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
