//! The tile instructions of a set of sums: two strips of rows by two panels of columns at a time, or one strip by four panels.
//!
//! ```text
//!              B0     B1                          B0    B1    B2    B3
//!        A0 |  C0     C1  |                 A0 |  C0    C1    C2    C3  |
//!        A1 |  C2     C3  |
//!   four loads for four products            for at most 16 rows: five loads for four, and each weight is read once
//! ```

use super::blocking::STEP;
use super::tiles::{Config, Tiles};
use crate::cpu::prefetch;
use std::time::Instant;

/// How far ahead of the loads weights are asked for that only one set of rows uses.
const STREAM_AHEAD: usize = 8 * STEP;

/// The operands of a set: strips and panels, from some step on.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    pub a: [*const u8; 2],
    pub b: [*const u8; 4],
    pub steps: usize,
}

impl Operands {
    /// One step on.
    #[inline(always)]
    fn advance(&mut self) {
        for at in self.a.iter_mut().chain(&mut self.b) {
            *at = at.wrapping_add(STEP);
        }
        self.steps -= 1;
    }
}

/// Room for a set of sums: rows of int32, `stride` bytes apart.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub at: *mut u8,
    pub stride: usize,
}

impl Room {
    /// Where tile `t` of a set lies: 16 rows further down for the second pair, 16 columns to the right for the second
    /// of a pair.
    #[inline(always)]
    fn tile(&self, t: usize) -> *mut u8 {
        self.at.wrapping_add(t / 2 * 16 * self.stride + t % 2 * 64)
    }
}

/// Sums in the tiles: R strips by C panels, and the room they go to.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub strips: usize,
    pub panels: usize,
    pub to: Room,
}

/// Tiles 0 to 3 hold sums, 4 and 5 activations (of one strip alone: 5 holds weights), 6 and 7 weights. Only a block of
/// one set has tiles of fewer rows; in others the last strip is computed whole.
pub(super) fn config(rows: usize) -> Config {
    let (first, second) = match rows {
        0..=16 => (rows.max(1), 16),
        17..=32 => (16, rows - 16),
        _ => (16, 16),
    };
    let third = if rows <= 16 { first } else { second };
    Config::new([first, first, third, third, first, second, 16, 16].map(|rows| (rows, 64)))
}

/// The first step of a set, whose sums start from zero or from what lies at `start`. `held` are those of the set before, of
/// the same form: each of its sums is stored right before the tile is used again, as all stores at once would wait for the last
/// product, and the next products for the stores.
///
/// # Safety
/// The strips and panels of `operands` hold its steps, and `start` and `held` are rooms of a set.
#[inline(always)]
pub(super) unsafe fn start<T: Tiles, const R: usize, const C: usize>(
    t: &mut T,
    operands: &mut Operands,
    held: Option<Room>,
    start: Option<Room>,
) {
    let Operands { a, b, steps } = *operands;
    // SAFETY: each pointer of `operands` is at a tile of 16 rows of 64 bytes where there are steps, and sums lie where the
    // caller says.
    unsafe {
        if steps == 0 || C > 2 {
            // Nothing is multiplied yet.
            exchange::<T, 0>(t, held, start);
            exchange::<T, 1>(t, held, start);
            exchange::<T, 2>(t, held, start);
            exchange::<T, 3>(t, held, start);
            return;
        }
        step::<T, R, C, true>(t, (a, b), held, start);
    }
    operands.advance();
}

/// One step of R strips by C panels, at most two of each. The first exchanges each sum right before its tile is used.
///
/// # Safety
/// Each pointer is at a tile of 16 rows of 64 bytes; `held` and `start` are rooms of a set.
#[inline(always)]
unsafe fn step<T: Tiles, const R: usize, const C: usize, const FIRST: bool>(
    t: &mut T,
    (a, b): ([*const u8; 2], [*const u8; 4]),
    held: Option<Room>,
    start: Option<Room>,
) {
    // SAFETY: the caller's.
    unsafe {
        t.stream::<6>(b[0], 64);
        t.load::<4>(a[0], 64);
        if FIRST {
            exchange::<T, 0>(t, held, start);
        }
        t.dot::<0, 4, 6>();
        if R > 1 {
            t.load::<5>(a[1], 64);
            if FIRST {
                exchange::<T, 2>(t, held, start);
            }
            t.dot::<2, 5, 6>();
        }
        if C > 1 {
            t.stream::<7>(b[1], 64);
            if FIRST {
                exchange::<T, 1>(t, held, start);
            }
            t.dot::<1, 4, 7>();
            if R > 1 {
                if FIRST {
                    exchange::<T, 3>(t, held, start);
                }
                t.dot::<3, 5, 7>();
            }
        }
    }
}

