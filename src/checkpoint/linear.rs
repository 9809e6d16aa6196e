//! A linear layer's tensors, and the layer made of them.

use super::error::{shortened, CheckpointError};
use super::file::RawTensor;
use super::group::Group;
use super::layer_tensors::{joined, LayerTensors};
use super::scheme::Layer;
use super::slice::{LayerSlice, Window};
use super::{ascend, comfy, packed, Checkpoint};
use crate::error::Error;
use crate::gemm::{ActivationQuant, Backend};
use crate::ops::{default_backend, Int8Linear};
use crate::quant::InputTransform;
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
    /// What is done to inputs before they are quantised.
    pub transform: InputTransform,
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
    fn int8(data: Array2<i8>, scales: Vec<f32>) -> Self {
        StoredWeight::Int8 {
            data,
            scales,
            zero_points: None,
        }
    }

    /// N and K.
    pub fn shape(&self) -> [usize; 2] {
        let (n, k) = match self {
            StoredWeight::Float(weight) => weight.dim(),
            StoredWeight::Int8 { data, .. } | StoredWeight::Groupwise { data, .. } => data.dim(),
        };
        [n, k]
    }

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
    /// [`Int8Linear::from_int8_groupwise_on`], [`Int8Linear::with_activation_quant`] and
    /// [`Int8Linear::with_input_transform`].
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
        layer
            .with_activation_quant(self.input)?
            .with_input_transform(self.transform)
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
    pub(crate) fn no_layer(&self, prefix: &str, source: Error) -> CheckpointError {
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
            int8.then(|| match name {
                "weight" => Some(""),
                _ => name.strip_suffix(".weight"),
            })?
        });
        weights.map(String::from).collect()
    }

    /// Whether the linear layer `prefix` is there with its weight stored as int8.
    #[cfg(feature = "candle")]
    pub(crate) fn is_int8(&self, prefix: &str) -> bool {
        let raw = self.raw(&joined(prefix, "weight"));
        raw.is_some_and(|raw| raw.dtype == Dtype::I8)
    }

    /// The tensors of the linear layer `prefix`; the empty prefix is a file's bare `weight` and `bias`.
    ///
    /// A layer that the checkpoint's config says to ignore holds floats; it is read like any other layer of floats.
    ///
    /// # Errors
    /// When a tensor is missing, or has another type, shape or value than its format says; when there is a tensor beside
    /// the weight that the format does not read.
    pub fn stored_linear(&self, prefix: &str) -> Result<StoredLinear, CheckpointError> {
        self.read_linear(prefix, None)
    }

    /// A linear layer, or a slice of it.
    pub(super) fn read_linear(
        &self,
        prefix: &str,
        slice: Option<LayerSlice>,
    ) -> Result<StoredLinear, CheckpointError> {
        let mut tensors = LayerTensors::new(self, prefix);
        tensors.slice = slice;
        let [n, k] = tensors.shape()?;
        let window = tensors.window([n, k])?;
        let (weight, input, bias) = match tensors.is_packed() {
            true => tensors.int8_layer([n, k], &window, packed::weight)?,
            false => tensors.plain_layer([n, k], &window)?,
        };
        let mut bias = bias;
        if bias.is_none() {
            bias = tensors.bias(n)?;
        }
        let transform = tensors.transform(k)?;
        let transform = tensors.of_inputs(transform, &window, k)?;
        tensors.finish()?;
        Ok(StoredLinear {
            weight: weight.of_window(&window),
            bias: bias.map(|all| all[window.outputs].to_vec()),
            input,
            transform,
        })
    }

    /// Refuses an int8 layer that Ascend's description says to be stored in another way.
    fn check_description(&self, prefix: &str) -> Result<(), CheckpointError> {
        let name = joined(prefix, "weight");
        let said = self.description.as_ref().and_then(|d| d.get(&name));
        let said = said.and_then(|s| s.as_str());
        match said {
            None | Some("W8A8" | "W8A8_DYNAMIC") => Ok(()),
            Some(other) => {
                let found = format!("{} in quant_model_description.json", shortened(other));
                Err(self.wrong(&name, found, "W8A8 or W8A8_DYNAMIC"))
            }
        }
    }
}

/// A layer's weight, how it quantises its inputs, and a bias that is not `P.bias`.
type Parts = (StoredWeight, ActivationQuant, Option<Vec<f32>>);

