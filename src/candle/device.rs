//! The layer in the memory of a CUDA device, on candle's stream.

use super::dtype::{by_dtype, not_served};
use crate::cuda::{self, DeviceElement, DeviceLinear, Matrix, WeightOrder};
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaDType;
use candle_core::{CpuStorage, CudaDevice, CudaStorage, CustomOp1, Layout, Result, Shape};
use candle_core::{Error, Storage, Tensor};
use cudarc::driver::{CudaContext, CudaSlice, CudaView, DeviceRepr};
use ndarray::{ArrayView1, ArrayView2};
use std::sync::{Arc, Mutex, PoisonError, Weak};

trait Float: DeviceElement + CudaDType + DeviceRepr {}
impl<T: DeviceElement + CudaDType + DeviceRepr> Float for T {}

/// The kernels of a context, loaded once for all of a model's layers.
fn device_of(context: &Arc<CudaContext>) -> Result<Arc<cuda::Device>> {
    static LOADED: Mutex<Vec<Weak<cuda::Device>>> = Mutex::new(Vec::new());
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    loaded.retain(|device| device.strong_count() > 0);
    let same = |device: &Arc<cuda::Device>| Arc::ptr_eq(device.context(), context);
    if let Some(device) = loaded.iter().filter_map(Weak::upgrade).find(same) {
        return Ok(device);
    }
    let device = cuda::Device::with_context(context).map_err(Error::wrap)?;
    loaded.push(Arc::downgrade(&device));
    Ok(device)
}

/// The elements of a contiguous tensor.
fn elements<'a, T: Float>(storage: &'a CudaStorage, layout: &Layout) -> Result<CudaView<'a, T>> {
    let (start, end) = layout.contiguous_offsets().ok_or_else(|| {
        Error::msg("imma Int8Linear: a tensor on a CUDA device that is not contiguous")
    })?;
    let slice = storage.as_cuda_slice::<T>()?;
    slice
        .try_slice(start..end)
        .ok_or_else(|| Error::msg("imma Int8Linear: a tensor that reaches outside its storage"))
}

/// Quantises a float weight where it lies.
pub(super) fn from_float(weight: &Tensor, bias: Option<&Tensor>) -> Result<OnDevice> {
    by_dtype!("the weight", weight.dtype(), from_floats(weight, bias))
}

fn from_floats<T: Float>(weight: &Tensor, bias: Option<&Tensor>) -> Result<OnDevice> {
    let (n, k) = weight.dims2()?;
    let weight = weight.contiguous()?;
    let (storage, layout) = weight.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        return Err(not_served(weight.device()));
    };
    let stream = storage.device().cuda_stream();
    let device = device_of(stream.context())?;
    let bias = bias.map(|b| copy::<T>(b)).transpose()?;
    let weight = elements::<T>(storage, layout)?;
    let weight = Matrix::new(&weight, n, k);
    let layer = DeviceLinear::from_float(&device, &stream, weight, WeightOrder::Outputs)
        .map_err(Error::wrap)?;
    with_bias(layer, bias).map(OnDevice)
}

/// A bias of the layer's own.
fn copy<T: Float>(bias: &Tensor) -> Result<CudaSlice<T>> {
    let bias = bias.contiguous()?;
    let (storage, layout) = bias.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        return Err(not_served(bias.device()));
    };
    let stream = storage.device().cuda_stream();
    stream
        .clone_dtod(&elements::<T>(storage, layout)?)
        .map_err(Error::wrap)
}

/// Uploads integers and packs them.
pub(super) fn from_int8(
    device: &CudaDevice,
    weight: ArrayView2<'_, i8>,
    scales: &[f32],
    bias: Option<ArrayView1<'_, f32>>,
) -> Result<OnDevice> {
    int8_layer(device, weight, scales, bias).map(OnDevice)
}

fn int8_layer(
    device: &CudaDevice,
    weight: ArrayView2<'_, i8>,
    scales: &[f32],
    bias: Option<ArrayView1<'_, f32>>,
) -> Result<DeviceLinear> {
    let (n, k) = weight.dim();
    let stream = device.cuda_stream();
    let loaded = device_of(stream.context())?;
    let weight: Vec<i8> = weight.iter().copied().collect();
    let weight = stream.clone_htod(&weight).map_err(Error::wrap)?;
    let bias = bias.map(|b| stream.clone_htod(&b.to_vec())).transpose();
    let bias: Option<CudaSlice<f32>> = bias.map_err(Error::wrap)?;
    let weight = Matrix::new(&weight, n, k);
    let order = WeightOrder::Outputs;
    let layer = DeviceLinear::from_int8(&loaded, &stream, weight, order, scales);
    with_bias(layer.map_err(Error::wrap)?, bias)
}

