//! Weights with one scale for each group of K and each column: the same leaves, run a group at a time.
//!
//! ```text
//!   K ->  | group 0        | group 1        | ... | last, may be shorter |
//!         | i32 tile       | i32 tile       |     | i32 tile             |    exact
//!              * scale[0][n]    * scale[1][n]           * scale[G-1][n]      v = fma(f32(sum), scale, v), in this order
//! ```
//!
//! A packed panel holds whole groups of KR consecutive k one after the other, and so do packed rows: a group of scales is
//! a range of both.

use super::aligned::AlignedBytes;
use super::engine::Engine;
use super::leaf::{Leaf, Trailing, ACC};
use super::lhs::{LhsBlock, LhsPanel};
use super::threads::Threads;
use super::{driver, with_leaf, Cpu};
use crate::activation::Activation;
use crate::epilogue::Epilogue;
use crate::error::{Error, Result};
use crate::gemm::Lhs;
use ndarray::{s, Array2, ArrayView2};
use rayon::prelude::*;

/// Packed int8 weights `[K, N]` with scales `[G, N]`.
pub(crate) struct GroupedWeights {
    pub k: usize,
    pub n: usize,
    /// K a group.
    pub size: usize,
    layout: &'static str,
    bytes: AlignedBytes,
    scales: Array2<f32>,
}

/// What happens to the sums over the groups on their way out.
pub(crate) struct Finish<'a> {
    pub bias: Option<&'a [f32]>,
    pub activation: Activation,
}

impl Finish<'_> {
    #[inline(always)]
    fn row(&self, sums: &mut [f32], scale: f32, col: usize) {
        match self.bias {
            None => sums.iter_mut().for_each(|v| *v *= scale),
            Some(bias) => {
                let columns = sums.iter_mut().zip(&bias[col..]);
                columns.for_each(|(v, b)| *v = v.mul_add(scale, *b));
            }
        }
        self.activation.apply_row(sums);
    }
}

impl Cpu {
    /// The order that the leaf of this backend's engine reads: groups of scales may start anywhere.
    fn leaf_layout(&self) -> &'static str {
        fn name<E: Engine>(_: E) -> &'static str {
            <E::Leaf as Leaf>::LAYOUT.name
        }
        with_leaf!(self.kernel, leaf => name(leaf))
    }

    /// Packs `weight [K, N]`; `scales` is `[K / size rounded up, N]` and `size` a multiple of 4.
    pub(crate) fn pack_grouped(
        &self,
        weight: ArrayView2<'_, i8>,
        scales: Array2<f32>,
        size: usize,
    ) -> GroupedWeights {
        let (k, n) = weight.dim();
        assert!(size > 0 && size.is_multiple_of(4));
        assert_eq!(scales.dim(), (k.div_ceil(size), n));
        let threads = &self.threads;
        let bytes =
            with_leaf!(self.kernel, leaf => driver::pack(leaf.leaf(), threads, &weight, false).0);
        GroupedWeights {
            k,
            n,
            size,
            layout: self.leaf_layout(),
            bytes,
            scales: scales.as_standard_layout().into_owned(),
        }
    }

    /// `finish(lhs [M, K] x weights)`.
    pub(crate) fn gemm_grouped(
        &self,
        lhs: &Lhs<'_>,
        weights: &GroupedWeights,
        finish: &Finish<'_>,
    ) -> Result<Array2<f32>> {
        if weights.layout != self.leaf_layout() {
            return Err(Error::PackedElsewhere {
                found: weights.layout.into(),
                expected: self.leaf_layout().into(),
            });
        }
        Ok(with_leaf!(self.kernel, leaf => gemm(leaf.leaf(), &self.threads, lhs, weights, finish)))
    }
}

