//! Scopes, and operands resolved in them.
use std::collections::HashMap;

use super::{Lowered, Lowerer};
use crate::memory::SHARED_BASE;
use crate::ptx::ast::{Operand, Stmt, Ty, VarSpace};
use crate::ptx::ir::{Addr, PredSrc, Reg, Special, Src};

/// What a name stands for.
#[derive(Clone)]
pub enum Binding {
    Reg(Reg),
    Pred(u32),
    /// Offset in the thread's local memory.
    Local(u32),
    /// `.branchtargets` list.
    Targets(Vec<String>),
}

/// Nested `{}` scopes with their names and labels.
#[derive(Default)]
pub struct Scopes {
    stack: Vec<(usize, HashMap<String, Binding>)>,
    outer: HashMap<String, Binding>,
    opened: usize,
    labels: HashMap<(usize, String), u32>,
}

impl Scopes {
    pub fn open(&mut self) {
        self.opened += 1;
        self.stack.push((self.opened, HashMap::new()));
    }

    pub fn close(&mut self) {
        self.stack.pop();
    }

    pub fn bind(&mut self, name: &str, b: Binding) {
        let map = self.stack.last_mut().map_or(&mut self.outer, |(_, m)| m);
        map.insert(name.to_owned(), b);
    }

    pub fn get(&self, name: &str) -> Option<&Binding> {
        self.stack
            .iter()
            .rev()
            .find_map(|(_, m)| m.get(name))
            .or_else(|| self.outer.get(name))
    }

    /// Numbers the labels of a body from `first` on, scope by scope; how many there are.
    pub fn collect_labels(&mut self, body: &[Stmt], first: u32) -> usize {
        let (mut opened, mut open, mut count) = (0, vec![0], 0);
        for stmt in body {
            match stmt {
                Stmt::Open => {
                    opened += 1;
                    open.push(opened);
                }
                Stmt::Close => drop(open.pop()),
                Stmt::Label(name) => {
                    let scope = open.last().copied().unwrap_or(0);
                    self.labels.insert((scope, name.clone()), first + count);
                    count += 1;
                }
                _ => {}
            }
        }
        count as usize
    }

    /// The label of that name in the innermost scope that has one.
    pub fn label(&self, name: &str) -> Option<u32> {
        self.stack
            .iter()
            .rev()
            .find_map(|(scope, _)| self.labels.get(&(*scope, name.to_owned())).copied())
    }
}

/// Whether an operand names `symbol`.
pub fn mentions(o: &Operand, symbol: &str) -> bool {
    match o {
        Operand::Name(n) | Operand::Offset(n, _) => n == symbol,
        Operand::Address(base, _) => mentions(base, symbol),
        Operand::Tensor(base, _, v) => {
            mentions(base, symbol) || v.iter().any(|o| mentions(o, symbol))
        }
        Operand::Vector(v) | Operand::Paren(v) => v.iter().any(|o| mentions(o, symbol)),
        _ => false,
    }
}

