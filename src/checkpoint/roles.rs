//! What a matrix is in its model, by its shape and by what stands beside it: names alone mislead.

use super::file::RawTensor;
use super::Checkpoint;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Vocabularies from this size on are padded to a multiple of something.
const PADDED_VOCABULARY: u64 = 10_000;

/// A model's matrices, its experts and what its config says of sizes.
pub(super) struct Roles {
    /// `[N, K]` of each float tensor `P.weight`, by P.
    matrices: BTreeMap<String, [usize; 2]>,
    /// How many experts there are under a name: `layers.0.mlp` for `layers.0.mlp.experts.7.up_proj`.
    experts: BTreeMap<String, usize>,
    /// The sizes that the config gives for vocabularies.
    vocabularies: BTreeSet<u64>,
    /// Other sizes that the config gives for rows of linear layers.
    widths: BTreeSet<u64>,
}

impl Roles {
    pub fn of(checkpoint: &Checkpoint, config: &Value) -> Self {
        let mut roles = Roles {
            matrices: BTreeMap::new(),
            experts: BTreeMap::new(),
            vocabularies: BTreeSet::new(),
            widths: BTreeSet::new(),
        };
        roles.sizes(config);
        let mut numbers: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for name in checkpoint.names() {
            let Some(raw) = checkpoint.raw(name) else {
                continue;
            };
            if let (Some(prefix), [n, k]) = (name.strip_suffix(".weight"), raw.shape) {
                roles.matrices.insert(prefix.into(), [*n, *k]);
            }
            let Some((owner, rest)) = name.split_once(".experts.") else {
                continue;
            };
            match (rest.split('.').next(), raw.shape) {
                (Some(number), _) if number.parse::<usize>().is_ok() => {
                    numbers.entry(owner.into()).or_default().insert(number);
                }
                // All experts in one tensor.
                (_, [count, _, _]) => {
                    roles.experts.insert(owner.into(), *count);
                }
                _ => {}
            }
        }
        let counted = numbers.into_iter().map(|(owner, n)| (owner, n.len()));
        roles.experts.extend(counted);
        roles
    }

    fn sizes(&mut self, config: &Value) {
        match config {
            Value::Object(map) => {
                for (key, value) in map {
                    match value.as_u64() {
                        Some(size) if key.ends_with("vocab_size") => {
                            self.vocabularies.insert(size);
                        }
                        Some(size) if key.ends_with("size") || key.ends_with("dim") => {
                            self.widths.insert(size);
                        }
                        _ => self.sizes(value),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|value| self.sizes(value)),
            _ => {}
        }
    }

    /// What the matrix `prefix` is when it is no linear layer to quantise: an embedding or head, a router, a gate.
    pub fn special(&self, prefix: &str) -> Option<&'static str> {
        let [n, k] = *self.matrices.get(prefix)?;
        if self.is_vocabulary(n, k) {
            return Some("one row for each token: an embedding or a head");
        }
        if n == 1 {
            return Some("one output: a gate or a score");
        }
        if self.routes(prefix, n) {
            return Some("one row for each expert: a router");
        }
        self.is_gate(prefix, [n, k]).then_some("a gate")
    }

    fn is_vocabulary(&self, n: usize, k: usize) -> bool {
        let n = n as u64;
        let padded =
            |v: u64| v >= PADDED_VOCABULARY && n > v && n < v + 1024 && n.is_multiple_of(64);
        // Where a layer is as wide as a vocabulary is large, the size says nothing.
        let rows = self.vocabularies.iter().any(|v| n == *v || padded(*v));
        rows && !self.widths.contains(&n) && k > 1
    }

    /// Whether there is a row for each of the experts that stand beside the matrix or above it.
    fn routes(&self, prefix: &str, n: usize) -> bool {
        let mut above = prefix;
        for _ in 0..3 {
            let Some((parent, own)) = above.rsplit_once('.') else {
                return false;
            };
            // Experts themselves have layers of any shape.
            if own == "experts" {
                return false;
            }
            if let Some(count) = self.experts.get(parent) {
                return n == *count;
            }
            above = parent;
        }
        false
    }

    /// `P.gate` chooses among experts, unless it is the first half of a gated layer, beside another of its shape.
    fn is_gate(&self, prefix: &str, shape: [usize; 2]) -> bool {
        let (parent, own) = prefix.rsplit_once('.').unwrap_or(("", prefix));
        let beside = |name: &str| name.rsplit_once('.').map_or("", |(p, _)| p) == parent;
        let twin = |(name, other): (&String, &[usize; 2])| {
            name != prefix && beside(name) && *other == shape
        };
        own == "gate" && !self.matrices.iter().any(twin)
    }
}

/// Float tensors of three dimensions that hold the matrices of several experts: the name of their layer.
pub(super) fn stacked_experts<'a>(name: &'a str, raw: &RawTensor<'_>) -> Option<&'a str> {
    if raw.shape.len() != 3 || !raw.is_float() {
        return None;
    }
    let module = name.strip_suffix(".weight");
    let module = module.or_else(|| name.rsplit_once('.').map(|(module, _)| module))?;
    let mut parts = module.split('.');
    parts
        .any(|p| p.contains("expert") || p.contains("moe"))
        .then_some(module)
}
