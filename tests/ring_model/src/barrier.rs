//! An mbarrier object, as the PTX ISA defines it (9.7.13.15): a phase ends when no arrival is pending and no bytes are
//! outstanding, and the next begins with the count it was initialised with.
use crate::model::Wrong;

/// Bytes are counted in copies: one for the tall operand's box, one for each part of the wide one's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Barrier {
    /// Arrivals of a phase; 0 before `mbarrier.init`.
    count: u8,
    pending: u8,
    /// Below zero where a copy of another block lands before the own producer has told of it.
    bytes: i8,
    /// Of the phase under way; all that `try_wait.parity` can see.
    parity: bool,
}

impl Barrier {
    /// `mbarrier.init`.
    pub fn new(count: u8) -> Self {
        Self {
            count,
            pending: count,
            ..Self::default()
        }
    }

    /// `mbarrier.arrive`, with `bytes` to expect.
    pub fn arrive(&mut self, bytes: i8) -> Result<(), Wrong> {
        if self.count == 0 {
            return Err(Wrong::BarrierNotThere);
        }
        // A phase that waits for bytes alone takes no more arrivals.
        self.pending = self.pending.checked_sub(1).ok_or(Wrong::TooManyArrivals)?;
        self.bytes += bytes;
        self.turn_over();
        Ok(())
    }

    /// `complete_tx` of one copy.
    pub fn complete(&mut self) -> Result<(), Wrong> {
        if self.count == 0 {
            return Err(Wrong::BarrierNotThere);
        }
        self.bytes -= 1;
        self.turn_over();
        Ok(())
    }

    fn turn_over(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.pending = self.count;
            self.parity = !self.parity;
        }
    }

    /// `try_wait.parity`: whether the phase of that parity, this one or the one before, is complete.
    pub fn passed(&self, parity: bool) -> bool {
        self.count != 0 && self.parity != parity
    }
}
