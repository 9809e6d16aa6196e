//! The right operand: columns quantised while they are packed into panels.
//!
//! ```text
//!   panel p, columns NR*p..NR*(p+1)      group 0: [c0 k0..k3][c1 k0..k3] ... [cNR-1 k0..k3]
//!                                        group 1: [c0 k4..k7] ...
//! ```
//!
//! Two orders of the source have a path of their own: row-major `[K, N]` (KR rows are zipped into words) and
//! K-major (each column contiguous, as `[N, K]` weights are). Any other is gathered a column at a time.

use super::engine::Engine;
use super::interleave;
use super::kernel::{Kernel, Layout};
use super::lhs::grow;
use super::prefetch;
use crate::element::Element;
use crate::numerics;
use ndarray::{s, ArrayView1, ArrayView2};

/// A matrix whose elements become weights: integers as they are, floats times their column's multiplier.
pub(crate) trait Source: Copy + Default + Send + Sync {
    /// The integer of one element.
    fn quantize(self, multiplier: f32) -> i8;
    /// The bit pattern of |x| as f32, whose maximum over a column is that of its absmax.
    fn magnitude(self) -> u32;
}

impl Source for i8 {
    #[inline(always)]
    fn quantize(self, _: f32) -> i8 {
        self
    }
    #[inline(always)]
    fn magnitude(self) -> u32 {
        0
    }
}

macro_rules! float_source {
    ($($t:ty),*) => {$(
        impl Source for $t {
            #[inline(always)]
            fn quantize(self, multiplier: f32) -> i8 {
                numerics::quantize(Element::to_f32(self) * multiplier)
            }
            #[inline(always)]
            fn magnitude(self) -> u32 {
                Element::to_f32(self).to_bits() & 0x7fff_ffff
            }
        }
    )*};
}
float_source!(f32, half::f16, half::bf16);

/// Columns of a source, per-channel constants first: `(multiplier, scale)` of each column from `col0` on.
#[inline(never)]
pub(crate) fn column_scales<T: Source, L: Kernel>(
    kernel: L,
    source: &ArrayView2<'_, T>,
    col0: usize,
    multipliers: &mut [f32],
    scales: &mut [f32],
) {
    kernel.vectorize(
        #[inline(always)]
        || {
            // The scales' memory first holds the magnitudes, as bit patterns.
            scales.fill(0.0);
            if k_major(source) {
                for (j, s) in scales.iter_mut().enumerate() {
                    let column = source.column(col0 + j);
                    let max = match column.to_slice() {
                        Some(slice) => slice.iter().fold(0, |m, x| m.max(x.magnitude())),
                        None => column.iter().fold(0, |m, x| m.max(x.magnitude())),
                    };
                    *s = f32::from_bits(max);
                }
            } else {
                by_rows(source, col0, scales);
            }
            for (s, m) in scales.iter_mut().zip(multipliers) {
                let bound = numerics::bound(*s);
                (*m, *s) = (numerics::multiplier(bound), numerics::scale(bound));
            }
        },
    );
}

/// Rows of a row-major source that go through all panels before the next.
const STRIP: usize = 64;

/// Rows whose magnitudes are taken together.
const BLOCK: usize = 8;

/// How far ahead rows are asked for while only their magnitudes are taken.
const ASK_BYTES: usize = 4096;

