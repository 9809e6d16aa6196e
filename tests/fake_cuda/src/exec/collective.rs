//! What the lanes of a warp tell each other: shuffles, votes, matches, reductions.
//!
//! The lanes that take part are already together; `masks` holds the member mask each of them named.
use super::cluster::{stop, Cluster, Step};
use super::regs::{ballot, lanes, Lanes};
use super::warp::Warp;
use super::FaultKind;
use crate::ptx::ir::{AtomOp, PredSrc, Reg, Shfl, Src, Vote};

/// The sets of lanes that named one mask.
fn groups(exec: u32, masks: &Lanes<u32>) -> impl Iterator<Item = u32> + '_ {
    let mut rest = exec;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let mask = masks[rest.trailing_zeros() as usize];
        let group = ballot(|l| rest >> l & 1 == 1 && masks[l] == mask);
        rest &= !group;
        Some(group)
    })
}

impl Cluster<'_> {
    /// The segment and bound of `shfl` come from c: bits 0-4 the clamp, bits 8-12 the segment mask.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn shfl(
        &mut self,
        w: &mut Warp,
        exec: u32,
        kind: Shfl,
        d: Reg,
        p: Option<u32>,
        a: Src,
        b: Src,
        c: Src,
        masks: &Lanes<u32>,
    ) -> Step {
        let (a, b, c) = (self.src32(w, a), self.src32(w, b), self.src32(w, c));
        let mut inside = 0;
        for lane in lanes(exec) {
            let (l, bval, cval, seg) = (lane as u32, b[lane] & 31, c[lane] & 31, c[lane] >> 8 & 31);
            let max = (l & seg) | (cval & !seg);
            let min = l & seg;
            let (j, ok) = match kind {
                Shfl::Up => (l.wrapping_sub(bval), l as i32 - bval as i32 >= max as i32),
                Shfl::Down => (l + bval, l + bval <= max),
                Shfl::Bfly => (l ^ bval, l ^ bval <= max),
                Shfl::Idx => (min | (bval & !seg), min | (bval & !seg) <= max),
            };
            let from = if ok { j } else { l } as usize;
            if exec >> from & 1 == 0 || masks[from] != masks[lane] {
                return stop(
                    lane,
                    FaultKind::WarpSync(format!(
                        "shfl reads lane {from}, which does not take part"
                    )),
                );
            }
            inside |= u32::from(ok) << lane;
            w.regs.set_lane(d, lane, a[from].into());
        }
        if let Some(p) = p {
            w.regs.set_pred(p, exec, inside);
        }
        Ok(())
    }

    pub(super) fn vote(
        &mut self,
        w: &mut Warp,
        exec: u32,
        kind: Vote,
        d: u32,
        a: PredSrc,
        masks: &Lanes<u32>,
    ) {
        let votes = w.regs.pred(a);
        for g in groups(exec, masks) {
            let yes = votes & g;
            let answer = match kind {
                Vote::All => yes == g,
                Vote::Any | Vote::Ballot => yes != 0,
                Vote::Uni => yes == g || yes == 0,
            };
            w.regs.set_pred(d, g, if answer { g } else { 0 });
        }
    }

    pub(super) fn ballot(
        &mut self,
        w: &mut Warp,
        exec: u32,
        d: Reg,
        a: PredSrc,
        masks: &Lanes<u32>,
    ) {
        let votes = w.regs.pred(a);
        for g in groups(exec, masks) {
            w.regs.set32(d, g, &[votes & g; 32]);
        }
    }

    pub(super) fn match_lanes(
        &mut self,
        w: &mut Warp,
        exec: u32,
        d: Reg,
        all: Option<Option<u32>>,
        a: Src,
        masks: &Lanes<u32>,
    ) {
        let a = self.src64(w, a);
        for g in groups(exec, masks) {
            let same = |lane: usize| ballot(|l| g >> l & 1 == 1 && a[l] == a[lane]);
            match all {
                None => lanes(g).for_each(|lane| w.regs.set_lane(d, lane, same(lane).into())),
                Some(p) => {
                    let yes = same(g.trailing_zeros() as usize) == g;
                    w.regs.set32(d, g, &[if yes { g } else { 0 }; 32]);
                    if let Some(p) = p {
                        w.regs.set_pred(p, g, if yes { g } else { 0 });
                    }
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn redux(
        &mut self,
        w: &mut Warp,
        exec: u32,
        op: AtomOp,
        signed: bool,
        d: Reg,
        a: Src,
        masks: &Lanes<u32>,
    ) {
        let a = self.src32(w, a);
        for g in groups(exec, masks) {
            let two = |x: u32, y: u32| match op {
                AtomOp::Min if signed => (x as i32).min(y as i32) as u32,
                AtomOp::Max if signed => (x as i32).max(y as i32) as u32,
                AtomOp::Min => x.min(y),
                AtomOp::Max => x.max(y),
                AtomOp::And => x & y,
                AtomOp::Or => x | y,
                AtomOp::Xor => x ^ y,
                _ => x.wrapping_add(y),
            };
            let total = lanes(g).map(|l| a[l]).reduce(two).unwrap_or(0);
            w.regs.set32(d, g, &[total; 32]);
        }
    }
}
