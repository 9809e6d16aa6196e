//! The loops over tiles: two strips of rows by two panels of columns at a time, or one strip by four panels.
//!
//! ```text
//!              B0     B1                          B0    B1    B2    B3
//!        A0 |  C0     C1  |                 A0 |  C0    C1    C2    C3  |
//!        A1 |  C2     C3  |
//!   four loads for four products            for at most 16 rows: five loads for four, and each weight is read once
//! ```
//!
//! While one set of sums is computed, the set before it is finished: the vector units are idle otherwise.

use super::tiles::{Config, Tiles};
use crate::cpu::aligned::AlignedBytes;
use crate::cpu::caches::caches;
use crate::cpu::engine::Place;
use crate::cpu::kernel::{Kernel, Trailing, ACC};
use crate::cpu::lhs::{LhsBlock, LhsPanel};
use crate::cpu::prefetch;
use crate::cpu::store::{finish_tile, Output};
use crate::epilogue::Tile;
use std::cell::RefCell;
use std::time::Instant;

/// Bytes of a tile, and of a strip or a panel a step.
const STEP: usize = 1024;
/// Parts of a set of sums that are finished at a time: eight rows by two panels.
const PARTS: usize = 4;
const PART_ROWS: usize = 8;
/// Columns of a half of a set: two panels.
const WIDTH: usize = 32;
/// Sums of a half: 16 rows.
const HALF: usize = 16 * WIDTH;
/// How far ahead of the loads weights are asked for that only one set of rows uses.
const STREAM_AHEAD: usize = 8 * STEP;

/// What a thread keeps between calls.
const KEEP_BYTES: usize = 1 << 20;

thread_local! {
    static PARTIAL: RefCell<AlignedBytes> = RefCell::default();
}

/// Two sets of sums in turn; a set is two halves of 16 rows by two panels.
#[repr(align(64))]
struct Sums([[i32; 2 * HALF]; 2]);

/// Where a half of a set belongs: rows of the block and columns after the first panel's.
#[derive(Clone, Copy, Default)]
struct Half {
    row: usize,
    rows: usize,
    col: usize,
    cols: usize,
}

/// A set of sums that becomes output: nothing when both halves are empty.
#[derive(Clone, Copy, Default)]
struct Set {
    halves: [Half; 2],
    turn: usize,
}

/// The operands of a set: strips and panels, from some step on.
#[derive(Clone, Copy)]
struct Operands {
    a: [*const u8; 2],
    b: [*const u8; 4],
    steps: usize,
}

/// Where the sums of a set start from: zero, or what is there.
type Start = Option<*const i32>;

/// Multiplies a block by panels.
///
/// # Safety
/// `kernel` is [`Tiles::proof`]. No other thread reads or writes these rows and columns of the output at the same time.
pub(crate) unsafe fn run<T: Tiles, O: Output>(
    kernel: T::Kernel,
    block: &LhsBlock,
    weights: &[u8],
    place: Place<'_, '_, O>,
) {
    let mut partial = PARTIAL.take();
    let blocking = Blocking::new(block.rows(), block.groups() / 16, place.cols);
    partial.resize(blocking.partial_bytes());
    // SAFETY: the caller's.
    unsafe { blocked::<T, O>(kernel, block, weights, place, blocking, &mut partial) };
    if partial.capacity_bytes() <= KEEP_BYTES {
        PARTIAL.set(partial);
    }
}

/// In which order sets are computed.
///
/// ```text
///   for each run of columns                    one pair of panels, or as many as their sums fit the second level
///     for each block of K                      a pair's share of it stays in the first level
///       for each pair of panels of the run
///         for each panel of rows               whose share of K comes from the second level
/// ```
///
/// With several blocks of K, the sums so far lie in memory between them: exact in any order.
#[derive(Clone, Copy)]
struct Blocking {
    /// Steps of K, and of a block of it.
    steps: usize,
    block: usize,
    /// Groups of panels that are multiplied at a time: all of them, and those of a run.
    groups: usize,
    run: usize,
    /// Panels of rows.
    panels: usize,
    /// Panels of weights a group.
    wide: usize,
}

