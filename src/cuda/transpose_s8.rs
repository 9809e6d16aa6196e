//! int8 matrices transposed: `cuda/transpose_s8.cu`.

use super::launch::{narrow, Geometry, PreparedLaunch, MAX_GRID_Y};
use super::matrix::Matrix;
use super::module::Device;
use super::params::{self, TransposeParams};
use crate::error::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

impl Device {
    /// Transposes: `output[c, r] = input[r, c]`, as `[K, N]` weights become K-major.
    ///
    /// `output` has a row for each of the input's columns and at least as many columns as the input has rows; the
    /// columns beyond are set to zero.
    ///
    /// # Errors
    /// As [`quantize_rows`](Self::quantize_rows).
    pub fn transpose_s8(
        &self,
        stream: &CudaStream,
        input: Matrix<&impl DevicePtr<i8>>,
        output: Matrix<&mut impl DevicePtrMut<i8>>,
    ) -> Result<()> {
        input.check("input", self, input.data)?;
        output.check("output", self, output.data)?;
        if output.rows != input.cols || output.cols < input.rows {
            return Err(Error::ShapeMismatch {
                op: "transpose_s8",
                lhs: vec![input.rows, input.cols],
                rhs: vec![output.rows, output.cols],
                expected:
                    "an output with a row for each column and at least as many columns as rows"
                        .into(),
            });
        }
        let (source, _source) = input.data.device_ptr(stream);
        let (target, _target) = output.data.device_ptr_mut(stream);
        let params = TransposeParams {
            input: source as *const _,
            output: target as *mut _,
            input_stride: input.stride as u64,
            output_stride: output.stride as u64,
            rows: narrow("rows", input.rows)?,
            cols: narrow("columns", input.cols)?,
            padded: narrow("output columns", output.cols)?,
            reserved: 0,
        };
        if output.cols == 0 || input.cols == 0 {
            return Ok(());
        }
        let tiles = |n: usize| n.div_ceil(params::IMMA_TRANSPOSE_TILE as usize) as u64;
        let geometry = Geometry {
            grid: (tiles(input.cols), tiles(output.cols).min(MAX_GRID_Y)),
            block: (params::IMMA_TRANSPOSE_THREADS, 1),
            dynamic_shared: 0,
        };
        let launch = PreparedLaunch::new(self, stream, "transpose_s8", geometry, params)?;
        // SAFETY: both matrices were checked against their slices, whose guards live here.
        unsafe { launch.enqueue() }
    }
}
