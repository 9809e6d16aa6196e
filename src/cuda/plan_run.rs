//! One run of a plan: checks, then launches.

use super::finish::{sums_before, Finish, Product};
use super::launch::{driver, same_context};
use super::matrix::Matrix;
use super::operand::{DeviceFloatView, DeviceLhs, DeviceOutput, Operands};
use super::plan::{sm80_workspace, Fused, Multiply, Plan, Staging};
use super::spec::Input;
use super::weights::PAD;
use super::workspace::part;
use crate::element::DType;
use crate::error::Result;
use crate::gemm::ActivationQuant;
use crate::rounding::Rounding;
use cudarc::driver::{CudaStream, CudaView, CudaViewMut, DevicePtr};
use std::sync::Arc;

impl Plan {
    /// Enqueues the product.
    ///
    /// Everything is checked first: after an error of a check nothing was enqueued. Every element of the output is
    /// written; the workspace's contents are of no use afterwards.
    ///
    /// # Errors
    /// [`ShapeMismatch`], [`Length`] and [`Value`] for operands that are not the plan's: other shapes, types or strides,
    /// another context, a misaligned address, too small a workspace; [`Cuda`] when the driver or cuBLASLt refuses.
    ///
    /// [`ShapeMismatch`]: crate::Error::ShapeMismatch
    /// [`Length`]: crate::Error::Length
    /// [`Value`]: crate::Error::Value
    /// [`Cuda`]: crate::Error::Cuda
    pub fn run(
        &self,
        stream: &Arc<CudaStream>,
        operands: Operands<'_>,
        workspace: &mut CudaViewMut<'_, u8>,
    ) -> Result<()> {
        let device = &*self.device;
        same_context("the stream", device.context(), stream.context())?;
        let weights = operands.weights;
        same_context("the weights", device.context(), weights.data.context())?;
        self.check(&operands, stream)?;
        let Operands {
            lhs,
            weights,
            col_scales,
            bias,
            residual,
            mut out,
            out_scales,
        } = operands;
        let (m, n) = (self.spec.m, self.spec.n);
        let whole = self.spec.per_token_output;
        // Rows without columns still get scales.
        if m == 0 || (n == 0 && !whole) {
            return Ok(());
        }
        self.parts.check(device.context(), stream, workspace)?;

        let (mut staged, mut rest) = workspace.split_at_mut(self.parts.size(0));
        let (mut turned, mut rest) = rest.split_at_mut(self.parts.size(1));
        let (mut row_scales, mut rest) = rest.split_at_mut(self.parts.size(2));
        let (mut zero_points, mut rest) = rest.split_at_mut(self.parts.size(3));
        let (mut sums, mut library) = rest.split_at_mut(self.parts.size(4));
        // Before the quantising kernel, so that nothing stands between that and the product.
        if let Multiply::Fused {
            by: by @ Fused::Sm90(igemm, _),
            ..
        } = &self.multiply
        {
            let partial = part::<i32>(&mut sums, by.workspace(m, n, whole));
            if let Some(mut partial) = partial.filter(|_| igemm.workspace(m, n) > 0) {
                let mut partial = match whole {
                    true => partial.slice_mut(sums_before(m, n)..),
                    false => partial.slice_mut(..),
                };
                stream
                    .memset_zeros(&mut partial)
                    .map_err(driver("cuMemsetD8"))?;
            }
        }
        let mut staged = part::<i8>(
            &mut staged,
            m * self.lda * usize::from(self.staged != Staging::None),
        );
        let mut row_scales = part::<f32>(&mut row_scales, m);
        let mut zero_points = part::<i32>(&mut zero_points, m);

        // The integers, and what each row of them is to be multiplied with.
        let (integers, given_scales, given_zero_points) = match &lhs {
            DeviceLhs::Float(x) => {
                let scales = row_scales.as_mut();
                let zeros = zero_points.as_mut();
                let place = staged.as_mut().expect("planned for floats");
                macro_rules! quantize {
                    ($data:expr) => {
                        self.quantize(stream, x.over($data), place, scales, zeros)?
                    };
                }
                match &x.data {
                    DeviceFloatView::F32(data) => quantize!(data),
                    DeviceFloatView::F16(data) => quantize!(data),
                    DeviceFloatView::BF16(data) => quantize!(data),
                }
                (
                    staged.as_ref().expect("planned for floats").as_view(),
                    None,
                    None,
                )
            }
            DeviceLhs::Int8 {
                data,
                scales,
                zero_points,
            } => {
                let integers = if self.staged == Staging::Padded {
                    let k = self.spec.k;
                    let mut turned = part::<i8>(&mut turned, k * m).expect("planned");
                    let place = staged.as_mut().expect("planned");
                    if k > 0 {
                        device.transpose_s8(
                            stream,
                            data.over(&data.data),
                            Matrix::new(&mut turned, k, m),
                        )?;
                        let place = Matrix::new(&mut *place, m, self.lda);
                        device.transpose_s8(stream, Matrix::new(&turned, k, m), place)?;
                    }
                    staged.as_ref().expect("planned").as_view()
                } else {
                    data.data.slice(..)
                };
                (integers, scales.as_ref(), zero_points.as_ref())
            }
        };
        let row_scales = match (&self.static_scale, given_scales) {
            (Some(scale), _) => Some(scale.as_view()),
            (None, Some(given)) => Some(given.slice(..)),
            (None, None) => row_scales.as_ref().map(|s| s.as_view()),
        };
        let zero_points = match (&self.static_zero, given_zero_points) {
            (Some(zero), _) => Some(zero.as_view()),
            (None, Some(given)) => Some(given.slice(..)),
            (None, None) => zero_points.as_ref().map(|z| z.as_view()),
        };
        let mut finish = Finish {
            row_scales,
            zero_points,
            weights,
            // Raw sums carry none.
            col_scales: match self.spec.output {
                DType::I32 => None,
                _ => col_scales.or_else(|| weights.scales()),
            },
            bias,
            activation: self.spec.activation,
            gated: self.spec.gated,
            residual,
            out_scale: self.spec.out_scale,
            out_scales,
        };
        let (w, kp) = (weights.data.as_view(), weights.k_padded());
        match &self.multiply {
            Multiply::Fused { by, any } => {
                let (address, _guard) = integers.device_ptr(stream);
                let aligned = address.is_multiple_of(PAD as u64);
                let k = self.spec.k;
                let a = Matrix::new(&integers, m, k).with_stride(self.lda);
                let w = Matrix::new(&w, n, k).with_stride(kp);
                let planned = by.workspace(m, n, whole);
                match by {
                    Fused::Sm90(igemm, maps) if aligned => {
                        let mut partial = part::<i32>(&mut sums, planned);
                        let by = Product::Sm90(*igemm, maps);
                        finish.product(device, stream, by, a, w, out, partial.as_mut())
                    }
                    Fused::Sm80(igemm) if aligned => {
                        let mut partial = part::<i32>(&mut sums, planned);
                        let by = Product::Sm80(*igemm);
                        finish.product(device, stream, by, a, w, out, partial.as_mut())
                    }
                    _ => {
                        let planned = sm80_workspace(*any, m, n, whole);
                        let mut partial = part::<i32>(&mut sums, planned);
                        let by = Product::Sm80(*any);
                        finish.product(device, stream, by, a, w, out, partial.as_mut())
                    }
                }
            }
            Multiply::Sums { sums: product, ldc } => {
                if self.spec.raw() && *ldc == n {
                    let DeviceOutput::I32(out) = &mut out.data else {
                        unreachable!("checked above")
                    };
                    return product.run(stream, &integers, &w, out, &mut library);
                }
                let mut sums = part::<i32>(&mut sums, m * ldc).expect("planned");
                product.run(stream, &integers, &w, &mut sums, &mut library)?;
                let sums = sums.as_view();
                let sums = Matrix::new(&sums, m, n).with_stride(*ldc);
                finish.sums(device, stream, sums, out)
            }
        }
    }

