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
use super::leaf::Layout;
use super::lhs::grow;
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

/// Columns `cols` of a source, per-channel constants first: `(multiplier, scale)` of each column.
#[inline(always)]
pub(crate) fn column_scales<T: Source, E: Engine>(
    engine: E,
    source: &ArrayView2<'_, T>,
    col0: usize,
    multipliers: &mut [f32],
    scales: &mut [f32],
) {
    let n = scales.len();
    engine.vectorize(
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
                for k in 0..source.nrows() {
                    let row = source.row(k);
                    match row.to_slice() {
                        Some(row) => {
                            for (s, x) in scales.iter_mut().zip(&row[col0..col0 + n]) {
                                *s = f32::from_bits(s.to_bits().max(x.magnitude()));
                            }
                        }
                        None => {
                            for (j, s) in scales.iter_mut().enumerate() {
                                *s = f32::from_bits(s.to_bits().max(row[col0 + j].magnitude()));
                            }
                        }
                    }
                }
            }
            for (s, m) in scales.iter_mut().zip(multipliers) {
                let bound = numerics::bound(*s);
                (*m, *s) = (numerics::multiplier(bound), numerics::scale(bound));
            }
        },
    );
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
            const STRIP: usize = 64;
            let mut k0 = 0;
            while k0 < k {
                let strip = STRIP.min(k - k0);
                for p in 0..panels {
                    let first = col0 + p * E::LAYOUT.nr;
                    let cols = E::LAYOUT.nr.min(n - first);
                    let multipliers = multipliers.get(p * E::LAYOUT.nr..).unwrap_or(&[]);
                    let start = p * panel_bytes + k0 * E::LAYOUT.nr;
                    let len = E::LAYOUT.groups(strip) * E::LAYOUT.nr * E::LAYOUT.kr;
                    let out = &mut out[start..start + len];
                    pack_rows(E::LAYOUT, source, k0, strip, first, cols, multipliers, out);
                }
                k0 += STRIP;
            }
        },
    );
}

/// The widest panel of any layout.
const NR_MAX: usize = 32;

/// Rows `k0..k0 + rows` of one panel, from a row-major source: KR rows are zipped into words.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn pack_rows<T: Source>(
    layout: Layout,
    source: &ArrayView2<'_, T>,
    k0: usize,
    rows: usize,
    first: usize,
    cols: usize,
    multipliers: &[f32],
    out: &mut [u8],
) {
    // Widths as constants, so that the loops over columns become vectors.
    match layout.nr {
        32 => pack_rows_of::<T, 32>(layout, source, k0, rows, first, cols, multipliers, out),
        16 => pack_rows_of::<T, 16>(layout, source, k0, rows, first, cols, multipliers, out),
        _ => pack_rows_of::<T, 8>(layout, source, k0, rows, first, cols, multipliers, out),
    }
}

#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn pack_rows_of<T: Source, const NR: usize>(
    layout: Layout,
    source: &ArrayView2<'_, T>,
    k0: usize,
    rows: usize,
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
        // The KR rows of this group; beyond K, zeros.
        let mut edge = [[T::default(); NR]; 4];
        let mut lines: [&[T; NR]; 4] = [&zeros; 4];
        for (b, (line, edge)) in lines.iter_mut().zip(&mut edge).take(kr).enumerate() {
            let k = g * kr + b;
            if k >= rows {
                continue;
            }
            let row = source.row(k0 + k);
            let whole = row
                .to_slice()
                .and_then(|row| row[first..].first_chunk::<NR>());
            *line = match whole {
                Some(whole) if cols == NR => whole,
                _ => {
                    for (j, e) in edge[..cols].iter_mut().enumerate() {
                        *e = row[first + j];
                    }
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
