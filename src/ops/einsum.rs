//! Products named by an einsum specification.

use crate::element::Element;
use crate::error::{Error, Result};
use crate::ops::dimension_numbers::DimensionNumbers;
use crate::ops::dot_general::{DotGeneral, Precision, Pullback};
use crate::ops::einsum_spec::{Label, Spec};
use crate::ops::plan::Plan;
use ndarray::{ArrayD, ArrayView, ArrayViewD, Axis, Dimension};

/// The product of two arrays that `spec` names, multiplied by `dot_general`.
///
/// `spec` is numpy's: one letter per axis, `"bqhd,bkhd->bhqk"`. Letters that are not in the result are summed over;
/// without an arrow the result has the letters that occur once, in alphabetical order. `...` stands for further axes,
/// broadcast as in numpy. Spaces don't count. A letter that occurs in one operand and nowhere else is summed in
/// f32 before the product (and rounded to T once). The result is `lax.dot_general`'s with its axes put in order; where
/// exchanging the operands is enough for that, they are exchanged, each keeping its quantiser, and nothing is
/// transposed.
///
/// # Errors
/// [`Error::Value`] for a specification that can't be read, that names a letter twice in one operand or in the result,
/// or a letter in the result that no operand has; [`Error::ShapeMismatch`] when the operands don't fit it; and those
/// of `dot_general`.
///
/// ```
/// use imma::ops::{einsum, Precision, QuantDotGeneral};
/// use ndarray::Array4;
/// let (q, k) = (Array4::<f32>::ones((2, 5, 3, 8)), Array4::<f32>::ones((2, 7, 3, 8)));
/// let int8 = QuantDotGeneral::int8_inference();
/// let scores = einsum("bqhd,bkhd->bhqk", q.view(), k.view(), Precision::Default, &int8)?;
/// assert_eq!(scores.shape(), [2, 3, 5, 7]);
/// assert!((scores[[1, 2, 4, 6]] - 8.0).abs() < 0.1);
/// # Ok::<(), imma::Error>(())
/// ```
///
/// Source: `numpy.einsum`, restricted to two operands.
pub fn einsum<T: Element, D1: Dimension, D2: Dimension>(
    spec: &str,
    a: ArrayView<'_, T, D1>,
    b: ArrayView<'_, T, D2>,
    precision: Precision,
    dot_general: &dyn DotGeneral<T>,
) -> Result<ArrayD<T>> {
    let both = Both::new(spec, a.shape(), b.shape())?;
    let (a, b) = (both.a.summed(a.into_dyn()), both.b.summed(b.into_dyn()));
    let plan = both.plan(dot_general.swapped().is_some());
    plan.run(a.view(), b.view(), precision, dot_general)
}

/// [`einsum`] and what turns the result's gradient into those of the operands, in their shapes.
///
/// # Errors
/// As [`einsum`].
///
/// ```
/// use imma::ops::{einsum_vjp, FloatDotGeneral, Precision};
/// use ndarray::arr2;
/// let (a, b) = (arr2(&[[1.0f32, 2.0]]), arr2(&[[3.0f32, 4.0]]));
/// let (y, pullback) = einsum_vjp("ik,jk->ji", a.view(), b.view(), Precision::Default, &FloatDotGeneral)?;
/// assert_eq!(y, arr2(&[[11.0]]).into_dyn());
/// let (da, db) = pullback.backward(arr2(&[[10.0]]).into_dyn().view())?;
/// assert_eq!(da, arr2(&[[30.0, 40.0]]).into_dyn());
/// assert_eq!(db, arr2(&[[10.0, 20.0]]).into_dyn());
/// # Ok::<(), imma::Error>(())
/// ```
pub fn einsum_vjp<T: Element, D1: Dimension, D2: Dimension>(
    spec: &str,
    a: ArrayView<'_, T, D1>,
    b: ArrayView<'_, T, D2>,
    precision: Precision,
    dot_general: &dyn DotGeneral<T>,
) -> Result<(ArrayD<T>, Box<dyn Pullback<T>>)> {
    let both = Both::new(spec, a.shape(), b.shape())?;
    let (a, b) = (both.a.summed(a.into_dyn()), both.b.summed(b.into_dyn()));
    let plan = both.plan(dot_general.swapped().is_some());
    let (out, inner) = plan.vjp(a.view(), b.view(), precision, dot_general)?;
    let pullback = EinsumPullback {
        a: both.a,
        b: both.b,
        inner,
    };
    Ok((out, Box::new(pullback)))
}

/// One operand: its shape, the labels of its axes, and which of them are summed before the product.
struct One {
    shape: Vec<usize>,
    labels: Vec<Label>,
    sum: Vec<usize>,
    /// Of what is left: axes of length 1 that are longer in the other operand.
    squeeze: Vec<usize>,
}

impl One {
    /// Axes whose label is not among `needed` are summed; `squeezed` are the labels of axes that the other has longer.
    fn new(shape: &[usize], labels: Vec<Label>, needed: &[Label], squeezed: &[Label]) -> Self {
        let alone = |axis: &usize| !needed.contains(&labels[*axis]);
        let sum: Vec<usize> = (0..labels.len()).filter(alone).collect();
        let left = (0..labels.len()).filter(|axis| !sum.contains(axis));
        let squeeze = left
            .enumerate()
            .filter(|(_, axis)| squeezed.contains(&labels[*axis]))
            .map(|(place, _)| place)
            .collect();
        One {
            shape: shape.to_vec(),
            labels,
            sum,
            squeeze,
        }
    }

