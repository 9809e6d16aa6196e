//! The kernel's own source: its instances, and the statements that the model's steps were written from.
use std::path::{Path, PathBuf};

/// The template parameters of an `ENTRY` that the ring depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub name: String,
    pub stages: u32,
    pub cluster: u8,
    pub pingpong: bool,
    pub swapped: bool,
}

/// A statement of the kernel, where it stands, and the step of the model that says the same.
pub struct Tie {
    pub file: &'static str,
    pub function: &'static str,
    pub statement: &'static str,
    pub step: &'static str,
}

const fn tie(
    file: &'static str,
    function: &'static str,
    statement: &'static str,
    step: &'static str,
) -> Tie {
    Tie {
        file,
        function,
        statement,
        step,
    }
}

const MAIN: &str = "igemm_sm90.cu";
const RING: &str = "ring_sm90.cuh";
const FINISH: &str = "finish_item.cuh";

/// In the order of the code.
pub const TIES: &[Tie] = &[
    tie("tile_sm90.cuh", "struct Hopper", "READERS = PINGPONG ? 1 : 2;", "Config::readers"),
    tie("tile_sm90.cuh", "Item item_at(", "const unsigned split = id / tiles;", "Config::item"),
    tie("tile_sm90.cuh", "Item item_at(", "raster(id % tiles,", "Config::item"),
    tie("tile_sm90.cuh", "Item item_at(", "at.tall * T::CLUSTER + rank;", "Config::share"),
    tie(MAIN, "void init_barriers(", "ptx::mbarrier_init(ring.full(s), 1);", "producer::init_barriers"),
    tie(MAIN, "void init_barriers(", "ptx::mbarrier_init(ring.empty(s), T::READERS * T::CLUSTER);", "producer::init_barriers"),
    tie(MAIN, "void init_barriers(", "ptx::mbarrier_init(ring.turn(0), 1); ptx::mbarrier_init(ring.turn(1), 1);", "producer::init_barriers"),
    tie(MAIN, "void igemm(", "ptx::cluster_arrive_relaxed(); ptx::cluster_wait();", "producer::first_barrier_passed"),
    tie(MAIN, "void igemm(", "ptx::griddepcontrol_wait(); consume<T>(", "consumer::At::GridWait"),
    tie(MAIN, "void igemm(", "ptx::cluster_arrive(); ptx::cluster_wait();", "producer::last_barrier_passed"),
    tie(RING, "void produce(", "unsigned id = blockIdx.x / T::CLUSTER, ahead = 0;", "Producer::step, FirstBarrier"),
    tie(RING, "void produce(", "if (p.weights_ready && id < p.items)", "Producer::step, FirstBarrier"),
    tie(RING, "void produce(", "ahead < min(item.steps, T::STAGES); ++ahead", "Producer::step, Ahead"),
    tie(RING, "void produce(", "ptx::mbarrier_arrive_expect_tx(ring.full(ahead), T::STAGE_BYTES);", "Producer::step, Ahead"),
    tie(RING, "void produce(", "ptx::griddepcontrol_wait(); unsigned at = 0;", "producer::At::GridWait"),
    tie(RING, "void produce(", "for (; id < p.items; id += gridDim.x / T::CLUSTER)", "Producer::step, Fill"),
    tie(RING, "void produce(", "const unsigned s = at % T::STAGES; if (at < ahead)", "Producer::step, Fill"),
    tie(RING, "void produce(", "ptx::mbarrier_wait(ring.empty(s), at / T::STAGES % 2 ^ 1); ptx::mbarrier_arrive_expect_tx(ring.full(s), T::STAGE_BYTES);", "Producer::empty_parity, producer::expect"),
    tie(MAIN, "void consume(", "for (unsigned id = blockIdx.x / T::CLUSTER; id < p.items; id += gridDim.x / T::CLUSTER, ++turn)", "Consumer::next_item"),
    tie(MAIN, "void consume(", "if (!T::PINGPONG || turn % 2 == consumer)", "Consumer::is_mine"),
    tie(MAIN, "void consume(", "ptx::mbarrier_wait(ring.turn(consumer), turn / 2 % 2 ^ (consumer == 0));", "Consumer::turn_parity"),
    tie(MAIN, "void consume(", "} at += item.steps; }", "Consumer::step, Item"),
    tie(MAIN, "void multiply(", "ptx::mbarrier_wait(ring.full(s), at / T::STAGES % 2);", "Consumer::can_step, Full"),
    tie(MAIN, "void multiply(", "ptx::wgmma_commit();", "Consumer::begin_stage"),
    tie(MAIN, "void multiply(", "ptx::wgmma_wait<1>(); if (step > 0) { release<T>(ring, (at - 1) % T::STAGES); }", "Consumer::release"),
    tie(MAIN, "void multiply(", "ptx::mbarrier_arrive(ring.turn(1 - consumer));", "Consumer::step, PassTurn"),
    tie(MAIN, "void multiply(", "ptx::wgmma_wait<0>(); release<T>(ring, (at - 1) % T::STAGES);", "Consumer::release"),
    tie(RING, "void release(", "if (thread < T::CLUSTER) { ptx::mbarrier_arrive_cluster(ring.empty(s), thread); }", "Consumer::release"),
    tie(FINISH, "bool is_last(", "*flag = atomicAdd(arrived, 1u);", "finish::count"),
    tie(FINISH, "bool is_last(", "const bool last = *flag == splits - 1;", "finish::count"),
    tie(FINISH, "void finish_item(", "finish_strips<T>(p, share, plain,", "finish::At::Add"),
    tie(FINISH, "void finish_item(", "p.arrived + item.tile * T::READERS + half;", "Config::share"),
    tie(FINISH, "void finish_item(", "*arrived = 0;", "finish::At::Zero"),
];

