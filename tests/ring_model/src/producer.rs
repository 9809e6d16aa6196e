//! `produce`, and `igemm`'s first lines: the one thread that initialises the barriers and keeps the ring full.
use crate::barrier::Barrier;
use crate::config::{Config, Fault};
use crate::model::Wrong;
use crate::state::State;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum At {
    /// `init_barriers`.
    #[default]
    Init,
    /// The first barrier, of the cluster or of the block.
    FirstBarrier,
    /// `produce`: weights fill the ring while the kernel before still runs.
    Ahead,
    /// `produce`: `griddepcontrol_wait`.
    GridWait,
    /// `produce`: its loop over items and steps.
    Fill,
    /// `igemm`: the barrier of the cluster at the end.
    LastBarrier,
    Left,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Producer {
    pub at: At,
    id: u8,
    step: u8,
    /// `at` of the code: stages of the ring that were used before.
    used: u8,
    ahead: u8,
}

/// Which of a stage's operands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operand {
    Tall,
    Wide,
}

impl Producer {
    pub fn can_step(&self, c: &Config, s: &State, b: u8) -> bool {
        let own = &s.block[usize::from(b)];
        match self.at {
            At::Init | At::Ahead => true,
            At::FirstBarrier => first_barrier_passed(c, s, b),
            At::GridWait => s.before_ended || c.fault == Fault::NoGridWait,
            At::Fill => {
                self.id >= c.items()
                    || self.used < self.ahead
                    || c.fault == Fault::NoEmptyWait
                    || own.empty[self.stage(c)].passed(self.empty_parity(c))
            }
            At::LastBarrier => last_barrier_passed(c, s, b),
            At::Left => false,
        }
    }

    /// Whether its next step, once possible, stays so and touches nothing that others see.
    pub fn is_private(&self, c: &Config) -> bool {
        match self.at {
            At::FirstBarrier | At::GridWait => true,
            At::Fill => self.id >= c.items(),
            At::Init | At::Ahead | At::LastBarrier | At::Left => false,
        }
    }

    fn stage(&self, c: &Config) -> usize {
        usize::from(self.used % c.stages)
    }

    /// `produce`: the first round finds every stage empty.
    fn empty_parity(&self, c: &Config) -> bool {
        let round = self.used / c.stages % 2 == 1;
        match c.fault {
            Fault::EmptyParity => round,
            Fault::EmptyParityStuck => true,
            _ => !round,
        }
    }

    pub fn step(mut self, c: &Config, s: &mut State, b: u8) -> Result<(), Wrong> {
        match self.at {
            At::Init => {
                init_barriers(c, s, b);
                self.at = At::FirstBarrier;
            }
            At::FirstBarrier => {
                self.id = b / c.cluster;
                let ahead = c.weights_ready && self.id < c.items();
                self.at = if ahead { At::Ahead } else { At::GridWait };
            }
            At::Ahead => {
                let steps = c.item(self.id).1;
                let most = match c.fault {
                    Fault::AheadBeyondRing => steps,
                    _ => steps.min(c.stages),
                };
                if self.ahead < most {
                    let stage = self.ahead % c.stages;
                    expect(c, s, b, stage)?;
                    load(c, s, b, stage, self.ahead, weights(c), false)?;
                    self.ahead += 1;
                } else {
                    self.at = At::GridWait;
                }
            }
            At::GridWait => {
                if c.fault == Fault::AheadForgotten {
                    self.ahead = 0;
                }
                self.at = At::Fill;
            }
            At::Fill if self.id >= c.items() => self.at = At::LastBarrier,
            // Barrier, expectation and both copies are one step: what is on its way lands in steps of its own, and
            // nobody can tell when it left.
            At::Fill => {
                let stage = self.stage(c) as u8;
                if self.used < self.ahead {
                    load(c, s, b, stage, self.used, other(weights(c)), true)?;
                } else {
                    expect(c, s, b, stage)?;
                    load(c, s, b, stage, self.used, Operand::Tall, !c.swapped)?;
                    load(c, s, b, stage, self.used, Operand::Wide, c.swapped)?;
                }
                self.used += 1;
                self.step += 1;
                if self.step == c.item(self.id).1 {
                    (self.step, self.id) = (0, self.id + c.clusters);
                }
            }
            At::LastBarrier => self.at = At::Left,
            At::Left => unreachable!("nothing goes on from there"),
        }
        s.block[usize::from(b)].producer = self;
        Ok(())
    }
}

