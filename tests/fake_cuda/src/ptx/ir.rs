//! The program as it is run: registers are indices, branch targets are instruction numbers.

pub use super::ast::Ty;
pub use super::ir_hopper::{Completion, Hopper, Order, Phase, Tile, WgmmaA, WgmmaShape};

/// A register. 8-, 16- and 32-bit registers share one file, 64-bit registers have another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// Up to 32 bits.
    W32(u32),
    /// 64 bits.
    W64(u32),
    /// `_`: the value is dropped.
    Sink,
}

/// Special registers that differ from lane to lane or over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Laneid,
    Warpid,
    Nwarpid,
    Smid,
    Nsmid,
    Gridid,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    Clock,
    ClockHi,
    Clock64,
    GlobalTimer,
    DynamicSmem,
    TotalSmem,
    Clusterid(u8),
    Nclusterid(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterCtarank,
    ClusterNctarank,
    IsExplicitCluster,
}

/// A source operand of up to 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Src {
    /// Register.
    Reg(Reg),
    /// The same bits in every lane.
    Imm(u64),
    /// Special register.
    Special(Special),
    /// Address of module variable number `.0`, plus an offset.
    Global(u32, i64),
}

/// A predicate operand, possibly negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredSrc {
    /// Register and whether it is negated.
    Reg(u32, bool),
    /// Constant.
    Const(bool),
}

/// `[base + offset]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addr {
    /// Base.
    pub base: Src,
    /// Byte offset.
    pub offset: i64,
}

/// Address spaces at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Space {
    Generic,
    Global,
    Shared,
    /// Shared memory of any block of the cluster.
    Cluster,
    Local,
    /// Parameters of the entry.
    Param,
}

/// Operations with one integer source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Int1 {
    Mov,
    Neg,
    Abs,
    Not,
    Cnot,
    Brev,
}

/// Operations with two integer sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Int2 {
    Add,
    AddSat,
    Sub,
    SubSat,
    MulLo,
    MulHi,
    Div,
    Rem,
    Min,
    Max,
    And,
    Or,
    Xor,
    Shl,
    Shr,
}

/// Operations with three or four 32-bit sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Tri {
    Lop3(u8),
    Prmt(PrmtMode),
    ShfL {
        clamp: bool,
    },
    ShfR {
        clamp: bool,
    },
    Dp4a {
        a_signed: bool,
        b_signed: bool,
    },
    Dp2a {
        a_signed: bool,
        b_signed: bool,
        hi: bool,
    },
    MadHiSatS32,
}

/// How `prmt` reads its selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PrmtMode {
    Index,
    F4e,
    B4e,
    Rc8,
    Ecl,
    Ecr,
    Rc16,
}

/// Operations with one float source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Float1 {
    Neg,
    Abs,
    Sqrt,
    Rcp,
    Rsqrt,
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
}

/// Operations with two float sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Float2 {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    MinNan,
    MaxNan,
    Copysign,
}

/// Rounding of float results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To nearest, ties to even.
    Rn,
    /// Towards zero.
    Rz,
    /// Towards minus infinity.
    Rm,
    /// Towards plus infinity.
    Rp,
    /// To nearest, ties away from zero.
    Rna,
}

/// Modifiers of a float instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloatMods {
    /// Flush subnormal inputs and results to zero.
    pub ftz: bool,
    /// Clamp to [0, 1], NaN to 0.
    pub sat: bool,
    /// Clamp negative results and NaN as `.relu` says.
    pub relu: bool,
    /// Rounding.
    pub round: Round,
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// How `setp` combines its result with a third predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Bool {
    And,
    Or,
    Xor,
}

/// A comparison with everything around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Comparison.
    pub cmp: Cmp,
    /// Type of the sources.
    pub ty: Ty,
    /// Flush subnormals.
    pub ftz: bool,
    /// Sources.
    pub a: Src,
    /// Sources.
    pub b: Src,
    /// Third operand.
    pub combine: Option<(Bool, PredSrc)>,
}

/// Conversions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cvt {
    /// Result type.
    pub to: Ty,
    /// Source type.
    pub from: Ty,
    /// Rounding of the result.
    pub round: Round,
    /// `.rni` and its like: round to an integer in the float format.
    pub integer: bool,
    /// Flush subnormals.
    pub ftz: bool,
    /// Saturate.
    pub sat: bool,
    /// Negative to zero.
    pub relu: bool,
}

/// Read-modify-write operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AtomOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

