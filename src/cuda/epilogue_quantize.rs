//! int8 with a fresh scale for each row, behind a product: `epilogue_quantize` of `cuda/epilogue.cu`.

use super::batches::Batches;
use super::epilogue::{DeviceEpilogue, Sums};
use super::launch::{Geometry, PreparedLaunch};
use super::matrix::{aligned, check_vector, Matrix};
use super::module::Device;
use super::params::{self, EpilogueParams, FinishQuantizeParams};
use crate::error::Result;
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

impl Device {
    /// int8 with one scale a row from int32 sums `[M, N]` that lie in memory: per-token activations for the next product.
    ///
    /// ```text
    /// y            = epilogue(sums)                            f32, [M, N], or [M, N / 2] when gated
    /// bound[r]     = max |y[r, :]|, or 1 where 127 / that overflows
    /// output[r, c] = clip(round_half_even(y[r, c] * (127 / bound[r])), -127, 127),  NaN -> 0
    /// scales[r]    = bound[r] / 127
    /// ```
    ///
    /// The bits of [`epilogue`](Self::epilogue) to f32 and [`quantize_rows`](Self::quantize_rows) after it, in one launch and
    /// without the floats in memory. A row with NaN or infinity gives zeros and a scale that is not finite. `scales` has
    /// one element a row.
    ///
    /// # Errors
    /// As [`epilogue`](Self::epilogue), and [`Error::Epilogue`](crate::Error::Epilogue) for an `out_scale`: each row gets its
    /// own. After an error nothing was enqueued.
    pub fn epilogue_quantized(
        &self,
        stream: &CudaStream,
        sums: Matrix<&impl DevicePtr<i32>>,
        mut output: Matrix<&mut impl DevicePtrMut<i8>>,
        scales: &mut impl DevicePtrMut<f32>,
        epilogue: &DeviceEpilogue<'_>,
    ) -> Result<()> {
        sums.check("sums", self, sums.data)?;
        epilogue.check_sums("epilogue_quantized", &sums, [output.rows, output.cols])?;
        check_vector("scales", self, scales, sums.rows)?;
        let (source, _source) = sums.data.device_ptr(stream);
        aligned::<i32>("sums", source)?;
        let prepared =
            epilogue.prepare_batches::<i8>(self, stream, &mut output, &Batches::ONE, true)?;
        let (target, _target) = scales.device_ptr_mut(stream);
        aligned::<f32>("scales", target)?;
        let sums = Sums::whole(source, sums.stride);
        // SAFETY: sums, output, scales and every part were checked against the shape; the guards live here.
        unsafe { self.finish_quantized(stream, sums, target, prepared.params) }
    }

    /// Enqueues the same over sums in memory.
    ///
    /// # Safety
    /// All that the parameters point to, and `scales` for each row, is valid for the shape and lives until the stream is
    /// past this launch.
    pub(super) unsafe fn finish_quantized(
        &self,
        stream: &CudaStream,
        sums: Sums,
        scales: u64,
        epilogue: EpilogueParams,
    ) -> Result<()> {
        // No columns still have scales.
        if epilogue.rows == 0 {
            return Ok(());
        }
        let geometry = Geometry {
            grid: (epilogue.rows.into(), 1),
            block: (params::IMMA_EPILOGUE_THREADS, 1),
            dynamic_shared: 0,
        };
        let params = FinishQuantizeParams {
            scales: scales as *mut _,
            finish: sums.finish(epilogue),
        };
        let launch = PreparedLaunch::new(self, stream, "epilogue_quantize", geometry, params)?;
        // SAFETY: the caller's.
        unsafe { launch.enqueue() }
    }
}
