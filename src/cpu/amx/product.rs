//! A block of rows by panels of weights: sets of sums in tiles, finished one set behind.
//!
//! While one set of sums is computed, the set before it is finished: the vector units are idle otherwise. Sums that are the
//! output go there from the tiles.

use super::blocking::{Blocking, Item, STEP};
use super::steps::{self, Held, Operands, Room};
use super::tiles::Tiles;
use crate::cpu::aligned::AlignedBytes;
use crate::cpu::engine::Place;
use crate::cpu::kernel::{Kernel, Trailing, ACC};
use crate::cpu::lhs::{LhsBlock, LhsPanel};
use crate::cpu::store::{finish_tile, Output};
use crate::epilogue::Tile;
use std::cell::RefCell;

/// Parts of a set of sums that are finished at a time: eight rows by two panels.
const PARTS: usize = 4;
const PART_ROWS: usize = 8;
/// Columns of a half of a set: two panels.
const WIDTH: usize = 32;
/// Sums of a half: 16 rows.
const HALF: usize = 16 * WIDTH;
/// Bytes of a set of sums, and from a row of it to the next.
const SET: usize = 2 * HALF * 4;
const STRIDE: usize = 4 * WIDTH;

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

/// What becomes of a set of sums.
enum Goal {
    /// More steps are added later.
    Partial(Room),
    /// They are the output.
    Direct(Room),
    /// They are finished.
    Finish(Set),
}

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
    partial.resize(blocking.places() * SET);
    assert!(weights.len() >= place.cols.div_ceil(16) * blocking.steps * STEP);
    // SAFETY: the caller's proof; the value lives to the end of this call and stays here.
    let tiles = unsafe { T::configure(&steps::config(block.rows())) };
    let mut state = State::<T, O> {
        kernel,
        tiles,
        place,
        block,
        blocking,
        sums: Sums([[0; 2 * HALF]; 2]),
        before: Set::default(),
        held: None,
        finished: [O::default(); ACC],
    };
    let memory = partial.as_mut_slice();
    // SAFETY: the weights were measured, and the sums in between have their places.
    blocking.each(|item| unsafe { state.item(item, weights.as_ptr(), memory) });
    state.release();
    for part in 0..PARTS {
        // SAFETY: the caller's.
        unsafe { state.finish(part) };
    }
    drop(state);
    if partial.capacity_bytes() <= KEEP_BYTES {
        PARTIAL.set(partial);
    }
}

/// What one call to [`run`] works with.
struct State<'a, 'r, T: Tiles, O> {
    kernel: T::Kernel,
    tiles: T,
    place: Place<'a, 'r, O>,
    block: &'a LhsBlock,
    blocking: Blocking,
    sums: Sums,
    /// The set that is computed and not yet finished.
    before: Set,
    /// Sums that are still in the tiles, and where they go.
    held: Option<Held>,
    finished: [O; ACC],
}

impl<T: Tiles, O: Output> State<'_, '_, T, O> {
    /// Computes one set over some steps.
    ///
    /// # Safety
    /// `weights` holds whole panels for all columns, `partial` the places of the blocking; the output is the caller of
    /// [`run`]'s to vouch for.
    #[inline(always)]
    unsafe fn item(&mut self, item: Item, weights: *const u8, partial: &mut [u8]) {
        let Blocking { steps, wide, .. } = self.blocking;
        let strip = steps * STEP;
        let panel = self.block.panel(item.panel);
        assert!(size_of_val(panel.words) >= panel.m.div_ceil(16) * strip);
        let a = panel
            .words
            .as_ptr()
            .cast::<u8>()
            .wrapping_add(item.step * STEP);
        let b = weights.wrapping_add(item.group * wide * strip + item.step * STEP);
        let operands = Operands {
            a: [a, a.wrapping_add(strip)],
            b: [0, 1, 2, 3].map(|p| b.wrapping_add(p * strip)),
            steps: item.steps,
        };
        let col = item.group * wide * 16;
        let cols = (wide * 16).min(self.place.cols - col);
        let mut between = || Room {
            at: partial[item.place * SET..][..SET].as_mut_ptr(),
            stride: STRIDE,
        };
        let (first, last) = (item.step == 0, item.step + item.steps == steps);
        let (start, goal) = match (first, last) {
            (true, true) => (None, self.goal(&panel, col, cols)),
            (true, false) => (None, Goal::Partial(between())),
            (false, true) => (Some(between()), self.goal(&panel, col, cols)),
            (false, false) => {
                let room = between();
                (Some(room), Goal::Partial(room))
            }
        };
        // SAFETY: strips and panels hold `steps` more tiles each: asserted here and in `run`, and padded to whole ones.
        unsafe {
            match (panel.m.div_ceil(16), cols.div_ceil(16)) {
                (2, 2) => self.multiply::<2, 2>(operands, start, goal),
                (2, 1) => self.multiply::<2, 1>(operands, start, goal),
                (_, 1) => self.multiply::<1, 1>(operands, start, goal),
                (_, 2) => self.multiply::<1, 2>(operands, start, goal),
                (_, 3) => self.multiply::<1, 3>(operands, start, goal),
                _ => self.multiply::<1, 4>(operands, start, goal),
            }
        }
    }

