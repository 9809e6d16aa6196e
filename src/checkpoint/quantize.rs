//! A model's float linears written as compressed-tensors W8A8.

use super::error::CheckpointError;
use super::model_files::config_of;
use super::model_plan::ModelPlan;
use super::model_writer::ModelWriter;
use super::report::ModelReport;
use super::{Checkpoint, NamePattern};
use crate::gemm::groupwise::check_size;
use crate::quant::Calibration;
use std::path::Path;

/// Which layers are quantised, and how.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct QuantizeOptions {
    /// Layers to quantise; all of them when empty.
    pub include: Vec<NamePattern>,
    /// Layers to leave as they are. By default embeddings and heads: [`DEFAULT_EXCLUDE`](Self::DEFAULT_EXCLUDE).
    pub exclude: Vec<NamePattern>,
    /// How the range of each output's weights is found.
    pub calibration: Calibration,
    /// How many neighbouring inputs share a scale: 32, 64 or 128; by default all inputs of an output.
    pub group_size: Option<usize>,
}

impl QuantizeOptions {
    /// Names of embeddings and heads in the usual models.
    pub const DEFAULT_EXCLUDE: [&'static str; 11] = [
        "*embed*",
        "*wte",
        "*wpe",
        "*lm_head",
        "shared",
        "*relative_attention_bias",
        "*embed_out",
        "*classifier",
        "score",
        "*.score",
        "cls.*",
    ];

    /// Refuses options that no model can be quantised with; `input` is the model that errors name.
    fn check(&self, input: &Path) -> Result<(), CheckpointError> {
        let size = self.group_size.map_or(Ok(()), check_size);
        let checked = self.calibration.check(false).and(size);
        checked.map_err(|source| CheckpointError::Layer {
            path: input.into(),
            prefix: "*".into(),
            source: Box::new(source),
        })
    }

    /// Whether the layer of this name is quantised.
    pub(super) fn selects(&self, prefix: &str) -> bool {
        let any = |patterns: &[NamePattern]| patterns.iter().any(|p| p.matches(prefix));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

impl Default for QuantizeOptions {
    fn default() -> Self {
        let exclude = Self::DEFAULT_EXCLUDE.iter().map(|p| p.parse());
        QuantizeOptions {
            include: Vec::new(),
            exclude: exclude.collect::<Result<_, _>>().expect("good patterns"),
            calibration: Calibration::AbsMax,
            group_size: None,
        }
    }
}

/// How far quantising has come.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The tensor that is being worked on.
    pub tensor: &'a str,
    /// Layers done, and layers in all.
    pub layers: (usize, usize),
    /// Bytes of the input done, and bytes in all.
    pub bytes: (u64, u64),
}

/// Reads the model in folder `input` and writes it to folder `output` with its linear layers as compressed-tensors
/// `int-quantized`: symmetric weights per output, or per output and group of inputs, and inputs dynamic per token.
///
/// A layer is a two-dimensional float tensor `P.weight` whose name `P` the options select. Its scales are
/// `bound / 127` (see [`numerics`](crate::numerics)) rounded to the weight's own type, and its integers are made with the
/// rounded scales: `q = clip(round_half_even(x * (1 / scale)), -127, 127)`. An f32 layer read back has the bits of
/// [`Int8Linear::from_float`](crate::Int8Linear::from_float). All other tensors are copied. config.json gets its
/// `quantization_config`, other files are copied, weights in other formats (`.bin`, `.onnx`, ...) are not.
/// `quantization.md` and `quantization.svg` say what happened to each layer.
///
/// Tensors are streamed in blocks of rows: memory does not grow with the model. An interrupted run leaves hidden parts and
/// a journal; a file under its final name is always whole, and config.json comes last. The same call continues the run.
///
/// # Errors
/// When the input is not a checkpoint of floats, `output` holds anything but an interrupted run, a weight holds NaN
/// or infinity, or a file can't be written.
pub fn quantize_model(
    input: &Path,
    output: &Path,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<ModelReport, CheckpointError> {
    options.check(input)?;
    let checkpoint = Checkpoint::open(input)?;
    let config = config_of(input, &checkpoint)?;
    let plan = ModelPlan::new(&checkpoint, options)?;
    let mut writer = ModelWriter::open(output, &checkpoint, &plan, options, progress)?;
    for shard in &plan.shards {
        writer.write_shard(shard)?;
    }
    writer.finish(config)
}
