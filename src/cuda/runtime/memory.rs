//! Device memory of one call: checked once, its address taken once, and kept until the call's launches are enqueued.
//!
//! ```text
//!   slice or view of the caller's --Held::{read, write, ..}--> Region (address, rows, cols, stride)
//!                                        |
//!                                        '-- its guard stays in Held: cudarc orders streams by it
//! ```
//!
//! A [`Region`] is the proof that its elements lie in live memory of the device's context, aligned for their type: what
//! kernels are given.

use super::device::Device;
use super::element::OutputElement;
use super::errors::{aligned, driver, same_context};
use super::matrix::Matrix;
use crate::error::{Error, Result};
use cudarc::driver::{
    result, sys, CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr,
    SyncOnDrop, ValidAsZeroBits,
};
use std::marker::PhantomData;
use std::sync::Arc;

/// A row-major matrix, or a vector as one row, in device memory that was checked.
#[derive(Debug, Clone, Copy)]
pub(in crate::cuda) struct Region<'a> {
    pub address: u64,
    pub rows: usize,
    pub cols: usize,
    /// Elements from a row to the next.
    pub stride: usize,
    /// Elements that may be touched from the address on: those of the whole slice.
    pub len: usize,
    life: PhantomData<&'a ()>,
}

impl<'a> Region<'a> {
    /// Whether it starts, and its rows lie, at multiples of so many bytes; the stride of a single row is never used.
    pub fn is_aligned(&self, element: usize, bytes: usize) -> bool {
        self.address.is_multiple_of(bytes as u64)
            && (self.rows <= 1 || (self.stride * element).is_multiple_of(bytes))
    }

    /// Whether the rows touch, so that the matrix is one run of elements.
    pub fn is_contiguous(&self) -> bool {
        self.stride == self.cols || self.rows <= 1
    }

    /// Of memory in which `address` was seen to be inside; for parts of a checked workspace.
    pub(super) fn part(address: u64, rows: usize, cols: usize) -> Self {
        Region {
            address,
            rows,
            cols,
            stride: cols,
            len: rows * cols,
            life: PhantomData,
        }
    }

    /// So many rows of nothing.
    pub fn rows_without_columns(rows: usize) -> Self {
        Region::part(0, rows, 0)
    }

    /// The same rows with so many columns, at most the stride.
    pub fn columns_to(self, cols: usize) -> Self {
        Region {
            cols: cols.min(self.stride),
            ..self
        }
    }

    /// The first rows, at most all.
    pub fn rows_to(self, rows: usize) -> Self {
        Region {
            rows: rows.min(self.rows),
            ..self
        }
    }

    /// A vector's elements as rows of so many, one after the other; what does not fit is left out.
    pub fn rows_of(self, rows: usize, cols: usize) -> Self {
        let rows = rows.min(self.cols.checked_div(cols).unwrap_or(rows));
        Region {
            rows,
            cols,
            stride: cols,
            ..self
        }
    }

    /// What comes after the first `skip` elements of `bytes` each, of a vector.
    pub fn after(self, skip: usize, bytes: usize) -> Self {
        let skip = skip.min(self.cols);
        Region {
            address: self.address + (skip * bytes) as u64,
            cols: self.cols - skip,
            stride: self.cols - skip,
            len: self.len - skip,
            ..self
        }
    }
}

/// The memory of one call, with the guards that order streams.
pub(in crate::cuda) struct Held<'a> {
    device: &'a Device,
    stream: &'a CudaStream,
    guards: Vec<SyncOnDrop<'a>>,
}

/// Refuses a capture under cudarc's event tracking: each buffer would wait for events from outside of the capture, which the
/// driver answers with a bare code, after the fact.
fn untracked_capture(stream: &CudaStream) -> Result<()> {
    if !stream.context().is_managing_stream_synchronization() {
        return Ok(());
    }
    match stream.capture_status() {
        Ok(status) if status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => {
            Err(Error::Value {
                what: "the stream",
                found: "being captured while cudarc tracks events".into(),
                expected:
                    "`context.disable_event_tracking()` before the capture's buffers are made"
                        .into(),
            })
        }
        _ => Ok(()),
    }
}

impl<'a> Held<'a> {
    /// For a call on this stream.
    ///
    /// # Errors
    /// [`Error::Value`] for a stream of another context, and for one that is being captured while events are tracked.
    pub fn new(device: &'a Device, stream: &'a CudaStream) -> Result<Self> {
        same_context("the stream", device.context(), stream.context())?;
        untracked_capture(stream)?;
        Ok(Held {
            device,
            stream,
            guards: Vec::with_capacity(8),
        })
    }

