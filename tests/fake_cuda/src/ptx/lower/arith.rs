//! Integer arithmetic, logic and bit fields; float types go on to `float`.
use super::mods::Mods;
use super::{Lowered, Lowerer};
use crate::ptx::ast::{Operand, Ty};
use crate::ptx::ir::{Bool, Int1, Int2, Op, PrmtMode, Reg, Src, Tri};

impl Lowerer<'_> {
    pub(super) fn arith(&mut self, root: &str, m: &mut Mods, o: &[Operand]) -> Lowered<Option<Op>> {
        match root {
            "shf" | "prmt" | "lop3" | "dp4a" | "dp2a" => return self.tri(root, m, o).map(Some),
            "bfind" | "bfe" | "bfi" | "popc" | "clz" | "sad" => {
                return self.fields(root, m, o).map(Some)
            }
            _ => {}
        }
        let Some(ty) = m.ty() else {
            return self.err(format!("'{root}' without a type"));
        };
        if ty.is_float() {
            return self.float(root, ty, m, o).map(Some);
        }
        if ty == Ty::Pred {
            return self.logic_pred(root, o).map(Some);
        }
        let (bits, signed) = (ty.bits() as u8, ty.is_signed());
        if bits == 8 {
            return self.err(format!("'{root}' on 8-bit values"));
        }
        let int1 = match root {
            "not" => Some(Int1::Not),
            "cnot" => Some(Int1::Cnot),
            "neg" => Some(Int1::Neg),
            "abs" => Some(Int1::Abs),
            "brev" => Some(Int1::Brev),
            _ => None,
        };
        if let Some(op) = int1 {
            self.count(o, &[2])?;
            return Ok(Some(Op::Int1 {
                op,
                bits,
                d: self.reg(&o[0])?,
                a: self.src(&o[1], ty)?,
            }));
        }
        if matches!(root, "mad" | "mad24" | "fma") {
            return self.mad(root, ty, m, o).map(Some);
        }
        let sat = m.flag("sat");
        if sat && ty != Ty::S32 {
            return self.err("'.sat' needs .s32");
        }
        let op = match root {
            "add" if sat => Int2::AddSat,
            "add" => Int2::Add,
            "sub" if sat => Int2::SubSat,
            "sub" => Int2::Sub,
            "mul" => {
                if m.flag("wide") {
                    self.count(o, &[3])?;
                    let (d, a, b) = (self.reg(&o[0])?, self.src(&o[1], ty)?, self.src(&o[2], ty)?);
                    return Ok(Some(Op::MulWide {
                        bits,
                        signed,
                        d,
                        a,
                        b,
                        c: None,
                    }));
                }
                match (m.flag("hi"), m.flag("lo")) {
                    (true, false) => Int2::MulHi,
                    (false, true) => Int2::MulLo,
                    _ => return self.err("mul needs .lo, .hi or .wide"),
                }
            }
            "div" => Int2::Div,
            "rem" => Int2::Rem,
            "min" => Int2::Min,
            "max" => Int2::Max,
            "and" => Int2::And,
            "or" => Int2::Or,
            "xor" => Int2::Xor,
            "shl" => Int2::Shl,
            "shr" => Int2::Shr,
            _ => return self.err(format!("'{root}' is not defined for integers")),
        };
        self.count(o, &[3])?;
        Ok(Some(Op::Int2 {
            op,
            bits,
            signed,
            d: self.reg(&o[0])?,
            a: self.src(&o[1], ty)?,
            b: self.src(&o[2], ty)?,
        }))
    }

    fn mad(&mut self, root: &str, ty: Ty, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        self.count(o, &[4])?;
        if root != "mad" {
            return self.err(format!("'{root}' is not supported"));
        }
        let (bits, signed) = (ty.bits() as u8, ty.is_signed());
        let (d, a, b, c) = (
            self.reg(&o[0])?,
            self.src(&o[1], ty)?,
            self.src(&o[2], ty)?,
            self.src(&o[3], ty)?,
        );
        if m.flag("wide") {
            return Ok(Op::MulWide {
                bits,
                signed,
                d,
                a,
                b,
                c: Some(c),
            });
        }
        if m.flag("sat") {
            if !(m.flag("hi") && ty == Ty::S32) {
                return self.err("mad.sat needs .hi.s32");
            }
            return Ok(Op::Tri {
                op: Tri::MadHiSatS32,
                d,
                a,
                b,
                c,
            });
        }
        match (m.flag("hi"), m.flag("lo")) {
            (hi, lo) if hi != lo => Ok(Op::Mad {
                bits,
                signed,
                hi,
                d,
                a,
                b,
                c,
            }),
            _ => self.err("mad needs .lo, .hi or .wide"),
        }
    }

    fn logic_pred(&mut self, root: &str, o: &[Operand]) -> Lowered<Op> {
        let d = self.pred_dst(&o[0])?;
        let a = self.pred_src(&o[1])?;
        let op = match root {
            "and" => Bool::And,
            "or" => Bool::Or,
            "xor" => Bool::Xor,
            "not" => {
                let b = crate::ptx::ir::PredSrc::Const(true);
                return Ok(Op::LogicPred {
                    op: Bool::Xor,
                    d,
                    a,
                    b,
                });
            }
            _ => return self.err(format!("'{root}.pred' is not defined")),
        };
        self.count(o, &[3])?;
        Ok(Op::LogicPred {
            op,
            d,
            a,
            b: self.pred_src(&o[2])?,
        })
    }

    fn fields(&mut self, root: &str, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        let Some(ty) = m.ty().filter(|t| t.is_int() && t.bits() >= 16) else {
            return self.err(format!("'{root}' needs an integer type"));
        };
        let (bits, signed) = (ty.bits() as u8, ty.is_signed());
        let d = self.reg(&o[0])?;
        let s = |i: usize, ty: Ty| match o.get(i) {
            Some(o) => self.src(o, ty),
            None => self.err("missing operand"),
        };
        let a = s(1, ty)?;
        Ok(match root {
            "popc" => Op::Popc { bits, d, a },
            "clz" => Op::Clz { bits, d, a },
            "bfind" => Op::Bfind {
                bits,
                signed,
                shiftamt: m.flag("shiftamt"),
                d,
                a,
            },
            "bfe" => Op::Bfe {
                bits,
                signed,
                d,
                a,
                b: s(2, Ty::U32)?,
                c: s(3, Ty::U32)?,
            },
            "sad" => Op::Sad {
                bits,
                signed,
                d,
                a,
                b: s(2, ty)?,
                c: s(3, ty)?,
            },
            _ => Op::Bfi {
                bits,
                d,
                a,
                b: s(2, ty)?,
                c: s(3, Ty::U32)?,
                e: s(4, Ty::U32)?,
            },
        })
    }

    fn tri(&mut self, root: &str, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        if root == "lop3" {
            if m.ty() != Some(Ty::B32) {
                return self.err("lop3 needs .b32");
            }
            self.count(o, &[5])?;
            let Operand::Int(table) = o[4] else {
                return self.err("lop3 needs an immediate table");
            };
            let (a, b, c) = (
                self.src(&o[1], Ty::B32)?,
                self.src(&o[2], Ty::B32)?,
                self.src(&o[3], Ty::B32)?,
            );
            return Ok(Op::Tri {
                op: Tri::Lop3(table as u8),
                d: self.reg(&o[0])?,
                a,
                b,
                c,
            });
        }
        let op = match root {
            "shf" => {
                let clamp = m.flag("clamp");
                if clamp == m.flag("wrap") {
                    return self.err("shf needs .clamp or .wrap");
                }
                match (m.flag("l"), m.flag("r")) {
                    (true, false) => Tri::ShfL { clamp },
                    (false, true) => Tri::ShfR { clamp },
                    _ => return self.err("shf needs .l or .r"),
                }
            }
            "prmt" => Tri::Prmt(
                m.pick(|s| match s {
                    "f4e" => Some(PrmtMode::F4e),
                    "b4e" => Some(PrmtMode::B4e),
                    "rc8" => Some(PrmtMode::Rc8),
                    "ecl" => Some(PrmtMode::Ecl),
                    "ecr" => Some(PrmtMode::Ecr),
                    "rc16" => Some(PrmtMode::Rc16),
                    _ => None,
                })
                .unwrap_or(PrmtMode::Index),
            ),
            _ => {
                let half = if root == "dp2a" {
                    Some(m.flag("hi"))
                } else {
                    None
                };
                if half == Some(false) && !m.flag("lo") {
                    return self.err("dp2a needs .lo or .hi");
                }
                let (Some(at), Some(bt)) = (m.ty(), m.ty()) else {
                    return self.err(format!("'{root}' needs two types"));
                };
                let (a_signed, b_signed) = (at == Ty::S32, bt == Ty::S32);
                match half {
                    None => Tri::Dp4a { a_signed, b_signed },
                    Some(hi) => Tri::Dp2a {
                        a_signed,
                        b_signed,
                        hi,
                    },
                }
            }
        };
        if matches!(root, "shf" | "prmt") && m.ty() != Some(Ty::B32) {
            return self.err(format!("'{root}' needs .b32"));
        }
        self.count(o, &[4])?;
        let s = |i: usize| self.src(&o[i], Ty::B32);
        Ok(Op::Tri {
            op,
            d: self.reg(&o[0])?,
            a: s(1)?,
            b: s(2)?,
            c: s(3)?,
        })
    }

    /// A fresh register that holds nothing yet, for results nobody reads.
    pub(super) fn sink() -> Reg {
        Reg::Sink
    }

    /// The constant zero.
    pub(super) fn zero() -> Src {
        Src::Imm(0)
    }
}
