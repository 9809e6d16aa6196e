//! A linear layer: weights quantised and packed once, used many times.

use crate::activation::Activation;
use crate::element::{Element, FloatSlice};
use crate::epilogue::{Epilogue, Output};
use crate::error::{Error, Result};
use crate::gemm::groupwise::{check_finite, check_groups};
use crate::gemm::{ActivationQuant, Backend, Gemm, Lhs, PackedWeights, Weights};
use crate::ops::default_backend;
use crate::ops::q_matmul_int8::rows_times;
use crate::ops::rows::{as_rows, as_rows_mut};
use crate::quant::InputTransform;
use ndarray::{concatenate, s, Array, Array2, ArrayView, ArrayView1, ArrayView2, ArrayViewMut};
use ndarray::{ArrayViewMut2, Axis, Dimension};
use rayon::prelude::*;
use std::sync::Arc;

/// The name in errors.
const OP: &str = "Int8Linear";

/// Inputs that are transformed at a time: what a forward pass holds of them does not grow with the batch.
const STRIP: usize = 1 << 20;

/// `y = activation(x . weight^T + bias)` through int8, in one pass from float to float.
///
/// `weight` is `[N, K]` (outputs, inputs: torch's order), `x` is `[.., K]`, `y` is `[.., N]`, in the element type of
/// `x`. Weights carry one scale per output (or one for all), found or given once; activations are quantised on the way,
/// by default with one scale per row. Scales that change along K make a
/// [group-wise](Self::from_float_groupwise) layer. Without bias and activation function the bits are those of
/// [`q_matmul_int8`](crate::q_matmul_int8) of `x` and `weight^T`; the steps and their rounding are those of the
/// [epilogue](crate::epilogue).
///
/// ```
/// use imma::activation::Activation;
/// use imma::Int8Linear;
/// use ndarray::{arr1, arr2};
/// let weight = arr2(&[[1.0f32, -1.0], [0.5, 0.5], [0.0, 2.0]]);
/// let layer = Int8Linear::from_float(weight.view(), Some(arr1(&[0.0f32, 1.0, 0.0]).view()))?
///     .with_activation(Activation::Relu);
/// let y = layer.forward(arr2(&[[1.0f32, 1.0]]).view())?;
/// assert_eq!(y.dim(), (1, 3));
/// assert!((y[[0, 1]] - 2.0).abs() < 1e-2 && (y[[0, 2]] - 2.0).abs() < 2e-2);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Int8Linear {
    backend: Arc<dyn Backend>,
    weights: PackedWeights,
    bias: Option<Arc<[f32]>>,
    activation: Activation,
    quant: ActivationQuant,
    transform: InputTransform,
    /// Inputs that the packed weights expect a second time, after all the others; see
    /// [`from_int8_asymmetric_on`](Int8Linear::from_int8_asymmetric_on).
    repeated: Arc<[usize]>,
}

impl Int8Linear {
    /// Quantises a float weight `[N, K]` with one symmetric scale per output, and packs it for the default backend.
    ///
    /// # Errors
    /// [`Error::Length`] when `bias` does not have N elements, [`Error::KTooLong`] when K is above
    /// [`MAX_K`](crate::numerics::MAX_K).
    pub fn from_float<T: Element>(
        weight: ArrayView2<'_, T>,
        bias: Option<ArrayView1<'_, T>>,
    ) -> Result<Self> {
        Self::from_float_on(default_backend().clone(), weight, bias)
    }

    /// [`from_float`](Self::from_float) on a backend of choice; the same bits.
    ///
    /// # Errors
    /// As [`from_float`](Self::from_float), and those of the backend.
    pub fn from_float_on<T: Element>(
        backend: Arc<dyn Backend>,
        weight: ArrayView2<'_, T>,
        bias: Option<ArrayView1<'_, T>>,
    ) -> Result<Self> {
        let bias = bias_of(bias, weight.nrows())?;
        let weights = backend.pack(Weights::Float(T::tag(weight.reversed_axes())))?;
        Ok(Self::new(backend, weights, bias))
    }

