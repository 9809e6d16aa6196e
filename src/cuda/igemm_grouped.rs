//! The GEMM for weights whose scales change along K: `cuda/igemm_groupwise.cu`.

use super::batches::Batches;
use super::epilogue::{DeviceEpilogue, OutputElement};
use super::igemm::{Tile, GROUPED_TILES};
use super::launch::{narrow, Geometry, PreparedLaunch};
use super::matrix::{aligned, Matrix};
use super::module::Device;
use super::params::{IgemmGroupwiseParams, IgemmParams};
use crate::error::{Error, Result};
use crate::gemm::check_k;
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

/// Rows of tiles that blocks walk together.
const GROUP_M: usize = 8;

/// The instance for a product with groups: a pure function of its shape and of whether operands start, and their rows lie,
/// at multiples of 16 bytes.
///
/// Few rows take a small tile; of many, the largest whose blocks fill the device, as the order of additions forbids to split K.
pub fn choose_grouped(m: usize, n: usize, aligned: bool, multiprocessors: usize) -> &'static Tile {
    let fits = |tile: &&Tile| tile.aligned == aligned && (m > 16 || tile.m == 16);
    let blocks = |tile: &Tile| m.div_ceil(tile.m) * n.div_ceil(tile.n);
    let mut best = &GROUPED_TILES[if aligned { 0 } else { 3 }];
    for tile in GROUPED_TILES.iter().filter(fits) {
        if tile.m >= best.m && (blocks(tile) >= multiprocessors || tile.m <= 64) {
            best = tile;
        }
    }
    best
}

impl Device {
    /// The product of int8 rows and int8 weights whose scales change along K, `size` (32, 64 or 128) of it a group, by an
    /// instance of [`GROUPED_TILES`].
    ///
    /// ```text
    /// v = 0;  for each group g in order:  v = fma(f32(exact sum of the group), scales[g, n], v)
    /// y = v * row_scale                   without a bias
    /// y = fma(v, row_scale, bias[n])      with one;  then activation, gate and residual as in the epilogue, one rounding
    /// ```
    ///
    /// `a` is `[M, K]`, `w` `[N, K]`, `scales` `[K / size rounded up, N]` and the output `[M, N]` (`[M, N / 2]` when gated), floats
    /// or, with an `out_scale`, int8. The bits are those of [`GroupedLinear`](crate::GroupedLinear) on the CPU. Enqueues one launch;
    /// allocates nothing and waits for nothing. Never run on hardware yet.
    ///
    /// # Errors
    /// As [`igemm`](Self::igemm); [`Error::Value`] for another size; [`Error::Epilogue`] for scales of columns, zero points or
    /// an i32 output, which groups have not. After an error nothing was enqueued.
    #[allow(clippy::too_many_arguments)]
    pub fn igemm_grouped<O: OutputElement>(
        &self,
        stream: &CudaStream,
        tile: &'static Tile,
        a: Matrix<&impl DevicePtr<i8>>,
        w: Matrix<&impl DevicePtr<i8>>,
        scales: Matrix<&impl DevicePtr<f32>>,
        size: usize,
        mut output: Matrix<&mut impl DevicePtrMut<O>>,
        epilogue: &DeviceEpilogue<'_>,
    ) -> Result<()> {
        const OP: &str = "igemm_grouped";
        let (m, n, k) = (a.rows, w.rows, a.cols);
        if ![32, 64, 128].contains(&size) {
            return Err(Error::Value {
                what: "the group size",
                found: size.to_string(),
                expected: "32, 64 or 128".into(),
            });
        }
        if !GROUPED_TILES.contains(tile) {
            return Err(Error::Value {
                what: "the tile",
                found: tile.name.into(),
                expected: "one of GROUPED_TILES".into(),
            });
        }
        a.check("a", self, a.data)?;
        w.check("w", self, w.data)?;
        scales.check("group scales", self, scales.data)?;
        if w.cols != k {
            return Err(Error::ShapeMismatch {
                op: OP,
                lhs: vec![m, k],
                rhs: vec![n, w.cols],
                expected: format!("weights [N, K] with K = {k}"),
            });
        }
        let shape = |what, found: [usize; 2], expected: [usize; 2]| {
            if found == expected {
                return Ok(());
            }
            Err(Error::Shape {
                op: OP,
                what,
                found: found.to_vec(),
                expected: format!("[{}, {}]", expected[0], expected[1]),
            })
        };
        let groups = k.div_ceil(size);
        shape("the group scales", [scales.rows, scales.cols], [groups, n])?;
        let cols = epilogue.output_columns(n)?;
        shape("the output", [output.rows, output.cols], [m, cols])?;
        check_k(k, false)?;
        if epilogue.col_scales.is_some() || epilogue.row_zero_points.is_some() {
            return Err(Error::Epilogue {
                what: "scales of columns or zero points",
                output: O::DTYPE,
                expected: "the groups' scales alone",
            });
        }
        if O::DTYPE == crate::DType::I32 {
            return Err(Error::Epilogue {
                what: "groups",
                output: O::DTYPE,
                expected: "a float or i8 output: the sums are floats",
            });
        }
        let (a_address, _a) = a.data.device_ptr(stream);
        let (w_address, _w) = w.data.device_ptr(stream);
        let (group_scales, _scales) = scales.data.device_ptr(stream);
        aligned::<f32>("group scales", group_scales)?;
        let fits = |address: u64, rows: usize, stride: usize| {
            address.is_multiple_of(16) && (rows <= 1 || stride.is_multiple_of(16))
        };
        if tile.aligned && !(fits(a_address, m, a.stride) && fits(w_address, n, w.stride)) {
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
        let prepared = epilogue.prepare_batches(self, stream, &mut output, &Batches::ONE, false)?;
        if m == 0 || n == 0 {
            return Ok(());
        }
        let (tiles_m, tiles_n) = (m.div_ceil(tile.m), n.div_ceil(tile.n));
        let geometry = Geometry {
            grid: (tiles_m as u64 * tiles_n as u64, 1),
            block: (32 * tile.warps as u32, 1),
            dynamic_shared: tile.shared() as u32,
        };
        let params = IgemmGroupwiseParams {
            group_scales: group_scales as *const _,
            group_stride: scales.stride as u64,
            group_shift: size.ilog2(),
            reserved: 0,
            igemm: IgemmParams {
                a: a_address as *const _,
                w: w_address as *const _,
                partial: std::ptr::null_mut(),
                a_stride: a.stride as u64,
                w_stride: w.stride as u64,
                a_batch: 0,
                w_batch: 0,
                k: narrow("k", k)?,
                k_split: narrow("k", k.next_multiple_of(tile.k))?,
                splits: 1,
                tiles_m: narrow("tiles", tiles_m)?,
                tiles_n: narrow("tiles", tiles_n)?,
                raster_rows: GROUP_M as u32,
                epilogue: prepared.params,
            },
        };
        let launch = PreparedLaunch::new(self, stream, tile.entry, geometry, params)?;
        // SAFETY: operands, scales, output and every part of the epilogue were checked against the shape; all guards live here.
        unsafe { launch.enqueue() }
    }
}
