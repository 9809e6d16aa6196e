//! Modules: PTX, alone or in a fatbin, made into a program with its variables in memory.
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::abi::{Host, Out, Text};
use super::function::Function;
use super::state::{lock, Driver};
use super::status::{Refusal, Result, Status};
use super::{at_end, in_context};
use crate::exec::{link, LinkedModule};
use crate::fatbin::{self, FatbinError};
use crate::memory::GlobalMemory;
use crate::ptx;

const ELF_MAGIC: u32 = u32::from_le_bytes(*b"\x7fELF");
const FATBIN_HEADER: usize = 16;
/// Where the wrapper struct keeps its pointer to the fatbin.
const WRAPPER_POINTER: usize = 8;

const JIT_ERROR_LOG: u32 = 5;
const JIT_ERROR_LOG_BYTES: u32 = 6;

/// A loaded module.
pub struct Module {
    /// The program.
    pub linked: LinkedModule,
    functions: Mutex<HashMap<String, usize>>,
}

impl Module {
    /// Frees its variables.
    pub fn unload(&self, memory: &GlobalMemory) {
        // They live as long as the module: nobody else frees them.
        let _ = self.linked.unload(memory);
    }
}

impl From<FatbinError> for Refusal {
    fn from(error: FatbinError) -> Self {
        match error {
            FatbinError::NoPtx { .. } => Status::NO_BINARY_FOR_GPU.because(error),
            FatbinError::Malformed(_) => Status::INVALID_IMAGE.because(error),
        }
    }
}

/// The PTX in an image at a host address: text, a fatbin, or the struct that points at one.
fn ptx_at(image: Host, device: u32) -> Result<String> {
    match image.number::<4>()? as u32 {
        fatbin::WRAPPER_MAGIC => {
            let inner = image.offset(WRAPPER_POINTER).number::<8>()?;
            ptx_at(Host::at(inner as usize), device)
        }
        fatbin::MAGIC => {
            let bytes = fatbin::total_bytes(&image.read(FATBIN_HEADER)?)?;
            Ok(fatbin::ptx_for(&image.read(bytes)?, device)?)
        }
        ELF_MAGIC => Err(no_cubins()),
        _ => text(image.zero_terminated()?),
    }
}

/// The PTX in the bytes of a file.
fn ptx_in(bytes: Vec<u8>, device: u32) -> Result<String> {
    let magic = bytes
        .first_chunk()
        .map_or(0, |word| u32::from_le_bytes(*word));
    match magic {
        fatbin::MAGIC => Ok(fatbin::ptx_for(&bytes, device)?),
        ELF_MAGIC => Err(no_cubins()),
        _ => text(bytes),
    }
}

fn no_cubins() -> Refusal {
    Status::NO_BINARY_FOR_GPU.because("a cubin: the emulator runs PTX only")
}

fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes)
        .map_err(|_| Status::INVALID_IMAGE.because("neither fatbin, cubin nor PTX text"))
}

/// What `IMMA_FAKE_PTX` has in place of a module: the PTX file in that folder with the same kernels. For tests that must fail
/// with a changed kernel (`tests/mutants`), which spares them the build.
fn stand_in(module: &ptx::Module) -> Result<Option<ptx::Module>> {
    let Some(folder) = std::env::var_os("IMMA_FAKE_PTX") else {
        return Ok(None);
    };
    let broken = |why: String| Status::INVALID_PTX.because(format!("IMMA_FAKE_PTX: {why}"));
    let entries = |m: &ptx::Module| {
        let mut names: Vec<String> = m.entries.iter().map(|e| e.name.clone()).collect();
        names.sort_unstable();
        names
    };
    for file in std::fs::read_dir(folder).map_err(|e| broken(e.to_string()))? {
        let path = file.map_err(|e| broken(e.to_string()))?.path();
        let text = std::fs::read_to_string(&path).map_err(|e| broken(e.to_string()))?;
        let other = ptx::parse(&text).map_err(|e| broken(format!("{}: {e}", path.display())))?;
        if entries(&other) == entries(module) {
            return Ok(Some(other));
        }
    }
    Ok(None)
}

