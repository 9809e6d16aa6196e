//! Rows of which every rank has a slice, quantised as the whole rows would be.

use crate::cpu::Cpu;
use crate::element::Element;
use crate::gemm::ActivationQuant;
use crate::numerics;
use ndarray::{Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

/// Clears the sign: the order of these bits as integers is that of magnitudes, with infinity above the numbers and NaN
/// above infinity.
const MAGNITUDE: u32 = 0x7fff_ffff;

/// Rows that were quantised with constants of their whole length.
pub(super) struct Rows {
    /// `[M, this rank's columns]`.
    pub q: Array2<i8>,
    /// `[M]`, the same on all ranks.
    pub scales: Vec<f32>,
    /// `[M]`, zeros for symmetric rows.
    pub zero_points: Vec<i32>,
}

/// What a rank says of its slices: integers whose maximum over the ranks says the same of the whole rows.
///
/// ```text
/// symmetric, static   [M]   absmax of the row
/// asymmetric          [2M]  the row's maximum, or 0; then minus its minimum, or 0; both absmax if that is not finite
/// ```
pub(super) fn extents<T: Element>(
    cpu: &Cpu,
    x: ArrayView2<'_, T>,
    input: ActivationQuant,
) -> Vec<u32> {
    let (m, asymmetric) = (x.nrows(), input == ActivationQuant::PerTokenAsymmetric);
    let mut bits = vec![0; if asymmetric { 2 * m } else { m }];
    let (low, high) = bits.split_at_mut(m);
    let rows: Vec<_> = x.axis_iter(Axis(0)).collect();
    let rows = rows.into_par_iter();
    if !asymmetric {
        let pairs = rows.zip(low);
        pairs.for_each(|(row, absmax)| *absmax = magnitude(cpu, row));
        return bits;
    }
    let pairs = rows.zip(low).zip(high);
    pairs.for_each(|((row, up), down)| (*up, *down) = ends(cpu, row));
    bits
}

fn magnitude<T: Element>(cpu: &Cpu, row: ArrayView1<'_, T>) -> u32 {
    let absmax = match row.as_slice() {
        Some(row) => cpu.vectorized(
            #[inline(always)]
            || numerics::absmax(row.iter().map(|x| x.to_f32())),
        ),
        None => numerics::absmax(row.iter().map(|x| x.to_f32())),
    };
    absmax.to_bits()
}

/// How far a row goes up and down from zero.
fn ends<T: Element>(cpu: &Cpu, row: ArrayView1<'_, T>) -> (u32, u32) {
    let absmax = magnitude(cpu, row);
    if !f32::from_bits(absmax).is_finite() {
        return (absmax, absmax);
    }
    let (mut up, mut down) = (0, 0);
    for x in row {
        let bits = x.to_f32().to_bits();
        let side = if bits > MAGNITUDE { &mut down } else { &mut up };
        *side = (bits & MAGNITUDE).max(*side);
    }
    (up, down)
}

/// Quantises slices by the extents of the whole rows; the columns `again` follow once more after all others.
pub(super) fn quantize<T: Element>(
    cpu: &Cpu,
    x: ArrayView2<'_, T>,
    input: ActivationQuant,
    extents: &[u32],
    again: &[usize],
) -> Rows {
    let (m, k) = x.dim();
    let mut rows = Rows {
        q: Array2::zeros((m, k + again.len())),
        scales: vec![0.0; m],
        zero_points: vec![0; m],
    };
    let constants = |i: usize| Constants::new(input, extents, m, i);
    let places: Vec<_> = rows.q.axis_iter_mut(Axis(0)).collect();
    let places = places.into_par_iter();
    let places = places.zip(&mut rows.scales).zip(&mut rows.zero_points);
    let x: Vec<_> = x.axis_iter(Axis(0)).collect();
    x.into_par_iter()
        .zip(places)
        .enumerate()
        .for_each(|(i, (x, ((mut q, scale), zero_point)))| {
            let constants = constants(i);
            (*scale, *zero_point) = (constants.scale, constants.zero_point);
            let q = q.as_slice_mut().expect("row-major");
            cpu.vectorized(
                #[inline(always)]
                || constants.row(x, &mut q[..k]),
            );
            let (first, rest) = q.split_at_mut(k);
            rest.iter_mut()
                .zip(again)
                .for_each(|(q, from)| *q = first[*from]);
        });
    rows
}

/// How one row is mapped onto integers.
struct Constants {
    multiplier: f32,
    scale: f32,
    zero_point: i32,
    asymmetric: bool,
}

impl Constants {
    fn new(input: ActivationQuant, extents: &[u32], m: usize, i: usize) -> Self {
        let extent = |at: usize| f32::from_bits(extents[at]);
        // A row that is not finite is NaN in the result, though its scale is known beforehand.
        let known = |scale: f32| match extent(i).is_finite() {
            true => scale,
            false => f32::NAN,
        };
        let (multiplier, scale, zero_point) = match input {
            ActivationQuant::PerToken => {
                let bound = numerics::bound(extent(i));
                (numerics::multiplier(bound), numerics::scale(bound), 0)
            }
            ActivationQuant::PerTokenAsymmetric => {
                let a = numerics::asymmetric(-extent(m + i), extent(i));
                (a.multiplier, a.scale, a.zero_point)
            }
            ActivationQuant::Static { scale } => (1.0 / scale, known(scale), 0),
            ActivationQuant::StaticAsymmetric { scale, zero_point } => {
                (1.0 / scale, known(scale), zero_point)
            }
        };
        Constants {
            multiplier,
            scale,
            zero_point,
            asymmetric: input.has_zero_points(),
        }
    }

    #[inline(always)]
    fn row<T: Element>(&self, x: ArrayView1<'_, T>, q: &mut [i8]) {
        if self.asymmetric {
            let (multiplier, zero_point) = (self.multiplier, self.zero_point);
            for (q, x) in q.iter_mut().zip(x) {
                *q = numerics::quantize_asymmetric(x.to_f32(), multiplier, zero_point);
            }
        } else if let Some(x) = x.as_slice() {
            for (q, x) in q.iter_mut().zip(x) {
                *q = numerics::quantize(x.to_f32() * self.multiplier);
            }
        } else {
            for (q, x) in q.iter_mut().zip(x) {
                *q = numerics::quantize(x.to_f32() * self.multiplier);
            }
        }
    }
}
