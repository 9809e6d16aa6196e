//! Instructions that a warp executes together.
use super::memory::atom_op;
use super::mods::Mods;
use super::{Lowered, Lowerer};
use crate::ptx::ast::{Operand, Ty};
use crate::ptx::ir::{AtomOp, MmaShape, Op, Shfl, Src, Vote};

impl Lowerer<'_> {
    pub(super) fn warp(&mut self, root: &str, m: &mut Mods, o: &[Operand]) -> Lowered<Option<Op>> {
        if root == "activemask" {
            m.ty();
            return Ok(Some(Op::Activemask {
                d: self.reg(&o[0])?,
            }));
        }
        if !m.flag("sync") {
            return self.err(format!("'{root}' without .sync is not supported"));
        }
        match root {
            "shfl" => self.shfl(m, o),
            "vote" => self.vote(m, o),
            "match" => self.match_sync(m, o),
            "redux" => {
                let Some(op) = m.pick(atom_op).filter(|op| {
                    !matches!(op, AtomOp::Exch | AtomOp::Cas | AtomOp::Inc | AtomOp::Dec)
                }) else {
                    return self.err("unknown redux operation");
                };
                let Some(ty) = m.ty().filter(|t| t.is_int() && t.bits() == 32) else {
                    return self.err("redux needs a 32-bit type");
                };
                self.count(o, &[3])?;
                let (d, a, mask) = (
                    self.reg(&o[0])?,
                    self.src(&o[1], ty)?,
                    self.src(&o[2], Ty::B32)?,
                );
                Ok(Op::Redux {
                    op,
                    signed: ty.is_signed(),
                    d,
                    a,
                    mask,
                })
            }
            "elect" => {
                self.count(o, &[2])?;
                let Operand::Pair(d, p) = &o[0] else {
                    return self.err("elect needs d|p");
                };
                let d = if d == "_" {
                    Self::sink()
                } else {
                    self.reg(&Operand::Name(d.clone()))?
                };
                Ok(Op::ElectSync {
                    d,
                    p: self.pred(p)?,
                    mask: self.src(&o[1], Ty::B32)?,
                })
            }
            "ldmatrix" | "stmatrix" => self.matrix(root, m, o),
            "mma" => self.mma(m, o),
            _ => self.err(format!("'{root}' is not supported")),
        }
        .map(Some)
    }

    fn shfl(&mut self, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        let kind = m.pick(|s| match s {
            "up" => Some(Shfl::Up),
            "down" => Some(Shfl::Down),
            "bfly" => Some(Shfl::Bfly),
            "idx" => Some(Shfl::Idx),
            _ => None,
        });
        let (Some(kind), Some(Ty::B32)) = (kind, m.ty()) else {
            return self.err("shfl.sync needs a mode and .b32");
        };
        self.count(o, &[5])?;
        let (d, p) = match &o[0] {
            Operand::Pair(d, p) => (self.reg(&Operand::Name(d.clone()))?, self.pred_or_sink(p)?),
            d => (self.reg(d)?, None),
        };
        let s = |i: usize| self.src(&o[i], Ty::B32);
        Ok(Op::Shfl {
            kind,
            d,
            p,
            a: s(1)?,
            b: s(2)?,
            c: s(3)?,
            mask: s(4)?,
        })
    }

    fn vote(&mut self, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        let kind = m.pick(|s| match s {
            "all" => Some(Vote::All),
            "any" => Some(Vote::Any),
            "uni" => Some(Vote::Uni),
            "ballot" => Some(Vote::Ballot),
            _ => None,
        });
        self.count(o, &[3])?;
        let (a, mask) = (self.pred_src(&o[1])?, self.src(&o[2], Ty::B32)?);
        match (kind, m.ty()) {
            (Some(Vote::Ballot), Some(Ty::B32)) => Ok(Op::Ballot {
                d: self.reg(&o[0])?,
                a,
                mask,
            }),
            (Some(kind), Some(Ty::Pred)) => Ok(Op::VotePred {
                kind,
                d: self.pred_dst(&o[0])?,
                a,
                mask,
            }),
            _ => self.err("unknown vote"),
        }
    }

    fn match_sync(&mut self, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        let all = m.flag("all");
        if all == m.flag("any") {
            return self.err("match needs .all or .any");
        }
        let Some(ty @ (Ty::B32 | Ty::B64)) = m.ty() else {
            return self.err("match needs .b32 or .b64");
        };
        self.count(o, &[3])?;
        let bits = ty.bits() as u8;
        let (a, mask) = (self.src(&o[1], ty)?, self.src(&o[2], Ty::B32)?);
        if !all {
            return Ok(Op::MatchAny {
                bits,
                d: self.reg(&o[0])?,
                a,
                mask,
            });
        }
        let (d, p) = match &o[0] {
            Operand::Pair(d, p) => (self.reg(&Operand::Name(d.clone()))?, self.pred_or_sink(p)?),
            d => (self.reg(d)?, None),
        };
        Ok(Op::MatchAll {
            bits,
            d,
            p,
            a,
            mask,
        })
    }

    fn matrix(&mut self, root: &str, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        let shape = m.flag("aligned") && m.flag("m8n8");
        let count = m.pick(|s| match s {
            "x1" => Some(1u8),
            "x2" => Some(2),
            "x4" => Some(4),
            _ => None,
        });
        let trans = m.flag("trans");
        let shared = m.flag("shared") | m.flag("shared::cta");
        let (true, true, Some(count), Some(Ty::B16)) = (shape, shared, count, m.ty()) else {
            return self.err(format!("this {root} is not supported"));
        };
        self.count(o, &[2])?;
        let (place, regs) = if root == "ldmatrix" {
            (&o[1], &o[0])
        } else {
            (&o[0], &o[1])
        };
        let addr = self.addr(place)?;
        let have = if let Operand::Vector(v) = regs {
            v.len()
        } else {
            1
        };
        if have != usize::from(count) {
            return self.err(format!("{have} registers for .x{count}"));
        }
        Ok(if root == "ldmatrix" {
            Op::Ldmatrix {
                count,
                trans,
                d: self.regs(regs)?,
                addr,
            }
        } else {
            Op::Stmatrix {
                count,
                trans,
                v: self.srcs(regs, Ty::B32)?,
                addr,
            }
        })
    }

    fn mma(&mut self, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        let shape = m.pick(|s| match s {
            "m16n8k32" => Some((16u8, 8u8, 32u8)),
            "m16n8k16" => Some((16, 8, 16)),
            "m8n8k16" => Some((8, 8, 16)),
            _ => None,
        });
        let layout = m.flag("aligned") && m.flag("row") && m.flag("col");
        let satfinite = m.flag("satfinite");
        let types = [m.ty(), m.ty(), m.ty(), m.ty()];
        let (
            Some((mm, n, k)),
            true,
            [Some(Ty::S32), Some(at @ (Ty::S8 | Ty::U8)), Some(bt @ (Ty::S8 | Ty::U8)), Some(Ty::S32)],
        ) = (shape, layout, types)
        else {
            return self.err("only the s8/u8 forms of mma.sync with .s32 sums are supported");
        };
        self.count(o, &[4])?;
        let shape = MmaShape {
            m: mm,
            n,
            k,
            a_signed: at == Ty::S8,
            b_signed: bt == Ty::S8,
            satfinite,
        };
        let d = self.regs(&o[0])?;
        let (a, b, c): (Box<[Src]>, _, _) = (
            self.srcs(&o[1], Ty::B32)?,
            self.srcs(&o[2], Ty::B32)?,
            self.srcs(&o[3], Ty::B32)?,
        );
        let per_lane = |elements: u32, per_reg: u32| (elements / 32 / per_reg) as usize;
        let (mu, ku) = (u32::from(mm), u32::from(k));
        let want = [
            per_lane(mu * 8, 1),
            per_lane(mu * ku, 4),
            per_lane(8 * ku, 4),
            per_lane(mu * 8, 1),
        ];
        if [d.len(), a.len(), b.len(), c.len()] != want {
            return self.err(format!(
                "fragments of {} {} {} {} registers, expected {want:?}",
                d.len(),
                a.len(),
                b.len(),
                c.len()
            ));
        }
        Ok(Op::Mma { shape, d, a, b, c })
    }
}
