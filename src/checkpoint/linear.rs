//! A linear layer's tensors, and the layer made of them.

use super::error::CheckpointError;
use super::file::RawTensor;
use super::scheme::{Group, Inputs, Layer};
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
        /// The sizes of a step, one an output.
        scales: Vec<f32>,
        /// The integers that stand for 0.0, one an output, when the weight is asymmetric.
        zero_points: Option<Vec<i8>>,
    },
    /// Integers that stand for `q * scale`, with a scale for each output and each group of inputs.
    Groupwise {
        /// The integers.
        data: Array2<i8>,
        /// The sizes of a step, `[N, K / size rounded up]`.
        scales: Array2<f32>,
        /// Inputs that share a scale: 32, 64 or 128.
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
    /// A layer in the checkpoint's list of ignored ones holds floats; it is read like any other layer of floats.
    ///
    /// # Errors
    /// When a tensor is missing, or has another type, shape or value than its format says.
    pub fn stored_linear(&self, prefix: &str) -> Result<StoredLinear, CheckpointError> {
        let name = format!("{prefix}.weight");
        let raw = self.require(&name)?;
        let (n, k) = match raw.shape {
            [n, k] if *n > 0 && *k > 0 => (*n, *k),
            _ => {
                return Err(self.wrong(&name, raw.describe(), "two dimensions, none of them empty"))
            }
        };
        let unreadable = |expected: &str| self.wrong(&name, raw.describe(), expected);
        let says = self.scheme.layer(prefix);
        let mut input = ActivationQuant::PerToken;
        let weight = if raw.dtype == Dtype::I8 {
            let data = raw.integers().ok_or_else(|| unreadable("I8"))?;
            let data = Array2::from_shape_vec((n, k), data)
                .map_err(|_| unreadable("a shape that can be addressed"))?;
            if let Layer::Group(Group {
                weights_size: Some(size),
                ..
            }) = says
            {
                let scales = self.per_group(&format!("{prefix}.weight_scale"), [n, k], *size)?;
                return Ok(StoredLinear {
                    weight: StoredWeight::Groupwise {
                        data,
                        scales,
                        size: *size,
                    },
                    bias: self.bias(prefix, n)?,
                    input: self.input(prefix, says)?,
                });
            }
            let (scales, zero_points) = match says {
                Layer::Ignored => {
                    let expected = "floats: config.json leaves this layer out of the quantisation";
                    return Err(self.wrong(&name, raw.describe(), expected));
                }
                _ if self.raw(&format!("{prefix}.SCB")).is_some() => (self.scb(prefix, n)?, None),
                _ => {
                    let zero_points = match says {
                        Layer::Group(group) if group.weights_symmetric => None,
                        Layer::Group(_) => Some(self.zero_points(prefix, n)?),
                        _ => self
                            .raw(&format!("{prefix}.weight_zero_point"))
                            .map(|_| self.zero_points(prefix, n))
                            .transpose()?,
                    };
                    input = self.input(prefix, says)?;
                    let scales = self.per_output(&format!("{prefix}.weight_scale"), n)?;
                    (scales, zero_points)
                }
            };
            StoredWeight::Int8 {
                data,
                scales,
                zero_points,
            }
        } else {
            let data = raw
                .floats()
                .ok_or_else(|| unreadable("I8, F32, F16 or BF16"))?;
            StoredWeight::Float(
                Array2::from_shape_vec((n, k), data)
                    .map_err(|_| unreadable("a shape that can be addressed"))?,
            )
        };
        Ok(StoredLinear {
            weight,
            bias: self.bias(prefix, n)?,
            input,
        })
    }

    fn bias(&self, prefix: &str, n: usize) -> Result<Option<Vec<f32>>, CheckpointError> {
        let bias = format!("{prefix}.bias");
        match self.raw(&bias) {
            None => Ok(None),
            Some(raw) if raw.is_float() && raw.shape == [n] => Ok(raw.floats()),
            Some(raw) => Err(self.wrong(&bias, raw.describe(), format!("floats, [{n}]"))),
        }
    }

    /// Scales that are finite and not negative, one for each output and each group of `size` inputs.
    fn per_group(
        &self,
        name: &str,
        [n, k]: [usize; 2],
        size: usize,
    ) -> Result<Array2<f32>, CheckpointError> {
        let raw = self.require(name)?;
        let shape = [n, k.div_ceil(size)];
        let expected = || format!("floats, [{n}, {}]: groups of {size} inputs", shape[1]);
        let scales = raw.floats().filter(|_| raw.shape == shape);
        let scales = scales.and_then(|s| Array2::from_shape_vec(shape, s).ok());
        let scales = scales.ok_or_else(|| self.wrong(name, raw.describe(), expected()))?;
        match scales.iter().find(|s| !(s.is_finite() && **s >= 0.0)) {
            None => Ok(scales),
            Some(bad) => Err(self.wrong(name, bad.to_string(), "finite numbers, none below zero")),
        }
    }

    /// bitsandbytes' scales: the absmax of each output.
    fn scb(&self, prefix: &str, n: usize) -> Result<Vec<f32>, CheckpointError> {
        let layout = format!("{prefix}.weight_format");
        if let Some(raw) = self.raw(&layout) {
            // 0 is row-major; the others are tiled for old GPUs.
            let row = raw.dtype == Dtype::U8 && raw.bytes == [0];
            if !row {
                let found = format!("{} with bytes {:?}", raw.describe(), first(&raw));
                return Err(self.wrong(&layout, found, "U8 0: row-major"));
            }
        }
        let absmax = self.per_output(&format!("{prefix}.SCB"), n)?;
        Ok(absmax.into_iter().map(crate::numerics::scale).collect())
    }

    /// Scales that are finite and not negative, one an output; one for all is repeated.
    fn per_output(&self, name: &str, n: usize) -> Result<Vec<f32>, CheckpointError> {
        let raw = self.require(name)?;
        let fits =
            matches!(raw.shape, [] | [1] | [1, 1]) || raw.shape == [n] || raw.shape == [n, 1];
        let scales = raw.floats().filter(|_| fits).ok_or_else(|| {
            self.wrong(
                name,
                raw.describe(),
                format!("floats, [{n}, 1], [{n}] or one"),
            )
        })?;
        if let Some(bad) = scales.iter().find(|s| !(s.is_finite() && **s >= 0.0)) {
            return Err(self.wrong(name, bad.to_string(), "finite numbers, none below zero"));
        }
        Ok(match scales.as_slice() {
            [one] => vec![*one; n],
            _ => scales,
        })
    }

    fn zero_points(&self, prefix: &str, n: usize) -> Result<Vec<i8>, CheckpointError> {
        let name = format!("{prefix}.weight_zero_point");
        let raw = self.require(&name)?;
        let fits =
            matches!(raw.shape, [] | [1] | [1, 1]) || raw.shape == [n] || raw.shape == [n, 1];
        let found = raw.integers().filter(|_| fits).ok_or_else(|| {
            self.wrong(&name, raw.describe(), format!("I8, [{n}, 1], [{n}] or one"))
        })?;
        Ok(match found.as_slice() {
            [one] => vec![*one; n],
            _ => found,
        })
    }

    /// How a compressed-tensors layer quantises its inputs.
    fn input(&self, prefix: &str, says: Layer<'_>) -> Result<ActivationQuant, CheckpointError> {
        let scale = format!("{prefix}.input_scale");
        let zero = format!("{prefix}.input_zero_point");
        let inputs = match says {
            Layer::Group(group) => group.inputs,
            // Without a config the tensors speak.
            _ if self.raw(&scale).is_some() => Inputs::Static {
                symmetric: self.raw(&zero).is_none(),
            },
            _ => Inputs::Dynamic { symmetric: true },
        };
        let symmetric = match inputs {
            Inputs::Dynamic { symmetric: true } => return Ok(ActivationQuant::PerToken),
            Inputs::Dynamic { symmetric: false } => return Ok(ActivationQuant::PerTokenAsymmetric),
            Inputs::Static { symmetric } => symmetric,
        };
        let raw = self.require(&scale)?;
        let step = match raw.floats().as_deref() {
            Some([step]) => *step,
            _ => return Err(self.wrong(&scale, raw.describe(), "one float")),
        };
        if symmetric {
            return Ok(ActivationQuant::Static { scale: step });
        }
        let raw = self.require(&zero)?;
        match raw.integers().as_deref() {
            Some([zero_point]) => Ok(ActivationQuant::StaticAsymmetric {
                scale: step,
                zero_point: i32::from(*zero_point),
            }),
            _ => Err(self.wrong(&zero, raw.describe(), "one I8")),
        }
    }
}

/// A few bytes for a message.
fn first<'a>(raw: &RawTensor<'a>) -> &'a [u8] {
    &raw.bytes[..raw.bytes.len().min(4)]
}
