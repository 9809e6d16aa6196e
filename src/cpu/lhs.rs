//! The left operand: rows quantised while they are packed.

use super::aligned::AlignedBytes;
use super::engine::Engine;
use super::interleave;
use super::kernel::{STRIP_BYTES, STRIP_ROWS};
use super::prefetch;
use crate::element::{Element, FloatView};
use crate::epilogue::{Epilogue, Host};
use crate::gemm::{ActivationQuant, Lhs};
use crate::numerics;
use ndarray::{ArrayView1, ArrayView2};

/// A block of rows in a kernel's order, with what the epilogue needs to know of each row.
///
/// Rows are dealt evenly to panels of at most MR, so that no panel is left with one row. Panels of strips are whole but
/// for the last one, and so are strips: rows after the block's last hold anything.
#[derive(Default)]
pub(crate) struct LhsBlock {
    rows: usize,
    groups: usize,
    /// First row of each panel, and one past the last.
    starts: Vec<usize>,
    words: AlignedBytes,
    /// Where the sums of each row start: `-128 * sum(row)` for biased weights, else 0.
    init: Vec<i32>,
    scales: Vec<f32>,
    zero_points: Vec<i32>,
    staging: Staging,
}

/// Buffers of one panel on its way.
#[derive(Default)]
struct Staging {
    floats: Vec<f32>,
    bytes: Vec<i8>,
}

/// One panel of a block.
pub(crate) struct LhsPanel<'a> {
    /// Its first row within the block, and its number of rows.
    pub row: usize,
    pub m: usize,
    pub words: &'a [u32],
    pub init: &'a [i32],
    pub scales: &'a [f32],
    pub zero_points: &'a [i32],
}

impl LhsBlock {
    /// Quantises and packs rows `row0..row0 + rows`.
    pub fn fill<E: Engine>(
        &mut self,
        engine: E,
        lhs: &Lhs<'_>,
        epilogue: &Epilogue<Host<'_>>,
        row0: usize,
        rows: usize,
    ) {
        let k = lhs.dim().1;
        self.rows = rows;
        self.groups = E::LAYOUT.groups(k);
        let panels = rows.div_ceil(E::MR);
        self.starts.clear();
        if E::LAYOUT.strips {
            self.starts
                .extend((0..=panels).map(|p| (p * E::MR).min(rows)));
            self.words
                .resize(rows.next_multiple_of(STRIP_ROWS) * self.groups * 4);
        } else {
            self.starts
                .extend((0..=panels).map(|p| p * rows / panels.max(1)));
            self.words.resize(rows * self.groups * 4);
        }
        grow(&mut self.init, rows);
        grow(&mut self.scales, rows);
        grow(&mut self.zero_points, rows);
        for p in 0..panels {
            let (first, m) = (self.starts[p], self.starts[p + 1] - self.starts[p]);
            if E::LAYOUT.strips {
                self.fill_strips(engine, lhs, epilogue, row0 + first, first, m, k);
            } else {
                self.fill_panel(engine, lhs, epilogue, row0 + first, first, m, k);
            }
        }
    }

