//! What a plan is made for.

use crate::activation::Activation;
use crate::cuda::kernels::Shape;
use crate::cuda::runtime::narrow;
use crate::element::DType;
use crate::epilogue::{Epilogue, Output, Planned, Scales, ZeroPoints};
use crate::error::{Error, Result};
use crate::gemm::{check_k, ActivationQuant};

/// Columns of padded operands are a multiple of this: a 16-byte access.
pub(in crate::cuda) const PAD: usize = 16;

/// The left operand's kind.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Input {
    /// Floats of this type, quantised on the way.
    Float(DType, ActivationQuant),
    /// Integers; the epilogue says whether they come with scales and zero points.
    Int8 {
        /// Elements between rows; K when dense.
        stride: usize,
        /// Whether they start at a multiple of 16 bytes, as any allocation does. Those that may start anywhere are planned
        /// for kernels that read anything.
        aligned: bool,
    },
}

impl Input {
    /// Integers with rows `stride` apart that start at a multiple of 16 bytes.
    pub const fn int8(stride: usize) -> Self {
        Input::Int8 {
            stride,
            aligned: true,
        }
    }
}

/// A product to plan: `out = epilogue(lhs[M, K] x weights[N, K]^T)`, the steps and their rounding those of the
/// [epilogue](crate::epilogue). The result is `[M, N]`, or `[M, N / 2]` when gated.
///
/// ```
/// use imma::activation::Activation;
/// use imma::cuda::Problem;
/// use imma::DType;
/// let problem = Problem::floats(8, 4096, 1024, DType::BF16, DType::BF16)
///     .with_bias(DType::F32)
///     .with_activation(Activation::Gelu);
/// assert_eq!(problem.output_columns(), 4096);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Problem {
    /// Rows of the left operand and of the result.
    pub m: usize,
    /// Rows of the weights: columns of the result, or twice those when gated.
    pub n: usize,
    /// The contracted dimension.
    pub k: usize,
    /// The left operand.
    pub input: Input,
    /// K that shares a scale of the weights, where those change along K.
    pub scale_group: Option<usize>,
    /// What happens to the sums: which parts there are, and their types. Scales of the columns are those of the weights
    /// unless it has some.
    pub epilogue: Epilogue<Planned>,
}

impl Problem {
    /// A left operand of that kind, and an epilogue.
    pub fn new(shape: Shape, input: Input, epilogue: Epilogue<Planned>) -> Self {
        Problem {
            m: shape.m,
            n: shape.n,
            k: shape.k,
            input,
            scale_group: None,
            epilogue,
        }
    }

    /// Floats in and floats out, one scale a token, nothing in the epilogue beyond the scales.
    pub fn floats(m: usize, n: usize, k: usize, input: DType, output: DType) -> Self {
        let output = match output {
            DType::F16 => Output::F16,
            DType::BF16 => Output::BF16,
            DType::F32 | DType::I8 => Output::F32,
            DType::I32 => Output::Raw,
        };
        let input = Input::Float(input, ActivationQuant::PerToken);
        Self::new(Shape::new(m, n, k), input, Epilogue::to(output))
    }

    /// Dense integers in and exact sums out.
    pub fn int8(m: usize, n: usize, k: usize) -> Self {
        let epilogue = Epilogue::to(Output::Raw);
        Self::new(Shape::new(m, n, k), Input::int8(k), epilogue)
    }

    /// The same with another left operand.
    pub fn with_input(self, input: Input) -> Self {
        Problem { input, ..self }
    }

    /// The same with another epilogue.
    pub fn with_epilogue(self, epilogue: Epilogue<Planned>) -> Self {
        Problem { epilogue, ..self }
    }

    /// The same with scales of the left operand's rows, which are integers.
    pub fn with_row_scales(mut self) -> Self {
        self.epilogue.row_scales = Scales::PerVector(());
        self
    }

    /// The same with zero points of the left operand's rows, which are integers.
    pub fn with_row_zero_points(mut self) -> Self {
        self.epilogue.row_zero_points = ZeroPoints::PerVector(());
        self
    }

    /// The same with a bias of that type.
    pub fn with_bias(mut self, dtype: DType) -> Self {
        self.epilogue.bias = Some(dtype);
        self
    }