/// The operand that does not come from the kernel before: `SWAPPED ? load_tall : load_wide`.
fn weights(c: &Config) -> Operand {
    if c.swapped {
        Operand::Tall
    } else {
        Operand::Wide
    }
}

fn other(operand: Operand) -> Operand {
    match operand {
        Operand::Tall => Operand::Wide,
        Operand::Wide => Operand::Tall,
    }
}

/// `init_barriers`, with its arrival counts.
fn init_barriers(c: &Config, s: &mut State, b: u8) {
    let block = &mut s.block[usize::from(b)];
    let readers = match c.fault {
        Fault::EmptyCountsOneBlock => c.readers(),
        _ => c.readers() * c.cluster,
    };
    for stage in 0..usize::from(c.stages) {
        block.full[stage] = Barrier::new(1);
        block.empty[stage] = Barrier::new(readers);
    }
    block.turn = [Barrier::new(1); 2];
}

/// `mbarrier_arrive_expect_tx(ring.full(s), STAGE_BYTES)`.
fn expect(c: &Config, s: &mut State, b: u8, stage: u8) -> Result<(), Wrong> {
    s.block[usize::from(b)].full[usize::from(stage)].arrive(c.copies() as i8)
}

/// `load_tall` or `load_wide`: a copy to the own block, or a part of the wide operand to every block of the cluster.
fn load(
    c: &Config,
    s: &mut State,
    b: u8,
    stage: u8,
    used: u8,
    operand: Operand,
    from_before: bool,
) -> Result<(), Wrong> {
    if from_before && !s.before_ended {
        return Err(Wrong::BeforeTheKernelBefore);
    }
    let (part, to) = match operand {
        Operand::Tall => (0, b..b + 1),
        Operand::Wide => (1 + usize::from(b % c.cluster), c.peers(b)),
    };
    for block in to {
        if s.block[usize::from(block)].left() {
            return Err(Wrong::BlockHasLeft);
        }
        let coming = &mut s.block[usize::from(block)].stage[usize::from(stage)].coming[part];
        if *coming != 0 {
            return Err(Wrong::Overwritten);
        }
        *coming = used + 1;
    }
    Ok(())
}

/// A copy's bytes land in a stage and are counted there.
pub fn land(c: &Config, s: &mut State, b: u8, stage: u8, part: u8) -> Result<(), Wrong> {
    let block = &mut s.block[usize::from(b)];
    if block.left() {
        return Err(Wrong::BlockHasLeft);
    }
    let to = &mut block.stage[usize::from(stage)];
    let new = std::mem::take(&mut to.coming[usize::from(part)]);
    let old = std::mem::replace(&mut to.holds[usize::from(part)], new);
    if old != 0 && to.read != (old, c.readers()) {
        return Err(Wrong::Overwritten);
    }
    block.full[usize::from(stage)].complete()
}

/// `cluster_wait` after the barriers were initialised, or `__syncthreads` where there is no cluster.
pub fn first_barrier_passed(c: &Config, s: &State, b: u8) -> bool {
    let whom = match c.fault {
        Fault::NoFirstClusterBarrier => b..b + 1,
        _ => c.peers(b),
    };
    whom.into_iter()
        .all(|p| s.block[usize::from(p)].producer.at != At::Init)
}

/// The last `cluster_wait`: all threads of the cluster are there. Alone, a block just ends.
pub fn last_barrier_passed(c: &Config, s: &State, b: u8) -> bool {
    c.cluster == 1
        || c.fault == Fault::NoLastClusterBarrier
        || c.peers(b).all(|p| s.block[usize::from(p)].is_done())
}
