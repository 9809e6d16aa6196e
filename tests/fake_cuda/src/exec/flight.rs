//! Copies under way: they land one by one, in a random order, whenever the schedule says so.
use super::access::{combine, shared_fault};
use super::cluster::{stop, Cluster, Step};
use super::mbarrier::Mbarrier;
use super::regs::lanes;
use super::warp::{Copy, Warp};
use super::{Fault, FaultKind};
use crate::memory::Allocation;
use crate::ptx::ast::Ty;
use crate::ptx::ir::AtomOp;

/// What lands.
pub(super) enum Cargo {
    /// Bytes for the shared memory of a block, and the mbarrier that counts them.
    Shared {
        rank: usize,
        at: u64,
        data: Vec<u8>,
        mbarrier: u64,
    },
    /// Bytes for global memory, of the bulk store with this ticket.
    Global {
        pieces: Vec<(u64, Vec<u8>)>,
        ticket: u64,
        reduce: Option<(AtomOp, Ty)>,
    },
    /// A thread's `cp.async`s, and the arrival that follows them.
    Arrival {
        rank: usize,
        copies: Vec<Copy>,
        mbarrier: u64,
    },
}

/// A copy and who started it.
pub(super) struct Flight {
    pub cargo: Cargo,
    pub rank: usize,
    pub thread: [u32; 3],
    pub pc: u32,
}

/// All copies under way in a cluster.
#[derive(Default)]
pub(super) struct Flights {
    list: Vec<Flight>,
    tickets: u64,
}

impl Flights {
    /// Whether there are any.
    pub fn any(&self) -> bool {
        !self.list.is_empty()
    }
}

/// A bulk store that its thread has not waited for.
struct Open {
    group: u32,
    ticket: u64,
    reading: bool,
}

/// The bulk stores of one lane.
#[derive(Default)]
pub struct BulkGroups {
    committed: u32,
    open: Vec<Open>,
}

/// Combines each element with what lies there, atomically.
fn reduce_into(a: &Allocation, at: u64, bytes: &[u8], op: AtomOp, ty: Ty) {
    let width = ty.bytes() as usize;
    for (i, element) in bytes.chunks_exact(width).enumerate() {
        let mut word = [0; 8];
        word[..width].copy_from_slice(element);
        let operand = u64::from_le_bytes(word);
        let place = at + (i * width) as u64;
        a.update(place, width as u64, |old| combine(op, ty, old, operand, 0));
    }
}

