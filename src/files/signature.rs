//! What a file is by its first bytes, for messages about files that stand where another kind was expected.

/// Bytes of a file's start that recognising it takes.
pub(crate) const START: usize = 512;

/// A file that was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signature {
    /// What it is, as the object of "found".
    pub found: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

impl Signature {
    /// Whether it has the header of a safetensors file, damaged or not.
    #[cfg(feature = "safetensors")]
    pub fn is_safetensors(&self) -> bool {
        *self == SAFETENSORS
    }

    /// What was expected in place of this file, and what to do: `a .npy file: decompress it first`.
    pub fn instead_of(&self, expected: &str) -> String {
        format!("{expected}: {}", self.remedy)
    }
}

const fn signature(found: &'static str, remedy: &'static str) -> Signature {
    Signature { found, remedy }
}

const AGAIN: &str = "download the file again";
const TORCH: &str =
    "load it with torch.load and write its tensors with safetensors.torch.save_file";
const DECOMPRESS: &str = "decompress it first";

const SAFETENSORS: Signature = signature("a safetensors file", "give it where a model is expected");

/// Files that always start with these bytes.
const FIXED: &[(&[u8], Signature)] = &[
    (
        b"version https://git-lfs.github.com/spec/",
        signature(
            "a git-lfs pointer, which stands for a file that was not downloaded",
            "run `git lfs pull` in its repository, or download the file itself",
        ),
    ),
    (
        b"# xet version",
        signature(
            "a git-xet pointer, which stands for a file that was not downloaded",
            "run `git xet checkout` in its repository, or download the file itself",
        ),
    ),
    (
        b"GGUF",
        signature(
            "a GGUF file (llama.cpp)",
            "take the model's safetensors files",
        ),
    ),
    (
        b"\x93NUMPY",
        signature("a .npy file", "give it where an array is expected"),
    ),
    (
        b"\x89HDF\r\n\x1a\n",
        signature(
            "an HDF5 file (Keras .h5)",
            "take the model's safetensors files",
        ),
    ),
    (b"\x1f\x8b", signature("a gzip file", DECOMPRESS)),
    (b"\x28\xb5\x2f\xfd", signature("a zstd file", DECOMPRESS)),
    (b"\xfd7zXZ\x00", signature("an xz file", DECOMPRESS)),
    (b"BZh", signature("a bzip2 file", DECOMPRESS)),
    (
        b"7z\xbc\xaf\x27\x1c",
        signature("a 7z archive", "unpack it first"),
    ),
    (
        b"PAR1",
        signature("a Parquet file", "export its columns with numpy.save"),
    ),
    // The magic number of torch.save before PyTorch 1.6, as a pickled integer.
    (
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
        signature("a PyTorch file (torch.save before version 1.6)", TORCH),
    ),
];

/// The kind of the file that starts with these bytes, the first [`START`] of it or all; `None` when they say nothing.
pub(crate) fn of_start(start: &[u8]) -> Option<Signature> {
    if start.is_empty() {
        return Some(signature("an empty file", AGAIN));
    }
    let fixed = FIXED.iter().find(|(bytes, _)| start.starts_with(bytes));
    if let Some((_, signature)) = fixed {
        return Some(*signature);
    }
    match start {
        [b'P', b'K', 3 | 5, 4 | 6, ..] => Some(zip(start)),
        // The opcode PROTO with the versions there are, then a frame, a mark, an empty container or a global.
        [0x80, 2..=5, 0x95 | b'(' | b'}' | b']' | b'c' | b'X' | 0x8a | 0x8c, ..] => {
            Some(signature("a Python pickle (PyTorch's .pt or .bin)", TORCH))
        }
        // A header's length, then its JSON.
        _ if is_safetensors(start) => Some(SAFETENSORS),
        _ if start.len() >= 262 && &start[257..262] == b"ustar" => {
            Some(signature("a tar archive", "unpack it first"))
        }
        _ if start.len() >= 64 && start.iter().all(|b| *b == 0) => Some(signature(
            "a file that begins with zeros only, as an unfinished download does",
            AGAIN,
        )),
        _ => text(start),
    }
}