/// Stores the sums that tile `C` holds, and makes it the start of others.
///
/// # Safety
/// Both are rooms of a set.
#[inline(always)]
unsafe fn exchange<T: Tiles, const C: usize>(t: &mut T, held: Option<Room>, start: Option<Room>) {
    // SAFETY: the caller's.
    unsafe {
        if let Some(to) = held {
            t.store::<C>(to.tile(C), to.stride);
        }
        match start {
            None => t.zero::<C>(),
            Some(from) => t.load::<C>(from.tile(C), from.stride),
        }
    }
}

/// Stores what the tiles hold.
///
/// # Safety
/// It goes to the room of a set.
#[inline(always)]
pub(super) unsafe fn release<T: Tiles>(t: &mut T, held: Held) {
    let Held { strips, panels, to } = held;
    // SAFETY: tile t has at most 16 rows of 16 sums of the room.
    unsafe {
        t.store::<0>(to.tile(0), to.stride);
        if panels > 1 {
            t.store::<1>(to.tile(1), to.stride);
        }
        if strips > 1 || panels > 2 {
            t.store::<2>(to.tile(2), to.stride);
        }
        if strips > 1 && panels > 1 || panels > 3 {
            t.store::<3>(to.tile(3), to.stride);
        }
    }
}

/// `now` steps of R strips by C panels. Weights stream past the activations in the first level; `far` asks for them ahead.
///
/// # Safety
/// The strips and panels hold that many more steps.
#[inline(always)]
pub(super) unsafe fn advance<T: Tiles, const R: usize, const C: usize>(
    t: &mut T,
    operands: &mut Operands,
    now: usize,
    far: bool,
) {
    for _ in 0..now {
        let Operands { a, b, .. } = *operands;
        if far {
            for b in &b[..C] {
                for line in 0..STEP / 64 {
                    prefetch::first_level(b.wrapping_add(STREAM_AHEAD + 64 * line));
                }
            }
        }
        // SAFETY: the caller's: each pointer is at a tile of 16 rows of 64 bytes.
        unsafe {
            if C <= 2 {
                step::<T, R, C, false>(t, (a, b), None, None);
            } else {
                t.load::<4>(a[0], 64);
                t.load::<5>(b[0], 64);
                t.dot::<0, 4, 5>();
                t.load::<6>(b[1], 64);
                t.dot::<1, 4, 6>();
                t.load::<7>(b[2], 64);
                t.dot::<2, 4, 7>();
                if C > 3 {
                    t.load::<5>(b[3], 64);
                    t.dot::<3, 4, 5>();
                }
            }
        }
        operands.advance();
    }
}

/// Operations a second of `dot` alone: four sums in turn, whole tiles, nothing loaded.
pub(crate) fn rate<T: Tiles>(_: T::Kernel, seconds: f64) -> f64 {
    const ROUND: usize = 1 << 12;
    let tile = [0x5au8; STEP];
    let mut best = 0.0f64;
    let start = Instant::now();
    // SAFETY: the kernel is the proof. The tiles read are whole, 16 rows of 64 bytes.
    let mut tiles = unsafe {
        let mut tiles = T::configure(&config(64));
        tiles.load::<4>(tile.as_ptr(), 64);
        tiles.load::<5>(tile.as_ptr(), 64);
        tiles.load::<6>(tile.as_ptr(), 64);
        tiles.load::<7>(tile.as_ptr(), 64);
        tiles
    };
    loop {
        let round = Instant::now();
        for _ in 0..ROUND {
            tiles.dot::<0, 4, 6>();
            tiles.dot::<1, 4, 7>();
            tiles.dot::<2, 5, 6>();
            tiles.dot::<3, 5, 7>();
        }
        let mut sums = [0u8; STEP];
        // SAFETY: the place is a whole tile. Storing waits for the products.
        unsafe { tiles.store::<3>(sums.as_mut_ptr(), 64) };
        std::hint::black_box(sums);
        best = best.max((ROUND * 4 * 2 * 16 * 16 * 64) as f64 / round.elapsed().as_secs_f64());
        if start.elapsed().as_secs_f64() >= seconds {
            return best;
        }
    }
}
