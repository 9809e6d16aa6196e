//! One cluster (of one block where nobody asks for more): schedules its warps in a seeded random order, lets
//! asynchronous copies land in between, and keeps what the blocks hold.
use std::collections::HashMap;

use super::barrier::Barrier;
use super::cluster_barrier::ClusterBarrier;
use super::flight::Flights;
use super::mbarrier::Mbarrier;
use super::regs::{lanes, FULL};
use super::visit::Visits;
use super::warp::{Split, State, Warp};
use super::warpgroup::Warpgroup;
use super::{Fault, FaultKind, Launch};
use crate::memory::{
    Clocks, GlobalMemory, GlobalView, Lane, MemoryFault, SharedMemory, Who, MAX_WARPS,
};
use crate::ptx::ir::{Op, Program, Special, Src};

/// Instructions of one block after which it is given up.
const RUNAWAY: u64 = 1 << 30;
/// How often those who wait are told "not yet" while nothing at all happens, before that is a deadlock.
const PATIENCE: u32 = 8;

/// A refused instruction: which lane did what.
pub struct Stop {
    pub lane: usize,
    pub kind: FaultKind,
}

/// Outcome of an instruction.
pub type Step<T = ()> = Result<T, Box<Stop>>;

/// Refuses an instruction.
pub fn stop<T>(lane: usize, kind: FaultKind) -> Step<T> {
    Err(Box::new(Stop { lane, kind }))
}

/// What all blocks of a launch share.
pub struct Env<'a> {
    pub launch: &'a Launch<'a>,
    pub program: &'a Program,
    pub memory: &'a GlobalMemory,
    pub view: GlobalView,
    /// Addresses of the module's variables.
    pub globals: &'a [u64],
}

impl Env<'_> {
    /// Reads from the parameter buffer.
    pub fn read_param(&self, addr: u64, out: &mut [u8]) -> Result<(), MemoryFault> {
        let params = self.launch.params;
        let end = addr.saturating_add(out.len() as u64);
        if end > params.len() as u64 {
            let near = format!(", the kernel has {} parameter bytes", params.len()).into();
            return Err(MemoryFault::OutOfBounds {
                addr,
                bytes: out.len() as u64,
                near,
            });
        }
        out.copy_from_slice(&params[addr as usize..end as usize]);
        Ok(())
    }
}

/// xorshift64*: the schedule's source of randomness.
pub struct Rng(u64);

impl Rng {
    /// A stream of its own for each seed.
    pub fn new(seed: u64) -> Self {
        // splitmix64 finaliser; the state must not be zero.
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Rng((z ^ (z >> 31)) | 1)
    }

    /// 32 random bits.
    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }
}

/// One block of the cluster.
pub struct Block {
    pub index: [u32; 3],
    pub shared: SharedMemory,
    pub(super) barriers: [Barrier; 16],
    /// Live mbarrier objects by address.
    pub(super) mbarriers: HashMap<u64, Mbarrier>,
    pub(super) warpgroups: Vec<Warpgroup>,
    /// What other blocks of the cluster did here.
    pub(super) visits: Visits,
    /// Phases of the cluster's barrier that some warp of the block has waited for.
    pub(super) cluster_waited: u32,
    /// Registers that nobody holds.
    pub(super) free_registers: u32,
    /// Threads that have not exited.
    pub alive: u32,
}

/// One cluster at work.
pub struct Cluster<'a> {
    pub env: &'a Env<'a>,
    pub blocks: Vec<Block>,
    /// What orders the warps.
    pub clocks: Clocks,
    pub rng: Rng,
    pub(super) flights: Flights,
    pub(super) barrier: ClusterBarrier,
    /// mbarrier objects made so far.
    pub(super) mbarriers: usize,
    /// Warps (of the cluster) that a completed barrier lets go, and the barrier.
    pub(super) released: Vec<(usize, u8)>,
    /// A barrier is complete: the running warp stops so that its waiters are let go first.
    pub(super) settle: bool,
    /// Counts what may let a waiting warp go on.
    pub(super) events: u64,
    /// The instruction that runs.
    pub(super) pc: u32,
    /// The instruction that ran must be run again when something has happened.
    pub(super) blocked: bool,
    pub thread_instructions: u64,
    pub warp_instructions: u64,
}

