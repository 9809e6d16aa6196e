//! Compiles `cuda/*.cu` into images that the crate embeds. Does nothing without the feature `cuda`.
//!
//! ```text
//! cuda/X.cu --nvcc--> OUT_DIR/X.fatbin (one cubin an architecture, PTX of the lowest) --include_bytes!--> IMAGES
//! cuda/X_sm90.cu     the same for 90a alone, PTX included; left out where 90a is not asked for
//! cuda/params.h --bindgen (feature `bindgen`)--> OUT_DIR/params.rs, whose committed copy is src/cuda/params.rs
//! ```
//!
//! | variable | meaning |
//! |---|---|
//! | `IMMA_NVCC` | the compiler to use |
//! | `IMMA_CUDA_ARCHS` | comma-separated architectures, such as `80,90a` |
//! | `IMMA_CUDA_LINEINFO` | when set, images carry source lines (three times the size) |

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    if let Err(message) = kernels::build() {
        println!("cargo::error={message}");
        std::process::exit(1);
    }
    #[cfg(feature = "bindgen")]
    bindings::generate();
}

#[cfg(any(feature = "cuda", feature = "bindgen"))]
fn out_dir() -> std::path::PathBuf {
    std::env::var_os("OUT_DIR")
        .expect("cargo sets OUT_DIR")
        .into()
}

#[cfg(feature = "cuda")]
mod kernels {
    use std::ffi::OsStr;
    use std::fmt::Write as _;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Mutex;
    use std::time::SystemTime;
    use std::{env, fs};

    /// Architectures when none are asked for, as far as the compiler knows them.
    const DEFAULT_ARCHS: [&str; 6] = ["80", "86", "89", "90a", "100", "120"];

    const REMEDY: &str = "feature `cuda` needs nvcc, which was not found: run `.ci/fetch-nvcc`, or install CUDA 13 and \
        set IMMA_NVCC or CUDA_HOME, or `pip install` one 13.x version of nvidia-cuda-nvcc, nvidia-cuda-runtime, \
        nvidia-cuda-crt, nvidia-cuda-cccl and nvidia-nvvm (no GPU, driver or root needed)";

    pub fn build() -> Result<(), String> {
        for name in [
            "IMMA_NVCC",
            "IMMA_CUDA_ARCHS",
            "IMMA_CUDA_LINEINFO",
            "CUDA_HOME",
            "CUDA_PATH",
            "PATH",
            "DOCS_RS",
        ] {
            println!("cargo::rerun-if-env-changed={name}");
        }
        println!("cargo::rerun-if-changed=cuda");
        let sources = sources()?;
        // docs.rs has no compiler and runs nothing: the images are left out.
        if env::var_os("DOCS_RS").is_some() {
            return write_index(&[], &[], 0);
        }
        let nvcc = Nvcc::find()?;
        let archs = archs(&nvcc)?;
        let sources: Vec<PathBuf> = sources
            .into_iter()
            .filter(|source| !is_sm90(source) || archs.iter().any(|arch| arch == "90a"))
            .collect();
        let images = compile_all(&nvcc, &sources, &archs)?;
        write_index(&images, &archs, nvcc.version)
    }