impl Blocking {
    fn new(rows: usize, steps: usize, cols: usize) -> Self {
        let caches = caches();
        // One strip alone takes four panels at a time.
        let wide = if rows <= 16 { 4 } else { 2 };
        let panels = rows.div_ceil(WIDTH);
        let groups = cols.div_ceil(wide * 16);
        let whole = Blocking {
            steps,
            block: steps,
            groups,
            run: 1,
            panels,
            wide,
        };
        // A pair's share takes up to two thirds of the first level; what streams past it is marked as such.
        let most = (caches.first * 2 / 3 / (2 * STEP)).max(8);
        if panels == 1 || steps <= most + most / 4 {
            return whole;
        }
        let blocks = steps.div_ceil(most);
        let resident = rows * steps * 64 <= caches.second * 5 / 8;
        let run = if resident {
            1
        } else {
            caches.second / 2 / (panels * 2 * HALF * 4)
        };
        Blocking {
            block: steps.div_ceil(blocks),
            run: run.clamp(1, groups.max(1)),
            ..whole
        }
    }

    fn partial_bytes(&self) -> usize {
        if self.block >= self.steps {
            return 0;
        }
        self.run * self.panels * 2 * HALF * 4
    }

    /// Groups of panels and first steps in order, each group with its place in the run.
    fn order(self) -> impl Iterator<Item = (usize, usize, usize)> {
        let Blocking {
            steps,
            block,
            groups,
            run,
            ..
        } = self;
        (0..groups).step_by(run).flat_map(move |first| {
            (0..steps.max(1))
                .step_by(block.max(1))
                .flat_map(move |step| {
                    let run = first..(first + run).min(groups);
                    run.map(move |group| (group, group - first, step))
                })
        })
    }
}

/// # Safety
/// As [`run`]; `partial` has the bytes of `blocking`.
unsafe fn blocked<T: Tiles, O: Output>(
    kernel: T::Kernel,
    block: &LhsBlock,
    weights: &[u8],
    place: Place<'_, '_, O>,
    blocking: Blocking,
    partial: &mut AlignedBytes,
) {
    let strip = blocking.steps * STEP;
    assert!(weights.len() >= place.cols.div_ceil(16) * strip);
    assert!(partial.as_slice().len() >= blocking.partial_bytes());
    let partial: *mut i32 = partial.as_mut_slice().as_mut_ptr().cast();
    // SAFETY: the caller's proof; the value lives to the end of this call and stays here.
    let tiles = unsafe { T::configure(&config(block.rows())) };
    let mut state = State::<T, O> {
        kernel,
        tiles,
        place,
        block,
        sums: Sums([[0; 2 * HALF]; 2]),
        before: Set::default(),
        held: None,
        finished: [O::default(); ACC],
    };
    let mut order = blocking.order().peekable();
    while let Some((group, nth, step)) = order.next() {
        let wide = blocking.wide;
        let col = group * wide * 16;
        let cols = (wide * 16).min(place.cols - col);
        let b = |group: usize, step: usize| {
            let first = group * wide * strip + step * STEP;
            std::array::from_fn(|p| weights.as_ptr().wrapping_add(first + p * strip))
        };
        let steps = blocking.block.min(blocking.steps - step);
        let last = step + steps == blocking.steps;
        let next = order.peek().map(|(group, _, step)| b(*group, *step));
        let mut ahead = Ahead::new(next, steps, &blocking);
        for (p, panel) in block.panels().enumerate() {
            let words: *const u8 = panel.words.as_ptr().cast();
            assert!(size_of_val(panel.words) >= panel.m.div_ceil(16) * strip);
            let a0 = words.wrapping_add(step * STEP);
            let operands = Operands {
                a: [a0, a0.wrapping_add(strip)],
                b: b(group, step),
                steps,
            };
            let so_far = partial.wrapping_add((nth * blocking.panels + p) * 2 * HALF);
            let start = (step > 0).then_some(so_far.cast_const());
            let set = if last {
                Ok(state.set(&panel, col, cols))
            } else {
                Err(so_far)
            };
            // SAFETY: strips and panels hold `steps` more tiles each: asserted above, and padded to whole ones. Partial
            // sums have a place for each panel and group of the run.
            unsafe {
                match (panel.m.div_ceil(16), cols.div_ceil(16)) {
                    (2, 2) => state.multiply::<2, 2>(operands, start, set, &mut ahead),
                    (2, 1) => state.multiply::<2, 1>(operands, start, set, &mut ahead),
                    (_, 1) => state.multiply::<1, 1>(operands, start, set, &mut ahead),
                    (_, 2) => state.multiply::<1, 2>(operands, start, set, &mut ahead),
                    (_, 3) => state.multiply::<1, 3>(operands, start, set, &mut ahead),
                    _ => state.multiply::<1, 4>(operands, start, set, &mut ahead),
                }
            }
        }
    }
    state.release();
    for part in 0..PARTS {
        // SAFETY: the caller's.
        unsafe { state.finish(part) };
    }
}

