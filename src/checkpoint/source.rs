//! A checkpoint, opened: which files there are and which tensor lies in which.

use super::error::{shortened, CheckpointError};
use super::file::{MappedFile, RawTensor};
use super::names::NamePattern;
use super::python_json;
use super::scheme::{Refusal, Scheme};
use crate::files::{of_start, START};
use ndarray::{ArrayD, IxDyn};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The longest JSON file that is read.
const MAX_JSON: u64 = 100_000_000;

/// The name of a sharded checkpoint's index.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// A checkpoint's files, memory-mapped, with what its config.json says of the layers.
///
/// ```no_run
/// use imma::checkpoint::Checkpoint;
/// let checkpoint = Checkpoint::open("path/to/model")?;
/// let query = checkpoint.linear("encoder.layer.0.attention.self.query")?;
/// let norm = checkpoint.floats("encoder.layer.0.attention.output.LayerNorm.weight")?;
/// assert_eq!(query.inputs(), norm.len());
/// # Ok::<(), imma::checkpoint::CheckpointError>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<MappedFile>,
    /// The file that each tensor lies in, or why the file that an index names for it does not serve.
    tensors: BTreeMap<String, Result<usize, String>>,
    pub(super) scheme: Scheme,
    /// What Ascend's quant_model_description.json says of each weight.
    pub(super) description: Option<serde_json::Map<String, Value>>,
    /// Where what is said of the layers was read.
    config: PathBuf,
}

/// What to leave out of a checkpoint when it is opened: for tensors and keys of its config that this crate would refuse,
/// and of which the caller knows that they do not matter.
///
/// ```
/// use imma::checkpoint::{Checkpoint, OpenOptions};
/// let options = OpenOptions::default().ignore_tensors("*.lora_*".parse()?).ignore_keys("transform_config");
/// let checkpoint = Checkpoint::open_with("tests/data/checkpoints/ct_dynamic", &options)?;
/// assert!(checkpoint.linear("up").is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    tensors: Vec<NamePattern>,
    keys: Vec<String>,
}

impl OpenOptions {
    /// Tensors of these names count as absent.
    pub fn ignore_tensors(mut self, names: NamePattern) -> Self {
        self.tensors.push(names);
        self
    }

    /// This key at the head of the quantisation config counts as absent.
    pub fn ignore_keys(mut self, key: impl Into<String>) -> Self {
        self.keys.push(key.into());
        self
    }
}

/// A tensor's type and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// The type by its name in safetensors files: `BF16`, `I8`, ...
    pub dtype: String,
    /// The shape.
    pub shape: Vec<usize>,
    /// Bytes in the file.
    pub bytes: usize,
}

