//! Which axes of two arrays are contracted and which run side by side.

use crate::error::{Error, Result};
use crate::ops::broadcast::addressable;

/// The axes of a general product, as `lax.dot_general` defines them.
///
/// `lhs_contracting[i]` is summed together with `rhs_contracting[i]`, `lhs_batch[i]` runs together with
/// `rhs_batch[i]`; the other axes are free. The result's axes are: batch, in the order given; the free axes of the
/// left operand, in their order there; the free axes of the right one.
///
/// ```
/// use imma::ops::DimensionNumbers;
/// // einsum "bqhd,bkhd->bhqk": the scores of attention.
/// let dims = DimensionNumbers {
///     lhs_contracting: vec![3],
///     rhs_contracting: vec![3],
///     lhs_batch: vec![0, 2],
///     rhs_batch: vec![0, 2],
/// };
/// assert_eq!(dims.output_shape(&[2, 5, 4, 8], &[2, 7, 4, 8])?, [2, 4, 5, 7]);
/// # Ok::<(), imma::Error>(())
/// ```
///
/// Source: [jax.lax.dot_general](https://docs.jax.dev/en/latest/_autosummary/jax.lax.dot_general.html).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct DimensionNumbers {
    /// Axes of the left operand that are summed over.
    pub lhs_contracting: Vec<usize>,
    /// Their partners in the right operand.
    pub rhs_contracting: Vec<usize>,
    /// Axes of the left operand that run along with one of the right operand.
    pub lhs_batch: Vec<usize>,
    /// Their partners in the right operand.
    pub rhs_batch: Vec<usize>,
}

/// The product that gives the gradient of one operand, from [`DimensionNumbers::lhs_gradient`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GradientDims {
    /// Axes of the product of the result's gradient (left) and the other operand (right).
    pub dims: DimensionNumbers,
    /// Where the operand's axes are in that product: axis `i` of the gradient is its axis `axes[i]`.
    pub axes: Vec<usize>,
}

impl DimensionNumbers {
    /// The axes of `[M, K] x [K, N]`.
    pub fn matmul() -> Self {
        DimensionNumbers {
            lhs_contracting: vec![1],
            rhs_contracting: vec![0],
            ..Self::default()
        }
    }

    /// Refuses axes of one operand that are out of range or given twice.
    pub(crate) fn check_operand(&self, left: bool, shape: &[usize]) -> Result<()> {
        let (names, lists) = match left {
            true => (
                ["lhs_contracting", "lhs_batch"],
                [&self.lhs_contracting, &self.lhs_batch],
            ),
            false => (
                ["rhs_contracting", "rhs_batch"],
                [&self.rhs_contracting, &self.rhs_batch],
            ),
        };
        check_axes(names, lists.map(Vec::as_slice), shape)
    }

    /// The axes of the same product with its operands exchanged.
    pub fn swapped(&self) -> Self {
        DimensionNumbers {
            lhs_contracting: self.rhs_contracting.clone(),
            rhs_contracting: self.lhs_contracting.clone(),
            lhs_batch: self.rhs_batch.clone(),
            rhs_batch: self.lhs_batch.clone(),
        }
    }

    /// The free axes of a left operand with `rank` axes.
    pub fn lhs_free(&self, rank: usize) -> Vec<usize> {
        free(rank, &self.lhs_contracting, &self.lhs_batch)
    }

    /// The free axes of a right operand with `rank` axes.
    pub fn rhs_free(&self, rank: usize) -> Vec<usize> {
        free(rank, &self.rhs_contracting, &self.rhs_batch)
    }

    /// The shape of the product of operands of these shapes.
    ///
    /// # Errors
    /// [`Error::Value`], naming the field, for an axis that is out of range or given twice, or for lists of
    /// different length; [`Error::ShapeMismatch`] for partners of different length or a result too large to address.
    pub fn output_shape(&self, lhs: &[usize], rhs: &[usize]) -> Result<Vec<usize>> {
        self.check_operand(true, lhs)?;
        self.check_operand(false, rhs)?;
        let refuse = |expected| {
            Err(Error::ShapeMismatch {
                op: "dot_general",
                lhs: lhs.to_vec(),
                rhs: rhs.to_vec(),
                expected,
            })
        };
        let pairs = [
            (
                "rhs_contracting",
                &self.lhs_contracting,
                &self.rhs_contracting,
            ),
            ("rhs_batch", &self.lhs_batch, &self.rhs_batch),
        ];
        for (what, left, right) in pairs {
            if left.len() != right.len() {
                return Err(Error::Value {
                    what,
                    found: format!("{right:?}"),
                    expected: format!("as many axes as on the left, {left:?}"),
                });
            }
            for (&l, &r) in left.iter().zip(right) {
                if lhs[l] != rhs[r] {
                    return refuse(format!(
                        "axis {l} of the left operand must be as long as axis {r} of the right one"
                    ));
                }
            }
        }
        let batch = self.lhs_batch.iter().map(|&a| lhs[a]);
        let left = self.lhs_free(lhs.len()).into_iter().map(|a| lhs[a]);
        let right = self.rhs_free(rhs.len()).into_iter().map(|a| rhs[a]);
        let shape: Vec<usize> = batch.chain(left).chain(right).collect();
        if !addressable(&shape) {
            return refuse("the result would have more elements than can be addressed".into());
        }
        Ok(shape)
    }