/// Magnitudes of columns, row by row: the maximum of each so far and of the source, as bit patterns of floats.
#[inline(always)]
fn by_rows<T: Source>(source: &ArrayView2<'_, T>, col0: usize, maxima: &mut [f32]) {
    let (k, n) = (source.nrows(), maxima.len());
    if source.strides()[1] != 1 {
        for k in 0..k {
            for (j, s) in maxima.iter_mut().enumerate() {
                *s = f32::from_bits(s.to_bits().max(source[[k, col0 + j]].magnitude()));
            }
        }
        return;
    }
    // Few columns of each row: the next row's lie in another page, and no hardware asks for them by itself.
    let bytes = n * size_of::<T>();
    let ahead = (ASK_BYTES / bytes.max(1)).clamp(BLOCK, 64);
    let mut rows: [&[T]; BLOCK] = [&[]; BLOCK];
    for k0 in (0..k).step_by(BLOCK) {
        for (r, row) in rows.iter_mut().enumerate() {
            // A last block repeats its last row.
            *row = &contiguous(source, (k0 + r).min(k - 1))[col0..col0 + n];
            if k0 + r + ahead < k {
                let far = ahead as isize * source.strides()[0];
                prefetch::all(row.as_ptr().wrapping_offset(far).cast(), bytes);
            }
        }
        let (chunks, rest) = maxima.as_chunks_mut::<16>();
        for (c, maxima) in chunks.iter_mut().enumerate() {
            // (Loops, not `map`: it may stay a call, and then it is not compiled for the kernel's instructions.)
            let mut bits = [0u32; 16];
            for (bits, x) in bits.iter_mut().zip(&*maxima) {
                *bits = x.to_bits();
            }
            for row in rows {
                let row = &row[16 * c..][..16];
                for (bits, x) in bits.iter_mut().zip(row) {
                    *bits = (*bits).max(x.magnitude());
                }
            }
            for (x, bits) in maxima.iter_mut().zip(bits) {
                *x = f32::from_bits(bits);
            }
        }
        for (j, s) in (n - rest.len()..).zip(rest) {
            for row in rows {
                *s = f32::from_bits(s.to_bits().max(row[j].magnitude()));
            }
        }
    }
}

/// A row of a row-major source.
#[inline(always)]
fn contiguous<'a, T>(source: &'a ArrayView2<'_, T>, row: usize) -> &'a [T] {
    let row = source.row(row).to_slice();
    row.expect("the rows of a row-major matrix are contiguous")
}

fn k_major<T>(source: &ArrayView2<'_, T>) -> bool {
    source.strides()[0] == 1 && source.strides()[1] != 1
}

/// Buffers of a thread that packs.
#[derive(Default)]
pub(crate) struct Staging {
    bytes: Vec<i8>,
}

/// Packs the panels that start at column `col0` (a multiple of NR from where `out` starts) into `out`, which
/// holds whole panels; columns beyond the source's end are zeros. `multipliers` has one entry a column from
/// `col0` on (ignored for integers, may then be empty).
pub(crate) fn pack<T: Source, E: Engine>(
    engine: E,
    source: &ArrayView2<'_, T>,
    col0: usize,
    multipliers: &[f32],
    staging: &mut Staging,
    out: &mut [u8],
) {
    let (k, n) = source.dim();
    let panel_bytes = E::LAYOUT.panel_bytes(k);
    if panel_bytes == 0 {
        return;
    }
    let panels = out.len() / panel_bytes;
    let row_major = source.strides()[1] == 1;
    engine.vectorize(
        #[inline(always)]
        || {
            if !row_major {
                for (p, out) in out.chunks_exact_mut(panel_bytes).enumerate() {
                    let first = col0 + p * E::LAYOUT.nr;
                    let cols = E::LAYOUT.nr.min(n - first);
                    let multipliers = multipliers.get(p * E::LAYOUT.nr..).unwrap_or(&[]);
                    pack_columns(E::LAYOUT, source, first, cols, multipliers, staging, out);
                }
                return;
            }
            // A strip of rows goes through all panels before the next, so that reads run along rows and each
            // panel is written in whole cache lines.
            let mut rows: [&[T]; STRIP] = [&[]; STRIP];
            for k0 in (0..k).step_by(STRIP) {
                let strip = STRIP.min(k - k0);
                for (r, row) in rows[..strip].iter_mut().enumerate() {
                    *row = contiguous(source, k0 + r);
                }
                // The strip after this one, which is asked for on the way; at the end this one again.
                let more = k0 + 2 * STRIP <= k;
                let ahead = if more {
                    STRIP as isize * source.strides()[0]
                } else {
                    0
                };
                for p in 0..panels {
                    let first = col0 + p * E::LAYOUT.nr;
                    let cols = E::LAYOUT.nr.min(n - first);
                    let multipliers = multipliers.get(p * E::LAYOUT.nr..).unwrap_or(&[]);
                    let start = p * panel_bytes + k0 * E::LAYOUT.nr;
                    let len = E::LAYOUT.groups(strip) * E::LAYOUT.nr * E::LAYOUT.kr;
                    let out = &mut out[start..start + len];
                    pack_rows(
                        E::LAYOUT,
                        &rows[..strip],
                        ahead,
                        first,
                        cols,
                        multipliers,
                        out,
                    );
                }
            }
        },
    );
}

