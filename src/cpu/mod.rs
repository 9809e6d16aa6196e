//! The CPU backend: exact int8 products with the best instructions this machine has.
//!
//! ```text
//!   select    which leaf (instruction set) serves
//!   engine    what multiplies a block of rows by panels of weights
//!   leaf      the dot-product trait; avx512_vnni, vnni256, avx2, neon, neon_i8mm, portable: its leaves, each an engine
//!   amx       the tiles of AMX and their emulation: the other engine
//!   lhs, rhs  quantise and pack rows, columns        interleave  the byte order of both
//!   driver    the loops and who runs them            threads     where threads come from
//!   store     epilogue and output of a tile          grouped     weights with scales along K
//!   peak      what a leaf reaches at most            caches      sizes that blocks are measured by
//! ```
//!
//! The same bits come out for any leaf, number of threads and way of packing.

mod aligned;
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
mod caches;
mod driver;
mod engine;
mod grouped;
mod interleave;
mod leaf;
mod lhs;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon_i8mm;
mod peak;
mod portable;
mod rhs;
mod select;
mod store;
mod threads;
#[cfg(target_arch = "x86_64")]
mod vnni256;

pub use amx::AmxStatus;
pub(crate) use grouped::{Finish, GroupedWeights};
pub use select::LeafInfo;

use crate::element::{DType, FloatView, OutputMut};
use crate::epilogue::{Epilogue, Resolved, Scales};
use crate::error::{Error, Result};
use crate::gemm::{
    check_contraction, check_k, quantized, Backend, Gemm, Lhs, PackedWeights, Weights,
};
use aligned::AlignedBytes;
use engine::Engine;
use ndarray::{ArrayView2, ArrayViewMut2};
use select::{with_leaf, Kernel};
use std::fmt;
use std::sync::Arc;
use store::{OutMatrix, Output};
use threads::Threads;

/// Finished elements below this many are quantised by the calling thread.
const ALONE: usize = 1 << 16;

/// The CPU backend.
///
/// ```
/// use imma::Cpu;
/// let cpu = Cpu::new().with_threads(1)?;
/// println!("{} on {} thread", cpu.leaf(), cpu.threads());
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Clone)]
pub struct Cpu {
    kernel: Kernel,
    threads: Threads,
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu")
            .field("leaf", &self.leaf())
            .field("threads", &self.threads())
            .finish()
    }
}

impl Cpu {
    /// The best leaf of this machine, on rayon's current thread pool.
    pub fn new() -> Self {
        Cpu {
            kernel: Kernel::best(),
            threads: Threads::Ambient,
        }
    }

    /// Every leaf this build knows, best first.
    pub fn leaves() -> Vec<LeafInfo> {
        Kernel::all()
    }

    /// The same backend with a leaf forced by name.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when this build or this CPU does not have it.
    pub fn with_leaf(self, name: &str) -> Result<Self> {
        let kernel = Kernel::by_name(name).ok_or_else(|| {
            let have: Vec<_> = Self::leaves()
                .iter()
                .filter(|l| l.available)
                .map(|l| l.name)
                .collect();
            Error::Unavailable {
                what: "CPU leaf",
                found: name.into(),
                expected: format!("this machine has {}", have.join(", ")),
            }
        })?;
        Ok(Cpu { kernel, ..self })
    }

    /// The same backend on a pool of its own with that many threads; 1 stays on the calling thread.
    ///
    /// # Errors
    /// [`Error::Value`] for zero threads, for more than 8 for each CPU that this process may use, or when the system
    /// refuses to start them.
    pub fn with_threads(self, threads: usize) -> Result<Self> {
        let threads = Threads::new(threads)?;
        Ok(Cpu { threads, ..self })
    }

