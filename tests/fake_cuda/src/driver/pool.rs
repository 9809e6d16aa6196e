//! Memory pools: their attributes are kept, and all share the device's memory.
use std::collections::HashMap;
use std::sync::Mutex;

use super::abi::{Host, Out};
use super::memory::{allocate, forbid_in_graph};
use super::state::{lock, Driver};
use super::status::{Result, Status};
use super::{in_context, with_driver};

const RELEASE_THRESHOLD: u32 = 4;
const RESERVED_CURRENT: u32 = 5;
const RESERVED_HIGH: u32 = 6;
const USED_CURRENT: u32 = 7;
const USED_HIGH: u32 = 8;

/// A pool's settings, by attribute.
#[derive(Default)]
pub struct Pool {
    set: Mutex<HashMap<u32, u64>>,
}

fn default_pool(driver: &Driver, out: Out<usize>, device: i32) -> Result {
    match device {
        0 => out.set(driver.default_pool),
        _ => Err(Status::INVALID_DEVICE.into()),
    }
}

#[no_mangle]
extern "C" fn cuDeviceGetDefaultMemPool(out: Out<usize>, device: i32) -> Status {
    with_driver("cuDeviceGetDefaultMemPool", |driver| {
        default_pool(driver, out, device)
    })
}

#[no_mangle]
extern "C" fn cuDeviceGetMemPool(out: Out<usize>, device: i32) -> Status {
    with_driver("cuDeviceGetMemPool", |driver| {
        default_pool(driver, out, device)
    })
}

#[no_mangle]
extern "C" fn cuMemPoolSetAttribute(pool: usize, which: u32, value: Host) -> Status {
    with_driver("cuMemPoolSetAttribute", |driver| {
        let pool = driver.pools.get(pool)?;
        let value = match which {
            1..=3 => value.number::<4>()?,
            RELEASE_THRESHOLD => value.number::<8>()?,
            RESERVED_HIGH | USED_HIGH => match value.number::<8>()? {
                0 => 0,
                _ => return Err(Status::INVALID_VALUE.because("a high mark can be set to 0 only")),
            },
            _ => return Err(Status::INVALID_VALUE.because(format!("pool attribute {which}"))),
        };
        lock(&pool.set).insert(which, value);
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cuMemPoolGetAttribute(pool: usize, which: u32, out: Host) -> Status {
    with_driver("cuMemPoolGetAttribute", |driver| {
        let pool = driver.pools.get(pool)?;
        let kept = lock(&pool.set).get(&which).copied();
        match which {
            1..=3 => out.write(&(kept.unwrap_or(1) as u32).to_le_bytes()),
            RELEASE_THRESHOLD => out.write(&kept.unwrap_or(0).to_le_bytes()),
            RESERVED_CURRENT | RESERVED_HIGH | USED_CURRENT | USED_HIGH => {
                out.write(&driver.memory.used().to_le_bytes())
            }
            _ => Err(Status::INVALID_VALUE.because(format!("pool attribute {which}"))),
        }
    })
}

#[no_mangle]
extern "C" fn cuMemPoolTrimTo(pool: usize, _keep: usize) -> Status {
    with_driver("cuMemPoolTrimTo", |driver| {
        driver.pools.get(pool).map(|_| ())
    })
}

#[no_mangle]
extern "C" fn cuMemAllocFromPoolAsync(
    out: Out<u64>,
    bytes: usize,
    pool: usize,
    stream: usize,
) -> Status {
    in_context("cuMemAllocFromPoolAsync", |driver| {
        driver.pools.get(pool)?;
        forbid_in_graph(
            driver,
            stream,
            "cuMemAllocFromPoolAsync (graph memory, not emulated)",
        )?;
        allocate(driver, out, bytes)
    })
}
