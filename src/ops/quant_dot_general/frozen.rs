//! An operand quantised once, to serve many products.

use super::config::QuantDotGeneral;
use super::fields::FWD;
use super::operand::Operand;
use super::packed_once::PackedOnce;
use super::quantized::{quantize, Quantized};
use super::shards::{self, Cut};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::ops::dimension_numbers::DimensionNumbers;
use crate::ops::dot_general::Precision;
use ndarray::{ArrayD, ArrayViewD};
use std::fmt;
use std::sync::Arc;

/// Which operand of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The left one.
    Lhs,
    /// The right one.
    Rhs,
}

/// An operand of a [`QuantDotGeneral`]'s forward product, quantised once: what is served after training.
///
/// Products with it give the bits of the products with the float operand it was made of. A right operand is packed for
/// the backend at its first use and kept so. It can be [saved](Self::save) and [loaded](Self::load).
///
/// ```
/// use imma::ops::{DimensionNumbers, DotGeneral, Precision, QuantDotGeneral};
/// use ndarray::arr2;
/// let dot_general = QuantDotGeneral::int8_inference();
/// let dims = DimensionNumbers::matmul();
/// let (x, w) = (arr2(&[[1.0f32, -2.0]]).into_dyn(), arr2(&[[0.5f32], [0.25]]).into_dyn());
/// let frozen = dot_general.freeze_rhs(w.view(), &dims)?;
/// let served = dot_general.dot_general_frozen_rhs(x.view(), &frozen, &dims)?;
/// assert_eq!(served, dot_general.dot_general(x.view(), w.view(), &dims, Precision::Default)?);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Clone)]
pub struct FrozenOperand {
    pub(super) side: Side,
    pub(super) bits: u8,
    pub(super) contracting: Vec<usize>,
    pub(super) batch: Vec<usize>,
    /// Parts of the contraction; the integers then have the axis of the parts too.
    pub(super) shards: usize,
    pub(super) shape: Vec<usize>,
    pub(super) quantized: Quantized,
    pub(super) packed: Arc<PackedOnce>,
}

impl fmt::Debug for FrozenOperand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenOperand")
            .field("side", &self.side)
            .field("bits", &self.bits)
            .field("shape", &self.shape)
            .field("contracting", &self.contracting)
            .field("batch", &self.batch)
            .field("shards", &self.shards)
            .finish_non_exhaustive()
    }
}

/// The same integers for the same use; whether they have been packed does not count.
impl PartialEq for FrozenOperand {
    fn eq(&self, other: &Self) -> bool {
        let key = |f: &Self| {
            (
                f.side,
                f.bits,
                f.shards,
                f.shape.clone(),
                f.contracting.clone(),
                f.batch.clone(),
            )
        };
        key(self) == key(other) && self.quantized == other.quantized
    }
}

impl FrozenOperand {
    /// Which operand it is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The width of its integers.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// The shape of the float operand.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The integers; where the contraction is in shards, its first axis is two here: the shard, and the place in it.
    pub fn integers(&self) -> ArrayViewD<'_, i8> {
        self.quantized.data.view()
    }

    /// What the integers are multiplied by to give values: as many axes, of length 1 where a scale is shared.
    pub fn scales(&self) -> ArrayViewD<'_, f32> {
        self.quantized.scales.view()
    }

    /// The operand as a product takes it.
    fn operand<T: Element>(&self) -> Operand<'_, T> {
        Operand::Frozen {
            quantized: &self.quantized,
            packed: (self.side == Side::Rhs).then_some(&*self.packed),
            shape: &self.shape,
        }
    }
}

impl QuantDotGeneral {
    /// Quantises the right operand of the forward product once.
    ///
    /// # Errors
    /// [`Error::Value`] that names `fwd.rhs.bits` when that operand is float, the axes when they are out of range or
    /// repeated, or `fwd.shards` when it does not divide the contracted length.
    pub fn freeze_rhs<T: Element>(
        &self,
        rhs: ArrayViewD<'_, T>,
        dims: &DimensionNumbers,
    ) -> Result<FrozenOperand> {
        self.freeze(Side::Rhs, rhs, dims)
    }

    /// Quantises the left operand of the forward product once.
    ///
    /// # Errors
    /// As [`freeze_rhs`](Self::freeze_rhs), of the left operand.
    pub fn freeze_lhs<T: Element>(
        &self,
        lhs: ArrayViewD<'_, T>,
        dims: &DimensionNumbers,
    ) -> Result<FrozenOperand> {
        self.freeze(Side::Lhs, lhs, dims)
    }

