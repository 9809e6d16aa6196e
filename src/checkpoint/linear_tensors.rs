//! The tensors beside a layer's weight: scales, zero points, bias, and how inputs are quantised.

use super::error::CheckpointError;
use super::file::RawTensor;
use super::group::Inputs;
use super::layer_tensors::LayerTensors;
use super::scheme::Layer;
use crate::gemm::ActivationQuant;
use ndarray::Array2;
use safetensors::Dtype;

impl LayerTensors<'_> {
    /// The bias `[n]`, where there is one, widened to f32.
    pub(super) fn bias(&self, n: usize) -> Result<Option<Vec<f32>>, CheckpointError> {
        match self.get("bias") {
            None => Ok(None),
            Some(raw) if raw.is_float() && raw.shape == [n] => Ok(raw.floats()),
            Some(raw) => Err(self.wrong("bias", raw.describe(), format!("floats, [{n}]"))),
        }
    }

    /// ModelOpt's multiplier of each input, where there is one.
    pub(super) fn multiplier(&self, k: usize) -> Result<Option<Vec<f32>>, CheckpointError> {
        let part = "pre_quant_scale";
        let Some(raw) = self.get(part) else {
            return Ok(None);
        };
        let fits = raw.shape == [k] || raw.shape == [1, k];
        let floats = raw.floats().filter(|_| fits);
        let floats =
            floats.ok_or_else(|| self.wrong(part, raw.describe(), format!("floats, [{k}]")))?;
        match floats.iter().find(|m| !m.is_finite()) {
            None => Ok(Some(floats)),
            Some(bad) => Err(self.wrong(part, bad.to_string(), "finite numbers")),
        }
    }

    /// Scales that are finite and not negative, one for each output and each group of `size` inputs.
    pub(super) fn per_group(
        &self,
        part: &str,
        [n, k]: [usize; 2],
        size: usize,
    ) -> Result<Array2<f32>, CheckpointError> {
        self.in_order(k, size)?;
        let shape = [n, k.div_ceil(size)];
        let expected = format!("floats, [{n}, {}]: groups of {size} inputs", shape[1]);
        self.scales(part, shape, expected)
    }

    /// One scale for each block of outputs and inputs, repeated for each output: `[n, groups of inputs]`.
    pub(super) fn per_block(
        &self,
        [n, k]: [usize; 2],
        [rows, columns]: [usize; 2],
    ) -> Result<Array2<f32>, CheckpointError> {
        let shape = [n.div_ceil(rows), k.div_ceil(columns)];
        let expected = format!("floats, {shape:?}: blocks of [{rows}, {columns}]");
        let scales = self.scales("weight_scale_inv", shape, expected)?;
        Ok(Array2::from_shape_fn((n, shape[1]), |(j, g)| {
            scales[[j / rows, g]]
        }))
    }

    /// A matrix of scales that are finite and not negative.
    fn scales(
        &self,
        part: &str,
        shape: [usize; 2],
        expected: String,
    ) -> Result<Array2<f32>, CheckpointError> {
        let raw = self.require(part)?;
        let scales = raw.floats().filter(|_| raw.shape == shape);
        let scales = scales.and_then(|s| Array2::from_shape_vec(shape, s).ok());
        let scales = scales.ok_or_else(|| self.wrong(part, raw.describe(), expected))?;
        self.not_negative(part, &scales)?;
        Ok(scales)
    }

    /// Refuses scales that are negative or not finite.
    fn not_negative<'s>(
        &self,
        part: &str,
        scales: impl IntoIterator<Item = &'s f32>,
    ) -> Result<(), CheckpointError> {
        let mut scales = scales.into_iter();
        match scales.find(|s| !(s.is_finite() && **s >= 0.0)) {
            None => Ok(()),
            Some(bad) => Err(self.wrong(part, bad.to_string(), "finite numbers, none below zero")),
        }
    }

    /// Claims a list of the group of each input, where it says that groups are neighbours.
    fn in_order(&self, k: usize, size: usize) -> Result<(), CheckpointError> {
        let part = "weight_g_idx";
        let Some(raw) = self.get(part) else {
            return Ok(());
        };
        let ordered = (0..k).flat_map(|i| ((i / size) as i32).to_le_bytes());
        if raw.dtype == Dtype::I32 && raw.shape == [k] && ordered.eq(raw.bytes.iter().copied()) {
            return Ok(());
        }
        let found = format!("{}: inputs in another order (act-order)", raw.describe());
        Err(self.wrong(part, found, format!("I32 [{k}], the groups in order")))
    }

    /// bitsandbytes' scales: the absmax of each output.
    pub(super) fn scb(&self, n: usize) -> Result<Vec<f32>, CheckpointError> {
        if let Some(raw) = self.get("weight_format") {
            // 0 is row-major; the others are tiled for old GPUs.
            let row = raw.dtype == Dtype::U8 && raw.bytes == [0];
            if !row {
                let found = format!("{} with bytes {:?}", raw.describe(), first(&raw));
                return Err(self.wrong("weight_format", found, "U8 0: row-major"));
            }
        }
        let absmax = self.per_output("SCB", n)?;
        Ok(absmax.into_iter().map(crate::numerics::scale).collect())
    }

    /// Scales that are finite and not negative, one per output; one for all is repeated.
    pub(super) fn per_output(&self, part: &str, n: usize) -> Result<Vec<f32>, CheckpointError> {
        let raw = self.require(part)?;
        let scales = raw
            .floats()
            .filter(|_| fits_outputs(&raw, n))
            .ok_or_else(|| {
                let expected = format!("floats, [{n}, 1], [{n}] or one");
                self.wrong(part, raw.describe(), expected)
            })?;
        self.not_negative(part, &scales)?;
        Ok(match scales.as_slice() {
            [one] => vec![*one; n],
            _ => scales,
        })
    }

    /// The integers that stand for 0.0, where config.json or, without one, the tensors say that there are any.
    pub(super) fn weight_zero_points(
        &self,
        says: Layer<'_>,
        n: usize,
    ) -> Result<Option<Vec<i8>>, CheckpointError> {
        let part = "weight_zero_point";
        let asymmetric = match says {
            Layer::Group(group) => !group.weights_symmetric,
            _ => self.has(part),
        };
        if !asymmetric {
            self.zeros(part, "zeros: config.json says that the weight is symmetric")?;
            return Ok(None);
        }
        let raw = self.require(part)?;
        let integers = raw.integers().filter(|_| fits_outputs(&raw, n));
        let found = integers.ok_or_else(|| {
            self.wrong(part, raw.describe(), format!("I8, [{n}, 1], [{n}] or one"))
        })?;
        Ok(Some(match found.as_slice() {
            [one] => vec![*one; n],
            _ => found,
        }))
    }

    /// How a layer quantises its inputs.
    pub(super) fn input(&self, says: Layer<'_>) -> Result<ActivationQuant, CheckpointError> {
        let (scale, zero) = ("input_scale", "input_zero_point");
        let inputs = match says {
            Layer::Group(group) => group.inputs,
            // Without a config the tensors show it.
            _ if self.has(scale) => Inputs::Static {
                symmetric: !self.has(zero),
            },
            _ => Inputs::Dynamic { symmetric: true },
        };
        let symmetric = match inputs {
            Inputs::Dynamic { symmetric: true } => return Ok(ActivationQuant::PerToken),
            Inputs::Dynamic { symmetric: false } => return Ok(ActivationQuant::PerTokenAsymmetric),
            Inputs::Static { symmetric } => symmetric,
        };
        let step = self.one(scale)?;
        if symmetric {
            self.zeros(zero, "zeros: config.json says that inputs are symmetric")?;
            return Ok(ActivationQuant::Static { scale: step });
        }
        let raw = self.require(zero)?;
        match raw.integers().as_deref() {
            Some([zero_point]) => Ok(ActivationQuant::StaticAsymmetric {
                scale: step,
                zero_point: i32::from(*zero_point),
            }),
            _ => Err(self.wrong(zero, raw.describe(), "one I8")),
        }
    }

    /// A tensor of one float.
    pub(super) fn one(&self, part: &str) -> Result<f32, CheckpointError> {
        let raw = self.require(part)?;
        match raw.floats().as_deref() {
            Some([one]) => Ok(*one),
            _ => Err(self.wrong(part, raw.describe(), "one float")),
        }
    }
}

/// Whether a tensor has one element for each of `n` outputs, or one for all.
fn fits_outputs(raw: &RawTensor<'_>, n: usize) -> bool {
    matches!(raw.shape, [] | [1] | [1, 1]) || raw.shape == [n] || raw.shape == [n, 1]
}

/// A few bytes for a message.
fn first<'a>(raw: &RawTensor<'a>) -> &'a [u8] {
    &raw.bytes[..raw.bytes.len().min(4)]
}
