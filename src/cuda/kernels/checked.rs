//! The operands of one product: what a caller gives, and what a GEMM kernel takes.
//!
//! ```text
//!   GemmOperands (slices, views) --Held--> CheckedProduct (regions: addresses taken once, all shapes and spans checked)
//!                                            |
//!                  igemm_sm80, igemm_sm90, igemm_groupwise, igemm_grouped, cublaslt, epilogue take nothing else
//! ```

use super::batches::Batches;
use super::epilogue_parts::{self, InRegions, OnDevice};
use super::group_rows::{GroupRows, HeldGroups};
use super::model::Shape;
use crate::cuda::runtime::{DeviceOutput, DeviceVector, Held, Matrix, Region};
use crate::epilogue::{Epilogue, Output};
use crate::error::{Error, Result};
use crate::gemm::check_k;
use cudarc::driver::{CudaView, CudaViewMut};

/// `out = epilogue(a x w^T)`: int8 `a` `[M, K]` and `w` `[N, K]` (K-major), exact int32 sums, any shape, offset and stride.
///
/// ```no_run
/// use imma::cuda::kernels::{igemm_sm80, GemmOperands, Shape};
/// use imma::cuda::{Device, Matrix};
/// use imma::epilogue::{Epilogue, Output};
/// let device = Device::open(0)?;
/// let stream = device.context().default_stream();
/// # let error = |e| panic!("{e:?}");
/// let a = stream.clone_htod(&vec![1i8; 64 * 256]).unwrap_or_else(error);
/// # let error = |e| panic!("{e:?}");
/// let w = stream.clone_htod(&vec![2i8; 32 * 256]).unwrap_or_else(error);
/// # let error = |e| panic!("{e:?}");
/// let mut out = stream.alloc_zeros::<i32>(64 * 32).unwrap_or_else(error);
/// let instance = igemm_sm80::candidates(Shape::new(64, 32, 256), true, device.properties())[0].instance;
/// let operands = GemmOperands::new(
///     Matrix::new(a.as_view(), 64, 256),
///     Matrix::new(w.as_view(), 32, 256),
///     Matrix::new((&mut out).into(), 64, 32),
///     Epilogue::to(Output::Raw),
/// );
/// igemm_sm80(&device, &stream, instance.with_splits(1), operands)?;
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug)]
pub struct GemmOperands<'a> {
    pub(super) a: Matrix<CudaView<'a, i8>>,
    pub(super) w: Matrix<CudaView<'a, i8>>,
    pub(super) out: Matrix<DeviceOutput<'a>>,
    pub(super) epilogue: Epilogue<OnDevice<'a>>,
    pub(super) col_sums: Option<DeviceVector<'a, i32>>,
    pub(super) groups: Option<ScaleGroups<'a>>,
    pub(super) batches: Batches,
    pub(super) group_rows: Option<GroupRows<'a>>,
    pub(super) workspace: Option<CudaViewMut<'a, i32>>,
}

/// Scales of weights that change along K.
#[derive(Debug)]
pub struct ScaleGroups<'a> {
    /// `[K / size rounded up, N]`.
    pub scales: Matrix<CudaView<'a, f32>>,
    /// K that shares a scale: 32, 64 or 128.
    pub size: usize,
}

impl<'a> GemmOperands<'a> {
    /// A single product; the output is `[M, N]`, or `[M, N / 2]` when gated.
    pub fn new<'e: 'a>(
        a: Matrix<CudaView<'a, i8>>,
        w: Matrix<CudaView<'a, i8>>,
        out: Matrix<DeviceOutput<'a>>,
        epilogue: Epilogue<OnDevice<'e>>,
    ) -> Self {
        GemmOperands {
            a,
            w,
            out,
            epilogue: epilogue_parts::shortened(epilogue),
            col_sums: None,
            groups: None,
            batches: Batches::ONE,
            group_rows: None,
            workspace: None,
        }
    }

