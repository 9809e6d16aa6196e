//! Loads, stores, atomics, `cp.async`, fences and hints.
use super::convert::space;
use super::hopper::op;
use super::mods::Mods;
use super::{Lowered, Lowerer};
use crate::ptx::ast::{Operand, Ty};
use crate::ptx::ir::{AtomOp, Hopper, Int1, Op, PredSrc, Space, Src};

/// Names of read-modify-write operations.
pub(super) fn atom_op(name: &str) -> Option<AtomOp> {
    Some(match name {
        "add" => AtomOp::Add,
        "min" => AtomOp::Min,
        "max" => AtomOp::Max,
        "and" => AtomOp::And,
        "or" => AtomOp::Or,
        "xor" => AtomOp::Xor,
        "exch" => AtomOp::Exch,
        "cas" => AtomOp::Cas,
        "inc" => AtomOp::Inc,
        "dec" => AtomOp::Dec,
        _ => return None,
    })
}

impl Lowerer<'_> {
    /// The space of an access; parameters and variables of a function live in its local memory.
    fn space(&self, m: &mut Mods, addr: &Operand) -> Space {
        let space = m.pick(space).unwrap_or(Space::Generic);
        let function = m.flag("param::func");
        if (space == Space::Param || function) && self.names_local(addr) {
            return Space::Local;
        }
        space
    }

    pub(super) fn memory(
        &mut self,
        root: &str,
        m: &mut Mods,
        o: &[Operand],
    ) -> Lowered<Option<Op>> {
        match root {
            "ld" | "ldu" | "st" => self.ld_st(root, m, o).map(Some),
            "atom" | "red" => self.atom(root == "atom", m, o).map(Some),
            "cp" => self.cp_async(m, o).map(Some),
            "createpolicy" => {
                let known = m.flag("fractional") | m.flag("range");
                while m.pick(|s| s.starts_with("L2::").then_some(())).is_some() {}
                m.flag("global");
                if !known || m.ty() != Some(Ty::B64) {
                    return self.err("this createpolicy is not supported");
                }
                Ok(Some(Op::Int1 {
                    op: Int1::Mov,
                    bits: 64,
                    d: self.reg(&o[0])?,
                    a: Src::Imm(0),
                }))
            }
            "prefetch" | "prefetchu" | "applypriority" | "discard" => {
                let space = m.pick(space).unwrap_or(Space::Generic);
                if root == "prefetch" && m.flag("tensormap") {
                    self.needs_target("prefetch.tensormap", 90, false)?;
                    let map = self.addr(&o[0])?;
                    return Ok(Some(op(Hopper::PrefetchMap { map })));
                }
                for level in ["L1", "L2"] {
                    m.flag(level);
                }
                m.drop_hints();
                // A prefetch may name any address; only its operand is read.
                self.addr(&o[0])?;
                Ok(Some(Op::AddrCheck {
                    space,
                    bytes: 0,
                    addr: self.addr(&o[0])?,
                }))
            }
            _ => self.fence(m, o).map(Some),
        }
    }

    /// `.L2::cache_hint` adds a last operand that only names a policy.
    pub(super) fn without_hint<'o>(m: &mut Mods, o: &'o [Operand]) -> &'o [Operand] {
        m.drop_hints();
        let hinted = m.flag("L2::cache_hint");
        &o[..o.len() - usize::from(hinted && !o.is_empty())]
    }

    fn ld_st(&mut self, root: &str, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        let o = Self::without_hint(m, o);
        self.count(o, &[2])?;
        m.drop_ordering();
        m.flag("uniform");
        let (value, place) = if root == "st" {
            (&o[1], &o[0])
        } else {
            (&o[0], &o[1])
        };
        let space = self.space(m, place);
        let width = m.pick(|s| match s {
            "v2" => Some(2),
            "v4" => Some(4),
            "v8" => Some(8),
            _ => None,
        });
        let Some(ty) = m.ty().filter(|t| !matches!(t, Ty::B128 | Ty::Pred)) else {
            return self.err(format!("'{root}' of this type is not supported"));
        };
        let addr = self.addr(place)?;
        let have = match value {
            Operand::Vector(v) => v.len(),
            _ => 1,
        };
        if have != width.unwrap_or(1) {
            return self.err(format!(
                "{have} registers for a vector of {}",
                width.unwrap_or(1)
            ));
        }
        if root == "st" {
            if space == Space::Param {
                return self.err("store to an entry parameter");
            }
            return Ok(Op::St {
                space,
                ty,
                v: self.srcs(value, ty)?,
                addr,
            });
        }
        Ok(Op::Ld {
            space,
            ty,
            d: self.regs(value)?,
            addr,
        })
    }

    fn atom(&mut self, returns: bool, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        let o = Self::without_hint(m, o);
        m.drop_ordering();
        let at = usize::from(returns);
        let Some(place) = o.get(at) else {
            return self.err("missing operand");
        };
        let space = self.space(m, place);
        let Some(op) = m.pick(atom_op) else {
            return self.err("unknown atomic operation");
        };
        let Some(ty) = m.ty() else {
            return self.err("atomic without a type");
        };
        if !matches!(
            space,
            Space::Generic | Space::Global | Space::Shared | Space::Cluster
        ) {
            return self.err("atomic in this space");
        }
        let float = ty.is_float();
        if ty.bits() < 16 || ty.bits() > 64 || (float && !matches!(op, AtomOp::Add | AtomOp::Exch))
        {
            return self.err(format!("atomic {op:?} on {ty:?} is not supported"));
        }
        self.count(o, &[at + if op == AtomOp::Cas { 3 } else { 2 }])?;
        let d = if returns {
            Some(self.reg(&o[0])?)
        } else {
            None
        };
        let c = if op == AtomOp::Cas {
            self.src(&o[at + 2], ty)?
        } else {
            Self::zero()
        };
        Ok(Op::Atom {
            space,
            op,
            ty,
            d,
            addr: self.addr(place)?,
            b: self.src(&o[at + 1], ty)?,
            c,
        })
    }

    fn cp_async(&mut self, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        if !m.flag("async") {
            return self.err(format!("'cp.{}' is not supported", m.rest().join(".")));
        }
        let reduce = m.flag("reduce");
        if m.flag("bulk") {
            return self.bulk(m, o, reduce);
        }
        if reduce {
            return self.err("cp.reduce.async is not supported without .bulk");
        }
        if m.flag("mbarrier") {
            let noinc = m.flag("arrive") && m.flag("noinc");
            let space = m.pick(space).unwrap_or(Space::Generic);
            if m.ty() != Some(Ty::B64) || !matches!(space, Space::Shared | Space::Generic) {
                return self.err("cp.async.mbarrier.arrive is .b64, in .shared::cta");
            }
            self.count(o, &[1])?;
            let addr = self.addr(&o[0])?;
            return Ok(op(Hopper::CpAsyncArrive { space, addr, noinc }));
        }
        if m.flag("commit_group") {
            return Ok(Op::CpAsyncCommit);
        }
        if m.flag("wait_all") {
            return Ok(Op::CpAsyncWait { keep: 0, all: true });
        }
        if m.flag("wait_group") {
            let Some(&Operand::Int(keep)) = o.first() else {
                return self.err("wait_group needs a number");
            };
            return Ok(Op::CpAsyncWait {
                keep: keep as u32,
                all: false,
            });
        }
        let through_l1 = m.flag("ca");
        if through_l1 == m.flag("cg") {
            return self.err("cp.async needs .ca or .cg");
        }
        let o = Self::without_hint(m, o);
        if !(m.flag("shared") | m.flag("shared::cta")) || !m.flag("global") {
            return self.err("cp.async copies from .global to .shared");
        }
        self.count(o, &[3, 4])?;
        let Operand::Int(bytes @ (4 | 8 | 16)) = o[2] else {
            return self.err("cp.async of 4, 8 or 16 bytes");
        };
        if !through_l1 && bytes != 16 {
            return self.err("cp.async.cg needs 16 bytes");
        }
        let (mut src_bytes, mut ignore): (Option<Src>, Option<PredSrc>) = (None, None);
        if let Some(last) = o.get(3) {
            match self.pred_src(last) {
                Ok(p) if !matches!(last, Operand::Int(_)) => ignore = Some(p),
                _ => src_bytes = Some(self.src(last, Ty::U32)?),
            }
        }
        Ok(Op::CpAsync {
            bytes: bytes as u8,
            dst: self.addr(&o[0])?,
            src: self.addr(&o[1])?,
            src_bytes,
            ignore,
        })
    }
}
