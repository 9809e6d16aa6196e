//! Branches, calls and barriers.
use super::mods::Mods;
use super::names::Binding;
use super::{Lowered, Lowerer};
use crate::ptx::ast::{Operand, Ty};
use crate::ptx::ir::{BarKind, Hopper, Op, Src};

impl Lowerer<'_> {
    fn label(&self, name: &str) -> Lowered<u32> {
        match self.scopes.label(name) {
            Some(id) => Ok(id),
            None => self.err(format!("unknown label '{name}'")),
        }
    }

    pub(super) fn control(
        &mut self,
        root: &str,
        m: &mut Mods,
        o: &[Operand],
    ) -> Lowered<Option<Op>> {
        Ok(Some(match root {
            "bra" => {
                m.flag("uni");
                let [Operand::Name(label)] = o else {
                    return self.err("bra needs a label");
                };
                Op::Bra {
                    target: self.label(label)?,
                }
            }
            "brx" => {
                m.flag("idx");
                m.flag("uni");
                let [index, Operand::Name(list)] = o else {
                    return self.err("brx.idx needs an index and a list");
                };
                let Some(Binding::Targets(names)) = self.scopes.get(list).cloned() else {
                    return self.err(format!("unknown branch targets '{list}'"));
                };
                let targets = names
                    .iter()
                    .map(|n| self.label(n))
                    .collect::<Lowered<_>>()?;
                Op::Brx {
                    index: self.src(index, Ty::U32)?,
                    targets,
                }
            }
            "call" => {
                m.flag("uni");
                return self.call(o);
            }
            "ret" => {
                m.flag("uni");
                self.link.map_or(Op::Exit, |link| Op::Ret { link })
            }
            "exit" => Op::Exit,
            "trap" | "brkpt" => Op::Trap,
            "griddepcontrol" => {
                self.needs_target("griddepcontrol", 90, false)?;
                match (m.flag("wait"), m.flag("launch_dependents")) {
                    (true, false) => super::hopper::op(Hopper::GridWait),
                    // Launches run one after the other.
                    (false, true) => Op::Nop,
                    _ => return self.err("unknown griddepcontrol"),
                }
            }
            "nanosleep" => {
                m.ty();
                Op::Nop
            }
            "pmevent" => {
                m.flag("mask");
                Op::Nop
            }
            _ => return self.barrier(root, m, o).map(Some),
        }))
    }

    /// A call: arguments are copied from the caller's `.param` variables to the callee's, the result back.
    fn call(&mut self, o: &[Operand]) -> Lowered<Option<Op>> {
        let empty = Vec::new();
        let (results, rest) = match o {
            [Operand::Paren(r), rest @ ..] => (r, rest),
            rest => (&empty, rest),
        };
        let [Operand::Name(name), rest @ ..] = rest else {
            return self.err("indirect calls are not supported");
        };
        let arguments = match rest {
            [Operand::Paren(a)] => a,
            [] => &empty,
            _ => return self.err("indirect calls are not supported"),
        };
        let places = |l: &Self, list: &[Operand]| -> Lowered<Vec<u32>> {
            list.iter()
                .map(|o| match o {
                    Operand::Name(n) => match l.scopes.get(n) {
                        Some(&Binding::Local(offset)) => Ok(offset),
                        _ => l.err(format!("argument '{n}' is not a .param variable")),
                    },
                    other => l.err(format!("argument {other:?} is not a .param variable")),
                })
                .collect()
        };
        let (results, arguments) = (places(self, results)?, places(self, arguments)?);
        if name == "__assertfail" && arguments.len() == 5 {
            return Ok(Some(Op::AssertFail {
                message: arguments[0],
                file: arguments[1],
                line: arguments[2],
            }));
        }
        let Some(callee) = self.callees.get(name.as_str()) else {
            return self.err(format!(
                "call of '{name}', which has no body and is not emulated"
            ));
        };
        let (target, link) = (callee.label, callee.link);
        let (params, returns) = (callee.params.clone(), callee.returns.clone());
        if params.len() != arguments.len() || returns.len() != results.len() {
            return self.err(format!(
                "'{name}' takes {} arguments and returns {}",
                params.len(),
                returns.len()
            ));
        }
        for (&src, &(dst, bytes)) in arguments.iter().zip(&params) {
            self.emit(Op::CopyLocal { dst, src, bytes });
        }
        self.emit(Op::Call { target, link });
        for (&dst, &(src, bytes)) in results.iter().zip(&returns) {
            self.emit(Op::CopyLocal { dst, src, bytes });
        }
        Ok(None)
    }

    fn barrier(&mut self, root: &str, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        if m.flag("warp") {
            m.flag("sync");
            self.count(o, &[1])?;
            return Ok(Op::WarpSync {
                mask: self.src(&o[0], Ty::B32)?,
            });
        }
        if m.flag("cluster") {
            return self.cluster_barrier(m, o);
        }
        m.flag("cta");
        let aligned = m.flag("aligned") || root == "bar";
        let reduce = m.flag("red");
        let operand = |l: &Self, i: usize| -> Lowered<Option<Src>> {
            o.get(i).map(|o| l.src(o, Ty::U32)).transpose()
        };
        if reduce {
            let op = m.pick(|s| matches!(s, "popc" | "and" | "or").then(|| s.to_owned()));
            m.ty();
            self.count(o, &[3, 4])?;
            let p = self.pred_src(&o[o.len() - 1])?;
            let count = if o.len() == 4 {
                operand(self, 2)?
            } else {
                None
            };
            let kind = match op.as_deref() {
                Some("popc") => BarKind::Popc(self.reg(&o[0])?, p),
                Some("and") => BarKind::And(self.pred_dst(&o[0])?, p),
                Some("or") => BarKind::Or(self.pred_dst(&o[0])?, p),
                _ => return self.err("unknown barrier reduction"),
            };
            return Ok(Op::Bar {
                kind,
                aligned,
                id: self.src(&o[1], Ty::U32)?,
                count,
            });
        }
        let arrive = m.flag("arrive");
        if !arrive && !m.flag("sync") {
            return self.err("unknown barrier");
        }
        self.count(o, if arrive { &[2] } else { &[1, 2] })?;
        let kind = if arrive {
            BarKind::Arrive
        } else {
            BarKind::Sync
        };
        Ok(Op::Bar {
            kind,
            aligned,
            id: self.src(&o[0], Ty::U32)?,
            count: operand(self, 1)?,
        })
    }
}
