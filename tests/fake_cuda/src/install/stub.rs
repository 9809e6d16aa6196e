//! The smallest shared library: it has a name, needs another library, and holds nothing.
//!
//! The dynamic linker knows a loaded library by its SONAME, of which it has one. Programs ask for the
//! driver and for cuBLASLt under several names; a stub for each leads them all to one loaded emulator,
//! because `dlsym` on a stub searches the libraries that it needs.

const PAGE: u64 = 0x10000;
const HEADER_BYTES: u64 = 64;
const SEGMENT_BYTES: u64 = 56;

#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;
#[cfg(not(target_arch = "aarch64"))]
const MACHINE: u16 = 62;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_GNU_STACK: u32 = 0x6474_E551;
const READ_WRITE: u32 = 4 | 2;

const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_SYMENT: u64 = 11;
const DT_SONAME: u64 = 14;

/// Bytes of a 64-bit little-endian ELF library called `name` that needs the library `needed`.
pub fn library(name: &str, needed: &str) -> Vec<u8> {
    let mut strings = vec![0];
    let mut place = |text: &str| {
        let at = strings.len() as u64;
        strings.extend(text.as_bytes());
        strings.push(0);
        at
    };
    let (name, needed) = (place(name), place(needed));

    // header | 3 segments | dynamic | hash | symbol 0 | strings
    let dynamic_at = HEADER_BYTES + 3 * SEGMENT_BYTES;
    let dynamic_bytes = 8 * 16;
    let hash_at = dynamic_at + dynamic_bytes;
    let symbols_at = hash_at + 16;
    let strings_at = symbols_at + 24;
    let end = strings_at + strings.len() as u64;
    let dynamic = [
        (DT_SONAME, name),
        (DT_NEEDED, needed),
        (DT_HASH, hash_at),
        (DT_STRTAB, strings_at),
        (DT_SYMTAB, symbols_at),
        (DT_STRSZ, strings.len() as u64),
        (DT_SYMENT, 24),
        (DT_NULL, 0),
    ];

    let mut out = header();
    segment(&mut out, PT_LOAD, 0, end, PAGE);
    segment(&mut out, PT_DYNAMIC, dynamic_at, dynamic_bytes, 8);
    segment(&mut out, PT_GNU_STACK, 0, 0, 16);
    for (tag, value) in dynamic {
        out.extend(tag.to_le_bytes());
        out.extend(value.to_le_bytes());
    }
    // One bucket, one symbol, both empty.
    for word in [1u32, 1, 0, 0] {
        out.extend(word.to_le_bytes());
    }
    out.extend([0; 24]);
    out.extend(strings);
    out
}

fn header() -> Vec<u8> {
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    for half in [3, MACHINE] {
        out.extend(half.to_le_bytes());
    }
    out.extend(1u32.to_le_bytes());
    for word in [0, HEADER_BYTES, 0] {
        out.extend(word.to_le_bytes()); // entry, segments, sections
    }
    out.extend(0u32.to_le_bytes());
    for half in [HEADER_BYTES as u16, SEGMENT_BYTES as u16, 3, 64, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    out
}

fn segment(out: &mut Vec<u8>, kind: u32, at: u64, bytes: u64, align: u64) {
    out.extend(kind.to_le_bytes());
    out.extend(READ_WRITE.to_le_bytes());
    for word in [at, at, at, bytes, bytes, align] {
        out.extend(word.to_le_bytes());
    }
}
