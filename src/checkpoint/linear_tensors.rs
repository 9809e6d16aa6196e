//! The tensors beside a layer's weight: scales, zero points, bias, and how inputs are quantised.

use super::error::CheckpointError;
use super::file::RawTensor;
use super::scheme::{Inputs, Layer};
use super::Checkpoint;
use crate::gemm::ActivationQuant;
use ndarray::Array2;
use safetensors::Dtype;

impl Checkpoint {
    /// The bias `[n]`, where there is one, widened to f32.
    pub(super) fn bias(&self, prefix: &str, n: usize) -> Result<Option<Vec<f32>>, CheckpointError> {
        let bias = format!("{prefix}.bias");
        match self.raw(&bias) {
            None => Ok(None),
            Some(raw) if raw.is_float() && raw.shape == [n] => Ok(raw.floats()),
            Some(raw) => Err(self.wrong(&bias, raw.describe(), format!("floats, [{n}]"))),
        }
    }

    /// Scales that are finite and not negative, one for each output and each group of `size` inputs.
    pub(super) fn per_group(
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
    pub(super) fn scb(&self, prefix: &str, n: usize) -> Result<Vec<f32>, CheckpointError> {
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

    /// Scales that are finite and not negative, one per output; one for all is repeated.
    pub(super) fn per_output(&self, name: &str, n: usize) -> Result<Vec<f32>, CheckpointError> {
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

    /// The integers that stand for 0.0, where config.json or, without one, the tensors say that there are any.
    pub(super) fn weight_zero_points(
        &self,
        prefix: &str,
        says: Layer<'_>,
        n: usize,
    ) -> Result<Option<Vec<i8>>, CheckpointError> {
        let asymmetric = match says {
            Layer::Group(group) => !group.weights_symmetric,
            _ => self.raw(&format!("{prefix}.weight_zero_point")).is_some(),
        };
        match asymmetric {
            true => self.zero_points(prefix, n).map(Some),
            false => Ok(None),
        }
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
    pub(super) fn input(
        &self,
        prefix: &str,
        says: Layer<'_>,
    ) -> Result<ActivationQuant, CheckpointError> {
        let scale = format!("{prefix}.input_scale");
        let zero = format!("{prefix}.input_zero_point");
        let inputs = match says {
            Layer::Group(group) => group.inputs,
            // Without a config the tensors show it.
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
