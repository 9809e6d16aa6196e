//! Float arithmetic, comparisons and selections.
use super::mods::Mods;
use super::{Lowered, Lowerer};
use crate::ptx::ast::{Operand, Ty};
use crate::ptx::ir::{Bool, Class, Cmp, Compare, Float1, Float2, FloatMods, Op, Round};

impl Lowerer<'_> {
    pub(super) fn float(&mut self, root: &str, ty: Ty, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        let approx = m.flag("approx") || m.flag("full");
        let nan = m.flag("NaN");
        if m.flag("xorsign") || m.flag("abs") {
            return self.err("'.xorsign.abs' is not supported");
        }
        let rounded = m
            .rest()
            .iter()
            .any(|r| matches!(*r, "rn" | "rz" | "rm" | "rp"));
        let mods = m.float();
        let exact = matches!(root, "div" | "sqrt" | "rcp") && !approx;
        if exact && !rounded {
            return self.err(format!("'{root}' needs a rounding or .approx"));
        }
        if mods.round != Round::Rn
            && !(ty == Ty::F32 && matches!(root, "add" | "sub" | "mul" | "fma" | "mad"))
        {
            return self.err(format!("'{root}' with this rounding is not supported"));
        }
        let one = match root {
            "neg" => Some(Float1::Neg),
            "abs" => Some(Float1::Abs),
            "sqrt" => Some(Float1::Sqrt),
            "rcp" => Some(Float1::Rcp),
            "rsqrt" => Some(Float1::Rsqrt),
            "ex2" => Some(Float1::Ex2),
            "lg2" => Some(Float1::Lg2),
            "sin" => Some(Float1::Sin),
            "cos" => Some(Float1::Cos),
            "tanh" => Some(Float1::Tanh),
            _ => None,
        };
        if let Some(op) = one {
            self.count(o, &[2])?;
            let (d, a) = (self.reg(&o[0])?, self.src(&o[1], ty)?);
            return Ok(match ty {
                Ty::F32 => Op::F32x1 { op, m: mods, d, a },
                Ty::F64 => Op::F64x1 { op, d, a },
                _ => Op::Half1 {
                    op,
                    ty,
                    m: mods,
                    d,
                    a,
                },
            });
        }
        if matches!(root, "fma" | "mad") {
            self.count(o, &[4])?;
            let (d, a, b, c) = (
                self.reg(&o[0])?,
                self.src(&o[1], ty)?,
                self.src(&o[2], ty)?,
                self.src(&o[3], ty)?,
            );
            return Ok(match ty {
                Ty::F32 => Op::F32Fma {
                    m: mods,
                    d,
                    a,
                    b,
                    c,
                },
                Ty::F64 => Op::F64Fma { d, a, b, c },
                _ => Op::HalfFma {
                    ty,
                    m: mods,
                    d,
                    a,
                    b,
                    c,
                },
            });
        }
        let op = match root {
            "add" => Float2::Add,
            "sub" => Float2::Sub,
            "mul" => Float2::Mul,
            "div" => Float2::Div,
            "min" if nan => Float2::MinNan,
            "min" => Float2::Min,
            "max" if nan => Float2::MaxNan,
            "max" => Float2::Max,
            "copysign" => Float2::Copysign,
            _ => return self.err(format!("'{root}' is not defined for floats")),
        };
        self.count(o, &[3])?;
        let (d, a, b) = (self.reg(&o[0])?, self.src(&o[1], ty)?, self.src(&o[2], ty)?);
        Ok(match ty {
            Ty::F32 => Op::F32x2 {
                op,
                m: mods,
                d,
                a,
                b,
            },
            Ty::F64 => Op::F64x2 { op, d, a, b },
            _ => Op::Half2 {
                op,
                ty,
                m: FloatMods {
                    relu: mods.relu,
                    ..mods
                },
                d,
                a,
                b,
            },
        })
    }

    pub(super) fn compare(
        &mut self,
        root: &str,
        m: &mut Mods,
        o: &[Operand],
    ) -> Lowered<Option<Op>> {
        match root {
            "selp" => {
                let Some(ty) = m.ty() else {
                    return self.err("selp without a type");
                };
                self.count(o, &[4])?;
                let (d, a, b) = (self.reg(&o[0])?, self.src(&o[1], ty)?, self.src(&o[2], ty)?);
                return Ok(Some(Op::Selp {
                    bits: ty.bits() as u8,
                    d,
                    a,
                    b,
                    p: self.pred_src(&o[3])?,
                }));
            }
            "slct" => {
                m.flag("ftz");
                let (Some(ty), Some(by)) = (m.ty(), m.ty()) else {
                    return self.err("slct needs two types");
                };
                self.count(o, &[4])?;
                let (d, a, b) = (self.reg(&o[0])?, self.src(&o[1], ty)?, self.src(&o[2], ty)?);
                let c = self.src(&o[3], by)?;
                return Ok(Some(Op::Slct {
                    bits: ty.bits() as u8,
                    float: by == Ty::F32,
                    d,
                    a,
                    b,
                    c,
                }));
            }
            "testp" => {
                let class = m.pick(|s| match s {
                    "finite" => Some(Class::Finite),
                    "infinite" => Some(Class::Infinite),
                    "number" => Some(Class::Number),
                    "notanumber" => Some(Class::NotANumber),
                    "normal" => Some(Class::Normal),
                    "subnormal" => Some(Class::Subnormal),
                    _ => None,
                });
                let (Some(class), Some(ty)) = (class, m.ty()) else {
                    return self.err("testp needs a class and a type");
                };
                self.count(o, &[2])?;
                let a = self.src(&o[1], ty)?;
                return Ok(Some(Op::TestP {
                    class,
                    bits: ty.bits() as u8,
                    d: self.pred_dst(&o[0])?,
                    a,
                }));
            }
            _ => {}
        }
        let cmp = m.pick(|s| {
            Some(match s {
                "eq" => Cmp::Eq,
                "ne" => Cmp::Ne,
                "lt" | "lo" => Cmp::Lt,
                "le" | "ls" => Cmp::Le,
                "gt" | "hi" => Cmp::Gt,
                "ge" | "hs" => Cmp::Ge,
                "equ" => Cmp::Equ,
                "neu" => Cmp::Neu,
                "ltu" => Cmp::Ltu,
                "leu" => Cmp::Leu,
                "gtu" => Cmp::Gtu,
                "geu" => Cmp::Geu,
                "num" => Cmp::Num,
                "nan" => Cmp::Nan,
                _ => return None,
            })
        });
        let combine = m.pick(|s| match s {
            "and" => Some(Bool::And),
            "or" => Some(Bool::Or),
            "xor" => Some(Bool::Xor),
            _ => None,
        });
        let ftz = m.flag("ftz");
        let to = if root == "set" { m.ty() } else { None };
        let (Some(cmp), Some(ty)) = (cmp, m.ty()) else {
            return self.err(format!("'{root}' needs a comparison and a type"));
        };
        self.count(o, if combine.is_some() { &[4] } else { &[3] })?;
        let combine = match combine {
            Some(op) => Some((op, self.pred_src(&o[3])?)),
            None => None,
        };
        let c = Compare {
            cmp,
            ty,
            ftz,
            a: self.src(&o[1], ty)?,
            b: self.src(&o[2], ty)?,
            combine,
        };
        if root == "set" {
            let Some(to) = to else {
                return self.err("set needs two types");
            };
            if matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
                return self.err("set on packed halves is not supported");
            }
            return Ok(Some(Op::Set {
                c,
                to,
                d: self.reg(&o[0])?,
            }));
        }
        let (d, other) = match &o[0] {
            Operand::Pair(p, q) => (p, Some(self.pred_or_sink(q)?)),
            Operand::Name(p) => (p, None),
            _ => return self.err("setp needs a predicate destination"),
        };
        let (d, other) = (self.pred_or_sink(d)?, other.flatten());
        Ok(Some(if matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
            let Some(d) = d else {
                return self.err("setp on packed halves needs its first destination");
            };
            Op::SetpX2 { c, d, other }
        } else {
            Op::Setp { c, d, other }
        }))
    }

    pub(super) fn pred_or_sink(&self, name: &str) -> Lowered<Option<u32>> {
        if name == "_" {
            return Ok(None);
        }
        self.pred(name).map(Some)
    }
}
