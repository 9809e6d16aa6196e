//! Statements with names to a program with indices: one program an entry, its callees inside.
mod arith;
mod bulk;
mod control;
mod convert;
mod float;
mod hopper;
mod memory;
mod mods;
mod names;
mod warp;

use std::collections::HashMap;

use super::ast::{Ast, Function, Stmt, Var, VarSpace};
use super::ir::{Inst, Op, PredSrc, Program, Reg};
use super::ParseError;
use mods::Mods;
use names::{Binding, Scopes};

type Lowered<T> = Result<T, ParseError>;

/// A function of the program being built.
struct Callee {
    label: u32,
    link: Reg,
    /// Offset in local memory and size of each formal parameter, then of each return value.
    params: Vec<(u32, u32)>,
    returns: Vec<(u32, u32)>,
}

/// Builds one program.
pub(super) struct Lowerer<'a> {
    ast: &'a Ast,
    program: Program,
    scopes: Scopes,
    label_pc: Vec<u32>,
    callees: HashMap<&'a str, Callee>,
    /// Offset of each shared variable from the start of the shared window.
    shared: HashMap<&'a str, u32>,
    /// Offset of each entry parameter.
    params: HashMap<&'a str, u32>,
    /// How the function being lowered returns: `None` in the entry.
    link: Option<Reg>,
    line: u32,
    loc: Option<(u32, u32)>,
    guard: PredSrc,
}

/// Lowers one entry and everything it calls.
pub(super) fn lower_entry(ast: &Ast, entry: &Function) -> Lowered<Program> {
    let order = call_order(ast, entry)?;
    let mut l = Lowerer {
        ast,
        program: Program {
            files: ast.files.clone(),
            registers: registers(entry),
            ..Program::default()
        },
        scopes: Scopes::default(),
        label_pc: Vec::new(),
        callees: HashMap::new(),
        shared: HashMap::new(),
        params: HashMap::new(),
        link: None,
        line: entry.line,
        loc: None,
        guard: PredSrc::Const(true),
    };
    for (var, offset) in entry.params.iter().zip(param_offsets(&entry.params).0) {
        l.params.insert(&var.name, offset);
    }
    l.place_shared(&order);
    for f in &order {
        l.declare_callee(f);
    }
    for f in order {
        l.function(f)?;
    }
    l.patch_branches();
    Ok(l.program)
}

/// Registers of a thread at launch, as ptxas gives them out: `.maxnreg`, or an equal share of the multiprocessor's.
fn registers(entry: &Function) -> Option<u32> {
    const OF_MULTIPROCESSOR: u32 = 65536;
    let block = entry.req_ntid.or(entry.max_ntid);
    let share = block.map(|n| {
        let threads = n.iter().product::<u32>().max(1).next_multiple_of(32);
        OF_MULTIPROCESSOR / (threads * entry.min_blocks.unwrap_or(1).max(1))
    });
    entry
        .max_registers
        .or(share)
        .map(|n| (n / 8 * 8).clamp(24, 256))
}

/// Offsets of the parameters in the packed buffer, and its size.
pub(super) fn param_offsets(params: &[Var]) -> (Vec<u32>, u32) {
    let mut at = 0u32;
    let offsets = params
        .iter()
        .map(|p| {
            let offset = at.next_multiple_of(p.align);
            at = offset + p.bytes as u32;
            offset
        })
        .collect();
    (offsets, at)
}

/// The functions reachable from `entry`, callees before callers.
fn call_order<'a>(ast: &'a Ast, entry: &'a Function) -> Lowered<Vec<&'a Function>> {
    fn visit<'a>(
        ast: &'a Ast,
        f: &'a Function,
        open: &mut Vec<&'a str>,
        out: &mut Vec<&'a Function>,
    ) -> Lowered<()> {
        if open.contains(&f.name.as_str()) {
            return Err(ParseError {
                line: f.line,
                message: format!("'{}' calls itself: recursion is not supported", f.name),
            });
        }
        if out.iter().any(|o| o.name == f.name) {
            return Ok(());
        }
        open.push(&f.name);
        for inst in f.body.iter().flatten() {
            let Stmt::Inst(inst) = inst else { continue };
            if inst.opcode != "call" && !inst.opcode.starts_with("call.") {
                continue;
            }
            let names = inst.operands.iter().filter_map(|o| match o {
                super::ast::Operand::Name(n) => Some(n),
                _ => None,
            });
            for name in names {
                if let Some(g) = ast
                    .functions
                    .iter()
                    .find(|g| g.name == *name && g.body.is_some())
                {
                    visit(ast, g, open, out)?;
                }
            }
        }
        open.pop();
        out.push(f);
        Ok(())
    }
    let mut out = Vec::new();
    visit(ast, entry, &mut Vec::new(), &mut out)?;
    Ok(out)
}

