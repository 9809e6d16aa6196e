//! RMSNorm and per-token quantisation: `cuda/rmsnorm_quantize.cu`.

use super::launch::{by_type, narrow, Geometry, PreparedLaunch};
use super::matrix::{aligned, check_vector, Matrix};
use super::module::Device;
use super::params::{self, RmsnormQuantizeParams};
use super::quantize_rows::{check_output, geometry};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::ops::check_epsilon;
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

const NORM: [&str; 3] = [
    "rmsnorm_quantize_f32",
    "rmsnorm_quantize_f16",
    "rmsnorm_quantize_bf16",
];
const ADD: [&str; 3] = [
    "add_rmsnorm_quantize_f32",
    "add_rmsnorm_quantize_f16",
    "add_rmsnorm_quantize_bf16",
];

impl Device {
    /// RMSNorm of each row, quantised with the row's own scale: what runs right before a product.
    ///
    /// ```text
    /// y[r, c]      = T( T( input[r, c] * inverse_rms(input[r, :]) ) * weight[c] )          not stored
    /// output[r, c] = clip(round(y[r, c] * (127 / bound[r])), -127, 127),  NaN -> 0          scales[r] = bound[r] / 127
    /// ```
    ///
    /// The bits of [`rmsnorm`](crate::rmsnorm) into T followed by [`quantize_rows`](Self::quantize_rows), which are those
    /// of [`rmsnorm_quantize`](crate::rmsnorm_quantize) on the CPU: the squares are summed in an order that depends on the
    /// row alone.
    ///
    /// `weight` has one element a column, `scales` one a row. `output` has the rows of `input` and at least its columns;
    /// the columns beyond are set to zero. A row of up to 64 KiB is read from memory once, a longer one three times.
    /// Rows and weights on 16-byte boundaries are accessed 16 bytes at a time, others element by element.
    ///
    /// # Errors
    /// As [`quantize_rows`](Self::quantize_rows); [`Error::Length`] for the weight; [`Error::Value`] for an epsilon that is
    /// not a finite number above zero, and for rows of some millions of elements, whose sums fit no shared memory.
    #[allow(clippy::too_many_arguments)] // two operands, two results
    pub fn rmsnorm_quantize<T: Element>(
        &self,
        stream: &CudaStream,
        input: Matrix<&impl DevicePtr<T>>,
        weight: &impl DevicePtr<T>,
        epsilon: f32,
        output: Matrix<&mut impl DevicePtrMut<i8>>,
        scales: &mut impl DevicePtrMut<f32>,
    ) -> Result<()> {
        let entry = by_type(T::DTYPE, NORM);
        launch(
            self,
            stream,
            entry,
            (input, weight, epsilon),
            (output, scales),
            (0, 0),
        )
    }

    /// The same of `residual + input`, which replaces the residual.
    ///
    /// ```text
    /// residual[r, c] = T( residual[r, c] + input[r, c] )          then as rmsnorm_quantize of the residual
    /// ```
    ///
    /// The sum is rounded to T before it is normalised, as if it had been stored and read again. `residual` has the
    /// shape of `input`, and must not overlap it.
    ///
    /// # Errors
    /// As [`rmsnorm_quantize`](Self::rmsnorm_quantize); [`Error::ShapeMismatch`] for a residual of another shape.
    #[allow(clippy::too_many_arguments)] // three operands, two results
    pub fn add_rmsnorm_quantize<T: Element>(
        &self,
        stream: &CudaStream,
        input: Matrix<&impl DevicePtr<T>>,
        residual: Matrix<&mut impl DevicePtrMut<T>>,
        weight: &impl DevicePtr<T>,
        epsilon: f32,
        output: Matrix<&mut impl DevicePtrMut<i8>>,
        scales: &mut impl DevicePtrMut<f32>,
    ) -> Result<()> {
        residual.check("residual", self, residual.data)?;
        if (residual.rows, residual.cols) != (input.rows, input.cols) {
            return Err(Error::ShapeMismatch {
                op: "add_rmsnorm_quantize",
                lhs: vec![input.rows, input.cols],
                rhs: vec![residual.rows, residual.cols],
                expected: "a residual of the input's shape".into(),
            });
        }
        let (address, _residual) = residual.data.device_ptr_mut(stream);
        let place = (aligned::<T>("residual", address)?, residual.stride as u64);
        let entry = by_type(T::DTYPE, ADD);
        launch(
            self,
            stream,
            entry,
            (input, weight, epsilon),
            (output, scales),
            place,
        )
    }
}

