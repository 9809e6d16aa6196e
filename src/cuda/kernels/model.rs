//! What the cost models of all kernels share.

use crate::cuda::runtime::Properties;
use std::fmt;

/// Rows, columns and contracted length of a product: `[m, k] x [n, k]^T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Rows of the left operand and of the result.
    pub m: usize,
    /// Rows of the weights.
    pub n: usize,
    /// The contracted dimension.
    pub k: usize,
}

impl Shape {
    /// By M, N and K.
    pub const fn new(m: usize, n: usize, k: usize) -> Self {
        Shape { m, n, k }
    }

    /// Elements of the result before pairs of columns become one.
    pub const fn outputs(&self) -> usize {
        self.m * self.n
    }
}

/// An instance of a kernel for a product, with what speaks for it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Candidate<I> {
    /// The instance, its split of K included.
    pub instance: I,
    /// Blocks, or a persistent kernel's items.
    pub blocks: usize,
    /// Rounds in which the device runs them, as a fraction.
    pub waves: f64,
    /// The model's estimate of the product in microseconds, launch and memory included.
    pub microseconds: f64,
    /// What that is made of.
    pub terms: Terms,
}

impl<I> Candidate<I> {
    /// The same of another type.
    pub(in crate::cuda) fn map<J>(self, change: impl FnOnce(I) -> J) -> Candidate<J> {
        Candidate {
            instance: change(self.instance),
            blocks: self.blocks,
            waves: self.waves,
            microseconds: self.microseconds,
            terms: self.terms,
        }
    }
}

impl<I: fmt::Display> fmt::Display for Candidate<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} blocks, {:.2} waves, {:.1} us by the model",
            self.instance, self.blocks, self.waves, self.microseconds
        )
    }
}

/// Microseconds from a launch to the first multiply-add, and what one more kernel behind it takes.
pub(super) const LAUNCH: f64 = 2.9;
pub(in crate::cuda) const NEXT_LAUNCH: f64 = 1.5;

/// Of the bandwidth by clocks and width, what large copies reach: 4.3 of an H200's 4.8 TB/s.
const REACHED: f64 = 0.9;
/// Of the highest clock, what the multiprocessors hold when all of them multiply.
const UNDER_LOAD: f64 = 0.86;

/// Bytes a microsecond that copies reach, by the device's properties; an A100's where the driver does not say.
pub(in crate::cuda) fn memory(device: &Properties) -> f64 {
    let most = match device.bandwidth {
        0 => 1.555e6,
        bandwidth => f64::from(bandwidth),
    };
    REACHED * most
}

/// Clocks a microsecond under load; an A100's where the driver does not say.
pub(super) fn clock(device: &Properties) -> f64 {
    let most = match device.clock {
        0 => 1410.0,
        clock => f64::from(clock),
    };
    UNDER_LOAD * most
}

/// What a model says of a product, by terms, in microseconds: the parts overlap, so their sum is more than the whole.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Terms {
    /// Multiplying, finishing included, at the rates of the tensor cores, shared memory and L2.
    pub multiply: f64,
    /// Operands, results and partial sums on their way through memory.
    pub memory: f64,
    /// Launches, filling and emptying the pipeline.
    pub fixed: f64,
}

impl Terms {
    /// Neither of multiplying and memory hides behind the other altogether.
    pub(in crate::cuda) fn whole(&self) -> f64 {
        let (m, b) = (self.multiply, self.memory);
        m.max(b) + 0.1 * m.min(b) + self.fixed
    }
}

/// `NAME`, or `NAME/SPLITS`: how an instance's tile and split are written after the kernel's name.
pub(super) fn split_name(text: &str) -> Option<(&str, usize)> {
    match text.split_once('/') {
        Some((name, splits)) => Some((name, splits.parse().ok().filter(|s| *s >= 1)?)),
        None => Some((text, 1)),
    }
}

/// Writes a tile's name and its split the same way.
pub(super) fn write_name(f: &mut fmt::Formatter<'_>, name: &str, splits: usize) -> fmt::Result {
    f.write_str(name)?;
    match splits {
        1 => Ok(()),
        splits => write!(f, "/{splits}"),
    }
}
