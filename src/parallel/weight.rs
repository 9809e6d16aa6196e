//! What a rank brings to a layer.

use crate::activation::Activation;
use crate::element::{FloatSlice, FloatView};
use crate::error::{Error, Result};
use crate::gemm::groupwise::{check_finite, check_scales, check_size};
use crate::gemm::ActivationQuant;
use crate::ops::check_zero_points;
use crate::quant::InputTransform;
use ndarray::ArrayView2;

/// A rank's slice of a layer's weight `[N, K]`: `[its outputs, K]` where outputs are split, `[N, its inputs]` where inputs are.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WeightSlice<'a> {
    /// Floats, quantised with one symmetric scale an output of the whole weight.
    Float(FloatView<'a>),
    /// Floats, quantised with one symmetric scale for each output and each group of the whole weight's inputs.
    FloatGroupwise {
        /// The slice.
        data: FloatView<'a>,
        /// Inputs that share a scale: 32, 64 or 128. Groups are counted from the whole weight's first input.
        size: usize,
    },
    /// Integers that stand for `(q - zero_point) * scale`.
    Int8 {
        /// The slice.
        data: ArrayView2<'a, i8>,
        /// One scale, or one for each output of the slice.
        scales: &'a [f32],
        /// One for each output of the slice, when the weight is asymmetric.
        zero_points: Option<&'a [i8]>,
    },
    /// Integers with group-wise scales.
    Int8Groupwise {
        /// The slice.
        data: ArrayView2<'a, i8>,
        /// One for each output of the slice and each group that it has inputs of.
        scales: ArrayView2<'a, f32>,
        /// Inputs that share a scale: 32, 64 or 128.
        size: usize,
    },
}

impl WeightSlice<'_> {
    /// Outputs and inputs of the slice.
    pub fn dim(&self) -> (usize, usize) {
        match self {
            WeightSlice::Float(data) | WeightSlice::FloatGroupwise { data, .. } => data.dim(),
            WeightSlice::Int8 { data, .. } | WeightSlice::Int8Groupwise { data, .. } => data.dim(),
        }
    }

    /// Inputs that share a scale, where not all do.
    pub(super) fn group_size(&self) -> Option<usize> {
        match self {
            WeightSlice::Float(_) | WeightSlice::Int8 { .. } => None,
            WeightSlice::FloatGroupwise { size, .. } | WeightSlice::Int8Groupwise { size, .. } => {
                Some(*size)
            }
        }
    }

    /// What it is made of, for ranks to compare.
    pub(super) fn kind(&self) -> String {
        match self {
            WeightSlice::Float(data) | WeightSlice::FloatGroupwise { data, .. } => {
                data.dtype().to_string()
            }
            WeightSlice::Int8 {
                zero_points: Some(_),
                ..
            } => "i8 with zero points".into(),
            WeightSlice::Int8 { .. } | WeightSlice::Int8Groupwise { .. } => "i8".into(),
        }
    }

    /// Refuses scales and zero points that do not fit the slice, whose first input is the layer's input `first`.
    pub(super) fn check(&self, first: usize) -> Result<()> {
        let (n, k) = self.dim();
        match self {
            WeightSlice::Float(_) => Ok(()),
            WeightSlice::FloatGroupwise { size, .. } => check_size(*size),
            WeightSlice::Int8 {
                scales,
                zero_points,
                ..
            } => {
                check_finite(*scales)?;
                if scales.len() != 1 && scales.len() != n {
                    return Err(Error::Length {
                        what: "the list of weight scales",
                        found: scales.len(),
                        expected: n,
                    });
                }
                zero_points.map_or(Ok(()), |zero_points| check_zero_points(zero_points, n))
            }
            WeightSlice::Int8Groupwise { scales, size, .. } => {
                check_size(*size)?;
                let groups = (first + k).div_ceil(*size) - first / size;
                let groups = if k == 0 { 0 } else { groups };
                check_scales("ShardedLinear", scales, [n, groups])?;
                check_finite(*scales)
            }
        }
    }
}

/// What a layer does beside its product: the same on all ranks, but for what is split with the weight.
#[derive(Debug, Clone, Default)]
pub struct LayerOptions<'a> {
    /// Added to each output: those of the slice where outputs are split, all where inputs are.
    pub bias: Option<FloatSlice<'a>>,
    /// How inputs are quantised.
    pub input: ActivationQuant,
    /// What is done to inputs before: multipliers of all inputs where outputs are split, of the slice where inputs are.
    /// A rotation's blocks must not be cut.
    pub transform: InputTransform,
    /// Applied after the bias; of a gated layer to the gate alone.
    pub activation: Activation,
    /// Outputs are pairs of gate and up, which [`interleave_gate_up`](crate::gemm::interleave_gate_up) makes; the layer gives
    /// half as many. No pair may be cut.
    pub gated: bool,
}