/// Ways to shuffle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Shfl {
    Up,
    Down,
    Bfly,
    Idx,
}

/// Ways to vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

/// What a barrier does when all have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Wait.
    Sync,
    /// Count without waiting.
    Arrive,
    /// Wait, and count the threads whose predicate is true.
    Popc(Reg, PredSrc),
    /// Wait, and tell whether all predicates are true.
    And(u32, PredSrc),
    /// Wait, and tell whether any predicate is true.
    Or(u32, PredSrc),
}

/// Shapes of integer `mma.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmaShape {
    /// Rows of A.
    pub m: u8,
    /// Columns of B: always 8.
    pub n: u8,
    /// Depth.
    pub k: u8,
    /// A is `.s8`.
    pub a_signed: bool,
    /// B is `.s8`.
    pub b_signed: bool,
    /// Clamp the sum.
    pub satfinite: bool,
}

/// What one instruction does.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Op {
    Nop,
    Int1 {
        op: Int1,
        bits: u8,
        d: Reg,
        a: Src,
    },
    Int2 {
        op: Int2,
        bits: u8,
        signed: bool,
        d: Reg,
        a: Src,
        b: Src,
    },
    MulWide {
        bits: u8,
        signed: bool,
        d: Reg,
        a: Src,
        b: Src,
        c: Option<Src>,
    },
    Mad {
        bits: u8,
        signed: bool,
        hi: bool,
        d: Reg,
        a: Src,
        b: Src,
        c: Src,
    },
    Sad {
        bits: u8,
        signed: bool,
        d: Reg,
        a: Src,
        b: Src,
        c: Src,
    },
    Popc {
        bits: u8,
        d: Reg,
        a: Src,
    },
    Clz {
        bits: u8,
        d: Reg,
        a: Src,
    },
    Bfind {
        bits: u8,
        signed: bool,
        shiftamt: bool,
        d: Reg,
        a: Src,
    },
    Bfe {
        bits: u8,
        signed: bool,
        d: Reg,
        a: Src,
        b: Src,
        c: Src,
    },
    Bfi {
        bits: u8,
        d: Reg,
        a: Src,
        b: Src,
        c: Src,
        e: Src,
    },
    Tri {
        op: Tri,
        d: Reg,
        a: Src,
        b: Src,
        c: Src,
    },
    F32x1 {
        op: Float1,
        m: FloatMods,
        d: Reg,
        a: Src,
    },
    F32x2 {
        op: Float2,
        m: FloatMods,
        d: Reg,
        a: Src,
        b: Src,
    },
    F32Fma {
        m: FloatMods,
        d: Reg,
        a: Src,
        b: Src,
        c: Src,
    },
    F64x1 {
        op: Float1,
        d: Reg,
        a: Src,
    },
    F64x2 {
        op: Float2,
        d: Reg,
        a: Src,
        b: Src,
    },
    F64Fma {
        d: Reg,
        a: Src,
        b: Src,
        c: Src,
    },
    Half1 {
        op: Float1,
        ty: Ty,
        m: FloatMods,
        d: Reg,
        a: Src,
    },
    Half2 {
        op: Float2,
        ty: Ty,
        m: FloatMods,
        d: Reg,
        a: Src,
        b: Src,
    },
    HalfFma {
        ty: Ty,
        m: FloatMods,
        d: Reg,
        a: Src,
        b: Src,
        c: Src,
    },
    TestP {
        class: Class,
        bits: u8,
        d: u32,
        a: Src,
    },
    Setp {
        c: Compare,
        d: Option<u32>,
        other: Option<u32>,
    },
    Set {
        c: Compare,
        to: Ty,
        d: Reg,
    },
    SetpX2 {
        c: Compare,
        d: u32,
        other: Option<u32>,
    },
    Selp {
        bits: u8,
        d: Reg,
        a: Src,
        b: Src,
        p: PredSrc,
    },
    Slct {
        bits: u8,
        float: bool,
        d: Reg,
        a: Src,
        b: Src,
        c: Src,
    },
    MovPred {
        d: u32,
        a: PredSrc,
    },
    LogicPred {
        op: Bool,
        d: u32,
        a: PredSrc,
        b: PredSrc,
    },
    Cvt {
        c: Cvt,
        d: Reg,
        a: Src,
    },
    CvtPack {
        c: Cvt,
        d: Reg,
        a: Src,
        b: Src,
    },
    CvtPackInt {
        to: Ty,
        from: Ty,
        d: Reg,
        a: Src,
        b: Src,
        c: Option<Src>,
    },
    Pack {
        part: u8,
        d: Reg,
        parts: Box<[Src]>,
    },
    Unpack {
        part: u8,
        parts: Box<[Reg]>,
        a: Src,
    },
    Cvta {
        space: Space,
        to: bool,
        d: Reg,
        a: Src,
    },
    IsSpace {
        space: Space,
        d: u32,
        a: Src,
    },
    Ld {
        space: Space,
        ty: Ty,
        d: Box<[Reg]>,
        addr: Addr,
    },
    St {
        space: Space,
        ty: Ty,
        v: Box<[Src]>,
        addr: Addr,
    },
    Atom {
        space: Space,
        op: AtomOp,
        ty: Ty,
        d: Option<Reg>,
        addr: Addr,
        b: Src,
        c: Src,
    },
    AddrCheck {
        space: Space,
        bytes: u8,
        addr: Addr,
    },
    CopyLocal {
        dst: u32,
        src: u32,
        bytes: u32,
    },
    CpAsync {
        bytes: u8,
        dst: Addr,
        src: Addr,
        src_bytes: Option<Src>,
        ignore: Option<PredSrc>,
    },
    CpAsyncCommit,
    CpAsyncWait {
        keep: u32,
        all: bool,
    },
    Ldmatrix {
        count: u8,
        trans: bool,
        d: Box<[Reg]>,
        addr: Addr,
    },
    Stmatrix {
        count: u8,
        trans: bool,
        v: Box<[Src]>,
        addr: Addr,
    },
    Mma {
        shape: MmaShape,
        d: Box<[Reg]>,
        a: Box<[Src]>,
        b: Box<[Src]>,
        c: Box<[Src]>,
    },
    Shfl {
        kind: Shfl,
        d: Reg,
        p: Option<u32>,
        a: Src,
        b: Src,
        c: Src,
        mask: Src,
    },
    VotePred {
        kind: Vote,
        d: u32,
        a: PredSrc,
        mask: Src,
    },
    Ballot {
        d: Reg,
        a: PredSrc,
        mask: Src,
    },
    MatchAny {
        bits: u8,
        d: Reg,
        a: Src,
        mask: Src,
    },
    MatchAll {
        bits: u8,
        d: Reg,
        p: Option<u32>,
        a: Src,
        mask: Src,
    },
    Redux {
        op: AtomOp,
        signed: bool,
        d: Reg,
        a: Src,
        mask: Src,
    },
    Activemask {
        d: Reg,
    },
    WarpSync {
        mask: Src,
    },
    ElectSync {
        d: Reg,
        p: u32,
        mask: Src,
    },
    Bar {
        kind: BarKind,
        aligned: bool,
        id: Src,
        count: Option<Src>,
    },
    Bra {
        target: u32,
    },
    Brx {
        index: Src,
        targets: Box<[u32]>,
    },
    Call {
        target: u32,
        link: Reg,
    },
    Ret {
        link: Reg,
    },
    Exit,
    Trap,
    AssertFail {
        message: u32,
        file: u32,
        line: u32,
    },
    /// What compute capability 9.0 brought.
    Hopper(Box<Hopper>),
}