pub fn source(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../cuda")
        .join(file);
    read(&path)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Comments out, and white space made alike.
fn plain(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""));
    lines
        .flat_map(str::split_whitespace)
        .collect::<Vec<_>>()
        .join(" ")
}

impl Tie {
    /// Whether the function still has the statement; the error tells what to look at.
    pub fn check(&self, source: &str) -> Result<(), String> {
        let text = plain(source);
        let function = text
            .find(self.function)
            .map(|at| body(&text[at..]))
            .ok_or_else(|| format!("cuda/{} has no '{}'", self.file, self.function))?;
        if function.contains(&plain(self.statement)) {
            return Ok(());
        }
        Err(format!(
            "'{}' of cuda/{} no longer says '{}': make {} of the model what it says now, and then this line of kernel.rs",
            self.function, self.file, self.statement, self.step
        ))
    }
}

/// From a function's name to the brace that closes it.
fn body(text: &str) -> &str {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return &text[..=at],
            '}' => depth -= 1,
            _ => {}
        }
    }
    text
}

/// All `ENTRY(name, TALL, WIDE, STAGES, CLUSTER, PINGPONG, SWAPPED, ...)`.
pub fn instances() -> Vec<Instance> {
    let source = source(MAIN);
    let entries = source
        .lines()
        .filter_map(|line| line.strip_prefix("ENTRY("));
    entries.map(instance).collect()
}

fn instance(entry: &str) -> Instance {
    let fields: Vec<&str> = entry.split([',', ')']).map(str::trim).collect();
    let number = |n: usize| {
        let field = fields[n];
        field
            .parse::<u32>()
            .unwrap_or_else(|e| panic!("ENTRY({entry}: '{field}': {e}"))
    };
    let flag = |n: usize| match fields[n] {
        "true" => true,
        "false" => false,
        other => panic!("ENTRY({entry}: '{other}' is neither true nor false"),
    };
    Instance {
        name: fields[0].to_owned(),
        stages: number(3),
        cluster: u8::try_from(number(4)).expect("blocks of a cluster"),
        pingpong: flag(5),
        swapped: flag(6),
    }
}
