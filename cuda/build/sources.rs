//! The kernels' sources, and what each is made from.

use super::cache::fnv;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// What nvcc is told wherever it runs, but for host compiler, architectures and the places of files.
pub const OPTIONS: [&str; 10] = [
    "-fatbin",
    "-no-compress",
    "-std=c++17",
    "-O3",
    // Every float step is spelled out in the source; nothing may be fused or flushed.
    "-fmad=false",
    "-ftz=false",
    "-prec-div=true",
    "-prec-sqrt=true",
    "-Xptxas",
    "-warn-spills",
];

/// Every `*.cu` of a folder, in order of name.
pub fn all(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut sources: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension() == Some(OsStr::new("cu")))
        .collect();
    sources.sort();
    Ok(sources)
}

/// `X` of `cuda/X.cu`.
pub fn name(source: &Path) -> Result<&str, String> {
    source
        .file_stem()
        .and_then(OsStr::to_str)
        .ok_or_else(|| format!("{}: not a UTF-8 name", source.display()))
}

/// Whether a source uses what only `90a` has.
pub fn is_sm90(source: &Path) -> bool {
    name(source).is_ok_and(|name| name.ends_with("_sm90"))
}

/// A source and every file of ours that it includes, each with its name and length before it: with the compiler and its
/// options, all that an image depends on.
pub fn text(source: &Path) -> Result<String, String> {
    let mut all = String::new();
    for file in included(source)? {
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        // The same on every system.
        let name = file.display().to_string().replace('\\', "/");
        all += &format!("{name} {}\n{text}\n", text.len());
    }
    Ok(all)
}

/// The hash that ties an image to its source, wherever both lie: [`OPTIONS`], and [`text`] seen from the crate's folder.
pub fn hash(source: &Path) -> Result<u128, String> {
    let options = OPTIONS.join(" ");
    Ok(fnv(&[options.as_bytes(), b"\n", text(source)?.as_bytes()]))
}

/// A source and every file that it includes by a name in quotes, whatever the conditions around the line.
fn included(source: &Path) -> Result<BTreeSet<PathBuf>, String> {
    let (mut found, mut open) = (BTreeSet::new(), vec![source.to_owned()]);
    while let Some(file) = open.pop() {
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        if !found.insert(file) {
            continue;
        }
        for line in text.lines() {
            let directive = line.trim_start().strip_prefix('#').map(str::trim_start);
            let named = directive.and_then(|d| d.strip_prefix("include"));
            let named = named.and_then(|name| name.trim_start().strip_prefix('"'));
            if let Some((name, _)) = named.and_then(|name| name.split_once('"')) {
                open.push(folder.join(name));
            }
        }
    }
    Ok(found)
}
