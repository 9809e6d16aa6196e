//! Ranks of one process, one a thread, and what they do together.

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a rank waits for the others unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(300);

/// One rank's place among the ranks that work on a layer together: threads of this process.
///
/// Every rank calls the same operations in the same order, as with MPI or NCCL; their numbers are integers, so that a result
/// does not depend on the order in which ranks come. What goes wrong is an [`Error::Group`] on all ranks, never a hang:
///
/// * two ranks that call different operations, or the same one with different counts: both are named with what they called;
/// * a rank that [fails](Self::fail) ends the others' wait with its sentence, and the group goes on;
/// * a rank that drops its place (a panic, too) while others wait for it, and one that does not come within the
///   [time-out](Self::with_timeout): the group is then of no more use.
///
/// A clone is the same rank. Give each rank a thread of its own: inside a pool with fewer threads than ranks they would wait
/// for each other.
///
/// ```
/// use imma::parallel::Group;
/// let sums: Vec<i32> = std::thread::scope(|scope| {
///     let ranks: Vec<_> = Group::of_threads(3).into_iter().map(|group| {
///         scope.spawn(move || {
///             let mut sum = [group.rank() as i32 + 1];
///             group.all_reduce_sum(&mut sum).map(|()| sum[0])
///         })
///     }).collect();
///     ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<imma::Result<_>>()
/// })?;
/// assert_eq!(sums, [6, 6, 6]);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Clone)]
pub struct Group {
    member: Arc<Member>,
    timeout: Duration,
}

/// A rank; dropped with its last handle.
struct Member {
    rank: usize,
    /// Operations that this rank has begun.
    calls: Mutex<u64>,
    shared: Arc<Shared>,
}

struct Shared {
    ranks: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Operations that some rank has begun and some rank has not ended, by their number.
    rounds: HashMap<u64, Round>,
    /// Ranks that left, and how.
    gone: Vec<(usize, &'static str)>,
    /// Why the group is of no more use.
    broken: Option<String>,
}

/// One operation, while it is under way.
struct Round {
    /// The first rank that came, and what it called.
    first: (usize, Call),
    arrived: Vec<bool>,
    /// What came in so far.
    total: Total,
    /// What all ranks are told.
    outcome: Option<Result<Arc<Total>, String>>,
    /// Ranks that were told.
    told: usize,
}

/// An operation, as a rank calls it.
#[derive(Debug, Clone, PartialEq)]
enum Call {
    Max(usize),
    Sum(usize),
    Broadcast {
        from: usize,
        count: usize,
    },
    Gather,
    /// The rank can't go on.
    Failed(String),
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::Max(count) => write!(f, "an all-reduce (max) of {count} u32"),
            Call::Sum(count) => write!(f, "an all-reduce (sum) of {count} i32"),
            Call::Broadcast { from, count } => {
                write!(f, "a broadcast of {count} u32 from rank {from}")
            }
            Call::Gather => f.write_str("an all-gather"),
            Call::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

/// What an operation makes of the ranks' parts. Sums of i32 wrap, so that they are sums of u32.
enum Total {
    Words(Vec<u32>),
    Parts(Vec<Vec<u8>>),
}

impl Group {
    /// The places of `ranks` threads, in order.
    pub fn of_threads(ranks: usize) -> Vec<Group> {
        let shared = Arc::new(Shared {
            ranks,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let member = |rank| Member {
            rank,
            calls: Mutex::new(0),
            shared: shared.clone(),
        };
        let place = |rank| Group {
            member: Arc::new(member(rank)),
            timeout: PATIENCE,
        };
        (0..ranks).map(place).collect()
    }

    /// The same place with another bound on the wait for other ranks; five minutes by default.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Group { timeout, ..self }
    }

    /// Which rank this is.
    pub fn rank(&self) -> usize {
        self.member.rank
    }

    /// How many ranks there are.
    pub fn ranks(&self) -> usize {
        self.member.shared.ranks
    }

    /// The maximum over the ranks, element by element.
    ///
    /// # Errors
    /// [`Error::Group`], as the [type](Self) says.
    pub fn all_reduce_max(&self, values: &mut [u32]) -> Result<()> {
        let call = Call::Max(values.len());
        let total = self.join(call, Total::Words(values.to_vec()))?;
        values.copy_from_slice(total.words());
        Ok(())
    }

    /// The sum over the ranks, element by element; it wraps.
    ///
    /// # Errors
    /// [`Error::Group`], as the [type](Self) says.
    pub fn all_reduce_sum(&self, values: &mut [i32]) -> Result<()> {
        let call = Call::Sum(values.len());
        let words = values.iter().map(|v| *v as u32).collect();
        let total = self.join(call, Total::Words(words))?;
        let sums = total.words().iter().map(|sum| *sum as i32);
        values.iter_mut().zip(sums).for_each(|(v, sum)| *v = sum);
        Ok(())
    }

    /// The values of the rank `from`, on all ranks.
    ///
    /// # Errors
    /// [`Error::Group`], as the [type](Self) says.
    pub fn broadcast(&self, from: usize, values: &mut [u32]) -> Result<()> {
        let count = values.len();
        let mine = if self.rank() == from {
            values.to_vec()
        } else {
            Vec::new()
        };
        let total = self.join(Call::Broadcast { from, count }, Total::Words(mine))?;
        match total.words() {
            // A rank that is none sent nothing.
            words if words.len() == count => values.copy_from_slice(words),
            _ => return Err(self.error(format!("a broadcast from rank {from}, which is none"))),
        }
        Ok(())
    }

    /// The bytes of every rank, in the order of ranks; lengths may differ.
    ///
    /// # Errors
    /// [`Error::Group`], as the [type](Self) says.
    pub fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut parts = vec![Vec::new(); self.ranks()];
        parts[self.rank()] = bytes.to_vec();
        match &*self.join(Call::Gather, Total::Parts(parts))? {
            Total::Parts(parts) => Ok(parts.clone()),
            Total::Words(_) => Err(self.error("an all-gather became a reduction".into())),
        }
    }