fn with_bias<T: Float>(layer: DeviceLinear, bias: Option<CudaSlice<T>>) -> Result<DeviceLinear> {
    match bias {
        Some(bias) => layer.with_bias(T::owned(bias)).map_err(Error::wrap),
        None => Ok(layer),
    }
}

/// A layer of a checkpoint.
#[cfg(feature = "safetensors")]
pub(super) fn from_checkpoint(
    device: &CudaDevice,
    checkpoint: &crate::checkpoint::Checkpoint,
    prefix: &str,
) -> Result<OnDevice> {
    use crate::checkpoint::StoredWeight;
    let stored = checkpoint.stored_linear(prefix).map_err(Error::wrap)?;
    if !stored.transform.is_identity() {
        candle_core::bail!(
            "{}: layer {prefix} transforms its inputs (pre_quant_scale, a rotation), expected none on a CUDA device",
            checkpoint.path().display()
        )
    }
    let bias = stored.bias.as_deref().map(ArrayView1::from);
    let (data, scales) = match &stored.weight {
        StoredWeight::Int8 {
            data,
            scales,
            zero_points: None,
        } => (data, scales),
        StoredWeight::Groupwise { size, .. } => candle_core::bail!(
            "{}: {prefix}.weight has a scale for every {size} inputs, expected one an output",
            checkpoint.path().display()
        ),
        StoredWeight::Int8 { .. } => candle_core::bail!(
            "{}: {prefix}.weight has zero points, expected none on a CUDA device",
            checkpoint.path().display()
        ),
        StoredWeight::Float(weight) => {
            let on = candle_core::Device::Cuda(device.clone());
            let place = |values: Vec<f32>, shape: &[usize]| Tensor::from_vec(values, shape, &on);
            let shape = [weight.nrows(), weight.ncols()];
            let weight = place(weight.iter().copied().collect(), &shape)?;
            let bias = bias.map(|b| place(b.to_vec(), &[b.len()])).transpose()?;
            return from_float(&weight, bias.as_ref());
        }
    };
    let layer = int8_layer(device, data.view(), scales, bias)?.with_activation_quant(stored.input);
    // A plan asks whether such a layer makes sense: here rather than in the first product.
    let float = crate::DType::F32;
    layer.plan(0, float, float).map_err(Error::wrap)?;
    Ok(OnDevice(layer))
}

/// What the layer does to tensors of its device.
pub(super) struct OnDevice(DeviceLinear);

impl OnDevice {
    /// Inputs and outputs of the layer.
    pub fn sizes(&self) -> (usize, usize) {
        (self.0.weights().k(), self.0.weights().n())
    }
}

impl CustomOp1 for OnDevice {
    fn name(&self) -> &'static str {
        "imma Int8Linear of a CUDA device"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        candle_core::bail!(
            "imma Int8Linear: the input is in the CPU's memory and the layer's weights are on a CUDA device; \
             make the layer on the input's device"
        )
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        fn run<T: Float>(
            layer: &DeviceLinear,
            storage: &CudaStorage,
            layout: &Layout,
        ) -> Result<(CudaStorage, Shape)> {
            let (n, k) = (layer.weights().n(), layer.weights().k());
            let mut shape = layout.dims().to_vec();
            let Some(last) = shape.last_mut() else {
                candle_core::bail!("imma Int8Linear: the input is 0-D, expected [.., {k}]")
            };
            *last = n;
            let m = layout.dims()[..layout.dims().len() - 1].iter().product();
            let device = storage.device();
            let x = Matrix::new(elements::<T>(storage, layout)?, m, k);
            let y = layer.forward::<T, T>(&device.cuda_stream(), x);
            let y = y.map_err(Error::wrap)?;
            Ok((
                CudaStorage::wrap_cuda_slice(y, device.clone()),
                shape.into(),
            ))
        }
        by_dtype!("the input", storage.dtype(), run(&self.0, storage, layout))
    }
}