    fn quantize<T: super::DeviceElement>(
        &self,
        stream: &Arc<CudaStream>,
        x: Matrix<&CudaView<'_, T>>,
        place: &mut CudaViewMut<'_, i8>,
        scales: Option<&mut CudaViewMut<'_, f32>>,
        zero_points: Option<&mut CudaViewMut<'_, i32>>,
    ) -> Result<()> {
        let (device, rows, cols) = (&*self.device, self.spec.m, self.spec.k);
        let rounding = Rounding::NearestEven;
        match self.spec.input {
            Input::Float(
                _,
                quant @ (ActivationQuant::Static { scale }
                | ActivationQuant::StaticAsymmetric { scale, .. }),
            ) => {
                if self.lda != cols {
                    stream.memset_zeros(place).map_err(driver("cuMemsetD8"))?;
                }
                let output = Matrix::new(place, rows, cols).with_stride(self.lda);
                match quant {
                    ActivationQuant::StaticAsymmetric { zero_point, .. } => {
                        device.quantize_static_asymmetric(stream, x, output, scale, zero_point)
                    }
                    _ => device.quantize_static(stream, x, output, scale, rounding),
                }
            }
            Input::Float(_, ActivationQuant::PerTokenAsymmetric) => {
                let output = Matrix::new(place, rows, self.lda);
                let (scales, zeros) = (scales.expect("planned"), zero_points.expect("planned"));
                device.quantize_rows_asymmetric(stream, x, output, scales, zeros)
            }
            _ => {
                let output = Matrix::new(place, rows, self.lda);
                device.quantize_rows(stream, x, output, scales.expect("planned"), rounding)
            }
        }
    }
}
