//! How many blocks of a kernel a multiprocessor holds.
use super::abi::Out;
use super::function::Function;
use super::in_context;
use super::state::Driver;
use super::status::{Result, Status};
use crate::device::DeviceProfile;

/// Shared memory and registers are handed out in pieces of this size.
const SHARED_UNIT: u32 = 128;
const WARP_REGISTER_UNIT: u32 = 256;

/// Blocks of so many threads that fit on a multiprocessor; 0 if not one does.
///
/// # Errors
/// No threads, or more than a block has.
pub fn blocks_per_sm(
    device: &DeviceProfile,
    function: &Function,
    threads: u32,
    dynamic_shared: u32,
) -> Result<u32> {
    if threads == 0 || threads > device.max_threads_per_block {
        return Err(Status::INVALID_VALUE.because(format!("blocks of {threads} threads")));
    }
    if threads > function.max_threads(device)? {
        return Ok(0);
    }
    let shared = function.entry()?.static_shared + dynamic_shared;
    if shared > device.max_shared_per_block_optin {
        return Ok(0);
    }
    let shared = (shared + device.reserved_shared_per_block).next_multiple_of(SHARED_UNIT);
    let warps = threads.div_ceil(device.warp_size);
    let warp_registers =
        (function.registers(device)? * device.warp_size).next_multiple_of(WARP_REGISTER_UNIT);
    let limits = [
        device.max_blocks_per_sm,
        device.max_threads_per_sm / device.warp_size / warps,
        device.max_shared_per_sm / shared.max(1),
        device.regs_per_sm / (warp_registers * warps),
    ];
    Ok(limits.into_iter().min().unwrap_or(0))
}

fn max_active(
    driver: &Driver,
    out: Out<i32>,
    function: usize,
    threads: i32,
    shared: usize,
) -> Result {
    let function = driver.functions.get(function)?;
    let threads = u32::try_from(threads).unwrap_or(0);
    let shared = u32::try_from(shared).unwrap_or(u32::MAX / 2);
    out.set(blocks_per_sm(&driver.profile, &function, threads, shared)? as i32)
}

#[no_mangle]
extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    out: Out<i32>,
    function: usize,
    threads: i32,
    shared: usize,
) -> Status {
    in_context("cuOccupancyMaxActiveBlocksPerMultiprocessor", |driver| {
        max_active(driver, out, function, threads, shared)
    })
}

#[no_mangle]
extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    out: Out<i32>,
    function: usize,
    threads: i32,
    shared: usize,
    _flags: u32,
) -> Status {
    in_context(
        "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags",
        |driver| max_active(driver, out, function, threads, shared),
    )
}

/// Shared memory of a block as a function of its threads.
type SharedOfBlock = Option<extern "C" fn(i32) -> usize>;

/// The block that fills a multiprocessor best, the larger of equals, and the grid that fills the device.
fn best_block(
    driver: &Driver,
    function: usize,
    shared_of: SharedOfBlock,
    shared: usize,
    limit: i32,
) -> Result<(i32, i32)> {
    let (device, function) = (&driver.profile, driver.functions.get(function)?);
    let most = function.max_threads(device)?;
    let most = match u32::try_from(limit) {
        Ok(limit) if limit > 0 => most.min(limit),
        _ => most,
    };
    let mut best = (0, 0, 0);
    for threads in (1..=most / device.warp_size).map(|warps| warps * device.warp_size) {
        let shared = shared_of.map_or(shared, |of| of(threads as i32));
        let shared = u32::try_from(shared).unwrap_or(u32::MAX / 2);
        let blocks = blocks_per_sm(device, &function, threads, shared)?;
        if blocks * threads >= best.0 {
            best = (blocks * threads, blocks, threads);
        }
    }
    let (_, blocks, threads) = best;
    Ok(((blocks * device.sm_count) as i32, threads as i32))
}

#[no_mangle]
extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: Out<i32>,
    block: Out<i32>,
    function: usize,
    shared_of: SharedOfBlock,
    shared: usize,
    limit: i32,
) -> Status {
    in_context("cuOccupancyMaxPotentialBlockSize", |driver| {
        let (blocks, threads) = best_block(driver, function, shared_of, shared, limit)?;
        grid.set(blocks)?;
        block.set(threads)
    })
}

#[no_mangle]
extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: Out<i32>,
    block: Out<i32>,
    function: usize,
    shared_of: SharedOfBlock,
    shared: usize,
    limit: i32,
    _flags: u32,
) -> Status {
    in_context("cuOccupancyMaxPotentialBlockSizeWithFlags", |driver| {
        let (blocks, threads) = best_block(driver, function, shared_of, shared, limit)?;
        grid.set(blocks)?;
        block.set(threads)
    })
}

#[no_mangle]
extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    out: Out<usize>,
    function: usize,
    blocks: i32,
    _threads: i32,
) -> Status {
    in_context("cuOccupancyAvailableDynamicSMemPerBlock", |driver| {
        let (device, function) = (&driver.profile, driver.functions.get(function)?);
        let blocks = u32::try_from(blocks)
            .ok()
            .filter(|n| *n > 0)
            .ok_or(Status::INVALID_VALUE)?;
        let each = device.max_shared_per_sm / blocks / SHARED_UNIT * SHARED_UNIT;
        let own = device.reserved_shared_per_block + function.entry()?.static_shared;
        out.set(each.saturating_sub(own).min(function.dynamic_limit()) as usize)
    })
}
