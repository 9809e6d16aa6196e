//! The experts of a mixture-of-experts layer.

use super::{moe_combine, moe_permute, Routing};
use crate::activation::Activation;
use crate::element::{Element, FloatSlice, OutputMut};
use crate::epilogue::{Epilogue, Output, Scales};
use crate::error::{Error, Result};
use crate::gemm::groupwise::{check_finite, check_scales};
use crate::gemm::{
    interleave_gate_up, Backend, GroupedGemm, GroupedWeights, Lhs, WeightScales, Weights,
};
use crate::ops::default_backend;
use ndarray::{Array2, ArrayView2, ArrayView3, Axis};
use std::ops::Range;
use std::sync::Arc;

/// The name in errors.
const OP: &str = "Int8Experts";

/// The experts of a mixture-of-experts layer through int8: a SwiGLU feed-forward block each, all of them in two grouped
/// products.
///
/// With `H` inputs and outputs, `I` intermediate values and E experts; token `t` goes to experts `e = indices[t, j]`:
///
/// ```text
/// h[t, j] = int8( activation(gate_e . q(x[t]) + gate_bias_e) * (up_e . q(x[t]) + up_bias_e) )    a scale for each row
/// r[t, j] = T( down_e . h[t, j] + down_bias_e )
/// y[t]    = T( sum over j of weights[t, j] * r[t, j] )                                  as moe_combine adds them
/// ```
///
/// Tokens are quantised as by [`moe_permute`], weights carry a scale for each output, or for each output and each group of
/// inputs. The steps are those of the [epilogue](crate::epilogue) and their bits those of single products: a token's result
/// is the same alone, in any batch and in any order.
///
/// ```
/// use imma::ops::Int8Experts;
/// use ndarray::{arr2, Array3};
/// // Two experts of 4 inputs and 8 intermediate values.
/// let random = |shape, seed: usize| Array3::from_shape_fn(shape, |(e, i, j)| ((e * 7 + i * 5 + j * 3 + seed) % 11) as f32 - 5.0);
/// let (gate, up, down) = (random((2, 8, 4), 0), random((2, 8, 4), 1), random((2, 4, 8), 2));
/// let experts = Int8Experts::from_float(gate.view(), up.view(), down.view())?;
/// let x = arr2(&[[0.5f32, -1.0, 0.25, 2.0], [1.0, 1.0, -0.5, 0.0]]);
/// // Each token goes to both, in an order of its own.
/// let y = experts.forward(x.view(), arr2(&[[0, 1], [1, 0]]).view(), arr2(&[[0.75f32, 0.25], [0.5, 0.5]]).view())?;
/// assert_eq!(y.dim(), (2, 4));
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Int8Experts {
    backend: Arc<dyn Backend>,
    /// `[H, 2 I]` each, columns in pairs of gate and up.
    gate_up: GroupedWeights,
    /// `[I, H]` each.
    down: GroupedWeights,
    /// `[E, 2 I]` and `[E, H]`.
    gate_up_bias: Option<Arc<[f32]>>,
    down_bias: Option<Arc<[f32]>>,
    activation: Activation,
    /// Which of how many experts these are.
    first: usize,
    total: usize,
}

/// int8 weights of experts with a scale for each output.
#[derive(Debug, Clone, Copy)]
pub struct QuantizedExperts<'a> {
    /// `[E, N, K]`.
    pub data: ArrayView3<'a, i8>,
    /// The sizes of a step, `[E, N]`.
    pub scales: ArrayView2<'a, f32>,
}

impl Int8Experts {
    /// Quantises float weights, `gate` and `up` `[E, I, H]` and `down` `[E, H, I]` (outputs before inputs: torch's order),
    /// with one symmetric scale for each output, and packs them for the default backend.
    ///
    /// # Errors
    /// [`Error::Shape`] when the three do not fit, [`Error::Value`] when there are no experts, [`Error::KTooLong`] when H or
    /// I is above [`MAX_K`](crate::numerics::MAX_K).
    pub fn from_float<T: Element>(
        gate: ArrayView3<'_, T>,
        up: ArrayView3<'_, T>,
        down: ArrayView3<'_, T>,
    ) -> Result<Self> {
        Self::from_float_on(default_backend().clone(), gate, up, down)
    }

    /// [`from_float`](Self::from_float) on a backend of choice; the same bits.
    ///
    /// # Errors
    /// As [`from_float`](Self::from_float), and those of the backend.
    pub fn from_float_on<T: Element>(
        backend: Arc<dyn Backend>,
        gate: ArrayView3<'_, T>,
        up: ArrayView3<'_, T>,
        down: ArrayView3<'_, T>,
    ) -> Result<Self> {
        Self::from_floats(backend, [gate, up, down], None)
    }

