//! The int8 GEMM of compute capability 9.0: `cuda/igemm_sm90.cu`, by TMA and wgmma.
//!
//! ```text
//!   tile        the tiles, as data                  tensor_map   what TMA knows of an operand or output, made once
//!   instance    a tile and a split of K             parameters   what a kernel takes
//!   model       what an instance costs, a pure function
//! ```

mod instance;
mod model;
mod parameters;
mod tensor_map;
mod tile;

pub use instance::Instance;
pub use model::{candidates, predict};
pub use tensor_map::TensorMaps;
pub use tile::{by_name, Tile, TILES};

use super::checked::{CheckedProduct, GemmOperands};
use super::epilogue::{self, Sums};
use super::model::Shape;
use super::params::IgemmSm90Params;
use crate::cuda::runtime::{narrow, Device, Entry, Geometry, Held, PreparedLaunch, Region};
use crate::epilogue::Output;
use crate::error::{Error, Result};
use cudarc::driver::CudaStream;
use instance::whole_sums;
use parameters::{IgemmSm90, WithMaps};
use tensor_map::{unsupported, Element, Layout, TensorMap};
use tile::{STAGE_K, THREADS};

/// Clusters' tiles along the tall side that blocks walk together, for the sake of L2.
const RASTER_ROWS: u32 = 8;

/// Whether this device and this build have the kernels at all.
///
/// # Errors
/// [`Error::Unavailable`] with what is missing.
pub fn available(device: &Device) -> Result<()> {
    let missing = |found: String, expected: &str| Error::Unavailable {
        what: "igemm_sm90",
        found,
        expected: expected.into(),
    };
    if device.properties().capability != (9, 0) {
        let expected = "compute capability 9.0; igemm_sm80 runs on others";
        return Err(missing(device.properties().arch(), expected));
    }
    if device.has(TILES[0].entry) {
        return Ok(());
    }
    Err(missing(
        "a build without it".into(),
        "90a in IMMA_CUDA_ARCHS",
    ))
}

/// Enqueues `out = epilogue(a x w^T)` by wgmma and TMA: see [`GemmOperands`].
///
/// Any shape with K of at least 1; addresses and strides of `a` and `w` that are multiples of 16 bytes. `maps` keeps the
/// tensor maps from one call to the next. The workspace holds at least [`Instance::workspace`] elements, those of
/// [`Instance::zeros`] all zero; they are zero again when the launch is done. Enqueues one launch, with a split too, and one
/// more for int8 with a scale a row; allocates nothing and waits for nothing, so it can be captured in a graph.
///
/// # Errors
/// [`Error::Unavailable`] as [`available`] and for operands that TMA can't read; otherwise as
/// [`igemm_sm80`](super::igemm_sm80()). After an error nothing was enqueued.
pub fn igemm_sm90(
    device: &Device,
    stream: &CudaStream,
    instance: Instance,
    maps: &TensorMaps,
    mut operands: GemmOperands<'_>,
) -> Result<()> {
    available(device)?;
    let mut held = Held::new(device, stream)?;
    let (product, workspace) = operands.check("igemm_sm90", &mut held)?;
    enqueue(&held, instance, maps, &product, workspace)
}

/// Enqueues zeros where an instance needs them.
pub(in crate::cuda) fn clear(
    held: &Held<'_>,
    instance: Instance,
    [m, n]: [usize; 2],
    output: Output,
    workspace: Option<Region<'_>>,
) -> Result<()> {
    let zeros = instance.zeros(m, n, output);
    match workspace {
        Some(workspace) if !zeros.is_empty() => held.clear(workspace, zeros),
        _ => Ok(()),
    }
}

/// The same over memory that is held.
pub(in crate::cuda) fn enqueue<'a>(
    held: &Held<'_>,
    instance: Instance,
    maps: &TensorMaps,
    product: &CheckedProduct<'a>,
    workspace: Option<Region<'a>>,
) -> Result<()> {
    let Shape { m, n, .. } = product.shape();
    let (parts, output) = (product.parts(), product.parts().epilogue.output);
    if parts.groups.is_some() || parts.batches.count != 1 {
        return Err(Error::Unavailable {
            what: "igemm_sm90",
            found: "scale groups or a batch".into(),
            expected: "one product of weights with a scale a column; igemm_sm80 and igemm_groupwise run others"
                .into(),
        });
    }
    let needed = instance.workspace(m, n, output);
    let found = workspace.map_or(0, |w| w.cols);
    if instance.splits == 0 || found < needed {
        return Err(Error::Value {
            what: "splits and workspace",
            found: format!("{} splits, {found} elements of workspace", instance.splits),
            expected: format!(
                "at least 1 split and {needed} elements, those that sums are added up in all zero"
            ),
        });
    }
    let workspace = workspace.filter(|_| needed > 0);
    if let Some(place) = workspace.filter(|w| !w.is_aligned(4, 16)) {
        return Err(Error::Value {
            what: "workspace",
            found: format!("at {:#x}", place.address),
            expected: "an address that is a multiple of 16".into(),
        });
    }
    let operands = Operands::new(product)?;
    if output != Output::Int8PerRow {
        return launch(held, instance, maps, product, &operands, workspace);
    }
    // The sums first, whole; what they are added up in lies behind them.
    let Some(place) = workspace else {
        // Rows without columns still have scales.
        let none = Sums::whole(Region::rows_without_columns(m));
        return epilogue::enqueue(held, product, none);
    };
    let sums = place.rows_of(m, n);
    let raw = product.raw_sums(sums)?;
    let rest = place.after(whole_sums(m, n, output), 4);
    launch(held, instance, maps, &raw, &operands, Some(rest))?;
    epilogue::enqueue(held, product, Sums::whole(sums))
}

