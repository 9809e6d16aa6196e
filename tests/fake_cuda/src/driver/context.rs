//! Starting, the primary context, and which context is current in a thread.
use std::cell::RefCell;

use super::abi::Out;
use super::state::{driver, initialise, lock, number_from_env, Driver};
use super::status::{Result, Status};
use super::{call, capture, in_context, with_driver};

/// Handle of the first device's one context; the others' follow.
const PRIMARY: usize = 0xC0DE_0000_0010;
/// From a context's handle to the next device's.
const APART: usize = 0x10;
/// Most devices that there may be.
pub const MOST: usize = 8;
/// CUDA 13.0.
const VERSION: i32 = 13000;

const SCHEDULING_FLAGS: u32 = 0xFF;
const STACK_SIZE: u32 = 0;
const PRINTF_FIFO_SIZE: u32 = 1;
const MALLOC_HEAP_SIZE: u32 = 2;

thread_local! {
    static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Whether this thread may use the context.
///
/// # Errors
/// None is current, or it has been released.
pub fn check_current(driver: &Driver) -> Result {
    match CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(0)) {
        0 => Err(Status::INVALID_CONTEXT.because("no context is current in this thread")),
        context if check_handle(driver, context).is_err() => {
            Err(Status::CONTEXT_IS_DESTROYED.because("the primary context was released"))
        }
        _ => Ok(()),
    }
}

/// The context that is current in this thread, which [`check_current`] found alive.
pub fn current() -> usize {
    CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(PRIMARY))
}

/// The number of its device.
pub fn current_device() -> i32 {
    ordinal(current()) as i32
}

/// The device of a context.
fn ordinal(context: usize) -> usize {
    context.wrapping_sub(PRIMARY) / APART
}

fn check_handle(driver: &Driver, context: usize) -> Result {
    let live = |references: &u32| *references > 0;
    let whole = context >= PRIMARY && (context - PRIMARY).is_multiple_of(APART);
    if !whole
        || !lock(&driver.references)
            .get(ordinal(context))
            .is_some_and(live)
    {
        return Err(Status::INVALID_CONTEXT.because(format!("{context:#x} is no live context")));
    }
    Ok(())
}

/// Its number, if there is such a device.
pub fn check_device(driver: &Driver, device: i32) -> Result<usize> {
    usize::try_from(device)
        .ok()
        .filter(|device| *device < lock(&driver.references).len())
        .ok_or_else(|| Status::INVALID_DEVICE.because(format!("there is no device {device}")))
}

#[no_mangle]
extern "C" fn cuInit(flags: u32) -> Status {
    call("cuInit", || {
        if flags != 0 {
            return Err(Status::INVALID_VALUE.because("flags must be 0"));
        }
        initialise().map(|_| ())
    })
}

#[no_mangle]
extern "C" fn cuDriverGetVersion(out: Out<i32>) -> Status {
    call("cuDriverGetVersion", || {
        let claimed = number_from_env("IMMA_FAKE_DRIVER_VERSION")
            .map_err(|e| Status::INVALID_VALUE.because(e))?;
        out.set(claimed.map_or(VERSION, |v| v as i32))
    })
}

