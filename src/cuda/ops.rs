//! The functions over device arrays: results are allocated on the stream, everything is enqueued, nothing waited for.

use super::launch::{driver, same_context};
use super::matrix::Matrix;
use super::module::Device;
use super::operand::{DeviceElement, DeviceLhs, DeviceOutput, Operands};
use super::plan::Plan;
use super::spec::Spec;
use super::weights::{zeros, DeviceWeights, WeightOrder};
use crate::error::{Error, Result};
use crate::rounding::Rounding;
use cudarc::driver::{CudaSlice, CudaStream, CudaView, DevicePtr};
use std::sync::Arc;

impl Device {
    /// `clip(round_half_even(x), -127, 127)` of each element; NaN gives 0. [`quant_int8`](crate::quant_int8) on the
    /// device, the same integers.
    ///
    /// # Errors
    /// [`Error::Value`] for memory or a stream of another context, [`Error::Cuda`] when the driver refuses.
    pub fn quant_int8<T: DeviceElement>(
        &self,
        stream: &Arc<CudaStream>,
        x: &impl DevicePtr<T>,
    ) -> Result<CudaSlice<i8>> {
        let len = x.len();
        let mut out = self.fresh::<i8>(stream, len)?;
        let place = Matrix::new(&mut out, 1, len);
        // A step of 1 multiplies by 1, which is exact.
        self.quantize_static(
            stream,
            Matrix::new(x, 1, len),
            place,
            1.0,
            Rounding::NearestEven,
        )?;
        Ok(out)
    }

    /// The exact product `[M, K] x [K, N]` of integers, `[M, N]` by rows. [`matmul_true_int8`](crate::matmul_true_int8)
    /// on the device, the same integers.
    ///
    /// Both operands are used once; for weights that stay, [`pack_int8`](Self::pack_int8) once and make a [`Plan`].
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when the contracted dimensions differ, [`Error::KTooLong`] when int32 could overflow;
    /// otherwise as [`Plan::new`] and [`Plan::run`].
    pub fn matmul_true_int8(
        &self,
        stream: &Arc<CudaStream>,
        lhs: Matrix<CudaView<'_, i8>>,
        rhs: Matrix<CudaView<'_, i8>>,
    ) -> Result<CudaSlice<i32>> {
        contraction("matmul_true_int8", &lhs, &rhs)?;
        let right = rhs.by_ref();
        let weights = self.pack_int8(stream, right, WeightOrder::Inputs, None)?;
        let (m, n, k) = (lhs.rows, weights.n(), weights.k());
        let mut spec = Spec::int8(m, n, k);
        spec.input = super::Input::Int8 {
            stride: lhs.stride,
            scales: false,
            zero_points: false,
        };
        let mut out = self.fresh::<i32>(stream, area(m, n)?)?;
        let place = Matrix::new(DeviceOutput::I32(out.as_view_mut()), m, n);
        self.once(stream, spec, DeviceLhs::int8(lhs), &weights, place)?;
        Ok(out)
    }

    /// The product `[M, K] x [K, N]` of floats through int8, one scale a row of the left and a column of the right,
    /// `[M, N]` by rows. [`q_matmul_int8`](crate::q_matmul_int8) on the device, the same bits.
    ///
    /// # Errors
    /// As [`matmul_true_int8`](Self::matmul_true_int8).
    pub fn q_matmul_int8<T: DeviceElement, O: DeviceElement>(
        &self,
        stream: &Arc<CudaStream>,
        lhs: Matrix<CudaView<'_, T>>,
        rhs: Matrix<CudaView<'_, T>>,
    ) -> Result<CudaSlice<O>> {
        contraction("q_matmul_int8", &lhs, &rhs)?;
        let weights = self.pack(stream, rhs.by_ref(), WeightOrder::Inputs)?;
        let (m, n, k) = (lhs.rows, weights.n(), weights.k());
        let spec = Spec::floats(m, n, k, T::DTYPE, O::DTYPE);
        let mut out = self.fresh::<O>(stream, area(m, n)?)?;
        let place = Matrix::new(O::output(out.as_view_mut()), m, n);
        let lhs = DeviceLhs::Float(lhs.map(T::floats));
        self.once(stream, spec, lhs, &weights, place)?;
        Ok(out)
    }

    /// A plan that is made for one run, with a workspace that is freed behind it.
    fn once(
        &self,
        stream: &Arc<CudaStream>,
        spec: Spec,
        lhs: DeviceLhs<'_>,
        weights: &DeviceWeights,
        out: Matrix<DeviceOutput<'_>>,
    ) -> Result<()> {
        let plan = Plan::new(self, spec)?;
        let mut workspace = self.fresh::<u8>(stream, plan.workspace_bytes())?;
        let operands = Operands {
            lhs,
            weights,
            col_scales: None,
            bias: None,
            residual: None,
            out,
            out_scales: None,
        };
        plan.run(stream, operands, &mut workspace.as_view_mut())
    }

    /// Memory of this device, at least one element; every element is written by who asked for it.
    pub(super) fn fresh<T: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits>(
        &self,
        stream: &Arc<CudaStream>,
        len: usize,
    ) -> Result<CudaSlice<T>> {
        same_context("the stream", self.context(), stream.context())?;
        if len == 0 {
            return zeros(stream, 0);
        }
        // SAFETY: numbers of any bits; written in full before they are read.
        unsafe { stream.alloc(len) }.map_err(driver("cuMemAlloc"))
    }
}

fn contraction<A, B>(op: &'static str, lhs: &Matrix<A>, rhs: &Matrix<B>) -> Result<()> {
    if lhs.cols == rhs.rows {
        return Ok(());
    }
    Err(Error::ShapeMismatch {
        op,
        lhs: vec![lhs.rows, lhs.cols],
        rhs: vec![rhs.rows, rhs.cols],
        expected: format!("the right operand needs {} rows", lhs.cols),
    })
}

pub(super) fn area(m: usize, n: usize) -> Result<usize> {
    m.checked_mul(n).ok_or_else(|| Error::Value {
        what: "the result",
        found: format!("[{m}, {n}]"),
        expected: "a size that the address space holds".into(),
    })
}
