//! The layer on candle's tensors.

use super::dtype::{by_dtype, not_served, view, Float};
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Device, Layout, Result, Shape};
use candle_core::{Storage, Tensor};
use candle_nn::{Linear, Module};
use ndarray::{ArrayView1, ArrayView2, Ix1, Ix2};
use std::fmt;
use std::sync::Arc;

/// `y = x . weight^T + bias` through int8, as a [`candle_nn::Module`].
///
/// `x` is `[.., K]` of f32, f16 or bf16, with any strides, on the device that the layer was made for; `y` is `[.., N]` of
/// the same type. Weights carry one scale an output, inputs are quantised on the way with one scale a row, as
/// [`imma::Int8Linear`](crate::Int8Linear) does, with the same bits. A clone shares the weights.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_nn::{Linear, Module};
/// use imma::candle::Int8Linear;
/// let weight = Tensor::new(&[[1f32, -2.0], [0.5, 0.25]], &Device::Cpu)?;
/// let layer = Int8Linear::from_linear(&Linear::new(weight, None))?;
/// let y = layer.forward(&Tensor::new(&[[2f32, 1.0]], &Device::Cpu)?)?.to_vec2::<f32>()?;
/// assert!(y[0][0].abs() < 0.02 && (y[0][1] - 1.25).abs() < 0.02);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Int8Linear {
    op: Arc<Box<dyn CustomOp1 + Send + Sync>>,
    inputs: usize,
    outputs: usize,
}

impl Int8Linear {
    /// Quantises a float layer, on the device that its weight is on.
    ///
    /// # Errors
    /// When the weight is not a matrix of f32, f16 or bf16, when it or the bias is on a device that is not served, and as
    /// [`imma::Int8Linear::from_float`](crate::Int8Linear::from_float).
    pub fn from_linear(linear: &Linear) -> Result<Self> {
        let (weight, bias) = (linear.weight(), linear.bias());
        weight.dims2()?;
        let bias = bias.map(|b| b.to_dtype(weight.dtype())).transpose()?;
        match weight.device() {
            Device::Cpu => by_dtype!("the weight", weight.dtype(), from_cpu(weight, bias)),
            #[cfg(feature = "candle-cuda")]
            Device::Cuda(_) => {
                super::device::from_float(weight, bias.as_ref()).map(Self::on_device)
            }
            other => Err(not_served(other)),
        }
    }

    /// A layer of int8 weights `[N, K]` with their scales, one for all or `[N]`, on a device of candle's.
    ///
    /// # Errors
    /// As [`imma::Int8Linear::from_int8`](crate::Int8Linear::from_int8), and for a device that is not served.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_nn::Module;
    /// use imma::candle::Int8Linear;
    /// use ndarray::arr2;
    /// let layer = Int8Linear::from_int8(arr2(&[[127i8, 0]]).view(), &[0.5], None, &Device::Cpu)?;
    /// let y = layer.forward(&Tensor::new(&[2f32, 1.0], &Device::Cpu)?)?;
    /// assert_eq!(y.to_vec1::<f32>()?, [127.0]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    pub fn from_int8(
        weight: ArrayView2<'_, i8>,
        scales: &[f32],
        bias: Option<ArrayView1<'_, f32>>,
        device: &Device,
    ) -> Result<Self> {
        match device {
            Device::Cpu => crate::Int8Linear::from_int8(weight, scales, bias)
                .map(Self::from)
                .map_err(candle_core::Error::wrap),
            #[cfg(feature = "candle-cuda")]
            Device::Cuda(cuda) => {
                super::device::from_int8(cuda, weight, scales, bias).map(Self::on_device)
            }
            other => Err(not_served(other)),
        }
    }

    /// The linear layer `prefix` of a checkpoint, on a device of candle's; the formats are those of
    /// [`checkpoint`](crate::checkpoint).
    ///
    /// # Errors
    /// As [`Checkpoint::linear`](crate::checkpoint::Checkpoint::linear), and for a device that is not served. On CUDA
    /// devices zero points of weights are not served.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_nn::Module;
    /// use imma::{candle::Int8Linear, checkpoint::Checkpoint};
    /// let file = Checkpoint::open("tests/data/checkpoints/ct_dynamic").expect("a checkpoint");
    /// let layer = Int8Linear::from_checkpoint(&file, "up", &Device::Cpu)?;
    /// let x = Tensor::ones((2, 3, 24), DType::BF16, &Device::Cpu)?;
    /// assert_eq!(layer.forward(&x)?.dims(), [2, 3, 40]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    #[cfg(feature = "safetensors")]
    pub fn from_checkpoint(
        checkpoint: &crate::checkpoint::Checkpoint,
        prefix: &str,
        device: &Device,
    ) -> Result<Self> {
        match device {
            Device::Cpu => checkpoint
                .linear(prefix)
                .map(Self::from)
                .map_err(candle_core::Error::wrap),
            #[cfg(feature = "candle-cuda")]
            Device::Cuda(cuda) => {
                super::device::from_checkpoint(cuda, checkpoint, prefix).map(Self::on_device)
            }
            other => Err(not_served(other)),
        }
    }

    #[cfg(feature = "candle-cuda")]
    fn on_device(op: super::device::OnDevice) -> Self {
        let (inputs, outputs) = op.sizes();
        Self::new(op, inputs, outputs)
    }

    fn new(op: impl CustomOp1 + Send + Sync + 'static, inputs: usize, outputs: usize) -> Self {
        Int8Linear {
            op: Arc::new(Box::new(op)),
            inputs,
            outputs,
        }
    }

    /// K, the length of an input row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// N, the length of an output row.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