/// The widest panel of any layout.
const NR_MAX: usize = 32;

/// Some rows of one panel, from a row-major source: KR rows are zipped into words. Rows `ahead` elements further are asked
/// for.
#[inline(always)]
fn pack_rows<T: Source>(
    layout: Layout,
    rows: &[&[T]],
    ahead: isize,
    first: usize,
    cols: usize,
    multipliers: &[f32],
    out: &mut [u8],
) {
    // Widths as constants, so that the loops over columns become vectors.
    match layout.nr {
        32 => pack_rows_of::<T, 32>(layout, rows, ahead, first, cols, multipliers, out),
        16 => pack_rows_of::<T, 16>(layout, rows, ahead, first, cols, multipliers, out),
        _ => pack_rows_of::<T, 8>(layout, rows, ahead, first, cols, multipliers, out),
    }
}

#[inline(always)]
fn pack_rows_of<T: Source, const NR: usize>(
    layout: Layout,
    rows: &[&[T]],
    ahead: isize,
    first: usize,
    cols: usize,
    multipliers: &[f32],
    out: &mut [u8],
) {
    assert_eq!(layout.nr, NR);
    let kr = layout.kr;
    let flip = if layout.biased { 0x80 } else { 0 };
    let mut scale = [0f32; NR];
    let known = multipliers.len().min(cols);
    scale[..known].copy_from_slice(&multipliers[..known]);
    let zeros = [T::default(); NR];
    for (g, out) in out.chunks_exact_mut(NR * kr).enumerate() {
        // The KR rows of this group; beyond K and beyond the last column, zeros.
        let group = rows.get(g * kr..).unwrap_or(&[]);
        let mut edge = [[T::default(); NR]; 4];
        let mut lines: [&[T; NR]; 4] = [&zeros; 4];
        for ((line, edge), row) in lines.iter_mut().zip(&mut edge).zip(group).take(kr) {
            let row = &row[first..];
            let far = row.as_ptr().wrapping_offset(ahead).cast::<u8>();
            prefetch::second_level(far);
            if size_of::<[T; NR]>() > 64 {
                prefetch::second_level(far.wrapping_add(64));
            }
            *line = match row.first_chunk::<NR>() {
                Some(whole) if cols == NR => whole,
                _ => {
                    edge[..cols].copy_from_slice(&row[..cols]);
                    edge
                }
            };
        }
        if kr == 4 {
            let (words, _) = out.as_chunks_mut::<4>();
            zip4(lines, &scale, flip, words);
        } else {
            let (words, _) = out.as_chunks_mut::<2>();
            zip2([lines[0], lines[1]], &scale, flip, words);
        }
    }
}

/// `words[j]` = the four rows' integers of column `j`, in order.
#[inline(always)]
fn zip4<T: Source, const NR: usize>(
    rows: [&[T; NR]; 4],
    scale: &[f32; NR],
    flip: u8,
    words: &mut [[u8; 4]],
) {
    let words: &mut [[u8; 4]; NR] = words.try_into().expect("a group of NR words");
    let [r0, r1, r2, r3] = rows;
    let flip = u32::from_ne_bytes([flip; 4]);
    for j in 0..NR {
        let q = |row: &[T; NR]| u32::from(row[j].quantize(scale[j]) as u8);
        let w = q(r0) | (q(r1) << 8) | (q(r2) << 16) | (q(r3) << 24);
        words[j] = (w ^ flip).to_le_bytes();
    }
}

