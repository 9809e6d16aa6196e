//! What happens to an int32 sum on its way out, as a value: one definition for all backends and kernels.
//!
//! ```text
//! s = acc - zero_point[row] * column_sum[col]          i32, exact
//! v = f32(s) * row_scale[row]                          rounded to nearest even
//! v = v * col_scale[col]                               without a bias
//! v = fma(v, col_scale[col], bias[col])                with one
//! v = activation(v)
//! v = v + residual[row, col]
//! out = by Output:
//!   Raw              s as it is; no other part goes with it
//!   F32, F16, BF16   v, rounded once to the type
//!   Int8 { scale }   clip(round_half_even(v * (1 / scale)), -127, 127)
//!   Int8PerRow       the same with (127 / bound[row]) for (1 / scale), and bound[row] / 127 as the row's scale;
//!                    bound[row] = max |v[row, :]|, or 1 where 127 / that overflows
//! ```
//!
//! A *gated* epilogue (SwiGLU, GEGLU, ReGLU by the activation) takes the columns in pairs, gate before up, and the output
//! has half of them. Scales, column sums and bias are those of the product's columns, the residual that of the output:
//!
//! ```text
//! col      0       1     2       3          N - 2         N - 1        v as above, up to the activation
//!          gate 0  up 0  gate 1  up 1  ...  gate N/2 - 1  up N/2 - 1
//! w[row, j] = activation(v[row, 2 j]) * v[row, 2 j + 1]                rounded to nearest even
//! w = w + residual[row, j]                                             and on as above
//! ```
//!
//! Neighbours are in one tile whatever the tile is. [`interleave_gate_up`](crate::gemm::interleave_gate_up) lays weights, scales
//! and biases out so.

pub(crate) mod check;
mod place;
mod tile;

pub use place::{Host, Place, Planned};
pub(crate) use tile::{Resolved, Tile};

use crate::activation::Activation;
use crate::element::{DType, Element, OutputMut};
use crate::error::{Error, Result};
use std::fmt;

/// The scales of one side of a product; `V` holds one for each row or column.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Scales<V> {
    /// No scale: a factor of 1.
    #[default]
    None,
    /// One scale for the whole tensor.
    PerTensor(f32),
    /// One scale a row of the left operand (per token), or a column of the right one (per channel).
    PerVector(V),
}

impl<V> Scales<V> {
    /// Whether there is no scale.
    pub fn is_none(&self) -> bool {
        matches!(self, Scales::None)
    }
}

impl Scales<&[f32]> {
    /// The scale of row or column `i`.
    #[inline(always)]
    pub(crate) fn at(&self, i: usize) -> f32 {
        match self {
            Scales::None => 1.0,
            Scales::PerTensor(s) => *s,
            Scales::PerVector(s) => s[i],
        }
    }
}

/// The integers that stand for 0.0 in the left operand; `V` holds one for each row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum ZeroPoints<V> {
    /// 0 in all rows: symmetric.
    #[default]
    None,
    /// One for all rows, in -128..=127.
    PerTensor(i32),
    /// One for each row, each in -128..=127.
    PerVector(V),
}

impl<V> ZeroPoints<V> {
    /// Whether there is no zero point.
    pub fn is_none(&self) -> bool {
        matches!(self, ZeroPoints::None)
    }
}

impl ZeroPoints<&[i32]> {
    /// The zero point of row `i`.
    #[inline(always)]
    pub(crate) fn at(&self, i: usize) -> i32 {
        match self {
            ZeroPoints::None => 0,
            ZeroPoints::PerTensor(z) => *z,
            ZeroPoints::PerVector(z) => z[i],
        }
    }
}

/// The last step: what a product is written as. See the [module](self) for the equations.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Output {
    /// The exact int32 sums, less the zero points' share.
    Raw,
    /// f32.
    #[default]
    F32,
    /// f16, rounded once from f32.
    F16,
    /// bf16, rounded once from f32.
    BF16,
    /// int8 with one scale that is known beforehand.
    Int8 {
        /// The size of one step: above zero, finite, with a finite inverse.
        scale: f32,
    },
    /// int8 with a scale a row, found from the row: per-token activations for the next product.
    ///
    /// A row with NaN or infinity gives zeros and a scale that is not finite.
    Int8PerRow,
}

impl Output {
    /// The float output whose elements are `T`.
    pub fn of<T: Element>() -> Output {
        match T::DTYPE {
            DType::F16 => Output::F16,
            DType::BF16 => Output::BF16,
            _ => Output::F32,
        }
    }

    /// The output that a place is for, where that says all.
    pub(crate) fn for_place(place: &OutputMut<'_>) -> Result<Output> {
        match place {
            OutputMut::F32(_) => Ok(Output::F32),
            OutputMut::F16(_) => Ok(Output::F16),
            OutputMut::BF16(_) => Ok(Output::BF16),
            OutputMut::I32(_) => Ok(Output::Raw),
            OutputMut::I8PerRow { .. } => Ok(Output::Int8PerRow),
            OutputMut::I8(_) => Err(Error::Epilogue {
                what: "no scale",
                output: DType::I8,
                expected: "an epilogue with Output::Int8",
            }),
        }
    }