fn load(driver: &Driver, out: Out<usize>, text: &str) -> Result {
    let parsed = ptx::parse(text).map_err(|e| Status::INVALID_PTX.because(e))?;
    let parsed = stand_in(&parsed)?.unwrap_or(parsed);
    let digits: String = parsed.target.chars().filter(char::is_ascii_digit).collect();
    let wanted: u32 = digits.parse().unwrap_or(u32::MAX);
    let only_there = parsed.target.ends_with(|c: char| c.is_ascii_alphabetic());
    if wanted > driver.profile.cc() || (only_there && wanted != driver.profile.cc()) {
        return Err(Status::NO_BINARY_FOR_GPU.because(format!(
            "PTX for {} on {}",
            parsed.target, driver.profile.name
        )));
    }
    let module = Module {
        linked: link(parsed, &driver.memory)?,
        functions: Mutex::default(),
    };
    out.set(driver.modules.insert(module))
}

fn load_image(driver: &Driver, out: Out<usize>, image: Host) -> Result {
    load(driver, out, &ptx_at(image, driver.profile.cc())?)
}

#[no_mangle]
extern "C" fn cuModuleLoadData(out: Out<usize>, image: Host) -> Status {
    in_context("cuModuleLoadData", |driver| load_image(driver, out, image))
}

#[no_mangle]
extern "C" fn cuModuleLoadFatBinary(out: Out<usize>, image: Host) -> Status {
    in_context("cuModuleLoadFatBinary", |driver| {
        load_image(driver, out, image)
    })
}

#[no_mangle]
extern "C" fn cuModuleLoadDataEx(
    out: Out<usize>,
    image: Host,
    count: u32,
    options: Host,
    values: Host,
) -> Status {
    in_context("cuModuleLoadDataEx", |driver| {
        load_image(driver, out, image).inspect_err(|refusal| {
            if let Some(why) = &refusal.why {
                // The log is a courtesy: where it can't be written, the result still says what happened.
                let _ = write_log(why, count, options, values);
            }
        })
    })
}

/// Puts the reason into the caller's error log, if one was passed.
fn write_log(why: &str, count: u32, options: Host, values: Host) -> Result {
    let (mut buffer, mut room) = (None, 0);
    for i in 0..count as usize {
        let value = values.offset(i * 8).number::<8>()?;
        match options.offset(i * 4).number::<4>()? as u32 {
            JIT_ERROR_LOG => buffer = Some(Host::at(value as usize)),
            JIT_ERROR_LOG_BYTES => room = value as usize,
            _ => {}
        }
    }
    let Some(buffer) = buffer.filter(|_| room > 0) else {
        return Ok(());
    };
    let mut text = why.as_bytes().to_vec();
    text.truncate(room - 1);
    text.push(0);
    buffer.write(&text)
}

#[no_mangle]
extern "C" fn cuModuleLoad(out: Out<usize>, path: Text) -> Status {
    in_context("cuModuleLoad", |driver| {
        let path = path.get()?;
        let bytes = std::fs::read(path)
            .map_err(|e| Status::FILE_NOT_FOUND.because(format!("{path}: {e}")))?;
        load(driver, out, &ptx_in(bytes, driver.profile.cc())?)
    })
}

#[no_mangle]
extern "C" fn cuModuleUnload(module: usize) -> Status {
    at_end("cuModuleUnload", |driver| {
        let module = driver.modules.remove(module)?;
        driver.functions.retain(|f| !f.is_of(&module));
        module.unload(&driver.memory);
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cuModuleGetFunction(out: Out<usize>, module: usize, name: Text) -> Status {
    in_context("cuModuleGetFunction", |driver| {
        let (module, name) = (driver.modules.get(module)?, name.get()?);
        if let Some(known) = lock(&module.functions).get(name) {
            return out.set(*known);
        }
        let function = Function::of(&module, name, &driver.profile).ok_or_else(|| {
            let all: Vec<_> = module
                .linked
                .module()
                .entries
                .iter()
                .map(|e| e.name.as_str())
                .collect();
            Status::NOT_FOUND.because(format!("no kernel {name}; there are {}", all.join(", ")))
        })?;
        let handle = driver.functions.insert(function);
        lock(&module.functions).insert(name.to_owned(), handle);
        out.set(handle)
    })
}

#[no_mangle]
extern "C" fn cuModuleGetGlobal_v2(
    address: Out<u64>,
    bytes: Out<usize>,
    module: usize,
    name: Text,
) -> Status {
    in_context("cuModuleGetGlobal_v2", |driver| {
        let (module, name): (Arc<Module>, _) = (driver.modules.get(module)?, name.get()?);
        let (at, size) = module
            .linked
            .global(name)
            .ok_or_else(|| Status::NOT_FOUND.because(format!("no variable {name}")))?;
        address.set_if_wanted(at);
        bytes.set_if_wanted(size as usize);
        Ok(())
    })
}