fn gemm<L: Leaf>(
    leaf: L,
    threads: &Threads,
    lhs: &Lhs<'_>,
    w: &GroupedWeights,
    finish: &Finish<'_>,
) -> Array2<f32> {
    let m = lhs.dim().0;
    let mut out = Array2::zeros((m, w.n));
    if m == 0 || w.n == 0 {
        return out;
    }
    let nr = L::LAYOUT.nr;
    // Tasks of rows and of whole panels; each makes a matrix of its own, which is copied once.
    let rows = (4 * L::MR).min(m);
    let cols = if m <= rows {
        let share = L::LAYOUT.panels(w.n).div_ceil(4 * threads.count());
        share.max(1) * nr
    } else {
        w.n
    };
    let tasks: Vec<_> = (0..m)
        .step_by(rows)
        .flat_map(|row| (0..w.n).step_by(cols).map(move |col| (row, col)))
        .collect();
    let task = |(row, col): (usize, usize)| {
        let (rows, cols) = (rows.min(m - row), cols.min(w.n - col));
        let mut block = LhsBlock::default();
        block.fill(leaf, lhs, &Epilogue::default(), row, rows);
        let mut part = Array2::<f32>::zeros((rows, cols));
        for panel in block.panels() {
            let starts = starts::<L>(&panel, w);
            for first in (0..cols).step_by(nr) {
                let width = nr.min(cols - first);
                let mut sums = [0f32; ACC];
                tile(leaf, &panel, w, &starts, col + first, width, &mut sums);
                for i in 0..panel.m {
                    let sums = &mut sums[i * nr..][..width];
                    leaf.vectorize(
                        #[inline(always)]
                        || finish.row(sums, panel.scales[i], col + first),
                    );
                    let to = part.slice_mut(s![panel.row + i, first..first + width]);
                    to.into_slice().expect("a row").copy_from_slice(sums);
                }
            }
        }
        (row, col, part)
    };
    let workers = threads.count().min(tasks.len());
    let parts: Vec<_> = match threads {
        _ if workers <= 1 => tasks.into_iter().map(task).collect(),
        Threads::Pool(pool) => pool.install(|| tasks.into_par_iter().map(task).collect()),
        _ => tasks.into_par_iter().map(task).collect(),
    };
    for (row, col, part) in parts {
        let (rows, cols) = part.dim();
        out.slice_mut(s![row..row + rows, col..col + cols])
            .assign(&part);
    }
    out
}

/// Where the sums of each group and row start: -128 times the row's sum over the group, for weights stored plus 128.
fn starts<L: Leaf>(panel: &LhsPanel<'_>, w: &GroupedWeights) -> Vec<i32> {
    let groups = w.k.div_ceil(w.size);
    let mut starts = vec![0; groups * panel.m];
    if !L::LAYOUT.biased {
        return starts;
    }
    assert_eq!(L::LAYOUT.kr, 4, "a biased word holds four bytes");
    let words = w.size / 4;
    for (g, starts) in starts.chunks_mut(panel.m).enumerate() {
        let end = ((g + 1) * words * panel.m).min(panel.words.len());
        for words in panel.words[g * words * panel.m..end].chunks(panel.m) {
            for (start, word) in starts.iter_mut().zip(words) {
                let sum: i32 = word.to_ne_bytes().iter().map(|b| i32::from(*b as i8)).sum();
                *start -= 128 * sum;
            }
        }
    }
    starts
}

/// One tile: its exact sums group by group, scaled and added up in f32.
#[inline(always)]
fn tile<L: Leaf>(
    leaf: L,
    panel: &LhsPanel<'_>,
    w: &GroupedWeights,
    starts: &[i32],
    col: usize,
    width: usize,
    sums: &mut [f32; ACC],
) {
    let (nr, kr, m) = (L::LAYOUT.nr, L::LAYOUT.kr, panel.m);
    let all = L::LAYOUT.groups(w.k);
    let bytes = &w.bytes.as_slice()[col / nr * L::LAYOUT.panel_bytes(w.k)..];
    let words = w.size / kr;
    let mut acc = [0i32; ACC];
    let acc = &mut acc[..m * nr];
    for g in 0..w.k.div_ceil(w.size) {
        let (from, to) = (g * words, ((g + 1) * words).min(all));
        let lhs = &panel.words[from * m..to * m];
        let rhs = &bytes[from * nr * kr..to * nr * kr];
        leaf.tile(
            m,
            to - from,
            lhs,
            rhs,
            &starts[g * m..][..m],
            acc,
            Trailing::NONE,
        );
        let scales = w.scales.row(g);
        let scales = &scales.to_slice().expect("row-major")[col..col + width];
        leaf.vectorize(
            #[inline(always)]
            || {
                for i in 0..m {
                    let sums = &mut sums[i * nr..][..width];
                    let acc = &acc[i * nr..][..width];
                    for ((v, a), s) in sums.iter_mut().zip(acc).zip(scales) {
                        *v = (*a as f32).mul_add(*s, *v);
                    }
                }
            },
        );
    }
}
