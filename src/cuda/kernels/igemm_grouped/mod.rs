//! The grouped int8 GEMM through `mma.sync`: `cuda/igemm_grouped.cu`.

mod instance;

pub use instance::{by_name, Instance, Tile, GROUPWISE_TILES, TILES};

use super::checked::{CheckedProduct, GemmOperands};
use super::mma_tile::RASTER_ROWS;
use super::model::Shape;
use super::params::{IgemmGroupedParams, IgemmParams};
use super::quantize_grouped;
use crate::cuda::runtime::{narrow, Device, Geometry, Held, PreparedLaunch, Region};
use crate::epilogue::Output;
use crate::error::{Error, Result};
use cudarc::driver::CudaStream;

/// 4-byte elements of workspace that a product of at most `m` rows needs: floats of the rows that int8 with a scale a row is
/// made of. `columns` are the output's.
pub fn workspace(m: usize, columns: usize, output: Output) -> usize {
    match output {
        Output::Int8PerRow => m.saturating_mul(columns),
        _ => 0,
    }
}

/// Enqueues `out[i] = epilogue(a[i] x w_g^T)` for the rows `i` of each group `g`, which only the device knows: operands with
/// [`GemmOperands::with_group_rows`], weights `[G * N, K]`, the groups' one after the other; columns' parts are `[G * N]`.
///
/// Rows that belong to no group are neither read nor written. The bits of a row are those of
/// [`igemm_sm80`](super::igemm_sm80()) (or [`igemm_groupwise`](super::igemm_groupwise()), with scale groups
/// `[K / size rounded up, G * N]`) over that row and its group's weights. The launch depends on shapes alone, so it may be
/// captured in a graph and replayed over other offsets. One launch, two for int8 with a scale a row; allocates nothing and
/// waits for nothing. No padding of groups is asked for; tiles of groups that start at any row cost the same.
///
/// # Errors
/// As [`igemm_sm80`](super::igemm_sm80()); [`Error::Value`] when weights are no whole number of groups, the instance is for
/// other scales, the workspace has less than [`workspace`] elements; what [`Device::check_faults`] knows of earlier calls.
/// After an error nothing was enqueued.
pub fn igemm_grouped(
    device: &Device,
    stream: &CudaStream,
    instance: Instance,
    mut operands: GemmOperands<'_>,
) -> Result<()> {
    device.check_faults()?;
    let mut held = Held::new(device, stream)?;
    let (product, workspace) = operands.check_grouped("igemm_grouped", &mut held)?;
    enqueue(&held, instance, &product, workspace)
}

/// The same over memory that is held.
pub(in crate::cuda) fn enqueue<'a>(
    held: &Held<'_>,
    instance: Instance,
    product: &CheckedProduct<'a>,
    room: Option<Region<'a>>,
) -> Result<()> {
    let Shape { m, .. } = product.shape();
    let (parts, output) = (product.parts(), product.parts().epilogue.output);
    let Some(scales) = parts.row_scales_out else {
        return multiply(held, instance, product);
    };
    let needed = workspace(m, parts.out.cols, output);
    let found = room.map_or(0, |room| room.cols);
    let Some(room) = room.filter(|_| found >= needed) else {
        return Err(Error::Value {
            what: "the workspace",
            found: format!("{found} elements"),
            expected: format!("{needed} for int8 with a scale a row"),
        });
    };
    let floats = room.rows_of(m, parts.out.cols);
    let Some(rows) = parts.group_rows else {
        return Err(ungrouped());
    };
    multiply(held, instance, &product.to_floats(floats)?)?;
    quantize_grouped::enqueue(held, rows, floats, parts.out, scales)
}

fn ungrouped() -> Error {
    Error::Value {
        what: "the rows of the groups",
        found: "none".into(),
        expected: "offsets or counts; a single product goes to igemm_sm80".into(),
    }
}

fn multiply(held: &Held<'_>, instance: Instance, product: &CheckedProduct<'_>) -> Result<()> {
    let tile = instance.tile;
    let Shape { n, k, .. } = product.shape();
    let parts = product.parts();
    let rows = parts.group_rows.ok_or_else(ungrouped)?;
    if parts.groups.is_some() != instance.is_groupwise() {
        return Err(Error::Value {
            what: "the instance",
            found: instance.to_string(),
            expected: match parts.groups {
                Some(_) => "one named _groupwise, for weights with scales along K".into(),
                None => "one without _groupwise, for weights without scales along K".into(),
            },
        });
    }
    if tile.aligned {
        product.check_aligned(tile.name)?;
    }
    let epilogue = product.epilogue_params()?;
    if product.is_empty() {
        return Ok(());
    }
    let tiles_n = n.div_ceil(tile.n);
    // Numbers of tiles are counted in 32 bits, and a block's next is its last plus the blocks.
    let most = rows.most_tiles(tile.m).saturating_mul(tiles_n);
    narrow("tiles", most)?;
    let resident = held.device().properties().multiprocessors as usize * tile.blocks;
    let blocks = most.min(resident).max(1);
    let geometry = Geometry::new((blocks as u64, 1), (32 * tile.warps as u32, 1));
    let (scales, size) = match &parts.groups {
        Some((scales, size)) => (Some(scales), *size),
        None => (None, 1),
    };
    let params = IgemmGroupedParams {
        rows: rows.params(held.device())?,
        group_scales: scales.map_or(0, |s| s.address) as *const _,
        group_stride: scales.map_or(0, |s| s.stride) as u64,
        group_batch: n as u64,
        group_shift: size.ilog2(),
        reserved: 0,
        igemm: IgemmParams {
            a: parts.a.address as *const _,
            w: parts.w.address as *const _,
            partial: std::ptr::null_mut(),
            a_stride: parts.a.stride as u64,
            w_stride: parts.w.stride as u64,
            a_batch: 0,
            w_batch: parts.batches.w as u64,
            k: narrow("k", k)?,
            k_split: narrow("k", k.next_multiple_of(tile.k))?,
            splits: 1,
            tiles_m: 0,
            tiles_n: narrow("tiles", tiles_n)?,
            raster_rows: RASTER_ROWS,
            epilogue,
        },
    };
    let geometry = geometry.with_shared(tile.shared());
    let launch = PreparedLaunch::new(held.device(), held.stream(), tile.entry, geometry, params)?;
    // SAFETY: the product was checked for every group and all rows; the kernel leaves out groups that are not among them, and
    // the device's word for faults lives as long as the device.
    unsafe { launch.enqueue() }
}
