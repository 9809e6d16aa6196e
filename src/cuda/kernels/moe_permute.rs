//! Tokens to the rows of their experts: `cuda/moe_permute.cu`.

use super::families::MoePermute;
use super::params::{self, MoePermuteParams};
use super::quantize_rows::geometry;
use crate::cuda::runtime::{
    narrow, Device, DeviceElement, Entry, Held, Matrix, PreparedLaunch, Region,
};
use crate::element::DType;
use crate::error::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

/// Quantises each token with its own scale and copies it to the rows that it goes to:
/// [`moe_permute`](crate::ops::moe_permute) on the device, the same bits.
///
/// `x [T, K]`, `rows [T * k]` as [`moe_sort`](super::moe_sort()) writes them, `output [R, K..]` (zeros from K on) and
/// `scales [R]`. Rows that nobody goes to are left alone; rows beyond R, which [`Device::check_faults`] tells, too. A token
/// of up to 64 KiB is read from memory once. One launch; allocates nothing and waits for nothing.
///
/// # Errors
/// [`Error::Length`] when `rows` is no whole number of choices for each token or `scales` does not have R elements,
/// [`Error::ShapeMismatch`] for an output with fewer columns; those of the memory itself; what [`Device::check_faults`] knows
/// of earlier calls. After an error nothing was enqueued.
pub fn moe_permute<T: DeviceElement>(
    device: &Device,
    stream: &CudaStream,
    x: Matrix<&impl DevicePtr<T>>,
    rows: &impl DevicePtr<i32>,
    output: Matrix<&mut impl DevicePtrMut<i8>>,
    scales: &mut impl DevicePtrMut<f32>,
) -> Result<()> {
    device.check_faults()?;
    let mut held = Held::new(device, stream)?;
    let (x, pairs) = (held.read::<T>("the tokens", &x)?, rows.len());
    let rows = held.read_vector("the rows of the pairs", rows, pairs)?;
    let scales = held.write_vector("scales", scales, output.rows)?;
    let output = held.write("output", output)?;
    enqueue(&held, T::DTYPE, x, rows, (output, scales))
}

/// Choices of each token, of a vector that has one element for each.
pub(super) fn choices(what: &'static str, tokens: usize, pairs: usize) -> Result<usize> {
    match pairs.checked_div(tokens) {
        None if pairs == 0 => Ok(0),
        Some(choices) if choices * tokens == pairs => Ok(choices),
        _ => Err(Error::Length {
            what,
            found: pairs,
            expected: tokens * pairs.checked_div(tokens).unwrap_or(0),
        }),
    }
}

/// The same over memory that is held.
pub(in crate::cuda) fn enqueue(
    held: &Held<'_>,
    dtype: DType,
    x: Region<'_>,
    rows: Region<'_>,
    (output, scales): (Region<'_>, Region<'_>),
) -> Result<()> {
    const ENTRIES: [Entry<MoePermute>; 3] = [
        Entry::new("moe_permute_f32"),
        Entry::new("moe_permute_f16"),
        Entry::new("moe_permute_bf16"),
    ];
    if output.cols < x.cols {
        return Err(Error::ShapeMismatch {
            op: "moe_permute",
            lhs: vec![x.rows, x.cols],
            rhs: vec![output.rows, output.cols],
            expected: "an output with at least the tokens' columns".into(),
        });
    }
    let params = MoePermuteParams {
        input: x.address as *const _,
        destinations: rows.address as *const _,
        output: output.address as *mut _,
        scales: scales.address as *mut _,
        fault: held.device().fault_address() as *mut _,
        input_stride: x.stride as u64,
        output_stride: output.stride as u64,
        tokens: narrow("tokens", x.rows)?,
        cols: narrow("columns", x.cols)?,
        padded: narrow("output columns", output.cols)?,
        choices: narrow(
            "choices",
            choices("the rows of the pairs", x.rows, rows.cols)?,
        )?,
        rows: narrow("rows", output.rows)?,
        reserved: 0,
    };
    if x.rows == 0 {
        return Ok(());
    }
    let most = params::IMMA_ROWS_MAX_THREADS;
    let geometry = geometry(x.rows, x.cols, dtype.bytes(), most);
    let entry = Entry::by_type(dtype, ENTRIES);
    let launch = PreparedLaunch::new(held.device(), held.stream(), entry, geometry, params)?;
    // SAFETY: all regions are held; there are `choices` rows for each token, a scale for each row of the output, and the
    // kernel leaves out rows beyond it.
    unsafe { launch.enqueue() }
}