    /// The panels in order.
    pub fn panels(&self) -> impl Iterator<Item = LhsPanel<'_>> {
        (1..self.starts.len()).map(|p| self.panel(p - 1))
    }

    /// One of them.
    #[inline(always)]
    pub fn panel(&self, index: usize) -> LhsPanel<'_> {
        let (row, next) = (self.starts[index], self.starts[index + 1]);
        let (words, rows) = (self.words.as_words(), row..next);
        // The last of a block of strips takes all that is left.
        let end = if next == self.rows {
            words.len()
        } else {
            next * self.groups
        };
        LhsPanel {
            row,
            m: next - row,
            words: &words[row * self.groups..end],
            init: &self.init[rows.clone()],
            scales: &self.scales[rows.clone()],
            zero_points: &self.zero_points[rows],
        }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Scales and zero points of some rows.
    pub fn constants(&self, row: usize, rows: usize) -> (&[f32], &[i32]) {
        let rows = row..row + rows;
        (&self.scales[rows.clone()], &self.zero_points[rows])
    }

    /// Groups of k that each panel holds.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Words held: what a thread keeps for its next block.
    pub fn capacity_bytes(&self) -> usize {
        self.words.capacity_bytes()
    }

    #[allow(clippy::too_many_arguments)]
    fn fill_panel<E: Engine>(
        &mut self,
        engine: E,
        lhs: &Lhs<'_>,
        epilogue: &Epilogue<Host<'_>>,
        source: usize,
        first: usize,
        m: usize,
        k: usize,
    ) {
        let groups = self.groups;
        let stride = (groups * E::LAYOUT.kr).next_multiple_of(64) + 64;
        let staging = &mut self.staging;
        grow(&mut staging.bytes, m * stride);
        grow(&mut staging.floats, k);
        let words = &mut self.words.as_mut_words()[first * groups..][..m * groups];
        engine.vectorize(
            #[inline(always)]
            || {
                // Whole rows of integers go straight from where they are.
                let in_place = |i: usize| match lhs {
                    Lhs::Int8(view) if E::LAYOUT.kr == 4 && k.is_multiple_of(4) => {
                        view.row(source + i).to_slice()
                    }
                    _ => None,
                };
                for i in 0..m {
                    let mut ahead = Ahead::new(lhs, source + i + 1);
                    let staged = &mut staging.bytes[i * stride..][..stride];
                    staged[k..].fill(0);
                    let staged = &mut staged[..k];
                    let r = first + i;
                    (self.scales[r], self.zero_points[r]) = match lhs {
                        Lhs::Int8(view) => {
                            ahead.rest();
                            if in_place(i).is_none() {
                                copy_row(view, source + i, staged);
                            }
                            integer_constants(epilogue, source + i)
                        }
                        Lhs::Float { data, quant } => {
                            let row = float_row(data, source + i, &mut staging.floats);
                            quantize_row(row, *quant, staged, ahead)
                        }
                    };
                    self.init[r] = if E::LAYOUT.biased {
                        -128 * interleave::sum(in_place(i).unwrap_or(staged))
                    } else {
                        0
                    };
                }
                if E::LAYOUT.kr == 4 {
                    let staged = &staging.bytes;
                    let row = |i: usize| in_place(i).unwrap_or(&staged[i * stride..][..stride]);
                    interleave::bytes4(row, m, groups, 0, words);
                } else {
                    interleave::widened2(&staging.bytes, stride, m, groups, words);
                }
            },
        );
    }

    /// A panel of strips: each row is quantised whole and then dealt out, 64 bytes to each step.
    #[allow(clippy::too_many_arguments)]
    fn fill_strips<E: Engine>(
        &mut self,
        engine: E,
        lhs: &Lhs<'_>,
        epilogue: &Epilogue<Host<'_>>,
        source: usize,
        first: usize,
        m: usize,
        k: usize,
    ) {
        let padded = self.groups * 4;
        let staging = &mut self.staging;
        grow(&mut staging.bytes, padded);
        grow(&mut staging.floats, k);
        let bytes = &mut self.words.as_mut_signed()[first * padded..];
        engine.vectorize(
            #[inline(always)]
            || {
                for i in 0..m {
                    let mut ahead = Ahead::new(lhs, source + i + 1);
                    let staged = &mut staging.bytes[..padded];
                    staged[k..].fill(0);
                    let r = first + i;
                    let (row, constants) = match lhs {
                        Lhs::Int8(view) => {
                            ahead.rest();
                            let row = match view.row(source + i).to_slice() {
                                Some(row) if k == padded => row,
                                _ => {
                                    copy_row(view, source + i, &mut staged[..k]);
                                    &*staged
                                }
                            };
                            (row, integer_constants(epilogue, source + i))
                        }
                        Lhs::Float { data, quant } => {
                            let row = float_row(data, source + i, &mut staging.floats);
                            let constants = quantize_row(row, *quant, &mut staged[..k], ahead);
                            (&*staged, constants)
                        }
                    };
                    (self.scales[r], self.zero_points[r]) = constants;
                    let strip = &mut bytes[i / STRIP_ROWS * STRIP_ROWS * padded..];
                    let steps = strip.chunks_exact_mut(STRIP_ROWS * STRIP_BYTES);
                    for (step, cut) in steps.zip(row.as_chunks::<STRIP_BYTES>().0) {
                        let to = step[i % STRIP_ROWS * STRIP_BYTES..].first_chunk_mut();
                        *to.expect("a row of a strip") = *cut;
                    }
                }
            },
        );
    }
}

/// The scale and zero point of a row of integers.
#[inline(always)]
fn integer_constants(epilogue: &Epilogue<Host<'_>>, row: usize) -> (f32, i32) {
    (
        epilogue.row_scales.at(row),
        epilogue.row_zero_points.at(row),
    )
}

/// The cache lines of the next row, asked for while this one is worked on: rows lie in pages of their own, where the
/// hardware's prefetcher starts anew.
struct Ahead {
    at: *const u8,
    lines: usize,
}

