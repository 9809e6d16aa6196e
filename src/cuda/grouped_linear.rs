//! A linear layer on the device whose weights carry a scale for each group of inputs.

use super::epilogue::DeviceEpilogue;
use super::igemm_grouped::choose_grouped;
use super::matrix::Matrix;
use super::module::Device;
use super::operand::DeviceElement;
use super::weights::{upload, PAD};
use super::workspace::{part, Parts};
use crate::activation::Activation;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::gemm::groupwise::{check_groups, quantize_groups};
use crate::rounding::Rounding;
use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr};
use ndarray::ArrayView2;
use std::sync::Arc;

/// A group-wise [`Int8Linear`](crate::Int8Linear::from_float_groupwise) on device memory from end to end: `y = activation(x . weight^T + bias)` with int8 weights
/// that have a scale for each output and each group of 32, 64 or 128 inputs, and activations quantised per token. The bits are
/// those of the CPU's. Never run on hardware yet.
///
/// ```no_run
/// use half::bf16;
/// use imma::cuda::{Device, GroupedLinear, Matrix};
/// use ndarray::Array2;
/// let device = Device::open(0)?;
/// let stream = device.context().new_stream().expect("a stream");
/// let weight = Array2::<f32>::ones((4096, 1024));
/// let layer = GroupedLinear::from_float::<_, bf16>(&device, &stream, weight.view(), 128, None)?;
/// let x = stream.alloc_zeros::<bf16>(8 * 1024).expect("memory");
/// let y = layer.forward::<bf16, bf16>(&stream, Matrix::new(x.as_view(), 8, 1024))?;
/// assert_eq!(y.len(), 8 * 4096);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug)]
pub struct GroupedLinear {
    device: Arc<Device>,
    /// `[N, K]`, rows padded to multiples of 16.
    weights: CudaSlice<i8>,
    /// `[G, N]`.
    scales: CudaSlice<f32>,
    bias: Option<CudaSlice<f32>>,
    activation: Activation,
    size: usize,
    n: usize,
    k: usize,
}

impl GroupedLinear {
    /// Quantises a float weight `[N, K]` on the host, as the CPU's layer does, and copies it to the device.
    ///
    /// # Errors
    /// As [`Int8Linear::from_float_groupwise`](crate::Int8Linear::from_float_groupwise); [`Error::Cuda`] where memory is short.
    pub fn from_float<T: Element, B: DeviceElement>(
        device: &Arc<Device>,
        stream: &Arc<CudaStream>,
        weight: ArrayView2<'_, T>,
        size: usize,
        bias: Option<&[B]>,
    ) -> Result<Self> {
        let (q, scales) = quantize_groups(weight, size)?;
        Self::from_int8(device, stream, q.view(), scales.view(), size, bias)
    }

    /// Copies an int8 weight `[N, K]` with scales `[N, K / size rounded up]` to the device.
    ///
    /// # Errors
    /// As [`Int8Linear::from_int8_groupwise`](crate::Int8Linear::from_int8_groupwise); [`Error::Cuda`] where memory is short.
    pub fn from_int8<B: DeviceElement>(
        device: &Arc<Device>,
        stream: &Arc<CudaStream>,
        weight: ArrayView2<'_, i8>,
        scales: ArrayView2<'_, f32>,
        size: usize,
        bias: Option<&[B]>,
    ) -> Result<Self> {
        check_groups(weight, scales, size)?;
        let (n, k) = weight.dim();
        let kp = k.next_multiple_of(PAD);
        let mut padded = vec![0i8; n * kp];
        for (row, from) in padded.chunks_exact_mut(kp.max(1)).zip(weight.outer_iter()) {
            row.iter_mut().zip(from).for_each(|(to, q)| *to = *q);
        }
        let by_group: Vec<f32> = scales.t().iter().copied().collect();
        if let Some(bias) = bias.filter(|bias| bias.len() != n) {
            return Err(Error::Length {
                what: "bias",
                found: bias.len(),
                expected: n,
            });
        }
        let bias = bias.map(|bias| bias.iter().map(|b| b.to_f32()).collect::<Vec<_>>());
        let bias = bias.map(|bias| upload(stream, &bias));
        Ok(GroupedLinear {
            weights: upload(stream, &padded)?,
            scales: upload(stream, &by_group)?,
            bias: bias.transpose()?,
            activation: Activation::None,
            device: device.clone(),
            size,
            n,
            k,
        })
    }

    /// The same layer with an activation function after the bias.
    pub fn with_activation(self, activation: Activation) -> Self {
        GroupedLinear { activation, ..self }
    }

