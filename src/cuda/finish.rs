//! From integers to the result: our GEMM with its epilogue, or the epilogue alone behind sums that lie in memory.

use super::epilogue::{DeviceEpilogue, DeviceFloats};
use super::igemm::Igemm;
use super::igemm90::{Igemm90, TensorMaps};
use super::matrix::Matrix;
use super::module::Device;
use super::operand::{DeviceFloatView, DeviceOutput};
use super::weights::DeviceWeights;
use crate::activation::Activation;
use crate::error::Result;
use cudarc::driver::{CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut};
use std::sync::Arc;

/// Checked operands of an epilogue.
pub(super) struct Finish<'a> {
    /// One a row, or one for all.
    pub row_scales: Option<CudaView<'a, f32>>,
    pub zero_points: Option<CudaView<'a, i32>>,
    /// For the sums of their columns.
    pub weights: &'a DeviceWeights,
    /// One a column.
    pub col_scales: Option<CudaView<'a, f32>>,
    pub bias: Option<DeviceFloatView<'a>>,
    pub activation: Activation,
    pub gated: bool,
    pub residual: Option<Matrix<DeviceFloatView<'a>>>,
    pub out_scale: Option<f32>,
    /// Where the scales of an int8 result go when each row gets its own.
    pub out_scales: Option<CudaViewMut<'a, f32>>,
}

/// Which GEMM.
pub(super) enum Product<'a> {
    Sm80(Igemm),
    /// Its workspace must be zero.
    Sm90(Igemm90, &'a TensorMaps),
}

/// Calls `$call` with the output as a matrix of its own type.
macro_rules! typed {
    ($out:ident, |$matrix:ident| $call:expr) => {{
        let Matrix {
            rows, cols, stride, ..
        } = $out;
        macro_rules! with {
            ($data:expr) => {{
                let $matrix = Matrix::new($data, rows, cols).with_stride(stride);
                $call
            }};
        }
        match &mut $out.data {
            DeviceOutput::F32(data) => with!(data),
            DeviceOutput::F16(data) => with!(data),
            DeviceOutput::BF16(data) => with!(data),
            DeviceOutput::I32(data) => with!(data),
            DeviceOutput::I8(data) => with!(data),
        }
    }};
}

impl<'a> Finish<'a> {
    /// Enqueues the epilogue over sums.
    pub fn sums(
        &mut self,
        device: &Device,
        stream: &Arc<CudaStream>,
        sums: Matrix<&CudaView<'_, i32>>,
        mut out: Matrix<DeviceOutput<'_>>,
    ) -> Result<()> {
        self.epilogue(|epilogue, scales| {
            if let Some(scales) = scales {
                let mut out = integers(out);
                let out = out.by_mut();
                return device.epilogue_quantized(stream, sums, out, scales, epilogue);
            }
            typed!(out, |matrix| device
                .epilogue(stream, sums, matrix, epilogue))
        })
    }

    /// Enqueues the product of integers with its epilogue.
    #[allow(clippy::too_many_arguments)]
    pub fn product(
        &mut self,
        device: &Device,
        stream: &Arc<CudaStream>,
        by: Product<'_>,
        a: Matrix<&CudaView<'_, i8>>,
        w: Matrix<&CudaView<'_, i8>>,
        mut out: Matrix<DeviceOutput<'_>>,
        workspace: Option<&mut CudaViewMut<'_, i32>>,
    ) -> Result<()> {
        self.epilogue(|epilogue, scales| match by {
            Product::Sm80(igemm) if scales.is_some() => {
                let (scales, workspace) = (scales.expect("just seen"), workspace.expect("planned"));
                let mut out = integers(out);
                device.igemm_quantized_in(
                    stream,
                    igemm,
                    a,
                    w,
                    out.by_mut(),
                    scales,
                    epilogue,
                    workspace,
                )
            }
            Product::Sm90(igemm, maps) if scales.is_some() => {
                // The sums first, whole; what they are added up in lies behind them.
                let (scales, workspace) = (scales.expect("just seen"), workspace.expect("planned"));
                let (m, n) = (a.rows, w.rows);
                let (mut sums, mut rest) = workspace.split_at_mut(sums_before(m, n));
                let mut partial = rest.slice_mut(..igemm.workspace(m, n));
                let partial =
                    (igemm.splits > 1).then_some(&mut partial as &mut dyn DevicePtrMut<i32>);
                let raw = DeviceEpilogue::default();
                let place = Matrix::new(&mut sums, m, n);
                device.igemm90(stream, igemm, maps, a, w, place, &raw, partial)?;
                let sums = sums.as_view();
                let sums = Matrix::new(&sums, m, n);
                device.epilogue_quantized(stream, sums, integers(out).by_mut(), scales, epilogue)
            }
            Product::Sm80(igemm) => typed!(out, |matrix| device
                .igemm_in(stream, igemm, a, w, matrix, epilogue, workspace)),
            Product::Sm90(igemm, maps) => {
                let workspace = workspace.map(|w| w as &mut dyn DevicePtrMut<i32>);
                typed!(out, |matrix| device.igemm90(
                    stream, igemm, maps, a, w, matrix, epilogue, workspace
                ))
            }
        })
    }

    fn epilogue<R>(
        &mut self,
        f: impl FnOnce(&DeviceEpilogue<'_>, Option<&mut CudaViewMut<'a, f32>>) -> R,
    ) -> R {
        let col_sums = self.weights.col_sums();
        let epilogue = DeviceEpilogue {
            row_scales: scales(&self.row_scales),
            col_scales: scales(&self.col_scales),
            row_zero_points: self.zero_points.as_ref().map(|z| z as &dyn DevicePtr<i32>),
            col_sums: self
                .zero_points
                .as_ref()
                .map(|_| &col_sums as &dyn DevicePtr<i32>),
            bias: self.bias.as_ref().map(floats),
            activation: self.activation,
            gated: self.gated,
            residual: self.residual.as_ref().map(|r| r.over(floats(&r.data))),
            out_scale: self.out_scale,
        };
        f(&epilogue, self.out_scales.as_mut())
    }
}

/// int32 elements before those that igemm_sm90 adds sums up in, when whole sums are needed: the next part is aligned.
pub(super) fn sums_before(m: usize, n: usize) -> usize {
    (m * n).next_multiple_of(64)
}

/// The output of a plan whose rows get scales of their own.
fn integers<'a>(out: Matrix<DeviceOutput<'a>>) -> Matrix<CudaViewMut<'a, i8>> {
    out.map(|out| match out {
        DeviceOutput::I8(data) => data,
        _ => unreachable!("the plan was checked to have an i8 output"),
    })
}

fn scales<'a>(view: &'a Option<CudaView<'a, f32>>) -> Option<&'a dyn DevicePtr<f32>> {
    view.as_ref().map(|s| s as &dyn DevicePtr<f32>)
}

fn floats<'a>(view: &'a DeviceFloatView<'a>) -> DeviceFloats<'a> {
    match view {
        DeviceFloatView::F32(v) => DeviceFloats::F32(v),
        DeviceFloatView::F16(v) => DeviceFloats::F16(v),
        DeviceFloatView::BF16(v) => DeviceFloats::BF16(v),
    }
}
