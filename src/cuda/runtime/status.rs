//! Whether this build on this machine can use a GPU, and if not, why not.
//!
//! The driver is asked directly, through a library handle of our own: the bindings panic where there is no driver.

use std::fmt;

/// What [`status`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Kernels run, and so does cuBLASLt.
    Ready {
        /// Number of devices.
        devices: usize,
    },
    /// This crate was built without the feature `cuda`.
    NotCompiledIn,
    /// The driver's library was not found.
    NoDriver {
        /// What the loader said.
        reason: String,
    },
    /// The driver is there and did not start.
    InitFailed {
        /// The call that failed.
        call: &'static str,
        /// Its result.
        code: u32,
        /// The result's name, such as `CUDA_ERROR_SYSTEM_NOT_READY`; empty where the driver has none.
        name: String,
    },
    /// The driver runs and sees no device.
    NoDevice,
    /// The driver is older than the kernels in this build.
    DriverTooOld {
        /// The CUDA version that the driver supports: 12040 for 12.4.
        found: u32,
        /// The oldest that would do.
        needed: u32,
    },
    /// The build holds no kernels for the device's architecture.
    NoKernel {
        /// The device.
        device: usize,
        /// Its compute capability.
        capability: (u32, u32),
        /// The architectures in this build, such as `80, 90a`.
        built: String,
    },
    /// Kernels run; the library cuBLASLt was not found, so only this crate's own are used.
    NoCublasLt {
        /// Number of devices.
        devices: usize,
    },
}

impl Status {
    /// Whether this crate's kernels can run: [`Ready`](Status::Ready) or [`NoCublasLt`](Status::NoCublasLt).
    pub fn is_usable(&self) -> bool {
        matches!(self, Status::Ready { .. } | Status::NoCublasLt { .. })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = |v: &u32| format!("{}.{}", v / 1000, v % 1000 / 10);
        match self {
            Status::Ready { devices } => write!(f, "CUDA is ready ({devices} device(s))"),
            Status::NotCompiledIn => {
                f.write_str("CUDA is not compiled in: build with the feature `cuda`")
            }
            Status::NoDriver { reason } => {
                write!(f, "no CUDA driver on this machine ({reason})")
            }
            Status::InitFailed { call, code, name } => {
                write!(f, "the CUDA driver did not start: {call} gave {code}")?;
                if name.is_empty() {
                    Ok(())
                } else {
                    write!(f, " ({name})")
                }
            }
            Status::NoDevice => f.write_str("the CUDA driver sees no device"),
            Status::DriverTooOld { found, needed } => write!(
                f,
                "the CUDA driver is too old: it supports CUDA {}, the kernels in this build need {}",
                version(found),
                version(needed)
            ),
            Status::NoKernel {
                device,
                capability: (major, minor),
                built,
            } => write!(
                f,
                "no kernel for device {device}, of compute capability {major}.{minor}: \
                 this build holds {built} (see IMMA_CUDA_ARCHS)"
            ),
            Status::NoCublasLt { devices } => write!(
                f,
                "CUDA is ready ({devices} device(s)), without cuBLASLt: own kernels serve alone"
            ),
        }
    }
}

/// Asks the driver about device 0. Never panics, whatever is or is not installed.
///
/// ```
/// let status = imma::cuda::status();
/// println!("{status}");
/// ```
pub fn status() -> Status {
    device_status(0)
}

/// Asks the driver about one device; [`Status::NoDevice`] where there is none of this number.
pub fn device_status(device: usize) -> Status {
    #[cfg(feature = "cuda")]
    return probe::device_status(device);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = device;
        Status::NotCompiledIn
    }
}

/// Whether the loader finds cuBLASLt: to be asked before any call of its bindings, which panic where it is missing.
#[cfg(feature = "cuda")]
pub(in crate::cuda) fn cublaslt_is_there() -> bool {
    probe::cublaslt_is_there()
}

