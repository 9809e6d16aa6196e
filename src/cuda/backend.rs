//! The device behind ndarray: operands are copied in, quantised, multiplied and finished there, results copied out.

use super::launch::driver;
use super::matrix::Matrix;
use super::module::Device;
use super::operand::{DeviceElement, DeviceLhs, FloatBuffer, Operands, OutputTag};
use super::plan::Plan;
use super::spec::{Input, Spec};
use super::weights::{upload, DeviceWeights, WeightOrder};
use crate::element::{DType, FloatSlice, FloatView, OutputMut};
use crate::epilogue::{Output, Scales, ZeroPoints};
use crate::error::{Error, Result};
use crate::gemm::{Backend, Gemm, Lhs, PackedWeights, WeightScales, Weights};
use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr};
use ndarray::{ArrayView2, ArrayViewMut2};
use std::sync::Arc;

/// `[N, K]`, both padded to multiples of 16 with zeros.
const LAYOUT: &str = "cuda-n16k16-s8";

/// What packed weights hold: memory of one context.
struct Stored {
    weights: DeviceWeights,
}

impl Device {
    fn pack_view(&self, stream: &Arc<CudaStream>, weights: &Weights<'_>) -> Result<DeviceWeights> {
        match weights {
            Weights::Int8(w) => {
                let (data, order) = upload_weights(stream, w)?;
                self.pack_int8(stream, data.by_ref(), order, None)
            }
            Weights::Float(FloatView::F32(w)) => self.pack_floats(stream, w),
            Weights::Float(FloatView::F16(w)) => self.pack_floats(stream, w),
            Weights::Float(FloatView::BF16(w)) => self.pack_floats(stream, w),
            Weights::FloatGroupwise { size, .. } | Weights::Int8Groupwise { size, .. } => {
                Err(Error::Unavailable {
                    what: "weights",
                    found: format!("group-wise, {size} inputs a scale"),
                    expected: "one scale a column; cuda::GroupedLinear takes scale groups".into(),
                })
            }
        }
    }

    fn pack_floats<T: DeviceElement>(
        &self,
        stream: &Arc<CudaStream>,
        w: &ArrayView2<'_, T>,
    ) -> Result<DeviceWeights> {
        let (data, order) = upload_weights(stream, w)?;
        self.pack(stream, data.by_ref(), order)
    }

    fn product<T: OutputTag>(
        &self,
        gemm: &Gemm<'_>,
        mut out: ArrayViewMut2<'_, T>,
        dtype: DType,
        scales: Option<&mut [f32]>,
    ) -> Result<()> {
        let stream = self.stream()?;
        let (m, n, k) = gemm.mnk();
        let stored = gemm.weights.storage.downcast_ref::<Stored>();
        let here = |s: &&Stored| s.weights.data.context().cu_ctx() == self.context().cu_ctx();
        let Some(stored) = stored.filter(here) else {
            return Err(Error::PackedElsewhere {
                found: gemm.weights.layout.into(),
                expected: format!("{LAYOUT} of {}", self.properties().name),
            });
        };
        let columns = out.ncols();
        if m == 0 || (n == 0 && scales.is_none()) {
            return Ok(());
        }
        let epilogue = &gemm.epilogue;
        let plan = Plan::new(self, spec(gemm, dtype))?;

        let bias = epilogue.bias.map(|b| upload_slice(stream, b)).transpose()?;
        let residual = epilogue.residual.as_ref();
        let residual = residual.map(|r| upload_view(stream, r)).transpose()?;
        let col_scales = match epilogue.col_scales {
            Scales::None => gemm.weights.epilogue_scales(),
            given => given,
        };
        let col_scales = upload_scales(stream, col_scales, n)?;
        let row_scales = upload_scales(stream, epilogue.row_scales, m)?;
        let zero_points = match epilogue.row_zero_points {
            ZeroPoints::PerTensor(one) => Some(upload(stream, &vec![one; m])?),
            ZeroPoints::PerVector(all) => Some(upload(stream, all)?),
            ZeroPoints::None => None,
        };
        let (floats, integers);
        let lhs = match &gemm.lhs {
            Lhs::Float { data, .. } => {
                floats = upload_view(stream, data)?;
                DeviceLhs::Float(Matrix::new(floats.view(), m, k))
            }
            Lhs::Int8(data) => {
                integers = upload_rows(stream, data)?;
                DeviceLhs::Int8 {
                    data: Matrix::new(integers.slice(..m * k), m, k),
                    scales: row_scales.as_ref().map(|s| s.as_view()),
                    zero_points: zero_points.as_ref().map(|z| z.as_view()),
                }
            }
        };
        let mut result = self.fresh::<T>(stream, m * columns)?;
        let mut out_scales = self.fresh::<f32>(stream, m)?;
        let mut workspace = self.fresh::<u8>(stream, plan.workspace_bytes())?;
        let operands = Operands {
            lhs,
            weights: &stored.weights,
            col_scales: col_scales.as_ref().map(|s| s.as_view()),
            bias: bias.as_ref().map(FloatBuffer::view),
            residual: residual.as_ref().map(|r| Matrix::new(r.view(), m, columns)),
            out: Matrix::new(T::output(result.as_view_mut()), m, columns),
            out_scales: scales.is_some().then(|| out_scales.slice_mut(..m)),
        };
        plan.run(stream, operands, &mut workspace.as_view_mut())?;
        let host = download(stream, &result)?;
        for (mut row, from) in out.outer_iter_mut().zip(host.chunks_exact(columns.max(1))) {
            for (to, from) in row.iter_mut().zip(from) {
                *to = *from;
            }
        }
        if let Some(scales) = scales {
            scales.copy_from_slice(&download(stream, &out_scales)?[..m]);
        }
        Ok(())
    }
}

