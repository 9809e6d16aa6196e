//! `.npy` and `.npz` files: typed arrays in, arrays out, nothing half written.
//!
//! Read: int8, float16, float32, little-endian, C and Fortran order, any rank. numpy has no bfloat16. The header is
//! checked against the file's length before anything is allocated, so that a damaged or hostile file costs nothing.
//! Written: beside the target under a temporary name, then renamed over it.
//!
//! The format is that of numpy's `numpy.lib.format`, versions 1 to 3.

use half::f16;
use ndarray::{ArrayD, ArrayViewD, IxDyn, ShapeBuilder};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
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
}

/// An array of a type that this crate multiplies.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum NpyArray {
    /// int8, `|i1`.
    I8(ArrayD<i8>),
    /// float16, `<f2`.
    F16(ArrayD<f16>),
    /// float32, `<f4`.
    F32(ArrayD<f32>),
}

impl NpyArray {
    /// The array's shape.
    pub fn shape(&self) -> &[usize] {
        match self {
            NpyArray::I8(a) => a.shape(),
            NpyArray::F16(a) => a.shape(),
            NpyArray::F32(a) => a.shape(),
        }
    }

    /// numpy's name of the element type.
    pub fn dtype(&self) -> &'static str {
        match self {
            NpyArray::I8(_) => "int8",
            NpyArray::F16(_) => "float16",
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
element!(i8 => "|i1", i32 => "<i4", f16 => "<f2", f32 => "<f4");

/// What a header says.
struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<usize>,
}

/// Reads one array.
///
/// # Errors
/// When the file is missing, is not a `.npy` file, is shorter or longer than its header says, or holds another type.
pub fn read(path: impl AsRef<Path>) -> Result<NpyArray, NpyError> {
    let path = path.as_ref();
    let unreadable = |e: io::Error| NpyError::new(path, describe(&e), "a readable .npy file");
    let file = File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if meta.is_dir() {
        return Err(NpyError::new(path, "a folder", "a .npy file"));
    }
    parse(path, BufReader::new(file), meta.len())
}

/// Reads an array of `len` bytes, header included; `path` is where they come from.
pub(crate) fn parse(path: &Path, mut reader: impl Read, len: u64) -> Result<NpyArray, NpyError> {
    let unreadable = |e: io::Error| NpyError::new(path, describe(&e), "a readable .npy file");
    let (header, offset) = read_header(&mut reader, len)
        .map_err(|found| NpyError::new(path, found, "a .npy file of version 1, 2 or 3"))?;
    let size = match header.descr.as_str() {
        "|i1" | "<i1" | "i1" => 1,
        "<f2" => 2,
        "<f4" => 4,
        other => {
            return Err(NpyError::new(
                path,
                format!("elements of type {}", dtype_name(other)),
                "int8, float16 or float32 (little-endian)",
            ))
        }
    };
    let bytes = header
        .shape
        .iter()
        .try_fold(size as u64, |n, d| n.checked_mul(*d as u64));
    let held = len - offset;
    let bytes = match bytes {
        Some(bytes) if bytes == held => bytes as usize,
        wanted => {
            let wanted = wanted.map_or("more bytes than can be addressed".into(), |b| {
                format!("{b} bytes")
            });
            return Err(NpyError::new(
                path,
                format!("{held} bytes of data"),
                format!(
                    "{wanted} for shape {:?} of {}",
                    header.shape,
                    dtype_name(&header.descr)
                ),
            ));
        }
    };
    let mut data = Vec::new();
    data.try_reserve_exact(bytes).map_err(|_| {
        let found = format!("{bytes} bytes of data");
        NpyError::new(path, found, "an array that fits into memory")
    })?;
    reader.read_to_end(&mut data).map_err(unreadable)?;
    if data.len() != bytes {
        return Err(NpyError::new(
            path,
            format!("{} bytes of data", data.len()),
            format!("{bytes} bytes"),
        ));
    }
    let array = match size {
        1 => shaped(&header, data.iter().map(|b| *b as i8)).map(NpyArray::I8),
        2 => {
            let floats = data.as_chunks().0.iter();
            shaped(&header, floats.map(|b| f16::from_le_bytes(*b))).map(NpyArray::F16)
        }
        _ => {
            let floats = data.as_chunks().0.iter();
            shaped(&header, floats.map(|b| f32::from_le_bytes(*b))).map(NpyArray::F32)
        }
    };
    // An empty array's other axes may be longer than memory.
    array.ok_or_else(|| {
        let found = format!("shape {:?}", header.shape);
        NpyError::new(
            path,
            found,
            "a shape that can be addressed and fits into memory",
        )
    })
}

/// `None` when the shape can't be addressed, or there is no memory.
fn shaped<T>(header: &Header, data: impl ExactSizeIterator<Item = T>) -> Option<ArrayD<T>> {
    let shape = IxDyn(&header.shape).set_f(header.fortran);
    let mut elements = Vec::new();
    elements.try_reserve_exact(data.len()).ok()?;
    elements.extend(data);
    ArrayD::from_shape_vec(shape, elements).ok()
}

/// The header and the offset of the data; or else what was found, worded as the object of "found".
fn read_header(reader: &mut impl Read, file_len: u64) -> Result<(Header, u64), String> {
    let mut start = [0u8; 8];
    reader
        .read_exact(&mut start)
        .map_err(|_| format!("{file_len} bytes, too few for a header"))?;
    if &start[..6] != b"\x93NUMPY" {
        return Err("a file that does not start as a .npy file does".into());
    }
    let short = |_| "a truncated header".to_string();
    let (len, offset) = match start[6] {
        1 => {
            let mut len = [0u8; 2];
            reader.read_exact(&mut len).map_err(short)?;
            (u64::from(u16::from_le_bytes(len)), 10)
        }
        2 | 3 => {
            let mut len = [0u8; 4];
            reader.read_exact(&mut len).map_err(short)?;
            (u64::from(u32::from_le_bytes(len)), 12)
        }
        other => return Err(format!("format version {other}")),
    };
    if offset + len > file_len {
        return Err("a truncated header".into());
    }
    let mut text = vec![0u8; len as usize];
    reader.read_exact(&mut text).map_err(short)?;
    let text = String::from_utf8(text).map_err(|_| "a header that is not text".to_string())?;
    let header = parse_header(&text).ok_or_else(|| {
        format!(
            "the header {:?}",
            text.trim().chars().take(80).collect::<String>()
        )
    })?;
    Ok((header, offset + len))
}

/// Parses `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse_header(text: &str) -> Option<Header> {
    let value = |key: &str| {
        let quoted = [format!("'{key}'"), format!("\"{key}\"")];
        let at = quoted
            .iter()
            .find_map(|q| text.find(q.as_str()).map(|i| i + q.len()))?;
        Some(text[at..].trim_start().strip_prefix(':')?.trim_start())
    };
    let descr = value("descr")?;
    let descr = match descr.chars().next()? {
        quote @ ('\'' | '"') => descr[1..].split(quote).next()?.to_string(),
        // A structured type.
        _ => descr.split(", 'fortran").next()?.to_string(),
    };
    let fortran = value("fortran_order")?;
    let fortran = if fortran.starts_with("True") {
        true
    } else if fortran.starts_with("False") {
        false
    } else {
        return None;
    };
    let shape = value("shape")?.strip_prefix('(')?;
    let shape = &shape[..shape.find(')')?];
    let shape = shape
        .split(',')
        .map(str::trim)
        .filter(|d| !d.is_empty())
        .map(|d| d.parse::<usize>().ok())
        .collect::<Option<Vec<_>>>()?;
    Some(Header {
        descr,
        fortran,
        shape,
    })
}

