//! The experts of a mixture-of-experts layer: numbered layers, or one tensor for all.

use super::error::CheckpointError;
use super::file::RawTensor;
use super::linear::{StoredLinear, StoredWeight};
use super::Checkpoint;
use crate::error::Error;
use crate::gemm::{
    interleave_gate_up, ActivationQuant, Backend, GroupedWeights, PackedWeights, Weights,
};
use crate::ops::{default_backend, Int8Experts};
use ndarray::{s, Array2, ArrayView1, Axis};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// What gate, up and down are called in numbered layers, by model.
const NUMBERED: [[&str; 3]; 2] = [["gate_proj", "up_proj", "down_proj"], ["w1", "w3", "w2"]];
/// The tensors of all experts together.
const FUSED: [&str; 2] = ["gate_up_proj", "down_proj"];

impl Int8Experts {
    /// The experts `prefix` of a checkpoint, such as `model.layers.0.mlp.experts`: see
    /// [`Checkpoint::experts`].
    ///
    /// # Errors
    /// When the checkpoint can't be opened, or its tensors do not make experts.
    pub fn from_checkpoint(path: impl AsRef<Path>, prefix: &str) -> Result<Self, CheckpointError> {
        Checkpoint::open(path)?.experts(prefix)
    }
}

/// A product's weights and bias of one expert, packed.
type Packed = (PackedWeights, Option<Vec<f32>>);

impl Checkpoint {
    /// The experts `prefix`, packed for the default backend; their gates' activation function is SiLU, which
    /// [`with_activation`](Int8Experts::with_activation) changes.
    ///
    /// | stored as | what it is read by |
    /// |---|---|
    /// | `PREFIX.N.gate_proj`, `.up_proj`, `.down_proj` (Qwen, DeepSeek), or `PREFIX.N.w1`, `.w3`, `.w2` (Mixtral), N from 0 on | a linear layer each, in any format that has symmetric weights and quantises its inputs per token |
    /// | `PREFIX.gate_up_proj` `[E, 2 I, H]`, gates first, and `PREFIX.down_proj` `[E, H, I]`, floats | as transformers fuses them |
    /// | the same as `[E, H, 2 I]` and `[E, I, H]` | as Llama 4 stores them; the shapes tell |
    ///
    /// # Errors
    /// As [`stored_linear`](Self::stored_linear); when a number is missing, when experts differ in what they are stored as,
    /// and for what experts do not have here: asymmetric weights, static inputs, inputs that are transformed, tensors beside
    /// the fused ones.
    pub fn experts(&self, prefix: &str) -> Result<Int8Experts, CheckpointError> {
        self.experts_on(default_backend().clone(), prefix, None)
    }

    /// [`experts`](Self::experts) on a backend of choice, all or a range of them: a rank's slice, whose indices stay those of
    /// all. Nothing of the others is read.
    ///
    /// # Errors
    /// As [`experts`](Self::experts), those of the backend, and [`CheckpointError::Tensor`] for a range that is empty or goes
    /// beyond the experts.
    pub fn experts_on(
        &self,
        backend: Arc<dyn Backend>,
        prefix: &str,
        range: Option<Range<usize>>,
    ) -> Result<Int8Experts, CheckpointError> {
        let fused = self.raw(&format!("{prefix}.{}", FUSED[0])).is_some();
        let total = match fused {
            true => self.fused(prefix)?.count,
            false => self.numbered(prefix)?,
        };
        let range = range.unwrap_or(0..total);
        if range.is_empty() || range.end > total {
            let expected = format!("a part of the experts 0..{total}");
            return Err(self.wrong(prefix, format!("the range {range:?}"), expected));
        }
        let made = |e: Error| CheckpointError::Layer {
            path: self.path().into(),
            prefix: prefix.into(),
            source: Box::new(e),
        };
        let (mut gate_up, mut down) = (Vec::new(), Vec::new());
        for number in range.clone() {
            let (first, second) = match fused {
                true => self.fused(prefix)?.expert(number, backend.as_ref()),
                false => self.numbered_expert(prefix, number, backend.as_ref())?,
            }
            .map_err(made)?;
            gate_up.push(first);
            down.push(second);
        }
        let (gate_up, gate_up_bias) = self.together(prefix, gate_up)?;
        let (down, down_bias) = self.together(prefix, down)?;
        let weights = |all| GroupedWeights::new(all).map_err(made);
        let experts = Int8Experts::from_grouped(backend, weights(gate_up)?, weights(down)?);
        experts
            .and_then(|experts| experts.with_joined_biases(gate_up_bias, down_bias))
            .and_then(|experts| experts.with_place(range.start, total))
            .map_err(made)
    }

