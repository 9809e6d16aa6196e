//! A workspace in parts.

use super::errors::aligned;
use super::matrix::Matrix;
use super::memory::{Held, Region};
use crate::error::{Error, Result};
use cudarc::driver::DevicePtrMut;
use std::marker::PhantomData;

/// Every part starts at a multiple of this, and so must the whole.
const ALIGNMENT: usize = 256;

/// Sizes of `N` parts, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cuda) struct Layout<const N: usize>([usize; N]);

impl<const N: usize> Layout<N> {
    /// Rounds each up; `None` where the sum is more than a number can say.
    pub fn new(bytes: [usize; N]) -> Option<Self> {
        let mut sizes = [0; N];
        let mut total = 0usize;
        for (size, bytes) in sizes.iter_mut().zip(bytes) {
            *size = bytes.checked_next_multiple_of(ALIGNMENT)?;
            total = total.checked_add(*size)?;
        }
        (total < isize::MAX as usize).then_some(Layout(sizes))
    }

    pub fn bytes(&self) -> usize {
        self.0.iter().sum()
    }
}

/// Memory of the caller's that a layout fits, held for one call.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct Workspace<'a, const N: usize> {
    address: u64,
    layout: Layout<N>,
    life: PhantomData<&'a ()>,
}

impl<'a, const N: usize> Workspace<'a, N> {
    /// Takes the memory for this call.
    ///
    /// # Errors
    /// [`Error::Length`] where it is too small, [`Error::Value`] where it is of another context or not aligned.
    pub fn new(
        held: &mut Held<'a>,
        layout: Layout<N>,
        memory: &'a mut (impl DevicePtrMut<u8> + ?Sized),
    ) -> Result<Self> {
        let (found, expected) = (memory.len(), layout.bytes());
        if found < expected {
            return Err(Error::Length {
                what: "the workspace",
                found,
                expected,
            });
        }
        let whole = Matrix::new(memory, 1, expected);
        let region = held.write("the workspace", whole)?;
        if expected > 0 {
            aligned("the workspace", region.address, ALIGNMENT as u64)?;
        }
        Ok(Workspace {
            address: region.address,
            layout,
            life: PhantomData,
        })
    }

    /// Elements of `T` that a part has room for.
    pub fn room<T>(&self, part: usize) -> usize {
        self.layout.0[part] / size_of::<T>()
    }

    /// A part as rows of so many elements of `T`, one after the other; `None` where it is smaller.
    pub fn part<T>(&self, part: usize, rows: usize, cols: usize) -> Option<Region<'a>> {
        let bytes = rows.checked_mul(cols)?.checked_mul(size_of::<T>())?;
        let before: usize = self.layout.0[..part].iter().sum();
        (bytes <= self.layout.0[part])
            .then(|| Region::part(self.address + before as u64, rows, cols))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_rounded_up_and_their_sum_is_a_number() {
        let layout = Layout::new([1, 0, 256, 257]).expect("small");
        assert_eq!(layout.bytes(), 256 + 256 + 512);
        assert!(Layout::new([usize::MAX, 1]).is_none());
        assert!(Layout::new([isize::MAX as usize - 255, 1]).is_none());
    }
}
