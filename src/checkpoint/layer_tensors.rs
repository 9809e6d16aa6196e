//! The tensors of one layer, and the account of them: each is read by the format, known not to matter, or refused.

use super::error::CheckpointError;
use super::file::RawTensor;
use super::slice::LayerSlice;
use super::Checkpoint;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Tensors beside a weight that do not change what the linear layer computes.
const HARMLESS: [&str; 5] = [
    // Scales of an attention's cache or products, which the attention applies to what the layer gives.
    "k_scale",
    "v_scale",
    "q_scale",
    "prob_scale",
    // What a router adds to its scores to choose experts, after the layer.
    "e_score_correction_bias",
];

/// Tensors that change a layer's meaning in ways that are not applied, and what they are.
const CHANGES: [(&str, &str); 12] = [
    ("weight_g_idx", "inputs in another order (act-order)"),
    ("g_idx", "inputs in another order (act-order)"),
    ("perm", "inputs in another order"),
    ("output_scale", "a quantised output"),
    ("output_zero_point", "a quantised output"),
    ("smooth_scale", "a smoothing scale of the inputs"),
    ("smooth_factor", "a smoothing scale of the inputs"),
    ("smoothing_scale", "a smoothing scale of the inputs"),
    ("proj_down", "a low-rank branch"),
    ("proj_up", "a low-rank branch"),
    ("svd_down", "a low-rank branch"),
    ("svd_up", "a low-rank branch"),
];

/// Starts of the names of modules that are added to a layer.
const BRANCHES: [&str; 3] = ["lora", "dora", "adapter"];

/// The tensors of the layer `prefix`. Whatever is asked for is claimed; [`finish`](Self::finish) refuses the rest.
pub(super) struct LayerTensors<'c> {
    pub checkpoint: &'c Checkpoint,
    pub prefix: &'c str,
    /// What is read of the weight, where that is not all.
    pub slice: Option<LayerSlice>,
    claimed: RefCell<BTreeSet<String>>,
}

impl<'c> LayerTensors<'c> {
    pub fn new(checkpoint: &'c Checkpoint, prefix: &'c str) -> Self {
        LayerTensors {
            checkpoint,
            prefix,
            slice: None,
            claimed: RefCell::default(),
        }
    }

    /// A tensor's whole name.
    pub fn name(&self, part: &str) -> String {
        joined(self.prefix, part)
    }

    /// Whether there is such a tensor, without a claim.
    pub fn has(&self, part: &str) -> bool {
        self.checkpoint.raw(&self.name(part)).is_some()
    }

    /// The tensor, claimed.
    pub fn get(&self, part: &str) -> Option<RawTensor<'c>> {
        self.claimed.borrow_mut().insert(part.into());
        self.checkpoint.raw(&self.name(part))
    }

    /// The tensor, claimed, or the refusal of the layer without it.
    pub fn require(&self, part: &str) -> Result<RawTensor<'c>, CheckpointError> {
        match self.get(part) {
            Some(raw) => Ok(raw),
            None => self.checkpoint.require(&self.name(part)),
        }
    }

    /// The refusal of one of the tensors.
    pub fn wrong(
        &self,
        part: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> CheckpointError {
        self.checkpoint.wrong(&self.name(part), found, expected)
    }

    /// Claims a tensor that says nothing where it is all zeros, and refuses it where it is not.
    pub fn zeros(&self, part: &str, expected: &str) -> Result<(), CheckpointError> {
        match self.get(part) {
            Some(raw) if raw.bytes.iter().any(|b| *b != 0) => {
                let found = format!("{} that is not all zeros", raw.describe());
                Err(self.wrong(part, found, expected))
            }
            _ => Ok(()),
        }
    }

    /// Refuses the first tensor beside the weight that nobody claimed.
    pub fn finish(self) -> Result<(), CheckpointError> {
        let claimed = self.claimed.borrow();
        let claims = |part: &str| claimed.contains(part) || HARMLESS.contains(&part);
        let beside = self.checkpoint.beside(self.prefix);
        match beside.into_iter().find(|(_, part)| !claims(part)) {
            None => Ok(()),
            Some((name, part)) => Err(unknown(self.checkpoint, &name, &part)),
        }
    }
}

fn unknown(checkpoint: &Checkpoint, name: &str, part: &str) -> CheckpointError {
    let what = CHANGES.iter().find(|(known, _)| *known == part);
    let branch = BRANCHES.iter().any(|b| part.starts_with(b));
    let what = match what {
        Some((_, what)) => what,
        None if branch => "a low-rank branch",
        None => "which is not known here",
    };
    let described = match checkpoint.raw(name) {
        Some(raw) => raw.describe(),
        None => "a tensor".into(),
    };
    checkpoint.wrong(
        name,
        format!("{described} beside the layer's weight: {what}"),
        "tensors that can be applied (OpenOptions::ignore_tensors, or --ignore, leaves one out)",
    )
}

impl Checkpoint {
    /// The tensors beside the weight of a layer, each with its name after the prefix: those of the layer itself
    /// and of modules below it, which a linear layer has none of but those that change it (low-rank branches, rotations).
    ///
    /// Lists of modules (`PREFIX.experts.0.weight`) are layers of their own. So is everything below an empty prefix but
    /// branches. A layer that an adapter wraps, `P.base_layer`, has the adapter's tensors beside it.
    fn beside(&self, prefix: &str) -> Vec<(String, String)> {
        let mut beside = Vec::new();
        let wrapped = prefix
            .strip_suffix("base_layer")
            .and_then(|p| p.strip_suffix('.').or(p.is_empty().then_some(p)));
        for (of, wrapper) in [(Some(prefix), false), (wrapped, true)] {
            let Some(of) = of else { continue };
            let below = joined(of, "");
            for name in self.names_below(&below) {
                let part = &name[below.len()..];
                let own = wrapper && part.starts_with("base_layer.");
                if !own && changes(part, of.is_empty()) {
                    beside.push((name.to_string(), part.to_string()));
                }
            }
        }
        beside
    }

    /// Refuses tensors beside a float weight that would change what the layer computes once it is quantised.
    pub(super) fn check_beside(&self, prefix: &str) -> Result<(), CheckpointError> {
        let tensors = LayerTensors::new(self, prefix);
        tensors.get("weight");
        tensors.get("bias");
        tensors.finish()
    }
}

/// Whether a tensor of this name below a layer belongs to the layer.
fn changes(part: &str, bare: bool) -> bool {
    let mut steps = part.split('.');
    let first = steps.next().unwrap_or_default();
    let branch = BRANCHES.iter().any(|b| first.starts_with(b));
    match steps.next() {
        None => true,
        Some(_) if branch => true,
        Some(_) if bare => false,
        Some(number) => !number.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// The name of a tensor of a layer; a bare file's layer has the empty name.
pub(super) fn joined(prefix: &str, part: &str) -> String {
    match prefix {
        "" => part.into(),
        _ => format!("{prefix}.{part}"),
    }
}
