//! What a quantisation config says about a checkpoint's layers.
//!
//! What concerns a layer alone (a foreign format, an unknown key of its group) is refused when that layer is asked for;
//! a config that can't be understood at all is refused when the checkpoint is opened.

use super::error::{shortened, CheckpointError};
use super::group::Group;
use super::keys::{find, refuse_unknown, show, HEAD};
use super::names::NamePattern;
use super::online::OnlineTransforms;
use serde_json::Value;
use std::path::Path;

/// What was found, and what was expected.
pub(super) type Refusal = (String, String);

/// How the layers of a checkpoint are stored, from its `quantization_config`.
#[derive(Debug, Clone, Default)]
pub(super) enum Scheme {
    /// Nothing is said: the tensors show how they are stored.
    #[default]
    Plain,
    /// compressed-tensors.
    CompressedTensors(CompressedTensors),
    /// bitsandbytes with 8 bits.
    BitsAndBytes { ignore: Vec<NamePattern> },
    /// A method whose int8 layers show by their tensors how they are stored; or why they can't be read.
    Tensors(Result<(), Refusal>),
    /// One scale for each block of the weight, `[outputs, inputs]`.
    Blocks([usize; 2]),
}

/// compressed-tensors: groups of layers, and what is said of all of them.
#[derive(Debug, Clone)]
pub(super) struct CompressedTensors {
    groups: Vec<Group>,
    ignore: Vec<NamePattern>,
    /// Whether the keys of the config are all understood.
    keys: Result<(), Refusal>,
    transforms: OnlineTransforms,
}

/// What a scheme says of one layer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Layer<'a> {
    /// Nothing.
    Unknown,
    /// Left as floats.
    Ignored,
    /// Quantised by this group.
    Group(&'a Group),
    /// Quantised by bitsandbytes.
    BitsAndBytes,
    /// One scale for each block of the weight, `[outputs, inputs]`.
    Blocks([usize; 2]),
}

const KEYS: [&str; 12] = [
    "quant_method",
    "format",
    "quantization_status",
    "config_groups",
    "ignore",
    // It speaks of an attention's cache; where it touches a layer there is a tensor beside the weight.
    "kv_cache_scheme",
    "global_compression_ratio",
    "version",
    "transform_config",
    "sparsity_config",
    "run_compressed",
    "producer",
];

impl Scheme {
    /// Reads the quantisation config of a config.json, wherever it stands there; `ignore` are keys that the caller wants to
    /// be left out of it.
    pub fn parse(path: &Path, config: &Value, ignore: &[String]) -> Result<Self, CheckpointError> {
        let refuse = |(found, expected): Refusal| CheckpointError::file(path, found, expected);
        match find(config).map_err(refuse)? {
            None => Ok(Scheme::Plain),
            Some(mut config) => {
                if let Some(config) = config.as_object_mut() {
                    config.retain(|key, _| !ignore.contains(key));
                }
                Self::of(&config).map_err(refuse)
            }
        }
    }

    fn of(config: &Value) -> Result<Self, Refusal> {
        let method = config.get("quant_method").and_then(Value::as_str);
        let is = |key: &str| config.get(key) == Some(&Value::Bool(true));
        match method {
            Some("compressed-tensors") => {
                CompressedTensors::of(config).map(Self::CompressedTensors)
            }
            Some("bitsandbytes") if is("load_in_4bit") => Err((
                "bitsandbytes with 4 bits".into(),
                "bitsandbytes with 8 bits".into(),
            )),
            // Older versions of it did not write the method.
            _ if method == Some("bitsandbytes") || method.is_none() && is("load_in_8bit") => {
                let ignore = patterns(config.get("llm_int8_skip_modules"), "a skip list")?;
                Ok(Scheme::BitsAndBytes { ignore })
            }
            Some("w8a8_int8") => {
                let keys = [
                    "quant_method",
                    "activation_scheme",
                    "is_dynamic",
                    "ignore",
                    "packed_modules_mapping",
                ];
                let known = refuse_unknown(HEAD, config, &keys);
                Ok(Scheme::Tensors(known.and(dynamic(config))))
            }
            Some("blockwise_int8") => Self::blocks(config),
            Some("modelopt") => Ok(Scheme::Tensors(modelopt(config))),
            other => {
                let other = other.map_or("none".into(), shortened);
                Err((
                    format!("quant_method {other}"),
                    "compressed-tensors, bitsandbytes, w8a8_int8, blockwise_int8 or modelopt"
                        .into(),
                ))
            }
        }
    }

    fn blocks(config: &Value) -> Result<Self, Refusal> {
        let keys = [
            "quant_method",
            "activation_scheme",
            "weight_block_size",
            "ignored_layers",
            "modules_to_not_convert",
        ];
        if let Err(refusal) = refuse_unknown(HEAD, config, &keys) {
            return Ok(Scheme::Tensors(Err(refusal)));
        }
        if let Err(refusal) = dynamic(config) {
            return Ok(Scheme::Tensors(Err(refusal)));
        }
        let size = config.get("weight_block_size").unwrap_or(&Value::Null);
        let side = |i: usize| size.get(i).and_then(Value::as_u64);
        match (side(0), side(1)) {
            (Some(n @ 1..), Some(k @ (32 | 64 | 128))) => {
                Ok(Scheme::Blocks([n as usize, k as usize]))
            }
            _ => Err((
                format!("weight_block_size {}", show(size)),
                "[outputs, inputs] with 32, 64 or 128 inputs".into(),
            )),
        }
    }

