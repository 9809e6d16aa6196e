//! The ranks of one unique id, and the operations that they do together, one after the other.
//!
//! ```text
//! rank 0   --0--1--2--     each rank's operations are numbered as they run; operation n of one rank meets operation n of
//! rank 1   --0--1--2--     every other, and all must be the same call. The last rank to come computes, the others wait.
//! ```
use std::collections::HashMap;
use std::fmt;
use std::sync::{Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::status::{Refusal, Result, Status};
use crate::driver::state::{lock, number_from_env};

/// Element types that are emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    I8,
    U8,
    I32,
    U32,
    F16,
    F32,
    BF16,
}

impl Type {
    /// Of `ncclDataType_t`.
    pub fn new(code: u32) -> Result<Self> {
        Ok(match code {
            0 => Type::I8,
            1 => Type::U8,
            2 => Type::I32,
            3 => Type::U32,
            6 => Type::F16,
            7 => Type::F32,
            9 => Type::BF16,
            _ => {
                let why = format!("ncclDataType_t {code} is none, or not emulated");
                return Err(Status::INVALID_ARGUMENT.because(why));
            }
        })
    }

    pub fn bytes(self) -> usize {
        match self {
            Type::I8 | Type::U8 => 1,
            Type::F16 | Type::BF16 => 2,
            Type::I32 | Type::U32 | Type::F32 => 4,
        }
    }
}

/// Reductions that are emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    Sum,
    Max,
}

/// What a rank calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    AllReduce(usize, Type, Reduction),
    /// Elements of one rank.
    AllGather(usize, Type),
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::AllReduce(count, of, by) => {
                write!(f, "ncclAllReduce of {count} {of:?} by {by:?}")
            }
            Call::AllGather(count, of) => write!(f, "ncclAllGather of {count} {of:?}"),
        }
    }
}

/// One operation under way.
struct Round {
    first: (usize, Call),
    parts: Vec<Option<Vec<u8>>>,
    outcome: Option<std::result::Result<Vec<u8>, (Status, String)>>,
    told: usize,
}

#[derive(Default)]
struct State {
    /// The device of each rank, once it has come.
    devices: Vec<Option<i32>>,
    rounds: HashMap<u64, Round>,
    /// Ranks that were destroyed or aborted, and how.
    gone: Vec<(usize, &'static str)>,
    broken: Option<(Status, String)>,
}

/// The ranks of one unique id.
pub struct World {
    pub ranks: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// How long a rank waits for the others: `IMMA_FAKE_NCCL_MS`, 20 s by default.
fn patience() -> Duration {
    static MILLISECONDS: OnceLock<u64> = OnceLock::new();
    let read = || number_from_env("IMMA_FAKE_NCCL_MS").ok().flatten();
    Duration::from_millis(*MILLISECONDS.get_or_init(|| read().unwrap_or(20_000)))
}

impl World {
    pub fn new(ranks: usize) -> Self {
        World {
            ranks,
            state: Mutex::new(State {
                devices: vec![None; ranks],
                ..State::default()
            }),
            changed: Condvar::new(),
        }
    }

