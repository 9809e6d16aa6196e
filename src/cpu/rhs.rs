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
use super::zip_rows::Panels;
use crate::element::Element;
use crate::numerics;
use ndarray::{s, ArrayView1, ArrayView2};

/// A matrix whose elements become weights: integers as they are, floats times their column's multiplier.
pub(crate) trait Source: Copy + Default + Send + Sync {
    /// The integer of one element.
    fn quantize(self, multiplier: f32) -> i8;
    /// The same for an element of a column whose elements are all finite: nothing to clip, and no NaN.
    fn quantize_finite(self, multiplier: f32) -> i8;
    /// The bit pattern of |x| as f32, whose maximum over a column is that of its absmax.
    fn magnitude(self) -> u32;
}

impl Source for i8 {
    #[inline(always)]
    fn quantize(self, _: f32) -> i8 {
        self
    }
    #[inline(always)]
    fn quantize_finite(self, _: f32) -> i8 {
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
            fn quantize_finite(self, multiplier: f32) -> i8 {
                numerics::round(Element::to_f32(self) * multiplier)
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
                by_rows::<T, L>(source, col0, scales);
            }
            for (s, m) in scales.iter_mut().zip(multipliers) {
                let bound = numerics::bound(*s);
                (*m, *s) = (numerics::multiplier(bound), numerics::scale(bound));
            }
        },
    );
}

/// Rows whose magnitudes are taken together.
const BLOCK: usize = 8;

/// Magnitudes of columns, row by row: the maximum of each so far and of the source, as bit patterns of floats.
#[inline(always)]
fn by_rows<T: Source, L: Kernel>(source: &ArrayView2<'_, T>, col0: usize, maxima: &mut [f32]) {
    let (k, n) = (source.nrows(), maxima.len());
    if !row_major(source) {
        for k in 0..k {
            for (j, s) in maxima.iter_mut().enumerate() {
                *s = f32::from_bits(s.to_bits().max(source[[k, col0 + j]].magnitude()));
            }
        }
        return;
    }
    let mut rows: [&[T]; BLOCK] = [&[]; BLOCK];
    for k0 in (0..k).step_by(BLOCK) {
        for (r, row) in rows.iter_mut().enumerate() {
            // A last block repeats its last row.
            *row = &contiguous(source, (k0 + r).min(k - 1))[col0..col0 + n];
            if L::ASKS_AHEAD {
                let far = BLOCK as isize * source.strides()[0];
                prefetch::all(row.as_ptr().wrapping_offset(far).cast(), size_of_val(*row));
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
pub(crate) fn contiguous<'a, T>(source: &'a ArrayView2<'_, T>, row: usize) -> &'a [T] {
    let row = source.row(row).to_slice();
    row.expect("the rows of a row-major matrix are contiguous")
}

/// Whether rows are contiguous.
pub(crate) fn row_major<T>(source: &ArrayView2<'_, T>) -> bool {
    source.strides()[1] == 1
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
    engine.vectorize(
        #[inline(always)]
        || {
            if !row_major(source) {
                for (p, out) in out.chunks_exact_mut(panel_bytes).enumerate() {
                    let first = col0 + p * E::LAYOUT.nr;
                    let cols = E::LAYOUT.nr.min(n - first);
                    let multipliers = multipliers.get(p * E::LAYOUT.nr..).unwrap_or(&[]);
                    pack_columns(E::LAYOUT, source, first, cols, multipliers, staging, out);
                }
                return;
            }
            let panels = Panels {
                layout: E::LAYOUT,
                asks_ahead: E::Kernel::ASKS_AHEAD,
                source,
                col0,
                multipliers,
            };
            panels.zip_rows(out);
        },
    );
}

/// The widest panel of any layout.
const NR_MAX: usize = 32;

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
                if kr == 4 {
                    // The bytes of a word by shifts, so that columns are lanes.
                    let flip = i32::from_ne_bytes([flip; 4]);
                    for group in panel.chunks_exact(nr * 4) {
                        for (t, word) in total.iter_mut().zip(group.as_chunks::<4>().0) {
                            let word = i32::from_le_bytes(*word) ^ flip;
                            *t += (word << 24 >> 24)
                                + (word << 16 >> 24)
                                + (word << 8 >> 24)
                                + (word >> 24);
                        }
                    }
                } else {
                    for group in panel.chunks_exact(nr * 2) {
                        for (t, [low, high]) in total.iter_mut().zip(group.as_chunks::<2>().0) {
                            *t += i32::from((low ^ flip) as i8) + i32::from((high ^ flip) as i8);
                        }
                    }
                }
                sums.copy_from_slice(&total[..sums.len()]);
            }
        },
    );
}
