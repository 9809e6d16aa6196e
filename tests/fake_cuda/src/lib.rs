//! A strict emulated CUDA driver: answers the driver API and interprets PTX.
//!
//! Data goes one way: [`ptx`] turns text into a typed program, [`exec`] runs it on [`memory`] as
//! the machine that [`device`] describes. The C ABI in front of them lives in modules of its own:
//! `driver` answers the driver API (images are taken apart by [`fatbin`]), `cublaslt` the small part
//! of cuBLASLt that int8 products need, `nccl` that of NCCL which integer all-reduces do. A test calls [`install::install`] once and then uses CUDA.
//!
//! | variable | meaning |
//! |---|---|
//! | `IMMA_FAKE_DEVICE` | `sm_80`, `sm_90` (default), or `none` for a machine without a device |
//! | `IMMA_FAKE_DEVICES` | how many of them, 1 by default: contexts of their own, what lies in memory in common |
//! | `IMMA_FAKE_MEMORY` | device memory in bytes |
//! | `IMMA_FAKE_SEED` | seed of the schedules, decimal |
//! | `IMMA_FAKE_NCCL_MS` | how long a rank of NCCL waits for the others before that is a deadlock, 20000 by default |
//! | `IMMA_FAKE_PTX` | a folder of PTX files: a module with the kernels of one of them is taken from there |
//! | `IMMA_FAKE_DRIVER_VERSION` | the version that the driver claims, such as 12040 |
mod cublaslt;
pub mod device;
mod driver;
pub mod exec;
pub mod fatbin;
pub mod install;
pub mod memory;
mod nccl;
pub mod ptx;
pub mod strictness;
pub mod tensor_map;
