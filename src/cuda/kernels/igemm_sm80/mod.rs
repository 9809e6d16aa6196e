//! The int8 GEMM on tensor cores through `mma.sync`: `cuda/igemm_sm80.cu`.

mod instance;
mod model;

pub use instance::{by_name, Instance, Tile, TILES};
pub use model::{candidates, predict};

use super::checked::{CheckedProduct, GemmOperands};
use super::epilogue::{self, Sums};
use super::mma_tile::RASTER_ROWS;
use super::model::Shape;
use super::params::IgemmParams;
use crate::cuda::runtime::{narrow, Device, Geometry, Held, PreparedLaunch, Region};
use crate::epilogue::Output;
use crate::error::{Error, Result};
use cudarc::driver::CudaStream;

/// Enqueues `out = epilogue(a x w^T)`: see [`GemmOperands`].
///
/// The workspace holds at least [`Instance::workspace`] elements for each product; what it holds before and after means
/// nothing. Enqueues one launch, two with a split or for int8 with a scale a row; allocates nothing and waits for nothing,
/// so it can be captured in a graph.
///
/// # Errors
/// [`Error::ShapeMismatch`], [`Error::Shape`], [`Error::KTooLong`], [`Error::Length`] and [`Error::Value`] for what does not
/// fit (an aligned tile refuses operands that are not), [`Error::Epilogue`] for parts that do not go with the output. After
/// an error nothing was enqueued.
pub fn igemm_sm80(
    device: &Device,
    stream: &CudaStream,
    instance: Instance,
    mut operands: GemmOperands<'_>,
) -> Result<()> {
    let mut held = Held::new(device, stream)?;
    let (product, workspace) = operands.check("igemm_sm80", &mut held)?;
    enqueue(&held, instance, &product, workspace)
}

/// The same over memory that is held.
pub(in crate::cuda) fn enqueue(
    held: &Held<'_>,
    instance: Instance,
    product: &CheckedProduct<'_>,
    workspace: Option<Region<'_>>,
) -> Result<()> {
    let Instance { tile, splits } = instance;
    let Shape { m, n, k } = product.shape();
    let (parts, output) = (product.parts(), product.parts().epilogue.output);
    if parts.groups.is_some() {
        return Err(Error::Epilogue {
            what: "scale groups",
            output: output.dtype(),
            expected: "a product by igemm_groupwise",
        });
    }
    let count = parts.batches.count;
    let needed = count.saturating_mul(instance.workspace(m, n, output));
    let found = workspace.map_or(0, |w| w.cols);
    if splits == 0 || found < needed {
        return Err(Error::Value {
            what: "splits and workspace",
            found: format!("{splits} splits, {found} elements of workspace"),
            expected: format!("at least 1 split and {needed} elements"),
        });
    }
    if tile.aligned {
        product.check_aligned(tile.name)?;
    }
    let epilogue = product.epilogue_params()?;
    let partial = workspace.filter(|_| needed > 0);
    if product.is_empty() {
        // Rows without columns still have scales.
        let none = partial.unwrap_or_else(|| Region::rows_without_columns(m));
        return match output {
            Output::Int8PerRow => epilogue::enqueue(held, product, Sums::whole(none)),
            _ => Ok(()),
        };
    }
    let k_split = k.div_ceil(tile.k).div_ceil(splits).max(1) * tile.k;
    let (tiles_m, tiles_n) = (m.div_ceil(tile.m), n.div_ceil(tile.n));
    let grid = (
        tiles_m as u64 * tiles_n as u64,
        splits as u64 * count as u64,
    );
    let geometry = Geometry::new(grid, (32 * tile.warps as u32, 1)).with_shared(tile.shared());
    let params = IgemmParams {
        a: parts.a.address as *const _,
        w: parts.w.address as *const _,
        partial: partial.map_or(0, |p| p.address) as *mut _,
        a_stride: parts.a.stride as u64,
        w_stride: parts.w.stride as u64,
        a_batch: parts.batches.a as u64,
        w_batch: parts.batches.w as u64,
        k: narrow("k", k)?,
        k_split: narrow("k of a split", k_split)?,
        splits: narrow("splits", splits)?,
        tiles_m: narrow("tiles", tiles_m)?,
        tiles_n: narrow("tiles", tiles_n)?,
        raster_rows: RASTER_ROWS,
        epilogue,
    };
    let launch = PreparedLaunch::new(held.device(), held.stream(), tile.entry, geometry, params)?;
    // SAFETY: the product was checked, and the workspace against its sums.
    unsafe { launch.enqueue()? };
    match partial {
        // The launch before wrote all of `[count, splits, m, n]`.
        Some(partial) => {
            let sums = Sums {
                region: partial.rows_of(m, n),
                splits,
                split_stride: m * n,
            };
            epilogue::enqueue(held, product, sums)
        }
        None => Ok(()),
    }
}