    /// The leaf in use.
    pub fn leaf(&self) -> &'static str {
        fn name<E: Engine>(_: E) -> &'static str {
            E::NAME
        }
        with_leaf!(self.kernel, leaf => name(leaf))
    }

    /// Whether this process may use AMX, and if not, why.
    ///
    /// ```
    /// println!("AMX: {}", imma::Cpu::amx());
    /// ```
    pub fn amx() -> AmxStatus {
        amx::status()
    }

    /// The number of threads in use.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// Applies an activation function to a slice in place, with the leaf's instructions: the bits of
    /// [`Activation::apply`](crate::Activation::apply), many times faster where that has to emulate fused
    /// multiply-adds.
    ///
    /// ```
    /// use imma::{Activation, Cpu};
    /// let mut x = [-1.0f32, 0.0, 2.5];
    /// let want = x.map(|x| Activation::Gelu.apply(x));
    /// Cpu::new().activate(Activation::Gelu, &mut x);
    /// assert_eq!(x, want);
    /// ```
    pub fn activate(&self, activation: crate::Activation, x: &mut [f32]) {
        with_leaf!(self.kernel, leaf => leaf.vectorize(
            #[inline(always)]
            || activation.apply_row(x)
        ));
    }

    fn layout(&self) -> leaf::Layout {
        fn layout<E: Engine>(_: E) -> leaf::Layout {
            E::LAYOUT
        }
        with_leaf!(self.kernel, leaf => layout(leaf))
    }

    /// `column_sums`: what products with zero points need, one more pass over the packed bytes.
    fn pack_with(&self, weights: Weights<'_>, column_sums: bool) -> Result<PackedWeights> {
        let (k, n) = weights.dim();
        check_k(k, false)?;
        let threads = &self.threads;
        let (bytes, scales) = with_leaf!(self.kernel, leaf => match &weights {
            Weights::Int8(w) => (driver::pack(leaf, threads, w, false).0, None),
            Weights::Float(FloatView::F32(w)) => some(driver::pack(leaf, threads, w, true)),
            Weights::Float(FloatView::F16(w)) => some(driver::pack(leaf, threads, w, true)),
            Weights::Float(FloatView::BF16(w)) => some(driver::pack(leaf, threads, w, true)),
        });
        let mut col_sums = vec![0; if column_sums { n } else { 0 }];
        with_leaf!(self.kernel, leaf => rhs::column_sums(leaf, k, bytes.as_slice(), &mut col_sums));
        Ok(PackedWeights {
            k,
            n,
            layout: self.layout().name,
            bytes: bytes.as_slice().len(),
            scales: scales.map(Into::into),
            col_sums: col_sums.into(),
            storage: Arc::new(bytes),
        })
    }

    fn run<O: Output>(&self, gemm: &Gemm<'_>, out: ArrayViewMut2<'_, O>) -> Result<()> {
        let weights = &gemm.weights;
        let storage = weights.storage.downcast_ref::<AlignedBytes>();
        let (Some(bytes), true) = (storage, weights.layout == self.layout().name) else {
            return Err(Error::PackedElsewhere {
                found: weights.layout.into(),
                expected: self.layout().name.into(),
            });
        };
        let (m, n, k) = gemm.mnk();
        let epilogue = &gemm.epilogue;
        let bias = epilogue.bias.map(|b| b.to_f32_vec());
        let zero_points = epilogue.row_zero_points.is_some() || gemm.lhs.has_zero_points();
        let resolved = Resolved {
            col_scales: match epilogue.col_scales {
                Scales::None => weights.epilogue_scales(),
                given => given,
            },
            col_sums: zero_points.then(|| weights.col_sums()),
            bias: bias.as_deref(),
            activation: epilogue.activation,
            gated: epilogue.gated,
            residual: epilogue.residual.as_ref().map(FloatView::view),
            out_multiplier: epilogue.out_scale.map_or(1.0, |s| 1.0 / s),
        };
        debug_assert_eq!(
            bytes.as_slice().len(),
            self.layout().panels(n) * self.layout().panel_bytes(k)
        );
        let (threads, out) = (&self.threads, OutMatrix::new(out));
        debug_assert!(m == 0 || gemm.lhs.dim().0 == m);
        with_leaf!(self.kernel, leaf => {
            driver::gemm(leaf, threads, &gemm.lhs, epilogue, &resolved, bytes.as_slice(), out, n)
        });
        Ok(())
    }

    /// Whether `m` rows are few enough that weights used once are packed by the tasks that read them.
    fn once(&self, m: usize, k: usize) -> bool {
        fn one_block<E: Engine>(_: E, m: usize, k: usize) -> bool {
            driver::one_block::<E>(m, k)
        }
        with_leaf!(self.kernel, leaf => one_block(leaf, m, k))
    }

    fn run_once<T: rhs::Source, O: Output>(
        &self,
        lhs: &Lhs<'_>,
        rhs: &ArrayView2<'_, T>,
        scaled: bool,
        out: ArrayViewMut2<'_, O>,
    ) {
        let (threads, out) = (&self.threads, OutMatrix::new(out));
        with_leaf!(self.kernel, leaf => driver::gemm_once(leaf, threads, lhs, rhs, scaled, out));
    }
}

