//! The results of a token's experts back into one.

use super::routing::Routing;
use crate::element::Element;
use crate::error::{Error, Result};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

/// The weighted sum of each token's results, in the order of its choices: `y [R, N]`, `weights [T, k]`, the result `[T, N]`.
///
/// ```text
/// v = 0;  for j in 0..k, where pair (t, j) has a row:  v = v + weights[t, j] * f32(y[rows[t, j], n])
/// out[t, n] = T(v)                                     product, sum and T(..) each rounded to nearest even
/// ```
///
/// The order is the token's own, so that the bits don't depend on who else was routed. A pair whose expert lies elsewhere
/// adds nothing.
///
/// # Errors
/// [`Error::Shape`] when `y` does not have the routing's rows or `weights` is not `[T, k]`.
///
/// ```
/// use imma::ops::{moe_combine, Routing};
/// use ndarray::arr2;
/// let routing = Routing::new(arr2(&[[1, 0]]).view(), 2)?;
/// let y = arr2(&[[10.0f32, 1.0], [4.0, 2.0]]);
/// let out = moe_combine(y.view(), &routing, arr2(&[[0.25f32, 0.5]]).view())?;
/// assert_eq!(out, arr2(&[[6.0, 1.0]]));
/// # Ok::<(), imma::Error>(())
/// ```
pub fn moe_combine<T: Element>(
    y: ArrayView2<'_, T>,
    routing: &Routing,
    weights: ArrayView2<'_, f32>,
) -> Result<Array2<T>> {
    let shape = |what, found: &[usize], expected: [usize; 2]| match found == expected {
        true => Ok(()),
        false => Err(Error::Shape {
            op: "moe_combine",
            what,
            found: found.to_vec(),
            expected: format!("{expected:?}"),
        }),
    };
    let (rows, n) = (routing.rows(), y.ncols());
    shape("the experts' results", y.shape(), [routing.len(), n])?;
    shape("the router's weights", weights.shape(), rows.dim().into())?;
    let mut out = Array2::<T>::default((rows.nrows(), n));
    if let Some(all) = out.as_slice_mut().filter(|all| !all.is_empty()) {
        let token = |sums: &mut Vec<f32>, (t, out): (usize, &mut [T])| {
            sums.fill(0.0);
            for (row, weight) in rows.row(t).iter().zip(weights.row(t)) {
                let Ok(row) = usize::try_from(*row) else {
                    continue;
                };
                for (sum, y) in sums.iter_mut().zip(y.row(row)) {
                    *sum += weight * y.to_f32();
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = T::from_f32(*sum);
            }
        };
        all.par_chunks_mut(n)
            .enumerate()
            .for_each_init(|| vec![0f32; n], token);
    }
    Ok(out)
}
