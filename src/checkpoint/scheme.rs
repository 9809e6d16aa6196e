//! What config.json says about a checkpoint's layers.

use super::error::{shortened, CheckpointError};
use super::names::NamePattern;
use serde_json::Value;
use std::path::Path;

/// How the layers of a checkpoint are stored, from its `quantization_config`.
#[derive(Debug, Clone, Default)]
pub(super) enum Scheme {
    /// Nothing is said: the tensors show how they are stored.
    #[default]
    Plain,
    /// compressed-tensors, format `int-quantized`.
    CompressedTensors {
        groups: Vec<Group>,
        ignore: Vec<NamePattern>,
    },
    /// bitsandbytes with 8 bits.
    BitsAndBytes { ignore: Vec<NamePattern> },
}

/// One entry of `config_groups`.
#[derive(Debug, Clone)]
pub(super) struct Group {
    targets: Vec<NamePattern>,
    pub inputs: Inputs,
    pub weights_symmetric: bool,
    /// How many inputs share a weight scale; `None` where all inputs of an output do.
    pub weights_size: Option<usize>,
}

/// How a group's inputs are quantised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Inputs {
    /// At run time, one scale per row.
    Dynamic { symmetric: bool },
    /// With the constants in `P.input_scale`, `P.input_zero_point`.
    Static { symmetric: bool },
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
}

impl Scheme {
    /// Reads `quantization_config` of a config.json.
    pub fn parse(path: &Path, text: &str) -> Result<Self, CheckpointError> {
        let config: Value = super::python_json::parse(text).map_err(|e| {
            CheckpointError::file(path, format!("no JSON ({e})"), "a model's config.json")
        })?;
        let quantization = match config.get("quantization_config") {
            None => config.get("compression_config"),
            some => some,
        };
        match quantization {
            None | Some(Value::Null) => Ok(Scheme::Plain),
            Some(config) => Self::of(config)
                .map_err(|(found, expected)| CheckpointError::file(path, found, expected)),
        }
    }

    fn of(config: &Value) -> Result<Self, (String, String)> {
        let method = config.get("quant_method").and_then(Value::as_str);
        match method {
            Some("compressed-tensors") => {}
            Some("bitsandbytes") if config.get("load_in_4bit") == Some(&Value::Bool(true)) => {
                return Err((
                    "bitsandbytes with 4 bits".into(),
                    "bitsandbytes with 8 bits".into(),
                ));
            }
            Some("bitsandbytes") => {
                let ignore = patterns(config.get("llm_int8_skip_modules"), "a skip list")?;
                return Ok(Scheme::BitsAndBytes { ignore });
            }
            other => {
                let other = other.map_or("none".into(), shortened);
                return Err((
                    format!("quant_method {other}"),
                    "compressed-tensors or bitsandbytes".into(),
                ));
            }
        }
        let format = config.get("format").and_then(Value::as_str);
        if !matches!(format, Some("int-quantized" | "naive-quantized" | "dense")) {
            return Err((
                format!("format {}", format.map_or("none".into(), shortened)),
                "int-quantized".into(),
            ));
        }
        let ignore = patterns(config.get("ignore"), "an ignore list")?;
        let groups = config.get("config_groups").and_then(Value::as_object);
        let groups = groups.ok_or((
            "no config_groups".to_string(),
            "an object config_groups".to_string(),
        ))?;
        let groups = groups.values().map(Group::of).collect::<Result<_, _>>()?;
        Ok(Scheme::CompressedTensors { groups, ignore })
    }

