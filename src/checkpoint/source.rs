//! A checkpoint, opened: which files there are and which tensor lies in which.

use super::error::{shortened, CheckpointError};
use super::file::{MappedFile, RawTensor};
use super::scheme::Scheme;
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
    /// The file that each tensor lies in.
    tensors: BTreeMap<String, usize>,
    pub(super) scheme: Scheme,
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
    /// Opens a `.safetensors` file, a `.safetensors.index.json`, or a folder that holds one of them (with the index
    /// first, then `model.safetensors`, then any one `.safetensors` file). A config.json beside says how the layers are
    /// quantised.
    ///
    /// # Errors
    /// When a file is missing or damaged, when the index names tensors that are not there or files outside its own
    /// folder, or when config.json describes a quantisation that this crate does not read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let file = if path.is_dir() {
            file_of_folder(path)?
        } else {
            path.to_path_buf()
        };
        let folder = file.parent().unwrap_or(Path::new(""));
        let config = folder.join("config.json");
        let scheme = if config.is_file() {
            Scheme::parse(&config, &read_json(&config)?)?
        } else {
            Scheme::default()
        };
        let (files, tensors) = if file.extension().is_some_and(|e| e == "json") {
            open_shards(&file, folder)?
        } else {
            let file = MappedFile::open(&file)?;
            let tensors = file.names().map(|name| (name, 0)).collect();
            (vec![file], tensors)
        };
        Ok(Checkpoint {
            path: path.into(),
            files,
            tensors,
            scheme,
        })
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
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
        self.files[*self.tensors.get(name)?].tensor(name)
    }

    pub(super) fn require(&self, name: &str) -> Result<RawTensor<'_>, CheckpointError> {
        self.raw(name)
            .ok_or_else(|| self.wrong(name, "no such tensor", "one of this name"))
    }

    /// The name of the file that a tensor lies in.
    pub(super) fn file_name(&self, tensor: &str) -> String {
        let file = self.tensors.get(tensor).map(|i| self.files[*i].path());
        let name = file.and_then(Path::file_name).unwrap_or_default();
        name.to_string_lossy().into_owned()
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
        let file = self.tensors.get(name).map(|i| self.files[*i].path());
        CheckpointError::tensor(file.unwrap_or(&self.path), name, found, expected)
    }
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
    for name in [INDEX, "model.safetensors"] {
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

type Opened = (Vec<MappedFile>, BTreeMap<String, usize>);

fn open_shards(index: &Path, folder: &Path) -> Result<Opened, CheckpointError> {
    let map = weight_map(index)?;
    let names: BTreeSet<&String> = map.values().collect();
    let mut files = Vec::new();
    let mut numbers = BTreeMap::new();
    for name in names {
        numbers.insert(name.clone(), files.len());
        files.push(MappedFile::open(&folder.join(name))?);
    }
    let mut tensors = BTreeMap::new();
    for (name, file) in map {
        let number = numbers[&file];
        if files[number].tensor(&name).is_none() {
            return Err(CheckpointError::tensor(
                files[number].path(),
                &name,
                "no such tensor",
                "the one that the index places there",
            ));
        }
        tensors.insert(name, number);
    }
    Ok((files, tensors))
}
