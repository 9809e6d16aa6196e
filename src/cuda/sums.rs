//! The exact int32 sums of a product: whichever algorithm serves.

use super::cublaslt::{LtProduct, LtResult, LtShape};
use super::launch::driver;
use super::module::Device;
use crate::error::{Error, Result};
use cudarc::driver::{CudaStream, CudaView, CudaViewMut};
use std::fmt;
use std::sync::Arc;

/// `[M, N] = [M, K] x [N, K]^T`, ready to be enqueued.
#[derive(Debug, Clone)]
pub(super) enum Sums {
    /// K is 0: zeros.
    Nothing,
    /// The library's candidate of this number.
    CublasLt(Arc<LtProduct>, usize),
}

impl Sums {
    pub fn cublaslt(
        device: &Device,
        [m, n, k]: [usize; 3],
        ld: [usize; 3],
        candidate: usize,
    ) -> Result<Self> {
        if k == 0 {
            return Ok(Sums::Nothing);
        }
        let shape = LtShape {
            ld,
            ..LtShape::new(m, n, k)
        };
        let product = device.cublaslt()?.product(shape)?;
        let count = product.candidates().len();
        if candidate >= count {
            return Err(Error::Unavailable {
                what: "cuBLASLt candidate",
                found: candidate.to_string(),
                expected: format!("there are {count}, counted from 0"),
            });
        }
        Ok(Sums::CublasLt(product, candidate))
    }

    /// How many the library offers.
    pub fn candidates(&self) -> usize {
        match self {
            Sums::Nothing => 0,
            Sums::CublasLt(product, _) => product.candidates().len(),
        }
    }

    /// Bytes that a run needs.
    pub fn workspace_bytes(&self) -> usize {
        match self {
            Sums::Nothing => 0,
            Sums::CublasLt(product, candidate) => {
                product.candidates()[*candidate].workspace_bytes()
            }
        }
    }

    pub fn run(
        &self,
        stream: &Arc<CudaStream>,
        a: &CudaView<'_, i8>,
        w: &CudaView<'_, i8>,
        out: &mut CudaViewMut<'_, i32>,
        workspace: &mut CudaViewMut<'_, u8>,
    ) -> Result<()> {
        match self {
            Sums::Nothing => stream.memset_zeros(out).map_err(driver("cuMemsetD8")),
            Sums::CublasLt(product, candidate) => {
                let out = LtResult::I32(out);
                product.run(stream, *candidate, a, w, out, workspace)
            }
        }
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sums::Nothing => f.write_str("zeros (K is 0)"),
            Sums::CublasLt(product, candidate) => {
                let all = product.candidates();
                write!(
                    f,
                    "cuBLASLt, candidate {candidate} of {}, {:.2} waves",
                    all.len(),
                    all[*candidate].waves()
                )
            }
        }
    }
}