impl Op {
    /// Whether it waits for something, but not for ever.
    pub fn gives_up(&self) -> bool {
        matches!(self, Op::Hopper(h) if matches!(**h, Hopper::MbarrierTest { .. }))
    }
}

/// Classes of `testp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Class {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Inst {
    /// Guard.
    pub guard: PredSrc,
    /// Operation.
    pub op: Op,
    /// PTX line.
    pub line: u32,
    /// `.loc` in force.
    pub loc: Option<(u32, u32)>,
}

/// One kernel with every function it calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// Instructions; functions come before their callers, the entry last.
    pub code: Vec<Inst>,
    /// First instruction of the entry.
    pub start: u32,
    /// 32-bit registers.
    pub regs32: u32,
    /// 64-bit registers.
    pub regs64: u32,
    /// Predicates.
    pub preds: u32,
    /// Local memory of a thread.
    pub local_bytes: u32,
    /// Static shared memory.
    pub static_shared: u32,
    /// Offset of the dynamic shared memory from the first shared byte.
    pub dynamic_offset: u32,
    /// `.file` table.
    pub files: Vec<(u32, String)>,
    /// It has wgmma instructions, so accesses to registers are followed.
    pub wgmma: bool,
    /// `.maxnreg`, or what ptxas may use given `.maxntid` and `.minnctapersm`; none if the PTX says neither.
    pub registers: Option<u32>,
}
