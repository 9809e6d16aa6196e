//! The int8 GEMM on tensor cores: `cuda/igemm_sm80.cu`.
//!
//! ```text
//!   tile      the instances, as data        choose    which one and which split, a pure function
//! ```

mod choose;
mod tile;

pub(super) use choose::{candidates, predict, NEXT_LAUNCH};
pub use choose::{choose, Choice, Limits};
pub use tile::{by_name, Tile, GROUPED_TILES, TILES};

use super::batches::Batches;
use super::epilogue::{DeviceEpilogue, OutputElement, Sums};
use super::launch::{narrow, Geometry, PreparedLaunch};
use super::matrix::{aligned, check_vector, Matrix};
use super::module::Device;
use super::params::IgemmParams;
use crate::error::{Error, Result};
use crate::numerics::{MAX_K, MAX_K_ZERO_POINT};
use cudarc::driver::{CudaSlice, CudaStream, CudaViewMut, DevicePtr, DevicePtrMut};
use std::fmt;
use std::str::FromStr;

/// Rows of tiles that blocks walk together.
const GROUP_M: usize = 8;

/// An instance and the parts of K for one product: from [`choose`], or named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Igemm {
    /// The instance.
    pub tile: &'static Tile,
    /// Parts into which K is split, at least 1. The sums are exact, so every split gives the same bits.
    pub splits: usize,
}

impl Igemm {
    /// int32 elements of workspace that an `[m, n]` product needs: the sums of each part, none without a split.
    pub fn workspace(&self, m: usize, n: usize) -> usize {
        if self.splits <= 1 {
            0
        } else {
            self.splits * m * n
        }
    }

    /// The same for [`Device::igemm_quantized`], which needs the sums of a single part too.
    pub fn workspace_quantized(&self, m: usize, n: usize) -> usize {
        self.splits.max(1) * m * n
    }
}

/// `TILE`, or `TILE/SPLITS`.
impl fmt::Display for Igemm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tile.name)?;
        match self.splits {
            1 => Ok(()),
            splits => write!(f, "/{splits}"),
        }
    }
}

impl FromStr for Igemm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, splits) = match text.split_once('/') {
            Some((name, splits)) => (name, splits.parse().ok().filter(|s| *s >= 1)),
            None => (text, Some(1)),
        };
        match (by_name(name), splits) {
            (Some(tile), Some(splits)) => Ok(Igemm { tile, splits }),
            _ => Err(Error::Value {
                what: "the tile",
                found: format!("'{text}'"),
                expected: format!(
                    "NAME or NAME/SPLITS with a NAME of {}",
                    TILES.map(|tile| tile.name).join(" ")
                ),
            }),
        }
    }
}

impl Device {
    /// What [`choose`] needs to know of this device.
    ///
    /// # Errors
    /// [`Error::Cuda`] when the driver refuses.
    pub fn limits(&self) -> Result<Limits> {
        Ok(Limits::from(self.properties()))
    }

    /// `output = epilogue(a x w^T)`: int8 `a` `[M, K]` and `w` `[N, K]` (K-major, as [`transpose_s8`](Self::transpose_s8)
    /// and [`quantize_cols`](Self::quantize_cols) write it), exact int32 sums, any shape, offset and stride.
    ///
    /// `workspace` holds at least [`Igemm::workspace`] elements; what it holds before and after means nothing. Enqueues one
    /// launch, two with a split; allocates nothing and waits for nothing, so it can be captured in a graph.
    ///
    /// ```no_run
    /// # use imma::cuda::{choose, Device, DeviceEpilogue, Igemm, Matrix};
    /// let device = Device::open(0)?;
    /// let stream = device.context().default_stream();
    /// # let error = |e| panic!("{e:?}");
    /// let a = stream.clone_htod(&vec![1i8; 64 * 256]).unwrap_or_else(error);
    /// # let error = |e| panic!("{e:?}");
    /// let w = stream.clone_htod(&vec![2i8; 32 * 256]).unwrap_or_else(error);
    /// # let error = |e| panic!("{e:?}");
    /// let mut out = stream.alloc_zeros::<i32>(64 * 32).unwrap_or_else(error);
    /// let choice = choose(64, 32, 256, true, device.limits()?);
    /// device.igemm(
    ///     &stream,
    ///     Igemm { tile: choice.tile, splits: 1 },
    ///     Matrix::new(&a, 64, 256),
    ///     Matrix::new(&w, 32, 256),
    ///     Matrix::new(&mut out, 64, 32),
    ///     &DeviceEpilogue::default(),
    ///     None,
    /// )?;
    /// # Ok::<(), imma::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`], [`Error::KTooLong`], [`Error::Length`] and [`Error::Value`] for what does not fit (an aligned
    /// instance refuses operands that are not), [`Error::Epilogue`] for parts that do not go with the output type. After an
    /// error nothing was enqueued.
    #[allow(clippy::too_many_arguments)]
    pub fn igemm<O: OutputElement>(
        &self,
        stream: &CudaStream,
        igemm: Igemm,
        a: Matrix<&impl DevicePtr<i8>>,
        w: Matrix<&impl DevicePtr<i8>>,
        output: Matrix<&mut impl DevicePtrMut<O>>,
        epilogue: &DeviceEpilogue<'_>,
        workspace: Option<&mut CudaSlice<i32>>,
    ) -> Result<()> {
        let mut view = workspace.map(|w| w.as_view_mut());
        self.igemm_in(stream, igemm, a, w, output, epilogue, view.as_mut())
    }

