//! The kernels' images that the crate embeds, compiled from `cuda/*.cu` or taken as they come with the published crate. Does nothing without the feature `cuda`.
//!
//! ```text
//! cuda/X.cu --nvcc--> OUT_DIR/X.fatbin (one cubin an architecture, PTX of the lowest) --include_bytes!--> IMAGES
//! cuda/X_sm90.cu     the same for 90a alone, PTX included; left out where 90a is not asked for
//! cuda/params.h --bindgen (feature `bindgen`)--> OUT_DIR/params.rs, whose committed copy is src/cuda/kernels/params.rs
//! ```
//!
//! The published crate comes with these images, compressed, in `cuda/images`: there nvcc is not needed and not looked for, but
//! where `IMMA_NVCC`, `IMMA_CUDA_ARCHS` or `IMMA_CUDA_LINEINFO` is set (`cuda/build/packaged.rs`).
//!
//! What nvcc made is kept by what it was made from, so that a profile, a set of features or a checkout that differs in
//! nothing that nvcc sees takes the image of another (`cuda/build/cache.rs`).
//!
//! | variable | meaning |
//! |---|---|
//! | `IMMA_NVCC` | the compiler to use |
//! | `IMMA_CUDA_ARCHS` | comma-separated architectures, such as `80,90a`; without 90a there are no kernels of Hopper's own |
//! | `IMMA_CUDA_DENY_WARNINGS` | when set, what nvcc warns about is not built |
//! | `IMMA_CUDA_LINEINFO` | when set, images carry source lines (three times the size) |
//! | `IMMA_IMAGE_CACHE` | the folder that keeps compiled images, `imma-images` in cargo's target folder unless set; may be deleted at any time |

#[cfg(feature = "cuda")]
#[path = "cuda/build/archs.rs"]
mod archs;
#[cfg(feature = "bindgen")]
#[path = "cuda/build/bindings.rs"]
mod bindings;
#[cfg(feature = "cuda")]
#[path = "cuda/build/cache.rs"]
mod cache;
#[cfg(feature = "cuda")]
#[path = "cuda/build/images.rs"]
mod images;
#[cfg(feature = "cuda")]
#[path = "cuda/build/kernels.rs"]
mod kernels;
#[cfg(feature = "cuda")]
#[path = "cuda/build/nvcc.rs"]
mod nvcc;
#[cfg(feature = "cuda")]
#[path = "cuda/build/packaged.rs"]
mod packaged;
#[cfg(feature = "cuda")]
#[path = "cuda/build/sources.rs"]
mod sources;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    if let Err(message) = images::build() {
        println!("cargo::error={message}");
        std::process::exit(1);
    }
    #[cfg(feature = "bindgen")]
    bindings::generate();
}

#[cfg(any(feature = "cuda", feature = "bindgen"))]
fn out_dir() -> std::path::PathBuf {
    std::env::var_os("OUT_DIR")
        .expect("cargo sets OUT_DIR")
        .into()
}