/// Tiles 0 to 3 hold sums, 4 and 5 activations (of one strip alone: 5 holds weights), 6 and 7 weights. Only a block of
/// one set has tiles of fewer rows; in others the last strip is computed whole.
fn config(rows: usize) -> Config {
    let (first, second) = match rows {
        0..=16 => (rows.max(1), 16),
        17..=32 => (16, rows - 16),
        _ => (16, 16),
    };
    let third = if rows <= 16 { first } else { second };
    Config::new([first, first, third, third, first, second, 16, 16].map(|rows| (rows, 64)))
}

/// Cache lines of the weights that come next, to ask for a share at a time: as many shares as this group has parts.
struct Ahead {
    at: [*const u8; 2],
    lines: usize,
    share: usize,
    /// Instead, what each load needs a little later: there is one panel of rows, and every weight is new.
    stream: bool,
}

impl Ahead {
    fn new(next: Option<[*const u8; 4]>, steps: usize, blocking: &Blocking) -> Self {
        let stream = blocking.panels == 1;
        let (at, lines) = match next {
            Some([first, second, ..]) if !stream => ([first, second], steps * STEP / 64),
            _ => ([core::ptr::null(); 2], 0),
        };
        Ahead {
            at,
            lines,
            share: lines.div_ceil(blocking.panels * PARTS),
            stream,
        }
    }

    #[inline(always)]
    fn some(&mut self) {
        let lines = self.share.min(self.lines);
        self.lines -= lines;
        for _ in 0..lines {
            for at in &mut self.at {
                prefetch::second_level(*at);
                *at = at.wrapping_add(64);
            }
        }
    }
}

/// What one call to [`run`] works with.
struct State<'a, 'r, T: Tiles, O> {
    kernel: T::Kernel,
    tiles: T,
    place: Place<'a, 'r, O>,
    block: &'a LhsBlock,
    sums: Sums,
    /// The set that is computed and not yet finished.
    before: Set,
    /// Sums that are still in the tiles, and where they go.
    held: Option<Held>,
    finished: [O; ACC],
}

/// Sums in the tiles: R strips by C panels, and the set's place in memory.
#[derive(Clone, Copy)]
struct Held {
    strips: usize,
    panels: usize,
    to: *mut i32,
}

/// Where tile `t` of a set lies: half `t / 2`, columns `16 * (t % 2)`.
#[inline(always)]
fn tile_at(set: *mut i32, tile: usize) -> *mut u8 {
    set.wrapping_add(tile / 2 * HALF + tile % 2 * 16).cast()
}

/// Bytes from a row of a set to the next.
const STRIDE: usize = 4 * WIDTH;

impl<T: Tiles, O: Output> State<'_, '_, T, O> {
    /// Where the sums of a panel of rows and of these columns go.
    fn set(&self, panel: &LhsPanel<'_>, col: usize, cols: usize) -> Set {
        let half = |row, rows, from: usize| Half {
            row: panel.row + row,
            rows,
            col: col + from,
            cols: WIDTH.min(cols.saturating_sub(from)),
        };
        let halves = if self.block.rows() <= 16 {
            [half(0, panel.m, 0), half(0, panel.m, WIDTH)]
        } else {
            let rows = panel.m.min(16);
            [half(0, rows, 0), half(16, panel.m - rows, 0)]
        };
        Set {
            halves,
            turn: self.before.turn ^ 1,
        }
    }

