//! A linear layer's tensors, and the layer made of them.

use super::error::CheckpointError;
use super::file::RawTensor;
use super::scheme::{Group, Layer};
use super::Checkpoint;
use crate::error::Error;
use crate::gemm::{ActivationQuant, Backend};
use crate::ops::{default_backend, Int8Linear};
use ndarray::{Array2, ArrayView1};
use safetensors::Dtype;
use std::path::Path;
use std::sync::Arc;

/// A linear layer as a checkpoint stores it, read into memory.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StoredLinear {
    /// The weight, `[N, K]`.
    pub weight: StoredWeight,
    /// The bias, `[N]`.
    pub bias: Option<Vec<f32>>,
    /// How the layer quantises its inputs: as the checkpoint says, per token when it says nothing.
    pub input: ActivationQuant,
}

/// A layer's weight, `[N, K]`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum StoredWeight {
    /// Floats, widened to f32.
    Float(Array2<f32>),
    /// Integers that stand for `(q - zero_point) * scale`.
    Int8 {
        /// The integers.
        data: Array2<i8>,
        /// The scales, one per output.
        scales: Vec<f32>,
        /// The integers that stand for 0.0, one per output, when the weight is asymmetric.
        zero_points: Option<Vec<i8>>,
    },
    /// Integers that stand for `q * scale`, with a scale for each output and each group of inputs.
    Groupwise {
        /// The integers.
        data: Array2<i8>,
        /// The scales, `[N, K / size rounded up]`.
        scales: Array2<f32>,
        /// How many inputs share a scale: 32, 64 or 128.
        size: usize,
    },
}

impl StoredWeight {
    /// The weight as floats, each rounded once.
    pub fn dequantize(&self) -> Array2<f32> {
        match self {
            StoredWeight::Float(weight) => weight.clone(),
            StoredWeight::Int8 {
                data,
                scales,
                zero_points,
            } => Array2::from_shape_fn(data.dim(), |(j, i)| {
                let zero = zero_points.as_ref().map_or(0, |z| i16::from(z[j]));
                f32::from(i16::from(data[[j, i]]) - zero) * scales[j]
            }),
            StoredWeight::Groupwise { data, scales, size } => {
                Array2::from_shape_fn(data.dim(), |(j, i)| {
                    f32::from(data[[j, i]]) * scales[[j, i / size]]
                })
            }
        }
    }
}

impl StoredLinear {
    /// The layer on a backend of choice; float weights are quantised per output.
    ///
    /// # Errors
    /// As [`Int8Linear::from_float_on`], [`Int8Linear::from_int8_asymmetric_on`],
    /// [`Int8Linear::from_int8_groupwise_on`] and [`Int8Linear::with_activation_quant`].
    pub fn into_linear_on(self, backend: Arc<dyn Backend>) -> crate::Result<Int8Linear> {
        let bias = self.bias.as_deref().map(ArrayView1::from);
        let layer = match &self.weight {
            StoredWeight::Float(w) => Int8Linear::from_float_on(backend, w.view(), bias),
            StoredWeight::Int8 {
                data,
                scales,
                zero_points: None,
            } => Int8Linear::from_int8_on(backend, data.view(), scales, bias),
            StoredWeight::Int8 {
                data,
                scales,
                zero_points: Some(zero),
            } => Int8Linear::from_int8_asymmetric_on(backend, data.view(), scales, zero, bias),
            StoredWeight::Groupwise { data, scales, size } => {
                Int8Linear::from_int8_groupwise_on(backend, data.view(), scales.view(), *size, bias)
            }
        }?;
        layer.with_activation_quant(self.input)
    }
}

impl Int8Linear {
    /// The linear layer `prefix` of a checkpoint: a `.safetensors` file, a sharded index, or a model's folder. Its
    /// formats are those of [`checkpoint`](crate::checkpoint). To load many layers, open a [`Checkpoint`] once.
    ///
    /// # Errors
    /// When the checkpoint can't be opened, or its tensors do not make a layer.
    ///
    /// ```
    /// use imma::Int8Linear;
    /// let layer = Int8Linear::from_checkpoint("tests/data/checkpoints/ct_dynamic", "up")?;
    /// assert_eq!((layer.inputs(), layer.outputs()), (24, 40));
    /// let layer = Int8Linear::from_checkpoint("tests/data/checkpoints/ct_group", "up")?;
    /// assert_eq!((layer.inputs(), layer.outputs(), layer.group_size()), (64, 96, Some(32)));
    /// # Ok::<(), imma::checkpoint::CheckpointError>(())
    /// ```
    pub fn from_checkpoint(path: impl AsRef<Path>, prefix: &str) -> Result<Self, CheckpointError> {
        Checkpoint::open(path)?.linear(prefix)
    }
}

