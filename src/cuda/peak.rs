//! What the tensor cores can do at most through `mma.sync`: `cuda/peak.cu`.

use super::launch::{Geometry, PreparedLaunch};
use super::module::Device;
use super::params::{self, PeakParams};
use crate::error::{Error, Result};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtrMut};

/// Blocks a multiprocessor: sixteen warps, four for each of its schedulers.
const BLOCKS: usize = 2;

/// Multiply-adds of one `mma.sync.m16n8k32`.
const MMA: u64 = 16 * 8 * 32;

impl Device {
    /// Elements that [`peak_mma`](Self::peak_mma) writes: one a thread.
    pub fn peak_len(&self) -> usize {
        let multiprocessors = self.properties().multiprocessors.max(1) as usize;
        multiprocessors * BLOCKS * params::IMMA_PEAK_THREADS as usize
    }

    /// Enqueues int8 products of registers with registers, `iterations` times eight a warp, and says how many operations
    /// (a multiplication or an addition each) they are: divided by the time that they took, the ceiling of every
    /// kernel that multiplies through `mma.sync`.
    ///
    /// `pattern` is four bytes of both operands, and what makes them differ between threads (0: nothing; an odd number
    /// gives data that draw as much power as real ones). `sums` gets the sum of each thread's accumulators.
    ///
    /// # Errors
    /// [`Error::Length`] when `sums` has not [`peak_len`](Self::peak_len) elements; [`Error::Value`] for memory or a stream
    /// of another context; [`Error::Cuda`] when the driver refuses.
    pub fn peak_mma(
        &self,
        stream: &CudaStream,
        iterations: u32,
        (word, spread): (u32, u32),
        sums: &mut CudaSlice<i32>,
    ) -> Result<u64> {
        self.check_memory("sums", sums)?;
        let len = self.peak_len();
        if sums.len() != len {
            return Err(Error::Length {
                what: "sums",
                found: sums.len(),
                expected: len,
            });
        }
        let threads = params::IMMA_PEAK_THREADS;
        let (target, _guard) = sums.device_ptr_mut(stream);
        let params = PeakParams {
            sums: target as *mut _,
            word,
            spread,
            iterations,
            reserved: 0,
        };
        let geometry = Geometry {
            grid: ((len / threads as usize) as u64, 1),
            block: (threads, 1),
            dynamic_shared: 0,
        };
        let launch = PreparedLaunch::new(self, stream, "peak_mma_s8", geometry, params)?;
        // SAFETY: one element a thread, as was checked; the guard lives here.
        unsafe { launch.enqueue()? };
        let warps = len as u64 / 32;
        Ok(2 * MMA * u64::from(params::IMMA_PEAK_CHAINS) * u64::from(iterations) * warps)
    }
}