#[no_mangle]
extern "C" fn cuDevicePrimaryCtxRetain(out: Out<usize>, device: i32) -> Status {
    with_driver("cuDevicePrimaryCtxRetain", |driver| {
        let device = check_device(driver, device)?;
        out.set(PRIMARY + device * APART)?;
        lock(&driver.references)[device] += 1;
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cuDevicePrimaryCtxRelease_v2(device: i32) -> Status {
    with_driver("cuDevicePrimaryCtxRelease_v2", |driver| {
        let device = check_device(driver, device)?;
        let mut references = lock(&driver.references);
        if references[device] == 0 {
            return Err(Status::INVALID_CONTEXT.because("released more often than retained"));
        }
        references[device] -= 1;
        // What was made in a context is in one place for all of them.
        if references.iter().all(|count| *count == 0) {
            driver.destroy_context();
        }
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cuDevicePrimaryCtxReset_v2(device: i32) -> Status {
    with_driver("cuDevicePrimaryCtxReset_v2", |driver| {
        check_device(driver, device)?;
        driver.destroy_context();
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) -> Status {
    with_driver("cuDevicePrimaryCtxGetState", |driver| {
        let device = check_device(driver, device)?;
        flags.set(0)?;
        active.set(i32::from(lock(&driver.references)[device] > 0))
    })
}

#[no_mangle]
extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) -> Status {
    with_driver("cuDevicePrimaryCtxSetFlags_v2", |driver| {
        check_device(driver, device)?;
        check_flags(flags)
    })
}

fn check_flags(flags: u32) -> Result {
    if flags & !SCHEDULING_FLAGS != 0 {
        return Err(Status::INVALID_VALUE.because(format!("context flags {flags:#x}")));
    }
    Ok(())
}

#[no_mangle]
extern "C" fn cuCtxGetCurrent(out: Out<usize>) -> Status {
    with_driver("cuCtxGetCurrent", |_| {
        out.set(CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(0)))
    })
}

#[no_mangle]
extern "C" fn cuCtxSetCurrent(context: usize) -> Status {
    with_driver("cuCtxSetCurrent", |driver| {
        if context != 0 {
            check_handle(driver, context)?;
        }
        CURRENT.with_borrow_mut(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cuCtxPushCurrent_v2(context: usize) -> Status {
    with_driver("cuCtxPushCurrent_v2", |driver| {
        check_handle(driver, context)?;
        CURRENT.with_borrow_mut(|stack| stack.push(context));
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cuCtxPopCurrent_v2(out: Out<usize>) -> Status {
    with_driver("cuCtxPopCurrent_v2", |_| {
        match CURRENT.with_borrow_mut(Vec::pop) {
            Some(context) => {
                out.set_if_wanted(context);
                Ok(())
            }
            None => Err(Status::INVALID_CONTEXT.because("no context is current in this thread")),
        }
    })
}

#[no_mangle]
extern "C" fn cuCtxGetDevice(out: Out<i32>) -> Status {
    with_driver("cuCtxGetDevice", |driver| {
        check_current(driver)?;
        out.set(ordinal(current()) as i32)
    })
}

#[no_mangle]
extern "C" fn cuCtxGetApiVersion(context: usize, out: Out<u32>) -> Status {
    with_driver("cuCtxGetApiVersion", |driver| {
        match context {
            0 => check_current(driver)?,
            _ => check_handle(driver, context)?,
        }
        out.set(3020)
    })
}

#[no_mangle]
extern "C" fn cuCtxGetFlags(out: Out<u32>) -> Status {
    in_context("cuCtxGetFlags", |_| out.set(0))
}

#[no_mangle]
extern "C" fn cuCtxSetFlags(flags: u32) -> Status {
    in_context("cuCtxSetFlags", |_| check_flags(flags))
}

#[no_mangle]
extern "C" fn cuCtxSynchronize() -> Status {
    in_context("cuCtxSynchronize", |driver| {
        capture::forbid_unsafe_call(driver, "cuCtxSynchronize")
    })
}

#[no_mangle]
extern "C" fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) -> Status {
    in_context("cuCtxGetStreamPriorityRange", |_| {
        least.set_if_wanted(0);
        greatest.set_if_wanted(super::stream::GREATEST_PRIORITY);
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cuCtxGetLimit(out: Out<usize>, limit: u32) -> Status {
    in_context("cuCtxGetLimit", |_| match limit {
        STACK_SIZE => out.set(1024),
        PRINTF_FIFO_SIZE => out.set(1 << 20),
        MALLOC_HEAP_SIZE => out.set(8 << 20),
        _ => Err(Status::UNSUPPORTED_LIMIT.because(format!("limit {limit} is not emulated"))),
    })
}

#[no_mangle]
extern "C" fn cuCtxGetCacheConfig(out: Out<u32>) -> Status {
    in_context("cuCtxGetCacheConfig", |_| out.set(0))
}

#[no_mangle]
extern "C" fn cuCtxSetCacheConfig(_config: u32) -> Status {
    in_context("cuCtxSetCacheConfig", |_| Ok(()))
}

#[no_mangle]
extern "C" fn cuProfilerStart() -> Status {
    in_context("cuProfilerStart", |_| Ok(()))
}

#[no_mangle]
extern "C" fn cuProfilerStop() -> Status {
    in_context("cuProfilerStop", |_| Ok(()))
}

/// Whether this thread could launch: for libraries on top of the driver.
///
/// # Errors
/// What a driver call would answer.
pub fn ready() -> Result<&'static Driver> {
    let driver = driver()?;
    check_current(driver)?;
    driver.check_poison()?;
    Ok(driver)
}
