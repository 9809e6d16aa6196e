//! What a backend must do.

use crate::element::{FloatView, OutputMut};
use crate::epilogue::Epilogue;
use crate::error::Result;
use crate::gemm::{Gemm, Lhs, PackedWeights};
use ndarray::{ArrayView2, ArrayViewMut2};

/// The right operand before packing, `[K, N]`, any strides.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Weights<'a> {
    /// Integers; scales may be attached afterwards with [`PackedWeights::with_scales`].
    Int8(ArrayView2<'a, i8>),
    /// Floats, quantised per channel (one symmetric scale a column) while they are packed.
    Float(FloatView<'a>),
}

impl Weights<'_> {
    /// Rows (K) and columns (N).
    pub fn dim(&self) -> (usize, usize) {
        match self {
            Weights::Int8(v) => v.dim(),
            Weights::Float(v) => v.dim(),
        }
    }
}

/// Something that multiplies: the CPU, or a device. Object-safe; every implementation gives the same bits.
///
/// The numbers are those of [`numerics`](crate::numerics) and [`epilogue`](crate::epilogue), whatever the kernel,
/// thread count or batch: row `i` of a product depends on row `i` of the left operand and on the weights alone.
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// Its name: `cpu`, or the device's.
    fn name(&self) -> String;

    /// The kernel that would serve an `[m, k] x [k, n]` product.
    fn kernel(&self, m: usize, n: usize, k: usize) -> String;

    /// Lays weights out for this backend's kernels, quantising floats per channel.
    ///
    /// # Errors
    /// [`Error::KTooLong`](crate::Error::KTooLong) when no exact product could use them.
    fn pack(&self, weights: Weights<'_>) -> Result<PackedWeights>;

    /// Computes a checked product into `out`, every element of which is written.
    ///
    /// # Errors
    /// When the output does not fit the product, or the weights were packed for another layout. Then `out` is
    /// untouched.
    fn gemm(&self, gemm: &Gemm<'_>, out: OutputMut<'_>) -> Result<()>;

    /// The exact product of two int8 matrices that are used once. Same bits as packing first.
    ///
    /// # Errors
    /// As [`Gemm::new`] and [`gemm`](Self::gemm).
    fn matmul_int8(
        &self,
        lhs: ArrayView2<'_, i8>,
        rhs: ArrayView2<'_, i8>,
        out: ArrayViewMut2<'_, i32>,
    ) -> Result<()> {
        let packed = self.pack(Weights::Int8(rhs))?;
        let gemm = Gemm::new(Lhs::Int8(lhs), &packed, Epilogue::default())?;
        self.gemm(&gemm, OutputMut::I32(out))
    }

    /// Float in, float out: both sides quantised on the way, weights used once. Same bits as packing first.
    ///
    /// # Errors
    /// As [`Gemm::new`] and [`gemm`](Self::gemm).
    fn matmul_quantized(
        &self,
        lhs: FloatView<'_>,
        rhs: FloatView<'_>,
        out: OutputMut<'_>,
    ) -> Result<()> {
        let packed = self.pack(Weights::Float(rhs))?;
        let lhs = Lhs::Float {
            data: lhs,
            quant: Default::default(),
        };
        let gemm = Gemm::new(lhs, &packed, Epilogue::default())?;
        self.gemm(&gemm, out)
    }
}