/// Sums that a row keeps in shared memory: one for 32 chunks of 16 bytes, and the levels of the tree above them that
/// don't fit a warp.
fn sums(cols: usize, element: usize) -> usize {
    let mut level = (cols * element)
        .div_ceil(params::IMMA_VECTOR_BYTES as usize)
        .div_ceil(32);
    let mut all = level;
    while level > 32 {
        level = level.div_ceil(32);
        all += level;
    }
    all
}

/// `residual` is an address and a stride, or (0, 0).
fn launch<T: Element>(
    device: &Device,
    stream: &CudaStream,
    entry: &'static str,
    (input, weight, epsilon): (Matrix<&impl DevicePtr<T>>, &impl DevicePtr<T>, f32),
    (output, scales): (
        Matrix<&mut impl DevicePtrMut<i8>>,
        &mut impl DevicePtrMut<f32>,
    ),
    residual: (u64, u64),
) -> Result<()> {
    check_epsilon(epsilon)?;
    input.check("input", device, input.data)?;
    check_output(
        "rmsnorm_quantize",
        device,
        [input.rows, input.cols],
        &output,
    )?;
    check_vector("weight", device, weight, input.cols)?;
    check_vector("scales", device, scales, input.rows)?;
    let cols = narrow("columns", input.cols)?;
    let sums = sums(input.cols, size_of::<T>());
    let geometry = geometry(
        input.rows,
        input.cols,
        size_of::<T>(),
        params::IMMA_ROWS_MAX_THREADS,
    );
    let geometry = Geometry {
        dynamic_shared: narrow("sums", sums * size_of::<f32>() * geometry.block.1 as usize)?,
        ..geometry
    };
    let (source, _source) = input.data.device_ptr(stream);
    let (target, _target) = output.data.device_ptr_mut(stream);
    let (weight, _weight) = weight.device_ptr(stream);
    let (scales, _scales) = scales.device_ptr_mut(stream);
    let params = RmsnormQuantizeParams {
        input: aligned::<T>("input", source)? as *const _,
        residual: residual.0 as *mut _,
        weight: aligned::<T>("weight", weight)? as *const _,
        output: target as *mut _,
        scales: aligned::<f32>("scales", scales)? as *mut _,
        input_stride: input.stride as u64,
        residual_stride: residual.1,
        output_stride: output.stride as u64,
        rows: narrow("rows", input.rows)?,
        cols,
        padded: narrow("output columns", output.cols)?,
        sums: sums as u32,
        epsilon,
        reserved: 0,
    };
    if input.rows == 0 {
        return Ok(());
    }
    let launch = PreparedLaunch::new(device, stream, entry, geometry, params)?;
    // SAFETY: the matrices were checked against their slices, the vectors against rows and columns, the residual by the
    // caller; all guards live here or in the caller.
    unsafe { launch.enqueue() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_have_room_for_every_level() {
        // 256 elements of 16 bits a sum.
        for (cols, expected) in [
            (0, 0),
            (1, 1),
            (257, 2),
            (8192, 32),
            (8193, 33 + 2),
            (262_144, 1024 + 32),
            (262_145, 1025 + 33 + 2),
        ] {
            assert_eq!(sums(cols, 2), expected, "{cols}");
        }
        // More than 32 sums belong to a row that has its block to itself: the kernel's barriers rely on it.
        for element in [2, 4] {
            for cols in (1..200_000).step_by(97) {
                assert!(sums(cols, element) <= 32 || geometry(9, cols, element, 1024).block.1 == 1);
            }
        }
    }
}
