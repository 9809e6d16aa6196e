//! Shared memory of one block.
use super::lanes::LaneHistory;
use super::race::{Actor, Clocks, Conflict, History, Touch, Who};
use super::{MemoryFault, SHARED_BASE};
use crate::strictness::{Relaxed, Rule};

/// Why a shared access is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedFault {
    /// Bounds, alignment or initialisation.
    Memory(MemoryFault),
    /// Two warps without a barrier between them.
    Race(String),
    /// The bytes belong to a copy that nobody has waited for.
    Pending(String),
    /// An asynchronous operation reads what a warp wrote, without a proxy fence.
    Proxy(String),
    /// A plain access to an mbarrier object, or the other way round.
    Mbarrier(String),
}

const INIT: u8 = 1;
/// Promised by a `cp.async`.
const PENDING: u8 = 2;
/// Promised by a bulk copy.
const FLYING: u8 = 4;
/// An mbarrier object.
const OBJECT: u8 = 8;

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

/// Bytes that a bulk store still reads.
struct Lent {
    ticket: u64,
    at: usize,
    len: usize,
}

/// Bytes with their state: written, promised, or part of an mbarrier.
pub struct SharedMemory {
    data: Vec<u8>,
    state: Vec<u8>,
    history: History,
    lanes: LaneHistory,
    lent: Vec<Lent>,
    relaxed: Relaxed,
}

