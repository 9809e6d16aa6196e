//! What blocks of a cluster do to each other's shared memory, and whether its owner stays that long.
//!
//! A block may exit only when it knows that its peers are done with its shared memory: by a barrier of the cluster, by what they
//! told it since, or, of an arrival at one of its mbarriers, because someone waited for that phase. So a missing barrier is found
//! whether or not the schedule lets the block exit first.
use std::collections::HashMap;

use super::cluster::{stop, Cluster, Step};
use super::warp::Warp;
use super::FaultKind;

/// When a warp of another block came last.
#[derive(Clone, Copy)]
struct Visit {
    clock: u32,
    /// Phase of the cluster's barrier.
    phase: u32,
    /// The phase of the mbarrier that an arrival counted for.
    arrival: Option<u32>,
}

/// Those of one block: by warp, and for arrivals by mbarrier.
#[derive(Default)]
pub(super) struct Visits(HashMap<(usize, Option<u64>), Visit>);

impl Cluster<'_> {
    /// Notes that a warp touches the shared memory of block `rank`, or arrives at an mbarrier there.
    pub(super) fn visit(&mut self, w: &Warp, rank: usize, arrival: Option<(u64, u32)>) {
        if rank == w.rank {
            return;
        }
        let visit = Visit {
            clock: self.clocks.generic(w.index).clock,
            phase: self.barrier.phase,
            arrival: arrival.map(|a| a.1),
        };
        let key = (w.index, arrival.map(|a| a.0));
        self.blocks[rank].visits.0.insert(key, visit);
    }

    /// The last thread of a block exits: its peers must be done with its shared memory.
    pub(super) fn leave_visitors(&self, w: &Warp, exec: u32) -> Step {
        let block = &self.blocks[w.rank];
        let each = self.warps();
        let own = || w.rank * each..(w.rank + 1) * each;
        for (&(warp, mbarrier), visit) in &block.visits.0 {
            let waited = || {
                let b = block.mbarriers.get(&mbarrier?)?;
                Some(b.waited > visit.arrival?)
            };
            if block.cluster_waited > visit.phase
                || own().any(|k| self.clocks.ordered(warp as u16, visit.clock, k))
                || waited() == Some(true)
            {
                continue;
            }
            let text = format!(
                "block {} of the cluster exits, and nothing has told it that warp {warp} of another block is done with its shared \
                 memory: barrier.cluster comes first",
                w.rank
            );
            return stop(exec.trailing_zeros() as usize, FaultKind::Cluster(text));
        }
        Ok(())
    }
}
