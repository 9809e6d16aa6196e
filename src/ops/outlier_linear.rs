//! LLM.int8(): input channels with outliers are multiplied as floats, the others as integers.

use crate::activation::Activation;
use crate::element::Element;
use crate::element::OutputMut;
use crate::epilogue::Epilogue;
use crate::error::{Error, Result};
use crate::gemm::groupwise::check_finite;
use crate::gemm::{ActivationQuant, Backend, Gemm, Lhs, PackedWeights, Weights};
use crate::ops::linear::bias_of;
use crate::ops::q_matmul_int8::rows_times;
use crate::ops::rows::as_rows;
use crate::quant::Quantizer;
use ndarray::{Array, Array2, ArrayView, ArrayView1, ArrayView2, Axis, Dimension};
use rayon::prelude::*;
use std::sync::Arc;

/// The name in errors.
const OP: &str = "OutlierLinear";

/// `y = activation(x . weight^T + bias)` where the outliers of each row do not go through int8.
///
/// `x[m, k]` is an outlier when `|x[m, k]| > threshold`. With O(m) the outliers of row m:
///
/// ```text
/// y[m] = (x[m] without O(m)) . weight^T + bias, through int8, with the row's scale found without O(m)
/// y[m, n] = fma(x[m, k], weight[n, k] dequantised, y[m, n])   for each k of O(m), ascending, in f32
/// y = activation(y), then one rounding to the type of x
/// ```
///
/// so that an outlier neither coarsens its row's scale nor is rounded itself. A row without outliers has the bits of
/// [`Int8Linear`](crate::Int8Linear), and no row's bits depend on another row: any way of batching gives the same. The
/// integers are kept a second time, unpacked, so that columns can be taken from them. Method: T. Dettmers et al.,
/// *LLM.int8()* (2022), whose threshold is 6.0; there a whole column goes through floats when any row of the batch has an
/// outlier in it. NaN and infinity are outliers and make their rows' results NaN or infinite, as a float product does.
///
/// ```
/// use imma::ops::OutlierLinear;
/// use ndarray::{arr2, Array2};
/// let weight = arr2(&[[1.0f32, -1.0, 0.5]]);
/// let layer = OutlierLinear::from_float(weight.view(), 6.0, None)?;
/// let y = layer.forward(arr2(&[[0.011f32, 0.002, 1000.0]]).view())?;
/// assert!((y[[0, 0]] - (0.009 + 500.0 * (64.0 / 63.5))).abs() < 1e-3);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct OutlierLinear {
    backend: Arc<dyn Backend>,
    weights: PackedWeights,
    /// The weight's integers, `[N, K]`.
    integers: Arc<Array2<i8>>,
    scales: Arc<[f32]>,
    bias: Option<Arc<[f32]>>,
    activation: Activation,
    threshold: f32,
}

impl OutlierLinear {
    /// Quantises a float weight `[N, K]` with one symmetric scale per output, for the default backend.
    ///
    /// # Errors
    /// [`Error::Value`] for a threshold that is not above zero, and as
    /// [`Int8Linear::from_float`](crate::Int8Linear::from_float).
    pub fn from_float<T: Element>(
        weight: ArrayView2<'_, T>,
        threshold: f32,
        bias: Option<ArrayView1<'_, T>>,
    ) -> Result<Self> {
        let q = Quantizer::default().quantize(weight)?;
        let backend = super::default_backend().clone();
        Self::new(backend, q.matrix()?, q.scales(), threshold, bias)
    }

    /// Packs an int8 weight `[N, K]` with one scale per output, such as a bitsandbytes checkpoint holds, for a backend of
    /// choice.
    ///
    /// # Errors
    /// [`Error::Value`] for a threshold that is not above zero, [`Error::Length`] unless there are N scales and N
    /// elements in `bias`, [`Error::KTooLong`] when K is above [`MAX_K`](crate::numerics::MAX_K), [`Error::Value`] for a
    /// scale that is not finite.
    pub fn from_int8_on<T: Element>(
        backend: Arc<dyn Backend>,
        weight: ArrayView2<'_, i8>,
        scales: &[f32],
        threshold: f32,
        bias: Option<ArrayView1<'_, T>>,
    ) -> Result<Self> {
        check_finite(scales)?;
        Self::new(backend, weight, scales, threshold, bias)
    }

