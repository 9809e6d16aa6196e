//! Results of cuBLASLt.
use std::ffi::CStr;
use std::fmt;

/// A `cublasStatus_t`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(pub u32);

/// Why a call was refused.
#[derive(Debug)]
pub struct Refusal {
    /// The result.
    pub status: Status,
    /// The reason, where there is more to say than the result's name.
    pub why: Option<String>,
}

/// Of everything that a call does.
pub type Result<T = ()> = std::result::Result<T, Refusal>;

impl Status {
    /// All is well.
    pub const SUCCESS: Status = Status(0);
    /// No context, or a poisoned one.
    pub const NOT_INITIALIZED: Status = Status(1);
    /// An argument that never makes sense.
    pub const INVALID_VALUE: Status = Status(7);
    /// The product failed on the device.
    pub const EXECUTION_FAILED: Status = Status(13);
    /// A bug of the library.
    pub const INTERNAL_ERROR: Status = Status(14);
    /// A combination that no kernel computes.
    pub const NOT_SUPPORTED: Status = Status(15);

    /// A refusal for a stated reason.
    pub fn because(self, why: impl fmt::Display) -> Refusal {
        Refusal {
            status: self,
            why: Some(why.to_string()),
        }
    }

    fn known(self) -> Option<(&'static CStr, &'static CStr)> {
        Some(match self.0 {
            0 => (
                c"CUBLAS_STATUS_SUCCESS",
                c"the operation completed successfully",
            ),
            1 => (
                c"CUBLAS_STATUS_NOT_INITIALIZED",
                c"the library was not initialized",
            ),
            3 => (
                c"CUBLAS_STATUS_ALLOC_FAILED",
                c"the resource allocation failed",
            ),
            7 => (
                c"CUBLAS_STATUS_INVALID_VALUE",
                c"an unsupported value or parameter was passed",
            ),
            8 => (
                c"CUBLAS_STATUS_ARCH_MISMATCH",
                c"a feature absent from the device",
            ),
            11 => (
                c"CUBLAS_STATUS_MAPPING_ERROR",
                c"an access to GPU memory space failed",
            ),
            13 => (
                c"CUBLAS_STATUS_EXECUTION_FAILED",
                c"the GPU program failed to execute",
            ),
            14 => (
                c"CUBLAS_STATUS_INTERNAL_ERROR",
                c"an internal operation failed",
            ),
            15 => (
                c"CUBLAS_STATUS_NOT_SUPPORTED",
                c"the functionality requested is not supported",
            ),
            16 => (c"CUBLAS_STATUS_LICENSE_ERROR", c"a license error"),
            _ => return None,
        })
    }

    /// `CUBLAS_STATUS_...`.
    pub fn name(self) -> Option<&'static CStr> {
        self.known().map(|(name, _)| name)
    }

    /// A sentence.
    pub fn text(self) -> Option<&'static CStr> {
        self.known().map(|(_, text)| text)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(&name.to_string_lossy()),
            None => write!(f, "cublasStatus_t {}", self.0),
        }
    }
}

/// A wrong handle or pointer is a wrong value here.
impl From<crate::driver::status::Refusal> for Refusal {
    fn from(refusal: crate::driver::status::Refusal) -> Self {
        Refusal {
            status: Status::INVALID_VALUE,
            why: refusal.why,
        }
    }
}