impl Checkpoint {
    fn no_layer(&self, prefix: &str, source: Error) -> CheckpointError {
        CheckpointError::Layer {
            path: self.path().into(),
            prefix: prefix.into(),
            source: Box::new(source),
        }
    }

    /// The linear layer `prefix`, packed for the default backend.
    ///
    /// # Errors
    /// As [`stored_linear`](Self::stored_linear), and [`CheckpointError::Layer`] when the tensors do not make a layer.
    pub fn linear(&self, prefix: &str) -> Result<Int8Linear, CheckpointError> {
        self.linear_on(default_backend().clone(), prefix)
    }

    /// [`linear`](Self::linear) on a backend of choice; the same bits.
    ///
    /// # Errors
    /// As [`linear`](Self::linear), and those of the backend.
    pub fn linear_on(
        &self,
        backend: Arc<dyn Backend>,
        prefix: &str,
    ) -> Result<Int8Linear, CheckpointError> {
        let stored = self.stored_linear(prefix)?;
        let made = stored.into_linear_on(backend);
        made.map_err(|source| self.no_layer(prefix, source))
    }

    /// The linear layers whose weights are stored as int8, by name, sorted.
    pub fn int8_layers(&self) -> Vec<String> {
        let weights = self.names().filter_map(|name| {
            let int8 = self.raw(name)?.dtype == Dtype::I8;
            int8.then(|| name.strip_suffix(".weight"))?
        });
        weights.map(String::from).collect()
    }

    /// Whether the linear layer `prefix` is there with its weight stored as int8.
    #[cfg(feature = "candle")]
    pub(crate) fn is_int8(&self, prefix: &str) -> bool {
        let raw = self.raw(&format!("{prefix}.weight"));
        raw.is_some_and(|raw| raw.dtype == Dtype::I8)
    }

    /// The tensors of the linear layer `prefix`.
    ///
    /// A layer that the checkpoint's config says to ignore holds floats; it is read like any other layer of floats.
    ///
    /// # Errors
    /// When a tensor is missing, or has another type, shape or value than its format says.
    pub fn stored_linear(&self, prefix: &str) -> Result<StoredLinear, CheckpointError> {
        let name = format!("{prefix}.weight");
        let raw = self.require(&name)?;
        let shape = match raw.shape {
            [n, k] if *n > 0 && *k > 0 => [*n, *k],
            _ => {
                return Err(self.wrong(&name, raw.describe(), "two dimensions, none of them empty"))
            }
        };
        let (weight, input) = match raw.dtype {
            Dtype::I8 => self.int8_weight(prefix, &raw, shape)?,
            _ => {
                let wrong = |expected: &str| self.wrong(&name, raw.describe(), expected);
                let data = raw.floats().ok_or_else(|| wrong("I8, F32, F16 or BF16"))?;
                let data = Array2::from_shape_vec(shape, data);
                let data = data.map_err(|_| wrong("a shape that can be addressed"))?;
                (StoredWeight::Float(data), ActivationQuant::PerToken)
            }
        };
        Ok(StoredLinear {
            weight,
            bias: self.bias(prefix, shape[0])?,
            input,
        })
    }

    /// A layer's integers with their scales, and how the layer quantises its inputs.
    fn int8_weight(
        &self,
        prefix: &str,
        raw: &RawTensor<'_>,
        [n, k]: [usize; 2],
    ) -> Result<(StoredWeight, ActivationQuant), CheckpointError> {
        let wrong =
            |expected: &str| self.wrong(&format!("{prefix}.weight"), raw.describe(), expected);
        let says = self.scheme.layer(prefix);
        let data = raw.integers().ok_or_else(|| wrong("I8"))?;
        let data = Array2::from_shape_vec((n, k), data);
        let data = data.map_err(|_| wrong("a shape that can be addressed"))?;
        let scale = format!("{prefix}.weight_scale");
        match says {
            Layer::Group(Group {
                weights_size: Some(size),
                ..
            }) => {
                let weight = StoredWeight::Groupwise {
                    data,
                    scales: self.per_group(&scale, [n, k], *size)?,
                    size: *size,
                };
                Ok((weight, self.input(prefix, says)?))
            }
            Layer::Ignored => Err(wrong(
                "floats: config.json leaves this layer out of the quantisation",
            )),
            _ if self.raw(&format!("{prefix}.SCB")).is_some() => {
                let weight = StoredWeight::Int8 {
                    data,
                    scales: self.scb(prefix, n)?,
                    zero_points: None,
                };
                Ok((weight, ActivationQuant::PerToken))
            }
            _ => {
                let zero_points = self.weight_zero_points(prefix, says, n)?;
                let input = self.input(prefix, says)?;
                let weight = StoredWeight::Int8 {
                    data,
                    scales: self.per_output(&scale, n)?,
                    zero_points,
                };
                Ok((weight, input))
            }
        }
    }
}
