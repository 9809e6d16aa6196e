//! mbarrier objects: phases, arrivals, transaction bytes.
//!
//! The eight bytes in shared memory are the hardware's secret; what they stand for is kept beside them. A phase
//! ends when no arrival is pending and the transaction count is zero; a waiter then knows what those who arrived
//! knew, and that the copies which completed on the mbarrier have landed.
//!
//! Of what a warp of another block knew, that needs `.cluster` scope at the arrival and at the wait. In `.cta` scope, which
//! is what an instruction means that names none, a waiter learns from another block only which wgmma and copies
//! are complete: enough to load over what they read or wrote, not to see what a thread wrote.
use super::cluster::{stop, Cluster, Step};
use super::regs::{lanes, Lanes};
use super::warp::Warp;
use super::FaultKind;
use crate::memory::{Actor, Knowledge, Who};
use crate::ptx::ir::{Addr, Order, Phase, Reg, Space, Src};
use crate::strictness::Rule;

/// Most arrivals, and most transaction bytes either way.
const LIMIT: i64 = (1 << 20) - 1;
/// What an arrival's result looks like, so that another value is not taken for one.
const STATE: u64 = 0xb4a1_0000_0000_0000;

/// One mbarrier object.
pub(super) struct Mbarrier {
    /// Its copies, in the race detector.
    pub actor: Actor,
    expected: u32,
    pending: u32,
    tx: i64,
    /// Phases completed.
    pub phase: u32,
    /// Phases that someone has waited for, and those that the copies which landed need waited for.
    pub waited: u32,
    pub landed: u32,
    /// What arrivals of the phase under way told, and of phases that are over, for any waiter.
    told: Knowledge,
    done: Knowledge,
    /// The same for waiters in the scope of the cluster alone.
    told_cluster: Knowledge,
    done_cluster: Knowledge,
    maker: Who,
    maker_lane: usize,
    /// A fence made the initialisation visible to the async proxy and the cluster, in this phase of the
    /// cluster's barrier.
    fenced: Option<u32>,
}

impl Mbarrier {
    fn turn(&mut self) -> bool {
        if self.pending > 0 || self.tx != 0 {
            return false;
        }
        self.phase += 1;
        self.pending = self.expected;
        let told = std::mem::take(&mut self.told);
        self.done.join(&told);
        let told = std::mem::take(&mut self.told_cluster);
        self.done_cluster.join(&told);
        true
    }

    fn describe(&self) -> String {
        format!(
            "phase {} has {} of {} arrivals pending and a transaction count of {} bytes",
            self.phase, self.pending, self.expected, self.tx
        )
    }
}

fn wrong<T>(lane: usize, text: String) -> Step<T> {
    stop(lane, FaultKind::Mbarrier(text))
}

