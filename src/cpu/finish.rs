//! The epilogue of sums that lie in memory: what was added up over several products, or over several ranks.

use super::engine::Engine;
use super::kernel::{Kernel, ACC};
use super::select::with_engine;
use super::store::{convert, Finished};
use super::threads::Threads;
use super::Cpu;
use crate::element::OutputMut;
use crate::epilogue::{Resolved, Tile};
use crate::numerics;
use ndarray::{s, Array2, ArrayView2, ArrayViewMut2, Axis};

/// Columns of a tile here.
const WIDTH: usize = 32;
/// Rows of a tile: as many as every kernel has room for.
const ROWS: usize = ACC / WIDTH;
/// Elements that are worth a second thread.
const ALONE: usize = 1 << 16;

/// Sums of a product, `[M, N]`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sums<'a> {
    /// Exact, before any scale.
    Exact(ArrayView2<'a, i32>),
    /// Over scale groups, which the columns' scales are in already.
    Scaled(ArrayView2<'a, f32>),
}

/// What belongs to the rows of the sums.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowParts<'a> {
    /// `[M]`.
    pub scales: &'a [f32],
    /// `[M]`; read only when the epilogue has column sums.
    pub zero_points: &'a [i32],
}

impl Cpu {
    /// Finishes sums into `out`, a checked place of a float or int8 type. The bits are those of a product with this
    /// epilogue.
    pub(crate) fn finish(
        &self,
        sums: Sums<'_>,
        rows: RowParts<'_>,
        resolved: &Resolved<'_>,
        out: OutputMut<'_>,
    ) {
        let job = Finish {
            sums,
            rows,
            resolved,
        };
        with_engine!(self.kernel, engine => job.run(engine.kernel(), &self.threads, out));
    }

    /// `f` compiled with the vector instructions at hand.
    pub(crate) fn vectorized<R>(&self, f: impl FnOnce() -> R) -> R {
        with_engine!(self.kernel, engine => Engine::vectorize(engine, f))
    }
}

struct Finish<'s, 'r, 'e> {
    sums: Sums<'s>,
    rows: RowParts<'r>,
    resolved: &'r Resolved<'e>,
}

impl Finish<'_, '_, '_> {
    fn run<L: Kernel>(&self, kernel: L, threads: &Threads, out: OutputMut<'_>) {
        match out {
            OutputMut::F32(out) => self.bands(kernel, threads, out),
            OutputMut::F16(out) => self.bands(kernel, threads, out),
            OutputMut::BF16(out) => self.bands(kernel, threads, out),
            OutputMut::I8(out) => self.bands(kernel, threads, out),
            OutputMut::I8PerRow { mut data, scales } => {
                let cols = data.ncols();
                let rows = data.axis_iter_mut(Axis(0)).zip(scales).enumerate();
                let workers = self.workers(threads);
                threads.run_each(workers, rows.collect(), |_, (row, (mut to, scale))| {
                    let (mut floats, mut q) = (Array2::<f32>::zeros((1, cols)), vec![0; cols]);
                    self.band(kernel, row, floats.view_mut());
                    let floats = floats.as_slice().expect("row-major");
                    *scale = numerics::quantize_row(floats, &mut q, || ());
                    to.iter_mut().zip(q).for_each(|(to, q)| *to = q);
                });
            }
            // Raw sums have no epilogue: the caller's check keeps them out.
            OutputMut::I32(_) => unreachable!("sums are finished into floats or int8"),
        }
    }

    fn workers(&self, threads: &Threads) -> usize {
        let elements = match self.sums {
            Sums::Exact(sums) => sums.len(),
            Sums::Scaled(sums) => sums.len(),
        };
        if elements < ALONE {
            1
        } else {
            threads.count()
        }
    }

    fn bands<L: Kernel, O: Finished>(
        &self,
        kernel: L,
        threads: &Threads,
        mut out: ArrayViewMut2<'_, O>,
    ) {
        let bands = out.axis_chunks_iter_mut(Axis(0), ROWS).collect();
        threads.run_each(self.workers(threads), bands, |band, out| {
            self.band(kernel, band * ROWS, out);
        });
    }

    /// Finishes the rows from `row0` on that `out` has room for, [`ROWS`] at most.
    fn band<L: Kernel, O: Finished>(&self, kernel: L, row0: usize, mut out: ArrayViewMut2<'_, O>) {
        let rows = out.nrows();
        let n = match self.sums {
            Sums::Exact(sums) => sums.ncols(),
            Sums::Scaled(sums) => sums.ncols(),
        };
        let mut finished = [O::default(); ACC];
        for col in (0..n).step_by(WIDTH) {
            let cols = WIDTH.min(n - col);
            let tile = Tile {
                row: row0,
                col,
                rows,
                cols,
                nr: WIDTH,
                scales: &self.rows.scales[row0..row0 + rows],
                zero_points: &self.rows.zero_points[row0..row0 + rows],
            };
            self.tile(kernel, &tile, &mut finished);
            let (first, cols) = (self.resolved.halved(col), self.resolved.halved(cols));
            for (i, mut to) in out.axis_iter_mut(Axis(0)).enumerate() {
                let from = &finished[i * WIDTH..][..cols];
                to.slice_mut(s![first..first + cols])
                    .iter_mut()
                    .zip(from)
                    .for_each(|(to, from)| *to = *from);
            }
        }
    }

    fn tile<L: Kernel, O: Finished>(&self, kernel: L, tile: &Tile<'_>, out: &mut [O; ACC]) {
        let part = s![
            tile.row..tile.row + tile.rows,
            tile.col..tile.col + tile.cols
        ];
        match self.sums {
            Sums::Exact(sums) => {
                let mut acc = [0; ACC];
                gather(sums.slice(part), &mut acc);
                O::finish(kernel, self.resolved, tile, &mut acc, out);
            }
            Sums::Scaled(sums) => {
                let mut floats = [0f32; ACC];
                gather(sums.slice(part), &mut floats);
                kernel.vectorize(
                    #[inline(always)]
                    || self.resolved.groupwise(tile, &mut floats),
                );
                convert(kernel, self.resolved, tile, &floats, out);
            }
        }
    }
}

fn gather<T: Copy>(from: ArrayView2<'_, T>, tile: &mut [T; ACC]) {
    for (row, to) in from.rows().into_iter().zip(tile.chunks_mut(WIDTH)) {
        to.iter_mut().zip(row).for_each(|(to, from)| *to = *from);
    }
}
