//! A part of a layer: what one of several ranks reads.

use super::error::CheckpointError;
use super::layer_tensors::LayerTensors;
use super::linear::{StoredLinear, StoredWeight};
use super::Checkpoint;
use crate::quant::InputTransform;
use ndarray::{s, Array2};
use std::ops::Range;

/// A part of a linear layer `[N, K]`, with what belongs to it beside the weight.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerSlice {
    /// Some outputs: their scales, zero points and bias.
    Outputs(Range<usize>),
    /// Some inputs: the scales of the groups that they lie in, their multipliers; scales of outputs and the bias are whole.
    Inputs(Range<usize>),
}

/// The part of a weight's matrix that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    pub outputs: Range<usize>,
    pub inputs: Range<usize>,
}

impl Window {
    /// The shape of what is read.
    pub fn shape(&self) -> (usize, usize) {
        (self.outputs.len(), self.inputs.len())
    }
}

impl LayerTensors<'_> {
    /// What is read of a weight `[n, k]`.
    pub(super) fn window(&self, [n, k]: [usize; 2]) -> Result<Window, CheckpointError> {
        let whole = Window {
            outputs: 0..n,
            inputs: 0..k,
        };
        let (range, length, what) = match &self.slice {
            None => return Ok(whole),
            Some(LayerSlice::Outputs(range)) => (range, n, "outputs"),
            Some(LayerSlice::Inputs(range)) => (range, k, "inputs"),
        };
        if range.start > range.end || range.end > length {
            let found = format!("a slice of {what} {range:?}");
            let expected = format!("a range within the layer's {length}");
            return Err(self.wrong("weight", found, expected));
        }
        Ok(match &self.slice {
            Some(LayerSlice::Outputs(range)) => Window {
                outputs: range.clone(),
                ..whole
            },
            _ => Window {
                inputs: range.clone(),
                ..whole
            },
        })
    }

    /// The window of a transform of all inputs.
    pub(super) fn of_inputs(
        &self,
        transform: InputTransform,
        window: &Window,
        k: usize,
    ) -> Result<InputTransform, CheckpointError> {
        if window.inputs == (0..k) {
            return Ok(transform);
        }
        let refuse = |source| self.checkpoint.no_layer(self.prefix, source);
        let mut part = InputTransform::default();
        if let Some(multiplier) = transform.multiplier() {
            let own = &multiplier[window.inputs.clone()];
            part = part.with_multiplier(own).map_err(refuse)?;
        }
        if let Some(rotation) = transform.rotation() {
            let block = rotation.block();
            let cut = [window.inputs.start, window.inputs.end];
            if let Some(cut) = cut.iter().find(|cut| !cut.is_multiple_of(block)) {
                let found = format!("a slice that cuts the inputs at {cut}");
                let expected = format!("a multiple of {block}, the block of their rotation");
                return Err(self.wrong("weight", found, expected));
            }
            part = part.with_rotation(rotation).map_err(refuse)?;
        }
        Ok(part)
    }
}

impl StoredWeight {
    /// The same with the window's part of scales and zero points of the whole weight; the integers are the window's already.
    pub(super) fn of_window(self, window: &Window) -> Self {
        let outputs = window.outputs.clone();
        match self {
            StoredWeight::Float(_) => self,
            StoredWeight::Int8 {
                data,
                scales,
                zero_points,
            } => StoredWeight::Int8 {
                data,
                scales: scales[outputs.clone()].to_vec(),
                zero_points: zero_points.map(|all| all[outputs].to_vec()),
            },
            StoredWeight::Groupwise { data, scales, size } => {
                let inputs = &window.inputs;
                let groups = if inputs.is_empty() {
                    0..0
                } else {
                    inputs.start / size..inputs.end.div_ceil(size)
                };
                let scales: Array2<f32> = scales.slice(s![outputs, groups]).to_owned();
                StoredWeight::Groupwise { data, scales, size }
            }
        }
    }
}

impl Checkpoint {
    /// A part of the linear layer `prefix`: [`stored_linear`](Self::stored_linear) for one of several ranks, which reads no
    /// other part of the weight into memory.
    ///
    /// ```
    /// use imma::checkpoint::{Checkpoint, LayerSlice};
    /// let checkpoint = Checkpoint::open("tests/data/checkpoints/ct_group")?;
    /// assert_eq!(checkpoint.linear_shape("up")?, [96, 64]);
    /// let slice = checkpoint.stored_slice("up", LayerSlice::Inputs(32..64))?;
    /// assert_eq!(slice.weight.shape(), [96, 32]);
    /// # Ok::<(), imma::checkpoint::CheckpointError>(())
    /// ```
    ///
    /// # Errors
    /// As [`stored_linear`](Self::stored_linear), and for a slice that lies outside the layer or cuts a block of the inputs'
    /// rotation.
    pub fn stored_slice(
        &self,
        prefix: &str,
        slice: LayerSlice,
    ) -> Result<StoredLinear, CheckpointError> {
        self.read_linear(prefix, Some(slice))
    }

    /// The outputs and inputs, `[N, K]`, of the linear layer `prefix`, without reading its weight.
    ///
    /// # Errors
    /// As [`stored_linear`](Self::stored_linear), for the tensors that say so.
    pub fn linear_shape(&self, prefix: &str) -> Result<[usize; 2], CheckpointError> {
        LayerTensors::new(self, prefix).shape()
    }
}
