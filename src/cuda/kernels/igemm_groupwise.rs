//! The GEMM for weights whose scales change along K: `cuda/igemm_groupwise.cu`.

use super::checked::{CheckedProduct, GemmOperands};
use super::families::IgemmGroupwise;
use super::mma_tile::{tile, MmaTile, RASTER_ROWS};
use super::model::Shape;
use super::params::{IgemmGroupwiseParams, IgemmParams};
use crate::cuda::runtime::{narrow, Device, Geometry, Held, PreparedLaunch, Properties};
use crate::error::{Error, Result};
use cudarc::driver::CudaStream;
use std::fmt;
use std::str::FromStr;

/// The tile that a block of this kernel computes.
pub type Tile = MmaTile<IgemmGroupwise>;

/// Every tile, small ones first.
#[rustfmt::skip]
pub const TILES: [Tile; 5] = [
    tile!("igemm_groupwise_", 16 x 64 x 128 "", stages 5, warps 4, registers 168, blocks 3),
    tile!("igemm_groupwise_", 64 x 64 x 128 "", stages 4, warps 4, registers 255, blocks 2),
    tile!("igemm_groupwise_", 128 x 128 x 64 "", stages 4, warps 8, registers 255, blocks 1),
    tile!("igemm_groupwise_", 16 x 64 x 128 "_any", stages 5, warps 4, registers 168, blocks 3),
    tile!("igemm_groupwise_", 64 x 64 x 128 "_any", stages 4, warps 4, registers 255, blocks 2),
];

/// The tile of that name.
pub fn by_name(name: &str) -> Option<&'static Tile> {
    TILES.iter().find(|tile| tile.name == name)
}

/// A tile; the order of additions forbids to split K.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// The tile.
    pub tile: &'static Tile,
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tile.name)
    }
}

impl FromStr for Instance {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let named = by_name(text).map(|tile| Instance { tile });
        named.ok_or_else(|| Error::Value {
            what: "the tile",
            found: format!("'{text}'"),
            expected: format!("one of {}", TILES.map(|tile| tile.name).join(" ")),
        })
    }
}

/// The instance for a product: a pure function of its shape and of whether operands start, and their rows lie, at multiples
/// of 16 bytes.
///
/// Few rows take a small tile; of many, the largest whose blocks fill the device.
pub fn choose(shape: Shape, aligned: bool, device: &Properties) -> Instance {
    let Shape { m, n, .. } = shape;
    let fits = |tile: &&Tile| tile.aligned == aligned && (m > 16 || tile.m == 16);
    let blocks = |tile: &Tile| m.div_ceil(tile.m) * n.div_ceil(tile.n);
    let mut best = &TILES[if aligned { 0 } else { 3 }];
    for tile in TILES.iter().filter(fits) {
        let fills = blocks(tile) >= device.multiprocessors as usize;
        if tile.m >= best.m && (fills || tile.m <= 64) {
            best = tile;
        }
    }
    Instance { tile: best }
}

/// Enqueues the product of int8 rows and int8 weights whose scales change along K, `size` (32, 64 or 128) of it a scale group.
///
/// ```text
/// v = 0;  for each scale group g in order:  v = fma(f32(exact sum of the group), scales[g, n], v)
/// y = v * row_scale                   without a bias
/// y = fma(v, row_scale, bias[n])      with one;  then activation, gate and residual as in the epilogue, one rounding
/// ```
///
/// The operands are those of [`GemmOperands::with_scale_groups`], the output floats or int8 with a given scale. The bits are
/// those of [`Int8Linear`](crate::Int8Linear) with group-wise weights on the CPU. Enqueues one launch; allocates nothing and
/// waits for nothing.
///
/// # Errors
/// As [`igemm_sm80`](super::igemm_sm80()); [`Error::Value`] for another size or a batch; [`Error::Epilogue`] for scales of
/// columns, zero points, raw sums or int8 with a scale a row, which scale groups do not have. After an error nothing was
/// enqueued.
pub fn igemm_groupwise(
    device: &Device,
    stream: &CudaStream,
    instance: Instance,
    mut operands: GemmOperands<'_>,
) -> Result<()> {
    let mut held = Held::new(device, stream)?;
    let (product, _) = operands.check("igemm_groupwise", &mut held)?;
    enqueue(&held, instance, &product)
}

/// The same over memory that is held.
pub(in crate::cuda) fn enqueue(
    held: &Held<'_>,
    instance: Instance,
    product: &CheckedProduct<'_>,
) -> Result<()> {
    let tile = instance.tile;
    let Shape { m, n, k } = product.shape();
    let parts = product.parts();
    let Some((scales, size)) = &parts.groups else {
        return Err(Error::Value {
            what: "the weights' scales",
            found: "none along K".into(),
            expected: "scale groups; other weights go to igemm_sm80".into(),
        });
    };
    if parts.batches.count != 1 {
        return Err(Error::Value {
            what: "the batch",
            found: format!("{} products", parts.batches.count),
            expected: "one, of weights with scale groups".into(),
        });
    }
    if tile.aligned {
        product.check_aligned(tile.name)?;
    }
    let epilogue = product.epilogue_params()?;
    if product.is_empty() {
        return Ok(());
    }
    let (tiles_m, tiles_n) = (m.div_ceil(tile.m), n.div_ceil(tile.n));
    let grid = (tiles_m as u64 * tiles_n as u64, 1);
    let geometry = Geometry::new(grid, (32 * tile.warps as u32, 1)).with_shared(tile.shared());
    let params = IgemmGroupwiseParams {
        group_scales: scales.address as *const _,
        group_stride: scales.stride as u64,
        group_shift: size.ilog2(),
        reserved: 0,
        igemm: IgemmParams {
            a: parts.a.address as *const _,
            w: parts.w.address as *const _,
            partial: std::ptr::null_mut(),
            a_stride: parts.a.stride as u64,
            w_stride: parts.w.stride as u64,
            a_batch: 0,
            w_batch: 0,
            k: narrow("k", k)?,
            k_split: narrow("k", k.next_multiple_of(tile.k))?,
            splits: 1,
            tiles_m: narrow("tiles", tiles_m)?,
            tiles_n: narrow("tiles", tiles_n)?,
            raster_rows: RASTER_ROWS,
            epilogue,
        },
    };
    let launch = PreparedLaunch::new(held.device(), held.stream(), tile.entry, geometry, params)?;
    // SAFETY: the product was checked, its scale groups against the shape.
    unsafe { launch.enqueue() }
}
