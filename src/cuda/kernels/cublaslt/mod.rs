//! NVIDIA's cuBLASLt for int8 products: `C[M, N] = A[M, K] x W[N, K]^T` with exact int32 sums.
//!
//! A library to choose, to fall back on and to measure against. It is opened at run time: where it is missing
//! [`CublasLt::of`] says so and own kernels serve. Its refusals come back as
//! [`Error::Cuda`] with the status by name.
//!
//! It counts in columns: a row-major `[R, C]` matrix is its `C x R` matrix of the same leading dimension. So `C^T`
//! (`N x M`) is asked for, of `W` transposed and `A` as it is: the one form (TN) that has int8 kernels.
//!
//! | rule | of |
//! |---|---|
//! | a multiple of 4 | N, K and the leading dimensions of A, W and C (16 is faster); strides of batches need 16 bytes |
//! | 16 bytes | the addresses of A, W, C |
//! | 256 bytes | the address of the workspace |

mod descriptor;
mod model;
mod product;
mod shape;

pub(in crate::cuda) use model::predict;
pub use product::{LtCandidate, LtProduct, LtResult};
pub use shape::{LtOutput, LtShape};

use crate::cuda::runtime::{cublaslt_is_there, cublaslt_names, driver, same_context, Device};
use crate::error::{Error, Result};
use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::CudaContext;
use descriptor::Handle;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A handle of the library, with the algorithms that it proposed for each shape so far.
///
/// May be used from any thread and on any stream of its context.
#[derive(Debug)]
pub struct CublasLt {
    handle: Arc<Handle>,
    context: Arc<CudaContext>,
    workspace_limit: usize,
    products: Mutex<HashMap<LtShape, Arc<LtProduct>>>,
}

/// What a device keeps: the library, or why it did not open.
struct Opened(Result<Arc<CublasLt>>);

impl CublasLt {
    /// cuBLASLt on a device, opened by the first call.
    ///
    /// # Errors
    /// As [`new`](Self::new). Later calls answer the same.
    pub fn of(device: &Device) -> Result<Arc<Self>> {
        let opened = device.attached(|| Opened(Self::new(device.context()).map(Arc::new)));
        opened.0.clone()
    }

    /// Opens the library for a context.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the library is not found, [`Error::Cuda`] when it or the driver refuses. Never
    /// panics for want of a library.
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        if !cublaslt_is_there() {
            return Err(Error::Unavailable {
                what: "library",
                found: "cuBLASLt".into(),
                expected: format!(
                    "{} where the loader finds it, as the CUDA toolkit installs it",
                    cublaslt_names(cfg!(windows)).join(" or ")
                ),
            });
        }
        context
            .bind_to_thread()
            .map_err(driver("cuCtxSetCurrent"))?;
        let major = context
            .attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
            .map_err(driver("cuDeviceGetAttribute"))?;
        Ok(CublasLt {
            handle: Arc::new(Handle::new()?),
            context: context.clone(),
            workspace_limit: workspace_limit(major),
            products: Mutex::default(),
        })
    }

    /// The most workspace that a product of this handle asks for, in bytes: 32 MiB from Hopper on, else 8 MiB.
    pub fn workspace_limit(&self) -> usize {
        self.workspace_limit
    }

    /// A product of this shape, with the library's candidates, best first; asked for once and remembered.
    ///
    /// # Errors
    /// [`Error::Value`] for what breaks an alignment rule (see the [module](self)), named with what was found;
    /// [`Error::Cuda`] when the library has no algorithm.
    pub fn product(&self, shape: LtShape) -> Result<Arc<LtProduct>> {
        shape.check()?;
        // A panic elsewhere leaves the map whole: entries are put in whole.
        let known = |products: &HashMap<_, Arc<LtProduct>>| products.get(&shape).cloned();
        let lock = || self.products.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(product) = known(&lock()) {
            return Ok(product);
        }
        self.context
            .bind_to_thread()
            .map_err(driver("cuCtxSetCurrent"))?;
        let product = LtProduct::new(&self.handle, &self.context, shape, self.workspace_limit)?;
        // Another thread may have been faster; then its answer serves both.
        let mut products = lock();
        Ok(products.entry(shape).or_insert(Arc::new(product)).clone())
    }

    /// Refuses a context that is not the handle's.
    pub fn check_context(&self, found: &Arc<CudaContext>) -> Result<()> {
        same_context("the stream", &self.context, found)
    }
}

/// NVIDIA's recommendation for Hopper and later; elsewhere more than any int8 algorithm was seen to want.
fn workspace_limit(major: i32) -> usize {
    if major >= 9 {
        32 << 20
    } else {
        8 << 20
    }
}
