//! Whether operands are those that a plan was made for.

use super::matrix::check_aligned_vector;
use super::operand::{DeviceLhs, Operands};
use super::plan::{Multiply, Plan};
use super::spec::Input;
use crate::element::DType;
use crate::error::{Error, Result};
use cudarc::driver::CudaStream;

impl Plan {
    /// Whether these are the operands that the plan was made for.
    pub(super) fn check(&self, operands: &Operands<'_>, stream: &CudaStream) -> Result<()> {
        let Operands {
            lhs,
            weights,
            col_scales,
            bias,
            residual,
            out,
            out_scales,
        } = operands;
        let (m, n, k) = (self.spec().m, self.spec().n, self.spec().k);
        let columns = self.spec().output_columns();
        let shape = |what, found: (usize, usize), expected: (usize, usize)| {
            if found == expected {
                return Ok(());
            }
            Err(Error::Shape {
                op: "Plan::run",
                what,
                found: vec![found.0, found.1],
                expected: format!("[{}, {}]", expected.0, expected.1),
            })
        };
        let kind = |what, found: String, expected: String| {
            if found == expected {
                return Ok(());
            }
            Err(Error::Value {
                what,
                found,
                expected: format!("{expected}, as planned"),
            })
        };
        let given = |is: bool| if is { "given" } else { "none" }.to_string();
        let dtype = |d: Option<DType>| d.map_or("none".into(), |d| d.to_string());
        let device = &**self.device();
        match (lhs, self.spec().input) {
            (DeviceLhs::Float(x), Input::Float(planned, _)) => {
                shape("the left operand", (x.rows, x.cols), (m, k))?;
                kind(
                    "the left operand's type",
                    x.data.dtype().to_string(),
                    planned.to_string(),
                )?;
                x.check_floats("the left operand", device, stream)?;
            }
            (
                DeviceLhs::Int8 {
                    data,
                    scales,
                    zero_points,
                },
                Input::Int8 {
                    stride,
                    scales: planned_scales,
                    zero_points: planned_zeros,
                },
            ) => {
                shape("the left operand", (data.rows, data.cols), (m, k))?;
                data.check("the left operand", device, &data.data)?;
                if m > 1 {
                    kind(
                        "the left operand's row stride",
                        data.stride.to_string(),
                        stride.to_string(),
                    )?;
                }
                kind("row scales", given(scales.is_some()), given(planned_scales))?;
                kind(
                    "row zero points",
                    given(zero_points.is_some()),
                    given(planned_zeros),
                )?;
                if let Some(scales) = scales {
                    let expected = if scales.len() == 1 { 1 } else { m };
                    check_aligned_vector("row scales", device, stream, scales, expected)?;
                }
                if let Some(zeros) = zero_points {
                    check_aligned_vector("row zero points", device, stream, zeros, m)?;
                }
            }
            (found, _) => {
                let found = if matches!(found, DeviceLhs::Float(_)) {
                    "floats"
                } else {
                    "integers"
                };
                return Err(Error::Value {
                    what: "the left operand",
                    found: found.into(),
                    expected: "the other kind, as planned".into(),
                });
            }
        }
        shape("the weights", (weights.n, weights.k), (n, k))?;
        kind(
            "the bias's type",
            dtype(bias.as_ref().map(|b| b.dtype())),
            dtype(self.spec().bias),
        )?;
        if let Some(bias) = bias {
            bias.check_len("bias", device, stream, n)?;
        }
        let found = residual.as_ref().map(|r| r.data.dtype());
        kind(
            "the residual's type",
            dtype(found),
            dtype(self.spec().residual),
        )?;
        if let Some(scales) = col_scales {
            check_aligned_vector("column scales", device, stream, scales, n)?;
        }
        if let Some(residual) = residual {
            shape("the residual", (residual.rows, residual.cols), (m, columns))?;
            residual.check_floats("the residual", device, stream)?;
        }
        shape("the output", (out.rows, out.cols), (m, columns))?;
        kind(
            "the output's type",
            out.data.dtype().to_string(),
            self.spec().output.to_string(),
        )?;
        out.check_output("the output", device, stream)?;
        kind(
            "the output's scales",
            given(out_scales.is_some()),
            given(self.spec().per_token_output),
        )?;
        if let Some(scales) = out_scales {
            check_aligned_vector("the output's scales", device, stream, scales, m)?;
        }
        let by_library = matches!(self.multiply, Multiply::Sums { .. });
        if by_library && self.spec().output == DType::I32 && m > 1 {
            // Sums are written by rows of N.
            kind(
                "the output's row stride",
                out.stride.to_string(),
                n.to_string(),
            )?;
        }
        Ok(())
    }
}
