//! One product, checked: only a value of this type reaches a kernel.

use crate::element::{DType, FloatView, OutputMut};
use crate::epilogue::{Epilogue, Host, Output, Scales, ZeroPoints};
use crate::error::{Error, Result};
use crate::gemm::PackedWeights;
use crate::numerics::{check_step, MAX_K, MAX_K_ZERO_POINT};
use ndarray::{s, ArrayView2};

/// How float activations are quantised on their way into the product.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum ActivationQuant {
    /// Symmetric, one scale a row from the row's own absmax.
    #[default]
    PerToken,
    /// Asymmetric, one scale and zero point a row from the row's own minimum and maximum.
    PerTokenAsymmetric,
    /// Symmetric with a scale known beforehand: `q = clip(round_half_even(x * (1 / scale)))`.
    ///
    /// Finite values beyond `127 * scale` clip; a row with NaN or infinity gives NaN in its whole row of the result.
    Static {
        /// The size of one step.
        scale: f32,
    },
    /// Asymmetric with constants known beforehand: `q = clip(round_half_even(x * (1 / scale)) + zero_point)`, to
    /// -128..=127.
    ///
    /// A row that is not finite gives NaN, as in `Static`.
    StaticAsymmetric {
        /// The size of one step.
        scale: f32,
        /// The integer that stands for 0.0, in -128..=127.
        zero_point: i32,
    },
}

impl ActivationQuant {
    /// Refuses constants that can't be used: a scale that is not above zero and finite with a finite inverse, a zero
    /// point outside int8.
    pub(crate) fn check(self) -> Result<()> {
        match self {
            ActivationQuant::PerToken | ActivationQuant::PerTokenAsymmetric => Ok(()),
            ActivationQuant::Static { scale } => check_step("the static activation scale", scale),
            ActivationQuant::StaticAsymmetric { scale, zero_point } => {
                check_step("the static activation scale", scale)?;
                if (-128..=127).contains(&zero_point) {
                    return Ok(());
                }
                Err(Error::Value {
                    what: "the static activation zero point",
                    found: zero_point.to_string(),
                    expected: "a value in -128..=127".into(),
                })
            }
        }
    }

    /// Whether it gives zero points.
    pub(crate) fn has_zero_points(self) -> bool {
        match self {
            ActivationQuant::PerToken | ActivationQuant::Static { .. } => false,
            ActivationQuant::PerTokenAsymmetric | ActivationQuant::StaticAsymmetric { .. } => true,
        }
    }
}

/// The left operand, `[M, K]`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Lhs<'a> {
    /// Integers, any strides.
    Int8(ArrayView2<'a, i8>),
    /// Floats, quantised while they are packed.
    Float {
        /// The activations, any strides.
        data: FloatView<'a>,
        /// How they are quantised.
        quant: ActivationQuant,
    },
}

impl<'a> Lhs<'a> {
    /// Rows and columns.
    pub fn dim(&self) -> (usize, usize) {
        match self {
            Lhs::Int8(v) => v.dim(),
            Lhs::Float { data, .. } => data.dim(),
        }
    }

    /// Rows `first..end`.
    pub(crate) fn rows(&self, first: usize, end: usize) -> Lhs<'a> {
        match self {
            Lhs::Int8(data) => Lhs::Int8(data.slice_move(s![first..end, ..])),
            Lhs::Float { data, quant } => Lhs::Float {
                data: data.rows(first, end),
                quant: *quant,
            },
        }
    }

    pub(crate) fn has_zero_points(&self) -> bool {
        matches!(self, Lhs::Float { quant, .. } if quant.has_zero_points())
    }
}

/// `epilogue(lhs [M, K] x weights [K, N])`, with all shapes known to fit.
///
/// ```
/// use imma::element::OutputMut;
/// use imma::epilogue::Output;
/// use imma::gemm::{Gemm, Lhs, Weights};
/// use imma::{Backend, Cpu, Epilogue};
/// use ndarray::{arr2, Array2};
/// let cpu = Cpu::new();
/// let weights = cpu.pack(Weights::Int8(arr2(&[[1i8], [2]]).view()))?;
/// let lhs = arr2(&[[3i8, 4]]);
/// let gemm = Gemm::new(Lhs::Int8(lhs.view()), &weights, Epilogue::to(Output::Raw))?;
/// let mut out = Array2::<i32>::zeros((1, 1));
/// cpu.gemm(&gemm, OutputMut::I32(out.view_mut()))?;
/// assert_eq!(out[[0, 0]], 11);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Gemm<'a> {
    pub(crate) lhs: Lhs<'a>,
    pub(crate) weights: PackedWeights,
    pub(crate) epilogue: Epilogue<Host<'a>>,
}

