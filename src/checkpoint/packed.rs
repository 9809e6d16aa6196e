//! compressed-tensors' `pack-quantized` with 8 bits: four integers, each plus 128, to an int32, the first lowest.

use super::error::CheckpointError;
use super::layer_tensors::LayerTensors;
use ndarray::Array2;
use safetensors::Dtype;

/// The weight `[N, K]` of `P.weight_packed` `[N, K / 4]` (rounded up) and `P.weight_shape`.
pub(super) fn weight(tensors: &LayerTensors<'_>) -> Result<Array2<i8>, CheckpointError> {
    let [n, k] = shape(tensors)?;
    let raw = tensors.require("weight_packed")?;
    let words = k.div_ceil(4);
    if raw.dtype != Dtype::I32 || raw.shape != [n, words] {
        let expected = format!("I32 [{n}, {words}]: four to an int32");
        return Err(tensors.wrong("weight_packed", raw.describe(), expected));
    }
    let rows = raw.bytes.chunks_exact(4 * words);
    let data: Vec<i8> = rows
        .flat_map(|row| row[..k].iter().map(|b| (b ^ 0x80) as i8))
        .collect();
    Array2::from_shape_vec((n, k), data)
        .map_err(|_| tensors.wrong("weight_packed", raw.describe(), "one integer an element"))
}

/// N and K, of which neither is zero.
fn shape(tensors: &LayerTensors<'_>) -> Result<[usize; 2], CheckpointError> {
    let part = "weight_shape";
    let raw = tensors.require(part)?;
    match raw.whole().as_deref() {
        Some([n, k]) if *n > 0 && *k > 0 => Ok([*n as usize, *k as usize]),
        _ => Err(tensors.wrong(part, raw.describe(), "I64 [2], both above zero")),
    }
}
