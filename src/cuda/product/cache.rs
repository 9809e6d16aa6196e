//! Measured choices, kept in a small text file.
//!
//! ```text
//! imma choices 4
//! key NVIDIA H200, driver 13000, imma 0.1.0
//! 4096 4096 8192 bf16-token>bf16 -> igemm_sm80:128x256x64 151.25 160.5
//! ```
//!
//! An entry is M, N and K, the types and parts of the product, the fastest instance, the median of its run in microseconds,
//! and that of the heuristic's choice. A file with another key, or one that can't be read to its end, counts as none, and so
//! does one of an earlier number: until 3 a run was timed on an idle stream, so that the host's time was in it.

use super::instance::Instance;
use super::problem::Problem;
use crate::cuda::runtime::Properties;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

const FIRST: &str = "imma choices 4";

/// The product that an entry is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct CacheKey {
    /// Rows of the left operand.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// The contracted dimension.
    pub k: usize,
    /// Types and parts, in one word: `bf16-token>bf16+bf16`.
    pub kind: String,
}

impl CacheKey {
    /// That of a problem.
    pub fn of(problem: &Problem) -> Self {
        CacheKey {
            m: problem.m,
            n: problem.n,
            k: problem.k,
            kind: problem.kind(),
        }
    }
}

/// The fastest of what was measured for a product.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Measured {
    /// Who multiplied.
    pub instance: Instance,
    /// The median of its run, in microseconds.
    pub microseconds: f64,
    /// The same of the heuristic's choice: never less.
    pub heuristic: f64,
}

/// Choices that autotuning measured on one device.
#[derive(Debug, Clone, PartialEq)]
pub struct ChoiceCache {
    key: String,
    entries: BTreeMap<CacheKey, Measured>,
}

impl ChoiceCache {
    /// An empty one for a device.
    pub fn new(properties: &Properties) -> Self {
        let name = properties.name.replace(['\n', '\r'], " ");
        ChoiceCache {
            key: format!(
                "{name}, driver {}, imma {}",
                properties.driver,
                env!("CARGO_PKG_VERSION")
            ),
            entries: BTreeMap::new(),
        }
    }

    /// Where it is kept: `IMMA_CHOICES`, else `imma/choices-NAME.txt` in the user's cache folder; `None` where there
    /// is neither.
    pub fn path(properties: &Properties) -> Option<PathBuf> {
        if let Some(path) = env::var_os("IMMA_CHOICES") {
            return Some(path.into());
        }
        let folder = match env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
            Some(folder) => PathBuf::from(folder),
            None => PathBuf::from(env::var_os("HOME")?).join(".cache"),
        };
        let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String = properties.name.chars().map(letter).collect();
        Some(folder.join("imma").join(format!("choices-{name}.txt")))
    }

    /// Reads a file for a device. A missing file is an empty cache; a damaged or foreign one too, with the reason.
    pub fn load(path: &Path, properties: &Properties) -> (Self, Option<String>) {
        let empty = Self::new(properties);
        match fs::read_to_string(path) {
            Ok(text) => match empty.clone().parse(&text) {
                Ok(cache) => (cache, None),
                Err(why) => (empty, Some(format!("{} is ignored: {why}", path.display()))),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => (empty, None),
            Err(e) => (empty, Some(format!("{} is ignored: {e}", path.display()))),
        }
    }

    fn parse(mut self, text: &str) -> Result<Self, String> {
        // A file that was cut off ends in the middle of a line.
        if !text.ends_with('\n') {
            return Err("it is cut off".into());
        }
        let mut lines = text.lines();
        if lines.next() != Some(FIRST) {
            return Err(format!("its first line is not '{FIRST}'"));
        }
        let key = lines.next().and_then(|line| line.strip_prefix("key "));
        let key = key.ok_or("its second line names no key")?;
        if key != self.key {
            return Err(format!(
                "it was measured on '{key}', this is '{}'",
                self.key
            ));
        }
        for (number, line) in lines.enumerate() {
            let (key, measured) =
                entry(line).ok_or_else(|| format!("line {} is no entry", number + 3))?;
            self.entries.insert(key, measured);
        }
        Ok(self)
    }

    /// What was measured for a product.
    pub fn get(&self, key: &CacheKey) -> Option<Measured> {
        self.entries.get(key).copied()
    }

    /// Remembers a measurement.
    pub fn insert(&mut self, key: CacheKey, measured: Measured) {
        self.entries.insert(key, measured);
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn text(&self) -> String {
        let mut text = format!("{FIRST}\nkey {}\n", self.key);
        for (CacheKey { m, n, k, kind }, measured) in &self.entries {
            let Measured {
                instance,
                microseconds,
                heuristic,
            } = measured;
            let _ = writeln!(
                text,
                "{m} {n} {k} {kind} -> {instance} {microseconds} {heuristic}"
            );
        }
        text
    }

    /// Writes the file whole or not at all: beside its place first, then moved there.
    ///
    /// Two processes that write at once leave one's file, not a mixture.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}.new", std::process::id()));
        let fresh = PathBuf::from(fresh);
        let result = fs::write(&fresh, self.text()).and_then(|()| fs::rename(&fresh, path));
        if result.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        result
    }
}

