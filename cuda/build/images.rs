//! Which images there are, and the list of them that the crate includes.

use super::kernels::{self, Image};
use super::nvcc::{self, Nvcc};
use super::out_dir;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

/// Compiles every source, or takes what was compiled before, and writes `OUT_DIR/images.rs`.
pub fn build() -> Result<(), String> {
    for name in [
        "IMMA_NVCC",
        "IMMA_CUDA_ARCHS",
        "IMMA_CUDA_LINEINFO",
        "CUDA_HOME",
        "CUDA_PATH",
        "PATH",
        "DOCS_RS",
    ] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=cuda");
    let sources = sources()?;
    // docs.rs has no compiler and runs nothing: the images are left out.
    if env::var_os("DOCS_RS").is_some() {
        return write_index(&[], &[], 0);
    }
    let nvcc = Nvcc::find()?;
    let archs = nvcc::archs(&nvcc)?;
    let sources: Vec<PathBuf> = sources
        .into_iter()
        .filter(|source| !kernels::is_sm90(source) || archs.iter().any(|arch| arch == "90a"))
        .collect();
    let images = kernels::compile_all(&nvcc, &sources, &archs)?;
    write_index(&images, &archs, nvcc.version)
}

/// Every `cuda/*.cu`, in order of name.
fn sources() -> Result<Vec<PathBuf>, String> {
    let folder = fs::read_dir("cuda").map_err(|e| format!("cuda/: {e}"))?;
    let mut sources: Vec<PathBuf> = folder
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension() == Some(OsStr::new("cu")))
        .collect();
    sources.sort();
    Ok(sources)
}

/// `OUT_DIR/images.rs`: what src/cuda/runtime/images.rs includes.
fn write_index(images: &[Image], archs: &[String], version: u32) -> Result<(), String> {
    let mut text = String::from("// Made by build.rs.\n");
    let _ = writeln!(text, "pub(in super::super) const TOOLKIT: u32 = {version};");
    let _ = writeln!(
        text,
        "pub(in super::super) const ARCHS: &[&str] = &{archs:?};"
    );
    text += "pub(in super::super) static IMAGES: &[Image] = &[\n";
    for image in images {
        let _ = writeln!(
            text,
            "    Image {{ name: {:?}, bytes: include_bytes!({:?}), entries: &{:?} }},",
            image.name, image.fatbin, image.entries
        );
    }
    text += "];\n";
    let path = out_dir().join("images.rs");
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
}
