//! The compiler: where it is, what it is, what it can make code for.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Architectures when none are asked for, as far as the compiler knows them.
const DEFAULT_ARCHS: [&str; 6] = ["80", "86", "89", "90a", "100", "120"];

const REMEDY: &str = "feature `cuda` needs nvcc, which was not found: run `.ci/fetch-nvcc`, or install CUDA 13 and \
    set IMMA_NVCC or CUDA_HOME, or `pip install` one 13.x version of nvidia-cuda-nvcc, nvidia-cuda-runtime, \
    nvidia-cuda-crt, nvidia-cuda-cccl and nvidia-nvvm (no GPU, driver or root needed)";

/// A compiler that answered when it was asked for its version.
pub struct Nvcc {
    pub path: PathBuf,
    /// 13000 for 13.0, as the driver counts.
    pub version: u32,
    /// What `nvcc --version` printed: a new compiler compiles everything anew.
    pub banner: String,
}

impl Nvcc {
    pub fn find() -> Result<Self, String> {
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

/// The architectures to compile for, in order of number.
pub fn archs(nvcc: &Nvcc) -> Result<Vec<String>, String> {
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
