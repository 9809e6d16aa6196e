//! What a backend must do.

use crate::element::{FloatView, OutputMut};
use crate::epilogue::Epilogue;
use crate::error::Result;
use crate::gemm::{quantized, Gemm, Lhs, PackedWeights};
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

    /// The product as int8 with one scale a row, found from the row: per-token activations for the next product.
    ///
    /// ```text
    /// y         = the product with its epilogue, f32
    /// bound[i]  = max |y[i, :]|, or 1 where 127 / that overflows
    /// out[i, j] = clip(round_half_even(y[i, j] * (127 / bound[i])), -127, 127),  NaN -> 0
    /// scales[i] = bound[i] / 127
    /// ```
    ///
    /// The bits of [`gemm`](Self::gemm) to f32 and [`numerics`](crate::numerics) after it; a row with NaN or infinity gives
    /// zeros and a scale that is not finite. `out` is `[M, N]` (`[M, N / 2]` when gated) with any strides, `scales` has M
    /// elements. The floats are made and used a few rows at a time.
    ///
    /// ```
    /// use imma::{Backend, Cpu, Epilogue, Gemm, Lhs, Weights};
    /// use ndarray::{arr2, Array2};
    /// let cpu = Cpu::new();
    /// let weights = cpu.pack(Weights::Int8(arr2(&[[1i8, -2], [2, 0]]).view()))?;
    /// let lhs = arr2(&[[3i8, 4]]);
    /// let gemm = Gemm::new(Lhs::Int8(lhs.view()), &weights, Epilogue::default())?;
    /// let (mut q, mut scales) = (Array2::<i8>::zeros((1, 2)), [0f32]);
    /// cpu.gemm_quantized(&gemm, q.view_mut(), &mut scales)?;
    /// // The row [11, -6].
    /// assert_eq!((q, scales), (arr2(&[[127, -69]]), [11.0 / 127.0]));
    /// # Ok::<(), imma::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`gemm`](Self::gemm); [`Error::Epilogue`](crate::Error::Epilogue) for an `out_scale`,
    /// [`Error::Length`](crate::Error::Length) when `scales` has not one element a row. Then both are untouched.
    fn gemm_quantized(
        &self,
        gemm: &Gemm<'_>,
        out: ArrayViewMut2<'_, i8>,
        scales: &mut [f32],
    ) -> Result<()> {
        let product = |gemm: &Gemm<'_>, floats: OutputMut<'_>| self.gemm(gemm, floats);
        quantized::gemm(gemm, out, scales, product, |rows| {
            rows.into_iter().for_each(|row| row.quantize())
        })
    }

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