    pub fn device(&self) -> &'a Device {
        self.device
    }

    pub fn stream(&self) -> &'a CudaStream {
        self.stream
    }

    /// A matrix to read.
    ///
    /// # Errors
    /// [`Error::Length`] where it leaves its slice, [`Error::Value`] for memory of another context, rows that overlap or a
    /// misaligned address.
    pub fn read<T>(
        &mut self,
        what: &'static str,
        matrix: &Matrix<&'a (impl DevicePtr<T> + ?Sized)>,
    ) -> Result<Region<'a>> {
        let data: &'a _ = matrix.data;
        self.inside(what, matrix, data.len(), data.stream().context())?;
        let len = data.len();
        let (address, guard) = data.device_ptr(self.stream);
        self.guards.push(guard);
        region::<T, _>(what, matrix, address, len)
    }

    /// A matrix to write.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write<T>(
        &mut self,
        what: &'static str,
        matrix: Matrix<&'a mut (impl DevicePtrMut<T> + ?Sized)>,
    ) -> Result<Region<'a>> {
        let Matrix {
            data,
            rows,
            cols,
            stride,
        } = matrix;
        let shape = Matrix::new((), rows, cols).with_stride(stride);
        let len = data.len();
        self.inside(what, &shape, len, data.stream().context())?;
        let (address, guard) = data.device_ptr_mut(self.stream);
        self.guards.push(guard);
        region::<T, _>(what, &shape, address, len)
    }

    /// A vector of so many elements to read.
    ///
    /// # Errors
    /// [`Error::Length`] for another number; otherwise as [`read`](Self::read).
    pub fn read_vector<T>(
        &mut self,
        what: &'static str,
        data: &'a (impl DevicePtr<T> + ?Sized),
        expected: usize,
    ) -> Result<Region<'a>> {
        exactly(what, data.len(), expected)?;
        self.read(what, &Matrix::new(data, 1, expected))
    }

    /// A vector of so many elements to write.
    ///
    /// # Errors
    /// As [`read_vector`](Self::read_vector).
    pub fn write_vector<T>(
        &mut self,
        what: &'static str,
        data: &'a mut (impl DevicePtrMut<T> + ?Sized),
        expected: usize,
    ) -> Result<Region<'a>> {
        exactly(what, data.len(), expected)?;
        self.write(what, Matrix::new(data, 1, expected))
    }

    /// Enqueues zeros to these int32 elements of a region that may be written.
    pub fn clear(&self, region: Region<'_>, elements: std::ops::Range<usize>) -> Result<()> {
        let bytes = |count: usize| count.min(region.len) * size_of::<i32>();
        let (first, end) = (bytes(elements.start), bytes(elements.end));
        self.fill_zeros(region.address + first as u64, end.saturating_sub(first))
    }

    fn fill_zeros(&self, address: u64, bytes: usize) -> Result<()> {
        let context = self.device.context();
        context
            .bind_to_thread()
            .map_err(driver("cuCtxSetCurrent"))?;
        // SAFETY: inside a region that is held, for which its maker answers.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }
            .map_err(driver("cuMemsetD8Async"))
    }

    /// Refuses memory of another context, and a matrix that leaves its `len` elements.
    fn inside<S>(
        &self,
        what: &'static str,
        matrix: &Matrix<S>,
        len: usize,
        context: &Arc<CudaContext>,
    ) -> Result<()> {
        same_context(what, self.device.context(), context)?;
        if matrix.rows > 1 && matrix.stride < matrix.cols {
            return Err(Error::Value {
                what,
                found: format!("a matrix with stride {}", matrix.stride),
                expected: format!("a stride of at least its {} columns", matrix.cols),
            });
        }
        match span(matrix.rows, matrix.cols, matrix.stride) {
            Some(needed) if needed <= len => Ok(()),
            needed => Err(Error::Length {
                what,
                found: len,
                expected: needed.unwrap_or(usize::MAX),
            }),
        }
    }
}

/// Elements from the first to the last; `None` where no number says.
fn span(rows: usize, cols: usize, stride: usize) -> Option<usize> {
    match (rows, cols) {
        (0, _) | (_, 0) => Some(0),
        (rows, cols) => (rows - 1).checked_mul(stride)?.checked_add(cols),
    }
}

fn exactly(what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Length {
        what,
        found,
        expected,
    })
}

fn region<'a, T, S>(
    what: &'static str,
    matrix: &Matrix<S>,
    address: u64,
    len: usize,
) -> Result<Region<'a>> {
    aligned(what, address, align_of::<T>() as u64)?;
    Ok(Region {
        address,
        rows: matrix.rows,
        cols: matrix.cols,
        stride: matrix.stride,
        len,
        life: PhantomData,
    })
}

/// Copies to the device; nothing becomes one element, for which the driver has memory.
pub(in crate::cuda) fn upload<T: DeviceRepr + Default + Copy>(
    stream: &Arc<CudaStream>,
    data: &[T],
) -> Result<CudaSlice<T>> {
    let nothing = [T::default()];
    let data = if data.is_empty() { &nothing } else { data };
    stream.clone_htod(data).map_err(driver("cuMemcpyHtoD"))
}

/// Copies to the host, and waits for the copy.
pub(in crate::cuda) fn download<T: Copy + Default + DeviceRepr>(
    stream: &Arc<CudaStream>,
    from: &impl DevicePtr<T>,
) -> Result<Vec<T>> {
    let host = stream.clone_dtoh(from).map_err(driver("cuMemcpyDtoH"))?;
    stream
        .synchronize()
        .map_err(driver("cuStreamSynchronize"))?;
    Ok(host)
}

/// Zeros on the device, at least one.
pub(in crate::cuda) fn zeros<T: DeviceRepr + ValidAsZeroBits>(
    stream: &Arc<CudaStream>,
    len: usize,
) -> Result<CudaSlice<T>> {
    stream.alloc_zeros(len.max(1)).map_err(driver("cuMemAlloc"))
}

impl Device {
    /// Memory of this device, at least one element; whoever asks for it writes every element before it is read.
    pub(in crate::cuda) fn fresh<T: OutputElement>(
        &self,
        stream: &Arc<CudaStream>,
        len: usize,
    ) -> Result<CudaSlice<T>> {
        same_context("the stream", self.context(), stream.context())?;
        if len == 0 {
            return zeros(stream, 0);
        }
        // SAFETY: numbers of any bits; written in full before they are read.
        unsafe { stream.alloc(len) }.map_err(driver("cuMemAlloc"))
    }
}