    /// With the sums of the weights' rows, `[N]`: exactly when the epilogue has zero points.
    pub fn with_col_sums(self, col_sums: impl Into<DeviceVector<'a, i32>>) -> Self {
        GemmOperands {
            col_sums: Some(col_sums.into()),
            ..self
        }
    }

    /// With scales of the weights that change along K, for [`igemm_groupwise`](super::igemm_groupwise()) alone.
    pub fn with_scale_groups(self, groups: ScaleGroups<'a>) -> Self {
        GemmOperands {
            groups: Some(groups),
            ..self
        }
    }

    /// Several products of one shape at equal distances, in the same launches: all operands are those of the first, and the
    /// slices reach to the end of the last.
    pub fn with_batches(self, batches: Batches) -> Self {
        GemmOperands { batches, ..self }
    }

    /// With rows that belong to groups, for [`igemm_grouped`](super::igemm_grouped()) alone: `w` is `[G * N, K]` then, the
    /// groups' weights one after the other, and columns' parts (scales, sums, bias; columns of scale groups) are `[G * N]`.
    pub fn with_group_rows(self, rows: GroupRows<'a>) -> Self {
        GemmOperands {
            group_rows: Some(rows),
            ..self
        }
    }

    /// With room for sums: as many elements as the instance's `workspace` says, for each product.
    pub fn with_workspace(self, workspace: CudaViewMut<'a, i32>) -> Self {
        GemmOperands {
            workspace: Some(workspace),
            ..self
        }
    }

    /// Takes everything for a call of one product or a batch, and checks it.
    pub(super) fn check<'h>(
        &'h mut self,
        op: &'static str,
        held: &mut Held<'h>,
    ) -> Result<(CheckedProduct<'h>, Option<Region<'h>>)> {
        if self.group_rows.is_some() {
            return Err(Error::Value {
                what: "the rows of the groups",
                found: format!("given to {op}"),
                expected: "a product by igemm_grouped".into(),
            });
        }
        self.check_grouped(op, held)
    }

    /// The same for a grouped product.
    pub(super) fn check_grouped<'h>(
        &'h mut self,
        op: &'static str,
        held: &mut Held<'h>,
    ) -> Result<(CheckedProduct<'h>, Option<Region<'h>>)> {
        let group_rows = match &self.group_rows {
            Some(rows) => Some(rows.hold(held, self.a.rows)?),
            None => None,
        };
        let a = held.read("a", &self.a.by_ref())?;
        let w = held.read("w", &self.w.by_ref())?;
        epilogue_parts::check_place(self.epilogue.output, &self.out.data)?;
        let (out, row_scales_out) = self.out.hold("output", held)?;
        let col_sums = match &self.col_sums {
            Some(sums) => Some(held.read("column sums", &Matrix::new(&sums.0, 1, sums.len()))?),
            None => None,
        };
        let groups = match &self.groups {
            Some(ScaleGroups { scales, size }) => {
                Some((held.read("scale groups", &scales.by_ref())?, *size))
            }
            None => None,
        };
        let epilogue = epilogue_parts::hold(&self.epilogue, held)?;
        let workspace = match &mut self.workspace {
            Some(workspace) => {
                let len = workspace.len();
                Some(held.write_vector("workspace", workspace, len)?)
            }
            None => None,
        };
        let parts = Parts {
            a,
            w,
            out,
            row_scales_out,
            col_sums,
            groups,
            epilogue,
            batches: self.batches,
            group_rows: None,
        };
        let parts = match group_rows {
            Some(rows) => parts.of_groups(rows)?,
            None => parts,
        };
        Ok((CheckedProduct::new(op, parts)?, workspace))
    }
}