    /// Takes part in the next operation of the others as the rank that could not go on: they get `why` in their error.
    pub fn fail(&self, why: &str) {
        // What it answers is what this rank said.
        let _ = self.join(Call::Failed(why.into()), Total::Words(Vec::new()));
    }

    /// Runs `work`; the other ranks are told when it fails before it joined them.
    pub(super) fn or_fail<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<R> {
        let done = work();
        match &done {
            // What the group said, all ranks know.
            Err(Error::Group { .. }) | Ok(_) => {}
            Err(why) => self.fail(&why.to_string()),
        }
        done
    }

    pub(super) fn error(&self, what: String) -> Error {
        Error::Group {
            rank: self.rank(),
            ranks: self.ranks(),
            what,
        }
    }

    /// Takes part in this rank's next operation, and waits for what comes of it.
    fn join(&self, call: Call, part: Total) -> Result<Arc<Total>> {
        let shared = &*self.member.shared;
        let mut number = lock(&self.member.calls);
        let turn = *number;
        *number += 1;
        let mut state = lock(&shared.state);
        if let Some(why) = &state.broken {
            return Err(self.error(why.clone()));
        }
        state.arrive(shared.ranks, turn, (self.rank(), call.clone()), part);
        shared.changed.notify_all();
        let told = self.wait(state, turn, &call)?;
        told.map_err(|why| self.error(why))
    }

    /// Waits until a round has an outcome.
    fn wait(
        &self,
        mut state: MutexGuard<'_, State>,
        turn: u64,
        call: &Call,
    ) -> Result<Result<Arc<Total>, String>> {
        let shared = &*self.member.shared;
        // None: longer than a clock counts.
        let until = Instant::now().checked_add(self.timeout);
        loop {
            if let Some(outcome) = state.told(shared.ranks, turn) {
                return Ok(outcome);
            }
            if let Some(why) = &state.broken {
                return Err(self.error(why.clone()));
            }
            let missing = state.missing(turn);
            let left = state.gone.iter().find(|(rank, _)| missing.contains(rank));
            let why = if let Some((rank, how)) = left {
                format!("rank {rank} {how} while others waited for it in {call}")
            } else {
                let now = Instant::now();
                let left = until.map_or(self.timeout, |until| until.saturating_duration_since(now));
                if !left.is_zero() {
                    let waited = shared.changed.wait_timeout(state, left.min(A_DAY));
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
                let (missing, seconds) = (list(&missing), self.timeout.as_secs_f64());
                format!("{missing} did not come to {call} within {seconds} s")
            };
            state.broken = Some(why.clone());
            shared.changed.notify_all();
            return Err(self.error(why));
        }
    }
}

/// As long as a wait takes before it looks at the clock again.
const A_DAY: Duration = Duration::from_secs(86_400);

fn list(ranks: &[usize]) -> String {
    let numbers: Vec<_> = ranks.iter().map(usize::to_string).collect();
    let plural = if ranks.len() == 1 { "" } else { "s" };
    format!("rank{plural} {}", numbers.join(", "))
}

impl Total {
    fn words(&self) -> &[u32] {
        match self {
            Total::Words(words) => words,
            Total::Parts(_) => &[],
        }
    }

