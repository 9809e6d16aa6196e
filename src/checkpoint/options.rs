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
    /// Layers to leave as they are. By default embeddings and heads: [`DEFAULT_EXCLUDE`](Self::DEFAULT_EXCLUDE).
    pub exclude: Vec<NamePattern>,
    /// How the range of each output's weights is found.
    pub calibration: Calibration,
    /// How many neighbouring inputs share a scale: 32, 64 or 128; by default all inputs of an output.
    pub group_size: Option<usize>,
    /// Tensors and keys of the input's config that count as absent; such tensors are not copied.
    pub open: OpenOptions,
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
