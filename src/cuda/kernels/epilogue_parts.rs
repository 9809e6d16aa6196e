//! The parts of an epilogue in device memory: as callers give them, and held for a call.

use super::batches::Batches;
use crate::cuda::runtime::{DeviceFloats, DeviceOutput, DeviceVector, Held, Matrix, Region};
use crate::element::DType;
use crate::epilogue::{Epilogue, Output, Place, Scales, ZeroPoints};
use crate::error::{Error, Result};
use std::marker::PhantomData;

/// Parts in device memory, as callers give them.
#[derive(Debug, Clone, Copy)]
pub struct OnDevice<'a>(PhantomData<&'a ()>);

impl<'a> Place for OnDevice<'a> {
    type F32 = DeviceVector<'a, f32>;
    type I32 = DeviceVector<'a, i32>;
    type Bias = DeviceFloats<'a>;
    type Residual = Matrix<DeviceFloats<'a>>;

    fn f32_len(scales: &Self::F32) -> Option<usize> {
        Some(scales.len())
    }
    fn i32_len(zero_points: &Self::I32) -> Option<usize> {
        Some(zero_points.len())
    }
    fn bias_len(bias: &Self::Bias) -> Option<usize> {
        Some(bias.len())
    }
    fn bias_dtype(bias: &Self::Bias) -> DType {
        bias.dtype()
    }
    fn residual_dim(residual: &Self::Residual) -> Option<(usize, usize)> {
        Some(residual.dim())
    }
    fn residual_dtype(residual: &Self::Residual) -> DType {
        residual.data.dtype()
    }
}

/// The same parts, borrowed for less: a place's lifetime can't shrink by itself, and an epilogue may outlive an output.
pub(super) fn shortened<'a, 'e: 'a>(epilogue: Epilogue<OnDevice<'e>>) -> Epilogue<OnDevice<'a>> {
    Epilogue {
        row_scales: match epilogue.row_scales {
            Scales::None => Scales::None,
            Scales::PerTensor(one) => Scales::PerTensor(one),
            Scales::PerVector(all) => Scales::PerVector(all),
        },
        col_scales: match epilogue.col_scales {
            Scales::None => Scales::None,
            Scales::PerTensor(one) => Scales::PerTensor(one),
            Scales::PerVector(all) => Scales::PerVector(all),
        },
        row_zero_points: match epilogue.row_zero_points {
            ZeroPoints::None => ZeroPoints::None,
            ZeroPoints::PerTensor(one) => ZeroPoints::PerTensor(one),
            ZeroPoints::PerVector(all) => ZeroPoints::PerVector(all),
        },
        bias: epilogue.bias,
        activation: epilogue.activation,
        gated: epilogue.gated,
        residual: epilogue.residual,
        output: epilogue.output,
    }
}

/// Refuses a place of another type than the epilogue writes; whether it has scales of rows is compared with the rest.
pub(super) fn check_place(output: Output, place: &DeviceOutput<'_>) -> Result<()> {
    if place.dtype() == output.dtype() {
        return Ok(());
    }
    Err(Error::Value {
        what: "the output's type",
        found: place.dtype().to_string(),
        expected: format!("{}, as the epilogue says", output.dtype()),
    })
}

/// Parts whose memory is held and whose addresses are known.
#[derive(Debug, Clone, Copy)]
pub(in crate::cuda) struct InRegions<'a>(PhantomData<&'a ()>);

/// Floats in memory that is held.
#[derive(Debug, Clone, Copy)]
pub(in crate::cuda) struct Tagged<'a> {
    pub dtype: DType,
    pub region: Region<'a>,
}

impl<'a> Place for InRegions<'a> {
    type F32 = Region<'a>;
    type I32 = Region<'a>;
    type Bias = Tagged<'a>;
    type Residual = Tagged<'a>;

    fn f32_len(scales: &Self::F32) -> Option<usize> {
        Some(scales.cols)
    }
    fn i32_len(zero_points: &Self::I32) -> Option<usize> {
        Some(zero_points.cols)
    }
    fn bias_len(bias: &Self::Bias) -> Option<usize> {
        Some(bias.region.cols)
    }
    fn bias_dtype(bias: &Self::Bias) -> DType {
        bias.dtype
    }
    fn residual_dim(residual: &Self::Residual) -> Option<(usize, usize)> {
        Some((residual.region.rows, residual.region.cols))
    }
    fn residual_dtype(residual: &Self::Residual) -> DType {
        residual.dtype
    }
}

