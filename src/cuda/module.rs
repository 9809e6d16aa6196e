//! The compiled kernels in this crate, and a device with all of them loaded.

use super::device::{Late, Properties};
use super::launch::{self, driver};
use super::status::device_status;
use crate::error::{Error, Result};
use cudarc::driver::sys::{
    CUdevice_attribute as Attribute, CUfunction_attribute as FunctionAttribute,
};
use cudarc::driver::{CudaContext, CudaFunction, DeviceSlice};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// What nvcc made of one `cuda/*.cu`: a fatbin with a cubin an architecture, and PTX of the lowest in the clear.
#[derive(Debug)]
#[non_exhaustive]
pub struct Image {
    /// The source's name without `.cu`.
    pub name: &'static str,
    /// The fatbin.
    pub bytes: &'static [u8],
    /// The kernels in it.
    pub entries: &'static [&'static str],
}

// IMAGES; TOOLKIT, the compiler's version as the driver counts; ARCHS, such as ["80", "90a"].
mod made {
    use super::Image;
    include!(concat!(env!("OUT_DIR"), "/images.rs"));
}
pub(super) use made::{ARCHS, TOOLKIT};

/// Every image that this build embeds, in order of name; none where it was built for documentation alone.
pub fn images() -> &'static [Image] {
    made::IMAGES
}

/// Whether some image runs on a device of this capability under a driver of this version.
pub(super) fn serves(capability: (u32, u32), driver: u32) -> bool {
    let device = capability.0 * 10 + capability.1;
    let parse = |arch: &str| {
        let digits = arch.trim_end_matches(char::is_alphabetic);
        (
            digits.parse::<u32>().unwrap_or(u32::MAX),
            arch.len() > digits.len(),
        )
    };
    // Code for a feature set (90a) runs on that very device; other code on later devices of the same major.
    let cubin = ARCHS.iter().map(|arch| parse(arch)).any(|(arch, exact)| {
        arch == device || (!exact && arch / 10 == device / 10 && arch < device)
    });
    // PTX of the lowest: any later device, by a driver that knows the compiler's PTX.
    let ptx = ARCHS.first().is_some_and(|arch| {
        let (arch, exact) = parse(arch);
        !exact && arch <= device && driver >= TOOLKIT
    });
    cubin || ptx
}

/// A kernel, and what its launches are checked against.
#[derive(Debug)]
pub(super) struct Kernel {
    pub function: CudaFunction,
    pub max_threads: u32,
    /// Dynamic shared memory that a launch may ask for, in bytes.
    pub max_dynamic_shared: u32,
    pub launches: AtomicU64,
}

/// A GPU with this crate's kernels loaded.
///
/// Its methods enqueue one kernel each on a stream of this device's context. They allocate nothing, wait for
/// nothing and check everything first: after an error nothing was enqueued. All of them may be captured in a graph
/// (cudarc's event tracking must be off before the buffers are allocated).
#[derive(Debug)]
pub struct Device {
    context: Arc<CudaContext>,
    kernels: HashMap<&'static str, Kernel>,
    /// Itself, for what outlives a borrow.
    pub(super) this: Weak<Device>,
    pub(super) properties: Properties,
    pub(super) late: Late,
}

impl Device {
    /// Opens a device's primary context and loads the kernels.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with [`Status`](super::Status)'s sentence where the device can't be used;
    /// [`Error::Cuda`] when the driver refuses a call. Never panics for want of a driver.
    pub fn open(ordinal: usize) -> Result<Arc<Self>> {
        let status = device_status(ordinal);
        if !status.is_usable() {
            return Err(Error::Unavailable {
                what: "CUDA device",
                found: ordinal.to_string(),
                expected: status.to_string(),
            });
        }
        let context = CudaContext::new(ordinal).map_err(driver("cuDevicePrimaryCtxRetain"))?;
        Self::with_context(&context)
    }

    /// Loads the kernels into a context that is there already.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_context(context: &Arc<CudaContext>) -> Result<Arc<Self>> {
        let limit = context
            .attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
            .map_err(driver("cuDeviceGetAttribute"))?;
        let capability = |which| {
            context
                .attribute(which)
                .map_err(driver("cuDeviceGetAttribute"))
        };
        let hopper = (
            capability(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            capability(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ) == (9, 0);
        let mut kernels = HashMap::new();
        // Code for 90a runs on that very capability.
        let usable = |image: &&Image| hopper || !image.name.ends_with("_sm90");
        for image in images().iter().filter(usable) {
            let binary = cudarc::nvrtc::Ptx::from_binary(image.bytes.to_vec());
            let module = context
                .load_module(binary)
                .map_err(driver("cuModuleLoadData"))?;
            for entry in image.entries {
                let function = module
                    .load_function(entry)
                    .map_err(driver("cuModuleGetFunction"))?;
                let attribute = |which| {
                    function
                        .get_attribute(which)
                        .map_err(driver("cuFuncGetAttribute"))
                };
                let max_threads =
                    attribute(FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
                let fixed = attribute(FunctionAttribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
                let dynamic = (limit - fixed).max(0);
                function
                    .set_attribute(
                        FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                        dynamic,
                    )
                    .map_err(driver("cuFuncSetAttribute"))?;
                let kernel = Kernel {
                    function,
                    max_threads: max_threads.unsigned_abs(),
                    max_dynamic_shared: dynamic.unsigned_abs(),
                    launches: AtomicU64::new(0),
                };
                kernels.insert(*entry, kernel);
            }
        }
        let properties = Properties::read(context)?;
        Ok(Arc::new_cyclic(|this| Device {
            context: context.clone(),
            kernels,
            this: this.clone(),
            properties,
            late: Late::default(),
        }))
    }

    /// The context that the kernels were loaded into.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// How often each kernel was enqueued (captured launches count once), in order of name.
    pub fn launches(&self) -> Vec<(&'static str, u64)> {
        let count = |kernel: &Kernel| kernel.launches.load(Ordering::Relaxed);
        let mut launches: Vec<_> = self
            .kernels
            .iter()
            .map(|(name, kernel)| (*name, count(kernel)))
            .collect();
        launches.sort_unstable();
        launches
    }

    pub(super) fn kernel(&self, entry: &'static str) -> Result<&Kernel> {
        self.kernels.get(entry).ok_or_else(|| Error::Unavailable {
            what: "kernel",
            found: entry.into(),
            expected: "a build with nvcc".into(),
        })
    }

    /// Refuses memory that belongs to another context.
    pub(super) fn check_memory<T>(
        &self,
        what: &'static str,
        slice: &(impl DeviceSlice<T> + ?Sized),
    ) -> Result<()> {
        launch::same_context(what, &self.context, slice.stream().context())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_serves_its_own_and_later_devices() {
        if ARCHS.first() == Some(&"80") {
            assert!(serves((8, 0), 13000));
            assert!(serves((8, 9), 13000));
            assert!(!serves((7, 5), 13000));
            // By PTX, if the driver reads it.
            assert!(serves((13, 0), TOOLKIT));
            assert!(!serves((13, 0), TOOLKIT - 10));
        }
    }
}
