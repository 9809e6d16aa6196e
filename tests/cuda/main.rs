//! The CUDA half: kernels, products, layers, on the emulated driver or with `IMMA_TEST_DEVICE=hardware` on this machine's GPU.
//!
//! Tests of one process run side by side. What counts launches asks for a device of its own (`support::own_device`), and
//! what needs the process as it started, or other variables, runs in a process of its own (`support::alone`).

#[path = "../common/folder.rs"]
mod folder;
#[cfg(target_os = "linux")]
#[path = "../common/random.rs"]
mod random;

mod build_script;
#[cfg(target_os = "linux")]
mod contexts;
#[cfg(target_os = "linux")]
mod cublaslt;
#[cfg(target_os = "linux")]
mod device;
#[cfg(target_os = "linux")]
mod dot_general;
#[cfg(target_os = "linux")]
mod experts;
#[cfg(target_os = "linux")]
mod fused;
#[cfg(target_os = "linux")]
mod grouped;
#[cfg(target_os = "linux")]
mod groupwise;
#[cfg(target_os = "linux")]
mod igemm;
#[cfg(target_os = "linux")]
mod igemm90;
mod image_cache;
#[cfg(target_os = "linux")]
mod kernels;
#[cfg(target_os = "linux")]
mod output;
#[cfg(all(target_os = "linux", feature = "nccl"))]
mod parallel;
mod params;
#[cfg(target_os = "linux")]
mod row_scalars;
mod sass;
#[cfg(target_os = "linux")]
mod sizes;
#[cfg(target_os = "linux")]
mod status;
#[cfg(target_os = "linux")]
mod support;
#[cfg(target_os = "linux")]
mod transformer_block;
#[cfg(target_os = "linux")]
mod wrappers;