/// `words[j]` = the two rows' integers of column `j`, in order.
#[inline(always)]
fn zip2<T: Source, const NR: usize>(
    rows: [&[T; NR]; 2],
    scale: &[f32; NR],
    flip: u8,
    words: &mut [[u8; 2]],
) {
    let words: &mut [[u8; 2]; NR] = words.try_into().expect("a group of NR words");
    let [r0, r1] = rows;
    let flip = u16::from_ne_bytes([flip; 2]);
    for j in 0..NR {
        let q = |row: &[T; NR]| u16::from(row[j].quantize(scale[j]) as u8);
        words[j] = ((q(r0) | (q(r1) << 8)) ^ flip).to_le_bytes();
    }
}

/// One panel, a column at a time.
#[inline(always)]
fn pack_columns<T: Source>(
    layout: Layout,
    source: &ArrayView2<'_, T>,
    first: usize,
    cols: usize,
    multipliers: &[f32],
    staging: &mut Staging,
    out: &mut [u8],
) {
    // By strips of K, so that what a thread keeps does not grow with K.
    const STRIP: usize = 8192;
    let k = source.nrows();
    for (k0, out) in (0..k).step_by(STRIP).zip(out.chunks_mut(STRIP * layout.nr)) {
        let rows = STRIP.min(k - k0);
        let groups = layout.groups(rows);
        let stride = (groups * layout.kr).next_multiple_of(64) + 64;
        grow(&mut staging.bytes, layout.nr * stride);
        for j in 0..layout.nr {
            let bytes = &mut staging.bytes[j * stride..][..stride];
            if j >= cols {
                bytes.fill(0);
                continue;
            }
            bytes[rows..].fill(0);
            let multiplier = multipliers.get(j).copied().unwrap_or(1.0);
            let column = source.column(first + j).slice_move(s![k0..k0 + rows]);
            quantize_column(column, multiplier, &mut bytes[..rows]);
        }
        if layout.kr == 4 {
            let flip = if layout.biased { 0x80 } else { 0 };
            let (words, rest) = out.as_chunks_mut::<4>();
            debug_assert!(rest.is_empty());
            let row = |r: usize| &staging.bytes[r * stride..][..stride];
            interleave::bytes4(row, layout.nr, groups, flip, words);
        } else {
            interleave::bytes2(&staging.bytes, stride, layout.nr, groups, out);
        }
    }
}

#[inline(always)]
fn quantize_column<T: Source>(column: ArrayView1<'_, T>, multiplier: f32, out: &mut [i8]) {
    match column.to_slice() {
        Some(slice) => out
            .iter_mut()
            .zip(slice)
            .for_each(|(q, x)| *q = x.quantize(multiplier)),
        None => out
            .iter_mut()
            .zip(column)
            .for_each(|(q, x)| *q = x.quantize(multiplier)),
    }
}

/// Adds up each column of packed panels; `sums` has one entry a column, padding excluded.
pub(crate) fn column_sums<E: Engine>(engine: E, k: usize, packed: &[u8], sums: &mut [i32]) {
    let Layout { nr, kr, biased, .. } = E::LAYOUT;
    let panel_bytes = E::LAYOUT.panel_bytes(k);
    if panel_bytes == 0 {
        sums.fill(0);
        return;
    }
    let flip = if biased { 0x80 } else { 0 };
    engine.vectorize(
        #[inline(always)]
        || {
            for (panel, sums) in packed.chunks_exact(panel_bytes).zip(sums.chunks_mut(nr)) {
                let mut total = [0i32; NR_MAX];
                for group in panel.chunks_exact(nr * kr) {
                    for (t, bytes) in total.iter_mut().zip(group.chunks_exact(kr)) {
                        *t += bytes
                            .iter()
                            .map(|b| i32::from((b ^ flip) as i8))
                            .sum::<i32>();
                    }
                }
                sums.copy_from_slice(&total[..sums.len()]);
            }
        },
    );
}