/// How the operands lie, as TMA sees it; the rows of their boxes are still open.
struct Operands {
    a: Layout,
    w: Layout,
}

impl Operands {
    /// Refuses operands that TMA can't read.
    fn new(product: &CheckedProduct<'_>) -> Result<Self> {
        let (a, w) = (&product.parts().a, &product.parts().w);
        let (a, w) = (Layout::of(a, Element::Byte), Layout::of(w, Element::Byte));
        for (what, layout) in [("a", &a), ("w", &w)] {
            if let Some(why) = layout.refusal() {
                return Err(unsupported(what, why));
            }
        }
        Ok(Operands { a, w })
    }

    /// The maps of the tall and of the wide operand.
    fn maps(&self, held: &Held<'_>, tile: &Tile, maps: &TensorMaps) -> Result<[TensorMap; 2]> {
        let (a_rows, w_rows) = if tile.swapped {
            (tile.wide / tile.cluster, tile.tall)
        } else {
            (tile.tall, tile.wide / tile.cluster)
        };
        let context = held.device().context();
        let boxes = |layout: Layout, box_rows| Layout { box_rows, ..layout };
        let a = maps.a(context, boxes(self.a, a_rows))?;
        let w = maps.w(context, boxes(self.w, w_rows))?;
        Ok(if tile.swapped { [w, a] } else { [a, w] })
    }
}

/// How an output is stored by TMA; `None` where threads store it. The kernel does so where the epilogue is plain too, which
/// it knows itself.
fn stored(instance: &Instance, splits: usize, product: &CheckedProduct<'_>) -> Option<Layout> {
    let parts = product.parts();
    let box_rows = instance.tile.stored_rows().filter(|_| splits == 1)?;
    let element = Element::stored(parts.epilogue.output.dtype())?;
    let layout = Layout {
        box_rows,
        ..Layout::of(&parts.out, element)
    };
    layout.refusal().is_none().then_some(layout)
}

fn launch(
    held: &Held<'_>,
    instance: Instance,
    maps: &TensorMaps,
    product: &CheckedProduct<'_>,
    operands: &Operands,
    workspace: Option<Region<'_>>,
) -> Result<()> {
    let tile = instance.tile;
    let Shape { m, n, k } = product.shape();
    let epilogue = product.epilogue_params()?;
    if product.is_empty() {
        return Ok(());
    }
    let (part, splits) = instance.parts(k);
    // With one part nothing is added up.
    let sums = workspace.filter(|_| splits > 1).map_or(0, |w| w.address);
    let (tall, wide) = tile.tiles(m, n);
    let items = narrow("tiles times splits", tall * wide * splits)?;
    let all = held.device().properties().multiprocessors as usize;
    let mine = instance.multiprocessors.map_or(all, |most| most.min(all));
    let clusters = ((mine / tile.cluster) as u32).max(1).min(items);
    let stored = stored(&instance, splits, product);
    let params = IgemmSm90Params {
        sums: sums as *mut _,
        arrived: (sums + 4 * (m * n) as u64) as *mut _,
        k: narrow("k", k)?,
        k_split: narrow("k of a split", part * STAGE_K)?,
        splits: narrow("splits", splits)?,
        items,
        tiles_tall: narrow("tiles", tall)?,
        tiles_wide: narrow("tiles", wide)?,
        raster_rows: RASTER_ROWS,
        weights_ready: instance.weights_ready.into(),
        tensor_store: stored.is_some().into(),
        reserved: 0,
        epilogue,
    };
    let [tall, wide] = operands.maps(held, tile, maps)?;
    let params = WithMaps {
        tall,
        wide,
        output: match stored {
            Some(layout) => maps.output(held.device().context(), layout)?,
            None => TensorMap::unused(),
        },
        params,
    };
    let blocks = clusters * tile.cluster as u32;
    let geometry = Geometry {
        cluster: tile.cluster as u32,
        // The kernel waits itself for what came before (griddepcontrol.wait) before it touches any operand.
        dependent: true,
        ..Geometry::new((blocks.into(), 1), (THREADS as u32, 1)).with_shared(tile.shared())
    };
    let entry: Entry<IgemmSm90> = tile.entry;
    let launch = PreparedLaunch::new(held.device(), held.stream(), entry, geometry, params)?;
    // SAFETY: the product was checked, the workspace against the split; the maps are of its regions.
    unsafe { launch.enqueue() }
}
