//! The functions over device arrays: results are allocated on the stream, everything is enqueued, nothing waited for.

use super::weights::{DeviceWeights, WeightOrder};
use crate::cuda::kernels::quantize_static;
use crate::cuda::product::{Algorithm, DeviceLhs, Input, Operands, Plan, Problem, PAD};
use crate::cuda::runtime::{Device, DeviceElement, DeviceOutput, Matrix};
use crate::error::{Error, Result};
use crate::rounding::Rounding;
use cudarc::driver::{CudaSlice, CudaStream, CudaView, DevicePtr};
use std::sync::Arc;

/// `clip(round_half_even(x), -127, 127)` of each element; NaN gives 0. [`quant_int8`](crate::quant_int8) on the
/// device, the same integers.
///
/// # Errors
/// [`Error::Value`] for memory or a stream of another context, [`Error::Cuda`] when the driver refuses.
pub fn quant_int8<T: DeviceElement>(
    device: &Device,
    stream: &Arc<CudaStream>,
    x: &impl DevicePtr<T>,
) -> Result<CudaSlice<i8>> {
    let len = x.len();
    let mut out = device.fresh::<i8>(stream, len)?;
    let place = Matrix::new(&mut out, 1, len);
    let x = Matrix::new(x, 1, len);
    // A step of 1 multiplies by 1, which is exact.
    quantize_static(device, stream, x, place, 1.0, Rounding::NearestEven)?;
    Ok(out)
}

/// The exact product `[M, K] x [K, N]` of integers, `[M, N]` by rows. [`matmul_true_int8`](crate::matmul_true_int8)
/// on the device, the same integers.
///
/// Both operands are used once; for weights that stay, make [`DeviceWeights`] once and a [`Plan`].
///
/// # Errors
/// [`Error::ShapeMismatch`] when the contracted dimensions differ, [`Error::KTooLong`] when int32 could overflow;
/// otherwise as [`Plan::new`] and [`Plan::run`].
pub fn matmul_true_int8(
    device: &Device,
    stream: &Arc<CudaStream>,
    lhs: Matrix<CudaView<'_, i8>>,
    rhs: Matrix<CudaView<'_, i8>>,
) -> Result<CudaSlice<i32>> {
    contraction("matmul_true_int8", &lhs, &rhs)?;
    let order = WeightOrder::Inputs;
    let weights = DeviceWeights::pack_int8(device, stream, rhs.by_ref(), order, None)?;
    let (m, n, k) = (lhs.rows, weights.n(), weights.k());
    let problem = Problem::int8(m, n, k).with_input(Input::Int8 {
        stride: lhs.stride,
        aligned: starts_aligned(stream, &lhs.data),
    });
    let mut out = device.fresh::<i32>(stream, area(m, n)?)?;
    let place = Matrix::new((&mut out).into(), m, n);
    once(
        device,
        stream,
        problem,
        DeviceLhs::int8(lhs),
        &weights,
        place,
    )?;
    Ok(out)
}

/// The product `[M, K] x [K, N]` of floats through int8, one scale a row of the left and a column of the right,
/// `[M, N]` by rows. [`q_matmul_int8`](crate::q_matmul_int8) on the device, the same bits.
///
/// # Errors
/// As [`matmul_true_int8`].
pub fn q_matmul_int8<T: DeviceElement, O: DeviceElement>(
    device: &Device,
    stream: &Arc<CudaStream>,
    lhs: Matrix<CudaView<'_, T>>,
    rhs: Matrix<CudaView<'_, T>>,
) -> Result<CudaSlice<O>> {
    contraction("q_matmul_int8", &lhs, &rhs)?;
    let weights = DeviceWeights::pack(device, stream, rhs.by_ref(), WeightOrder::Inputs)?;
    let (m, n, k) = (lhs.rows, weights.n(), weights.k());
    let problem = Problem::floats(m, n, k, T::DTYPE, O::DTYPE);
    let mut out = device.fresh::<O>(stream, area(m, n)?)?;
    let place = Matrix::new(O::output(out.as_view_mut()), m, n);
    let lhs = DeviceLhs::Float(lhs.map(T::floats));
    once(device, stream, problem, lhs, &weights, place)?;
    Ok(out)
}

/// Whether it starts at a multiple of 16 bytes.
fn starts_aligned(stream: &CudaStream, data: &CudaView<'_, i8>) -> bool {
    data.device_ptr(stream).0.is_multiple_of(PAD as u64)
}

/// A plan that is made for one run, with a workspace that is freed behind it.
fn once(
    device: &Device,
    stream: &Arc<CudaStream>,
    problem: Problem,
    lhs: DeviceLhs<'_>,
    weights: &DeviceWeights,
    out: Matrix<DeviceOutput<'_>>,
) -> Result<()> {
    let plan = Plan::new(device, problem, Algorithm::Heuristic)?;
    let mut workspace = device.fresh::<u8>(stream, plan.workspace_bytes())?;
    let operands = Operands::new(lhs, weights.view(), out);
    plan.run(stream, operands, &mut workspace)
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

pub(in crate::cuda) fn area(m: usize, n: usize) -> Result<usize> {
    m.checked_mul(n).ok_or_else(|| Error::Value {
        what: "the result",
        found: format!("[{m}, {n}]"),
        expected: "a size that the address space holds".into(),
    })
}