/// A layer of this crate for tensors in the CPU's memory: with any activation function, way to quantise its inputs and
/// [`Backend`](crate::Backend).
impl From<crate::Int8Linear> for Int8Linear {
    fn from(layer: crate::Int8Linear) -> Self {
        let (inputs, outputs) = (layer.inputs(), layer.outputs());
        Self::new(OnCpu(layer), inputs, outputs)
    }
}

impl Module for Int8Linear {
    /// # Errors
    /// When `x` is 0-D, its last dimension is not K, it is not f32, f16 or bf16, or it is on another device than the layer.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.dims().last() != Some(&self.inputs) {
            candle_core::bail!(
                "imma Int8Linear: the input has shape {:?}, expected [.., {}]",
                x.dims(),
                self.inputs
            )
        }
        // The CPU takes any strides, the device rows that touch.
        let x = if x.device().is_cpu() {
            x
        } else {
            &x.contiguous()?
        };
        x.apply_op1_arc(self.op.clone())
    }
}

impl fmt::Debug for Int8Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Int8Linear")
            .field("inputs", &self.inputs)
            .field("outputs", &self.outputs)
            .field("on", &self.op.name())
            .finish()
    }
}

/// Quantises a weight in the CPU's memory.
fn from_cpu<T: Float>(weight: &Tensor, bias: Option<Tensor>) -> Result<Int8Linear> {
    let bias = bias.map(|b| b.to_vec1::<T>()).transpose()?;
    let (storage, layout) = weight.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        return Err(not_served(weight.device()));
    };
    let weight = view::<T>(storage, layout)?.into_dimensionality::<Ix2>();
    let weight = weight.map_err(candle_core::Error::wrap)?;
    let bias = bias.as_deref().map(ArrayView1::from);
    let layer = crate::Int8Linear::from_float(weight, bias);
    layer.map(Into::into).map_err(candle_core::Error::wrap)
}

/// What the layer does to tensors in the CPU's memory.
struct OnCpu(crate::Int8Linear);

impl CustomOp1 for OnCpu {
    fn name(&self) -> &'static str {
        "imma Int8Linear of the CPU"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Float>(
            layer: &crate::Int8Linear,
            storage: &CpuStorage,
            layout: &Layout,
        ) -> Result<(CpuStorage, Shape)> {
            let x = view::<T>(storage, layout)?;
            // A vector is one row.
            let y = match x.view().into_dimensionality::<Ix1>() {
                Ok(row) => layer.forward(row).map(|y| y.into_dyn()),
                Err(_) => layer.forward(x),
            };
            let y = y.map_err(candle_core::Error::wrap)?;
            let shape = Shape::from(y.shape());
            let y = y.as_standard_layout().into_owned();
            Ok((T::stored(y.into_raw_vec_and_offset().0), shape))
        }
        use candle_core::backend::BackendStorage;
        by_dtype!("the input", storage.dtype(), run(&self.0, storage, layout))
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        candle_core::bail!(
            "imma Int8Linear: the input is on a CUDA device and the layer's weights are in the CPU's memory; {}",
            if cfg!(feature = "candle-cuda") {
                "make the layer on the input's device"
            } else {
                "CUDA devices are served by imma's feature `candle-cuda`, which this program was built without"
            }
        )
    }
}
