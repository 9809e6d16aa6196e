//! Ascend's static form: integers in, one scale for the int32 sums, corrections in an int32 bias.
//!
//! ```text
//! q[k] = clip(round(x[k] / input_scale) + input_offset)
//! y[n] = (sum over k of q[k] * w[n, k] + quant_bias[n]) * deq_scale[n]
//! ```
//!
//! Read as a layer with static asymmetric inputs: `deq_scale / input_scale` is the weight's scale, and the float bias what
//! is left of `quant_bias` without the offset, `(quant_bias + input_offset * sum over k of w[n, k]) * deq_scale`.

use super::error::CheckpointError;
use super::layer_tensors::LayerTensors;
use crate::gemm::ActivationQuant;
use safetensors::Dtype;

/// What the tensors of such a layer come to.
pub(super) struct AscendStatic {
    pub scales: Vec<f32>,
    pub input: ActivationQuant,
    pub bias: Vec<f32>,
}

/// Whether the layer is stored so.
pub(super) fn is_static(tensors: &LayerTensors<'_>) -> bool {
    ["input_offset", "quant_bias", "deq_scale"]
        .iter()
        .any(|part| tensors.has(part))
}

/// Reads the tensors beside such a weight, of which `sums` are the sums of each output's integers.
pub(super) fn read(
    tensors: &LayerTensors<'_>,
    sums: &[i64],
) -> Result<AscendStatic, CheckpointError> {
    let n = sums.len();
    let step = tensors.one("input_scale")?;
    if !(step > 0.0 && step.is_finite()) {
        let expected = "a finite number above zero";
        return Err(tensors.wrong("input_scale", step.to_string(), expected));
    }
    let offset = offset(tensors)?;
    tensors.zeros("weight_offset", "zeros: a symmetric weight")?;
    let found = dequantising(tensors, n)?;
    let given = tensors.per_output("weight_scale", n)?;
    let mut made = AscendStatic {
        scales: Vec::with_capacity(n),
        input: ActivationQuant::StaticAsymmetric {
            scale: step,
            zero_point: offset,
        },
        bias: Vec::with_capacity(n),
    };
    let corrections = corrections(tensors, n)?;
    for (j, sum) in sums.iter().enumerate() {
        let deq = match &found {
            Some(found) => f64::from(found[j]),
            None => f64::from(given[j]) * f64::from(step),
        };
        let scale = deq / f64::from(step);
        // One product, stored twice; half precision rounds it.
        if (scale - f64::from(given[j])).abs() > 0.01 * f64::from(given[j]) {
            let found = format!("{deq} for output {j}");
            let expected = format!("input_scale * weight_scale, {}", step * given[j]);
            return Err(tensors.wrong("deq_scale", found, expected));
        }
        let rest = corrections[j] + i64::from(offset) * *sum;
        made.scales.push(scale as f32);
        made.bias.push((rest as f64 * deq) as f32);
    }
    Ok(made)
}

/// The integer that stands for 0.0.
fn offset(tensors: &LayerTensors<'_>) -> Result<i32, CheckpointError> {
    let raw = tensors.require("input_offset")?;
    let integers = raw
        .integers()
        .map(|i| i.iter().map(|i| f32::from(*i)).collect());
    match raw.floats().or(integers).as_deref() {
        Some([x]) if x.fract() == 0.0 && (-128.0..=127.0).contains(x) => Ok(*x as i32),
        Some([x]) => Err(tensors.wrong("input_offset", x.to_string(), "an integer of int8")),
        _ => Err(tensors.wrong("input_offset", raw.describe(), "one float or I8")),
    }
}

/// `deq_scale`: floats, or their bits in int64 as fp16 models have them.
fn dequantising(tensors: &LayerTensors<'_>, n: usize) -> Result<Option<Vec<f32>>, CheckpointError> {
    let Some(raw) = tensors.get("deq_scale") else {
        return Ok(None);
    };
    let scales = match raw.dtype {
        Dtype::I64 => {
            let float = |bits: i64| f32::from_bits(bits as u32);
            raw.whole().map(|all| all.into_iter().map(float).collect())
        }
        _ => raw.floats(),
    };
    let fits = raw.shape == [n] || raw.shape == [n, 1];
    let scales: Option<Vec<f32>> = scales.filter(|_| fits);
    let good = |s: &Vec<f32>| s.iter().all(|s| s.is_finite() && *s >= 0.0);
    match scales.filter(good) {
        Some(scales) => Ok(Some(scales)),
        None => {
            let expected = format!("[{n}] finite floats, none below zero, or their bits in I64");
            Err(tensors.wrong("deq_scale", raw.describe(), expected))
        }
    }
}

/// The int32 bias.
fn corrections(tensors: &LayerTensors<'_>, n: usize) -> Result<Vec<i64>, CheckpointError> {
    let raw = tensors.require("quant_bias")?;
    let fits = raw.dtype == Dtype::I32 && raw.shape == [n];
    let found = raw.whole().filter(|_| fits);
    found.ok_or_else(|| tensors.wrong("quant_bias", raw.describe(), format!("I32 [{n}]")))
}
