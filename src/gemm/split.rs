//! Which part of a dimension each of several ranks has.

use crate::error::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// A dimension cut into neighbouring parts, one a rank; parts may differ in length and be empty.
///
/// ```
/// use imma::gemm::Split;
/// let split = Split::even(10, 4)?;
/// assert_eq!(split.range(0), 0..3);
/// assert_eq!(split.range(3), 8..10);
/// // No group of 32 inputs is cut.
/// assert_eq!(Split::even_in_units(100, 2, 32)?.range(0), 0..64);
/// assert_eq!(Split::at(&[0, 7, 10])?.range(1), 7..10);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Where the parts start, and where the last one ends.
    cuts: Arc<[usize]>,
}

impl Split {
    /// `length` over `ranks` parts as even as can be; the first ones are longer by one.
    ///
    /// # Errors
    /// [`Error::Value`] for zero ranks.
    pub fn even(length: usize, ranks: usize) -> Result<Self> {
        Self::even_in_units(length, ranks, 1)
    }

    /// The same in whole units: scale groups, pairs of gate and up, blocks of a rotation. Only the last unit may be shorter.
    ///
    /// # Errors
    /// [`Error::Value`] for zero ranks and for a unit of zero elements.
    pub fn even_in_units(length: usize, ranks: usize, unit: usize) -> Result<Self> {
        for (what, value) in [
            ("the number of ranks", ranks),
            ("the unit of a split", unit),
        ] {
            if value == 0 {
                return Err(Error::Value {
                    what,
                    found: "0".into(),
                    expected: "at least 1".into(),
                });
            }
        }
        let units = length.div_ceil(unit);
        let start = |rank: usize| {
            let before = rank * (units / ranks) + rank.min(units % ranks);
            (before * unit).min(length)
        };
        Ok(Split {
            cuts: (0..=ranks).map(start).collect(),
        })
    }

    /// Parts between the given cuts: the first is 0, the last the length, and none is smaller than the one before.
    ///
    /// # Errors
    /// [`Error::Value`] for other cuts.
    pub fn at(cuts: &[usize]) -> Result<Self> {
        let ascending = cuts.windows(2).all(|pair| pair[0] <= pair[1]);
        if cuts.len() < 2 || cuts[0] != 0 || !ascending {
            return Err(Error::Value {
                what: "the cuts of a split",
                found: format!("{cuts:?}"),
                expected: "0, then the end of each part in ascending order".into(),
            });
        }
        Ok(Split { cuts: cuts.into() })
    }

    /// The number of parts.
    pub fn ranks(&self) -> usize {
        self.cuts.len() - 1
    }

    /// The length of the whole dimension.
    pub fn length(&self) -> usize {
        self.cuts[self.cuts.len() - 1]
    }

    /// Where the parts start, and where the last one ends.
    pub fn cuts(&self) -> &[usize] {
        &self.cuts
    }

    /// The part of a rank.
    ///
    /// # Panics
    /// When there is no such rank.
    pub fn range(&self, rank: usize) -> Range<usize> {
        self.cuts[rank]..self.cuts[rank + 1]
    }

    /// The first cut that does not lie on a multiple of `unit`, the ends excepted.
    pub(crate) fn off_unit(&self, unit: usize) -> Option<usize> {
        let length = self.length();
        let cuts = self.cuts.iter().copied();
        cuts.filter(|cut| *cut != length)
            .find(|cut| !cut.is_multiple_of(unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_dimension_in_order_and_differ_by_one_unit_at_most() {
        for length in [0, 1, 2, 5, 64, 100, 129] {
            for ranks in [1, 2, 3, 4, 8] {
                for unit in [1, 2, 32] {
                    let split = Split::even_in_units(length, ranks, unit).unwrap();
                    assert_eq!((split.ranks(), split.length()), (ranks, length));
                    assert_eq!(split.off_unit(unit), None);
                    let lengths: Vec<_> = (0..ranks).map(|r| split.range(r).len()).collect();
                    assert_eq!(lengths.iter().sum::<usize>(), length);
                    let most = lengths.iter().max().unwrap();
                    assert!(lengths.iter().all(|l| most - l < 2 * unit), "{lengths:?}");
                }
            }
        }
    }

    #[test]
    fn cuts_that_are_none_are_refused() {
        for cuts in [&[][..], &[0], &[1, 2], &[0, 5, 4]] {
            let message = Split::at(cuts).unwrap_err().to_string();
            assert!(message.contains(&format!("{cuts:?}")), "{message}");
        }
        assert!(Split::even(4, 0).is_err() && Split::even_in_units(4, 1, 0).is_err());
        assert_eq!(Split::at(&[0, 3, 8]).unwrap().off_unit(2), Some(3));
    }
}
