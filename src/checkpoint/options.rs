//! How a model is quantised, and how far that has come.

use super::error::CheckpointError;
use super::{NamePattern, OpenOptions};
use crate::gemm::groupwise::check_size;
use crate::quant::Calibration;
use std::path::Path;

/// Which layers are quantised, and how.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct QuantizeOptions {
    /// Layers to quantise; all of them when empty.
    pub include: Vec<NamePattern>,
    /// Layers to leave as they are. By default embeddings, heads, routers and gates by their usual names:
    /// [`DEFAULT_EXCLUDE`](Self::DEFAULT_EXCLUDE). Add to them by `push`.
    pub exclude: Vec<NamePattern>,
    /// Also leave what is no layer to quantise by its shape and use, whatever its name: a matrix with a row for each
    /// token of the vocabulary or each expert beside it, one with a single row, and `P.gate` unless another matrix of
    /// its shape is beside it (then it is half of a gated layer). On by default.
    pub recognise: bool,
    /// How the range of each output's weights is found.
    pub calibration: Calibration,
    /// How many neighbouring inputs share a scale: 32, 64 or 128; by default all inputs of an output.
    pub group_size: Option<usize>,
    /// Tensors and keys of the input's config that count as absent; such tensors are not copied.
    pub open: OpenOptions,
}

impl QuantizeOptions {
    /// Names of embeddings, heads, routers and gates in the usual models.
    pub const DEFAULT_EXCLUDE: [&'static str; 31] = [
        "*embed*",
        "*wte",
        "*wpe",
        "emb",
        "*.emb",
        "*_emb",
        "*codebook*",
        "shared",
        "model.shared",
        "*relative_attention_bias",
        "*lm_head",
        "*mlm_head*",
        "*classification_head*",
        "*classifier",
        "head",
        "*.head",
        "heads.*",
        "output",
        "proj_out",
        "qa_outputs",
        "score",
        "*.score",
        "cls.*",
        "*router*",
        "*expert_gate",
        "*moe_gate",
        "*.gate.wg",
        "*.gate.gate",
        "*.gating",
        "*.gate_network",
        "*.gates",
    ];

    /// Refuses options that no model can be quantised with; `input` is the model that errors name.
    pub(super) fn check(&self, input: &Path) -> Result<(), CheckpointError> {
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
            recognise: true,
            calibration: Calibration::AbsMax,
            group_size: None,
            open: OpenOptions::default(),
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
