//! A linear layer whose weights carry a scale for each group of inputs.

use crate::activation::Activation;
use crate::cpu::{Cpu, Finish, GroupedWeights};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::gemm::{ActivationQuant, Lhs};
use crate::ops::linear::bias_of;
use crate::ops::q_matmul_int8::rows_times;
use crate::ops::rows::as_rows;
use crate::quant::{Granularity, Quantizer};
use ndarray::{Array, Array2, ArrayView, ArrayView1, ArrayView2, Dimension};
use std::fmt;
use std::sync::Arc;

/// The name in errors.
const OP: &str = "GroupedLinear";

/// `y = activation(x . weight^T + bias)` with int8 weights whose scales vary along K: one for each output and each group
/// of `size` inputs, on the CPU.
///
/// A group's own largest weight sets its scale, so that an outlier costs precision in its group alone; the finer scales
/// cost `4 / size` bytes per weight and a multiply-add for each group and result. Inputs are quantised with one scale per
/// row.
///
/// ```text
/// v = 0;  for each group in order:  v = fma(f32(exact sum of the group), weight_scale[n, group], v)
/// y = v * row_scale                 without a bias
/// y = fma(v, row_scale, bias[n])    with one;  then the activation, and one rounding to the type of x
/// ```
///
/// The same bits come out for any kernel, number of threads and batch.
///
/// ```
/// use imma::GroupedLinear;
/// use ndarray::Array2;
/// let mut weight = Array2::<f32>::from_elem((2, 64), 0.01);
/// weight[[0, 5]] = 100.0;
/// let layer = GroupedLinear::from_float(weight.view(), 32, None)?;
/// let mut x = Array2::<f32>::zeros((1, 64));
/// x[[0, 40]] = 1.0;
/// // The second group does not notice the outlier in the first.
/// assert!((layer.forward(x.view())?[[0, 0]] - 0.01).abs() < 1e-4);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Clone)]
pub struct GroupedLinear {
    cpu: Cpu,
    weights: Arc<GroupedWeights>,
    bias: Option<Arc<[f32]>>,
    activation: Activation,
}

impl GroupedLinear {
    /// Quantises a float weight `[N, K]`, each group of `size` inputs with its own symmetric scale, for the best kernel
    /// of this CPU. When `size` does not divide K the last group is shorter.
    ///
    /// # Errors
    /// [`Error::Value`] unless `size` is 32, 64 or 128, [`Error::Length`] when `bias` does not have N elements,
    /// [`Error::KTooLong`] when K is above [`MAX_K`](crate::numerics::MAX_K).
    pub fn from_float<T: Element>(
        weight: ArrayView2<'_, T>,
        size: usize,
        bias: Option<ArrayView1<'_, T>>,
    ) -> Result<Self> {
        Self::from_float_on(Cpu::new(), weight, size, bias)
    }

    /// [`from_float`](Self::from_float) on a CPU backend of choice; the same bits.
    ///
    /// # Errors
    /// As [`from_float`](Self::from_float).
    pub fn from_float_on<T: Element>(
        cpu: Cpu,
        weight: ArrayView2<'_, T>,
        size: usize,
        bias: Option<ArrayView1<'_, T>>,
    ) -> Result<Self> {
        let (q, scales) = quantize_groups(weight, size)?;
        let bias = bias_of(bias, weight.nrows())?;
        Self::new(cpu, q.view(), scales.view(), size, bias)
    }

    /// Packs an int8 weight `[N, K]` with scales `[N, K / size rounded up]`.
    ///
    /// # Errors
    /// As [`from_float`](Self::from_float); [`Error::Shape`] when the scales have another shape, [`Error::Value`] for one
    /// that is not finite.
    pub fn from_int8<T: Element>(
        cpu: Cpu,
        weight: ArrayView2<'_, i8>,
        scales: ArrayView2<'_, f32>,
        size: usize,
        bias: Option<ArrayView1<'_, T>>,
    ) -> Result<Self> {
        check_groups(weight, scales, size)?;
        Self::new(cpu, weight, scales, size, bias_of(bias, weight.nrows())?)
    }