/// The plan of a product that came through the contract.
fn spec(gemm: &Gemm<'_>, output: DType) -> Spec {
    let (m, n, k) = gemm.mnk();
    let epilogue = &gemm.epilogue;
    let input = match &gemm.lhs {
        Lhs::Float { data, quant } => Input::Float(data.dtype(), *quant),
        Lhs::Int8(_) => Input::Int8 {
            stride: k,
            scales: !epilogue.row_scales.is_none(),
            zero_points: !epilogue.row_zero_points.is_none(),
        },
    };
    Spec {
        input,
        output,
        bias: epilogue.bias.map(|b| b.dtype()),
        activation: epilogue.activation,
        gated: epilogue.gated,
        residual: epilogue.residual.as_ref().map(|r| r.dtype()),
        out_scale: match epilogue.output {
            Output::Int8 { scale } => Some(scale),
            _ => None,
        },
        per_token_output: epilogue.output == Output::Int8PerRow,
        ..Spec::int8(m, n, k)
    }
}

impl Backend for Device {
    fn name(&self) -> String {
        format!(
            "cuda:{} ({})",
            self.context().ordinal(),
            self.properties().name
        )
    }

    fn kernel(&self, m: usize, n: usize, k: usize) -> String {
        let spec = Spec::floats(m, n, k, DType::F32, DType::F32);
        match Plan::new(self, spec) {
            Ok(plan) => plan.kernel(),
            Err(error) => format!("none: {error}"),
        }
    }

    fn pack(&self, weights: Weights<'_>) -> Result<PackedWeights> {
        let stream = self.stream()?;
        let weights = self.pack_view(stream, &weights)?;
        let scales = match &weights.scales {
            Some(scales) => WeightScales::PerColumn(download(stream, scales)?[..weights.n].into()),
            None => WeightScales::None,
        };
        let col_sums = download(stream, &weights.col_sums)?[..weights.n].into();
        Ok(PackedWeights {
            k: weights.k,
            n: weights.n,
            layout: LAYOUT,
            bytes: weights.data.len(),
            scales,
            col_sums,
            storage: Arc::new(Stored { weights }),
        })
    }

    fn gemm(&self, gemm: &Gemm<'_>, out: OutputMut<'_>) -> Result<()> {
        gemm.check_output(&out)?;
        let dtype = out.dtype();
        match out {
            OutputMut::F32(out) => self.product(gemm, out, dtype, None),
            OutputMut::F16(out) => self.product(gemm, out, dtype, None),
            OutputMut::BF16(out) => self.product(gemm, out, dtype, None),
            OutputMut::I32(out) => self.product(gemm, out, dtype, None),
            OutputMut::I8(out) => self.product(gemm, out, dtype, None),
            OutputMut::I8PerRow { data, scales } => self.product(gemm, data, dtype, Some(scales)),
        }
    }
}

/// Copies rows to the device, one after the other.
fn upload_rows<T: Copy + Default + DeviceRepr>(
    stream: &Arc<CudaStream>,
    view: &ArrayView2<'_, T>,
) -> Result<CudaSlice<T>> {
    match view.as_slice() {
        Some(slice) => upload(stream, slice),
        None => upload(stream, &view.iter().copied().collect::<Vec<_>>()),
    }
}

/// Weights `[K, N]`, copied as they lie: a layer's come turned.
fn upload_weights<T: Copy + Default + DeviceRepr>(
    stream: &Arc<CudaStream>,
    w: &ArrayView2<'_, T>,
) -> Result<(Matrix<CudaSlice<T>>, WeightOrder)> {
    let turned = w.t();
    let (order, w) = if turned.is_standard_layout() && !w.is_standard_layout() {
        (WeightOrder::Outputs, turned)
    } else {
        (WeightOrder::Inputs, w.view())
    };
    let data = upload_rows(stream, &w)?;
    Ok((Matrix::new(data, w.nrows(), w.ncols()), order))
}

fn upload_view(stream: &Arc<CudaStream>, view: &FloatView<'_>) -> Result<FloatBuffer> {
    Ok(match view {
        FloatView::F32(v) => FloatBuffer::F32(upload_rows(stream, v)?),
        FloatView::F16(v) => FloatBuffer::F16(upload_rows(stream, v)?),
        FloatView::BF16(v) => FloatBuffer::BF16(upload_rows(stream, v)?),
    })
}

fn upload_slice(stream: &Arc<CudaStream>, slice: FloatSlice<'_>) -> Result<FloatBuffer> {
    Ok(match slice {
        FloatSlice::F32(s) => FloatBuffer::F32(upload(stream, s)?),
        FloatSlice::F16(s) => FloatBuffer::F16(upload(stream, s)?),
        FloatSlice::BF16(s) => FloatBuffer::BF16(upload(stream, s)?),
    })
}

/// One scale a row or column.
fn upload_scales(
    stream: &Arc<CudaStream>,
    scales: Scales<&[f32]>,
    n: usize,
) -> Result<Option<CudaSlice<f32>>> {
    match scales {
        Scales::None => Ok(None),
        Scales::PerTensor(one) => upload(stream, &vec![one; n]).map(Some),
        Scales::PerVector(all) => upload(stream, all).map(Some),
    }
}

/// Copies to the host, and waits for the copy.
fn download<T: Copy + Default + DeviceRepr>(
    stream: &Arc<CudaStream>,
    from: &CudaSlice<T>,
) -> Result<Vec<T>> {
    let host = stream.clone_dtoh(from).map_err(driver("cuMemcpyDtoH"))?;
    stream
        .synchronize()
        .map_err(driver("cuStreamSynchronize"))?;
    Ok(host)
}