impl LayerTensors<'_> {
    /// Whether integers are stored four to an int32.
    fn is_packed(&self) -> bool {
        self.has("weight_packed") && !self.has("weight")
    }

    /// N and K, neither of them zero.
    pub(super) fn shape(&self) -> Result<[usize; 2], CheckpointError> {
        if self.is_packed() {
            return packed::shape(self);
        }
        let raw = match self.get("weight") {
            Some(raw) => raw,
            // What config.json says of the layer is the better reason, where it says something.
            None => {
                self.says()?;
                self.require("weight")?
            }
        };
        match raw.shape {
            [n, k] if *n > 0 && *k > 0 => Ok([*n, *k]),
            _ => {
                let expected = "two dimensions, none of them empty";
                Err(self.wrong("weight", raw.describe(), expected))
            }
        }
    }

    /// A layer with a tensor `P.weight`: of integers or floats.
    fn plain_layer(&self, shape: [usize; 2], window: &Window) -> Result<Parts, CheckpointError> {
        let raw = self.require("weight")?;
        let wrong = |expected: &str| self.wrong("weight", raw.describe(), expected);
        let unaddressable = "a shape that can be addressed";
        if raw.dtype == Dtype::I8 {
            return self.int8_layer(shape, window, |_, _, window| {
                let data = raw.integers_in(window).ok_or_else(|| wrong("I8"))?;
                Array2::from_shape_vec(window.shape(), data).map_err(|_| wrong(unaddressable))
            });
        }
        let data = match raw.floats_in(window) {
            Some(data) if raw.is_float() => data,
            _ => {
                self.says()?;
                return Err(wrong("I8, F32, F16 or BF16"));
            }
        };
        let data =
            Array2::from_shape_vec(window.shape(), data).map_err(|_| wrong(unaddressable))?;
        Ok((StoredWeight::Float(data), ActivationQuant::PerToken, None))
    }

    /// What config.json says of the layer.
    fn says(&self) -> Result<Layer<'_>, CheckpointError> {
        let said = self.checkpoint.scheme.layer(self.prefix);
        said.map_err(|refusal| self.checkpoint.refused(self.prefix, refusal))
    }

    /// A layer of integers with their scales: the integers of the window, all that belongs to outputs and groups.
    fn int8_layer(
        &self,
        [n, k]: [usize; 2],
        window: &Window,
        weight: impl FnOnce(&Self, [usize; 2], &Window) -> Result<Array2<i8>, CheckpointError>,
    ) -> Result<Parts, CheckpointError> {
        let says = self.says()?;
        self.checkpoint.check_description(self.prefix)?;
        if let Layer::Ignored = says {
            let raw = self.get("weight").or_else(|| self.get("weight_packed"));
            let found = raw.map_or("int8".into(), |raw: RawTensor<'_>| raw.describe());
            let expected = "floats: config.json leaves this layer out of the quantisation";
            return Err(self.wrong("weight", found, expected));
        }
        let data = weight(self, [n, k], window)?;
        if ascend::is_static(self) {
            let read = ascend::read(self, &self.row_sums([n, k], &data, window)?)?;
            let weight = StoredWeight::int8(data, read.scales);
            return Ok((weight, read.input, Some(read.bias)));
        }
        if self.has("SCB") {
            let weight = StoredWeight::int8(data, self.scb(n)?);
            return Ok((weight, ActivationQuant::PerToken, None));
        }
        let groups = match says {
            Layer::Group(Group {
                weights_size: Some(size),
                ..
            }) => {
                let expected = "zeros: scales of groups are symmetric";
                self.zeros("weight_zero_point", expected)?;
                Some((self.per_group("weight_scale", [n, k], *size)?, *size))
            }
            Layer::Blocks(block) => Some((self.per_block([n, k], block)?, block[1])),
            // Blocks that no config speaks of have the usual size.
            _ if self.has("weight_scale_inv") && !self.has("weight_scale") => {
                Some((self.per_block([n, k], [128, 128])?, 128))
            }
            _ => None,
        };
        let weight = match groups {
            Some((scales, size)) => StoredWeight::Groupwise { data, scales, size },
            None => {
                self.zeros("weight_offset", "zeros: a symmetric weight")?;
                StoredWeight::Int8 {
                    data,
                    scales: self.per_output("weight_scale", n)?,
                    zero_points: self.weight_zero_points(says, n)?,
                }
            }
        };
        Ok((weight, self.input(says)?, None))
    }

    /// The sum of each output's integers over all inputs, zero for outputs outside of the window.
    fn row_sums(
        &self,
        [n, k]: [usize; 2],
        data: &Array2<i8>,
        window: &Window,
    ) -> Result<Vec<i64>, CheckpointError> {
        let mut sums = vec![0; n];
        let own = sums[window.outputs.clone()].iter_mut();
        if window.inputs == (0..k) {
            for (sum, row) in own.zip(data.rows()) {
                *sum = row.iter().map(|q| i64::from(*q)).sum();
            }
            return Ok(sums);
        }
        // The bias holds sums over all inputs: they are read where they lie.
        let raw = self.require("weight")?;
        if raw.dtype != Dtype::I8 {
            return Err(self.wrong("weight", raw.describe(), "I8"));
        }
        for (sum, row) in own.zip(raw.bytes.chunks(k)) {
            *sum = row.iter().map(|b| i64::from(*b as i8)).sum();
        }
        Ok(sums)
    }

    /// What is done to inputs before they are quantised.
    fn transform(&self, k: usize) -> Result<InputTransform, CheckpointError> {
        let refuse = |source| self.checkpoint.no_layer(self.prefix, source);
        let mut transform = InputTransform::default();
        if let Some(multiplier) = self.multiplier(k)? {
            transform = transform.with_multiplier(&multiplier).map_err(refuse)?;
        }
        let online = match self.checkpoint.scheme.transforms() {
            Some(transforms) => transforms.rotation(self, k)?,
            None => None,
        };
        let comfy = match self.has("comfy_quant") {
            true => comfy::rotation(self, k)?,
            false => None,
        };
        match (online, comfy) {
            (Some(_), Some(_)) => {
                let expected = "one rotation: config.json has another in transform_config";
                Err(self.wrong("comfy_quant", "convrot", expected))
            }
            (Some(rotation), None) | (None, Some(rotation)) => {
                transform.with_rotation(rotation).map_err(refuse)
            }
            (None, None) => Ok(transform),
        }
    }
}