    fn new(
        cpu: Cpu,
        weight: ArrayView2<'_, i8>,
        scales: ArrayView2<'_, f32>,
        size: usize,
        bias: Option<Arc<[f32]>>,
    ) -> Result<Self> {
        crate::gemm::check_k(weight.ncols(), false)?;
        let weights = cpu.pack_grouped(weight.reversed_axes(), scales.t().to_owned(), size);
        Ok(GroupedLinear {
            cpu,
            weights: Arc::new(weights),
            bias,
            activation: Activation::None,
        })
    }

    /// The same layer with an activation function after the bias.
    pub fn with_activation(self, activation: Activation) -> Self {
        GroupedLinear { activation, ..self }
    }

    /// K, the length of an input row.
    pub fn inputs(&self) -> usize {
        self.weights.k
    }

    /// N, the length of an output row.
    pub fn outputs(&self) -> usize {
        self.weights.n
    }

    /// How many inputs share a scale.
    pub fn group_size(&self) -> usize {
        self.weights.size
    }

    /// `x [.., K]` to `[.., N]`, in the element type of `x`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when the last axis of `x` is not K, [`Error::Shape`] when `x` is 0-D.
    pub fn forward<T: Element, D: Dimension>(&self, x: ArrayView<'_, T, D>) -> Result<Array<T, D>> {
        let (k, n) = (self.inputs(), self.outputs());
        let shape = rows_times(OP, &x, k, n, &[n, k])?;
        let rows = as_rows(x.into_dyn());
        let lhs = Lhs::Float {
            data: T::tag(rows.view()),
            quant: ActivationQuant::PerToken,
        };
        let finish = Finish {
            bias: self.bias.as_deref(),
            activation: self.activation,
        };
        let y: Array2<f32> = self.cpu.gemm_grouped(&lhs, &self.weights, &finish)?;
        let y = y.mapv(T::from_f32);
        Ok(y.into_shape_with_order(shape).expect("as many elements"))
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

/// Refuses scales that are not finite, or not one for each output and group of the weight.
pub(crate) fn check_groups(
    weight: ArrayView2<'_, i8>,
    scales: ArrayView2<'_, f32>,
    size: usize,
) -> Result<()> {
    check_size(size)?;
    let (n, k) = weight.dim();
    crate::gemm::check_k(k, false)?;
    if scales.dim() != (n, k.div_ceil(size)) {
        return Err(Error::Shape {
            op: OP,
            what: "the weight scales",
            found: scales.shape().to_vec(),
            expected: format!("[{n}, {}]", k.div_ceil(size)),
        });
    }
    match scales.iter().find(|s| !s.is_finite()) {
        None => Ok(()),
        Some(bad) => Err(Error::Value {
            what: "a weight scale",
            found: bad.to_string(),
            expected: "a finite number".into(),
        }),
    }
}

/// Refuses a group size that the kernels do not have.
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

impl fmt::Debug for GroupedLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupedLinear")
            .field("cpu", &self.cpu)
            .field("k", &self.inputs())
            .field("n", &self.outputs())
            .field("group_size", &self.group_size())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use ndarray::{Array1, Axis};

    fn noise(shape: (usize, usize), seed: u32) -> Array2<f32> {
        let mut state = seed;
        Array2::from_shape_simple_fn(shape, || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
    }

    /// The definition, one scalar at a time.
    fn oracle(x: &Array2<f32>, w: &Array2<f32>, size: usize, bias: &Array1<f32>) -> Array2<f32> {
        let x = reference::quantize_rows(x.view());
        let groups: Vec<_> = w
            .axis_chunks_iter(Axis(1), size)
            .map(reference::quantize_rows)
            .collect();
        Array2::from_shape_fn((x.q.nrows(), w.nrows()), |(i, j)| {
            let mut v = 0f32;
            for (g, group) in groups.iter().enumerate() {
                let sum: i64 = (0..group.q.ncols())
                    .map(|l| i64::from(x.q[[i, g * size + l]]) * i64::from(group.q[[j, l]]))
                    .sum();
                v = (sum as i32 as f32).mul_add(group.scales[j], v);
            }
            Activation::Silu.apply(v.mul_add(x.scales[i], bias[j]))
        })
    }

    #[test]
    fn every_leaf_and_thread_count_gives_the_oracles_bits() {
        let mut ran = 0;
        for (m, n, k) in [
            (1, 7, 32),
            (5, 33, 200),
            (3, 1, 1),
            (50, 65, 129),
            (2, 40, 3),
            (13, 96, 64),
        ] {
            for size in [32, 64, 128] {
                let (x, w) = (noise((m, k), 1), noise((n, k), 2));
                let bias = Array1::from_shape_fn(n, |j| j as f32 * 0.1 - 1.0);
                let want = oracle(&x, &w, size, &bias);
                for leaf in Cpu::leaves().iter().filter(|l| l.available) {
                    for threads in [1, 3] {
                        let cpu = Cpu::new().with_leaf(leaf.name).unwrap();
                        let cpu = cpu.with_threads(threads).unwrap();
                        let bias = Some(bias.view());
                        let layer =
                            GroupedLinear::from_float_on(cpu, w.view(), size, bias).unwrap();
                        let layer = layer.with_activation(Activation::Silu);
                        let got = layer.forward(x.view()).unwrap();
                        assert_eq!(got, want, "{} {m}x{n}x{k} groups of {size}", leaf.name);
                        ran += 1;
                    }
                }
            }
        }
        assert!(ran >= 36);
    }

    #[test]
    fn one_group_over_all_of_k_differs_by_roundings_alone_and_more_groups_lose_less() {
        let (x, mut w) = (noise((9, 128), 3), noise((17, 128), 4));
        let off = |got: &Array2<f32>, want: &Array2<f32>| (got - want).mapv(f32::abs).sum();
        let plain = crate::Int8Linear::from_float(w.view(), None).unwrap();
        let grouped = GroupedLinear::from_float(w.view(), 128, None).unwrap();
        let (a, b) = (
            plain.forward(x.view()).unwrap(),
            grouped.forward(x.view()).unwrap(),
        );
        assert!(off(&a, &b) < 1e-4);
        w.column_mut(3).mapv_inplace(|w| w * 50.0);
        let want = x.dot(&w.t());
        let error = |size| {
            let layer = GroupedLinear::from_float(w.view(), size, None).unwrap();
            off(&layer.forward(x.view()).unwrap(), &want)
        };
        assert!(error(32) < error(64) && error(64) < error(128));
    }

    #[test]
    fn shapes_and_values_that_do_not_fit_are_refused() {
        let w = noise((4, 40), 1);
        let refused = |r: Result<GroupedLinear>| r.unwrap_err().to_string();
        let made = GroupedLinear::from_float(w.view(), 33, None);
        assert!(refused(made).contains("the group size is 33, expected 32, 64 or 128"));
        let bias = Array1::<f32>::zeros(5);
        let made = GroupedLinear::from_float(w.view(), 32, Some(bias.view()));
        assert!(refused(made).contains("bias has 5"));
        let q = Array2::<i8>::ones((4, 40));
        let made = |scales: Array2<f32>| {
            GroupedLinear::from_int8::<f32>(Cpu::new(), q.view(), scales.view(), 32, None)
        };
        assert!(refused(made(Array2::ones((4, 1)))).contains("expected [4, 2]"));
        assert!(refused(made(Array2::from_elem((4, 2), f32::NAN))).contains("is NaN"));
        let layer = made(Array2::ones((4, 2))).unwrap();
        assert!(layer.forward(w.t()).is_err());
        let empty = layer.forward(Array2::<f32>::zeros((0, 40)).view()).unwrap();
        assert_eq!(empty.dim(), (0, 4));
        // A row with NaN is NaN, the others are not.
        let mut x = noise((2, 40), 2);
        x[[0, 3]] = f32::NAN;
        let y = layer.forward(x.view()).unwrap();
        assert!(y.row(0).iter().all(|y| y.is_nan()) && y.row(1).iter().all(|y| y.is_finite()));
    }
}
