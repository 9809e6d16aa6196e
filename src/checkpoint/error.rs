//! Why a checkpoint could not be read or written.

use crate::error::Error;
use std::io;
use std::path::{Path, PathBuf};

/// Why a checkpoint could not be read or written: one sentence that names the file, what was found and what was expected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file or folder is not what it should be.
    #[error("{}: found {found}, expected {expected}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A tensor is missing or is not what it should be.
    #[error("{}: {name}: found {found}, expected {expected}", path.display())]
    Tensor {
        /// The checkpoint, or the file that holds the tensor.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A layer's tensors do not make a layer.
    #[error("{}: layer {prefix}: {source}", path.display())]
    Layer {
        /// The checkpoint.
        path: PathBuf,
        /// The layer's name.
        prefix: String,
        /// Why.
        source: Box<Error>,
    },
}

impl CheckpointError {
    pub(crate) fn file(path: &Path, found: impl Into<String>, expected: impl Into<String>) -> Self {
        CheckpointError::File {
            path: path.into(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    pub(crate) fn tensor(
        path: &Path,
        name: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        CheckpointError::Tensor {
            path: path.into(),
            name: shortened(name),
            found: found.into(),
            expected: expected.into(),
        }
    }

    pub(crate) fn io(path: &Path, e: &io::Error, expected: &str) -> Self {
        let found = match e.kind() {
            io::ErrorKind::NotFound => "no such file".into(),
            io::ErrorKind::PermissionDenied => "no permission".into(),
            io::ErrorKind::IsADirectory => "a folder".into(),
            _ => e.to_string(),
        };
        Self::file(path, found, expected)
    }
}

/// A name from a file as a message shows it: of bounded length, without control characters.
pub(crate) fn shortened(name: &str) -> String {
    let mut shown: String = name.chars().take(200).collect();
    if shown.len() < name.len() {
        shown.push_str("...");
    }
    shown.replace(|c: char| c.is_control(), "?")
}
