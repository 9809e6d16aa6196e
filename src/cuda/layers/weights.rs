//! Weights on the device in the order that products read: `[N, K]`, K padded with zeros.

use crate::cuda::kernels::igemm_sm80;
use crate::cuda::kernels::{quantize_cols, quantize_rows, transpose_s8, GemmOperands, Shape};
use crate::cuda::product::{ScalesView, WeightsView, PAD};
use crate::cuda::runtime::{same_context, upload, zeros, Device, DeviceElement, Matrix};
use crate::epilogue::{Epilogue, Output};
use crate::error::{Error, Result};
use crate::gemm::check_k;
use crate::gemm::groupwise::check_groups;
use crate::rounding::Rounding;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, CudaView, DevicePtr, DeviceSlice};
use ndarray::ArrayView2;
use std::sync::Arc;

/// In which order a weight matrix comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightOrder {
    /// `[N, K]`: a row an output, as torch's Linear keeps it.
    Outputs,
    /// `[K, N]`: the right operand of a product.
    Inputs,
}

/// The right operand of products, packed once: int8 `[N, K]`, its scales and the sums of its rows.
#[derive(Debug)]
pub struct DeviceWeights {
    data: CudaSlice<i8>,
    scales: Scales,
    col_sums: CudaSlice<i32>,
    n: usize,
    k: usize,
}

#[derive(Debug)]
enum Scales {
    None,
    /// One an output.
    PerColumn(CudaSlice<f32>),
    /// `[K / size rounded up, N]`.
    PerGroup {
        scales: CudaSlice<f32>,
        size: usize,
    },
}

impl DeviceWeights {
    /// Quantises float weights on the device, one symmetric scale an output, and packs them; enqueued on the stream.
    ///
    /// # Errors
    /// [`Error::KTooLong`] when no exact product could use them; otherwise as
    /// [`quantize_rows`](crate::cuda::kernels::quantize_rows).
    pub fn pack<T: DeviceElement>(
        device: &Device,
        stream: &Arc<CudaStream>,
        weight: Matrix<&impl DevicePtr<T>>,
        order: WeightOrder,
    ) -> Result<Self> {
        let mut packed = Self::empty(device, stream, &weight, order)?;
        let (n, k, kp) = (packed.n, packed.k, packed.k_padded());
        let mut scales = zeros::<f32>(stream, n)?;
        if n > 0 && k > 0 {
            let output = Matrix::new(&mut packed.data, n, kp);
            let mut each = scales.slice_mut(..n);
            let rounding = Rounding::NearestEven;
            match order {
                WeightOrder::Outputs => {
                    quantize_rows(device, stream, weight, output, &mut each, rounding)?;
                }
                WeightOrder::Inputs => {
                    quantize_cols(device, stream, weight, output, &mut each, rounding)?;
                }
            }
        } else if n > 0 {
            // Columns of nothing are bounded by 1, as everywhere.
            scales = upload_scales(stream, &[1.0 / 127.0], n)?;
        }
        packed.scales = Scales::PerColumn(scales);
        packed.sum(device, stream)
    }

    /// Packs int8 weights; scales, if any, are given as [`with_scales`](Self::with_scales) takes them.
    ///
    /// # Errors
    /// [`Error::KTooLong`] when no exact product could use them, [`Error::Length`] for a number of scales that is
    /// neither 1 nor N; otherwise as [`quantize_rows`](crate::cuda::kernels::quantize_rows).
    pub fn pack_int8(
        device: &Device,
        stream: &Arc<CudaStream>,
        weight: Matrix<&impl DevicePtr<i8>>,
        order: WeightOrder,
        scales: Option<&[f32]>,
    ) -> Result<Self> {
        let mut packed = Self::empty(device, stream, &weight, order)?;
        let (n, k, kp) = (packed.n, packed.k, packed.k_padded());
        if let Some(scales) = scales {
            packed.scales = Scales::PerColumn(upload_scales(stream, scales, n)?);
        }
        if n > 0 && k > 0 {
            match order {
                WeightOrder::Inputs => {
                    let output = Matrix::new(&mut packed.data, n, kp);
                    transpose_s8(device, stream, weight, output)?;
                }
                WeightOrder::Outputs => {
                    // Turned twice: the second time brings the padding.
                    let mut turned = zeros::<i8>(stream, k * n)?;
                    transpose_s8(device, stream, weight, Matrix::new(&mut turned, k, n))?;
                    let output = Matrix::new(&mut packed.data, n, kp);
                    transpose_s8(device, stream, Matrix::new(&turned, k, n), output)?;
                }
            }
        }
        packed.sum(device, stream)
    }

    /// Copies int8 weights `[N, K]` whose scales `[N, K / size rounded up]` change along K, `size` (32, 64 or 128) of it a
    /// scale group.
    ///
    /// # Errors
    /// [`Error::Value`] for another size or a scale that is not finite, [`Error::Shape`] for another number of scales,
    /// [`Error::KTooLong`] when no exact product could use them; [`Error::Cuda`] where memory is short.
    pub fn groupwise(
        device: &Device,
        stream: &Arc<CudaStream>,
        weight: ArrayView2<'_, i8>,
        scales: ArrayView2<'_, f32>,
        size: usize,
    ) -> Result<Self> {
        check_groups(weight, scales, size)?;
        let (n, k) = weight.dim();
        let rows: Vec<i8> = weight.iter().copied().collect();
        let rows = upload(stream, &rows)?;
        let order = WeightOrder::Outputs;
        let packed = Self::pack_int8(device, stream, Matrix::new(&rows, n, k), order, None)?;
        let by_group: Vec<f32> = scales.t().iter().copied().collect();
        Ok(DeviceWeights {
            scales: Scales::PerGroup {
                scales: upload(stream, &by_group)?,
                size,
            },
            ..packed
        })
    }

