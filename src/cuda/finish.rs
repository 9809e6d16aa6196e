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
    pub residual: Option<Matrix<DeviceFloatView<'a>>>,
    pub out_scale: Option<f32>,
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

impl Finish<'_> {
    /// Enqueues the epilogue over sums.
    pub fn sums(
        &self,
        device: &Device,
        stream: &Arc<CudaStream>,
        sums: Matrix<&CudaView<'_, i32>>,
        mut out: Matrix<DeviceOutput<'_>>,
    ) -> Result<()> {
        self.epilogue(|epilogue| {
            typed!(out, |matrix| device
                .epilogue(stream, sums, matrix, epilogue))
        })
    }

    /// Enqueues the product of integers with its epilogue.
    #[allow(clippy::too_many_arguments)]
    pub fn product(
        &self,
        device: &Device,
        stream: &Arc<CudaStream>,
        by: Product<'_>,
        a: Matrix<&CudaView<'_, i8>>,
        w: Matrix<&CudaView<'_, i8>>,
        mut out: Matrix<DeviceOutput<'_>>,
        workspace: Option<&mut CudaViewMut<'_, i32>>,
    ) -> Result<()> {
        self.epilogue(|epilogue| match by {
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

    fn epilogue<R>(&self, f: impl FnOnce(&DeviceEpilogue<'_>) -> R) -> R {
        let col_sums = self.weights.col_sums();
        f(&DeviceEpilogue {
            row_scales: scales(&self.row_scales),
            col_scales: scales(&self.col_scales),
            row_zero_points: self.zero_points.as_ref().map(|z| z as &dyn DevicePtr<i32>),
            col_sums: self
                .zero_points
                .as_ref()
                .map(|_| &col_sums as &dyn DevicePtr<i32>),
            bias: self.bias.as_ref().map(floats),
            activation: self.activation,
            gated: false,
            residual: self.residual.as_ref().map(|r| r.over(floats(&r.data))),
            out_scale: self.out_scale,
        })
    }
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
