//! Integers back to floats: `cuda/dequantize.cu`.

use super::families;
use super::params::DequantizeParams;
use super::quantize_static::{flat_geometry, flatten};
use crate::cuda::runtime::{
    narrow, Device, DeviceElement, DeviceVector, Entry, Held, Matrix, PreparedLaunch, Region,
};
use crate::error::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

type Entries = [Entry<families::Dequantize>; 3];

mod sealed {
    pub trait Sealed {
        #[doc(hidden)]
        const ENTRIES: super::Entries;
    }
}

impl sealed::Sealed for i8 {
    const ENTRIES: Entries = [
        Entry::new("dequantize_i8_f32"),
        Entry::new("dequantize_i8_f16"),
        Entry::new("dequantize_i8_bf16"),
    ];
}

impl sealed::Sealed for i32 {
    const ENTRIES: Entries = [
        Entry::new("dequantize_i32_f32"),
        Entry::new("dequantize_i32_f16"),
        Entry::new("dequantize_i32_bf16"),
    ];
}

/// What can be dequantised: int8 elements and int32 sums. Sealed.
pub trait Integer: sealed::Sealed + 'static {}
impl Integer for i8 {}
impl Integer for i32 {}

/// How integers become floats, for [`dequantize`]. A part that is `None` is left out.
#[derive(Debug, Clone, Default)]
pub struct Dequantize<'a> {
    /// One for each row, or a single one for all.
    pub row_scales: Option<DeviceVector<'a, f32>>,
    /// One for each column.
    pub col_scales: Option<DeviceVector<'a, f32>>,
    /// Subtracted first: one for each row.
    pub row_zero_points: Option<DeviceVector<'a, i32>>,
    /// Subtracted first: one for each column; not together with those of the rows.
    pub col_zero_points: Option<DeviceVector<'a, i32>>,
}

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
/// otherwise as [`quantize_rows`](super::quantize_rows), with an output of exactly the input's shape.
pub fn dequantize<Q: Integer, T: DeviceElement>(
    device: &Device,
    stream: &CudaStream,
    input: Matrix<&impl DevicePtr<Q>>,
    output: Matrix<&mut impl DevicePtrMut<T>>,
    how: Dequantize<'_>,
) -> Result<()> {
    if output.dim() != input.dim() {
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
    let mut held = Held::new(device, stream)?;
    let input = held.read::<Q>("input", &input)?;
    let output = held.write::<T>("output", output)?;
    let single = how.row_scales.as_ref().is_some_and(|s| s.len() == 1);
    let per_row = if single { 1 } else { input.rows };
    let row_scales = vector(&mut held, "row scales", &how.row_scales, per_row)?;
    let col_scales = vector(&mut held, "column scales", &how.col_scales, input.cols)?;
    let row_zeros = vector(
        &mut held,
        "row zero points",
        &how.row_zero_points,
        input.rows,
    )?;
    let col_zeros = vector(
        &mut held,
        "column zero points",
        &how.col_zero_points,
        input.cols,
    )?;
    // One run of elements, where no element needs to know its row or column.
    let per_tensor = (single || row_scales.is_none())
        && col_scales.is_none()
        && row_zeros.or(col_zeros).is_none();
    let flat = per_tensor && input.is_contiguous() && output.is_contiguous();
    let (rows, cols) = flatten(flat, input.rows, input.cols);
    let address = |region: Option<Region<'_>>| region.map_or(0, |r| r.address);
    let params = DequantizeParams {
        input: input.address as *const _,
        output: output.address as *mut _,
        row_scales: address(row_scales) as *const _,
        col_scales: address(col_scales) as *const _,
        zero_points: address(row_zeros.or(col_zeros)) as *const _,
        input_stride: input.stride as u64,
        output_stride: output.stride as u64,
        cols: cols as u64,
        rows: narrow("rows", rows)?,
        row_step: u32::from(!single),
        zero_row_step: u32::from(row_zeros.is_some()),
        zero_col_step: u32::from(col_zeros.is_some()),
    };
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let geometry = flat_geometry(rows, cols, size_of::<T>());
    let entry = Entry::by_type(T::DTYPE, Q::ENTRIES);
    let launch = PreparedLaunch::new(device, stream, entry, geometry, params)?;
    // SAFETY: all regions are held; the matrices are of one shape, the vectors were checked against rows and columns.
    unsafe { launch.enqueue() }
}

fn vector<'h, T>(
    held: &mut Held<'h>,
    what: &'static str,
    vector: &'h Option<DeviceVector<'_, T>>,
    expected: usize,
) -> Result<Option<Region<'h>>> {
    let vector = vector.as_ref();
    vector
        .map(|v| held.read_vector(what, &v.0, expected))
        .transpose()
}