fn is_safetensors(start: &[u8]) -> bool {
    let Some((length, rest)) = start.split_first_chunk::<8>() else {
        return false;
    };
    u64::from_le_bytes(*length) < 1 << 30 && rest.starts_with(b"{\"")
}

/// A zip archive by the name of its first member.
fn zip(start: &[u8]) -> Signature {
    let length = start
        .get(26..28)
        .map_or(0, |b| usize::from(b[0]) | usize::from(b[1]) << 8);
    let name = start.get(30..(30 + length).min(start.len())).unwrap_or(&[]);
    if name.ends_with(b"data.pkl") || name.ends_with(b".format_version") {
        return signature("a PyTorch file (torch.save, a zip archive)", TORCH);
    }
    if name.ends_with(b".npy") {
        return signature(
            "an .npz archive",
            "write each of its arrays with numpy.save",
        );
    }
    signature("a zip archive", "unpack it first")
}

fn text(start: &[u8]) -> Option<Signature> {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let start = start.trim_ascii_start();
    let begins = |with: &str| {
        let head = start.get(..with.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(with.as_bytes()))
    };
    if ["<!doctype html", "<html", "<head", "<body"]
        .iter()
        .any(|t| begins(t))
    {
        return Some(signature(
            "an HTML page, as servers send in place of a file",
            "download the file itself: its address may need a login or another form",
        ));
    }
    if begins("<?xml") {
        return Some(signature(
            "an XML document, as servers send in place of a file",
            AGAIN,
        ));
    }
    let printable = |b: &u8| b.is_ascii_graphic() || b" \t\r\n".contains(b);
    if start.len() >= 8 && start.iter().all(printable) {
        let json = start.starts_with(b"{\"") || start.starts_with(b"[");
        return Some(match json {
            true => signature("JSON text, as servers send in place of a file", AGAIN),
            false => signature("plain text", AGAIN),
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_first_bytes() {
        let member = |name: &str| {
            let mut start = b"PK\x03\x04".to_vec();
            start.resize(26, 0);
            start.extend((name.len() as u16).to_le_bytes());
            start.extend([0, 0]);
            start.extend(name.as_bytes());
            start
        };
        let mut tar = vec![b'x'; 257];
        tar.extend(b"ustar\x0000");
        let mut safetensors = 40u64.to_le_bytes().to_vec();
        safetensors.extend(b"{\"__metadata__\":{}}");
        let cases: &[(&[u8], &str)] = &[
            (b"", "empty"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
                "git-lfs",
            ),
            (b"# xet version 0\n", "git-xet"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"\x93NUMPY\x01\0", ".npy"),
            (b"\n  <!DOCTYPE HTML>", "HTML"),
            (b"\xef\xbb\xbf<html lang=en>", "HTML"),
            (b"<?xml version=1?>", "XML"),
            (b"{\"error\": \"Repository not found\"}", "JSON"),
            (b"Entry not found", "plain text"),
            (&member("archive/data.pkl"), "PyTorch"),
            (&member("data.npy"), ".npz"),
            (&member("readme"), "a zip archive"),
            (b"PK\x05\x06", "a zip archive"),
            (
                b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02",
                "before version 1.6",
            ),
            (b"\x80\x04\x95\x10", "pickle"),
            (b"\x80\x02}q\0", "pickle"),
            (b"\x89HDF\r\n\x1a\n", "HDF5"),
            (b"\x1f\x8b\x08", "gzip"),
            (&tar, "tar"),
            (&safetensors, "a safetensors file"),
            (&[0; 64], "unfinished"),
        ];
        for (start, part) in cases {
            let found = of_start(start).map(|s| s.found);
            assert!(found.is_some_and(|f| f.contains(part)), "{part}: {found:?}");
        }
        // Nothing is made of bytes that say nothing.
        for start in [&b"\x01"[..], &[0xff; 64], b"\x80\x02", b"abc"] {
            assert_eq!(of_start(start), None, "{start:?}");
        }
    }
}
