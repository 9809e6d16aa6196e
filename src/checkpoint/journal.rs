//! What an interrupted run has done, one JSON line per tensor.

use super::error::CheckpointError;
use super::writer::refused;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The journal's name in the output folder.
pub(super) const NAME: &str = ".imma-quantize.jsonl";

/// A journal, locked against a second run on the same folder.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// What is done: the unit's name and what was noted of it.
    pub done: BTreeMap<String, Value>,
    /// Whether it continues the same task.
    pub same: bool,
}

impl Journal {
    /// Opens the journal of a folder. One that was written for another `task` (other input, other options) is started anew.
    pub fn open(folder: &Path, task: &Value) -> Result<Self, CheckpointError> {
        let path = folder.join(NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| refused(&path, e))?;
        if file.try_lock().is_err() {
            return Err(CheckpointError::file(
                folder,
                "a folder that another run is writing to",
                "a folder that no other run writes to",
            ));
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(|e| refused(&path, e))?;
        let text = String::from_utf8_lossy(&text);
        // A last line that was cut off has no end and does not count.
        let whole = &text[..text.rfind('\n').map_or(0, |i| i + 1)];
        let mut lines = whole.lines().map(serde_json::from_str::<Value>);
        let mut done = BTreeMap::new();
        let same = matches!(lines.next(), Some(Ok(first)) if first == *task);
        if same {
            for line in lines.map_while(Result::ok) {
                if let Some(unit) = line["unit"].as_str() {
                    done.insert(unit.into(), line["note"].clone());
                }
            }
        }
        let mut journal = Journal {
            path,
            file,
            done,
            same,
        };
        let length = if same { whole.len() as u64 } else { 0 };
        journal.cut(length)?;
        if !same {
            journal.line(task)?;
        }
        Ok(journal)
    }

    fn cut(&mut self, length: u64) -> Result<(), CheckpointError> {
        let cut = self.file.set_len(length);
        cut.and_then(|()| self.file.seek(SeekFrom::Start(length)))
            .map_err(|e| refused(&self.path, e))?;
        Ok(())
    }

    fn line(&mut self, value: &Value) -> Result<(), CheckpointError> {
        self.file
            .write_all(format!("{value}\n").as_bytes())
            .map_err(|e| refused(&self.path, e))
    }

    /// Notes that a unit is done.
    pub fn note(&mut self, unit: &str, note: Value) -> Result<(), CheckpointError> {
        self.line(&serde_json::json!({"unit": unit, "note": note}))?;
        self.done.insert(unit.into(), note);
        Ok(())
    }

    /// The whole task is done: the journal goes.
    pub fn finish(self) -> Result<(), CheckpointError> {
        std::fs::remove_file(&self.path).map_err(|e| refused(&self.path, e))
    }
}

impl Drop for Journal {
    /// Closing the file is not enough: a process that is being started elsewhere in this one holds a copy of it, and with
    /// it the lock, until it runs its own program.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}
