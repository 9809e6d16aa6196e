//! Events: points in a stream, with the time at which they passed.
use std::sync::Mutex;
use std::time::Instant;

use super::abi::Out;
use super::capture::{self, Moment};
use super::state::lock;
use super::status::{Result, Status};
use super::{at_end, in_context};

const DISABLE_TIMING: u32 = 2;
const KNOWN_FLAGS: u32 = 1 | DISABLE_TIMING | 4;

/// An event.
pub struct Event {
    flags: u32,
    state: Mutex<State>,
}

#[derive(Clone)]
enum State {
    Never,
    At(Instant),
    Captured(Moment),
}

impl Event {
    /// The time of a recorded event.
    fn time(&self) -> Result<Instant> {
        match &*lock(&self.state) {
            State::At(time) if self.flags & DISABLE_TIMING == 0 => Ok(*time),
            State::At(_) => {
                Err(Status::INVALID_HANDLE.because("an event made with CU_EVENT_DISABLE_TIMING"))
            }
            State::Never => Err(Status::INVALID_HANDLE.because("an event that was never recorded")),
            State::Captured(_) => Err(Status::CAPTURED_EVENT.into()),
        }
    }

    fn refuse_if_captured(&self) -> Result {
        match &*lock(&self.state) {
            State::Captured(_) => Err(Status::CAPTURED_EVENT
                .because("the event's last record was captured: there is nothing to wait for")),
            _ => Ok(()),
        }
    }
}

#[no_mangle]
extern "C" fn cuEventCreate(out: Out<usize>, flags: u32) -> Status {
    in_context("cuEventCreate", |driver| {
        if flags & !KNOWN_FLAGS != 0 {
            return Err(Status::INVALID_VALUE.because(format!("event flags {flags:#x}")));
        }
        out.set(driver.events.insert(Event {
            flags,
            state: Mutex::new(State::Never),
        }))
    })
}

#[no_mangle]
extern "C" fn cuEventDestroy_v2(event: usize) -> Status {
    at_end("cuEventDestroy_v2", |driver| {
        driver.events.remove(event).map(|_| ())
    })
}

fn record(event: usize, stream: usize) -> Result {
    let driver = super::state::driver()?;
    let (event, stream) = (driver.events.get(event)?, driver.stream(stream)?);
    let state = match capture::moment(&stream)? {
        Some(moment) => State::Captured(moment),
        None => stream.in_order(|| State::At(Instant::now())),
    };
    *lock(&event.state) = state;
    Ok(())
}

#[no_mangle]
extern "C" fn cuEventRecord(event: usize, stream: usize) -> Status {
    in_context("cuEventRecord", |_| record(event, stream))
}

#[no_mangle]
extern "C" fn cuEventRecordWithFlags(event: usize, stream: usize, _flags: u32) -> Status {
    in_context("cuEventRecordWithFlags", |_| record(event, stream))
}

#[no_mangle]
extern "C" fn cuEventQuery(event: usize) -> Status {
    in_context("cuEventQuery", |driver| {
        driver.events.get(event)?.refuse_if_captured()
    })
}

#[no_mangle]
extern "C" fn cuEventSynchronize(event: usize) -> Status {
    in_context("cuEventSynchronize", |driver| {
        driver.events.get(event)?.refuse_if_captured()
    })
}

/// Milliseconds from one event to the other.
fn elapsed(out: Out<f32>, start: usize, end: usize) -> Result {
    let driver = super::state::driver()?;
    let start = driver.events.get(start)?.time()?;
    let end = driver.events.get(end)?.time()?;
    let seconds = match end.checked_duration_since(start) {
        Some(forward) => forward.as_secs_f64(),
        None => -start.duration_since(end).as_secs_f64(),
    };
    out.set((seconds * 1e3) as f32)
}

#[no_mangle]
extern "C" fn cuEventElapsedTime(out: Out<f32>, start: usize, end: usize) -> Status {
    in_context("cuEventElapsedTime", |_| elapsed(out, start, end))
}

#[no_mangle]
extern "C" fn cuEventElapsedTime_v2(out: Out<f32>, start: usize, end: usize) -> Status {
    in_context("cuEventElapsedTime_v2", |_| elapsed(out, start, end))
}

#[no_mangle]
extern "C" fn cuStreamWaitEvent(stream: usize, event: usize, _flags: u32) -> Status {
    in_context("cuStreamWaitEvent", |driver| {
        let (stream, event) = (driver.stream(stream)?, driver.events.get(event)?);
        let state = lock(&event.state).clone();
        match state {
            State::Captured(moment) => capture::join(&stream, &moment),
            // The work before the event has run already.
            State::Never | State::At(_) => capture::forbid_outside_wait(&stream),
        }
    })
}
