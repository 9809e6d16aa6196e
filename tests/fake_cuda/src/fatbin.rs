//! Finds the PTX for a device in what `cuModuleLoadData` is given.
//!
//! ```text
//! fatbin   magic BA55ED50  u16 version  u16 header bytes  u64 bytes that follow
//! entry*   u16 kind (1 PTX, 2 ELF)  u16 version  u32 header bytes  u64 padded payload bytes
//!          u32 packed bytes  u32 options at  u16 minor  u16 major  u32 arch  u32 name at
//!          u32 name bytes  u64 flags  u64 -  u64 unpacked bytes  [options]  payload
//! ```
use thiserror::Error;

/// First word of a fatbin.
pub const MAGIC: u32 = 0xBA55_ED50;
/// First word of the struct that host compilers put in front of a fatbin: the third field points at it.
pub const WRAPPER_MAGIC: u32 = 0x4662_43B1;
const HEADER: usize = 16;
const ENTRY_HEADER: usize = 64;

const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
/// Code for this very architecture (`sm_90a`).
const FLAG_ARCH_SPECIFIC: u64 = 0x10_0000;

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// PTX text.
    Ptx,
    /// A cubin.
    Elf,
    /// Something else, by its number.
    Other(u16),
}

/// How an entry's payload is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Plain,
    /// One LZ4 block.
    Lz4,
    /// One zstd frame.
    Zstd,
}

/// One program in a fatbin.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    /// PTX or machine code.
    pub kind: Kind,
    /// Architecture: 80, 90.
    pub arch: u32,
    /// Runs on this architecture only (the `a` of `sm_90a`).
    pub arch_specific: bool,
    packing: Packing,
    unpacked: usize,
    payload: &'a [u8],
}

/// A container that can't be read, or without what the device needs.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FatbinError {
    /// A header that does not fit the bytes or the format.
    #[error("fatbin: {0}")]
    Malformed(String),
    /// Nothing in it runs here.
    #[error("fatbin without PTX for compute capability {device}: it holds {found}; compile with `-gencode arch=compute_XX,code=[sm_XX,compute_XX]`")]
    NoPtx {
        /// The device's.
        device: u32,
        /// What there is.
        found: String,
    },
}

fn malformed(text: impl Into<String>) -> FatbinError {
    FatbinError::Malformed(text.into())
}

/// A little-endian number at an offset.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64, FatbinError> {
    let field = bytes
        .get(at..at + N)
        .ok_or_else(|| malformed("ends inside a header"))?;
    let mut word = [0; 8];
    word[..N].copy_from_slice(field);
    Ok(u64::from_le_bytes(word))
}

/// The whole size of the fatbin that starts with these 16 bytes.
///
/// # Errors
/// No fatbin, or of another version.
pub fn total_bytes(header: &[u8]) -> Result<usize, FatbinError> {
    let (magic, version) = (number::<4>(header, 0)?, number::<2>(header, 4)?);
    if magic != u64::from(MAGIC) || version != 1 {
        return Err(malformed(format!(
            "magic {magic:#x} version {version}, want {MAGIC:#x} version 1"
        )));
    }
    let (head, body) = (number::<2>(header, 6)?, number::<8>(header, 8)?);
    if head < HEADER as u64 || body > 1 << 32 {
        return Err(malformed(format!("header of {head} bytes, body of {body}")));
    }
    Ok((head + body) as usize)
}