    /// What is said of the layer of this name.
    pub fn layer(&self, prefix: &str) -> Result<Layer<'_>, Refusal> {
        match self {
            Scheme::Plain => Ok(Layer::Unknown),
            // bitsandbytes compares whole names and their last parts.
            Scheme::BitsAndBytes { ignore } => {
                let skipped = |p: &NamePattern| {
                    let name = p.as_str();
                    prefix == name || prefix.ends_with(&format!(".{name}"))
                };
                Ok(match ignore.iter().any(skipped) {
                    true => Layer::Ignored,
                    false => Layer::BitsAndBytes,
                })
            }
            Scheme::CompressedTensors(config) => config.layer(prefix),
            Scheme::Tensors(readable) => readable.clone().map(|()| Layer::Unknown),
            Scheme::Blocks(size) => Ok(Layer::Blocks(*size)),
        }
    }

    /// Rotations of the inputs of the layer of this name, at run time.
    pub fn transforms(&self) -> Option<&OnlineTransforms> {
        match self {
            Scheme::CompressedTensors(config) => Some(&config.transforms),
            _ => None,
        }
    }
}

/// Refuses inputs that are not quantised at run time, where a config speaks of it.
fn dynamic(config: &Value) -> Result<(), Refusal> {
    match config.get("activation_scheme") {
        None | Some(Value::Null) => Ok(()),
        Some(scheme) if scheme == "dynamic" => Ok(()),
        Some(other) => Err((
            format!("activation_scheme {}", show(other)),
            "dynamic".into(),
        )),
    }
}

/// Refuses what ModelOpt makes beside int8 with int8.
fn modelopt(config: &Value) -> Result<(), Refusal> {
    let algorithm = config.get("quant_algo").and_then(Value::as_str);
    match algorithm {
        Some(name) if name.starts_with("W8A8_SQ") => Ok(()),
        other => Err((
            format!("quant_algo {}", other.map_or("none".into(), shortened)),
            "W8A8_SQ_PER_CHANNEL".into(),
        )),
    }
}

impl CompressedTensors {
    fn of(config: &Value) -> Result<Self, Refusal> {
        let ignore = patterns(config.get("ignore"), "an ignore list")?;
        let groups = config.get("config_groups").and_then(Value::as_object);
        let groups = groups.ok_or((
            "no config_groups".to_string(),
            "an object config_groups".to_string(),
        ))?;
        let format = config.get("format").unwrap_or(&Value::Null);
        let group = |(name, group): (&String, &Value)| Group::of(name, group, format);
        let keys = refuse_unknown(HEAD, config, &KEYS);
        Ok(CompressedTensors {
            groups: groups.iter().map(group).collect::<Result<_, _>>()?,
            ignore,
            keys: keys.and(dense(config.get("sparsity_config"))),
            transforms: OnlineTransforms::of(config.get("transform_config"))?,
        })
    }

    fn layer(&self, prefix: &str) -> Result<Layer<'_>, Refusal> {
        if any(&self.ignore, prefix)? {
            return Ok(Layer::Ignored);
        }
        self.keys.clone()?;
        // A name is a closer match than a class of layers.
        let mut found = None;
        for group in &self.groups {
            if any(&group.targets, prefix)? {
                found = Some(group);
                break;
            }
        }
        let class = |g: &&Group| g.targets.iter().any(|t| t.as_str() == "Linear");
        match found.or_else(|| self.groups.iter().find(class)) {
            None => Ok(Layer::Unknown),
            Some(group) => group.readable.clone().map(|()| Layer::Group(group)),
        }
    }
}

/// Refuses weights whose zeros are stored in another way.
fn dense(sparsity: Option<&Value>) -> Result<(), Refusal> {
    let format = sparsity.and_then(|s| s.get("format"));
    match format {
        None => Ok(()),
        Some(format) if *format == "dense" => Ok(()),
        Some(other) => Err((
            format!("sparsity_config with format {}", show(other)),
            "none, or format dense".into(),
        )),
    }
}

/// Whether any of the patterns matches.
pub(super) fn any(patterns: &[NamePattern], name: &str) -> Result<bool, Refusal> {
    for pattern in patterns {
        if pattern.try_matches(name)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A list of names and expressions; one alone may stand without a list.
pub(super) fn patterns(list: Option<&Value>, what: &str) -> Result<Vec<NamePattern>, Refusal> {
    let one;
    let list = match list {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(Value::String(name)) => {
            one = vec![Value::String(name.clone())];
            &one
        }
        Some(other) => return Err((show(other), what.to_string())),
    };
    list.iter()
        .map(|name| match name.as_str() {
            None => Err((show(name), format!("a name in {what}"))),
            Some(name) => NamePattern::without_globs(name).map_err(|e| {
                let (found, expected) = e.split_once(", expected ").unwrap_or((&e, "a pattern"));
                let found = found.strip_prefix("found ").unwrap_or(found);
                (shortened(found), expected.into())
            }),
        })
        .collect()
}