    fn new<T: Element>(
        backend: Arc<dyn Backend>,
        weight: ArrayView2<'_, i8>,
        scales: &[f32],
        threshold: f32,
        bias: Option<ArrayView1<'_, T>>,
    ) -> Result<Self> {
        // NaN is refused too.
        if threshold.is_nan() || threshold <= 0.0 {
            return Err(Error::Value {
                what: "the outlier threshold",
                found: threshold.to_string(),
                expected: "a number above zero".into(),
            });
        }
        let n = weight.nrows();
        if scales.len() != n {
            return Err(Error::Length {
                what: "the list of weight scales",
                found: scales.len(),
                expected: n,
            });
        }
        let bias = bias_of(bias, n)?;
        let packed = backend.pack(Weights::Int8(weight.reversed_axes()))?;
        Ok(OutlierLinear {
            backend,
            weights: packed.with_scales(scales)?,
            integers: Arc::new(weight.as_standard_layout().into_owned()),
            scales: scales.into(),
            bias,
            activation: Activation::None,
            threshold,
        })
    }

    /// The same layer with an activation function after the sum of both products.
    pub fn with_activation(self, activation: Activation) -> Self {
        OutlierLinear { activation, ..self }
    }

    /// The channels of `x [M, K]` in which some row has an outlier, ascending.
    pub fn outliers(&self, x: ArrayView2<'_, f32>) -> Vec<usize> {
        let mut found = vec![false; x.ncols()];
        for row in x.rows() {
            for (found, x) in found.iter_mut().zip(row) {
                *found |= self.is_outlier(*x);
            }
        }
        (0..found.len()).filter(|i| found[*i]).collect()
    }

    fn is_outlier(&self, x: f32) -> bool {
        x.is_nan() || x.abs() > self.threshold
    }

    /// `x [.., K]` to `[.., N]`, in the element type of `x`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when the last axis of `x` is not K, [`Error::Shape`] when `x` is 0-D; those of the
    /// backend.
    pub fn forward<T: Element, D: Dimension>(&self, x: ArrayView<'_, T, D>) -> Result<Array<T, D>> {
        let (n, k) = self.integers.dim();
        let shape = rows_times(OP, &x, k, n, &[n, k])?;
        let rows = as_rows(x.into_dyn());
        let mut x = rows.mapv(|x| x.to_f32());
        let channels = self.outliers(x.view());
        let apart = x.select(Axis(1), &channels);
        for i in &channels {
            let column = x.column_mut(*i).into_iter();
            column
                .filter(|x| self.is_outlier(**x))
                .for_each(|x| *x = 0.0);
        }
        let mut y = Array2::<f32>::zeros((x.nrows(), n));
        if !y.is_empty() {
            let lhs = Lhs::Float {
                data: f32::tag(x.view()),
                quant: ActivationQuant::PerToken,
            };
            let epilogue = Epilogue {
                bias: self.bias.as_deref().map(f32::tag_slice),
                ..Epilogue::default()
            };
            let gemm = Gemm::new(lhs, &self.weights, epilogue)?;
            self.backend.gemm(&gemm, OutputMut::F32(y.view_mut()))?;
            self.add_outliers(&apart, &channels, &mut y);
            let y = y.as_slice_mut().expect("made here, in row-major order");
            self.backend.activate(self.activation, y);
        }
        let y = y.mapv(T::from_f32);
        Ok(y.into_shape_with_order(shape).expect("as many elements"))
    }