impl<'a> Lowerer<'a> {
    fn err<T>(&self, message: impl Into<String>) -> Lowered<T> {
        Err(ParseError {
            line: self.line,
            message: message.into(),
        })
    }

    /// Static shared variables in order of appearance, then all dynamic arrays at one offset.
    fn place_shared(&mut self, order: &[&'a Function]) {
        let bodies = || order.iter().flat_map(|f| f.body.iter().flatten());
        let inner = bodies().filter_map(|s| match s {
            Stmt::Var(v) if v.space == VarSpace::Shared => Some(v),
            _ => None,
        });
        let mentioned = |name: &str| {
            bodies().any(|s| matches!(s, Stmt::Inst(i) if i.operands.iter().any(|o| names::mentions(o, name))))
        };
        let outer = self
            .ast
            .vars
            .iter()
            .filter(|v| v.space == VarSpace::Shared && mentioned(&v.name));
        let (dynamic, fixed): (Vec<&Var>, Vec<&Var>) =
            inner.chain(outer).partition(|v| v.bytes == 0);
        let mut at = 0u32;
        for v in fixed {
            let offset = at.next_multiple_of(v.align);
            self.shared.insert(&v.name, offset);
            at = offset + v.bytes as u32;
        }
        self.program.static_shared = at;
        let align = dynamic.iter().map(|v| v.align).max().unwrap_or(16).max(16);
        self.program.dynamic_offset = at.next_multiple_of(align);
        for v in dynamic {
            self.shared.insert(&v.name, self.program.dynamic_offset);
        }
    }

    fn new_label(&mut self) -> u32 {
        self.label_pc.push(u32::MAX);
        self.label_pc.len() as u32 - 1
    }

    fn new_local(&mut self, align: u32, bytes: u32) -> u32 {
        let offset = self.program.local_bytes.next_multiple_of(align.max(1));
        self.program.local_bytes = offset + bytes;
        offset
    }

    fn new_w32(&mut self) -> Reg {
        self.program.regs32 += 1;
        Reg::W32(self.program.regs32 - 1)
    }

    fn new_pred(&mut self) -> u32 {
        self.program.preds += 1;
        self.program.preds - 1
    }

    fn declare_callee(&mut self, f: &'a Function) {
        if f.is_entry {
            return;
        }
        let mut place = |vars: &'a [Var]| -> Vec<(u32, u32)> {
            vars.iter()
                .map(|v| (self.new_local(v.align, v.bytes as u32), v.bytes as u32))
                .collect()
        };
        let (params, returns) = (place(&f.params), place(&f.returns));
        let (label, link) = (self.new_label(), self.new_w32());
        self.callees.insert(
            &f.name,
            Callee {
                label,
                link,
                params,
                returns,
            },
        );
    }

    fn function(&mut self, f: &'a Function) -> Lowered<()> {
        let Some(body) = &f.body else {
            return self.err(format!("'{}' has no body", f.name));
        };
        self.line = f.line;
        self.scopes = Scopes::default();
        if let Some(c) = self.callees.get(f.name.as_str()) {
            self.link = Some(c.link);
            self.label_pc[c.label as usize] = self.program.code.len() as u32;
            let formals = f
                .params
                .iter()
                .zip(&c.params)
                .chain(f.returns.iter().zip(&c.returns));
            for (var, &(offset, _)) in formals {
                self.scopes.bind(&var.name, Binding::Local(offset));
            }
        } else {
            self.link = None;
            self.program.start = self.program.code.len() as u32;
        }
        let labels = self.scopes.collect_labels(body, self.label_pc.len() as u32);
        self.label_pc.extend(std::iter::repeat_n(u32::MAX, labels));
        for stmt in body {
            self.statement(stmt)?;
        }
        self.guard = PredSrc::Const(true);
        let end = self.link.map_or(Op::Exit, |link| Op::Ret { link });
        self.emit(end);
        Ok(())
    }