impl SharedMemory {
    /// Uninitialised memory of `bytes` bytes.
    pub fn new(bytes: u32, relaxed: Relaxed) -> Self {
        let n = bytes.next_multiple_of(4) as usize;
        SharedMemory {
            data: vec![0xcd; bytes as usize],
            state: vec![0; bytes as usize],
            history: History::new(n),
            lanes: LaneHistory::new(n),
            lent: Vec::new(),
            relaxed,
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
        clocks: &Clocks,
        addr: u64,
        bytes: u64,
        who: Who,
        how: Touch,
    ) -> Result<usize, SharedFault> {
        let at = self.place(addr, bytes)?;
        let (all, any) = summary(&self.state[at..at + bytes as usize]);
        if any & (PENDING | FLYING | OBJECT) != 0 {
            return Err(claimed(
                any,
                format!("{how:?} of {bytes} bytes at {addr:#x}"),
            ));
        }
        let unused = how == Touch::Read && self.relaxed.has(Rule::UnusedShared);
        if how != Touch::Write && all & INIT == 0 && !unused {
            return Err(SharedFault::Memory(MemoryFault::Uninitialised {
                addr,
                bytes,
            }));
        }
        if how != Touch::Read {
            let end = at + bytes as usize;
            if self.lent.iter().any(|l| l.at < end && at < l.at + l.len) {
                return Err(SharedFault::Pending(format!(
                    "{how:?} of {bytes} bytes at {addr:#x} that a bulk store still reads: \
                     cp.async.bulk.wait_group.read comes first"
                )));
            }
        }
        self.history
            .touch(clocks, at, bytes as usize, who, how)
            .map_err(|conflict| match conflict {
                Conflict::Race(text) => {
                    SharedFault::Race(format!("{bytes} bytes at {addr:#x}: {text}"))
                }
                Conflict::Proxy(text) => {
                    SharedFault::Proxy(format!("{bytes} bytes at {addr:#x}: {text}"))
                }
            })?;
        if let Some(lane) = who.lane.filter(|_| how != Touch::Atomic) {
            let when = (who.warp, clocks.epoch(who.warp));
            self.lanes
                .touch(when, lane, at, bytes as usize, how == Touch::Write)
                .map_err(|text| SharedFault::Race(format!("{bytes} bytes at {addr:#x}: {text}")))?;
        }
        Ok(at)
    }

    /// Reads `out.len()` bytes.
    pub fn read(
        &mut self,
        clocks: &Clocks,
        addr: u64,
        out: &mut [u8],
        who: Who,
    ) -> Result<(), SharedFault> {
        let at = self.access(clocks, addr, out.len() as u64, who, Touch::Read)?;
        out.copy_from_slice(&self.data[at..at + out.len()]);
        Ok(())
    }

    /// Writes bytes.
    pub fn write(
        &mut self,
        clocks: &Clocks,
        addr: u64,
        bytes: &[u8],
        who: Who,
    ) -> Result<(), SharedFault> {
        let at = match self.access(clocks, addr, bytes.len() as u64, who, Touch::Write) {
            // Whichever of two equal writes comes last, readers see it; they must be ordered after the first.
            Err(SharedFault::Race(_)) if self.writes_the_same(addr, bytes) => return Ok(()),
            at => at?,
        };
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        self.state[at..at + bytes.len()].fill(INIT);
        Ok(())
    }

    /// Whether these bytes lie there already, which a launch may be let off for.
    fn writes_the_same(&self, addr: u64, bytes: &[u8]) -> bool {
        let there = |at: usize| {
            let all = at..at + bytes.len();
            self.data[all.clone()] == *bytes && summary(&self.state[all]).0 & INIT != 0
        };
        self.relaxed.has(Rule::SameValue) && self.place(addr, bytes.len() as u64).is_ok_and(there)
    }

    /// Replaces `width` bytes by `f(old)`; the old value.
    pub fn update(
        &mut self,
        clocks: &Clocks,
        addr: u64,
        width: u64,
        who: Who,
        f: impl Fn(u64) -> u64,
    ) -> Result<u64, SharedFault> {
        let at = self.access(clocks, addr, width, who, Touch::Atomic)?;
        let bytes = &mut self.data[at..at + width as usize];
        let mut word = [0; 8];
        word[..width as usize].copy_from_slice(bytes);
        let old = u64::from_le_bytes(word);
        bytes.copy_from_slice(&f(old).to_le_bytes()[..width as usize]);
        Ok(old)
    }

    /// Promises bytes that [`Self::complete`] or [`Self::land`] will bring.
    pub fn promise(
        &mut self,
        clocks: &Clocks,
        addr: u64,
        bytes: u64,
        who: Who,
    ) -> Result<(), SharedFault> {
        let at = self.access(clocks, addr, bytes, who, Touch::Write)?;
        let state = if who.asynchronous { FLYING } else { PENDING };
        self.state[at..at + bytes as usize].fill(state);
        Ok(())
    }

    /// Brings bytes promised by a `cp.async`.
    pub fn complete(
        &mut self,
        clocks: &Clocks,
        addr: u64,
        bytes: &[u8],
        who: Who,
    ) -> Result<(), SharedFault> {
        let at = self.place(addr, bytes.len() as u64)?;
        self.state[at..at + bytes.len()].fill(INIT);
        self.write(clocks, addr, bytes, who)
    }

    /// Brings promised bytes in the name of an asynchronous actor: a bulk copy's, or (`generic`) those of a `cp.async`.
    pub fn land(
        &mut self,
        addr: u64,
        bytes: &[u8],
        (actor, clock): (Actor, u32),
        generic: bool,
    ) -> Result<(), SharedFault> {
        let at = self.place(addr, bytes.len() as u64)?;
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        self.state[at..at + bytes.len()].fill(INIT);
        self.history.wrote(at, bytes.len(), actor, clock, generic);
        Ok(())
    }

    /// Lends bytes to a bulk store until [`Self::give_back`]; what they hold.
    pub fn lend(
        &mut self,
        clocks: &Clocks,
        addr: u64,
        bytes: u64,
        who: Who,
        ticket: u64,
    ) -> Result<Vec<u8>, SharedFault> {
        let at = self.access(clocks, addr, bytes, who, Touch::Read)?;
        let len = bytes as usize;
        self.lent.push(Lent { ticket, at, len });
        Ok(self.data[at..at + len].to_vec())
    }

    /// The bulk store with this ticket has read its source, as the waiting thread `who` now knows.
    pub fn give_back(&mut self, clocks: &Clocks, ticket: u64, who: Who) {
        while let Some(i) = self.lent.iter().position(|l| l.ticket == ticket) {
            let l = self.lent.swap_remove(i);
            // Nobody wrote in between, so there is nothing to conflict with.
            let _ = self.history.touch(clocks, l.at, l.len, who, Touch::Read);
        }
    }

    /// Makes eight bytes an mbarrier object, or plain memory again.
    pub fn set_object(
        &mut self,
        clocks: &Clocks,
        addr: u64,
        who: Who,
        object: bool,
    ) -> Result<(), SharedFault> {
        let at = self.place(addr, 8)?;
        let (_, any) = summary(&self.state[at..at + 8]);
        if !object && any == OBJECT {
            self.state[at..at + 8].fill(0);
        }
        self.access(clocks, addr, 8, who, Touch::Write)?;
        self.state[at..at + 8].fill(if object { OBJECT } else { 0 });
        Ok(())
    }
}

fn claimed(state: u8, what: String) -> SharedFault {
    if state & OBJECT != 0 {
        return SharedFault::Mbarrier(format!(
            "{what}, which hold a live mbarrier (mbarrier.inval ends it)"
        ));
    }
    SharedFault::Pending(match state & FLYING {
        0 => format!("{what} before the cp.async.wait that completes them"),
        _ => format!("{what} that a bulk copy is still bringing: wait for its mbarrier's phase"),
    })
}