/// numpy's name of a description, for messages.
fn dtype_name(descr: &str) -> String {
    let kind = match descr.trim_start_matches(['<', '>', '|', '=']) {
        "i1" => "int8",
        "u1" => "uint8",
        "i2" => "int16",
        "i4" => "int32",
        "i8" => "int64",
        "f2" => "float16",
        "f4" => "float32",
        "f8" => "float64",
        "b1" => "bool",
        "c8" => "complex64",
        _ => return format!("'{descr}'"),
    };
    match descr.as_bytes().first() {
        Some(b'>') => format!("big-endian {kind}"),
        _ => kind.into(),
    }
}

pub(crate) fn describe(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::PermissionDenied => "no permission".into(),
        _ => e.to_string(),
    }
}

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

/// Writes one array.
///
/// # Errors
/// When the folder cannot be written; then neither the file nor a part of it is there, and an old one is unchanged.
pub fn write<T: NpyElement>(
    path: impl AsRef<Path>,
    array: ArrayViewD<'_, T>,
) -> Result<(), NpyError> {
    write_atomically(path.as_ref(), |out| write_array(array, out))
}

/// Writes an `.npz` archive, whose members `fill` adds.
///
/// # Errors
/// As [`write()`].
pub fn write_npz(
    path: impl AsRef<Path>,
    fill: impl FnOnce(
        &mut ndarray_npy::NpzWriter<io::Cursor<Vec<u8>>>,
    ) -> Result<(), ndarray_npy::WriteNpzError>,
) -> Result<(), NpyError> {
    write_atomically(path.as_ref(), |out| {
        // An archive is written with seeks; it is built in memory, as its members are.
        let mut archive = ndarray_npy::NpzWriter::new(io::Cursor::new(Vec::new()));
        fill(&mut archive).map_err(io::Error::other)?;
        let bytes = archive.finish().map_err(io::Error::other)?;
        out.write_all(bytes.get_ref())
    })
}

