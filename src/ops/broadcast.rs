//! The shape rules of `numpy.matmul`.

use crate::error::{Error, Result};
use crate::memory;
use ndarray::{Array, ArrayView, ArrayViewD, Axis, Dimension, IntoDimension};

/// The shapes of one `numpy.matmul`: `[batch.., M, K] x [batch.., K, N] -> [batch.., M, N]`.
///
/// * A 1-D left operand `[K]` counts as `[1, K]`, a 1-D right operand `[K]` as `[K, 1]`; the axis of length 1 is
///   left out of the result.
/// * The axes before the last two are aligned at their right ends and broadcast: lengths must be equal, or one of
///   them 1 or missing.
/// * 0-D operands are refused.
///
/// ```
/// use imma::ops::MatmulShape;
/// let shape = MatmulShape::new("matmul", &[2, 1, 3, 4], &[5, 4, 2])?;
/// assert_eq!(shape.output(), [2, 5, 3, 2]);
/// assert_eq!(MatmulShape::new("matmul", &[2, 3, 4], &[4])?.output(), [2, 3]);
/// assert!(MatmulShape::new("matmul", &[3, 4], &[5, 6]).is_err());
/// # Ok::<(), imma::Error>(())
/// ```
///
/// Source: [numpy.matmul](https://numpy.org/doc/stable/reference/generated/numpy.matmul.html).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MatmulShape {
    /// The axes before the last two, broadcast.
    pub batch: Vec<usize>,
    /// Rows of the left operand.
    pub m: usize,
    /// The contracted dimension.
    pub k: usize,
    /// Columns of the right operand.
    pub n: usize,
    /// The left operand has one axis: M is 1 and not part of the result.
    pub lhs_vector: bool,
    /// The right operand has one axis: N is 1 and not part of the result.
    pub rhs_vector: bool,
}

impl MatmulShape {
    /// The shapes of a product of operands of shape `lhs` and `rhs`; `op` names the caller in errors.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when an operand is 0-D, the contracted lengths differ, the batch axes don't
    /// broadcast, or the result would have more elements than can be addressed.
    pub fn new(op: &'static str, lhs: &[usize], rhs: &[usize]) -> Result<Self> {
        let refuse = |expected: String| {
            Err(Error::ShapeMismatch {
                op,
                lhs: lhs.to_vec(),
                rhs: rhs.to_vec(),
                expected,
            })
        };
        let (lhs_batch, m, k) = match lhs {
            [] => return refuse("the left operand needs at least one axis".into()),
            [k] => (&[][..], 1, *k),
            [batch @ .., m, k] => (batch, *m, *k),
        };
        let (rhs_batch, rows, n) = match rhs {
            [] => return refuse("the right operand needs at least one axis".into()),
            [k] => (&[][..], *k, 1),
            [batch @ .., k, n] => (batch, *k, *n),
        };
        if rows != k {
            return refuse(match rhs.len() {
                1 => format!("the right operand needs {k} elements but has {rows}"),
                _ => format!("the right operand needs {k} rows but has {rows}"),
            });
        }
        let batch = match broadcast(lhs_batch, rhs_batch) {
            Ok(batch) => batch,
            Err(expected) => return refuse(expected),
        };
        let shape = MatmulShape {
            batch,
            m,
            k,
            n,
            lhs_vector: lhs.len() == 1,
            rhs_vector: rhs.len() == 1,
        };
        let sizes = [[m, n], [m, k], [k, n]];
        if !sizes
            .iter()
            .all(|[r, c]| addressable(&shape.promoted(*r, *c)))
        {
            return refuse("a result with no more elements than can be addressed".into());
        }
        Ok(shape)
    }

    /// The shape of the result: vectors' axes left out.
    pub fn output(&self) -> Vec<usize> {
        let mut shape = self.batch.clone();
        if !self.lhs_vector {
            shape.push(self.m);
        }
        if !self.rhs_vector {
            shape.push(self.n);
        }
        shape
    }

    /// `[batch.., rows, columns]`.
    pub(crate) fn promoted(&self, rows: usize, columns: usize) -> Vec<usize> {
        [&self.batch[..], &[rows, columns]].concat()
    }

    /// The left operand with at least two axes.
    pub(crate) fn promote_lhs<'a, T, D: Dimension>(
        &self,
        lhs: ArrayView<'a, T, D>,
    ) -> ArrayViewD<'a, T> {
        match self.lhs_vector {
            true => lhs.into_dyn().insert_axis(Axis(0)),
            false => lhs.into_dyn(),
        }
    }

    /// The right operand with at least two axes.
    pub(crate) fn promote_rhs<'a, T, D: Dimension>(
        &self,
        rhs: ArrayView<'a, T, D>,
    ) -> ArrayViewD<'a, T> {
        match self.rhs_vector {
            true => rhs.into_dyn().insert_axis(Axis(1)),
            false => rhs.into_dyn(),
        }
    }

    /// A promoted operand seen as `[batch.., rows, columns]`, with stride 0 along axes where it is repeated.
    pub(crate) fn repeat<'a, T>(&self, promoted: &'a ArrayViewD<'_, T>) -> ArrayViewD<'a, T> {
        let [.., rows, columns] = *promoted.shape() else {
            unreachable!("promoted operands have two axes")
        };
        promoted
            .broadcast(self.promoted(rows, columns))
            .expect("checked when the shape was made")
    }
}

