//! Whether NCCL is there: asked through a library handle of our own, as the bindings panic where it is missing.

use std::fmt;

/// What [`nccl_status`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NcclStatus {
    /// The library is there.
    Ready {
        /// Its version as it counts: 22700 for 2.27.0.
        version: u32,
    },
    /// This crate was built without the feature `nccl`.
    NotCompiledIn,
    /// The library was not found.
    NotFound {
        /// What the loader said.
        reason: String,
    },
    /// The library is older than [`NcclStatus::LEAST`].
    TooOld {
        /// Its version.
        version: u32,
    },
    /// The library is there and does not say its version.
    Broken {
        /// What it answered.
        code: u32,
    },
}

impl NcclStatus {
    /// The oldest version that has all calls that are made: 2.14.
    pub const LEAST: u32 = 21_400;

    /// Whether groups can be made.
    pub fn is_usable(&self) -> bool {
        matches!(self, NcclStatus::Ready { .. })
    }
}

impl fmt::Display for NcclStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NcclStatus::Ready { version } => {
                let (major, minor) = (version / 10_000, version / 100 % 100);
                write!(f, "NCCL {major}.{minor}.{} is ready", version % 100)
            }
            NcclStatus::NotCompiledIn => {
                f.write_str("NCCL is not compiled in: build with the feature `nccl`")
            }
            NcclStatus::NotFound { reason } => write!(f, "no NCCL on this machine ({reason})"),
            NcclStatus::TooOld { version } => {
                let (major, minor) = (version / 10_000, version / 100 % 100);
                write!(
                    f,
                    "NCCL {major}.{minor} is too old: 2.14 or later is needed"
                )
            }
            NcclStatus::Broken { code } => write!(f, "NCCL does not say its version: {code}"),
        }
    }
}

/// Asks for NCCL. Never panics, whatever is or is not installed.
///
/// ```
/// println!("{}", imma::cuda::nccl_status());
/// ```
pub fn nccl_status() -> NcclStatus {
    #[cfg(feature = "nccl")]
    return probe::status();
    #[cfg(not(feature = "nccl"))]
    NcclStatus::NotCompiledIn
}

#[cfg(feature = "nccl")]
mod probe {
    use super::NcclStatus;
    use libloading::Library;
    use std::ffi::{c_int, c_uint};
    use std::sync::OnceLock;

    /// The name by which the bindings open it, and the one alone that wheels and distributions install for running programs.
    const NAME: &str = "libnccl.so";
    const RUNNING: &str = "libnccl.so.2";

    /// The library as the bindings find it.
    fn library() -> Result<&'static Library, String> {
        static FOUND: OnceLock<Library> = OnceLock::new();
        if let Some(library) = FOUND.get() {
            return Ok(library);
        }
        // SAFETY: NVIDIA's library (or a stand-in under its name), whose initialisers any program that uses it runs.
        let open = |name| unsafe { Library::new(name) };
        match open(NAME) {
            Ok(library) => Ok(FOUND.get_or_init(|| library)),
            // Open under one name it is not found under the other.
            Err(_) if open(RUNNING).is_ok() => Err(format!(
                "{RUNNING} is there, but not by the name that it is opened by: link {NAME} to it in a folder of LD_LIBRARY_PATH"
            )),
            Err(e) => Err(std::error::Error::source(&e)
                .map_or_else(|| e.to_string(), |e| e.to_string())),
        }
    }

    pub fn status() -> NcclStatus {
        let library = match library() {
            Ok(library) => library,
            Err(reason) => return NcclStatus::NotFound { reason },
        };
        type Version = unsafe extern "C" fn(*mut c_int) -> c_uint;
        // SAFETY: a function of this type in every NCCL.
        let Ok(call) = (unsafe { library.get::<Version>(b"ncclGetVersion\0") }) else {
            return NcclStatus::NotFound {
                reason: "a library without ncclGetVersion".into(),
            };
        };
        let mut version = 0;
        // SAFETY: `ncclGetVersion(out)` writes one int.
        match unsafe { call(&mut version) } {
            0 => match u32::try_from(version).unwrap_or(0) {
                version if version < NcclStatus::LEAST => NcclStatus::TooOld { version },
                version => NcclStatus::Ready { version },
            },
            code => NcclStatus::Broken { code },
        }
    }
}