    /// Where the sums of a panel of rows and of these columns go at last.
    #[inline(always)]
    fn goal(&self, panel: &LhsPanel<'_>, col: usize, cols: usize) -> Goal {
        let Place {
            row0,
            col0,
            resolved,
            out,
            ..
        } = self.place;
        // Whole tiles, side by side.
        let whole = panel.m.is_multiple_of(16) && cols.is_multiple_of(16) && cols <= WIDTH;
        if O::IN_PLACE && resolved.col_sums.is_none() && whole && self.block.rows() > 16 {
            let (rows, cols) = ((row0 + panel.row, panel.m), (col0 + col, cols));
            if let Some((at, stride)) = out.rows_of_sums(rows, cols) {
                return Goal::Direct(Room { at, stride });
            }
        }
        Goal::Finish(self.set(panel, col, cols))
    }

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
    /// The strips and panels of `operands` hold that many steps. Sums that start from memory or go there have a set's room.
    #[inline(always)]
    unsafe fn multiply<const R: usize, const C: usize>(
        &mut self,
        mut operands: Operands,
        start: Option<Room>,
        goal: Goal,
    ) {
        const { assert!(R >= 1 && R <= 2 && C >= 1 && C * R <= 4) };
        // One panel of rows alone: every weight is new.
        let far = self.blocking.panels == 1;
        let held = match self.held.take() {
            Some(held) if R == 2 && C == 2 && held.strips == 2 && held.panels == 2 => Some(held.to),
            other => {
                self.held = other;
                self.release();
                None
            }
        };
        // SAFETY: the caller's.
        unsafe { steps::start::<T, R, C>(&mut self.tiles, &mut operands, held, start) };
        let steps = operands.steps;
        for part in 0..PARTS {
            let now = (part + 1) * steps / PARTS - part * steps / PARTS;
            // SAFETY: the caller's: `now` more steps are there.
            unsafe { steps::advance::<T, R, C>(&mut self.tiles, &mut operands, now, far) };
            // SAFETY: the caller of `run`'s.
            unsafe { self.finish(part) };
        }
        let turn = self.before.turn ^ 1;
        self.before = Set {
            turn,
            ..Set::default()
        };
        let to = match goal {
            Goal::Partial(room) | Goal::Direct(room) => room,
            Goal::Finish(set) => {
                self.before = set;
                Room {
                    at: self.sums.0[turn].as_mut_ptr().cast(),
                    stride: STRIDE,
                }
            }
        };
        self.held = Some(Held {
            strips: R,
            panels: C,
            to,
        });
    }

    /// Stores what the tiles hold.
    #[inline(always)]
    fn release(&mut self) {
        if let Some(held) = self.held.take() {
            // SAFETY: it goes to the room of a set.
            unsafe { steps::release(&mut self.tiles, held) };
        }
    }

    /// Rows and columns of a part of a set: its half, the first row within it, the number of rows.
    #[inline(always)]
    fn part(set: &Set, part: usize) -> (Half, usize, usize) {
        let half = set.halves[part / 2];
        let first = part % 2 * PART_ROWS;
        (half, first, half.rows.saturating_sub(first).min(PART_ROWS))
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