    fn statement(&mut self, stmt: &'a Stmt) -> Lowered<()> {
        match stmt {
            Stmt::Open => self.scopes.open(),
            Stmt::Close => self.scopes.close(),
            Stmt::Label(name) => {
                if let Some(id) = self.scopes.label(name) {
                    self.label_pc[id as usize] = self.program.code.len() as u32;
                }
            }
            Stmt::Targets(name, targets) => {
                self.scopes.bind(name, Binding::Targets(targets.clone()))
            }
            Stmt::Reg(name, count, ty) => self.registers(name, *count, *ty)?,
            Stmt::Var(v) => {
                self.line = v.line;
                if v.space != VarSpace::Shared {
                    let offset = self.new_local(v.align, v.bytes as u32);
                    self.scopes.bind(&v.name, Binding::Local(offset));
                }
            }
            Stmt::Inst(inst) => {
                self.line = inst.line;
                self.loc = inst.loc;
                self.guard = match &inst.guard {
                    None => PredSrc::Const(true),
                    Some((name, negated)) => PredSrc::Reg(self.pred(name)?, *negated),
                };
                self.instruction(inst)?;
            }
        }
        Ok(())
    }

    fn emit(&mut self, op: Op) {
        self.program.code.push(Inst {
            guard: self.guard,
            op,
            line: self.line,
            loc: self.loc,
        });
    }

    fn instruction(&mut self, inst: &super::ast::Inst) -> Lowered<()> {
        let (root, mut m) = Mods::split(&inst.opcode);
        let o = &inst.operands;
        let op = match root {
            "add" | "sub" | "mul" | "mul24" | "mad" | "mad24" | "fma" | "div" | "rem" | "min"
            | "max" | "and" | "or" | "xor" | "not" | "cnot" | "neg" | "abs" | "shl" | "shr"
            | "shf" | "lop3" | "prmt" | "popc" | "clz" | "brev" | "bfind" | "bfe" | "bfi"
            | "sad" | "dp4a" | "dp2a" | "sqrt" | "rcp" | "rsqrt" | "ex2" | "lg2" | "sin"
            | "cos" | "tanh" | "copysign" => self.arith(root, &mut m, o)?,
            "setp" | "set" | "selp" | "slct" | "testp" => self.compare(root, &mut m, o)?,
            "cvt" | "mov" | "cvta" | "isspacep" => self.convert(root, &mut m, o)?,
            "ld" | "ldu" | "st" | "atom" | "red" | "prefetch" | "prefetchu" | "applypriority"
            | "discard" | "createpolicy" | "cp" | "membar" | "fence" => {
                self.memory(root, &mut m, o)?
            }
            "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" | "ldmatrix"
            | "stmatrix" | "mma" | "movmatrix" => self.warp(root, &mut m, o)?,
            "bar" | "barrier" | "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt"
            | "nanosleep" | "griddepcontrol" | "pmevent" => self.control(root, &mut m, o)?,
            "mbarrier" => self.mbarrier(&mut m, o)?,
            "mapa" | "getctarank" => self.cluster_address(root, &mut m, o)?,
            "wgmma" => self.wgmma(&mut m, o)?,
            "setmaxnreg" => self.setmaxnreg(&mut m, o)?,
            _ => return self.err(format!("unknown opcode '{}'", inst.opcode)),
        };
        if !m.rest().is_empty() {
            return self.err(format!(
                "'{}': modifier '.{}' is not supported",
                inst.opcode,
                m.rest().join(".")
            ));
        }
        if let Some(op) = op {
            self.emit(op);
        }
        Ok(())
    }

    fn patch_branches(&mut self) {
        let pcs = &self.label_pc;
        for inst in &mut self.program.code {
            match &mut inst.op {
                Op::Bra { target } | Op::Call { target, .. } => *target = pcs[*target as usize],
                Op::Brx { targets, .. } => targets.iter_mut().for_each(|t| *t = pcs[*t as usize]),
                _ => {}
            }
        }
    }
}