impl<'a> Cluster<'a> {
    /// Cluster `index` of the grid.
    pub fn new(env: &'a Env<'a>, index: u64) -> Self {
        let l = env.launch;
        let size: [u64; 3] = l.cluster.map(u64::from);
        let across = [0, 1, 2].map(|axis| u64::from(l.grid[axis]) / size[axis]);
        let corner = [
            index % across[0] * size[0],
            index / across[0] % across[1] * size[1],
            index / (across[0] * across[1]) * size[2],
        ];
        let threads = l.block.iter().product::<u32>();
        let warps = (threads as usize).div_ceil(32).min(MAX_WARPS);
        let bytes = match l.dynamic_shared {
            0 => env.program.static_shared,
            n => env.program.dynamic_offset + n,
        };
        let each = env.program.registers;
        let block = |rank: u64| Block {
            index: [
                (corner[0] + rank % size[0]) as u32,
                (corner[1] + rank / size[0] % size[1]) as u32,
                (corner[2] + rank / (size[0] * size[1])) as u32,
            ],
            shared: SharedMemory::new(bytes, l.relaxed),
            barriers: Default::default(),
            mbarriers: HashMap::new(),
            warpgroups: (0..warps.div_ceil(4))
                .map(|_| Warpgroup::new(each))
                .collect(),
            visits: Visits::default(),
            cluster_waited: 0,
            free_registers: 0,
            alive: threads,
        };
        let blocks: Vec<Block> = (0..size.iter().product()).map(block).collect();
        Cluster {
            env,
            clocks: Clocks::new(warps * blocks.len(), warps.div_ceil(4) * blocks.len()),
            barrier: ClusterBarrier::new(threads * blocks.len() as u32),
            blocks,
            rng: Rng::new(l.seed ^ index.wrapping_mul(0xd6e8_feb8_6659_fd93)),
            flights: Flights::default(),
            mbarriers: 0,
            released: Vec::new(),
            settle: false,
            events: 0,
            pc: 0,
            blocked: false,
            thread_instructions: 0,
            warp_instructions: 0,
        }
    }

    /// Warps of a block.
    pub(super) fn warps(&self) -> usize {
        self.threads().div_ceil(32) as usize
    }

    /// The warp itself, as someone who touches shared memory.
    pub(super) fn who(&self, w: &Warp) -> Who {
        self.clocks.generic(w.index)
    }

    /// One lane of it, or [`crate::memory::ALL_LANES`].
    pub(super) fn who_lane(&self, w: &Warp, lane: usize) -> Who {
        Who {
            lane: Some(lane as Lane),
            ..self.who(w)
        }
    }

    pub(super) fn threads(&self) -> u32 {
        self.env.launch.block.iter().product()
    }

    /// Runs the cluster to its end.
    pub fn run(&mut self) -> Result<(), Fault> {
        let l = self.env.launch;
        let each = self.warps();
        let mut warps: Vec<Warp> = (0..each * self.blocks.len())
            .map(|i| {
                let warp = Warp::new(self.env.program, i / each, i % each, l.block);
                Warp {
                    unreleased: if l.dependent { FULL } else { 0 },
                    ..warp
                }
            })
            .collect();
        let mut hopeless = 0;
        loop {
            let before = self.events;
            let ready: Vec<usize> = (0..warps.len()).filter(|&i| warps[i].ready()).collect();
            if self.flights.any() && (ready.is_empty() || self.rng.next().is_multiple_of(4)) {
                self.land_any()?;
            } else if ready.is_empty() {
                if warps.iter().all(|w| w.alive == 0) {
                    return Ok(());
                }
                // Instructions that wait with a time limit come back empty-handed.
                hopeless += 1;
                if hopeless > PATIENCE || !self.time_out(&mut warps) {
                    return Err(self.deadlock(&warps));
                }
            } else {
                let chosen = ready[self.rng.next() as usize % ready.len()];
                self.slice(&mut warps[chosen])?;
            }
            for (warp, id) in std::mem::take(&mut self.released) {
                self.events += 1;
                for s in warps[warp]
                    .splits
                    .iter_mut()
                    .filter(|s| s.state == State::BarWait(id))
                {
                    s.state = State::Ready;
                    s.pc += 1;
                }
            }
            self.finish_reductions(&mut warps);
            self.settle = false;
            if self.events != before {
                hopeless = 0;
                let all = warps.iter_mut().flat_map(|w| &mut w.splits);
                for s in all.filter(|s| s.state == State::Poll) {
                    s.state = State::Ready;
                }
            }
        }
    }

