//! `cp.async.bulk` and its tensor forms.
use super::hopper::op;
use super::mods::Mods;
use super::{Lowered, Lowerer};
use crate::ptx::ast::{Operand, Ty};
use crate::ptx::ir::{Addr, AtomOp, Completion, Hopper, Op, Tile};

/// Ends of a copy, in the order of the modifiers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Cluster,
    Block,
    Global,
}

fn end(name: &str) -> Option<End> {
    match name {
        "shared::cluster" => Some(End::Cluster),
        "shared::cta" => Some(End::Block),
        "global" => Some(End::Global),
        _ => None,
    }
}

impl Lowerer<'_> {
    /// `cp.async.bulk` and, with `reduce`, `cp.reduce.async.bulk`, these words taken.
    pub(super) fn bulk(&mut self, m: &mut Mods, o: &[Operand], reduce: bool) -> Lowered<Op> {
        self.needs_target("cp.async.bulk", 90, false)?;
        if m.flag("commit_group") {
            return Ok(op(Hopper::BulkCommit));
        }
        if m.flag("wait_group") {
            let read = m.flag("read");
            let [Operand::Int(keep @ 0..)] = o else {
                return self.err("cp.async.bulk.wait_group needs a number");
            };
            let keep = *keep as u32;
            return Ok(op(Hopper::BulkWait { keep, read }));
        }
        let rank = m.flag("tensor").then(|| {
            m.pick(|s| match s {
                "1d" => Some(1),
                "2d" => Some(2),
                "3d" => Some(3),
                "4d" => Some(4),
                "5d" => Some(5),
                _ => None,
            })
        });
        m.flag("tile");
        let prefetch = m.flag("prefetch");
        if prefetch {
            m.flag("L2");
        }
        let o = Self::without_hint(m, o);
        let to = if prefetch { None } else { m.pick(end) };
        let from = m.pick(end);
        let by_mbarrier = m.flag("mbarrier::complete_tx::bytes");
        let by_group = m.flag("bulk_group");
        let multicast = m.flag("multicast::cluster");
        let reduce = match reduce {
            false => None,
            true => Some(self.reduction(m, rank.is_some())?),
        };
        match rank {
            Some(None) => self.err("a tensor copy needs .1d to .5d"),
            Some(Some(rank)) if prefetch => {
                self.count(o, &[1])?;
                let tile = self.tile(&o[0], rank)?;
                Ok(op(Hopper::TensorPrefetch { tile }))
            }
            Some(Some(rank)) => match (to, from) {
                (Some(End::Cluster | End::Block), Some(End::Global))
                    if by_mbarrier && reduce.is_none() =>
                {
                    self.count(o, &[3 + usize::from(multicast)])?;
                    let done = self.completion(&o[2], multicast.then(|| &o[3]))?;
                    let (to, tile) = (self.addr(&o[0])?, self.tile(&o[1], rank)?);
                    Ok(op(Hopper::TensorLoad { to, tile, done }))
                }
                (Some(End::Global), Some(End::Block)) if by_group => {
                    self.count(o, &[2])?;
                    let (tile, from) = (self.tile(&o[0], rank)?, self.addr(&o[1])?);
                    Ok(op(Hopper::TensorStore { tile, from, reduce }))
                }
                _ => self.err("this tensor copy is not supported"),
            },
            None if prefetch => {
                self.count(o, &[2])?;
                self.addr(&o[0])?;
                Ok(Op::Nop)
            }
            None => self.linear(to, from, by_mbarrier, by_group, multicast, o),
        }
    }

    /// What a reducing store does to each element; its type is the tensor map's.
    fn reduction(&self, m: &mut Mods, tensor: bool) -> Lowered<AtomOp> {
        if !tensor {
            return self.err("cp.reduce.async.bulk is not supported without .tensor");
        }
        let known = |s: &str| match s {
            "add" => Some(AtomOp::Add),
            "min" => Some(AtomOp::Min),
            "max" => Some(AtomOp::Max),
            "and" => Some(AtomOp::And),
            "or" => Some(AtomOp::Or),
            "xor" => Some(AtomOp::Xor),
            _ => None,
        };
        match m.pick(known) {
            Some(op) => Ok(op),
            None => {
                self.err("cp.reduce.async.bulk.tensor needs .add, .min, .max, .and, .or or .xor")
            }
        }
    }

    fn linear(
        &mut self,
        to: Option<End>,
        from: Option<End>,
        by_mbarrier: bool,
        by_group: bool,
        multicast: bool,
        o: &[Operand],
    ) -> Lowered<Op> {
        let ends = |l: &Self| -> Lowered<(Addr, Addr)> { Ok((l.addr(&o[0])?, l.addr(&o[1])?)) };
        match (to, from) {
            (Some(End::Cluster | End::Block), Some(End::Global)) if by_mbarrier => {
                self.count(o, &[4 + usize::from(multicast)])?;
                let ((to, from), bytes) = (ends(self)?, self.src(&o[2], Ty::U32)?);
                let done = self.completion(&o[3], multicast.then(|| &o[4]))?;
                Ok(op(Hopper::BulkLoad {
                    to,
                    from,
                    bytes,
                    done,
                }))
            }
            (Some(End::Cluster), Some(End::Block)) => {
                self.err("cp.async.bulk from shared to shared memory is not supported")
            }
            (Some(End::Global), Some(End::Block)) if by_group => {
                self.count(o, &[3])?;
                let ((to, from), bytes) = (ends(self)?, self.src(&o[2], Ty::U32)?);
                Ok(op(Hopper::BulkStore { to, from, bytes }))
            }
            _ => self.err("this cp.async.bulk is not supported"),
        }
    }

    fn completion(&self, mbarrier: &Operand, mask: Option<&Operand>) -> Lowered<Completion> {
        Ok(Completion {
            mbarrier: self.addr(mbarrier)?,
            multicast: mask.map(|o| self.src(o, Ty::U16)).transpose()?,
        })
    }

    fn tile(&self, o: &Operand, rank: usize) -> Lowered<Tile> {
        let Operand::Tensor(base, offset, at) = o else {
            return self.err(format!(
                "expected [tensor map, {{coordinates}}], found {o:?}"
            ));
        };
        if at.len() != rank {
            return self.err(format!("{} coordinates for .{rank}d", at.len()));
        }
        Ok(Tile {
            map: Addr {
                base: self.src(base, Ty::B64)?,
                offset: *offset,
            },
            at: at
                .iter()
                .map(|o| self.src(o, Ty::S32))
                .collect::<Lowered<_>>()?,
        })
    }
}
