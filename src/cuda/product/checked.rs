//! What one run of a plan reads and writes, and whether that is what the plan was made for.

use super::plan::{Multiply, Plan};
use super::problem::{Input, PAD};
use crate::cuda::kernels::{hold_epilogue, InRegions, OnDevice};
use crate::cuda::runtime::{
    same_context, DeviceFloats, DeviceOutput, DeviceVector, Held, Matrix, Region,
};
use crate::element::DType;
use crate::epilogue::{Epilogue, Output, Planned, Scales, ZeroPoints};
use crate::error::{Error, Result};
use cudarc::driver::{CudaView, DeviceSlice};

/// The left operand of a plan's run, `[M, K]`.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeviceLhs<'a> {
    /// Floats, quantised as the plan says.
    Float(Matrix<DeviceFloats<'a>>),
    /// Integers, with the scales and zero points that they have, if any: one a row, or a single scale.
    Int8 {
        /// The integers.
        data: Matrix<CudaView<'a, i8>>,
        /// The sizes of one step.
        scales: Option<DeviceVector<'a, f32>>,
        /// The integers that stand for 0.0, one a row.
        zero_points: Option<DeviceVector<'a, i32>>,
    },
}

impl<'a> DeviceLhs<'a> {
    /// Integers without scales.
    pub fn int8(data: Matrix<CudaView<'a, i8>>) -> Self {
        DeviceLhs::Int8 {
            data,
            scales: None,
            zero_points: None,
        }
    }

    /// Integers with scales, one a row or a single one.
    pub fn scaled(
        data: Matrix<CudaView<'a, i8>>,
        scales: impl Into<DeviceVector<'a, f32>>,
    ) -> Self {
        DeviceLhs::Int8 {
            data,
            scales: Some(scales.into()),
            zero_points: None,
        }
    }

    /// Floats: a matrix over a slice or view.
    pub fn floats(data: Matrix<impl Into<DeviceFloats<'a>>>) -> Self {
        DeviceLhs::Float(data.map(Into::into))
    }
}

/// Packed weights to read: integers `[N, K]`, K padded with zeros, and what belongs to them. Made by
/// [`DeviceWeights::view`](crate::cuda::DeviceWeights::view).
#[derive(Debug, Clone)]
pub struct WeightsView<'a> {
    pub(in crate::cuda) data: Matrix<DeviceVector<'a, i8>>,
    pub(in crate::cuda) scales: ScalesView<'a>,
    /// The sum of each output's integers.
    pub(in crate::cuda) col_sums: DeviceVector<'a, i32>,
}

/// The scales of packed weights.
#[derive(Debug, Clone)]
pub(in crate::cuda) enum ScalesView<'a> {
    None,
    /// One an output.
    PerColumn(DeviceVector<'a, f32>),
    /// `[K / size rounded up, N]`.
    PerGroup {
        scales: Matrix<DeviceVector<'a, f32>>,
        size: usize,
    },
}

/// What one run of a [`Plan`] reads and writes.
///
/// ```no_run
/// # fn run(plan: &imma::cuda::Plan, stream: &imma::cuda::cudarc::driver::CudaStream, weights: &imma::cuda::DeviceWeights,
/// #     x: &imma::cuda::cudarc::driver::CudaSlice<f32>, y: &mut imma::cuda::cudarc::driver::CudaSlice<f32>,
/// #     workspace: &mut imma::cuda::cudarc::driver::CudaSlice<u8>) -> imma::Result<()> {
/// use imma::cuda::{DeviceLhs, Matrix, Operands};
/// let lhs = DeviceLhs::floats(Matrix::new(x, 8, 1024));
/// let operands = Operands::new(lhs, weights.view(), Matrix::new(y, 8, 4096));
/// plan.run(stream, operands, workspace)
/// # }
/// ```
#[derive(Debug)]
pub struct Operands<'a> {
    lhs: DeviceLhs<'a>,
    weights: WeightsView<'a>,
    /// Bias, residual and scales of the columns; the rest is the plan's.
    epilogue: Epilogue<OnDevice<'a>>,
    out: Matrix<DeviceOutput<'a>>,
}

impl<'a> Operands<'a> {
    /// The left operand, the right one with its scales, and the result, `[M, N]` or `[M, N / 2]` when gated.
    pub fn new(
        lhs: DeviceLhs<'a>,
        weights: WeightsView<'a>,
        out: Matrix<impl Into<DeviceOutput<'a>>>,
    ) -> Self {
        Operands {
            lhs,
            weights,
            epilogue: Epilogue::default(),
            out: out.map(Into::into),
        }
    }

