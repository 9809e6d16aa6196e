//! Rows that are computed as floats and quantised at once, each with its own scale.

use crate::element::Element;
use crate::error::{Error, Result};
use crate::numerics;
use crate::quant::{Granularity, QuantizedTensor};
use ndarray::{Array, ArrayD, Dimension};
use rayon::prelude::*;

/// Rows of a shape `[.., K]`, and K.
pub(super) fn rows_of<D: Dimension>(
    op: &'static str,
    what: &'static str,
    shape: &D,
) -> Result<usize> {
    shape.slice().last().copied().ok_or_else(|| Error::Shape {
        op,
        what,
        found: vec![],
        expected: "[.., K]".into(),
    })
}

/// Makes each row from its item: `fill` writes it in f32, as values of T.
pub(super) fn float_rows<T: Element, D: Dimension, I: Send>(
    shape: D,
    rows: Vec<I>,
    fill: impl Fn(I, &mut [f32]) + Sync,
) -> Array<T, D> {
    let k = shape.slice().last().copied().unwrap_or(0);
    let mut data = vec![T::default(); rows.len() * k];
    if k > 0 {
        data.par_chunks_mut(k).zip(rows).for_each_init(
            || vec![0f32; k],
            |row, (out, item)| {
                fill(item, row);
                for (out, x) in out.iter_mut().zip(row) {
                    *out = T::from_f32(*x);
                }
            },
        );
    }
    Array::from_shape_vec(shape, data).expect("one element a place")
}

/// The same, and quantises each row with its own scale.
pub(super) fn quantized_rows<I: Send>(
    shape: &[usize],
    rows: Vec<I>,
    fill: impl Fn(I, &mut [f32]) + Sync,
) -> Result<QuantizedTensor> {
    let k = shape.last().copied().unwrap_or(0);
    let mut data = vec![0i8; rows.len() * k];
    let mut scales = vec![numerics::scale(numerics::bound(0.0)); rows.len()];
    if k > 0 {
        data.par_chunks_mut(k)
            .zip(&mut scales)
            .zip(rows)
            .for_each_init(
                || vec![0f32; k],
                |row, ((out, scale), item)| {
                    fill(item, row);
                    let bound = numerics::bound(numerics::absmax(row.iter().copied()));
                    let multiplier = numerics::multiplier(bound);
                    for (q, x) in out.iter_mut().zip(row) {
                        *q = numerics::quantize(*x * multiplier);
                    }
                    *scale = numerics::scale(bound);
                },
            );
    }
    let data = ArrayD::from_shape_vec(shape, data).expect("one integer an element");
    QuantizedTensor::from_parts(data, scales, None, Granularity::PerToken)
}
