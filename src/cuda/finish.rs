//! From sums to the result: the epilogue of algorithms that have none of their own.

use super::epilogue::{DeviceEpilogue, DeviceFloats};
use super::matrix::Matrix;
use super::module::Device;
use super::operand::{DeviceFloatView, DeviceOutput};
use super::weights::DeviceWeights;
use crate::activation::Activation;
use crate::error::Result;
use cudarc::driver::{CudaStream, CudaView, DevicePtr};
use std::sync::Arc;

/// Checked operands of an epilogue.
pub(super) struct Finish<'a> {
    pub sums: Matrix<CudaView<'a, i32>>,
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

impl Finish<'_> {
    /// Enqueues it.
    pub fn run(
        &self,
        device: &Device,
        stream: &Arc<CudaStream>,
        mut out: Matrix<DeviceOutput<'_>>,
    ) -> Result<()> {
        let sums = self.sums.by_ref();
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
            residual: self.residual.as_ref().map(|r| r.over(floats(&r.data))),
            out_scale: self.out_scale,
        };
        let Matrix {
            rows, cols, stride, ..
        } = out;
        macro_rules! finish {
            ($data:expr) => {
                device.epilogue(
                    stream,
                    sums,
                    Matrix::new($data, rows, cols).with_stride(stride),
                    &epilogue,
                )
            };
        }
        match &mut out.data {
            DeviceOutput::F32(data) => finish!(data),
            DeviceOutput::F16(data) => finish!(data),
            DeviceOutput::BF16(data) => finish!(data),
            DeviceOutput::I32(data) => finish!(data),
            DeviceOutput::I8(data) => finish!(data),
        }
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
