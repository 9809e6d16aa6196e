//! An operand turned into integers and their scales.

use super::operand_config::OperandQuant;
use super::slices::Slices;
use crate::numerics::{bucket_edge, edge_multiplier};
use crate::ops::dimension_numbers::inverse;
use crate::quant::Calibration;
use ndarray::{ArrayD, ArrayViewD};
use rayon::prelude::*;

/// Up to how many elements are visited by one task.
const TASK: usize = 1 << 14;

/// Integers of an operand, in its shape and any strides.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantized {
    pub data: ArrayD<i8>,
    /// What the integers are multiplied by: as many axes as `data`, of length 1 where a scale is shared.
    pub scales: ArrayD<f32>,
    /// Which elements lay within the bound; made when the gradient is clipped.
    pub inside: Option<ArrayD<bool>>,
}

/// Quantises `x`, whose elements share a scale along the axes `contracted` (or wherever `config` says).
///
/// The result depends on the elements and the configuration alone, not on strides or threads.
pub(super) fn quantize<X: Copy + Sync>(
    config: &OperandQuant,
    bits: u8,
    x: ArrayViewD<'_, X>,
    widen: impl Fn(X) -> f32 + Copy + Sync,
    contracted: &[usize],
) -> Quantized {
    let order = memory_order(&x, config);
    let undo = inverse(&order);
    let shared: Vec<bool> = order
        .iter()
        .map(|axis| config.one_scale() || contracted.contains(axis))
        .collect();
    let x = x.permuted_axes(order);
    // Only a layout with gaps, or one whose order matters, is copied here.
    let x = x.as_standard_layout();
    let shape = x.shape();
    let scales_shape: Vec<usize> = shape
        .iter()
        .zip(&shared)
        .map(|(len, shared)| if *shared { 1 } else { *len })
        .collect();
    let x = x.as_slice().expect("standard layout was asked for");

    let mut data = vec![0i8; x.len()];
    let mut inside = config.clips_gradient().then(|| vec![true; x.len()]);
    let fits = if x.is_empty() {
        vec![Fit::new(config, bits, 0.0); scales_shape.iter().product()]
    } else {
        let slices = Slices::new(shape, &shared);
        let fits = fits(config, bits, x, widen, &slices);
        round(config, bits, x, widen, &slices, &fits, &mut data);
        if let Some(inside) = &mut inside {
            let within = |x: X, fit: &Fit| widen(x).abs() <= fit.bound;
            runs(x, &slices, &fits, inside, |_, x, fit| within(x, fit));
        }
        fits
    };
    let scales = fits.iter().map(Fit::scale).collect();
    Quantized {
        data: back_in_order(shape, data, &undo),
        scales: back_in_order(&scales_shape, scales, &undo),
        inside: inside.map(|inside| back_in_order(shape, inside, &undo)),
    }
}

/// How one slice is mapped onto integers.
#[derive(Clone, Copy)]
struct Fit {
    multiplier: f32,
    /// The largest magnitude that is not clipped.
    bound: f32,
}

impl Fit {
    /// That of a slice whose calibration found `magnitude`.
    fn new(config: &OperandQuant, bits: u8, magnitude: f32) -> Self {
        let bound = magnitude * config.get_clipping();
        let multiplier = edge_multiplier(bits, bound, config.scales_by_powers_of_two());
        let bound = match config.scales_by_powers_of_two() {
            // Exact: the multiplier is a power of two.
            true => bucket_edge(bits) / multiplier,
            false if bucket_edge(bits) / bound == multiplier => bound,
            false => 1.0,
        };
        Fit { multiplier, bound }
    }

    fn scale(&self) -> f32 {
        1.0 / self.multiplier
    }
}

/// How each slice is mapped onto integers.
fn fits<X: Copy + Sync>(
    config: &OperandQuant,
    bits: u8,
    x: &[X],
    widen: impl Fn(X) -> f32 + Copy + Sync,
    slices: &Slices,
) -> Vec<Fit> {
    magnitudes(config.get_calibration(), x, widen, slices)
        .into_iter()
        .map(|magnitude| Fit::new(config, bits, magnitude))
        .collect()
}

/// A row-major array whose axes were permuted, with its axes as they were before.
fn back_in_order<A>(shape: &[usize], data: Vec<A>, undo: &[usize]) -> ArrayD<A> {
    let array = ArrayD::from_shape_vec(shape, data).expect("as many elements");
    array.permuted_axes(undo)
}

/// The order of axes in which `x` lies in memory, or the logical one where the configuration depends on that.
fn memory_order<X>(x: &ArrayViewD<'_, X>, config: &OperandQuant) -> Vec<usize> {
    let mut axes: Vec<usize> = (0..x.ndim()).collect();
    if !config.needs_order() {
        axes.sort_by_key(|&a| std::cmp::Reverse(x.strides()[a].unsigned_abs()));
    }
    axes
}

