//! Group-wise weights whose inputs are split: sums over groups are floats, added in the order of the groups.
//!
//! ```text
//!   K ->   | group 0 | group 1 | group 2 | group 3 |           exact int32 sums a group
//!   ranks  |  rank 0      |     rank 1      rank 2 |
//!                    ------ a group that a cut goes through: the open int32 sum goes along
//!
//!   rank 0: v = fma(f32(sum 0), scale 0, 0);   open = its part of sum 1      -> rank 1
//!   rank 1: v = fma(f32(open + its part), scale 1, v) ...                    -> rank 2 ... -> all
//! ```

use super::rows::Rows;
use super::Group;
use crate::cpu::Cpu;
use crate::element::OutputMut;
use crate::epilogue::{Epilogue, Output};
use crate::error::Result;
use crate::gemm::{Backend, Gemm, Lhs, PackedWeights, Split, Weights};
use ndarray::{s, Array2, ArrayView2};
use std::ops::Range;

/// Sums that are held at a time, in bytes; those of one row at least.
const STRIP_BYTES: usize = 16 << 20;

/// A rank's slice, a piece for each group that it has inputs of.
#[derive(Debug)]
pub(super) struct Groups {
    size: usize,
    outputs: usize,
    pieces: Vec<Piece>,
}

/// A rank's part of a group.
#[derive(Debug)]
struct Piece {
    weights: PackedWeights,
    /// Its columns in the rank's slice.
    columns: Range<usize>,
    /// The scales of the group, `[N]`, where the group ends in this piece.
    scales: Option<Vec<f32>>,
}

impl Groups {
    /// Packs a slice `[N, range]` with the scales of the groups that it has inputs of.
    pub fn pack(
        backend: &dyn Backend,
        data: ArrayView2<'_, i8>,
        scales: ArrayView2<'_, f32>,
        size: usize,
        (split, rank): (&Split, usize),
    ) -> Result<Self> {
        let (range, k) = (split.range(rank), split.length());
        let first = range.start / size;
        let groups = if range.is_empty() {
            first..first
        } else {
            first..range.end.div_ceil(size)
        };
        let piece = |group: usize| {
            let (start, end) = (group * size, ((group + 1) * size).min(k));
            let columns = start.max(range.start)..end.min(range.end);
            let columns = columns.start - range.start..columns.end - range.start;
            let weights = data.slice(s![.., columns.clone()]).reversed_axes();
            let ends = end <= range.end;
            Ok(Piece {
                weights: backend.pack(Weights::Int8(weights))?,
                columns,
                scales: ends.then(|| scales.column(group - first).to_vec()),
            })
        };
        Ok(Groups {
            size,
            outputs: data.nrows(),
            pieces: groups.map(piece).collect::<Result<_>>()?,
        })
    }

    /// The sums over all groups of all ranks, `[M, N]`, scaled by the columns' scales.
    pub fn sums(
        &self,
        group: &Group,
        (cpu, backend): (&Cpu, &dyn Backend),
        split: &Split,
        rows: &Rows,
    ) -> Result<Array2<f32>> {
        let (m, n) = (rows.q.nrows(), self.outputs);
        let mut all = Array2::zeros((m, n));
        // The same number of rows on all ranks, whatever each has of K.
        let bytes_a_row = split.length().div_ceil(self.size) * n * 4;
        let strip = (STRIP_BYTES / bytes_a_row.max(1)).max(1);
        for first in (0..m).step_by(strip) {
            let rows_here = s![first..m.min(first + strip), ..];
            let q = rows.q.slice(rows_here);
            let sums = group.or_fail(|| self.own_sums(backend, q))?;
            let mut chain = Chain::new(q.nrows() * n);
            for rank in 0..group.ranks() {
                if rank == group.rank() {
                    self.go_on(cpu, &sums, &mut chain);
                }
                let cut = split.range(rank).end;
                let open = cut != split.length() && !cut.is_multiple_of(self.size);
                chain.pass(group, rank, open)?;
            }
            let place = all.slice_mut(rows_here).into_iter();
            let values = chain.v.iter().map(|bits| f32::from_bits(*bits));
            place.zip(values).for_each(|(place, v)| *place = v);
        }
        Ok(all)
    }

    /// This rank's exact sums, a matrix a piece.
    fn own_sums(&self, backend: &dyn Backend, q: ArrayView2<'_, i8>) -> Result<Vec<Array2<i32>>> {
        let sum = |piece: &Piece| {
            let lhs = Lhs::Int8(q.slice(s![.., piece.columns.clone()]));
            let gemm = Gemm::new(lhs, &piece.weights, Epilogue::to(Output::Raw))?;
            let mut sums = Array2::zeros((q.nrows(), self.outputs));
            backend.gemm(&gemm, OutputMut::I32(sums.view_mut()))?;
            Ok(sums)
        };
        self.pieces.iter().map(sum).collect()
    }

    /// Adds this rank's groups to what the ranks before it left.
    fn go_on(&self, cpu: &Cpu, sums: &[Array2<i32>], chain: &mut Chain) {
        for (piece, sums) in self.pieces.iter().zip(sums) {
            let sums = sums.as_slice().expect("row-major");
            for (open, sum) in chain.open.iter_mut().zip(sums) {
                *open = open.wrapping_add(*sum as u32);
            }
            let Some(scales) = &piece.scales else {
                continue;
            };
            let rows = chain.v.chunks_mut(self.outputs.max(1));
            for (v, open) in rows.zip(chain.open.chunks_mut(self.outputs.max(1))) {
                cpu.vectorized(
                    #[inline(always)]
                    || close(v, open, scales),
                );
            }
        }
    }
}

/// Ends a group of one row.
#[inline(always)]
fn close(v: &mut [u32], open: &mut [u32], scales: &[f32]) {
    for ((v, open), scale) in v.iter_mut().zip(open).zip(scales) {
        let sum = std::mem::take(open) as i32 as f32;
        *v = sum.mul_add(*scale, f32::from_bits(*v)).to_bits();
    }
}

/// What goes from rank to rank, row-major: floats by their bits, and int32 sums of the group that is not at its end.
struct Chain {
    v: Vec<u32>,
    open: Vec<u32>,
}

impl Chain {
    fn new(elements: usize) -> Self {
        Chain {
            v: vec![0; elements],
            open: vec![0; elements],
        }
    }

    fn pass(&mut self, group: &Group, from: usize, open: bool) -> Result<()> {
        group.broadcast(from, &mut self.v)?;
        if open {
            group.broadcast(from, &mut self.open)?;
        } else {
            // The group ended at that rank: what others still hold of it is done with.
            self.open.fill(0);
        }
        Ok(())
    }
}