    /// Lets go whoever waits at an instruction that gives up after a while; whether there is anyone.
    fn time_out(&self, warps: &mut [Warp]) -> bool {
        let code = &self.env.program.code;
        let mut any = false;
        for w in warps {
            for s in w.splits.iter_mut().filter(|s| s.state == State::Poll) {
                if code[s.pc as usize].op.gives_up() {
                    s.state = State::Ready;
                    w.give_up = true;
                    any = true;
                }
            }
        }
        any
    }

    pub(super) fn fault(&self, w: &Warp, pc: u32, stop: Stop) -> Fault {
        let thread = [0, 1, 2].map(|axis| w.tid[axis][stop.lane]);
        self.fault_at(w.rank, thread, pc, stop.kind)
    }

    pub(super) fn fault_at(
        &self,
        rank: usize,
        thread: [u32; 3],
        pc: u32,
        kind: FaultKind,
    ) -> Fault {
        let inst = &self.env.program.code[pc as usize];
        let files = &self.env.program.files;
        let source = inst.loc.map(|(file, line)| {
            let name = files
                .iter()
                .find(|f| f.0 == file)
                .map_or("?", |f| f.1.as_str());
            (name.into(), line)
        });
        Fault {
            kernel: self.env.launch.entry.into(),
            ptx_line: inst.line,
            source,
            block: self.blocks[rank].index,
            thread,
            kind,
        }
    }

    fn deadlock(&self, warps: &[Warp]) -> Fault {
        let total = self.threads() * self.blocks.len() as u32;
        let exited = total - warps.iter().map(|w| w.alive.count_ones()).sum::<u32>();
        let stuck = warps
            .iter()
            .flat_map(|w| w.splits.iter().map(move |s| (w, s)));
        // A lane that waits for its own warp says more than one that waits at a barrier.
        let pick = stuck
            .clone()
            .find(|(_, s)| s.state == State::WarpWait)
            .or_else(|| stuck.clone().next());
        let Some((w, s)) = pick else {
            return Fault::at_launch(
                self.env.launch.entry,
                FaultKind::Deadlock(String::from("no lanes left")),
            );
        };
        let lane = s.mask.trailing_zeros() as usize;
        let mut text = match s.state {
            State::BarWait(id) => {
                let b = &self.blocks[w.rank].barriers[id as usize];
                format!(
                    "barrier {id} waits for {} threads, {} came, {exited} have exited",
                    b.expected, b.arrived
                )
            }
            State::Poll => format!("warp {} waits {}", w.index, self.waits_for(w, s)),
            _ => format!(
                "lanes {:#010x} of the warp wait for others that never come (alive: {:#010x}, {exited} threads have exited)",
                s.mask, w.alive
            ),
        };
        // Who else waits, each place once.
        let mut places = vec![s.pc];
        for (w, s) in stuck {
            if !places.contains(&s.pc) && places.len() < 6 {
                places.push(s.pc);
                let line = self.env.program.code[s.pc as usize].line;
                let what = match s.state {
                    State::Poll => self.waits_for(w, s),
                    State::BarWait(id) => format!("at barrier {id}"),
                    _ => String::from("for lanes of its own"),
                };
                text += &format!("; warp {} waits {what} (PTX line {line})", w.index);
            }
        }
        self.fault(
            w,
            s.pc,
            Stop {
                lane,
                kind: FaultKind::Deadlock(text),
            },
        )
    }

