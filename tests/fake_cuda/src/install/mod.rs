//! Puts the emulator in the driver's place, in this process or in one that it starts.
//!
//! ```no_run
//! let fake = fake_cuda::install::install(); // before the first CUDA call of the process
//! fake.mark();
//! // ... anything that opens libcuda.so or libcublasLt.so ...
//! assert_eq!(fake.allocations_since_mark(), 0);
//! ```
//!
//! Cargo builds this crate as a library to link (this module) and as a shared one (the driver), which lies
//! beside the test's executable. `install` loads that; its SONAME is `libcuda.so`, so that a later
//! `dlopen("libcuda.so")` finds it, before any search of the disk and whatever `LD_LIBRARY_PATH` says.
//! Other names lead to it by way of [stubs](stub). No environment variable is needed and nothing is started anew.
//!
//! A process that a test starts, such as a command-line tool, gets [`folder`] in its `LD_LIBRARY_PATH`.
mod stub;

use std::ffi::{c_char, CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{fs, io};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// The shared library's own name for the dynamic linker, set by `build.rs`.
const SONAME: &str = "libcuda.so";
/// The other names under which programs look for the libraries that the emulator plays.
const ALIASES: [&str; 6] = [
    "libcuda.so.1",
    "libcublasLt.so",
    "libcublasLt.so.13",
    "libcublasLt.so.12",
    "libnccl.so",
    "libnccl.so.2",
];
const FILE: &str = "libfake_cuda.so";

/// The loaded emulator, and what a test may ask of it.
#[derive(Debug)]
pub struct Fake {
    library: Library,
    path: PathBuf,
}

/// Loads the emulator in the driver's place, once; later calls answer the same.
///
/// # Panics
/// If that fails: the shared library was not built, or a real driver is loaded already.
pub fn install() -> &'static Fake {
    try_install().unwrap_or_else(|why| panic!("the emulated driver can't be installed: {why}"))
}

/// As [`install`], without the panic.
///
/// # Errors
/// Why not, in a sentence.
pub fn try_install() -> Result<&'static Fake, String> {
    static FAKE: OnceLock<Result<Fake, String>> = OnceLock::new();
    FAKE.get_or_init(Fake::load).as_ref().map_err(Clone::clone)
}

/// Path of the shared library: `IMMA_FAKE_CUDA`, or beside this executable as Cargo places it.
///
/// # Errors
/// It is not there.
pub fn library() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("IMMA_FAKE_CUDA") {
        return Ok(path.into());
    }
    let exe = std::env::current_exe().map_err(|e| format!("this executable: {e}"))?;
    // target/P/deps/test-1f2e, target/P/examples/name, target/P/tool
    let near = [".", "deps", "../deps", ".."];
    let folder = exe.parent().unwrap_or(Path::new("."));
    near.iter()
        .map(|step| folder.join(step).join(FILE))
        .find(|path| path.exists())
        .ok_or_else(|| {
            format!(
                "no {FILE} near {}: build the crate fake_cuda, or set IMMA_FAKE_CUDA",
                exe.display()
            )
        })
}

/// A folder in which every name of the driver, of cuBLASLt and of NCCL is the emulator: for a child's `LD_LIBRARY_PATH`.
///
/// # Errors
/// The library is missing, or the links can't be made.
pub fn folder() -> Result<PathBuf, String> {
    let library = library()?;
    let library = library
        .canonicalize()
        .map_err(|e| format!("{}: {e}", library.display()))?;
    let folder = library.with_file_name("fake_cuda_names");
    let make = || -> io::Result<()> {
        fs::create_dir_all(&folder)?;
        for name in ALIASES.iter().chain([&SONAME]) {
            let link = folder.join(name);
            if fs::read_link(&link).is_ok_and(|to| to == library) {
                continue;
            }
            // Made under a name of this process, then moved: several tests may do this at once.
            let fresh = folder.join(format!("{name}.{}", std::process::id()));
            let _ = fs::remove_file(&fresh); // left by a process that had this number and was killed
            std::os::unix::fs::symlink(&library, &fresh)?;
            fs::rename(&fresh, &link)?;
        }
        Ok(())
    };
    match make() {
        Ok(()) => Ok(folder),
        Err(e) => Err(format!("{}: {e}", folder.display())),
    }
}

/// Opens a library by path or name, for the whole process.
fn open(name: &Path) -> Result<Library, String> {
    // SAFETY: our own library and stubs of it; their initialisers are Rust's, or none.
    unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) }
        .map_err(|e| format!("{}: {e}", name.display()))
}

impl Fake {
    fn load() -> Result<Self, String> {
        let path = library()?;
        let fake = Fake {
            library: open(&path)?,
            path,
        };
        let stubs = Stubs::make()?;
        for name in ALIASES {
            // Loaded for good: the process may ask for the name at any time.
            std::mem::forget(open(&stubs.0.join(name))?);
        }
        for name in ALIASES.iter().chain([&SONAME]) {
            fake.check_answers_to(name)?;
        }
        Ok(fake)
    }

    /// Whether a program that opens this name gets the emulator.
    fn check_answers_to(&self, name: &str) -> Result<(), String> {
        let found = open(Path::new(name))?;
        // SAFETY: the addresses are only compared.
        let same = unsafe {
            let ours = self.library.get::<*const ()>(b"imma_fake_mark\0");
            let theirs = found.get::<*const ()>(b"imma_fake_mark\0");
            matches!((ours, theirs), (Ok(a), Ok(b)) if *a == *b)
        };
        match same {
            true => Ok(()),
            false => Err(format!(
                "another {name} is loaded already: install the emulator before the first CUDA call"
            )),
        }
    }

