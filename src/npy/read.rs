//! Arrays out of `.npy` files, pipes and members of archives.

use super::header::{self, Header, Kind, Stored};
use super::{NpyArray, NpyError};
use crate::files::{describe, of_start, START};
use crate::memory;
use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn, ShapeBuilder};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// Elements that are decoded at a time.
const PART: usize = 1 << 14;

/// What is read, in errors.
const KINDS: &str = "int8, float16, bfloat16, float32 or float64";

/// Reads one array from a file or a pipe.
///
/// # Errors
/// When the file is missing, is not a `.npy` file, is shorter or longer than its header says, does not fit into memory,
/// or holds a type that the [module](crate::npy) does not list.
pub fn read(path: impl AsRef<Path>) -> Result<NpyArray, NpyError> {
    read_with_note(path).map(|(array, _)| array)
}

/// [`read`], and what was done to the elements where the file holds them in another form: `float64 values were rounded
/// to float32`.
///
/// # Errors
/// As [`read`].
///
/// ```
/// # let path = std::env::temp_dir().join(format!("imma-doc-{}.npy", std::process::id()));
/// # ndarray_npy::write_npy(&path, &ndarray::arr1(&[0.1f64])).unwrap();
/// let (array, note) = imma::npy::read_with_note(&path)?;
/// assert_eq!((array.dtype(), array.shape()), ("float32", &[1][..]));
/// assert_eq!(note, Some("float64 values were rounded to float32"));
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<(), imma::npy::NpyError>(())
/// ```
pub fn read_with_note(
    path: impl AsRef<Path>,
) -> Result<(NpyArray, Option<&'static str>), NpyError> {
    let path = path.as_ref();
    let unreadable = |e: io::Error| NpyError::new(path, describe(&e), "a readable .npy file");
    let file = File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if meta.is_dir() {
        return Err(NpyError::new(path, "a folder", "a .npy file"));
    }
    // A pipe has no length, and neither have the files that the system makes up as they are read.
    let len = (meta.is_file() && meta.len() > 0).then_some(meta.len());
    parse(path, BufReader::new(file), len)
}

/// Reads an array of `len` bytes, header included, where that is known; `path` is where they come from.
pub(crate) fn parse(
    path: &Path,
    mut reader: impl Read,
    len: Option<u64>,
) -> Result<(NpyArray, Option<&'static str>), NpyError> {
    let mut start = [0; START];
    let held = fill(&mut reader, &mut start)
        .map_err(|e| NpyError::new(path, describe(&e), "a readable .npy file"))?;
    let start = &start[..held];
    if !start.starts_with(b"\x93NUMPY") {
        return Err(recognised(path, start, "a .npy file"));
    }
    let mut reader = start.chain(reader);
    let (header, offset) = header::read(&mut reader, len)
        .map_err(|found| NpyError::new(path, found, "a .npy file of version 1, 2 or 3"))?;
    let stored = Stored::of(&header.descr)
        .map_err(|name| NpyError::new(path, format!("elements of type {name}"), KINDS))?;
    let source = Source {
        path,
        reader,
        data: len.map(|len| len - offset),
        header,
        stored,
    };
    Ok((source.array()?, stored.note()))
}

/// The refusal of a file that does not start as `expected` does.
pub(crate) fn recognised(path: &Path, start: &[u8], expected: &str) -> NpyError {
    match of_start(start) {
        Some(other) => NpyError::new(path, other.found, other.instead_of(expected)),
        None => NpyError::new(
            path,
            format!("a file that does not start as {expected} does"),
            expected,
        ),
    }
}

/// Reads until the buffer is full or nothing more comes.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut held = 0;
    while held < buffer.len() {
        match reader.read(&mut buffer[held..]) {
            Ok(0) => break,
            Ok(come) => held += come,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(held)
}

/// An array's bytes, and what is known of them.
struct Source<'a, R> {
    path: &'a Path,
    reader: R,
    /// Bytes of data that there are, where that is known.
    data: Option<u64>,
    header: Header,
    stored: Stored,
}

