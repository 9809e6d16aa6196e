//! Which images there are, and the list of them that the crate includes.

use super::archs::{self, HOPPER};
use super::nvcc::Nvcc;
use super::packaged::{self, Images};
use super::{kernels, out_dir, sources};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// These ask for a compiler, whatever images come with the crate.
const ASK_TO_COMPILE: [&str; 3] = ["IMMA_NVCC", "IMMA_CUDA_ARCHS", "IMMA_CUDA_LINEINFO"];

/// Takes the images that come with the crate, or compiles every source, and writes `OUT_DIR/images.rs`.
pub fn build() -> Result<(), String> {
    let others = [
        kernels::DENY_WARNINGS,
        "CUDA_HOME",
        "CUDA_PATH",
        "PATH",
        "DOCS_RS",
    ];
    for name in ASK_TO_COMPILE.iter().chain(&others) {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=cuda");
    // docs.rs has no compiler and runs nothing: the images are left out.
    if env::var_os("DOCS_RS").is_some() {
        return write_index(&Images::default());
    }
    let sources = sources::all(Path::new("cuda"))?;
    let asked = ASK_TO_COMPILE
        .into_iter()
        .find(|name| env::var_os(name).is_some_and(|value| !value.is_empty()));
    let folder = Path::new("cuda/images");
    if asked.is_none() {
        if let Some(images) = packaged::unpack(folder, &sources, &out_dir())? {
            return write_index(&images);
        }
    }
    let why = match asked {
        Some(name) if folder.join(packaged::MANIFEST).exists() => format!(
            "{name} asks to compile the kernels, and nvcc was not found. Either unset it, and the compiled ones that come \
             with the crate are taken"
        ),
        _ => "this copy of the crate has no compiled kernels, and nvcc was not found. Either depend on the crate as it is \
              published, which comes with them"
            .into(),
    };
    write_index(&compile(sources, &why)?)
}

/// What nvcc makes of the sources. `why`: why it is needed, and what to do without one.
fn compile(sources: Vec<PathBuf>, why: &str) -> Result<Images, String> {
    let nvcc = Nvcc::find(why)?;
    let asked = env::var("IMMA_CUDA_ARCHS").unwrap_or_default();
    let chosen = archs::choose(&asked, &nvcc.known()?, nvcc.version)?;
    if let Some(note) = chosen.note {
        println!("cargo::warning={note}");
    }
    let archs = chosen.names;
    let sources: Vec<PathBuf> = sources
        .into_iter()
        .filter(|source| !sources::is_sm90(source) || archs.iter().any(|arch| arch == HOPPER))
        .collect();
    let images = Images {
        images: kernels::compile_all(&nvcc, &sources, &archs)?,
        archs,
        toolkit: nvcc.version,
    };
    // What `.ci/package` puts into the package.
    write(
        &out_dir().join(packaged::MANIFEST),
        &packaged::manifest(&images, &sources)?,
    )?;
    Ok(images)
}

/// `OUT_DIR/images.rs`: what src/cuda/runtime/images.rs includes.
fn write_index(images: &Images) -> Result<(), String> {
    let mut text = String::from("// Made by build.rs.\n");
    let _ = writeln!(
        text,
        "pub(in super::super) const TOOLKIT: u32 = {};",
        images.toolkit
    );
    let _ = writeln!(
        text,
        "pub(in super::super) const ARCHS: &[&str] = &{:?};",
        images.archs
    );
    text += "pub(in super::super) static IMAGES: &[Image] = &[\n";
    for image in &images.images {
        let _ = writeln!(
            text,
            "    Image {{ name: {:?}, bytes: include_bytes!({:?}), entries: &{:?} }},",
            image.name, image.fatbin, image.entries
        );
    }
    text += "];\n";
    write(&out_dir().join("images.rs"), &text)
}

/// A file that is left alone where it says so already.
fn write(path: &Path, text: &str) -> Result<(), String> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
