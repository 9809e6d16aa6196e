//! What parts of an epilogue go together, and how long they must be: one check for every place they lie in.

use super::{Epilogue, Output, Place, Scales, ZeroPoints};
use crate::activation::Activation;
use crate::element::{DType, OutputMut};
use crate::error::{Error, Result};
use crate::numerics::check_step;

/// Columns of the output of a product with `n` columns.
pub(crate) fn output_columns(n: usize, gated: bool) -> Result<usize> {
    match (gated, n % 2) {
        (false, _) => Ok(n),
        (true, 0) => Ok(n / 2),
        (true, _) => Err(Error::Value {
            what: "the columns of a gated product",
            found: n.to_string(),
            expected: "an even number: pairs of gate and up".into(),
        }),
    }
}

fn check_length(what: &'static str, found: Option<usize>, expected: usize) -> Result<()> {
    match found {
        Some(found) if found != expected => Err(Error::Length {
            what,
            found,
            expected,
        }),
        _ => Ok(()),
    }
}

fn check_zero_points(values: &[i32]) -> Result<()> {
    match values.iter().find(|z| !(-128..=127).contains(*z)) {
        None => Ok(()),
        Some(bad) => Err(Error::Value {
            what: "a row zero point",
            found: bad.to_string(),
            expected: "a value in -128..=127".into(),
        }),
    }
}

impl<P: Place> Epilogue<P> {
    /// Columns of the output of a product with `n` columns.
    pub(crate) fn output_columns(&self, n: usize) -> Result<usize> {
        output_columns(n, self.gated)
    }

    /// Checks the parts against each other and against the output, whatever the product's shape.
    pub(crate) fn check_parts(&self) -> Result<()> {
        let floats = [
            ("the bias", self.bias.as_ref().map(P::bias_dtype)),
            (
                "the residual",
                self.residual.as_ref().map(P::residual_dtype),
            ),
        ];
        match &self.row_zero_points {
            ZeroPoints::None => {}
            ZeroPoints::PerTensor(one) => check_zero_points(&[*one])?,
            ZeroPoints::PerVector(all) => check_zero_points(P::i32_values(all).unwrap_or(&[]))?,
        }
        match self.output {
            Output::Raw => self.check_raw()?,
            Output::Int8 { scale } => check_step("the output's scale", scale)?,
            Output::F32 | Output::F16 | Output::BF16 | Output::Int8PerRow => {}
        }
        for (what, dtype) in floats {
            if let Some(dtype) = dtype.filter(|d| matches!(d, DType::I32 | DType::I8)) {
                return Err(Error::Value {
                    what,
                    found: dtype.to_string(),
                    expected: "f32, f16 or bf16".into(),
                });
            }
        }
        Ok(())
    }

    /// Raw sums take nothing but zero points.
    fn check_raw(&self) -> Result<()> {
        let refuse = |what, expected| {
            Err(Error::Epilogue {
                what,
                output: DType::I32,
                expected,
            })
        };
        if !self.row_scales.is_none() || !self.col_scales.is_none() {
            return refuse("scales", "the raw sums carry no scales");
        }
        if self.bias.is_some() || self.residual.is_some() || self.activation != Activation::None {
            return refuse("a bias, activation or residual", "the raw sums only");
        }
        if self.gated {
            return refuse(
                "a gated product",
                "a float or i8 output: pairs of raw sums have no product",
            );
        }
        Ok(())
    }

    /// Checks the parts, and every length against an `[m, n]` product.
    pub(crate) fn check(&self, m: usize, n: usize) -> Result<()> {
        let out = self.output_columns(n)?;
        for (what, scales, expected) in [
            ("row scales", &self.row_scales, m),
            ("column scales", &self.col_scales, n),
        ] {
            if let Scales::PerVector(scales) = scales {
                check_length(what, P::f32_len(scales), expected)?;
            }
        }
        if let ZeroPoints::PerVector(zero_points) = &self.row_zero_points {
            check_length("row zero points", P::i32_len(zero_points), m)?;
        }
        if let Some(bias) = &self.bias {
            check_length("bias", P::bias_len(bias), n)?;
        }
        match self.residual.as_ref().and_then(P::residual_dim) {
            Some((rows, cols)) if (rows, cols) != (m, out) => {
                return Err(Error::Shape {
                    op: "epilogue",
                    what: "residual",
                    found: vec![rows, cols],
                    expected: format!("[{m}, {out}]"),
                })
            }
            _ => {}
        }
        self.check_parts()
    }
}

impl Output {
    /// Refuses a place for another output, by both names.
    pub(crate) fn check_place(self, place: &OutputMut<'_>) -> Result<()> {
        let (what, expected) = match (self, place) {
            (Output::Raw, OutputMut::I32(_))
            | (Output::F32, OutputMut::F32(_))
            | (Output::F16, OutputMut::F16(_))
            | (Output::BF16, OutputMut::BF16(_))
            | (Output::Int8 { .. }, OutputMut::I8(_))
            | (Output::Int8PerRow, OutputMut::I8PerRow { .. }) => return Ok(()),
            (Output::Raw, _) => ("Output::Raw", "a place OutputMut::I32"),
            (Output::F32, _) => ("Output::F32", "a place OutputMut::F32"),
            (Output::F16, _) => ("Output::F16", "a place OutputMut::F16"),
            (Output::BF16, _) => ("Output::BF16", "a place OutputMut::BF16"),
            (Output::Int8 { .. }, _) => ("Output::Int8", "a place OutputMut::I8"),
            (Output::Int8PerRow, _) => ("Output::Int8PerRow", "a place OutputMut::I8PerRow"),
        };
        Err(Error::Epilogue {
            what,
            output: place.dtype(),
            expected,
        })
    }
}