impl<'a> Gemm<'a> {
    /// Checks that the operands and the epilogue's parts fit and that every sum is exact.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when the contracted dimensions differ, [`Error::KTooLong`] when int32 could
    /// overflow; [`Error::Length`], [`Error::Shape`] and [`Error::Epilogue`] for parts of the epilogue that do not fit the
    /// product, each other, the output or group-wise weights; [`Error::Value`] for a static scale that is not a number above zero, and for an
    /// odd number of columns of a gated product.
    pub fn new(
        lhs: Lhs<'a>,
        weights: &PackedWeights,
        epilogue: Epilogue<Host<'a>>,
    ) -> Result<Self> {
        let (m, k) = lhs.dim();
        check_contraction("gemm", [m, k], [weights.k, weights.n])?;
        let zero_points = !epilogue.row_zero_points.is_none();
        check_k(k, lhs.has_zero_points() || zero_points)?;
        if let Lhs::Float { quant, .. } = &lhs {
            if !epilogue.row_scales.is_none() || zero_points {
                return Err(Error::Value {
                    what: "the epilogue's row scales",
                    found: "given beside a float left operand".into(),
                    expected: "none: quantising the rows brings their scales".into(),
                });
            }
            quant.check()?;
            if epilogue.output == Output::Raw {
                return Err(Error::Epilogue {
                    what: "a float left operand",
                    output: DType::I32,
                    expected: "an int8 left operand: raw sums would lose its scales",
                });
            }
        }
        epilogue.check(m, weights.n)?;
        if weights.group_size().is_some() {
            check_groupwise(&lhs, &epilogue)?;
        }
        Ok(Gemm {
            lhs,
            weights: weights.clone(),
            epilogue,
        })
    }

    /// M, N and K.
    pub fn mnk(&self) -> (usize, usize, usize) {
        (self.lhs.dim().0, self.weights.n, self.weights.k)
    }

    /// The product of rows `first..first + rows` alone, whose bits are the same.
    pub(crate) fn rows(&self, first: usize, rows: usize) -> Gemm<'a> {
        let end = first + rows;
        Gemm {
            lhs: self.lhs.rows(first, end),
            weights: self.weights.clone(),
            epilogue: rows_of(&self.epilogue, first, end),
        }
    }

    /// Columns of the output: N, or half of it when the epilogue is gated.
    pub fn output_columns(&self) -> usize {
        if self.epilogue.gated {
            self.weights.n / 2
        } else {
            self.weights.n
        }
    }

    /// Checks a place against the product: its type, shape and strides.
    pub(crate) fn check_output(&self, out: &OutputMut<'_>) -> Result<()> {
        let shape = (self.mnk().0, self.output_columns());
        check_place(self.epilogue.output, shape, out)
    }
}

/// The epilogue of rows `first..end` alone.
pub(super) fn rows_of<'a>(
    epilogue: &Epilogue<Host<'a>>,
    first: usize,
    end: usize,
) -> Epilogue<Host<'a>> {
    Epilogue {
        row_scales: match epilogue.row_scales {
            Scales::PerVector(all) => Scales::PerVector(&all[first..end]),
            other => other,
        },
        row_zero_points: match epilogue.row_zero_points {
            ZeroPoints::PerVector(all) => ZeroPoints::PerVector(&all[first..end]),
            other => other,
        },
        residual: epilogue.residual.as_ref().map(|r| r.rows(first, end)),
        ..epilogue.clone()
    }
}

/// Checks a place for an `[m, cols]` output: its type, shape and strides.
pub(crate) fn check_place(
    output: Output,
    (m, cols): (usize, usize),
    out: &OutputMut<'_>,
) -> Result<()> {
    output.check_place(out)?;
    let dim = out.dim();
    if dim != (m, cols) {
        return Err(Error::Shape {
            op: "gemm",
            what: "the output",
            found: vec![dim.0, dim.1],
            expected: format!("[{m}, {cols}]"),
        });
    }
    if let OutputMut::I8PerRow { scales, .. } = out {
        if scales.len() != m {
            return Err(Error::Length {
                what: "row scales of the output",
                found: scales.len(),
                expected: m,
            });
        }
        return Ok(());
    }
    let stride = out.strides().1;
    if m > 0 && cols > 1 && stride != 1 {
        return Err(Error::Value {
            what: "the output's column stride",
            found: stride.to_string(),
            expected: "1: rows must be contiguous".into(),
        });
    }
    Ok(())
}

/// Refuses what does not go with group-wise weights, by name.
fn check_groupwise(lhs: &Lhs<'_>, epilogue: &Epilogue<Host<'_>>) -> Result<()> {
    let (what, expected) = if epilogue.output == Output::Raw {
        (
            "group-wise weights",
            "a float or i8 output: raw sums would lose their scales",
        )
    } else if !epilogue.col_scales.is_none() {
        (
            "scales of columns",
            "none: group-wise weights bring their own",
        )
    } else if !epilogue.row_zero_points.is_none() || lhs.has_zero_points() {
        (
            "zero points",
            "a symmetric left operand: group-wise weights have no column sums a group",
        )
    } else {
        return Ok(());
    };
    Err(Error::Epilogue {
        what,
        output: epilogue.output.dtype(),
        expected,
    })
}

/// Refuses operands whose contracted dimensions differ.
pub(crate) fn check_contraction(op: &'static str, lhs: [usize; 2], rhs: [usize; 2]) -> Result<()> {
    if lhs[1] == rhs[0] {
        return Ok(());
    }
    Err(Error::ShapeMismatch {
        op,
        lhs: lhs.to_vec(),
        rhs: rhs.to_vec(),
        expected: format!("the right operand needs {} rows", lhs[1]),
    })
}

/// Refuses a contraction whose int32 sums might overflow.
pub(crate) fn check_k(k: usize, zero_points: bool) -> Result<()> {
    let (limit, operands) = if zero_points {
        (MAX_K_ZERO_POINT, "int8 operands with zero points")
    } else {
        (MAX_K, "int8 operands")
    };
    if k > limit {
        return Err(Error::KTooLong {
            found: k,
            limit,
            operands,
        });
    }
    Ok(())
}
