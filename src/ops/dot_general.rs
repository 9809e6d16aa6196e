//! Products over any axes, with gradients: what [`matmul`](crate::matmul) multiplies with.

use crate::element::Element;
use crate::error::Result;
use crate::ops::dimension_numbers::DimensionNumbers;
use ndarray::{ArrayD, ArrayViewD};

/// How precisely a product of floats is summed.
///
/// Sums are always f32 at least, and rounded to the element type once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Precision {
    /// The implementation's choice: sums are f32, but operands may be rounded to a tensor core's format (TF32, bf16) on
    /// hardware that has one. On the CPU it is the same as [`Highest`](Self::Highest).
    #[default]
    Default,
    /// Products of the operands as they are, in f32.
    Highest,
}

/// Something that multiplies arrays over any axes. Object-safe.
///
/// The shapes and the order of the result's axes are those of [`DimensionNumbers`].
pub trait DotGeneral<T: Element>: Send + Sync {
    /// The product over the axes in `dims`, of the shape that [`DimensionNumbers::output_shape`] gives.
    ///
    /// # Errors
    /// As [`DimensionNumbers::output_shape`], and what the implementation refuses.
    fn dot_general(
        &self,
        lhs: ArrayViewD<'_, T>,
        rhs: ArrayViewD<'_, T>,
        dims: &DimensionNumbers,
        precision: Precision,
    ) -> Result<ArrayD<T>>;

    /// The product, and what turns its gradient into those of the operands.
    ///
    /// # Errors
    /// As [`dot_general`](Self::dot_general).
    fn vjp(
        &self,
        lhs: ArrayViewD<'_, T>,
        rhs: ArrayViewD<'_, T>,
        dims: &DimensionNumbers,
        precision: Precision,
    ) -> Result<(ArrayD<T>, Box<dyn Pullback<T>>)>;

    /// What multiplies the same operands in the other order: `swapped.dot_general(rhs, lhs)` is this product with the
    /// left and right free axes of the result exchanged. `None` when nothing does.
    fn swapped(&self) -> Option<Box<dyn DotGeneral<T>>> {
        None
    }
}

/// The backward half of a product: it holds what it needs of the forward half.
pub trait Pullback<T: Element>: Send + Sync {
    /// The gradients of the left and right operand, in their shapes, from the gradient of the result.
    ///
    /// # Errors
    /// When `g` does not have the result's shape.
    fn backward(&self, g: ArrayViewD<'_, T>) -> Result<(ArrayD<T>, ArrayD<T>)>;
}
