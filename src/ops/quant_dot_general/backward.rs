//! The gradients of a quantised product, each a product of its own.

use super::config::QuantDotGeneral;
use super::fields::{ProductFields, DLHS, DRHS};
use super::forward::run;
use super::operand::Operand;
use super::product::only;
use super::product_config::ProductQuant;
use super::quantized::Quantized;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::ops::dimension_numbers::{DimensionNumbers, GradientDims};
use crate::ops::dot_general::{Precision, Pullback};
use crate::ops::rows::in_order;
use ndarray::{ArrayD, ArrayViewD, Axis};

/// What the backward products need of the forward one.
pub(super) struct QuantPullback<T> {
    dot_general: QuantDotGeneral,
    dims: DimensionNumbers,
    shape: Vec<usize>,
    precision: Precision,
    lhs: Residual<T>,
    rhs: Residual<T>,
}

/// One operand of the forward product.
struct Residual<T> {
    shape: Vec<usize>,
    kept: Kept<T>,
    /// Where its gradient passes its quantiser, when that is not everywhere.
    inside: Option<ArrayD<bool>>,
}

/// What the other operand's gradient is multiplied with.
enum Kept<T> {
    Float(ArrayD<T>),
    /// The forward's integers and scales.
    Int(ArrayD<i8>, ArrayD<f32>),
}

impl<T: Element> Residual<T> {
    fn new(x: ArrayViewD<'_, T>, quantized: Option<Quantized>, reuse: bool) -> Self {
        let shape = x.shape().to_vec();
        let (inside, integers) = match quantized {
            None => (None, None),
            Some(q) => (q.inside, Some((q.data, q.scales))),
        };
        let inside = inside.map(|inside| {
            // A contraction in shards has one axis more.
            let inside = inside.as_standard_layout().into_owned();
            inside
                .into_shape_with_order(shape.clone())
                .expect("as many elements")
        });
        let kept = match integers {
            Some((data, scales)) if reuse => Kept::Int(data, scales),
            _ => Kept::Float(x.to_owned()),
        };
        Residual {
            shape,
            kept,
            inside,
        }
    }
}

impl<T: Element> QuantPullback<T> {
    pub fn new(
        dot_general: &QuantDotGeneral,
        lhs: ArrayViewD<'_, T>,
        rhs: ArrayViewD<'_, T>,
        lhs_integers: Option<Quantized>,
        rhs_integers: Option<Quantized>,
        shape: Vec<usize>,
        (dims, precision): (&DimensionNumbers, Precision),
    ) -> Self {
        QuantPullback {
            lhs: Residual::new(lhs, lhs_integers, dot_general.drhs.reuse_forward),
            rhs: Residual::new(rhs, rhs_integers, dot_general.dlhs.reuse_forward),
            dot_general: dot_general.clone(),
            dims: dims.clone(),
            shape,
            precision,
        }
    }

    /// The gradient of one operand, `of`, from that of the result and the other operand.
    fn gradient(
        &self,
        config: &ProductQuant,
        fields: &ProductFields,
        g: ArrayViewD<'_, T>,
        other: &Residual<T>,
        of: &Residual<T>,
        gradient: GradientDims,
    ) -> Result<ArrayD<T>> {
        let GradientDims { dims, axes } = gradient;
        let runner = &self.dot_general.runner;
        let precision = self.precision;
        let out = match &other.kept {
            Kept::Float(other) => {
                let (g, other) = (Operand::float(g), Operand::float(other.view()));
                run(runner, config, fields, g, other, &dims, precision)?.out
            }
            Kept::Int(integers, scales) => {
                let g = times_scales(g, scales, &dims);
                let (g, other) = (Operand::float(g.view()), Operand::Integers(integers.view()));
                let out = run(runner, config, fields, g, other, &dims, precision)?.out;
                out.mapv(T::from_f32)
            }
        };
        let mut out = in_order(out, axes);
        debug_assert_eq!(out.shape(), of.shape);
        if let Some(inside) = &of.inside {
            out.zip_mut_with(inside, |x, inside| {
                if !inside {
                    *x = T::default();
                }
            });
        }
        Ok(out)
    }
}

/// The gradient times the scales of the forward's operand, along the axes that the two share.
fn times_scales<T: Element>(
    g: ArrayViewD<'_, T>,
    scales: &ArrayD<f32>,
    dims: &DimensionNumbers,
) -> ArrayD<f32> {
    // The operand's free axes of the forward product are those contracted here.
    let mut axes: Vec<(usize, usize)> = dims
        .lhs_batch
        .iter()
        .chain(&dims.lhs_contracting)
        .copied()
        .zip(dims.rhs_batch.iter().chain(&dims.rhs_contracting).copied())
        .collect();
    axes.sort_unstable();
    let order: Vec<usize> = axes.iter().map(|(_, operand)| *operand).collect();
    let mut scales = only(scales, &order, &[]);
    for axis in 0..g.ndim() {
        if !axes.iter().any(|(g, _)| *g == axis) {
            scales = scales.insert_axis(Axis(axis));
        }
    }
    g.mapv(T::to_f32) * &scales
}

impl<T: Element> Pullback<T> for QuantPullback<T> {
    fn backward(&self, g: ArrayViewD<'_, T>) -> Result<(ArrayD<T>, ArrayD<T>)> {
        if g.shape() != self.shape {
            return Err(Error::Shape {
                op: "dot_general's backward",
                what: "the gradient",
                found: g.shape().to_vec(),
                expected: format!("{:?}, the shape of the result", self.shape),
            });
        }
        let (lhs, rhs) = (&self.lhs, &self.rhs);
        let ranks = (lhs.shape.len(), rhs.shape.len());
        let QuantDotGeneral { dlhs, drhs, .. } = &self.dot_general;
        let left = self.dims.lhs_gradient(ranks.0, ranks.1);
        let right = self.dims.rhs_gradient(ranks.0, ranks.1);
        Ok((
            self.gradient(dlhs, &DLHS, g.view(), rhs, lhs, left)?,
            self.gradient(drhs, &DRHS, g, lhs, rhs, right)?,
        ))
    }
}