    /// Every `cuda/*.cu`, in order of name.
    fn sources() -> Result<Vec<PathBuf>, String> {
        let folder = fs::read_dir("cuda").map_err(|e| format!("cuda/: {e}"))?;
        let mut sources: Vec<PathBuf> = folder
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension() == Some(OsStr::new("cu")))
            .collect();
        sources.sort();
        Ok(sources)
    }

    /// Whether a source uses what only `90a` has.
    fn is_sm90(source: &Path) -> bool {
        source
            .file_stem()
            .and_then(OsStr::to_str)
            .is_some_and(|name| name.ends_with("_sm90"))
    }

    struct Nvcc {
        path: PathBuf,
        /// 13000 for 13.0, as the driver counts.
        version: u32,
        /// What `nvcc --version` printed: a new compiler compiles everything anew.
        banner: String,
    }

    impl Nvcc {
        fn find() -> Result<Self, String> {
            if let Some(path) = env::var_os("IMMA_NVCC") {
                return Self::open(Path::new(&path))
                    .ok_or_else(|| format!("IMMA_NVCC={} is not a working nvcc", path.display()));
            }
            let mut candidates = Vec::new();
            for name in ["CUDA_HOME", "CUDA_PATH"] {
                candidates.extend(env::var_os(name).map(|root| Path::new(&root).join("bin/nvcc")));
            }
            if let Some(path) = env::var_os("PATH") {
                candidates.extend(env::split_paths(&path).map(|dir| dir.join("nvcc")));
            }
            candidates.push("/usr/local/cuda/bin/nvcc".into());
            // Where `.ci/fetch-nvcc` puts it.
            candidates.push(".cuda/nvidia/cu13/bin/nvcc".into());
            let found = candidates
                .iter()
                .filter_map(|path| path.canonicalize().ok())
                .find_map(|path| Self::open(&path));
            found.ok_or_else(|| REMEDY.into())
        }

        fn open(path: &Path) -> Option<Self> {
            let output = Command::new(path).arg("--version").output().ok()?;
            let banner = String::from_utf8(output.stdout).ok()?;
            let release = banner.split("release ").nth(1)?.split(',').next()?;
            let (major, minor) = release.trim().split_once('.')?;
            let number = |s: &str| s.parse::<u32>().ok();
            Some(Nvcc {
                path: path.into(),
                version: number(major)? * 1000 + number(minor)? * 10,
                banner,
            })
        }

        /// Names such as `90` for which it can make code.
        fn known(&self) -> Result<Vec<String>, String> {
            let output = Command::new(&self.path)
                .arg("--list-gpu-code")
                .output()
                .map_err(|e| format!("{}: {e}", self.path.display()))?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(text
                .split_whitespace()
                .filter_map(|name| Some(name.strip_prefix("sm_")?.to_owned()))
                .collect())
        }
    }

    /// The number of `90a` is 90.
    fn number(arch: &str) -> u32 {
        arch.trim_end_matches(char::is_alphabetic)
            .parse()
            .unwrap_or(0)
    }

    fn archs(nvcc: &Nvcc) -> Result<Vec<String>, String> {
        let known = nvcc.known()?;
        let knows = |arch: &str| {
            known
                .iter()
                .any(|k| *k == arch || *k == number(arch).to_string())
        };
        let asked = env::var("IMMA_CUDA_ARCHS").unwrap_or_default();
        let mut archs: Vec<String> = if asked.trim().is_empty() {
            DEFAULT_ARCHS
                .into_iter()
                .filter(|arch| knows(arch))
                .map(Into::into)
                .collect()
        } else {
            let asked: Vec<String> = asked.split(',').map(|arch| arch.trim().into()).collect();
            for arch in &asked {
                if number(arch) < 80 || !knows(arch) {
                    return Err(format!(
                        "IMMA_CUDA_ARCHS: '{arch}' is no architecture from 80 on that this nvcc knows ({})",
                        known.join(", ")
                    ));
                }
            }
            asked
        };
        archs.sort_by_key(|arch| number(arch));
        archs.dedup();
        if archs.is_empty() {
            return Err(format!(
                "this nvcc knows none of {}",
                DEFAULT_ARCHS.join(", ")
            ));
        }
        Ok(archs)
    }

    struct Image {
        name: String,
        fatbin: PathBuf,
        entries: Vec<String>,
    }

    fn compile_all(
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
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = compile(nvcc, source, archs, threads);
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

    /// One source to one fatbin, unless an earlier one is newer than everything it was made from.
    fn compile(
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
        let file = |extension: &str| super::out_dir().join(&name).with_extension(extension);
        let (fatbin, depfile, stamp) = (file("fatbin"), file("d"), file("command"));

        let host = cc::Build::new()
            .cpp(true)
            .try_get_compiler()
            .map_err(|e| e.to_string())?;
        let mut command = Command::new(&nvcc.path);
        command
            .args(["-fatbin", "-no-compress", "-std=c++17", "-O3"])
            // Every float step is spelled out in the source; nothing may be fused or flushed.
            .args([
                "-fmad=false",
                "-ftz=false",
                "-prec-div=true",
                "-prec-sqrt=true",
            ])
            .args(["-Werror", "all-warnings", "-Xptxas", "-warn-spills"])
            .arg("-ccbin")
            .arg(host.path())
            .arg(format!("--threads={threads}"));
        // Source lines for profilers and sanitizers; they triple the images.
        if env::var_os("IMMA_CUDA_LINEINFO").is_some() {
            command.arg("-lineinfo");
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
            command.arg(format!(
                "-gencode=arch=compute_{arch},code=[sm_{arch}{ptx}]"
            ));
        }
        command.args(["-MD", "-MF"]).arg(&depfile);
        command.arg("-o").arg(&fatbin).arg(source);

        let stamp_text = format!("{command:?}\n{}", nvcc.banner);
        let fresh = fs::read_to_string(&stamp).is_ok_and(|old| old == stamp_text)
            && is_newer(&fatbin, &depfile);
        if !fresh {
            let _ = fs::remove_file(&stamp);
            let output = command
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
            fs::write(&stamp, stamp_text).map_err(|e| e.to_string())?;
        }
        for header in dependencies(&depfile) {
            println!("cargo::rerun-if-changed={}", header.display());
        }
        let entries = entries(&fatbin)?;
        Ok(Image {
            name,
            fatbin,
            entries,
        })
    }

    /// What a `make` rule depends on.
    fn dependencies(depfile: &Path) -> Vec<PathBuf> {
        let text = fs::read_to_string(depfile).unwrap_or_default();
        let prerequisites = text.split_once(" : ").map_or("", |(_, after)| after);
        prerequisites
            .split_whitespace()
            .filter(|word| *word != "\\")
            .map(PathBuf::from)
            .collect()
    }

    fn is_newer(fatbin: &Path, depfile: &Path) -> bool {
        let modified =
            |path: &Path| -> Option<SystemTime> { path.metadata().ok()?.modified().ok() };
        let Some(made) = modified(fatbin) else {
            return false;
        };
        let from = dependencies(depfile);
        !from.is_empty()
            && from
                .iter()
                .all(|path| modified(path).is_some_and(|at| at <= made))
    }

    /// The names of the kernels, from the PTX that the fatbin holds in the clear.
    fn entries(fatbin: &Path) -> Result<Vec<String>, String> {
        let bytes = fs::read(fatbin).map_err(|e| format!("{}: {e}", fatbin.display()))?;
        let text = String::from_utf8_lossy(&bytes);
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

    /// `OUT_DIR/images.rs`: what src/cuda/module.rs includes.
    fn write_index(images: &[Image], archs: &[String], version: u32) -> Result<(), String> {
        let mut text = String::from("// Made by build.rs.\n");
        let _ = writeln!(text, "pub(in super::super) const TOOLKIT: u32 = {version};");
        let _ = writeln!(
            text,
            "pub(in super::super) const ARCHS: &[&str] = &{archs:?};"
        );
        text += "pub(in super::super) static IMAGES: &[Image] = &[\n";
        for image in images {
            let _ = writeln!(
                text,
                "    Image {{ name: {:?}, bytes: include_bytes!({:?}), entries: &{:?} }},",
                image.name, image.fatbin, image.entries
            );
        }
        text += "];\n";
        let path = super::out_dir().join("images.rs");
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
    }
}

#[cfg(feature = "bindgen")]
mod bindings {
    use std::path::Path;
    use std::{env, fs};

    const HEADER: &str = "cuda/params.h";

    /// Writes `OUT_DIR/params.rs`. The first line carries the header's hash, so that a build without libclang
    /// can tell whether the committed copy is stale.
    pub fn generate() {
        println!("cargo::rerun-if-changed={HEADER}");
        println!("cargo::rerun-if-env-changed=LIBCLANG_PATH");
        let fetched = Path::new(".cuda/clang/native");
        if env::var_os("LIBCLANG_PATH").is_none() && fetched.is_dir() {
            env::set_var(
                "LIBCLANG_PATH",
                fetched.canonicalize().expect("it was just seen"),
            );
        }
        let header = fs::read(HEADER).expect("the header is part of the crate");
        let hash = header.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let bindings = bindgen::Builder::default()
            .header(HEADER)
            .disable_header_comment()
            .raw_line(format!(
                "// Made from cuda/params.h (FNV-1a {hash:016x}) by bindgen; see cuda/README.md. Not to be edited."
            ))
            .use_core()
            .derive_default(false)
            .formatter(bindgen::Formatter::Prettyplease)
            .generate();
        match bindings {
            Ok(bindings) => bindings
                .write_to_file(super::out_dir().join("params.rs"))
                .expect("OUT_DIR is writable"),
            Err(error) => {
                println!("cargo::error=feature `bindgen`: {error}; without the feature the committed src/cuda/params.rs is used");
                std::process::exit(1);
            }
        }
    }
}
