//! What the cost models of all kernels share.

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
}

impl<I> Candidate<I> {
    /// The same of another type.
    pub(in crate::cuda) fn map<J>(self, change: impl FnOnce(I) -> J) -> Candidate<J> {
        Candidate {
            instance: change(self.instance),
            blocks: self.blocks,
            waves: self.waves,
            microseconds: self.microseconds,
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

/// Bytes a microsecond to and from memory; an A100's where the driver does not say.
pub(in crate::cuda) fn memory(device: &crate::cuda::runtime::Properties) -> f64 {
    if device.bandwidth > 0 {
        f64::from(device.bandwidth)
    } else {
        1.555e6
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
