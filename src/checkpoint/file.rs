//! One safetensors file, memory-mapped.

use super::error::CheckpointError;
use super::slice::Window;
use crate::files::{of_start, START};
use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

/// What a good file is, in errors.
const EXPECTED: &str = "a readable safetensors file";

/// A safetensors file whose header was checked against its length: every tensor's bytes lie inside it.
pub(super) struct MappedFile {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    /// Where the data start.
    start: usize,
}

impl MappedFile {
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let refuse = |e: std::io::Error| CheckpointError::io(path, &e, EXPECTED);
        let file = File::open(path).map_err(refuse)?;
        let meta = file.metadata().map_err(refuse)?;
        if !meta.is_file() {
            let found = if meta.is_dir() {
                "a folder"
            } else {
                "something that is not a regular file"
            };
            return Err(CheckpointError::file(path, found, EXPECTED));
        }
        // SAFETY: the map is only read, through slices whose lifetimes end with `self`. That nobody shortens or
        // rewrites the file meanwhile is what every memory-mapped reader has to ask of its user; the module's
        // documentation says so.
        let map = unsafe { Mmap::map(&file) }.map_err(refuse)?;
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|e| no_safetensors(path, &map, &e))?;
        Ok(MappedFile {
            path: path.into(),
            map,
            metadata,
            start: header + 8,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn names(&self) -> impl Iterator<Item = String> + use<'_> {
        self.metadata.tensors().into_keys()
    }

    pub fn tensor(&self, name: &str) -> Option<RawTensor<'_>> {
        let TensorInfo {
            dtype,
            shape,
            data_offsets: (from, to),
        } = self.metadata.info(name)?;
        // The header was checked when the file was opened.
        let bytes = self.map.get(self.start + from..self.start + to)?;
        Some(RawTensor {
            dtype: *dtype,
            shape,
            bytes,
        })
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedFile")
            .field("path", &self.path)
            .field("bytes", &self.map.len())
            .finish_non_exhaustive()
    }
}

/// The refusal of a file whose header can't be read: another kind of file, or a damaged one.
fn no_safetensors(path: &Path, bytes: &[u8], e: &SafeTensorError) -> CheckpointError {
    let start = &bytes[..bytes.len().min(START)];
    match of_start(start).filter(|other| !other.is_safetensors()) {
        Some(other) => CheckpointError::file(path, other.found, other.instead_of(EXPECTED)),
        None => {
            let said = super::error::shortened(&e.to_string());
            CheckpointError::file(path, format!("a damaged header ({said})"), EXPECTED)
        }
    }
}

/// A tensor's type, shape and bytes, little-endian in row-major order.
#[derive(Clone, Copy)]
pub(super) struct RawTensor<'a> {
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

impl RawTensor<'_> {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Type and shape for messages: `BF16 [24, 48]`.
    pub fn describe(&self) -> String {
        format!("{} {:?}", self.dtype, self.shape)
    }

    pub fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }

    /// The elements `range` widened to f32 (exact), appended to `out`; `None` when they are not F32, F16 or BF16.
    pub fn floats_into(&self, range: std::ops::Range<usize>, out: &mut Vec<f32>) -> Option<()> {
        use crate::element::Element;
        use half::{bf16, f16};
        let size = self.dtype.bitsize() / 8;
        let bytes = self.bytes.get(range.start * size..range.end * size)?;
        match self.dtype {
            Dtype::F32 => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Dtype::F16 => {
                let floats = bytes.as_chunks().0.iter();
                out.extend(floats.map(|b| Element::to_f32(f16::from_le_bytes(*b))));
            }
            Dtype::BF16 => {
                let floats = bytes.as_chunks().0.iter();
                out.extend(floats.map(|b| Element::to_f32(bf16::from_le_bytes(*b))));
            }
            _ => return None,
        }
        Some(())
    }

    /// All elements widened to f32.
    pub fn floats(&self) -> Option<Vec<f32>> {
        let mut out = Vec::with_capacity(if self.is_float() { self.len() } else { 0 });
        self.floats_into(0..self.len(), &mut out)?;
        Some(out)
    }

    /// A window of a float matrix widened to f32, row-major; `None` for other types and outside of it.
    pub fn floats_in(&self, window: &Window) -> Option<Vec<f32>> {
        let k = *self.shape.last()?;
        let room = window.outputs.len() * window.inputs.len();
        let mut out = Vec::with_capacity(if self.is_float() { room } else { 0 });
        for j in window.outputs.clone() {
            let (first, last) = (j * k + window.inputs.start, j * k + window.inputs.end);
            self.floats_into(first..last, &mut out)?;
        }
        Some(out)
    }

    /// A window of an int8 matrix, row-major.
    pub fn integers_in(&self, window: &Window) -> Option<Vec<i8>> {
        if self.dtype != Dtype::I8 {
            return None;
        }
        let k = *self.shape.last()?;
        let mut out = Vec::with_capacity(window.outputs.len() * window.inputs.len());
        for j in window.outputs.clone() {
            let row = self
                .bytes
                .get(j * k + window.inputs.start..j * k + window.inputs.end)?;
            out.extend(row.iter().map(|b| *b as i8));
        }
        Some(out)
    }

    /// All elements of an int32 or int64 tensor.
    pub fn whole(&self) -> Option<Vec<i64>> {
        let (four, eight) = (self.bytes.as_chunks().0, self.bytes.as_chunks().0);
        match self.dtype {
            Dtype::I32 => {
                let numbers = four.iter().map(|b| i64::from(i32::from_le_bytes(*b)));
                Some(numbers.collect())
            }
            Dtype::I64 => Some(eight.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            _ => None,
        }
    }

    /// All elements of an int8 tensor.
    pub fn integers(&self) -> Option<Vec<i8>> {
        let int8 = self.dtype == Dtype::I8;
        int8.then(|| self.bytes.iter().map(|b| *b as i8).collect())
    }
}
