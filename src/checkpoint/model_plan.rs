//! What a quantised model's files will hold, decided before anything is written.

use super::error::CheckpointError;
use super::file::RawTensor;
use super::float_model::{is_any_float, FloatModel};
use super::model_files::pretty;
use super::options::QuantizeOptions;
use super::roles::{stacked_experts, Roles};
use super::writer::{refused, Layout, Planned};
use super::{Checkpoint, NamePattern};
use safetensors::Dtype;
use serde_json::{json, Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Which tensors go into which file, and which of them are quantised on the way.
pub(super) struct ModelPlan {
    /// Files of the output, each with the name that it has in the input.
    pub shards: Vec<Shard>,
    /// Layers that are left as floats: those of two-dimensional weights, and experts stacked into one tensor.
    pub ignored: Vec<String>,
}

/// The model that is planned for.
struct Source<'a> {
    checkpoint: &'a Checkpoint,
    options: &'a QuantizeOptions,
    roles: Roles,
}

/// A file of the output.
pub(super) struct Shard {
    pub name: String,
    pub layout: Layout,
    /// What the file holds.
    tensors: Vec<Planned>,
    /// The work that fills it.
    pub units: Vec<Unit>,
}

/// One step of the work. Numbers are places among the shard's tensors.
pub(super) enum Unit {
    /// A tensor that is copied.
    Copy { tensor: usize },
    /// A layer that is quantised.
    Layer(PlannedLayer),
}

/// A layer and the places of its two tensors.
pub(super) struct PlannedLayer {
    pub prefix: String,
    pub weight: usize,
    pub scale: usize,
}

impl ModelPlan {
    /// The plan for a model of floats.
    pub fn new(
        checkpoint: &Checkpoint,
        model: &FloatModel,
        options: &QuantizeOptions,
    ) -> Result<Self, CheckpointError> {
        let source = Source {
            checkpoint,
            options,
            roles: Roles::of(checkpoint, &model.config),
        };
        let mut shards: BTreeMap<String, (Vec<Planned>, Vec<Unit>)> = BTreeMap::new();
        let mut ignored = BTreeSet::new();
        for name in checkpoint.names() {
            let raw = checkpoint.require(name)?;
            let (tensors, units) = shards.entry(checkpoint.file_name(name)).or_default();
            match layer_of(name, &raw) {
                Some(prefix) if source.selects(prefix, &raw)? => {
                    checkpoint.check_beside(prefix)?;
                    let scale = scale_of(checkpoint, prefix, &raw, options.group_size)?;
                    units.push(Unit::Layer(PlannedLayer {
                        prefix: prefix.into(),
                        weight: add(tensors, name.into(), Dtype::I8, raw.shape),
                        scale: add(tensors, scale.name, scale.dtype, &scale.shape),
                    }));
                }
                other => {
                    let left = other.or_else(|| stacked_experts(name, &raw));
                    ignored.extend(left.map(String::from));
                    let tensor = add(tensors, name.into(), raw.dtype, raw.shape);
                    units.push(Unit::Copy { tensor });
                }
            }
        }
        let shards = shards.into_iter().map(|(name, (tensors, units))| Shard {
            name,
            layout: Layout::of(&tensors),
            tensors,
            units,
        });
        let plan = ModelPlan {
            shards: shards.collect(),
            ignored: ignored.into_iter().collect(),
        };
        match plan.layers() {
            0 => Err(CheckpointError::file(
                checkpoint.path(),
                "no layer to quantise",
                "a two-dimensional float tensor NAME.weight that is not left out",
            )),
            _ => Ok(plan),
        }
    }

    /// Layers to quantise.
    pub fn layers(&self) -> usize {
        let units = self.shards.iter().flat_map(|shard| &shard.units);
        units.filter(|u| matches!(u, Unit::Layer(_))).count()
    }

    /// Bytes of all tensors that will be written.
    pub fn bytes(&self) -> u64 {
        let bytes = self.shards.iter().map(|shard| shard.layout.data_bytes());
        bytes.sum()
    }

    /// The index of a model in several files: the file of each tensor.
    pub fn index(&self) -> Vec<u8> {
        let mut map = Map::new();
        for shard in &self.shards {
            for tensor in &shard.tensors {
                map.insert(tensor.name.clone(), shard.name.clone().into());
            }
        }
        let metadata = json!({"total_size": self.bytes()});
        pretty(&json!({"metadata": metadata, "weight_map": map}))
    }
}

