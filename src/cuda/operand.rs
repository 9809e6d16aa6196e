//! Device memory with the element type known at run time.

use super::matrix::{check_aligned_vector, Matrix};
use super::module::Device;
use crate::element::{DType, Element};
use crate::error::Result;
use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DeviceRepr, ValidAsZeroBits};
use half::{bf16, f16};

/// Float elements to read.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeviceFloatView<'a> {
    /// f32 elements.
    F32(CudaView<'a, f32>),
    /// f16 elements.
    F16(CudaView<'a, f16>),
    /// bf16 elements.
    BF16(CudaView<'a, bf16>),
}

impl DeviceFloatView<'_> {
    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        match self {
            DeviceFloatView::F32(_) => DType::F32,
            DeviceFloatView::F16(_) => DType::F16,
            DeviceFloatView::BF16(_) => DType::BF16,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            DeviceFloatView::F32(v) => v.len(),
            DeviceFloatView::F16(v) => v.len(),
            DeviceFloatView::BF16(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl DeviceFloatView<'_> {
    /// Checks a vector with one element a column.
    /// Checks length, memory and address.
    pub(super) fn check_len(
        &self,
        what: &'static str,
        device: &Device,
        stream: &CudaStream,
        n: usize,
    ) -> Result<()> {
        match self {
            DeviceFloatView::F32(v) => check_aligned_vector(what, device, stream, v, n),
            DeviceFloatView::F16(v) => check_aligned_vector(what, device, stream, v, n),
            DeviceFloatView::BF16(v) => check_aligned_vector(what, device, stream, v, n),
        }
    }
}

impl Matrix<DeviceFloatView<'_>> {
    /// Checks that every element is inside the slice, in the device's memory, and aligned.
    pub(super) fn check_floats(
        &self,
        what: &'static str,
        device: &Device,
        stream: &CudaStream,
    ) -> Result<()> {
        match &self.data {
            DeviceFloatView::F32(v) => self.check_aligned(what, device, stream, v),
            DeviceFloatView::F16(v) => self.check_aligned(what, device, stream, v),
            DeviceFloatView::BF16(v) => self.check_aligned(what, device, stream, v),
        }
    }
}

impl Matrix<DeviceOutput<'_>> {
    /// Checks that every element is inside the slice, in the device's memory, and aligned.
    pub(super) fn check_output(
        &self,
        what: &'static str,
        device: &Device,
        stream: &CudaStream,
    ) -> Result<()> {
        match &self.data {
            DeviceOutput::F32(v) => self.check_aligned(what, device, stream, v),
            DeviceOutput::F16(v) => self.check_aligned(what, device, stream, v),
            DeviceOutput::BF16(v) => self.check_aligned(what, device, stream, v),
            DeviceOutput::I32(v) => self.check_aligned(what, device, stream, v),
            DeviceOutput::I8(v) => self.check_aligned(what, device, stream, v),
        }
    }
}

/// A place to write to.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeviceOutput<'a> {
    /// f32 elements.
    F32(CudaViewMut<'a, f32>),
    /// f16 elements.
    F16(CudaViewMut<'a, f16>),
    /// bf16 elements.
    BF16(CudaViewMut<'a, bf16>),
    /// The exact sums.
    I32(CudaViewMut<'a, i32>),
    /// Quantised again with the epilogue's output scale.
    I8(CudaViewMut<'a, i8>),
}

impl DeviceOutput<'_> {
    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        match self {
            DeviceOutput::F32(_) => DType::F32,
            DeviceOutput::F16(_) => DType::F16,
            DeviceOutput::BF16(_) => DType::BF16,
            DeviceOutput::I32(_) => DType::I32,
            DeviceOutput::I8(_) => DType::I8,
        }
    }
}

/// An element of a result on a device: f32, f16, bf16, i32 or i8.
pub trait OutputTag: Copy + Default + DeviceRepr + ValidAsZeroBits {
    /// A place to write to, tagged with its type.
    fn output(view: CudaViewMut<'_, Self>) -> DeviceOutput<'_>;
}

macro_rules! output {
    ($($t:ty, $tag:ident;)*) => {$(
        impl OutputTag for $t {
            fn output(view: CudaViewMut<'_, Self>) -> DeviceOutput<'_> {
                DeviceOutput::$tag(view)
            }
        }
    )*};
}
output!(f32, F32; f16, F16; bf16, BF16; i32, I32; i8, I8;);

/// A float element that lives on devices too: f32, f16 or bf16.
pub trait DeviceElement: Element + OutputTag {
    /// Elements to read, tagged with their type.
    fn floats(view: CudaView<'_, Self>) -> DeviceFloatView<'_>;
    /// Makes a slice of the tagged kind.
    fn owned(slice: CudaSlice<Self>) -> FloatBuffer;
}

macro_rules! element {
    ($t:ty, $tag:ident) => {
        impl DeviceElement for $t {
            fn floats(view: CudaView<'_, Self>) -> DeviceFloatView<'_> {
                DeviceFloatView::$tag(view)
            }
            fn owned(slice: CudaSlice<Self>) -> FloatBuffer {
                FloatBuffer::$tag(slice)
            }
        }
    };
}
element!(f32, F32);
element!(f16, F16);
element!(bf16, BF16);

/// Float elements that are owned, such as a bias.
#[derive(Debug)]
#[non_exhaustive]
pub enum FloatBuffer {
    /// f32 elements.
    F32(CudaSlice<f32>),
    /// f16 elements.
    F16(CudaSlice<f16>),
    /// bf16 elements.
    BF16(CudaSlice<bf16>),
}

impl FloatBuffer {
    /// All of them, to read.
    pub fn view(&self) -> DeviceFloatView<'_> {
        match self {
            FloatBuffer::F32(s) => DeviceFloatView::F32(s.as_view()),
            FloatBuffer::F16(s) => DeviceFloatView::F16(s.as_view()),
            FloatBuffer::BF16(s) => DeviceFloatView::BF16(s.as_view()),
        }
    }
}

/// The left operand of a [`Plan`](super::Plan)'s run, `[M, K]`.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeviceLhs<'a> {
    /// Floats, quantised as the plan says.
    Float(Matrix<DeviceFloatView<'a>>),
    /// Integers, with the scales and zero points that they have, if any: one a row, or a single scale.
    Int8 {
        /// The integers.
        data: Matrix<CudaView<'a, i8>>,
        /// The sizes of one step.
        scales: Option<CudaView<'a, f32>>,
        /// The integers that stand for 0.0, one a row.
        zero_points: Option<CudaView<'a, i32>>,
    },
}

impl<'a> DeviceLhs<'a> {
    /// Integers without scales.
    pub fn int8(data: Matrix<CudaView<'a, i8>>) -> Self {
        DeviceLhs::Int8 {
            data,
            scales: None,
            zero_points: None,
        }
    }
}

/// What one run of a [`Plan`](super::Plan) reads and writes.
#[derive(Debug)]
pub struct Operands<'a> {
    /// The left operand, `[M, K]`.
    pub lhs: DeviceLhs<'a>,
    /// The right operand, with its scales.
    pub weights: &'a super::DeviceWeights,
    /// Used instead of the weights' own scales, `[N]`.
    pub col_scales: Option<CudaView<'a, f32>>,
    /// Added to each column, `[N]`; exactly when the plan has one.
    pub bias: Option<DeviceFloatView<'a>>,
    /// Added last, in the result's shape; exactly when the plan has one.
    pub residual: Option<Matrix<DeviceFloatView<'a>>>,
    /// The result, `[M, N]`, or `[M, N / 2]` when gated.
    pub out: Matrix<DeviceOutput<'a>>,
    /// The result's scales, one a row; exactly when the plan makes them.
    pub out_scales: Option<CudaViewMut<'a, f32>>,
}