    /// How many numbered experts there are.
    fn numbered(&self, prefix: &str) -> Result<usize, CheckpointError> {
        let below = format!("{prefix}.");
        let numbers: BTreeSet<usize> = self
            .names_below(&below)
            .filter_map(|name| name[below.len()..].split('.').next()?.parse().ok())
            .collect();
        let missing = (0..numbers.len()).find(|n| !numbers.contains(n));
        match (numbers.len(), missing) {
            (0, _) => {
                let expected = format!("experts {prefix}.0 and on, or {prefix}.{}", FUSED[0]);
                Err(self.wrong(prefix, "no experts", expected))
            }
            (count, Some(missing)) => {
                let found = format!("{count} experts, none of number {missing}");
                Err(self.wrong(prefix, found, "experts numbered from 0 on"))
            }
            (count, None) => Ok(count),
        }
    }

    fn numbered_expert(
        &self,
        prefix: &str,
        number: usize,
        backend: &dyn Backend,
    ) -> Result<crate::Result<(Packed, Packed)>, CheckpointError> {
        let below = format!("{prefix}.{number}");
        let has = |part: &str| {
            self.names_below(&format!("{below}.{part}."))
                .next()
                .is_some()
        };
        let names = NUMBERED.iter().find(|names| has(names[0]));
        let names = names.unwrap_or(&NUMBERED[0]);
        let known = |name: &str| {
            let part = name[below.len() + 1..].split('.').next();
            part.is_some_and(|part| names.contains(&part))
        };
        let dotted = format!("{below}.");
        if let Some(other) = self.names_below(&dotted).find(|name| !known(name)) {
            let expected = format!("{} of an expert", names.join(", "));
            return Err(self.wrong(other, "a tensor beside them", expected));
        }
        let [gate, up, down] = names.map(|part| format!("{below}.{part}"));
        let (gate_layer, up_layer) = (self.expert_linear(&gate)?, self.expert_linear(&up)?);
        let down = self.expert_linear(&down)?;
        let both = joined(&gate_layer, &up_layer).ok_or_else(|| {
            let expected = "a gate and an up of one shape that are stored alike";
            self.wrong(&up, "another shape or kind than the gate's", expected)
        })?;
        let pack = || Ok((packed(both, backend)?, packed(down, backend)?));
        Ok(pack())
    }

    /// A linear layer that experts can have.
    fn expert_linear(&self, prefix: &str) -> Result<StoredLinear, CheckpointError> {
        let stored = self.stored_linear(prefix)?;
        let asymmetric = matches!(
            stored.weight,
            StoredWeight::Int8 {
                zero_points: Some(_),
                ..
            }
        );
        let found = if asymmetric {
            "asymmetric weights"
        } else if stored.input != ActivationQuant::PerToken {
            "inputs that are not quantised per token and symmetrically"
        } else if !stored.transform.is_identity() {
            "inputs that are transformed"
        } else {
            return Ok(stored);
        };
        let expected = "experts with symmetric weights and inputs quantised per token";
        Err(self.wrong(prefix, found, expected))
    }

    /// The experts' weights, and their biases one after the other: all have one or none.
    fn together(
        &self,
        prefix: &str,
        experts: Vec<Packed>,
    ) -> Result<(Vec<PackedWeights>, Option<Vec<f32>>), CheckpointError> {
        let count = experts.len();
        let (weights, biases): (Vec<_>, Vec<_>) = experts.into_iter().unzip();
        let biases: Vec<_> = biases.into_iter().flatten().collect();
        match biases.len() {
            0 => Ok((weights, None)),
            all if all == count => Ok((weights, Some(biases.concat()))),
            some => {
                let found = format!("a bias in {some} of {count} experts");
                Err(self.wrong(prefix, found, "one in each or in none"))
            }
        }
    }

    /// The tensors of all experts, checked.
    fn fused<'c>(&'c self, prefix: &str) -> Result<Fused<'c>, CheckpointError> {
        let below = format!("{prefix}.");
        let other = |name: &&str| !FUSED.contains(&&name[below.len()..]);
        if let Some(other) = self.names_below(&below).find(other) {
            let found = "a tensor beside the fused experts, which is not applied here";
            return Err(self.wrong(other, found, FUSED.join(" and ")));
        }
        let names = FUSED.map(|part| format!("{prefix}.{part}"));
        let (gate_up, down) = (self.require(&names[0])?, self.require(&names[1])?);
        for (name, raw) in names.iter().zip([&gate_up, &down]) {
            if !raw.is_float() || raw.shape.len() != 3 || raw.len() == 0 {
                let expected = "floats in three dimensions, none of them empty";
                return Err(self.wrong(name, raw.describe(), expected));
            }
        }
        let (both, one) = (gate_up.shape, down.shape);
        let outputs_first = both[2] == one[1] && both[1] == 2 * one[2];
        let inputs_first = both[1] == one[2] && both[2] == 2 * one[1];
        if both[0] != one[0] || !(outputs_first || inputs_first) {
            let expected = format!("what fits {} {}", names[0], gate_up.describe());
            return Err(self.wrong(&names[1], down.describe(), expected));
        }
        Ok(Fused {
            gate_up,
            down,
            count: both[0],
            outputs_first,
        })
    }
}