/// The batch axes of both operands aligned at their right ends; or else what would have fitted.
fn broadcast(lhs: &[usize], rhs: &[usize]) -> Result<Vec<usize>, String> {
    let axes = lhs.len().max(rhs.len());
    // Counted from the right: axis 0 is the last batch axis.
    let length = |batch: &[usize], axis: usize| match batch.len().checked_sub(axis + 1) {
        Some(i) => batch[i],
        None => 1,
    };
    let mut batch = vec![0; axes];
    for axis in 0..axes {
        batch[axes - 1 - axis] = match (length(lhs, axis), length(rhs, axis)) {
            (l, r) if l == r => l,
            (1, other) | (other, 1) => other,
            (l, r) => {
                return Err(format!(
                    "batch axes of equal length, or one of them 1: axis {} from the right has {l} and {r}",
                    axis + 3
                ))
            }
        };
    }
    Ok(batch)
}

/// Whether `isize` can count the elements of an array of that shape; empty axes are left aside, as ndarray does.
pub(crate) fn addressable(shape: &[usize]) -> bool {
    let count = |n: usize, axis: &usize| n.checked_mul((*axis).max(1));
    let bytes = shape.iter().try_fold(size_of::<u64>(), count);
    bytes.is_some_and(|b| isize::try_from(b).is_ok())
}

/// Results of fewer bytes are allocated without trying first.
const TRIED: usize = 1 << 20;

/// Results of fewer bytes are allocated without asking the system what is free, which takes longer than trying.
const ASKED: usize = 1 << 26;

/// What takes the memory, in refusals.
const RESULT: &str = "the result";

/// A result to write to, or a refusal where there is no memory for it: broadcasting makes large ones of small operands.
///
/// The shape has been found [`addressable`].
pub(crate) fn zeros<T: Copy + Default, I: IntoDimension>(
    op: &'static str,
    shape: I,
) -> Result<Array<T, I::Dim>> {
    let shape = shape.into_dimension();
    let elements = shape.size();
    let bytes = elements * size_of::<T>();
    if bytes >= ASKED {
        memory::check(op, RESULT, bytes as u64)?;
    }
    if bytes >= TRIED {
        // Asked for and given back: memory from `vec!` below comes zeroed by the system, that of `try_reserve` does not.
        let mut room = Vec::<T>::new();
        let reserved = room.try_reserve_exact(elements);
        // Nothing else uses it, and unused allocations are left out by the compiler.
        std::hint::black_box(&mut room);
        reserved.map_err(|_| memory::refused(op, RESULT, bytes as u64, memory::free()))?;
    }
    Ok(Array::from_elem(shape, T::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_numpys_shapes() {
        // (lhs, rhs, result), as numpy.matmul gives them.
        let cases: [(&[usize], &[usize], &[usize]); 12] = [
            (&[5], &[5], &[]),
            (&[6], &[6, 4], &[4]),
            (&[4, 6], &[6], &[4]),
            (&[3, 5], &[5, 7], &[3, 7]),
            (&[2, 3, 4], &[4, 5], &[2, 3, 5]),
            (&[3, 4], &[2, 4, 5], &[2, 3, 5]),
            (&[2, 1, 3, 4], &[1, 5, 4, 2], &[2, 5, 3, 2]),
            (&[4], &[2, 4, 5], &[2, 5]),
            (&[2, 3, 4], &[4], &[2, 3]),
            (&[0, 3, 4], &[1, 4, 2], &[0, 3, 2]),
            (&[7, 1, 3, 4], &[2, 4, 5], &[7, 2, 3, 5]),
            (&[3, 0], &[0, 2], &[3, 2]),
        ];
        for (lhs, rhs, want) in cases {
            let shape = MatmulShape::new("matmul", lhs, rhs).unwrap();
            assert_eq!(shape.output(), want, "{lhs:?} x {rhs:?}");
        }
    }

    #[test]
    fn refusals_name_both_shapes() {
        let cases: [(&[usize], &[usize]); 8] = [
            (&[3, 4], &[5, 6]),
            (&[], &[3]),
            (&[2, 3], &[]),
            (&[2, 3, 4], &[3, 4, 5]),
            (&[4], &[5]),
            (&[0, 3, 4], &[2, 4, 5]),
            (&[2, 3, 4], &[3]),
            (&[1 << 31, 1], &[1, 1 << 31]),
        ];
        for (lhs, rhs) in cases {
            let message = MatmulShape::new("matmul", lhs, rhs)
                .unwrap_err()
                .to_string();
            let named = message.contains(&format!("{lhs:?} and {rhs:?}"));
            assert!(named && message.starts_with("matmul:"), "{message}");
        }
    }

    #[test]
    fn results_beyond_memory_are_refused() {
        // 2^48 bytes: more than processes can address.
        let refused = zeros::<i32, _>("matmul", [1 << 23, 1 << 23]).unwrap_err();
        let start = "matmul: the result takes 281474976710656 bytes, more than ";
        assert!(refused.to_string().starts_with(start), "{refused}");
        assert_eq!(zeros::<u8, _>("matmul", [ASKED / 4, 4]).unwrap()[[7, 3]], 0);
        assert_eq!(zeros::<f32, _>("matmul", [0, 3]).unwrap().dim(), (0, 3));
    }
}
