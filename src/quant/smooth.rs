//! SmoothQuant: the range of activations moved into the weights, where it costs less.
//!
//! After G. Xiao et al., *SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models*
//! (2023).

use crate::element::Element;
use crate::error::{Error, Result};
use crate::numerics;
use ndarray::{ArrayView, ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis, Dimension};

/// Gathers the largest magnitude of each input channel over the batches that it is shown.
///
/// ```
/// use imma::quant::ActivationObserver;
/// use ndarray::arr2;
/// let mut observer = ActivationObserver::new(2);
/// observer.observe(arr2(&[[1.0f32, -8.0], [0.5, 2.0]]).view())?;
/// observer.observe(arr2(&[[-3.0f32, 0.0]]).view())?;
/// assert_eq!((observer.absmax(), observer.rows()), (&[3.0f32, 8.0][..], 3));
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ActivationObserver {
    absmax: Vec<f32>,
    rows: u64,
}

impl ActivationObserver {
    /// An observer of rows of `k` channels that has seen nothing.
    pub fn new(k: usize) -> Self {
        ActivationObserver {
            absmax: vec![0.0; k],
            rows: 0,
        }
    }

    /// Takes in a batch `[.., K]`. NaN stays in its channel, as infinity does.
    ///
    /// # Errors
    /// [`Error::Shape`] when the last axis is not K or there is none.
    pub fn observe<T: Element, D: Dimension>(&mut self, x: ArrayView<'_, T, D>) -> Result<()> {
        let k = self.absmax.len();
        if x.shape().last() != Some(&k) {
            return Err(Error::Shape {
                op: "observe",
                what: "the activations",
                found: x.shape().to_vec(),
                expected: format!("[.., {k}]"),
            });
        }
        for row in x.rows() {
            for (seen, x) in self.absmax.iter_mut().zip(row) {
                *seen = numerics::absmax([*seen, x.to_f32()]);
            }
            self.rows += 1;
        }
        Ok(())
    }

    /// max |x| of each channel, `[K]`.
    pub fn absmax(&self) -> &[f32] {
        &self.absmax
    }

