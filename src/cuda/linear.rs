//! A linear layer on the device.

use super::matrix::Matrix;
use super::module::Device;
use super::operand::{DeviceElement, DeviceLhs, FloatBuffer, Operands};
use super::plan::Plan;
use super::spec::{Algorithm, Input, Spec};
use super::weights::{DeviceWeights, WeightOrder};
use crate::activation::Activation;
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gemm::ActivationQuant;
use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr};
use std::sync::Arc;

/// `y = activation(x . weight^T + bias)` through int8, on device memory from end to end.
///
/// [`Int8Linear`](crate::Int8Linear) with the same bits, for pipelines whose activations live on the device:
/// weights are packed there once, `x [M, K]` and `y [M, N]` are slices of the caller's. [`forward`](Self::forward) is
/// the short form; a loop makes a [`plan`](Self::plan) a batch size and a workspace, and calls
/// [`run`](Self::run), which allocates nothing and can be captured in a graph.
///
/// ```no_run
/// use half::bf16;
/// use imma::cuda::{Device, Int8Linear, Matrix, WeightOrder};
/// let device = Device::open(0)?;
/// let stream = device.context().new_stream().expect("a stream");
/// let weight = stream.alloc_zeros::<bf16>(4096 * 1024).expect("memory");
/// let weight = Matrix::new(&weight, 4096, 1024);
/// let layer = Int8Linear::from_float(&device, &stream, weight, WeightOrder::Outputs, None)?;
/// let x = stream.alloc_zeros::<bf16>(8 * 1024).expect("memory");
/// let y = layer.forward::<bf16, bf16>(&stream, Matrix::new(x.as_view(), 8, 1024))?;
/// assert_eq!(y.len(), 8 * 4096);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug)]
pub struct Int8Linear {
    device: Arc<Device>,
    weights: DeviceWeights,
    bias: Option<FloatBuffer>,
    activation: Activation,
    quant: ActivationQuant,
    algorithm: Algorithm,
}

impl Int8Linear {
    /// Quantises a float weight on the device, one symmetric scale an output; `bias` has N elements.
    ///
    /// # Errors
    /// [`Error::Length`] when the bias has not N elements; otherwise as [`Device::pack`].
    pub fn from_float<T: DeviceElement>(
        device: &Arc<Device>,
        stream: &Arc<CudaStream>,
        weight: Matrix<&impl DevicePtr<T>>,
        order: WeightOrder,
        bias: Option<CudaSlice<T>>,
    ) -> Result<Self> {
        let weights = device.pack(stream, weight, order)?;
        Self::new(device, weights, bias)
    }

    /// Packs an int8 weight with its scales, one for all or N.
    ///
    /// # Errors
    /// [`Error::Value`] for a scale that is not finite; otherwise as [`from_float`](Self::from_float) and
    /// [`Device::pack_int8`].
    pub fn from_int8<T: DeviceElement>(
        device: &Arc<Device>,
        stream: &Arc<CudaStream>,
        weight: Matrix<&impl DevicePtr<i8>>,
        order: WeightOrder,
        scales: &[f32],
        bias: Option<CudaSlice<T>>,
    ) -> Result<Self> {
        if let Some(bad) = scales.iter().find(|s| !s.is_finite()) {
            return Err(Error::Value {
                what: "a weight scale",
                found: bad.to_string(),
                expected: "a finite number".into(),
            });
        }
        let weights = device.pack_int8(stream, weight, order, Some(scales))?;
        Self::new(device, weights, bias)
    }

    fn new<T: DeviceElement>(
        device: &Arc<Device>,
        weights: DeviceWeights,
        bias: Option<CudaSlice<T>>,
    ) -> Result<Self> {
        if let Some(bias) = &bias {
            super::matrix::check_vector("bias", device, bias, weights.n())?;
        }
        Ok(Int8Linear {
            device: device.clone(),
            weights,
            bias: bias.map(T::owned),
            activation: Activation::None,
            quant: ActivationQuant::PerToken,
            algorithm: Algorithm::Heuristic,
        })
    }

    /// The same layer with an activation function after the bias.
    pub fn with_activation(self, activation: Activation) -> Self {
        Int8Linear { activation, ..self }
    }

    /// The same layer with its inputs quantised in another way; refused, where it makes no sense, by the plan.
    pub fn with_activation_quant(self, quant: ActivationQuant) -> Self {
        Int8Linear { quant, ..self }
    }

    /// The same layer by another algorithm; the same bits.
    pub fn with_algorithm(self, algorithm: Algorithm) -> Self {
        Int8Linear { algorithm, ..self }
    }

    /// The packed weights.
    pub fn weights(&self) -> &DeviceWeights {
        &self.weights
    }

    /// The plan for `m` rows of these types.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan(&self, m: usize, input: DType, output: DType) -> Result<Plan> {
        let (n, k) = (self.weights.n(), self.weights.k());
        let spec = Spec {
            input: Input::Float(input, self.quant),
            bias: self.bias.as_ref().map(|b| b.view().dtype()),
            activation: self.activation,
            algorithm: self.algorithm.clone(),
            ..Spec::floats(m, n, k, input, output)
        };
        Plan::new(&self.device, spec)
    }

    /// Enqueues a plan of this layer: reads `x [M, K]`, writes `y [M, N]`.
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub fn run<T: DeviceElement, O: DeviceElement>(
        &self,
        plan: &Plan,
        stream: &Arc<CudaStream>,
        x: Matrix<CudaView<'_, T>>,
        y: Matrix<CudaViewMut<'_, O>>,
        workspace: &mut CudaViewMut<'_, u8>,
    ) -> Result<()> {
        let operands = Operands {
            lhs: DeviceLhs::Float(x.map(T::floats)),
            weights: &self.weights,
            col_scales: None,
            bias: self.bias.as_ref().map(FloatBuffer::view),
            residual: None,
            out: y.map(O::output),
            out_scales: None,
        };
        plan.run(stream, operands, workspace)
    }

    /// `x [M, K]` to a new `[M, N]`, with a plan and a workspace of its own.
    ///
    /// # Errors
    /// As [`plan`](Self::plan) and [`run`](Self::run), and [`Error::Cuda`] where memory is short.
    pub fn forward<T: DeviceElement, O: DeviceElement>(
        &self,
        stream: &Arc<CudaStream>,
        x: Matrix<CudaView<'_, T>>,
    ) -> Result<CudaSlice<O>> {
        let (m, n) = (x.rows, self.weights.n());
        let plan = self.plan(m, T::DTYPE, O::DTYPE)?;
        let len = super::ops::area(m, n)?;
        let mut y = self.device.fresh::<O>(stream, len)?;
        let mut workspace = self.device.fresh::<u8>(stream, plan.workspace_bytes())?;
        let place = Matrix::new(y.slice_mut(..len), m, n);
        self.run(&plan, stream, x, place, &mut workspace.as_view_mut())?;
        Ok(y)
    }
}
