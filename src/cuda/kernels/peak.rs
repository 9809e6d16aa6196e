//! What the tensor cores can do at most through `mma.sync`: `cuda/peak.cu`.

use super::families::Peak;
use super::params::{self, PeakParams};
use crate::cuda::runtime::{Device, Entry, Geometry, Held, PreparedLaunch};
use crate::error::Result;
use cudarc::driver::{CudaSlice, CudaStream};

/// Blocks a multiprocessor: sixteen warps, four for each of its schedulers.
const BLOCKS: usize = 2;

/// Multiply-adds of one `mma.sync.m16n8k32`.
const MMA: u64 = 16 * 8 * 32;

/// Elements that [`peak_mma`] writes: one a thread.
pub fn peak_len(device: &Device) -> usize {
    let multiprocessors = device.properties().multiprocessors.max(1) as usize;
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
/// [`Error::Length`](crate::Error::Length) when `sums` does not have [`peak_len`] elements;
/// [`Error::Value`](crate::Error::Value) for memory or a stream of another context; [`Error::Cuda`](crate::Error::Cuda)
/// when the driver refuses.
pub fn peak_mma(
    device: &Device,
    stream: &CudaStream,
    iterations: u32,
    (word, spread): (u32, u32),
    sums: &mut CudaSlice<i32>,
) -> Result<u64> {
    const ENTRY: Entry<Peak> = Entry::new("peak_mma_s8");
    let len = peak_len(device);
    let mut held = Held::new(device, stream)?;
    let sums = held.write_vector("sums", sums, len)?;
    let threads = params::IMMA_PEAK_THREADS;
    let params = PeakParams {
        sums: sums.address as *mut _,
        word,
        spread,
        iterations,
        reserved: 0,
    };
    let geometry = Geometry::new(((len / threads as usize) as u64, 1), (threads, 1));
    let launch = PreparedLaunch::new(device, stream, ENTRY, geometry, params)?;
    // SAFETY: the region is held, with one element a thread.
    unsafe { launch.enqueue()? };
    let warps = len as u64 / 32;
    Ok(2 * MMA * u64::from(params::IMMA_PEAK_CHAINS) * u64::from(iterations) * warps)
}
