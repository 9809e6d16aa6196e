//! The parameter structs of cuda/params.h as Rust, with libclang.

use std::path::Path;
use std::{env, fs};

const HEADER: &str = "cuda/params.h";

/// Writes `OUT_DIR/params.rs`. The first line carries the header's hash, so that a build without libclang
/// can tell whether the committed copy is stale.
pub fn generate() {
    println!("cargo::rerun-if-changed={HEADER}");
    println!("cargo::rerun-if-env-changed=LIBCLANG_PATH");
    let fetched = Path::new(".cuda/clang/native");
    if env::var_os("LIBCLANG_PATH").is_none() && fetched.is_dir() {
        env::set_var(
            "LIBCLANG_PATH",
            fetched.canonicalize().expect("it was just seen"),
        );
    }
    let header = fs::read(HEADER).expect("the header is part of the crate");
    let hash = header.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let bindings = bindgen::Builder::default()
        .header(HEADER)
        .disable_header_comment()
        .raw_line(format!(
            "// Made from cuda/params.h (FNV-1a {hash:016x}) by bindgen; see cuda/README.md. Not to be edited."
        ))
        .use_core()
        .derive_default(false)
        .formatter(bindgen::Formatter::Prettyplease)
        .generate();
    match bindings {
        Ok(bindings) => bindings
            .write_to_file(super::out_dir().join("params.rs"))
            .expect("OUT_DIR is writable"),
        Err(error) => {
            println!("cargo::error=feature `bindgen`: {error}; without the feature the committed src/cuda/kernels/params.rs is used");
            std::process::exit(1);
        }
    }
}
