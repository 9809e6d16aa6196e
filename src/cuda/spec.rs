//! What a plan is made for.

use super::igemm::Igemm;
use super::igemm90::Igemm90;
use super::launch::narrow;
use super::weights::PAD;
use crate::activation::Activation;
use crate::element::DType;
use crate::epilogue::{Epilogue, Output, Planned};
use crate::error::{Error, Result};
use crate::gemm::{check_k, ActivationQuant};
use std::fmt;
use std::str::FromStr;

/// The left operand's kind.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Input {
    /// Floats of this type, quantised on the way.
    Float(DType, ActivationQuant),
    /// Integers.
    Int8 {
        /// Elements between rows; K when dense.
        stride: usize,
        /// Whether they come with scales: one a row, or a single one.
        scales: bool,
        /// Whether they come with zero points, one a row.
        zero_points: bool,
    },
}

/// Who multiplies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Algorithm {
    /// What a pure function of problem and device answers; [`Plan`](super::Plan) prints it with the reason.
    #[default]
    Heuristic,
    /// The fastest of all, measured when the plan is made, or read from the [cache](super::ChoiceCache).
    Autotuned,
    /// Our GEMM with this tile and split of K.
    Igemm(Igemm),
    /// Our GEMM of compute capability 9.0, with this tile and split of K.
    Igemm90(Igemm90),
    /// cuBLASLt, with the first of its candidates.
    CublasLt,
    /// cuBLASLt, with this one of its candidates.
    CublasLtCandidate(usize),
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Algorithm::Heuristic => f.write_str("heuristic"),
            Algorithm::Autotuned => f.write_str("autotuned"),
            Algorithm::Igemm(igemm) => write!(f, "igemm:{igemm}"),
            Algorithm::Igemm90(igemm) => write!(f, "igemm90:{igemm}"),
            Algorithm::CublasLt => f.write_str("cublaslt"),
            Algorithm::CublasLtCandidate(i) => write!(f, "cublaslt:{i}"),
        }
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "heuristic" => return Ok(Algorithm::Heuristic),
            None if text == "autotuned" => return Ok(Algorithm::Autotuned),
            None if text == "cublaslt" => return Ok(Algorithm::CublasLt),
            Some(("igemm", tile)) => return tile.parse().map(Algorithm::Igemm),
            Some(("igemm90", tile)) => return tile.parse().map(Algorithm::Igemm90),
            Some(("cublaslt", number)) => {
                if let Ok(number) = number.parse() {
                    return Ok(Algorithm::CublasLtCandidate(number));
                }
            }
            _ => {}
        }
        Err(Error::Value {
            what: "the algorithm",
            found: format!("'{text}'"),
            expected: "heuristic, autotuned, igemm:TILE, igemm:TILE/SPLITS, igemm90:TILE, igemm90:TILE/SPLITS, cublaslt or cublaslt:N"
                .into(),
        })
    }
}

/// A product to plan: `out = epilogue(lhs[M, K] x weights[N, K]^T)`, the steps and their rounding those of the
/// [epilogue](crate::epilogue). The result is `[M, N]`, or `[M, N / 2]` when gated.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Rows of the left operand and of the result.
    pub m: usize,
    /// Rows of the weights: columns of the result, or twice those when gated.
    pub n: usize,
    /// The contracted dimension.
    pub k: usize,
    /// The left operand.
    pub input: Input,
    /// The result's type.
    pub output: DType,
    /// The type of the bias, if there is one.
    pub bias: Option<DType>,
    /// Applied after the bias; of a gated product to the gate alone.
    pub activation: Activation,
    /// Columns `2 j` and `2 j + 1` are a gate and what it multiplies.
    pub gated: bool,
    /// The type of the residual, if there is one.
    pub residual: Option<DType>,
    /// The step of an i8 output: needed there unless each row gets its own, refused elsewhere.
    pub out_scale: Option<f32>,
    /// Each row of an i8 output gets a scale of its own, found from the row: per-token activations for the next product,
    /// as [`Device::epilogue_quantized`](super::Device::epilogue_quantized) says.
    pub per_token_output: bool,
    /// Who multiplies.
    pub algorithm: Algorithm,
}

impl Spec {
    /// Floats in and floats out, one scale a token, nothing in the epilogue beyond the scales.
    pub fn floats(m: usize, n: usize, k: usize, input: DType, output: DType) -> Self {
        Spec {
            m,
            n,
            k,
            input: Input::Float(input, ActivationQuant::PerToken),
            output,
            bias: None,
            activation: Activation::None,
            residual: None,
            gated: false,
            out_scale: None,
            per_token_output: false,
            algorithm: Algorithm::Heuristic,
        }
    }

    /// Dense integers in and exact sums out.
    pub fn int8(m: usize, n: usize, k: usize) -> Self {
        let input = Input::Int8 {
            stride: k,
            scales: false,
            zero_points: false,
        };
        Spec {
            input,
            ..Self::floats(m, n, k, DType::F32, DType::I32)
        }
    }

