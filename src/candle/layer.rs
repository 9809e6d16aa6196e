//! A layer that is float or int8, and loaded models with their layers exchanged.

use super::Int8Linear;
use candle_core::{Result, Tensor};
use candle_nn::{Linear, Module};

/// A linear layer of a candle model, float or int8: the type that a model's fields have instead of
/// [`candle_nn::Linear`], so that its layers can be exchanged.
#[derive(Debug, Clone)]
pub enum LinearLayer {
    /// candle's own.
    Float(Linear),
    /// This crate's.
    Int8(Int8Linear),
}

impl LinearLayer {
    /// Takes the place of [`candle_nn::linear_b`]: the layer at the builder's path, int8 where `checkpoint` holds int8
    /// weights under that name, and candle's own from `vb` where it does not.
    ///
    /// `vb` is made over the same files: candle refuses int8 tensors only when they are asked for. `bias` says whether a
    /// float layer has one; an int8 layer has a bias where the checkpoint has.
    ///
    /// # Errors
    /// When the checkpoint's layer is not `[out_dim, in_dim]`, and as [`Int8Linear::from_checkpoint`] and
    /// [`candle_nn::linear_b`].
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use candle_nn::VarBuilder;
    /// use imma::{candle::LinearLayer, checkpoint::Checkpoint};
    /// let dir = "tests/data/checkpoints/ct_dynamic";
    /// let checkpoint = Checkpoint::open(dir).expect("a checkpoint");
    /// let files = [format!("{dir}/model.safetensors")];
    /// // SAFETY: nobody writes to the file while it is mapped.
    /// let vb = unsafe { VarBuilder::from_mmaped_safetensors(&files, DType::F32, &Device::Cpu)? };
    /// let up = LinearLayer::load(24, 40, true, vb.pp("up"), &checkpoint)?;
    /// assert!(matches!(up, LinearLayer::Int8(_)));
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    #[cfg(feature = "safetensors")]
    pub fn load(
        in_dim: usize,
        out_dim: usize,
        bias: bool,
        vb: candle_nn::VarBuilder,
        checkpoint: &crate::checkpoint::Checkpoint,
    ) -> Result<Self> {
        let name = vb.prefix();
        if !checkpoint.is_int8(&name) {
            return Ok(candle_nn::linear_b(in_dim, out_dim, bias, vb)?.into());
        }
        let layer = Int8Linear::from_checkpoint(checkpoint, &name, vb.device())?;
        let found = (layer.outputs(), layer.inputs());
        if found != (out_dim, in_dim) {
            candle_core::bail!(
                "{}: {name}.weight has shape [{}, {}], expected [{out_dim}, {in_dim}]",
                checkpoint.path().display(),
                found.0,
                found.1
            )
        }
        Ok(layer.into())
    }

    /// The float layer, where it is one.
    pub fn as_float(&self) -> Option<&Linear> {
        match self {
            LinearLayer::Float(linear) => Some(linear),
            LinearLayer::Int8(_) => None,
        }
    }

    /// The int8 layer, where it is one.
    pub fn as_int8(&self) -> Option<&Int8Linear> {
        match self {
            LinearLayer::Float(_) => None,
            LinearLayer::Int8(layer) => Some(layer),
        }
    }
}

impl From<Linear> for LinearLayer {
    fn from(linear: Linear) -> Self {
        LinearLayer::Float(linear)
    }
}

impl From<Int8Linear> for LinearLayer {
    fn from(layer: Int8Linear) -> Self {
        LinearLayer::Int8(layer)
    }
}

impl Module for LinearLayer {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            LinearLayer::Float(linear) => linear.forward(x),
            LinearLayer::Int8(layer) => layer.forward(x),
        }
    }
}

/// Quantises the float layers whose names are selected, in place; answers the names of those that were swapped.
///
/// `layers` are a model's, each with its name; layers that are int8 already stay as they are. Every new layer is made
/// before the first is put in its place, so after an error the model is what it was.
///
/// # Errors
/// As [`Int8Linear::from_linear`], with the layer's name in front.
///
/// An example is at the head of [the module](super).
pub fn swap_linears<'a, N: AsRef<str>>(
    layers: impl IntoIterator<Item = (N, &'a mut LinearLayer)>,
    mut select: impl FnMut(&str) -> bool,
) -> Result<Vec<String>> {
    swap_linears_with(layers, |name, layer| match layer {
        LinearLayer::Float(linear) if select(name) => Int8Linear::from_linear(linear).map(Some),
        _ => Ok(None),
    })
}

/// [`swap_linears`] with new layers of the caller's making, such as [`Int8Linear::from_int8`] or those of a checkpoint:
/// a layer stays where `replace` answers `None`.
///
/// # Errors
/// When `replace` fails or answers a layer of another shape, with the layer's name in front. Then nothing was swapped.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_nn::Linear;
/// use imma::candle::{swap_linears_with, Int8Linear, LinearLayer};
/// use ndarray::Array2;
/// let weight = Tensor::zeros((3, 4), candle_core::DType::F32, &Device::Cpu)?;
/// let mut head = LinearLayer::from(Linear::new(weight, None));
/// let ones = Array2::<i8>::ones((3, 4));
/// swap_linears_with([("head", &mut head)], |_, _| {
///     Int8Linear::from_int8(ones.view(), &[0.1], None, &Device::Cpu).map(Some)
/// })?;
/// assert!(head.as_int8().is_some());
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn swap_linears_with<'a, N: AsRef<str>>(
    layers: impl IntoIterator<Item = (N, &'a mut LinearLayer)>,
    mut replace: impl FnMut(&str, &LinearLayer) -> Result<Option<Int8Linear>>,
) -> Result<Vec<String>> {
    let mut made = Vec::new();
    for (name, layer) in layers {
        let name = name.as_ref();
        let new = replace(name, layer)
            .and_then(|new| new.map(|new| same_shape(layer, new)).transpose())
            .map_err(|e| candle_core::Error::msg(format!("{name}: {e}")))?;
        if let Some(new) = new {
            made.push((name.to_string(), layer, new));
        }
    }
    let swap = |(name, layer, new): (String, &'a mut LinearLayer, Int8Linear)| {
        *layer = new.into();
        name
    };
    Ok(made.into_iter().map(swap).collect())
}

fn same_shape(old: &LinearLayer, new: Int8Linear) -> Result<Int8Linear> {
    let expected = match old {
        LinearLayer::Float(linear) => linear.weight().dims2()?,
        LinearLayer::Int8(layer) => (layer.outputs(), layer.inputs()),
    };
    let found = (new.outputs(), new.inputs());
    if found != expected {
        candle_core::bail!("the new layer's weight is {found:?}, expected {expected:?}")
    }
    Ok(new)
}
