//! A linear layer on the device.

use super::weights::{DeviceWeights, WeightOrder};
use crate::activation::Activation;
use crate::cuda::product::{Algorithm, DeviceLhs, Input, Operands, Plan, Plans, Problem};
use crate::cuda::runtime::{
    Device, DeviceElement, DeviceFloats, DeviceOutput, FloatBuffer, Matrix,
};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gemm::groupwise::check_finite;
use crate::gemm::ActivationQuant;
use cudarc::driver::{CudaSlice, CudaStream, CudaView, DevicePtr, DevicePtrMut};
use std::sync::Arc;

/// `y = activation(x . weight^T + bias)` through int8, on device memory from end to end.
///
/// [`Int8Linear`](crate::Int8Linear) with the same bits, for pipelines whose activations live on the device:
/// weights are packed there once, `x [M, K]` and `y [M, N]` are slices of the caller's. [`forward`](Self::forward) is
/// the short form; a loop takes the [`plan`](Self::plan) of its batch size (kept: coming back to a batch size costs a
/// look-up) and a workspace, and calls [`run`](Self::run), which allocates nothing and can be captured in a graph.
///
/// ```no_run
/// use half::bf16;
/// use imma::cuda::{Device, DeviceLinear, Matrix, WeightOrder};
/// let device = Device::open(0)?;
/// let stream = device.context().new_stream().expect("a stream");
/// let weight = stream.alloc_zeros::<bf16>(4096 * 1024).expect("memory");
/// let weight = Matrix::new(&weight, 4096, 1024);
/// let layer = DeviceLinear::from_float(&device, &stream, weight, WeightOrder::Outputs)?;
/// let x = stream.alloc_zeros::<bf16>(8 * 1024).expect("memory");
/// let y = layer.forward::<bf16, bf16>(&stream, Matrix::new(x.as_view(), 8, 1024))?;
/// assert_eq!(y.len(), 8 * 4096);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug)]
pub struct DeviceLinear {
    device: Arc<Device>,
    weights: DeviceWeights,
    bias: Option<FloatBuffer>,
    activation: Activation,
    gated: bool,
    quant: ActivationQuant,
    algorithm: Algorithm,
    plans: Plans,
}

impl DeviceLinear {
    /// Quantises a float weight on the device, one symmetric scale an output.
    ///
    /// # Errors
    /// As [`DeviceWeights::pack`].
    pub fn from_float<T: DeviceElement>(
        device: &Arc<Device>,
        stream: &Arc<CudaStream>,
        weight: Matrix<&impl DevicePtr<T>>,
        order: WeightOrder,
    ) -> Result<Self> {
        let weights = DeviceWeights::pack(device, stream, weight, order)?;
        Ok(Self::new(device, weights))
    }

    /// Packs an int8 weight with its scales, one for all or N.
    ///
    /// # Errors
    /// [`Error::Value`] for a scale that is not finite; otherwise as [`DeviceWeights::pack_int8`].
    pub fn from_int8(
        device: &Arc<Device>,
        stream: &Arc<CudaStream>,
        weight: Matrix<&impl DevicePtr<i8>>,
        order: WeightOrder,
        scales: &[f32],
    ) -> Result<Self> {
        check_finite(scales)?;
        let weights = DeviceWeights::pack_int8(device, stream, weight, order, Some(scales))?;
        Ok(Self::new(device, weights))
    }

    /// Of weights that are packed already, group-wise ones too.
    ///
    /// # Errors
    /// [`Error::Value`] when they lie in the context of another device.
    pub fn from_weights(device: &Arc<Device>, weights: DeviceWeights) -> Result<Self> {
        let (expected, found) = (device.context(), weights.context());
        crate::cuda::runtime::same_context("the weights", expected, found)?;
        Ok(Self::new(device, weights))
    }

    fn new(device: &Arc<Device>, weights: DeviceWeights) -> Self {
        DeviceLinear {
            device: device.clone(),
            weights,
            bias: None,
            activation: Activation::None,
            gated: false,
            quant: ActivationQuant::PerToken,
            algorithm: Algorithm::Heuristic,
            plans: Plans::default(),
        }
    }

    /// The same layer with a bias of N elements, f32, f16 or bf16.
    ///
    /// # Errors
    /// [`Error::Length`] if `bias` does not have N elements.
    pub fn with_bias(self, bias: impl Into<FloatBuffer>) -> Result<Self> {
        let bias = bias.into();
        let (found, expected) = (bias.view().len(), self.weights.n());
        if found != expected {
            return Err(Error::Length {
                what: "bias",
                found,
                expected,
            });
        }
        let bias = Some(bias);
        Ok(DeviceLinear { bias, ..self })
    }