    /// Adds a rank's part; both are of one call.
    fn add(&mut self, call: &Call, part: Total) {
        match (self, part) {
            (Total::Words(total), Total::Words(part)) => match call {
                Call::Max(_) => {
                    let pairs = total.iter_mut().zip(part);
                    pairs.for_each(|(t, p)| *t = p.max(*t));
                }
                Call::Sum(_) => {
                    let pairs = total.iter_mut().zip(part);
                    pairs.for_each(|(t, p)| *t = t.wrapping_add(p));
                }
                // One rank brings them all.
                _ => total.extend(part),
            },
            (Total::Parts(total), Total::Parts(part)) => {
                let pairs = total.iter_mut().zip(part);
                pairs.for_each(|(t, p)| t.extend(p));
            }
            _ => {}
        }
    }
}

impl State {
    /// A rank comes to its operation of that number.
    fn arrive(&mut self, ranks: usize, turn: u64, (rank, call): (usize, Call), part: Total) {
        let failed = match &call {
            Call::Failed(why) => Some(Err(format!("rank {rank} failed: {why}"))),
            _ => None,
        };
        let round = match self.rounds.get_mut(&turn) {
            None => self.rounds.entry(turn).or_insert(Round {
                first: (rank, call),
                arrived: vec![false; ranks],
                total: part,
                outcome: failed,
                told: 0,
            }),
            Some(round) => {
                let (first, other) = &round.first;
                if round.outcome.is_some() {
                    // Decided: nothing that comes now matters.
                } else if failed.is_some() {
                    round.outcome = failed;
                } else if call != *other {
                    let what = format!(
                        "ranks {first} and {rank} do not do the same: {other} and {call}, \
                         each as operation {turn} of its rank"
                    );
                    round.outcome = Some(Err(what));
                } else {
                    round.total.add(&call, part);
                }
                round
            }
        };
        round.arrived[rank] = true;
        if round.outcome.is_none() && round.arrived.iter().all(|a| *a) {
            let total = std::mem::replace(&mut round.total, Total::Words(Vec::new()));
            round.outcome = Some(Ok(Arc::new(total)));
        }
    }

    /// What came of an operation, for one rank; the last one that asks clears it away.
    fn told(&mut self, ranks: usize, turn: u64) -> Option<Result<Arc<Total>, String>> {
        let round = self.rounds.get_mut(&turn)?;
        let outcome = round.outcome.clone()?;
        round.told += 1;
        if round.told == ranks {
            self.rounds.remove(&turn);
        }
        Some(outcome)
    }

    /// The ranks that have not come to an operation.
    fn missing(&self, turn: u64) -> Vec<usize> {
        let arrived = self.rounds.get(&turn).map_or(&[][..], |r| &r.arrived);
        let absent = arrived.iter().enumerate().filter(|(_, there)| !**there);
        absent.map(|(rank, _)| rank).collect()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let how = if std::thread::panicking() {
            "panicked"
        } else {
            "left the group"
        };
        lock(&self.shared.state).gone.push((self.rank, how));
        self.shared.changed.notify_all();
    }
}

/// A rank that panicked leaves nothing half done: every change of the state is made under one lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("rank", &self.rank())
            .field("ranks", &self.ranks())
            .field("timeout", &self.timeout)
            .finish()
    }
}
