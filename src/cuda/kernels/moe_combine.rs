//! The results of a token's experts back into one: `cuda/moe_combine.cu`.

use super::families::MoeCombine;
use super::moe_permute::choices;
use super::params::{self, MoeCombineParams};
use crate::cuda::runtime::{
    narrow, Device, DeviceElement, Entry, Geometry, Held, Matrix, PreparedLaunch, Region,
    MAX_GRID_Y,
};
use crate::element::DType;
use crate::error::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

/// The weighted sum of each token's results in the order of its choices: [`moe_combine`](crate::ops::moe_combine) on the
/// device, the same bits.
///
/// `results [R, N]`, `rows [T * k]` as [`moe_sort`](super::moe_sort()) writes them, `weights [T * k]`, `output [T, N]`. A
/// pair without a row adds nothing, nor does a row beyond R, which [`Device::check_faults`] tells. One launch; allocates
/// nothing and waits for nothing.
///
/// # Errors
/// [`Error::Length`] when `rows` is no whole number of choices for each token or `weights` is not as long,
/// [`Error::ShapeMismatch`] when outputs and results differ in columns; those of the memory itself; what
/// [`Device::check_faults`] knows of earlier calls. After an error nothing was enqueued.
pub fn moe_combine<T: DeviceElement>(
    device: &Device,
    stream: &CudaStream,
    results: Matrix<&impl DevicePtr<T>>,
    rows: &impl DevicePtr<i32>,
    weights: &impl DevicePtr<f32>,
    output: Matrix<&mut impl DevicePtrMut<T>>,
) -> Result<()> {
    device.check_faults()?;
    let mut held = Held::new(device, stream)?;
    let pairs = rows.len();
    let results = held.read::<T>("the experts' results", &results)?;
    let rows = held.read_vector("the rows of the pairs", rows, pairs)?;
    let weights = held.read_vector("the router's weights", weights, pairs)?;
    let output = held.write::<T>("output", output)?;
    enqueue(&held, T::DTYPE, results, (rows, weights), output)
}

/// The same over memory that is held; rows and weights are as long.
pub(in crate::cuda) fn enqueue(
    held: &Held<'_>,
    dtype: DType,
    results: Region<'_>,
    (rows, weights): (Region<'_>, Region<'_>),
    output: Region<'_>,
) -> Result<()> {
    const ENTRIES: [Entry<MoeCombine>; 3] = [
        Entry::new("moe_combine_f32"),
        Entry::new("moe_combine_f16"),
        Entry::new("moe_combine_bf16"),
    ];
    if output.cols != results.cols {
        return Err(Error::ShapeMismatch {
            op: "moe_combine",
            lhs: vec![results.rows, results.cols],
            rhs: vec![output.rows, output.cols],
            expected: format!("an output with {} columns", results.cols),
        });
    }
    let (tokens, cols) = (output.rows, output.cols);
    let params = MoeCombineParams {
        results: results.address as *const _,
        sources: rows.address as *const _,
        weights: weights.address as *const _,
        output: output.address as *mut _,
        fault: held.device().fault_address() as *mut _,
        results_stride: results.stride as u64,
        output_stride: output.stride as u64,
        tokens: narrow("tokens", tokens)?,
        cols: narrow("columns", cols)?,
        choices: narrow(
            "choices",
            choices("the rows of the pairs", tokens, rows.cols)?,
        )?,
        rows: narrow("rows", results.rows)?,
    };
    if tokens == 0 || cols == 0 {
        return Ok(());
    }
    let threads = params::IMMA_COMBINE_THREADS;
    let chunks = (cols * dtype.bytes()).div_ceil(params::IMMA_VECTOR_BYTES as usize);
    let grid = (
        chunks.div_ceil(threads as usize) as u64,
        (tokens as u64).min(MAX_GRID_Y),
    );
    let (geometry, entry) = (
        Geometry::new(grid, (threads, 1)),
        Entry::by_type(dtype, ENTRIES),
    );
    let launch = PreparedLaunch::new(held.device(), held.stream(), entry, geometry, params)?;
    // SAFETY: all regions are held; there are `choices` rows and weights for each token, and the kernel leaves out rows
    // beyond the results.
    unsafe { launch.enqueue() }
}