    /// [`igemm`](Self::igemm) for several products of one shape at equal distances, in the same launches: `a`, `w`, `output`
    /// and the parts of the epilogue are those of the first. The slices reach to the end of the last.
    ///
    /// `workspace` holds at least [`Igemm::workspace`] elements for each product.
    ///
    /// # Errors
    /// As [`igemm`](Self::igemm); [`Error::Length`] for a slice that the last product leaves, [`Error::Value`] for outputs that
    /// overlap or more products times splits than 65,535.
    #[allow(clippy::too_many_arguments)]
    pub fn igemm_batched<O: OutputElement>(
        &self,
        stream: &CudaStream,
        igemm: Igemm,
        batches: &Batches,
        a: Matrix<&impl DevicePtr<i8>>,
        w: Matrix<&impl DevicePtr<i8>>,
        output: Matrix<&mut impl DevicePtrMut<O>>,
        epilogue: &DeviceEpilogue<'_>,
        workspace: Option<&mut CudaSlice<i32>>,
    ) -> Result<()> {
        let mut view = workspace.map(|w| w.as_view_mut());
        let workspace = view.as_mut();
        let by = (igemm, batches, None);
        self.igemm_all(stream, by, a, w, output, epilogue, workspace)
    }

    /// `a x w^T` as [`igemm`](Self::igemm), its epilogue to f32, and each row of that as int8 with a scale of its own: what
    /// [`epilogue_quantized`](Self::epilogue_quantized) makes of the sums, with the bits of `igemm` to f32 and
    /// [`quantize_rows`](Self::quantize_rows) after it.
    ///
    /// `output` is `[M, N]`, or `[M, N / 2]` when gated, `scales` has M elements, and `workspace` at least
    /// [`Igemm::workspace_quantized`]. Enqueues two launches, with a split too.
    ///
    /// # Errors
    /// As [`igemm`](Self::igemm); [`Error::Epilogue`] for an `out_scale`.
    #[allow(clippy::too_many_arguments)]
    pub fn igemm_quantized(
        &self,
        stream: &CudaStream,
        igemm: Igemm,
        a: Matrix<&impl DevicePtr<i8>>,
        w: Matrix<&impl DevicePtr<i8>>,
        output: Matrix<&mut impl DevicePtrMut<i8>>,
        scales: &mut impl DevicePtrMut<f32>,
        epilogue: &DeviceEpilogue<'_>,
        workspace: &mut CudaSlice<i32>,
    ) -> Result<()> {
        let workspace = &mut workspace.as_view_mut();
        self.igemm_quantized_in(stream, igemm, a, w, output, scales, epilogue, workspace)
    }

