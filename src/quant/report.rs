//! How far a quantised result is from the float one.

use crate::error::{Error, Result};
use ndarray::ArrayViewD;
use std::fmt;

/// Error of `got` against `reference`, in f64 over the pairs in which both are finite.
///
/// With `e = got - reference`:
///
/// ```
/// use imma::quant::ErrorReport;
/// use ndarray::arr1;
/// let (want, got) = (arr1(&[3.0f32, 4.0]).into_dyn(), arr1(&[3.0f32, 4.5]).into_dyn());
/// let report = ErrorReport::between(want.view(), got.view())?;
/// assert_eq!((report.max_abs, report.mean_abs), (0.5, 0.25));
/// assert_eq!(report.relative_frobenius, 0.1);
/// assert!((report.snr_db - 20.0).abs() < 1e-9);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ErrorReport {
    /// max |e|.
    pub max_abs: f64,
    /// mean |e|.
    pub mean_abs: f64,
    /// `sqrt(sum e^2 / sum reference^2)`; 0 when both sums are 0, infinite when only the second is.
    pub relative_frobenius: f64,
    /// Signal to noise ratio in decibels, `10 log10(sum reference^2 / sum e^2)`; infinite without any error.
    pub snr_db: f64,
    /// Pairs that were compared.
    pub compared: u64,
    /// Pairs left out because one side or both are NaN or infinite.
    pub non_finite: u64,
    /// Elements that clipped, where that is known: see
    /// [`QuantizedTensor::error`](super::QuantizedTensor::error).
    pub clipped: Option<u64>,
}

impl ErrorReport {
    /// Compares two tensors of one shape, any strides.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when the shapes differ.
    pub fn between(reference: ArrayViewD<'_, f32>, got: ArrayViewD<'_, f32>) -> Result<Self> {
        if reference.shape() != got.shape() {
            return Err(Error::ShapeMismatch {
                op: "compare",
                lhs: reference.shape().to_vec(),
                rhs: got.shape().to_vec(),
                expected: "they must be equal shapes".into(),
            });
        }
        let (mut max, mut sum, mut noise, mut signal) = (0f64, 0f64, 0f64, 0f64);
        let (mut compared, mut non_finite) = (0u64, 0u64);
        ndarray::Zip::from(&reference).and(&got).for_each(|r, g| {
            let (r, g) = (f64::from(*r), f64::from(*g));
            if !(r.is_finite() && g.is_finite()) {
                non_finite += 1;
                return;
            }
            let e = (g - r).abs();
            max = max.max(e);
            sum += e;
            noise += e * e;
            signal += r * r;
            compared += 1;
        });
        Ok(ErrorReport {
            max_abs: max,
            mean_abs: sum / compared.max(1) as f64,
            relative_frobenius: if noise == 0.0 {
                0.0
            } else {
                (noise / signal).sqrt()
            },
            snr_db: if noise == 0.0 {
                f64::INFINITY
            } else {
                10.0 * (signal / noise).log10()
            },
            compared,
            non_finite,
            clipped: None,
        })
    }
}

/// One line: `max 1.2e-2, mean 3.4e-3, relative Frobenius 5.6e-3, SNR 45.0 dB`, then the count of clipped elements where it is known,
/// and that of pairs left out where there are any.
impl fmt::Display for ErrorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "max {:.3e}, mean {:.3e}, relative Frobenius {:.3e}, SNR {:.1} dB",
            self.max_abs, self.mean_abs, self.relative_frobenius, self.snr_db
        )?;
        if let Some(clipped) = self.clipped {
            write!(f, ", {clipped} clipped")?;
        }
        if self.non_finite > 0 {
            write!(f, ", {} not finite", self.non_finite)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{arr1, arr2, ArrayD};

    #[test]
    fn non_finite_pairs_are_counted_and_left_out() {
        let want = arr1(&[1.0f32, f32::NAN, 2.0, f32::INFINITY]).into_dyn();
        let got = arr1(&[1.0f32, f32::NAN, f32::NAN, f32::INFINITY]).into_dyn();
        let report = ErrorReport::between(want.view(), got.view()).unwrap();
        assert_eq!((report.compared, report.non_finite), (1, 3));
        assert_eq!((report.max_abs, report.snr_db), (0.0, f64::INFINITY));
        assert!(report.to_string().ends_with("3 not finite"));
    }

    #[test]
    fn strides_do_not_matter_and_shapes_do() {
        let a = arr2(&[[1.0f32, 2.0], [3.0, 4.0]]).into_dyn();
        let report = ErrorReport::between(a.view(), a.t()).unwrap();
        assert_eq!((report.max_abs, report.mean_abs), (1.0, 0.5));
        let error = ErrorReport::between(a.view(), arr1(&[1.0f32]).into_dyn().view());
        assert!(error.unwrap_err().to_string().contains("equal shapes"));
        let none = ArrayD::<f32>::zeros(vec![0]);
        let report = ErrorReport::between(none.view(), none.view()).unwrap();
        assert_eq!(
            (report.max_abs, report.mean_abs, report.relative_frobenius),
            (0.0, 0.0, 0.0)
        );
    }
}