    /// K, the length of an input row.
    pub fn inputs(&self) -> usize {
        self.k
    }

    /// N, the length of an output row.
    pub fn outputs(&self) -> usize {
        self.n
    }

    /// Inputs that share a scale.
    pub fn group_size(&self) -> usize {
        self.size
    }

    fn parts(&self, m: usize) -> Result<Parts> {
        let bytes = m.checked_mul(self.k.next_multiple_of(PAD));
        let parts = bytes.and_then(|bytes| Parts::new([bytes, m.checked_mul(4)?, 0, 0, 0, 0]));
        parts.ok_or_else(|| Error::Value {
            what: "the product",
            found: format!("[{m}, {}]", self.k),
            expected: "one whose operands the address space holds".into(),
        })
    }

    /// Bytes of workspace that `m` rows need, at an address that is a multiple of 256.
    ///
    /// # Errors
    /// [`Error::Value`] when no memory could hold them.
    pub fn workspace_bytes(&self, m: usize) -> Result<usize> {
        Ok(self.parts(m)?.bytes())
    }

    /// Enqueues `x [M, K]` to `y [M, N]`: two launches; allocates nothing and waits for nothing.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Length`] and [`Error::Value`] for operands or a workspace that do not fit, [`Error::Cuda`] when the
    /// driver refuses.
    pub fn run<T: DeviceElement, O: DeviceElement + super::epilogue::OutputElement>(
        &self,
        stream: &Arc<CudaStream>,
        x: Matrix<&impl DevicePtr<T>>,
        mut y: Matrix<CudaViewMut<'_, O>>,
        workspace: &mut CudaViewMut<'_, u8>,
    ) -> Result<()> {
        let (m, n, k) = (x.rows, self.n, self.k);
        let device = &*self.device;
        let shape = |what, found: [usize; 2], expected: [usize; 2]| {
            if found == expected {
                return Ok(());
            }
            Err(Error::Shape {
                op: "GroupedLinear",
                what,
                found: found.to_vec(),
                expected: format!("[{}, {}]", expected[0], expected[1]),
            })
        };
        shape("x", [x.rows, x.cols], [m, k])?;
        shape("y", [y.rows, y.cols], [m, n])?;
        x.check_aligned("x", device, stream, x.data)?;
        y.check_aligned("y", device, stream, &y.data)?;
        let parts = self.parts(m)?;
        parts.check(device.context(), stream, workspace)?;
        if m == 0 || n == 0 {
            return Ok(());
        }
        let kp = k.next_multiple_of(PAD);
        let (mut staged, mut rest) = workspace.split_at_mut(parts.size(0));
        let mut staged = part::<i8>(&mut staged, m * kp).expect("planned");
        let mut row_scales = part::<f32>(&mut rest, m).expect("planned");
        let place = Matrix::new(&mut staged, m, kp);
        device.quantize_rows(stream, x, place, &mut row_scales, Rounding::NearestEven)?;
        let bias = self.bias.as_ref().map(|b| b.slice(..n));
        let row_scales: CudaView<'_, f32> = row_scales.as_view();
        let epilogue = DeviceEpilogue {
            row_scales: Some(&row_scales),
            bias: bias.as_ref().map(|b| super::epilogue::DeviceFloats::F32(b)),
            activation: self.activation,
            ..DeviceEpilogue::default()
        };
        let groups = k.div_ceil(self.size);
        let multiprocessors = device.properties().multiprocessors as usize;
        device.igemm_grouped(
            stream,
            choose_grouped(m, n, true, multiprocessors),
            Matrix::new(&staged.as_view(), m, k).with_stride(kp),
            Matrix::new(&self.weights, n, k).with_stride(kp),
            Matrix::new(&self.scales, groups, n),
            self.size,
            y.by_mut(),
            &epilogue,
        )
    }

    /// `x [M, K]` to a new `[M, N]`, with a workspace of its own.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::Cuda`] where memory is short.
    pub fn forward<T: DeviceElement, O: DeviceElement + super::epilogue::OutputElement>(
        &self,
        stream: &Arc<CudaStream>,
        x: Matrix<CudaView<'_, T>>,
    ) -> Result<CudaSlice<O>> {
        let (m, n) = (x.rows, self.n);
        let len = super::ops::area(m, n)?;
        let mut y = self.device.fresh::<O>(stream, len)?;
        let mut workspace = self.device.fresh::<u8>(stream, self.workspace_bytes(m)?)?;
        let place = Matrix::new(y.slice_mut(..len), m, n);
        self.run(stream, x.by_ref(), place, &mut workspace.as_view_mut())?;
        Ok(y)
    }
}
