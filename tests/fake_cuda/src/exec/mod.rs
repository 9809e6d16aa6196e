//! Runs a kernel: blocks in parallel, the warps of a block in a seeded random order.
mod access;
mod barrier;
mod bulk;
mod cluster;
mod cluster_barrier;
mod collective;
mod convert;
mod fault;
mod flight;
mod float;
mod hopper;
mod int;
mod mbarrier;
mod mma;
mod planted;
mod regs;
mod rendezvous;
mod select;
mod step;
mod tensor;
mod visit;
mod warp;
mod warpgroup;
mod wgmma;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

pub use fault::{Fault, FaultKind};

use crate::device::DeviceProfile;
use crate::memory::{GlobalMemory, MemoryFault, MAX_READERS};
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
        memory.fill(at, 0, g.size.max(1))?;
        addresses.push(at);
    }
    for (g, &at) in module.globals.iter().zip(&addresses) {
        memory.write(at, &g.init)?;
        for &(offset, variable, addend) in &g.relocations {
            let pointer = addresses[variable].wrapping_add(addend as u64);
            memory.write(at + offset, &pointer.to_le_bytes())?;
        }
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
    /// Blocks of a cluster along x, y, z: all 1 without clusters.
    pub cluster: [u32; 3],
    /// The cluster was asked for, by the launch or by the kernel.
    pub explicit_cluster: bool,
    /// It may start before the kernel ahead of it ends: `griddepcontrol.wait` shows what that one wrote.
    pub dependent: bool,
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
    /// Rules that it is let off.
    pub relaxed: crate::strictness::Relaxed,
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

/// Runs a kernel to its end. Clusters (of one block where there are none) start in order of their index, as many at a
/// time as there are host threads; a block may wait for those of its cluster and of clusters before it, not behind it.
///
/// # Errors
/// The first thing a thread did wrong (of the block with the lowest index), or a launch the device refuses.
pub fn launch(l: &Launch<'_>) -> Result<LaunchStats, Fault> {
    let entry = check(l).map_err(|text| Fault::at_launch(l.entry, FaultKind::BadLaunch(text)))?;
    let env = cluster::Env {
        launch: l,
        program: &entry.program,
        memory: l.memory,
        view: l.memory.view(),
        globals: &l.module.addresses,
    };
    let blocks: u64 = l.grid.iter().map(|&g| u64::from(g)).product();
    let clusters = blocks / l.cluster.iter().map(|&n| u64::from(n)).product::<u64>();
    let (next, threads, warps) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let first: Mutex<Option<(u64, Fault)>> = Mutex::new(None);
    let worker = || loop {
        let index = next.fetch_add(1, Relaxed);
        if index >= clusters {
            return;
        }
        let mut cluster = cluster::Cluster::new(&env, index);
        let done = cluster.run();
        threads.fetch_add(cluster.thread_instructions, Relaxed);
        warps.fetch_add(cluster.warp_instructions, Relaxed);
        if let Err(fault) = done {
            next.fetch_max(clusters, Relaxed);
            let mut slot = first.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.as_ref().is_none_or(|(i, _)| index < *i) {
                *slot = Some((index, fault));
            }
        }
    };
    let workers = clusters.min(rayon::current_num_threads() as u64);
    if workers < 2 {
        worker();
    } else {
        rayon::scope(|s| (0..workers).for_each(|_| s.spawn(|_| worker())));
    }
    match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, fault)) => Err(fault),
        None => Ok(LaunchStats {
            thread_instructions: threads.into_inner(),
            warp_instructions: warps.into_inner(),
            blocks,
        }),
    }
}

/// Checks a launch against the device's limits.
fn check<'a>(l: &Launch<'a>) -> Result<&'a Entry, String> {
    let d = l.device;
    let entry = l
        .module
        .entry(l.entry)
        .ok_or_else(|| String::from("no such kernel"))?;
    let target = &l.module.module.target;
    let wanted: u32 = target
        .trim_start_matches("sm_")
        .trim_end_matches(|c: char| c.is_alphabetic())
        .parse()
        .unwrap_or(0);
    let exact = target.ends_with('a');
    if wanted > d.cc() || (exact && wanted != d.cc()) {
        return Err(format!("PTX for {target} on {}", d.name));
    }
    for axis in 0..3 {
        if l.grid[axis] == 0 || l.grid[axis] > d.max_grid_dim[axis] {
            return Err(format!("grid {:?}", l.grid));
        }
        if l.block[axis] == 0 || l.block[axis] > d.max_block_dim[axis] {
            return Err(format!("block {:?}", l.block));
        }
    }
    let threads: u32 = l.block.iter().product();
    if threads > d.max_threads_per_block {
        return Err(format!(
            "{threads} threads in a block, the device takes {}",
            d.max_threads_per_block
        ));
    }
    if let Some(max) = entry.max_ntid.filter(|m| threads > m.iter().product()) {
        return Err(format!(
            "block {:?}, the kernel was compiled for at most {max:?}",
            l.block
        ));
    }
    if let Some(want) = entry.req_ntid.filter(|r| *r != l.block) {
        return Err(format!(
            "block {:?}, the kernel was compiled for {want:?}",
            l.block
        ));
    }
    check_cluster(l, entry, threads)?;
    let shared = u64::from(entry.static_shared) + u64::from(l.dynamic_shared);
    if shared > u64::from(d.max_shared_per_block_optin) {
        return Err(format!(
            "{shared} bytes of shared memory, the device has {}",
            d.max_shared_per_block_optin
        ));
    }
    if l.params.len() < entry.param_bytes as usize {
        return Err(format!(
            "{} parameter bytes, the kernel takes {}",
            l.params.len(),
            entry.param_bytes
        ));
    }
    Ok(entry)
}

/// Most blocks of a cluster; the driver allows 8 unless more are asked for.
const LARGEST_CLUSTER: u32 = 16;

fn check_cluster(l: &Launch<'_>, entry: &Entry, threads: u32) -> Result<(), String> {
    let size: u32 = l.cluster.iter().product();
    if let Some(want) = entry.req_cluster.filter(|want| *want != l.cluster) {
        return Err(format!(
            "cluster {:?}, the kernel was compiled for {want:?}",
            l.cluster
        ));
    }
    if entry.explicit_cluster && !l.explicit_cluster {
        return Err(String::from("the kernel must be launched with a cluster"));
    }
    if size == 1 {
        return Ok(());
    }
    let most = entry.max_cluster.unwrap_or(LARGEST_CLUSTER);
    if l.device.cc() < 90 || size == 0 || size > most {
        return Err(format!(
            "a cluster of {size} blocks on {}, at most {most}",
            l.device.name
        ));
    }
    if (0..3).any(|axis| !l.grid[axis].is_multiple_of(l.cluster[axis])) {
        return Err(format!(
            "a cluster of {:?} does not divide the grid {:?}",
            l.cluster, l.grid
        ));
    }
    let warps = threads.div_ceil(32);
    if (warps + warps.div_ceil(4)) * size > MAX_READERS as u32 {
        return Err(format!(
            "a cluster of {size} blocks with {warps} warps each is more than the emulator follows"
        ));
    }
    Ok(())
}
