//! Runs a kernel.
mod fault;

pub use fault::{Fault, FaultKind};

use crate::device::DeviceProfile;
use crate::memory::{GlobalMemory, MemoryFault};
use crate::ptx::{Entry, Module};

/// A module whose variables have addresses.
pub struct LinkedModule {
    module: Module,
    addresses: Vec<u64>,
}

/// Places the module's variables in `memory` and writes their initial values.
///
/// # Errors
/// The memory is full.
pub fn link(module: Module, memory: &GlobalMemory) -> Result<LinkedModule, MemoryFault> {
    let mut addresses = Vec::new();
    for g in &module.globals {
        let at = memory.alloc(g.size.max(1))?;
        memory.fill(at, 0, g.size)?;
        memory.write(at, &g.init)?;
        addresses.push(at);
    }
    Ok(LinkedModule { module, addresses })
}

impl LinkedModule {
    /// The kernel of that name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.module.entries.iter().find(|e| e.name == name)
    }

    /// Address and size of the variable of that name.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        let i = self.module.globals.iter().position(|g| g.name == name)?;
        Some((self.addresses[i], self.module.globals[i].size))
    }

    /// What was parsed.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// Frees the variables.
    ///
    /// # Errors
    /// They were freed before.
    pub fn unload(&self, memory: &GlobalMemory) -> Result<(), MemoryFault> {
        self.addresses.iter().try_for_each(|&a| memory.free(a))
    }
}

/// One kernel launch.
pub struct Launch<'a> {
    /// The module, linked.
    pub module: &'a LinkedModule,
    /// Name of the kernel.
    pub entry: &'a str,
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// Parameters packed as [`Entry::params`] says.
    pub params: &'a [u8],
    /// Global memory.
    pub memory: &'a GlobalMemory,
    /// Limits.
    pub device: &'a DeviceProfile,
    /// Seed of the schedule.
    pub seed: u64,
}

/// What a launch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaunchStats {
    /// Instructions, each counted once for every thread that ran it.
    pub thread_instructions: u64,
    /// Instructions, each counted once for every warp that ran it.
    pub warp_instructions: u64,
    /// Blocks run.
    pub blocks: u64,
}

/// Runs a kernel to its end.
///
/// # Errors
/// The first thing a thread did wrong, or a launch the device refuses.
pub fn launch(l: &Launch<'_>) -> Result<LaunchStats, Fault> {
    Err(Fault::at_launch(
        l.entry,
        FaultKind::BadLaunch(String::from("not built yet")),
    ))
}