    /// The same layer with an activation function after the bias.
    pub fn with_activation(self, activation: Activation) -> Self {
        DeviceLinear { activation, ..self }
    }

    /// The same layer with its outputs taken in pairs, gate before up (see
    /// [`interleave_gate_up`](crate::gemm::interleave_gate_up)): `activation(gate) * up`, `[M, N / 2]`.
    pub fn gated(self) -> Self {
        DeviceLinear {
            gated: true,
            ..self
        }
    }

    /// The same layer with its inputs quantised in another way; refused, where it makes no sense, by the plan.
    pub fn with_activation_quant(self, quant: ActivationQuant) -> Self {
        DeviceLinear { quant, ..self }
    }

    /// The same layer by another algorithm; the same bits.
    pub fn with_algorithm(self, algorithm: Algorithm) -> Self {
        DeviceLinear { algorithm, ..self }
    }

    /// The packed weights.
    pub fn weights(&self) -> &DeviceWeights {
        &self.weights
    }

    /// What the layer asks for with `m` rows of these types.
    fn problem(&self, m: usize, input: DType, output: DType) -> Problem {
        let mut problem = Problem::floats(m, self.weights.n(), self.weights.k(), input, output)
            .with_input(Input::Float(input, self.quant));
        problem.scale_group = self.weights.scale_group();
        problem.epilogue.bias = self.bias.as_ref().map(|b| b.view().dtype());
        problem.epilogue.activation = self.activation;
        problem.epilogue.gated = self.gated;
        problem
    }

    /// The plan for `m` rows of these types, kept for the next call.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan(&self, m: usize, input: DType, output: DType) -> Result<Plan> {
        let problem = self.problem(m, input, output);
        self.plans.get(&self.device, problem, self.algorithm)
    }

    /// Enqueues a plan of this layer: reads `x [M, K]`, writes `y [M, N]` (`[M, N / 2]` when gated).
    ///
    /// # Errors
    /// [`Error::Value`] for the plan of another layer, whose bias, activation or quantising differ, and of another device;
    /// otherwise as [`Plan::run`].
    pub fn run<'a>(
        &self,
        plan: &Plan,
        stream: &CudaStream,
        x: Matrix<impl Into<DeviceFloats<'a>>>,
        y: Matrix<impl Into<DeviceOutput<'a>>>,
        workspace: &mut impl DevicePtrMut<u8>,
    ) -> Result<()> {
        let (x, y) = (x.map(Into::into), y.map(Into::into));
        let mine = self.problem(plan.problem().m, x.data.dtype(), y.data.dtype());
        if *plan.problem() != mine || !Arc::ptr_eq(plan.device(), &self.device) {
            return Err(Error::Value {
                what: "the plan",
                found: format!("one for {}", described(plan)),
                expected: format!(
                    "this layer's, for [{}, {}] weights and {}",
                    mine.n,
                    mine.k,
                    mine.kind()
                ),
            });
        }
        let mut operands = Operands::new(DeviceLhs::Float(x), self.weights.view(), y);
        if let Some(bias) = &self.bias {
            operands = operands.with_bias(bias.view());
        }
        plan.run(stream, operands, workspace)
    }

    /// `x [M, K]` to a new `[M, N]`, with a workspace of its own.
    ///
    /// # Errors
    /// As [`plan`](Self::plan) and [`run`](Self::run), and [`Error::Cuda`] where memory is short.
    pub fn forward<T: DeviceElement, O: DeviceElement>(
        &self,
        stream: &Arc<CudaStream>,
        x: Matrix<CudaView<'_, T>>,
    ) -> Result<CudaSlice<O>> {
        let m = x.rows;
        let plan = self.plan(m, T::DTYPE, O::DTYPE)?;
        let columns = plan.problem().output_columns();
        let len = super::functions::area(m, columns)?;
        let mut y = self.device.fresh::<O>(stream, len)?;
        let mut workspace = self.device.fresh::<u8>(stream, plan.workspace_bytes())?;
        let place = Matrix::new(O::output(y.slice_mut(..len)), m, columns);
        self.run(&plan, stream, x.map(T::floats), place, &mut workspace)?;
        Ok(y)
    }
}

/// A plan's problem in words, for errors.
fn described(plan: &Plan) -> String {
    let problem = plan.problem();
    let (n, k) = (problem.n, problem.k);
    let kind = problem.kind();
    let ordinal = plan.device().context().ordinal();
    format!("[{n}, {k}] weights and {kind} on device {ordinal}")
}
