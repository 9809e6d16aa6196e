//! Integers back to floats: `cuda/dequantize.cu`.

use super::launch::{by_type, narrow, PreparedLaunch};
use super::matrix::{aligned, check_vector, Matrix};
use super::module::Device;
use super::params::DequantizeParams;
use super::quantize_static::{flat_geometry, flatten};
use crate::element::Element;
use crate::error::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

mod sealed {
    pub trait Sealed {
        const ENTRIES: [&'static str; 3];
    }
    impl Sealed for i8 {
        const ENTRIES: [&'static str; 3] = [
            "dequantize_i8_f32",
            "dequantize_i8_f16",
            "dequantize_i8_bf16",
        ];
    }
    impl Sealed for i32 {
        const ENTRIES: [&'static str; 3] = [
            "dequantize_i32_f32",
            "dequantize_i32_f16",
            "dequantize_i32_bf16",
        ];
    }
}

/// What can be dequantised: int8 elements and int32 sums. Sealed.
pub trait Integer: sealed::Sealed + 'static {}
impl Integer for i8 {}
impl Integer for i32 {}

/// How integers become floats: [`Device::dequantize`]. A part that is `None` is left out.
#[derive(Clone, Copy, Default)]
pub struct Dequantize<'a> {
    /// One for each row, or a single one for all.
    pub row_scales: Option<&'a dyn DevicePtr<f32>>,
    /// One for each column.
    pub col_scales: Option<&'a dyn DevicePtr<f32>>,
    /// Subtracted first: one for each row.
    pub row_zero_points: Option<&'a dyn DevicePtr<i32>>,
    /// Subtracted first: one for each column; not together with those of the rows.
    pub col_zero_points: Option<&'a dyn DevicePtr<i32>>,
}

impl std::fmt::Debug for Dequantize<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dequantize")
            .field("row_scales", &self.row_scales.map(|v| v.len()))
            .field("col_scales", &self.col_scales.map(|v| v.len()))
            .field("row_zero_points", &self.row_zero_points.map(|v| v.len()))
            .field("col_zero_points", &self.col_zero_points.map(|v| v.len()))
            .finish()
    }
}

impl Device {
    /// Turns int8 elements or int32 sums back into floats.
    ///
    /// ```text
    /// output[r, c] = (f32(input[r, c] - zero_point) * row_scales[r]) * col_scales[c]
    /// ```
    ///
    /// Each step is rounded to nearest even in f32, then once to the output's type: the bits of
    /// [`numerics::dequantize`](crate::numerics::dequantize). The subtraction is int32 arithmetic that wraps.
    ///
    /// # Errors
    /// [`Error::Length`] when a vector of `how` does not fit, [`Error::Value`] when it has zero points of both kinds;
    /// otherwise as [`quantize_rows`](Self::quantize_rows), with an output of exactly the input's shape.
    pub fn dequantize<Q: Integer, T: Element>(
        &self,
        stream: &CudaStream,
        input: Matrix<&impl DevicePtr<Q>>,
        output: Matrix<&mut impl DevicePtrMut<T>>,
        how: Dequantize<'_>,
    ) -> Result<()> {
        input.check("input", self, input.data)?;
        output.check("output", self, output.data)?;
        if (output.rows, output.cols) != (input.rows, input.cols) {
            return Err(Error::ShapeMismatch {
                op: "dequantize",
                lhs: vec![input.rows, input.cols],
                rhs: vec![output.rows, output.cols],
                expected: "an output of the input's shape".into(),
            });
        }
        if how.row_zero_points.is_some() && how.col_zero_points.is_some() {
            return Err(Error::Value {
                what: "zero points",
                found: "given for rows and for columns".into(),
                expected: "one kind".into(),
            });
        }
        let single = how.row_scales.is_some_and(|scales| scales.len() == 1);
        check(
            self,
            "row scales",
            how.row_scales,
            if single { 1 } else { input.rows },
        )?;
        check(self, "column scales", how.col_scales, input.cols)?;
        check(self, "row zero points", how.row_zero_points, input.rows)?;
        check(self, "column zero points", how.col_zero_points, input.cols)?;

        // One run of elements, where no element needs to know its row or column.
        let per_tensor = (single || how.row_scales.is_none())
            && how.col_scales.is_none()
            && how.row_zero_points.is_none()
            && how.col_zero_points.is_none();
        let flat = per_tensor && input.is_contiguous() && output.is_contiguous();
        let (rows, cols) = flatten(flat, input.rows, input.cols);
        let (source, _source) = input.data.device_ptr(stream);
        let (target, _target) = output.data.device_ptr_mut(stream);
        let row_scales = how.row_scales.map(|scales| scales.device_ptr(stream));
        let col_scales = how.col_scales.map(|scales| scales.device_ptr(stream));
        let zeros = how
            .row_zero_points
            .or(how.col_zero_points)
            .map(|zeros| zeros.device_ptr(stream));
        let params = DequantizeParams {
            input: aligned::<Q>("input", source)? as *const _,
            output: aligned::<T>("output", target)? as *mut _,
            row_scales: row_scales.as_ref().map_or(0, |(address, _)| *address) as *const _,
            col_scales: col_scales.as_ref().map_or(0, |(address, _)| *address) as *const _,
            zero_points: zeros.as_ref().map_or(0, |(address, _)| *address) as *const _,
            input_stride: input.stride as u64,
            output_stride: output.stride as u64,
            cols: cols as u64,
            rows: narrow("rows", rows)?,
            row_step: u32::from(!single),
            zero_row_step: u32::from(how.row_zero_points.is_some()),
            zero_col_step: u32::from(how.col_zero_points.is_some()),
        };
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let geometry = flat_geometry(rows, cols, size_of::<T>());
        let entry = by_type(T::DTYPE, Q::ENTRIES);
        let launch = PreparedLaunch::new(self, stream, entry, geometry, params)?;
        // SAFETY: the matrices were checked against their slices and the vectors against rows and columns; all
        // guards live here.
        unsafe { launch.enqueue() }
    }
}

fn check<T>(
    device: &Device,
    what: &'static str,
    vector: Option<&dyn DevicePtr<T>>,
    expected: usize,
) -> Result<()> {
    vector.map_or(Ok(()), |vector| {
        check_vector(what, device, vector, expected)
    })
}
