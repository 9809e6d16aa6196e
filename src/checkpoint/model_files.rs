//! What lies around a model's weights: its config.json, its folder, its other files.

use super::error::CheckpointError;
use super::python_json;
use super::scheme::Scheme;
use super::source::{read_value, INDEX};
use super::writer::{copy_whole, refused};
use super::{journal, Checkpoint};
use serde_json::{json, Map, Value};
use std::path::{Path, PathBuf};

/// The model's config.json, when it is one of floats in linear layers.
pub(super) fn config_of(
    input: &Path,
    checkpoint: &Checkpoint,
) -> Result<Map<String, Value>, CheckpointError> {
    let expected = "a float model";
    if !input.is_dir() {
        return Err(CheckpointError::file(input, "a file", "a model's folder"));
    }
    if !matches!(checkpoint.scheme, Scheme::Plain) {
        return Err(CheckpointError::file(input, "a quantised model", expected));
    }
    if let Some(layer) = checkpoint.int8_layers().first() {
        let name = format!("{layer}.weight");
        return Err(checkpoint.wrong(&name, "int8", expected));
    }
    let path = input.join("config.json");
    if !path.is_file() {
        return Ok(Map::new());
    }
    let config = read_value(&path)?;
    let Value::Object(config) = config else {
        return Err(CheckpointError::file(
            &path,
            "text that is not a JSON object",
            "a model's config.json",
        ));
    };
    // Their layers hold [K, N], which nothing else in a checkpoint tells.
    let transposed = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer"];
    match config.get("model_type").and_then(Value::as_str) {
        Some(kind) if transposed.contains(&kind) => Err(CheckpointError::file(
            &path,
            format!("model_type {kind}, whose layers are transposed (Conv1D)"),
            "a model of linear layers",
        )),
        _ => Ok(config),
    }
}

/// Makes the output folder; one that holds anything but an interrupted run is refused.
pub(super) fn claim(input: &Path, output: &Path) -> Result<(), CheckpointError> {
    std::fs::create_dir_all(output).map_err(|e| refused(output, e))?;
    let real = |path: &Path| path.canonicalize().map_err(|e| refused(path, e));
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

/// config.json with what was done.
pub(super) fn updated(
    mut config: Map<String, Value>,
    ignored: &[String],
    group_size: Option<usize>,
) -> Value {
    let args = |strategy: &str, dynamic: bool, size: Option<usize>| {
        json!({"num_bits": 8, "type": "int", "symmetric": true, "strategy": strategy, "dynamic": dynamic,
               "group_size": size})
    };
    let strategy = group_size.map_or("channel", |_| "group");
    // A head that shares the embedding's weight has no tensor of its own and is a linear layer all the same.
    let mut ignore = ignored.to_vec();
    if !ignore.iter().any(|name| name == "lm_head") {
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
    config.insert("quantization_config".into(), quantization);
    Value::Object(config)
}

/// JSON as people read it.
pub(super) fn pretty(value: &Value) -> Vec<u8> {
    let mut text = python_json::pretty(value);
    text.push('\n');
    text.into_bytes()
}

/// Copies what is not weights: tokenizers, settings, folders of them.
pub(super) fn copy_others(
    from: &Path,
    to: &Path,
    taken: &[&str],
    top: bool,
    left_out: &mut Vec<String>,
) -> Result<(), CheckpointError> {
    const WEIGHTS: [&str; 9] = [
        "safetensors",
        "bin",
        "pt",
        "pth",
        "h5",
        "msgpack",
        "onnx",
        "gguf",
        "ot",
    ];
    let entries = std::fs::read_dir(from).map_err(|e| refused(from, e))?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|e| refused(from, e))?.path());
    }
    paths.sort();
    for path in paths {
        let Some(name) = path.file_name() else {
            continue;
        };
        let (shown, target) = (name.to_string_lossy(), to.join(name));
        let replaced = taken.contains(&&*shown) || ["config.json", INDEX].contains(&&*shown);
        let kind = path.symlink_metadata().map_err(|e| refused(&path, e))?;
        if kind.is_dir() {
            // Hidden folders are a version control's or a cache's.
            if !shown.starts_with('.') {
                std::fs::create_dir_all(&target).map_err(|e| refused(&target, e))?;
                copy_others(&path, &target, &[], false, left_out)?;
            }
        } else if path
            .extension()
            .is_some_and(|e| WEIGHTS.iter().any(|w| e == *w))
        {
            if !(top && replaced) {
                left_out.push(path.display().to_string());
            }
        } else if path.is_file() && !(top && replaced) {
            copy_whole(&path, &target)?;
        }
    }
    Ok(())
}