/// Regions of a product whose shapes nobody has compared yet.
pub(in crate::cuda) struct Parts<'a> {
    pub a: Region<'a>,
    pub w: Region<'a>,
    pub out: Region<'a>,
    /// Where the scales of an int8 output go when each row gets its own.
    pub row_scales_out: Option<Region<'a>>,
    pub col_sums: Option<Region<'a>>,
    /// Scales along K, and the K that shares one.
    pub groups: Option<(Region<'a>, usize)>,
    pub epilogue: Epilogue<InRegions<'a>>,
    pub batches: Batches,
    /// Whose rows are whose, where only the device knows: then `w` and the columns' parts are the first group's.
    pub group_rows: Option<HeldGroups<'a>>,
}

impl<'a> Parts<'a> {
    /// The parts of a grouped product, from those with the weights of all groups one after the other.
    pub fn of_groups(self, rows: HeldGroups<'a>) -> Result<Self> {
        if !self.w.rows.is_multiple_of(rows.groups) || self.batches != Batches::ONE {
            return Err(Error::Value {
                what: "the weights of the groups",
                found: format!("{} rows in {} products", self.w.rows, self.batches.count),
                expected: format!("as many for each of the {} groups, no batch", rows.groups),
            });
        }
        let n = self.w.rows / rows.groups;
        Ok(Parts {
            w: self.w.rows_to(n),
            groups: self
                .groups
                .map(|(s, size)| match s.cols == n * rows.groups {
                    true => (s.columns_to(n), size),
                    false => (s, size),
                }),
            batches: Batches {
                count: rows.groups,
                w: n * self.w.stride,
                cols: n,
                ..Batches::ONE
            },
            group_rows: Some(rows),
            ..self
        })
    }
}

/// A product that was checked: operands that fit each other and lie in memory that is held.
pub(in crate::cuda) struct CheckedProduct<'a> {
    parts: Parts<'a>,
    shape: Shape,
}

impl<'a> CheckedProduct<'a> {
    /// Compares everything with everything.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`], [`Error::Shape`], [`Error::Length`], [`Error::KTooLong`], [`Error::Value`] and
    /// [`Error::Epilogue`] for what does not fit.
    pub fn new(op: &'static str, parts: Parts<'a>) -> Result<Self> {
        let (a, w, out) = (&parts.a, &parts.w, &parts.out);
        let shape = Shape::new(a.rows, w.rows, a.cols);
        let Shape { m, n, k } = shape;
        if w.cols != k {
            return Err(Error::ShapeMismatch {
                op,
                lhs: vec![m, k],
                rhs: vec![n, w.cols],
                expected: format!("weights [N, K] with K = {k}"),
            });
        }
        let zero_points = !parts.epilogue.row_zero_points.is_none();
        check_k(k, zero_points)?;
        let cols = parts.epilogue.output_columns(n)?;
        dim(op, "the output", out, [m, cols])?;
        let batches = &parts.batches;
        batches.check("a", a, batches.a)?;
        batches.check("w", w, batches.w)?;
        batches.check("output", out, batches.output)?;
        // Groups have rows of their own.
        let grouped = parts.group_rows.is_some();
        if !grouped {
            batches.check_apart(out)?;
        }
        if zero_points != parts.col_sums.is_some() {
            return Err(Error::Value {
                what: "zero points",
                found: "row zero points or column sums alone".into(),
                expected: "both: acc - zero_point * column_sum".into(),
            });
        }
        epilogue_parts::check(&parts.epilogue, [m, n, cols], parts.col_sums, batches)?;
        let per_row = parts.epilogue.output == Output::Int8PerRow;
        if per_row != parts.row_scales_out.is_some() {
            return Err(Error::Epilogue {
                what: "a place for scales of the output's rows",
                output: parts.epilogue.output.dtype(),
                expected: "one exactly with int8 output with a scale a row",
            });
        }
        if per_row && batches.count != 1 && !grouped {
            return Err(Error::Value {
                what: "the batch",
                found: format!("{} products", batches.count),
                expected: "one, for int8 output with a scale a row".into(),
            });
        }
        if let Some((scales, size)) = &parts.groups {
            groups(op, &parts, scales, *size, shape)?;
        }
        Ok(CheckedProduct { parts, shape })
    }

