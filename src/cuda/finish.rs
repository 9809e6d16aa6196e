//! From sums to the result: the epilogue of algorithms that have none of their own.

use super::dequantize::Dequantize;
use super::launch::driver;
use super::matrix::Matrix;
use super::module::Device;
use super::operand::{DeviceFloatView, DeviceOutput};
use crate::activation::Activation;
use crate::element::DType;
use crate::error::{Error, Result};
use cudarc::driver::{CudaStream, CudaView, DevicePtr};
use std::sync::Arc;

/// Checked operands of an epilogue.
pub(super) struct Finish<'a> {
    pub sums: Matrix<CudaView<'a, i32>>,
    /// One a row, or one for all.
    pub row_scales: Option<CudaView<'a, f32>>,
    pub zero_points: Option<CudaView<'a, i32>>,
    /// One a column.
    pub col_scales: Option<CudaView<'a, f32>>,
    pub bias: Option<DeviceFloatView<'a>>,
    pub activation: Activation,
    pub residual: Option<Matrix<DeviceFloatView<'a>>>,
}

impl Finish<'_> {
    /// Enqueues it.
    pub fn run(
        &self,
        device: &Device,
        stream: &Arc<CudaStream>,
        mut out: Matrix<DeviceOutput<'_>>,
    ) -> Result<()> {
        let more =
            self.bias.is_some() || self.residual.is_some() || self.activation != Activation::None;
        supported(out.data.dtype(), self.zero_points.is_some(), more)?;
        let sums = self.sums.by_ref();
        let how = Dequantize {
            row_scales: self.row_scales.as_ref().map(|s| s as &dyn DevicePtr<f32>),
            col_scales: self.col_scales.as_ref().map(|s| s as &dyn DevicePtr<f32>),
            ..Dequantize::default()
        };
        let Matrix {
            rows, cols, stride, ..
        } = out;
        macro_rules! dequantize {
            ($data:expr) => {
                device.dequantize(
                    stream,
                    sums,
                    Matrix::new($data, rows, cols).with_stride(stride),
                    how,
                )
            };
        }
        match &mut out.data {
            DeviceOutput::F32(data) => dequantize!(data),
            DeviceOutput::F16(data) => dequantize!(data),
            DeviceOutput::BF16(data) => dequantize!(data),
            DeviceOutput::I32(data) => {
                for r in 0..rows {
                    let row = self
                        .sums
                        .data
                        .slice(r * self.sums.stride..r * self.sums.stride + cols);
                    let mut place = data.slice_mut(r * stride..r * stride + cols);
                    stream
                        .memcpy_dtod(&row, &mut place)
                        .map_err(driver("cuMemcpyDtoD"))?;
                }
                Ok(())
            }
            DeviceOutput::I8(_) => unreachable!("refused above"),
        }
    }
}

/// Refuses what needs the epilogue kernel.
pub(super) fn supported(output: DType, zero_points: bool, more: bool) -> Result<()> {
    if !zero_points && !more && output != DType::I8 {
        return Ok(());
    }
    Err(Error::Unavailable {
        what: "epilogue",
        found: format!("{output}, zero points: {zero_points}, bias and more: {more}"),
        expected: "scales and a float output".into(),
    })
}