    /// With scales used instead of the weights' own, `[N]`.
    pub fn with_col_scales(mut self, scales: impl Into<DeviceVector<'a, f32>>) -> Self {
        self.epilogue.col_scales = Scales::PerVector(scales.into());
        self
    }

    /// With a bias, `[N]`: exactly when the plan has one.
    pub fn with_bias(mut self, bias: impl Into<DeviceFloats<'a>>) -> Self {
        self.epilogue.bias = Some(bias.into());
        self
    }

    /// With a residual in the result's shape: exactly when the plan has one.
    pub fn with_residual(mut self, residual: Matrix<impl Into<DeviceFloats<'a>>>) -> Self {
        self.epilogue.residual = Some(residual.map(Into::into));
        self
    }

    /// Puts what the plan and the other operands know into the epilogue.
    pub(super) fn complete(&mut self, planned: &Epilogue<Planned>) {
        let epilogue = &mut self.epilogue;
        epilogue.activation = planned.activation;
        epilogue.gated = planned.gated;
        epilogue.output = planned.output;
        if let DeviceLhs::Int8 {
            scales,
            zero_points,
            ..
        } = &self.lhs
        {
            let scales = scales.clone();
            epilogue.row_scales = scales.map_or(Scales::None, Scales::PerVector);
            let zeros = zero_points.clone();
            epilogue.row_zero_points = zeros.map_or(ZeroPoints::None, ZeroPoints::PerVector);
        }
        match &self.weights.scales {
            // Raw sums carry none.
            _ if planned.output == Output::Raw => epilogue.col_scales = Scales::None,
            ScalesView::PerColumn(own) if epilogue.col_scales.is_none() => {
                epilogue.col_scales = Scales::PerVector(own.clone());
            }
            _ => {}
        }
    }
}

/// What a run was given, in memory that is held.
pub(super) struct Taken<'a> {
    pub lhs: TakenLhs<'a>,
    /// `[N, K]`, rows K rounded up to 16 apart.
    pub weights: Region<'a>,
    pub col_sums: Region<'a>,
    pub groups: Option<(Region<'a>, usize)>,
    pub out: Region<'a>,
    pub row_scales_out: Option<Region<'a>>,
    /// Everything but what quantising the left operand brings.
    pub epilogue: Epilogue<InRegions<'a>>,
}

