//! Row-major matrices in device memory.

use super::launch::same_context;
use super::module::Device;
use crate::error::{Error, Result};
use cudarc::driver::{CudaContext, CudaStream, DevicePtr, DeviceSlice};
use std::sync::Arc;

/// A row-major matrix over a device slice: element `(r, c)` is at `r * stride + c`.
///
/// `S` is a reference to what cudarc calls a [`DevicePtr`](cudarc::driver::DevicePtr): a slice or a view, of any
/// offset. Nothing is checked until a [`Device`] method uses it.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<S> {
    pub(super) data: S,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) stride: usize,
}

impl<S> Matrix<S> {
    /// Rows one after the other.
    pub fn new(data: S, rows: usize, cols: usize) -> Self {
        Matrix {
            data,
            rows,
            cols,
            stride: cols,
        }
    }

    /// Rows that start `stride` elements apart, at least `cols`.
    pub fn with_stride(mut self, stride: usize) -> Self {
        self.stride = stride;
        self
    }

    /// The same matrix, by reference to its data.
    pub(super) fn by_ref(&self) -> Matrix<&S> {
        self.over(&self.data)
    }

    /// The same matrix, by reference to its data, to write.
    pub(super) fn by_mut(&mut self) -> Matrix<&mut S> {
        Matrix {
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
            data: &mut self.data,
        }
    }

    /// The same rows and columns over other data.
    pub(super) fn over<D>(&self, data: D) -> Matrix<D> {
        Matrix {
            data,
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
        }
    }

    /// The same rows and columns, the data changed.
    pub(super) fn map<D>(self, change: impl FnOnce(S) -> D) -> Matrix<D> {
        Matrix {
            data: change(self.data),
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
        }
    }

    /// Whether the rows touch, so that the matrix is one run of elements.
    pub(super) fn is_contiguous(&self) -> bool {
        self.stride == self.cols || self.rows <= 1
    }

    /// Checks that every element is inside the slice, in the device's memory.
    pub(super) fn check<T>(
        &self,
        what: &'static str,
        device: &Device,
        data: &(impl DeviceSlice<T> + ?Sized),
    ) -> Result<()> {
        device.check_memory(what, data)?;
        if self.rows > 1 && self.stride < self.cols {
            return Err(Error::Value {
                what,
                found: format!("a matrix with stride {}", self.stride),
                expected: format!("a stride of at least its {} columns", self.cols),
            });
        }
        let needed = match (self.rows, self.cols) {
            (0, _) | (_, 0) => Some(0),
            (rows, cols) => (rows - 1)
                .checked_mul(self.stride)
                .and_then(|last| last.checked_add(cols)),
        };
        match needed {
            Some(needed) if needed <= data.len() => Ok(()),
            _ => Err(Error::Length {
                what,
                found: data.len(),
                expected: needed.unwrap_or(usize::MAX),
            }),
        }
    }
}

impl<S> Matrix<S> {
    /// The same, and that its address fits the elements' type.
    pub(super) fn check_aligned<T>(
        &self,
        what: &'static str,
        device: &Device,
        stream: &CudaStream,
        data: &impl DevicePtr<T>,
    ) -> Result<()> {
        self.check(what, device, data)?;
        aligned::<T>(what, data.device_ptr(stream).0).map(drop)
    }
}

/// Checks a vector with one element a row or column, and that its address fits the elements' type.
pub(super) fn check_aligned_vector<T>(
    what: &'static str,
    device: &Device,
    stream: &CudaStream,
    data: &impl DevicePtr<T>,
    expected: usize,
) -> Result<()> {
    check_vector(what, device, data, expected)?;
    aligned::<T>(what, data.device_ptr(stream).0).map(drop)
}

/// Checks a vector with one element a row or column.
pub(super) fn check_vector<T>(
    what: &'static str,
    device: &Device,
    data: &(impl DeviceSlice<T> + ?Sized),
    expected: usize,
) -> Result<()> {
    device.check_memory(what, data)?;
    if data.len() == expected {
        return Ok(());
    }
    Err(Error::Length {
        what,
        found: data.len(),
        expected,
    })
}

/// Checks that a slice of this context has at least so many elements; `None` is more than any has.
pub(super) fn check_span<T>(
    what: &'static str,
    context: &Arc<CudaContext>,
    data: &(impl DeviceSlice<T> + ?Sized),
    needed: Option<usize>,
) -> Result<()> {
    same_context(what, context, data.stream().context())?;
    match needed {
        Some(needed) if needed <= data.len() => Ok(()),
        _ => Err(Error::Length {
            what,
            found: data.len(),
            expected: needed.unwrap_or(usize::MAX),
        }),
    }
}

/// Checks that an address fits its element type: a view made by reinterpreting bytes need not.
pub(super) fn aligned<T>(what: &'static str, address: u64) -> Result<u64> {
    if address.is_multiple_of(std::mem::align_of::<T>() as u64) {
        return Ok(address);
    }
    Err(Error::Value {
        what,
        found: format!("at address {address:#x}"),
        expected: format!(
            "an address that is a multiple of {}",
            std::mem::align_of::<T>()
        ),
    })
}
