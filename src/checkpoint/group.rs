//! A group of layers of a compressed-tensors config.

use super::error::shortened;
use super::keys::{refuse_unknown, show};
use super::names::NamePattern;
use super::scheme::{patterns, Refusal};
use serde_json::Value;

/// One entry of `config_groups`.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub targets: Vec<NamePattern>,
    /// Whether layers of the group can be read, and why not.
    pub readable: Result<(), Refusal>,
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

const KEYS: [&str; 5] = [
    "targets",
    "weights",
    "input_activations",
    "output_activations",
    "format",
];

const ARGUMENTS: [&str; 12] = [
    "num_bits",
    "type",
    "symmetric",
    "group_size",
    "strategy",
    "dynamic",
    "actorder",
    // How the constants were found or are stored.
    "observer",
    "observer_kwargs",
    "scale_dtype",
    "zp_dtype",
    "block_structure",
];

impl Group {
    /// A group of this name; `format` is that of the whole checkpoint.
    pub fn of(name: &str, group: &Value, format: &Value) -> Result<Self, Refusal> {
        let targets = patterns(group.get("targets"), "a list of targets")?;
        let mut made = Group {
            targets,
            readable: Ok(()),
            inputs: Inputs::Dynamic { symmetric: true },
            weights_symmetric: true,
            weights_size: None,
        };
        made.readable = made.read(group, format).map_err(|(found, expected)| {
            (
                found,
                format!("{expected} (config group {})", shortened(name)),
            )
        });
        Ok(made)
    }

    fn read(&mut self, group: &Value, format: &Value) -> Result<(), Refusal> {
        let weights = field(group, "weights");
        if !weights.is_null() {
            eight_bits("weights", weights)?;
        }
        check_format(group, format)?;
        refuse_unknown("config_groups.*", group, &KEYS)?;
        let outputs = field(group, "output_activations");
        if !outputs.is_null() {
            let found = format!("output_activations {}", show(outputs));
            return Err((found, "null: outputs in floats".into()));
        }
        if weights.is_null() {
            return Err((
                "a group without weights".into(),
                "weights in each group".into(),
            ));
        }
        check_args("weights", weights, &["channel", "tensor", "group"])?;
        self.weights_size = group_size(weights)?;
        self.weights_symmetric = symmetric(weights);
        let inputs = field(group, "input_activations");
        // Weights alone are quantised; a product in int8 needs its inputs quantised too, the finest way.
        if inputs.is_null() {
            return Ok(());
        }
        eight_bits("input_activations", inputs)?;
        check_args("input_activations", inputs, &["token", "tensor"])?;
        let symmetric = symmetric(inputs);
        self.inputs = match field(inputs, "dynamic") {
            Value::Bool(true) => Inputs::Dynamic { symmetric },
            Value::Bool(false) | Value::Null => Inputs::Static { symmetric },
            other => {
                return Err((
                    format!("input_activations with dynamic {}", show(other)),
                    "true or false".into(),
                ))
            }
        };
        Ok(())
    }
}

fn field<'v>(of: &'v Value, name: &str) -> &'v Value {
    of.get(name).unwrap_or(&Value::Null)
}

fn symmetric(args: &Value) -> bool {
    *field(args, "symmetric") != false
}

/// The group's own format, or that of the checkpoint. Where weights are packed shows in the tensors.
fn check_format(group: &Value, format: &Value) -> Result<(), Refusal> {
    let own = field(group, "format");
    let format = if own.is_null() { format } else { own };
    let known = [
        "int-quantized",
        "naive-quantized",
        "dense",
        "pack-quantized",
    ];
    if known.iter().any(|known| *format == *known) {
        return Ok(());
    }
    Err((
        format!("format {}", show(format)),
        "int-quantized or pack-quantized".into(),
    ))
}

fn eight_bits(part: &str, args: &Value) -> Result<(), Refusal> {
    let (bits, kind) = (field(args, "num_bits"), field(args, "type"));
    if *bits == 8 && *kind == "int" {
        return Ok(());
    }
    Err((
        format!("{part} of type {} with {} bits", show(kind), show(bits)),
        "type int with 8 bits".into(),
    ))
}

fn check_args(part: &str, args: &Value, strategies: &[&str]) -> Result<(), Refusal> {
    refuse_unknown(part, args, &ARGUMENTS)?;
    let strategy = field(args, "strategy");
    if strategy.is_null() || strategies.iter().any(|s| *strategy == *s) {
        return Ok(());
    }
    Err((
        format!("{part} with strategy {}", show(strategy)),
        format!("strategy {}", strategies.join(" or ")),
    ))
}

/// How many inputs share a scale, where the strategy is `group` (named, or implied by a group size).
fn group_size(weights: &Value) -> Result<Option<usize>, Refusal> {
    let (strategy, size) = (field(weights, "strategy"), field(weights, "group_size"));
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
    let order = field(weights, "actorder");
    if !order.is_null() && *order != "static" && *order != "weight" {
        return refuse("actorder", order, "none, static or weight");
    }
    if !symmetric(weights) {
        return refuse(
            "strategy group, symmetric",
            &Value::Bool(false),
            "symmetric true",
        );
    }
    Ok(size.as_u64().map(|size| size as usize))
}
