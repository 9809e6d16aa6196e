//! Stream capture: work that is noted instead of done.
//!
//! A capture begins on one stream, its origin. Another stream joins by waiting for an event recorded in
//! the capture, and must be waited for by the origin before the end:
//!
//! ```text
//! origin  --A--record e--B---------wait f--end      each stream knows the nodes it comes after:
//! other         wait e--C--record f                 at the end the origin must know all of them
//! ```
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use super::abi::Out;
use super::graph::Graph;
use super::in_context;
use super::state::{lock, Driver};
use super::status::{Result, Status};
use super::stream::Stream;
use super::work::Work;

/// `CUstreamCaptureMode`: which calls are forbidden meanwhile, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Unsafe calls fail in every thread.
    Global,
    /// Unsafe calls fail in the capturing thread.
    ThreadLocal,
    /// Unsafe calls are allowed.
    Relaxed,
}

/// A capture under way.
pub struct Capture {
    mode: Mode,
    thread: ThreadId,
    invalid: AtomicBool,
    nodes: Mutex<Vec<Work>>,
    streams: Mutex<Vec<Arc<Stream>>>,
}

/// A stream's part in a capture.
pub struct Branch {
    capture: Arc<Capture>,
    is_origin: bool,
    after: BTreeSet<usize>,
}

/// A point of a capture, as an event holds it.
#[derive(Clone)]
pub struct Moment {
    capture: Arc<Capture>,
    after: BTreeSet<usize>,
}

impl Branch {
    /// Makes the capture fail at its end.
    pub fn invalidate(&self) {
        self.capture.invalid.store(true, Relaxed);
    }

    fn check(&self) -> Result {
        match self.capture.invalid.load(Relaxed) {
            true => Err(Status::STREAM_CAPTURE_INVALIDATED.into()),
            false => Ok(()),
        }
    }
}

impl Capture {
    /// Takes all its streams out of capture mode. None of their branches may be locked.
    fn release(self: &Arc<Self>, driver: &Driver) {
        let streams = std::mem::take(&mut *lock(&self.streams));
        for stream in streams {
            *lock(&stream.branch) = None;
        }
        lock(&driver.captures).retain(|c| !Arc::ptr_eq(c, self));
    }
}

/// Ends the part of a stream that is destroyed: the capture fails, at once if it began here.
pub fn abandon(driver: &Driver, stream: &Stream) {
    let Some(branch) = lock(&stream.branch).take() else {
        return;
    };
    branch.invalidate();
    if branch.is_origin {
        branch.capture.release(driver);
    }
}

/// Notes work if the stream captures; false means that the caller does it.
///
/// # Errors
/// The capture is invalid, or this stream may not work beside it.
pub fn record(driver: &Driver, stream: &Stream, work: &Work) -> Result<bool> {
    if let Some(branch) = &mut *lock(&stream.branch) {
        branch.check()?;
        let mut nodes = lock(&branch.capture.nodes);
        branch.after.insert(nodes.len());
        nodes.push(work.clone());
        return Ok(true);
    }
    if stream.is_legacy() {
        forbid_legacy(driver)?;
    }
    Ok(false)
}

/// The legacy stream would wait for every blocking stream, also for one that captures.
fn forbid_legacy(driver: &Driver) -> Result {
    let captures = lock(&driver.captures).clone();
    for capture in captures {
        if lock(&capture.streams).iter().any(|s| s.is_blocking()) {
            capture.invalid.store(true, Relaxed);
            return Err(Status::STREAM_CAPTURE_IMPLICIT
                .because("work on the legacy stream while a blocking stream captures"));
        }
    }
    Ok(())
}

/// Refuses a call that waits for a stream, if that stream captures.
///
/// # Errors
/// `CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED`, and the capture is invalid from then on.
pub fn forbid_on(stream: &Stream, call: &str) -> Result {
    match &*lock(&stream.branch) {
        None => Ok(()),
        Some(branch) => {
            branch.invalidate();
            Err(Status::STREAM_CAPTURE_UNSUPPORTED.because(format!("{call} on a capturing stream")))
        }
    }
}

/// Refuses a call that no capture in sight tolerates: one that waits for the device or allocates.
///
/// # Errors
/// `CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED`, and the captures are invalid from then on.
pub fn forbid_unsafe_call(driver: &Driver, call: &str) -> Result {
    let here = std::thread::current().id();
    let mut refused = false;
    for capture in lock(&driver.captures).iter() {
        let applies = match capture.mode {
            Mode::Global => true,
            Mode::ThreadLocal => capture.thread == here,
            Mode::Relaxed => false,
        };
        if applies {
            capture.invalid.store(true, Relaxed);
            refused = true;
        }
    }
    match refused {
        true => {
            Err(Status::STREAM_CAPTURE_UNSUPPORTED
                .because(format!("{call} while a stream captures")))
        }
        false => Ok(()),
    }
}

