//! Row-major matrices in device memory.

/// A row-major matrix over a device slice: element `(r, c)` is at `r * stride + c`.
///
/// `S` is a slice or a view of cudarc's, of any offset, or a reference to one. Nothing is checked before it is used.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<S> {
    pub(in crate::cuda) data: S,
    pub(in crate::cuda) rows: usize,
    pub(in crate::cuda) cols: usize,
    pub(in crate::cuda) stride: usize,
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

    /// Rows and columns.
    pub fn dim(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// The same matrix, by reference to its data.
    pub(in crate::cuda) fn by_ref(&self) -> Matrix<&S> {
        self.over(&self.data)
    }

    /// The same rows and columns over other data.
    pub(in crate::cuda) fn over<D>(&self, data: D) -> Matrix<D> {
        Matrix {
            data,
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
        }
    }

    /// The same rows and columns, the data changed.
    pub(in crate::cuda) fn map<D>(self, change: impl FnOnce(S) -> D) -> Matrix<D> {
        Matrix {
            data: change(self.data),
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
        }
    }
}
