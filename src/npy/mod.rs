//! `.npy` and `.npz` files: typed arrays in, arrays out, nothing half written.
//!
//! | numpy's type | read as | |
//! |---|---|---|
//! | int8, float16, float32 | itself | |
//! | bfloat16 of `ml_dtypes` (numpy writes it as `<V2`) | bfloat16 | written as `<V2` too |
//! | float64 | float32, rounded to nearest even; a finite value beyond float32's range is refused | with a note |
//! | big-endian forms of these | the same values | with a note |
//!
//! Anything else is refused by its name. C and Fortran order, any rank, headers of Python 2 and 3, versions 1 to 3. From
//! a regular file the header is checked against the file's length before anything is allocated; from a pipe memory
//! grows as bytes come, so that a damaged or hostile file costs nothing.
//!
//! Written: beside the target under a temporary name, then renamed over it; see [`files`](crate::files).
//!
//! The format is that of numpy's `numpy.lib.format`.

mod header;
mod read;
mod write;

pub(crate) use read::{parse, recognised};
pub use read::{read, read_with_note};
pub use write::{write, write_npz};

use crate::files::WriteRefused;
use half::{bf16, f16};
use ndarray::ArrayD;
use std::path::{Path, PathBuf};

/// Why a file could not be read or written: one sentence that names it, what was found and what was expected.
#[derive(Debug, thiserror::Error)]
#[error("{}: found {found}, expected {expected}", path.display())]
pub struct NpyError {
    /// The file.
    pub path: PathBuf,
    /// What was found.
    pub found: String,
    /// What was expected.
    pub expected: String,
}

impl NpyError {
    pub(crate) fn new(path: &Path, found: impl Into<String>, expected: impl Into<String>) -> Self {
        NpyError {
            path: path.into(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    fn of_write(path: &Path, refused: WriteRefused) -> Self {
        NpyError::new(path, refused.found, refused.expected)
    }
}

/// An array of a type that this crate multiplies.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum NpyArray {
    /// int8, `|i1`.
    I8(ArrayD<i8>),
    /// float16, `<f2`.
    F16(ArrayD<f16>),
    /// bfloat16, `<V2`.
    BF16(ArrayD<bf16>),
    /// float32, `<f4`.
    F32(ArrayD<f32>),
}

impl NpyArray {
    /// The array's shape.
    pub fn shape(&self) -> &[usize] {
        match self {
            NpyArray::I8(a) => a.shape(),
            NpyArray::F16(a) => a.shape(),
            NpyArray::BF16(a) => a.shape(),
            NpyArray::F32(a) => a.shape(),
        }
    }

    /// numpy's name of the element type.
    pub fn dtype(&self) -> &'static str {
        match self {
            NpyArray::I8(_) => "int8",
            NpyArray::F16(_) => "float16",
            NpyArray::BF16(_) => "bfloat16",
            NpyArray::F32(_) => "float32",
        }
    }
}

/// An element type that can be written to files.
pub trait NpyElement: Copy {
    /// numpy's description of the type, little-endian.
    const DESCR: &'static str;
    /// Appends the element's bytes, little-endian.
    fn put(self, out: &mut Vec<u8>);
}

macro_rules! element {
    ($($t:ty => $descr:literal),*) => {$(
        impl NpyElement for $t {
            const DESCR: &'static str = $descr;
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
element!(i8 => "|i1", i32 => "<i4", f16 => "<f2", bf16 => "<V2", f32 => "<f4");

#[cfg(test)]
mod tests;
