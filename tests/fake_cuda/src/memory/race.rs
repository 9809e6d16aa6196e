//! Who touched a shared word last, and what orders two accesses.
//!
//! Every warp has a clock that advances when it arrives somewhere (a barrier, an mbarrier), and knows of every
//! other actor the clock value up to which that actor's accesses happened before its own next access (a vector
//! clock). An access races with an earlier one of another actor that it does not know of. Lanes of one
//! warp are checked against each other in `lanes`.
//!
//! Actors are warps, and what works for them asynchronously: the wgmma operations of a warpgroup (clock: the
//! group number from 1) and the copies that complete on one mbarrier (clock: the phase number from 1). A warp
//! learns of these by its wait. Accesses of asynchronous actors go through the async proxy: they see what a warp
//! wrote only if a `fence.proxy.async` lies between, which a second vector clock follows.

use super::lanes::Lane;

/// Most warps a block can have.
pub const MAX_WARPS: usize = 32;
/// Most warps and warpgroups of a cluster that are followed: the readers of a word are bits of a number.
pub const MAX_READERS: usize = 128;

/// A warp of the cluster, or something asynchronous.
pub type Actor = u16;

/// What one warp knows of all actors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Knowledge {
    seen: Vec<u32>,
    /// The part of `seen` that is visible to the async proxy.
    fenced: Vec<u32>,
}

fn raise(list: &mut Vec<u32>, at: usize, to: u32) {
    if list.len() <= at {
        list.resize(at + 1, 0);
    }
    list[at] = list[at].max(to);
}

fn join_lists(into: &mut Vec<u32>, other: &[u32]) {
    if into.len() < other.len() {
        into.resize(other.len(), 0);
    }
    for (a, b) in into.iter_mut().zip(other) {
        *a = (*a).max(*b);
    }
}

impl Knowledge {
    /// Adds what `other` knows.
    pub fn join(&mut self, other: &Knowledge) {
        join_lists(&mut self.seen, &other.seen);
        join_lists(&mut self.fenced, &other.fenced);
    }

    fn of(&self, actor: Actor) -> u32 {
        self.seen.get(usize::from(actor)).copied().unwrap_or(0)
    }
}

/// Who makes an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// The warp whose knowledge counts.
    pub warp: usize,
    /// Under whose name the access is remembered, and with which clock.
    pub actor: Actor,
    /// The actor's clock.
    pub clock: u32,
    /// Through the async proxy.
    pub asynchronous: bool,
    /// Which lane of the warp; none where the warp acts as one.
    pub lane: Option<Lane>,
}

/// The clocks of a cluster's warps.
pub struct Clocks {
    own: Vec<u32>,
    seen: Vec<Knowledge>,
    groups: usize,
    /// How often the lanes of each warp came together, from 1.
    epochs: Vec<u32>,
}

impl Clocks {
    /// Clocks for `warps` warps that know nothing of each other, in `groups` warpgroups.
    pub fn new(warps: usize, groups: usize) -> Self {
        Clocks {
            own: vec![1; warps],
            seen: vec![Knowledge::default(); warps],
            groups,
            epochs: vec![1; warps],
        }
    }

    /// The wgmma operations of warpgroup number `n` of the cluster.
    pub fn warpgroup(&self, n: usize) -> Actor {
        (self.own.len() + n) as Actor
    }

    /// The copies of mbarrier number `n` of the cluster.
    pub fn mbarrier(&self, n: usize) -> Actor {
        (self.own.len() + self.groups + n) as Actor
    }

    /// A warp that accesses memory itself.
    pub fn generic(&self, warp: usize) -> Who {
        Who {
            warp,
            actor: warp as Actor,
            clock: self.own[warp],
            asynchronous: false,
            lane: None,
        }
    }

    /// The lanes of `warp` see what each of them did so far.
    pub fn converge(&mut self, warp: usize) {
        self.epochs[warp] += 1;
    }

    /// Where `warp` stands between two such times.
    pub fn epoch(&self, warp: usize) -> u32 {
        self.epochs[warp]
    }

    /// What `warp` tells the others when it arrives somewhere; later accesses are not covered by it.
    pub fn release(&mut self, warp: usize) -> Knowledge {
        let mut told = self.seen[warp].clone();
        raise(&mut told.seen, warp, self.own[warp]);
        self.own[warp] += 1;
        told
    }

