//! The compiler: where it is, what it is.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest compiler that makes code for 90a: CUDA 12.0, counted as the driver counts.
pub const OLDEST: u32 = 12_000;

const HOW: &str = "install CUDA 13 and set IMMA_NVCC or CUDA_HOME, or `pip install` one 13.x version of \
    nvidia-cuda-nvcc, nvidia-cuda-runtime, nvidia-cuda-crt, nvidia-cuda-cccl and nvidia-nvvm (no GPU, driver or root needed)";
/// Fetches what [`HOW`] lists, in a checkout.
const FETCH: &str = ".ci/fetch-nvcc";

/// A compiler that answered when it was asked for its version.
pub struct Nvcc {
    pub path: PathBuf,
    /// 13000 for 13.0, as the driver counts.
    pub version: u32,
    /// What `nvcc --version` printed: a new compiler compiles everything anew.
    pub banner: String,
}

impl Nvcc {
    /// The first that is new enough. `why`: why one is needed, and what to do instead.
    pub fn find(why: &str) -> Result<Self, String> {
        if let Some(path) = env::var_os("IMMA_NVCC").filter(|path| !path.is_empty()) {
            let nvcc = Self::open(Path::new(&path))
                .ok_or_else(|| format!("IMMA_NVCC={} is not a working nvcc", path.display()))?;
            return match nvcc.version >= OLDEST {
                true => Ok(nvcc),
                false => Err(too_old(&nvcc.path, nvcc.version)),
            };
        }
        let mut old = None;
        for path in candidates(|name| env::var_os(name), cfg!(windows)) {
            // Windows' canonical form, `\\?\C:\...`, is not for nvcc.
            let path = match cfg!(windows) {
                true => std::path::absolute(path),
                false => path.canonicalize(),
            };
            match path.ok().and_then(|path| Self::open(&path)) {
                Some(nvcc) if nvcc.version >= OLDEST => return Ok(nvcc),
                nvcc => old = old.or(nvcc),
            }
        }
        Err(match old {
            Some(nvcc) => too_old(&nvcc.path, nvcc.version),
            None => missing(why, Path::new(FETCH).exists()),
        })
    }

    fn open(path: &Path) -> Option<Self> {
        let output = Command::new(path).arg("--version").output().ok()?;
        let banner = String::from_utf8(output.stdout).ok()?;
        Some(Nvcc {
            path: path.into(),
            version: version(&banner)?,
            banner,
        })
    }

    /// Names such as `90` for which it can make code.
    pub fn known(&self) -> Result<Vec<String>, String> {
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

/// Where a compiler may be, in the order in which they are asked.
pub fn candidates(variable: impl Fn(&str) -> Option<OsString>, windows: bool) -> Vec<PathBuf> {
    let name = if windows { "nvcc.exe" } else { "nvcc" };
    let mut found = Vec::new();
    for root in ["CUDA_HOME", "CUDA_PATH"] {
        let root = variable(root).filter(|root| !root.is_empty());
        found.extend(root.map(|root| Path::new(&root).join("bin").join(name)));
    }
    if let Some(path) = variable("PATH") {
        found.extend(env::split_paths(&path).map(|folder| folder.join(name)));
    }
    if !windows {
        found.push("/usr/local/cuda/bin/nvcc".into());
    }
    // Where `.ci/fetch-nvcc` puts it.
    found.push(Path::new(".cuda/nvidia/cu13/bin").join(name));
    found
}

/// 13000 from the line `Cuda compilation tools, release 13.0, V13.0.88`.
pub fn version(banner: &str) -> Option<u32> {
    let release = banner.split("release ").nth(1)?.split(',').next()?;
    let (major, minor) = release.trim().split_once('.')?;
    let number = |s: &str| s.parse::<u32>().ok();
    Some(number(major)? * 1000 + number(minor)? * 10)
}

/// 13.0 of 13000.
pub fn dotted(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

pub fn too_old(path: &Path, version: u32) -> String {
    format!(
        "feature `cuda`: {} is of CUDA {}, and the kernels need {} or later, the first that makes code for 90a (13.0 is what \
         they are tested with): {HOW}",
        path.display(),
        dotted(version),
        dotted(OLDEST)
    )
}

/// `fetch`: whether this is a checkout, which has a script for it.
pub fn missing(why: &str, fetch: bool) -> String {
    let fetch = match fetch {
        true => format!("run `{FETCH}`, or "),
        false => String::new(),
    };
    format!("feature `cuda`: {why}; or {fetch}{HOW}")
}