    /// The same with a part of a slice as workspace.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn igemm_quantized_in(
        &self,
        stream: &CudaStream,
        igemm: Igemm,
        a: Matrix<&impl DevicePtr<i8>>,
        w: Matrix<&impl DevicePtr<i8>>,
        output: Matrix<&mut impl DevicePtrMut<i8>>,
        scales: &mut impl DevicePtrMut<f32>,
        epilogue: &DeviceEpilogue<'_>,
        workspace: &mut CudaViewMut<'_, i32>,
    ) -> Result<()> {
        check_vector("scales", self, scales, a.rows)?;
        let (address, _scales) = scales.device_ptr_mut(stream);
        aligned::<f32>("scales", address)?;
        let by = (igemm, &Batches::ONE, Some(address));
        self.igemm_all(stream, by, a, w, output, epilogue, Some(workspace))
    }

    /// The same with a part of a slice as workspace.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn igemm_in<O: OutputElement>(
        &self,
        stream: &CudaStream,
        igemm: Igemm,
        a: Matrix<&impl DevicePtr<i8>>,
        w: Matrix<&impl DevicePtr<i8>>,
        output: Matrix<&mut impl DevicePtrMut<O>>,
        epilogue: &DeviceEpilogue<'_>,
        workspace: Option<&mut CudaViewMut<'_, i32>>,
    ) -> Result<()> {
        let by = (igemm, &Batches::ONE, None);
        self.igemm_all(stream, by, a, w, output, epilogue, workspace)
    }

    /// `fresh`: where the scales of an int8 output go, valid for each row until this returns.
    #[allow(clippy::too_many_arguments)]
    fn igemm_all<O: OutputElement>(
        &self,
        stream: &CudaStream,
        (igemm, batches, fresh): (Igemm, &Batches, Option<u64>),
        a: Matrix<&impl DevicePtr<i8>>,
        w: Matrix<&impl DevicePtr<i8>>,
        mut output: Matrix<&mut impl DevicePtrMut<O>>,
        epilogue: &DeviceEpilogue<'_>,
        workspace: Option<&mut CudaViewMut<'_, i32>>,
    ) -> Result<()> {
        let Igemm { tile, splits } = igemm;
        let (m, n, k) = (a.rows, w.rows, a.cols);
        a.check("a", self, a.data)?;
        w.check("w", self, w.data)?;
        batches.check("a", &a, batches.a, a.data.len())?;
        batches.check("w", &w, batches.w, w.data.len())?;
        if w.cols != k {
            return Err(Error::ShapeMismatch {
                op: "igemm",
                lhs: vec![m, k],
                rhs: vec![n, w.cols],
                expected: format!("weights [N, K] with K = {k}"),
            });
        }
        let cols = epilogue.output_columns(n)?;
        if (output.rows, output.cols) != (m, cols) {
            return Err(Error::Shape {
                op: "igemm",
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
        let product = match fresh {
            None => igemm.workspace(m, n),
            Some(_) => igemm.workspace_quantized(m, n),
        };
        let needed = batches.count.saturating_mul(product);
        let found = workspace.as_ref().map_or(0, |w| w.len());
        if splits == 0 || found < needed {
            return Err(Error::Value {
                what: "splits and workspace",
                found: format!("{splits} splits, {found} elements of workspace"),
                expected: format!("at least 1 split and {needed} elements"),
            });
        }
        let (a_address, _a) = a.data.device_ptr(stream);
        let (w_address, _w) = w.data.device_ptr(stream);
        if tile.aligned {
            // The stride of a single row is never used.
            let fits = |address: u64, rows: usize, stride: usize, batch: usize| {
                address.is_multiple_of(16)
                    && (rows <= 1 || stride.is_multiple_of(16))
                    && (batches.count <= 1 || batch.is_multiple_of(16))
            };
            if !fits(a_address, m, a.stride, batches.a) || !fits(w_address, n, w.stride, batches.w)
            {
                return Err(Error::Value {
                    what: "alignment",
                    found: format!(
                        "a at {a_address:#x} stride {}, w at {w_address:#x} stride {}",
                        a.stride, w.stride
                    ),
                    expected: format!(
                        "multiples of 16 bytes for the instance {}; those named _any take any",
                        tile.name
                    ),
                });
            }
        }
        let prepared =
            epilogue.prepare_batches(self, stream, &mut output, batches, fresh.is_some())?;
        if m == 0 || n == 0 || batches.count == 0 {
            return match fresh {
                // SAFETY: no columns: nothing but the scales is touched.
                Some(scales) => unsafe {
                    self.finish_quantized(stream, Sums::whole(0, 0), scales, prepared.params)
                },
                None => Ok(()),
            };
        }
        let mut workspace = workspace.map(|w| w.device_ptr_mut(stream));
        let partial = match &mut workspace {
            Some((address, _)) if splits > 1 || fresh.is_some() => *address,
            _ => 0,
        };
        let k_split = k.div_ceil(tile.k).div_ceil(splits).max(1) * tile.k;
        let (tiles_m, tiles_n) = (m.div_ceil(tile.m), n.div_ceil(tile.n));
        let geometry = Geometry {
            grid: (
                tiles_m as u64 * tiles_n as u64,
                splits as u64 * batches.count as u64,
            ),
            block: (32 * tile.warps as u32, 1),
            dynamic_shared: tile.shared() as u32,
        };
        let params = IgemmParams {
            a: a_address as *const _,
            w: w_address as *const _,
            partial: partial as *mut _,
            a_stride: a.stride as u64,
            w_stride: w.stride as u64,
            a_batch: batches.a as u64,
            w_batch: batches.w as u64,
            k: narrow("k", k)?,
            k_split: narrow("k of a split", k_split)?,
            splits: narrow("splits", splits)?,
            tiles_m: narrow("tiles", tiles_m)?,
            tiles_n: narrow("tiles", tiles_n)?,
            raster_rows: GROUP_M as u32,
            epilogue: prepared.params,
        };
        let launch = PreparedLaunch::new(self, stream, tile.entry, geometry, params)?;
        // SAFETY: operands, output and every part of the epilogue were checked against the shape, the workspace against
        // the splits; all guards live here.
        unsafe { launch.enqueue()? };
        let sums = Sums {
            address: partial,
            stride: n as u64,
            splits: narrow("splits", splits)?,
            split_stride: (m * n) as u64,
        };
        if let Some(scales) = fresh {
            // SAFETY: as below, and the scales are the caller's.
            unsafe { self.finish_quantized(stream, sums, scales, prepared.params)? };
        } else if splits > 1 {
            let batches = narrow("the batch", batches.count)?;
            // SAFETY: the launch before writes all of `[splits, m, n]`; the rest as above.
            unsafe { self.finish(stream, sums, batches, prepared.params)? };
        }
        Ok(())
    }
}
