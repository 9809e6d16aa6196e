//! Which elements of a tensor share a scale.

use crate::error::{Error, Result};

/// Which elements of a tensor share one scale: a *slice* of it.
///
/// Scales are stored with the tensor's number of dimensions, so that they broadcast against it (per group
/// after each is repeated `size` times along its axis):
///
/// | granularity | one scale for | scales of a `[B, M, K]` tensor |
/// |---|---|---|
/// | `PerTensor` | everything | `[1, 1, 1]` |
/// | `PerToken` | each row: all axes but the last are kept | `[B, M, 1]` |
/// | `PerChannel` | each column: the last axis is kept | `[1, 1, K]` |
/// | `PerGroup { size }` | `size` neighbours along the last axis | `[B, M, ceil(K / size)]` |
/// | `PerGroupAlong { size, axis: 1 }` | `size` neighbours along axis 1 | `[B, ceil(M / size), K]` |
///
/// The last group of a line is shorter when `size` does not divide the axis.
///
/// ```
/// use imma::quant::Granularity;
/// let shape = [2, 3, 10];
/// assert_eq!(Granularity::PerToken.scales_shape(&shape)?, [2, 3, 1]);
/// assert_eq!(Granularity::PerGroup { size: 4 }.scales_shape(&shape)?, [2, 3, 3]);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Granularity {
    /// One scale for the whole tensor.
    PerTensor,
    /// One scale per row: the elements along the last axis share it.
    #[default]
    PerToken,
    /// One scale per column: the elements with one index on the last axis share it.
    PerChannel,
    /// One scale for each run of `size` elements along the last axis.
    PerGroup {
        /// Elements per group, above zero.
        size: usize,
    },
    /// One scale for each run of `size` elements along `axis`, such as axis 0, K, of `[K, N]` weights.
    PerGroupAlong {
        /// Elements per group, above zero.
        size: usize,
        /// The axis that is cut into groups.
        axis: usize,
    },
}

impl Granularity {
    /// The shape of the scales of a tensor of this shape.
    ///
    /// # Errors
    /// [`Error::Shape`] for a tensor without dimensions or without the group axis, [`Error::Value`] for groups
    /// of zero elements.
    pub fn scales_shape(self, shape: &[usize]) -> Result<Vec<usize>> {
        self.blocks(shape)?;
        let last = shape.len() - 1;
        let mut scales = shape.to_vec();
        match self {
            Granularity::PerTensor => scales.fill(1),
            Granularity::PerToken => scales[last] = 1,
            Granularity::PerChannel => scales[..last].fill(1),
            Granularity::PerGroup { size } => scales[last] = shape[last].div_ceil(size),
            Granularity::PerGroupAlong { size, axis } => scales[axis] = shape[axis].div_ceil(size),
        }
        Ok(scales)
    }

    /// Refuses what is wrong for every tensor.
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Granularity::PerGroup { size: 0 } | Granularity::PerGroupAlong { size: 0, .. } => {
                Err(Error::Value {
                    what: "granularity: the group size",
                    found: "0".into(),
                    expected: "at least 1".into(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Where the slices of a standard-layout tensor of this shape lie.
    pub(crate) fn blocks(self, shape: &[usize]) -> Result<Blocks> {
        self.check()?;
        let wrong = |expected: String| Error::Shape {
            op: "quantize",
            what: "the tensor",
            found: shape.to_vec(),
            expected,
        };
        let Some((&last, leading)) = shape.split_last() else {
            return Err(wrong("at least one dimension".into()));
        };
        let rows = leading.iter().product();
        let whole = |outer, len: usize, inner| Blocks {
            outer,
            len,
            inner,
            size: len.max(1),
            groups: 1,
        };
        Ok(match self {
            Granularity::PerTensor => whole(1, rows * last, 1),
            Granularity::PerToken => whole(rows, last, 1),
            Granularity::PerChannel => whole(1, rows, last),
            Granularity::PerGroup { size } => Blocks {
                outer: rows,
                len: last,
                inner: 1,
                size,
                groups: last.div_ceil(size),
            },
            Granularity::PerGroupAlong { size, axis } => {
                if axis >= shape.len() {
                    return Err(wrong(format!(
                        "more than {axis} dimensions: groups lie along axis {axis}"
                    )));
                }
                Blocks {
                    outer: shape[..axis].iter().product(),
                    len: shape[axis],
                    inner: shape[axis + 1..].iter().product(),
                    size,
                    groups: shape[axis].div_ceil(size),
                }
            }
        })
    }
}

/// A standard-layout tensor seen as `[outer, len, inner]`, with `len` cut into `groups` of `size`: every
/// granularity is a case of it.
///
/// ```text
///   element (o, l, i)  at  (o * len + l) * inner + i
///   its scale          at  (o * groups + l / size) * inner + i
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blocks {
    pub outer: usize,
    pub len: usize,
    pub inner: usize,
    pub size: usize,
    pub groups: usize,
}

impl Blocks {
    /// Number of scales.
    pub fn scales(&self) -> usize {
        self.outer * self.groups * self.inner
    }

    /// Elements and scales of one outer index.
    pub fn per_outer(&self) -> (usize, usize) {
        (self.len * self.inner, self.groups * self.inner)
    }

    /// The positions along `len` that belong to a group.
    pub fn span(&self, group: usize) -> std::ops::Range<usize> {
        // `size` may be as large as usize; `len` bounds every product that is used.
        let start = group.saturating_mul(self.size).min(self.len);
        start..start.saturating_add(self.size).min(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_granularity_counts_as_many_scales_as_its_shape_says() {
        for shape in [
            vec![5],
            vec![4, 7],
            vec![2, 3, 10],
            vec![0, 3],
            vec![3, 0],
            vec![2, 0, 3],
        ] {
            for granularity in [
                Granularity::PerTensor,
                Granularity::PerToken,
                Granularity::PerChannel,
                Granularity::PerGroup { size: 4 },
                Granularity::PerGroup { size: usize::MAX },
                Granularity::PerGroupAlong { size: 2, axis: 0 },
            ] {
                let scales: usize = granularity.scales_shape(&shape).unwrap().iter().product();
                let blocks = granularity.blocks(&shape).unwrap();
                assert_eq!(blocks.scales(), scales, "{granularity:?} {shape:?}");
                let elements: usize = (0..blocks.groups).map(|g| blocks.span(g).len()).sum();
                assert_eq!(elements, blocks.len, "{granularity:?} {shape:?}");
            }
        }
    }

    #[test]
    fn impossible_groups_are_refused_by_name() {
        let message =
            |g: Granularity, shape: &[usize]| g.scales_shape(shape).unwrap_err().to_string();
        assert_eq!(
            message(Granularity::PerGroup { size: 0 }, &[3]),
            "granularity: the group size is 0, expected at least 1"
        );
        assert!(message(Granularity::PerTensor, &[]).contains("at least one dimension"));
        assert!(
            message(Granularity::PerGroupAlong { size: 1, axis: 2 }, &[3, 4]).contains("axis 2")
        );
    }
}
