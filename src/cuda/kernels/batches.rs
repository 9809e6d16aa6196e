//! Products of one shape at equal distances in memory.

use crate::cuda::runtime::Region;
use crate::error::{Error, Result};

/// How many products a call computes, and the elements from one's operands to the next's; 0 shares an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batches {
    /// Number of products.
    pub count: usize,
    /// Between left operands.
    pub a: usize,
    /// Between weights.
    pub w: usize,
    /// Between outputs, which must not overlap: apart, or with rows in turn.
    pub output: usize,
    /// Between residuals.
    pub residual: usize,
    /// Between the first row's scale (and zero point) of one product and the next.
    pub rows: usize,
    /// Between the first column's scale, sum and bias of one product and the next.
    pub cols: usize,
}

impl Batches {
    /// A single product.
    pub const ONE: Batches = Batches {
        count: 1,
        a: 0,
        w: 0,
        output: 0,
        residual: 0,
        rows: 0,
        cols: 0,
    };

    /// Elements that `count` vectors of `len` span, `stride` apart.
    pub(super) fn span(&self, len: usize, stride: usize) -> Result<usize> {
        let last = self.count.saturating_sub(1).checked_mul(stride);
        let span = last.and_then(|last| last.checked_add(len));
        span.ok_or_else(|| Error::Value {
            what: "the batch's stride",
            found: stride.to_string(),
            expected: "one whose last product the address space holds".into(),
        })
    }

    /// Checks that the last matrix of the batch lies in the slice.
    pub(super) fn check(
        &self,
        what: &'static str,
        matrix: &Region<'_>,
        stride: usize,
    ) -> Result<()> {
        if matrix.rows == 0 || matrix.cols == 0 || self.count <= 1 {
            return Ok(());
        }
        let one = (matrix.rows - 1)
            .checked_mul(matrix.stride)
            .and_then(|last| last.checked_add(matrix.cols));
        match self.span(one.unwrap_or(usize::MAX), stride)? {
            expected if expected <= matrix.len => Ok(()),
            expected => Err(Error::Length {
                what,
                found: matrix.len,
                expected,
            }),
        }
    }

    /// Refuses outputs that overlap.
    pub(super) fn check_apart(&self, matrix: &Region<'_>) -> Result<()> {
        if matrix.rows == 0 || matrix.cols == 0 || self.count <= 1 {
            return Ok(());
        }
        let one = (matrix.rows - 1) * matrix.stride + matrix.cols;
        let in_turn = self.output >= matrix.cols
            && (matrix.rows == 1 || self.span(matrix.cols, self.output)? <= matrix.stride);
        if self.output >= one || in_turn {
            return Ok(());
        }
        Err(Error::Value {
            what: "the output's batch stride",
            found: self.output.to_string(),
            expected: format!(
                "at least the {one} elements of one product, or rows {} apart that hold a row of each",
                self.count * matrix.cols
            ),
        })
    }
}

impl Default for Batches {
    fn default() -> Self {
        Self::ONE
    }
}