/// All experts in two tensors.
struct Fused<'c> {
    gate_up: RawTensor<'c>,
    down: RawTensor<'c>,
    count: usize,
    /// `[E, outputs, inputs]`, else `[E, inputs, outputs]`.
    outputs_first: bool,
}

impl Fused<'_> {
    fn expert(&self, number: usize, backend: &dyn Backend) -> crate::Result<(Packed, Packed)> {
        let matrix = |raw: &RawTensor<'_>| {
            let bytes = raw.bytes.len() / self.count;
            let part = RawTensor {
                shape: &raw.shape[1..],
                bytes: &raw.bytes[number * bytes..][..bytes],
                ..*raw
            };
            let floats = part.floats().unwrap_or_default();
            let shape = (part.shape[0], part.shape[1]);
            let matrix = Array2::from_shape_vec(shape, floats);
            let matrix = matrix.map_err(|e| Error::Value {
                what: "a fused tensor",
                found: e.to_string(),
                expected: "floats of its shape".into(),
            })?;
            Ok(match self.outputs_first {
                true => matrix,
                false => matrix.reversed_axes(),
            })
        };
        let (both, down) = (matrix(&self.gate_up)?, matrix(&self.down)?);
        let inner = both.nrows() / 2;
        let (gate, up) = (both.slice(s![..inner, ..]), both.slice(s![inner.., ..]));
        let both = interleave_gate_up(gate, up, Axis(0))?;
        let pack = |w: Array2<f32>| {
            let data = crate::element::FloatView::F32(w.t());
            Ok::<_, Error>((backend.pack(Weights::Float(data))?, None))
        };
        Ok((pack(both)?, pack(down)?))
    }
}

/// Gate and up as one layer with its outputs in turn; `None` where they differ in shape or in how they are stored.
fn joined(gate: &StoredLinear, up: &StoredLinear) -> Option<StoredLinear> {
    fn rows<T: Clone>(gate: &Array2<T>, up: &Array2<T>) -> Option<Array2<T>> {
        interleave_gate_up(gate.view(), up.view(), Axis(0)).ok()
    }
    fn list(gate: &[f32], up: &[f32]) -> Option<Vec<f32>> {
        let both = interleave_gate_up(ArrayView1::from(gate), ArrayView1::from(up), Axis(0));
        Some(both.ok()?.to_vec())
    }
    let weight = match (&gate.weight, &up.weight) {
        (StoredWeight::Float(gate), StoredWeight::Float(up)) => {
            StoredWeight::Float(rows(gate, up)?)
        }
        (
            StoredWeight::Int8 {
                data: gate,
                scales: gate_scales,
                ..
            },
            StoredWeight::Int8 {
                data: up,
                scales: up_scales,
                ..
            },
        ) => StoredWeight::Int8 {
            data: rows(gate, up)?,
            scales: list(gate_scales, up_scales)?,
            zero_points: None,
        },
        (
            StoredWeight::Groupwise {
                data: gate,
                scales: gate_scales,
                size,
            },
            StoredWeight::Groupwise {
                data: up,
                scales: up_scales,
                size: same,
            },
        ) if size == same => StoredWeight::Groupwise {
            data: rows(gate, up)?,
            scales: rows(gate_scales, up_scales)?,
            size: *size,
        },
        _ => return None,
    };
    let bias = match (&gate.bias, &up.bias) {
        (None, None) => None,
        (Some(gate), Some(up)) => Some(list(gate, up)?),
        _ => return None,
    };
    Some(StoredLinear {
        weight,
        bias,
        input: gate.input,
        transform: gate.transform.clone(),
    })
}

/// A layer's weights, packed, and its bias.
fn packed(layer: StoredLinear, backend: &dyn Backend) -> crate::Result<Packed> {
    let weights = match &layer.weight {
        StoredWeight::Float(w) => {
            backend.pack(Weights::Float(crate::element::FloatView::F32(w.t())))
        }
        StoredWeight::Int8 { data, scales, .. } => {
            (backend.pack(Weights::Int8(data.t()))).and_then(|w| w.with_scales(scales))
        }
        StoredWeight::Groupwise { data, scales, size } => backend.pack(Weights::Int8Groupwise {
            data: data.t(),
            scales: scales.t(),
            size: *size,
        }),
    }?;
    Ok((weights, layer.bias))
}