pub(super) enum TakenLhs<'a> {
    Floats(DType, Region<'a>),
    Integers(Region<'a>),
}

impl Plan {
    /// Takes the operands for a call, and refuses those that the plan was not made for.
    pub(super) fn take<'h>(
        &self,
        operands: &'h mut Operands<'_>,
        held: &mut Held<'h>,
    ) -> Result<Taken<'h>> {
        let problem = self.problem();
        let (m, n, k) = (problem.m, problem.n, problem.k);
        let columns = problem.output_columns();
        let lhs = self.take_lhs(&operands.lhs, held)?;
        let planned = &problem.epilogue;
        let dtype = |d: Option<DType>| d.map_or("none".into(), |d| d.to_string());
        let found = operands.epilogue.bias.as_ref().map(DeviceFloats::dtype);
        kind("the bias's type", dtype(found), dtype(planned.bias))?;
        let residual = operands.epilogue.residual.as_ref();
        let found = residual.map(|r| r.data.dtype());
        kind("the residual's type", dtype(found), dtype(planned.residual))?;
        if let Some(residual) = residual {
            shape("the residual", residual.dim(), (m, columns))?;
        }
        shape("the output", operands.out.dim(), (m, columns))?;
        let found = place(&operands.out.data);
        kind(
            "the output's type",
            found.into(),
            output(planned.output).into(),
        )?;
        let by_library = matches!(self.core.multiply, Multiply::Library { .. });
        if by_library && planned.output == Output::Raw && m > 1 {
            // Sums are written by rows of N.
            let found = operands.out.stride.to_string();
            kind("the output's row stride", found, n.to_string())?;
        }

        let weights = &operands.weights;
        shape("the weights", weights.data.dim(), (n, k))?;
        let data = &weights.data;
        same_context(
            "the weights",
            self.device().context(),
            data.data.0.stream().context(),
        )?;
        let taken = held.read("the weights", &data.over(&data.data.0))?;
        let groups = match &weights.scales {
            ScalesView::PerGroup { scales, size } => {
                let scales = scales.over(&scales.data.0);
                Some((held.read("the weights' scales", &scales)?, *size))
            }
            _ => None,
        };
        kind(
            "the weights' scales along K",
            group(groups.map(|(_, size)| size)),
            group(problem.scale_group),
        )?;
        let epilogue = hold_epilogue(&operands.epilogue, held)?;
        let col_sums = &operands.weights.col_sums;
        let col_sums = held.read_vector("the weights' sums", &col_sums.0, n)?;
        let (out, row_scales_out) = operands.out.hold("the output", held)?;
        Ok(Taken {
            lhs,
            weights: taken,
            col_sums,
            groups,
            out,
            row_scales_out,
            epilogue,
        })
    }

    fn take_lhs<'h>(&self, lhs: &'h DeviceLhs<'_>, held: &mut Held<'h>) -> Result<TakenLhs<'h>> {
        let problem = self.problem();
        let (m, k) = (problem.m, problem.k);
        let given = |is: bool| if is { "given" } else { "none" }.to_string();
        match (lhs, problem.input) {
            (DeviceLhs::Float(x), Input::Float(planned, _)) => {
                shape("the left operand", x.dim(), (m, k))?;
                let dtype = x.data.dtype();
                kind(
                    "the left operand's type",
                    dtype.to_string(),
                    planned.to_string(),
                )?;
                let region = x.hold("the left operand", held)?;
                Ok(TakenLhs::Floats(dtype, region))
            }
            (
                DeviceLhs::Int8 {
                    data,
                    scales,
                    zero_points,
                },
                Input::Int8 { stride, aligned },
            ) => {
                shape("the left operand", data.dim(), (m, k))?;
                let region = held.read("the left operand", &data.by_ref())?;
                if m > 1 {
                    let what = "the left operand's row stride";
                    kind(what, data.stride.to_string(), stride.to_string())?;
                }
                if aligned && !region.address.is_multiple_of(PAD as u64) {
                    return Err(Error::Value {
                        what: "the left operand",
                        found: format!("at address {:#x}", region.address),
                        expected: format!(
                            "an address that is a multiple of {PAD}, as planned; Input::Int8 with aligned: false plans for any"
                        ),
                    });
                }
                let planned = &problem.epilogue;
                let scaled = !planned.row_scales.is_none();
                kind("row scales", given(scales.is_some()), given(scaled))?;
                let zeros = !planned.row_zero_points.is_none();
                kind(
                    "row zero points",
                    given(zero_points.is_some()),
                    given(zeros),
                )?;
                Ok(TakenLhs::Integers(region))
            }
            (found, _) => {
                let found = match found {
                    DeviceLhs::Float(_) => "floats",
                    DeviceLhs::Int8 { .. } => "integers",
                };
                Err(Error::Value {
                    what: "the left operand",
                    found: found.into(),
                    expected: "the other kind, as planned".into(),
                })
            }
        }
    }
}

fn shape(what: &'static str, found: (usize, usize), expected: (usize, usize)) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape {
        op: "Plan::run",
        what,
        found: vec![found.0, found.1],
        expected: format!("[{}, {}]", expected.0, expected.1),
    })
}

fn kind(what: &'static str, found: String, expected: String) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Value {
        what,
        found,
        expected: format!("{expected}, as planned"),
    })
}

fn group(size: Option<usize>) -> String {
    size.map_or("none".into(), |size| format!("one for {size} of K"))
}

fn place(out: &DeviceOutput<'_>) -> &'static str {
    match out {
        DeviceOutput::F32(_) => "f32",
        DeviceOutput::F16(_) => "f16",
        DeviceOutput::BF16(_) => "bf16",
        DeviceOutput::I32(_) => "i32",
        DeviceOutput::I8(_) => "i8",
        DeviceOutput::I8PerRow { .. } => "i8 with a scale a row",
    }
}

fn output(planned: Output) -> &'static str {
    match planned {
        Output::Raw => "i32",
        Output::F32 => "f32",
        Output::F16 => "f16",
        Output::BF16 => "bf16",
        Output::Int8 { .. } => "i8",
        Output::Int8PerRow => "i8 with a scale a row",
    }
}
