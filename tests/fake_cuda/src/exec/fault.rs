//! How a kernel is stopped.
use std::fmt;

use thiserror::Error;

use crate::memory::MemoryFault;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// The device refuses the launch.
    #[error("launch refused: {0}")]
    BadLaunch(String),
    /// A global access.
    #[error("global memory: {0}")]
    Global(MemoryFault),
    /// A shared access.
    #[error("shared memory: {0}")]
    Shared(MemoryFault),
    /// A local access.
    #[error("local memory: {0}")]
    Local(MemoryFault),
    /// A parameter access.
    #[error("parameter space: {0}")]
    Param(MemoryFault),
    /// Two warps touched the same shared byte without a barrier between them.
    #[error("shared memory race: {0}")]
    Race(String),
    /// Shared bytes that an asynchronous copy still owns were touched.
    #[error("copy still in flight: {0}")]
    AsyncPending(String),
    /// The async proxy does not see what a thread wrote.
    #[error("proxy fence: {0}")]
    Proxy(String),
    /// An mbarrier used wrongly.
    #[error("mbarrier: {0}")]
    Mbarrier(String),
    /// A dependent launch that did not wait for the kernel before it.
    #[error("dependent launch: {0}")]
    Dependent(String),
    /// Blocks of a cluster that don't keep to its rules.
    #[error("cluster: {0}")]
    Cluster(String),
    /// A bulk copy that the hardware can't do, or that nobody waits for.
    #[error("bulk copy: {0}")]
    Bulk(String),
    /// Warpgroup instructions used wrongly.
    #[error("warpgroup: {0}")]
    Warpgroup(String),
    /// A warp-synchronous instruction that its lanes do not execute together.
    #[error("warp synchronisation: {0}")]
    WarpSync(String),
    /// A barrier used wrongly.
    #[error("barrier: {0}")]
    Barrier(String),
    /// Nobody can go on.
    #[error("deadlock: {0}")]
    Deadlock(String),
    /// A failed `assert`.
    #[error("assertion failed: {0}")]
    Assert(String),
    /// `trap`.
    #[error("trap")]
    Trap,
    /// More instructions than the limit allows.
    #[error("gave up after {0} instructions of one warp")]
    Runaway(u64),
    /// Anything else an instruction forbids.
    #[error("{0}")]
    Undefined(String),
}

/// A kernel stopped by the emulator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Kernel.
    pub kernel: Box<str>,
    /// Line in the PTX text, from 1; 0 where no instruction is to blame.
    pub ptx_line: u32,
    /// Source file and line, where the PTX has `.loc`.
    pub source: Option<(Box<str>, u32)>,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index in the block.
    pub thread: [u32; 3],
    /// What went wrong.
    pub kind: FaultKind,
}

impl Fault {
    /// A fault before any instruction ran.
    pub fn at_launch(kernel: &str, kind: FaultKind) -> Self {
        Fault {
            kernel: kernel.into(),
            ptx_line: 0,
            source: None,
            block: [0; 3],
            thread: [0; 3],
            kind,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}: {}", self.kernel, self.kind)?;
        if self.ptx_line == 0 {
            return Ok(());
        }
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(
            f,
            " (block {bx},{by},{bz} thread {tx},{ty},{tz}; PTX line {}",
            self.ptx_line
        )?;
        if let Some((file, line)) = &self.source {
            write!(f, "; {file}:{line}")?;
        }
        write!(f, ")")
    }
}

impl std::error::Error for Fault {}
