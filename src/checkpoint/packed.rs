//! compressed-tensors' `pack-quantized` with 8 bits: four integers, each plus 128, to an int32, the first lowest.

use super::error::CheckpointError;
use super::layer_tensors::LayerTensors;
use super::slice::Window;
use ndarray::Array2;
use safetensors::Dtype;

/// The weight `[N, K]`, or a window of it, of `P.weight_packed` `[N, K / 4]` (rounded up) and `P.weight_shape`.
pub(super) fn weight(
    tensors: &LayerTensors<'_>,
    [n, k]: [usize; 2],
    window: &Window,
) -> Result<Array2<i8>, CheckpointError> {
    let raw = tensors.require("weight_packed")?;
    let words = k.div_ceil(4);
    if raw.dtype != Dtype::I32 || raw.shape != [n, words] {
        let expected = format!("I32 [{n}, {words}]: four to an int32");
        return Err(tensors.wrong("weight_packed", raw.describe(), expected));
    }
    let rows = raw.bytes.chunks_exact(4 * words);
    let rows = rows.skip(window.outputs.start).take(window.outputs.len());
    let own = window.inputs.clone();
    let data: Vec<i8> = rows
        .flat_map(|row| row[own.clone()].iter().map(|b| (b ^ 0x80) as i8))
        .collect();
    Array2::from_shape_vec(window.shape(), data)
        .map_err(|_| tensors.wrong("weight_packed", raw.describe(), "one integer an element"))
}

/// N and K, of which neither is zero.
pub(super) fn shape(tensors: &LayerTensors<'_>) -> Result<[usize; 2], CheckpointError> {
    let part = "weight_shape";
    let raw = tensors.require(part)?;
    match raw.whole().as_deref() {
        Some([n, k]) if *n > 0 && *k > 0 => Ok([*n as usize, *k as usize]),
        _ => Err(tensors.wrong(part, raw.describe(), "I64 [2], both above zero")),
    }
}