    /// Packs an int8 weight `[N, K]` with its scales, one for all or `[N]`, for the default backend.
    ///
    /// # Errors
    /// [`Error::Length`] when `scales` has neither 1 nor N elements or `bias` does not have N, [`Error::Value`] for a scale that
    /// is not finite, [`Error::KTooLong`] when K is above [`MAX_K`](crate::numerics::MAX_K).
    ///
    /// ```
    /// use imma::Int8Linear;
    /// use ndarray::arr2;
    /// let layer = Int8Linear::from_int8::<f32>(arr2(&[[127i8, 0]]).view(), &[0.5], None)?;
    /// assert_eq!(layer.forward(arr2(&[[2.0f32, 1.0]]).view())?[[0, 0]], 127.0);
    /// # Ok::<(), imma::Error>(())
    /// ```
    pub fn from_int8<T: Element>(
        weight: ArrayView2<'_, i8>,
        scales: &[f32],
        bias: Option<ArrayView1<'_, T>>,
    ) -> Result<Self> {
        Self::from_int8_on(default_backend().clone(), weight, scales, bias)
    }

    /// [`from_int8`](Self::from_int8) on a backend of choice; the same bits.
    ///
    /// # Errors
    /// As [`from_int8`](Self::from_int8), and those of the backend.
    pub fn from_int8_on<T: Element>(
        backend: Arc<dyn Backend>,
        weight: ArrayView2<'_, i8>,
        scales: &[f32],
        bias: Option<ArrayView1<'_, T>>,
    ) -> Result<Self> {
        let bias = bias_of(bias, weight.nrows())?;
        check_finite(scales)?;
        let n = weight.nrows();
        if scales.len() != 1 && scales.len() != n {
            return Err(Error::Length {
                what: "the list of weight scales",
                found: scales.len(),
                expected: n,
            });
        }
        let weights = backend.pack(Weights::Int8(weight.reversed_axes()))?;
        Ok(Self::new(backend, weights.with_scales(scales)?, bias))
    }

    /// Quantises a float weight `[N, K]` group-wise, one symmetric scale for each output and each group of `size` inputs,
    /// and packs it for the default backend. When `size` does not divide K the last group is shorter.
    ///
    /// A group's own largest weight sets its step, so that an outlier costs its neighbours in the group alone; the finer
    /// scales cost `4 / size` bytes a weight and a multiply-add for each group and result:
    ///
    /// ```text
    /// v = 0;  for each group in order:  v = fma(f32(exact sum of the group), weight_scale[n, group], v)
    /// y = v * row_scale                 without a bias
    /// y = fma(v, row_scale, bias[n])    with one;  then the activation, and one rounding to the type of x
    /// ```
    ///
    /// ```
    /// use imma::Int8Linear;
    /// use ndarray::Array2;
    /// let mut weight = Array2::<f32>::from_elem((2, 64), 0.01);
    /// weight[[0, 5]] = 100.0;
    /// let layer = Int8Linear::from_float_groupwise(weight.view(), 32, None)?;
    /// let mut x = Array2::<f32>::zeros((1, 64));
    /// x[[0, 40]] = 1.0;
    /// // The second group does not notice the outlier in the first.
    /// assert!((layer.forward(x.view())?[[0, 0]] - 0.01).abs() < 1e-4);
    /// # Ok::<(), imma::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Value`] unless `size` is 32, 64 or 128; otherwise as [`from_float`](Self::from_float).
    pub fn from_float_groupwise<T: Element>(
        weight: ArrayView2<'_, T>,
        size: usize,
        bias: Option<ArrayView1<'_, T>>,
    ) -> Result<Self> {
        Self::from_float_groupwise_on(default_backend().clone(), weight, size, bias)
    }

    /// [`from_float_groupwise`](Self::from_float_groupwise) on a backend of choice; the same bits.
    ///
    /// # Errors
    /// As [`from_float_groupwise`](Self::from_float_groupwise), and those of the backend.
    pub fn from_float_groupwise_on<T: Element>(
        backend: Arc<dyn Backend>,
        weight: ArrayView2<'_, T>,
        size: usize,
        bias: Option<ArrayView1<'_, T>>,
    ) -> Result<Self> {
        let bias = bias_of(bias, weight.nrows())?;
        let data = T::tag(weight.reversed_axes());
        let weights = backend.pack(Weights::FloatGroupwise { data, size })?;
        Ok(Self::new(backend, weights, bias))
    }

