//! Kernels: their limits and attributes.
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::Relaxed};
use std::sync::Arc;

use super::abi::Out;
use super::in_context;
use super::module::Module;
use super::status::{Result, Status};
use crate::device::DeviceProfile;
use crate::ptx::Entry;

const MAX_THREADS_PER_BLOCK: i32 = 0;
const SHARED_BYTES: i32 = 1;
const CONST_BYTES: i32 = 2;
const LOCAL_BYTES: i32 = 3;
const REGISTERS: i32 = 4;
const PTX_VERSION: i32 = 5;
const BINARY_VERSION: i32 = 6;
const CACHE_MODE_CA: i32 = 7;
const MAX_DYNAMIC_SHARED: i32 = 8;
const SHARED_CARVEOUT: i32 = 9;
const CLUSTER_MUST_BE_SET: i32 = 10;
const CLUSTER_WIDTH: i32 = 11;
const CLUSTER_DEPTH: i32 = 13;
const NON_PORTABLE_CLUSTER: i32 = 14;
const CLUSTER_SCHEDULING: i32 = 15;

/// Registers that a thread takes when the PTX does not say: neither few nor many.
const USUAL_REGISTERS: u32 = 64;

/// A kernel of a loaded module.
pub struct Function {
    module: Arc<Module>,
    name: String,
    /// Dynamic shared memory that a launch may ask for.
    max_dynamic_shared: AtomicU32,
    carveout: AtomicI32,
    /// Clusters of more than eight blocks may be launched.
    large_clusters: AtomicBool,
}

impl Function {
    /// The kernel of that name.
    pub fn of(module: &Arc<Module>, name: &str, device: &DeviceProfile) -> Option<Self> {
        let entry = module.linked.entry(name)?;
        let unasked = device
            .max_shared_per_block
            .saturating_sub(entry.static_shared);
        Some(Function {
            module: module.clone(),
            name: name.to_owned(),
            max_dynamic_shared: AtomicU32::new(unasked),
            carveout: AtomicI32::new(-1),
            large_clusters: AtomicBool::new(false),
        })
    }

    /// Whether it belongs to a module.
    pub fn is_of(&self, module: &Arc<Module>) -> bool {
        Arc::ptr_eq(&self.module, module)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its module.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// What was parsed.
    pub fn entry(&self) -> Result<&Entry> {
        self.module
            .linked
            .entry(&self.name)
            .ok_or_else(|| Status::INVALID_HANDLE.into())
    }

    /// Dynamic shared memory that a launch may ask for now.
    pub fn dynamic_limit(&self) -> u32 {
        self.max_dynamic_shared.load(Relaxed)
    }

    /// Blocks of a cluster that a launch may ask for now.
    pub fn largest_cluster(&self) -> u32 {
        if self.large_clusters.load(Relaxed) {
            16
        } else {
            8
        }
    }

    /// The largest block.
    pub fn max_threads(&self, device: &DeviceProfile) -> Result<u32> {
        let entry = self.entry()?;
        let compiled_for = entry.req_ntid.or(entry.max_ntid);
        Ok(compiled_for
            .map_or(device.max_threads_per_block, |n| n.iter().product())
            .min(device.max_threads_per_block))
    }

    /// Registers of a thread. PTX has no such number: what ptxas could use for the largest block, at most 128,
    /// where the kernel states its block, else a usual figure.
    pub fn registers(&self, device: &DeviceProfile) -> Result<u32> {
        let entry = self.entry()?;
        let Some(block) = entry.req_ntid.or(entry.max_ntid) else {
            return Ok(USUAL_REGISTERS);
        };
        let threads = block.iter().product::<u32>().max(1);
        Ok((device.regs_per_block / threads / 8 * 8).clamp(16, 128))
    }

    fn attribute(&self, which: i32, device: &DeviceProfile) -> Result<i32> {
        let entry = self.entry()?;
        let version = device.cc() as i32;
        Ok(match which {
            MAX_THREADS_PER_BLOCK => self.max_threads(device)? as i32,
            SHARED_BYTES => entry.static_shared as i32,
            CONST_BYTES => 0,
            LOCAL_BYTES => entry.local_bytes as i32,
            REGISTERS => self.registers(device)? as i32,
            PTX_VERSION | BINARY_VERSION => version,
            CACHE_MODE_CA => 0,
            MAX_DYNAMIC_SHARED => self.dynamic_limit() as i32,
            SHARED_CARVEOUT => self.carveout.load(Relaxed),
            CLUSTER_MUST_BE_SET => entry.explicit_cluster.into(),
            CLUSTER_WIDTH..=CLUSTER_DEPTH => {
                let axis = (which - CLUSTER_WIDTH) as usize;
                entry.req_cluster.map_or(0, |size| size[axis] as i32)
            }
            NON_PORTABLE_CLUSTER => self.large_clusters.load(Relaxed).into(),
            CLUSTER_SCHEDULING => 0,
            _ => {
                return Err(Status::INVALID_VALUE
                    .because(format!("function attribute {which} is not emulated")))
            }
        })
    }

    fn set_attribute(&self, which: i32, value: i32, device: &DeviceProfile) -> Result {
        match which {
            MAX_DYNAMIC_SHARED => {
                let entry = self.entry()?;
                let room = device
                    .max_shared_per_block_optin
                    .saturating_sub(entry.static_shared);
                let wanted = u32::try_from(value).ok().filter(|v| *v <= room);
                let wanted = wanted.ok_or_else(|| {
                    Status::INVALID_VALUE.because(format!(
                        "{}: {value} bytes of dynamic shared memory, the device has {room} beside {} static ones",
                        self.name, entry.static_shared
                    ))
                })?;
                self.max_dynamic_shared.store(wanted, Relaxed);
                Ok(())
            }
            SHARED_CARVEOUT if (-1..=100).contains(&value) => {
                self.carveout.store(value, Relaxed);
                Ok(())
            }
            NON_PORTABLE_CLUSTER if device.cc() >= 90 && (0..=1).contains(&value) => {
                self.large_clusters.store(value == 1, Relaxed);
                Ok(())
            }
            _ => Err(Status::INVALID_VALUE.because(format!(
                "function attribute {which} can't be set to {value}"
            ))),
        }
    }
}

#[no_mangle]
extern "C" fn cuFuncGetAttribute(out: Out<i32>, which: i32, function: usize) -> Status {
    in_context("cuFuncGetAttribute", |driver| {
        out.set(
            driver
                .functions
                .get(function)?
                .attribute(which, &driver.profile)?,
        )
    })
}

#[no_mangle]
extern "C" fn cuFuncSetAttribute(function: usize, which: i32, value: i32) -> Status {
    in_context("cuFuncSetAttribute", |driver| {
        driver
            .functions
            .get(function)?
            .set_attribute(which, value, &driver.profile)
    })
}

#[no_mangle]
extern "C" fn cuFuncSetCacheConfig(function: usize, _config: u32) -> Status {
    in_context("cuFuncSetCacheConfig", |driver| {
        driver.functions.get(function).map(|_| ())
    })
}

#[no_mangle]
extern "C" fn cuFuncGetParamInfo(
    function: usize,
    index: usize,
    offset: Out<usize>,
    bytes: Out<usize>,
) -> Status {
    in_context("cuFuncGetParamInfo", |driver| {
        let function = driver.functions.get(function)?;
        let param = function.entry()?.params.get(index);
        let param = param.ok_or(Status::INVALID_VALUE)?;
        offset.set(param.offset as usize)?;
        bytes.set_if_wanted(param.size as usize);
        Ok(())
    })
}
