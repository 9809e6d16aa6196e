//! Results of NCCL.
use std::ffi::CStr;
use std::fmt;

/// An `ncclResult_t`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(pub u32);

/// Why a call was refused.
#[derive(Debug)]
pub struct Refusal {
    /// The result.
    pub status: Status,
    /// The reason.
    pub why: String,
}

/// Of everything that a call does.
pub type Result<T = ()> = std::result::Result<T, Refusal>;

impl Status {
    /// All is well.
    pub const SUCCESS: Status = Status(0);
    /// A CUDA call failed, or a buffer is not where it should be.
    pub const CUDA_ERROR: Status = Status(1);
    /// Ranks that never come.
    pub const SYSTEM_ERROR: Status = Status(2);
    /// A bug of the library.
    pub const INTERNAL_ERROR: Status = Status(3);
    /// An argument that never makes sense.
    pub const INVALID_ARGUMENT: Status = Status(4);
    /// Ranks that do not fit together.
    pub const INVALID_USAGE: Status = Status(5);
    /// Another rank ended.
    pub const REMOTE_ERROR: Status = Status(6);

    /// A refusal for a stated reason.
    pub fn because(self, why: impl fmt::Display) -> Refusal {
        Refusal {
            status: self,
            why: why.to_string(),
        }
    }

    /// A sentence.
    pub fn text(self) -> &'static CStr {
        match self.0 {
            0 => c"no error",
            1 => c"unhandled cuda error",
            2 => c"unhandled system error",
            3 => c"internal error",
            4 => c"invalid argument",
            5 => c"invalid usage",
            6 => c"remote process exited or there was a network error",
            7 => c"NCCL operation in progress",
            _ => c"unknown result code",
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text().to_string_lossy())
    }
}

/// What the driver refused.
impl From<crate::driver::status::Refusal> for Refusal {
    fn from(refusal: crate::driver::status::Refusal) -> Self {
        let said = format!("{:?}", refusal.status);
        Status::CUDA_ERROR.because(refusal.why.unwrap_or(said))
    }
}
