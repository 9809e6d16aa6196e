//! Page-locked host memory. Kernels can't reach it: mapped memory is not emulated.
use std::alloc::{alloc_zeroed, dealloc, Layout};

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
    /// Ours to free; none for memory that the caller registered.
    owned: Option<Layout>,
}

fn allocate(driver: &Driver, out: Out<usize>, bytes: usize) -> Result {
    capture::forbid_unsafe_call(driver, "cuMemHostAlloc")?;
    let layout = Layout::from_size_align(bytes.next_multiple_of(PAGE), PAGE)
        .ok()
        .filter(|_| bytes > 0)
        .ok_or_else(|| Status::INVALID_VALUE.because(format!("{bytes} bytes of host memory")))?;
    // SAFETY: the layout has a size above zero.
    let address = unsafe { alloc_zeroed(layout) } as usize;
    if address == 0 {
        return Err(Status::OUT_OF_MEMORY.because(format!("{bytes} bytes of host memory")));
    }
    let owned = Some(layout);
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
        let Some(HostBlock {
            owned: Some(layout),
            ..
        }) = blocks.get(&address)
        else {
            return Err(Status::INVALID_VALUE
                .because(format!("{address:#x} is no block of cuMemHostAlloc")));
        };
        // SAFETY: `address` came from `alloc_zeroed` with this layout, and leaves the table below.
        unsafe { dealloc(address as *mut u8, *layout) };
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
        let owned = None;
        blocks.insert(address, HostBlock { bytes, owned });
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cuMemHostUnregister(address: usize) -> Status {
    at_end("cuMemHostUnregister", |driver| {
        let mut blocks = lock(&driver.host_blocks);
        if blocks.get(&address).is_none_or(|b| b.owned.is_some()) {
            return Err(Status::HOST_MEMORY_NOT_REGISTERED.into());
        }
        blocks.remove(&address);
        Ok(())
    })
}