    /// The same with an activation function.
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.epilogue.activation = activation;
        self
    }

    /// The same with its columns taken in pairs of gate and up.
    pub fn gated(mut self) -> Self {
        self.epilogue.gated = true;
        self
    }

    /// The same with a residual of that type.
    pub fn with_residual(mut self, dtype: DType) -> Self {
        self.epilogue.residual = Some(dtype);
        self
    }

    /// The same to another output.
    pub fn with_output(mut self, output: Output) -> Self {
        self.epilogue.output = output;
        self
    }

    /// The same with weights that have a scale for each output and each `size` of K.
    pub fn with_scale_group(self, size: usize) -> Self {
        Problem {
            scale_group: Some(size),
            ..self
        }
    }

    /// M, N and K.
    pub fn shape(&self) -> Shape {
        Shape::new(self.m, self.n, self.k)
    }

    /// Columns of the result.
    pub fn output_columns(&self) -> usize {
        if self.epilogue.gated {
            self.n / 2
        } else {
            self.n
        }
    }

    /// Whether rows have zero points, found or given.
    pub(in crate::cuda) fn zero_points(&self) -> bool {
        let quantised = matches!(
            self.input,
            Input::Float(
                _,
                ActivationQuant::PerTokenAsymmetric | ActivationQuant::StaticAsymmetric { .. }
            )
        );
        quantised || !self.epilogue.row_zero_points.is_none()
    }

    /// Whether the integers lie, or are put, at multiples of 16 bytes. A single row's stride is never used.
    pub(in crate::cuda) fn aligned(&self) -> bool {
        match self.input {
            Input::Float(..) => true,
            Input::Int8 { stride, aligned } => {
                aligned && (self.m <= 1 || stride.is_multiple_of(PAD))
            }
        }
    }

    /// Whether the sums are the result as they are.
    pub(in crate::cuda) fn raw(&self) -> bool {
        self.epilogue.output == Output::Raw && !self.zero_points()
    }

    /// What a measurement is for, in one word: types and parts, as `bf16-token>bf16+bf16`.
    pub(in crate::cuda) fn kind(&self) -> String {
        let part = |is: bool, text: &'static str| if is { text } else { "" };
        let epilogue = &self.epilogue;
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
            Input::Int8 { stride, aligned } => format!(
                "i8{}{}-by{stride}{}",
                part(!epilogue.row_scales.is_none(), "-scales"),
                part(!epilogue.row_zero_points.is_none(), "-zeros"),
                part(!aligned, "-anywhere"),
            ),
        };
        if let Some(size) = self.scale_group {
            kind.push_str(&format!("-groups{size}"));
        }
        kind.push_str(&format!(">{}", epilogue.output.dtype()));
        kind.push_str(part(epilogue.output == Output::Int8PerRow, "-token"));
        if let Some(bias) = epilogue.bias {
            kind.push_str(&format!("+{bias}"));
        }
        if epilogue.activation != Activation::None {
            kind.push_str(&format!("-{:?}", epilogue.activation).to_lowercase());
        }
        kind.push_str(part(epilogue.gated, "-gated"));
        if let Some(residual) = epilogue.residual {
            kind.push_str(&format!("+residual-{residual}"));
        }
        kind
    }

    /// Refuses parts that contradict each other, with the errors of the epilogue.
    pub(in crate::cuda) fn check(&self) -> Result<()> {
        check_k(self.k, self.zero_points())?;
        narrow("M", self.m)?;
        narrow("N", self.n)?;
        self.epilogue.check(self.m, self.n)?;
        let output = self.epilogue.output;
        let refuse = |what, expected| {
            Err(Error::Epilogue {
                what,
                output: output.dtype(),
                expected,
            })
        };
        if let Some(size) = self.scale_group.filter(|s| ![32, 64, 128].contains(s)) {
            return Err(Error::Value {
                what: "the group size",
                found: size.to_string(),
                expected: "32, 64 or 128".into(),
            });
        }
        if self.scale_group.is_some() && (self.zero_points() || output == Output::Raw) {
            return refuse(
                "weights with scales along K",
                "symmetric left operands and an output that is not raw",
            );
        }
        let own = !self.epilogue.row_scales.is_none() || !self.epilogue.row_zero_points.is_none();
        match self.input {
            Input::Float(DType::I32 | DType::I8, _) => Err(Error::Value {
                what: "the input's type",
                found: "integers".into(),
                expected: "f32, f16 or bf16; Input::Int8 for integers".into(),
            }),
            Input::Float(..) if output == Output::Raw => refuse(
                "a float left operand",
                "an int8 left operand: raw sums would lose its scales",
            ),
            Input::Float(..) if own => Err(Error::Value {
                what: "the epilogue's row scales",
                found: "given beside a float left operand".into(),
                expected: "none: quantising the rows brings their scales".into(),
            }),
            Input::Float(_, quant) => quant.check(),
            Input::Int8 { stride, .. } if self.m > 1 && stride < self.k => Err(Error::Value {
                what: "the left operand's row stride",
                found: stride.to_string(),
                expected: format!("at least its {} columns", self.k),
            }),
            Input::Int8 { .. } => Ok(()),
        }
    }
}
