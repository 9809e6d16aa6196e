//! Instructions that compute capability 9.0 brought: mbarriers, bulk copies, clusters, warpgroups.
use super::ir::{Addr, AtomOp, PredSrc, Reg, Space, Src};

/// Which phase of an mbarrier is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The one with this parity that is over or under way.
    Parity(Src),
    /// The one that an arrival's result names.
    State(Src),
}

/// What an arrival tells and a wait learns of memory: `.sem` and `.scope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `.relaxed`: nothing.
    Relaxed,
    /// `.release` or `.acquire` in the block, which is what stands for an instruction that names neither.
    Block,
    /// The same in the cluster.
    Cluster,
}

/// A box of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tile {
    /// The tensor map.
    pub map: Addr,
    /// Element coordinates of the box, innermost first.
    pub at: Box<[Src]>,
}

/// Whom a copy into shared memory tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The mbarrier that counts its bytes.
    pub mbarrier: Addr,
    /// The blocks of the cluster that receive it.
    pub multicast: Option<Src>,
}

/// Operand A of wgmma.
#[derive(Clone, Debug, PartialEq)]
pub enum WgmmaA {
    /// Matrix descriptor.
    Shared(Src),
    /// Fragment.
    Regs(Box<[Src]>),
}

/// Shape and types of an integer wgmma; M is 64, K is 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WgmmaShape {
    /// Columns.
    pub n: u16,
    /// A is `.s8`.
    pub a_signed: bool,
    /// B is `.s8`.
    pub b_signed: bool,
    /// Clamp the sum.
    pub satfinite: bool,
}

/// What one of these instructions does.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Hopper {
    MbarrierInit {
        space: Space,
        addr: Addr,
        count: Src,
    },
    MbarrierInval {
        space: Space,
        addr: Addr,
    },
    /// `expect_tx` (positive) and `complete_tx`.
    MbarrierTx {
        space: Space,
        addr: Addr,
        bytes: Src,
        complete: bool,
    },
    MbarrierArrive {
        space: Space,
        d: Reg,
        addr: Addr,
        count: Option<Src>,
        expect: Option<Src>,
        drop: bool,
        release: Order,
    },
    MbarrierTest {
        space: Space,
        d: u32,
        addr: Addr,
        phase: Phase,
        acquire: Order,
        patient: bool,
    },
    CpAsyncArrive {
        space: Space,
        addr: Addr,
        noinc: bool,
    },
    /// `griddepcontrol.wait`.
    GridWait,
    Mapa {
        generic: bool,
        d: Reg,
        a: Src,
        rank: Src,
    },
    GetCtaRank {
        generic: bool,
        d: Reg,
        a: Src,
    },
    ClusterArrive {
        aligned: bool,
        release: bool,
    },
    ClusterWait {
        aligned: bool,
    },
    FenceProxyAsync,
    FenceMbarrierInit,
    TensorLoad {
        to: Addr,
        tile: Tile,
        done: Completion,
    },
    /// A store, or with `reduce` a read-modify-write of each element (`cp.reduce.async.bulk.tensor`).
    TensorStore {
        tile: Tile,
        from: Addr,
        reduce: Option<AtomOp>,
    },
    TensorPrefetch {
        tile: Tile,
    },
    PrefetchMap {
        map: Addr,
    },
    BulkLoad {
        to: Addr,
        from: Addr,
        bytes: Src,
        done: Completion,
    },
    BulkStore {
        to: Addr,
        from: Addr,
        bytes: Src,
    },
    BulkCommit,
    BulkWait {
        keep: u32,
        read: bool,
    },
    Wgmma {
        shape: WgmmaShape,
        d: Box<[u32]>,
        a: WgmmaA,
        b: Src,
        scale_d: PredSrc,
    },
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait {
        keep: u32,
    },
    SetMaxReg {
        up: bool,
        count: u32,
    },
}

/// Which lanes of the warp an instruction needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Needs {
    /// All 32.
    Warp,
    /// All that have not exited.
    Alive,
    Nobody,
}

impl Hopper {
    /// Which lanes it needs.
    pub fn needs(&self) -> Needs {
        match self {
            Hopper::Wgmma { .. }
            | Hopper::WgmmaFence
            | Hopper::WgmmaCommit
            | Hopper::WgmmaWait { .. }
            | Hopper::SetMaxReg { .. } => Needs::Warp,
            Hopper::ClusterArrive { aligned: true, .. } | Hopper::ClusterWait { aligned: true } => {
                Needs::Alive
            }
            _ => Needs::Nobody,
        }
    }
}
