//! What lies around a model's weights: its config.json, its folder, its other files.

use super::error::CheckpointError;
use super::float_model::FloatModel;
use super::source::{holds_weights, INDEX};
use super::writer::{copy_whole, refused};
use super::{journal, python_json};
use serde_json::{json, Value};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What this writes beside the shards, in place of the model's own.
pub(super) const TABLE: &str = "quantization.md";
pub(super) const PICTURE: &str = "quantization.svg";

/// Makes the output folder; one that holds anything but an interrupted run is refused.
pub(super) fn claim(input: &Path, output: &Path) -> Result<(), CheckpointError> {
    std::fs::create_dir_all(output).map_err(|e| refused(output, e))?;
    let real = |path: &Path| path.canonicalize().map_err(|e| refused(path, e));
    // A file alone is read, and nothing around it.
    let (from, to) = (real(input)?, real(output)?);
    if from.starts_with(&to) || to.starts_with(&from) {
        let found = "the model's own folder, or one inside or around it";
        return Err(CheckpointError::file(
            output,
            found,
            "another folder for the output",
        ));
    }
    let mut entries = std::fs::read_dir(output).map_err(|e| refused(output, e))?;
    if !output.join(journal::NAME).is_file() && entries.next().is_some() {
        return Err(CheckpointError::file(
            output,
            "a folder that is not empty",
            "an empty folder, or that of an interrupted run",
        ));
    }
    Ok(())
}

/// config.json with what was done, all else in it as it was written.
pub(super) fn updated(
    model: &FloatModel,
    ignored: &[String],
    group_size: Option<usize>,
) -> Option<String> {
    let args = |strategy: &str, dynamic: bool, size: Option<usize>| {
        json!({"num_bits": 8, "type": "int", "symmetric": true, "strategy": strategy, "dynamic": dynamic,
               "group_size": size})
    };
    let strategy = group_size.map_or("channel", |_| "group");
    // A head that shares the embedding's weight has no tensor of its own and is a linear layer all the same.
    let mut ignore = ignored.to_vec();
    if has_tied_head(&model.config) && !ignore.iter().any(|name| name.ends_with("lm_head")) {
        ignore.push("lm_head".into());
    }
    let quantization = json!({
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {
            "targets": ["Linear"], "weights": args(strategy, false, group_size),
            "input_activations": args("token", true, None),
            "output_activations": null,
        }},
        "ignore": ignore,
        "kv_cache_scheme": null,
        "global_compression_ratio": null,
    });
    let key = "quantization_config";
    python_json::with_member(&model.text, &["compression_config"], key, &quantization)
}

/// Whether a config is that of a model that generates text by its embedding's weight, as transformers has it unless the
/// config says otherwise.
fn has_tied_head(config: &Value) -> bool {
    let generates = |class: &Value| {
        let class = class.as_str().unwrap_or_default();
        let heads = ["ForCausalLM", "ForConditionalGeneration", "LMHeadModel"];
        heads.iter().any(|head| class.ends_with(head))
    };
    let classes = config.get("architectures").and_then(Value::as_array);
    let tied = |config: &Value| config.get("tie_word_embeddings").and_then(Value::as_bool);
    let says = tied(config).or_else(|| config.get("text_config").and_then(tied));
    classes.is_some_and(|classes| classes.iter().any(generates)) && says != Some(false)
}

/// JSON as people read it.
pub(super) fn pretty(value: &Value) -> Vec<u8> {
    let mut text = format!("{value:#}");
    text.push('\n');
    text.into_bytes()
}

/// Copies what is not weights: tokenizers, settings, folders of them.
pub(super) struct Others<'a> {
    /// The output folder.
    to: &'a Path,
    /// Files that are written by other means.
    written: Vec<&'a str>,
    /// The folders that are open, so that links don't lead in a circle.
    open: BTreeSet<PathBuf>,
    /// What is not copied, and why.
    left_out: Vec<String>,
}

impl<'a> Others<'a> {
    /// Copies from the folder `from`; answers what was left out. `shards` are the files of the output.
    pub fn copy(
        from: &Path,
        to: &'a Path,
        shards: Vec<&'a str>,
    ) -> Result<Vec<String>, CheckpointError> {
        let mut others = Others {
            to,
            written: shards,
            open: BTreeSet::new(),
            left_out: Vec::new(),
        };
        others.written.extend(["config.json", INDEX]);
        others.folder(from, Path::new(""))?;
        Ok(others.left_out)
    }

    /// Copies a folder that lies `inside` the model's.
    fn folder(&mut self, from: &Path, inside: &Path) -> Result<(), CheckpointError> {
        let real = from.canonicalize().map_err(|e| refused(from, e))?;
        let output = self.to.canonicalize().map_err(|e| refused(self.to, e))?;
        let around = |folder: &PathBuf| folder.starts_with(&real) || real == *folder;
        if self.open.iter().any(around) || output.starts_with(&real) {
            self.leave(from, "a link to a folder around it");
            return Ok(());
        }
        let target = self.to.join(inside);
        std::fs::create_dir_all(&target).map_err(|e| refused(&target, e))?;
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(from).map_err(|e| refused(from, e))? {
            paths.push(entry.map_err(|e| refused(from, e))?.path());
        }
        paths.sort();
        self.open.insert(real.clone());
        for path in paths {
            if let Some(name) = path.file_name() {
                self.entry(&path, &inside.join(name))?;
            }
        }
        self.open.remove(&real);
        Ok(())
    }

    fn entry(&mut self, path: &Path, inside: &Path) -> Result<(), CheckpointError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let top = inside.components().count() == 1;
        if top && self.written.contains(&&*name) {
            return Ok(());
        }
        // What a link leads to, which may be nothing.
        let Ok(meta) = path.metadata() else {
            self.leave(path, "a link that leads nowhere");
            return Ok(());
        };
        match meta.file_type() {
            // A version control's or a cache's.
            kind if kind.is_dir() && name.starts_with('.') => self.leave(path, "a hidden folder"),
            kind if kind.is_dir() => self.folder(path, inside)?,
            kind if !kind.is_file() => self.leave(path, "neither a file nor a folder"),
            _ if holds_weights(path) => self.leave(path, "weights"),
            _ if is_index(&name) => self.leave(path, "the index of weights"),
            _ if top && [TABLE, PICTURE].contains(&&*name) => {
                self.leave(path, "replaced by this run's")
            }
            _ => copy_whole(path, &self.to.join(inside))?,
        }
        Ok(())
    }

    fn leave(&mut self, path: &Path, why: &str) {
        self.left_out.push(format!("{} ({why})", path.display()));
    }
}

/// `pytorch_model.bin.index.json`, `diffusion_pytorch_model.safetensors.index.json`.
fn is_index(name: &str) -> bool {
    let weights = name.strip_suffix(".index.json");
    weights.is_some_and(|weights| holds_weights(Path::new(weights)))
}
