//! The int8 GEMM of compute capability 9.0: `cuda/igemm_sm90.cu`, by TMA and wgmma.
//!
//! ```text
//!   tile      the instances, as data       tensor_map    what TMA knows of an operand or output, made once
//!   launch    clusters, dependent launch   choose        which one and which split, a pure function
//! ```

mod choose;
mod launch;
mod tensor_map;
mod tile;

pub(super) use choose::predict90;
pub use choose::{candidates90, choose90, Choice90};
pub use tensor_map::TensorMaps;
pub use tile::{by_name90, Tile90, TILES90};

use super::epilogue::{DeviceEpilogue, OutputElement};
use super::launch::narrow;
use super::matrix::Matrix;
use super::module::Device;
use super::params::IgemmSm90Params;
use crate::error::{Error, Result};
use crate::numerics::{MAX_K, MAX_K_ZERO_POINT};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};
use std::fmt;
use std::str::FromStr;
use tensor_map::{unsupported, Element, Layout, TensorMap};
use tile::STAGE_K;

/// Clusters' tiles along the tall side that blocks walk together.
const GROUP: usize = 8;

/// An instance and the parts of K for one product: from [`choose90`], or named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Igemm90 {
    /// The instance.
    pub tile: &'static Tile90,
    /// Parts into which K is split, at least 1. The sums are exact, so every split gives the same bits.
    pub splits: usize,
    /// Multiprocessors that the launch may fill, all where `None`: what is left runs other kernels beside it.
    pub multiprocessors: Option<usize>,
    /// Whether the weights were complete before the kernel ahead on the stream started, which is so for those of a layer:
    /// they are then read while it still runs. Where that kernel writes them this must be false, or the product is of
    /// old bytes.
    pub weights_ready: bool,
}

impl Igemm90 {
    /// int32 elements of workspace that an `[m, n]` product needs, none without a split: sums and counters. They are
    /// zero before a launch (`stream.memset_zeros` makes them so), and again after it.
    pub fn workspace(&self, m: usize, n: usize) -> usize {
        if self.splits <= 1 {
            return 0;
        }
        let (tall, wide) = self.tile.tiles(m, n);
        m * n + tall * self.tile.cluster * wide * self.tile.readers()
    }

    /// Steps of K that a part has, and parts of which none is empty.
    fn parts(&self, k: usize) -> (usize, usize) {
        let steps = k.div_ceil(STAGE_K);
        let part = steps.div_ceil(self.splits.max(1)).max(1);
        (part, steps.div_ceil(part).max(1))
    }
}

/// `TILE`, or `TILE/SPLITS`.
impl fmt::Display for Igemm90 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tile.name)?;
        match self.splits {
            1 => Ok(()),
            splits => write!(f, "/{splits}"),
        }
    }
}

impl FromStr for Igemm90 {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, splits) = match text.split_once('/') {
            Some((name, splits)) => (name, splits.parse().ok().filter(|s| *s >= 1)),
            None => (text, Some(1)),
        };
        match (by_name90(name), splits) {
            (Some(tile), Some(splits)) => Ok(Igemm90 {
                tile,
                splits,
                multiprocessors: None,
                weights_ready: false,
            }),
            _ => Err(Error::Value {
                what: "the tile",
                found: format!("'{text}'"),
                expected: format!(
                    "NAME or NAME/SPLITS with a NAME of {}",
                    TILES90
                        .iter()
                        .map(|tile| tile.name)
                        .collect::<Vec<_>>()
                        .join(" ")
                ),
            }),
        }
    }
}

/// How an operand lies, its box still open.
fn operand_layout<S>(matrix: &Matrix<S>, address: u64) -> Layout {
    Layout {
        address,
        element: Element::Byte,
        rows: matrix.rows,
        cols: matrix.cols,
        stride: matrix.stride,
        box_rows: 0,
    }
}

fn readable(what: &'static str, layout: &Layout) -> Result<()> {
    layout
        .refusal()
        .map_or(Ok(()), |why| Err(unsupported(what, why)))
}

