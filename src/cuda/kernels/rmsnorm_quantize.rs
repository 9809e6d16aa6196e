//! RMSNorm and per-token quantisation: `cuda/rmsnorm_quantize.cu`.

use super::families::{AddRmsnormQuantize, RmsnormQuantize};
use super::params::{self, RmsnormQuantizeParams};
use super::quantize_rows::{check_output, geometry};
use crate::cuda::runtime::{
    narrow, Device, DeviceElement, Entry, Family, Held, Matrix, PreparedLaunch, Region,
};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::numerics::check_epsilon;
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

const NORM: [Entry<RmsnormQuantize>; 3] = [
    Entry::new("rmsnorm_quantize_f32"),
    Entry::new("rmsnorm_quantize_f16"),
    Entry::new("rmsnorm_quantize_bf16"),
];
const ADD: [Entry<AddRmsnormQuantize>; 3] = [
    Entry::new("add_rmsnorm_quantize_f32"),
    Entry::new("add_rmsnorm_quantize_f16"),
    Entry::new("add_rmsnorm_quantize_bf16"),
];

/// RMSNorm of each row, quantised with the row's own scale: what runs right before a product.
///
/// ```text
/// y[r, c]      = T( T( input[r, c] * inverse_rms(input[r, :]) ) * weight[c] )          not stored
/// output[r, c] = clip(round(y[r, c] * (127 / bound[r])), -127, 127),  NaN -> 0          scales[r] = bound[r] / 127
/// ```
///
/// The bits of [`rmsnorm`](crate::ops::rmsnorm) into T followed by [`quantize_rows`](super::quantize_rows), which are those
/// of [`rmsnorm_quantize`](crate::ops::rmsnorm_quantize) on the CPU: the squares are summed in an order that depends on the
/// row alone.
///
/// `weight` has one element a column, `scales` one a row. `output` has the rows of `input` and at least its columns;
/// the columns beyond are set to zero. A row of up to 64 KiB is read from memory once, a longer one three times.
/// Rows and weights on 16-byte boundaries are accessed 16 bytes at a time, others element by element.
///
/// # Errors
/// As [`quantize_rows`](super::quantize_rows); [`Error::Length`] for the weight; [`Error::Value`] for an epsilon that is
/// not a finite number above zero, and for rows of some millions of elements, whose sums fit no shared memory.
pub fn rmsnorm_quantize<T: DeviceElement>(
    device: &Device,
    stream: &CudaStream,
    input: Matrix<&impl DevicePtr<T>>,
    (weight, epsilon): (&impl DevicePtr<T>, f32),
    output: Matrix<&mut impl DevicePtrMut<i8>>,
    scales: &mut impl DevicePtrMut<f32>,
) -> Result<()> {
    let mut held = Held::new(device, stream)?;
    let rows = Rows {
        input: held.read::<T>("input", &input)?,
        residual: None,
        output: held.write("output", output)?,
        weight: held.read_vector::<T>("weight", weight, input.cols)?,
        scales: held.write_vector("scales", scales, input.rows)?,
    };
    enqueue(&held, T::DTYPE, NORM, rows, epsilon)
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
/// As [`rmsnorm_quantize`]; [`Error::ShapeMismatch`] for a residual of another shape.
pub fn add_rmsnorm_quantize<T: DeviceElement>(
    device: &Device,
    stream: &CudaStream,
    input: Matrix<&impl DevicePtr<T>>,
    residual: Matrix<&mut impl DevicePtrMut<T>>,
    (weight, epsilon): (&impl DevicePtr<T>, f32),
    output: Matrix<&mut impl DevicePtrMut<i8>>,
    scales: &mut impl DevicePtrMut<f32>,
) -> Result<()> {
    if residual.dim() != input.dim() {
        return Err(Error::ShapeMismatch {
            op: "add_rmsnorm_quantize",
            lhs: vec![input.rows, input.cols],
            rhs: vec![residual.rows, residual.cols],
            expected: "a residual of the input's shape".into(),
        });
    }
    let mut held = Held::new(device, stream)?;
    let rows = Rows {
        input: held.read::<T>("input", &input)?,
        residual: Some(held.write::<T>("residual", residual)?),
        output: held.write("output", output)?,
        weight: held.read_vector::<T>("weight", weight, input.cols)?,
        scales: held.write_vector("scales", scales, input.rows)?,
    };
    enqueue(&held, T::DTYPE, ADD, rows, epsilon)
}

/// What is read and written.
struct Rows<'a> {
    input: Region<'a>,
    residual: Option<Region<'a>>,
    /// One a column.
    weight: Region<'a>,
    output: Region<'a>,
    /// One a row.
    scales: Region<'a>,
}

fn enqueue<F: Family<Params = RmsnormQuantizeParams>>(
    held: &Held<'_>,
    dtype: DType,
    entries: [Entry<F>; 3],
    rows: Rows<'_>,
    epsilon: f32,
) -> Result<()> {
    check_epsilon(epsilon)?;
    let (input, output) = (rows.input, rows.output);
    check_output("rmsnorm_quantize", [input.rows, input.cols], &output)?;
    let most = params::IMMA_ROWS_MAX_THREADS;
    let sums = sums(input.cols, dtype.bytes());
    let geometry = geometry(input.rows, input.cols, dtype.bytes(), most);
    let shared = sums * size_of::<f32>() * geometry.block.1 as usize;
    let residual = rows.residual.map_or((0, 0), |r| (r.address, r.stride));
    let params = RmsnormQuantizeParams {
        input: input.address as *const _,
        residual: residual.0 as *mut _,
        weight: rows.weight.address as *const _,
        output: output.address as *mut _,
        scales: rows.scales.address as *mut _,
        input_stride: input.stride as u64,
        residual_stride: residual.1 as u64,
        output_stride: output.stride as u64,
        rows: narrow("rows", input.rows)?,
        cols: narrow("columns", input.cols)?,
        padded: narrow("output columns", output.cols)?,
        sums: narrow("sums", sums)?,
        epsilon,
        reserved: 0,
    };
    if input.rows == 0 {
        return Ok(());
    }
    let entry = Entry::by_type(dtype, entries);
    let geometry = geometry.with_shared(shared);
    let launch = PreparedLaunch::new(held.device(), held.stream(), entry, geometry, params)?;
    // SAFETY: all regions are held; output and residual were checked against the input, the vectors have an element a
    // row or column.
    unsafe { launch.enqueue() }
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
