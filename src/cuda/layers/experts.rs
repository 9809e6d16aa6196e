//! The experts of a mixture-of-experts layer on the device.

use super::experts_plan::{DeviceChoices, ExpertsPlan};
use super::experts_weights::ExpertWeights;
use super::weights::{DeviceWeights, WeightOrder};
use crate::activation::Activation;
use crate::cuda::runtime::{
    same_context, upload, Device, DeviceElement, DeviceFloats, DeviceOutput, Matrix,
};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gemm::groupwise::quantize_groups;
use crate::gemm::interleave_gate_up;
use cudarc::driver::{CudaSlice, CudaStream, CudaView, DevicePtrMut};
use ndarray::{concatenate, Array2, ArrayView2, ArrayView3, Axis};
use std::ops::Range;
use std::sync::Arc;

/// The experts of a mixture-of-experts layer through int8, on device memory from end to end:
/// [`Int8Experts`](crate::ops::Int8Experts) with the same bits.
///
/// Where tokens go is read on the device: nothing is synchronised, and a [`plan`](Self::plan) depends on the number of tokens
/// and of each one's choices alone. [`run`](Self::run) allocates nothing and waits for nothing; it can be captured in a graph
/// and replayed while other tokens choose other experts.
///
/// ```no_run
/// use half::bf16;
/// use imma::cuda::{Device, DeviceChoices, DeviceExperts, Matrix};
/// use ndarray::Array3;
/// let device = Device::open(0)?;
/// let stream = device.context().new_stream().expect("a stream");
/// // 8 experts of 2048 inputs and 768 intermediate values.
/// let inner = Array3::<bf16>::from_elem((8, 768, 2048), bf16::ONE);
/// let outer = Array3::<bf16>::from_elem((8, 2048, 768), bf16::ONE);
/// let layer = DeviceExperts::from_float(&device, &stream, inner.view(), inner.view(), outer.view())?;
/// // 16 tokens, 2 experts each.
/// let x = stream.alloc_zeros::<bf16>(16 * 2048).expect("memory");
/// let indices = stream.alloc_zeros::<i32>(16 * 2).expect("memory");
/// let weights = stream.alloc_zeros::<f32>(16 * 2).expect("memory");
/// let choices = DeviceChoices::new(&indices, &weights);
/// let y = layer.forward::<bf16>(&stream, Matrix::new(x.as_view(), 16, 2048), choices)?;
/// assert_eq!(y.len(), 16 * 2048);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug)]
pub struct DeviceExperts(ExpertWeights);

impl DeviceExperts {
    /// Quantises float weights of the host's, `gate` and `up` `[E, I, H]` and `down` `[E, H, I]`, on the device, one
    /// symmetric scale an output.
    ///
    /// # Errors
    /// [`Error::Shape`] when the three do not fit, [`Error::Value`] when there are no experts; as [`DeviceWeights::pack`].
    pub fn from_float<T: DeviceElement>(
        device: &Arc<Device>,
        stream: &Arc<CudaStream>,
        gate: ArrayView3<'_, T>,
        up: ArrayView3<'_, T>,
        down: ArrayView3<'_, T>,
    ) -> Result<Self> {
        let experts = check_shapes(&gate, &up, &down)?;
        let pack = |rows: Array2<T>| {
            let (n, k) = rows.dim();
            let data = upload(stream, &rows.into_iter().collect::<Vec<_>>())?;
            DeviceWeights::pack(
                device,
                stream,
                Matrix::new(&data, n, k),
                WeightOrder::Outputs,
            )
        };
        let (gate_up, down) = (pack(pairs(gate, up)?)?, pack(stacked(down))?);
        Self::from_weights(device, gate_up, down, experts)
    }

