//! Prove, then launch: a kernel, its geometry and its parameters, checked against each other before the driver sees them.
//!
//! ```text
//!   Entry<F> ---------.
//!   Geometry ----------+--> PreparedLaunch<F>::new (checks) --> enqueue
//!   F::Params --------'
//! ```

use super::device::{Device, Kernel};
use super::entry::{Arguments, Entry, Family};
use super::errors::{driver, same_context};
use crate::error::{Error, Result};
use cudarc::driver::{sys, CudaStream};
use std::sync::atomic::Ordering;

/// Blocks, threads and dynamic shared memory of a launch.
#[derive(Debug, Clone, Copy)]
pub(in crate::cuda) struct Geometry {
    pub grid: (u64, u64, u64),
    pub block: (u32, u32),
    /// Bytes.
    pub dynamic_shared: usize,
    /// Blocks of a cluster, along the first axis.
    pub cluster: u32,
    /// Whether it may start while the kernel before it ends: it waits itself (`griddepcontrol.wait`) before it touches
    /// anything.
    pub dependent: bool,
}

impl Geometry {
    pub const fn new(grid: (u64, u64), block: (u32, u32)) -> Self {
        Geometry {
            grid: (grid.0, grid.1, 1),
            block,
            dynamic_shared: 0,
            cluster: 1,
            dependent: false,
        }
    }

    pub const fn with_shared(self, dynamic_shared: usize) -> Self {
        Geometry {
            dynamic_shared,
            ..self
        }
    }

    /// The same with so many blocks in the third direction.
    pub const fn with_depth(mut self, depth: usize) -> Self {
        self.grid.2 = depth as u64;
        self
    }
}

/// The largest grid of any device since compute capability 3.0.
pub(in crate::cuda) const MAX_GRID_X: u64 = (1 << 31) - 1;
pub(in crate::cuda) const MAX_GRID_Y: u64 = 65_535;

/// A launch that passed its checks.
pub(in crate::cuda) struct PreparedLaunch<'a, F: Family> {
    device: &'a Device,
    kernel: &'a Kernel,
    stream: &'a CudaStream,
    geometry: Geometry,
    params: F::Params,
}

impl<'a, F: Family> PreparedLaunch<'a, F> {
    /// Checks that the stream is the device's and that the driver accepts this geometry.
    pub fn new(
        device: &'a Device,
        stream: &'a CudaStream,
        entry: Entry<F>,
        geometry: Geometry,
        params: F::Params,
    ) -> Result<Self> {
        same_context("the stream", device.context(), stream.context())?;
        let kernel = device.kernel(entry)?;
        let within = |what, found: u64, least: u64, most: u64| {
            if (least..=most).contains(&found) {
                return Ok(());
            }
            Err(Error::Value {
                what,
                found: format!("{found} for {}", entry.name()),
                expected: format!("{least}..={most}"),
            })
        };
        let Geometry {
            grid,
            block,
            dynamic_shared,
            ..
        } = geometry;
        let threads = u64::from(block.0) * u64::from(block.1);
        within("threads of a block", threads, 1, kernel.max_threads.into())?;
        let most = kernel.max_dynamic_shared.into();
        within("bytes of shared memory", dynamic_shared as u64, 0, most)?;
        within("blocks across", grid.0, 1, MAX_GRID_X)?;
        within("blocks down", grid.1, 1, MAX_GRID_Y)?;
        within("products of the batch", grid.2, 1, MAX_GRID_Y)?;
        Ok(PreparedLaunch {
            device,
            kernel,
            stream,
            geometry,
            params,
        })
    }

    /// Enqueues it.
    ///
    /// # Safety
    /// `params` must describe memory that lives, and that nothing else touches, until the stream is past this
    /// launch: its addresses are those of [`Region`](super::memory::Region)s whose [`Held`](super::memory::Held) lives,
    /// and its sizes stay inside them.
    pub unsafe fn enqueue(self) -> Result<()> {
        let geometry = self.geometry;
        let context = self.device.context();
        context
            .bind_to_thread()
            .map_err(driver("cuCtxSetCurrent"))?;
        let (mut attributes, count) = attributes(geometry);
        let config = sys::CUlaunchConfig {
            gridDimX: geometry.grid.0 as u32,
            gridDimY: geometry.grid.1 as u32,
            gridDimZ: geometry.grid.2 as u32,
            blockDimX: geometry.block.0,
            blockDimY: geometry.block.1,
            blockDimZ: 1,
            sharedMemBytes: geometry.dynamic_shared as u32,
            hStream: self.stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: count,
        };
        let mut pointers = self.params.pointers();
        // SAFETY: by its family's contract the kernel takes these parameters, which live in `self` until the call has
        // copied them; the caller answers for what they point to.
        unsafe {
            sys::cuLaunchKernelEx(
                &config,
                self.kernel.function.cu_function(),
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .result()
        .map_err(driver("cuLaunchKernelEx"))?;
        self.kernel.launches.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// What a launch has beyond its grid, and how many of these attributes.
fn attributes(geometry: Geometry) -> ([sys::CUlaunchAttribute; 2], u32) {
    let attribute = |id, value| sys::CUlaunchAttribute {
        id,
        pad: [0; 4],
        value,
    };
    let dependent = attribute(
        sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        sys::CUlaunchAttributeValue {
            programmaticStreamSerializationAllowed: 1,
        },
    );
    let cluster = attribute(
        sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        sys::CUlaunchAttributeValue {
            clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 {
                x: geometry.cluster,
                y: 1,
                z: 1,
            },
        },
    );
    // A cluster of one is none.
    match (geometry.dependent, geometry.cluster > 1) {
        (true, true) => ([dependent, cluster], 2),
        (true, false) => ([dependent, cluster], 1),
        (false, true) => ([cluster, dependent], 1),
        (false, false) => ([cluster, dependent], 0),
    }
}

/// A number that a kernel takes as 32 bits.
pub(in crate::cuda) fn narrow(what: &'static str, value: usize) -> Result<u32> {
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
