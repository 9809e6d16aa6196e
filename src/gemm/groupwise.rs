//! Scale groups: weights whose scales vary along K.

use crate::element::Element;
use crate::error::{Error, Result};
use crate::gemm::check_k;
use crate::quant::{Granularity, Quantizer};
use ndarray::{Array2, ArrayView2};

/// Refuses sizes of a scale group that no kernel knows.
pub(crate) fn check_size(size: usize) -> Result<()> {
    if [32, 64, 128].contains(&size) {
        return Ok(());
    }
    Err(Error::Value {
        what: "the group size",
        found: size.to_string(),
        expected: "32, 64 or 128".into(),
    })
}

/// Refuses scales of another shape than `expected`.
pub(crate) fn check_scales(
    op: &'static str,
    scales: &ArrayView2<'_, f32>,
    expected: [usize; 2],
) -> Result<()> {
    if scales.shape() == expected {
        return Ok(());
    }
    Err(Error::Shape {
        op,
        what: "the weight scales",
        found: scales.shape().to_vec(),
        expected: format!("[{}, {}]", expected[0], expected[1]),
    })
}

/// Whether scales `[N, K / size rounded up]` fit a layer's weight `[N, K]`, and are finite.
pub(crate) fn check_groups(
    weight: ArrayView2<'_, i8>,
    scales: ArrayView2<'_, f32>,
    size: usize,
) -> Result<()> {
    check_size(size)?;
    let (n, k) = weight.dim();
    check_k(k, false)?;
    check_scales("Int8Linear", &scales, [n, k.div_ceil(size)])?;
    check_finite(scales)
}

/// Refuses scales of the caller's that are not finite. Scales that quantising found may be: those of weights that were not.
pub(crate) fn check_finite<'s>(scales: impl IntoIterator<Item = &'s f32>) -> Result<()> {
    match scales.into_iter().find(|s| !s.is_finite()) {
        None => Ok(()),
        Some(bad) => Err(Error::Value {
            what: "a weight scale",
            found: bad.to_string(),
            expected: "a finite number".into(),
        }),
    }
}

/// A float weight `[N, K]` as int8 with scales `[N, K / size rounded up]`.
pub(crate) fn quantize_groups<T: Element>(
    weight: ArrayView2<'_, T>,
    size: usize,
) -> Result<(Array2<i8>, Array2<f32>)> {
    check_size(size)?;
    let groups = Granularity::PerGroup { size };
    let quantizer = Quantizer::builder().granularity(groups).build()?;
    let q = quantizer.quantize(weight)?;
    let (n, k) = weight.dim();
    let scales = ArrayView2::from_shape((n, k.div_ceil(size)), q.scales());
    let scales = scales.expect("one scale a group").to_owned();
    Ok((q.matrix()?.to_owned(), scales))
}