/// The driver's library. The bindings look for these names too.
#[cfg(any(feature = "cuda", test))]
fn driver_names(windows: bool) -> &'static [&'static str] {
    match windows {
        true => &["nvcuda.dll"],
        false => &["libcuda.so", "libcuda.so.1"],
    }
}

/// cuBLASLt's.
#[cfg(any(feature = "cuda", test))]
pub(in crate::cuda) fn cublaslt_names(windows: bool) -> &'static [&'static str] {
    match windows {
        true => &["cublasLt64_13.dll", "cublasLt64_12.dll"],
        false => &["libcublasLt.so", "libcublasLt.so.13", "libcublasLt.so.12"],
    }
}

#[cfg(feature = "cuda")]
mod probe {
    use super::{cublaslt_names, driver_names, Status};
    use crate::cuda::runtime::images;
    use libloading::Library;
    use std::ffi::{c_char, c_int, c_uint, CStr};
    use std::sync::OnceLock;

    const NO_DEVICE: c_uint = 100;
    const CAPABILITY_MAJOR: c_int = 75;
    const CAPABILITY_MINOR: c_int = 76;

    /// The libraries stay open once found: a driver that has started can't be unloaded safely.
    fn open(
        names: &[&str],
        found: &'static OnceLock<Library>,
    ) -> Result<&'static Library, libloading::Error> {
        if let Some(library) = found.get() {
            return Ok(library);
        }
        let mut error = None;
        for name in names {
            // SAFETY: these are NVIDIA's libraries (or a stand-in under their name), whose initialisers any
            // program that uses CUDA runs.
            match unsafe { Library::new(*name) } {
                Ok(library) => return Ok(found.get_or_init(|| library)),
                Err(e) => error = Some(e),
            }
        }
        Err(error.expect("there is at least one name"))
    }

    static DRIVER_LIBRARY: OnceLock<Library> = OnceLock::new();
    static CUBLASLT_LIBRARY: OnceLock<Library> = OnceLock::new();

    pub fn device_status(device: usize) -> Status {
        match probe(device) {
            Ok(devices) if cublaslt_is_there() => Status::Ready { devices },
            Ok(devices) => Status::NoCublasLt { devices },
            Err(status) => status,
        }
    }

    pub fn cublaslt_is_there() -> bool {
        open(cublaslt_names(cfg!(windows)), &CUBLASLT_LIBRARY).is_ok()
    }

    /// The number of devices, if the kernels in this build run on this one.
    fn probe(device: usize) -> Result<usize, Status> {
        let library =
            open(driver_names(cfg!(windows)), &DRIVER_LIBRARY).map_err(|e| Status::NoDriver {
                // What the loader said is the cause; the error itself only says that it failed.
                reason: std::error::Error::source(&e)
                    .map_or_else(|| e.to_string(), |e| e.to_string()),
            })?;
        let driver = Driver(library);
        driver.call("cuInit", |call: unsafe extern "C" fn(c_uint) -> c_uint| {
            // SAFETY: `cuInit(flags)`, and 0 is the only flag.
            unsafe { call(0) }
        })?;
        let mut count = 0;
        driver.get("cuDeviceGetCount", &mut count)?;
        let devices = usize::try_from(count).unwrap_or(0);
        let Some(ordinal) = c_int::try_from(device)
            .ok()
            .filter(|ordinal| *ordinal < count)
        else {
            return Err(Status::NoDevice);
        };
        let mut version = 0;
        driver.get("cuDriverGetVersion", &mut version)?;
        let found = u32::try_from(version).unwrap_or(0);
        // A driver runs code made by any compiler of its own major version, and by older ones.
        let needed = images::TOOLKIT / 1000 * 1000;
        if found < needed {
            return Err(Status::DriverTooOld { found, needed });
        }
        let mut handle = 0;
        driver.call(
            "cuDeviceGet",
            |call: unsafe extern "C" fn(*mut c_int, c_int) -> c_uint| {
                // SAFETY: `cuDeviceGet(out, ordinal)` writes one int.
                unsafe { call(&mut handle, ordinal) }
            },
        )?;
        let attribute = |which: c_int| {
            let mut value = 0;
            driver.call(
                "cuDeviceGetAttribute",
                |call: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_uint| {
                    // SAFETY: `cuDeviceGetAttribute(out, attribute, device)` writes one int.
                    unsafe { call(&mut value, which, handle) }
                },
            )?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let capability = (attribute(CAPABILITY_MAJOR)?, attribute(CAPABILITY_MINOR)?);
        if images::serves(capability, found) {
            Ok(devices)
        } else {
            Err(Status::NoKernel {
                device,
                capability,
                built: images::ARCHS.join(", "),
            })
        }
    }

    struct Driver(&'static Library);

    impl Driver {
        /// Looks a function of type `F` up and calls it.
        fn call<F: Copy>(
            &self,
            name: &'static str,
            call: impl FnOnce(F) -> c_uint,
        ) -> Result<(), Status> {
            // SAFETY: each caller states the function's type as the driver API documents it.
            let code = match unsafe { self.0.get::<F>(name.as_bytes()) } {
                Ok(function) => call(*function),
                Err(_) => {
                    return Err(Status::InitFailed {
                        call: name,
                        code: 0,
                        name: "the library lacks this function".into(),
                    })
                }
            };
            match code {
                0 => Ok(()),
                NO_DEVICE => Err(Status::NoDevice),
                code => Err(Status::InitFailed {
                    call: name,
                    code,
                    name: self.name_of(code),
                }),
            }
        }

        /// A function that writes one int.
        fn get(&self, name: &'static str, value: &mut c_int) -> Result<(), Status> {
            self.call(name, |call: unsafe extern "C" fn(*mut c_int) -> c_uint| {
                // SAFETY: `cuDeviceGetCount(out)` and `cuDriverGetVersion(out)` write one int.
                unsafe { call(value) }
            })
        }

        fn name_of(&self, code: c_uint) -> String {
            type GetName = unsafe extern "C" fn(c_uint, *mut *const c_char) -> c_uint;
            let mut name = std::ptr::null();
            // SAFETY: `cuGetErrorName(code, out)` points out at a string that lives as long as the library, or
            // leaves it null for a code it does not know.
            unsafe {
                match self.0.get::<GetName>(b"cuGetErrorName") {
                    Ok(get) if get(code, &mut name) == 0 && !name.is_null() => {
                        CStr::from_ptr(name).to_string_lossy().into_owned()
                    }
                    _ => String::new(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_looked_for_by_their_names_on_each_system() {
        assert_eq!(driver_names(true), ["nvcuda.dll"]);
        assert_eq!(driver_names(false), ["libcuda.so", "libcuda.so.1"]);
        for windows in [true, false] {
            let names = driver_names(windows).iter().chain(cublaslt_names(windows));
            let mut names = names.copied();
            let right = |name: &str| match windows {
                true => name.ends_with(".dll"),
                false => name.starts_with("lib") && name.contains(".so"),
            };
            assert!(names.all(right));
            for major in ["12", "13"] {
                let of = |name: &&str| name.contains(major);
                assert!(cublaslt_names(windows).iter().any(of), "{windows} {major}");
            }
        }
    }

    #[test]
    fn each_status_is_one_sentence() {
        let all = [
            Status::Ready { devices: 2 },
            Status::NotCompiledIn,
            Status::NoDriver {
                reason: "libcuda.so.1: not found".into(),
            },
            Status::InitFailed {
                call: "cuInit",
                code: 802,
                name: "CUDA_ERROR_SYSTEM_NOT_READY".into(),
            },
            Status::NoDevice,
            Status::DriverTooOld {
                found: 12040,
                needed: 13000,
            },
            Status::NoKernel {
                device: 0,
                capability: (7, 5),
                built: "80".into(),
            },
            Status::NoCublasLt { devices: 1 },
        ];
        for status in &all {
            let text = status.to_string();
            assert!(!text.contains('\n') && text.len() > 20, "{text}");
        }
        assert!(all[5].to_string().contains("12.4"));
        assert_eq!(all.iter().filter(|s| s.is_usable()).count(), 2);
    }
}