impl Cluster<'_> {
    /// The block and address of an mbarrier operand.
    pub(super) fn mbarrier_place(
        &self,
        w: &Warp,
        lane: usize,
        space: Space,
        addr: u64,
    ) -> Step<(usize, u64)> {
        let (space, addr) = super::access::resolve(space, addr);
        if !matches!(space, Space::Shared | Space::Cluster) {
            return wrong(lane, format!("{addr:#x} is not in shared memory"));
        }
        self.aligned(lane, Space::Shared, addr, 8)?;
        self.locate(w, lane, space, addr)
    }

    /// The live mbarrier there, whose initialisation this warp must know of.
    pub(super) fn live(
        &mut self,
        w: &Warp,
        lane: usize,
        place: (usize, u64),
    ) -> Step<&mut Mbarrier> {
        let Some(b) = self.blocks[place.0].mbarriers.get_mut(&place.1) else {
            return wrong(
                lane,
                format!("no mbarrier was initialised at {:#x}", place.1),
            );
        };
        let by_fence = b.fenced.is_some_and(|phase| w.cluster_waited > phase);
        if !by_fence && !self.clocks.ordered(b.maker.actor, b.maker.clock, w.index) {
            let text = format!(
                "warp {} uses the mbarrier at {:#x} with no barrier after its initialisation by warp {}",
                w.index, place.1, b.maker.actor
            );
            return wrong(lane, text);
        }
        Ok(b)
    }

    /// As [`Self::live`], for something that completes on it through the async proxy.
    pub(super) fn live_for_copies(
        &mut self,
        w: &Warp,
        lane: usize,
        place: (usize, u64),
    ) -> Step<&mut Mbarrier> {
        let relaxed = self.env.launch.relaxed;
        let b = self.live(w, lane, place)?;
        if b.fenced.is_none() && !relaxed.has(Rule::InitFence) {
            let text = format!(
                "a bulk copy completes on the mbarrier at {:#x}, but neither fence.mbarrier_init nor \
                 fence.proxy.async followed its initialisation",
                place.1
            );
            return stop(lane, FaultKind::Proxy(text));
        }
        Ok(b)
    }

    pub(super) fn mbarrier_init(
        &mut self,
        w: &Warp,
        exec: u32,
        space: Space,
        addr: Addr,
        count: Src,
    ) -> Step {
        let (at, count) = (self.addresses(w, addr), self.src32(w, count));
        for lane in lanes(exec) {
            let (rank, place) = self.mbarrier_place(w, lane, space, at[lane])?;
            let n = i64::from(count[lane]);
            if !(1..=LIMIT).contains(&n) {
                return wrong(lane, format!("count {n}, want 1 to {LIMIT}"));
            }
            let who = self.who_lane(w, lane);
            let block = &mut self.blocks[rank];
            if let Err(fault) = block.shared.set_object(&self.clocks, place, who, true) {
                return stop(lane, super::access::shared_fault(fault));
            }
            let actor = self.clocks.mbarrier(self.mbarriers);
            self.mbarriers += 1;
            let made = Mbarrier {
                actor,
                expected: count[lane],
                pending: count[lane],
                tx: 0,
                phase: 0,
                waited: 0,
                landed: 0,
                told: Knowledge::default(),
                done: Knowledge::default(),
                told_cluster: Knowledge::default(),
                done_cluster: Knowledge::default(),
                maker: who,
                maker_lane: lane,
                fenced: None,
            };
            self.blocks[rank].mbarriers.insert(place, made);
        }
        Ok(())
    }

    pub(super) fn mbarrier_inval(&mut self, w: &Warp, exec: u32, space: Space, addr: Addr) -> Step {
        let at = self.addresses(w, addr);
        for lane in lanes(exec) {
            let place = self.mbarrier_place(w, lane, space, at[lane])?;
            self.live(w, lane, place)?;
            let who = self.who_lane(w, lane);
            let block = &mut self.blocks[place.0];
            block.mbarriers.remove(&place.1);
            if let Err(fault) = block.shared.set_object(&self.clocks, place.1, who, false) {
                return stop(lane, super::access::shared_fault(fault));
            }
        }
        Ok(())
    }

    /// `fence.mbarrier_init` and `fence.proxy.async` by these lanes.
    pub(super) fn publish_mbarriers(&mut self, w: &Warp, exec: u32, whoever: bool) {
        let (phase, clocks) = (self.barrier.phase, &self.clocks);
        for b in self.blocks[w.rank].mbarriers.values_mut() {
            let own = b.maker.warp == w.index && exec >> b.maker_lane & 1 == 1;
            if own || (whoever && clocks.ordered(b.maker.actor, b.maker.clock, w.index)) {
                b.fenced.get_or_insert(phase);
            }
        }
    }

    /// Changes the transaction count.
    pub(super) fn transact(
        &mut self,
        w: &Warp,
        lane: usize,
        place: (usize, u64),
        bytes: i64,
    ) -> Step {
        let b = self.live(w, lane, place)?;
        b.tx += bytes;
        if b.tx.abs() > LIMIT {
            let text = format!(
                "transaction count {} at {:#x}, the limit is {LIMIT}",
                b.tx, place.1
            );
            return wrong(lane, text);
        }
        if bytes < 0 && b.turn() {
            self.events += 1;
        }
        Ok(())
    }

    /// A copy has landed: its bytes count, and the phase under way covers it.
    pub(super) fn landed(&mut self, place: (usize, u64), bytes: i64) -> Result<(), String> {
        let Some(b) = self.blocks[place.0].mbarriers.get_mut(&place.1) else {
            return Err(format!(
                "a bulk copy completes on the mbarrier at {:#x}, which is no more",
                place.1
            ));
        };
        b.tx -= bytes;
        b.landed = b.phase + 1;
        if b.tx.abs() > LIMIT {
            return Err(format!("transaction count {} at {:#x}", b.tx, place.1));
        }
        self.events += u64::from(b.turn());
        Ok(())
    }

    /// A `cp.async.mbarrier.arrive` is under way; without `.noinc` the arrival to come is one more than announced.
    pub(super) fn announce(
        &mut self,
        w: &Warp,
        lane: usize,
        place: (usize, u64),
        noinc: bool,
    ) -> Step {
        let b = self.live(w, lane, place)?;
        if !noinc {
            b.pending += 1;
        }
        if i64::from(b.pending) > LIMIT {
            return wrong(
                lane,
                format!("more than {LIMIT} pending arrivals at {:#x}", place.1),
            );
        }
        Ok(())
    }

    /// The arrival that follows a thread's copies.
    pub(super) fn arrival_landed(&mut self, place: (usize, u64)) -> Result<(), String> {
        let Some(b) = self.blocks[place.0].mbarriers.get_mut(&place.1) else {
            return Err(format!(
                "an arrival at {:#x}, where the mbarrier is no more",
                place.1
            ));
        };
        if b.pending == 0 {
            return Err(format!(
                "1 arrival at {:#x}, where {}",
                place.1,
                b.describe()
            ));
        }
        b.pending -= 1;
        self.events += u64::from(b.turn());
        Ok(())
    }

    /// The actor and clock of copies that complete in the phase under way.
    pub(super) fn phase_clock(&self, place: (usize, u64)) -> Option<(Actor, u32)> {
        let b = self.blocks[place.0].mbarriers.get(&place.1)?;
        Some((b.actor, b.phase + 1))
    }

    /// `count` arrivals, which tell any waiter and those in the scope of the cluster; the phase they count for.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn arrive_at(
        &mut self,
        w: &Warp,
        lane: usize,
        place: (usize, u64),
        count: u32,
        drop: bool,
        [told, told_cluster]: [&Knowledge; 2],
    ) -> Step<u32> {
        let b = self.live(w, lane, place)?;
        if count == 0 || count > b.pending {
            let text = format!("{count} arrivals at {:#x}, where {}", place.1, b.describe());
            return wrong(lane, text);
        }
        b.told.join(told);
        b.told_cluster.join(told_cluster);
        let phase = b.phase;
        b.pending -= count;
        if drop {
            b.expected -= count;
        }
        if b.turn() {
            self.events += 1;
        }
        self.visit(w, place.0, Some((place.1, phase)));
        Ok(phase)
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn mbarrier_arrive(
        &mut self,
        w: &mut Warp,
        exec: u32,
        space: Space,
        d: Reg,
        addr: Addr,
        count: Option<Src>,
        expect: Option<Src>,
        drop: bool,
        release: Order,
    ) -> Step {
        let at = self.addresses(w, addr);
        let count = count.map_or([1; 32], |s| self.src32(w, s));
        let expect: Option<Lanes<u32>> = expect.map(|s| self.src32(w, s));
        let nothing = Knowledge::default();
        let told = match release {
            Order::Relaxed => Knowledge::default(),
            Order::Block | Order::Cluster => self.clocks.release(w.index),
        };
        let completed = self.clocks.completed(&told);
        for lane in lanes(exec) {
            let place = self.mbarrier_place(w, lane, space, at[lane])?;
            if let Some(bytes) = expect {
                self.transact(w, lane, place, bytes[lane].into())?;
            }
            let told = match release {
                _ if place.0 == w.rank => [&told, &nothing],
                Order::Cluster => [&completed, &told],
                Order::Block | Order::Relaxed => [&completed, &nothing],
            };
            let phase = self.arrive_at(w, lane, place, count[lane], drop, told)?;
            w.regs.set_lane(d, lane, STATE | u64::from(phase));
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn mbarrier_test(
        &mut self,
        w: &mut Warp,
        exec: u32,
        space: Space,
        d: u32,
        addr: Addr,
        phase: Phase,
        acquire: Order,
        patient: bool,
    ) -> Step {
        let at = self.addresses(w, addr);
        let asked = match phase {
            Phase::Parity(s) => self.src32(w, s).map(u64::from),
            Phase::State(s) => self.src64(w, s),
        };
        let wide = self.env.launch.relaxed.has(Rule::WideParity);
        let mut over = 0;
        for lane in lanes(exec) {
            let place = self.mbarrier_place(w, lane, space, at[lane])?;
            let now = u64::from(self.live(w, lane, place)?.phase);
            let done = match phase {
                Phase::Parity(_) if asked[lane] > 1 && !wide => {
                    return wrong(lane, format!("parity {}, want 0 or 1", asked[lane]));
                }
                Phase::Parity(_) => now & 1 != asked[lane] & 1,
                Phase::State(_) => {
                    let of = asked[lane] ^ STATE;
                    if of != now && of + 1 != now {
                        let text = format!(
                            "state {:#x} is not of the phase under way ({now}) or the one before",
                            asked[lane]
                        );
                        return wrong(lane, text);
                    }
                    of < now
                }
            };
            over |= u32::from(done) << lane;
        }
        // Now and then the answer comes at once, as when the time limit is short.
        let hurry = self.rng.next().is_multiple_of(if patient { 8 } else { 2 });
        if over == 0 && !hurry && !std::mem::take(&mut w.give_up) {
            self.blocked = true;
            return Ok(());
        }
        if over != 0 && acquire != Order::Relaxed {
            self.clocks.converge(w.index);
        }
        for lane in lanes(over).filter(|_| acquire != Order::Relaxed) {
            let place = self.mbarrier_place(w, lane, space, at[lane])?;
            if let Some(b) = self.blocks[place.0].mbarriers.get_mut(&place.1) {
                b.waited = b.phase;
                self.clocks.acquire(w.index, &b.done);
                if acquire == Order::Cluster {
                    self.clocks.acquire(w.index, &b.done_cluster);
                }
                self.clocks.learn(w.index, b.actor, b.phase);
            }
        }
        w.regs.set_pred(d, exec, over);
        Ok(())
    }

    /// For a deadlock's report.
    pub(super) fn mbarrier_waits_for(
        &self,
        w: &Warp,
        lane: usize,
        space: Space,
        addr: Addr,
    ) -> String {
        let at = self.addresses(w, addr)[lane];
        let found = self.mbarrier_place(w, lane, space, at).ok();
        match found.and_then(|(rank, at)| Some((rank, self.blocks[rank].mbarriers.get(&at)?))) {
            Some((rank, b)) => format!(
                "for the mbarrier at {at:#x} of block {rank}, whose {}",
                b.describe()
            ),
            None => format!("for an mbarrier at {at:#x}"),
        }
    }
}
