//! NVIDIA GPUs: in this build without the feature `cuda`, [`status()`] and [`nccl_status()`] alone, which say so.

#[path = "runtime/nccl.rs"]
mod nccl;
#[path = "runtime/status.rs"]
mod status;
pub use nccl::{nccl_status, NcclStatus};
pub use status::{device_status, status, Status};