    /// The same weights with other scales: one for all, or one an output.
    ///
    /// # Errors
    /// [`Error::Length`] for any other number; [`Error::Cuda`] when the driver refuses.
    pub fn with_scales(self, stream: &Arc<CudaStream>, scales: &[f32]) -> Result<Self> {
        same_context("the stream", self.context(), stream.context())?;
        let scales = Scales::PerColumn(upload_scales(stream, scales, self.n)?);
        Ok(DeviceWeights { scales, ..self })
    }

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
        match &self.scales {
            Scales::PerColumn(scales) => Some(scales.slice(..self.n)),
            Scales::None | Scales::PerGroup { .. } => None,
        }
    }

    /// K that shares a scale, where scales change along it.
    pub fn scale_group(&self) -> Option<usize> {
        match &self.scales {
            Scales::PerGroup { size, .. } => Some(*size),
            Scales::None | Scales::PerColumn(_) => None,
        }
    }

    /// Scales that change along K, `[K / size rounded up, N]`, and the size.
    pub(super) fn scale_groups(&self) -> Option<(&CudaSlice<f32>, usize)> {
        match &self.scales {
            Scales::PerGroup { scales, size } => Some((scales, *size)),
            Scales::None | Scales::PerColumn(_) => None,
        }
    }

    /// The sum of each output's integers, `[N]`.
    pub fn col_sums(&self) -> CudaView<'_, i32> {
        self.col_sums.slice(..self.n)
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        let scales = match &self.scales {
            Scales::None => 0,
            Scales::PerColumn(scales) | Scales::PerGroup { scales, .. } => scales.num_bytes(),
        };
        self.data.num_bytes() + scales + self.col_sums.num_bytes()
    }

    /// All of it, as the operand of a plan's run.
    pub fn view(&self) -> WeightsView<'_> {
        let data = Matrix::new((&self.data).into(), self.n, self.k);
        WeightsView {
            data: data.with_stride(self.k_padded()),
            scales: match &self.scales {
                Scales::None => ScalesView::None,
                Scales::PerColumn(scales) => ScalesView::PerColumn(scales.slice(..self.n).into()),
                Scales::PerGroup { scales, size } => ScalesView::PerGroup {
                    scales: Matrix::new(scales.into(), self.k.div_ceil(*size), self.n),
                    size: *size,
                },
            },
            col_sums: self.col_sums().into(),
        }
    }

    /// The context that they lie in.
    pub(super) fn context(&self) -> &Arc<CudaContext> {
        self.data.context()
    }

    fn empty<T, S: DeviceSlice<T>>(
        device: &Device,
        stream: &Arc<CudaStream>,
        weight: &Matrix<&S>,
        order: WeightOrder,
    ) -> Result<Self> {
        same_context("the stream", device.context(), stream.context())?;
        let weights = weight.data.stream().context();
        same_context("the weights", device.context(), weights)?;
        let (n, k) = match order {
            WeightOrder::Outputs => (weight.rows, weight.cols),
            WeightOrder::Inputs => (weight.cols, weight.rows),
        };
        check_k(k, false)?;
        let bytes = n
            .next_multiple_of(PAD)
            .checked_mul(k.next_multiple_of(PAD))
            .ok_or(Error::Length {
                what: "the weights",
                found: usize::MAX,
                expected: n,
            })?;
        Ok(DeviceWeights {
            data: zeros(stream, bytes)?,
            scales: Scales::None,
            col_sums: zeros(stream, n.next_multiple_of(PAD))?,
            n,
            k,
        })
    }

    /// Multiplies with a row of ones.
    fn sum(mut self, device: &Device, stream: &Arc<CudaStream>) -> Result<Self> {
        let (np, kp) = (self.n.next_multiple_of(PAD), self.k_padded());
        if self.n == 0 || self.k == 0 {
            return Ok(self);
        }
        let ones = upload(stream, &vec![1i8; kp])?;
        let shape = Shape::new(1, np, kp);
        let best = igemm_sm80::candidates(shape, true, device.properties());
        let instance = best.first().map_or(
            igemm_sm80::Instance::new(&igemm_sm80::TILES[0]),
            |candidate| candidate.instance,
        );
        let output = Output::Raw;
        let mut workspace = zeros::<i32>(stream, instance.workspace(1, np, output))?;
        let operands = GemmOperands::new(
            Matrix::new(ones.as_view(), 1, kp),
            Matrix::new(self.data.as_view(), np, kp),
            Matrix::new((&mut self.col_sums).into(), 1, np),
            Epilogue::to(output),
        );
        let operands = operands.with_workspace(workspace.as_view_mut());
        igemm_sm80::igemm_sm80(device, stream, instance, operands)?;
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
