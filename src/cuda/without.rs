//! NVIDIA GPUs: in this build without the feature `cuda`, [`status()`] alone, which says so.

#[path = "runtime/status.rs"]
mod status;
pub use status::{device_status, status, Status};
