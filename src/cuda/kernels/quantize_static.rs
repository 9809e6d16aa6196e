//! Quantisation with a scale known beforehand: `cuda/quantize_static.cu`.

use super::families::QuantizeStatic;
use super::params::{self, QuantizeStaticParams};
use super::quantize_rows::{check_given, QuantizeEntries};
use crate::cuda::runtime::{
    narrow, Device, DeviceElement, Entry, Geometry, Held, Matrix, PreparedLaunch, Region,
    MAX_GRID_Y,
};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::rounding::Rounding;
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

const ENTRIES: QuantizeEntries<QuantizeStatic> = QuantizeEntries {
    nearest: [
        Entry::new("quantize_static_f32"),
        Entry::new("quantize_static_f16"),
        Entry::new("quantize_static_bf16"),
    ],
    stochastic: [
        Entry::new("quantize_static_stochastic_f32"),
        Entry::new("quantize_static_stochastic_f16"),
        Entry::new("quantize_static_stochastic_bf16"),
    ],
    asymmetric: [
        Entry::new("quantize_static_asymmetric_f32"),
        Entry::new("quantize_static_asymmetric_f16"),
        Entry::new("quantize_static_asymmetric_bf16"),
    ],
};

/// Quantises with one scale for all: `output = clip(round(input * (1 / scale)), -127, 127)`, NaN -> 0.
///
/// The data are not looked at first: values beyond `127 * scale` clip, infinities too. Stochastic rounding draws
/// for element `(r, c)` at `r * cols + c`.
///
/// # Errors
/// [`Error::Value`] for a scale that is not above zero with a finite inverse; otherwise as
/// [`quantize_rows`](super::quantize_rows), with an output of exactly the input's shape.
pub fn quantize_static<T: DeviceElement>(
    device: &Device,
    stream: &CudaStream,
    input: Matrix<&impl DevicePtr<T>>,
    output: Matrix<&mut impl DevicePtrMut<i8>>,
    scale: f32,
    rounding: Rounding,
) -> Result<()> {
    let mut held = Held::new(device, stream)?;
    let input = held.read::<T>("input", &input)?;
    let output = held.write::<i8>("output", output)?;
    enqueue(
        &held,
        T::DTYPE,
        input,
        output,
        Step::Symmetric(scale, rounding),
    )
}

/// Quantises with one scale and zero point for all: `output = clip(round_half_even(input * (1 / scale)) +
/// zero_point, -128, 127)`; NaN counts as 0.
///
/// # Errors
/// [`Error::Value`] for a zero point outside -128..=127; otherwise as [`quantize_static`].
pub fn quantize_static_asymmetric<T: DeviceElement>(
    device: &Device,
    stream: &CudaStream,
    input: Matrix<&impl DevicePtr<T>>,
    output: Matrix<&mut impl DevicePtrMut<i8>>,
    scale: f32,
    zero_point: i32,
) -> Result<()> {
    let mut held = Held::new(device, stream)?;
    let input = held.read::<T>("input", &input)?;
    let output = held.write::<i8>("output", output)?;
    let step = Step::Asymmetric(scale, zero_point);
    enqueue(&held, T::DTYPE, input, output, step)
}

/// The constants, and how elements are rounded.
enum Step {
    Symmetric(f32, Rounding),
    Asymmetric(f32, i32),
}

/// The same over memory that is held.
fn enqueue(
    held: &Held<'_>,
    dtype: DType,
    input: Region<'_>,
    output: Region<'_>,
    step: Step,
) -> Result<()> {
    let (asymmetric, scale, zero_point, rounding) = match step {
        Step::Symmetric(scale, rounding) => (false, scale, 0, rounding),
        Step::Asymmetric(scale, zero_point) => (true, scale, zero_point, Rounding::NearestEven),
    };
    let (entry, seed) = ENTRIES.choose(dtype, asymmetric, rounding);
    check_given(scale, zero_point)?;
    if (output.rows, output.cols) != (input.rows, input.cols) {
        return Err(Error::ShapeMismatch {
            op: "quantize_static",
            lhs: vec![input.rows, input.cols],
            rhs: vec![output.rows, output.cols],
            expected: "an output of the input's shape".into(),
        });
    }
    let flat = input.is_contiguous() && output.is_contiguous();
    let (rows, cols) = flatten(flat, input.rows, input.cols);
    let params = QuantizeStaticParams {
        input: input.address as *const _,
        output: output.address as *mut _,
        input_stride: input.stride as u64,
        output_stride: output.stride as u64,
        cols: cols as u64,
        seed,
        rows: narrow("rows", rows)?,
        multiplier: 1.0 / scale,
        zero_point,
        reserved: 0,
    };
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let geometry = flat_geometry(rows, cols, dtype.bytes());
    let launch = PreparedLaunch::new(held.device(), held.stream(), entry, geometry, params)?;
    // SAFETY: both regions are held, and of one shape.
    unsafe { launch.enqueue() }
}

/// A contiguous matrix is one long row.
pub(super) fn flatten(flat: bool, rows: usize, cols: usize) -> (usize, usize) {
    if flat && rows > 1 {
        (1, rows * cols)
    } else {
        (rows, cols)
    }
}

/// Blocks over segments of a row, and over rows: the grid of `quantize_static` and `dequantize`.
pub(super) fn flat_geometry(rows: usize, cols: usize, element: usize) -> Geometry {
    let block = (params::IMMA_FLAT_THREADS * params::IMMA_FLAT_VECTORS * params::IMMA_VECTOR_BYTES)
        as usize;
    let segments = cols.div_ceil(block / element).max(1);
    let grid = (segments as u64, (rows as u64).min(MAX_GRID_Y));
    Geometry::new(grid, (params::IMMA_FLAT_THREADS, 1))
}