impl Shard {
    /// The tensor of the input that a unit works on.
    pub fn source(&self, unit: &Unit) -> &str {
        match unit {
            Unit::Copy { tensor } => &self.tensors[*tensor].name,
            Unit::Layer(layer) => &self.tensors[layer.weight].name,
        }
    }
}

/// Adds a tensor to a file and answers its place there.
fn add(tensors: &mut Vec<Planned>, name: String, dtype: Dtype, shape: &[usize]) -> usize {
    let shape = shape.to_vec();
    tensors.push(Planned { name, dtype, shape });
    tensors.len() - 1
}

/// The layer whose weight is this tensor, if it is a matrix of floats.
fn layer_of<'a>(name: &'a str, raw: &RawTensor<'_>) -> Option<&'a str> {
    let matrix = is_any_float(raw) && matches!(raw.shape, [n, k] if *n > 0 && *k > 0);
    name.strip_suffix(".weight").filter(|_| matrix)
}

impl Source<'_> {
    /// Whether the layer is quantised; float64 is left as it is.
    fn selects(&self, prefix: &str, raw: &RawTensor<'_>) -> Result<bool, CheckpointError> {
        let special = self.options.recognise && self.roles.special(prefix).is_some();
        if !raw.is_float() || special || !self.options.selects(prefix) {
            return Ok(false);
        }
        // The one thing in the tensors that tells [K, N] from [N, K]: a bias has N elements.
        let bias = self.checkpoint.raw(&format!("{prefix}.bias"));
        match (bias.map(|bias| bias.shape), raw.shape) {
            (Some([bias]), [n, k]) if bias == k && n != k => {
                let name = format!("{prefix}.weight");
                let found = format!("{} beside a bias of {bias}", raw.describe());
                let expected =
                    "[N, K] with a bias of N: transposed layers (Conv1D) are not quantised";
                Err(self.checkpoint.wrong(&name, found, expected))
            }
            _ => Ok(true),
        }
    }
}

/// The scale tensor of a layer: one scale for each output, or for each output and group of inputs.
fn scale_of(
    checkpoint: &Checkpoint,
    prefix: &str,
    weight: &RawTensor<'_>,
    group_size: Option<usize>,
) -> Result<Planned, CheckpointError> {
    let name = format!("{prefix}.weight_scale");
    if checkpoint.raw(&name).is_some() {
        return Err(checkpoint.wrong(
            &name,
            "a scale beside a float weight",
            "a float model, without scales",
        ));
    }
    let (n, k) = (weight.shape[0], weight.shape[1]);
    let groups = match group_size {
        None => 1,
        Some(size) if k % size == 0 => k / size,
        Some(size) => {
            let expected = format!(
                "K a multiple of the {size} inputs of a group: exclude the layer or choose another size"
            );
            let name = format!("{prefix}.weight");
            return Err(checkpoint.wrong(&name, weight.describe(), expected));
        }
    };
    Ok(Planned {
        name,
        dtype: weight.dtype,
        shape: vec![n, groups],
    })
}

/// What makes a run the same run, so that it can be continued: the input's files and the options.
pub(super) fn fingerprint(
    checkpoint: &Checkpoint,
    options: &QuantizeOptions,
) -> Result<Value, CheckpointError> {
    let files: Result<Vec<Value>, _> = checkpoint.file_paths().map(file_state).collect();
    let names = |p: &[NamePattern]| p.iter().map(|p| p.as_str().to_string()).collect::<Vec<_>>();
    Ok(json!({
        "imma": env!("CARGO_PKG_VERSION"), "files": files?, "include": names(&options.include),
        "exclude": names(&options.exclude), "calibration": format!("{:?}", options.calibration),
        "recognise": options.recognise,
        "group_size": options.group_size, "open": format!("{:?}", options.open),
    }))
}

/// A file's name, length and time of change.
fn file_state(path: &Path) -> Result<Value, CheckpointError> {
    let meta = path.metadata().map_err(|e| refused(path, e))?;
    let changed = meta.modified().ok();
    let changed = changed.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    let changed = changed.map(|d| d.as_nanos().to_string());
    let name = path.file_name().map(|n| n.to_string_lossy());
    Ok(json!([name, meta.len(), changed]))
}