impl<R: Read> Source<'_, R> {
    fn array(mut self) -> Result<NpyArray, NpyError> {
        let big = self.stored.big_endian;
        let order2 = move |b: [u8; 2]| if big { [b[1], b[0]] } else { b };
        let order4 = move |mut b: [u8; 4]| {
            if big {
                b.reverse();
            }
            b
        };
        match self.stored.kind {
            Kind::I8 => self.read(|[b]: [u8; 1]| Ok(b as i8)).map(NpyArray::I8),
            Kind::F16 => {
                let decode = |b| Ok(f16::from_le_bytes(order2(b)));
                self.read(decode).map(NpyArray::F16)
            }
            Kind::BF16 => {
                let decode = |b| Ok(bf16::from_le_bytes(order2(b)));
                self.read(decode).map(NpyArray::BF16)
            }
            Kind::F32 => {
                let decode = |b| Ok(f32::from_le_bytes(order4(b)));
                self.read(decode).map(NpyArray::F32)
            }
            Kind::F64 => {
                let decode = |mut b: [u8; 8]| {
                    if big {
                        b.reverse();
                    }
                    let wide = f64::from_le_bytes(b);
                    let narrow = wide as f32;
                    match narrow.is_infinite() && wide.is_finite() {
                        true => Err(wide),
                        false => Ok(narrow),
                    }
                };
                self.read(decode).map(NpyArray::F32)
            }
        }
    }

    fn refuse(&self, found: impl Into<String>, expected: impl Into<String>) -> NpyError {
        NpyError::new(self.path, found, expected)
    }

    /// `N bytes for shape [..] of float32`.
    fn wanted(&self, bytes: Option<u64>) -> String {
        let bytes = bytes.map_or("more bytes than can be addressed".into(), |b| {
            format!("{b} bytes")
        });
        let kind = self.stored.kind.name();
        format!("{bytes} for shape {:?} of {kind}", self.header.shape)
    }

    /// Reads the elements; `decode` answers a value that has no place in the array's type.
    fn read<const SIZE: usize, T>(
        &mut self,
        decode: impl Fn([u8; SIZE]) -> Result<T, f64>,
    ) -> Result<ArrayD<T>, NpyError> {
        let count = |n: u64, d: &usize| n.checked_mul(*d as u64);
        let elements = self.header.shape.iter().try_fold(1, count);
        let bytes = elements.and_then(|n: u64| n.checked_mul(self.stored.kind.size()));
        let elements = match (elements, bytes, self.data) {
            (Some(elements), Some(bytes), held) if held.is_none_or(|held| held == bytes) => {
                elements
            }
            (.., Some(held)) => {
                return Err(self.refuse(format!("{held} bytes of data"), self.wanted(bytes)))
            }
            (.., None) => return Err(self.refuse("a pipe", self.wanted(None))),
        };
        let data = self.elements(elements, decode)?;
        self.shaped(data)
    }

    fn elements<const SIZE: usize, T>(
        &mut self,
        elements: u64,
        decode: impl Fn([u8; SIZE]) -> Result<T, f64>,
    ) -> Result<Vec<T>, NpyError> {
        let mut data = Vec::new();
        if self.data.is_some() {
            self.reserve(&mut data, elements)?;
        }
        let mut part = vec![0; PART * SIZE];
        while (data.len() as u64) < elements {
            let left = elements - data.len() as u64;
            let want = left.min(PART as u64) as usize * SIZE;
            let held = fill(&mut self.reader, &mut part[..want])
                .map_err(|e| self.refuse(describe(&e), "a readable .npy file"))?;
            if held < want {
                let found = (data.len() * SIZE + held) as u64;
                let wanted = self.wanted(Some(elements * SIZE as u64));
                return Err(self.refuse(format!("{found} bytes of data"), wanted));
            }
            if data.capacity() - data.len() < want / SIZE {
                // From a pipe: room for what has come, and as much again.
                let more = (data.len() as u64).max(PART as u64);
                self.reserve(&mut data, left.min(more))?;
            }
            for element in part[..held].as_chunks().0 {
                data.push(decode(*element).map_err(|wide| {
                    self.refuse(
                        format!("{wide:e} among float64 values"),
                        "values in the range of float32",
                    )
                })?);
            }
        }
        let more = fill(&mut self.reader, &mut [0])
            .map_err(|e| self.refuse(describe(&e), "a readable .npy file"))?;
        match more {
            0 => Ok(data),
            _ => {
                let bytes = elements * SIZE as u64;
                let found = format!("more than {bytes} bytes of data");
                Err(self.refuse(found, self.wanted(Some(bytes))))
            }
        }
    }

    /// Room for more elements; or one sentence.
    fn reserve<T>(&self, data: &mut Vec<T>, more: u64) -> Result<(), NpyError> {
        let bytes = (data.len() as u64 + more).saturating_mul(size_of::<T>() as u64);
        let refuse = |free: Option<u64>| {
            let free = free.map_or(String::new(), |free| format!(": {free} bytes are free"));
            self.refuse(
                format!("an array of {bytes} bytes"),
                format!("one that fits into memory{free}"),
            )
        };
        memory::fits(bytes).map_err(|free| refuse(Some(free)))?;
        let more = usize::try_from(more).map_err(|_| refuse(None))?;
        data.try_reserve_exact(more)
            .map_err(|_| refuse(memory::free()))
    }

    fn shaped<T>(&self, data: Vec<T>) -> Result<ArrayD<T>, NpyError> {
        let shape = IxDyn(&self.header.shape).set_f(self.header.fortran);
        // An empty array's other axes may be longer than memory.
        ArrayD::from_shape_vec(shape, data).map_err(|_| {
            self.refuse(
                format!("shape {:?}", self.header.shape),
                "a shape that can be addressed",
            )
        })
    }
}