    /// Runs one warp for a random while.
    fn slice(&mut self, w: &mut Warp) -> Result<(), Fault> {
        let random = self.rng.next();
        let budget = 8 + random % 120;
        let wild = (random >> 16).is_multiple_of(16);
        let any = wild.then_some(random >> 20);
        let Some(mut cur) = w.take_ready(any) else {
            return Ok(());
        };
        for _ in 0..budget {
            if !w.splits.is_empty() {
                w.merge(&mut cur);
                if !wild && w.behind(cur.pc) {
                    w.splits.push(cur);
                    match w.take_ready(None) {
                        Some(next) => cur = next,
                        None => return Ok(()),
                    }
                    w.merge(&mut cur);
                }
            }
            let pc = cur.pc;
            match self.step(w, cur) {
                Err(stop) => return Err(self.fault(w, pc, *stop)),
                Ok(Some(next)) if self.settle => {
                    cur = next;
                    break;
                }
                Ok(Some(next)) => cur = next,
                Ok(None) if self.settle => return Ok(()),
                Ok(None) => match w.take_ready(None) {
                    Some(next) => cur = next,
                    None => return Ok(()),
                },
            }
        }
        if self.warp_instructions > RUNAWAY {
            return Err(self.fault(
                w,
                cur.pc,
                Stop {
                    lane: cur.mask.trailing_zeros() as usize,
                    kind: FaultKind::Runaway(RUNAWAY),
                },
            ));
        }
        w.splits.push(cur);
        Ok(())
    }

    /// Runs one instruction of a split; where it goes on, or `None` if it ended or waits.
    fn step(&mut self, w: &mut Warp, mut cur: Split) -> Step<Option<Split>> {
        let env = self.env;
        let inst = &env.program.code[cur.pc as usize];
        let exec = cur.mask & w.regs.pred(inst.guard);
        self.thread_instructions += u64::from(exec.count_ones());
        self.warp_instructions += 1;
        w.steps += 1;
        self.pc = cur.pc;
        if exec == 0 {
            cur.pc += 1;
            return Ok(Some(cur));
        }
        match &inst.op {
            Op::Bra { target } => return Ok(Some(branch(w, cur, exec, *target))),
            Op::Exit => {
                self.exit(w, exec)?;
                cur.mask &= !exec;
                cur.pc += 1;
                return Ok(if cur.mask == 0 { None } else { Some(cur) });
            }
            Op::Brx { index, targets } => {
                let at = self.src32(w, *index);
                return self.scatter(w, cur, exec, |lane| targets.get(at[lane] as usize).copied());
            }
            Op::Call { target, link } => {
                w.regs.set32(*link, exec, &[cur.pc + 1; 32]);
                return Ok(Some(branch(w, cur, exec, *target)));
            }
            Op::Ret { link } => {
                let back = w.regs.get32(*link);
                return self.scatter(w, cur, exec, |lane| Some(back[lane]));
            }
            _ => {}
        }
        if self.is_warp_wide(&inst.op) {
            return self.warp_wide(w, cur, exec, &inst.op);
        }
        self.execute(w, exec, &inst.op)?;
        w.regs.check(exec.trailing_zeros() as usize)?;
        Ok(self.advance(w, cur))
    }

    /// Where a split goes after an instruction: on, or nowhere as long as the instruction must wait.
    pub(super) fn advance(&mut self, w: &mut Warp, mut cur: Split) -> Option<Split> {
        if std::mem::take(&mut self.blocked) {
            w.splits.push(Split {
                state: State::Poll,
                ..cur
            });
            return None;
        }
        cur.pc += 1;
        Some(cur)
    }

    /// Ends lanes.
    fn exit(&mut self, w: &mut Warp, exec: u32) -> Step {
        self.leave_copies(w, exec)?;
        self.leave_cluster_barrier(w, exec);
        w.exit(exec);
        let block = &mut self.blocks[w.rank];
        block.alive -= exec.count_ones();
        self.events += 1;
        if w.alive == 0 {
            self.leave_warpgroup(w, exec)?;
        }
        if self.blocks[w.rank].alive == 0 {
            self.leave_block(w, exec)?;
            self.leave_visitors(w, exec)?;
        }
        Ok(())
    }

