//! What crosses the C boundary. Every dereference of a caller's pointer is in this file.
//!
//! The types are transparent wrappers of C pointers, so that the exported functions can be safe Rust.
//! Their one assumption: the caller keeps to the driver API's signatures, that is, an output pointer is
//! null or points to a place for its type, a string ends with zero, and sizes are true.
use std::ffi::{c_char, CStr};

use super::status::{Result, Status};

/// A pointer through which a call answers.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the answer.
    ///
    /// # Errors
    /// `CUDA_ERROR_INVALID_VALUE` for null.
    pub fn set(self, value: T) -> Result {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE.because("null pointer for a result"));
        }
        self.set_if_wanted(value);
        Ok(())
    }

    /// Writes the answer unless the pointer is null.
    pub fn set_if_wanted(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: not null, so by the API's signature a place for a `T`.
            unsafe { self.0.write_unaligned(value) };
        }
    }

    /// The pointer as a number.
    pub fn address(&self) -> usize {
        self.0 as usize
    }
}

/// A pointer to a zero-terminated string, or null.
#[repr(transparent)]
pub struct Text(*const c_char);

impl Text {
    /// The string.
    ///
    /// # Errors
    /// Null, or not UTF-8.
    pub fn get(&self) -> Result<&str> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE.because("null string"));
        }
        // SAFETY: not null, so by the API's signature a zero-terminated string that outlives the call.
        unsafe { CStr::from_ptr(self.0) }
            .to_str()
            .map_err(|_| Status::INVALID_VALUE.because("a name that is no UTF-8"))
    }
}

/// An untyped pointer to host memory, kept as a number so that work can move between threads.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Host(usize);

impl Host {
    /// Of an address.
    pub fn at(address: usize) -> Self {
        Host(address)
    }

    /// The address.
    pub fn address(self) -> usize {
        self.0
    }

    /// A pointer further on.
    pub fn offset(self, bytes: usize) -> Self {
        Host(self.0.wrapping_add(bytes))
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// Null, with bytes to read.
    pub fn read(self, bytes: usize) -> Result<Vec<u8>> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        if self.0 == 0 {
            return Err(Status::INVALID_VALUE.because("null host pointer"));
        }
        // SAFETY: the caller says that so many bytes can be read here; they are copied before returning.
        Ok(unsafe { std::slice::from_raw_parts(self.0 as *const u8, bytes) }.to_vec())
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// Null, with bytes to write.
    pub fn write(self, data: &[u8]) -> Result {
        if data.is_empty() {
            return Ok(());
        }
        if self.0 == 0 {
            return Err(Status::INVALID_VALUE.because("null host pointer"));
        }
        // SAFETY: the caller says that so many bytes can be written here, and `data` is memory of this library.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.0 as *mut u8, data.len()) };
        Ok(())
    }

    /// The zero-terminated bytes, without the zero.
    ///
    /// # Errors
    /// Null.
    pub fn zero_terminated(self) -> Result<Vec<u8>> {
        if self.0 == 0 {
            return Err(Status::INVALID_VALUE.because("null host pointer"));
        }
        // SAFETY: the caller passes zero-terminated text here.
        Ok(unsafe { CStr::from_ptr(self.0 as *const c_char) }
            .to_bytes()
            .to_vec())
    }

    /// One little-endian number of up to eight bytes.
    ///
    /// # Errors
    /// Null.
    pub fn number<const N: usize>(self) -> Result<u64> {
        let mut word = [0; 8];
        word[..N].copy_from_slice(&self.read(N)?);
        Ok(u64::from_le_bytes(word))
    }
}

/// `CUlaunchConfig`.
#[repr(C)]
pub struct LaunchConfig {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory.
    pub shared: u32,
    /// The stream's handle.
    pub stream: usize,
    /// `CUlaunchAttribute`s.
    pub attributes: Host,
    /// How many.
    pub count: u32,
}

/// A pointer to a [`LaunchConfig`].
#[repr(transparent)]
pub struct ConfigPointer(*const LaunchConfig);

impl ConfigPointer {
    /// A copy of the struct.
    ///
    /// # Errors
    /// Null.
    pub fn get(self) -> Result<LaunchConfig> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE.because("null launch configuration"));
        }
        // SAFETY: not null, so by the API's signature a `CUlaunchConfig`, which has this layout.
        Ok(unsafe { self.0.read_unaligned() })
    }
}

/// `CUlaunchAttribute`: 4 bytes of id, 4 of padding, 64 of value.
pub const LAUNCH_ATTRIBUTE_BYTES: usize = 72;
