//! Shared memory of one block.
use super::race::{Clocks, History, Touch};
use super::{MemoryFault, SHARED_BASE};

/// Why a shared access is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedFault {
    /// Bounds, alignment or initialisation.
    Memory(MemoryFault),
    /// Two warps without a barrier between them.
    Race(String),
    /// The bytes belong to a `cp.async` that nobody has waited for.
    Pending(String),
}

const INIT: u8 = 1;
const PENDING: u8 = 2;

/// The states that all bytes have, and those that any has.
fn summary(state: &[u8]) -> (u8, u8) {
    if let Ok(word) = <[u8; 4]>::try_from(state) {
        // The common case: four bytes alike.
        if word == [word[0]; 4] {
            return (word[0], word[0]);
        }
    }
    state
        .iter()
        .fold((u8::MAX, 0), |(all, any), s| (all & s, any | s))
}

/// Bytes with their state: written, or promised by a `cp.async`.
pub struct SharedMemory {
    data: Vec<u8>,
    state: Vec<u8>,
    history: History,
    /// What orders the warps.
    pub clocks: Clocks,
}

impl SharedMemory {
    /// Uninitialised memory of `bytes` bytes for `warps` warps.
    pub fn new(bytes: u32, warps: usize) -> Self {
        let n = bytes.next_multiple_of(4) as usize;
        SharedMemory {
            data: vec![0xcd; bytes as usize],
            state: vec![0; bytes as usize],
            history: History::new(n),
            clocks: Clocks::new(warps),
        }
    }

    fn place(&self, addr: u64, bytes: u64) -> Result<usize, SharedFault> {
        let base = u64::from(SHARED_BASE);
        let end = base + self.data.len() as u64;
        if addr < base || addr.saturating_add(bytes) > end {
            let near = format!(", the block has shared bytes {base:#x}..{end:#x}").into();
            return Err(SharedFault::Memory(MemoryFault::OutOfBounds {
                addr,
                bytes,
                near,
            }));
        }
        Ok((addr - base) as usize)
    }

    /// Checks an access of `bytes` bytes and notes it; where it lies.
    fn access(
        &mut self,
        addr: u64,
        bytes: u64,
        warp: usize,
        how: Touch,
    ) -> Result<usize, SharedFault> {
        let at = self.place(addr, bytes)?;
        let (all, any) = summary(&self.state[at..at + bytes as usize]);
        if any & PENDING != 0 {
            let text = format!("{how:?} of {bytes} bytes at {addr:#x} before the cp.async.wait that completes them");
            return Err(SharedFault::Pending(text));
        }
        if how != Touch::Write && all & INIT == 0 {
            return Err(SharedFault::Memory(MemoryFault::Uninitialised {
                addr,
                bytes,
            }));
        }
        self.history
            .touch(&self.clocks, at, bytes as usize, warp, how)
            .map_err(|text| SharedFault::Race(format!("{bytes} bytes at {addr:#x}: {text}")))?;
        Ok(at)
    }

    /// Reads `out.len()` bytes.
    pub fn read(&mut self, addr: u64, out: &mut [u8], warp: usize) -> Result<(), SharedFault> {
        let at = self.access(addr, out.len() as u64, warp, Touch::Read)?;
        out.copy_from_slice(&self.data[at..at + out.len()]);
        Ok(())
    }

    /// Writes bytes.
    pub fn write(&mut self, addr: u64, bytes: &[u8], warp: usize) -> Result<(), SharedFault> {
        let at = self.access(addr, bytes.len() as u64, warp, Touch::Write)?;
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        self.state[at..at + bytes.len()].fill(INIT);
        Ok(())
    }

    /// Replaces `width` bytes by `f(old)`; the old value.
    pub fn update(
        &mut self,
        addr: u64,
        width: u64,
        warp: usize,
        f: impl Fn(u64) -> u64,
    ) -> Result<u64, SharedFault> {
        let at = self.access(addr, width, warp, Touch::Atomic)?;
        let bytes = &mut self.data[at..at + width as usize];
        let mut word = [0; 8];
        word[..width as usize].copy_from_slice(bytes);
        let old = u64::from_le_bytes(word);
        bytes.copy_from_slice(&f(old).to_le_bytes()[..width as usize]);
        Ok(old)
    }

    /// Promises bytes that [`Self::complete`] will bring.
    pub fn promise(&mut self, addr: u64, bytes: u64, warp: usize) -> Result<(), SharedFault> {
        let at = self.access(addr, bytes, warp, Touch::Write)?;
        self.state[at..at + bytes as usize].fill(PENDING);
        Ok(())
    }

    /// Brings promised bytes.
    pub fn complete(&mut self, addr: u64, bytes: &[u8], warp: usize) -> Result<(), SharedFault> {
        let at = self.place(addr, bytes.len() as u64)?;
        self.state[at..at + bytes.len()].fill(INIT);
        self.write(addr, bytes, warp)
    }
}
