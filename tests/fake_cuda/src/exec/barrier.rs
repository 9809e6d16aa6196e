//! Barriers of a block: `bar.sync`, `bar.arrive`, `bar.red`.
use super::cluster::{stop, Cluster, Step};
use super::warp::{Split, State, Warp};
use super::FaultKind;
use crate::memory::Knowledge;
use crate::ptx::ir::BarKind;

/// A named barrier between its first arrival and its completion.
#[derive(Default)]
pub(super) struct Barrier {
    pub expected: u32,
    pub arrived: u32,
    told: Knowledge,
    /// Threads whose predicate was true; threads that reduced.
    votes: u32,
    voters: u32,
    waiting: Vec<(usize, u32, BarKind)>,
}

impl Cluster<'_> {
    /// Arrival of a whole warp (or, unaligned, of some lanes) at a block barrier.
    pub(super) fn arrive(
        &mut self,
        w: &mut Warp,
        cur: Split,
        kind: BarKind,
        id: u32,
        count: Option<u32>,
    ) -> Step<Option<Split>> {
        let lane = cur.mask.trailing_zeros() as usize;
        if id >= 16 {
            return stop(lane, FaultKind::Barrier(format!("barrier number {id}")));
        }
        let all = self.threads().next_multiple_of(32);
        let expected = count.unwrap_or(all);
        if expected == 0 || !expected.is_multiple_of(32) || expected > all {
            return stop(
                lane,
                FaultKind::Barrier(format!(
                    "thread count {expected} of a block of {}",
                    self.threads()
                )),
            );
        }
        let b = &mut self.blocks[w.rank].barriers[id as usize];
        if b.arrived != 0 && b.expected != expected {
            return stop(
                lane,
                FaultKind::Barrier(format!(
                    "barrier {id} is used for {} and {expected} threads at once",
                    b.expected
                )),
            );
        }
        b.expected = expected;
        // The hardware counts whole warps.
        b.arrived += if cur.mask == w.alive {
            32
        } else {
            cur.mask.count_ones()
        };
        b.told.join(&self.clocks.release(w.index));
        if let BarKind::Popc(_, p) | BarKind::And(_, p) | BarKind::Or(_, p) = kind {
            b.votes += (w.regs.pred(p) & cur.mask).count_ones();
            b.voters += cur.mask.count_ones();
        }
        if b.arrived > expected {
            return stop(
                lane,
                FaultKind::Barrier(format!(
                    "{} threads came to barrier {id}, which takes {expected}",
                    b.arrived
                )),
            );
        }
        let waits = kind != BarKind::Arrive;
        if waits {
            b.waiting.push((w.index, cur.mask, kind));
            w.splits.push(Split {
                state: State::BarWait(id as u8),
                ..cur
            });
        }
        self.settle |= b.arrived == expected;
        if b.arrived == expected && b.voters == 0 {
            let done = std::mem::take(&mut self.blocks[w.rank].barriers[id as usize]);
            self.complete(&done, id as u8);
        }
        Ok(if waits {
            None
        } else {
            Some(Split {
                pc: cur.pc + 1,
                ..cur
            })
        })
    }

    fn complete(&mut self, b: &Barrier, id: u8) {
        for (warp, _, _) in &b.waiting {
            self.clocks.acquire(*warp, &b.told);
            self.clocks.converge(*warp);
            self.released.push((*warp, id));
        }
    }

    /// Completes reducing barriers, whose result goes into registers of every warp.
    pub(super) fn finish_reductions(&mut self, warps: &mut [Warp]) {
        for place in 0..16 * self.blocks.len() {
            let (rank, id) = (place / 16, place % 16);
            let b = &self.blocks[rank].barriers[id];
            if b.voters == 0 || b.arrived != b.expected {
                continue;
            }
            let done = std::mem::take(&mut self.blocks[rank].barriers[id]);
            self.events += 1;
            for (warp, mask, kind) in &done.waiting {
                let w = &mut warps[*warp];
                let fill = |yes: bool| if yes { *mask } else { 0 };
                match *kind {
                    BarKind::Popc(d, _) => w.regs.set32(d, *mask, &[done.votes; 32]),
                    BarKind::And(d, _) => {
                        w.regs.set_pred(d, *mask, fill(done.votes == done.voters))
                    }
                    BarKind::Or(d, _) => w.regs.set_pred(d, *mask, fill(done.votes != 0)),
                    BarKind::Sync | BarKind::Arrive => {}
                }
                for s in w
                    .splits
                    .iter_mut()
                    .filter(|s| s.state == State::BarWait(id as u8))
                {
                    s.state = State::Ready;
                    s.pc += 1;
                }
                self.clocks.acquire(*warp, &done.told);
                self.clocks.converge(*warp);
            }
        }
    }
}
