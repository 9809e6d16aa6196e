//! A word of host memory that kernels write when numbers that only the device has seen are wrong: the next call finds it
//! there, and nobody waits.

use super::errors::driver;
use crate::error::Result;
use cudarc::driver::{result, CudaContext};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

/// `CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP`: every context reaches it, at the host's address.
const FLAGS: u32 = 1 | 2;

/// One page-locked word; 0 when nothing is wrong.
#[derive(Debug)]
pub(super) struct FaultWord {
    word: *mut u32,
    context: Arc<CudaContext>,
}

// SAFETY: the word is touched through atomics alone, and lives as long as this.
unsafe impl Send for FaultWord {}
// SAFETY: as above.
unsafe impl Sync for FaultWord {}

impl FaultWord {
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        context
            .bind_to_thread()
            .map_err(driver("cuCtxSetCurrent"))?;
        // SAFETY: memory of this size, which is written below before anybody reads it.
        let word = unsafe { result::malloc_host(size_of::<u32>(), FLAGS) };
        let made = FaultWord {
            word: word.map_err(driver("cuMemHostAlloc"))?.cast(),
            context: context.clone(),
        };
        made.take();
        Ok(made)
    }

    /// Where kernels write it.
    pub fn address(&self) -> u64 {
        self.word as u64
    }

    /// What was written last, and 0 in its place.
    pub fn take(&self) -> u32 {
        // SAFETY: page-locked memory is aligned for a word and lives until `drop`; kernels write whole words.
        unsafe { AtomicU32::from_ptr(self.word) }.swap(0, Ordering::Relaxed)
    }
}

impl Drop for FaultWord {
    fn drop(&mut self) {
        // What was enqueued may still write it. A context that is gone has nothing under way, and frees its memory itself.
        if self.context.synchronize().is_ok() {
            // SAFETY: of `malloc_host`, and nothing that runs knows it.
            let _ = unsafe { result::free_host(self.word.cast()) };
        }
    }
}
