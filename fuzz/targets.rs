//! What is done with a hostile file: one function a reader, for cargo-fuzz and for `tests/fuzz_readers.rs`.
//!
//! Each writes the bytes where the reader finds them, reads, and uses what came out. It answers whether the file was
//! taken; a panic is the finding.
#![allow(dead_code)] // Each binary has one of them.

use std::fs;
use std::path::{Path, PathBuf};

/// A folder of this process, in memory where the system has such a place: files come by the thousand.
pub fn folder(name: &str) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    let dir = base.join(format!("imma-fuzz-{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a folder for temporary files");
    dir
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a temporary file");
}

/// One `.npy` file.
pub fn npy(dir: &Path, bytes: &[u8]) -> bool {
    let path = dir.join("x.npy");
    write(&path, bytes);
    match imma::npy::read(&path) {
        Ok(array) => {
            let elements: usize = array.shape().iter().product();
            assert!(elements <= bytes.len(), "{:?}", array.shape());
            true
        }
        Err(e) => refused(&e),
    }
}

/// An `.npz` archive, read as a frozen operand and as what it is.
pub fn frozen(dir: &Path, bytes: &[u8]) -> bool {
    let path = dir.join("x.npz");
    write(&path, bytes);
    if let Err(e) = imma::npz::read(&path) {
        refused(&e);
    }
    match imma::ops::FrozenOperand::load(&path) {
        Ok(operand) => {
            // What was taken is whole: it can be written, and is taken again.
            let again = dir.join("again.npz");
            operand.save(&again).expect("an operand is written");
            imma::ops::FrozenOperand::load(&again).expect("what was written is read");
            true
        }
        Err(e) => refused(&e),
    }
}

/// The names of a frozen operand's members.
const MEMBERS: [&str; 7] = [
    "integers",
    "scales",
    "bits",
    "side",
    "contracting",
    "batch",
    "sharded",
];

/// A frozen operand whose members are given one behind the other, each after its length (u16, little-endian): the
/// archive is made of them here, so that checksums do not shield the members' readers.
pub fn frozen_members(dir: &Path, mut bytes: &[u8]) -> bool {
    let mut archive = Vec::new();
    let mut directory = Vec::new();
    let mut count = 0u16;
    for name in MEMBERS {
        let Some((len, rest)) = bytes.split_first_chunk() else {
            break;
        };
        let len = usize::from(u16::from_le_bytes(*len)).min(rest.len());
        let (member, rest) = rest.split_at(len);
        bytes = rest;
        put_member(&mut archive, &mut directory, &format!("{name}.npy"), member);
        count += 1;
    }
    let entries = (directory.len() as u32, archive.len() as u32);
    archive.extend(directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend([count, count].map(u16::to_le_bytes).concat());
    archive.extend([entries.0, entries.1].map(u32::to_le_bytes).concat());
    archive.extend([0, 0]);
    frozen(dir, &archive)
}

/// Appends a member, stored, and its entry in the directory.
fn put_member(archive: &mut Vec<u8>, directory: &mut Vec<u8>, name: &str, member: &[u8]) {
    let at = archive.len() as u32;
    let len = (member.len() as u32).to_le_bytes();
    // Version 2.0, no flags, stored, midnight of the first day of 1980.
    let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
    common.extend(crc32(member).to_le_bytes());
    common.extend([len, len].concat());
    common.extend((name.len() as u16).to_le_bytes());
    common.extend([0, 0]);
    archive.extend(b"PK\x03\x04");
    archive.extend(&common);
    archive.extend(name.as_bytes());
    archive.extend(member);
    directory.extend(b"PK\x01\x02\x14\0");
    directory.extend(&common);
    directory.extend([0; 10]);
    directory.extend(at.to_le_bytes());
    directory.extend(name.as_bytes());
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    let byte = |crc: u32, b: &u8| (0..8).fold(crc ^ u32::from(*b), step);
    !bytes.iter().fold(!0, byte)
}

/// A model's folder: files one behind the other, each after a line `%%name`.
///
/// Every layer that the checkpoint has is made and used, and every float tensor is read.
pub fn checkpoint(dir: &Path, bytes: &[u8]) -> bool {
    let dir = dir.join("model");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a folder for temporary files");
    for (name, bytes) in files(bytes) {
        write(&dir.join(name), bytes);
    }
    let file = match imma::checkpoint::Checkpoint::open(&dir) {
        Ok(file) => file,
        Err(e) => return refused(&e),
    };
    let mut taken = false;
    for layer in file.int8_layers() {
        assert!(file.info(&format!("{layer}.weight")).is_some(), "{layer}");
    }
    for name in file.names() {
        if let Err(e) = file.floats(name) {
            refused(&e);
        }
        let Some(layer) = name.strip_suffix(".weight") else {
            continue;
        };
        match file.linear(layer) {
            Ok(layer) => {
                let x = ndarray::Array2::<f32>::ones((2, layer.inputs()));
                let y = layer.forward(x.view()).expect("a layer multiplies");
                assert_eq!(y.dim(), (2, layer.outputs()));
                taken = true;
            }
            Err(e) => {
                refused(&e);
            }
        }
    }
    taken
}

/// The parts of a model's folder, by name; at most eight.
fn files(bytes: &[u8]) -> Vec<(&str, &[u8])> {
    let starts = bytes.windows(2).enumerate().filter(|(_, w)| w == b"%%");
    let starts: Vec<usize> = starts.map(|(at, _)| at).take(8).collect();
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    let parts = starts.iter().zip(ends).filter_map(|(start, end)| {
        let part = bytes.get(start + 2..end)?;
        let line = part.iter().position(|b| *b == b'\n')?;
        let name = std::str::from_utf8(&part[..line]).ok()?;
        let letters = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
        let plain = name.len() < 80 && name.starts_with(|c: char| c.is_ascii_alphabetic());
        (plain && name.chars().all(letters)).then_some((name, &part[line + 1..]))
    });
    parts.collect()
}

/// The cache of measured choices: a whole file, or the lines behind the head of this device's.
#[cfg(feature = "cuda")]
pub fn choices(dir: &Path, bytes: &[u8]) -> bool {
    use imma::cuda::{ChoiceCache, Properties};
    let path = dir.join("choices.txt");
    let properties = Properties::default();
    if bytes.starts_with(b"imma") {
        write(&path, bytes);
    } else {
        ChoiceCache::new(&properties)
            .save(&path)
            .expect("a temporary file");
        let head = fs::read(&path).expect("the file just written");
        write(&path, &[&head, bytes].concat());
    }
    let (cache, why) = ChoiceCache::load(&path, &properties);
    if let Some(why) = why {
        assert!(cache.is_empty(), "{why}");
        return refused(&why);
    }
    cache.save(&path).expect("a temporary file");
    let (again, why) = ChoiceCache::load(&path, &properties);
    assert_eq!((again, why), (cache, None));
    true
}

/// A refusal is a sentence: of text, and of a length that can be read.
fn refused(error: &impl std::fmt::Display) -> bool {
    let text = error.to_string();
    assert!(
        !text.is_empty() && text.len() < 2000,
        "{} bytes",
        text.len()
    );
    false
}