/// The programs in a fatbin, in file order.
///
/// # Errors
/// A header that contradicts itself or the length.
pub fn images(bytes: &[u8]) -> Result<Vec<Image<'_>>, FatbinError> {
    let end = total_bytes(bytes)?;
    let bytes = bytes
        .get(..end)
        .ok_or_else(|| malformed(format!("says {end} bytes, has {}", bytes.len())))?;
    let mut at = number::<2>(bytes, 6)? as usize;
    let mut all = Vec::new();
    while at < end {
        let head = number::<4>(bytes, at + 4)? as usize;
        let padded = number::<8>(bytes, at + 8)? as usize;
        if head < ENTRY_HEADER {
            return Err(malformed(format!("entry header of {head} bytes at {at}")));
        }
        let payload = at
            .checked_add(head)
            .and_then(|start| bytes.get(start..start.checked_add(padded)?))
            .ok_or_else(|| malformed(format!("the entry at {at} leaves the file")))?;
        let flags = number::<8>(bytes, at + 40)?;
        let packing = match flags & (FLAG_LZ4 | FLAG_ZSTD) {
            0 => Packing::Plain,
            FLAG_LZ4 => Packing::Lz4,
            FLAG_ZSTD => Packing::Zstd,
            _ => return Err(malformed(format!("flags {flags:#x} name two packings"))),
        };
        let payload = match packing {
            Packing::Plain => payload,
            _ => payload
                .get(..number::<4>(bytes, at + 16)? as usize)
                .ok_or_else(|| malformed("packed bytes leave the entry"))?,
        };
        all.push(Image {
            kind: match number::<2>(bytes, at)? {
                1 => Kind::Ptx,
                2 => Kind::Elf,
                other => Kind::Other(other as u16),
            },
            arch: number::<4>(bytes, at + 28)? as u32,
            arch_specific: flags & FLAG_ARCH_SPECIFIC != 0,
            packing,
            unpacked: number::<8>(bytes, at + 56)? as usize,
            payload,
        });
        at += head + padded;
    }
    Ok(all)
}

impl Image<'_> {
    /// Whether a device of this compute capability can run it, once compiled.
    fn serves(&self, device: u32) -> bool {
        self.arch == device || (self.arch < device && !self.arch_specific)
    }

    /// The payload as text.
    ///
    /// # Errors
    /// Bytes that don't unpack to the size that the header states, or no UTF-8.
    pub fn text(&self) -> Result<String, FatbinError> {
        let mut bytes = match self.packing {
            Packing::Plain => self.payload.to_vec(),
            Packing::Lz4 => lz4_flex::block::decompress(self.payload, self.unpacked)
                .map_err(|e| malformed(format!("LZ4: {e}")))?,
            Packing::Zstd => self.unpack_zstd()?,
        };
        if self.packing != Packing::Plain && bytes.len() != self.unpacked {
            return Err(malformed(format!(
                "unpacks to {} bytes, the header says {}",
                bytes.len(),
                self.unpacked
            )));
        }
        let length = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        bytes.truncate(length);
        String::from_utf8(bytes).map_err(|_| malformed("PTX that is no UTF-8 text"))
    }

    fn unpack_zstd(&self) -> Result<Vec<u8>, FatbinError> {
        let mut out = Vec::with_capacity(self.unpacked);
        ruzstd::decoding::FrameDecoder::new()
            .decode_all_to_vec(self.payload, &mut out)
            .map_err(|e| malformed(format!("zstd: {e}")))?;
        Ok(out)
    }
}

/// The PTX that a driver would compile for a device: of the highest architecture that is not above it.
///
/// # Errors
/// A malformed fatbin, or none with such PTX.
pub fn ptx_for(bytes: &[u8], device: u32) -> Result<String, FatbinError> {
    let all = images(bytes)?;
    let best = all
        .iter()
        .filter(|i| i.kind == Kind::Ptx && i.serves(device))
        .max_by_key(|i| (i.arch, i.arch_specific));
    match best {
        Some(image) => image.text(),
        None => Err(FatbinError::NoPtx {
            device,
            found: describe(&all),
        }),
    }
}

