//! Device memory with the element type known at run time.

use super::element::OutputElement;
use super::matrix::Matrix;
use super::memory::{Held, Region};
use crate::element::{DType, Element};
use crate::error::Result;
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};
use half::{bf16, f16};

/// Float elements to read, in device memory.
///
/// Made from a slice or view of cudarc's: `(&slice).into()`, `view.into()`.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeviceFloats<'a> {
    /// f32 elements.
    F32(CudaView<'a, f32>),
    /// f16 elements.
    F16(CudaView<'a, f16>),
    /// bf16 elements.
    BF16(CudaView<'a, bf16>),
}

/// Runs `$body` with the view of whatever type.
macro_rules! each {
    ($floats:expr, $view:ident => $body:expr) => {
        match $floats {
            DeviceFloats::F32($view) => $body,
            DeviceFloats::F16($view) => $body,
            DeviceFloats::BF16($view) => $body,
        }
    };
}

impl DeviceFloats<'_> {
    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        match self {
            DeviceFloats::F32(_) => DType::F32,
            DeviceFloats::F16(_) => DType::F16,
            DeviceFloats::BF16(_) => DType::BF16,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        each!(self, view => view.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the vector for a call.
    pub(in crate::cuda) fn hold<'h>(
        &'h self,
        what: &'static str,
        held: &mut Held<'h>,
        expected: usize,
    ) -> Result<Region<'h>> {
        each!(self, view => held.read_vector(what, view, expected))
    }
}

impl Clone for DeviceFloats<'_> {
    fn clone(&self) -> Self {
        each!(self, view => view.slice(..).into())
    }
}

impl Matrix<DeviceFloats<'_>> {
    /// Takes the matrix for a call.
    pub(in crate::cuda) fn hold<'h>(
        &'h self,
        what: &'static str,
        held: &mut Held<'h>,
    ) -> Result<Region<'h>> {
        each!(&self.data, view => held.read(what, &self.over(view)))
    }
}

/// Numbers of a known type to read, in device memory: scales, zero points, sums.
///
/// Made from a slice or view of cudarc's: `(&slice).into()`, `view.into()`.
#[derive(Debug)]
pub struct DeviceVector<'a, T>(pub(in crate::cuda) CudaView<'a, T>);

impl<T> DeviceVector<'_, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Clone for DeviceVector<'_, T> {
    fn clone(&self) -> Self {
        DeviceVector(self.0.slice(..))
    }
}

impl<'a, T> From<CudaView<'a, T>> for DeviceVector<'a, T> {
    fn from(view: CudaView<'a, T>) -> Self {
        DeviceVector(view)
    }
}

impl<'a, T> From<&'a CudaSlice<T>> for DeviceVector<'a, T> {
    fn from(slice: &'a CudaSlice<T>) -> Self {
        DeviceVector(slice.as_view())
    }
}

/// A place to write a result to, in device memory.
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
    /// Quantised again, each row with a scale of its own.
    I8PerRow {
        /// The integers.
        data: CudaViewMut<'a, i8>,
        /// The size of one step of each row.
        scales: CudaViewMut<'a, f32>,
    },
}

impl DeviceOutput<'_> {
    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        match self {
            DeviceOutput::F32(_) => DType::F32,
            DeviceOutput::F16(_) => DType::F16,
            DeviceOutput::BF16(_) => DType::BF16,
            DeviceOutput::I32(_) => DType::I32,
            DeviceOutput::I8(_) | DeviceOutput::I8PerRow { .. } => DType::I8,
        }
    }
}

impl Matrix<DeviceOutput<'_>> {
    /// Takes the matrix, and the scales of its rows where it has them, for a call.
    pub(in crate::cuda) fn hold<'h>(
        &'h mut self,
        what: &'static str,
        held: &mut Held<'h>,
    ) -> Result<(Region<'h>, Option<Region<'h>>)> {
        let shape = self.over(());
        Ok(match &mut self.data {
            DeviceOutput::F32(view) => (held.write(what, shape.over(view))?, None),
            DeviceOutput::F16(view) => (held.write(what, shape.over(view))?, None),
            DeviceOutput::BF16(view) => (held.write(what, shape.over(view))?, None),
            DeviceOutput::I32(view) => (held.write(what, shape.over(view))?, None),
            DeviceOutput::I8(view) => (held.write(what, shape.over(view))?, None),
            DeviceOutput::I8PerRow { data, scales } => (
                held.write(what, shape.over(data))?,
                Some(held.write_vector("the output's scales", scales, shape.rows)?),
            ),
        })
    }
}

/// A float element that lives on devices too: f32, f16 or bf16. Sealed.
pub trait DeviceElement: Element + OutputElement {
    /// Elements to read, tagged with their type.
    fn floats(view: CudaView<'_, Self>) -> DeviceFloats<'_>;
    /// A place to write to, tagged with its type.
    fn output(view: CudaViewMut<'_, Self>) -> DeviceOutput<'_>;
    /// Makes a slice of the tagged kind.
    fn owned(slice: CudaSlice<Self>) -> FloatBuffer;
}

macro_rules! float {
    ($($t:ty, $tag:ident;)*) => {$(
        impl DeviceElement for $t {
            fn floats(view: CudaView<'_, Self>) -> DeviceFloats<'_> {
                DeviceFloats::$tag(view)
            }
            fn output(view: CudaViewMut<'_, Self>) -> DeviceOutput<'_> {
                DeviceOutput::$tag(view)
            }
            fn owned(slice: CudaSlice<Self>) -> FloatBuffer {
                FloatBuffer::$tag(slice)
            }
        }
        impl<'a> From<CudaView<'a, $t>> for DeviceFloats<'a> {
            fn from(view: CudaView<'a, $t>) -> Self {
                DeviceFloats::$tag(view)
            }
        }
        impl<'a> From<&'a CudaSlice<$t>> for DeviceFloats<'a> {
            fn from(slice: &'a CudaSlice<$t>) -> Self {
                DeviceFloats::$tag(slice.as_view())
            }
        }
        impl From<CudaSlice<$t>> for FloatBuffer {
            fn from(slice: CudaSlice<$t>) -> Self {
                FloatBuffer::$tag(slice)
            }
        }
    )*};
}
float!(f32, F32; f16, F16; bf16, BF16;);

macro_rules! output {
    ($($t:ty, $tag:ident;)*) => {$(
        impl<'a> From<CudaViewMut<'a, $t>> for DeviceOutput<'a> {
            fn from(view: CudaViewMut<'a, $t>) -> Self {
                DeviceOutput::$tag(view)
            }
        }
        impl<'a> From<&'a mut CudaSlice<$t>> for DeviceOutput<'a> {
            fn from(slice: &'a mut CudaSlice<$t>) -> Self {
                DeviceOutput::$tag(slice.as_view_mut())
            }
        }
    )*};
}
output!(f32, F32; f16, F16; bf16, BF16; i32, I32; i8, I8;);

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
    pub fn view(&self) -> DeviceFloats<'_> {
        match self {
            FloatBuffer::F32(s) => s.into(),
            FloatBuffer::F16(s) => s.into(),
            FloatBuffer::BF16(s) => s.into(),
        }
    }
}