    /// The same with group-wise scales, one for each output and each group of `size` (32, 64 or 128) inputs: the steps of
    /// [`Int8Linear::from_float_groupwise`](crate::Int8Linear::from_float_groupwise).
    ///
    /// # Errors
    /// As [`from_float_on`](Self::from_float_on), and [`Error::Value`] for another size.
    pub fn from_float_groupwise_on<T: Element>(
        backend: Arc<dyn Backend>,
        gate: ArrayView3<'_, T>,
        up: ArrayView3<'_, T>,
        down: ArrayView3<'_, T>,
        size: usize,
    ) -> Result<Self> {
        Self::from_floats(backend, [gate, up, down], Some(size))
    }

    fn from_floats<T: Element>(
        backend: Arc<dyn Backend>,
        [gate, up, down]: [ArrayView3<'_, T>; 3],
        size: Option<usize>,
    ) -> Result<Self> {
        check_shapes(gate.dim(), up.dim(), down.dim())?;
        let pack = |weight: ArrayView2<'_, T>| {
            let data = T::tag(weight.reversed_axes());
            backend.pack(match size {
                None => Weights::Float(data),
                Some(size) => Weights::FloatGroupwise { data, size },
            })
        };
        let pairs = gate.outer_iter().zip(up.outer_iter());
        let gate_up = pairs.map(|(gate, up)| pack(interleave_gate_up(gate, up, Axis(0))?.view()));
        let gate_up = GroupedWeights::new(gate_up.collect::<Result<_>>()?)?;
        let down = GroupedWeights::new(down.outer_iter().map(pack).collect::<Result<_>>()?)?;
        Ok(Self::new(backend, gate_up, down))
    }

