//! The CUDA driver API, over one emulated device with its primary context.
//!
//! ```text
//! abi, status, handles      what crosses the C boundary; results; validated handles
//! state                     the driver: device, memory, live objects, the sticky error
//! work                      one thing a stream does: run now, or kept in a graph
//! stream, event, graph      order of work; capture
//! memory, host, pool        device and host memory
//! module, function, launch  programs
//! context, device           the rest of the API; occupancy, errors
//! stats                     what tests ask: launches, allocations, synchronisations, faults
//! ```
//!
//! Work runs when it is enqueued, in the calling thread: one legal order of many. Handles are checked
//! everywhere; a call that the emulator can't answer is refused with its reason on stderr, and a call that
//! is missing is named by the bindings ("Missing symbol cu..."). Nothing unwinds into the caller.
pub mod abi;
mod attribute;
mod capture;
mod context;
mod device;
mod errors;
mod event;
mod function;
mod graph;
pub mod handles;
mod host;
mod launch;
mod memory;
mod module;
mod occupancy;
mod pool;
pub mod state;
mod stats;
pub mod status;
mod stream;
mod tensor_map;
pub mod work;

use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};

use state::Driver;
use status::{Result, Status};

pub use context::{current_device, ready};
pub use stats::{count, note_fault, note_refusal};

/// Answers one exported call: counts it, reports a refusal, and keeps panics on this side.
pub fn call(name: &'static str, body: impl FnOnce() -> Result) -> Status {
    stats::count(name);
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::SUCCESS,
        Ok(Err(refusal)) => {
            if let Some(why) = &refusal.why {
                note_refusal(&format!("{name}: {:?}: {why}", refusal.status));
            }
            refusal.status
        }
        Err(panic) => {
            note_refusal(&format!(
                "{name}: the emulator panicked: {}",
                panic_text(&*panic)
            ));
            Status::UNKNOWN
        }
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// A call that needs `cuInit` before it.
pub fn with_driver(name: &'static str, body: impl FnOnce(&'static Driver) -> Result) -> Status {
    call(name, || body(state::driver()?))
}

/// A call that needs a current context which no fault has poisoned.
pub fn in_context(name: &'static str, body: impl FnOnce(&'static Driver) -> Result) -> Status {
    call(name, || {
        let driver = state::driver()?;
        context::check_current(driver)?;
        driver.check_poison()?;
        body(driver)
    })
}

/// A call that destroys something: done even in a poisoned context, which still answers its error.
pub fn at_end(name: &'static str, body: impl FnOnce(&'static Driver) -> Result) -> Status {
    call(name, || {
        let driver = state::driver()?;
        context::check_current(driver)?;
        body(driver)?;
        driver.check_poison()
    })
}
