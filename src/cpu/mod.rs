//! The CPU backend: exact int8 products with the best instructions this machine has.
//!
//! ```text
//!   select    which kernel (instruction set) serves
//!   engine    what multiplies a block of rows by panels of weights
//!   kernel    the dot-product trait; avx512_vnni, vnni256, avx2, neon, neon_i8mm, portable: its kernels, each an engine
//!   amx       the tiles of AMX and their emulation: the other engine
//!   lhs, rhs  quantise and pack rows, columns        interleave  the byte order of both
//!   driver    the loops and who runs them            threads     where threads come from
//!   store     epilogue and output of a tile          groupwise   weights with scales along K
//!   grouped   the loops of many products at once
//!   per_row   int8 with a scale a row                peak        what a kernel reaches at most
//!   caches    sizes that blocks are measured by      prefetch    cache lines asked for early
//!   finish    the epilogue of sums that lie in memory
//! ```
//!
//! The same bits come out for any kernel, number of threads and way of packing.

mod aligned;
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
mod caches;
mod driver;
mod engine;
mod finish;
mod grouped;
mod groupwise;
mod interleave;
mod kernel;
mod lhs;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon_i8mm;
mod peak;
mod per_row;
mod portable;
mod prefetch;
mod rhs;
mod select;
mod store;
mod threads;
#[cfg(target_arch = "x86_64")]
mod vnni256;
mod zip_rows;

pub use amx::AmxStatus;
pub use select::KernelInfo;

use crate::element::{DType, FloatView, OutputMut};
use crate::epilogue::{self, Epilogue, Resolved, Scales};
use crate::error::{Error, Result};
use crate::gemm::groupwise::{check_scales, check_size, quantize_groups};
use crate::gemm::{
    check_contraction, check_k, Backend, Gemm, GroupedGemm, Lhs, PackedWeights, WeightScales,
    Weights,
};
use aligned::AlignedBytes;
use engine::Engine;
pub(crate) use finish::{RowParts, Sums};
use grouped::Members;
use ndarray::{s, ArrayView2, ArrayViewMut2};
use select::{with_engine, Selected};
use std::fmt;
use std::sync::Arc;
use store::{Finished, OutMatrix, Output};
use threads::Threads;

/// Finished elements below this many are quantised by the calling thread.
const ALONE: usize = 1 << 16;

/// The CPU backend.
///
/// ```
/// use imma::Cpu;
/// let cpu = Cpu::new().with_threads(1)?;
/// println!("{} on {} thread", cpu.kernel_name(), cpu.threads());
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Clone)]
pub struct Cpu {
    kernel: Selected,
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
            .field("kernel", &self.kernel_name())
            .field("threads", &self.threads())
            .finish()
    }
}

impl Cpu {
    /// The best kernel of this machine, on rayon's current thread pool.
    pub fn new() -> Self {
        Cpu {
            kernel: Selected::best(),
            threads: Threads::Ambient,
        }
    }

    /// Every kernel this build knows, best first.
    pub fn kernels() -> Vec<KernelInfo> {
        Selected::all()
    }