    /// Packs int8 weights, `gate` and `up` `[E, I, H]` and `down` `[E, H, I]`, on a backend of choice.
    ///
    /// # Errors
    /// As [`from_float_on`](Self::from_float_on); [`Error::Shape`] when scales do not have the shape of outputs,
    /// [`Error::Value`] for one that is not finite.
    pub fn from_int8_on<'a>(
        backend: Arc<dyn Backend>,
        gate: QuantizedExperts<'a>,
        up: QuantizedExperts<'a>,
        down: QuantizedExperts<'a>,
    ) -> Result<Self> {
        check_shapes(gate.data.dim(), up.data.dim(), down.data.dim())?;
        for part in [&gate, &up, &down] {
            let (experts, n, _) = part.data.dim();
            check_scales(OP, &part.scales, [experts, n])?;
            check_finite(part.scales)?;
        }
        let pack = |weight: ArrayView2<'_, i8>, scales: Vec<f32>| {
            let packed = backend.pack(Weights::Int8(weight.reversed_axes()))?;
            packed.with_scales(&scales)
        };
        let gate_up = (0..gate.data.dim().0).map(|e| {
            let of = |part: QuantizedExperts<'a>| {
                let (data, scales) = (part.data, part.scales);
                (
                    data.index_axis_move(Axis(0), e),
                    scales.index_axis_move(Axis(0), e),
                )
            };
            let ((gate, gate_scales), (up, up_scales)) = (of(gate), of(up));
            let weight = interleave_gate_up(gate, up, Axis(0))?;
            let scales = interleave_gate_up(gate_scales, up_scales, Axis(0))?;
            pack(weight.view(), scales.to_vec())
        });
        let gate_up = GroupedWeights::new(gate_up.collect::<Result<_>>()?)?;
        let each = down.data.outer_iter().zip(down.scales.outer_iter());
        let down = each.map(|(weight, scales)| pack(weight, scales.to_vec()));
        let down = GroupedWeights::new(down.collect::<Result<_>>()?)?;
        Ok(Self::new(backend, gate_up, down))
    }

    /// Of weights that the backend packed already: `gate_up` `[H, 2 I]` each, columns in
    /// [pairs](crate::gemm::interleave_gate_up) of gate and up, and `down` `[I, H]` each.
    ///
    /// # Errors
    /// [`Error::Shape`] when the two do not fit, [`Error::Value`] for weights without scales.
    pub fn from_grouped(
        backend: Arc<dyn Backend>,
        gate_up: GroupedWeights,
        down: GroupedWeights,
    ) -> Result<Self> {
        let dims = |w: &GroupedWeights| [w.experts(), w.k(), w.n()];
        let [experts, inner, outer] = dims(&down);
        shape("gate and up", &dims(&gate_up), &[experts, outer, 2 * inner])?;
        for weights in [&gate_up, &down] {
            let bare = (0..weights.experts())
                .find(|e| matches!(weights.expert(*e).scales(), WeightScales::None));
            if let Some(expert) = bare {
                return Err(Error::Value {
                    what: "the weights' scales",
                    found: format!("none for expert {expert}"),
                    expected: "scales of outputs, or along K".into(),
                });
            }
        }
        Ok(Self::new(backend, gate_up, down))
    }

    /// The same experts with biases `[E, 2 I]`, in pairs of gate and up, and `[E, H]`, where there are any.
    #[cfg(feature = "safetensors")]
    pub(crate) fn with_joined_biases(
        self,
        gate_up: Option<Vec<f32>>,
        down: Option<Vec<f32>>,
    ) -> Result<Self> {
        let experts = self.experts();
        for (what, bias, n) in [
            ("the bias of gate and up", &gate_up, 2 * self.intermediate()),
            ("the bias of down", &down, self.features()),
        ] {
            if let Some(bias) = bias {
                shape(what, &[bias.len()], &[experts * n])?;
            }
        }
        Ok(Int8Experts {
            gate_up_bias: gate_up.map(Arc::from),
            down_bias: down.map(Arc::from),
            ..self
        })
    }

    fn new(backend: Arc<dyn Backend>, gate_up: GroupedWeights, down: GroupedWeights) -> Self {
        let total = down.experts();
        Int8Experts {
            backend,
            gate_up,
            down,
            gate_up_bias: None,
            down_bias: None,
            activation: Activation::Silu,
            first: 0,
            total,
        }
    }

    /// The same experts with biases, `gate` and `up` `[E, I]`, `down` `[E, H]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for any other shape.
    pub fn with_biases<T: Element>(
        self,
        gate: ArrayView2<'_, T>,
        up: ArrayView2<'_, T>,
        down: ArrayView2<'_, T>,
    ) -> Result<Self> {
        let (experts, inner, outer) = (self.experts(), self.intermediate(), self.features());
        for (what, bias, n) in [
            ("the gates' bias", &gate, inner),
            ("the ups' bias", &up, inner),
            ("the downs' bias", &down, outer),
        ] {
            shape(what, bias.shape(), &[experts, n])?;
        }
        let widened = |bias: ArrayView2<'_, T>| bias.iter().map(|x| x.to_f32()).collect();
        let gate_up = interleave_gate_up(gate, up, Axis(1))?;
        Ok(Int8Experts {
            gate_up_bias: Some(widened(gate_up.view())),
            down_bias: Some(widened(down)),
            ..self
        })
    }

    /// The same experts with another activation function of the gates; SiLU unless changed.
    pub fn with_activation(self, activation: Activation) -> Self {
        Int8Experts { activation, ..self }
    }

    /// Some of these experts, as a rank of an expert-parallel group holds them: indices stay those of all, and tokens that
    /// go elsewhere get nothing from here. The weights are shared, not copied.
    ///
    /// ```
    /// use imma::ops::Int8Experts;
    /// use ndarray::{arr2, Array3};
    /// let ones = |shape| Array3::from_elem(shape, 1.0f32);
    /// let all = Int8Experts::from_float(ones((4, 2, 2)).view(), ones((4, 2, 2)).view(), ones((4, 2, 2)).view())?;
    /// let rank = all.slice(2..4)?;
    /// let (x, weights) = (arr2(&[[1.0f32, 1.0]]), arr2(&[[1.0f32]]));
    /// assert_eq!(rank.forward(x.view(), arr2(&[[1]]).view(), weights.view())?, arr2(&[[0.0, 0.0]]));
    /// let here = arr2(&[[3]]);
    /// assert_eq!(rank.forward(x.view(), here.view(), weights.view())?, all.forward(x.view(), here.view(), weights.view())?);
    /// # Ok::<(), imma::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Value`] for a range, counted from the first of these, that is empty or goes beyond them.
    pub fn slice(&self, range: Range<usize>) -> Result<Self> {
        let (gate_up, down) = (
            self.gate_up.slice(range.clone())?,
            self.down.slice(range.clone())?,
        );
        let part = |bias: &Option<Arc<[f32]>>, n: usize| {
            let part = bias.as_ref().map(|b| &b[range.start * n..range.end * n]);
            part.map(Arc::from)
        };
        Ok(Int8Experts {
            gate_up_bias: part(&self.gate_up_bias, self.gate_up.n()),
            down_bias: part(&self.down_bias, self.down.n()),
            gate_up,
            down,
            first: self.first + range.start,
            ..self.clone()
        })
    }

    /// The same experts as number `first` and on of `total`: what [`slice`](Self::slice) makes, for a rank that never held
    /// the others.
    ///
    /// # Errors
    /// [`Error::Value`] when `total` has no room for them.
    pub fn with_place(self, first: usize, total: usize) -> Result<Self> {
        let end = first.checked_add(self.experts());
        if end.is_none_or(|end| end > total) {
            return Err(Error::Value {
                what: "the place of the experts",
                found: format!("{} from {first} on of {total}", self.experts()),
                expected: "a total that they fit into".into(),
            });
        }
        Ok(Int8Experts {
            first,
            total,
            ..self
        })
    }

    /// How many experts are here.
    pub fn experts(&self) -> usize {
        self.down.experts()
    }

    /// Which of how many experts are here.
    pub fn place(&self) -> (Range<usize>, usize) {
        (self.first..self.first + self.experts(), self.total)
    }

    /// H, the length of a token.
    pub fn features(&self) -> usize {
        self.down.n()
    }

    /// I, the length of what lies between the two products.
    pub fn intermediate(&self) -> usize {
        self.down.k()
    }

    /// The packed weights of gate and up, `[H, 2 I]` each with the columns in pairs.
    pub fn gate_up(&self) -> &GroupedWeights {
        &self.gate_up
    }

    /// The packed weights of down, `[I, H]` each.
    pub fn down(&self) -> &GroupedWeights {
        &self.down
    }

    /// Where tokens go, for a router's choices `[T, k]` of all experts.
    ///
    /// # Errors
    /// As [`Routing::new`].
    pub fn route(&self, indices: ArrayView2<'_, i32>) -> Result<Routing> {
        let (here, total) = self.place();
        Routing::of_slice(indices, total, here)
    }

    /// `x [T, H]`, the router's `indices` and `weights` `[T, k]`, to `[T, H]` in the element type of `x`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `x` does not have H columns, [`Error::Length`] when it does not have the indices' rows; as
    /// [`Routing::new`] and [`moe_combine`]; those of the backend.
    pub fn forward<T: Element>(
        &self,
        x: ArrayView2<'_, T>,
        indices: ArrayView2<'_, i32>,
        weights: ArrayView2<'_, f32>,
    ) -> Result<Array2<T>> {
        let routing = self.route(indices)?;
        shape("the tokens", x.shape(), &[x.nrows(), self.features()])?;
        shape("the router's weights", weights.shape(), indices.shape())?;
        let rows = moe_permute(x, &routing)?;
        let inner = self.intermediate();
        let mut h = Array2::<i8>::zeros((routing.len(), inner));
        let mut h_scales = vec![0f32; routing.len()];
        let epilogue = Epilogue {
            row_scales: rows.row_scales()?,
            bias: self.gate_up_bias.as_deref().map(FloatSlice::F32),
            activation: self.activation,
            gated: true,
            ..Epilogue::to(Output::Int8PerRow)
        };
        let lhs = Lhs::Int8(rows.matrix()?);
        let grouped = GroupedGemm::new(lhs, routing.offsets(), &self.gate_up, epilogue)?;
        let place = OutputMut::I8PerRow {
            data: h.view_mut(),
            scales: &mut h_scales,
        };
        self.backend.grouped_gemm(&grouped, place)?;
        let mut y = Array2::<T>::default((routing.len(), self.features()));
        let epilogue = Epilogue {
            row_scales: Scales::PerVector(&h_scales[..]),
            bias: self.down_bias.as_deref().map(FloatSlice::F32),
            ..Epilogue::to(Output::of::<T>())
        };
        let lhs = Lhs::Int8(h.view());
        let grouped = GroupedGemm::new(lhs, routing.offsets(), &self.down, epilogue)?;
        self.backend
            .grouped_gemm(&grouped, T::tag_mut(y.view_mut()))?;
        moe_combine(y.view(), &routing, weights)
    }
}

fn shape(what: &'static str, found: &[usize], expected: &[usize]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape {
        op: OP,
        what,
        found: found.to_vec(),
        expected: format!("{expected:?}"),
    })
}

/// Whether gates and ups `[E, I, H]` and downs `[E, H, I]` fit each other.
fn check_shapes(
    gate: (usize, usize, usize),
    up: (usize, usize, usize),
    down: (usize, usize, usize),
) -> Result<()> {
    let (experts, inner, outer) = gate;
    let list = |(a, b, c)| [a, b, c];
    shape("the ups' weights", &list(up), &list(gate))?;
    shape("the downs' weights", &list(down), &[experts, outer, inner])
}
