//! Per-token quantisation of the rows that are some group's: `cuda/quantize_grouped.cu`.

use super::families::QuantizeGrouped;
use super::group_rows::HeldGroups;
use super::params::{self, QuantizeGroupedParams};
use super::quantize_rows::{check_output, geometry};
use crate::cuda::runtime::{narrow, Entry, Held, PreparedLaunch, Region};
use crate::error::Result;

/// Enqueues the integers and scales of the groups' rows of f32; both regions were checked to have an element a row.
pub(super) fn enqueue(
    held: &Held<'_>,
    rows: HeldGroups<'_>,
    floats: Region<'_>,
    output: Region<'_>,
    scales: Region<'_>,
) -> Result<()> {
    const ENTRY: Entry<QuantizeGrouped> = Entry::new("quantize_grouped_f32");
    check_output("quantize_grouped", [floats.rows, floats.cols], &output)?;
    let params = QuantizeGroupedParams {
        rows: rows.params(held.device())?,
        input: floats.address as *const _,
        output: output.address as *mut _,
        scales: scales.address as *mut _,
        input_stride: floats.stride as u64,
        output_stride: output.stride as u64,
        cols: narrow("columns", floats.cols)?,
        padded: narrow("output columns", output.cols)?,
    };
    if floats.rows == 0 {
        return Ok(());
    }
    let most = params::IMMA_ROWS_MAX_THREADS;
    let geometry = geometry(floats.rows, floats.cols, size_of::<f32>(), most);
    let launch = PreparedLaunch::new(held.device(), held.stream(), ENTRY, geometry, params)?;
    // SAFETY: all regions are held; the output was checked against the floats, the scales have an element a row.
    unsafe { launch.enqueue() }
}
