//! Gives the shared library the name under which programs ask for the driver.
//!
//! The dynamic linker answers `dlopen("libcuda.so")` with a library of that SONAME if one is loaded
//! already, whatever file it came from: that is how `install` puts the emulator in the driver's place.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
    }
}
