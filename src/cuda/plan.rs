//! A product with everything decided beforehand: kernels, workspace, constants.

use super::choice_cache::CacheKey;
use super::choose::{choose, Choice};
use super::finish::Finish;
use super::launch::{driver, same_context};
use super::matrix::Matrix;
use super::module::Device;
use super::operand::{DeviceFloatView, DeviceLhs, DeviceOutput, Operands};
use super::spec::{Algorithm, Input, Spec};
use super::sums::Sums;
use super::weights::{upload, PAD};
use super::workspace::{part, Parts};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gemm::ActivationQuant;
use crate::rounding::Rounding;
use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut};
use std::fmt;
use std::sync::Arc;

/// A product of one shape on one device, ready to run any number of times.
///
/// [`run`](Self::run) allocates nothing and waits for nothing, so it can be captured in a graph (cudarc's event
/// tracking must be off before the buffers are allocated). May be used from any thread; runs that may overlap need
/// workspaces of their own. The bits of the result are those of the CPU backend, whatever the algorithm.
#[derive(Debug)]
pub struct Plan {
    device: Arc<Device>,
    spec: Spec,
    choice: Choice,
    sums: Sums,
    /// The left operand is copied to rows of `lda` first: quantised, or padded for cuBLASLt.
    staged: Staging,
    lda: usize,
    /// Columns of the sums, padding included.
    ldc: usize,
    parts: Parts,
    /// The scale of every row, where that is known beforehand.
    static_scale: Option<CudaSlice<f32>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Staging {
    /// Read where it lies.
    None,
    /// Quantised floats.
    Quantized,
    /// Integers turned twice, which brings the padding.
    Padded,
}

impl Plan {
    /// Decides everything for a product.
    ///
    /// May allocate a constant on the device, and measures where the algorithm is
    /// [`Autotuned`](Algorithm::Autotuned) and the cache has no answer.
    ///
    /// # Errors
    /// [`Error::Epilogue`] and [`Error::Value`] for parts that contradict each other, [`Error::KTooLong`] when int32
    /// could overflow, [`Error::Unavailable`] for an algorithm that this device has not.
    pub fn new(device: &Device, spec: Spec) -> Result<Self> {
        spec.check()?;
        let choice = match &spec.algorithm {
            Algorithm::Autotuned => super::autotune::choice(device, &spec)?,
            _ => choose(&spec, device.properties()),
        };
        Self::with_choice(device, spec, choice)
    }

    pub(super) fn with_choice(device: &Device, spec: Spec, choice: Choice) -> Result<Self> {
        let (m, n, k) = (spec.m, spec.n, spec.k);
        let kp = k.next_multiple_of(PAD);
        let (staged, lda) = match spec.input {
            Input::Float(..) => (Staging::Quantized, kp),
            Input::Int8 { stride, .. } if k.is_multiple_of(4) && stride.is_multiple_of(4) => {
                (Staging::None, stride)
            }
            Input::Int8 { .. } => (Staging::Padded, kp),
        };
        // The rows of zeros that the weights are padded with make columns that nobody reads.
        let ldc = n.next_multiple_of(4);
        let depth = if staged == Staging::None { k } else { kp };
        let sums = if m == 0 || n == 0 {
            Sums::Nothing
        } else {
            Sums::cublaslt(device, [m, ldc, depth], [lda, kp, ldc], choice.candidate)?
        };
        let too_large = || Error::Value {
            what: "the product",
            found: format!("[{m}, {k}] x [{k}, {n}]"),
            expected: "one whose operands the address space holds".into(),
        };
        let bytes = |rows: usize, cols: usize, element: usize| {
            let elements = rows.checked_mul(cols).and_then(|e| e.checked_mul(element));
            elements.ok_or_else(too_large)
        };
        let quantized = staged == Staging::Quantized;
        let per_row = matches!(
            spec.input,
            Input::Float(
                _,
                ActivationQuant::PerToken | ActivationQuant::PerTokenAsymmetric
            )
        );
        let zero_points = quantized && spec.zero_points();
        let direct = spec.raw() && ldc == n;
        let parts = Parts::new([
            if staged == Staging::None {
                0
            } else {
                bytes(m, lda, 1)?
            },
            if staged == Staging::Padded {
                bytes(k, m, 1)?
            } else {
                0
            },
            if per_row { bytes(m, 4, 1)? } else { 0 },
            if zero_points { bytes(m, 4, 1)? } else { 0 },
            if direct { 0 } else { bytes(m, ldc, 4)? },
            sums.workspace_bytes(),
        ])
        .ok_or_else(too_large)?;
        let static_scale = match spec.input {
            Input::Float(_, ActivationQuant::Static { scale }) => {
                let stream = device.stream()?;
                let constant = upload(stream, &[scale])?;
                // It is read on other streams.
                stream
                    .synchronize()
                    .map_err(driver("cuStreamSynchronize"))?;
                Some(constant)
            }
            _ => None,
        };
        Ok(Plan {
            device: device.arc(),
            spec,
            choice,
            sums,
            staged,
            lda,
            ldc,
            parts,
            static_scale,
        })
    }

