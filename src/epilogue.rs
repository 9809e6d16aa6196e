//! What happens to an int32 sum on its way out, as a value: one definition for all kernels.
//!
//! ```text
//! s = acc - zero_point[row] * column_sum[col]          i32, exact
//! v = f32(s) * row_scale[row]                          rounded to nearest even
//! v = v * col_scale[col]                               without a bias
//! v = fma(v, col_scale[col], bias[col])                with one
//! v = activation(v)
//! v = v + residual[row, col]
//! out = v as f32 | rounded once to f16 or bf16 | clip(round_half_even(v * (1 / out_scale)), -127, 127) as i8
//! ```
//!
//! An i32 output is the raw sum `s`.
//!
//! A *gated* epilogue (SwiGLU, GEGLU, ReGLU by the activation) takes the columns in pairs, gate before up, and the output
//! has half of them. Scales, column sums and bias are those of the product's columns, the residual that of the output:
//!
//! ```text
//! col      0       1     2       3          N - 2         N - 1        v as above, up to the activation
//!          gate 0  up 0  gate 1  up 1  ...  gate N/2 - 1  up N/2 - 1
//! w[row, j] = activation(v[row, 2 j]) * v[row, 2 j + 1]                rounded to nearest even
//! w = w + residual[row, j]                                             and on as above
//! ```
//!
//! Neighbours are in one tile whatever the tile is. [`interleave_gate_up`](crate::interleave_gate_up) lays weights, scales
//! and biases out so.

use crate::activation::Activation;
use crate::element::{DType, Element, FloatSlice, FloatView};
use crate::error::{Error, Result};

/// The scales of one side of a product.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Scales<'a> {
    /// No scale: a factor of 1.
    #[default]
    None,
    /// One scale for the whole tensor.
    PerTensor(f32),
    /// One scale a row of the left operand (per token), or a column of the right one (per channel).
    PerVector(&'a [f32]),
}

impl Scales<'_> {
    /// The scale of row or column `i`.
    #[inline(always)]
    pub(crate) fn at(&self, i: usize) -> f32 {
        match self {
            Scales::None => 1.0,
            Scales::PerTensor(s) => *s,
            Scales::PerVector(s) => s[i],
        }
    }

    fn check(&self, what: &'static str, expected: usize) -> Result<()> {
        match self {
            Scales::PerVector(s) => check_length(what, s.len(), expected),
            _ => Ok(()),
        }
    }
}

/// The steps between the int32 sum and the output; see the [module](self) for their order and rounding.
///
/// ```
/// use imma::{Activation, Epilogue, FloatSlice};
/// let bias = [0.5f32, -0.5];
/// let epilogue = Epilogue {
///     bias: Some(FloatSlice::F32(&bias)),
///     activation: Activation::Relu,
///     ..Epilogue::default()
/// };
/// assert!(epilogue.residual.is_none());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Epilogue<'a> {
    /// Scales of the left operand's rows. Left operands given as floats bring their own: then this stays `None`.
    pub row_scales: Scales<'a>,
    /// Scales of the weights' columns. `None` takes those that the packed weights carry, if any.
    pub col_scales: Scales<'a>,
    /// The integers that stand for 0.0 in each row of the left operand; one for all, or one a row.
    pub row_zero_points: Option<&'a [i32]>,
    /// Added to each column, `[N]`.
    pub bias: Option<FloatSlice<'a>>,
    /// Applied after the bias; of a gated product to the gate alone.
    pub activation: Activation,
    /// Columns `2 j` and `2 j + 1` are a gate and what it multiplies: the output is `[M, N / 2]`.
    pub gated: bool,
    /// Added last, in the output's shape.
    pub residual: Option<FloatView<'a>>,
    /// The step of an i8 output: needed there, refused elsewhere.
    pub out_scale: Option<f32>,
}

/// Columns of the output of a product with `n` columns.
pub(crate) fn output_columns(n: usize, gated: bool) -> Result<usize> {
    match (gated, n % 2) {
        (false, _) => Ok(n),
        (true, 0) => Ok(n / 2),
        (true, _) => Err(Error::Value {
            what: "the columns of a gated product",
            found: n.to_string(),
            expected: "an even number: pairs of gate and up".into(),
        }),
    }
}

fn check_length(what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::Length {
            what,
            found,
            expected,
        })
    }
}

impl Epilogue<'_> {
    /// Checks every length against an `[m, n]` product and the parts against the output type.
    pub(crate) fn check(&self, m: usize, n: usize, output: DType) -> Result<()> {
        let out = output_columns(n, self.gated)?;
        self.row_scales.check("row scales", m)?;
        self.col_scales.check("column scales", n)?;
        if let Some(zero_points) = self.row_zero_points {
            if zero_points.len() != 1 {
                check_length("row zero points", zero_points.len(), m)?;
            }
            if let Some(bad) = zero_points.iter().find(|z| !(-128..=127).contains(*z)) {
                return Err(Error::Value {
                    what: "a row zero point",
                    found: bad.to_string(),
                    expected: "a value in -128..=127".into(),
                });
            }
        }
        if let Some(bias) = self.bias {
            check_length("bias", bias.len(), n)?;
        }
        if let Some(residual) = &self.residual {
            let (rows, cols) = residual.dim();
            if (rows, cols) != (m, out) {
                return Err(Error::Shape {
                    op: "epilogue",
                    what: "residual",
                    found: vec![rows, cols],
                    expected: format!("[{m}, {out}]"),
                });
            }
        }
        let refuse = |what, expected| {
            Err(Error::Epilogue {
                what,
                output,
                expected,
            })
        };
        match (output, self.out_scale) {
            (DType::I8, None) => return refuse("no out_scale", "an out_scale above zero"),
            (DType::I8, Some(s)) if !(s > 0.0 && (1.0 / s).is_finite()) => {
                return Err(Error::Value {
                    what: "out_scale",
                    found: s.to_string(),
                    expected: "a number above zero with a finite inverse".into(),
                })
            }
            (DType::I8, Some(_)) | (_, None) => {}
            (_, Some(_)) => return refuse("an out_scale", "an out_scale only with i8 output"),
        }
        if output == DType::I32 {
            if self.row_scales != Scales::None || self.col_scales != Scales::None {
                return refuse("scales", "the raw sums carry no scales");
            }
            if self.bias.is_some() || self.residual.is_some() || self.activation != Activation::None
            {
                return refuse("a bias, activation or residual", "the raw sums only");
            }
            if self.gated {
                return refuse(
                    "a gated product",
                    "a float or i8 output: pairs of raw sums have no product",
                );
            }
        }
        Ok(())
    }
}

/// An epilogue with everything looked up that does not depend on the row: what a kernel's store step reads.
#[derive(Default)]
pub(crate) struct Resolved<'a> {
    /// Scales a column.
    pub col_scales: Scales<'a>,
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
    /// `1 / out_scale`.
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
