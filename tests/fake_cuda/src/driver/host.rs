//! Page-locked host memory. What the driver allocates kernels reach at the host's address, as with unified addressing; what
//! the caller registers they don't.
use super::abi::Out;
use super::capture;
use super::state::{lock, Driver};
use super::status::{Result, Status};
use super::{at_end, in_context};

const PAGE: usize = 4096;
/// Portable (1), mapped (2, also what unified addressing implies), write-combined (4).
const ALLOC_FLAGS: u32 = 1 | 2 | 4;

/// A block of page-locked memory.
pub struct HostBlock {
    bytes: usize,
    /// Ours to free; not memory that the caller registered.
    owned: bool,
}

fn allocate(driver: &Driver, out: Out<usize>, bytes: usize) -> Result {
    capture::forbid_unsafe_call(driver, "cuMemHostAlloc")?;
    if bytes == 0 || bytes > isize::MAX as usize {
        return Err(Status::INVALID_VALUE.because(format!("{bytes} bytes of host memory")));
    }
    let bytes = bytes.next_multiple_of(PAGE);
    let address = driver.memory.map_host(bytes as u64, PAGE as u64)? as usize;
    let owned = true;
    lock(&driver.host_blocks).insert(address, HostBlock { bytes, owned });
    out.set(address)
}

#[no_mangle]
extern "C" fn cuMemHostAlloc(out: Out<usize>, bytes: usize, flags: u32) -> Status {
    in_context("cuMemHostAlloc", |driver| {
        if flags & !ALLOC_FLAGS != 0 {
            return Err(Status::INVALID_VALUE.because(format!("flags {flags:#x}")));
        }
        allocate(driver, out, bytes)
    })
}

#[no_mangle]
extern "C" fn cuMemAllocHost_v2(out: Out<usize>, bytes: usize) -> Status {
    in_context("cuMemAllocHost_v2", |driver| allocate(driver, out, bytes))
}

#[no_mangle]
extern "C" fn cuMemFreeHost(address: usize) -> Status {
    at_end("cuMemFreeHost", |driver| {
        let mut blocks = lock(&driver.host_blocks);
        if blocks.get(&address).is_none_or(|b| !b.owned) {
            return Err(Status::INVALID_VALUE
                .because(format!("{address:#x} is no block of cuMemHostAlloc")));
        }
        driver.memory.unmap_host(address as u64)?;
        blocks.remove(&address);
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cuMemHostRegister_v2(address: usize, bytes: usize, _flags: u32) -> Status {
    in_context("cuMemHostRegister_v2", |driver| {
        if address == 0 || bytes == 0 {
            return Err(Status::INVALID_VALUE.into());
        }
        let mut blocks = lock(&driver.host_blocks);
        let end = address.saturating_add(bytes);
        if blocks
            .iter()
            .any(|(start, b)| *start < end && address < start + b.bytes)
        {
            return Err(Status::HOST_MEMORY_ALREADY_REGISTERED.into());
        }
        let owned = false;
        blocks.insert(address, HostBlock { bytes, owned });
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cuMemHostUnregister(address: usize) -> Status {
    at_end("cuMemHostUnregister", |driver| {
        let mut blocks = lock(&driver.host_blocks);
        if blocks.get(&address).is_none_or(|b| b.owned) {
            return Err(Status::HOST_MEMORY_NOT_REGISTERED.into());
        }
        blocks.remove(&address);
        Ok(())
    })
}
