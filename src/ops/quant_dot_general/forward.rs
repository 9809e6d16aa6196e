//! One product from start to end: cut, quantise, multiply, add.

use super::backward::QuantPullback;
use super::config::QuantDotGeneral;
use super::fields::{ProductFields, FWD};
use super::operand::Operand;
use super::product::{product, Runner};
use super::product_config::ProductQuant;
use super::quantized::Quantized;
use super::shards::{self, Cut};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::ops::dimension_numbers::DimensionNumbers;
use crate::ops::dot_general::{DotGeneral, Precision, Pullback};
use ndarray::{ArrayD, ArrayViewD};

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
    lhs: Operand<'_, T>,
    rhs: Operand<'_, T>,
    dims: &DimensionNumbers,
    precision: Precision,
) -> Result<Product<T>> {
    dims.output_shape(lhs.shape(), rhs.shape())?;
    let integers = config.sums_integers();
    let Some(cut) = shards::cut_dims(dims, config.shards, fields, lhs.shape())? else {
        let lhs = lhs.ready(&config.lhs, None, &dims.lhs_contracting);
        let rhs = rhs.ready(&config.rhs, None, &dims.rhs_contracting);
        let out = product(runner, integers, &lhs, &rhs, dims, precision)?;
        return Ok(Product::new(out, lhs, rhs));
    };
    let at = |contracting: &[usize]| {
        Some(Cut {
            axis: contracting[0],
            shards: config.shards,
        })
    };
    let lhs = lhs.ready(&config.lhs, at(&dims.lhs_contracting), &cut.lhs_contracting);
    let rhs = rhs.ready(&config.rhs, at(&dims.rhs_contracting), &cut.rhs_contracting);
    let (lhs, rhs) = (lhs.in_f32(), rhs.in_f32());
    let parts = product(runner, integers, &lhs, &rhs, &cut, precision)?;
    let out = shards::add(parts).mapv(T::from_f32);
    Ok(Product::new(out, lhs, rhs))
}

impl<T> Product<T> {
    fn new<X: Element>(out: ArrayD<T>, lhs: Operand<'_, X>, rhs: Operand<'_, X>) -> Self {
        Product {
            out,
            lhs: lhs.into_made(),
            rhs: rhs.into_made(),
        }
    }
}

impl QuantDotGeneral {
    pub(super) fn forward<T: Element>(
        &self,
        lhs: Operand<'_, T>,
        rhs: Operand<'_, T>,
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
        let (lhs, rhs) = (Operand::float(lhs), Operand::float(rhs));
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
        let (left, right) = (Operand::float(lhs.view()), Operand::float(rhs.view()));
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