impl Checkpoint {
    /// Opens a `.safetensors` file, a `.safetensors.index.json`, or a folder that holds one of them: an index first
    /// (`model.safetensors.index.json`, or diffusers' `diffusion_pytorch_model.safetensors.index.json`), then
    /// `model.safetensors` or `diffusion_pytorch_model.safetensors`, then any one `.safetensors` file. A config.json
    /// beside says how the layers are quantised; so does ModelOpt's hf_quant_config.json.
    ///
    /// Tensors that an index names and no file holds are refused when they are asked for.
    ///
    /// # Errors
    /// When a file is damaged, when the index names files outside its own folder, or when config.json describes a
    /// quantisation that this crate does not read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        Self::open_with(path, &OpenOptions::default())
    }

    /// [`open`](Self::open), with some tensors and keys left out.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        path: impl AsRef<Path>,
        options: &OpenOptions,
    ) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let file = if path.is_dir() {
            file_of_folder(path)?
        } else {
            path.to_path_buf()
        };
        let folder = file.parent().unwrap_or(Path::new(""));
        let (config, scheme) = scheme_of(folder, &options.keys)?;
        let description = folder.join("quant_model_description.json");
        let description = match description.is_file() {
            true => Some(object(&description)?),
            false => None,
        };
        let (files, mut tensors) = if file.extension().is_some_and(|e| e == "json") {
            open_shards(&file, folder)?
        } else {
            let file = MappedFile::open(&file)?;
            let tensors = file.names().map(|name| (name, Ok(0))).collect();
            (vec![file], tensors)
        };
        tensors.retain(|name, _| !options.tensors.iter().any(|p| p.matches(name)));
        Ok(Checkpoint {
            path: path.into(),
            files,
            tensors,
            scheme,
            description,
            config,
        })
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let there = self.tensors.iter().filter(|(_, place)| place.is_ok());
        there.map(|(name, _)| name.as_str())
    }

    /// The names below a prefix that ends with a dot, all of them for an empty one, tensors that an index names and no file has among them.
    pub(super) fn names_below<'s>(&'s self, prefix: &'s str) -> impl Iterator<Item = &'s str> {
        let from = self.tensors.range(prefix.to_string()..);
        let names = from.map(|(name, _)| name.as_str());
        names.take_while(move |name| name.starts_with(prefix))
    }

    /// Refuses a checkpoint whose index names tensors that no file holds.
    pub(super) fn complete(&self) -> Result<(), CheckpointError> {
        match self.tensors.iter().find(|(_, place)| place.is_err()) {
            None => Ok(()),
            Some((name, _)) => self.require(name).map(|_| ()),
        }
    }

    /// A tensor's type and shape, when there is one of that name.
    pub fn info(&self, name: &str) -> Option<TensorInfo> {
        let raw = self.raw(name)?;
        Some(TensorInfo {
            dtype: raw.dtype.to_string(),
            shape: raw.shape.to_vec(),
            bytes: raw.bytes.len(),
        })
    }

    /// A float tensor of any rank, widened to f32 (exact).
    ///
    /// # Errors
    /// When there is no such tensor, or it is not F32, F16 or BF16.
    pub fn floats(&self, name: &str) -> Result<ArrayD<f32>, CheckpointError> {
        let raw = self.require(name)?;
        let wrong = |expected: &str| self.wrong(name, raw.describe(), expected);
        let floats = raw.floats().ok_or_else(|| wrong("F32, F16 or BF16"))?;
        ArrayD::from_shape_vec(IxDyn(raw.shape), floats)
            .map_err(|_| wrong("a shape that can be addressed"))
    }

    pub(super) fn raw(&self, name: &str) -> Option<RawTensor<'_>> {
        self.file_of(name)?.tensor(name)
    }

    fn file_of(&self, name: &str) -> Option<&MappedFile> {
        let place = self.tensors.get(name)?.as_ref().ok()?;
        self.files.get(*place)
    }

    pub(super) fn require(&self, name: &str) -> Result<RawTensor<'_>, CheckpointError> {
        if let Some(raw) = self.raw(name) {
            return Ok(raw);
        }
        if let Some(Err(why)) = self.tensors.get(name) {
            let expected = "the one that the index places there";
            return Err(self.wrong(name, why.as_str(), expected));
        }
        // What stands in its place says more: the tensors of another format.
        let below = name.strip_suffix("weight").unwrap_or(name);
        let beside: Vec<&str> = match below {
            "" => Vec::new(),
            _ => self
                .names_below(below)
                .take(4)
                .map(|n| &n[below.len()..])
                .collect(),
        };
        let found = match beside.is_empty() || below == name {
            true => "no such tensor".to_string(),
            false => format!("no such tensor beside {}", shortened(&beside.join(", "))),
        };
        Err(self.wrong(name, found, "one of this name"))
    }

    /// The name of the file that a tensor lies in.
    pub(super) fn file_name(&self, tensor: &str) -> String {
        let name = self
            .file_of(tensor)
            .and_then(|file| file.path().file_name());
        name.unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(super) fn file_paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(MappedFile::path)
    }

    /// Bytes of all tensors.
    pub(super) fn total_bytes(&self) -> u64 {
        let raw = self.names().filter_map(|n| self.raw(n));
        raw.map(|t| t.bytes.len() as u64).sum()
    }

    /// The refusal of one tensor.
    pub(super) fn wrong(
        &self,
        name: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> CheckpointError {
        let file = self.file_of(name).map(MappedFile::path);
        CheckpointError::tensor(file.unwrap_or(&self.path), name, found, expected)
    }

    /// The refusal of a layer for what is said of it.
    pub(super) fn refused(&self, prefix: &str, (found, expected): Refusal) -> CheckpointError {
        CheckpointError::tensor(&self.config, prefix, found, expected)
    }
}

/// What the files beside the weights say of the layers, and which file it was.
fn scheme_of(folder: &Path, ignore: &[String]) -> Result<(PathBuf, Scheme), CheckpointError> {
    let config = folder.join("config.json");
    let said = match config.is_file() {
        true => Scheme::parse(&config, &read_value(&config)?, ignore)?,
        false => Scheme::default(),
    };
    let other = folder.join("hf_quant_config.json");
    if !matches!(said, Scheme::Plain) || !other.is_file() {
        return Ok((config, said));
    }
    let quantization = object(&other)?.remove("quantization");
    let mut quantization = quantization.unwrap_or(Value::Null);
    if quantization.is_object() {
        quantization["quant_method"] = "modelopt".into();
    }
    let value = serde_json::json!({"quantization_config": quantization});
    let said = Scheme::parse(&other, &value, ignore)?;
    Ok((other, said))
}

/// A JSON file that is an object.
fn object(path: &Path) -> Result<serde_json::Map<String, Value>, CheckpointError> {
    match read_value(path)? {
        Value::Object(map) => Ok(map),
        _ => Err(CheckpointError::file(
            path,
            "no JSON object",
            "a JSON object",
        )),
    }
}

/// A JSON file as Python writes it.
fn read_value(path: &Path) -> Result<Value, CheckpointError> {
    value_of(path, &read_json(path)?)
}

/// The value of such a file's text.
pub(super) fn value_of(path: &Path, text: &str) -> Result<Value, CheckpointError> {
    python_json::parse(text).map_err(|e| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let expected = format!("a model's {name}");
        CheckpointError::file(path, format!("no JSON ({e})"), expected)
    })
}