fn entry(line: &str) -> Option<(CacheKey, Measured)> {
    let (key, value) = line.split_once(" -> ")?;
    let mut words = key.split(' ');
    let mut next = || words.next()?.parse::<usize>().ok();
    let key = CacheKey {
        m: next()?,
        n: next()?,
        k: next()?,
        kind: words.next().filter(|kind| !kind.is_empty())?.into(),
    };
    if words.next().is_some() {
        return None;
    }
    let mut words = value.split(' ');
    let instance: Instance = words.next()?.parse().ok()?;
    let mut next = || {
        let us: f64 = words.next()?.parse().ok()?;
        (us.is_finite() && us >= 0.0).then_some(us)
    };
    let measured = Measured {
        instance,
        microseconds: next()?,
        heuristic: next()?,
    };
    words.next().is_none().then_some((key, measured))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties() -> Properties {
        Properties {
            name: "A, GPU".into(),
            capability: (9, 0),
            multiprocessors: 132,
            shared_memory: 0,
            l2: 0,
            driver: 13000,
            ..Properties::default()
        }
    }

    fn filled() -> ChoiceCache {
        let mut cache = ChoiceCache::new(&properties());
        for (m, candidate) in [(1, 0), (4096, 2)] {
            let key = CacheKey {
                m,
                n: 8,
                k: 16,
                kind: "i8-by16>i32".into(),
            };
            let measured = Measured {
                instance: Instance::CublasLt(candidate),
                microseconds: 1.5,
                heuristic: 2.25,
            };
            cache.insert(key, measured);
        }
        cache
    }

    #[test]
    fn what_is_saved_is_read_again_by_the_same_device_only() {
        let folder = env::temp_dir().join(format!("imma-choices-{}", std::process::id()));
        let path = folder.join("deep").join("choices.txt");
        let (empty, warning) = ChoiceCache::load(&path, &properties());
        assert!(empty.is_empty() && warning.is_none());
        filled().save(&path).unwrap();
        let (cache, warning) = ChoiceCache::load(&path, &properties());
        assert_eq!((cache, warning), (filled(), None));
        // Nothing else is left beside it.
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        for other in [
            Properties {
                name: "B".into(),
                ..properties()
            },
            Properties {
                driver: 12080,
                ..properties()
            },
        ] {
            let (cache, warning) = ChoiceCache::load(&path, &other);
            assert!(cache.is_empty());
            assert!(warning
                .unwrap()
                .contains("it was measured on 'A, GPU, driver 13000"));
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_damaged_file_counts_as_none() {
        let text = filled().text();
        let parse = |text: &str| ChoiceCache::new(&properties()).parse(text);
        assert_eq!(parse(&text), Ok(filled()));
        for end in 0..text.len() {
            // Cut after a whole line, what is left is a whole file.
            let whole = text[..end].ends_with('\n') && text[..end].lines().count() >= 2;
            assert_eq!(parse(&text[..end]).is_ok(), whole, "cut at {end}");
        }
        for (from, to) in [
            ("choices 4", "choices 3"),
            ("imma 0", "imma 9"),
            ("->", "=>"),
            ("4096", "many"),
            ("i32", "i32 i32"),
            ("cublaslt:2", "cublaslt:x"),
            ("cublaslt:2", "autotuned"),
            ("1.5", "NaN"),
            (" 2.25", ""),
            ("2.25", "2.25 3"),
        ] {
            assert!(
                parse(&text.replacen(from, to, 1)).is_err(),
                "{from} -> {to}"
            );
        }
    }
}