/// Takes the parts for a call.
pub(in crate::cuda) fn hold<'h>(
    epilogue: &'h Epilogue<OnDevice<'_>>,
    held: &mut Held<'h>,
) -> Result<Epilogue<InRegions<'h>>> {
    let bias = match &epilogue.bias {
        Some(floats) => Some(Tagged {
            dtype: floats.dtype(),
            region: floats.hold("bias", held, floats.len())?,
        }),
        None => None,
    };
    let residual = match &epilogue.residual {
        Some(matrix) => Some(Tagged {
            dtype: matrix.data.dtype(),
            region: matrix.hold("residual", held)?,
        }),
        None => None,
    };
    Ok(Epilogue {
        row_scales: scales_in("row scales", held, &epilogue.row_scales)?,
        col_scales: scales_in("column scales", held, &epilogue.col_scales)?,
        row_zero_points: zero_points_in("row zero points", held, &epilogue.row_zero_points)?,
        bias,
        activation: epilogue.activation,
        gated: epilogue.gated,
        residual,
        output: epilogue.output,
    })
}

/// Checks the parts, and the vectors' lengths against `[m, n]` products with outputs of `out` columns.
pub(super) fn check(
    epilogue: &Epilogue<InRegions<'_>>,
    [m, n, out]: [usize; 3],
    col_sums: Option<Region<'_>>,
    batches: &Batches,
) -> Result<()> {
    // One for all: of every product, so that nothing lies between them.
    let one_or = |found: usize, all: usize, stride: usize| match found {
        1 if stride == 0 || batches.count == 1 => Ok(1),
        _ => batches.span(all, stride),
    };
    let length = |what, region: &Region<'_>, expected: usize| {
        if region.cols == expected {
            return Ok(());
        }
        Err(Error::Length {
            what,
            found: region.cols,
            expected,
        })
    };
    let (rows, cols) = (batches.rows, batches.cols);
    if let Scales::PerVector(v) = &epilogue.row_scales {
        length("row scales", v, one_or(v.cols, m, rows)?)?;
    }
    match &epilogue.col_scales {
        Scales::PerVector(v) => length("column scales", v, one_or(v.cols, n, cols)?)?,
        Scales::PerTensor(one) => {
            return Err(Error::Value {
                what: "the column scale",
                found: format!("{one} by value"),
                expected: "one in device memory: a vector of one element".into(),
            })
        }
        Scales::None => {}
    }
    if let ZeroPoints::PerVector(v) = &epilogue.row_zero_points {
        length("row zero points", v, one_or(v.cols, m, rows)?)?;
    }
    if let Some(sums) = &col_sums {
        length("column sums", sums, batches.span(n, cols)?)?;
    }
    if let Some(bias) = &epilogue.bias {
        length("bias", &bias.region, batches.span(n, cols)?)?;
    }
    if let Some(Tagged { region, .. }) = &epilogue.residual {
        if [region.rows, region.cols] != [m, out] {
            return Err(Error::Shape {
                op: "epilogue",
                what: "residual",
                found: vec![region.rows, region.cols],
                expected: format!("[{m}, {out}]"),
            });
        }
        batches.check("residual", region, batches.residual)?;
    }
    epilogue.check_parts()
}

/// A vector of numbers of one type as the region that it lies in.
fn scales_in<'h>(
    what: &'static str,
    held: &mut Held<'h>,
    scales: &'h Scales<DeviceVector<'_, f32>>,
) -> Result<Scales<Region<'h>>> {
    Ok(match scales {
        Scales::None => Scales::None,
        Scales::PerTensor(one) => Scales::PerTensor(*one),
        Scales::PerVector(all) => {
            Scales::PerVector(held.read(what, &Matrix::new(&all.0, 1, all.len()))?)
        }
    })
}

/// The same for zero points.
fn zero_points_in<'h>(
    what: &'static str,
    held: &mut Held<'h>,
    zero_points: &'h ZeroPoints<DeviceVector<'_, i32>>,
) -> Result<ZeroPoints<Region<'h>>> {
    Ok(match zero_points {
        ZeroPoints::None => ZeroPoints::None,
        ZeroPoints::PerTensor(one) => ZeroPoints::PerTensor(*one),
        ZeroPoints::PerVector(all) => {
            ZeroPoints::PerVector(held.read(what, &Matrix::new(&all.0, 1, all.len()))?)
        }
    })
}
