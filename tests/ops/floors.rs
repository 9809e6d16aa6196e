//! The floors of the crate: no file imports from one above its own, and none of a floor of the CUDA half imports in a circle.
//!
//! The root's door stays small too.
//!
//! Read off the `use` lines, so it needs no feature and no compiler.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// From the ground up; each may use those before it. Backends do not see each other: they share a floor.
const FLOORS: &[&[&str]] = &[
    &["element", "activation"],
    &["error", "files"],
    &["memory"],
    &["numerics"],
    &["rounding", "epilogue"],
    &["quant"],
    &["gemm"],
    &["reference"],
    &["cpu", "cuda"],
    &["npy"],
    &["npz"],
    &["ops"],
    &["checkpoint"],
    &["parallel"],
    &["candle"],
];

/// The same inside `src/cuda`.
const CUDA_FLOORS: &[&str] = &["runtime", "kernels", "product", "layers", "parallel"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Every Rust file below `src`, as its path in there and its `use` statements outside of its tests, one path each.
fn imports() -> Vec<(PathBuf, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 100, "{} files", files.len());
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let statements = text
            .split("use ")
            .skip(1)
            .filter(|s| s.starts_with("crate::") || s.starts_with("super::"))
            .filter_map(|s| s.split_once(';'))
            .flat_map(|(path, _)| expanded(&path.split_whitespace().collect::<String>()))
            .collect();
        (path.strip_prefix(&root).unwrap().to_owned(), statements)
    };
    files.into_iter().map(read).collect()
}

/// `a::{b::c, d}` as `a::b::c` and `a::d`.
fn expanded(path: &str) -> Vec<String> {
    let Some((before, inside)) = path.split_once('{') else {
        return vec![path.to_owned()];
    };
    let inside = inside.strip_suffix('}').unwrap_or(inside);
    let (mut parts, mut depth, mut part) = (Vec::new(), 0, String::new());
    for c in inside.chars() {
        match c {
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                part.push(c);
            }
        }
    }
    parts.push(part);
    let whole = |part: &String| expanded(&format!("{before}{part}"));
    parts
        .iter()
        .filter(|p| !p.is_empty())
        .flat_map(whole)
        .collect()
}

fn component(path: &Path, i: usize) -> Option<String> {
    let part = path.iter().nth(i)?.to_str()?;
    Some(part.trim_end_matches(".rs").to_owned())
}

#[test]
fn no_file_imports_from_a_floor_above_its_own() {
    let floor = |name: &str| FLOORS.iter().position(|floor| floor.contains(&name));
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for (file, uses) in imports() {
        let Some(name) = component(&file, 0).filter(|name| !["lib", "bin"].contains(&&**name))
        else {
            continue;
        };
        let mine = floor(&name).unwrap_or_else(|| panic!("{name} stands on no floor"));
        seen.insert(name.clone());
        for path in uses.iter().filter_map(|path| path.strip_prefix("crate::")) {
            let other = path.split("::").next().unwrap();
            let fits = other == name || floor(other).is_some_and(|other| other < mine);
            // What the root exports stands above all.
            if !fits {
                wrong.push(format!("{}: use crate::{path}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports go up:\n{}", wrong.join("\n"));
    let missing: Vec<_> = FLOORS
        .concat()
        .into_iter()
        .filter(|f| !seen.contains(*f))
        .collect();
    assert!(missing.is_empty(), "floors without files: {missing:?}");
}

#[test]
fn no_file_of_the_cuda_half_imports_from_a_floor_above_its_own() {
    let floor = |name: &str| CUDA_FLOORS.iter().position(|floor| *floor == name);
    let (mut wrong, mut files) = (Vec::new(), 0);
    for (file, uses) in imports() {
        if !file.starts_with("cuda") {
            continue;
        }
        let Some(mine) = component(&file, 1).and_then(|name| floor(&name)) else {
            continue; // the door
        };
        files += 1;
        for path in uses
            .iter()
            .filter_map(|path| path.strip_prefix("crate::cuda::"))
        {
            let other = path.split("::").next().unwrap();
            if floor(other).is_none_or(|other| other > mine) {
                wrong.push(format!("{}: use crate::cuda::{path}", file.display()));
            }
        }
    }
    assert!(files > 40, "{files} files");
    assert!(wrong.is_empty(), "imports go up:\n{}", wrong.join("\n"));
}

/// Which file an import of a file names, inside the same folder of the CUDA half: `super::other::..`.
#[test]
fn no_files_of_the_cuda_half_import_each_other_in_a_circle() {
    let mut edges: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
    let all = imports();
    let known: BTreeSet<PathBuf> = all.iter().map(|(file, _)| file.clone()).collect();
    for (file, uses) in &all {
        if !file.starts_with("cuda") || file.ends_with("mod.rs") && file.iter().count() < 4 {
            continue; // doors name what stands behind them
        }
        // A folder's own mod.rs stands for the folder.
        let folder = file.parent().unwrap();
        let inside = if file.ends_with("mod.rs") {
            folder.parent().unwrap()
        } else {
            folder
        };
        for path in uses {
            let (from, rest) = match path.strip_prefix("super::") {
                Some(rest) => (inside.to_owned(), rest),
                None => match path.strip_prefix("crate::") {
                    Some(rest) => (PathBuf::new(), rest),
                    None => continue,
                },
            };
            let mut at = from;
            for part in rest.split("::") {
                at.push(part);
                let (file_there, folder_there) = (at.with_extension("rs"), at.join("mod.rs"));
                let target = [file_there, folder_there]
                    .into_iter()
                    .find(|t| known.contains(t));
                let door = |t: &PathBuf| t.ends_with("mod.rs") && t.iter().count() < 4;
                if let Some(target) = target.filter(|t| t != file && !door(t)) {
                    edges.entry(file.clone()).or_default().insert(target);
                }
            }
        }
    }
    assert!(edges.len() > 30, "{} files import others", edges.len());
    // What can't be taken away, leaves first, is a circle.
    loop {
        let leaves: Vec<_> = edges
            .iter()
            .filter(|(_, to)| to.iter().all(|t| !edges.contains_key(t)))
            .map(|(file, _)| file.clone())
            .collect();
        if leaves.is_empty() {
            break;
        }
        leaves.iter().for_each(|leaf| drop(edges.remove(leaf)));
    }
    assert!(edges.is_empty(), "in or above a circle: {edges:#?}");
}

/// What the root hands out without a module's name. All else has one path, in its module.
const DOOR: [&str; 15] = [
    "Backend",
    "Cpu",
    "DType",
    "Element",
    "Epilogue",
    "Error",
    "Int8Linear",
    "Quantizer",
    "Result",
    // The crates whose types the API takes.
    "half",
    "matmul",
    "matmul_true_int8",
    "ndarray",
    "q_matmul_int8",
    "quant_int8",
];

#[test]
fn the_root_hands_out_what_its_users_start_with() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let text = std::fs::read_to_string(root).unwrap();
    let names: BTreeSet<String> = text
        .split("\npub use ")
        .skip(1)
        .filter_map(|s| s.split_once(';'))
        .flat_map(|(path, _)| expanded(&path.split_whitespace().collect::<String>()))
        .filter_map(|path| path.rsplit("::").next().map(str::to_owned))
        .filter(|name| !name.is_empty())
        .collect();
    let door: BTreeSet<String> = DOOR.iter().map(|name| name.to_string()).collect();
    assert_eq!(names, door);
}