    /// Packs an int8 weight `[N, K]` with group-wise scales `[N, K / size rounded up]` for the default backend; the steps
    /// are those of [`from_float_groupwise`](Self::from_float_groupwise).
    ///
    /// # Errors
    /// As there; [`Error::Shape`] when the scales have another shape, [`Error::Value`] for one that is not finite.
    pub fn from_int8_groupwise<T: Element>(
        weight: ArrayView2<'_, i8>,
        scales: ArrayView2<'_, f32>,
        size: usize,
        bias: Option<ArrayView1<'_, T>>,
    ) -> Result<Self> {
        Self::from_int8_groupwise_on(default_backend().clone(), weight, scales, size, bias)
    }

    /// [`from_int8_groupwise`](Self::from_int8_groupwise) on a backend of choice; the same bits.
    ///
    /// # Errors
    /// As [`from_int8_groupwise`](Self::from_int8_groupwise), and those of the backend.
    pub fn from_int8_groupwise_on<T: Element>(
        backend: Arc<dyn Backend>,
        weight: ArrayView2<'_, i8>,
        scales: ArrayView2<'_, f32>,
        size: usize,
        bias: Option<ArrayView1<'_, T>>,
    ) -> Result<Self> {
        check_groups(weight, scales, size)?;
        let bias = bias_of(bias, weight.nrows())?;
        let weights = backend.pack(Weights::Int8Groupwise {
            data: weight.reversed_axes(),
            scales: scales.reversed_axes(),
            size,
        })?;
        Ok(Self::new(backend, weights, bias))
    }

    fn new(backend: Arc<dyn Backend>, weights: PackedWeights, bias: Option<Arc<[f32]>>) -> Self {
        Int8Linear {
            backend,
            weights,
            bias,
            activation: Activation::None,
            quant: ActivationQuant::PerToken,
            transform: InputTransform::default(),
            repeated: Arc::default(),
        }
    }

    /// Packs an asymmetric int8 weight `[N, K]` that stands for `(q - zero_point) * scale`, with one scale and one
    /// zero point per output, on a backend of choice.
    ///
    /// The differences `q - zero_point` are what is packed, so that the layer runs as a symmetric one does, to the
    /// bit. A difference outside int8's range is packed in parts, each multiplied by the same input, and the exact
    /// int32 sum adds them up: such a layer may need twice the memory and time.
    ///
    /// # Errors
    /// [`Error::Length`] unless there are N scales and N zero points, and N elements in `bias`; [`Error::Value`]
    /// for a scale that is not finite; [`Error::KTooLong`] when K, with the repeated inputs, is above
    /// [`MAX_K`](crate::numerics::MAX_K).
    ///
    /// ```
    /// use imma::ops::default_backend;
    /// use imma::Int8Linear;
    /// use ndarray::arr2;
    /// let w = arr2(&[[127i8, -28]]);
    /// let layer = Int8Linear::from_int8_asymmetric_on::<f32>(default_backend().clone(), w.view(), &[0.5], &[-28], None)?;
    /// // (127 + 28) * 0.5 * 2.0 + (-28 + 28) * 0.5 * 1.0
    /// assert_eq!(layer.forward(arr2(&[[2.0f32, 1.0]]).view())?[[0, 0]], 155.0);
    /// # Ok::<(), imma::Error>(())
    /// ```
    pub fn from_int8_asymmetric_on<T: Element>(
        backend: Arc<dyn Backend>,
        weight: ArrayView2<'_, i8>,
        scales: &[f32],
        zero_points: &[i8],
        bias: Option<ArrayView1<'_, T>>,
    ) -> Result<Self> {
        check_zero_points(zero_points, weight.nrows())?;
        let (weight, repeated) = differences(weight, zero_points);
        let layer = Self::from_int8_on(backend, weight.view(), scales, bias)?;
        Ok(Int8Linear {
            repeated: repeated.into(),
            ..layer
        })
    }

    /// The same layer with an activation function after the bias.
    pub fn with_activation(self, activation: Activation) -> Self {
        Int8Linear { activation, ..self }
    }

