//! The committed src/cuda/kernels/params.rs is what bindgen makes of cuda/params.h.
//!
//! After a change of the header:  IMMA_UPDATE=1 cargo test --features cuda,bindgen --test cuda params

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cuda/kernels/params.rs");
const HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda/params.h");

/// Without libclang: the copy names the hash of the header that it was made from.
#[test]
fn committed_bindings_are_of_this_header() {
    if std::env::var_os("IMMA_UPDATE").is_some() {
        return;
    }
    let (Ok(header), Ok(committed)) = (std::fs::read(HEADER), std::fs::read_to_string(COMMITTED))
    else {
        println!("not run: no sources here");
        return;
    };
    let hash = header.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let first = committed.lines().next().unwrap_or_default();
    assert!(
        first.contains(&format!("{hash:016x}")),
        "src/cuda/kernels/params.rs is stale ({first}): \
         IMMA_UPDATE=1 cargo test --features cuda,bindgen --test cuda params"
    );
}

#[cfg(feature = "bindgen")]
#[test]
fn committed_bindings_are_what_bindgen_makes() {
    let made = include_str!(concat!(env!("OUT_DIR"), "/params.rs"));
    if std::env::var_os("IMMA_UPDATE").is_some() {
        std::fs::write(COMMITTED, made).unwrap();
    }
    let committed = std::fs::read_to_string(COMMITTED).unwrap();
    assert!(
        committed == made,
        "src/cuda/kernels/params.rs is stale: IMMA_UPDATE=1 cargo test --features cuda,bindgen --test cuda params"
    );
}
