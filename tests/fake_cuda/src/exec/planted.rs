//! Errors of the emulator itself, for the tests that must fail with them. `IMMA_FAKE_PLANTED` names one; without it, as
//! everywhere but in those tests, there is none.
use std::sync::OnceLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// `no-swizzle`: bytes lie as if they were not swizzled.
    NoSwizzle,
    /// `wrong-swizzle-bits`: the pattern is taken from the address bits one higher.
    WrongSwizzleBits,
    /// `offsets-swapped`: the leading and the stride byte offset of a matrix descriptor.
    OffsetsSwapped,
    /// `no-satfinite`: `mma` and `wgmma` wrap instead.
    NoSatfinite,
    /// `nan-is-zero`: a NaN becomes 0 in integers of every width.
    NanIsZero,
    /// `bf16-nan-canonical`: a NaN of bf16 loses what it carries.
    Bf16NanCanonical,
}

/// Whether this error was planted in this process.
pub fn planted(error: Planted) -> bool {
    static CHOSEN: OnceLock<Option<Planted>> = OnceLock::new();
    let choose = || {
        let name = std::env::var("IMMA_FAKE_PLANTED").ok()?;
        Some(match name.as_str() {
            "no-swizzle" => Planted::NoSwizzle,
            "wrong-swizzle-bits" => Planted::WrongSwizzleBits,
            "offsets-swapped" => Planted::OffsetsSwapped,
            "no-satfinite" => Planted::NoSatfinite,
            "nan-is-zero" => Planted::NanIsZero,
            "bf16-nan-canonical" => Planted::Bf16NanCanonical,
            // A misspelt error would be a test that can't fail.
            _ => panic!("IMMA_FAKE_PLANTED={name}: no such error"),
        })
    };
    *CHOSEN.get_or_init(choose) == Some(error)
}
