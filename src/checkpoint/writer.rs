//! A safetensors file written tensor by tensor, its header first, so that it can be stopped and continued.

use super::error::CheckpointError;
use safetensors::Dtype;
use serde_json::{json, Map, Value};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A tensor to be written.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

impl Planned {
    fn bytes(&self) -> u64 {
        let bits = self.shape.iter().product::<usize>() as u64 * self.dtype.bitsize() as u64;
        bits / 8
    }
}

/// A file's header, and where each of its tensors goes.
#[derive(Debug)]
pub(super) struct Layout {
    header: Vec<u8>,
    /// Offset from the file's start and number of bytes, in the order of `Layout::of`'s argument.
    places: Vec<(u64, u64)>,
    total: u64,
}

impl Layout {
    /// Lays tensors out as the format's own writers do: wide types first, so that each is aligned to its elements,
    /// then by name.
    pub fn of(tensors: &[Planned]) -> Self {
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|i| {
            let t = &tensors[*i];
            (std::cmp::Reverse(t.dtype.bitsize()), t.name.clone())
        });
        let mut header = Map::new();
        header.insert("__metadata__".into(), json!({"format": "pt"}));
        let mut places = vec![(0, 0); tensors.len()];
        let mut end = 0;
        for i in order {
            let tensor = &tensors[i];
            let bytes = tensor.bytes();
            places[i] = (end, bytes);
            header.insert(
                tensor.name.clone(),
                json!({
                    "dtype": tensor.dtype.to_string(),
                    "shape": tensor.shape,
                    "data_offsets": [end, end + bytes],
                }),
            );
            end += bytes;
        }
        let mut text = Value::Object(header).to_string();
        // Data start at a multiple of 8, as the format asks.
        text.extend(std::iter::repeat_n(
            ' ',
            text.len().next_multiple_of(8) - text.len(),
        ));
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        let start = bytes.len() as u64;
        places.iter_mut().for_each(|(at, _)| *at += start);
        Layout {
            header: bytes,
            places,
            total: start + end,
        }
    }

    /// Bytes of data, without the header.
    pub fn data_bytes(&self) -> u64 {
        self.total - self.header.len() as u64
    }
}

/// A file that is being written beside its target, and renamed to it when it is whole.
pub(super) struct PartFile {
    target: PathBuf,
    part: PathBuf,
    file: File,
    /// Whether it goes on from where an earlier run stopped.
    pub continued: bool,
}

impl PartFile {
    /// Where the parts of `target` are kept.
    fn path(target: &Path) -> PathBuf {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        // A name that has no room for the ending is cut and numbered: the same in every run, for it to continue.
        const LONGEST: usize = 240;
        if name.len() <= LONGEST {
            return target.with_file_name(format!(".{name}.part"));
        }
        let mut cut = LONGEST - 24;
        while !name.is_char_boundary(cut) {
            cut -= 1;
        }
        let number = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        target.with_file_name(format!(".{}-{number:016x}.part", &name[..cut]))
    }

    /// Opens the part that an earlier run left, if it has the same layout, or starts a new one.
    pub fn open(target: &Path, layout: &Layout) -> Result<Self, CheckpointError> {
        let part = Self::path(target);
        let refuse = |e: std::io::Error| refused(&part, e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&part)
            .map_err(refuse)?;
        let mut header = Vec::new();
        (&mut file)
            .take(layout.header.len() as u64)
            .read_to_end(&mut header)
            .map_err(refuse)?;
        let length = file.metadata().map_err(refuse)?.len();
        let continued = header == layout.header && length == layout.total;
        if !continued {
            file.set_len(0).map_err(refuse)?;
            file.set_len(layout.total).map_err(refuse)?;
            file.seek(SeekFrom::Start(0)).map_err(refuse)?;
            file.write_all(&layout.header).map_err(refuse)?;
        }
        Ok(PartFile {
            target: target.into(),
            part,
            file,
            continued,
        })
    }

    /// Writes `bytes` into tensor `i`, `at` bytes after its start.
    pub fn write(
        &mut self,
        layout: &Layout,
        i: usize,
        at: u64,
        bytes: &[u8],
    ) -> Result<(), CheckpointError> {
        let (start, length) = layout.places[i];
        assert!(
            at + bytes.len() as u64 <= length,
            "a tensor is written within its place"
        );
        let seek = self.file.seek(SeekFrom::Start(start + at));
        seek.and_then(|_| self.file.write_all(bytes))
            .map_err(|e| refused(&self.part, e))
    }

    /// Makes sure that what was written is on the disk, so that a journal may say so.
    pub fn sync(&mut self) -> Result<(), CheckpointError> {
        self.file.sync_data().map_err(|e| refused(&self.part, e))
    }

    /// Puts the whole file in its place.
    pub fn finish(self) -> Result<(), CheckpointError> {
        let synced = self.file.sync_all();
        synced
            .and_then(|()| std::fs::rename(&self.part, &self.target))
            .map_err(|e| refused(&self.target, e))
    }
}

/// Writes a small file beside its target and renames it, so that it is there whole or not at all.
pub(super) fn write_whole(target: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let part = PartFile::path(target);
    let written = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, target));
    written.map_err(|e| refused(target, e))
}

/// Copies a file in the same way.
pub(super) fn copy_whole(source: &Path, target: &Path) -> Result<(), CheckpointError> {
    let part = PartFile::path(target);
    std::fs::copy(source, &part).map_err(|e| refused(source, e))?;
    std::fs::rename(&part, target).map_err(|e| refused(target, e))
}

pub(super) fn refused(path: &Path, e: std::io::Error) -> CheckpointError {
    CheckpointError::io(path, &e, "a file that can be read and written")
}
