//! `cvt`, `mov`, `cvta`, `isspacep`.
use super::mods::Mods;
use super::{Lowered, Lowerer};
use crate::ptx::ast::{Operand, Ty};
use crate::ptx::ir::{Cvt, Int1, Op, Round, Space, Src};

/// Space names as modifiers.
pub(super) fn space(name: &str) -> Option<Space> {
    match name {
        "global" | "const" => Some(Space::Global),
        "shared" | "shared::cta" => Some(Space::Shared),
        "shared::cluster" => Some(Space::Cluster),
        "local" => Some(Space::Local),
        "param" | "param::entry" => Some(Space::Param),
        _ => None,
    }
}

impl Lowerer<'_> {
    pub(super) fn convert(
        &mut self,
        root: &str,
        m: &mut Mods,
        o: &[Operand],
    ) -> Lowered<Option<Op>> {
        match root {
            "cvt" => self.cvt(m, o),
            "mov" => self.mov(m, o),
            "cvta" => {
                let to = m.flag("to");
                let Some(space) = m.pick(space) else {
                    return self.err("cvta needs a space");
                };
                let ty = m.ty().unwrap_or(Ty::U64);
                self.count(o, &[2])?;
                Ok(Op::Cvta {
                    space,
                    to,
                    d: self.reg(&o[0])?,
                    a: self.src(&o[1], ty)?,
                })
            }
            _ => {
                let Some(space) = m.pick(space) else {
                    return self.err("isspacep needs a space");
                };
                self.count(o, &[2])?;
                Ok(Op::IsSpace {
                    space,
                    d: self.pred_dst(&o[0])?,
                    a: self.src(&o[1], Ty::U64)?,
                })
            }
        }
        .map(Some)
    }

    fn mov(&mut self, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        let Some(ty) = m.ty() else {
            return self.err("mov without a type");
        };
        self.count(o, &[2])?;
        if ty == Ty::Pred {
            return Ok(Op::MovPred {
                d: self.pred_dst(&o[0])?,
                a: self.pred_src(&o[1])?,
            });
        }
        let bits = ty.bits() as u8;
        match (&o[0], &o[1]) {
            (Operand::Vector(parts), a) => {
                let part = bits / parts.len().max(1) as u8;
                let parts = parts.iter().map(|p| self.reg(p)).collect::<Lowered<_>>()?;
                Ok(Op::Unpack {
                    part,
                    parts,
                    a: self.src(a, ty)?,
                })
            }
            (d, Operand::Vector(parts)) => {
                let part = bits / parts.len().max(1) as u8;
                let parts = parts
                    .iter()
                    .map(|p| self.src(p, ty))
                    .collect::<Lowered<_>>()?;
                Ok(Op::Pack {
                    part,
                    d: self.reg(d)?,
                    parts,
                })
            }
            (d, a) => {
                if bits == 8 || bits == 128 {
                    return self.err("mov of this width is not supported");
                }
                Ok(Op::Int1 {
                    op: Int1::Mov,
                    bits,
                    d: self.reg(d)?,
                    a: self.src(a, ty)?,
                })
            }
        }
    }

    fn cvt(&mut self, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        let pack = m.flag("pack");
        let integer = m.pick(|s| match s {
            "rni" => Some(Round::Rn),
            "rzi" => Some(Round::Rz),
            "rmi" => Some(Round::Rm),
            "rpi" => Some(Round::Rp),
            _ => None,
        });
        let round = m.round();
        let (ftz, sat, relu) = (m.flag("ftz"), m.flag("sat"), m.flag("relu"));
        if m.flag("satfinite") {
            return self.err("cvt.satfinite is not supported");
        }
        let (Some(to), Some(from)) = (m.ty(), m.ty()) else {
            return self.err("cvt needs two types");
        };
        let d = self.reg(&o[0])?;
        if pack {
            if !sat {
                return self.err("cvt.pack needs .sat");
            }
            // `cvt.pack.sat.s8.s32.b32`: the third type is that of c.
            let c = match m.ty() {
                Some(Ty::B32) => o.get(3).map(|c| self.src(c, Ty::B32)).transpose()?,
                _ => None,
            };
            let (a, b) = (self.src(&o[1], from)?, self.src(&o[2], from)?);
            return Ok(Op::CvtPackInt {
                to,
                from,
                d,
                a,
                b,
                c,
            });
        }
        let c = Cvt {
            to,
            from,
            round: integer.or(round).unwrap_or(Round::Rn),
            integer: integer.is_some(),
            ftz,
            sat,
            relu,
        };
        if to.is_float()
            && from.is_float()
            && to.bits() < from.bits()
            && round.is_none()
            && !matches!(to, Ty::F16x2 | Ty::Bf16x2)
        {
            return self.err("cvt to a narrower float needs a rounding");
        }
        if c.round == Round::Rna {
            return self.err("cvt.rna is not supported");
        }
        if matches!(to, Ty::F16x2 | Ty::Bf16x2) {
            if from != Ty::F32 {
                return self.err("packed cvt needs .f32 sources");
            }
            self.count(o, &[3])?;
            let (a, b) = (self.src(&o[1], from)?, self.src(&o[2], from)?);
            return Ok(Op::CvtPack { c, d, a, b });
        }
        self.count(o, &[2])?;
        if from.is_float() && to.is_int() && integer.is_none() {
            return self.err("cvt from float to integer needs .rni, .rzi, .rmi or .rpi");
        }
        if from.is_int() && to.is_float() && round.is_none() {
            return self.err("cvt from integer to float needs a rounding");
        }
        let a: Src = self.src(&o[1], from)?;
        Ok(Op::Cvt { c, d, a })
    }
}