    /// The type of its elements.
    pub fn dtype(self) -> DType {
        match self {
            Output::Raw => DType::I32,
            Output::F32 => DType::F32,
            Output::F16 => DType::F16,
            Output::BF16 => DType::BF16,
            Output::Int8 { .. } | Output::Int8PerRow => DType::I8,
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::Raw => f.write_str("raw i32 sums"),
            Output::F32 | Output::F16 | Output::BF16 => self.dtype().fmt(f),
            Output::Int8 { scale } => write!(f, "i8 of scale {scale}"),
            Output::Int8PerRow => f.write_str("i8 with a scale a row"),
        }
    }
}

/// The steps between the int32 sum and the output; see the [module](self) for their order and rounding.
///
/// `P` says where the parts lie: [`Host`] slices, a device's memory, or nowhere yet ([`Planned`]).
///
/// ```
/// use imma::activation::Activation;
/// use imma::element::FloatSlice;
/// use imma::epilogue::Output;
/// use imma::Epilogue;
/// let bias = [0.5f32, -0.5];
/// let epilogue = Epilogue::to(Output::BF16)
///     .with_bias(FloatSlice::F32(&bias))
///     .with_activation(Activation::Relu);
/// # let epilogue: Epilogue<imma::epilogue::Host<'_>> = epilogue;
/// assert!(epilogue.residual.is_none());
/// ```
pub struct Epilogue<P: Place> {
    /// Scales of the left operand's rows. Left operands given as floats bring their own: then this stays `None`.
    pub row_scales: Scales<P::F32>,
    /// Scales of the weights' columns. `None` takes those that the packed weights carry, if any.
    pub col_scales: Scales<P::F32>,
    /// The integers that stand for 0.0 in the rows of the left operand.
    pub row_zero_points: ZeroPoints<P::I32>,
    /// Added to each column, `[N]`.
    pub bias: Option<P::Bias>,
    /// Applied after the bias; of a gated product to the gate alone.
    pub activation: Activation,
    /// Columns `2 j` and `2 j + 1` are a gate and what it multiplies: the output is `[M, N / 2]`.
    pub gated: bool,
    /// Added last, in the output's shape.
    pub residual: Option<P::Residual>,
    /// What the product is written as.
    pub output: Output,
}

impl<P: Place> Epilogue<P> {
    /// An epilogue to `output` with no other part.
    pub fn to(output: Output) -> Self {
        Epilogue {
            row_scales: Scales::None,
            col_scales: Scales::None,
            row_zero_points: ZeroPoints::None,
            bias: None,
            activation: Activation::None,
            gated: false,
            residual: None,
            output,
        }
    }

    /// The same with scales of the left operand's rows.
    pub fn with_row_scales(self, row_scales: Scales<P::F32>) -> Self {
        Epilogue { row_scales, ..self }
    }

    /// The same with scales of the weights' columns.
    pub fn with_col_scales(self, col_scales: Scales<P::F32>) -> Self {
        Epilogue { col_scales, ..self }
    }

    /// The same with zero points of the left operand's rows.
    pub fn with_row_zero_points(self, row_zero_points: ZeroPoints<P::I32>) -> Self {
        Epilogue {
            row_zero_points,
            ..self
        }
    }

    /// The same with a bias.
    pub fn with_bias(self, bias: P::Bias) -> Self {
        Epilogue {
            bias: Some(bias),
            ..self
        }
    }

    /// The same with an activation function.
    pub fn with_activation(self, activation: Activation) -> Self {
        Epilogue { activation, ..self }
    }

    /// The same with its columns taken in pairs of gate and up, or not.
    pub fn with_gated(self, gated: bool) -> Self {
        Epilogue { gated, ..self }
    }

    /// The same with a residual.
    pub fn with_residual(self, residual: P::Residual) -> Self {
        Epilogue {
            residual: Some(residual),
            ..self
        }
    }

    /// The same to another output.
    pub fn with_output(self, output: Output) -> Self {
        Epilogue { output, ..self }
    }
}

// By hand: a derive would ask the same of `P` itself.
impl<P: Place> Default for Epilogue<P> {
    fn default() -> Self {
        Self::to(Output::default())
    }
}

impl<P: Place> Clone for Epilogue<P> {
    fn clone(&self) -> Self {
        Epilogue {
            row_scales: self.row_scales.clone(),
            col_scales: self.col_scales.clone(),
            row_zero_points: self.row_zero_points.clone(),
            bias: self.bias.clone(),
            residual: self.residual.clone(),
            ..*self
        }
    }
}

impl<P: Place> fmt::Debug for Epilogue<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epilogue")
            .field("row_scales", &self.row_scales)
            .field("col_scales", &self.col_scales)
            .field("row_zero_points", &self.row_zero_points)
            .field("bias", &self.bias)
            .field("activation", &self.activation)
            .field("gated", &self.gated)
            .field("residual", &self.residual)
            .field("output", &self.output)
            .finish()
    }
}

impl PartialEq for Epilogue<Planned> {
    fn eq(&self, other: &Self) -> bool {
        (self.row_scales, self.col_scales) == (other.row_scales, other.col_scales)
            && self.row_zero_points == other.row_zero_points
            && (self.bias, self.residual) == (other.bias, other.residual)
            && (self.activation, self.gated) == (other.activation, other.gated)
            && self.output == other.output
    }
}
