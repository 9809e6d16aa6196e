//! One kernel source to one fatbin.

use super::archs::HOPPER;
use super::cache::Cache;
use super::nvcc::Nvcc;
use super::out_dir;
use super::packaged::Image;
use super::sources;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::{env, fs};

/// When set, a warning of nvcc's is an error: for those who write kernels, not for those who use them.
pub const DENY_WARNINGS: &str = "IMMA_CUDA_DENY_WARNINGS";

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
    // The longest first, so that no core waits for another's at the end: Hopper's takes a minute, other GEMMs half of it.
    let mut queue: Vec<&PathBuf> = sources.iter().collect();
    let is_gemm = |source: &Path| sources::name(source).is_ok_and(|n| n.starts_with("igemm"));
    queue.sort_by_key(|source| (!sources::is_sm90(source), !is_gemm(source)));
    let cache = Cache::open();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(source) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
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
    results.sort_by_key(|(source, _)| **source);
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
    let name = sources::name(source)?.to_owned();
    let host = host_compiler()?;
    let options = options(&host, source, archs);
    let recipe = recipe(nvcc, &options, source)?;
    // Images that nvcc warned about are kept apart: a build that denies warnings makes them anew.
    let with_warnings = format!("{recipe}compiled with warnings\n");
    let fatbin = out_dir().join(&name).with_extension("fatbin");
    check_length(&fatbin, cfg!(windows))?;
    let deny = env::var_os(DENY_WARNINGS).is_some_and(|value| !value.is_empty());
    let kept = cache.find(&name, &recipe);
    let bytes = match kept.or_else(|| cache.find(&name, &with_warnings).filter(|_| !deny)) {
        Some(bytes) => bytes,
        None => {
            let clean = compile(nvcc, &host, &options, source, &fatbin, threads)?;
            if !clean && deny {
                return Err(format!(
                    "nvcc warned about {}, which {DENY_WARNINGS} denies",
                    source.display()
                ));
            }
            let bytes = fs::read(&fatbin).map_err(|e| format!("{}: {e}", fatbin.display()))?;
            // A build without a place to keep images still has them.
            let recipe = if clean { &recipe } else { &with_warnings };
            if let Err(error) = cache.keep(&name, recipe, &bytes) {
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

/// The compiler whose preprocessor and headers nvcc uses.
fn host_compiler() -> Result<cc::Tool, String> {
    cc::Build::new()
        .cpp(true)
        .try_get_compiler()
        .map_err(|e| e.to_string())
}

/// What nvcc says to a path that is longer is no help.
fn check_length(path: &Path, windows: bool) -> Result<(), String> {
    const LONGEST: usize = 259;
    let length = path.as_os_str().len();
    if windows && length > LONGEST {
        return Err(format!(
            "{} has {length} characters, and nvcc takes {LONGEST} on Windows: set CARGO_TARGET_DIR to a folder with a short name",
            path.display()
        ));
    }
    Ok(())
}

/// nvcc's options, but for what says where files are and how many threads it takes.
fn options(host: &cc::Tool, source: &Path, archs: &[String]) -> Vec<String> {
    let mut options: Vec<String> = sources::OPTIONS.map(String::from).to_vec();
    options.extend(["-ccbin".into(), host.path().display().to_string()]);
    if host.is_like_msvc() {
        // The kernels' macros are written for a preprocessor that follows the standard.
        options.extend(["-Xcompiler", "/Zc:preprocessor"].map(String::from));
    }
    // Source lines for profilers and sanitizers; they triple the images.
    if env::var_os("IMMA_CUDA_LINEINFO").is_some() {
        options.push("-lineinfo".into());
    }
    let only = [String::from(HOPPER)];
    let archs = if sources::is_sm90(source) {
        &only
    } else {
        archs
    };
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
    options
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
    Ok(recipe + &sources::text(source)?)
}

/// Whether nvcc made the image without a warning.
fn compile(
    nvcc: &Nvcc,
    host: &cc::Tool,
    options: &[String],
    source: &Path,
    fatbin: &Path,
    threads: usize,
) -> Result<bool, String> {
    let output = Command::new(&nvcc.path)
        // MSVC finds its own parts by variables.
        .envs(host.get_envs())
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
    let warnings: Vec<_> = said.lines().filter(bad).collect();
    for line in &warnings {
        println!("cargo::warning={line}");
    }
    Ok(warnings.is_empty())
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