    /// Computes the sums of one set, R strips by C panels, over some steps, and finishes the set before.
    ///
    /// The sums stay in the tiles: the next call stores each as it starts its own.
    ///
    /// # Safety
    /// The strips and panels of `operands` hold that many steps. Sums that start from memory or go there (`Err`) have a
    /// set's room.
    #[inline(always)]
    unsafe fn multiply<const R: usize, const C: usize>(
        &mut self,
        mut operands: Operands,
        start: Start,
        set: Result<Set, *mut i32>,
        ahead: &mut Ahead,
    ) {
        const { assert!(R >= 1 && R <= 2 && C >= 1 && C * R <= 4) };
        let stream = ahead.stream;
        // SAFETY: the caller's.
        unsafe { self.start::<R, C>(&mut operands, start) };
        let steps = operands.steps;
        for part in 0..PARTS {
            let now = (part + 1) * steps / PARTS - part * steps / PARTS;
            // SAFETY: the caller's: `now` more steps are there.
            unsafe { advance::<T, R, C>(&mut self.tiles, &mut operands, now, stream) };
            ahead.some();
            if let Ok(set) = &set {
                self.expect(set, part);
            }
            // SAFETY: the caller of `run`'s.
            unsafe { self.finish(part) };
        }
        let turn = self.before.turn ^ 1;
        self.before = set.unwrap_or(Set {
            turn,
            ..Set::default()
        });
        let to = set.map_or_else(|to| to, |_| self.sums.0[turn].as_mut_ptr());
        self.held = Some(Held {
            strips: R,
            panels: C,
            to,
        });
    }

    /// The first step of a set. Where the set before has the same form, each of its sums is stored right before the tile
    /// is used again: all stores at once would wait for the last product, and the next products for the stores.
    ///
    /// # Safety
    /// As [`multiply`](Self::multiply).
    #[inline(always)]
    unsafe fn start<const R: usize, const C: usize>(
        &mut self,
        operands: &mut Operands,
        start: Start,
    ) {
        let held = match self.held {
            Some(held) if R == 2 && C == 2 && held.strips == 2 && held.panels == 2 => Some(held.to),
            _ => {
                self.release();
                None
            }
        };
        self.held = None;
        let t = &mut self.tiles;
        let Operands { a, b, steps } = *operands;
        if steps == 0 {
            // Nothing is multiplied; `release` has left no sums, as no set with steps came before.
            debug_assert!(start.is_none());
            t.zero::<0>();
            t.zero::<1>();
            t.zero::<2>();
            t.zero::<3>();
            return;
        }
        // SAFETY: each pointer of `operands` is at a tile of 16 rows of 64 bytes, and sums lie where the caller says.
        unsafe {
            if C <= 2 {
                t.load::<6>(b[0], 64);
                t.stream::<4>(a[0], 64);
                exchange::<T, 0>(t, held, start);
                t.dot::<0, 4, 6>();
                if R > 1 {
                    t.stream::<5>(a[1], 64);
                    exchange::<T, 2>(t, held, start);
                    t.dot::<2, 5, 6>();
                }
                if C > 1 {
                    t.load::<7>(b[1], 64);
                    exchange::<T, 1>(t, held, start);
                    t.dot::<1, 4, 7>();
                    if R > 1 {
                        exchange::<T, 3>(t, held, start);
                        t.dot::<3, 5, 7>();
                    }
                }
                operands.advance();
            } else {
                exchange::<T, 0>(t, None, start);
                exchange::<T, 1>(t, None, start);
                exchange::<T, 2>(t, None, start);
                if C > 3 {
                    exchange::<T, 3>(t, None, start);
                }
            }
        }
    }

    /// Stores what the tiles hold.
    #[inline(always)]
    fn release(&mut self) {
        let Some(Held { strips, panels, to }) = self.held.take() else {
            return;
        };
        let t = &mut self.tiles;
        // SAFETY: a set's room is at `to`, and tile t has at most 16 rows of 16 sums of it.
        unsafe {
            t.store::<0>(tile_at(to, 0), STRIDE);
            if panels > 1 {
                t.store::<1>(tile_at(to, 1), STRIDE);
            }
            if strips > 1 || panels > 2 {
                t.store::<2>(tile_at(to, 2), STRIDE);
            }
            if strips > 1 && panels > 1 || panels > 3 {
                t.store::<3>(tile_at(to, 3), STRIDE);
            }
        }
    }

