//! What the parser hands to the lowering: statements with names, not yet resolved.

/// Scalar types of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
}

impl Ty {
    /// The type a name such as `u32` stands for.
    pub fn parse(name: &str) -> Option<Ty> {
        Some(match name {
            "pred" => Ty::Pred,
            "b8" => Ty::B8,
            "b16" => Ty::B16,
            "b32" => Ty::B32,
            "b64" => Ty::B64,
            "b128" => Ty::B128,
            "u8" => Ty::U8,
            "u16" => Ty::U16,
            "u32" => Ty::U32,
            "u64" => Ty::U64,
            "s8" => Ty::S8,
            "s16" => Ty::S16,
            "s32" => Ty::S32,
            "s64" => Ty::S64,
            "f16" => Ty::F16,
            "f16x2" => Ty::F16x2,
            "bf16" => Ty::Bf16,
            "bf16x2" => Ty::Bf16x2,
            "f32" => Ty::F32,
            "f64" => Ty::F64,
            _ => return None,
        })
    }

    /// Size in bits; a predicate counts as 1.
    pub fn bits(self) -> u32 {
        match self {
            Ty::Pred => 1,
            Ty::B8 | Ty::U8 | Ty::S8 => 8,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 | Ty::Bf16 => 16,
            Ty::B32 | Ty::U32 | Ty::S32 | Ty::F32 | Ty::F16x2 | Ty::Bf16x2 => 32,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 => 64,
            Ty::B128 => 128,
        }
    }

    /// Size in bytes.
    pub fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    /// `.s8` to `.s64`.
    pub fn is_signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    /// `.s*`, `.u*` and `.b*`.
    pub fn is_int(self) -> bool {
        !self.is_float() && self != Ty::Pred
    }

    /// Any floating-point type, packed ones included.
    pub fn is_float(self) -> bool {
        matches!(
            self,
            Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 | Ty::F32 | Ty::F64
        )
    }
}

/// State spaces in which a variable is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum VarSpace {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// One initial value of a module variable.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// Bits of a number.
    Bits(u64),
    /// Address of another variable, plus an offset.
    Symbol(String, i64),
}

/// A declared variable or parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Var {
    /// Symbol.
    pub name: String,
    /// Space.
    pub space: VarSpace,
    /// Element type.
    pub ty: Ty,
    /// Alignment in bytes.
    pub align: u32,
    /// Size in bytes; 0 for an unsized array.
    pub bytes: u64,
    /// `.extern`.
    pub external: bool,
    /// Initial elements.
    pub init: Vec<Init>,
    /// Where it stands.
    pub line: u32,
}

/// One operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// Register, special register, symbol or label.
    Name(String),
    /// `!p`.
    Not(String),
    /// `symbol+offset`.
    Offset(String, i64),
    /// Integer literal.
    Int(i64),
    /// f32 literal.
    F32(u32),
    /// f64 literal.
    F64(u64),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `[base+offset]`, base a register, symbol or absolute number.
    Address(Box<Operand>, i64),
    /// `[base+offset, {c0, c1}]`: a tensor map and coordinates.
    Tensor(Box<Operand>, i64, Vec<Operand>),
    /// `d|p`.
    Pair(String, String),
    /// `(a, b)` of a call.
    Paren(Vec<Operand>),
}

/// One instruction as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Inst {
    /// Guard predicate; `true` for `@!p`.
    pub guard: Option<(String, bool)>,
    /// Opcode with its modifiers.
    pub opcode: String,
    /// Operands.
    pub operands: Vec<Operand>,
    /// PTX line.
    pub line: u32,
    /// `.loc` in force: file index and line.
    pub loc: Option<(u32, u32)>,
}

/// One statement of a body.
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// `{`.
    Open,
    /// `}`.
    Close,
    /// `name:`.
    Label(String),
    /// `name: .branchtargets a, b;`.
    Targets(String, Vec<String>),
    /// `.reg .b32 %r<9>;`: name, count (`None` for a plain name), type.
    Reg(String, Option<u32>, Ty),
    /// A variable.
    Var(Var),
    /// An instruction.
    Inst(Inst),
}

/// `.entry` or `.func`.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Symbol.
    pub name: String,
    /// `.entry`.
    pub is_entry: bool,
    /// Return parameters.
    pub returns: Vec<Var>,
    /// Parameters.
    pub params: Vec<Var>,
    /// `.maxntid`.
    pub max_ntid: Option<[u32; 3]>,
    /// `.reqntid`.
    pub req_ntid: Option<[u32; 3]>,
    /// `.reqnctapercluster`.
    pub req_cluster: Option<[u32; 3]>,
    /// `.explicitcluster`.
    pub explicit_cluster: bool,
    /// `.maxclusterrank`.
    pub max_cluster: Option<u32>,
    /// `.maxnreg`.
    pub max_registers: Option<u32>,
    /// `.minnctapersm`.
    pub min_blocks: Option<u32>,
    /// `None` for a declaration.
    pub body: Option<Vec<Stmt>>,
    /// PTX line.
    pub line: u32,
}

/// A module as written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ast {
    /// `.version`.
    pub version: String,
    /// `.target`.
    pub target: String,
    /// `.file` table.
    pub files: Vec<(u32, String)>,
    /// Module-scope variables.
    pub vars: Vec<Var>,
    /// Functions in order.
    pub functions: Vec<Function>,
}