    /// The same layer with its inputs quantised in another way: static, or asymmetric per row. A row with NaN or
    /// infinity gives NaN in its row of the result, whichever way it is.
    ///
    /// # Errors
    /// [`Error::Value`] for a static scale that is not a number above zero with a finite inverse,
    /// [`Error::KTooLong`] when K is above [`MAX_K_ZERO_POINT`](crate::numerics::MAX_K_ZERO_POINT) and inputs are
    /// asymmetric, [`Error::Epilogue`] for asymmetric inputs of group-wise weights.
    pub fn with_activation_quant(self, quant: ActivationQuant) -> Result<Self> {
        // A product without rows makes the same checks.
        let empty = Array2::<f32>::zeros((0, self.weights.k()));
        let data = Element::tag(empty.view());
        Gemm::new(
            Lhs::Float { data, quant },
            &self.weights,
            Epilogue::default(),
        )?;
        Ok(Int8Linear { quant, ..self })
    }

    /// The same layer with its inputs transformed before they are quantised: for weights that are stored multiplied or
    /// rotated. On every backend the transform runs on the CPU, in f32, a strip of rows at a time.
    ///
    /// ```
    /// use imma::quant::InputTransform;
    /// use imma::Int8Linear;
    /// use ndarray::arr2;
    /// // The weight's second column was divided by 8, so the input's is multiplied.
    /// let layer = Int8Linear::from_float(arr2(&[[1.0f32, 0.125]]).view(), None)?
    ///     .with_input_transform(InputTransform::default().with_multiplier(&[1.0, 8.0])?)?;
    /// assert!((layer.forward(arr2(&[[2.0f32, 1.0]]).view())?[[0, 0]] - 3.0).abs() < 0.05);
    /// # Ok::<(), imma::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`InputTransform::check`] for K inputs.
    pub fn with_input_transform(self, transform: InputTransform) -> Result<Self> {
        transform.check(self.inputs())?;
        Ok(Int8Linear { transform, ..self })
    }

    /// What is done to inputs before they are quantised.
    pub fn input_transform(&self) -> &InputTransform {
        &self.transform
    }

    /// K, the length of an input row.
    pub fn inputs(&self) -> usize {
        self.weights.k() - self.repeated.len()
    }

    /// N, the length of an output row.
    pub fn outputs(&self) -> usize {
        self.weights.n()
    }

    /// Inputs that share a scale, when the weights' scales are group-wise.
    pub fn group_size(&self) -> Option<usize> {
        self.weights.group_size()
    }

    /// The packed weights, with their scales.
    pub fn weights(&self) -> &PackedWeights {
        &self.weights
    }

    /// `x [.., K]` to `[.., N]`, in the element type of `x`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when the last axis of `x` is not K, [`Error::Shape`] when `x` is 0-D; those of the
    /// backend.
    pub fn forward<T: Element, D: Dimension>(&self, x: ArrayView<'_, T, D>) -> Result<Array<T, D>> {
        let shape = self.output_shape(&x)?;
        let rows = as_rows(x.into_dyn());
        let mut out = Array2::<T>::default((rows.nrows(), self.outputs()));
        self.rows(rows.view(), out.view_mut())?;
        Ok(out.into_shape_with_order(shape).expect("as many elements"))
    }

    /// [`forward`](Self::forward) into memory of the caller's, of shape `[.., N]` and any strides.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and [`Error::Shape`] when `out` has another shape. Then `out` is untouched.
    pub fn forward_into<T: Element, D: Dimension>(
        &self,
        x: ArrayView<'_, T, D>,
        mut out: ArrayViewMut<'_, T, D>,
    ) -> Result<()> {
        let shape = self.output_shape(&x)?;
        if out.raw_dim() != shape {
            return Err(Error::Shape {
                op: OP,
                what: "the output",
                found: out.shape().to_vec(),
                expected: format!("{:?}", shape.slice()),
            });
        }
        let last = out.ndim() - 1;
        let contiguous = self.outputs() <= 1 || out.strides()[last] == 1;
        match as_rows_mut(out.view_mut().into_dyn()) {
            Some(place) if contiguous => {
                let x = as_rows(x.into_dyn());
                self.rows(x.view(), place)
            }
            _ => {
                let y = self.forward(x)?;
                out.assign(&y);
                Ok(())
            }
        }
    }