    /// The same with group-wise scales, one for each output and each group of `size` (32, 64 or 128) inputs.
    ///
    /// # Errors
    /// As [`from_float`](Self::from_float), and [`Error::Value`] for another size.
    pub fn from_float_groupwise<T: DeviceElement>(
        device: &Arc<Device>,
        stream: &Arc<CudaStream>,
        [gate, up, down]: [ArrayView3<'_, T>; 3],
        size: usize,
    ) -> Result<Self> {
        let experts = check_shapes(&gate, &up, &down)?;
        let pack = |rows: Array2<T>| {
            let (q, scales) = quantize_groups(rows.view(), size)?;
            DeviceWeights::groupwise(device, stream, q.view(), scales.view(), size)
        };
        let (gate_up, down) = (pack(pairs(gate, up)?)?, pack(stacked(down))?);
        Self::from_weights(device, gate_up, down, experts)
    }

    /// Of weights that lie on the device already: `gate_up` `[E * 2 I, H]`, the experts' one after the other with the rows
    /// of gate and up [in turn](crate::gemm::interleave_gate_up), and `down` `[E * H, I]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when they do not fit each other and the number of experts, [`Error::Value`] when there are none,
    /// when weights have no scales or lie in the context of another device.
    pub fn from_weights(
        device: &Arc<Device>,
        gate_up: DeviceWeights,
        down: DeviceWeights,
        experts: usize,
    ) -> Result<Self> {
        same_context("the weights", device.context(), gate_up.context())?;
        same_context("the weights", device.context(), down.context())?;
        if experts == 0 {
            return Err(Error::Value {
                what: "the experts",
                found: "0".into(),
                expected: "at least 1".into(),
            });
        }
        for weights in [&gate_up, &down] {
            if weights.scales().is_none() && weights.scale_group().is_none() {
                return Err(Error::Value {
                    what: "the weights' scales",
                    found: "none".into(),
                    expected: "scales of outputs, or along K".into(),
                });
            }
        }
        let (outer, inner) = (gate_up.k(), down.k());
        shape(
            "gate and up",
            [gate_up.n(), outer],
            [experts * 2 * inner, outer],
        )?;
        shape("down", [down.n(), inner], [experts * outer, inner])?;
        Ok(DeviceExperts(ExpertWeights {
            device: device.clone(),
            gate_up,
            down,
            gate_up_bias: None,
            down_bias: None,
            experts,
            activation: Activation::Silu,
            first: 0,
            total: experts,
        }))
    }

    /// The same experts with biases of the host's, `gate` and `up` `[E, I]`, `down` `[E, H]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for any other shape; [`Error::Cuda`] when the driver refuses.
    pub fn with_biases<T: DeviceElement>(
        self,
        stream: &Arc<CudaStream>,
        gate: ArrayView2<'_, T>,
        up: ArrayView2<'_, T>,
        down: ArrayView2<'_, T>,
    ) -> Result<Self> {
        same_context("the stream", self.0.device.context(), stream.context())?;
        let (experts, inner, outer) = (self.experts(), self.intermediate(), self.features());
        let of = |bias: &ArrayView2<'_, T>| <[usize; 2]>::from(bias.dim());
        shape("the gates' bias", of(&gate), [experts, inner])?;
        shape("the ups' bias", of(&up), [experts, inner])?;
        shape("the downs' bias", of(&down), [experts, outer])?;
        let put = |bias: ArrayView2<'_, T>| {
            upload(stream, &bias.iter().map(|x| x.to_f32()).collect::<Vec<_>>())
        };
        let gate_up = interleave_gate_up(gate, up, Axis(1))?;
        Ok(DeviceExperts(ExpertWeights {
            gate_up_bias: Some(put(gate_up.view())?),
            down_bias: Some(put(down)?),
            ..self.0
        }))
    }

    /// The same experts with another activation function of the gates than SiLU.
    pub fn with_activation(self, activation: Activation) -> Self {
        DeviceExperts(ExpertWeights {
            activation,
            ..self.0
        })
    }

