//! Prove, then launch: a kernel, its geometry and its parameters, checked against each other before the driver sees them.

use super::module::{Device, Kernel};
use super::params;
use crate::element::DType;
use crate::error::{Error, Result};
use cudarc::driver::{
    CudaContext, CudaStream, DeviceRepr, DriverError, LaunchConfig, PushKernelArg,
};
use std::sync::atomic::Ordering;
use std::sync::Arc;

macro_rules! parameters {
    ($($name:ident)*) => {
        // SAFETY: made of the C structs that the kernels take by value; plain data, no references.
        $(unsafe impl DeviceRepr for params::$name {})*
    };
}
parameters!(QuantizeRowsParams QuantizeColsParams QuantizeStaticParams DequantizeParams TransposeParams FinishParams IgemmParams PeakParams);
parameters!(RmsnormQuantizeParams SiluMulQuantizeParams FinishQuantizeParams IgemmGroupwiseParams);

/// Blocks, threads and dynamic shared memory of a launch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub grid: (u64, u64),
    pub block: (u32, u32),
    pub dynamic_shared: u32,
}

/// A launch that passed its checks.
#[derive(Debug)]
pub(super) struct PreparedLaunch<'a, P> {
    kernel: &'a Kernel,
    stream: &'a CudaStream,
    config: LaunchConfig,
    params: P,
}

impl<'a, P: DeviceRepr> PreparedLaunch<'a, P> {
    /// Checks that the stream is the device's and that the driver accepts this geometry.
    pub fn new(
        device: &'a Device,
        stream: &'a CudaStream,
        entry: &'static str,
        geometry: Geometry,
        params: P,
    ) -> Result<Self> {
        same_context("the stream", device.context(), stream.context())?;
        let kernel = device.kernel(entry)?;
        let limit = |what, found: u64, limit: u64| {
            if (1..=limit).contains(&found) {
                return Ok(found as u32);
            }
            Err(Error::Value {
                what,
                found: format!("{found} for {entry}"),
                expected: format!("1..={limit}"),
            })
        };
        let Geometry {
            grid,
            block,
            dynamic_shared,
        } = geometry;
        limit(
            "threads of a block",
            u64::from(block.0) * u64::from(block.1),
            u64::from(kernel.max_threads),
        )?;
        // One more on both sides: none at all is fine.
        limit(
            "dynamic shared memory plus 1",
            u64::from(dynamic_shared) + 1,
            u64::from(kernel.max_dynamic_shared) + 1,
        )?;
        let config = LaunchConfig {
            grid_dim: (
                limit("blocks across", grid.0, MAX_GRID_X)?,
                limit("blocks down", grid.1, MAX_GRID_Y)?,
                1,
            ),
            block_dim: (block.0, block.1, 1),
            shared_mem_bytes: dynamic_shared,
        };
        Ok(PreparedLaunch {
            kernel,
            stream,
            config,
            params,
        })
    }

    /// The same with so many blocks in the third direction.
    pub fn with_depth(mut self, depth: u32) -> Result<Self> {
        if !(1..=MAX_GRID_Y).contains(&u64::from(depth)) {
            return Err(Error::Value {
                what: "the batch",
                found: depth.to_string(),
                expected: format!("1..={MAX_GRID_Y} products"),
            });
        }
        self.config.grid_dim.2 = depth;
        Ok(self)
    }

    /// Enqueues it.
    ///
    /// # Safety
    /// `params` must describe memory that lives, and that nothing else touches, until the stream is past this
    /// launch: the caller has checked lengths and holds the slices' guards.
    pub unsafe fn enqueue(self) -> Result<()> {
        let mut launch = self.stream.launch_builder(&self.kernel.function);
        launch.arg(&self.params);
        // SAFETY: `P` is the one parameter of the kernel, and the caller answers for what it points to.
        unsafe { launch.launch(self.config) }.map_err(driver("cuLaunchKernel"))?;
        self.kernel.launches.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// The largest grid of any device since compute capability 3.0.
pub(super) const MAX_GRID_X: u64 = (1 << 31) - 1;
pub(super) const MAX_GRID_Y: u64 = 65_535;

/// What the driver refused, without asking it for words (which needs a working driver).
pub(super) fn driver(call: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Cuda {
        call,
        code: error.0 as u32,
        name: format!("{:?}", error.0),
    }
}

pub(super) fn same_context(
    what: &'static str,
    expected: &Arc<CudaContext>,
    found: &Arc<CudaContext>,
) -> Result<()> {
    if expected.cu_ctx() == found.cu_ctx() {
        return Ok(());
    }
    Err(Error::Value {
        what,
        found: format!("in another context (device {})", found.ordinal()),
        expected: format!(
            "in the context of the kernels (device {})",
            expected.ordinal()
        ),
    })
}

/// A number that a kernel takes as 32 bits.
pub(super) fn narrow(what: &'static str, value: usize) -> Result<u32> {
    // Half the range, so that sums with a block's size can't wrap.
    u32::try_from(value)
        .ok()
        .filter(|value| *value <= 1 << 31)
        .ok_or_else(|| Error::Value {
            what,
            found: value.to_string(),
            expected: "at most 2^31".into(),
        })
}

/// One entry of a family, by element type.
pub(super) fn by_type(dtype: DType, entries: [&'static str; 3]) -> &'static str {
    match dtype {
        DType::F16 => entries[1],
        DType::BF16 => entries[2],
        // The trait of the wrappers is sealed to three types.
        _ => entries[0],
    }
}
