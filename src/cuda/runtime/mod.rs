//! The ground floor, which knows no product: whether there is a GPU, the kernels in this build, a device that has them
//! loaded, matrices in its memory, launches.

mod device;
mod element;
mod entry;
mod errors;
mod fault;
mod floats;
mod images;
mod launch;
mod matrix;
mod memory;
mod nccl;
mod properties;
mod rates;
mod status;
mod timing;
mod workspace;

pub use device::Device;
pub use element::OutputElement;
pub use entry::{Arguments, Entry, Family};
pub use floats::{DeviceElement, DeviceFloats, DeviceOutput, DeviceVector, FloatBuffer};
pub use images::{images, Image};
pub use matrix::Matrix;
pub use nccl::{nccl_status, NcclStatus};
pub use properties::Properties;
pub use rates::Int8Rates;
pub use status::{device_status, status, Status};
pub use timing::{time_graph, time_launches, RunTime, Sampling};

pub(super) use entry::one;
pub(super) use errors::{driver, same_context};
pub(super) use launch::{narrow, Geometry, PreparedLaunch, MAX_GRID_Y};
pub(super) use memory::{download, upload, zeros, Held, Region};
pub(super) use status::{cublaslt_is_there, cublaslt_names};
pub(super) use workspace::{Layout, Workspace};
