//! Reading `.npz` archives: members by name, checked before anything is allocated for them.

use crate::files::{describe, START};
use crate::npy::{parse, recognised, NpyArray, NpyError};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

/// An archive's arrays.
#[derive(Debug, Clone, PartialEq)]
pub struct Npz {
    path: PathBuf,
    arrays: BTreeMap<String, NpyArray>,
}

/// Reads every array of an archive, as [`write_npz`](crate::npy::write_npz) and numpy's `savez` write them.
///
/// # Errors
/// When the file is missing or not such an archive, or a member is not an array that [`read`](crate::npy::read) takes.
pub fn read(path: impl AsRef<Path>) -> Result<Npz, NpyError> {
    let path = path.as_ref();
    let refuse = |found: String| NpyError::new(path, found, "a readable .npz file");
    let unreadable = |e: std::io::Error| refuse(describe(&e));
    let mut file = File::open(path).map_err(unreadable)?;
    let mut start = Vec::new();
    (&mut file)
        .take(START as u64)
        .read_to_end(&mut start)
        .map_err(unreadable)?;
    if !start.starts_with(b"PK") {
        return Err(recognised(path, &start, "an .npz archive"));
    }
    file.rewind().map_err(unreadable)?;
    let mut archive =
        zip::ZipArchive::new(BufReader::new(file)).map_err(|e| refuse(e.to_string()))?;
    // Entries that share bytes make a small archive hold any amount.
    if archive
        .has_overlapping_files()
        .map_err(|e| refuse(e.to_string()))?
    {
        return Err(refuse("members that overlap".into()));
    }
    let mut arrays = BTreeMap::new();
    for i in 0..archive.len() {
        let mut member = archive.by_index(i).map_err(|e| refuse(e.to_string()))?;
        let name = member.name().trim_end_matches(".npy").to_string();
        // What the directory says is not trusted: bytes are counted as they come.
        let (array, _) = parse(path, &mut member, None).map_err(|e| NpyError {
            found: format!("member '{name}' with {}", e.found),
            ..e
        })?;
        arrays.insert(name, array);
    }
    Ok(Npz {
        path: path.into(),
        arrays,
    })
}

impl Npz {
    /// The names of the arrays.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.arrays.keys().map(String::as_str)
    }

    /// Takes an array out by name.
    ///
    /// # Errors
    /// When there is no array of that name.
    pub fn take(&mut self, name: &str) -> Result<NpyArray, NpyError> {
        if let Some(array) = self.arrays.remove(name) {
            return Ok(array);
        }
        let names: Vec<_> = self.names().map(|n| format!("'{n}'")).collect();
        let found = match names.is_empty() {
            true => "no arrays".into(),
            false => format!("only {}", names.join(", ")),
        };
        Err(self.refuse(found, format!("an array '{name}'")))
    }

    /// An error about this archive.
    pub fn refuse(&self, found: impl Into<String>, expected: impl Into<String>) -> NpyError {
        NpyError::new(&self.path, found, expected)
    }
}
