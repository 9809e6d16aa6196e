//! Local memory: each lane of a warp sees its own bytes at the same addresses.
use super::MemoryFault;

/// The local memories of one warp.
pub struct LocalMemory {
    bytes: usize,
    data: Vec<u8>,
    init: Vec<bool>,
}

impl LocalMemory {
    /// Uninitialised memory of `bytes` bytes a lane.
    pub fn new(bytes: u32) -> Self {
        let bytes = bytes as usize;
        LocalMemory {
            bytes,
            data: vec![0xcd; bytes * 32],
            init: vec![false; bytes * 32],
        }
    }

    fn place(&self, lane: usize, addr: u64, len: usize) -> Result<usize, MemoryFault> {
        if addr > self.bytes as u64 || len > self.bytes - addr as usize {
            let near = format!(", the thread has {} local bytes", self.bytes).into();
            return Err(MemoryFault::OutOfBounds {
                addr,
                bytes: len as u64,
                near,
            });
        }
        Ok(lane * self.bytes + addr as usize)
    }

    /// Reads bytes of `lane`.
    pub fn read(&self, lane: usize, addr: u64, out: &mut [u8]) -> Result<(), MemoryFault> {
        let at = self.place(lane, addr, out.len())?;
        if self.init[at..at + out.len()].iter().any(|&i| !i) {
            return Err(MemoryFault::Uninitialised {
                addr,
                bytes: out.len() as u64,
            });
        }
        out.copy_from_slice(&self.data[at..at + out.len()]);
        Ok(())
    }

    /// Writes bytes of `lane`.
    pub fn write(&mut self, lane: usize, addr: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        let at = self.place(lane, addr, bytes.len())?;
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        self.init[at..at + bytes.len()].fill(true);
        Ok(())
    }

    /// Copies bytes of `lane` with their state; `dst` and `src` were laid out by the parser.
    pub fn copy(&mut self, lane: usize, dst: u32, src: u32, bytes: u32) {
        let at = |offset: u32| lane * self.bytes + offset as usize;
        let (d, s, n) = (at(dst), at(src), bytes as usize);
        self.data.copy_within(s..s + n, d);
        self.init.copy_within(s..s + n, d);
    }
}
