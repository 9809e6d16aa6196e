//! Per-channel quantisation into K-major order: `cuda/quantize_cols.cu`.

use super::families::QuantizeCols;
use super::params::{self, QuantizeColsParams};
use super::quantize_rows::{Place, QuantizeEntries};
use crate::cuda::runtime::{
    narrow, Device, DeviceElement, Entry, Geometry, Held, Matrix, PreparedLaunch, Region,
};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::rounding::Rounding;
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

const ENTRIES: QuantizeEntries<QuantizeCols> = QuantizeEntries {
    nearest: [
        Entry::new("quantize_cols_f32"),
        Entry::new("quantize_cols_f16"),
        Entry::new("quantize_cols_bf16"),
    ],
    stochastic: [
        Entry::new("quantize_cols_stochastic_f32"),
        Entry::new("quantize_cols_stochastic_f16"),
        Entry::new("quantize_cols_stochastic_bf16"),
    ],
    asymmetric: [
        Entry::new("quantize_cols_asymmetric_f32"),
        Entry::new("quantize_cols_asymmetric_f16"),
        Entry::new("quantize_cols_asymmetric_bf16"),
    ],
};

/// Quantises each column of `[K, N]` with its own scale, and writes them K-major: `output` is `[N, K]`.
///
/// ```text
/// bound[n]     = max |input[:, n]|, or 1 where 127 / that overflows
/// output[n, k] = clip(round(input[k, n] * (127 / bound[n])), -127, 127),  NaN -> 0
/// scales[n]    = bound[n] / 127
/// ```
///
/// The bits of [`numerics`](crate::numerics) and [`rounding`](crate::rounding). A column with NaN or infinity
/// gives zeros and a scale that is not finite. Stochastic rounding draws for element `(k, n)` at `k * N + n`, its
/// place in the input.
///
/// `output` has N rows and at least K columns; the columns beyond are set to zero. `scales` has N elements.
/// As many rows as fit shared memory (some thousand) are read once, the others twice.
///
/// # Errors
/// As [`quantize_rows`](super::quantize_rows).
pub fn quantize_cols<T: DeviceElement>(
    device: &Device,
    stream: &CudaStream,
    input: Matrix<&impl DevicePtr<T>>,
    output: Matrix<&mut impl DevicePtrMut<i8>>,
    scales: &mut impl DevicePtrMut<f32>,
    rounding: Rounding,
) -> Result<()> {
    let mut held = Held::new(device, stream)?;
    let place = Place {
        scales: held.write_vector("scales", scales, input.cols)?,
        zero_points: None,
        output: held.write("output", output)?,
    };
    let input = held.read::<T>("input", &input)?;
    enqueue(&held, T::DTYPE, input, place, rounding)
}

/// Quantises each column of `[K, N]` with its own scale and zero point, K-major.
///
/// The equations of [`quantize_rows_asymmetric`](super::quantize_rows_asymmetric) over columns, the shapes of
/// [`quantize_cols`]; padding is 0, not the zero point.
///
/// # Errors
/// As [`quantize_rows`](super::quantize_rows).
pub fn quantize_cols_asymmetric<T: DeviceElement>(
    device: &Device,
    stream: &CudaStream,
    input: Matrix<&impl DevicePtr<T>>,
    output: Matrix<&mut impl DevicePtrMut<i8>>,
    scales: &mut impl DevicePtrMut<f32>,
    zero_points: &mut impl DevicePtrMut<i32>,
) -> Result<()> {
    let mut held = Held::new(device, stream)?;
    let place = Place {
        scales: held.write_vector("scales", scales, input.cols)?,
        zero_points: Some(held.write_vector("zero points", zero_points, input.cols)?),
        output: held.write("output", output)?,
    };
    let input = held.read::<T>("input", &input)?;
    enqueue(&held, T::DTYPE, input, place, Rounding::NearestEven)
}

fn enqueue(
    held: &Held<'_>,
    dtype: DType,
    input: Region<'_>,
    place: Place<'_>,
    rounding: Rounding,
) -> Result<()> {
    let output = place.output;
    if output.rows != input.cols || output.cols < input.rows {
        return Err(Error::ShapeMismatch {
            op: "quantize_cols",
            lhs: vec![input.rows, input.cols],
            rhs: vec![output.rows, output.cols],
            expected: "an output with a row for each column and at least as many columns as rows"
                .into(),
        });
    }
    let (entry, seed) = ENTRIES.choose(dtype, place.zero_points.is_some(), rounding);
    // Rows of a strip that shared memory holds.
    let strip = params::IMMA_COLS_STRIP as usize;
    let row_bytes = strip * dtype.bytes();
    let room = held.device().dynamic_shared(entry)? / row_bytes;
    let held_rows = input.rows.min(room);
    let grid = (input.cols.div_ceil(strip) as u64, 1);
    let geometry =
        Geometry::new(grid, (params::IMMA_COLS_THREADS, 1)).with_shared(held_rows * row_bytes);
    let params = QuantizeColsParams {
        input: input.address as *const _,
        output: output.address as *mut _,
        scales: place.scales.address as *mut _,
        zero_points: place.zero_points.map_or(0, |z| z.address) as *mut _,
        input_stride: input.stride as u64,
        output_stride: output.stride as u64,
        seed,
        rows: narrow("rows", input.rows)?,
        cols: narrow("columns", input.cols)?,
        padded: narrow("output columns", output.cols)?,
        held_rows: held_rows as u32,
    };
    if input.cols == 0 {
        return Ok(());
    }
    let launch = PreparedLaunch::new(held.device(), held.stream(), entry, geometry, params)?;
    // SAFETY: all regions are held; the output was checked against the input, the vectors have an element a column.
    unsafe { launch.enqueue() }
}