fn special(name: &str) -> Option<Special> {
    let axis = |s: &str| match s {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    if let Some((base, a)) = name.rsplit_once('.') {
        let a = axis(a)?;
        return Some(match base {
            "%tid" => Special::Tid(a),
            "%ntid" => Special::Ntid(a),
            "%ctaid" => Special::Ctaid(a),
            "%nctaid" => Special::Nctaid(a),
            "%clusterid" => Special::Clusterid(a),
            "%nclusterid" => Special::Nclusterid(a),
            "%cluster_ctaid" => Special::ClusterCtaid(a),
            "%cluster_nctaid" => Special::ClusterNctaid(a),
            _ => return None,
        });
    }
    Some(match name {
        "%laneid" => Special::Laneid,
        "%warpid" => Special::Warpid,
        "%nwarpid" => Special::Nwarpid,
        "%smid" => Special::Smid,
        "%nsmid" => Special::Nsmid,
        "%gridid" => Special::Gridid,
        "%lanemask_eq" => Special::LanemaskEq,
        "%lanemask_le" => Special::LanemaskLe,
        "%lanemask_lt" => Special::LanemaskLt,
        "%lanemask_ge" => Special::LanemaskGe,
        "%lanemask_gt" => Special::LanemaskGt,
        "%clock" => Special::Clock,
        "%clock_hi" => Special::ClockHi,
        "%clock64" => Special::Clock64,
        "%globaltimer" | "%globaltimer_lo" => Special::GlobalTimer,
        "%dynamic_smem_size" => Special::DynamicSmem,
        "%total_smem_size" => Special::TotalSmem,
        "%cluster_ctarank" => Special::ClusterCtarank,
        "%cluster_nctarank" => Special::ClusterNctarank,
        "%is_explicit_cluster" => Special::IsExplicitCluster,
        _ => return None,
    })
}

impl Lowerer<'_> {
    pub(super) fn registers(&mut self, name: &str, count: Option<u32>, ty: Ty) -> Lowered<()> {
        let names: Vec<String> = match count {
            None => vec![name.to_owned()],
            Some(n) => (0..n).map(|i| format!("{name}{i}")).collect(),
        };
        for name in names {
            let binding = match ty.bits() {
                1 => Binding::Pred(self.new_pred()),
                64 => {
                    self.program.regs64 += 1;
                    Binding::Reg(Reg::W64(self.program.regs64 - 1))
                }
                8 | 16 | 32 => Binding::Reg(self.new_w32()),
                _ => return self.err("128-bit registers are not supported"),
            };
            self.scopes.bind(&name, binding);
        }
        Ok(())
    }

    pub(super) fn pred(&self, name: &str) -> Lowered<u32> {
        match self.scopes.get(name) {
            Some(&Binding::Pred(p)) => Ok(p),
            _ => self.err(format!("'{name}' is not a predicate register")),
        }
    }

    pub(super) fn pred_dst(&self, o: &Operand) -> Lowered<u32> {
        match o {
            Operand::Name(n) => self.pred(n),
            other => self.err(format!("expected a predicate, found {other:?}")),
        }
    }

    pub(super) fn pred_src(&self, o: &Operand) -> Lowered<PredSrc> {
        match o {
            Operand::Name(n) => Ok(PredSrc::Reg(self.pred(n)?, false)),
            Operand::Not(n) => Ok(PredSrc::Reg(self.pred(n)?, true)),
            Operand::Int(v) => Ok(PredSrc::Const(*v != 0)),
            other => self.err(format!("expected a predicate, found {other:?}")),
        }
    }

    pub(super) fn reg(&self, o: &Operand) -> Lowered<Reg> {
        match o {
            Operand::Name(n) if n == "_" => Ok(Reg::Sink),
            Operand::Name(n) => match self.scopes.get(n) {
                Some(&Binding::Reg(r)) => Ok(r),
                _ => self.err(format!("'{n}' is not a register")),
            },
            other => self.err(format!("expected a register, found {other:?}")),
        }
    }

    /// A destination: `{a, b}` or one register.
    pub(super) fn regs(&self, o: &Operand) -> Lowered<Box<[Reg]>> {
        match o {
            Operand::Vector(v) => v.iter().map(|o| self.reg(o)).collect(),
            one => Ok(Box::new([self.reg(one)?])),
        }
    }

    /// A source: `{a, b}` or one value.
    pub(super) fn srcs(&self, o: &Operand, ty: Ty) -> Lowered<Box<[Src]>> {
        match o {
            Operand::Vector(v) => v.iter().map(|o| self.src(o, ty)).collect(),
            one => Ok(Box::new([self.src(one, ty)?])),
        }
    }

    /// The address of a variable in its own space.
    fn symbol(&self, name: &str, offset: i64) -> Option<Src> {
        let at = |base: u32| Src::Imm((i64::from(base) + offset) as u64);
        if let Some(&Binding::Local(local)) = self.scopes.get(name) {
            return Some(at(local));
        }
        if let Some(&shared) = self.shared.get(name) {
            return Some(at(SHARED_BASE + shared));
        }
        if let Some(&param) = self.params.get(name) {
            return Some(at(param));
        }
        let is_global = |s: VarSpace| matches!(s, VarSpace::Global | VarSpace::Const);
        let index = self
            .ast
            .vars
            .iter()
            .filter(|v| is_global(v.space))
            .position(|v| v.name == name)?;
        Some(Src::Global(index as u32, offset))
    }

    pub(super) fn src(&self, o: &Operand, ty: Ty) -> Lowered<Src> {
        Ok(match o {
            Operand::Int(v) => Src::Imm(*v as u64),
            Operand::F32(bits) => Src::Imm(u64::from(*bits)),
            Operand::F64(bits) if ty == Ty::F32 => {
                Src::Imm(u64::from((f64::from_bits(*bits) as f32).to_bits()))
            }
            Operand::F64(bits) => Src::Imm(*bits),
            Operand::Name(n) => match self.scopes.get(n) {
                Some(&Binding::Reg(r)) => Src::Reg(r),
                Some(Binding::Pred(_)) => {
                    return self.err(format!("predicate '{n}' where a value belongs"))
                }
                _ => match special(n).map(Src::Special).or_else(|| self.symbol(n, 0)) {
                    Some(s) => s,
                    None if n == "WARP_SZ" => Src::Imm(32),
                    None => return self.err(format!("unknown name '{n}'")),
                },
            },
            Operand::Offset(n, offset) => match self.symbol(n, *offset) {
                Some(s) => s,
                None => return self.err(format!("unknown symbol '{n}'")),
            },
            other => return self.err(format!("expected a value, found {other:?}")),
        })
    }

    pub(super) fn addr(&self, o: &Operand) -> Lowered<Addr> {
        match o {
            Operand::Address(base, offset) => Ok(Addr {
                base: self.src(base, Ty::B64)?,
                offset: *offset,
            }),
            other => self.err(format!("expected an address, found {other:?}")),
        }
    }

    /// Whether an address names a variable of the thread's local memory.
    pub(super) fn names_local(&self, o: &Operand) -> bool {
        let Operand::Address(base, _) = o else {
            return false;
        };
        matches!(base.as_ref(), Operand::Name(n) if matches!(self.scopes.get(n), Some(Binding::Local(_))))
    }

    pub(super) fn count(&self, o: &[Operand], want: &[usize]) -> Lowered<()> {
        if want.contains(&o.len()) {
            return Ok(());
        }
        self.err(format!("{} operands, expected {want:?}", o.len()))
    }
}
