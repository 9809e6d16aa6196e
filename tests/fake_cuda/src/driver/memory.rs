//! Device memory: allocations, copies, fills.
use super::abi::{Host, Out};
use super::capture;
use super::state::{lock, Driver};
use super::status::{Result, Status};
use super::work::{submit, Work};
use super::{at_end, in_context};

const MEMORYTYPE_DEVICE: u32 = 2;

/// A new allocation, entered in the books.
pub fn allocate(driver: &Driver, out: Out<u64>, bytes: usize) -> Result {
    if out.address() == 0 {
        return Err(Status::INVALID_VALUE.because("null pointer for a result"));
    }
    let address = driver.memory.alloc(bytes as u64)?;
    lock(&driver.allocations).insert(address, bytes as u64);
    // Addresses are never handed out twice, so an entry may stay.
    lock(&driver.owners).insert(address, super::context::current_device());
    lock(&driver.totals).allocated_bytes += bytes as u64;
    out.set(address)
}

/// Ends an allocation of the caller's; a module's variables are none.
fn release(driver: &Driver, address: u64) -> Result {
    if address == 0 {
        return Ok(());
    }
    if lock(&driver.allocations).remove(&address).is_none() {
        // Says whether it was freed before, or never an allocation's start.
        return match driver.memory.allocation(address) {
            Some((base, size)) => Err(Status::INVALID_VALUE.because(format!(
                "{address:#x} is inside the allocation {base:#x}+{size}, not the caller's to free"
            ))),
            None => Err(Status::INVALID_VALUE.because(format!(
                "{address:#x} is no live allocation (freed before, or never allocated)"
            ))),
        };
    }
    Ok(driver.memory.free(address)?)
}

#[no_mangle]
extern "C" fn cuMemAlloc_v2(out: Out<u64>, bytes: usize) -> Status {
    in_context("cuMemAlloc_v2", |driver| {
        capture::forbid_unsafe_call(driver, "cuMemAlloc")?;
        allocate(driver, out, bytes)
    })
}

#[no_mangle]
extern "C" fn cuMemFree_v2(address: u64) -> Status {
    at_end("cuMemFree_v2", |driver| {
        capture::forbid_unsafe_call(driver, "cuMemFree")?;
        release(driver, address)
    })
}

/// Allocation nodes of graphs are not emulated.
pub fn forbid_in_graph(driver: &Driver, stream: usize, call: &str) -> Result {
    capture::forbid_on(&*driver.stream(stream)?, call)
}

#[no_mangle]
extern "C" fn cuMemAllocAsync(out: Out<u64>, bytes: usize, stream: usize) -> Status {
    in_context("cuMemAllocAsync", |driver| {
        forbid_in_graph(
            driver,
            stream,
            "cuMemAllocAsync (graph memory, not emulated)",
        )?;
        allocate(driver, out, bytes)
    })
}

#[no_mangle]
extern "C" fn cuMemFreeAsync(address: u64, stream: usize) -> Status {
    at_end("cuMemFreeAsync", |driver| {
        forbid_in_graph(
            driver,
            stream,
            "cuMemFreeAsync (graph memory, not emulated)",
        )?;
        release(driver, address)
    })
}

#[no_mangle]
extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> Status {
    in_context("cuMemGetInfo_v2", |driver| {
        let (used, all) = (driver.memory.used(), driver.memory.capacity());
        free.set((all - used) as usize)?;
        total.set(all as usize)
    })
}

