//! What a backend must do.

use crate::activation::Activation;
use crate::element::{FloatView, OutputMut};
use crate::epilogue::{Epilogue, Output};
use crate::error::Result;
use crate::gemm::{Gemm, GroupedGemm, Lhs, PackedWeights};
use ndarray::{ArrayView2, ArrayViewMut2};

/// The right operand before packing, `[K, N]`, any strides.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Weights<'a> {
    /// Integers; scales may be attached afterwards with [`PackedWeights::with_scales`].
    Int8(ArrayView2<'a, i8>),
    /// Floats, quantised per channel (one symmetric scale a column) while they are packed.
    Float(FloatView<'a>),
    /// Floats, quantised group-wise while they are packed: one symmetric scale for each group of `size` neighbours along K
    /// and each column.
    FloatGroupwise {
        /// The weights, `[K, N]`.
        data: FloatView<'a>,
        /// Inputs that share a scale: 32, 64 or 128. When it does not divide K the last group is shorter.
        size: usize,
    },
    /// Integers with group-wise scales.
    Int8Groupwise {
        /// The integers, `[K, N]`.
        data: ArrayView2<'a, i8>,
        /// The sizes of a step, `[K / size rounded up, N]`.
        scales: ArrayView2<'a, f32>,
        /// Inputs that share a scale: 32, 64 or 128.
        size: usize,
    },
}

impl Weights<'_> {
    /// Rows (K) and columns (N).
    pub fn dim(&self) -> (usize, usize) {
        match self {
            Weights::Int8(v) => v.dim(),
            Weights::Float(v) => v.dim(),
            Weights::FloatGroupwise { data, .. } => data.dim(),
            Weights::Int8Groupwise { data, .. } => data.dim(),
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

    /// Lays weights out for this backend's kernels, quantising floats per channel or group-wise.
    ///
    /// # Errors
    /// [`Error::KTooLong`](crate::Error::KTooLong) when no exact product could use them,
    /// [`Error::Value`](crate::Error::Value) for another size of a scale group than 32, 64 and 128,
    /// [`Error::Shape`](crate::Error::Shape) for group-wise scales of another shape,
    /// [`Error::Unavailable`](crate::Error::Unavailable) for weights that the backend has no kernel for.
    fn pack(&self, weights: Weights<'_>) -> Result<PackedWeights>;

    /// Computes a checked product into `out`, every element of which is written.
    ///
    /// `out` is a place for the epilogue's [`Output`]: `[M, N]`, or `[M, N / 2]` when gated. Its rows are contiguous, but
    /// for [`OutputMut::I8PerRow`], whose integers may have any strides; that output's bits are those of the product to f32
    /// and [`numerics`](crate::numerics) after it.
    ///
    /// ```
    /// use imma::element::OutputMut;
    /// use imma::epilogue::Output;
    /// use imma::gemm::{Gemm, Lhs, Weights};
    /// use imma::{Backend, Cpu, Epilogue};
    /// use ndarray::{arr2, Array2};
    /// let cpu = Cpu::new();
    /// let weights = cpu.pack(Weights::Int8(arr2(&[[1i8, -2], [2, 0]]).view()))?;
    /// let lhs = arr2(&[[3i8, 4]]);
    /// let gemm = Gemm::new(Lhs::Int8(lhs.view()), &weights, Epilogue::to(Output::Int8PerRow))?;
    /// let (mut q, mut scales) = (Array2::<i8>::zeros((1, 2)), [0f32]);
    /// cpu.gemm(&gemm, OutputMut::I8PerRow { data: q.view_mut(), scales: &mut scales })?;
    /// // The row [11, -6].
    /// assert_eq!((q, scales), (arr2(&[[127, -69]]), [11.0 / 127.0]));
    /// # Ok::<(), imma::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Epilogue`] when `out` is a place for another output than the epilogue's, [`Error::Shape`],
    /// [`Error::Length`] and [`Error::Value`] when it does not fit the product, [`Error::PackedElsewhere`] when the weights
    /// were packed for another layout. Then `out` is untouched.
    ///
    /// [`Error::Epilogue`]: crate::Error::Epilogue
    /// [`Error::Shape`]: crate::Error::Shape
    /// [`Error::Length`]: crate::Error::Length
    /// [`Error::Value`]: crate::Error::Value
    /// [`Error::PackedElsewhere`]: crate::Error::PackedElsewhere
    fn gemm(&self, gemm: &Gemm<'_>, out: OutputMut<'_>) -> Result<()>;

    /// Computes a grouped product into `out`: every element of the rows that belong to an expert is written, the others are
    /// left alone. Same bits as a [`gemm`](Self::gemm) an expert, which is what a backend without anything better does.
    ///
    /// # Errors
    /// As [`gemm`](Self::gemm).
    fn grouped_gemm(&self, grouped: &GroupedGemm<'_>, mut out: OutputMut<'_>) -> Result<()> {
        grouped.check_output(&out)?;
        for expert in 0..grouped.experts() {
            let rows = grouped.rows_of(expert);
            // The first without rows too: weights of another layout are refused there.
            if !rows.is_empty() || expert == 0 {
                let whole = grouped.whole(expert);
                let gemm = whole.rows(rows.start, rows.len());
                self.gemm(&gemm, out.rows(rows.start, rows.end))?;
            }
        }
        Ok(())
    }

    /// Applies an activation function to a slice in place: the bits of [`Activation::apply`].
    fn activate(&self, activation: Activation, x: &mut [f32]) {
        activation.apply_row(x);
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
        let gemm = Gemm::new(Lhs::Int8(lhs), &packed, Epilogue::to(Output::Raw))?;
        self.gemm(&gemm, OutputMut::I32(out))
    }

    /// Float in, float out: both sides quantised on the way, weights used once. Same bits as packing first.
    ///
    /// # Errors
    /// As [`Gemm::new`] and [`gemm`](Self::gemm); [`Error::Epilogue`](crate::Error::Epilogue) for a place of raw sums or of int8 with a scale
    /// that nobody gave.
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
        let gemm = Gemm::new(lhs, &packed, Epilogue::to(Output::for_place(&out)?))?;
        self.gemm(&gemm, out)
    }
}
