//! Warp-synchronous instructions wait until the lanes they name have come.
//!
//! An instruction with a member mask runs when every lane of the mask that has not exited is at it.
//! `.aligned` instructions that all threads of the warp must run together (`mma`, `ldmatrix`) fault when
//! a lane has exited; aligned barriers wait for every lane that has not. Lanes that nobody ever joins
//! are reported as a deadlock.
use super::cluster::{stop, Cluster, Step};
use super::regs::{ballot, lanes, FULL};
use super::warp::{Split, State, Warp};
use super::FaultKind;
use crate::ptx::ir::{Op, Src};
use crate::ptx::ir_hopper::Needs;

/// Who must be there.
enum Party {
    /// All lanes, none may have exited.
    Whole,
    /// All lanes that have not exited.
    Alive,
    /// The lanes each lane names.
    Mask(Src),
    /// Whoever is there.
    Anyone,
}

fn party(op: &Op) -> Option<Party> {
    Some(match op {
        Op::Ldmatrix { .. } | Op::Stmatrix { .. } | Op::Mma { .. } => Party::Whole,
        Op::Bar { aligned: true, .. } => Party::Alive,
        Op::Hopper(h) => match h.needs() {
            Needs::Warp => Party::Whole,
            Needs::Alive => Party::Alive,
            Needs::Nobody => return None,
        },
        Op::Bar { .. } => Party::Anyone,
        Op::Shfl { mask, .. }
        | Op::VotePred { mask, .. }
        | Op::Ballot { mask, .. }
        | Op::MatchAny { mask, .. }
        | Op::MatchAll { mask, .. }
        | Op::Redux { mask, .. }
        | Op::WarpSync { mask }
        | Op::ElectSync { mask, .. } => Party::Mask(*mask),
        _ => return None,
    })
}

impl Cluster<'_> {
    /// Whether an instruction needs other lanes.
    pub(super) fn is_warp_wide(&self, op: &Op) -> bool {
        party(op).is_some()
    }

    /// Runs or delays a warp-synchronous instruction.
    pub(super) fn warp_wide(
        &mut self,
        w: &mut Warp,
        mut cur: Split,
        exec: u32,
        op: &Op,
    ) -> Step<Option<Split>> {
        // Lanes whose guard is false do not take part and go on.
        if exec != cur.mask {
            w.splits.push(Split {
                pc: cur.pc + 1,
                mask: cur.mask & !exec,
                state: State::Ready,
            });
            cur.mask = exec;
        }
        let first = exec.trailing_zeros() as usize;
        let mut masks = [FULL; 32];
        match party(op) {
            Some(Party::Whole) if w.alive != FULL => {
                let text = format!(
                    "an instruction of the whole warp, of which only {:#010x} is alive",
                    w.alive
                );
                return stop(first, FaultKind::WarpSync(text));
            }
            Some(Party::Mask(mask)) => masks = self.src32(w, mask),
            Some(Party::Anyone) => masks = [cur.mask; 32],
            _ => {}
        }
        for lane in lanes(exec) {
            if masks[lane] >> lane & 1 == 0 {
                let text = format!(
                    "lane {lane} is not in its own member mask {:#010x}",
                    masks[lane]
                );
                return stop(lane, FaultKind::WarpSync(text));
            }
            let here = exec & masks[lane];
            if let Some(other) = lanes(here).find(|&l| masks[l] != masks[lane]) {
                let text = format!(
                    "lane {lane} names {:#010x}, lane {other} names {:#010x}",
                    masks[lane], masks[other]
                );
                return stop(lane, FaultKind::WarpSync(text));
            }
        }
        let complete = exec & ballot(|l| masks[l] & w.alive & !exec == 0);
        if complete != exec {
            if matches!(op, Op::WarpSync { .. }) && complete == 0 && self.sync_apart(w, cur, &masks)
            {
                self.clocks.converge(w.index);
                return Ok(Some(Split {
                    pc: cur.pc + 1,
                    ..cur
                }));
            }
            w.splits.push(Split {
                mask: exec & !complete,
                state: State::WarpWait,
                ..cur
            });
            if complete == 0 {
                return Ok(None);
            }
            cur.mask = complete;
        }
        cur.state = State::Ready;
        if let Op::Bar {
            kind, id, count, ..
        } = op
        {
            let id = self.src32(w, *id)[first];
            let count = count.map(|c| self.src32(w, c)[first]);
            return self.arrive(w, cur, *kind, id, count);
        }
        if matches!(op, Op::WarpSync { .. }) {
            self.clocks.converge(w.index);
        }
        self.collective(w, complete, op, &masks)?;
        w.regs.check(first)?;
        Ok(self.advance(w, cur))
    }

    /// `bar.warp.sync` may be reached at different places: if the lanes that wait at others complete the
    /// mask, lets them all go.
    fn sync_apart(&self, w: &mut Warp, cur: Split, masks: &[u32; 32]) -> bool {
        let code = &self.env.program.code;
        let mask = masks[cur.mask.trailing_zeros() as usize];
        let at_sync = |s: &Split| {
            s.state == State::WarpWait && matches!(code[s.pc as usize].op, Op::WarpSync { .. })
        };
        let same = |s: &Split| match code[s.pc as usize].op {
            Op::WarpSync { mask: m } => {
                let theirs = self.src32(w, m);
                lanes(s.mask).all(|l| theirs[l] == mask)
            }
            _ => false,
        };
        let chosen: Vec<usize> = (0..w.splits.len())
            .filter(|&i| at_sync(&w.splits[i]) && same(&w.splits[i]))
            .collect();
        let there = chosen.iter().fold(cur.mask, |m, &i| m | w.splits[i].mask);
        if mask & w.alive & !there != 0 {
            return false;
        }
        for i in chosen {
            w.splits[i].pc += 1;
            w.splits[i].state = State::Ready;
        }
        true
    }
}