    /// Rows and columns of a part of a set: its half, the first row within it, the number of rows.
    #[inline(always)]
    fn part(set: &Set, part: usize) -> (Half, usize, usize) {
        let half = set.halves[part / 2];
        let first = part % 2 * PART_ROWS;
        (half, first, half.rows.saturating_sub(first).min(PART_ROWS))
    }

    /// Asks for the lines of the output that a part of a set will be written to.
    #[inline(always)]
    fn expect(&self, set: &Set, part: usize) {
        let (half, first, rows) = Self::part(set, part);
        if rows == 0 || half.cols == 0 {
            return;
        }
        let to = self.to(half, first, rows, core::ptr::null());
        for row in 0..rows {
            let (_, at, bytes) = to.row(row);
            prefetch::to_write(at);
            if bytes > 64 {
                prefetch::to_write(at.wrapping_add(64));
            }
        }
    }

    /// Rows `first..first + rows` of a half on their way out.
    #[inline(always)]
    fn to(&self, half: Half, first: usize, rows: usize, from: *const O) -> Trailing {
        let Place { resolved, out, .. } = self.place;
        let row = self.place.row0 + half.row + first;
        let col = resolved.halved(self.place.col0 + half.col);
        // SAFETY: the caller of `run` vouches for these elements, and `from` is read before it is written again.
        unsafe { out.trailing(from, WIDTH, (row, rows), (col, resolved.halved(half.cols))) }
    }

    /// Finishes and writes a part of the set before.
    ///
    /// # Safety
    /// No other thread reads or writes the set's rows and columns of the output.
    #[inline(always)]
    unsafe fn finish(&mut self, part: usize) {
        let set = self.before;
        let (half, first, rows) = Self::part(&set, part);
        if rows == 0 || half.cols == 0 {
            return;
        }
        let (scales, zero_points) = self.block.constants(half.row + first, rows);
        let resolved = self.place.resolved;
        let tile = Tile {
            row: self.place.row0 + half.row + first,
            col: self.place.col0 + half.col,
            rows,
            cols: half.cols,
            nr: WIDTH,
            scales,
            zero_points,
        };
        let start = part / 2 * HALF + first * WIDTH;
        let acc = &mut self.sums.0[set.turn][start..][..rows * WIDTH];
        let finished = &mut self.finished;
        let from = finish_tile(self.kernel, resolved, &tile, acc, finished);
        let to = self.to(half, first, rows, from);
        self.kernel.vectorize(
            #[inline(always)]
            || to.copy(),
        );
    }
}

/// Stores the sums that tile `C` holds, and makes it the start of others.
///
/// # Safety
/// Both sets have room.
#[inline(always)]
unsafe fn exchange<T: Tiles, const C: usize>(t: &mut T, held: Option<*mut i32>, start: Start) {
    // SAFETY: the caller's.
    unsafe {
        if let Some(to) = held {
            t.store::<C>(tile_at(to, C), STRIDE);
        }
        match start {
            None => t.zero::<C>(),
            Some(from) => t.load::<C>(tile_at(from.cast_mut(), C), STRIDE),
        }
    }
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

/// `now` steps of R strips by C panels. Activations stream past the weights in the first level.
///
/// # Safety
/// The strips and panels hold that many more steps.
#[inline(always)]
unsafe fn advance<T: Tiles, const R: usize, const C: usize>(
    t: &mut T,
    operands: &mut Operands,
    now: usize,
    stream: bool,
) {
    for _ in 0..now {
        let Operands { a, b, .. } = *operands;
        if stream {
            for b in &b[..C] {
                for line in 0..STEP / 64 {
                    prefetch::first_level(b.wrapping_add(STREAM_AHEAD + 64 * line));
                }
            }
        }
        // SAFETY: the caller's: each pointer is at a tile of 16 rows of 64 bytes.
        unsafe {
            if C <= 2 {
                t.load::<6>(b[0], 64);
                t.stream::<4>(a[0], 64);
                t.dot::<0, 4, 6>();
                if R > 1 {
                    t.stream::<5>(a[1], 64);
                    t.dot::<2, 5, 6>();
                }
                if C > 1 {
                    t.load::<7>(b[1], 64);
                    t.dot::<1, 4, 7>();
                    if R > 1 {
                        t.dot::<3, 5, 7>();
                    }
                }
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