    /// The product `g . rhs` that is the gradient of the left operand; `g` has the shape of the result.
    ///
    /// The axes must be valid for operands of these ranks.
    ///
    /// ```
    /// use imma::ops::DimensionNumbers;
    /// // [M, K] x [K, N]: dlhs = g [M, N] . rhs [K, N], over N.
    /// let gradient = DimensionNumbers::matmul().lhs_gradient(2, 2);
    /// assert_eq!(gradient.dims.lhs_contracting, [1]);
    /// assert_eq!(gradient.dims.rhs_contracting, [1]);
    /// assert_eq!(gradient.axes, [0, 1]);
    /// ```
    pub fn lhs_gradient(&self, lhs_rank: usize, rhs_rank: usize) -> GradientDims {
        let (lhs_free, rhs_free) = (self.lhs_free(lhs_rank), self.rhs_free(rhs_rank));
        let start = self.lhs_batch.len() + lhs_free.len();
        let dims = DimensionNumbers {
            lhs_contracting: (start..start + rhs_free.len()).collect(),
            rhs_contracting: rhs_free,
            lhs_batch: (0..self.lhs_batch.len()).collect(),
            rhs_batch: self.rhs_batch.clone(),
        };
        // The other operand's contracted axes become free, and so come in their order there.
        let contracted = partners_in_order(&self.rhs_contracting, &self.lhs_contracting);
        let axes = inverse(&[&self.lhs_batch[..], &lhs_free, &contracted].concat());
        GradientDims { dims, axes }
    }

    /// The product `g . lhs` that is the gradient of the right operand; `g` has the shape of the result.
    ///
    /// The axes must be valid for operands of these ranks.
    pub fn rhs_gradient(&self, lhs_rank: usize, rhs_rank: usize) -> GradientDims {
        let (lhs_free, rhs_free) = (self.lhs_free(lhs_rank), self.rhs_free(rhs_rank));
        let start = self.lhs_batch.len();
        let dims = DimensionNumbers {
            lhs_contracting: (start..start + lhs_free.len()).collect(),
            rhs_contracting: lhs_free,
            lhs_batch: (0..start).collect(),
            rhs_batch: self.lhs_batch.clone(),
        };
        let contracted = partners_in_order(&self.lhs_contracting, &self.rhs_contracting);
        let axes = inverse(&[&self.rhs_batch[..], &rhs_free, &contracted].concat());
        GradientDims { dims, axes }
    }
}

fn free(rank: usize, contracting: &[usize], batch: &[usize]) -> Vec<usize> {
    (0..rank)
        .filter(|a| !contracting.contains(a) && !batch.contains(a))
        .collect()
}

/// `partners`, sorted by the axes they belong to.
fn partners_in_order(axes: &[usize], partners: &[usize]) -> Vec<usize> {
    let mut pairs: Vec<_> = axes.iter().zip(partners).collect();
    pairs.sort_unstable();
    pairs.into_iter().map(|(_, partner)| *partner).collect()
}

/// The permutation that undoes `permutation`.
pub(crate) fn inverse(permutation: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; permutation.len()];
    for (i, &p) in permutation.iter().enumerate() {
        inverse[p] = i;
    }
    inverse
}

fn check_axes(names: [&'static str; 2], lists: [&[usize]; 2], shape: &[usize]) -> Result<()> {
    let mut seen = vec![false; shape.len()];
    for (what, list) in names.into_iter().zip(lists) {
        for &axis in list {
            let expected = match seen.get_mut(axis) {
                None => format!("axes below {}, the rank of the operand", shape.len()),
                Some(true) => format!("axis {axis} once among {} and {}", names[0], names[1]),
                Some(first) => {
                    *first = true;
                    continue;
                }
            };
            return Err(Error::Value {
                what,
                found: format!("{list:?}"),
                expected,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(lc: &[usize], rc: &[usize], lb: &[usize], rb: &[usize]) -> DimensionNumbers {
        DimensionNumbers {
            lhs_contracting: lc.to_vec(),
            rhs_contracting: rc.to_vec(),
            lhs_batch: lb.to_vec(),
            rhs_batch: rb.to_vec(),
        }
    }

    #[test]
    fn results_are_batch_then_left_then_right() {
        let shape = dims(&[1, 3], &[2, 0], &[2], &[1]).output_shape(&[2, 3, 4, 5], &[5, 4, 3, 7]);
        assert_eq!(shape.unwrap(), [4, 2, 7]);
    }

    #[test]
    fn bad_axes_are_refused_by_name() {
        let (lhs, rhs) = (&[2, 3][..], &[3, 2][..]);
        for (bad, field) in [
            (dims(&[2], &[0], &[], &[]), "lhs_contracting"),
            (dims(&[1], &[2], &[], &[]), "rhs_contracting"),
            (dims(&[1, 1], &[0, 1], &[], &[]), "lhs_contracting"),
            (dims(&[1], &[0], &[1], &[1]), "lhs_batch"),
            (dims(&[1], &[0], &[0], &[0]), "rhs_batch"),
            (dims(&[1], &[], &[], &[]), "rhs_contracting"),
            (dims(&[], &[], &[0], &[]), "rhs_batch"),
            (dims(&[0], &[0], &[], &[]), "axis 0 of the left"),
        ] {
            let message = bad.output_shape(lhs, rhs).unwrap_err().to_string();
            assert!(message.contains(field), "{message}");
        }
    }
}
