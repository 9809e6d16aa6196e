//! `consume`, `multiply` and `release`: a warpgroup that multiplies and finishes the items that are its.
use crate::config::{Config, Fault};
use crate::finish;
use crate::model::Wrong;
use crate::producer::{first_barrier_passed, last_barrier_passed};
use crate::state::State;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum At {
    /// `igemm`: the first barrier.
    #[default]
    FirstBarrier,
    /// `igemm`: `griddepcontrol_wait`.
    GridWait,
    /// `consume`: the next item; with `PINGPONG`, the wait for the turn.
    Item,
    /// `multiply`: the wait for `full`, and the wgmmas of a stage, which are under way from then on.
    Full,
    /// `multiply`: `wgmma_wait<1>`, and the release of the stage before.
    Newest,
    /// `multiply`: the turn goes to the other consumer.
    PassTurn,
    /// `multiply`: `wgmma_wait<0>`, and the release of the last stage.
    All,
    /// `release`: the arrivals at every block of the cluster.
    Release {
        last: bool,
    },
    /// `finish_item`.
    Finish(finish::At),
    /// `igemm`: the barrier of the cluster at the end.
    LastBarrier,
    Left,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Consumer {
    pub at: At,
    pub id: u8,
    turn: u8,
    step: u8,
    /// `at` of the code: stages of the ring that were used before.
    used: u8,
    /// Groups of wgmma that were committed and still read their stages.
    pub flying: u8,
    /// Which use of a stage the oldest of them reads.
    oldest: u8,
}

impl Consumer {
    pub fn can_step(&self, c: &Config, s: &State, b: u8, me: u8) -> bool {
        let own = &s.block[usize::from(b)];
        match self.at {
            At::FirstBarrier => first_barrier_passed(c, s, b),
            At::GridWait => s.before_ended,
            At::Item => {
                self.id >= c.items()
                    || !self.is_mine(c, me)
                    || !c.pingpong
                    || c.fault == Fault::NoTurnWait
                    || own.turn[usize::from(me)].passed(self.turn_parity(c, me))
            }
            At::Full => {
                let parity = (self.used / c.stages % 2 == 1) != (c.fault == Fault::FullParity);
                own.full[usize::from(self.used % c.stages)].passed(parity)
            }
            At::Newest => self.flying <= 1,
            At::All => self.flying == 0,
            At::PassTurn | At::Release { .. } | At::Finish(_) => true,
            At::LastBarrier => last_barrier_passed(c, s, b),
            At::Left => false,
        }
    }

    /// Whether its next step, once possible, stays so and touches nothing that others see.
    pub fn is_private(&self, c: &Config, me: u8) -> bool {
        match self.at {
            At::FirstBarrier | At::GridWait | At::Newest | At::All => true,
            At::Item => self.id >= c.items() || !c.pingpong || !self.is_mine(c, me),
            At::PassTurn => !c.pingpong,
            At::Finish(_) => c.splits() == 1,
            At::Full | At::Release { .. } | At::LastBarrier | At::Left => false,
        }
    }

    /// `consume`: `!PINGPONG || turn % 2 == consumer`.
    fn is_mine(&self, c: &Config, me: u8) -> bool {
        !c.pingpong || self.turn % 2 == me
    }

    /// `consume`: the first turn is the first consumer's.
    fn turn_parity(&self, c: &Config, me: u8) -> bool {
        let first = match c.fault {
            Fault::TurnParity => 1,
            _ => 0,
        };
        (self.turn / 2 % 2 == 1) != (me == first)
    }

    pub fn step(mut self, c: &Config, s: &mut State, b: u8, me: u8) -> Result<(), Wrong> {
        match self.at {
            At::FirstBarrier => self.at = At::GridWait,
            At::GridWait => {
                self.id = b / c.cluster;
                self.at = At::Item;
            }
            At::Item if self.id >= c.items() => self.at = At::LastBarrier,
            At::Item if !self.is_mine(c, me) => {
                self.used += c.item(self.id).1;
                self.next_item(c);
            }
            At::Item => self.at = At::Full,
            At::Full => self.begin_stage(c, s, b)?,
            At::Newest if self.step == 0 && c.fault != Fault::ReleaseTooEarly => self.next_step(c),
            At::Newest => self.at = At::Release { last: false },
            At::PassTurn => {
                if c.pingpong && c.fault != Fault::NoTurnArrive {
                    s.block[usize::from(b)].turn[usize::from(1 - me)].arrive(0)?;
                }
                self.at = At::All;
            }
            At::All => self.at = At::Release { last: true },
            At::Release { last } => self.release(c, s, b, last)?,
            At::Finish(at) => {
                let share = &mut s.share[c.share(b, c.item(self.id).0, me)];
                if !s.before_ended {
                    return Err(Wrong::BeforeTheKernelBefore);
                }
                match at.step(c, share)? {
                    Some(next) => self.at = At::Finish(next),
                    None => self.next_item(c),
                }
            }
            At::LastBarrier => self.at = At::Left,
            At::Left => unreachable!("nothing goes on from there"),
        }
        s.block[usize::from(b)].consumer[usize::from(me)] = self;
        Ok(())
    }

    /// `multiply`: `wgmma`, `wgmma_commit`. What is read must be there now, and stay until the group is complete.
    fn begin_stage(&mut self, c: &Config, s: &State, b: u8) -> Result<(), Wrong> {
        let stage = &s.block[usize::from(b)].stage[usize::from(self.used % c.stages)];
        let parts = &stage.holds[..usize::from(c.copies())];
        if parts.iter().any(|&part| part != self.used + 1) {
            return Err(Wrong::ReadBeforeFull);
        }
        if self.flying == 0 {
            self.oldest = self.used;
        }
        self.flying += 1;
        self.at = At::Newest;
        Ok(())
    }

    /// The oldest group of wgmma is complete: its stage was read.
    pub fn complete(mut self, c: &Config, s: &mut State, b: u8, me: u8) -> Result<(), Wrong> {
        let block = &mut s.block[usize::from(b)];
        let stage = &mut block.stage[usize::from(self.oldest % c.stages)];
        let parts = &stage.holds[..usize::from(c.copies())];
        if parts.iter().any(|&part| part != self.oldest + 1) {
            return Err(Wrong::Overwritten);
        }
        let readers = if stage.read.0 == self.oldest + 1 {
            stage.read.1
        } else {
            0
        };
        stage.read = (self.oldest + 1, readers + 1);
        self.flying -= 1;
        self.oldest = if self.flying == 0 { 0 } else { self.oldest + 1 };
        block.consumer[usize::from(me)] = self;
        Ok(())
    }

    /// `release`: one thread for each block of the cluster arrives at its `empty`. In `multiply` of the stage before, or,
    /// after the item, of its last. One step: arrivals at different barriers commute.
    fn release(&mut self, c: &Config, s: &mut State, b: u8, last: bool) -> Result<(), Wrong> {
        let stage = match (c.fault, last) {
            (Fault::ReleaseTooEarly, false) => self.used % c.stages,
            _ => (self.used - 1) % c.stages,
        };
        for to in c.peers(b) {
            let skipped = match c.fault {
                Fault::ReleaseOwnBlockOnly => to != b,
                Fault::NoLastRelease | Fault::ReleaseTooEarly => last,
                _ => false,
            };
            if !skipped {
                let peer = &mut s.block[usize::from(to)];
                if peer.left() {
                    return Err(Wrong::BlockHasLeft);
                }
                peer.empty[usize::from(stage)].arrive(0)?;
            }
        }
        if last {
            self.step = 0;
            self.at = At::Finish(finish::At::default());
        } else {
            self.next_step(c);
        }
        Ok(())
    }

    /// `multiply`: the loop's end. After it, `used - 1` is the item's last stage.
    fn next_step(&mut self, c: &Config) {
        self.used += 1;
        self.step += 1;
        self.at = if self.step == c.item(self.id).1 {
            At::PassTurn
        } else {
            At::Full
        };
    }

    fn next_item(&mut self, c: &Config) {
        self.id += c.clusters;
        self.turn += 1;
        self.at = At::Item;
    }
}