    /// What is said of the layer of this name; `linear` when it could be a linear layer.
    pub fn layer(&self, prefix: &str) -> Layer<'_> {
        let any = |patterns: &[NamePattern]| patterns.iter().any(|p| p.matches(prefix));
        match self {
            Scheme::Plain => Layer::Unknown,
            // bitsandbytes compares whole names and their last parts.
            Scheme::BitsAndBytes { ignore } => {
                let skipped = |p: &NamePattern| {
                    let name = p.as_str();
                    prefix == name || prefix.ends_with(&format!(".{name}"))
                };
                if ignore.iter().any(skipped) {
                    Layer::Ignored
                } else {
                    Layer::BitsAndBytes
                }
            }
            Scheme::CompressedTensors { groups, ignore } => {
                if any(ignore) {
                    return Layer::Ignored;
                }
                // A name is a closer match than a class of layers.
                let named = groups.iter().find(|g| any(&g.targets));
                let class = |g: &&Group| g.targets.iter().any(|t| t.as_str() == "Linear");
                match named.or_else(|| groups.iter().find(class)) {
                    Some(group) => Layer::Group(group),
                    None => Layer::Unknown,
                }
            }
        }
    }
}

impl Group {
    fn of(group: &Value) -> Result<Self, (String, String)> {
        let targets = patterns(group.get("targets"), "a list of targets")?;
        let field = |of: &Value, name: &str| of.get(name).cloned().unwrap_or(Value::Null);
        let args = |part: &str, strategies: &[&str]| -> Result<Option<Value>, (String, String)> {
            let args = field(group, part);
            if args.is_null() {
                return Ok(None);
            }
            let bits = field(&args, "num_bits");
            let kind = field(&args, "type");
            if bits != 8 || kind != "int" {
                return Err((
                    format!("{part} of type {} with {} bits", show(&kind), show(&bits)),
                    "type int with 8 bits".into(),
                ));
            }
            let strategy = field(&args, "strategy");
            if !strategy.is_null() && !strategies.iter().any(|s| strategy == *s) {
                return Err((
                    format!("{part} with strategy {}", show(&strategy)),
                    format!("strategy {}", strategies.join(" or ")),
                ));
            }
            Ok(Some(args))
        };
        let symmetric = |args: &Value| field(args, "symmetric") != false;
        let weights = args("weights", &["channel", "tensor", "group"])?.ok_or((
            "a group without weights".to_string(),
            "weights in each group".to_string(),
        ))?;
        let weights_size = group_size(&weights)?;
        let inputs = match args("input_activations", &["token", "tensor"])? {
            // Weights alone are quantised; a product in int8 needs its inputs quantised too, the finest way.
            None => Inputs::Dynamic { symmetric: true },
            Some(args) => match field(&args, "dynamic") {
                Value::Bool(true) => Inputs::Dynamic {
                    symmetric: symmetric(&args),
                },
                Value::Bool(false) | Value::Null => Inputs::Static {
                    symmetric: symmetric(&args),
                },
                other => {
                    return Err((
                        format!("input_activations with dynamic {}", show(&other)),
                        "true or false".into(),
                    ))
                }
            },
        };
        Ok(Group {
            targets,
            inputs,
            weights_symmetric: symmetric(&weights),
            weights_size,
        })
    }
}

/// How many inputs share a scale, where the strategy is `group` (named, or implied by a group size).
fn group_size(weights: &Value) -> Result<Option<usize>, (String, String)> {
    let field = |name: &str| weights.get(name).unwrap_or(&Value::Null);
    let (strategy, size) = (field("strategy"), field("group_size"));
    if *strategy != "group" && !(strategy.is_null() && size.as_u64().is_some()) {
        return Ok(None);
    }
    let refuse = |what: &str, found: &Value, expected: &str| {
        let found = format!("weights with {what} {}", show(found));
        Err((found, expected.to_string()))
    };
    match size.as_u64() {
        Some(32 | 64 | 128) => {}
        _ => return refuse("group_size", size, "group_size 32, 64 or 128"),
    }
    // Inputs in another order than the weight's own.
    let order = field("actorder");
    if !order.is_null() && *order != "static" && *order != "weight" {
        return refuse("actorder", order, "none, static or weight");
    }
    if *field("symmetric") == false {
        return refuse(
            "strategy group, symmetric",
            &Value::Bool(false),
            "symmetric true",
        );
    }
    Ok(size.as_u64().map(|size| size as usize))
}

fn show(value: &Value) -> String {
    shortened(&value.to_string())
}

fn patterns(list: Option<&Value>, what: &str) -> Result<Vec<NamePattern>, (String, String)> {
    let list = match list {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
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