/// Writes beside the target, then renames over it; on failure nothing is left.
fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), NpyError> {
    let refuse = |e: io::Error| NpyError::new(path, describe(&e), "a path that can be written");
    let name = path.file_name().filter(|_| !path.is_dir());
    let Some(name) = name else {
        return Err(NpyError::new(
            path,
            "a folder",
            "the path of a file to write",
        ));
    };
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}.part", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = File::create(&beside).and_then(|file| {
        let mut out = BufWriter::new(file);
        fill(&mut out)?;
        out.flush()?;
        drop(out);
        std::fs::rename(&beside, path)
    });
    written.map_err(|e| {
        // Best effort: the first failure is the one to report.
        let _ = std::fs::remove_file(&beside);
        refuse(e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{arr2, Array1};

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("imma-npy-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn arrays_come_back_as_they_were_written() {
        let dir = folder("round");
        let path = dir.join("a.npy");
        let a = arr2(&[[1i8, -128, 3], [4, 5, 127]]).into_dyn();
        write(&path, a.view()).unwrap();
        assert_eq!(read(&path).unwrap(), NpyArray::I8(a));
        let f = Array1::from_vec(vec![1.5f32, f32::NEG_INFINITY]).into_dyn();
        write(&path, f.view()).unwrap();
        assert_eq!(read(&path).unwrap(), NpyArray::F32(f));
        let h = Array1::from_vec(vec![f16::from_f32(0.1)]).into_dyn();
        write(&path, h.view()).unwrap();
        assert_eq!(read(&path).unwrap(), NpyArray::F16(h));
        // Larger than the parts in which it is written.
        let a = ndarray::Array2::from_shape_fn((401, 97), |(i, j)| (i * 97 + j) as f32).into_dyn();
        write(&path, a.view()).unwrap();
        assert_eq!(read(&path).unwrap(), NpyArray::F32(a.clone()));
        write(&path, a.t()).unwrap();
        let transposed = a.t().as_standard_layout().into_owned();
        assert_eq!(read(&path).unwrap(), NpyArray::F32(transposed));
        // Another reader agrees, and the temporary file is gone.
        let a = arr2(&[[1i32, 2], [3, 4]]);
        write(&path, a.view().into_dyn()).unwrap();
        assert_eq!(
            ndarray_npy::read_npy::<_, ndarray::Array2<i32>>(&path).unwrap(),
            a
        );
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn hostile_headers_are_refused_before_anything_is_allocated() {
        let dir = folder("hostile");
        let path = dir.join("h.npy");
        let file = |descr: &str, shape: &str, data: &[u8]| {
            let header =
                format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
            let mut out = b"\x93NUMPY\x01\x00".to_vec();
            out.extend_from_slice(&(header.len() as u16).to_le_bytes());
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(data);
            out
        };
        for (bytes, part) in [
            (b"".to_vec(), "0 bytes"),
            (b"not numpy at all".to_vec(), "does not start"),
            (b"\x93NUMPY\x01\x00\xff\xff{".to_vec(), "truncated header"),
            (
                b"\x93NUMPY\x02\x00\xff\xff\xff\xff{".to_vec(),
                "truncated header",
            ),
            (b"\x93NUMPY\x09\x00\x00\x00".to_vec(), "format version 9"),
            (
                file("<f4", "(2, 2)", &[0; 15]),
                "found 15 bytes of data, expected 16 bytes",
            ),
            (
                file("<f4", "(2, 2)", &[0; 17]),
                "found 17 bytes of data, expected 16 bytes",
            ),
            (
                file("<f4", "(99999999999, 99999999999)", &[]),
                "more bytes than can be addressed",
            ),
            (
                file("<f4", "(1000000000000,)", &[0; 4]),
                "found 4 bytes of data",
            ),
            (file("<f4", "(-1,)", &[]), "the header"),
            (file("<f8", "(1,)", &[0; 8]), "float64"),
            (file(">f4", "(1,)", &[0; 4]), "big-endian float32"),
            (file("|O", "(1,)", &[0; 4]), "'|O'"),
        ] {
            std::fs::write(&path, &bytes).unwrap();
            let message = read(&path).unwrap_err().to_string();
            assert!(
                message.contains(part) && message.contains("h.npy"),
                "{message}"
            );
            assert!(!message.contains('\n'), "{message}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn fortran_order_is_read() {
        let dir = folder("fortran");
        let path = dir.join("f.npy");
        let a = arr2(&[[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]]);
        let f = a.t().as_standard_layout().into_owned().reversed_axes();
        ndarray_npy::write_npy(&path, &f).unwrap();
        assert!(std::fs::read(&path)
            .unwrap()
            .windows(4)
            .any(|w| w == b"True"));
        assert_eq!(read(&path).unwrap(), NpyArray::F32(a.into_dyn()));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = folder("failed");
        let path = dir.join("x.npy");
        std::fs::write(&path, b"old").unwrap();
        let e = write_atomically(&path, |_| Err(io::Error::other("disk full"))).unwrap_err();
        assert!(e.to_string().contains("disk full"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        let missing = dir.join("no/such/folder/x.npy");
        assert!(write(&missing, arr2(&[[1i8]]).view().into_dyn())
            .unwrap_err()
            .to_string()
            .contains("no such file"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
