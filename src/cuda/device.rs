//! What is known about a device, and what it makes when it is first needed.

use super::choice_cache::ChoiceCache;
use super::cublaslt::CublasLt;
use super::launch::driver;
use super::module::Device;
use crate::error::{Error, Result};
use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{CudaContext, CudaStream};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

/// What choices depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Properties {
    /// Such as `NVIDIA H200`.
    pub name: String,
    /// Compute capability, such as (9, 0).
    pub capability: (u32, u32),
    /// Number of multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that one block may have, in bytes.
    pub shared_memory: u32,
    /// Level 2 cache, in bytes.
    pub l2: u32,
    /// The multiprocessors' highest clock, in MHz.
    pub clock: u32,
    /// Bytes a microsecond to and from memory, by its clock and width: what the datasheet says.
    pub bandwidth: u32,
    /// The CUDA version of the driver: 13000 for 13.0.
    pub driver: u32,
}

impl Properties {
    pub(super) fn read(context: &Arc<CudaContext>) -> Result<Self> {
        let get = |which| {
            let value = context
                .attribute(which)
                .map_err(driver("cuDeviceGetAttribute"))?;
            Ok::<_, Error>(value.unsigned_abs())
        };
        // Two transfers a clock; kHz and bits.
        let (memory, bits) = (
            get(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
            get(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
        );
        let bandwidth = 2 * u64::from(memory) * u64::from(bits / 8) / 1000;
        Ok(Properties {
            name: context.name().map_err(driver("cuDeviceGetName"))?,
            capability: (
                get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: get(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_memory: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            l2: get(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
            clock: get(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? / 1000,
            bandwidth: bandwidth.try_into().unwrap_or(u32::MAX),
            driver: driver_version()?,
        })
    }

    /// The architecture, such as `sm_90`.
    pub fn arch(&self) -> String {
        format!("sm_{}{}", self.capability.0, self.capability.1)
    }
}

impl fmt::Display for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {}, {} multiprocessors, {} KiB of shared memory a block, {} MiB of L2, driver for CUDA {}.{}",
            self.name,
            self.arch(),
            self.multiprocessors,
            self.shared_memory >> 10,
            self.l2 >> 20,
            self.driver / 1000,
            self.driver % 1000 / 10
        )
    }
}

fn driver_version() -> Result<u32> {
    let mut version = 0;
    // SAFETY: writes one int; a device is open, so the driver is loaded.
    unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(driver("cuDriverGetVersion"))?;
    Ok(version.unsigned_abs())
}

/// What is made when it is first asked for.
#[derive(Debug, Default)]
pub(super) struct Late {
    cublaslt: OnceLock<Result<CublasLt>>,
    stream: OnceLock<Result<Arc<CudaStream>>>,
    /// What was measured, read from its file by the first use.
    pub(super) choices: Mutex<Option<ChoiceCache>>,
}

impl Device {
    /// Name, architecture, sizes.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// cuBLASLt on this device, opened by the first call.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the library is not found, [`Error::Cuda`] when it does not start. Later calls
    /// answer the same.
    pub fn cublaslt(&self) -> Result<&CublasLt> {
        let made = || CublasLt::new(self.context());
        self.late
            .cublaslt
            .get_or_init(made)
            .as_ref()
            .map_err(Clone::clone)
    }

    /// The stream of calls that are given none: those of the [`Backend`](crate::Backend).
    pub(super) fn stream(&self) -> Result<&Arc<CudaStream>> {
        let made = || {
            self.context()
                .new_stream()
                .map_err(driver("cuStreamCreate"))
        };
        self.late
            .stream
            .get_or_init(made)
            .as_ref()
            .map_err(Clone::clone)
    }

    /// This device for as long as its holder lives.
    pub(super) fn arc(&self) -> Arc<Device> {
        // Only `with_context` makes one, inside its Arc, and `self` keeps that alive.
        self.this.upgrade().expect("a device lives in its Arc")
    }
}
