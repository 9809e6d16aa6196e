//! Weights on the device in the order that products read: `[N, K]`, K padded with zeros.

use super::epilogue::DeviceEpilogue;
use super::igemm::{self, Igemm, Limits};
use super::launch::{driver, same_context};
use super::matrix::Matrix;
use super::module::Device;
use super::operand::DeviceElement;
use crate::error::{Error, Result};
use crate::gemm::check_k;
use crate::rounding::Rounding;
use cudarc::driver::{CudaSlice, CudaStream, CudaView, DevicePtr, DeviceSlice};
use std::sync::Arc;

/// Columns of padded operands are a multiple of this: a 16-byte access.
pub(super) const PAD: usize = 16;

/// In which order a weight matrix comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightOrder {
    /// `[N, K]`: a row an output, as torch's Linear keeps it.
    Outputs,
    /// `[K, N]`: the right operand of a product.
    Inputs,
}

/// The right operand of products, packed once: int8 `[N, K]`, its scales and column sums.
#[derive(Debug)]
pub struct DeviceWeights {
    pub(super) data: CudaSlice<i8>,
    pub(super) scales: Option<CudaSlice<f32>>,
    pub(super) col_sums: CudaSlice<i32>,
    pub(super) n: usize,
    pub(super) k: usize,
}

impl DeviceWeights {
    /// The contracted dimension.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Number of outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The integers, `[N, K]` with rows [`k_padded`](Self::k_padded) apart.
    pub fn data(&self) -> CudaView<'_, i8> {
        self.data.as_view()
    }

    /// K with its padding of zeros.
    pub fn k_padded(&self) -> usize {
        self.k.next_multiple_of(PAD)
    }

    /// One scale an output, `[N]`, where there are any.
    pub fn scales(&self) -> Option<CudaView<'_, f32>> {
        self.scales.as_ref().map(|s| s.slice(..self.n))
    }

    /// The sum of each output's integers, `[N]`.
    pub fn col_sums(&self) -> CudaView<'_, i32> {
        self.col_sums.slice(..self.n)
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        let scales = self.scales.as_ref().map_or(0, |s| s.num_bytes());
        self.data.num_bytes() + scales + self.col_sums.num_bytes()
    }

    /// The same weights with other scales: one for all, or one an output.
    ///
    /// # Errors
    /// [`Error::Length`] for any other number; [`Error::Cuda`] when the driver refuses.
    pub fn with_scales(mut self, stream: &Arc<CudaStream>, scales: &[f32]) -> Result<Self> {
        same_context("the stream", self.data.context(), stream.context())?;
        self.scales = Some(upload_scales(stream, scales, self.n)?);
        Ok(self)
    }
}

/// One scale an output: the bits of one for all are the same.
fn upload_scales(stream: &Arc<CudaStream>, scales: &[f32], n: usize) -> Result<CudaSlice<f32>> {
    let copy;
    let all = match scales {
        [one] => {
            copy = vec![*one; n.max(1)];
            &copy
        }
        all if all.len() == n => all,
        other => {
            return Err(Error::Length {
                what: "weight scales",
                found: other.len(),
                expected: n,
            })
        }
    };
    upload(stream, all)
}

/// Copies to the device; nothing becomes one element, for which the driver has memory.
pub(super) fn upload<T: cudarc::driver::DeviceRepr + Default + Copy>(
    stream: &Arc<CudaStream>,
    data: &[T],
) -> Result<CudaSlice<T>> {
    let nothing = [T::default()];
    let data = if data.is_empty() { &nothing } else { data };
    stream.clone_htod(data).map_err(driver("cuMemcpyHtoD"))
}

/// Zeros on the device, at least one.
pub(super) fn zeros<T: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits>(
    stream: &Arc<CudaStream>,
    len: usize,
) -> Result<CudaSlice<T>> {
    stream.alloc_zeros(len.max(1)).map_err(driver("cuMemAlloc"))
}