    /// Sends each lane of `exec` to a place of its own.
    fn scatter(
        &mut self,
        w: &mut Warp,
        mut cur: Split,
        exec: u32,
        to: impl Fn(usize) -> Option<u32>,
    ) -> Step<Option<Split>> {
        cur.mask &= !exec;
        if cur.mask != 0 {
            w.splits.push(Split {
                pc: cur.pc + 1,
                ..cur
            });
        }
        let mut out: Vec<Split> = Vec::new();
        for lane in lanes(exec) {
            let Some(pc) = to(lane) else {
                return stop(
                    lane,
                    FaultKind::Undefined(String::from("branch index outside its list")),
                );
            };
            match out.iter_mut().find(|s| s.pc == pc) {
                Some(s) => s.mask |= 1 << lane,
                None => out.push(Split {
                    pc,
                    mask: 1 << lane,
                    state: State::Ready,
                }),
            }
        }
        let next = out.pop();
        w.splits.extend(out);
        Ok(next)
    }

    /// Lanes of a 64-bit source.
    pub fn src64(&self, w: &Warp, s: Src) -> [u64; 32] {
        match s {
            Src::Reg(r) => w.regs.get64(r),
            Src::Imm(v) => [v; 32],
            Src::Special(s) => self.special(w, s),
            Src::Global(i, offset) => {
                [self.env.globals[i as usize].wrapping_add(offset as u64); 32]
            }
        }
    }

    /// Lanes of a source of up to 32 bits.
    pub fn src32(&self, w: &Warp, s: Src) -> [u32; 32] {
        match s {
            Src::Reg(r) => w.regs.get32(r),
            Src::Imm(v) => [v as u32; 32],
            other => self.src64(w, other).map(|v| v as u32),
        }
    }

    fn special(&self, w: &Warp, s: Special) -> [u64; 32] {
        let l = self.env.launch;
        let by_lane =
            |f: &dyn Fn(u32) -> u32| std::array::from_fn(|lane| u64::from(f(lane as u32)));
        let (static_bytes, dynamic) = (
            u64::from(self.env.program.static_shared),
            u64::from(l.dynamic_shared),
        );
        let one = match s {
            Special::Tid(axis) => return w.tid[axis as usize].map(u64::from),
            Special::Laneid => return by_lane(&|l| l),
            Special::LanemaskEq => return by_lane(&|l| 1 << l),
            Special::LanemaskLt => return by_lane(&|l| (1 << l) - 1),
            Special::LanemaskLe => return by_lane(&|l| u32::MAX >> (31 - l)),
            Special::LanemaskGe => return by_lane(&|l| u32::MAX << l),
            Special::LanemaskGt => return by_lane(&|l| (u32::MAX << l) << 1),
            Special::Ntid(axis) => l.block[axis as usize].into(),
            Special::Ctaid(axis) => self.blocks[w.rank].index[axis as usize].into(),
            Special::Clusterid(axis) => {
                let axis = axis as usize;
                (self.blocks[w.rank].index[axis] / l.cluster[axis]).into()
            }
            Special::Nclusterid(axis) => (l.grid[axis as usize] / l.cluster[axis as usize]).into(),
            Special::ClusterCtaid(axis) => {
                let axis = axis as usize;
                (self.blocks[w.rank].index[axis] % l.cluster[axis]).into()
            }
            Special::ClusterNctaid(axis) => l.cluster[axis as usize].into(),
            Special::ClusterCtarank => w.rank as u64,
            Special::ClusterNctarank => self.blocks.len() as u64,
            Special::IsExplicitCluster => l.explicit_cluster.into(),
            Special::Nctaid(axis) => l.grid[axis as usize].into(),
            Special::Warpid => w.id as u64,
            Special::Nwarpid => u64::from(l.device.max_threads_per_sm / 32),
            Special::Smid => (self.blocks[w.rank].index[0] % l.device.sm_count).into(),
            Special::Nsmid => l.device.sm_count.into(),
            Special::Gridid => 1,
            Special::Clock | Special::Clock64 | Special::GlobalTimer => self.warp_instructions * 4,
            Special::ClockHi => (self.warp_instructions * 4) >> 32,
            Special::DynamicSmem => dynamic,
            Special::TotalSmem => static_bytes + dynamic,
        };
        [one; 32]
    }
}

fn branch(w: &mut Warp, cur: Split, exec: u32, target: u32) -> Split {
    if exec != cur.mask {
        w.splits.push(Split {
            pc: cur.pc + 1,
            mask: cur.mask & !exec,
            state: State::Ready,
        });
    }
    Split {
        pc: target,
        mask: exec,
        ..cur
    }
}
