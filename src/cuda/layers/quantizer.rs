//! The quantiser of [`crate::quant`] on the device, over ndarray: the same integers, scales and zero points.

use crate::cuda::kernels::{
    quantize_cols, quantize_cols_asymmetric, quantize_rows, quantize_rows_asymmetric, transpose_s8,
};
use crate::cuda::runtime::{download, upload, Device, DeviceElement, Matrix};
use crate::error::{Error, Result};
use crate::quant::{Calibration, Granularity, QuantizedTensor, Quantizer};
use ndarray::{ArrayD, ArrayView, Dimension, IxDyn};

/// Quantises a tensor of one or more dimensions on a device, with the bits of [`Quantizer::quantize`]: copied
/// there and back, and waited for.
///
/// Slices are calibrated by their absmax (asymmetric: minimum and maximum), per tensor, token, channel or group along
/// the last axis; stochastic rounding where it is symmetric.
///
/// # Errors
/// [`Error::Unavailable`] for a calibration or granularity that has no kernel; those of [`Quantizer::quantize`];
/// [`Error::Cuda`] when the driver refuses.
pub fn quantize<T: DeviceElement, D: Dimension>(
    device: &Device,
    quantizer: &Quantizer,
    x: ArrayView<'_, T, D>,
) -> Result<QuantizedTensor> {
    let granularity = quantizer.granularity();
    let count: usize = granularity.scales_shape(x.shape())?.iter().product();
    let missing = |found: String| Error::Unavailable {
        what: "on a device, quantising by",
        found,
        expected: "absmax per tensor, token, channel, or group that divides the last axis".into(),
    };
    let asymmetric = quantizer.is_asymmetric();
    if quantizer.calibration() != Calibration::AbsMax {
        return Err(missing(format!("{:?}", quantizer.calibration())));
    }
    let last = x.shape().last().copied().unwrap_or(1);
    let by_column = granularity == Granularity::PerChannel;
    let row = match granularity {
        Granularity::PerTensor => x.len(),
        Granularity::PerToken | Granularity::PerChannel => last,
        Granularity::PerGroup { size } if last.is_multiple_of(size) => size,
        other => return Err(missing(format!("{other:?}"))),
    };
    if x.is_empty() {
        // Nothing to do for a device.
        return quantizer.quantize(x);
    }
    let rows = x.len() / row;
    let stream = device.stream()?;
    let values = x.as_standard_layout();
    let source = upload(stream, values.as_slice().expect("standard layout"))?;
    let source = Matrix::new(&source, rows, row);
    let mut integers = device.fresh::<i8>(stream, x.len())?;
    let mut scales = device.fresh::<f32>(stream, count)?;
    let mut zeros = device.fresh::<i32>(stream, if asymmetric { count } else { 0 })?;
    let rounding = quantizer.rounding();
    if by_column {
        let place = Matrix::new(&mut integers, row, rows);
        if asymmetric {
            quantize_cols_asymmetric(device, stream, source, place, &mut scales, &mut zeros)?;
        } else {
            quantize_cols(device, stream, source, place, &mut scales, rounding)?;
        }
        let turned = integers;
        integers = device.fresh::<i8>(stream, x.len())?;
        let turned = Matrix::new(&turned, row, rows);
        transpose_s8(
            device,
            stream,
            turned,
            Matrix::new(&mut integers, rows, row),
        )?;
    } else {
        let place = Matrix::new(&mut integers, rows, row);
        if asymmetric {
            quantize_rows_asymmetric(device, stream, source, place, &mut scales, &mut zeros)?;
        } else {
            quantize_rows(device, stream, source, place, &mut scales, rounding)?;
        }
    }
    let integers = download(stream, &integers)?;
    let scales = download(stream, &scales)?;
    let zeros = download(stream, &zeros)?;
    let data = ArrayD::from_shape_vec(IxDyn(x.shape()), integers).map_err(|_| Error::Length {
        what: "the integers",
        found: 0,
        expected: x.len(),
    })?;
    QuantizedTensor::from_parts(data, scales, asymmetric.then_some(zeros), granularity)
}