    /// The same backend with a kernel forced by name.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when this build or this CPU does not have it.
    pub fn with_kernel(self, name: &str) -> Result<Self> {
        let kernel = Selected::by_name(name).ok_or_else(|| {
            let have: Vec<_> = Self::kernels()
                .iter()
                .filter(|l| l.available)
                .map(|l| l.name)
                .collect();
            Error::Unavailable {
                what: "CPU kernel",
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

    /// The kernel in use.
    pub fn kernel_name(&self) -> &'static str {
        fn name<E: Engine>(_: E) -> &'static str {
            E::NAME
        }
        with_engine!(self.kernel, engine => name(engine))
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

    /// Applies an activation function to a slice in place, with the kernel's instructions: the bits of
    /// [`Activation::apply`](crate::activation::Activation::apply), many times faster where that has to emulate fused
    /// multiply-adds.
    ///
    /// ```
    /// use imma::activation::Activation;
    /// use imma::Cpu;
    /// let mut x = [-1.0f32, 0.0, 2.5];
    /// let want = x.map(|x| Activation::Gelu.apply(x));
    /// Cpu::new().activate(Activation::Gelu, &mut x);
    /// assert_eq!(x, want);
    /// ```
    pub fn activate(&self, activation: crate::activation::Activation, x: &mut [f32]) {
        with_engine!(self.kernel, engine => engine.vectorize(
            #[inline(always)]
            || activation.apply_row(x)
        ));
    }

    fn layout(&self) -> kernel::Layout {
        fn layout<E: Engine>(_: E) -> kernel::Layout {
            E::LAYOUT
        }
        with_engine!(self.kernel, engine => layout(engine))
    }

    /// The order in which this backend reads weights: the kernel of its engine multiplies group-wise ones, whose groups may
    /// start anywhere.
    fn layout_of(&self, groupwise: bool) -> &'static str {
        fn kernel<E: Engine>(_: E) -> &'static str {
            <E::Kernel as kernel::Kernel>::LAYOUT.name
        }
        if groupwise {
            with_engine!(self.kernel, engine => kernel(engine))
        } else {
            self.layout().name
        }
    }

    /// `column_sums`: what products with zero points need, one more pass over the packed bytes.
    fn pack_with(&self, weights: Weights<'_>, column_sums: bool) -> Result<PackedWeights> {
        let (k, n) = weights.dim();
        check_k(k, false)?;
        let (bytes, scales) = match &weights {
            Weights::Int8(w) => (self.pack_int8(w), WeightScales::None),
            Weights::Float(FloatView::F32(w)) => self.pack_floats(w),
            Weights::Float(FloatView::F16(w)) => self.pack_floats(w),
            Weights::Float(FloatView::BF16(w)) => self.pack_floats(w),
            Weights::Int8Groupwise { data, scales, size } => {
                check_size(*size)?;
                check_scales("pack", scales, [k.div_ceil(*size), n])?;
                let scales = WeightScales::per_group(*size, scales.view());
                (self.pack_groupwise(data), scales)
            }
            Weights::FloatGroupwise { data, size } => match data {
                FloatView::F32(w) => self.pack_groups(w, *size)?,
                FloatView::F16(w) => self.pack_groups(w, *size)?,
                FloatView::BF16(w) => self.pack_groups(w, *size)?,
            },
        };
        let groupwise = matches!(scales, WeightScales::PerGroup { .. });
        let mut col_sums = vec![0; if column_sums { n } else { 0 }];
        let sums = &mut col_sums;
        if groupwise {
            with_engine!(self.kernel, engine => rhs::column_sums(engine.kernel(), k, bytes.as_slice(), sums));
        } else {
            with_engine!(self.kernel, engine => rhs::column_sums(engine, k, bytes.as_slice(), sums));
        }
        Ok(PackedWeights {
            k,
            n,
            layout: self.layout_of(groupwise),
            bytes: bytes.as_slice().len(),
            scales,
            col_sums: col_sums.into(),
            storage: Arc::new(bytes),
        })
    }

    fn pack_int8(&self, w: &ArrayView2<'_, i8>) -> AlignedBytes {
        let threads = &self.threads;
        with_engine!(self.kernel, engine => driver::pack(engine, threads, w, false).0)
    }

    fn pack_floats<T: rhs::Source>(&self, w: &ArrayView2<'_, T>) -> (AlignedBytes, WeightScales) {
        let threads = &self.threads;
        let (bytes, scales) =
            with_engine!(self.kernel, engine => driver::pack(engine, threads, w, true));
        (bytes, WeightScales::PerColumn(scales.into()))
    }

    /// The same for weights with scale groups.
    fn pack_groupwise(&self, w: &ArrayView2<'_, i8>) -> AlignedBytes {
        let threads = &self.threads;
        with_engine!(self.kernel, engine => driver::pack(engine.kernel(), threads, w, false).0)
    }

    fn pack_groups<T: crate::Element>(
        &self,
        w: &ArrayView2<'_, T>,
        size: usize,
    ) -> Result<(AlignedBytes, WeightScales)> {
        let (q, scales) = quantize_groups(w.t(), size)?;
        let bytes = self.pack_groupwise(&q.t());
        Ok((bytes, WeightScales::per_group(size, scales.t())))
    }

    /// Group-wise weights with their scales; `None` of others.
    fn groups<'w>(&self, weights: &'w PackedWeights) -> Result<Option<groupwise::Groups<'w>>> {
        let WeightScales::PerGroup { size, scales } = &weights.scales else {
            return Ok(None);
        };
        Ok(Some(groupwise::Groups {
            size: *size,
            bytes: self.bytes(weights)?,
            scales: scales.view(),
        }))
    }

    /// A product that is finished in f32: weights with scales a column, or a scale group.
    fn run_finished<O: Finished>(&self, gemm: &Gemm<'_>, out: ArrayViewMut2<'_, O>) -> Result<()> {
        let Some(groups) = self.groups(&gemm.weights)? else {
            return self.run(gemm, out);
        };
        let bias = gemm.epilogue.bias.map(|b| b.to_f32_vec());
        let resolved = self.resolved(gemm, bias.as_deref());
        let (threads, out) = (&self.threads, OutMatrix::new(out));
        with_engine!(self.kernel, engine => {
            groupwise::gemm(engine.kernel(), threads, gemm, &groups, &resolved, out)
        });
        Ok(())
    }

    /// The bytes of weights that were packed for this kernel's layout.
    fn bytes<'w>(&self, weights: &'w PackedWeights) -> Result<&'w [u8]> {
        let storage = weights.storage.downcast_ref::<AlignedBytes>();
        let expected = self.layout_of(weights.group_size().is_some());
        let (Some(bytes), true) = (storage, weights.layout == expected) else {
            return Err(Error::PackedElsewhere {
                found: weights.layout.into(),
                expected: expected.into(),
            });
        };
        Ok(bytes.as_slice())
    }

    fn resolved<'g>(&self, gemm: &'g Gemm<'_>, bias: Option<&'g [f32]>) -> Resolved<'g> {
        let (epilogue, weights) = (&gemm.epilogue, &gemm.weights);
        let zero_points = !epilogue.row_zero_points.is_none() || gemm.lhs.has_zero_points();
        Resolved {
            col_scales: match epilogue.col_scales {
                Scales::None => weights.epilogue_scales(),
                given => given,
            },
            col_sums: zero_points.then(|| weights.col_sums()),
            bias,
            activation: epilogue.activation,
            gated: epilogue.gated,
            residual: epilogue.residual.as_ref().map(FloatView::view),
            out_multiplier: match epilogue.output {
                epilogue::Output::Int8 { scale } => 1.0 / scale,
                _ => 1.0,
            },
        }
    }

    fn run<O: Output>(&self, gemm: &Gemm<'_>, out: ArrayViewMut2<'_, O>) -> Result<()> {
        let bytes = self.bytes(&gemm.weights)?;
        let (m, n, k) = gemm.mnk();
        let epilogue = &gemm.epilogue;
        let bias = epilogue.bias.map(|b| b.to_f32_vec());
        let resolved = self.resolved(gemm, bias.as_deref());
        debug_assert_eq!(
            bytes.len(),
            self.layout().panels(n) * self.layout().panel_bytes(k)
        );
        let (threads, out) = (&self.threads, OutMatrix::new(out));
        debug_assert!(m == 0 || gemm.lhs.dim().0 == m);
        with_engine!(self.kernel, engine => {
            driver::gemm(engine, threads, &gemm.lhs, epilogue, &resolved, bytes, out, n)
        });
        Ok(())
    }

    /// Rows in f32, as `product(first, end, place)` computes them, to int8 with a scale a row.
    fn run_per_row(
        &self,
        out: ArrayViewMut2<'_, i8>,
        scales: &mut [f32],
        product: impl Fn(usize, usize, OutputMut<'_>) -> Result<()>,
    ) -> Result<()> {
        let cols = out.ncols();
        per_row::strips(out, scales, product, |rows| {
            let workers = if rows.len() * cols < ALONE {
                1
            } else {
                self.threads()
            };
            with_engine!(self.kernel, engine => self.threads.run_each(workers, rows, |_, row| {
                engine.vectorize(
                    #[inline(always)]
                    || row.quantize()
                )
            }));
        })
    }

    /// A grouped product that is finished in f32.
    fn grouped_finished<O: Finished>(
        &self,
        grouped: &GroupedGemm<'_>,
        out: ArrayViewMut2<'_, O>,
    ) -> Result<()> {
        let members = Members::of(grouped);
        if members.products[0].1.weights.group_size().is_none() {
            return self.grouped_sums(grouped, out);
        }
        let experts = self.experts(grouped, &members, |weights| {
            let groups = self.groups(weights)?;
            Ok(groups.expect("the experts' weights are of one kind"))
        })?;
        let (threads, out) = (&self.threads, OutMatrix::new(out));
        with_engine!(self.kernel, engine => {
            grouped::groupwise(engine.kernel(), threads, grouped, &experts, out)
        });
        Ok(())
    }

    /// A grouped product of weights with scales of columns, or none.
    fn grouped_sums<O: Output>(
        &self,
        grouped: &GroupedGemm<'_>,
        out: ArrayViewMut2<'_, O>,
    ) -> Result<()> {
        let members = Members::of(grouped);
        let experts = self.experts(grouped, &members, |weights| self.bytes(weights))?;
        let (threads, out) = (&self.threads, OutMatrix::new(out));
        with_engine!(self.kernel, engine => {
            grouped::gemm(engine, threads, grouped, &experts, out)
        });
        Ok(())
    }

    /// What the loops need of each expert that has rows.
    fn experts<'m, W>(
        &self,
        grouped: &GroupedGemm<'_>,
        members: &'m Members<'_>,
        weights: impl Fn(&'m PackedWeights) -> Result<W>,
    ) -> Result<Vec<grouped::Expert<'m, W>>> {
        let n = grouped.mnk().1;
        let expert = |(expert, gemm): &'m (usize, Gemm<'_>)| {
            let bias = members.bias.as_deref().map(|b| &b[expert * n..][..n]);
            Ok(grouped::Expert {
                rows: grouped.rows_of(*expert),
                weights: weights(&gemm.weights)?,
                resolved: self.resolved(gemm, bias),
            })
        };
        members.products.iter().map(expert).collect()
    }

    /// Whether `m` rows are few enough that weights used once are packed by the tasks that read them.
    fn once(&self, m: usize, k: usize) -> bool {
        fn one_block<E: Engine>(_: E, m: usize, k: usize) -> bool {
            driver::one_block::<E>(m, k)
        }
        with_engine!(self.kernel, engine => one_block(engine, m, k))
    }

    fn run_once<T: rhs::Source, O: Output>(
        &self,
        lhs: &Lhs<'_>,
        rhs: &ArrayView2<'_, T>,
        scaled: bool,
        out: ArrayViewMut2<'_, O>,
    ) {
        let (threads, out) = (&self.threads, OutMatrix::new(out));
        with_engine!(self.kernel, engine => driver::gemm_once(engine, threads, lhs, rhs, scaled, out));
    }
}