    fn freeze<T: Element>(
        &self,
        side: Side,
        x: ArrayViewD<'_, T>,
        dims: &DimensionNumbers,
    ) -> Result<FrozenOperand> {
        let (config, field) = match side {
            Side::Lhs => (&self.fwd.lhs, FWD.lhs.bits),
            Side::Rhs => (&self.fwd.rhs, FWD.rhs.bits),
        };
        let Some(bits) = config.bits() else {
            return Err(Error::Value {
                what: field,
                found: "none".into(),
                expected: "2 to 8: a float operand has no integers to freeze".into(),
            });
        };
        let (contracting, batch) = axes_of(side, dims);
        dims.check_operand(side == Side::Lhs, x.shape())?;
        let shape = x.shape().to_vec();
        let as_lhs = DimensionNumbers {
            lhs_contracting: contracting.to_vec(),
            lhs_batch: batch.to_vec(),
            rhs_contracting: contracting.to_vec(),
            rhs_batch: batch.to_vec(),
        };
        let cut = shards::cut_dims(&as_lhs, self.fwd.shards, &FWD, &shape)?;
        let quantized = match &cut {
            None => quantize(config, bits, x, T::to_f32, contracting),
            Some(dims) => {
                let (axis, shards) = (contracting[0], self.fwd.shards);
                let x = shards::cut_at(x.into(), Some(Cut { axis, shards }));
                quantize(config, bits, x.view(), T::to_f32, &dims.lhs_contracting)
            }
        };
        Ok(FrozenOperand {
            side,
            bits,
            contracting: contracting.to_vec(),
            batch: batch.to_vec(),
            shards: if cut.is_some() { self.fwd.shards } else { 1 },
            shape,
            quantized: Quantized {
                inside: None,
                ..quantized
            },
            packed: Arc::default(),
        })
    }

    /// The forward product with a right operand that was frozen; the same bits as with the float one.
    ///
    /// # Errors
    /// As [`DotGeneral::dot_general`](crate::ops::DotGeneral::dot_general), and [`Error::Value`] when the operand was
    /// frozen for other axes, as a left operand, with other bits or in another number of shards.
    pub fn dot_general_frozen_rhs<T: Element>(
        &self,
        lhs: ArrayViewD<'_, T>,
        rhs: &FrozenOperand,
        dims: &DimensionNumbers,
    ) -> Result<ArrayD<T>> {
        self.check_frozen(Side::Rhs, rhs, dims)?;
        let (lhs, frozen) = (Operand::float(lhs), rhs.operand());
        Ok(self.forward(lhs, frozen, dims, Precision::Default)?.out)
    }

    /// The forward product with a left operand that was frozen; the same bits as with the float one.
    ///
    /// # Errors
    /// As [`dot_general_frozen_rhs`](Self::dot_general_frozen_rhs), of the left operand.
    pub fn dot_general_frozen_lhs<T: Element>(
        &self,
        lhs: &FrozenOperand,
        rhs: ArrayViewD<'_, T>,
        dims: &DimensionNumbers,
    ) -> Result<ArrayD<T>> {
        self.check_frozen(Side::Lhs, lhs, dims)?;
        let (frozen, rhs) = (lhs.operand(), Operand::float(rhs));
        Ok(self.forward(frozen, rhs, dims, Precision::Default)?.out)
    }

    fn check_frozen(
        &self,
        side: Side,
        frozen: &FrozenOperand,
        dims: &DimensionNumbers,
    ) -> Result<()> {
        let bits = match side {
            Side::Lhs => self.fwd.lhs.bits(),
            Side::Rhs => self.fwd.rhs.bits(),
        };
        let (contracting, batch) = axes_of(side, dims);
        let axes = |contracting: &[usize], batch: &[usize]| {
            format!("contracting {contracting:?}, batch {batch:?}")
        };
        let shards = match contracting.is_empty() {
            true => 1,
            false => self.fwd.shards,
        };
        let bits = bits.map_or("none: this operand is float".into(), |b| b.to_string());
        let parts = [
            (
                "the frozen operand's side",
                format!("{:?}", frozen.side),
                format!("{side:?}"),
            ),
            ("the frozen operand's bits", frozen.bits.to_string(), bits),
            (
                "the frozen operand's axes",
                axes(&frozen.contracting, &frozen.batch),
                axes(contracting, batch),
            ),
            (
                "the frozen operand's shards",
                frozen.shards.to_string(),
                shards.to_string(),
            ),
        ];
        match parts
            .into_iter()
            .find(|(_, found, expected)| found != expected)
        {
            None => Ok(()),
            Some((what, found, expected)) => Err(Error::Value {
                what,
                found,
                expected,
            }),
        }
    }
}

/// The contracted and batch axes of one side.
fn axes_of(side: Side, dims: &DimensionNumbers) -> (&[usize], &[usize]) {
    match side {
        Side::Lhs => (&dims.lhs_contracting, &dims.lhs_batch),
        Side::Rhs => (&dims.rhs_contracting, &dims.rhs_batch),
    }
}
