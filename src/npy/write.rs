//! Arrays into `.npy` files and `.npz` archives.

use super::{NpyElement, NpyError};
use crate::files::{self, Sink};
use ndarray::ArrayViewD;
use ndarray_npy::{NpzWriter, WriteNpzError};
use std::io::{self, Write};
use std::path::Path;

/// Writes the header (padded to 64 bytes, as numpy does) and the data in C order.
fn write_array<T: NpyElement>(array: ArrayViewD<'_, T>, to: &mut impl Write) -> io::Result<()> {
    let dims: Vec<_> = array.shape().iter().map(|d| format!("{d},")).collect();
    let mut header = format!(
        "{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}",
        T::DESCR,
        dims.join(" ")
    );
    // Version 1 holds the header's length in 16 bits: enough for a thousand dimensions.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.extend(std::iter::repeat_n(' ', padded - 1 - header.len()));
    header.push('\n');
    // A part at a time, so that a large array is not in memory twice.
    const PART: usize = 1 << 16;
    let mut out = Vec::with_capacity(PART + header.len());
    out.extend_from_slice(b"\x93NUMPY\x01\x00");
    out.extend_from_slice(&(padded as u16).to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    for x in array {
        if out.len() >= PART {
            to.write_all(&out)?;
            out.clear();
        }
        x.put(&mut out);
    }
    to.write_all(&out)
}

/// Writes one array, as [`files::write`] writes: whole or not at all, through links, into devices and pipes.
///
/// # Errors
/// When the path cannot be written; then neither the file nor a part of it is there, and an old one is unchanged.
pub fn write<T: NpyElement>(
    path: impl AsRef<Path>,
    array: ArrayViewD<'_, T>,
) -> Result<(), NpyError> {
    let path = path.as_ref();
    files::write(path, |out| write_array(array, out)).map_err(|e| NpyError::of_write(path, e))
}

/// Writes an `.npz` archive, whose members `fill` adds.
///
/// # Errors
/// As [`write()`].
pub fn write_npz(
    path: impl AsRef<Path>,
    fill: impl FnOnce(&mut NpzWriter<Sink>) -> Result<(), WriteNpzError>,
) -> Result<(), NpyError> {
    let path = path.as_ref();
    let written = files::write_seekable(path, |sink| {
        let mut archive = NpzWriter::new(sink);
        fill(&mut archive).map_err(io::Error::other)?;
        archive.finish().map_err(io::Error::other)
    });
    written.map_err(|e| NpyError::of_write(path, e))
}
