//! What is known about a device.

use super::errors::driver;
use crate::error::{Error, Result};
use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::CudaContext;
use std::fmt;
use std::sync::Arc;

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
