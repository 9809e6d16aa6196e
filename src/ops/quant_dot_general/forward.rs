//! One product from start to end: cut, quantise, multiply, add.

use super::backward::QuantPullback;
use super::config::QuantDotGeneral;
use super::fields::{ProductFields, FWD};
use super::operand::OperandQuant;
use super::product::{product, Operand, PackedOnce, Runner};
use super::product_config::ProductQuant;
use super::quantized::{quantize, Quantized};
use super::shards;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::ops::dimension_numbers::DimensionNumbers;
use crate::ops::dot_general::{DotGeneral, Precision, Pullback};
use ndarray::{ArrayD, ArrayViewD, CowArray, IxDyn};

/// An operand as it comes in.
pub(super) enum Source<'a, T> {
    Float(ArrayViewD<'a, T>),
    /// Integers to be quantised once more.
    Integers(ArrayViewD<'a, i8>),
    /// Already integers, cut as the product wants it, perhaps kept packed.
    Frozen(&'a Quantized, Option<&'a PackedOnce>, &'a [usize]),
}

impl<T> Source<'_, T> {
    /// The shape before any cut.
    fn shape(&self) -> &[usize] {
        match self {
            Source::Float(x) => x.shape(),
            Source::Integers(x) => x.shape(),
            Source::Frozen(_, _, shape) => shape,
        }
    }
}

/// A product and the integers that were made on the way.
pub(super) struct Product<T> {
    pub out: ArrayD<T>,
    pub lhs: Option<Quantized>,
    pub rhs: Option<Quantized>,
}

/// Computes one product; `fields` names it in errors.
pub(super) fn run<T: Element>(
    runner: &Runner,
    config: &ProductQuant,
    fields: &ProductFields,
    lhs: Source<'_, T>,
    rhs: Source<'_, T>,
    dims: &DimensionNumbers,
    precision: Precision,
) -> Result<Product<T>> {
    dims.output_shape(lhs.shape(), rhs.shape())?;
    let cut = shards::cut_dims(dims, config.shards, fields, lhs.shape())?;
    let integers = config.sums_integers();
    let (dims, whole) = (cut.as_ref().unwrap_or(dims), dims);
    let axis = |contracting: &[usize]| cut.as_ref().map(|_| (contracting[0], config.shards));
    let lhs = Prepared::new(
        &config.lhs,
        lhs,
        axis(&whole.lhs_contracting),
        &dims.lhs_contracting,
    );
    let rhs = Prepared::new(
        &config.rhs,
        rhs,
        axis(&whole.rhs_contracting),
        &dims.rhs_contracting,
    );
    let out = if cut.is_some() {
        let (lhs, rhs) = (lhs.widened(), rhs.widened());
        let parts = product(
            runner,
            integers,
            lhs.operand(),
            rhs.operand(),
            dims,
            precision,
        )?;
        shards::add(parts).mapv(T::from_f32)
    } else {
        product(
            runner,
            integers,
            lhs.operand(),
            rhs.operand(),
            dims,
            precision,
        )?
    };
    Ok(Product {
        out,
        lhs: lhs.made(),
        rhs: rhs.made(),
    })
}

/// An operand with one axis cut into shards, where that is asked for.
fn cut_at<'a, X: Clone>(
    x: ArrayViewD<'a, X>,
    cut: Option<(usize, usize)>,
) -> CowArray<'a, X, IxDyn> {
    match cut {
        Some((axis, shards)) => shards::cut(x, axis, shards),
        None => x.into(),
    }
}

/// An operand ready to be multiplied.
enum Prepared<'a, T> {
    Float(CowArray<'a, T, IxDyn>),
    Made(Box<Quantized>),
    Kept(&'a Quantized, Option<&'a PackedOnce>),
}

