//! Per-channel quantisation into K-major order: `cuda/quantize_cols.cu`.

use super::launch::{by_type, narrow, Geometry, PreparedLaunch};
use super::matrix::{aligned, check_vector, Matrix};
use super::module::Device;
use super::params::{self, QuantizeColsParams};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::rounding::Rounding;
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

const NEAREST: [&str; 3] = [
    "quantize_cols_f32",
    "quantize_cols_f16",
    "quantize_cols_bf16",
];
const STOCHASTIC: [&str; 3] = [
    "quantize_cols_stochastic_f32",
    "quantize_cols_stochastic_f16",
    "quantize_cols_stochastic_bf16",
];
const ASYMMETRIC: [&str; 3] = [
    "quantize_cols_asymmetric_f32",
    "quantize_cols_asymmetric_f16",
    "quantize_cols_asymmetric_bf16",
];

impl Device {
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
    /// As [`quantize_rows`](Self::quantize_rows).
    pub fn quantize_cols<T: Element>(
        &self,
        stream: &CudaStream,
        input: Matrix<&impl DevicePtr<T>>,
        output: Matrix<&mut impl DevicePtrMut<i8>>,
        scales: &mut impl DevicePtrMut<f32>,
        rounding: Rounding,
    ) -> Result<()> {
        check_vector("scales", self, scales, input.cols)?;
        let (entries, seed) = match rounding {
            Rounding::Stochastic { seed } => (STOCHASTIC, seed),
            _ => (NEAREST, 0),
        };
        let (scales, _scales) = scales.device_ptr_mut(stream);
        let entry = by_type(T::DTYPE, entries);
        launch(self, stream, entry, input, output, |params| {
            params.scales = scales as *mut f32;
            params.seed = seed;
        })
    }

    /// Quantises each column of `[K, N]` with its own scale and zero point, K-major.
    ///
    /// The equations of [`quantize_rows_asymmetric`](Self::quantize_rows_asymmetric) over columns, the shapes of
    /// [`quantize_cols`](Self::quantize_cols); padding is 0, not the zero point.
    ///
    /// # Errors
    /// As [`quantize_rows`](Self::quantize_rows).
    pub fn quantize_cols_asymmetric<T: Element>(
        &self,
        stream: &CudaStream,
        input: Matrix<&impl DevicePtr<T>>,
        output: Matrix<&mut impl DevicePtrMut<i8>>,
        scales: &mut impl DevicePtrMut<f32>,
        zero_points: &mut impl DevicePtrMut<i32>,
    ) -> Result<()> {
        check_vector("scales", self, scales, input.cols)?;
        check_vector("zero points", self, zero_points, input.cols)?;
        let (scales, _scales) = scales.device_ptr_mut(stream);
        let (zero_points, _zero_points) = zero_points.device_ptr_mut(stream);
        let entry = by_type(T::DTYPE, ASYMMETRIC);
        launch(self, stream, entry, input, output, |params| {
            params.scales = scales as *mut f32;
            params.zero_points = zero_points as *mut i32;
        })
    }
}

fn launch<T: Element>(
    device: &Device,
    stream: &CudaStream,
    entry: &'static str,
    input: Matrix<&impl DevicePtr<T>>,
    output: Matrix<&mut impl DevicePtrMut<i8>>,
    fill: impl FnOnce(&mut QuantizeColsParams),
) -> Result<()> {
    input.check("input", device, input.data)?;
    output.check("output", device, output.data)?;
    if output.rows != input.cols || output.cols < input.rows {
        return Err(Error::ShapeMismatch {
            op: "quantize_cols",
            lhs: vec![input.rows, input.cols],
            rhs: vec![output.rows, output.cols],
            expected: "an output with a row for each column and at least as many columns as rows"
                .into(),
        });
    }
    // Rows of a strip that shared memory holds.
    let row_bytes = params::IMMA_COLS_STRIP as usize * size_of::<T>();
    let room = device.kernel(entry)?.max_dynamic_shared as usize / row_bytes;
    let held_rows = input.rows.min(room);
    let geometry = Geometry {
        grid: (
            input.cols.div_ceil(params::IMMA_COLS_STRIP as usize) as u64,
            1,
        ),
        block: (params::IMMA_COLS_THREADS, 1),
        dynamic_shared: (held_rows * row_bytes) as u32,
    };
    let (source, _source) = input.data.device_ptr(stream);
    let (target, _target) = output.data.device_ptr_mut(stream);
    let mut params = QuantizeColsParams {
        input: aligned::<T>("input", source)? as *const _,
        output: target as *mut _,
        scales: std::ptr::null_mut(),
        zero_points: std::ptr::null_mut(),
        input_stride: input.stride as u64,
        output_stride: output.stride as u64,
        seed: 0,
        rows: narrow("rows", input.rows)?,
        cols: narrow("columns", input.cols)?,
        padded: narrow("output columns", output.cols)?,
        held_rows: held_rows as u32,
    };
    fill(&mut params);
    if input.cols == 0 {
        return Ok(());
    }
    let launch = PreparedLaunch::new(device, stream, entry, geometry, params)?;
    // SAFETY: both matrices were checked against their slices, the vectors against the columns; all guards live
    // here or in the caller.
    unsafe { launch.enqueue() }
}
