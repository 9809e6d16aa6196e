//! One kernel source to one fatbin.

use super::cache::Cache;
use super::nvcc::Nvcc;
use super::out_dir;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::{env, fs};

/// What nvcc made of one source.
pub struct Image {
    pub name: String,
    pub fatbin: PathBuf,
    pub entries: Vec<String>,
}

/// Whether a source uses what only `90a` has.
pub fn is_sm90(source: &Path) -> bool {
    source
        .file_stem()
        .and_then(OsStr::to_str)
        .is_some_and(|name| name.ends_with("_sm90"))
}

/// Every source, as many at a time as cargo grants jobs; the images are in the order of the sources.
pub fn compile_all(
    nvcc: &Nvcc,
    sources: &[PathBuf],
    archs: &[String],
) -> Result<Vec<Image>, String> {
    let jobs: usize = env::var("NUM_JOBS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(2);
    let workers = jobs.clamp(1, sources.len().max(1));
    let threads = (jobs / workers).max(1);
    let cache = Cache::open();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = image(&cache, nvcc, source, archs, threads);
                    results
                        .lock()
                        .expect("no worker panics")
                        .push((source, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no worker panics");
    results.sort_by_key(|(source, _)| *source);
    results.into_iter().map(|(_, result)| result).collect()
}

/// One source's image, from the cache where nvcc made it before.
fn image(
    cache: &Cache,
    nvcc: &Nvcc,
    source: &Path,
    archs: &[String],
    threads: usize,
) -> Result<Image, String> {
    let name = source
        .file_stem()
        .and_then(OsStr::to_str)
        .ok_or_else(|| format!("{}: not a UTF-8 name", source.display()))?
        .to_owned();
    let options = options(source, archs)?;
    let recipe = recipe(nvcc, &options, source)?;
    let fatbin = out_dir().join(&name).with_extension("fatbin");
    let bytes = match cache.find(&name, &recipe) {
        Some(bytes) => bytes,
        None => {
            compile(nvcc, &options, source, &fatbin, threads)?;
            let bytes = fs::read(&fatbin).map_err(|e| format!("{}: {e}", fatbin.display()))?;
            // A build without a place to keep images still has them.
            if let Err(error) = cache.keep(&name, &recipe, &bytes) {
                println!("cargo::warning=the image of {name} is not kept: {error}");
            }
            bytes
        }
    };
    if !fs::read(&fatbin).is_ok_and(|there| there == bytes) {
        fs::write(&fatbin, &bytes).map_err(|e| format!("{}: {e}", fatbin.display()))?;
    }
    let entries = entries(&fatbin, &bytes)?;
    Ok(Image {
        name,
        fatbin,
        entries,
    })
}

/// nvcc's options, but for what says where files are and how many threads it takes.
fn options(source: &Path, archs: &[String]) -> Result<Vec<String>, String> {
    let host = cc::Build::new()
        .cpp(true)
        .try_get_compiler()
        .map_err(|e| e.to_string())?;
    let mut options: Vec<String> = [
        "-fatbin",
        "-no-compress",
        "-std=c++17",
        "-O3",
        // Every float step is spelled out in the source; nothing may be fused or flushed.
        "-fmad=false",
        "-ftz=false",
        "-prec-div=true",
        "-prec-sqrt=true",
        "-Werror",
        "all-warnings",
        "-Xptxas",
        "-warn-spills",
        "-ccbin",
    ]
    .map(String::from)
    .to_vec();
    options.push(host.path().display().to_string());
    // Source lines for profilers and sanitizers; they triple the images.
    if env::var_os("IMMA_CUDA_LINEINFO").is_some() {
        options.push("-lineinfo".into());
    }
    let only = [String::from("90a")];
    let archs = if is_sm90(source) { &only } else { archs };
    for (i, arch) in archs.iter().enumerate() {
        // The lowest also as PTX, in the clear: a newer device compiles it, the emulator reads it.
        let ptx = if i == 0 {
            format!(",compute_{arch}")
        } else {
            String::new()
        };
        options.push(format!(
            "-gencode=arch=compute_{arch},code=[sm_{arch}{ptx}]"
        ));
    }
    Ok(options)
}

/// All that an image depends on, as text: compiler, options, the source and the headers of ours that it includes. The
/// compiler's own headers come with the compiler, which its banner names to the build.
fn recipe(nvcc: &Nvcc, options: &[String], source: &Path) -> Result<String, String> {
    let mut recipe = format!("{}\n{options:?}\n", nvcc.banner);
    if env::var_os("IMMA_CUDA_LINEINFO").is_some() {
        // Source lines name the files by where they are.
        let here = env::current_dir().map_err(|e| e.to_string())?;
        recipe += &format!("{}\n", here.display());
    }
    for file in included(source)? {
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        recipe += &format!("{} {}\n{text}\n", file.display(), text.len());
    }
    Ok(recipe)
}

/// A source and every file that it includes by a name in quotes, whatever the conditions around the line.
fn included(source: &Path) -> Result<BTreeSet<PathBuf>, String> {
    let (mut found, mut open) = (BTreeSet::new(), vec![source.to_owned()]);
    while let Some(file) = open.pop() {
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        if !found.insert(file) {
            continue;
        }
        for line in text.lines() {
            let directive = line.trim_start().strip_prefix('#').map(str::trim_start);
            let named = directive.and_then(|d| d.strip_prefix("include"));
            let named = named.and_then(|name| name.trim_start().strip_prefix('"'));
            if let Some((name, _)) = named.and_then(|name| name.split_once('"')) {
                open.push(folder.join(name));
            }
        }
    }
    Ok(found)
}

fn compile(
    nvcc: &Nvcc,
    options: &[String],
    source: &Path,
    fatbin: &Path,
    threads: usize,
) -> Result<(), String> {
    let output = Command::new(&nvcc.path)
        .args(options)
        .arg(format!("--threads={threads}"))
        .arg("-o")
        .args([fatbin, source])
        .output()
        .map_err(|e| format!("{}: {e}", nvcc.path.display()))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        // A cargo message is one line each.
        for line in said.lines() {
            println!("cargo::warning={line}");
        }
        return Err(format!("nvcc refused {}", source.display()));
    }
    // ptxas calls a wgmma pipeline that it serialises, or a setmaxnreg that it ignores, information.
    let bad = |line: &&str| line.contains("warning") || line.contains("Performance Loss");
    for line in said.lines().filter(bad) {
        println!("cargo::warning={line}");
    }
    Ok(())
}

/// The names of the kernels, from the PTX that the fatbin holds in the clear.
fn entries(fatbin: &Path, bytes: &[u8]) -> Result<Vec<String>, String> {
    let text = String::from_utf8_lossy(bytes);
    let mut names: Vec<String> = text
        .split(".visible .entry ")
        .skip(1)
        .filter_map(|after| Some(after.split_once('(')?.0.trim().to_owned()))
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(format!("{} holds no readable PTX", fatbin.display()));
    }
    Ok(names)
}
