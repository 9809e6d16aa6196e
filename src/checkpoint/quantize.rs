//! A model's float linears written as compressed-tensors W8A8.

use super::error::CheckpointError;
use super::file::RawTensor;
use super::journal::Journal;
use super::model_files::{claim, config_of, copy_others, pretty, updated};
use super::report::{LayerReport, ModelReport};
use super::rows::{self, Part};
use super::source::INDEX;
use super::writer::{refused, write_whole, Layout, PartFile, Planned};
use super::{Checkpoint, NamePattern};
use crate::error::Error;
use crate::quant::Calibration;
use safetensors::Dtype;
use serde_json::{json, Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Which layers are quantised, and how.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct QuantizeOptions {
    /// Layers that are quantised; all of them when empty.
    pub include: Vec<NamePattern>,
    /// Layers that are not. By default embeddings and heads: [`DEFAULT_EXCLUDE`](Self::DEFAULT_EXCLUDE).
    pub exclude: Vec<NamePattern>,
    /// How the range of each output's weights is found.
    pub calibration: Calibration,
    /// Inputs that share a scale: 32, 64 or 128, or all of an output's.
    pub group_size: Option<usize>,
}

impl QuantizeOptions {
    /// Names of embeddings and heads in the usual models.
    pub const DEFAULT_EXCLUDE: [&'static str; 11] = [
        "*embed*",
        "*wte",
        "*wpe",
        "*lm_head",
        "shared",
        "*relative_attention_bias",
        "*embed_out",
        "*classifier",
        "score",
        "*.score",
        "cls.*",
    ];
}

impl Default for QuantizeOptions {
    fn default() -> Self {
        let exclude = Self::DEFAULT_EXCLUDE.iter().map(|p| p.parse());
        QuantizeOptions {
            include: Vec::new(),
            exclude: exclude.collect::<Result<_, _>>().expect("good patterns"),
            calibration: Calibration::AbsMax,
            group_size: None,
        }
    }
}

/// How far quantising has come.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The tensor that is being worked on.
    pub tensor: &'a str,
    /// Layers done, and in all.
    pub layers: (usize, usize),
    /// Bytes of the input done, and in all.
    pub bytes: (u64, u64),
}

/// One step of the work: a tensor that is copied, or a layer that is quantised.
enum Unit {
    Copy {
        tensor: usize,
    },
    Layer {
        prefix: String,
        weight: usize,
        scale: usize,
    },
}

/// What a shard of the output holds.
struct Shard {
    name: String,
    layout: Layout,
    tensors: Vec<Planned>,
    units: Vec<Unit>,
}