fn describe(all: &[Image<'_>]) -> String {
    let one = |i: &Image<'_>| {
        let suffix = if i.arch_specific { "a" } else { "" };
        match i.kind {
            Kind::Ptx => format!("compute_{}{suffix}", i.arch),
            Kind::Elf => format!("sm_{}{suffix}", i.arch),
            Kind::Other(n) => format!("kind {n}"),
        }
    };
    match all.len() {
        0 => String::from("nothing"),
        _ => all.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fatbin of entries (kind, arch, flags, payload, unpacked size).
    fn fatbin(entries: &[(u16, u32, u64, &[u8], u64)]) -> Vec<u8> {
        let mut body = Vec::new();
        for &(kind, arch, flags, payload, unpacked) in entries {
            let padded = payload.len().next_multiple_of(8);
            body.extend(kind.to_le_bytes());
            body.extend(0x101u16.to_le_bytes());
            body.extend(64u32.to_le_bytes());
            body.extend((padded as u64).to_le_bytes());
            body.extend((payload.len() as u32).to_le_bytes());
            body.extend([0; 8]);
            body.extend(arch.to_le_bytes());
            body.extend([0; 8]);
            body.extend(flags.to_le_bytes());
            body.extend([0; 8]);
            body.extend(unpacked.to_le_bytes());
            body.extend(payload);
            body.resize(body.len() + padded - payload.len(), 0);
        }
        let mut all = MAGIC.to_le_bytes().to_vec();
        all.extend(1u16.to_le_bytes());
        all.extend(16u16.to_le_bytes());
        all.extend((body.len() as u64).to_le_bytes());
        all.extend(body);
        all
    }

    #[test]
    fn the_highest_architecture_that_the_device_has_is_taken() {
        let all = fatbin(&[
            (2, 80, 0x11, b"\x7fELF", 0),
            (1, 80, 0x11, b"eighty\0", 0),
            (1, 86, 0x11, b"eighty-six", 0),
            (1, 90, 0x11 | FLAG_ARCH_SPECIFIC, b"ninety-a", 0),
        ]);
        let of = |device| ptx_for(&all, device).unwrap();
        assert_eq!(of(80), "eighty");
        assert_eq!(of(89), "eighty-six");
        assert_eq!(of(90), "ninety-a");
        assert_eq!(of(100), "eighty-six");
        let error = ptx_for(&all, 75).unwrap_err().to_string();
        assert!(
            error.contains("75") && error.contains("sm_80, compute_80"),
            "{error}"
        );
    }

    #[test]
    fn packed_text_is_unpacked() {
        let text = ".version 9.0 .target sm_80 ".repeat(20);
        let lz4 = lz4_flex::block::compress(text.as_bytes());
        let all = fatbin(&[(1, 80, 0x11 | FLAG_LZ4, &lz4, text.len() as u64)]);
        assert_eq!(ptx_for(&all, 80).unwrap(), text);
        let wrong = fatbin(&[(1, 80, 0x11 | FLAG_LZ4, &lz4, 27)]);
        assert!(ptx_for(&wrong, 80).is_err());
    }

    #[test]
    fn what_nvcc_packs_with_zstd_is_unpacked() {
        let text = ptx_for(include_bytes!("../tests/data/scale_zstd.fatbin"), 90).unwrap();
        let plain = ptx_for(include_bytes!("../tests/data/scale.fatbin"), 90).unwrap();
        assert!(plain.contains(".visible .entry scale("));
        assert_eq!(text, plain);
        let lz4 = ptx_for(include_bytes!("../tests/data/scale_lz4.fatbin"), 90).unwrap();
        assert_eq!(lz4, plain);
    }

    #[test]
    fn broken_containers_are_refused() {
        let good = fatbin(&[(1, 80, 0x11, b"eighty", 0)]);
        for cut in 0..good.len() {
            assert!(images(&good[..cut]).is_err(), "cut at {cut}");
        }
        let mut huge = good.clone();
        huge[24..32].fill(0xff);
        assert!(images(&huge).is_err());
        assert!(ptx_for(&fatbin(&[]), 80).is_err());
    }
}