impl Device {
    /// Whether [`igemm90`](Self::igemm90) takes these operands: a device of compute capability 9.0, a build for `90a`,
    /// addresses and strides that are multiples of 16 bytes, K of at least 1. Other operands go to
    /// [`igemm`](Self::igemm).
    ///
    /// # Errors
    /// [`Error::Unavailable`] with what is in the way.
    pub fn supports_igemm90(
        &self,
        stream: &CudaStream,
        a: Matrix<&impl DevicePtr<i8>>,
        w: Matrix<&impl DevicePtr<i8>>,
    ) -> Result<()> {
        self.has_igemm90()?;
        let a = operand_layout(&a, a.data.device_ptr(stream).0);
        let w = operand_layout(&w, w.data.device_ptr(stream).0);
        readable("a", &a).and_then(|()| readable("w", &w))
    }

    /// Whether this device and this build have the kernels at all.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with what is missing.
    pub fn has_igemm90(&self) -> Result<()> {
        let missing = |found: String, expected: &str| Error::Unavailable {
            what: "igemm_sm90",
            found,
            expected: expected.into(),
        };
        if self.properties.capability != (9, 0) {
            return Err(missing(
                self.properties.arch(),
                "compute capability 9.0; igemm_sm80 runs on others",
            ));
        }
        self.kernel(TILES90[0].entry)
            .map(|_| ())
            .map_err(|_| missing("a build without it".into(), "90a in IMMA_CUDA_ARCHS"))
    }

