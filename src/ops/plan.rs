//! A product of arrays expressed as one `dot_general`: what is done to the operands before and to the result after.

use crate::element::Element;
use crate::error::{Error, Result};
use crate::ops::dimension_numbers::{inverse, DimensionNumbers};
use crate::ops::dot_general::{DotGeneral, Precision, Pullback};
use crate::ops::rows::in_order;
use ndarray::{ArrayD, ArrayViewD, Axis};

/// A product expressed in dimension numbers.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Axes of length 1 that are taken out of the operands, ascending.
    pub squeeze_lhs: Vec<usize>,
    pub squeeze_rhs: Vec<usize>,
    /// Of the squeezed operands, in the caller's order.
    pub dims: DimensionNumbers,
    /// Axis `i` of the result is axis `axes[i]` of the product, as it is computed.
    pub axes: Vec<usize>,
    /// Whether the operands are exchanged: then so are their axes in the product.
    pub swap: bool,
}

impl Plan {
    pub fn run<T: Element>(
        &self,
        a: ArrayViewD<'_, T>,
        b: ArrayViewD<'_, T>,
        precision: Precision,
        dot_general: &dyn DotGeneral<T>,
    ) -> Result<ArrayD<T>> {
        let a = squeeze(a, &self.squeeze_lhs);
        let b = squeeze(b, &self.squeeze_rhs);
        let out = match self.other_way(dot_general) {
            None => dot_general.dot_general(a, b, &self.dims, precision)?,
            Some(swapped) => swapped.dot_general(b, a, &self.dims.swapped(), precision)?,
        };
        Ok(in_order(out, self.axes.clone()))
    }

    pub fn vjp<T: Element>(
        &self,
        a: ArrayViewD<'_, T>,
        b: ArrayViewD<'_, T>,
        precision: Precision,
        dot_general: &dyn DotGeneral<T>,
    ) -> Result<(ArrayD<T>, Box<dyn Pullback<T>>)> {
        let a = squeeze(a, &self.squeeze_lhs);
        let b = squeeze(b, &self.squeeze_rhs);
        let (out, inner) = match self.other_way(dot_general) {
            None => dot_general.vjp(a, b, &self.dims, precision)?,
            Some(swapped) => swapped.vjp(b, a, &self.dims.swapped(), precision)?,
        };
        let out = in_order(out, self.axes.clone());
        let pullback = PlanPullback {
            plan: self.clone(),
            shape: out.shape().to_vec(),
            inner,
        };
        Ok((out, Box::new(pullback)))
    }

    fn other_way<T: Element>(
        &self,
        dot_general: &dyn DotGeneral<T>,
    ) -> Option<Box<dyn DotGeneral<T>>> {
        // A swap is planned only where `swapped` gives one.
        dot_general.swapped().filter(|_| self.swap)
    }
}

struct PlanPullback<T: Element> {
    plan: Plan,
    shape: Vec<usize>,
    inner: Box<dyn Pullback<T>>,
}

impl<T: Element> Pullback<T> for PlanPullback<T> {
    fn backward(&self, g: ArrayViewD<'_, T>) -> Result<(ArrayD<T>, ArrayD<T>)> {
        if g.shape() != self.shape {
            return Err(Error::Shape {
                op: "the product's backward",
                what: "the gradient",
                found: g.shape().to_vec(),
                expected: format!("{:?}, the shape of the result", self.shape),
            });
        }
        let g = g.permuted_axes(inverse(&self.plan.axes));
        let (one, other) = self.inner.backward(g)?;
        let (a, b) = match self.plan.swap {
            true => (other, one),
            false => (one, other),
        };
        Ok((
            unsqueeze(a, &self.plan.squeeze_lhs),
            unsqueeze(b, &self.plan.squeeze_rhs),
        ))
    }
}

fn squeeze<'a, T>(mut x: ArrayViewD<'a, T>, axes: &[usize]) -> ArrayViewD<'a, T> {
    for &axis in axes.iter().rev() {
        x = x.index_axis_move(Axis(axis), 0);
    }
    x
}

fn unsqueeze<T>(mut x: ArrayD<T>, axes: &[usize]) -> ArrayD<T> {
    for &axis in axes {
        x = x.insert_axis(Axis(axis));
    }
    x
}
