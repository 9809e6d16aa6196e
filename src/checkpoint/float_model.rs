//! Whether a folder holds a model that can be quantised: of floats, with linear layers stored `[N, K]`.

use super::error::{shortened, CheckpointError};
use super::file::RawTensor;
use super::source::{read_json, value_of};
use super::{journal, Checkpoint};
use safetensors::Dtype;
use serde_json::Value;
use std::path::Path;

/// What is expected of a model, in errors.
const FLOATS: &str = "a model of floats";

/// Keys under which a config says how a model was quantised.
const QUANTIZED_KEYS: [&str; 4] = [
    "quantization_config",
    "compression_config",
    "quantization",
    "quant_config",
];

/// Files that tools put beside a model that they have quantised; endings are `.json`.
const QUANTIZED_FILES: [&str; 6] = [
    "quantize_config",
    "quantization_config",
    "quant_config",
    "hf_quant_config",
    "quanto_qmap",
    "quant_model_description",
];

/// Endings of tensors that only a quantised layer has.
const QUANTIZED_TENSORS: [&str; 8] = [
    ".qweight",
    ".qzeros",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".SCB",
    ".weight_qdata",
    ".comfy_quant",
];

/// Models whose layers hold `[K, N]` (transformers' Conv1D and its like).
const TRANSPOSED: [&str; 8] = [
    "gpt2",
    "openai-gpt",
    "imagegpt",
    "decision_transformer",
    "clvp",
    "clvp_decoder",
    "jukebox",
    "jukebox_prior",
];

/// The same by the start of a class's name.
const TRANSPOSED_CLASSES: [&str; 6] = [
    "GPT2",
    "OpenAIGPT",
    "ImageGPT",
    "DecisionTransformer",
    "Clvp",
    "Jukebox",
];

/// The config.json of a model that says nothing against quantising it.
pub(super) struct FloatModel {
    /// As it is written; an empty object where there is none.
    pub text: String,
    pub config: Value,
}

impl FloatModel {
    /// Reads what lies in the model's folder beside the weights; `input` is the folder or the file in it.
    pub fn read(input: &Path) -> Result<Self, CheckpointError> {
        let folder = match input.is_dir() {
            true => input,
            false => input.parent().unwrap_or(Path::new("")),
        };
        for name in QUANTIZED_FILES {
            let path = folder.join(format!("{name}.json"));
            if input.is_dir() && path.is_file() {
                let found = "a description of how the model was quantised already";
                return Err(CheckpointError::file(&path, found, FLOATS));
            }
        }
        if input.is_dir() && input.join(journal::NAME).is_file() {
            let found = "what an interrupted run of quantising left";
            return Err(CheckpointError::file(input, found, FLOATS));
        }
        let path = folder.join("config.json");
        if !path.is_file() {
            return Ok(FloatModel {
                text: "{}".into(),
                config: Value::Object(Default::default()),
            });
        }
        let text = read_json(&path)?;
        let config = value_of(&path, &text)?;
        if !config.is_object() {
            let found = "JSON that is not an object";
            return Err(CheckpointError::file(&path, found, "a model's config.json"));
        }
        if let Some(found) = quantized(&config, "") {
            let found = format!("{found}: the model is quantised already");
            return Err(CheckpointError::file(&path, found, FLOATS));
        }
        if let Some(found) = transposed(&config, "") {
            let found = format!("{found}, whose layers are transposed (Conv1D)");
            let expected = "a model of linear layers";
            return Err(CheckpointError::file(&path, found, expected));
        }
        Ok(FloatModel { text, config })
    }

    /// Looks at the tensors: none may be a quantised layer's.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
        for name in checkpoint.names() {
            let raw = checkpoint.require(name)?;
            let ending = QUANTIZED_TENSORS.iter().any(|end| name.ends_with(end));
            let weight = name.ends_with(".weight") && raw.shape.len() == 2;
            if ending || weight && !is_any_float(&raw) {
                let found = format!("{}: the layer is quantised already", raw.describe());
                return Err(checkpoint.wrong(name, found, FLOATS));
            }
        }
        Ok(())
    }
}

/// Of any width, 8-bit floats aside, which come with scales.
pub(super) fn is_any_float(raw: &RawTensor<'_>) -> bool {
    raw.is_float() || raw.dtype == Dtype::F64
}

/// The members of an object or a list, with their paths.
fn inside<'a>(value: &'a Value, at: &str) -> Vec<(String, &'a str, &'a Value)> {
    let path = |name: &str| match at {
        "" => name.to_string(),
        _ => format!("{at}.{name}"),
    };
    match value {
        Value::Object(map) => map.iter().map(|(k, v)| (path(k), k.as_str(), v)).collect(),
        Value::Array(list) => {
            let numbered = list.iter().enumerate();
            numbered
                .map(|(i, v)| (path(&i.to_string()), "", v))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// Where a config says that the model is quantised, and how.
fn quantized(config: &Value, at: &str) -> Option<String> {
    for (path, key, value) in inside(config, at) {
        let says = value.as_object().is_some_and(|map| !map.is_empty());
        if QUANTIZED_KEYS.contains(&key) && says {
            let method = value.get("quant_method").and_then(Value::as_str);
            let method = method.map_or(String::new(), |m| format!(" ({})", shortened(m)));
            return Some(format!("{}{method}", shortened(&path)));
        }
        if let Some(found) = quantized(value, &path) {
            return Some(found);
        }
    }
    None
}

/// Where a config, or that of a part of the model, names a kind with transposed layers.
fn transposed(config: &Value, at: &str) -> Option<String> {
    let class = |name: &str| TRANSPOSED_CLASSES.iter().any(|c| name.starts_with(c));
    for (path, key, value) in inside(config, at) {
        let named = value.as_str().filter(|name| match key {
            "model_type" => TRANSPOSED.contains(name),
            "" if at.ends_with("architectures") => class(name),
            _ => false,
        });
        if let Some(name) = named {
            return Some(format!("{} {name}", shortened(&path)));
        }
        if let Some(found) = transposed(value, &path) {
            return Some(found);
        }
    }
    None
}
