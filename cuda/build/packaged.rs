//! Images that come with the crate, so that it builds without nvcc: `.ci/package` puts them into the package.
//!
//! ```text
//! cuda/images/manifest          imma-images 1
//!                               toolkit 13000
//!                               archs 80 86 89 90a 100 120
//!                               image NAME SOURCE_HASH FATBIN_HASH FATBIN_BYTES ENTRY...      a line a cuda/NAME.cu
//! cuda/images/NAME.fatbin.zst
//! ```
//!
//! Every build that compiles writes such a manifest beside what nvcc made. Images are taken when every source of the crate
//! has one and hashes to what its image was made from; otherwise the build stops.

use super::cache::fnv;
use super::sources;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::{fs, str};

const MAGIC: &str = "imma-images 1";
/// The list of images in its folder.
pub const MANIFEST: &str = "manifest";

/// One source's image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `X` of `cuda/X.cu`.
    pub name: String,
    /// Where the fatbin is, not compressed.
    pub fatbin: PathBuf,
    /// The kernels in it.
    pub entries: Vec<String>,
}

/// All that a build embeds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// The compiler's version: 13000 for 13.0.
    pub toolkit: u32,
    /// In order of number.
    pub archs: Vec<String>,
    /// In order of name.
    pub images: Vec<Image>,
}

/// A line of the manifest.
struct Entry {
    source: u128,
    fatbin: u128,
    bytes: u64,
    entries: Vec<String>,
}

/// The manifest of images that were compiled from these sources.
pub fn manifest(images: &Images, sources: &[PathBuf]) -> Result<String, String> {
    let mut text = format!("{MAGIC}\ntoolkit {}\n", images.toolkit);
    let _ = writeln!(text, "archs {}", images.archs.join(" "));
    for (image, source) in images.images.iter().zip(sources) {
        let bytes =
            fs::read(&image.fatbin).map_err(|e| format!("{}: {e}", image.fatbin.display()))?;
        let _ = writeln!(
            text,
            "image {} {:032x} {:032x} {} {}",
            image.name,
            sources::hash(source)?,
            fnv(&[&bytes]),
            bytes.len(),
            image.entries.join(" ")
        );
    }
    Ok(text)
}

/// The images of a folder, unpacked into another; none where the folder has no manifest.
///
/// # Errors
/// If they are not those of the sources, or damaged.
pub fn unpack(folder: &Path, sources: &[PathBuf], to: &Path) -> Result<Option<Images>, String> {
    let place = folder.join(MANIFEST);
    let Ok(text) = fs::read_to_string(&place) else {
        return Ok(None);
    };
    let (mut images, mut listed) =
        parse(&text).ok_or_else(|| format!("{}: not a manifest of images", place.display()))?;
    for source in sources {
        let name = sources::name(source)?;
        let entry = listed.remove(name).ok_or_else(|| {
            format!(
                "{} has no image of {}: {REMEDY}",
                folder.display(),
                source.display()
            )
        })?;
        if entry.source != sources::hash(source)? {
            return Err(format!(
                "the image of {name} in {} was not made from this {} and the headers that it includes: {REMEDY}",
                folder.display(),
                source.display()
            ));
        }
        images.images.push(unpack_one(folder, name, entry, to)?);
    }
    match listed.keys().next() {
        Some(name) => Err(format!(
            "{} has an image of {name}, and the crate no such source: {REMEDY}",
            folder.display()
        )),
        None => Ok(Some(images)),
    }
}

const REMEDY: &str = "take the published crate as it is, or set IMMA_NVCC to compile";

fn unpack_one(folder: &Path, name: &str, entry: Entry, to: &Path) -> Result<Image, String> {
    let fatbin = to.join(name).with_extension("fatbin");
    let right = |bytes: &[u8]| bytes.len() as u64 == entry.bytes && fnv(&[bytes]) == entry.fatbin;
    if !fs::read(&fatbin).is_ok_and(|there| right(&there)) {
        let packed = folder.join(name).with_extension("fatbin.zst");
        let compressed = fs::read(&packed).map_err(|e| format!("{}: {e}", packed.display()))?;
        let bytes = decompress(&compressed, entry.bytes)
            .filter(|bytes| right(bytes))
            .ok_or_else(|| format!("{} is damaged: {REMEDY}", packed.display()))?;
        fs::write(&fatbin, bytes).map_err(|e| format!("{}: {e}", fatbin.display()))?;
    }
    Ok(Image {
        name: name.into(),
        fatbin,
        entries: entry.entries,
    })
}

/// What was compressed, if it is that long.
fn decompress(compressed: &[u8], bytes: u64) -> Option<Vec<u8>> {
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(compressed).ok()?;
    let mut out = Vec::new();
    // One byte more than expected tells a longer one.
    (&mut decoder)
        .take(bytes.checked_add(1)?)
        .read_to_end(&mut out)
        .ok()?;
    Some(out)
}

fn parse(text: &str) -> Option<(Images, BTreeMap<String, Entry>)> {
    let mut lines = text.lines();
    if lines.next()? != MAGIC {
        return None;
    }
    let mut images = Images {
        toolkit: lines.next()?.strip_prefix("toolkit ")?.parse().ok()?,
        ..Images::default()
    };
    let archs = lines.next()?.strip_prefix("archs ")?;
    images.archs = archs.split(' ').map(Into::into).collect();
    let mut listed = BTreeMap::new();
    for line in lines {
        let mut words = line.strip_prefix("image ")?.split(' ');
        let name = words.next()?.to_owned();
        let mut hash = || u128::from_str_radix(words.next()?, 16).ok();
        let (source, fatbin) = (hash()?, hash()?);
        let entry = Entry {
            source,
            fatbin,
            bytes: words.next()?.parse().ok()?,
            entries: words.map(Into::into).collect(),
        };
        if entry.entries.is_empty() || listed.insert(name, entry).is_some() {
            return None;
        }
    }
    Some((images, listed))
}
