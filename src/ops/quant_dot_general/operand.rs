//! One operand of one product, from how it comes in to how it is multiplied.

use super::operand_config::OperandQuant;
use super::packed_once::PackedOnce;
use super::quantized::{quantize, Quantized};
use super::shards::{self, Cut};
use crate::element::Element;
use ndarray::{ArrayViewD, CowArray, IxDyn};

/// One operand of one product. [`ready`](Self::ready) turns what comes in into what is multiplied:
///
/// ```text
///   comes in                          the configuration says integers    it says float
///   Float      the caller's           Quantized                          Float
///   Integers   the forward product's  Quantized                          Float
///   Frozen     quantised beforehand   Frozen                             (refused when it is given)
/// ```
pub(super) enum Operand<'a, T> {
    /// Float elements.
    Float(CowArray<'a, T, IxDyn>),
    /// Integers of the forward product without their scales, as a backward product starts from them.
    Integers(ArrayViewD<'a, i8>),
    /// Integers with their scales, made for this product.
    Quantized(Box<Quantized>),
    /// Integers with their scales, made once for many products.
    Frozen {
        quantized: &'a Quantized,
        /// Where its matrices are kept packed; for a right operand.
        packed: Option<&'a PackedOnce>,
        /// The shape before the contraction was cut into shards.
        shape: &'a [usize],
    },
}

impl<'a, T: Element> Operand<'a, T> {
    /// Float elements that lie elsewhere.
    pub fn float(x: ArrayViewD<'a, T>) -> Self {
        Operand::Float(x.into())
    }

    /// The shape of what comes in, before its contraction is cut into shards.
    pub fn shape(&self) -> &[usize] {
        match self {
            Operand::Float(x) => x.shape(),
            Operand::Integers(x) => x.shape(),
            Operand::Quantized(quantized) => quantized.data.shape(),
            Operand::Frozen { shape, .. } => shape,
        }
    }

    /// What is multiplied: cut into shards where `cut` says so, and quantised where `config` says so, one scale for the
    /// elements along the axes `contracted` of the cut operand.
    pub fn ready(self, config: &OperandQuant, cut: Option<Cut>, contracted: &[usize]) -> Self {
        let quantized = |quantized| Operand::Quantized(Box::new(quantized));
        match (self, config.bits()) {
            (Operand::Float(x), bits) => {
                let x = shards::cut_at(x, cut);
                match bits {
                    None => Operand::Float(x),
                    Some(bits) => {
                        quantized(quantize(config, bits, x.view(), T::to_f32, contracted))
                    }
                }
            }
            (Operand::Integers(x), bits) => {
                let x = shards::cut_at(x.into(), cut);
                match bits {
                    // Exact in every element type.
                    None => Operand::Float(x.mapv(|q| T::from_f32(q.into())).into()),
                    Some(bits) => {
                        quantized(quantize(config, bits, x.view(), f32::from, contracted))
                    }
                }
            }
            (ready, _) => ready,
        }
    }

    /// The same with float elements in f32, so that shards are rounded after they are added.
    pub fn in_f32(self) -> Operand<'a, f32> {
        match self {
            Operand::Float(x) => Operand::Float(x.mapv(T::to_f32).into()),
            Operand::Integers(x) => Operand::Integers(x),
            Operand::Quantized(quantized) => Operand::Quantized(quantized),
            Operand::Frozen {
                quantized,
                packed,
                shape,
            } => Operand::Frozen {
                quantized,
                packed,
                shape,
            },
        }
    }

    /// The elements or integers as f32, without scales.
    pub fn numbers(&self) -> CowArray<'_, f32, IxDyn> {
        match self {
            Operand::Float(x) => x.mapv(T::to_f32).into(),
            Operand::Integers(x) => x.mapv(f32::from).into(),
            Operand::Quantized(quantized) => quantized.data.mapv(f32::from).into(),
            Operand::Frozen { quantized, .. } => quantized.data.mapv(f32::from).into(),
        }
    }

    /// The integers and their scales, when it is quantised.
    pub fn quantized(&self) -> Option<&Quantized> {
        match self {
            Operand::Float(_) | Operand::Integers(_) => None,
            Operand::Quantized(quantized) => Some(quantized),
            Operand::Frozen { quantized, .. } => Some(quantized),
        }
    }

    /// Where the matrices of a frozen right operand are kept packed.
    pub fn packed(&self) -> Option<&'a PackedOnce> {
        match self {
            Operand::Frozen { packed, .. } => *packed,
            _ => None,
        }
    }

    /// The integers that were made for this product.
    pub fn into_made(self) -> Option<Quantized> {
        match self {
            Operand::Quantized(quantized) => Some(*quantized),
            _ => None,
        }
    }
}