    /// `output = epilogue(a x w^T)` as [`igemm`](Self::igemm), by wgmma and TMA: int8 `a` `[M, K]` and `w` `[N, K]`,
    /// exact int32 sums, any shape with K of at least 1, addresses and strides that are multiples of 16 bytes.
    ///
    /// `maps` keeps the operands' tensor maps from one call to the next. `workspace` holds at least
    /// [`Igemm90::workspace`] elements, all zero; they are zero again when the launch is done. Enqueues one launch, with
    /// a split too; allocates nothing and waits for nothing, so it can be captured in a graph.
    ///
    /// # Errors
    /// [`Error::Unavailable`] as [`supports_igemm90`](Self::supports_igemm90); [`Error::ShapeMismatch`],
    /// [`Error::KTooLong`], [`Error::Length`] and [`Error::Value`] for what does not fit, [`Error::Epilogue`] for parts that do
    /// not go with the output type. After an error nothing was enqueued.
    #[allow(clippy::too_many_arguments)]
    pub fn igemm90<O: OutputElement>(
        &self,
        stream: &CudaStream,
        igemm: Igemm90,
        maps: &TensorMaps,
        a: Matrix<&impl DevicePtr<i8>>,
        w: Matrix<&impl DevicePtr<i8>>,
        mut output: Matrix<&mut impl DevicePtrMut<O>>,
        epilogue: &DeviceEpilogue<'_>,
        workspace: Option<&mut dyn DevicePtrMut<i32>>,
    ) -> Result<()> {
        let Igemm90 { tile, splits, .. } = igemm;
        let (m, n, k) = (a.rows, w.rows, a.cols);
        self.has_igemm90()?;
        a.check("a", self, a.data)?;
        w.check("w", self, w.data)?;
        if w.cols != k {
            return Err(Error::ShapeMismatch {
                op: "igemm90",
                lhs: vec![m, k],
                rhs: vec![n, w.cols],
                expected: format!("weights [N, K] with K = {k}"),
            });
        }
        let cols = epilogue.output_columns(n)?;
        if (output.rows, output.cols) != (m, cols) {
            return Err(Error::Shape {
                op: "igemm90",
                what: "the output",
                found: vec![output.rows, output.cols],
                expected: format!("[{m}, {cols}]"),
            });
        }
        let (limit, operands) = match epilogue.row_zero_points {
            Some(_) => (MAX_K_ZERO_POINT, "int8 operands with zero points"),
            None => (MAX_K, "int8 operands"),
        };
        if k > limit {
            return Err(Error::KTooLong {
                found: k,
                limit,
                operands,
            });
        }
        let needed = igemm.workspace(m, n);
        let found = workspace.as_ref().map_or(0, |w| w.len());
        if splits == 0 || found < needed {
            return Err(Error::Value {
                what: "splits and workspace",
                found: format!("{splits} splits, {found} elements of workspace"),
                expected: format!("at least 1 split and {needed} elements, all zero"),
            });
        }
        if let Some(workspace) = &workspace {
            self.check_memory("workspace", &**workspace)?;
        }
        let (a_address, _a) = a.data.device_ptr(stream);
        let (w_address, _w) = w.data.device_ptr(stream);
        let mut a_layout = operand_layout(&a, a_address);
        let mut w_layout = operand_layout(&w, w_address);
        readable("a", &a_layout).and_then(|()| readable("w", &w_layout))?;
        let (out_cols, out_stride) = (output.cols, output.stride);
        let prepared = epilogue.prepare(self, stream, &mut output)?;
        let mut workspace = workspace.map(|w| w.device_ptr_mut(stream));
        let sums = match &mut workspace {
            Some((address, _)) if splits > 1 => *address,
            _ => 0,
        };
        if !sums.is_multiple_of(16) {
            return Err(Error::Value {
                what: "workspace",
                found: format!("at {sums:#x}"),
                expected: "an address that is a multiple of 16".into(),
            });
        }
        if m == 0 || n == 0 {
            return Ok(());
        }
        let (part, splits) = igemm.parts(k);
        let (tall, wide) = tile.tiles(m, n);
        let items = narrow("tiles times splits", tall * wide * splits)?;
        let all = self.properties.multiprocessors as usize;
        let mine = igemm.multiprocessors.map_or(all, |most| most.min(all));
        let clusters = ((mine / tile.cluster) as u32).max(1);
        // The kernel stores by TMA where the epilogue is plain too, which it knows itself.
        let stored = match (splits, tile.stored_rows(), Element::stored(O::DTYPE)) {
            (1, Some(box_rows), Some(element)) => Some(Layout {
                address: prepared.params.output as u64,
                element,
                rows: m,
                cols: out_cols,
                stride: out_stride,
                box_rows,
            }),
            _ => None,
        }
        .filter(|layout| layout.refusal().is_none());
        let params = IgemmSm90Params {
            sums: sums as *mut _,
            arrived: (sums + 4 * (m * n) as u64) as *mut _,
            k: narrow("k", k)?,
            k_split: narrow("k of a split", part * STAGE_K)?,
            splits: narrow("splits", splits)?,
            items,
            tiles_tall: narrow("tiles", tall)?,
            tiles_wide: narrow("tiles", wide)?,
            raster_rows: GROUP as u32,
            weights_ready: igemm.weights_ready.into(),
            tensor_store: stored.is_some().into(),
            reserved: 0,
            epilogue: prepared.params,
        };
        (a_layout.box_rows, w_layout.box_rows) = if tile.swapped {
            (tile.wide / tile.cluster, tile.tall)
        } else {
            (tile.tall, tile.wide / tile.cluster)
        };
        let a_map = maps.a(self.context(), a_layout)?;
        let w_map = maps.w(self.context(), w_layout)?;
        let out_map = match stored {
            Some(layout) => maps.output(self.context(), layout)?,
            None => TensorMap::unused(),
        };
        let maps = if tile.swapped {
            [w_map, a_map, out_map]
        } else {
            [a_map, w_map, out_map]
        };
        let blocks = clusters.min(items) * tile.cluster as u32;
        // SAFETY: operands, output and every part of the epilogue were checked against the shape, the workspace against
        // the split; all guards live here.
        unsafe { launch::enqueue(self, stream, tile, blocks, maps, params) }
    }
}
