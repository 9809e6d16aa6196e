//! ComfyUI's `P.comfy_quant`: JSON in bytes, which says how a layer is stored.

use super::error::{shortened, CheckpointError};
use super::keys::{refuse_unknown, show};
use super::layer_tensors::LayerTensors;
use crate::quant::Rotation;
use safetensors::Dtype;
use serde_json::Value;

/// The longest description that is read.
const MAX_BYTES: usize = 1 << 16;

/// The block of a rotation that says nothing of it.
const DEFAULT_BLOCK: u64 = 256;

const KEYS: [&str; 7] = [
    "format",
    "convrot",
    "convrot_groupsize",
    // What the other tensors show, and what the weight was.
    "per_row",
    "orig_dtype",
    "orig_shape",
    // Whether the product runs in floats on a GPU: here it is one of integers, as weights alone in int8 are.
    "full_precision_matrix_mult",
];

/// Reads the description of a layer of int8, where there is one; answers the rotation of its inputs.
pub(super) fn rotation(
    tensors: &LayerTensors<'_>,
    k: usize,
) -> Result<Option<Rotation>, CheckpointError> {
    let part = "comfy_quant";
    let Some(raw) = tensors.get(part) else {
        return Ok(None);
    };
    let wrong = |found: String, expected: &str| tensors.wrong(part, found, expected);
    let text = match raw.dtype {
        Dtype::U8 if raw.bytes.len() <= MAX_BYTES => std::str::from_utf8(raw.bytes).ok(),
        _ => None,
    };
    let said: Option<Value> = text.and_then(|text| serde_json::from_str(text).ok());
    let said = said.filter(Value::is_object);
    let said = said.ok_or_else(|| wrong(raw.describe(), "U8, a JSON object"))?;
    let format = said.get("format").and_then(Value::as_str);
    if format != Some("int8_tensorwise") {
        let found = format!("format {}", format.map_or("none".into(), shortened));
        return Err(wrong(found, "format int8_tensorwise"));
    }
    refuse_unknown("comfy_quant", &said, &KEYS)
        .map_err(|(found, expected)| wrong(found, &expected))?;
    match said.get("convrot") {
        None | Some(Value::Null | Value::Bool(false)) => return Ok(None),
        Some(Value::Bool(true)) => {}
        Some(other) => return Err(wrong(format!("convrot {}", show(other)), "true or false")),
    }
    let size = match said.get("convrot_groupsize") {
        None => Some(DEFAULT_BLOCK),
        Some(size) => size.as_u64(),
    };
    let four = |b: &usize| b.is_power_of_two() && b.trailing_zeros().is_multiple_of(2);
    let block = size
        .and_then(|size| usize::try_from(size).ok())
        .filter(four);
    match block.filter(|block| k.is_multiple_of(*block)) {
        Some(block) => Ok(Some(Rotation::Hadamard4 { block })),
        None => {
            let size = said.get("convrot_groupsize").map_or("256".into(), show);
            let expected = format!("a power of four that divides the {k} inputs");
            Err(wrong(format!("convrot_groupsize {size}"), &expected))
        }
    }
}