impl Cluster<'_> {
    /// Sends a copy on its way.
    pub(super) fn take_off(&mut self, w: &Warp, lane: usize, cargo: Cargo) {
        let thread = [0, 1, 2].map(|axis| w.tid[axis][lane]);
        let (rank, pc) = (w.rank, self.pc);
        self.flights.list.push(Flight {
            cargo,
            rank,
            thread,
            pc,
        });
    }

    /// Sends a store from shared memory on its way; `ticket` was used to lend the source.
    pub(super) fn take_off_store(
        &mut self,
        w: &mut Warp,
        lane: usize,
        pieces: Vec<(u64, Vec<u8>)>,
        ticket: u64,
        reduce: Option<(AtomOp, Ty)>,
    ) {
        let groups = &mut w.bulk[lane];
        groups.open.push(Open {
            group: groups.committed,
            ticket,
            reading: true,
        });
        let cargo = Cargo::Global {
            pieces,
            ticket,
            reduce,
        };
        self.take_off(w, lane, cargo);
    }

    /// A number for a bulk store.
    pub(super) fn ticket(&mut self) -> u64 {
        self.flights.tickets += 1;
        self.flights.tickets
    }

    pub(super) fn land_any(&mut self) -> Result<(), Fault> {
        let i = self.rng.next() as usize % self.flights.list.len();
        let flight = self.flights.list.swap_remove(i);
        self.land(&flight)
            .map_err(|kind| self.fault_at(flight.rank, flight.thread, flight.pc, kind))
    }

    fn land(&mut self, flight: &Flight) -> Result<(), FaultKind> {
        let gone = |at: u64| {
            FaultKind::Bulk(format!(
                "a copy completes on the mbarrier at {at:#x}, which is no more"
            ))
        };
        match &flight.cargo {
            Cargo::Global { pieces, reduce, .. } => {
                let mut hint = 0;
                for (at, bytes) in pieces {
                    let found = self.env.view.find(*at, bytes.len() as u64, &mut hint);
                    if let Some(a) = found {
                        a.mark_written();
                        match reduce {
                            None => a.write_bytes(*at, bytes),
                            Some((op, ty)) => reduce_into(a, *at, bytes, *op, *ty),
                        }
                    }
                }
                self.events += 1;
            }
            Cargo::Shared {
                rank,
                at,
                data,
                mbarrier,
            } => {
                let place = (*rank, *mbarrier);
                let by = self.phase_clock(place).ok_or_else(|| gone(*mbarrier))?;
                let memory = &mut self.blocks[*rank].shared;
                memory.land(*at, data, by, false).map_err(shared_fault)?;
                self.landed(place, data.len() as i64)
                    .map_err(FaultKind::Mbarrier)?;
            }
            Cargo::Arrival {
                rank,
                copies,
                mbarrier,
            } => {
                let place = (*rank, *mbarrier);
                let by = self.phase_clock(place).ok_or_else(|| gone(*mbarrier))?;
                for copy in copies {
                    let memory = &mut self.blocks[*rank].shared;
                    let data = &copy.data[..copy.len.into()];
                    memory
                        .land(copy.dst, data, by, true)
                        .map_err(shared_fault)?;
                }
                self.arrival_landed(place).map_err(FaultKind::Mbarrier)?;
            }
        }
        Ok(())
    }

    pub(super) fn bulk_commit(&mut self, w: &mut Warp, exec: u32) {
        lanes(exec).for_each(|l| w.bulk[l].committed += 1);
    }

    /// Completes each lane's groups except the `keep` newest; with `read`, only the reading of their sources.
    pub(super) fn bulk_wait(&mut self, w: &mut Warp, exec: u32, keep: u32, read: bool) -> Step {
        for lane in lanes(exec) {
            let limit = w.bulk[lane].committed.saturating_sub(keep);
            let who = self.who_lane(w, lane);
            for open in w.bulk[lane].open.iter_mut().filter(|o| o.group < limit) {
                let memory = &mut self.blocks[w.rank].shared;
                memory.give_back(&self.clocks, open.ticket, who);
                open.reading = false;
                if read {
                    continue;
                }
                let same = |f: &Flight| matches!(&f.cargo, Cargo::Global { ticket, .. } if *ticket == open.ticket);
                while let Some(i) = self.flights.list.iter().position(same) {
                    let flight = self.flights.list.swap_remove(i);
                    self.land(&flight).or_else(|kind| stop(lane, kind))?;
                }
            }
            if !read {
                w.bulk[lane].open.retain(|o| o.group >= limit);
            }
        }
        Ok(())
    }

    /// A thread must not exit while its stores still read shared memory.
    pub(super) fn leave_copies(&mut self, w: &Warp, exec: u32) -> Step {
        let reading = |lane: &usize| w.bulk[*lane].open.iter().any(|o| o.reading);
        match lanes(exec).find(reading) {
            Some(lane) => stop(
                lane,
                FaultKind::Bulk(String::from(
                    "the thread exits while a bulk store of its own may still read shared memory: \
                     cp.async.bulk.wait_group.read comes first",
                )),
            ),
            None => Ok(()),
        }
    }

    /// The last thread of a block exits: nothing may be on its way to the block's shared memory.
    pub(super) fn leave_block(&mut self, w: &Warp, exec: u32) -> Step {
        let here = |f: &Flight| match &f.cargo {
            Cargo::Shared { rank, .. } | Cargo::Arrival { rank, .. } => *rank == w.rank,
            Cargo::Global { .. } => false,
        };
        let lane = exec.trailing_zeros() as usize;
        let unseen = |b: &Mbarrier| b.landed > b.waited;
        if self.blocks[w.rank].mbarriers.values().any(unseen) {
            let text = format!(
                "block {} of the cluster exits, nobody waited for the last copies to its shared memory",
                w.rank
            );
            return stop(lane, FaultKind::Bulk(text));
        }
        if !self.flights.list.iter().any(here) {
            return Ok(());
        }
        let text = format!(
            "block {} of the cluster exits while copies are on their way to its shared memory",
            w.rank
        );
        stop(lane, FaultKind::Bulk(text))
    }
}
