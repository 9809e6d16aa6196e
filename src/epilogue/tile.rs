//! The epilogue of one tile on the host, vectorised: what every kernel of the CPU runs.

use super::Scales;
use crate::activation::Activation;
use crate::element::{Element, FloatView};

/// An epilogue with everything looked up that does not depend on the row: what a kernel's store step reads.
#[derive(Default)]
pub(crate) struct Resolved<'a> {
    /// Scales a column.
    pub col_scales: Scales<&'a [f32]>,
    /// Column sums of the weights, present when there are zero points.
    pub col_sums: Option<&'a [i32]>,
    /// Bias widened to f32.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Activation,
    /// Pairs of columns become one.
    pub gated: bool,
    /// Added last.
    pub residual: Option<FloatView<'a>>,
    /// `1 / scale` of an int8 output.
    pub out_multiplier: f32,
}

/// Columns of a [`Tile`] at most: the widest panel.
pub(crate) const WIDTH: usize = 32;

impl Resolved<'_> {
    /// The output's column, or number of columns, that a column or number of the product becomes.
    #[inline(always)]
    pub fn halved(&self, col: usize) -> usize {
        if self.gated {
            col / 2
        } else {
            col
        }
    }

    /// Turns the sums of a tile into f32, step by step as the module says. A gated row's are the first half of its
    /// columns in `out`; what lies beside the tile's columns there is of no use.
    #[inline(always)]
    pub fn tile(&self, tile: &Tile<'_>, acc: &mut [i32], out: &mut [f32]) {
        self.correct(tile, acc);
        let columns = |all: &'_ [f32]| -> [f32; WIDTH] {
            let mut columns = [0f32; WIDTH];
            columns[..tile.cols].copy_from_slice(&all[tile.col..tile.col + tile.cols]);
            columns
        };
        match (self.col_scales, self.bias) {
            (Scales::PerVector(s), None) => {
                let s = [columns(s)];
                tile.each(acc, out, &s, |a, row, [s]| (a as f32 * row) * s);
            }
            (Scales::PerVector(s), Some(b)) => {
                let columns = [columns(s), columns(b)];
                tile.each(acc, out, &columns, |a, row, [s, b]| {
                    (a as f32 * row).mul_add(s, b)
                });
            }
            (Scales::PerTensor(s), None) => {
                tile.each(acc, out, &[], |a, row, []| (a as f32 * row) * s);
            }
            (Scales::None, None) => tile.each(acc, out, &[], |a, row, []| a as f32 * row),
            (one, Some(b)) => {
                let (s, b) = (one.at(0), [columns(b)]);
                tile.each(acc, out, &b, |a, row, [b]| (a as f32 * row).mul_add(s, b));
            }
        }
        self.activate(tile, out);
    }

    /// The same from sums over scale groups, which the columns' scales are in already.
    #[inline(always)]
    pub fn groupwise(&self, tile: &Tile<'_>, sums: &mut [f32]) {
        for (i, scale) in tile.scales.iter().enumerate() {
            let sums = &mut sums[i * tile.nr..][..tile.cols];
            match self.bias {
                None => sums.iter_mut().for_each(|v| *v *= scale),
                Some(bias) => {
                    let columns = sums.iter_mut().zip(&bias[tile.col..]);
                    columns.for_each(|(v, b)| *v = v.mul_add(*scale, *b));
                }
            }
        }
        self.activate(tile, sums);
    }

    /// What follows the bias: activation, gate, residual.
    #[inline(always)]
    fn activate(&self, tile: &Tile<'_>, out: &mut [f32]) {
        if self.activation == Activation::None && !self.gated && self.residual.is_none() {
            return;
        }
        for i in 0..tile.rows {
            let out = &mut out[i * tile.nr..][..tile.cols];
            let out = if self.gated {
                gate(self.activation, out)
            } else {
                self.activation.apply_row(out);
                out
            };
            let (row, col) = (tile.row + i, self.halved(tile.col));
            match &self.residual {
                None => {}
                Some(FloatView::F32(r)) => add(out, r, row, col),
                Some(FloatView::F16(r)) => add(out, r, row, col),
                Some(FloatView::BF16(r)) => add(out, r, row, col),
            }
        }
    }

    /// Subtracts the zero points' share from raw sums, in wrapping i32: exact wherever the result fits.
    #[inline(always)]
    pub fn correct(&self, tile: &Tile<'_>, acc: &mut [i32]) {
        let Some(sums) = self.col_sums else {
            return;
        };
        let sums = &sums[tile.col..tile.col + tile.cols];
        for (i, zero_point) in tile.zero_points.iter().enumerate() {
            let acc = &mut acc[i * tile.nr..][..tile.cols];
            for (a, s) in acc.iter_mut().zip(sums) {
                *a = a.wrapping_sub(zero_point.wrapping_mul(*s));
            }
        }
    }
}

