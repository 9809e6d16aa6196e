//! Four warps that run the same warpgroup instructions, each at its own pace; registers moved between warps.
use std::collections::VecDeque;

use super::cluster::{stop, Cluster, Step};
use super::warp::Warp;
use super::FaultKind;
use crate::strictness::Rule;

/// Stands for every setmaxnreg with the same operands.
const ANY_SETMAXNREG: u32 = u32::MAX;

/// One warpgroup instruction with what must be alike in all four warps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    pub pc: u32,
    pub operands: [u64; 3],
}

/// What the four warps have run.
pub(super) struct Warpgroup {
    /// Calls that not all four have made, and the number of the first of them.
    log: VecDeque<Call>,
    first: u64,
    made: [u64; 4],
    exited: bool,
    /// Registers of a thread that each warp holds, and what it asked for last.
    held: [u32; 4],
    asked: [Option<u32>; 4],
}

impl Warpgroup {
    pub fn new(registers: Option<u32>) -> Self {
        Warpgroup {
            log: VecDeque::new(),
            first: 0,
            made: [0; 4],
            exited: false,
            held: [registers.unwrap_or(0); 4],
            asked: [None; 4],
        }
    }

    fn behind(&self, member: usize) -> bool {
        self.made.iter().any(|m| *m < self.made[member])
    }
}

/// A warp as a member of its warpgroup.
#[derive(Default)]
pub struct GroupMember {
    /// wgmma groups committed.
    pub committed: u32,
    /// The instruction at hand was noted and waits.
    pub waiting: bool,
}

fn wrong<T>(text: impl Into<String>) -> Step<T> {
    stop(0, FaultKind::Warpgroup(text.into()))
}

impl Cluster<'_> {
    /// Notes that a warp runs a warpgroup instruction; it must be the one that the others ran.
    pub(super) fn call(&mut self, w: &Warp, operands: [u64; 3]) -> Step {
        self.call_as(w, self.pc, operands)
    }

    /// [`Self::call`] of the instruction `pc`, or of one that counts as the same.
    fn call_as(&mut self, w: &Warp, pc: u32, operands: [u64; 3]) -> Step {
        let (index, member, warps) = (w.id / 4, w.id % 4, self.warps());
        if 4 * index + 4 > warps {
            return wrong(format!(
                "warp {} has no whole warpgroup: the block has {warps} warps",
                w.id
            ));
        }
        let call = Call { pc, operands };
        let group = &mut self.blocks[w.rank].warpgroups[index];
        match group.log.get((group.made[member] - group.first) as usize) {
            Some(other) if *other == call => {}
            Some(other) => {
                let ran = match self.env.program.code.get(other.pc as usize) {
                    Some(i) => format!("the instruction of PTX line {}", i.line),
                    None => String::from("setmaxnreg"),
                };
                return wrong(format!(
                    "another warp of the warpgroup ran {ran} here, or this one with other operands"
                ));
            }
            None if group.exited => return wrong("a warp of the warpgroup has exited"),
            None => group.log.push_back(call),
        }
        group.made[member] += 1;
        while !group.log.is_empty() && group.made.iter().all(|m| *m > group.first) {
            group.log.pop_front();
            group.first += 1;
        }
        self.events += 1;
        Ok(())
    }

    /// Whether the others have run all that this warp has.
    pub(super) fn all_came(&self, w: &Warp) -> bool {
        !self.blocks[w.rank].warpgroups[w.id / 4].behind(w.id % 4)
    }

    /// A warp exits: it must not owe its warpgroup anything.
    pub(super) fn leave_warpgroup(&mut self, w: &Warp, exec: u32) -> Step {
        let group = &mut self.blocks[w.rank].warpgroups[w.id / 4];
        group.exited = true;
        let all = group.first + group.log.len() as u64;
        if group.made[w.id % 4] < all {
            let text =
                "the warp exits, other warps of its warpgroup have run more warpgroup instructions";
            return stop(
                exec.trailing_zeros() as usize,
                FaultKind::Warpgroup(text.into()),
            );
        }
        Ok(())
    }

    pub(super) fn set_max_reg(&mut self, w: &mut Warp, up: bool, count: u32) -> Step {
        if !w.group.waiting {
            let pc = match self.env.launch.relaxed.has(Rule::OneSetmaxnreg) {
                true => ANY_SETMAXNREG,
                false => self.pc,
            };
            self.call_as(w, pc, [up.into(), count.into(), 0])?;
        }
        w.group.waiting = false;
        let block = &mut self.blocks[w.rank];
        let (group, member) = (&mut block.warpgroups[w.id / 4], w.id % 4);
        if let Some(last) = group.asked[member] {
            if (up && count < last) || (!up && count > last) {
                let way = if up { "inc" } else { "dec" };
                return wrong(format!("setmaxnreg.{way} to {count} registers from {last}"));
            }
        }
        let held = group.held[member];
        if !up && count < held {
            block.free_registers += held - count;
            self.events += 1;
        } else if count > held {
            let need = count - held;
            if !up {
                return wrong(format!(
                    "setmaxnreg.dec to {count} registers, the kernel was launched with {held}"
                ));
            }
            if need > block.free_registers {
                (w.group.waiting, self.blocked) = (true, true);
                return Ok(());
            }
            block.free_registers -= need;
        } else {
            // Fewer than the launch gave: they are kept.
            group.asked[member] = Some(count);
            return Ok(());
        }
        (group.held[member], group.asked[member]) = (count, Some(count));
        Ok(())
    }

    pub(super) fn registers_wait_for(&self, w: &Warp, count: u32) -> String {
        let block = &self.blocks[w.rank];
        let held = block.warpgroups[w.id / 4].held[w.id % 4];
        format!(
            "for {} more registers a thread, of which the block has {} to give",
            count - held,
            block.free_registers
        )
    }
}