/// Whether a file's name is one of weights in any format.
pub(super) fn holds_weights(path: &Path) -> bool {
    const FORMATS: [&str; 11] = [
        "safetensors",
        "bin",
        "pt",
        "pth",
        "ckpt",
        "h5",
        "msgpack",
        "onnx",
        "onnx_data",
        "gguf",
        "ot",
    ];
    path.extension()
        .is_some_and(|e| FORMATS.iter().any(|f| e == *f))
}

/// Which file of a folder is the checkpoint.
fn file_of_folder(folder: &Path) -> Result<PathBuf, CheckpointError> {
    for name in [
        INDEX,
        "diffusion_pytorch_model.safetensors.index.json",
        "model.safetensors",
        "diffusion_pytorch_model.safetensors",
    ] {
        let file = folder.join(name);
        if file.is_file() {
            return Ok(file);
        }
    }
    let expected = "a folder with model.safetensors or model.safetensors.index.json";
    let refuse = |e: std::io::Error| CheckpointError::io(folder, &e, expected);
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(refuse)? {
        let path = entry.map_err(refuse)?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            found.push(path);
        } else if holds_weights(&path) {
            others.push(path.file_name().unwrap_or_default().to_owned());
        }
    }
    others.sort();
    match (found.as_slice(), others.as_slice()) {
        ([_], _) => Ok(found.remove(0)),
        ([], [other, ..]) => Err(CheckpointError::file(
            folder,
            format!(
                "{} and no .safetensors file",
                shortened(&other.to_string_lossy())
            ),
            format!("{expected}: convert the model, or take its safetensors files"),
        )),
        _ => Err(CheckpointError::file(
            folder,
            format!("{} .safetensors files and no index", found.len()),
            expected,
        )),
    }
}

/// The text of a JSON file of reasonable length.
pub(super) fn read_json(path: &Path) -> Result<String, CheckpointError> {
    let refuse = |e: std::io::Error| CheckpointError::io(path, &e, "a readable JSON file");
    let mut text = String::new();
    let file = File::open(path).map_err(refuse)?;
    file.take(MAX_JSON + 1)
        .read_to_string(&mut text)
        .map_err(refuse)?;
    let start = &text.as_bytes()[..text.len().min(START)];
    if let (Some(other), false) = (of_start(start), text.trim_start().starts_with(['{', '['])) {
        let expected = other.instead_of("a JSON file");
        return Err(CheckpointError::file(path, other.found, expected));
    }
    if text.len() as u64 > MAX_JSON {
        return Err(CheckpointError::file(
            path,
            format!("more than {MAX_JSON} bytes"),
            format!("a JSON file of at most {MAX_JSON} bytes"),
        ));
    }
    Ok(text)
}

/// The `weight_map` of an index: tensor names and the files they lie in.
fn weight_map(index: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    let expected = "an index with a weight_map of names to file names";
    let refuse = |found: String| CheckpointError::file(index, found, expected);
    let json: Value =
        serde_json::from_str(&read_json(index)?).map_err(|e| refuse(format!("no JSON ({e})")))?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| refuse("no weight_map".into()))?;
    map.iter()
        .map(|(name, file)| match file.as_str() {
            // A name alone: an index must not reach outside its folder.
            Some(file) if is_plain_name(file) => Ok((name.clone(), file.to_string())),
            _ => Err(refuse(format!(
                "{} for {}",
                shortened(&file.to_string()),
                shortened(name)
            ))),
        })
        .collect()
}

/// Whether this is the name of a safetensors file and no path.
fn is_plain_name(file: &str) -> bool {
    let name = Path::new(file).file_name().and_then(|n| n.to_str());
    name == Some(file) && !file.contains('\\') && file.ends_with(".safetensors")
}

type Opened = (Vec<MappedFile>, BTreeMap<String, Result<usize, String>>);

fn open_shards(index: &Path, folder: &Path) -> Result<Opened, CheckpointError> {
    let map = weight_map(index)?;
    let names: BTreeSet<&String> = map.values().collect();
    let mut files = Vec::new();
    let mut numbers = BTreeMap::new();
    for name in names {
        let path = folder.join(name);
        // A file that is not there fails those who ask for its tensors; a damaged one fails all.
        let there = path.symlink_metadata().is_ok();
        numbers.insert(name.clone(), there.then_some(files.len()));
        if there {
            files.push(MappedFile::open(&path)?);
        }
    }
    if files.is_empty() && !map.is_empty() {
        let name = map.values().next().map_or("", String::as_str);
        MappedFile::open(&folder.join(name))?;
    }
    let mut tensors = BTreeMap::new();
    for (name, file) in map {
        let place = match numbers[&file] {
            Some(number) if files[number].tensor(&name).is_some() => Ok(number),
            Some(_) => Err(format!("no such tensor in {}", shortened(&file))),
            None => Err(format!("no file {}", shortened(&file))),
        };
        tensors.insert(name, place);
    }
    Ok((files, tensors))
}