impl Device {
    /// Quantises float weights, one symmetric scale an output, and packs them; enqueued on the stream.
    ///
    /// # Errors
    /// [`Error::KTooLong`] when no exact product could use them; otherwise as
    /// [`quantize_rows`](Self::quantize_rows).
    pub fn pack<T: DeviceElement>(
        &self,
        stream: &Arc<CudaStream>,
        weight: Matrix<&impl DevicePtr<T>>,
        order: WeightOrder,
    ) -> Result<DeviceWeights> {
        let (mut packed, kp) = self.empty_weights(stream, &weight, order)?;
        let (n, k) = (packed.n, packed.k);
        let mut scales = zeros::<f32>(stream, n)?;
        if n > 0 && k > 0 {
            let output = Matrix::new(&mut packed.data, n, kp);
            let mut each = scales.slice_mut(..n);
            let rounding = Rounding::NearestEven;
            match order {
                WeightOrder::Outputs => {
                    self.quantize_rows(stream, weight, output, &mut each, rounding)?;
                }
                WeightOrder::Inputs => {
                    self.quantize_cols(stream, weight, output, &mut each, rounding)?;
                }
            }
        } else if n > 0 {
            // Columns of nothing are bounded by 1, as everywhere.
            scales = upload_scales(stream, &[1.0 / 127.0], n)?;
        }
        packed.scales = Some(scales);
        self.sum_columns(stream, packed)
    }

    /// Packs int8 weights; scales, if any, are given as [`DeviceWeights::with_scales`] takes them.
    ///
    /// # Errors
    /// [`Error::KTooLong`] when no exact product could use them, [`Error::Length`] for a number of scales that is
    /// neither 1 nor N; otherwise as [`quantize_rows`](Self::quantize_rows).
    pub fn pack_int8(
        &self,
        stream: &Arc<CudaStream>,
        weight: Matrix<&impl DevicePtr<i8>>,
        order: WeightOrder,
        scales: Option<&[f32]>,
    ) -> Result<DeviceWeights> {
        let (mut packed, kp) = self.empty_weights(stream, &weight, order)?;
        let (n, k) = (packed.n, packed.k);
        if let Some(scales) = scales {
            packed.scales = Some(upload_scales(stream, scales, n)?);
        }
        if n > 0 && k > 0 {
            match order {
                WeightOrder::Inputs => {
                    self.transpose_s8(stream, weight, Matrix::new(&mut packed.data, n, kp))?;
                }
                WeightOrder::Outputs => {
                    // Turned twice: the second time brings the padding.
                    let mut turned = zeros::<i8>(stream, k * n)?;
                    self.transpose_s8(stream, weight, Matrix::new(&mut turned, k, n))?;
                    let output = Matrix::new(&mut packed.data, n, kp);
                    self.transpose_s8(stream, Matrix::new(&turned, k, n), output)?;
                }
            }
        }
        self.sum_columns(stream, packed)
    }

    fn empty_weights<T, S: DeviceSlice<T>>(
        &self,
        stream: &Arc<CudaStream>,
        weight: &Matrix<&S>,
        order: WeightOrder,
    ) -> Result<(DeviceWeights, usize)> {
        same_context("the stream", self.context(), stream.context())?;
        weight.check("the weights", self, weight.data)?;
        let (n, k) = match order {
            WeightOrder::Outputs => (weight.rows, weight.cols),
            WeightOrder::Inputs => (weight.cols, weight.rows),
        };
        check_k(k, false)?;
        let kp = k.next_multiple_of(PAD);
        let bytes = n.next_multiple_of(PAD).checked_mul(kp);
        let bytes = bytes.ok_or(Error::Length {
            what: "the weights",
            found: usize::MAX,
            expected: n,
        })?;
        let packed = DeviceWeights {
            data: zeros(stream, bytes)?,
            scales: None,
            col_sums: zeros(stream, n.next_multiple_of(PAD))?,
            n,
            k,
        };
        Ok((packed, kp))
    }

    /// Multiplies with a row of ones.
    fn sum_columns(
        &self,
        stream: &Arc<CudaStream>,
        mut packed: DeviceWeights,
    ) -> Result<DeviceWeights> {
        let (np, kp) = (packed.n.next_multiple_of(PAD), packed.k_padded());
        if packed.n == 0 || packed.k == 0 {
            return Ok(packed);
        }
        let ones = upload(stream, &vec![1i8; kp])?;
        let limits = Limits::from(self.properties());
        let best = igemm::choose(1, np, kp, true, limits);
        let igemm = Igemm {
            tile: best.tile,
            splits: best.splits,
        };
        let mut workspace = zeros::<i32>(stream, igemm.workspace(1, np))?;
        self.igemm(
            stream,
            igemm,
            Matrix::new(&ones, 1, kp),
            Matrix::new(&packed.data, np, kp),
            Matrix::new(&mut packed.col_sums, 1, np),
            &DeviceEpilogue::default(),
            Some(&mut workspace),
        )?;
        Ok(packed)
    }
}
