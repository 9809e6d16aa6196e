//! The device behind ndarray: operands are copied in, quantised, multiplied and finished there, results copied out.

use super::weights::{DeviceWeights, WeightOrder};
use crate::cuda::product::{Algorithm, DeviceLhs, Input, Operands, Plan, Plans, Problem};
use crate::cuda::runtime::{
    download, upload, Device, DeviceElement, DeviceOutput, FloatBuffer, Matrix,
};
use crate::element::{DType, FloatSlice, FloatView, OutputMut};
use crate::epilogue::{Epilogue, Host, Output, Planned, Scales, ZeroPoints};
use crate::error::{Error, Result};
use crate::gemm::groupwise::quantize_groups;
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

fn pack(device: &Device, stream: &Arc<CudaStream>, weights: &Weights<'_>) -> Result<DeviceWeights> {
    fn floats<T: DeviceElement>(
        device: &Device,
        stream: &Arc<CudaStream>,
        w: &ArrayView2<'_, T>,
    ) -> Result<DeviceWeights> {
        let (data, order) = upload_weights(stream, w)?;
        DeviceWeights::pack(device, stream, data.by_ref(), order)
    }
    match weights {
        Weights::Int8(w) => {
            let (data, order) = upload_weights(stream, w)?;
            DeviceWeights::pack_int8(device, stream, data.by_ref(), order, None)
        }
        Weights::Float(FloatView::F32(w)) => floats(device, stream, w),
        Weights::Float(FloatView::F16(w)) => floats(device, stream, w),
        Weights::Float(FloatView::BF16(w)) => floats(device, stream, w),
        Weights::Int8Groupwise { data, scales, size } => {
            DeviceWeights::groupwise(device, stream, data.t(), scales.t(), *size)
        }
        Weights::FloatGroupwise { data, size } => match data {
            FloatView::F32(w) => groupwise(device, stream, w, *size),
            FloatView::F16(w) => groupwise(device, stream, w, *size),
            FloatView::BF16(w) => groupwise(device, stream, w, *size),
        },
    }
}

/// Quantised on the host, as the CPU's are.
fn groupwise<T: DeviceElement>(
    device: &Device,
    stream: &Arc<CudaStream>,
    w: &ArrayView2<'_, T>,
    size: usize,
) -> Result<DeviceWeights> {
    let (q, scales) = quantize_groups(w.t(), size)?;
    DeviceWeights::groupwise(device, stream, q.view(), scales.view(), size)
}

/// The parts of an epilogue on the device.
struct Parts {
    bias: Option<FloatBuffer>,
    residual: Option<FloatBuffer>,
    col_scales: Option<CudaSlice<f32>>,
    row_scales: Option<CudaSlice<f32>>,
    zero_points: Option<CudaSlice<i32>>,
}

impl Parts {
    fn upload(stream: &Arc<CudaStream>, gemm: &Gemm<'_>) -> Result<Self> {
        let (m, n, _) = gemm.mnk();
        let epilogue = &gemm.epilogue;
        let bias = epilogue.bias.map(|b| upload_slice(stream, b));
        let residual = epilogue.residual.as_ref().map(|r| upload_view(stream, r));
        let zero_points = match epilogue.row_zero_points {
            ZeroPoints::PerTensor(one) => Some(upload(stream, &vec![one; m])?),
            ZeroPoints::PerVector(all) => Some(upload(stream, all)?),
            ZeroPoints::None => None,
        };
        Ok(Parts {
            bias: bias.transpose()?,
            residual: residual.transpose()?,
            // Those that the weights were given after they were packed, too.
            col_scales: match epilogue.col_scales {
                Scales::None => upload_scales(stream, gemm.weights.epilogue_scales(), n)?,
                given => upload_scales(stream, given, n)?,
            },
            row_scales: upload_scales(stream, epilogue.row_scales, m)?,
            zero_points,
        })
    }
}

/// Runs a product whose weights lie on the device, to a place there.
fn product(
    device: &Device,
    stream: &Arc<CudaStream>,
    gemm: &Gemm<'_>,
    weights: &DeviceWeights,
    out: DeviceOutput<'_>,
) -> Result<()> {
    let (m, _, k) = gemm.mnk();
    let problem = problem(gemm, weights);
    let columns = problem.output_columns();
    let plans = device.attached(Plans::default);
    let plan = plans.get(device, problem, Algorithm::Heuristic)?;
    let parts = Parts::upload(stream, gemm)?;
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
                scales: parts.row_scales.as_ref().map(Into::into),
                zero_points: parts.zero_points.as_ref().map(Into::into),
            }
        }
    };
    let mut operands = Operands::new(lhs, weights.view(), Matrix::new(out, m, columns));
    if let Some(scales) = &parts.col_scales {
        operands = operands.with_col_scales(scales);
    }
    if let Some(bias) = &parts.bias {
        operands = operands.with_bias(bias.view());
    }
    if let Some(residual) = &parts.residual {
        operands = operands.with_residual(Matrix::new(residual.view(), m, columns));
    }
    let mut workspace = device.fresh::<u8>(stream, plan.workspace_bytes())?;
    plan.run(stream, operands, &mut workspace)
}

