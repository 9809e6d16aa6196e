//! All that a launch is at one moment.
use crate::barrier::Barrier;
use crate::config::{MAX_BLOCKS, MAX_SHARES, MAX_STAGES};
use crate::consumer::Consumer;
use crate::model::Wrong;
use crate::producer::Producer;

/// Parts of a stage: the tall operand, and a part of the wide one from each block of the cluster.
pub const PARTS: usize = 3;

/// The use of a stage that something belongs to: 1 + the stages of the ring that were used before; 0 for none.
pub type Use = u8;

/// Shared memory of a stage. The kernel sees none of this: it is what the properties are about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stage {
    pub holds: [Use; PARTS],
    /// Copies on their way to it.
    pub coming: [Use; PARTS],
    /// Which use was read last, and by how many consumers to the end.
    pub read: (Use, u8),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Block {
    pub full: [Barrier; MAX_STAGES],
    pub empty: [Barrier; MAX_STAGES],
    pub turn: [Barrier; 2],
    pub stage: [Stage; MAX_STAGES],
    pub producer: Producer,
    pub consumer: [Consumer; 2],
}

/// What a consumer's share of a tile is in global memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Share {
    /// Parts of K that were added to its sums.
    pub sums: u8,
    /// `IgemmSm90Params::arrived`.
    pub arrived: u8,
    /// How often the output was written.
    pub written: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    pub block: [Block; MAX_BLOCKS],
    pub share: [Share; MAX_SHARES],
    /// Whether the kernel before has ended.
    pub before_ended: bool,
    /// What went wrong on the way here; nothing goes on from there.
    pub wrong: Option<Wrong>,
}