    /// Where the library lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn ask(&self, name: &str) -> u64 {
        let symbol = CString::new(name).expect("a name in this file");
        // SAFETY: every name asked for in this file is a function of this type in `driver::stats`.
        unsafe {
            let call = self
                .library
                .get::<extern "C" fn() -> u64>(symbol.as_bytes_with_nul())
                .expect("the library is of this crate");
            call()
        }
    }

    fn ask_about(&self, name: &str, about: Option<&str>) -> u64 {
        let symbol = CString::new(name).expect("a name in this file");
        let about = about.map(|a| CString::new(a).expect("a name without zeros"));
        let pointer = about.as_ref().map_or(std::ptr::null(), |a| a.as_ptr());
        // SAFETY: every name asked for in this file is a function of this type in `driver::stats`, and the
        // string lives until it returns.
        unsafe {
            let call = self
                .library
                .get::<extern "C" fn(*const c_char) -> u64>(symbol.as_bytes_with_nul())
                .expect("the library is of this crate");
            call(pointer)
        }
    }

    fn text(&self, name: &[u8]) -> Option<String> {
        // SAFETY: both functions asked for answer null or a string that is valid until this thread's next call.
        unsafe {
            let call = self
                .library
                .get::<extern "C" fn() -> *const c_char>(name)
                .expect("the library is of this crate");
            let text = call();
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    }

    fn tell(&self, name: &[u8]) {
        // SAFETY: both functions asked for have this type in `driver::stats`.
        unsafe {
            let call = self
                .library
                .get::<extern "C" fn()>(name)
                .expect("the library is of this crate");
            call();
        }
    }

    /// What the last kernel that was stopped did wrong.
    pub fn last_fault(&self) -> Option<String> {
        self.text(b"imma_fake_last_fault\0")
    }

    /// Why this thread's last refused call was refused.
    pub fn last_refusal(&self) -> Option<String> {
        self.text(b"imma_fake_last_refusal\0")
    }

    /// Forgets the last fault and the error that sticks to the context since.
    pub fn reset(&self) {
        self.tell(b"imma_fake_reset\0");
    }

    /// Starts this thread's counts anew.
    pub fn mark(&self) {
        self.tell(b"imma_fake_mark\0");
    }

    /// Allocations of device and page-locked memory by this thread since its mark.
    pub fn allocations_since_mark(&self) -> u64 {
        self.ask("imma_fake_allocs_since_mark")
    }

    /// Releases of memory by this thread since its mark.
    pub fn frees_since_mark(&self) -> u64 {
        self.ask("imma_fake_frees_since_mark")
    }

    /// Calls by this thread since its mark that wait for the device.
    pub fn synchronisations_since_mark(&self) -> u64 {
        self.ask("imma_fake_syncs_since_mark")
    }

    /// Launches by this thread since its mark, of one kernel or of all.
    pub fn launches_since_mark(&self, kernel: Option<&str>) -> u64 {
        self.ask_about("imma_fake_launches_since_mark", kernel)
    }

    /// Calls of one driver function by this thread since its mark.
    pub fn calls_since_mark(&self, function: &str) -> u64 {
        self.ask_about("imma_fake_calls_since_mark", Some(function))
    }

    /// Launches in the whole process, of one kernel or of all.
    pub fn launches(&self, kernel: Option<&str>) -> u64 {
        self.ask_about("imma_fake_launches", kernel)
    }

    /// Instructions that threads ran, in the whole process.
    pub fn thread_instructions(&self) -> u64 {
        self.ask("imma_fake_thread_instructions")
    }

    /// Device allocations that are live.
    pub fn live_allocations(&self) -> u64 {
        self.ask("imma_fake_live_allocations")
    }

    /// Bytes of device allocations that are live.
    pub fn live_bytes(&self) -> u64 {
        self.ask("imma_fake_live_bytes")
    }

    /// Bytes of all device allocations ever made.
    pub fn allocated_bytes(&self) -> u64 {
        self.ask("imma_fake_allocated_bytes")
    }

    /// Seed of this thread's schedules.
    pub fn set_seed(&self, seed: u64) {
        // SAFETY: the function has this type in `driver::stats`.
        unsafe {
            let call = self
                .library
                .get::<extern "C" fn(u64)>(b"imma_fake_set_seed\0")
                .expect("the library is of this crate");
            call(seed);
        }
    }
}

/// A folder of stubs, there only until they are loaded.
struct Stubs(PathBuf);

impl Stubs {
    fn make() -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("fake_cuda-{}", std::process::id()));
        let stubs = Stubs(folder);
        let make = || -> io::Result<()> {
            fs::create_dir_all(&stubs.0)?;
            ALIASES
                .iter()
                .try_for_each(|name| fs::write(stubs.0.join(name), stub::library(name, SONAME)))
        };
        make().map_err(|e| format!("{}: {e}", stubs.0.display()))?;
        Ok(stubs)
    }
}

impl Drop for Stubs {
    fn drop(&mut self) {
        // They are in memory by now; what can't be removed is a few hundred bytes in the temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}
