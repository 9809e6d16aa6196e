//! A device with all of this crate's kernels loaded.

use super::entry::{Entry, Family};
use super::errors::driver;
use super::fault::FaultWord;
use super::images::{images, Image};
use super::properties::Properties;
use super::status::device_status;
use crate::error::{Error, Result};
use cudarc::driver::sys::{
    CUdevice_attribute as Attribute, CUfunction_attribute as FunctionAttribute,
};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream};
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// A kernel, and what its launches are checked against.
#[derive(Debug)]
pub(super) struct Kernel {
    pub function: CudaFunction,
    pub max_threads: u32,
    /// Dynamic shared memory that a launch may ask for, in bytes.
    pub max_dynamic_shared: u32,
    pub launches: AtomicU64,
}

impl Kernel {
    /// Looks it up, and lets its launches have all the shared memory, `limit` bytes a block, that the device has.
    fn load(module: &Arc<CudaModule>, entry: &str, limit: i32) -> Result<Self> {
        let function = module
            .load_function(entry)
            .map_err(driver("cuModuleGetFunction"))?;
        let attribute = |which| {
            function
                .get_attribute(which)
                .map_err(driver("cuFuncGetAttribute"))
        };
        let max_threads = attribute(FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
        let fixed = attribute(FunctionAttribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
        let dynamic = (limit - fixed).max(0);
        function
            .set_attribute(
                FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                dynamic,
            )
            .map_err(driver("cuFuncSetAttribute"))?;
        Ok(Kernel {
            function,
            max_threads: max_threads.unsigned_abs(),
            max_dynamic_shared: dynamic.unsigned_abs(),
            launches: AtomicU64::new(0),
        })
    }
}

/// What upper floors keep with a device, one of each type.
type Attachments = Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>;

/// A GPU with this crate's kernels loaded.
///
/// The functions of [`kernels`](crate::cuda::kernels) enqueue on a stream of its context. It is a
/// [`Backend`](crate::Backend) as well. May be used from any thread.
pub struct Device {
    context: Arc<CudaContext>,
    kernels: HashMap<&'static str, Kernel>,
    properties: Properties,
    /// The stream of calls that are given none.
    stream: OnceLock<Result<Arc<CudaStream>>>,
    attachments: Attachments,
    fault: FaultWord,
    /// Itself, for what outlives a borrow.
    this: Weak<Device>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("ordinal", &self.context.ordinal())
            .field("properties", &self.properties)
            .field("kernels", &self.kernels.len())
            .finish_non_exhaustive()
    }
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

    /// Loads the kernels into a context that is there already. (To make a context, cudarc needs a driver and panics where
    /// there is none: ask [`status`](crate::cuda::status()) first.)
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_context(context: &Arc<CudaContext>) -> Result<Arc<Self>> {
        let limit = context
            .attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
            .map_err(driver("cuDeviceGetAttribute"))?;
        let properties = Properties::read(context)?;
        let mut kernels = HashMap::new();
        let usable = |image: &&Image| image.runs_on(properties.capability);
        for image in images().iter().filter(usable) {
            let binary = cudarc::nvrtc::Ptx::from_binary(image.bytes.to_vec());
            let module = context
                .load_module(binary)
                .map_err(driver("cuModuleLoadData"))?;
            for entry in image.entries {
                kernels.insert(*entry, Kernel::load(&module, entry, limit)?);
            }
        }
        let fault = FaultWord::new(context)?;
        Ok(Arc::new_cyclic(|this| Device {
            context: context.clone(),
            kernels,
            properties,
            stream: OnceLock::new(),
            attachments: Attachments::default(),
            fault,
            this: this.clone(),
        }))
    }

    /// The context that the kernels were loaded into.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Name, architecture, sizes.
    pub fn properties(&self) -> &Properties {
        &self.properties
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

    pub(super) fn kernel<F: Family>(&self, entry: Entry<F>) -> Result<&Kernel> {
        let kernel = self.kernels.get(entry.name());
        kernel.ok_or_else(|| Error::Unavailable {
            what: "kernel",
            found: entry.name().into(),
            expected: "a build with nvcc, for this device's architecture".into(),
        })
    }

    /// Whether this build has a kernel for this device.
    pub(in crate::cuda) fn has<F: Family>(&self, entry: Entry<F>) -> bool {
        self.kernels.contains_key(entry.name())
    }

    /// Bytes of dynamic shared memory that a launch of a kernel may have.
    pub(in crate::cuda) fn dynamic_shared<F: Family>(&self, entry: Entry<F>) -> Result<usize> {
        Ok(self.kernel(entry)?.max_dynamic_shared as usize)
    }

    /// Where kernels write what they find wrong with numbers that only the device has seen.
    pub(in crate::cuda) fn fault_address(&self) -> u64 {
        self.fault.address()
    }

    /// What was written there last, and 0 in its place.
    pub(in crate::cuda) fn take_fault(&self) -> u32 {
        self.fault.take()
    }

    /// The stream of calls that are given none: those of the [`Backend`](crate::Backend).
    pub(in crate::cuda) fn stream(&self) -> Result<&Arc<CudaStream>> {
        let made = || self.context.new_stream().map_err(driver("cuStreamCreate"));
        self.stream.get_or_init(made).as_ref().map_err(Clone::clone)
    }

    /// This device for as long as its holder lives.
    pub(in crate::cuda) fn arc(&self) -> Arc<Device> {
        // Only `with_context` makes one, inside its Arc, and `self` keeps that alive.
        self.this.upgrade().expect("a device lives in its Arc")
    }

    /// What an upper floor keeps with this device, one of each type: made by the first call.
    pub(in crate::cuda) fn attached<T: Any + Send + Sync>(
        &self,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        // Entries are put in whole, so a panic elsewhere leaves the map whole.
        let lock = || {
            self.attachments
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let typed = |found: Arc<dyn Any + Send + Sync>| {
            found.downcast::<T>().expect("kept under its own type")
        };
        let known = lock().get(&TypeId::of::<T>()).cloned();
        if let Some(known) = known {
            return typed(known);
        }
        let made: Arc<dyn Any + Send + Sync> = Arc::new(make());
        // Another thread may have been faster; then its answer serves both.
        typed(lock().entry(TypeId::of::<T>()).or_insert(made).clone())
    }
}
