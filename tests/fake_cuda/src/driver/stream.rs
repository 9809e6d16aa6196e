//! Streams. Work runs when it is enqueued; two threads on one stream take turns.
use std::sync::{Arc, Mutex};

use super::abi::{Host, Out};
use super::capture::{self, Branch};
use super::state::lock;
use super::status::{Result, Status};
use super::work::{submit, Work};
use super::{at_end, in_context};

/// Streams have priorities from 0 down to this.
pub const GREATEST_PRIORITY: i32 = -5;
const NON_BLOCKING: u32 = 1;

/// A stream.
pub struct Stream {
    flags: u32,
    priority: i32,
    is_legacy: bool,
    order: Mutex<()>,
    /// Its part in a capture under way.
    pub branch: Mutex<Option<Branch>>,
}

impl Stream {
    /// A stream with the flags of `cuStreamCreate`.
    pub fn new(flags: u32, priority: i32) -> Self {
        Stream {
            flags,
            priority,
            is_legacy: false,
            order: Mutex::new(()),
            branch: Mutex::new(None),
        }
    }

    /// The stream that all blocking streams wait for.
    pub fn legacy() -> Self {
        Stream {
            is_legacy: true,
            ..Stream::new(0, 0)
        }
    }

    /// Whether this is the stream of handle 0.
    pub fn is_legacy(&self) -> bool {
        self.is_legacy
    }

    /// Whether it waits for the legacy stream, and that for it.
    pub fn is_blocking(&self) -> bool {
        self.flags & NON_BLOCKING == 0
    }

    /// Runs something after everything before it.
    pub fn in_order<T>(&self, work: impl FnOnce() -> T) -> T {
        let _turn = lock(&self.order);
        work()
    }
}

fn create(out: Out<usize>, flags: u32, priority: i32, driver: &super::state::Driver) -> Result {
    if flags & !NON_BLOCKING != 0 {
        return Err(Status::INVALID_VALUE.because(format!("stream flags {flags:#x}")));
    }
    let priority = priority.clamp(GREATEST_PRIORITY, 0);
    out.set(driver.streams.insert(Stream::new(flags, priority)))
}

#[no_mangle]
extern "C" fn cuStreamCreate(out: Out<usize>, flags: u32) -> Status {
    in_context("cuStreamCreate", |driver| create(out, flags, 0, driver))
}

#[no_mangle]
extern "C" fn cuStreamCreateWithPriority(out: Out<usize>, flags: u32, priority: i32) -> Status {
    in_context("cuStreamCreateWithPriority", |driver| {
        create(out, flags, priority, driver)
    })
}

#[no_mangle]
extern "C" fn cuStreamDestroy_v2(stream: usize) -> Status {
    at_end("cuStreamDestroy_v2", |driver| {
        capture::abandon(driver, &*driver.streams.remove(stream)?);
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cuStreamSynchronize(stream: usize) -> Status {
    in_context("cuStreamSynchronize", |driver| {
        let stream = driver.stream(stream)?;
        capture::forbid_on(&stream, "cuStreamSynchronize")?;
        stream.in_order(|| ());
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cuStreamQuery(stream: usize) -> Status {
    in_context("cuStreamQuery", |driver| {
        capture::forbid_on(&*driver.stream(stream)?, "cuStreamQuery")
    })
}

#[no_mangle]
extern "C" fn cuStreamGetFlags(stream: usize, out: Out<u32>) -> Status {
    in_context("cuStreamGetFlags", |driver| {
        out.set(driver.stream(stream)?.flags)
    })
}

#[no_mangle]
extern "C" fn cuStreamGetPriority(stream: usize, out: Out<i32>) -> Status {
    in_context("cuStreamGetPriority", |driver| {
        out.set(driver.stream(stream)?.priority)
    })
}

#[no_mangle]
extern "C" fn cuStreamGetCtx(stream: usize, out: Out<usize>) -> Status {
    in_context("cuStreamGetCtx", |driver| {
        driver.stream(stream)?;
        out.set(super::context::current())
    })
}

/// The signature of a host function in a stream.
type HostFunction = extern "C" fn(Host);

#[no_mangle]
extern "C" fn cuLaunchHostFunc(
    stream: usize,
    function: Option<HostFunction>,
    argument: Host,
) -> Status {
    in_context("cuLaunchHostFunc", |driver| {
        let function = function.ok_or(Status::INVALID_VALUE)?;
        let task = Work::Task(Arc::new(move |_| {
            function(argument);
            Ok(())
        }));
        submit(driver, &driver.stream(stream)?, task)
    })
}