    /// Of what is known, the asynchronous operations that are complete: another block may rely on that without memory
    /// being ordered between the two, as nothing of them is left to happen. Accesses of warps are not in it.
    pub fn completed(&self, known: &Knowledge) -> Knowledge {
        let mut seen = known.seen.clone();
        let warps = self.own.len().min(seen.len());
        seen[..warps].fill(0);
        Knowledge {
            seen,
            fenced: Vec::new(),
        }
    }

    /// `warp` learns what others told.
    pub fn acquire(&mut self, warp: usize, told: &Knowledge) {
        self.seen[warp].join(told);
    }

    /// `warp` learns that an asynchronous actor is done up to `clock`.
    pub fn learn(&mut self, warp: usize, actor: Actor, clock: u32) {
        raise(&mut self.seen[warp].seen, actor.into(), clock);
    }

    /// `fence.proxy.async`: what `warp` knows and did becomes visible to the async proxy.
    pub fn fence_proxy(&mut self, warp: usize) {
        let own = self.own[warp];
        self.own[warp] += 1;
        let known = &mut self.seen[warp];
        join_lists(&mut known.fenced, &known.seen);
        raise(&mut known.fenced, warp, own);
    }

    /// Whether `warp` knows of an access with that clock.
    pub fn ordered(&self, earlier: Actor, clock: u32, warp: usize) -> bool {
        usize::from(earlier) == warp || self.seen[warp].of(earlier) >= clock
    }

    /// Whether `warp` ever heard of one of these warps.
    pub fn heard_of(&self, warp: usize, mut others: std::ops::Range<usize>) -> bool {
        others.any(|o| self.seen[warp].of(o as Actor) > 0)
    }

    /// Whether what `earlier` wrote, through the generic proxy or the asynchronous one, shows through that of `who`.
    fn visible(&self, earlier: Actor, clock: u32, generic: bool, who: Who) -> bool {
        let fenced = &self.seen[who.warp].fenced;
        !who.asynchronous
            || !generic
            || fenced.get(usize::from(earlier)).copied().unwrap_or(0) >= clock
    }

    fn name(&self, actor: Actor) -> String {
        let (actor, warps) = (usize::from(actor), self.own.len());
        match actor {
            _ if actor < warps => format!("warp {actor}"),
            _ if actor < warps + self.groups => {
                format!("a wgmma of warpgroup {} not waited for", actor - warps)
            }
            _ => String::from("an asynchronous copy whose mbarrier phase was not waited for"),
        }
    }
}

/// Ways to touch memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Plain read.
    Read,
    /// Plain write.
    Write,
    /// Read-modify-write; two of these never race.
    Atomic,
}

/// What is wrong with an access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Nothing orders it.
    Race(String),
    /// Ordered, but without a proxy fence.
    Proxy(String),
}

/// `read_clock` of a record whose readers have different clocks.
const MANY: u32 = u32::MAX;

#[derive(Clone, Copy, Default)]
struct Record {
    readers: u128,
    write_clock: u32,
    read_clock: u32,
    write_actor: Actor,
    write_atomic: bool,
    /// Through the generic proxy.
    write_generic: bool,
    split: bool,
}

/// The clocks of readers that differ, by word and byte (4: the whole word).
type Readers = std::collections::HashMap<(usize, u8), Vec<(Actor, u32)>>;

/// History of a shared memory: a record a 4-byte word, four records where single bytes were touched.
pub struct History {
    words: Vec<Record>,
    bytes: std::collections::HashMap<usize, [Record; 4]>,
    readers: Readers,
}

impl History {
    /// A history of `bytes` bytes nobody has touched.
    pub fn new(bytes: usize) -> Self {
        let words = vec![Record::default(); bytes.div_ceil(4)];
        History {
            words,
            bytes: Default::default(),
            readers: Default::default(),
        }
    }

    /// Calls `f` for the record of each word, or of each byte where bytes are told apart.
    fn records(
        &mut self,
        at: usize,
        len: usize,
        mut f: impl FnMut(&mut Record, &mut Readers, (usize, u8)) -> Result<(), Conflict>,
    ) -> Result<(), Conflict> {
        let mut byte = at;
        while byte < at + len {
            let word = byte / 4;
            let whole = byte.is_multiple_of(4) && at + len - byte >= 4;
            if whole && !self.words[word].split {
                f(&mut self.words[word], &mut self.readers, (word, 4))?;
                byte += 4;
                continue;
            }
            let seed = self.words[word];
            if !seed.split {
                if let Some(k) = self.readers.remove(&(word, 4)) {
                    for i in 0..4 {
                        self.readers.insert((word, i), k.clone());
                    }
                }
            }
            let four = self.bytes.entry(word).or_insert([seed; 4]);
            if !seed.split {
                *four = [seed; 4];
            }
            self.words[word].split = true;
            let key = (word, (byte % 4) as u8);
            f(&mut four[byte % 4], &mut self.readers, key)?;
            byte += 1;
        }
        Ok(())
    }