fn some((bytes, scales): (AlignedBytes, Vec<f32>)) -> (AlignedBytes, Option<Vec<f32>>) {
    (bytes, Some(scales))
}

impl Backend for Cpu {
    fn name(&self) -> String {
        "cpu".into()
    }

    fn kernel(&self, _m: usize, _n: usize, _k: usize) -> String {
        self.leaf().into()
    }

    fn pack(&self, weights: Weights<'_>) -> Result<PackedWeights> {
        self.pack_with(weights, true)
    }

    fn gemm(&self, gemm: &Gemm<'_>, out: OutputMut<'_>) -> Result<()> {
        gemm.check_output(out.dim(), out.strides(), out.dtype())?;
        match out {
            OutputMut::F32(out) => self.run(gemm, out),
            OutputMut::F16(out) => self.run(gemm, out),
            OutputMut::BF16(out) => self.run(gemm, out),
            OutputMut::I32(out) => self.run(gemm, out),
            OutputMut::I8(out) => self.run(gemm, out),
        }
    }

    fn gemm_quantized(
        &self,
        gemm: &Gemm<'_>,
        out: ArrayViewMut2<'_, i8>,
        scales: &mut [f32],
    ) -> Result<()> {
        let cols = out.ncols();
        let product = |gemm: &Gemm<'_>, floats: OutputMut<'_>| self.gemm(gemm, floats);
        quantized::gemm(gemm, out, scales, product, |rows| {
            let workers = if rows.len() * cols < ALONE {
                1
            } else {
                self.threads()
            };
            with_leaf!(self.kernel, leaf => self.threads.run_each(workers, rows, |_, row| {
                leaf.vectorize(
                    #[inline(always)]
                    || row.quantize()
                )
            }));
        })
    }

    fn matmul_int8(
        &self,
        lhs: ArrayView2<'_, i8>,
        rhs: ArrayView2<'_, i8>,
        out: ArrayViewMut2<'_, i32>,
    ) -> Result<()> {
        let ((m, k), (rows, n)) = (lhs.dim(), rhs.dim());
        check_contraction("gemm", [m, k], [rows, n])?;
        check_k(k, false)?;
        let contiguous = m == 0 || n <= 1 || out.strides()[1] == 1;
        if contiguous && out.dim() == (m, n) && self.once(m, k) {
            self.run_once(&Lhs::Int8(lhs), &rhs, false, out);
            return Ok(());
        }
        let packed = self.pack_with(Weights::Int8(rhs), false)?;
        let gemm = Gemm::new(Lhs::Int8(lhs), &packed, Epilogue::default())?;
        self.gemm(&gemm, OutputMut::I32(out))
    }

    fn matmul_quantized(
        &self,
        lhs: FloatView<'_>,
        rhs: FloatView<'_>,
        out: OutputMut<'_>,
    ) -> Result<()> {
        let ((m, k), (rows, n)) = (lhs.dim(), rhs.dim());
        check_contraction("gemm", [m, k], [rows, n])?;
        check_k(k, false)?;
        let lhs = Lhs::Float {
            data: lhs,
            quant: Default::default(),
        };
        let contiguous = m == 0 || n <= 1 || out.strides().1 == 1;
        let float = !matches!(out.dtype(), DType::I32 | DType::I8);
        if contiguous && float && out.dim() == (m, n) && self.once(m, k) {
            macro_rules! run {
                ($out:expr) => {
                    match &rhs {
                        FloatView::F32(w) => self.run_once(&lhs, w, true, $out),
                        FloatView::F16(w) => self.run_once(&lhs, w, true, $out),
                        FloatView::BF16(w) => self.run_once(&lhs, w, true, $out),
                    }
                };
            }
            match out {
                OutputMut::F32(out) => run!(out),
                OutputMut::F16(out) => run!(out),
                OutputMut::BF16(out) => run!(out),
                OutputMut::I32(_) | OutputMut::I8(_) => unreachable!("asked above"),
            }
            return Ok(());
        }
        let packed = self.pack_with(Weights::Float(rhs), false)?;
        let gemm = Gemm::new(lhs, &packed, Epilogue::default())?;
        self.gemm(&gemm, out)
    }
}
