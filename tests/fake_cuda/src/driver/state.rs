//! The driver: one device, its memory, and the objects that live in its primary context.
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::capture::Capture;
use super::event::Event;
use super::function::Function;
use super::graph::Graph;
use super::handles::Table;
use super::host::HostBlock;
use super::module::Module;
use super::pool::Pool;
use super::stats::Totals;
use super::status::{Refusal, Result, Status};
use super::stream::Stream;
use crate::device::DeviceProfile;
use crate::memory::{GlobalMemory, MemoryFault};

/// The one driver of this process.
pub struct Driver {
    /// The device.
    pub profile: DeviceProfile,
    /// Its memory.
    pub memory: GlobalMemory,
    /// Streams that the caller made.
    pub streams: Table<Stream>,
    /// The stream of handle 0 and 1.
    pub legacy: Arc<Stream>,
    /// The stream of handle 2; one for all threads.
    pub per_thread: Arc<Stream>,
    /// Events.
    pub events: Table<Event>,
    /// Loaded modules.
    pub modules: Table<Module>,
    /// Kernels that were asked for.
    pub functions: Table<Function>,
    /// Captured graphs.
    pub graphs: Table<Graph>,
    /// Instantiated graphs.
    pub executables: Table<Graph>,
    /// Memory pools.
    pub pools: Table<Pool>,
    /// Handle of the device's default pool.
    pub default_pool: usize,
    /// Page-locked host memory, by address.
    pub host_blocks: Mutex<HashMap<usize, HostBlock>>,
    /// The caller's device allocations: address to size.
    pub allocations: Mutex<HashMap<u64, u64>>,
    /// The device on which each of them was made, by address.
    pub owners: Mutex<HashMap<u64, i32>>,
    /// Captures under way.
    pub captures: Mutex<Vec<Arc<Capture>>>,
    /// How often each device's context was retained.
    pub references: Mutex<Vec<u32>>,
    /// What the tests count.
    pub totals: Mutex<Totals>,
    poison: AtomicU32,
}

static DRIVER: OnceLock<std::result::Result<Driver, (Status, String)>> = OnceLock::new();

/// `cuInit`.
///
/// # Errors
/// No device, or settings that make no sense.
pub fn initialise() -> Result<&'static Driver> {
    match DRIVER.get_or_init(Driver::from_env) {
        Ok(driver) => Ok(driver),
        Err((status, why)) => Err(status.because(why)),
    }
}

/// The driver, once `cuInit` has run.
///
/// # Errors
/// `CUDA_ERROR_NOT_INITIALIZED`.
pub fn driver() -> Result<&'static Driver> {
    match DRIVER.get() {
        Some(Ok(driver)) => Ok(driver),
        _ => Err(Status::NOT_INITIALIZED.because("cuInit has not succeeded")),
    }
}

/// A lock whatever happened to its last holder: the emulator's state is only ever a set of entries.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number in an environment variable.
///
/// # Errors
/// Text that is no number.
pub fn number_from_env(name: &str) -> std::result::Result<Option<u64>, String> {
    match std::env::var(name) {
        Err(_) => Ok(None),
        Ok(text) => text
            .parse()
            .map(Some)
            .map_err(|_| format!("{name}={text}: want a decimal number")),
    }
}

impl Driver {
    fn from_env() -> std::result::Result<Self, (Status, String)> {
        if std::env::var("IMMA_FAKE_DEVICE").as_deref() == Ok("none") {
            return Err((Status::NO_DEVICE, String::from("IMMA_FAKE_DEVICE=none")));
        }
        let setting = |e| (Status::INVALID_VALUE, e);
        let profile = DeviceProfile::from_env().map_err(setting)?;
        let memory = number_from_env("IMMA_FAKE_MEMORY").map_err(setting)?;
        let seed = number_from_env("IMMA_FAKE_SEED").map_err(setting)?;
        let devices = number_from_env("IMMA_FAKE_DEVICES").map_err(setting)?;
        let devices = devices.map_or(1, |n| (n as usize).min(super::context::MOST));
        super::stats::set_first_seed(seed.unwrap_or(1));
        let pools = Table::new("memory pool");
        let default_pool = pools.insert(Pool::default());
        Ok(Driver {
            memory: GlobalMemory::new(memory.unwrap_or(profile.global_bytes)),
            profile,
            streams: Table::new("stream"),
            legacy: Arc::new(Stream::legacy()),
            per_thread: Arc::new(Stream::new(0, 0)),
            events: Table::new("event"),
            modules: Table::new("module"),
            functions: Table::new("function"),
            graphs: Table::new("graph"),
            executables: Table::new("executable graph"),
            pools,
            default_pool,
            host_blocks: Mutex::default(),
            allocations: Mutex::default(),
            owners: Mutex::default(),
            captures: Mutex::default(),
            references: Mutex::new(vec![0; devices]),
            totals: Mutex::default(),
            poison: AtomicU32::new(0),
        })
    }

    /// The stream of a handle.
    ///
    /// # Errors
    /// `CUDA_ERROR_INVALID_HANDLE`.
    pub fn stream(&self, handle: usize) -> Result<Arc<Stream>> {
        match handle {
            0 | 1 => Ok(self.legacy.clone()),
            2 => Ok(self.per_thread.clone()),
            _ => self.streams.get(handle),
        }
    }

    /// The error that every call answers since a kernel went wrong.
    ///
    /// # Errors
    /// That error.
    pub fn check_poison(&self) -> Result {
        match self.poison.load(Relaxed) {
            0 => Ok(()),
            code => Err(Status(code).into()),
        }
    }

    /// Makes an error stick. The first one stays.
    pub fn poison(&self, status: Status) {
        // A later fault changes nothing: the first is the one that the caller will look for.
        let _ = self.poison.compare_exchange(0, status.0, Relaxed, Relaxed);
    }

    /// Forgets the sticky error.
    pub fn clear_poison(&self) {
        self.poison.store(0, Relaxed);
    }

    /// Ends everything that lives in the context, and the sticky error with it.
    pub fn destroy_context(&self) {
        self.functions.drain();
        for module in self.modules.drain() {
            module.unload(&self.memory);
        }
        self.streams.drain();
        self.events.drain();
        self.graphs.drain();
        self.executables.drain();
        lock(&self.captures).clear();
        for (address, _) in lock(&self.allocations).drain() {
            // Each was live until here: nothing else frees what this table holds.
            let _ = self.memory.free(address);
        }
        self.clear_poison();
    }
}

impl From<MemoryFault> for Refusal {
    fn from(fault: MemoryFault) -> Self {
        match fault {
            MemoryFault::OutOfMemory { .. } => Status::OUT_OF_MEMORY.because(fault),
            _ => Status::INVALID_VALUE.because(fault),
        }
    }
}
