//! What repeated runs take on a stream, by the device's own events.
//!
//! ```text
//!   run, run, .. run  captured once: a graph            the host launches it in microseconds
//!   graph | event | graph graph .. graph | event        the first keeps the device busy while the host enqueues the rest
//! ```
//!
//! An event that is recorded on an idle stream has its time before the host has launched anything: what is then measured
//! is the host. So one untimed round goes ahead of the first event, and as many rounds as take a millisecond stand between
//! the two.

use super::device::Device;
use super::errors::driver;
use crate::error::{Error, Result};
use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream};
use std::sync::Arc;

/// How long to measure.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Sampling {
    /// Samples are taken until they add up to this many seconds,
    pub seconds: f64,
    /// but at least so many
    pub least: usize,
    /// and at most so many.
    pub most: usize,
    /// Seconds that one sample takes at least: the events' resolution does not show in it.
    pub sample: f64,
}

impl Sampling {
    /// So many seconds of samples of a millisecond, seven at least.
    pub const fn seconds(seconds: f64) -> Self {
        Sampling {
            seconds,
            least: 7,
            most: 10_000,
            sample: 1e-3,
        }
    }
}

/// What one run took, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RunTime {
    /// The median of the samples.
    pub median: f64,
    /// The fastest sample.
    pub min: f64,
    /// How many samples.
    pub samples: usize,
}

/// Times `runs` calls of `run`, captured in one graph that is launched again and again; `run(i)` enqueues the i-th on the
/// stream. Rotate operands by `i`, so that no run finds its own in the L2 cache.
///
/// The stream's context must not track events (`CudaContext::disable_event_tracking`) since before the buffers were made:
/// a capture can't wait for events from outside. `run(0)` is called once more before, uncaptured: libraries load their
/// kernels at their first use.
///
/// # Errors
/// Those of `run`, and [`Error::Cuda`] where the driver refuses a call; [`Error::Value`] when nothing was enqueued.
pub fn time_graph<E: From<Error>>(
    stream: &Arc<CudaStream>,
    runs: usize,
    sampling: Sampling,
    mut run: impl FnMut(usize) -> std::result::Result<(), E>,
) -> std::result::Result<RunTime, E> {
    run(0)?;
    stream
        .synchronize()
        .map_err(driver("cuStreamSynchronize"))?;
    let graph = captured(stream, runs, &mut run)?;
    let launch = || Ok(graph.launch().map_err(driver("cuGraphLaunch"))?);
    time_rounds(stream, runs, sampling, launch)
}

/// Times `runs` calls of `run` as the host launches them: for what can't be captured, such as calls that allocate. Where the
/// host is slower than the device, this is the host's time.
///
/// # Errors
/// As [`time_graph`].
pub fn time_launches<E: From<Error>>(
    stream: &Arc<CudaStream>,
    runs: usize,
    sampling: Sampling,
    mut run: impl FnMut(usize) -> std::result::Result<(), E>,
) -> std::result::Result<RunTime, E> {
    time_rounds(stream, runs, sampling, || (0..runs).try_for_each(&mut run))
}

fn captured<E: From<Error>>(
    stream: &Arc<CudaStream>,
    runs: usize,
    run: &mut impl FnMut(usize) -> std::result::Result<(), E>,
) -> std::result::Result<CudaGraph, E> {
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream
        .begin_capture(mode)
        .map_err(driver("cuStreamBeginCapture"))?;
    let enqueued = (0..runs).try_for_each(run);
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    // Ended in any case: a stream that captures is of no other use.
    let graph = stream.end_capture(flags);
    enqueued?;
    let graph = graph.map_err(driver("cuStreamEndCapture"))?;
    Ok(graph.ok_or_else(|| Error::Value {
        what: "the runs to be timed",
        found: "nothing enqueued on the stream".into(),
        expected: "work that can be captured".into(),
    })?)
}

/// The times of a run, each `round` being so many.
fn time_rounds<E: From<Error>>(
    stream: &Arc<CudaStream>,
    runs: usize,
    sampling: Sampling,
    mut round: impl FnMut() -> std::result::Result<(), E>,
) -> std::result::Result<RunTime, E> {
    let event = || {
        stream
            .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
            .map_err(driver("cuEventRecord"))
    };
    let mut time = |rounds: usize| -> std::result::Result<f64, E> {
        round()?;
        let start = event()?;
        (0..rounds).try_for_each(|_| round())?;
        let end = event()?;
        let ms = start
            .elapsed_ms(&end)
            .map_err(driver("cuEventElapsedTime"))?;
        Ok(f64::from(ms) * 1e-3)
    };
    let once = time(1)?.max(1e-7);
    let rounds = (sampling.sample / once).ceil().clamp(1.0, 1e4) as usize;
    let least = sampling.least.max(1);
    let (mut samples, mut spent) = (Vec::new(), 0.0);
    while samples.len() < least || (spent < sampling.seconds && samples.len() < sampling.most) {
        let sample = time(rounds)?;
        spent += sample.max(1e-6);
        samples.push(sample / (rounds * runs.max(1)) as f64);
    }
    samples.sort_by(f64::total_cmp);
    Ok(RunTime {
        median: samples[samples.len() / 2],
        min: samples[0],
        samples: samples.len(),
    })
}

impl Device {
    /// A stream for measurements, in the device's context: memory made on it has no events, whatever the caller's handle of
    /// the context does, so that its work can be captured.
    ///
    /// # Errors
    /// [`Error::Unavailable`] in a context that is not the device's primary one and tracks events.
    pub(in crate::cuda) fn untracked_stream(&self) -> Result<Arc<CudaStream>> {
        // Another handle of the primary context, with a switch of its own.
        let own = CudaContext::new(self.context().ordinal())
            .map_err(driver("cuDevicePrimaryCtxRetain"))?;
        if own.cu_ctx() == self.context().cu_ctx() {
            // SAFETY: whoever asks for this stream uses what it makes on this stream alone.
            unsafe { own.disable_event_tracking() };
            return own.new_stream().map_err(driver("cuStreamCreate"));
        }
        self.context()
            .bind_to_thread()
            .map_err(driver("cuCtxSetCurrent"))?;
        if self.context().is_event_tracking() {
            return Err(Error::Unavailable {
                what: "measuring",
                found: "in a context of its own that tracks events".into(),
                expected: "the device's primary context, or one without event tracking".into(),
            });
        }
        self.context()
            .new_stream()
            .map_err(driver("cuStreamCreate"))
    }
}