    /// Records that someone touches `len` bytes at `at`; the earlier access it conflicts with, in words.
    pub fn touch(
        &mut self,
        clocks: &Clocks,
        at: usize,
        len: usize,
        who: Who,
        how: Touch,
    ) -> Result<(), Conflict> {
        self.records(at, len, |record, many, key| {
            update(record, many, key, clocks, who, how)
        })
    }

    /// Records a write that was checked before; `generic`: through the generic proxy, as a `cp.async` writes.
    pub fn wrote(&mut self, at: usize, len: usize, actor: Actor, clock: u32, generic: bool) {
        let _ = self.records(at, len, |record, _, _| {
            (record.write_actor, record.write_clock) = (actor, clock);
            record.write_generic = generic;
            Ok(())
        });
    }
}

fn update(
    r: &mut Record,
    many: &mut Readers,
    key: (usize, u8),
    clocks: &Clocks,
    who: Who,
    how: Touch,
) -> Result<(), Conflict> {
    let by = || {
        let through = if who.asynchronous {
            " for an asynchronous operation"
        } else {
            ""
        };
        format!("{how:?} by warp {}{through}", who.warp)
    };
    let both_atomic = how == Touch::Atomic && r.write_atomic;
    if r.write_clock != 0 && !both_atomic {
        if !clocks.ordered(r.write_actor, r.write_clock, who.warp) {
            return Err(Conflict::Race(format!(
                "{} after a write by {} with no barrier between",
                by(),
                clocks.name(r.write_actor)
            )));
        }
        if !clocks.visible(r.write_actor, r.write_clock, r.write_generic, who) {
            let writer = match usize::from(r.write_actor) < clocks.own.len() {
                true => format!("warp {}", r.write_actor),
                false => String::from("a cp.async"),
            };
            return Err(Conflict::Proxy(format!(
                "{} after a write by {writer} without fence.proxy.async between",
                by(),
            )));
        }
    }
    if how == Touch::Read {
        read(r, many, key, clocks, who);
        return Ok(());
    }
    let mut rest = r.readers;
    while rest != 0 {
        let u = rest.trailing_zeros() as Actor;
        rest &= rest - 1;
        let clock = match r.read_clock {
            MANY => clock_of(many, key, u),
            clock => clock,
        };
        if !clocks.ordered(u, clock, who.warp) {
            return Err(Conflict::Race(format!(
                "{} after a read by {} with no barrier between",
                by(),
                clocks.name(u)
            )));
        }
    }
    if r.read_clock == MANY {
        many.remove(&key);
    }
    *r = Record {
        write_clock: who.clock,
        write_actor: who.actor,
        write_atomic: how == Touch::Atomic,
        write_generic: !who.asynchronous,
        ..Record::default()
    };
    Ok(())
}

fn clock_of(many: &Readers, key: (usize, u8), actor: Actor) -> u32 {
    let list = many.get(&key).map_or(&[][..], Vec::as_slice);
    list.iter()
        .find(|(a, _)| *a == actor)
        .map_or(0, |(_, c)| *c)
}

fn read(r: &mut Record, many: &mut Readers, key: (usize, u8), clocks: &Clocks, who: Who) {
    let (bit, own) = (1u128 << who.actor, who.clock);
    if r.read_clock == MANY {
        r.readers |= bit;
        let list = many.entry(key).or_default();
        match list.iter_mut().find(|(a, _)| *a == who.actor) {
            Some(entry) => entry.1 = own,
            None => list.push((who.actor, own)),
        }
        return;
    }
    if r.readers & !bit != 0 && r.read_clock != own {
        // Readers that this one already knows of need not be remembered.
        let mut rest = r.readers & !bit;
        let mut kept = Vec::new();
        while rest != 0 {
            let u = rest.trailing_zeros() as Actor;
            rest &= rest - 1;
            // (Whoever waits for an asynchronous reader learns of it alone.)
            if !who.asynchronous && clocks.ordered(u, r.read_clock, who.warp) {
                r.readers &= !(1 << u);
            } else {
                kept.push((u, r.read_clock));
            }
        }
        if !kept.is_empty() {
            kept.push((who.actor, own));
            many.insert(key, kept);
            r.readers |= bit;
            r.read_clock = MANY;
            return;
        }
        r.readers = 0;
    }
    r.readers |= bit;
    r.read_clock = own;
}