    /// The labels of the axes that are multiplied.
    fn multiplied(&self) -> Vec<Label> {
        let summed = (0..self.labels.len()).filter(|axis| !self.sum.contains(axis));
        let left: Vec<Label> = summed.map(|axis| self.labels[axis]).collect();
        let kept = (0..left.len()).filter(|axis| !self.squeeze.contains(axis));
        kept.map(|axis| left[axis]).collect()
    }

    fn summed<'a, T: Element>(
        &self,
        x: ArrayViewD<'a, T>,
    ) -> ndarray::CowArray<'a, T, ndarray::IxDyn> {
        if self.sum.is_empty() {
            return x.into();
        }
        let mut sum = x.mapv(T::to_f32);
        for &axis in self.sum.iter().rev() {
            sum = sum.sum_axis(Axis(axis));
        }
        sum.mapv(T::from_f32).into()
    }

    /// The gradient of the operand, from the gradient of what was left of it.
    fn spread<T: Element>(&self, mut g: ArrayD<T>) -> ArrayD<T> {
        if self.sum.is_empty() {
            return g;
        }
        for &axis in &self.sum {
            g = g.insert_axis(Axis(axis));
        }
        let g = g.broadcast(self.shape.clone());
        g.expect("axes of length 1 were put back").to_owned()
    }
}

struct EinsumPullback<T: Element> {
    a: One,
    b: One,
    inner: Box<dyn Pullback<T>>,
}

impl<T: Element> Pullback<T> for EinsumPullback<T> {
    fn backward(&self, g: ArrayViewD<'_, T>) -> Result<(ArrayD<T>, ArrayD<T>)> {
        let (a, b) = self.inner.backward(g)?;
        Ok((self.a.spread(a), self.b.spread(b)))
    }
}

/// The labels of each operand's axes of length 1 that the other has longer; or else what would have fitted.
fn squeezed(a: (&[usize], &[Label]), b: (&[usize], &[Label])) -> Result<[Vec<Label>; 2], String> {
    let mut squeezed = [vec![], vec![]];
    for (&x, label) in a.0.iter().zip(a.1) {
        let Some(at) = b.1.iter().position(|l| l == label) else {
            continue;
        };
        // A letter of both operands must have one length; an axis of "..." may be 1 on one side.
        match (x, b.0[at], label) {
            (x, y, _) if x == y => {}
            (1, _, Label::Further(_)) => squeezed[0].push(*label),
            (_, 1, Label::Further(_)) => squeezed[1].push(*label),
            (x, y, label) => {
                return Err(format!(
                    "axes of equal length for {label}, which is {x} and {y}"
                ))
            }
        }
    }
    Ok(squeezed)
}

/// Both operands set against the specification.
struct Both {
    a: One,
    b: One,
    out: Vec<Label>,
}

impl Both {
    fn new(spec: &str, a: &[usize], b: &[usize]) -> Result<Self> {
        let refuse = |expected: String| {
            Err(Error::ShapeMismatch {
                op: "einsum",
                lhs: a.to_vec(),
                rhs: b.to_vec(),
                expected,
            })
        };
        let Spec { operands, out } = match Spec::parse(spec)?.resolve(a.len(), b.len()) {
            Ok(spec) => spec,
            Err(expected) => return refuse(expected),
        };
        let [la, lb] = operands;
        let [squeeze_a, squeeze_b] = match squeezed((a, &la), (b, &lb)) {
            Ok(squeezed) => squeezed,
            Err(expected) => return refuse(expected),
        };
        let needed = |other: &[Label]| [other, &out].concat();
        Ok(Both {
            a: One::new(a, la.clone(), &needed(&lb), &squeeze_a),
            b: One::new(b, lb, &needed(&la), &squeeze_b),
            out,
        })
    }

    /// The dimension numbers, in the order of the left operand's axes; `may_swap` when the operands can be exchanged.
    fn plan(&self, may_swap: bool) -> Plan {
        let (la, lb) = (self.a.multiplied(), self.b.multiplied());
        let mut dims = DimensionNumbers::default();
        let in_both = |l: &&Label| lb.contains(l);
        let place = |labels: &[Label], label: &Label| labels.iter().position(|l| l == label);
        // Batch axes in the order of the result, so that it needs no transposing.
        for label in self.out.iter().filter(|l| la.contains(l)).filter(in_both) {
            dims.lhs_batch.extend(place(&la, label));
            dims.rhs_batch.extend(place(&lb, label));
        }
        for label in la.iter().filter(in_both).filter(|l| !self.out.contains(l)) {
            dims.lhs_contracting.extend(place(&la, label));
            dims.rhs_contracting.extend(place(&lb, label));
        }
        let labels = |axes: &[usize], of: &[Label]| axes.iter().map(|&a| of[a]).collect::<Vec<_>>();
        let batch = labels(&dims.lhs_batch, &la);
        let left = labels(&dims.lhs_free(la.len()), &la);
        let right = labels(&dims.rhs_free(lb.len()), &lb);
        let straight = [&batch[..], &left, &right].concat();
        let swapped = [&batch[..], &right, &left].concat();
        let swap = may_swap && straight != self.out && swapped == self.out;
        let made = if swap { swapped } else { straight };
        let axes = self.out.iter().filter_map(|l| place(&made, l)).collect();
        Plan {
            squeeze_lhs: self.a.squeeze.clone(),
            squeeze_rhs: self.b.squeeze.clone(),
            dims,
            axes,
            swap,
        }
    }
}