    /// The same product by another algorithm.
    pub fn with_algorithm(self, algorithm: Algorithm) -> Self {
        Spec { algorithm, ..self }
    }

    /// Columns of the result.
    pub fn output_columns(&self) -> usize {
        if self.gated {
            self.n / 2
        } else {
            self.n
        }
    }

    pub(super) fn zero_points(&self) -> bool {
        match self.input {
            Input::Float(_, quant) => quant.has_zero_points(),
            Input::Int8 { zero_points, .. } => zero_points,
        }
    }

    /// Whether the integers lie, or are put, at multiples of 16 bytes. A single row's stride is never used.
    pub(super) fn aligned(&self) -> bool {
        match self.input {
            Input::Float(..) => true,
            Input::Int8 { stride, .. } => self.m <= 1 || stride.is_multiple_of(PAD),
        }
    }

    /// What a measurement is for, in one word: types and parts, as `bf16-token>bf16+bf16`.
    pub(super) fn kind(&self) -> String {
        let mut kind = match self.input {
            Input::Float(dtype, quant) => {
                let quant = match quant {
                    ActivationQuant::PerToken => "token",
                    ActivationQuant::PerTokenAsymmetric => "token-asymmetric",
                    ActivationQuant::Static { .. } => "static",
                    ActivationQuant::StaticAsymmetric { .. } => "static-asymmetric",
                };
                format!("{dtype}-{quant}")
            }
            Input::Int8 {
                stride,
                scales,
                zero_points,
            } => {
                let part = |is: bool, text| if is { text } else { "" };
                let (scales, zeros) = (part(scales, "-scales"), part(zero_points, "-zeros"));
                format!("i8{scales}{zeros}-by{stride}")
            }
        };
        kind.push_str(&format!(">{}", self.output));
        if self.per_token_output {
            kind.push_str("-token");
        }
        if let Some(bias) = self.bias {
            kind.push_str(&format!("+{bias}"));
        }
        if self.activation != Activation::None {
            kind.push_str(&format!("-{:?}", self.activation).to_lowercase());
        }
        if self.gated {
            kind.push_str("-gated");
        }
        if let Some(residual) = self.residual {
            kind.push_str(&format!("+residual-{residual}"));
        }
        kind
    }

    /// Whether the sums are the result as they are.
    pub(super) fn raw(&self) -> bool {
        self.output == DType::I32 && !self.zero_points()
    }

    /// Refuses parts that contradict each other, with the errors of the epilogue.
    pub(super) fn check(&self) -> Result<()> {
        check_k(self.k, self.zero_points())?;
        narrow("M", self.m)?;
        narrow("N", self.n)?;
        let refuse = |what, expected| {
            Err(Error::Epilogue {
                what,
                output: self.output,
                expected,
            })
        };
        let output = match (self.output, self.out_scale, self.per_token_output) {
            (DType::I8, None, true) => Output::Int8PerRow,
            (DType::I8, Some(_), true) => {
                return refuse("an out_scale", "none: each row gets its own")
            }
            (_, _, true) => return refuse("a scale for each row", "an i8 output"),
            (DType::I8, Some(scale), false) => Output::Int8 { scale },
            (DType::I8, None, false) => return refuse("no out_scale", "an out_scale above zero"),
            (_, Some(_), false) => {
                return refuse("an out_scale", "an out_scale only with i8 output")
            }
            (DType::I32, ..) => Output::Raw,
            (DType::F32, ..) => Output::F32,
            (DType::F16, ..) => Output::F16,
            (DType::BF16, ..) => Output::BF16,
        };
        let epilogue = Epilogue::<Planned> {
            activation: self.activation,
            gated: self.gated,
            bias: self.bias,
            residual: self.residual,
            ..Epilogue::to(output)
        };
        epilogue.check(self.m, self.n)?;
        let raw = self.output == DType::I32;
        match self.input {
            Input::Float(DType::I32 | DType::I8, _) => Err(Error::Value {
                what: "the input's type",
                found: "integers".into(),
                expected: "f32, f16 or bf16; Input::Int8 for integers".into(),
            }),
            Input::Float(..) if raw => refuse(
                "a float left operand",
                "an int8 left operand: raw sums would lose its scales",
            ),
            Input::Float(_, quant) => quant.check(),
            Input::Int8 { scales: true, .. } if raw => {
                refuse("scales", "the raw sums carry no scales")
            }
            Input::Int8 { stride, .. } if self.m > 1 && stride < self.k => Err(Error::Value {
                what: "the left operand's row stride",
                found: stride.to_string(),
                expected: format!("at least its {} columns", self.k),
            }),
            Input::Int8 { .. } => Ok(()),
        }
    }
}
