//! The shape of a product, and the library's rules about it.

use crate::error::{Error, Result};
use crate::gemm::check_k;

/// Leading dimensions, N and K are multiples of this.
const MULTIPLE: usize = 4;
/// Addresses of matrices and strides of batches, in bytes.
pub(super) const ALIGNMENT: u64 = 16;

/// The type of a product's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LtOutput {
    /// The exact sums.
    I32,
    /// The sums times a factor, rounded to nearest even and clipped to -128..=127.
    I8,
}

/// `C[M, N] = A[M, K] x W[N, K]^T`, each matrix by rows, `batch` times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LtShape {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of C, rows of W.
    pub n: usize,
    /// Columns of A and W.
    pub k: usize,
    /// Elements between rows of A, of W and of C.
    pub ld: [usize; 3],
    /// How many products.
    pub batch: usize,
    /// Elements between matrices of A, of W and of C; not looked at where `batch` is 1.
    pub stride: [usize; 3],
    /// The type of C.
    pub output: LtOutput,
}

impl LtShape {
    /// One product of dense matrices, with int32 sums.
    pub fn new(m: usize, n: usize, k: usize) -> Self {
        LtShape {
            m,
            n,
            k,
            ld: [k, k, n],
            batch: 1,
            stride: [
                m.saturating_mul(k),
                n.saturating_mul(k),
                m.saturating_mul(n),
            ],
            output: LtOutput::I32,
        }
    }

    /// Elements that A, W and C span.
    pub(super) fn spans(&self) -> [Option<usize>; 3] {
        let sizes = [(self.m, self.k), (self.n, self.k), (self.m, self.n)];
        std::array::from_fn(|i| {
            let (rows, cols) = sizes[i];
            let last = (self.batch - 1).checked_mul(self.stride[i])?;
            let row = (rows - 1).checked_mul(self.ld[i])?;
            last.checked_add(row)?.checked_add(cols)
        })
    }

    /// Refuses what the library would, saying which rule it breaks.
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |what, found: usize, expected: String| {
            Err(Error::Value {
                what,
                found: found.to_string(),
                expected,
            })
        };
        let sizes = [
            ("M", self.m),
            ("N", self.n),
            ("K", self.k),
            ("the batch", self.batch),
        ];
        for (what, size) in sizes {
            if size == 0 || i32::try_from(size).is_err() {
                return refuse(what, size, "1..=2^31 - 1 for cuBLASLt".into());
            }
        }
        check_k(self.k, false)?;
        let lds = ["A's row stride", "W's row stride", "C's row stride"];
        for ((what, ld), least) in lds.into_iter().zip(self.ld).zip([self.k, self.k, self.n]) {
            if ld < least {
                return refuse(what, ld, format!("at least the {least} columns"));
            }
        }
        let multiples = [("N", self.n), ("K", self.k)]
            .into_iter()
            .chain(lds.into_iter().zip(self.ld));
        for (what, found) in multiples {
            if !found.is_multiple_of(MULTIPLE) {
                let rule = "a multiple of 4 for cuBLASLt: pad with zeros";
                return refuse(what, found, rule.into());
            }
        }
        if self.batch > 1 {
            let whats = ["A's batch stride", "W's batch stride", "C's batch stride"];
            for ((what, stride), bytes) in
                whats.into_iter().zip(self.stride).zip(self.element_bytes())
            {
                if !stride
                    .checked_mul(bytes)
                    .is_some_and(|b| b.is_multiple_of(ALIGNMENT as usize))
                {
                    return refuse(what, stride, format!("a multiple of {ALIGNMENT} bytes"));
                }
            }
            let c = (self.m - 1)
                .saturating_mul(self.ld[2])
                .saturating_add(self.n);
            if self.stride[2] < c {
                let rule = format!("at least the {c} elements of one result");
                return refuse("C's batch stride", self.stride[2], rule);
            }
        }
        Ok(())
    }

    fn element_bytes(&self) -> [usize; 3] {
        match self.output {
            LtOutput::I32 => [1, 1, 4],
            LtOutput::I8 => [1; 3],
        }
    }
}
