//! Quantisation with a scale known beforehand: `cuda/quantize_static.cu`.

use super::launch::{by_type, narrow, Geometry, PreparedLaunch, MAX_GRID_Y};
use super::matrix::{aligned, Matrix};
use super::module::Device;
use super::params::{self, QuantizeStaticParams};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::rounding::Rounding;
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

const NEAREST: [&str; 3] = [
    "quantize_static_f32",
    "quantize_static_f16",
    "quantize_static_bf16",
];
const STOCHASTIC: [&str; 3] = [
    "quantize_static_stochastic_f32",
    "quantize_static_stochastic_f16",
    "quantize_static_stochastic_bf16",
];

const ASYMMETRIC: [&str; 3] = [
    "quantize_static_asymmetric_f32",
    "quantize_static_asymmetric_f16",
    "quantize_static_asymmetric_bf16",
];

impl Device {
    /// Quantises with one scale for all: `output = clip(round(input * (1 / scale)), -127, 127)`, NaN -> 0.
    ///
    /// The data are not looked at first: values beyond `127 * scale` clip, infinities too. Stochastic rounding draws
    /// for element `(r, c)` at `r * cols + c`.
    ///
    /// # Errors
    /// [`Error::Value`] for a scale that is not above zero with a finite inverse; otherwise as
    /// [`quantize_rows`](Self::quantize_rows), with an output of exactly the input's shape.
    pub fn quantize_static<T: Element>(
        &self,
        stream: &CudaStream,
        input: Matrix<&impl DevicePtr<T>>,
        output: Matrix<&mut impl DevicePtrMut<i8>>,
        scale: f32,
        rounding: Rounding,
    ) -> Result<()> {
        let (entries, seed) = match rounding {
            Rounding::Stochastic { seed } => (STOCHASTIC, seed),
            _ => (NEAREST, 0),
        };
        self.static_kernel(stream, input, output, (scale, 0), entries, seed)
    }

    /// Quantises with one scale and zero point for all: `output = clip(round_half_even(input * (1 / scale)) +
    /// zero_point, -128, 127)`; NaN counts as 0.
    ///
    /// # Errors
    /// [`Error::Value`] for a zero point outside -128..=127; otherwise as [`quantize_static`](Self::quantize_static).
    pub fn quantize_static_asymmetric<T: Element>(
        &self,
        stream: &CudaStream,
        input: Matrix<&impl DevicePtr<T>>,
        output: Matrix<&mut impl DevicePtrMut<i8>>,
        scale: f32,
        zero_point: i32,
    ) -> Result<()> {
        if !(-128..=127).contains(&zero_point) {
            return Err(Error::Value {
                what: "the static zero point",
                found: zero_point.to_string(),
                expected: "-128..=127".into(),
            });
        }
        self.static_kernel(stream, input, output, (scale, zero_point), ASYMMETRIC, 0)
    }

    fn static_kernel<T: Element>(
        &self,
        stream: &CudaStream,
        input: Matrix<&impl DevicePtr<T>>,
        output: Matrix<&mut impl DevicePtrMut<i8>>,
        (scale, zero_point): (f32, i32),
        entries: [&'static str; 3],
        seed: u64,
    ) -> Result<()> {
        let multiplier = 1.0 / scale;
        if !(scale > 0.0 && scale.is_finite() && multiplier.is_finite()) {
            return Err(Error::Value {
                what: "the static scale",
                found: scale.to_string(),
                expected: "a number above zero with a finite inverse".into(),
            });
        }
        input.check("input", self, input.data)?;
        output.check("output", self, output.data)?;
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
        let (source, _source) = input.data.device_ptr(stream);
        let (target, _target) = output.data.device_ptr_mut(stream);
        let params = QuantizeStaticParams {
            input: aligned::<T>("input", source)? as *const _,
            output: target as *mut _,
            input_stride: input.stride as u64,
            output_stride: output.stride as u64,
            cols: cols as u64,
            seed,
            rows: narrow("rows", rows)?,
            multiplier,
            zero_point,
            reserved: 0,
        };
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let geometry = flat_geometry(rows, cols, size_of::<T>());
        let entry = by_type(T::DTYPE, entries);
        let launch = PreparedLaunch::new(self, stream, entry, geometry, params)?;
        // SAFETY: both matrices were checked against their slices, whose guards live here.
        unsafe { launch.enqueue() }
    }
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
    Geometry {
        grid: (segments as u64, (rows as u64).min(MAX_GRID_Y)),
        block: (params::IMMA_FLAT_THREADS, 1),
        dynamic_shared: 0,
    }
}