/// Where a tile of sums lies, and its rows' constants.
pub(crate) struct Tile<'a> {
    /// The first row and column.
    pub row: usize,
    pub col: usize,
    /// How many there are; [`WIDTH`] columns at most, an even number when gated.
    pub rows: usize,
    pub cols: usize,
    /// Elements from a row to the next, here and in what is made of it: a multiple of eight.
    pub nr: usize,
    /// One a row.
    pub scales: &'a [f32],
    pub zero_points: &'a [i32],
}

impl Tile<'_> {
    /// `out = f(acc, the row's scale, the columns' numbers)` for all of a tile, some columns beyond its own included.
    #[inline(always)]
    fn each<const C: usize>(
        &self,
        acc: &[i32],
        out: &mut [f32],
        columns: &[[f32; WIDTH]; C],
        f: impl Fn(i32, f32, [f32; C]) -> f32,
    ) {
        if self.nr.is_multiple_of(16) {
            self.in_lanes::<C, 16>(acc, out, columns, f);
        } else {
            self.in_lanes::<C, 8>(acc, out, columns, f);
        }
    }

    /// The same in vectors of that length: arrays of their own, with nothing to find out about what overlaps.
    #[inline(always)]
    fn in_lanes<const C: usize, const LANES: usize>(
        &self,
        acc: &[i32],
        out: &mut [f32],
        columns: &[[f32; WIDTH]; C],
        f: impl Fn(i32, f32, [f32; C]) -> f32,
    ) {
        for j in (0..self.cols).step_by(LANES) {
            let mut column = [[0f32; LANES]; C];
            for (column, all) in column.iter_mut().zip(columns) {
                column.copy_from_slice(&all[j..j + LANES]);
            }
            for (i, scale) in self.scales.iter().enumerate() {
                let mut lanes = [0f32; LANES];
                let acc = &acc[i * self.nr + j..][..LANES];
                for (l, lane) in lanes.iter_mut().enumerate() {
                    *lane = f(acc[l], *scale, std::array::from_fn(|c| column[c][l]));
                }
                out[i * self.nr + j..][..LANES].copy_from_slice(&lanes);
            }
        }
    }
}

/// Makes the pairs of `row` its first half.
#[inline(always)]
fn gate(activation: Activation, row: &mut [f32]) -> &mut [f32] {
    // Apart from each other, so that the activation runs on whole vectors.
    let (mut gates, mut ups) = ([0f32; WIDTH / 2], [0f32; WIDTH / 2]);
    let n = row.len() / 2;
    let (gates, ups) = (&mut gates[..n], &mut ups[..n]);
    for ((gate, up), pair) in gates.iter_mut().zip(&mut *ups).zip(row.chunks_exact(2)) {
        (*gate, *up) = (pair[0], pair[1]);
    }
    activation.apply_row(gates);
    let out = &mut row[..n];
    for ((out, gate), up) in out.iter_mut().zip(gates).zip(ups) {
        *out = *gate * *up;
    }
    out
}

#[inline(always)]
fn add<T: Element>(
    out: &mut [f32],
    residual: &ndarray::ArrayView2<'_, T>,
    row: usize,
    col0: usize,
) {
    let residual = residual.row(row);
    for (j, o) in out.iter_mut().enumerate() {
        *o += residual[col0 + j].to_f32();
    }
}
