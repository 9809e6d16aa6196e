//! Medians of repeated runs, and the fastest of a few.

use std::fmt;
use std::time::{Duration, Instant};

/// The times of one operation.
pub struct Timing {
    /// Median of the samples, in seconds.
    pub median: f64,
    /// The fastest sample.
    pub min: f64,
    /// How many samples, each of as many runs as take ten milliseconds.
    pub samples: usize,
}

/// Repeats `run` for about `seconds`, at least seven samples after a warm-up.
pub fn measure<E>(seconds: f64, mut run: impl FnMut() -> Result<(), E>) -> Result<Timing, E> {
    run()?;
    let start = Instant::now();
    run()?;
    let once = start.elapsed().as_secs_f64().max(1e-9);
    let inner = ((0.01 / once) as usize).max(1);
    let mut samples = Vec::new();
    let budget = Duration::from_secs_f64(seconds);
    let start = Instant::now();
    while samples.len() < 7 || start.elapsed() < budget {
        let sample = Instant::now();
        for _ in 0..inner {
            run()?;
        }
        samples.push(sample.elapsed().as_secs_f64() / inner as f64);
    }
    samples.sort_by(f64::total_cmp);
    Ok(Timing {
        median: samples[samples.len() / 2],
        min: samples[0],
        samples: samples.len(),
    })
}

/// Calls that are enough to be warm.
const MOST_CALLS: usize = 50;

/// The fastest of several calls.
pub struct Best {
    /// What it took.
    pub seconds: f64,
    calls: usize,
}

impl Best {
    /// Repeats what took `first` seconds for a tenth of a second at most, or not at all when once is long enough to tell.
    pub fn of<E>(first: f64, mut run: impl FnMut() -> Result<(), E>) -> Result<Self, E> {
        let mut best = Best {
            seconds: first,
            calls: 1,
        };
        let start = Instant::now();
        while first < 1.0 && best.calls < MOST_CALLS && start.elapsed().as_secs_f64() < 0.1 {
            let call = Instant::now();
            run()?;
            best.seconds = best.seconds.min(call.elapsed().as_secs_f64());
            best.calls += 1;
        }
        Ok(best)
    }
}

impl fmt::Display for Best {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ms, calls) = (self.seconds * 1e3, self.calls);
        write!(f, "{ms:.3} ms, the best of {calls}")
    }
}
