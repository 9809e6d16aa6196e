//! Images that were compiled before, by what they were made from.
//!
//! ```text
//! NAME-HASH_OF_RECIPE.image = "imma-image 1 RECIPE_BYTES IMAGE_BYTES HASH\n" recipe image
//!                                                                   of both
//! ```
//!
//! An entry is written beside its place and renamed into it, so that nobody reads half of one and two builds at once do
//! no harm; it is used when its lengths and hash are right and it was made by the very recipe asked for.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, fs, io, process};

const MAGIC: &str = "imma-image 1";

/// A folder of images.
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// `IMMA_IMAGE_CACHE`, or a folder beside cargo's profiles, which all of them share.
    pub fn open() -> Self {
        // Not declared to cargo: where an image is kept changes nothing about it.
        if let Some(folder) = env::var_os("IMMA_IMAGE_CACHE").filter(|folder| !folder.is_empty()) {
            return Self::at(Path::new(&folder));
        }
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        let triple = env::var_os("TARGET").unwrap_or_default();
        Self::at(&target_folder(&out, Path::new(&triple)).join("imma-images"))
    }

    /// The images of a folder, which is made when the first is kept.
    pub fn at(folder: &Path) -> Self {
        Cache {
            folder: folder.into(),
        }
    }

    fn place(&self, name: &str, recipe: &str) -> PathBuf {
        let hash = fnv(&[recipe.as_bytes()]);
        self.folder.join(format!("{name}-{hash:032x}.image"))
    }

    /// The image that the recipe gave earlier; none if there is no whole one.
    pub fn find(&self, name: &str, recipe: &str) -> Option<Vec<u8>> {
        let entry = fs::read(self.place(name, recipe)).ok()?;
        let end = entry.iter().position(|byte| *byte == b'\n')?;
        let (head, rest) = (&entry[..end], &entry[end + 1..]);
        let (made_from, image) = rest.split_at_checked(recipe.len())?;
        let whole = head == Self::head(recipe, image).as_bytes();
        (whole && made_from == recipe.as_bytes()).then(|| image.to_vec())
    }

    /// Keeps an image for the next who asks.
    pub fn keep(&self, name: &str, recipe: &str, image: &[u8]) -> io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(&self.folder)?;
        let place = self.place(name, recipe);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let beside = place.with_extension(format!("{}-{number}.part", process::id()));
        let head = Self::head(recipe, image) + "\n";
        let written = fs::write(
            &beside,
            [head.as_bytes(), recipe.as_bytes(), image].concat(),
        )
        .and_then(|()| fs::rename(&beside, &place));
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    }

    fn head(recipe: &str, image: &[u8]) -> String {
        let hash = fnv(&[recipe.as_bytes(), image]);
        format!("{MAGIC} {} {} {hash:032x}", recipe.len(), image.len())
    }
}

/// The folder that holds the profiles of every target: `OUT_DIR` is TARGET_FOLDER[/TRIPLE]/PROFILE/build/.../out.
fn target_folder<'a>(out: &'a Path, triple: &Path) -> &'a Path {
    let build = out.ancestors().find(|folder| folder.ends_with("build"));
    let Some(above) = build.and_then(|build| build.parent()?.parent()) else {
        return out;
    };
    match above.parent() {
        Some(parent) if above.ends_with(triple) && triple.as_os_str() != "" => parent,
        _ => above,
    }
}

/// FNV-1a of 128 bits: std's hashes may change from one release to the next.
pub fn fnv(parts: &[&[u8]]) -> u128 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    bytes.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b)
    })
}