impl Backend for Cpu {
    fn name(&self) -> String {
        "cpu".into()
    }

    fn kernel(&self, _m: usize, _n: usize, _k: usize) -> String {
        self.kernel_name().into()
    }

    fn pack(&self, weights: Weights<'_>) -> Result<PackedWeights> {
        self.pack_with(weights, true)
    }

    fn gemm(&self, gemm: &Gemm<'_>, out: OutputMut<'_>) -> Result<()> {
        gemm.check_output(&out)?;
        match out {
            OutputMut::F32(out) => self.run_finished(gemm, out),
            OutputMut::F16(out) => self.run_finished(gemm, out),
            OutputMut::BF16(out) => self.run_finished(gemm, out),
            // Raw sums: never of scale groups.
            OutputMut::I32(out) => self.run(gemm, out),
            OutputMut::I8(out) => self.run_finished(gemm, out),
            OutputMut::I8PerRow { data, scales } => {
                self.run_per_row(data, scales, |first, end, place| {
                    let part = gemm.rows(first, end - first);
                    let epilogue = part.epilogue.clone().with_output(epilogue::Output::F32);
                    self.gemm(&Gemm { epilogue, ..part }, place)
                })
            }
        }
    }

    fn grouped_gemm(&self, grouped: &GroupedGemm<'_>, out: OutputMut<'_>) -> Result<()> {
        grouped.check_output(&out)?;
        match out {
            OutputMut::F32(out) => self.grouped_finished(grouped, out),
            OutputMut::F16(out) => self.grouped_finished(grouped, out),
            OutputMut::BF16(out) => self.grouped_finished(grouped, out),
            OutputMut::I32(out) => self.grouped_sums(grouped, out),
            OutputMut::I8(out) => self.grouped_finished(grouped, out),
            OutputMut::I8PerRow { mut data, scales } => {
                let rows = grouped.rows();
                let data = data.slice_mut(s![rows.clone(), ..]);
                self.run_per_row(data, &mut scales[rows.clone()], |first, end, place| {
                    let part = grouped.floats_of(rows.start + first, rows.start + end);
                    self.grouped_gemm(&part, place)
                })
            }
        }
    }

    fn activate(&self, activation: crate::activation::Activation, x: &mut [f32]) {
        Cpu::activate(self, activation, x);
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
        let gemm = Gemm::new(Lhs::Int8(lhs), &packed, Epilogue::to(epilogue::Output::Raw))?;
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
                OutputMut::I32(_) | OutputMut::I8(_) | OutputMut::I8PerRow { .. } => {
                    unreachable!("asked above")
                }
            }
            return Ok(());
        }
        let packed = self.pack_with(Weights::Float(rhs), false)?;
        let epilogue = Epilogue::to(epilogue::Output::for_place(&out)?);
        let gemm = Gemm::new(lhs, &packed, epilogue)?;
        self.gemm(&gemm, out)
    }
}
