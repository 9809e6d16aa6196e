//! The header of a `.npy` file: a Python dictionary in text.

use std::io::Read;

/// The longest header that is read. numpy itself warns from 10,000 bytes on.
const LONGEST: u64 = 1 << 20;

/// What a header says.
pub(super) struct Header {
    pub descr: String,
    pub fortran: bool,
    pub shape: Vec<usize>,
}

/// How elements lie in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub kind: Kind,
    pub big_endian: bool,
}

/// An element type that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    I8,
    F16,
    BF16,
    F32,
    F64,
}

impl Kind {
    /// Bytes of an element in the file.
    pub fn size(self) -> u64 {
        match self {
            Kind::I8 => 1,
            Kind::F16 | Kind::BF16 => 2,
            Kind::F32 => 4,
            Kind::F64 => 8,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::I8 => "int8",
            Kind::F16 => "float16",
            Kind::BF16 => "bfloat16",
            Kind::F32 => "float32",
            Kind::F64 => "float64",
        }
    }
}

impl Stored {
    /// What is done to the elements on the way in, if anything.
    pub fn note(self) -> Option<&'static str> {
        match (self.kind, self.big_endian) {
            (Kind::F64, false) => Some("float64 values were rounded to float32"),
            (Kind::F64, true) => Some("big-endian float64 values were rounded to float32"),
            (_, true) => Some("big-endian values were read in their own byte order"),
            (_, false) => None,
        }
    }

    /// The type that a description names; or else what to call it.
    pub fn of(descr: &str) -> Result<Self, String> {
        let descr = plain(descr);
        let (order, code) = match descr.as_bytes().first() {
            Some(b'<' | b'>' | b'|' | b'=') => descr.split_at(1),
            _ => ("", descr),
        };
        let kind = match code {
            "i1" => Kind::I8,
            "f2" => Kind::F16,
            "f4" => Kind::F32,
            "f8" => Kind::F64,
            // numpy has no bfloat16; that of ml_dtypes is written as two bytes without a meaning.
            "V2" | "bfloat16" => Kind::BF16,
            _ => return Err(name(descr, order, code)),
        };
        // One byte has no order; "=" is the writer's own, which is this machine's wherever files are not carried.
        let big_endian = match order {
            ">" => kind.size() > 1,
            "=" => cfg!(target_endian = "big") && kind.size() > 1,
            _ => false,
        };
        Ok(Stored { kind, big_endian })
    }
}

/// `[('', '<V2')]`, the description of `ml_dtypes`' types as a structure of one nameless field, is `<V2`.
fn plain(descr: &str) -> &str {
    let text = descr.trim();
    let field = text.strip_prefix("[('', '");
    let field = field.and_then(|field| field.split_once('\''));
    match field {
        Some((field, ")]" | "),]" | "), ]")) => field,
        _ => text,
    }
}

/// numpy's name of a type that is not read.
fn name(descr: &str, order: &str, code: &str) -> String {
    if descr.starts_with('[') {
        return "a structure of fields".into();
    }
    let kind = match code {
        "u1" => "uint8",
        "i2" => "int16",
        "u2" => "uint16",
        "i4" => "int32",
        "u4" => "uint32",
        "i8" => "int64",
        "u8" => "uint64",
        "f16" => "float128",
        "b1" => "bool",
        "c8" => "complex64",
        "c16" => "complex128",
        "O" => "Python objects",
        "V1" => "'V1' (one byte without a meaning: ml_dtypes' float8 or int4)",
        _ => {
            let shown: String = descr.chars().take(80).collect();
            return format!("'{}'", shown.replace(char::is_control, "?"));
        }
    };
    match order {
        ">" if !code.ends_with('1') => format!("big-endian {kind}"),
        _ => kind.into(),
    }
}

/// The header and the offset of the data; or else what was found, worded as the object of "found".
pub(super) fn read(reader: &mut impl Read, file_len: Option<u64>) -> Result<(Header, u64), String> {
    let short = |_| "a truncated header".to_string();
    let mut start = [0u8; 8];
    reader.read_exact(&mut start).map_err(short)?;
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
    if file_len.is_some_and(|file_len| offset + len > file_len) {
        return Err("a truncated header".into());
    }
    if len > LONGEST {
        return Err(format!("a header of {len} bytes"));
    }
    let mut text = vec![0u8; len as usize];
    reader.read_exact(&mut text).map_err(short)?;
    // Versions 1 and 2 are latin-1, version 3 is UTF-8; beyond ASCII there are names of fields alone.
    let text = String::from_utf8_lossy(&text);
    let header = parse(&text).ok_or_else(|| {
        let shown: String = text.trim().chars().take(80).collect();
        format!("the header {shown:?}")
    })?;
    Ok((header, offset + len))
}

/// Parses `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse(text: &str) -> Option<Header> {
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
        '[' => descr[..=descr.find(']')?].to_string(),
        _ => descr.split(',').next()?.to_string(),
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
        .map(length)
        .collect::<Option<Vec<_>>>()?;
    Some(Header {
        descr,
        fortran,
        shape,
    })
}

/// An axis's length; Python 2 wrote long integers as `5L`.
fn length(text: &str) -> Option<usize> {
    text.strip_suffix('L').unwrap_or(text).parse().ok()
}