    /// The same product to f32 in a place of its own: what becomes int8 with a scale a row.
    pub(super) fn to_floats(&self, floats: Region<'a>) -> Result<CheckedProduct<'a>> {
        let parts = &self.parts;
        let parts = Parts {
            out: floats,
            row_scales_out: None,
            epilogue: parts.epilogue.clone().with_output(Output::F32),
            ..*parts
        };
        CheckedProduct::new("the floats", parts)
    }

    /// The same operands to raw sums in a place of their own: what an epilogue of its own finishes.
    pub fn raw_sums(&self, sums: Region<'a>) -> Result<CheckedProduct<'a>> {
        let parts = Parts {
            a: self.parts.a,
            w: self.parts.w,
            out: sums,
            row_scales_out: None,
            col_sums: None,
            groups: None,
            epilogue: Epilogue::to(Output::Raw),
            batches: self.parts.batches,
            group_rows: self.parts.group_rows,
        };
        CheckedProduct::new("the sums", parts)
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn parts(&self) -> &Parts<'a> {
        &self.parts
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.shape.outputs() == 0 || self.parts.batches.count == 0
    }

    /// Whether `a` and `w` start, and their rows and products lie, at multiples of 16 bytes.
    pub fn is_aligned(&self) -> bool {
        let batches = &self.parts.batches;
        let apart = |stride: usize| batches.count <= 1 || stride.is_multiple_of(16);
        self.parts.a.is_aligned(1, 16)
            && self.parts.w.is_aligned(1, 16)
            && apart(batches.a)
            && apart(batches.w)
    }

    /// Refuses operands that are not [aligned](Self::is_aligned), for an instance that needs it.
    pub fn check_aligned(&self, instance: &str) -> Result<()> {
        if self.is_aligned() {
            return Ok(());
        }
        let (a, w) = (&self.parts.a, &self.parts.w);
        Err(Error::Value {
            what: "alignment",
            found: format!(
                "a at {:#x} stride {}, w at {:#x} stride {}",
                a.address, a.stride, w.address, w.stride
            ),
            expected: format!(
                "multiples of 16 bytes for the instance {instance}; those named _any take any"
            ),
        })
    }
}

/// Refuses a matrix of other dimensions.
fn dim(
    op: &'static str,
    what: &'static str,
    found: &Region<'_>,
    expected: [usize; 2],
) -> Result<()> {
    if [found.rows, found.cols] == expected {
        return Ok(());
    }
    Err(Error::Shape {
        op,
        what,
        found: vec![found.rows, found.cols],
        expected: format!("[{}, {}]", expected[0], expected[1]),
    })
}

/// What scales along K ask of the rest.
fn groups(
    op: &'static str,
    parts: &Parts<'_>,
    scales: &Region<'_>,
    size: usize,
    Shape { n, k, .. }: Shape,
) -> Result<()> {
    if ![32, 64, 128].contains(&size) {
        return Err(Error::Value {
            what: "the group size",
            found: size.to_string(),
            expected: "32, 64 or 128".into(),
        });
    }
    dim(op, "the scale groups", scales, [k.div_ceil(size), n])?;
    parts
        .batches
        .check("the scale groups", scales, parts.batches.cols)?;
    let epilogue = &parts.epilogue;
    let refuse = |what, expected| {
        Err(Error::Epilogue {
            what,
            output: epilogue.output.dtype(),
            expected,
        })
    };
    if !epilogue.col_scales.is_none() || !epilogue.row_zero_points.is_none() {
        return refuse(
            "scales of columns or zero points",
            "the scale groups of the weights alone",
        );
    }
    match epilogue.output {
        Output::Raw => refuse(
            "scale groups",
            "a float or i8 output: the sums of groups are floats",
        ),
        Output::Int8PerRow if parts.group_rows.is_none() => refuse(
            "int8 with a scale a row",
            "a float output, or int8 with a given scale: scale groups are not finished by row",
        ),
        _ => Ok(()),
    }
}