    /// Adds what the outliers among `x [M, channels]` contribute, each row by itself and in the channels' order.
    fn add_outliers(&self, x: &Array2<f32>, channels: &[usize], y: &mut Array2<f32>) {
        let weight = Array2::from_shape_fn((channels.len(), y.ncols()), |(o, j)| {
            f32::from(self.integers[[j, channels[o]]]) * self.scales[j]
        });
        let n = y.ncols();
        let y = y.as_slice_mut().expect("made here, in row-major order");
        y.par_chunks_mut(n).enumerate().for_each(|(i, y)| {
            let outliers = x.row(i).into_iter().zip(weight.rows());
            for (x, weight) in outliers.filter(|(x, _)| self.is_outlier(**x)) {
                for (y, w) in y.iter_mut().zip(weight) {
                    *y = x.mul_add(*w, *y);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Int8Linear;
    use ndarray::{arr2, Array1};

    fn noise(shape: (usize, usize), seed: u32) -> Array2<f32> {
        let mut state = seed;
        Array2::from_shape_simple_fn(shape, || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
    }

    #[test]
    fn without_outliers_the_bits_are_those_of_int8_linear() {
        let (x, w) = (noise((7, 50), 1), noise((20, 50), 2));
        let bias = Array1::from_shape_fn(20, |j| j as f32 * 0.05);
        let plain = Int8Linear::from_float(w.view(), Some(bias.view())).unwrap();
        let plain = plain.with_activation(Activation::Gelu);
        let layer = OutlierLinear::from_float(w.view(), 6.0, Some(bias.view())).unwrap();
        let layer = layer.with_activation(Activation::Gelu);
        assert!(layer.outliers(x.view()).is_empty());
        assert_eq!(
            layer.forward(x.view()).unwrap(),
            plain.forward(x.view()).unwrap()
        );
    }

    #[test]
    fn outliers_are_taken_out_and_cost_nothing() {
        let (mut x, w) = (noise((16, 64), 3), noise((32, 64), 4));
        x.column_mut(9).mapv_inplace(|x| x * 300.0);
        x[[5, 40]] = -77.0;
        let bias = Array1::from_shape_fn(32, |j| j as f32 * 0.1 - 1.6);
        let q = Quantizer::default().quantize(w.view()).unwrap();
        let dequantized = q
            .dequantize()
            .into_dimensionality::<ndarray::Ix2>()
            .unwrap();
        let want = (x.dot(&dequantized.t()) + &bias).mapv(|y| Activation::Relu.apply(y));
        let off = |got: &Array2<f32>| (got - &want).mapv(|e| f64::from(e).powi(2)).sum().sqrt();
        let layer = OutlierLinear::from_float(w.view(), 6.0, Some(bias.view())).unwrap();
        assert_eq!(layer.outliers(x.view()), [9, 40]);
        let layer = layer.with_activation(Activation::Relu);
        let plain = Int8Linear::from_float(w.view(), Some(bias.view())).unwrap();
        let plain = plain.with_activation(Activation::Relu);
        let (apart, together) = (
            off(&layer.forward(x.view()).unwrap()),
            off(&plain.forward(x.view()).unwrap()),
        );
        assert!(apart * 20.0 < together, "{apart} {together}");
    }

    #[test]
    fn what_is_not_finite_shows_in_its_row_alone() {
        let w = noise((3, 8), 5);
        let layer = OutlierLinear::from_float(w.view(), 6.0, None).unwrap();
        let mut x = noise((3, 8), 6);
        x[[1, 2]] = f32::NAN;
        x[[2, 4]] = f32::INFINITY;
        let y = layer.forward(x.view()).unwrap();
        assert!(y.row(0).iter().all(|y| y.is_finite()));
        assert!(y.row(1).iter().all(|y| y.is_nan()));
        assert!(y.row(2).iter().all(|y| !y.is_finite()));
    }

    #[test]
    fn a_rows_bits_do_not_depend_on_other_rows() {
        let (mut x, w) = (noise((9, 64), 7), noise((24, 64), 8));
        (x[[2, 9]], x[[5, 9]], x[[5, 60]], x[[7, 1]]) = (80.0, -9.0, 700.0, f32::NAN);
        for activation in [Activation::None, Activation::Silu] {
            let layer = OutlierLinear::from_float(w.view(), 6.0, None).unwrap();
            let layer = layer.with_activation(activation);
            let plain = Int8Linear::from_float(w.view(), None).unwrap();
            let plain = plain.with_activation(activation);
            let all = layer.forward(x.view()).unwrap();
            let bits = |y: ArrayView2<f32>| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
            for i in 0..9 {
                let row = x.slice(ndarray::s![i..=i, ..]);
                let all = bits(all.slice(ndarray::s![i..=i, ..]));
                assert_eq!(all, bits(layer.forward(row).unwrap().view()), "row {i}");
                if ![2, 5, 7].contains(&i) {
                    assert_eq!(all, bits(plain.forward(row).unwrap().view()), "row {i}");
                }
            }
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let w = arr2(&[[1.0f32, 2.0]]);
        for bad in [0.0, -1.0, f32::NAN] {
            let made = OutlierLinear::from_float(w.view(), bad, None).unwrap_err();
            assert!(made.to_string().contains("the outlier threshold"));
        }
        let backend = super::super::default_backend().clone();
        let q = arr2(&[[1i8, 2]]);
        let made = OutlierLinear::from_int8_on::<f32>(backend, q.view(), &[1.0, 2.0], 6.0, None);
        assert!(made.unwrap_err().to_string().contains("weight scales"));
        for bad in [f32::NAN, f32::INFINITY] {
            let backend = super::super::default_backend().clone();
            let made = OutlierLinear::from_int8_on::<f32>(backend, q.view(), &[bad], 6.0, None);
            let message = made.unwrap_err().to_string();
            assert!(message.contains("a weight scale"), "{message}");
        }
        let layer = OutlierLinear::from_float(w.view(), f32::INFINITY, None).unwrap();
        assert!(layer.forward(arr2(&[[1.0f32]]).view()).is_err());
        assert_eq!(
            layer
                .forward(Array2::<f32>::zeros((0, 2)).view())
                .unwrap()
                .dim(),
            (0, 1)
        );
    }
}