/// Refuses a capturing stream's wait for something outside the capture.
///
/// # Errors
/// `CUDA_ERROR_STREAM_CAPTURE_ISOLATION`, and the capture is invalid from then on.
pub fn forbid_outside_wait(stream: &Stream) -> Result {
    match &*lock(&stream.branch) {
        None => Ok(()),
        Some(branch) => {
            branch.invalidate();
            Err(Status::STREAM_CAPTURE_ISOLATION.because(
                "a capturing stream waits for an event that was not recorded in the capture",
            ))
        }
    }
}

/// Where a capturing stream is now; none if it does not capture.
///
/// # Errors
/// The capture is invalid.
pub fn moment(stream: &Stream) -> Result<Option<Moment>> {
    let branch = lock(&stream.branch);
    let Some(branch) = &*branch else {
        return Ok(None);
    };
    branch.check()?;
    Ok(Some(Moment {
        capture: branch.capture.clone(),
        after: branch.after.clone(),
    }))
}

/// Lets a stream wait for a moment of a capture, which it joins if it is in none.
///
/// # Errors
/// It is in another capture, or this one is over or invalid.
pub fn join(stream: &Arc<Stream>, moment: &Moment) -> Result {
    let mut slot = lock(&stream.branch);
    if let Some(branch) = &mut *slot {
        if !Arc::ptr_eq(&branch.capture, &moment.capture) {
            branch.invalidate();
            return Err(Status::STREAM_CAPTURE_MERGE.into());
        }
        branch.check()?;
        branch.after.extend(&moment.after);
        return Ok(());
    }
    if stream.is_legacy() {
        return Err(Status::STREAM_CAPTURE_IMPLICIT.because("the legacy stream can't capture"));
    }
    let mut streams = lock(&moment.capture.streams);
    if streams.is_empty() {
        return Err(Status::CAPTURED_EVENT.because("the event belongs to a capture that is over"));
    }
    streams.push(stream.clone());
    *slot = Some(Branch {
        capture: moment.capture.clone(),
        is_origin: false,
        after: moment.after.clone(),
    });
    Ok(())
}

#[no_mangle]
extern "C" fn cuStreamBeginCapture_v2(stream: usize, mode: u32) -> Status {
    in_context("cuStreamBeginCapture_v2", |driver| {
        let stream = driver.stream(stream)?;
        let mode = match mode {
            0 => Mode::Global,
            1 => Mode::ThreadLocal,
            2 => Mode::Relaxed,
            _ => return Err(Status::INVALID_VALUE.because(format!("capture mode {mode}"))),
        };
        if stream.is_legacy() {
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED
                .because("the legacy default stream can't be captured"));
        }
        let mut slot = lock(&stream.branch);
        if slot.is_some() {
            return Err(Status::ILLEGAL_STATE.because("the stream captures already"));
        }
        let capture = Arc::new(Capture {
            mode,
            thread: std::thread::current().id(),
            invalid: AtomicBool::new(false),
            nodes: Mutex::default(),
            streams: Mutex::new(vec![stream.clone()]),
        });
        lock(&driver.captures).push(capture.clone());
        *slot = Some(Branch {
            capture,
            is_origin: true,
            after: BTreeSet::new(),
        });
        Ok(())
    })
}

/// Ends the capture of a stream; all its streams work normally again, whatever the answer.
fn end(driver: &Driver, stream: &Stream) -> Result<Graph> {
    let slot = lock(&stream.branch);
    let Some(branch) = &*slot else {
        return Err(Status::ILLEGAL_STATE.because("the stream does not capture"));
    };
    let capture = branch.capture.clone();
    if !branch.is_origin {
        branch.invalidate();
        return Err(Status::STREAM_CAPTURE_UNMATCHED.into());
    }
    if capture.mode != Mode::Relaxed && capture.thread != std::thread::current().id() {
        return Err(Status::STREAM_CAPTURE_WRONG_THREAD.into());
    }
    let (valid, known) = (branch.check(), branch.after.len());
    drop(slot);
    capture.release(driver);
    valid?;
    let nodes = std::mem::take(&mut *lock(&capture.nodes));
    if known != nodes.len() {
        return Err(Status::STREAM_CAPTURE_UNJOINED.because(format!(
            "{} nodes on other streams that the origin does not wait for",
            nodes.len() - known
        )));
    }
    Ok(Graph::new(nodes))
}

#[no_mangle]
extern "C" fn cuStreamEndCapture(stream: usize, out: Out<usize>) -> Status {
    in_context("cuStreamEndCapture", |driver| {
        match end(driver, &*driver.stream(stream)?) {
            Ok(graph) => out.set(driver.graphs.insert(graph)),
            Err(refusal) => {
                out.set_if_wanted(0);
                Err(refusal)
            }
        }
    })
}

#[no_mangle]
extern "C" fn cuStreamIsCapturing(stream: usize, out: Out<u32>) -> Status {
    in_context("cuStreamIsCapturing", |driver| {
        let stream = driver.stream(stream)?;
        let branch = lock(&stream.branch);
        out.set(match &*branch {
            None => 0,
            Some(branch) if branch.check().is_ok() => 1,
            Some(_) => 2,
        })
    })
}
