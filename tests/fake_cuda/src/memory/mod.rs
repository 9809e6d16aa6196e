//! The memory spaces of the emulated device, each with bounds and initialisation tracking.
//!
//! A generic address is 64 bits; its upper part says which space it points into:
//!
//! ```text
//! 0x0000_0100_0000_0000 + offset   shared window (offset: the 32-bit shared address; its upper 8 bits are 0 for
//!                                  the block's own memory, else 1 + the rank of the block that `mapa` named)
//! 0x0000_0200_0000_0000 + offset   local window  (each thread sees its own)
//! 0x0000_0300_0000_0000 + offset   parameter window of the running entry
//! 0x0000_7000_0000_0000 ...        global memory, one guard gap between any two allocations
//! ```
mod fault;
mod global;
mod lanes;
mod local;
mod race;
mod shared;

pub use fault::MemoryFault;
pub use global::{Allocation, GlobalMemory, GlobalView};
pub use lanes::{Lane, ALL as ALL_LANES};
pub use local::LocalMemory;
pub use race::{Actor, Clocks, Knowledge, Touch, Who, MAX_READERS, MAX_WARPS};
pub use shared::{SharedFault, SharedMemory};

/// Start of the shared window in the generic address space.
pub const SHARED_WINDOW: u64 = 0x0100_0000_0000;
/// Start of the local window in the generic address space.
pub const LOCAL_WINDOW: u64 = 0x0200_0000_0000;
/// Start of the entry-parameter window in the generic address space.
pub const PARAM_WINDOW: u64 = 0x0300_0000_0000;
/// Size of each window.
pub const WINDOW_BYTES: u64 = 1 << 32;
/// The part of the shared window that is one block's own; the next ones are its peers' in rank order.
pub const BLOCK_WINDOW_BYTES: u64 = 1 << 24;
/// First address that global memory hands out.
pub const GLOBAL_BASE: u64 = 0x7000_0000_0000;
/// First address of a block's shared memory in its space: the driver keeps the bytes before it.
pub const SHARED_BASE: u32 = 1024;
