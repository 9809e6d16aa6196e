//! What is explored: an instance of the kernel, its launch, and at most one planted fault.

/// Sizes of the state; a launch beyond them is refused.
pub const MAX_STAGES: usize = 4;
pub const MAX_BLOCKS: usize = 2;
/// Tiles of all blocks of a cluster, halves told apart where two consumers share a tile.
pub const MAX_SHARES: usize = 10;

/// A launch of one instance of `igemm_sm90`.
#[derive(Clone, Debug)]
pub struct Config {
    /// The template parameters that the ring depends on, `STAGES` smaller than the kernel's.
    pub stages: u8,
    pub cluster: u8,
    pub pingpong: bool,
    /// `gridDim.x / CLUSTER`.
    pub clusters: u8,
    /// Tiles of a cluster; `IgemmSm90Params::tiles_tall * tiles_wide`.
    pub tiles: u8,
    /// Stages that each part of K takes: its length is `IgemmSm90Params::splits`.
    pub steps: Vec<u8>,
    pub weights_ready: bool,
    pub swapped: bool,
    pub fault: Fault,
}

/// What was planted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fault {
    #[default]
    None,
    /// `multiply` waits for the other parity of `full`.
    FullParity,
    /// `produce` waits for the other parity of `empty`: its first round waits for a stage that nobody has read.
    EmptyParity,
    /// `produce` keeps one parity of `empty` for all rounds.
    EmptyParityStuck,
    /// `consume` gives the first turn to the second consumer.
    TurnParity,
    /// `multiply` does not release an item's last stage.
    NoLastRelease,
    /// `multiply` releases each stage when it has begun to read it.
    ReleaseTooEarly,
    /// `release` tells its own block alone.
    ReleaseOwnBlockOnly,
    /// `empty` counts the consumers of one block.
    EmptyCountsOneBlock,
    /// `consume` does not wait for its turn.
    NoTurnWait,
    /// `multiply` does not pass the turn on.
    NoTurnArrive,
    /// `produce` does not wait for `empty`.
    NoEmptyWait,
    /// `produce` fills as many stages ahead as the item has, not as the ring has.
    AheadBeyondRing,
    /// `produce` begins anew with the stages that it filled ahead.
    AheadForgotten,
    /// `produce` loads the other operand without `griddepcontrol.wait`.
    NoGridWait,
    /// `igemm` starts without the barrier of the cluster.
    NoFirstClusterBarrier,
    /// `igemm` ends without the barrier of the cluster.
    NoLastClusterBarrier,
    /// `finish_item` counts its part before it has added the sums.
    CountBeforeAdd,
    /// `is_last` takes the first part to come for the last.
    FirstIsLast,
    /// `finish_item` leaves its counter as it is.
    CounterKept,
    /// `take_sums` leaves the sums as they are.
    SumsKept,
}

impl Config {
    /// A launch without faults: one block, `tiles` tiles of `steps` stages each.
    pub fn new(stages: u8, cluster: u8, pingpong: bool, tiles: u8, steps: &[u8]) -> Self {
        Self {
            stages,
            cluster,
            pingpong,
            clusters: 1,
            tiles,
            steps: steps.to_vec(),
            weights_ready: false,
            swapped: false,
            fault: Fault::None,
        }
    }

    pub fn with(self, fault: Fault) -> Self {
        Self { fault, ..self }
    }

    pub fn ahead(self, swapped: bool) -> Self {
        Self {
            weights_ready: true,
            swapped,
            ..self
        }
    }

    pub fn on(self, clusters: u8) -> Self {
        Self { clusters, ..self }
    }

    pub fn check(&self) {
        assert!((1..=MAX_STAGES).contains(&usize::from(self.stages)));
        assert!((1..=MAX_BLOCKS).contains(&usize::from(self.blocks())));
        assert!(usize::from(self.tiles * self.cluster * self.readers()) <= MAX_SHARES);
        assert!(self.steps.iter().all(|&s| s > 0), "every split has some");
    }

    /// `Hopper::READERS`.
    pub fn readers(&self) -> u8 {
        if self.pingpong {
            1
        } else {
            2
        }
    }

    pub fn blocks(&self) -> u8 {
        self.cluster * self.clusters
    }

    /// `IgemmSm90Params::items`.
    pub fn items(&self) -> u8 {
        self.tiles * self.splits()
    }

    pub fn splits(&self) -> u8 {
        self.steps.len() as u8
    }

    /// `item_at`: the tile of an item, and the stages of its part of K.
    pub fn item(&self, id: u8) -> (u8, u8) {
        (id % self.tiles, self.steps[usize::from(id / self.tiles)])
    }

    /// Copies that fill a stage: one of the tall operand, and one of the wide from every block of the cluster.
    pub fn copies(&self) -> u8 {
        1 + self.cluster
    }

    /// Blocks of block `b`'s cluster.
    pub fn peers(&self, b: u8) -> std::ops::Range<u8> {
        let first = b / self.cluster * self.cluster;
        first..first + self.cluster
    }

    /// Number of a consumer's share of a tile: its counter in `IgemmSm90Params::arrived`.
    pub fn share(&self, block: u8, tile: u8, consumer: u8) -> usize {
        let half = if self.pingpong { 0 } else { consumer };
        let rank = block % self.cluster;
        usize::from((tile * self.cluster + rank) * self.readers() + half)
    }
}