/// What a product that came through the contract asks for.
fn problem(gemm: &Gemm<'_>, weights: &DeviceWeights) -> Problem {
    let (m, n, k) = gemm.mnk();
    let input = match &gemm.lhs {
        Lhs::Float { data, quant } => Input::Float(data.dtype(), *quant),
        Lhs::Int8(_) => Input::int8(k),
    };
    let problem = Problem::int8(m, n, k).with_input(input);
    let mut problem = problem.with_epilogue(planned(&gemm.epilogue));
    problem.scale_group = weights.scale_group();
    problem
}

/// Which parts there are: each as a vector, since that is how they are copied.
fn planned(epilogue: &Epilogue<Host<'_>>) -> Epilogue<Planned> {
    let scales = |scales: &Scales<&[f32]>| match scales {
        Scales::None => Scales::None,
        _ => Scales::PerVector(()),
    };
    Epilogue {
        row_scales: scales(&epilogue.row_scales),
        col_scales: Scales::None,
        row_zero_points: match epilogue.row_zero_points {
            ZeroPoints::None => ZeroPoints::None,
            _ => ZeroPoints::PerVector(()),
        },
        bias: epilogue.bias.map(|b| b.dtype()),
        activation: epilogue.activation,
        gated: epilogue.gated,
        residual: epilogue.residual.as_ref().map(|r| r.dtype()),
        output: epilogue.output,
    }
}

/// Copies a matrix by rows into one of any strides.
fn copy<T: Copy>(from: &[T], mut out: ArrayViewMut2<'_, T>) {
    let columns = out.ncols().max(1);
    for (mut row, from) in out.outer_iter_mut().zip(from.chunks_exact(columns)) {
        row.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
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
        let problem = Problem::floats(m, n, k, DType::F32, DType::F32);
        match Plan::new(self, problem, Algorithm::Heuristic) {
            Ok(plan) => plan.kernel(),
            Err(error) => format!("none: {error}"),
        }
    }

    fn pack(&self, weights: Weights<'_>) -> Result<PackedWeights> {
        let stream = self.stream()?;
        let weights = pack(self, stream, &weights)?;
        let scales = match (weights.scales(), weights.scale_groups()) {
            (Some(scales), _) => WeightScales::PerColumn(download(stream, &scales)?.into()),
            (None, Some((scales, size))) => {
                let shape = (weights.k().div_ceil(size), weights.n());
                let all = download(stream, scales)?;
                let all = ArrayView2::from_shape(shape, &all[..shape.0 * shape.1]);
                WeightScales::per_group(size, all.expect("one a group and column"))
            }
            (None, None) => WeightScales::None,
        };
        let col_sums = download(stream, &weights.col_sums())?.into();
        Ok(PackedWeights {
            k: weights.k(),
            n: weights.n(),
            layout: LAYOUT,
            bytes: weights.data().len(),
            scales,
            col_sums,
            storage: Arc::new(Stored { weights }),
        })
    }

    fn gemm(&self, gemm: &Gemm<'_>, out: OutputMut<'_>) -> Result<()> {
        gemm.check_output(&out)?;
        let stored = gemm.weights.storage.downcast_ref::<Stored>();
        let here = |s: &&Stored| s.weights.context().cu_ctx() == self.context().cu_ctx();
        let Some(Stored { weights }) = stored.filter(here) else {
            return Err(Error::PackedElsewhere {
                found: gemm.weights.layout.into(),
                expected: format!("{LAYOUT} of {}", self.properties().name),
            });
        };
        let (m, n, _) = gemm.mnk();
        if m == 0 || (n == 0 && gemm.epilogue.output != Output::Int8PerRow) {
            return Ok(());
        }
        let stream = self.stream()?;
        // Runs it to new memory, and copies that to the host.
        macro_rules! by_way_of {
            ($result:ident, $out:expr, $place:expr) => {{
                let mut $result = self.fresh(stream, $out.len())?;
                product(self, stream, gemm, weights, $place)?;
                copy(&download(stream, &$result)?, $out);
            }};
        }
        match out {
            OutputMut::F32(out) => by_way_of!(result, out, (&mut result).into()),
            OutputMut::F16(out) => by_way_of!(result, out, (&mut result).into()),
            OutputMut::BF16(out) => by_way_of!(result, out, (&mut result).into()),
            OutputMut::I32(out) => by_way_of!(result, out, (&mut result).into()),
            OutputMut::I8(out) => by_way_of!(result, out, (&mut result).into()),
            OutputMut::I8PerRow { data, scales } => {
                let mut steps = self.fresh::<f32>(stream, m)?;
                by_way_of!(
                    result,
                    data,
                    DeviceOutput::I8PerRow {
                        data: result.as_view_mut(),
                        scales: steps.slice_mut(..m),
                    }
                );
                scales.copy_from_slice(&download(stream, &steps)?[..m]);
            }
        }
        Ok(())
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
