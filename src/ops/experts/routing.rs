//! Rows of tokens sorted by expert.

use crate::error::{Error, Result};
use ndarray::{Array2, ArrayView2};
use std::ops::Range;

/// Which row of a grouped product each pair of a token and an expert becomes: a stable counting sort by expert.
///
/// Pair `(t, j)` is token `t`'s `j`-th choice; pairs are numbered `t * k + j`. Expert `e` gets rows
/// `offsets[e]..offsets[e + 1]`, in the order of its pairs' numbers.
///
/// ```
/// use imma::ops::Routing;
/// use ndarray::arr2;
/// // Three tokens, two experts each, of four.
/// let routing = Routing::new(arr2(&[[2, 0], [0, 3], [2, 3]]).view(), 4)?;
/// assert_eq!(routing.offsets(), [0, 2, 2, 4, 6]);
/// assert_eq!(routing.rows(), arr2(&[[2, 0], [1, 4], [3, 5]]));
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Routing {
    offsets: Vec<i32>,
    /// `[T, k]`; -1 for a pair whose expert lies elsewhere.
    rows: Array2<i32>,
}

impl Routing {
    /// Sorts a router's choices: `indices [T, k]`, each in `0..experts`.
    ///
    /// # Errors
    /// [`Error::Value`] for an index outside of the experts, and for more than 2^31 - 1 pairs.
    pub fn new(indices: ArrayView2<'_, i32>, experts: usize) -> Result<Self> {
        Self::of_slice(indices, experts, 0..experts)
    }

    /// The same where only some experts lie here, as on a rank of an expert-parallel group: offsets are those of `here`
    /// alone, and pairs with other experts have no row.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Value`] for a range beyond the experts.
    pub fn of_slice(
        indices: ArrayView2<'_, i32>,
        experts: usize,
        here: Range<usize>,
    ) -> Result<Self> {
        let refuse = |what, found: String, expected: String| Error::Value {
            what,
            found,
            expected,
        };
        if here.start > here.end || here.end > experts {
            let expected = format!("a part of 0..{experts}");
            return Err(refuse(
                "the range of experts",
                format!("{here:?}"),
                expected,
            ));
        }
        if i32::try_from(indices.len()).is_err() {
            let found = indices.len().to_string();
            return Err(refuse(
                "the number of pairs of a token and an expert",
                found,
                format!("at most {}", i32::MAX),
            ));
        }
        // Where the expert of an index lies among those here.
        let place = |index: i32| -> Result<Option<usize>> {
            match usize::try_from(index) {
                Ok(e) if e < experts => Ok(here.contains(&e).then(|| e - here.start)),
                _ => Err(refuse(
                    "the index of an expert",
                    index.to_string(),
                    format!("one of 0..{experts}"),
                )),
            }
        };
        let mut offsets = vec![0i32; here.len() + 1];
        for index in &indices {
            if let Some(e) = place(*index)? {
                offsets[e + 1] += 1;
            }
        }
        for e in 0..here.len() {
            offsets[e + 1] += offsets[e];
        }
        let mut next = offsets.clone();
        let mut rows = Array2::from_elem(indices.raw_dim(), -1);
        // In logical order, which is that of the pairs' numbers.
        for (row, index) in rows.iter_mut().zip(&indices) {
            if let Some(e) = place(*index)? {
                *row = next[e];
                next[e] += 1;
            }
        }
        Ok(Routing { offsets, rows })
    }

    /// Where the rows of each expert start, and one past the last: `[E + 1]`, from 0 on.
    pub fn offsets(&self) -> &[i32] {
        &self.offsets
    }

    /// The row of each pair, `[T, k]`; -1 for a pair whose expert lies elsewhere.
    pub fn rows(&self) -> ArrayView2<'_, i32> {
        self.rows.view()
    }

    /// Number of rows: pairs whose expert lies here.
    pub fn len(&self) -> usize {
        self.offsets[self.offsets.len() - 1] as usize
    }

    /// Whether no pair's expert lies here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.rows.nrows()
    }

    /// The token of each row.
    pub(super) fn tokens_of_rows(&self) -> Vec<usize> {
        let mut tokens = vec![0; self.len()];
        for ((token, _), row) in self.rows.indexed_iter() {
            if *row >= 0 {
                tokens[*row as usize] = token;
            }
        }
        tokens
    }
}
