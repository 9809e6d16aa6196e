//! A model's float linears written as compressed-tensors W8A8.

use super::error::CheckpointError;
use super::float_model::FloatModel;
use super::model_plan::ModelPlan;
use super::model_writer::ModelWriter;
use super::options::{Progress, QuantizeOptions};
use super::report::ModelReport;
use super::Checkpoint;
use std::path::Path;

/// Reads the model `input`, a folder, or a `.safetensors` file or index in one, and writes it to folder `output` with its linear layers as compressed-tensors
/// `int-quantized`: symmetric weights per output, or per output and group of inputs, and inputs dynamic per token.
///
/// A layer is a two-dimensional float tensor `P.weight` whose name `P` the options select. Its scales are
/// `bound / 127` (see [`numerics`](crate::numerics)) rounded to the weight's own type, and its integers are made with the
/// rounded scales: `q = clip(round_half_even(x * (1 / scale)), -127, 127)`. An f32 layer read back has the bits of
/// [`Int8Linear::from_float`](crate::Int8Linear::from_float). All other tensors are copied. config.json gets its
/// `quantization_config`, whose `ignore` lists the layers that were left and nothing else (and `lm_head`, where the
/// config shows one that shares the embedding's weight); the rest of it stays as it is written. A folder's other files
/// are copied, links as what they lead to; weights in other formats (`.bin`, `.onnx`, ...) and what is no file are named
/// in the report. `quantization.md` and `quantization.svg` say what happened to each layer.
///
/// Tensors are streamed in blocks of rows: memory does not grow with the model. An interrupted run leaves hidden parts and
/// a journal; a file under its final name is always whole, and config.json comes last. The same call continues the run.
///
/// # Errors
/// When the input is not a checkpoint of floats (its config, its parts' configs, a file beside it or a tensor says that it
/// is quantised already), when its layers are stored `[K, N]` or none is left to quantise, when `output` holds anything but an interrupted run, a weight holds NaN
/// or infinity, a tensor beside it would change its layer, or a file can't be written.
pub fn quantize_model(
    input: &Path,
    output: &Path,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<ModelReport, CheckpointError> {
    options.check(input)?;
    let model = FloatModel::read(input)?;
    let checkpoint = Checkpoint::open_with(input, &options.open)?;
    checkpoint.complete()?;
    model.check(&checkpoint)?;
    let plan = ModelPlan::new(&checkpoint, &model, options)?;
    let mut writer = ModelWriter::open(output, &checkpoint, &plan, options, progress)?;
    for shard in &plan.shards {
        writer.write_shard(shard)?;
    }
    writer.finish(&model)
}