    /// A rank comes, and waits for all others.
    pub fn enter(&self, ranks: usize, rank: usize, device: i32) -> Result {
        if ranks != self.ranks {
            let why = format!(
                "rank {rank} says {ranks} ranks, others of this id {}",
                self.ranks
            );
            return Err(self.break_with(Status::INVALID_USAGE, why));
        }
        let mut state = lock(&self.state);
        let twin = state.devices.iter().position(|d| *d == Some(device));
        if state.devices[rank].is_some() || twin.is_some() {
            let why = match twin {
                Some(twin) => format!("ranks {twin} and {rank} are both on device {device}"),
                None => format!("two callers are rank {rank}"),
            };
            drop(state);
            return Err(self.break_with(Status::INVALID_USAGE, why));
        }
        state.devices[rank] = Some(device);
        self.changed.notify_all();
        let until = Instant::now() + patience();
        loop {
            let missing: Vec<_> = (0..self.ranks)
                .filter(|r| state.devices[*r].is_none())
                .collect();
            if missing.is_empty() {
                // Another rank may have gone on, and wrong, before this one woke up.
                return Ok(());
            }
            if let Some((status, why)) = &state.broken {
                return Err(status.because(why));
            }
            let now = Instant::now();
            if now >= until {
                drop(state);
                let why = format!("ranks {missing:?} never came to ncclCommInitRank");
                return Err(self.break_with(Status::SYSTEM_ERROR, why));
            }
            let waited = self.changed.wait_timeout(state, until - now);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Ends all waits, now and later, with this reason.
    fn break_with(&self, status: Status, why: String) -> Refusal {
        let mut state = lock(&self.state);
        state.broken.get_or_insert((status, why.clone()));
        self.changed.notify_all();
        status.because(why)
    }

    /// A rank goes.
    pub fn leave(&self, rank: usize, how: &'static str) {
        lock(&self.state).gone.push((rank, how));
        self.changed.notify_all();
    }

    /// Why nothing works any more, if so.
    pub fn broken(&self) -> Option<Status> {
        lock(&self.state).broken.as_ref().map(|(status, _)| *status)
    }

    /// Operation `turn` of a rank, which brings `part`; what comes of it.
    pub fn join(&self, turn: u64, rank: usize, call: Call, part: Vec<u8>) -> Result<Vec<u8>> {
        let mut state = lock(&self.state);
        let ranks = self.ranks;
        let round = state.rounds.entry(turn).or_insert_with(|| Round {
            first: (rank, call),
            parts: vec![None; ranks],
            outcome: None,
            told: 0,
        });
        let (first, other) = round.first;
        round.parts[rank] = Some(part);
        if other != call {
            let why =
                format!("operation {turn} of rank {first} is {other}, of rank {rank} it is {call}");
            round.outcome = Some(Err((Status::INVALID_USAGE, why)));
        } else if round.outcome.is_none() && round.parts.iter().all(Option::is_some) {
            let parts: Vec<_> = round.parts.iter_mut().filter_map(Option::take).collect();
            round.outcome = Some(Ok(outcome(call, parts)));
        }
        self.changed.notify_all();
        let until = Instant::now() + patience();
        loop {
            if let Some(told) = tell(&mut state, turn, ranks) {
                return told.map_err(|(status, why)| {
                    drop(state);
                    self.break_with(status, why)
                });
            }
            if let Some((status, why)) = &state.broken {
                return Err(status.because(why));
            }
            let here = |r: &usize| state.rounds[&turn].parts[*r].is_some();
            let missing: Vec<_> = (0..ranks).filter(|r| !here(r)).collect();
            let gone = state
                .gone
                .iter()
                .find(|(r, _)| missing.contains(r))
                .copied();
            let now = Instant::now();
            let (status, why) = match gone {
                Some((gone, how)) => {
                    let why = format!("rank {gone} {how} while rank {rank} waits for it in {call}");
                    (Status::REMOTE_ERROR, why)
                }
                None if now >= until => {
                    let why = format!(
                        "deadlock: rank {rank} waits in {call}, operation {turn}, to which ranks {missing:?} never came"
                    );
                    (Status::SYSTEM_ERROR, why)
                }
                None => {
                    let waited = self.changed.wait_timeout(state, until - now);
                    state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
                    continue;
                }
            };
            drop(state);
            return Err(self.break_with(status, why));
        }
    }
}

type Outcome = std::result::Result<Vec<u8>, (Status, String)>;

/// What came of an operation; the last rank that asks clears it away.
fn tell(state: &mut State, turn: u64, ranks: usize) -> Option<Outcome> {
    let round = state.rounds.get_mut(&turn)?;
    let outcome = round.outcome.clone()?;
    round.told += 1;
    if round.told == ranks {
        state.rounds.remove(&turn);
    }
    Some(outcome)
}

fn outcome(call: Call, parts: Vec<Vec<u8>>) -> Vec<u8> {
    match call {
        Call::AllGather(..) => parts.concat(),
        Call::AllReduce(_, of, by) => {
            let mut parts = parts.into_iter();
            let mut total = parts.next().unwrap_or_default();
            for part in parts {
                let pairs = total.chunks_mut(of.bytes()).zip(part.chunks(of.bytes()));
                pairs.for_each(|(a, b)| reduce(of, by, a, b));
            }
            total
        }
    }
}

/// Integers alone: what order floats are added in is the library's affair, and nothing here may lean on it.
fn reduce(of: Type, by: Reduction, a: &mut [u8], b: &[u8]) {
    let word = |x: &[u8]| u32::from_le_bytes([x[0], x[1], x[2], x[3]]);
    match (of, by) {
        (Type::I32 | Type::U32, Reduction::Sum) => {
            let sum = word(a).wrapping_add(word(b));
            a.copy_from_slice(&sum.to_le_bytes());
        }
        (Type::U32, Reduction::Max) => {
            let max = word(a).max(word(b));
            a.copy_from_slice(&max.to_le_bytes());
        }
        (Type::I32, Reduction::Max) => {
            let max = (word(a) as i32).max(word(b) as i32);
            a.copy_from_slice(&max.to_le_bytes());
        }
        // Refused before.
        _ => {}
    }
}