    /// Rows seen.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

/// Factors `s` of the K input channels that some linear layers share: inputs are divided by them and weights
/// multiplied, so that `(x / s) . (W s)^T = x . W^T` while outliers of `x` shrink.
///
/// ```text
/// s[k] = max |x[k]|^alpha / max |W[.., k]|^(1 - alpha)
/// ```
///
/// with the migration strength `alpha` from 0 (all of the difficulty stays with the activations) to 1 (all of it moves to
/// the weights); 1 where a channel has seen nothing, holds no weights or is not finite. Factors lie in 2^-20..=2^20.
///
/// The division costs nothing where what comes before can take it in: a norm's gain and offset
/// ([`fold_into_norm`](Self::fold_into_norm)), or the linear layer before
/// ([`fold_into_linear`](Self::fold_into_linear)). Every result is rounded to f32 once.
///
/// ```
/// use imma::quant::{ActivationObserver, SmoothQuant};
/// use ndarray::{arr1, arr2};
/// let mut observer = ActivationObserver::new(2);
/// observer.observe(arr2(&[[1.0f32, 64.0]]).view())?;
/// let mut weight = arr2(&[[1.0f32, 1.0], [0.5, -1.0]]);
/// let smooth = SmoothQuant::new(&observer, &[weight.view()], 0.5)?;
/// assert_eq!(smooth.factors(), [1.0, 8.0]);
/// smooth.scale_weight(weight.view_mut())?;
/// assert_eq!(weight, arr2(&[[1.0, 8.0], [0.5, -8.0]]));
/// let mut gain = arr1(&[1.0f32, 2.0]);
/// smooth.fold_into_norm(gain.view_mut(), None)?;
/// assert_eq!(gain, arr1(&[1.0, 0.25]));
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct SmoothQuant {
    factors: Vec<f32>,
}

impl SmoothQuant {
    /// The factors of the layers whose weights `[N, K]` these are and which share the observed input.
    ///
    /// # Errors
    /// [`Error::Value`] for an alpha outside 0..=1, [`Error::Length`] when a weight does not have K columns.
    pub fn new(
        activations: &ActivationObserver,
        weights: &[ArrayView2<'_, f32>],
        alpha: f32,
    ) -> Result<Self> {
        if !(0.0..=1.0).contains(&alpha) {
            return Err(Error::Value {
                what: "the migration strength alpha",
                found: alpha.to_string(),
                expected: "a number in 0..=1".into(),
            });
        }
        let k = activations.absmax.len();
        let mut largest = vec![0.0f32; k];
        for weight in weights {
            same_length("a row of a weight", weight.ncols(), k)?;
            for row in weight.rows() {
                for (seen, w) in largest.iter_mut().zip(row) {
                    *seen = numerics::absmax([*seen, *w]);
                }
            }
        }
        let factor = |(x, w): (&f32, &f32)| {
            let good = |v: f32| v > 0.0 && v.is_finite();
            if !(good(*x) && good(*w)) {
                return 1.0;
            }
            let (x, w) = (f64::from(*x), f64::from(*w));
            let s = x.powf(alpha.into()) / w.powf(1.0 - f64::from(alpha));
            s.clamp(1.0 / 1_048_576.0, 1_048_576.0) as f32
        };
        let factors = activations.absmax.iter().zip(&largest).map(factor);
        Ok(SmoothQuant {
            factors: factors.collect(),
        })
    }

    /// The factors, `[K]`.
    pub fn factors(&self) -> &[f32] {
        &self.factors
    }

    /// Multiplies the columns of a weight `[N, K]` that takes the smoothed input.
    ///
    /// # Errors
    /// [`Error::Length`] when it does not have K columns.
    pub fn scale_weight(&self, mut weight: ArrayViewMut2<'_, f32>) -> Result<()> {
        same_length("a row of the weight", weight.ncols(), self.factors.len())?;
        for mut row in weight.rows_mut() {
            for (w, s) in row.iter_mut().zip(&self.factors) {
                *w *= s;
            }
        }
        Ok(())
    }

    /// Divides the gain `[K]`, and the offset `[K]` where there is one, of the norm that makes the input.
    ///
    /// Anything else that reads the norm's output (a residual, in models that add after the norm) must keep the old ones.
    ///
    /// # Errors
    /// [`Error::Length`] when either does not have K elements.
    pub fn fold_into_norm(
        &self,
        gain: ArrayViewMut1<'_, f32>,
        offset: Option<ArrayViewMut1<'_, f32>>,
    ) -> Result<()> {
        let k = self.factors.len();
        same_length("the norm's gain", gain.len(), k)?;
        if let Some(offset) = &offset {
            same_length("the norm's offset", offset.len(), k)?;
        }
        for mut part in std::iter::once(gain).chain(offset) {
            part.iter_mut()
                .zip(&self.factors)
                .for_each(|(x, s)| *x /= s);
        }
        Ok(())
    }

    /// Divides the rows of the weight `[K, _]`, and the bias `[K]` where there is one, of the linear layer whose
    /// outputs make the input, with nothing between but sums over other axes (as between attention's values and its
    /// output layer).
    ///
    /// # Errors
    /// [`Error::Length`] when the weight does not have K rows, or the bias K elements.
    pub fn fold_into_linear(
        &self,
        mut weight: ArrayViewMut2<'_, f32>,
        bias: Option<ArrayViewMut1<'_, f32>>,
    ) -> Result<()> {
        let k = self.factors.len();
        same_length("a column of the weight", weight.nrows(), k)?;
        if let Some(mut bias) = bias {
            same_length("the bias", bias.len(), k)?;
            bias.iter_mut()
                .zip(&self.factors)
                .for_each(|(b, s)| *b /= s);
        }
        for (mut row, s) in weight.axis_iter_mut(Axis(0)).zip(&self.factors) {
            row.iter_mut().for_each(|w| *w /= s);
        }
        Ok(())
    }
}

fn same_length(what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Length {
        what,
        found,
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Int8Linear;
    use ndarray::{Array1, Array2};

    fn noise(shape: (usize, usize), seed: u32) -> Array2<f32> {
        let mut state = seed;
        Array2::from_shape_simple_fn(shape, || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
    }

    fn off(got: &Array2<f32>, want: &Array2<f32>) -> f64 {
        let norm = |x: &Array2<f32>| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        norm(&(got - want)) / norm(want)
    }

    #[test]
    fn outliers_cost_less_when_smoothed_and_floats_stay_the_same() {
        let (mut x, w) = (noise((64, 48), 1), noise((40, 48), 2));
        x.column_mut(7).mapv_inplace(|x| x * 200.0);
        let want = x.dot(&w.t());
        let plain = Int8Linear::from_float(w.view(), None).unwrap();
        let plain = off(&plain.forward(x.view()).unwrap(), &want);
        let mut observer = ActivationObserver::new(48);
        observer.observe(x.view()).unwrap();
        let smooth = SmoothQuant::new(&observer, &[w.view()], 0.5).unwrap();
        // The inputs come from a norm with gain 1: folding divides them.
        let mut gain = Array1::ones(48);
        let mut weight = w.clone();
        smooth.fold_into_norm(gain.view_mut(), None).unwrap();
        smooth.scale_weight(weight.view_mut()).unwrap();
        let x = &x * &gain;
        assert!(off(&x.dot(&weight.t()), &want) < 1e-6);
        let layer = Int8Linear::from_float(weight.view(), None).unwrap();
        let smoothed = off(&layer.forward(x.view()).unwrap(), &want);
        assert!(smoothed * 2.0 < plain, "{smoothed} {plain}");
    }

    #[test]
    fn two_layers_in_a_row_compute_the_same() {
        let (x, first, second) = (noise((5, 12), 3), noise((16, 12), 4), noise((9, 16), 5));
        let bias = Array1::from_shape_fn(16, |i| i as f32 * 0.1 - 0.6);
        let hidden = x.dot(&first.t()) + &bias;
        let want = hidden.dot(&second.t());
        let mut observer = ActivationObserver::new(16);
        observer.observe(hidden.view()).unwrap();
        let smooth = SmoothQuant::new(&observer, &[second.view()], 0.8).unwrap();
        let (mut first, mut second, mut bias) = (first, second, bias);
        smooth
            .fold_into_linear(first.view_mut(), Some(bias.view_mut()))
            .unwrap();
        smooth.scale_weight(second.view_mut()).unwrap();
        assert!(off(&(x.dot(&first.t()) + &bias).dot(&second.t()), &want) < 1e-6);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_strange_channels_stay() {
        let mut observer = ActivationObserver::new(3);
        assert!(observer.observe(noise((2, 4), 1).view()).is_err());
        let x = ndarray::arr2(&[[0.0f32, f32::NAN, 4.0]]);
        observer.observe(x.view()).unwrap();
        observer.observe(noise((2, 3), 1).view()).unwrap();
        assert!(observer.absmax()[1].is_nan());
        let w = ndarray::arr2(&[[0.0f32, 1.0, 0.0]]);
        let smooth = SmoothQuant::new(&observer, &[w.view()], 0.5).unwrap();
        assert_eq!(smooth.factors(), [1.0; 3]);
        assert!(SmoothQuant::new(&observer, &[w.view()], 1.5).is_err());
        assert!(SmoothQuant::new(&observer, &[w.t()], 0.5).is_err());
        assert!(smooth.scale_weight(noise((3, 2), 1).view_mut()).is_err());
        assert!(smooth
            .fold_into_linear(noise((2, 3), 1).view_mut(), None)
            .is_err());
        assert!(smooth
            .fold_into_norm(Array1::ones(3).view_mut(), Some(Array1::ones(2).view_mut()))
            .is_err());
    }
}
