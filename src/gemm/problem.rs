//! One product, checked: only a value of this type reaches a kernel.

use crate::element::{DType, FloatView};
use crate::epilogue::{output_columns, Epilogue, Scales};
use crate::error::{Error, Result};
use crate::gemm::PackedWeights;
use crate::numerics::{MAX_K, MAX_K_ZERO_POINT};
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
    /// The data are not looked at: values beyond `127 * scale` clip and NaN counts as 0.
    Static {
        /// The size of one step.
        scale: f32,
    },
    /// Asymmetric with constants known beforehand: `q = clip(round_half_even(x * (1 / scale)) + zero_point)`, to
    /// -128..=127.
    ///
    /// The data are not looked at, as in `Static`: NaN counts as 0.
    StaticAsymmetric {
        /// The size of one step.
        scale: f32,
        /// The integer that stands for 0.0, in -128..=127.
        zero_point: i32,
    },
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

impl Lhs<'_> {
    /// Rows and columns.
    pub fn dim(&self) -> (usize, usize) {
        match self {
            Lhs::Int8(v) => v.dim(),
            Lhs::Float { data, .. } => data.dim(),
        }
    }

    pub(crate) fn has_zero_points(&self) -> bool {
        matches!(
            self,
            Lhs::Float {
                quant: ActivationQuant::PerTokenAsymmetric
                    | ActivationQuant::StaticAsymmetric { .. },
                ..
            }
        )
    }
}

/// `epilogue(lhs [M, K] x weights [K, N])`, with all shapes known to fit.
///
/// ```
/// use imma::{Backend, Cpu, Epilogue, Gemm, Lhs, OutputMut, Weights};
/// use ndarray::{arr2, Array2};
/// let cpu = Cpu::new();
/// let weights = cpu.pack(Weights::Int8(arr2(&[[1i8], [2]]).view()))?;
/// let lhs = arr2(&[[3i8, 4]]);
/// let gemm = Gemm::new(Lhs::Int8(lhs.view()), &weights, Epilogue::default())?;
/// let mut out = Array2::<i32>::zeros((1, 1));
/// cpu.gemm(&gemm, OutputMut::I32(out.view_mut()))?;
/// assert_eq!(out[[0, 0]], 11);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Gemm<'a> {
    pub(crate) lhs: Lhs<'a>,
    pub(crate) weights: PackedWeights,
    pub(crate) epilogue: Epilogue<'a>,
}

impl<'a> Gemm<'a> {
    /// Checks that the operands fit and that every sum is exact.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when the contracted dimensions differ, [`Error::KTooLong`] when int32 could
    /// overflow, [`Error::Value`] for a static scale that is not a number above zero.
    pub fn new(lhs: Lhs<'a>, weights: &PackedWeights, epilogue: Epilogue<'a>) -> Result<Self> {
        let (m, k) = lhs.dim();
        check_contraction("gemm", [m, k], [weights.k, weights.n])?;
        check_k(
            k,
            lhs.has_zero_points() || epilogue.row_zero_points.is_some(),
        )?;
        if let Lhs::Float { quant, .. } = &lhs {
            if epilogue.row_scales != Scales::None || epilogue.row_zero_points.is_some() {
                return Err(Error::Value {
                    what: "the epilogue's row scales",
                    found: "given beside a float left operand".into(),
                    expected: "none: quantising the rows brings their scales".into(),
                });
            }
            if let ActivationQuant::Static { scale }
            | ActivationQuant::StaticAsymmetric { scale, .. } = quant
            {
                if !(*scale > 0.0 && scale.is_finite() && (1.0 / scale).is_finite()) {
                    return Err(Error::Value {
                        what: "the static activation scale",
                        found: scale.to_string(),
                        expected: "a number above zero with a finite inverse".into(),
                    });
                }
            }
            if let ActivationQuant::StaticAsymmetric { zero_point, .. } = quant {
                if !(-128..=127).contains(zero_point) {
                    return Err(Error::Value {
                        what: "the static activation zero point",
                        found: zero_point.to_string(),
                        expected: "a value in -128..=127".into(),
                    });
                }
            }
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
    pub(crate) fn rows(&self, first: usize, rows: usize) -> Gemm<'_> {
        let end = first + rows;
        let lhs = match &self.lhs {
            Lhs::Int8(data) => Lhs::Int8(data.slice(s![first..end, ..])),
            Lhs::Float { data, quant } => Lhs::Float {
                data: data.rows(first, end),
                quant: *quant,
            },
        };
        let epilogue = &self.epilogue;
        Gemm {
            lhs,
            weights: self.weights.clone(),
            epilogue: Epilogue {
                row_scales: match epilogue.row_scales {
                    Scales::PerVector(all) => Scales::PerVector(&all[first..end]),
                    other => other,
                },
                row_zero_points: match epilogue.row_zero_points {
                    Some(all) if all.len() != 1 => Some(&all[first..end]),
                    other => other,
                },
                residual: epilogue.residual.as_ref().map(|r| r.rows(first, end)),
                ..epilogue.clone()
            },
        }
    }

    /// Columns of the output: N, or half of it when the epilogue is gated.
    ///
    /// # Errors
    /// [`Error::Value`] when a gated product has an odd N.
    pub fn output_columns(&self) -> Result<usize> {
        output_columns(self.weights.n, self.epilogue.gated)
    }

    /// Checks the output's shape and type against the product.
    pub(crate) fn check_output(
        &self,
        dim: (usize, usize),
        strides: (isize, isize),
        dtype: DType,
    ) -> Result<()> {
        let (m, n, _) = self.mnk();
        let cols = self.output_columns()?;
        if dim != (m, cols) {
            return Err(Error::Shape {
                op: "gemm",
                what: "the output",
                found: vec![dim.0, dim.1],
                expected: format!("[{m}, {cols}]"),
            });
        }
        if m > 0 && cols > 1 && strides.1 != 1 {
            return Err(Error::Value {
                what: "the output's column stride",
                found: strides.1.to_string(),
                expected: "1: rows must be contiguous".into(),
            });
        }
        if dtype == DType::I32 && matches!(self.lhs, Lhs::Float { .. }) {
            return Err(Error::Epilogue {
                what: "a float left operand",
                output: dtype,
                expected: "an int8 left operand: raw sums would lose its scales",
            });
        }
        self.epilogue.check(m, n, dtype)
    }
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
