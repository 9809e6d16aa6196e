//! Who touched a shared word last, and what orders two warps.
//!
//! Every warp has a clock that advances when it arrives at a barrier, and knows of every other warp
//! the clock value up to which that warp's accesses happened before its own next access (a vector
//! clock). An access races with an earlier one of another warp that it does not know of. Lanes of one
//! warp are not checked against each other.

/// Most warps a block can have.
pub const MAX_WARPS: usize = 32;

/// What one warp knows of all warps.
pub type Knowledge = [u32; MAX_WARPS];

/// The clocks of a block's warps.
pub struct Clocks {
    own: Knowledge,
    seen: Vec<Knowledge>,
}

impl Clocks {
    /// Clocks for `warps` warps that know nothing of each other.
    pub fn new(warps: usize) -> Self {
        Clocks {
            own: [1; MAX_WARPS],
            seen: vec![[0; MAX_WARPS]; warps],
        }
    }

    /// What `warp` tells the others when it arrives somewhere; later accesses are not covered by it.
    pub fn release(&mut self, warp: usize) -> Knowledge {
        let mut told = self.seen[warp];
        told[warp] = self.own[warp];
        self.own[warp] += 1;
        told
    }

    /// `warp` learns what others told.
    pub fn acquire(&mut self, warp: usize, told: &Knowledge) {
        join(&mut self.seen[warp], told);
    }

    fn ordered(&self, earlier: usize, clock: u32, now: usize) -> bool {
        earlier == now || self.seen[now][earlier] >= clock
    }
}

/// Adds what `other` knows to `into`.
pub fn join(into: &mut Knowledge, other: &Knowledge) {
    for (a, b) in into.iter_mut().zip(other) {
        *a = (*a).max(*b);
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

/// `read_clock` of a record whose readers have different clocks.
const MANY: u32 = u32::MAX;

#[derive(Clone, Copy, Default)]
struct Record {
    write_clock: u32,
    write_warp: u8,
    write_atomic: bool,
    split: bool,
    read_clock: u32,
    readers: u32,
}

/// History of a shared memory: a record a 4-byte word, four records where single bytes were touched.
pub struct History {
    words: Vec<Record>,
    bytes: std::collections::HashMap<usize, [Record; 4]>,
    readers: std::collections::HashMap<(usize, u8), Knowledge>,
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

    /// Records that `warp` touches `len` bytes at `at`; the earlier access it races with, in words.
    pub fn touch(
        &mut self,
        clocks: &Clocks,
        at: usize,
        len: usize,
        warp: usize,
        how: Touch,
    ) -> Result<(), String> {
        let mut byte = at;
        while byte < at + len {
            let word = byte / 4;
            let whole = byte.is_multiple_of(4) && at + len - byte >= 4;
            if whole && !self.words[word].split {
                update(
                    &mut self.words[word],
                    &mut self.readers,
                    (word, 4),
                    clocks,
                    warp,
                    how,
                )?;
                byte += 4;
                continue;
            }
            let seed = self.words[word];
            if !seed.split {
                if let Some(k) = self.readers.remove(&(word, 4)) {
                    for i in 0..4 {
                        self.readers.insert((word, i), k);
                    }
                }
            }
            let four = self.bytes.entry(word).or_insert([seed; 4]);
            if !seed.split {
                *four = [seed; 4];
            }
            self.words[word].split = true;
            update(
                &mut four[byte % 4],
                &mut self.readers,
                (word, (byte % 4) as u8),
                clocks,
                warp,
                how,
            )?;
            byte += 1;
        }
        Ok(())
    }
}

type Readers = std::collections::HashMap<(usize, u8), Knowledge>;

fn update(
    r: &mut Record,
    many: &mut Readers,
    key: (usize, u8),
    clocks: &Clocks,
    warp: usize,
    how: Touch,
) -> Result<(), String> {
    let both_atomic = how == Touch::Atomic && r.write_atomic;
    if r.write_clock != 0
        && !both_atomic
        && !clocks.ordered(r.write_warp.into(), r.write_clock, warp)
    {
        return Err(format!(
            "{how:?} by warp {warp} after a write by warp {} with no barrier between",
            r.write_warp
        ));
    }
    if how == Touch::Read {
        read(r, many, key, clocks, warp);
        return Ok(());
    }
    let mut rest = r.readers;
    while rest != 0 {
        let u = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        let clock = if r.read_clock == MANY {
            many[&key][u]
        } else {
            r.read_clock
        };
        if !clocks.ordered(u, clock, warp) {
            return Err(format!(
                "{how:?} by warp {warp} after a read by warp {u} with no barrier between"
            ));
        }
    }
    if r.read_clock == MANY {
        many.remove(&key);
    }
    *r = Record {
        write_clock: clocks.own[warp],
        write_warp: warp as u8,
        write_atomic: how == Touch::Atomic,
        ..Record::default()
    };
    Ok(())
}

fn read(r: &mut Record, many: &mut Readers, key: (usize, u8), clocks: &Clocks, warp: usize) {
    let (bit, own) = (1 << warp, clocks.own[warp]);
    if r.read_clock == MANY {
        r.readers |= bit;
        many.entry(key).or_insert([0; MAX_WARPS])[warp] = own;
        return;
    }
    if r.readers & !bit != 0 && r.read_clock != own {
        // Readers that this one already knows of need not be remembered.
        let before = r.readers;
        for u in (0..MAX_WARPS).filter(|u| before >> u & 1 == 1) {
            if clocks.ordered(u, r.read_clock, warp) {
                r.readers &= !(1 << u);
            }
        }
        if r.readers & !bit != 0 {
            let mut all = [0; MAX_WARPS];
            (0..MAX_WARPS)
                .filter(|u| r.readers >> u & 1 == 1)
                .for_each(|u| all[u] = r.read_clock);
            all[warp] = own;
            many.insert(key, all);
            r.readers |= bit;
            r.read_clock = MANY;
            return;
        }
        r.readers = 0;
    }
    r.readers |= bit;
    r.read_clock = own;
}
