//! Per-token quantisation: `cuda/quantize_rows.cu`.

use super::launch::{by_type, narrow, Geometry, PreparedLaunch};
use super::matrix::{aligned, check_vector, Matrix};
use super::module::Device;
use super::params::{self, QuantizeRowsParams};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::rounding::Rounding;
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

const NEAREST: [&str; 3] = [
    "quantize_rows_f32",
    "quantize_rows_f16",
    "quantize_rows_bf16",
];
const STOCHASTIC: [&str; 3] = [
    "quantize_rows_stochastic_f32",
    "quantize_rows_stochastic_f16",
    "quantize_rows_stochastic_bf16",
];
const ASYMMETRIC: [&str; 3] = [
    "quantize_rows_asymmetric_f32",
    "quantize_rows_asymmetric_f16",
    "quantize_rows_asymmetric_bf16",
];

impl Device {
    /// Quantises each row with its own scale.
    ///
    /// ```text
    /// bound[r]     = max |input[r, :]|, or 1 where 127 / that overflows
    /// output[r, c] = clip(round(input[r, c] * (127 / bound[r])), -127, 127),  NaN -> 0
    /// scales[r]    = bound[r] / 127
    /// ```
    ///
    /// The bits of [`numerics`](crate::numerics) and [`rounding`](crate::rounding). A row with NaN or infinity gives
    /// zeros and a scale that is not finite. Stochastic rounding draws for element `(r, c)` at `r * cols + c`.
    ///
    /// `output` has the rows of `input` and at least its columns; the columns beyond are set to zero. `scales` has
    /// one element a row. A row of up to 64 KiB is read from memory once, a longer one twice.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::Length`] when these do not fit; [`Error::Value`] for memory or a stream
    /// of another context and for misaligned addresses; [`Error::Cuda`] when the driver refuses the launch.
    pub fn quantize_rows<T: Element>(
        &self,
        stream: &CudaStream,
        input: Matrix<&impl DevicePtr<T>>,
        output: Matrix<&mut impl DevicePtrMut<i8>>,
        scales: &mut impl DevicePtrMut<f32>,
        rounding: Rounding,
    ) -> Result<()> {
        check_vector("scales", self, scales, input.rows)?;
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

    /// Quantises each row with its own scale and zero point.
    ///
    /// ```text
    /// lo, hi         = min(0, input[r, :]), max(0, input[r, :])
    /// scales[r]      = (hi - lo) / 255
    /// zero_points[r] = clip(round(-128 - lo * (255 / (hi - lo))), -128, 127)
    /// output[r, c]   = clip(round(input[r, c] * (255 / (hi - lo))) + zero_points[r], -128, 127)
    /// ```
    ///
    /// The bits of [`asymmetric`](crate::numerics::asymmetric): a range so small that `255 / range` overflows counts
    /// as 255; a row that is not finite gives zeros, zero point 0 and a NaN scale. Shapes and reads are those of
    /// [`quantize_rows`](Self::quantize_rows); padding is 0, not the zero point.
    ///
    /// # Errors
    /// As [`quantize_rows`](Self::quantize_rows).
    pub fn quantize_rows_asymmetric<T: Element>(
        &self,
        stream: &CudaStream,
        input: Matrix<&impl DevicePtr<T>>,
        output: Matrix<&mut impl DevicePtrMut<i8>>,
        scales: &mut impl DevicePtrMut<f32>,
        zero_points: &mut impl DevicePtrMut<i32>,
    ) -> Result<()> {
        check_vector("scales", self, scales, input.rows)?;
        check_vector("zero points", self, zero_points, input.rows)?;
        let (scales, _scales) = scales.device_ptr_mut(stream);
        let (zero_points, _zero_points) = zero_points.device_ptr_mut(stream);
        let entry = by_type(T::DTYPE, ASYMMETRIC);
        launch(self, stream, entry, input, output, |params| {
            params.scales = scales as *mut f32;
            params.zero_points = zero_points as *mut i32;
        })
    }
}

/// Threads of a row and rows of a block: enough threads, up to `most`, that each holds at most `IMMA_ROWS_HELD` vectors,
/// and blocks of at least four warps.
pub(super) fn geometry(rows: usize, cols: usize, element: usize, most: u32) -> Geometry {
    let vectors = (cols * element).div_ceil(params::IMMA_VECTOR_BYTES as usize);
    let threads = vectors
        .div_ceil(params::IMMA_ROWS_HELD as usize)
        .next_multiple_of(32)
        .clamp(32, most as usize);
    let per_block = (128 / threads).max(1);
    Geometry {
        grid: (rows.div_ceil(per_block) as u64, 1),
        block: (threads as u32, per_block as u32),
        dynamic_shared: 0,
    }
}

/// Checks that an output has the input's rows and at least its columns.
pub(super) fn check_output(
    op: &'static str,
    device: &Device,
    [rows, cols]: [usize; 2],
    output: &Matrix<&mut impl DevicePtrMut<i8>>,
) -> Result<()> {
    output.check("output", device, output.data)?;
    if output.rows == rows && output.cols >= cols {
        return Ok(());
    }
    Err(Error::ShapeMismatch {
        op,
        lhs: vec![rows, cols],
        rhs: vec![output.rows, output.cols],
        expected: "an output with the input's rows and at least its columns".into(),
    })
}

fn launch<T: Element>(
    device: &Device,
    stream: &CudaStream,
    entry: &'static str,
    input: Matrix<&impl DevicePtr<T>>,
    output: Matrix<&mut impl DevicePtrMut<i8>>,
    fill: impl FnOnce(&mut QuantizeRowsParams),
) -> Result<()> {
    input.check("input", device, input.data)?;
    check_output("quantize_rows", device, [input.rows, input.cols], &output)?;
    let geometry = geometry(
        input.rows,
        input.cols,
        size_of::<T>(),
        params::IMMA_ROWS_MAX_THREADS,
    );
    let (source, _source) = input.data.device_ptr(stream);
    let (target, _target) = output.data.device_ptr_mut(stream);
    let mut params = QuantizeRowsParams {
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
        reserved: 0,
    };
    fill(&mut params);
    if input.rows == 0 {
        return Ok(());
    }
    let launch = PreparedLaunch::new(device, stream, entry, geometry, params)?;
    // SAFETY: both matrices were checked against their slices, the vectors against the rows; all guards live here
    // or in the caller.
    unsafe { launch.enqueue() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_real_models_are_held() {
        for (cols, element) in [
            (1, 4),
            (768, 2),
            (4096, 2),
            (11_008, 2),
            (16_384, 4),
            (32_768, 2),
        ] {
            let g = geometry(3, cols, element, 1024);
            let held = g.block.0 as usize * 64;
            assert!(held >= cols * element, "{cols}");
            assert!(g.block.0 * g.block.1 <= 1024 && g.block.0.is_multiple_of(32));
            assert!(g.grid.0 as usize * g.block.1 as usize >= 3);
        }
        assert_eq!(geometry(1, 1 << 20, 4, 1024).block, (1024, 1));
    }
}
