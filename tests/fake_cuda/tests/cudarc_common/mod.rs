//! What the driver's tests share.
#![allow(dead_code)] // not every test uses all of it

use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, DriverError, LaunchConfig};
use cudarc::nvrtc::Ptx;
use fake_cuda::install::{install, Fake};

/// The kernels of `data/scale.cu`, as nvcc embeds them.
pub const FATBIN: &[u8] = include_bytes!("../data/scale.fatbin");

/// The emulator with a context of its one device.
pub fn context() -> (&'static Fake, Arc<CudaContext>) {
    let fake = install();
    (fake, CudaContext::new(0).unwrap())
}

/// The kernels of [`FATBIN`].
pub fn module(context: &Arc<CudaContext>) -> Arc<CudaModule> {
    context
        .load_module(Ptx::from_binary(FATBIN.to_vec()))
        .unwrap()
}

pub fn function(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    module(context).load_function(name).unwrap()
}

pub fn shape(blocks: u32, threads: u32, shared: u32) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (blocks, 1, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: shared,
    }
}

/// The code that a call was refused with.
pub fn code<T>(result: Result<T, DriverError>) -> CUresult {
    match result {
        Ok(_) => CUresult::CUDA_SUCCESS,
        Err(e) => e.0,
    }
}
