//! One warp: its registers, and its lanes grouped by where they are.
//!
//! Lanes at one instruction form a *split*. A branch that not all lanes take makes two splits; splits
//! that meet at one instruction become one again. The split that is furthest behind runs first, which
//! is what makes lanes meet, but now and then another one is chosen, so that a lane that spins cannot
//! starve the lane it waits for.
use std::collections::VecDeque;

use super::flight::BulkGroups;
use super::regs::{Regs, FULL};
use super::warpgroup::GroupMember;
use crate::memory::LocalMemory;
use crate::ptx::ir::Program;

/// Why a split does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It could run.
    Ready,
    /// At a warp-synchronous instruction, waiting for other lanes of the warp.
    WarpWait,
    /// At barrier `.0`.
    BarWait(u8),
    /// At an instruction to run again when something has happened in the cluster.
    Poll,
}

/// Lanes that are at one instruction.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// Next instruction.
    pub pc: u32,
    /// The lanes.
    pub mask: u32,
    /// Whether they run.
    pub state: State,
}

/// A copy that a lane has started and not waited for.
pub struct Copy {
    /// Number of the lane's group it belongs to.
    pub group: u32,
    /// Shared address.
    pub dst: u64,
    /// How many of `data` are copied.
    pub len: u8,
    /// What arrives.
    pub data: [u8; 16],
}

/// The `cp.async` state of one lane.
#[derive(Default)]
pub struct Copies {
    /// Groups committed so far; newer copies belong to group number `committed`.
    pub committed: u32,
    /// Copies in flight, oldest first.
    pub flying: VecDeque<Copy>,
}

/// One warp.
pub struct Warp {
    /// Index in the block.
    pub id: usize,
    /// The block's rank in the cluster.
    pub rank: usize,
    /// Index in the cluster.
    pub index: usize,
    /// Registers.
    pub regs: Regs,
    /// Local memory.
    pub local: LocalMemory,
    /// The splits.
    pub splits: Vec<Split>,
    /// Lanes that have not exited.
    pub alive: u32,
    /// `cp.async` state by lane.
    pub copies: [Copies; 32],
    /// Bulk copies by lane.
    pub bulk: [BulkGroups; 32],
    /// Instructions of the warpgroup.
    pub group: GroupMember,
    /// Phase of the cluster's barrier that each lane arrived for and has not waited for.
    pub cluster_phase: [Option<u32>; 32],
    /// Phases of the cluster's barrier that the warp has waited for.
    pub cluster_waited: u32,
    /// Lanes of a dependent launch that have not waited for the kernel before it.
    pub unreleased: u32,
    /// An instruction that waits with a time limit must give up.
    pub give_up: bool,
    /// Where global memory was last found.
    pub hint: usize,
    /// Thread index of each lane: `tid[axis][lane]`.
    pub tid: [[u32; 32]; 3],
    /// Instructions run.
    pub steps: u64,
}

impl Warp {
    /// Warp `id` of the block of that rank, at the start of the program.
    pub fn new(program: &Program, rank: usize, id: usize, block: [u32; 3]) -> Self {
        let threads = (block[0] * block[1] * block[2]) as usize;
        let index = rank * threads.div_ceil(32) + id;
        let alive = match threads - 32 * id {
            n @ 0..32 => (1u32 << n) - 1,
            _ => FULL,
        };
        let thread = |lane: usize| (32 * id + lane) as u32;
        let tid = [
            std::array::from_fn(|lane| thread(lane) % block[0]),
            std::array::from_fn(|lane| thread(lane) / block[0] % block[1]),
            std::array::from_fn(|lane| thread(lane) / (block[0] * block[1])),
        ];
        Warp {
            id,
            rank,
            index,
            regs: Regs::new(program.regs32, program.regs64, program.preds, program.wgmma),
            local: LocalMemory::new(program.local_bytes),
            splits: vec![Split {
                pc: program.start,
                mask: alive,
                state: State::Ready,
            }],
            alive,
            copies: std::array::from_fn(|_| Copies::default()),
            bulk: std::array::from_fn(|_| BulkGroups::default()),
            group: GroupMember::default(),
            cluster_phase: [None; 32],
            cluster_waited: 0,
            unreleased: 0,
            give_up: false,
            hint: 0,
            tid,
            steps: 0,
        }
    }

    /// Whether a split could run.
    pub fn ready(&self) -> bool {
        self.splits.iter().any(|s| s.state == State::Ready)
    }

    /// Takes out a split that could run: the one furthest behind, or any of them.
    pub fn take_ready(&mut self, any: Option<u32>) -> Option<Split> {
        let ready = |s: &&(usize, Split)| s.1.state == State::Ready;
        let list: Vec<(usize, Split)> = self.splits.iter().copied().enumerate().collect();
        let list: Vec<&(usize, Split)> = list.iter().filter(ready).collect();
        let (index, split) = match any {
            _ if list.is_empty() => return None,
            Some(random) => *list[random as usize % list.len()],
            None => **list.iter().min_by_key(|s| s.1.pc)?,
        };
        self.splits.swap_remove(index);
        Some(split)
    }

    /// Joins to `cur` every split that is at the same instruction and not at a block barrier.
    pub fn merge(&mut self, cur: &mut Split) {
        self.splits.retain(|s| {
            let same = s.pc == cur.pc && !matches!(s.state, State::BarWait(_));
            cur.mask |= if same { s.mask } else { 0 };
            !same
        });
    }

    /// The lowest instruction of the other splits that could run.
    pub fn behind(&self, pc: u32) -> bool {
        self.splits
            .iter()
            .any(|s| s.state == State::Ready && s.pc < pc)
    }

    /// Ends lanes. Those that wait for them look again.
    pub fn exit(&mut self, mask: u32) {
        self.alive &= !mask;
        for s in &mut self.splits {
            if s.state == State::WarpWait {
                s.state = State::Ready;
            }
        }
    }
}
