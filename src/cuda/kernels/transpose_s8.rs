//! int8 matrices transposed: `cuda/transpose_s8.cu`.

use super::families::Transpose;
use super::params::{self, TransposeParams};
use crate::cuda::runtime::{
    narrow, Device, Entry, Geometry, Held, Matrix, PreparedLaunch, Region, MAX_GRID_Y,
};
use crate::error::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

/// Transposes: `output[c, r] = input[r, c]`, as `[K, N]` weights become K-major.
///
/// `output` has a row for each of the input's columns and at least as many columns as the input has rows; the
/// columns beyond are set to zero.
///
/// # Errors
/// As [`quantize_rows`](super::quantize_rows).
pub fn transpose_s8(
    device: &Device,
    stream: &CudaStream,
    input: Matrix<&impl DevicePtr<i8>>,
    output: Matrix<&mut impl DevicePtrMut<i8>>,
) -> Result<()> {
    let mut held = Held::new(device, stream)?;
    let input = held.read("input", &input)?;
    let output = held.write("output", output)?;
    enqueue(&held, input, output)
}

/// The same over memory that is held.
pub(in crate::cuda) fn enqueue(
    held: &Held<'_>,
    input: Region<'_>,
    output: Region<'_>,
) -> Result<()> {
    if output.rows != input.cols || output.cols < input.rows {
        return Err(Error::ShapeMismatch {
            op: "transpose_s8",
            lhs: vec![input.rows, input.cols],
            rhs: vec![output.rows, output.cols],
            expected: "an output with a row for each column and at least as many columns as rows"
                .into(),
        });
    }
    let params = TransposeParams {
        input: input.address as *const _,
        output: output.address as *mut _,
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
    const ENTRY: Entry<Transpose> = Entry::new("transpose_s8");
    let tiles = |n: usize| n.div_ceil(params::IMMA_TRANSPOSE_TILE as usize) as u64;
    let grid = (tiles(input.cols), tiles(output.cols).min(MAX_GRID_Y));
    let geometry = Geometry::new(grid, (params::IMMA_TRANSPOSE_THREADS, 1));
    let launch = PreparedLaunch::new(held.device(), held.stream(), ENTRY, geometry, params)?;
    // SAFETY: both regions are held, and the output was checked against the input.
    unsafe { launch.enqueue() }
}
