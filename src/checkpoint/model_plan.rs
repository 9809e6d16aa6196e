//! What a quantised model's files will hold, decided before anything is written.

use super::error::CheckpointError;
use super::file::RawTensor;
use super::model_files::pretty;
use super::options::QuantizeOptions;
use super::writer::{refused, Layout, Planned};
use super::{Checkpoint, NamePattern};
use safetensors::Dtype;
use serde_json::{json, Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Which tensors go into which file, and which of them are quantised on the way.
pub(super) struct ModelPlan {
    /// Files of the output, each with the name that it has in the input.
    pub shards: Vec<Shard>,
    /// Two-dimensional float weights that are left as they are.
    pub ignored: Vec<String>,
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
        options: &QuantizeOptions,
    ) -> Result<Self, CheckpointError> {
        let mut shards: BTreeMap<String, (Vec<Planned>, Vec<Unit>)> = BTreeMap::new();
        let mut ignored = Vec::new();
        for name in checkpoint.names() {
            let raw = checkpoint.require(name)?;
            let (tensors, units) = shards.entry(checkpoint.file_name(name)).or_default();
            let prefix = name.strip_suffix(".weight").filter(|_| is_matrix(&raw));
            match prefix {
                Some(prefix) if options.selects(prefix) => {
                    checkpoint.check_beside(prefix)?;
                    let scale = scale_of(checkpoint, prefix, &raw, options.group_size)?;
                    units.push(Unit::Layer(PlannedLayer {
                        prefix: prefix.into(),
                        weight: add(tensors, name.into(), Dtype::I8, raw.shape),
                        scale: add(tensors, scale.name, scale.dtype, &scale.shape),
                    }));
                }
                other => {
                    ignored.extend(other.map(String::from));
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
        Ok(ModelPlan {
            shards: shards.collect(),
            ignored,
        })
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

fn is_matrix(raw: &RawTensor<'_>) -> bool {
    raw.is_float() && matches!(raw.shape, [n, k] if *n > 0 && *k > 0)
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
        "group_size": options.group_size,
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
