//! candle's storage as the arrays of this crate, and what is refused of it.

use crate::element::Element;
use candle_core::{bail, CpuStorage, DType, Device, Layout, Result};
use half::{bf16, f16};
use ndarray::{ArrayViewD, IxDyn, ShapeBuilder};

/// An element type that both sides have.
pub(super) trait Float: Element + candle_core::WithDType {
    fn stored(values: Vec<Self>) -> CpuStorage;
}

macro_rules! float {
    ($t:ty, $tag:ident) => {
        impl Float for $t {
            fn stored(values: Vec<Self>) -> CpuStorage {
                CpuStorage::$tag(values)
            }
        }
    };
}
float!(f32, F32);
float!(f16, F16);
float!(bf16, BF16);

/// Calls `$f::<T>($args)` with the float type of this name.
macro_rules! by_dtype {
    ($what:expr, $dtype:expr, $f:ident($($arg:expr),*)) => {
        match $dtype {
            candle_core::DType::F32 => $f::<f32>($($arg),*),
            candle_core::DType::F16 => $f::<half::f16>($($arg),*),
            candle_core::DType::BF16 => $f::<half::bf16>($($arg),*),
            other => Err($crate::candle::dtype::refuse($what, other)),
        }
    };
}
pub(super) use by_dtype;

pub(super) fn refuse(what: &str, found: DType) -> candle_core::Error {
    candle_core::Error::msg(format!(
        "imma Int8Linear: {what} is {}, expected f32, f16 or bf16",
        found.as_str()
    ))
}

/// The error for a device that has no such layer.
pub(super) fn not_served(device: &Device) -> candle_core::Error {
    let (found, expected) = match device {
        Device::Cuda(_) => (
            "CUDA",
            "imma's feature `candle-cuda`, which this program was built without",
        ),
        Device::Metal(_) => ("Metal", "a tensor on the CPU or a CUDA device"),
        Device::Cpu => ("CPU", "a tensor on a CUDA device"),
    };
    candle_core::Error::msg(format!(
        "imma Int8Linear: the device is {found}, expected {expected}"
    ))
}

/// The elements of a tensor where they lie, with whatever strides they have.
pub(super) fn view<'a, T: Float>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<ArrayViewD<'a, T>> {
    let values = storage.as_slice::<T>()?;
    if layout.shape().elem_count() == 0 {
        // Strides say nothing here, and need not stay inside the storage.
        return ArrayViewD::from_shape(layout.dims(), &[]).map_err(candle_core::Error::wrap);
    }
    let shape = IxDyn(layout.dims()).strides(IxDyn(layout.stride()));
    let Some(values) = values.get(layout.start_offset()..) else {
        bail!("imma Int8Linear: a tensor that starts outside its storage")
    };
    ArrayViewD::from_shape(shape, values).map_err(candle_core::Error::wrap)
}
