//! compressed-tensors' `transform_config`: rotations of a linear layer's inputs at run time.

use super::keys::{refuse_unknown, show};
use super::layer_tensors::LayerTensors;
use super::names::NamePattern;
use super::scheme::{any, patterns, Refusal};
use super::CheckpointError;
use crate::quant::Rotation;
use serde_json::Value;

/// The transforms of a config, in its order.
#[derive(Debug, Clone, Default)]
pub(super) struct OnlineTransforms(Vec<Transform>);

/// One place that a transform is applied at.
#[derive(Debug, Clone)]
struct Transform {
    /// Of the config's group.
    name: String,
    targets: Vec<NamePattern>,
    ignore: Vec<NamePattern>,
    location: String,
    /// The block of a Hadamard matrix, all inputs where nothing is said; or why it is not one.
    block: Result<Option<usize>, Refusal>,
}

/// Where a transform is part of the stored weight, or belongs to an attention.
const ELSEWHERE: [&str; 5] = [
    "weight_input",
    "weight_output",
    "q_attn",
    "k_cache",
    "v_cache",
];

impl OnlineTransforms {
    /// Reads a `transform_config`, where there is one.
    pub fn of(config: Option<&Value>) -> Result<Self, Refusal> {
        let mut all = Vec::new();
        let Some(config) = config.filter(|c| !c.is_null()) else {
            return Ok(OnlineTransforms(all));
        };
        let wrong = || {
            let found = format!("transform_config {}", show(config));
            (found, "config_groups with lists to apply".to_string())
        };
        let groups = config.get("config_groups").and_then(Value::as_object);
        refuse_unknown("transform_config", config, &["config_groups"])?;
        for (name, group) in groups.ok_or_else(wrong)? {
            let places = group.get("apply").and_then(Value::as_array);
            for place in places.ok_or_else(wrong)? {
                let location = place.get("location").and_then(Value::as_str);
                let keys = ["targets", "location", "inverse", "ignore"];
                let known = refuse_unknown("transform_config.*.apply", place, &keys);
                all.push(Transform {
                    name: name.clone(),
                    targets: patterns(place.get("targets"), "a list of targets")?,
                    ignore: patterns(place.get("ignore"), "an ignore list")?,
                    location: location.ok_or_else(wrong)?.to_string(),
                    block: known.and(block(group)),
                });
            }
        }
        Ok(OnlineTransforms(all))
    }

    /// The rotation of the inputs of a layer with `k` of them.
    pub fn rotation(
        &self,
        tensors: &LayerTensors<'_>,
        k: usize,
    ) -> Result<Option<Rotation>, CheckpointError> {
        let refuse = |refusal| tensors.checkpoint.refused(tensors.prefix, refusal);
        let mut rotation = None;
        for transform in &self.0 {
            if !transform.touches(tensors.prefix).map_err(refuse)? {
                continue;
            }
            let block = transform.input(k).map_err(refuse)?;
            if rotation.replace(Rotation::Hadamard { block }).is_some() {
                let found = "transform_config with two transforms of the same input".to_string();
                return Err(refuse((found, "one".into())));
            }
            transform.check_matrix(tensors, block)?;
        }
        Ok(rotation)
    }
}

impl Transform {
    /// Whether it is applied to the layer at run time.
    fn touches(&self, prefix: &str) -> Result<bool, Refusal> {
        let class = self.targets.iter().any(|t| t.as_str() == "Linear");
        let targeted = class || any(&self.targets, prefix)?;
        let ignored = any(&self.ignore, prefix)?;
        Ok(targeted && !ignored && !ELSEWHERE.contains(&self.location.as_str()))
    }

    /// The block of the rotation of the inputs, where it is one.
    fn input(&self, k: usize) -> Result<usize, Refusal> {
        if self.location != "input" {
            let found = format!(
                "transform_config.{} at location {}",
                self.name, self.location
            );
            return Err((found, "online transforms at location input alone".into()));
        }
        let block = self.block.clone()?.unwrap_or(k);
        if block.is_power_of_two() && k.is_multiple_of(block) {
            return Ok(block);
        }
        let found = format!("transform_config.{} of {block} of {k} inputs", self.name);
        Err((found, "a power of two that divides the inputs".into()))
    }

    /// A matrix that the file holds beside the layer must be the one that is applied.
    fn check_matrix(
        &self,
        tensors: &LayerTensors<'_>,
        block: usize,
    ) -> Result<(), CheckpointError> {
        let part = format!("{}_{}.weight", self.name, self.location);
        let Some(raw) = tensors.get(&part) else {
            return Ok(());
        };
        let sign = |i: usize, j: usize| match (i & j).count_ones() % 2 {
            0 => 1.0,
            _ => -1.0,
        };
        let is_hadamard = raw.shape == [block, block]
            && raw.floats().is_some_and(|m| {
                let size = m.first().copied().unwrap_or(0.0);
                size > 0.0 && (0..m.len()).all(|at| m[at] == sign(at / block, at % block) * size)
            });
        if is_hadamard {
            return Ok(());
        }
        let expected = format!("Sylvester's Hadamard matrix, [{block}, {block}]");
        Err(tensors.wrong(&part, raw.describe(), expected))
    }
}

/// The block of a group's Hadamard matrix.
fn block(group: &Value) -> Result<Option<usize>, Refusal> {
    let keys = [
        "type",
        "apply",
        "randomize",
        "requires_grad",
        "head_dim",
        "block_size",
        "precision",
    ];
    refuse_unknown("transform_config.*", group, &keys)?;
    let field = |name: &str| group.get(name).unwrap_or(&Value::Null);
    if *field("type") != "hadamard" || *field("randomize") == true {
        let found = format!(
            "transform_config of type {} with randomize {}",
            show(field("type")),
            show(field("randomize"))
        );
        return Err((found, "type hadamard without randomize".into()));
    }
    let size = match (field("head_dim"), field("block_size")) {
        (Value::Null, size) | (size, _) => size,
    };
    match size {
        Value::Null => Ok(None),
        size => match size.as_u64() {
            Some(size @ 1..) => Ok(Some(size as usize)),
            _ => Err((
                format!("transform_config with a block of {}", show(size)),
                "a number of inputs".into(),
            )),
        },
    }
}