/// The magnitude that each slice covers, before clipping.
fn magnitudes<X: Copy + Sync>(
    calibration: Calibration,
    x: &[X],
    widen: impl Fn(X) -> f32 + Copy + Sync,
    slices: &Slices,
) -> Vec<f32> {
    match calibration {
        Calibration::Constant(bound) => vec![bound; slices.count],
        Calibration::AbsMax => absmax(x, widen, slices),
        other => {
            // Each slice side by side, its elements in the order of the array.
            let elements = slices.elements();
            let mut gathered = vec![0f32; x.len()];
            let mut filled = vec![0; slices.count];
            for (run, &offset) in x.chunks_exact(slices.run).zip(&slices.offsets) {
                for (i, &x) in run.iter().enumerate() {
                    let slice = offset + if slices.shared { 0 } else { i };
                    gathered[slice * elements + filled[slice]] = widen(x);
                    filled[slice] += 1;
                }
            }
            let slices = gathered.par_chunks_exact(elements);
            slices.map(|slice| other.magnitude(slice)).collect()
        }
    }
}

/// The largest magnitude of each slice as bit patterns, whose maximum does not depend on the order.
fn absmax<X: Copy + Sync>(
    x: &[X],
    widen: impl Fn(X) -> f32 + Copy + Sync,
    slices: &Slices,
) -> Vec<f32> {
    let bits = |x: X| widen(x).to_bits() & 0x7fff_ffff;
    let of_runs = |x: &[X], offsets: &[usize]| {
        let mut max = vec![0u32; slices.count];
        for (run, &offset) in x.chunks_exact(slices.run).zip(offsets) {
            if slices.shared {
                let largest = run.iter().fold(0, |m, x| bits(*x).max(m));
                max[offset] = max[offset].max(largest);
            } else {
                let max = &mut max[offset..][..slices.run];
                for (m, x) in max.iter_mut().zip(run) {
                    *m = bits(*x).max(*m);
                }
            }
        }
        max
    };
    // Each task holds a maximum for every slice: no more tasks than pay for that.
    let tasks = (x.len() / TASK.max(4 * slices.count)).clamp(1, 4 * rayon::current_num_threads());
    let runs = slices.offsets.len().div_ceil(tasks);
    let max = x
        .par_chunks(runs * slices.run)
        .zip(slices.offsets.par_chunks(runs))
        .map(|(x, offsets)| of_runs(x, offsets))
        .reduce_with(|mut one, other| {
            one.iter_mut().zip(other).for_each(|(a, b)| *a = b.max(*a));
            one
        });
    let max = max.unwrap_or_default();
    max.into_iter().map(f32::from_bits).collect()
}

/// Rounds every element as its slice's fit says.
fn round<X: Copy + Sync>(
    config: &OperandQuant,
    bits: u8,
    x: &[X],
    widen: impl Fn(X) -> f32 + Copy + Sync,
    slices: &Slices,
    fits: &[Fit],
    out: &mut [i8],
) {
    let limit = bucket_edge(bits) - 0.5;
    let rounding = config.get_rounding();
    match rounding {
        crate::rounding::Rounding::NearestEven => runs(x, slices, fits, out, |_, x, fit| {
            crate::numerics::quantize_within(widen(x) * fit.multiplier, limit)
        }),
        other => runs(x, slices, fits, out, |index, x, fit| {
            other.quantize_within(widen(x), fit.multiplier, limit, index)
        }),
    }
}

/// `out[i] = f(i, x[i], its slice's fit)`, many runs per task.
#[inline(always)]
fn runs<X: Copy + Sync, O: Send>(
    x: &[X],
    slices: &Slices,
    fits: &[Fit],
    out: &mut [O],
    f: impl Fn(u64, X, &Fit) -> O + Sync,
) {
    let runs = (TASK / slices.run).max(1);
    let elements = runs * slices.run;
    let tasks = out
        .par_chunks_mut(elements)
        .zip(x.par_chunks(elements))
        .zip(slices.offsets.par_chunks(runs));
    tasks.enumerate().for_each(|(task, ((out, x), offsets))| {
        let mut index = (task * elements) as u64;
        let pairs = out
            .chunks_exact_mut(slices.run)
            .zip(x.chunks_exact(slices.run));
        for ((out, x), &offset) in pairs.zip(offsets) {
            let elements = out.iter_mut().zip(x).zip(index..);
            if slices.shared {
                let fit = &fits[offset];
                elements.for_each(|((o, x), i)| *o = f(i, *x, fit));
            } else {
                let fits = &fits[offset..][..slices.run];
                elements
                    .zip(fits)
                    .for_each(|(((o, x), i), fit)| *o = f(i, *x, fit));
            }
            index += slices.run as u64;
        }
    });
}