impl Ahead {
    #[inline(always)]
    fn new(lhs: &Lhs<'_>, row: usize) -> Self {
        #[inline(always)]
        fn of<T>(view: &ArrayView2<'_, T>, row: usize) -> Ahead {
            let slice = (row < view.nrows())
                .then(|| view.row(row).to_slice())
                .flatten()
                .unwrap_or(&[]);
            Ahead {
                at: slice.as_ptr().cast(),
                lines: size_of_val(slice).div_ceil(64),
            }
        }
        match lhs {
            Lhs::Int8(view) => of(view, row),
            Lhs::Float { data, .. } => match data {
                FloatView::F32(view) => of(view, row),
                FloatView::F16(view) => of(view, row),
                FloatView::BF16(view) => of(view, row),
            },
        }
    }

    /// Asks for the next few. All at once would wait for free places to note them in.
    #[inline(always)]
    fn some(&mut self, lines: usize) {
        let lines = lines.min(self.lines);
        self.lines -= lines;
        for _ in 0..lines {
            prefetch::first_level(self.at);
            self.at = self.at.wrapping_add(64);
        }
    }

    #[inline(always)]
    fn rest(&mut self) {
        self.some(usize::MAX);
    }
}

/// Quantises one row; its scale and zero point.
#[inline(always)]
fn quantize_row(
    row: &[f32],
    quant: ActivationQuant,
    out: &mut [i8],
    mut ahead: Ahead,
) -> (f32, i32) {
    if quant != ActivationQuant::PerToken {
        ahead.rest();
    }
    match quant {
        ActivationQuant::PerToken => {
            // Both passes together ask for all of it.
            let lines = numerics::PIECE * size_of::<f32>() / 64 / 2;
            (numerics::quantize_row(row, out, || ahead.some(lines)), 0)
        }
        ActivationQuant::Static { scale } => {
            let multiplier = 1.0 / scale;
            for (q, x) in out.iter_mut().zip(row) {
                *q = numerics::quantize(x * multiplier);
            }
            (of_finite(row, scale), 0)
        }
        ActivationQuant::StaticAsymmetric { scale, zero_point } => {
            let multiplier = 1.0 / scale;
            for (q, x) in out.iter_mut().zip(row) {
                let x = if x.is_nan() { 0.0 } else { *x };
                *q = numerics::quantize_asymmetric(x, multiplier, zero_point);
            }
            (of_finite(row, scale), zero_point)
        }
        ActivationQuant::PerTokenAsymmetric => {
            // NaN and infinity show in absmax; minimum and maximum may then be anything.
            let absmax = numerics::absmax(row.iter().copied());
            let (mut lo, mut hi) = (absmax * 0.0, absmax * 0.0);
            for x in row {
                lo = if *x < lo { *x } else { lo };
                hi = if *x > hi { *x } else { hi };
            }
            let a = numerics::asymmetric(lo, hi);
            for (q, x) in out.iter_mut().zip(row) {
                *q = numerics::quantize_asymmetric(*x, a.multiplier, a.zero_point);
            }
            (a.scale, a.zero_point)
        }
    }
}

/// A scale known beforehand, or NaN for a row that is not finite.
#[inline(always)]
fn of_finite(row: &[f32], scale: f32) -> f32 {
    match numerics::absmax(row.iter().copied()).is_finite() {
        true => scale,
        false => f32::NAN,
    }
}

/// A row widened to f32: the row itself where it is contiguous f32.
#[inline(always)]
pub(crate) fn float_row<'a>(
    data: &'a FloatView<'_>,
    row: usize,
    buffer: &'a mut [f32],
) -> &'a [f32] {
    match data {
        FloatView::F32(view) => {
            let line = view.row(row);
            match view.row(row).to_slice() {
                Some(slice) => slice,
                None => widen(line, buffer),
            }
        }
        FloatView::F16(view) => widen(view.row(row), buffer),
        FloatView::BF16(view) => widen(view.row(row), buffer),
    }
}

#[inline(always)]
fn widen<'b, T: Element>(line: ArrayView1<'_, T>, buffer: &'b mut [f32]) -> &'b [f32] {
    let buffer = &mut buffer[..line.len()];
    match line.to_slice() {
        Some(slice) => buffer
            .iter_mut()
            .zip(slice)
            .for_each(|(b, x)| *b = x.to_f32()),
        None => buffer
            .iter_mut()
            .zip(line)
            .for_each(|(b, x)| *b = x.to_f32()),
    }
    buffer
}

/// Copies a row of integers, whatever its stride.
#[inline(always)]
pub(crate) fn copy_row(view: &ArrayView2<'_, i8>, row: usize, out: &mut [i8]) {
    let line = view.row(row);
    match line.to_slice() {
        Some(slice) => out.copy_from_slice(slice),
        None => out.iter_mut().zip(line).for_each(|(o, x)| *o = *x),
    }
}

/// Makes a buffer at least `len` long; what it holds is overwritten by the caller.
pub(crate) fn grow<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}