/// Reads the model in folder `input` and writes it to folder `output` with its linear layers as compressed-tensors
/// `int-quantized`: symmetric weights per output, or per output and group of inputs, and inputs dynamic per token.
///
/// A layer is a two-dimensional float tensor `P.weight` whose name `P` the options select. Its scales are
/// `bound / 127` (see [`numerics`](crate::numerics)) rounded to the weight's own type, and its integers are made with the
/// rounded scales: `q = clip(round_half_even(x * (1 / scale)), -127, 127)`. An f32 layer read back has the bits of
/// [`Int8Linear::from_float`](crate::Int8Linear::from_float). All other tensors are copied. config.json gets its
/// `quantization_config`, other files are copied, weights in other formats (`.bin`, `.onnx`, ...) are not.
/// `quantization.md` and `quantization.svg` say what happened to each layer.
///
/// Tensors are streamed in blocks of rows: memory does not grow with the model. An interrupted run leaves hidden parts and
/// a journal, no file under its final name that is not whole, and config.json comes last; the same call continues.
///
/// # Errors
/// When the input is no checkpoint of floats, `output` holds something else than an interrupted run, a weight holds NaN
/// or infinity, or a file can't be written.
pub fn quantize_model(
    input: &Path,
    output: &Path,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<ModelReport, CheckpointError> {
    let refuse_options = |source: Error| CheckpointError::Layer {
        path: input.into(),
        prefix: "*".into(),
        source: Box::new(source),
    };
    options.calibration.check(false).map_err(refuse_options)?;
    if let Some(size) = options.group_size {
        crate::gemm::groupwise::check_size(size).map_err(refuse_options)?;
    }
    let checkpoint = Checkpoint::open(input)?;
    let config = config_of(input, &checkpoint)?;
    let mut report = ModelReport::default();
    let shards = plan(&checkpoint, options, &mut report.ignored)?;
    claim(input, output)?;
    let mut journal = Journal::open(output, &fingerprint(&checkpoint, options)?)?;

    let is_layer = |u: &&Unit| matches!(u, Unit::Layer { .. });
    let layers = shards.iter().flat_map(|s| s.units.iter()).filter(is_layer);
    let mut state = Progress {
        tensor: "",
        layers: (0, layers.count()),
        bytes: (0, checkpoint.total_bytes()),
    };
    let mut reports = BTreeMap::new();
    for shard in &shards {
        let target = output.join(&shard.name);
        if !journal.same && target.is_file() {
            // Of an interrupted run with other input or options.
            std::fs::remove_file(&target).map_err(|e| refused(&target, e))?;
        }
        let mut part = if target.is_file() {
            None
        } else {
            Some(PartFile::open(&target, &shard.layout)?)
        };
        // What the journal says holds for the files it was written with.
        let trusted = part.as_ref().is_none_or(|p| p.continued);
        for unit in &shard.units {
            let source = match unit {
                Unit::Copy { tensor } => &shard.tensors[*tensor].name,
                Unit::Layer { weight, .. } => &shard.tensors[*weight].name,
            };
            let raw = checkpoint.require(source)?;
            state.tensor = source;
            progress(state);
            let known = journal.done.get(source).filter(|_| trusted);
            match (unit, known, &mut part) {
                (Unit::Copy { .. }, Some(_), _) | (Unit::Copy { .. }, None, None) => {}
                (Unit::Copy { tensor }, None, Some(part)) => {
                    part.write(&shard.layout, *tensor, 0, raw.bytes)?;
                    part.sync()?;
                    journal.note(source, Value::Null)?;
                }
                (
                    Unit::Layer {
                        prefix,
                        weight,
                        scale,
                    },
                    known,
                    part,
                ) => {
                    let known = known.and_then(LayerReport::of_json);
                    report.continued += usize::from(known.is_some());
                    let layer = match (known, part) {
                        (Some(known), _) => known,
                        (None, part) => {
                            let mut write = |tensor: Part, at: u64, bytes: &[u8]| match part {
                                Some(part) => {
                                    let i = if tensor == Part::Weight {
                                        *weight
                                    } else {
                                        *scale
                                    };
                                    part.write(&shard.layout, i, at, bytes)
                                }
                                None => Ok(()),
                            };
                            let layer = rows::quantize(&raw, prefix, options, &mut write)
                                .map_err(|found| {
                                    checkpoint.wrong(source, found, "finite weights")
                                })??;
                            if let Some(part) = part {
                                part.sync()?;
                            }
                            journal.note(source, layer.to_json())?;
                            layer
                        }
                    };
                    state.layers.0 += 1;
                    reports.insert(prefix.clone(), layer);
                }
            }
            state.bytes.0 += raw.bytes.len() as u64;
            progress(state);
        }
        if let Some(part) = part {
            part.finish()?;
        }
    }
    report.layers = reports.into_values().collect();
    let written = shards.iter().map(|s| s.layout.data_bytes()).sum();
    report.bytes = (state.bytes.1, written);
    if shards.len() > 1 {
        write_whole(&output.join(INDEX), &index_of(&shards, written))?;
    }
    let taken: Vec<&str> = shards.iter().map(|s| s.name.as_str()).collect();
    copy_others(input, output, &taken, true, &mut report.left_out)?;
    let table = format!("# Quantised layers\n\n{}", report.table());
    write_whole(&output.join("quantization.md"), table.as_bytes())?;
    write_whole(&output.join("quantization.svg"), report.svg().as_bytes())?;
    let config = updated(config, &report.ignored, options.group_size);
    write_whole(&output.join("config.json"), &pretty(&config))?;
    journal.finish()?;
    Ok(report)
}

/// Which tensors go where.
fn plan(
    checkpoint: &Checkpoint,
    options: &QuantizeOptions,
    ignored: &mut Vec<String>,
) -> Result<Vec<Shard>, CheckpointError> {
    let any = |patterns: &[NamePattern], name: &str| patterns.iter().any(|p| p.matches(name));
    let mut shards: BTreeMap<String, (Vec<Planned>, Vec<Unit>)> = BTreeMap::new();
    for name in checkpoint.names() {
        let raw = checkpoint.require(name)?;
        let (tensors, units) = shards.entry(checkpoint.file_name(name)).or_default();
        let mut add = |name: String, dtype, shape: &[usize]| {
            let shape = shape.to_vec();
            tensors.push(Planned { name, dtype, shape });
            tensors.len() - 1
        };
        let prefix = name.strip_suffix(".weight").filter(|_| is_matrix(&raw));
        let selected = |p: &str| {
            (options.include.is_empty() || any(&options.include, p)) && !any(&options.exclude, p)
        };
        match prefix {
            Some(prefix) if selected(prefix) => {
                let scale = format!("{prefix}.weight_scale");
                if checkpoint.raw(&scale).is_some() {
                    return Err(checkpoint.wrong(&scale, "a scale of floats", "a model of floats"));
                }
                let (n, k) = (raw.shape[0], raw.shape[1]);
                let groups = match options.group_size {
                    None => 1,
                    Some(size) if k % size == 0 => k / size,
                    Some(size) => {
                        let expected = format!(
                            "K a multiple of the {size} inputs of a group: exclude the layer or choose another size"
                        );
                        return Err(checkpoint.wrong(name, raw.describe(), expected));
                    }
                };
                units.push(Unit::Layer {
                    prefix: prefix.into(),
                    weight: add(name.into(), Dtype::I8, raw.shape),
                    scale: add(scale, raw.dtype, &[n, groups]),
                });
            }
            other => {
                ignored.extend(other.map(String::from));
                let tensor = add(name.into(), raw.dtype, raw.shape);
                units.push(Unit::Copy { tensor });
            }
        }
    }
    let made = shards.into_iter().map(|(name, (tensors, units))| Shard {
        name,
        layout: Layout::of(&tensors),
        tensors,
        units,
    });
    Ok(made.collect())
}

fn is_matrix(raw: &RawTensor<'_>) -> bool {
    raw.is_float() && matches!(raw.shape, [n, k] if *n > 0 && *k > 0)
}

/// What makes a run the same run: the input's files and the options.
fn fingerprint(
    checkpoint: &Checkpoint,
    options: &QuantizeOptions,
) -> Result<Value, CheckpointError> {
    let mut files = Vec::new();
    for path in checkpoint.file_paths() {
        let meta = path.metadata().map_err(|e| refused(path, e))?;
        let changed = meta.modified().ok();
        let changed = changed.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        let changed = changed.map(|d| d.as_nanos().to_string());
        files.push(json!([
            path.file_name().map(|n| n.to_string_lossy()),
            meta.len(),
            changed
        ]));
    }
    let names = |p: &[NamePattern]| p.iter().map(|p| p.as_str().to_string()).collect::<Vec<_>>();
    Ok(json!({
        "imma": env!("CARGO_PKG_VERSION"), "files": files, "include": names(&options.include),
        "exclude": names(&options.exclude), "calibration": format!("{:?}", options.calibration),
        "group_size": options.group_size,
    }))
}

fn index_of(shards: &[Shard], total: u64) -> Vec<u8> {
    let names = |s: &Shard| {
        let file = s.name.clone();
        let names = s.tensors.iter().map(|t| t.name.clone());
        names
            .map(|n| (n, Value::from(file.clone())))
            .collect::<Vec<_>>()
    };
    let map: Map<String, Value> = shards.iter().flat_map(names).collect();
    pretty(&json!({"metadata": {"total_size": total}, "weight_map": map}))
}
