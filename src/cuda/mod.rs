//! NVIDIA GPUs: the feature `cuda`.
//!
//! [`status()`] says whether and why not, in every build and on every machine. The rest exists with the feature, on five
//! floors, each of which uses only those above it in this list:
//!
//! ```text
//!   runtime   status, images, a device with the kernels loaded, matrices in its memory, launches
//!   kernels   one module a kernel family: checks operands and enqueues
//!   product   a problem, the choice of kernel and tile, a plan, its run
//!   layers    weights, linear layers, the operations, the backend
//!   parallel  layers over several devices, through NCCL: the feature `nccl`
//! ```
//!
//! [`Device`] is a GPU with this crate's kernels loaded, and a [`Backend`](crate::Backend): every operation over ndarray
//! runs on it as on the CPU, with the same bits. [`Plan`] is a product of one shape with everything decided beforehand,
//! [`DeviceLinear`] a layer on device memory from end to end. What enqueues (the functions of [`kernels`], a plan's run)
//! works on a stream of the caller's, over memory of the caller's, allocates nothing and waits for nothing, so it can be
//! captured in a graph.
//!
//! The kernels are in `cuda/`, one file a family, and give the bits of [`numerics`](crate::numerics).

pub mod kernels;
mod layers;
#[cfg(feature = "nccl")]
pub mod parallel;
mod product;
mod runtime;

/// The bindings that streams and slices come from.
pub use cudarc;

pub use layers::{
    matmul_true_int8, q_matmul_int8, quant_int8, quantize, DeviceChoices, DeviceExperts,
    DeviceLinear, DeviceWeights, ExpertsPlan, WeightOrder,
};
pub use product::{
    tune, Algorithm, CacheKey, ChoiceCache, DeviceLhs, Input, Instance, Measured, Operands, Plan,
    Prediction, Problem, Tuning, TuningProgress, WeightsView,
};
pub use runtime::{
    device_status, images, nccl_status, status, time_graph, time_launches, Device, DeviceElement,
    DeviceFloats, DeviceOutput, DeviceVector, FloatBuffer, Image, Int8Rates, Matrix, NcclStatus,
    OutputElement, Properties, RunTime, Sampling, Status,
};

/// What a launch asks of its types, for the tests of what must not compile.
#[doc(hidden)]
pub mod launch_contract {
    pub use super::kernels::contract::{Peak, QuantizeRows};
    pub use super::runtime::Entry;
}