    /// What tuning may choose for, where there is a choice.
    pub(super) fn tunable(self) -> Option<(CacheKey, Sums)> {
        let Sums::CublasLt(product, _) = &self.sums else {
            return None;
        };
        let shape = product.shape();
        let key = CacheKey {
            m: shape.m,
            n: shape.n,
            k: shape.k,
            lda: shape.ld[0],
        };
        Some((key, self.sums))
    }

    /// The kernel that multiplies.
    pub fn kernel(&self) -> String {
        self.sums.to_string()
    }

    /// What it was made for.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The device that it runs on.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Bytes of workspace that a run needs, at an address that is a multiple of 256 (as any allocation's is).
    pub fn workspace_bytes(&self) -> usize {
        self.parts.bytes()
    }

    /// Enqueues the product.
    ///
    /// Everything is checked first: after an error of a check nothing was enqueued. Every element of the output is
    /// written; the workspace's contents are of no use afterwards.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`], [`Error::Length`] and [`Error::Value`] for operands that are not the plan's: other
    /// shapes, types or strides, another context, a misaligned address, too small a workspace; [`Error::Cuda`] when
    /// the driver or cuBLASLt refuses.
    pub fn run(
        &self,
        stream: &Arc<CudaStream>,
        operands: Operands<'_>,
        workspace: &mut CudaViewMut<'_, u8>,
    ) -> Result<()> {
        let Operands {
            lhs,
            weights,
            col_scales,
            bias,
            residual,
            mut out,
        } = operands;
        let device = &*self.device;
        same_context("the stream", device.context(), stream.context())?;
        same_context("the weights", device.context(), weights.data.context())?;
        self.check(&lhs, weights, &bias, &residual, &out)?;
        let (m, n) = (self.spec.m, self.spec.n);
        if let Some(scales) = &col_scales {
            super::matrix::check_vector("column scales", device, scales, n)?;
        }
        if m == 0 || n == 0 {
            return Ok(());
        }
        self.parts.check(device.context(), stream, workspace)?;

        let (mut staged, mut rest) = workspace.split_at_mut(self.parts.size(0));
        let (mut turned, mut rest) = rest.split_at_mut(self.parts.size(1));
        let (mut row_scales, mut rest) = rest.split_at_mut(self.parts.size(2));
        let (mut zero_points, mut rest) = rest.split_at_mut(self.parts.size(3));
        let (mut sums, mut library) = rest.split_at_mut(self.parts.size(4));
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
        let w = weights.data.as_view();
        if self.spec.raw() && self.ldc == n {
            let DeviceOutput::I32(out) = &mut out.data else {
                unreachable!("checked above")
            };
            return self.sums.run(stream, &integers, &w, out, &mut library);
        }
        let mut sums = part::<i32>(&mut sums, m * self.ldc).expect("planned");
        self.sums
            .run(stream, &integers, &w, &mut sums, &mut library)?;

        let row_scales = match (&self.static_scale, given_scales) {
            (Some(scale), _) => Some(scale.as_view()),
            (None, Some(given)) => Some(given.slice(..)),
            (None, None) => row_scales.as_ref().map(|s| s.as_view()),
        };
        let zero_points = match given_zero_points {
            Some(given) => Some(given.slice(..)),
            None => zero_points.as_ref().map(|z| z.as_view()),
        };
        Finish {
            sums: Matrix::new(sums.as_view(), m, n).with_stride(self.ldc),
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
            residual,
            out_scale: self.spec.out_scale,
        }
        .run(device, stream, out)
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
            Input::Float(_, ActivationQuant::Static { scale }) => {
                if self.lda != cols {
                    stream.memset_zeros(place).map_err(driver("cuMemsetD8"))?;
                }
                let output = Matrix::new(place, rows, cols).with_stride(self.lda);
                device.quantize_static(stream, x, output, scale, rounding)
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

/// What runs, in one line.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spec {
            m, n, k, output, ..
        } = &self.spec;
        write!(f, "[{m}, {k}] x [{k}, {n}] -> {output}: ")?;
        match self.staged {
            Staging::None => {}
            Staging::Quantized => f.write_str("quantise rows, ")?,
            Staging::Padded => f.write_str("pad rows, ")?,
        }
        write!(f, "{}", self.sums)?;
        if !(self.spec.raw() && self.ldc == *n) {
            f.write_str(", epilogue")?;
        }
        write!(
            f,
            "; workspace {} bytes; {}",
            self.parts.bytes(),
            self.choice.why
        )
    }
}