    /// The same experts as number `first` and on of `total`, as a rank of an expert-parallel group holds them: indices are
    /// those of all, and pairs of a token and an expert elsewhere add nothing here.
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
        Ok(DeviceExperts(ExpertWeights {
            first,
            total,
            ..self.0
        }))
    }

    /// How many experts are here.
    pub fn experts(&self) -> usize {
        self.0.experts
    }

    /// Which of how many experts are here.
    pub fn place(&self) -> (Range<usize>, usize) {
        self.0.place()
    }

    /// H, the length of a token.
    pub fn features(&self) -> usize {
        self.0.features()
    }

    /// I, the length of what lies between the two products.
    pub fn intermediate(&self) -> usize {
        self.0.intermediate()
    }

    /// The device that they lie on.
    pub fn device(&self) -> &Arc<Device> {
        &self.0.device
    }

    /// The plan for `tokens` tokens of a type with `choices` experts each.
    ///
    /// # Errors
    /// [`Error::Value`] for a type that is not a float, and for more rows than 2^31 - 1 or than the address space holds.
    pub fn plan(&self, tokens: usize, choices: usize, dtype: DType) -> Result<ExpertsPlan> {
        ExpertsPlan::new(&self.0, tokens, choices, dtype)
    }

    /// Enqueues a plan of these experts: reads `x [T, H]` and the router's choices, writes `y [T, H]`, both of the plan's
    /// type.
    ///
    /// An index outside of the experts is left out, and is the error of the next call: see [`Device::check_faults`].
    ///
    /// # Errors
    /// [`Error::Value`] for the plan of other experts or another type, [`Error::Shape`] and [`Error::Length`] for operands of
    /// other shapes, those of the memory itself; what [`Device::check_faults`] knows of earlier calls. After an error nothing
    /// was enqueued.
    pub fn run<'a>(
        &self,
        plan: &ExpertsPlan,
        stream: &CudaStream,
        x: Matrix<impl Into<DeviceFloats<'a>>>,
        choices: DeviceChoices<'_>,
        y: Matrix<impl Into<DeviceOutput<'a>>>,
        workspace: &mut impl DevicePtrMut<u8>,
    ) -> Result<()> {
        let (x, y) = (x.map(Into::into), y.map(Into::into));
        plan.run(&self.0, stream, (x, choices, y), workspace)
    }

    /// `x [T, H]` to a new `[T, H]`, with a workspace of its own.
    ///
    /// # Errors
    /// As [`plan`](Self::plan) and [`run`](Self::run), and [`Error::Cuda`] where memory is short.
    pub fn forward<T: DeviceElement>(
        &self,
        stream: &Arc<CudaStream>,
        x: Matrix<CudaView<'_, T>>,
        choices: DeviceChoices<'_>,
    ) -> Result<CudaSlice<T>> {
        let (tokens, columns) = (x.rows, self.features());
        let each = choices.len().checked_div(tokens).unwrap_or(0);
        let plan = self.plan(tokens, each, T::DTYPE)?;
        let len = super::functions::area(tokens, columns)?;
        let mut y = self.0.device.fresh::<T>(stream, len)?;
        let mut workspace = self.0.device.fresh::<u8>(stream, plan.workspace_bytes())?;
        let place = Matrix::new(T::output(y.slice_mut(..len)), tokens, columns);
        self.run(
            &plan,
            stream,
            x.map(T::floats),
            choices,
            place,
            &mut workspace,
        )?;
        Ok(y)
    }
}

/// Experts' matrices one after the other.
fn stacked<T: Clone>(weights: ArrayView3<'_, T>) -> Array2<T> {
    let (experts, n, k) = weights.dim();
    let rows = weights.to_owned();
    let rows = if rows.is_standard_layout() {
        rows
    } else {
        rows.as_standard_layout().into_owned()
    };
    rows.into_shape_with_order((experts * n, k))
        .expect("as many elements")
}

/// Gates and ups, their rows in turn, one expert after the other.
fn pairs<T: Clone>(gate: ArrayView3<'_, T>, up: ArrayView3<'_, T>) -> Result<Array2<T>> {
    let each = gate.outer_iter().zip(up.outer_iter());
    let each: Result<Vec<_>> = each
        .map(|(gate, up)| interleave_gate_up(gate, up, Axis(0)))
        .collect();
    let each = each?;
    let views: Vec<_> = each.iter().map(|rows| rows.view()).collect();
    Ok(concatenate(Axis(0), &views).expect("at least one, of one shape"))
}

fn shape(what: &'static str, found: [usize; 2], expected: [usize; 2]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape {
        op: "DeviceExperts",
        what,
        found: found.to_vec(),
        expected: format!("[{}, {}]", expected[0], expected[1]),
    })
}

/// Whether gates and ups `[E, I, H]` and downs `[E, H, I]` fit each other; how many there are.
fn check_shapes<T>(
    gate: &ArrayView3<'_, T>,
    up: &ArrayView3<'_, T>,
    down: &ArrayView3<'_, T>,
) -> Result<usize> {
    let (experts, inner, outer) = gate.dim();
    for (what, found, expected) in [
        ("the ups' weights", up, [experts, inner, outer]),
        ("the downs' weights", down, [experts, outer, inner]),
    ] {
        if found.shape() != expected {
            return Err(Error::Shape {
                op: "DeviceExperts",
                what,
                found: found.shape().to_vec(),
                expected: format!("{expected:?}"),
            });
        }
    }
    if experts == 0 {
        return Err(Error::Value {
            what: "the experts",
            found: "0".into(),
            expected: "at least 1".into(),
        });
    }
    Ok(experts)
}