#[no_mangle]
extern "C" fn cuMemGetAddressRange_v2(base: Out<u64>, size: Out<usize>, address: u64) -> Status {
    in_context("cuMemGetAddressRange_v2", |driver| {
        let (start, bytes) = driver.memory.allocation(address).ok_or(Status::NOT_FOUND)?;
        base.set_if_wanted(start);
        size.set_if_wanted(bytes as usize);
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cuPointerGetAttribute(out: Host, which: u32, address: u64) -> Status {
    in_context("cuPointerGetAttribute", |driver| {
        let (base, size) = driver.memory.allocation(address).ok_or_else(|| {
            Status::INVALID_VALUE.because(format!("{address:#x} is no device memory"))
        })?;
        match which {
            1 => out.write(&super::context::current().to_le_bytes()),
            2 => out.write(&MEMORYTYPE_DEVICE.to_le_bytes()),
            3 => out.write(&address.to_le_bytes()),
            8 => out.write(&0u32.to_le_bytes()),
            9 => out.write(&0i32.to_le_bytes()),
            11 => out.write(&base.to_le_bytes()),
            12 => out.write(&size.to_le_bytes()),
            _ => {
                Err(Status::NOT_SUPPORTED
                    .because(format!("pointer attribute {which} is not emulated")))
            }
        }
    })
}

/// Synchronous work, as on the legacy stream.
fn at_once(driver: &Driver, call: &str, work: &Work) -> Result {
    capture::forbid_unsafe_call(driver, call)?;
    driver.legacy.in_order(|| work.run(driver))
}

fn enqueue(driver: &Driver, stream: usize, work: Work) -> Result {
    submit(driver, &driver.stream(stream)?, work)
}

#[no_mangle]
extern "C" fn cuMemcpyHtoD_v2(to: u64, from: Host, bytes: usize) -> Status {
    in_context("cuMemcpyHtoD_v2", |driver| {
        at_once(driver, "cuMemcpyHtoD", &Work::Upload { to, from, bytes })
    })
}

#[no_mangle]
extern "C" fn cuMemcpyDtoH_v2(to: Host, from: u64, bytes: usize) -> Status {
    in_context("cuMemcpyDtoH_v2", |driver| {
        at_once(driver, "cuMemcpyDtoH", &Work::Download { to, from, bytes })
    })
}

#[no_mangle]
extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> Status {
    in_context("cuMemcpyDtoD_v2", |driver| {
        let bytes = bytes as u64;
        at_once(driver, "cuMemcpyDtoD", &Work::Copy { to, from, bytes })
    })
}

#[no_mangle]
extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: Host, bytes: usize, stream: usize) -> Status {
    in_context("cuMemcpyHtoDAsync_v2", |driver| {
        enqueue(driver, stream, Work::Upload { to, from, bytes })
    })
}

#[no_mangle]
extern "C" fn cuMemcpyDtoHAsync_v2(to: Host, from: u64, bytes: usize, stream: usize) -> Status {
    in_context("cuMemcpyDtoHAsync_v2", |driver| {
        enqueue(driver, stream, Work::Download { to, from, bytes })
    })
}

#[no_mangle]
extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) -> Status {
    in_context("cuMemcpyDtoDAsync_v2", |driver| {
        let bytes = bytes as u64;
        enqueue(driver, stream, Work::Copy { to, from, bytes })
    })
}

/// A fill, refused where the address is no multiple of the value's size.
fn fill(at: u64, value: u32, width: u64, count: usize) -> Result<Work> {
    if !at.is_multiple_of(width) {
        return Err(Status::INVALID_VALUE.because(format!("{at:#x} is not {width}-byte aligned")));
    }
    let count = count as u64;
    Ok(Work::Fill {
        at,
        value,
        width,
        count,
    })
}

#[no_mangle]
extern "C" fn cuMemsetD8_v2(at: u64, value: u8, count: usize) -> Status {
    in_context("cuMemsetD8_v2", |driver| {
        at_once(driver, "cuMemsetD8", &fill(at, value.into(), 1, count)?)
    })
}

#[no_mangle]
extern "C" fn cuMemsetD32_v2(at: u64, value: u32, count: usize) -> Status {
    in_context("cuMemsetD32_v2", |driver| {
        at_once(driver, "cuMemsetD32", &fill(at, value, 4, count)?)
    })
}

#[no_mangle]
extern "C" fn cuMemsetD8Async(at: u64, value: u8, count: usize, stream: usize) -> Status {
    in_context("cuMemsetD8Async", |driver| {
        enqueue(driver, stream, fill(at, value.into(), 1, count)?)
    })
}

#[no_mangle]
extern "C" fn cuMemsetD16Async(at: u64, value: u16, count: usize, stream: usize) -> Status {
    in_context("cuMemsetD16Async", |driver| {
        enqueue(driver, stream, fill(at, value.into(), 2, count)?)
    })
}

#[no_mangle]
extern "C" fn cuMemsetD32Async(at: u64, value: u32, count: usize, stream: usize) -> Status {
    in_context("cuMemsetD32Async", |driver| {
        enqueue(driver, stream, fill(at, value, 4, count)?)
    })
}