impl<'a, T: Element> Prepared<'a, T> {
    fn new(
        config: &OperandQuant,
        source: Source<'a, T>,
        cut: Option<(usize, usize)>,
        contracted: &[usize],
    ) -> Self {
        match source {
            Source::Frozen(quantized, packed, _) => Prepared::Kept(quantized, packed),
            Source::Float(x) => Self::from(config, cut_at(x, cut), T::to_f32, contracted, |x| x),
            Source::Integers(x) => {
                // Exact in every element type.
                let float = |x: CowArray<'_, i8, IxDyn>| x.mapv(|q| T::from_f32(q.into())).into();
                Self::from(config, cut_at(x, cut), f32::from, contracted, float)
            }
        }
    }

    fn from<X: Copy + Sync>(
        config: &OperandQuant,
        x: CowArray<'a, X, IxDyn>,
        widen: impl Fn(X) -> f32 + Copy + Sync,
        contracted: &[usize],
        float: impl FnOnce(CowArray<'a, X, IxDyn>) -> CowArray<'a, T, IxDyn>,
    ) -> Self {
        match config.bits() {
            None => Prepared::Float(float(x)),
            Some(bits) => {
                let made = quantize(config, bits, x.view(), widen, contracted);
                Prepared::Made(Box::new(made))
            }
        }
    }

    fn operand(&self) -> Operand<'_, T> {
        match self {
            Prepared::Float(x) => Operand::Float(x.view()),
            Prepared::Made(quantized) => Operand::Int(quantized, None),
            Prepared::Kept(quantized, packed) => Operand::Int(quantized, *packed),
        }
    }

    /// The same with float elements in f32, so that parts are rounded after they are added.
    fn widened(&self) -> Prepared<'_, f32> {
        match self {
            Prepared::Float(x) => Prepared::Float(x.mapv(T::to_f32).into()),
            Prepared::Made(quantized) => Prepared::Kept(quantized, None),
            Prepared::Kept(quantized, packed) => Prepared::Kept(quantized, *packed),
        }
    }

    fn made(self) -> Option<Quantized> {
        match self {
            Prepared::Made(quantized) => Some(*quantized),
            _ => None,
        }
    }
}

impl QuantDotGeneral {
    pub(super) fn forward<T: Element>(
        &self,
        lhs: Source<'_, T>,
        rhs: Source<'_, T>,
        dims: &DimensionNumbers,
        precision: Precision,
    ) -> Result<Product<T>> {
        self.check_precision(precision)?;
        run(&self.runner, &self.fwd, &FWD, lhs, rhs, dims, precision)
    }
}

impl<T: Element> DotGeneral<T> for QuantDotGeneral {
    fn dot_general(
        &self,
        lhs: ArrayViewD<'_, T>,
        rhs: ArrayViewD<'_, T>,
        dims: &DimensionNumbers,
        precision: Precision,
    ) -> Result<ArrayD<T>> {
        let (lhs, rhs) = (Source::Float(lhs), Source::Float(rhs));
        Ok(self.forward(lhs, rhs, dims, precision)?.out)
    }

    fn vjp(
        &self,
        lhs: ArrayViewD<'_, T>,
        rhs: ArrayViewD<'_, T>,
        dims: &DimensionNumbers,
        precision: Precision,
    ) -> Result<(ArrayD<T>, Box<dyn Pullback<T>>)> {
        if !self.train {
            return Err(Error::Value {
                what: "train",
                found: "false where gradients are asked for".into(),
                expected: "true".into(),
            });
        }
        let (left, right) = (Source::Float(lhs.view()), Source::Float(rhs.view()));
        let made = self.forward(left, right, dims, precision)?;
        let shape = made.out.shape().to_vec();
        let product = (dims, precision);
        let pullback = QuantPullback::new(self, lhs, rhs, made.lhs, made.rhs, shape, product);
        Ok((made.out, Box::new(pullback)))
    }

    fn swapped(&self) -> Option<Box<dyn DotGeneral<T>>> {
        Some(Box::new(self.swap_operands()))
    }
}
