//! Tokens to the rows of their experts, quantised on the way.

use super::routing::Routing;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::ops::fused_rows::quantized_rows;
use crate::quant::{Granularity, QuantizedTensor};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

/// Quantises each token with its own scale and copies it to the row of each of its experts: the left operand of a grouped
/// product, `[R, K]` with a scale a row.
///
/// ```text
/// out[rows[t, j], :] = the integers of x[t, :]        scales[rows[t, j]] = the scale of x[t, :]
/// ```
///
/// A token is quantised once, however many experts it has. The bits are those of the default
/// [`Quantizer`](crate::Quantizer), row by row.
///
/// # Errors
/// [`Error::Length`] when `x` does not have as many rows as the routing has tokens.
///
/// ```
/// use imma::ops::{moe_permute, Routing};
/// use ndarray::arr2;
/// let routing = Routing::new(arr2(&[[1, 0], [0, 1]]).view(), 2)?;
/// let q = moe_permute(arr2(&[[1.0f32, -2.0], [127.0, 64.0]]).view(), &routing)?;
/// assert_eq!(q.matrix()?, arr2(&[[64, -127], [127, 64], [64, -127], [127, 64]]));
/// assert_eq!(q.scales(), [2.0 / 127.0, 1.0, 2.0 / 127.0, 1.0]);
/// # Ok::<(), imma::Error>(())
/// ```
pub fn moe_permute<T: Element>(x: ArrayView2<'_, T>, routing: &Routing) -> Result<QuantizedTensor> {
    let k = x.ncols();
    if x.nrows() != routing.tokens() {
        return Err(Error::Length {
            what: "the list of tokens",
            found: x.nrows(),
            expected: routing.tokens(),
        });
    }
    let rows = x.outer_iter().collect();
    let once = quantized_rows(x.shape(), rows, |row, out| {
        for (out, x) in out.iter_mut().zip(row) {
            *out = x.to_f32();
        }
    })?;
    let tokens = routing.tokens_of_rows();
    let integers = once.matrix()?;
    let mut data = Array2::<i8>::zeros((tokens.len(), k));
    if let Some(all) = data.as_slice_mut().filter(|all| !all.is_empty()) {
        let copy = |(to, token): (&mut [i8], &usize)| {
            let from = integers.row(*token);
            to.copy_from_slice(from.to_slice().expect("a row of a row-major matrix"));
        };
        all.par_chunks_mut(k).zip(&tokens).for_each(copy);
    }
    let scales = tokens.iter().map(|token| once.scales()[*token]).collect();
    QuantizedTensor::from_parts(data.into_dyn(), scales, None, Granularity::PerToken)
}