    fn output_shape<T, D: Dimension>(&self, x: &ArrayView<'_, T, D>) -> Result<D> {
        let (k, n) = (self.inputs(), self.outputs());
        rows_times(OP, x, k, n, &[n, k])
    }

    fn rows<T: Element>(&self, x: ArrayView2<'_, T>, mut out: ArrayViewMut2<'_, T>) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        if self.transform.is_identity() {
            return self.product(x, out);
        }
        let strip = (STRIP / self.inputs().max(1)).max(1);
        for first in (0..x.nrows()).step_by(strip) {
            let rows = s![first..x.nrows().min(first + strip), ..];
            let mut x = x.slice(rows).map(|x| x.to_f32());
            if let Some(all) = x.as_slice_mut().filter(|all| !all.is_empty()) {
                let k = self.inputs();
                all.par_chunks_mut(k)
                    .try_for_each(|row| self.transform.apply(row))?;
            }
            self.product(x.view(), out.slice_mut(rows))?;
        }
        Ok(())
    }

    /// The product of inputs that are as the weights expect them.
    fn product<I: Element, T: Element>(
        &self,
        x: ArrayView2<'_, I>,
        out: ArrayViewMut2<'_, T>,
    ) -> Result<()> {
        let widened = (!self.repeated.is_empty()).then(|| {
            let again = x.select(Axis(1), &self.repeated);
            concatenate(Axis(1), &[x, again.view()]).expect("as many rows")
        });
        let lhs = Lhs::Float {
            data: I::tag(widened.as_ref().map_or(x, |x| x.view())),
            quant: self.quant,
        };
        let epilogue = Epilogue {
            bias: self.bias.as_deref().map(FloatSlice::F32),
            activation: self.activation,
            ..Epilogue::to(Output::of::<T>())
        };
        let gemm = Gemm::new(lhs, &self.weights, epilogue)?;
        self.backend.gemm(&gemm, T::tag_mut(out))
    }
}

/// Refuses another number of weight zero points than one an output.
pub(crate) fn check_zero_points(zero_points: &[i8], n: usize) -> Result<()> {
    if zero_points.len() == n {
        return Ok(());
    }
    Err(Error::Length {
        what: "the list of weight zero points",
        found: zero_points.len(),
        expected: n,
    })
}

/// `q - zero_point` of an asymmetric weight `[N, K]` in int8: `[N, K + R]`, where the last R columns are what the first K
/// could not hold, and the R inputs that are therefore multiplied a second time.
pub(crate) fn differences(
    weight: ArrayView2<'_, i8>,
    zero_points: &[i8],
) -> (Array2<i8>, Vec<usize>) {
    let (n, k) = weight.dim();
    // What a difference in -255..=255 leaves to its parts: 255 alone has three, 127 + 127 + 1.
    let part = |part: usize, j: usize, i: usize| {
        let mut rest = i16::from(weight[[j, i]]) - i16::from(zero_points[j]);
        for _ in 0..part {
            rest -= rest.clamp(-128, 127);
        }
        rest.clamp(-128, 127) as i8
    };
    let again = |p: usize| (0..k).filter(move |&i| (0..n).any(|j| part(p, j, i) != 0));
    let second: Vec<usize> = again(1).collect();
    let repeated: Vec<usize> = second.iter().copied().chain(again(2)).collect();
    let weight = Array2::from_shape_fn((n, k + repeated.len()), |(j, i)| match i {
        i if i < k => part(0, j, i),
        i if i < k + second.len() => part(1, j, repeated[i - k]),
        i => part(2, j, repeated[i - k]),
    });
    (weight, repeated)
}

/// A bias widened to f32 (exact), with its length checked.
pub(super) fn bias_of<T: Element>(
    bias: Option<ArrayView1<'_, T>>,
    n: usize,
) -> Result<Option<Arc<[f32]>>> {
    match bias {
        Some(bias) if bias.len() != n => Err(Error::Length {
            what: "bias",
            found: bias.len(),
            expected: n,
        }),
        bias => Ok(bias.map(|b| b.iter().map(|x| x.to_f32()).collect())),
    }
}
