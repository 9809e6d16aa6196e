//! PTX text to a typed program: tokens, statements with names, then instructions with indices.
pub mod ast;
pub mod ir;
pub mod ir_hopper;
mod lexer;
mod lower;
mod parser;

use thiserror::Error;

use ast::{Ast, Init, Var, VarSpace};

/// Parsed PTX module.
pub struct Module {
    /// `.version`, as written.
    pub version: String,
    /// `.target`, as written (`sm_90a`).
    pub target: String,
    /// The kernels.
    pub entries: Vec<Entry>,
    /// Module-scope `.global` and `.const` variables.
    pub globals: Vec<Global>,
}

/// One kernel.
pub struct Entry {
    /// Symbol.
    pub name: String,
    /// Parameters in order, with their place in the packed parameter buffer.
    pub params: Vec<Param>,
    /// Size of the packed parameter buffer.
    pub param_bytes: u32,
    /// Static shared memory, without the dynamic part.
    pub static_shared: u32,
    /// Local memory of a thread.
    pub local_bytes: u32,
    /// `.maxntid`.
    pub max_ntid: Option<[u32; 3]>,
    /// `.reqntid`.
    pub req_ntid: Option<[u32; 3]>,
    /// `.reqnctapercluster`.
    pub req_cluster: Option<[u32; 3]>,
    /// `.explicitcluster`: it must be launched with a cluster, if the PTX does not give one.
    pub explicit_cluster: bool,
    /// `.maxclusterrank`: most blocks of a cluster.
    pub max_cluster: Option<u32>,
    /// What it runs.
    pub program: ir::Program,
}

/// One kernel parameter.
pub struct Param {
    /// Symbol.
    pub name: String,
    /// Offset in the packed buffer.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
    /// Alignment in bytes.
    pub align: u32,
}

/// One module-scope variable.
pub struct Global {
    /// Symbol.
    pub name: String,
    /// In `.const`, not `.global`.
    pub constant: bool,
    /// Size in bytes.
    pub size: u64,
    /// Alignment in bytes.
    pub align: u64,
    /// Initial bytes; the rest is zero.
    pub init: Vec<u8>,
    /// Places in `init` that hold another variable's address: offset, index of the variable, addend.
    pub relocations: Vec<(u64, usize, i64)>,
}

/// Text that is not PTX as this emulator knows it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("PTX line {line}: {message}")]
pub struct ParseError {
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// What is wrong; an unknown opcode is named.
    pub message: String,
}

/// Parses a whole PTX module and lowers its kernels.
///
/// # Errors
/// The first thing that is not understood.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    let ast = parser::parse_ast(text)?;
    let mut entries = Vec::new();
    for f in ast
        .functions
        .iter()
        .filter(|f| f.is_entry && f.body.is_some())
    {
        let program = lower::lower_entry(&ast, f)?;
        let (offsets, param_bytes) = lower::param_offsets(&f.params);
        let params = f.params.iter().zip(offsets).map(|(p, offset)| Param {
            name: p.name.clone(),
            offset,
            size: p.bytes as u32,
            align: p.align,
        });
        entries.push(Entry {
            name: f.name.clone(),
            params: params.collect(),
            param_bytes,
            static_shared: program.static_shared,
            local_bytes: program.local_bytes,
            max_ntid: f.max_ntid,
            req_ntid: f.req_ntid,
            req_cluster: f.req_cluster,
            explicit_cluster: f.explicit_cluster,
            max_cluster: f.max_cluster,
            program,
        });
    }
    let globals = globals(&ast)?;
    Ok(Module {
        version: ast.version,
        target: ast.target,
        entries,
        globals,
    })
}

fn globals(ast: &Ast) -> Result<Vec<Global>, ParseError> {
    let vars: Vec<&Var> = ast
        .vars
        .iter()
        .filter(|v| matches!(v.space, VarSpace::Global | VarSpace::Const))
        .collect();
    let one = |v: &&Var| {
        let (mut init, mut relocations) = (Vec::new(), Vec::new());
        let width = v.ty.bytes() as usize;
        for value in &v.init {
            let bits = match value {
                Init::Bits(bits) => *bits,
                Init::Symbol(name, addend) => {
                    let index =
                        vars.iter()
                            .position(|v| v.name == *name)
                            .ok_or_else(|| ParseError {
                                line: v.line,
                                message: format!("unknown symbol '{name}' in an initial value"),
                            })?;
                    relocations.push((init.len() as u64, index, *addend));
                    0
                }
            };
            init.extend_from_slice(&bits.to_le_bytes()[..width.min(8)]);
        }
        Ok(Global {
            name: v.name.clone(),
            constant: v.space == VarSpace::Const,
            size: v.bytes,
            align: u64::from(v.align),
            init,
            relocations,
        })
    };
    vars.iter().map(one).collect()
}
