//! Products on a GPU, timed by its own events.
//!
//! Operands are rotated, so that no run finds its own in the L2 cache; the runs of one rotation are captured in a graph
//! where the operation allows it, so that small products are not timed by how fast the CPU launches them.

use super::report::Ceiling;
use super::shapes::Shape;
use super::{Float, Op};
use crate::timing::Timing;
use crate::Failure;
use half::{bf16, f16};
use imma::cuda::cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig};
use imma::cuda::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};
use imma::cuda::kernels::{peak_len, peak_mma};
use imma::cuda::{
    matmul_true_int8, q_matmul_int8, time_graph, time_launches, Algorithm, Device, DeviceElement,
    DeviceLhs, DeviceWeights, Matrix, Operands, Plan, Prediction, Problem, RunTime, Sampling,
    WeightOrder,
};
use imma::Element;
use std::sync::Arc;

/// Who multiplies.
#[derive(Clone, Debug, PartialEq)]
pub enum Contender {
    /// This crate by that algorithm.
    Ours(Algorithm),
    /// cuBLASLt in f16 with f16 results, as a float layer has it.
    CublasLtF16,
}

/// One product's time.
pub struct Measured {
    pub kernel: String,
    pub timing: Timing,
    /// What the cost model says of the same.
    pub predicted: Option<Prediction>,
}

impl Measured {
    fn of(plan: &Plan, timing: Timing) -> Self {
        Measured {
            kernel: plan.kernel(),
            timing,
            predicted: plan.prediction(),
        }
    }
}

pub struct Gpu {
    pub(super) device: Arc<Device>,
    pub(super) stream: Arc<CudaStream>,
    number: usize,
}

/// Most sets of operands, and most bytes of them.
const SLOTS: usize = 32;
const BYTES: f64 = 8e9;

pub(super) fn cuda<E: std::fmt::Debug>(what: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::new(format!("{what}: {error:?}"))
}

impl Gpu {
    pub fn open(number: usize) -> Result<Self, Failure> {
        let device = Device::open(number).map_err(|error| {
            Failure::new(format!("device cuda:{number} is not available: {error}"))
        })?;
        // SAFETY: everything here runs on one stream, which is synchronised before its buffers are dropped. With event
        // tracking no graph could be captured.
        unsafe { device.context().disable_event_tracking() };
        let stream = device
            .context()
            .new_stream()
            .map_err(cuda("cuStreamCreate"))?;
        Ok(Gpu {
            device,
            stream,
            number,
        })
    }

    pub fn name(&self) -> String {
        format!("cuda:{} ({})", self.number, self.device.properties().name)
    }

    /// Times one product.
    pub fn time(
        &self,
        contender: &Contender,
        op: Op,
        float: Float,
        shape: Shape,
        seconds: f64,
    ) -> Result<Measured, Failure> {
        match (contender, float) {
            (Contender::CublasLtF16, _) => self.float_peer(shape, seconds),
            (Contender::Ours(by), Float::F32) => self.ours::<f32>(*by, op, shape, seconds),
            (Contender::Ours(by), Float::F16) => self.ours::<f16>(*by, op, shape, seconds),
            (Contender::Ours(by), Float::Bf16) => self.ours::<bf16>(*by, op, shape, seconds),
        }
    }

    fn ours<T: DeviceElement>(
        &self,
        by: Algorithm,
        op: Op,
        shape: Shape,
        seconds: f64,
    ) -> Result<Measured, Failure> {
        let Shape { m, k, n } = shape;
        let (device, stream) = (&self.device, &self.stream);
        let slots = self.slots(op.bytes(shape, size_of::<T>() as f64));
        match op {
            Op::Matmul => {
                let operands = slots
                    .try_map(|i| Ok((self.integers(m * k, i)?, self.integers(k * n, i + 100)?)))?;
                let run = |i: usize| {
                    let (a, w) = &operands[i];
                    let a = Matrix::new(a.as_view(), m, k);
                    let w = Matrix::new(w.as_view(), k, n);
                    matmul_true_int8(device, stream, a, w)?;
                    Ok(())
                };
                let plan = Plan::new(device, Problem::int8(m, n, k), Algorithm::Heuristic)?;
                Ok(Measured {
                    kernel: plan.kernel(),
                    timing: self.eager(operands.len(), seconds, run)?,
                    predicted: None,
                })
            }
            Op::QMatmul => {
                let operands = slots.try_map(|i| {
                    Ok((
                        self.floats::<T>(m * k, i)?,
                        self.floats::<T>(k * n, i + 100)?,
                    ))
                })?;
                let run = |i: usize| {
                    let (a, w) = &operands[i];
                    let a = Matrix::new(a.as_view(), m, k);
                    let w = Matrix::new(w.as_view(), k, n);
                    q_matmul_int8::<T, T>(device, stream, a, w)?;
                    Ok(())
                };
                let problem = Problem::floats(m, n, k, T::DTYPE, T::DTYPE);
                let plan = Plan::new(device, problem, Algorithm::Heuristic)?;
                Ok(Measured {
                    kernel: plan.kernel(),
                    timing: self.eager(operands.len(), seconds, run)?,
                    predicted: None,
                })
            }
            Op::Gemm => {
                let plan = Plan::new(device, Problem::int8(m, n, k), by)?;
                let mut operands = slots.try_map(|i| {
                    let w = self.weights(n, k, i)?;
                    Ok((self.integers(m * k, i)?, w, self.zeros::<i32>(m * n)?))
                })?;
                let mut workspace = self.zeros::<u8>(plan.workspace_bytes())?;
                let run = |i: usize| {
                    let (a, weights, out) = &mut operands[i];
                    let lhs = DeviceLhs::int8(Matrix::new(a.as_view(), m, k));
                    let operands = Operands::new(lhs, weights.view(), Matrix::new(out, m, n));
                    plan.run(stream, operands, &mut workspace)?;
                    Ok(())
                };
                let count = slots.0;
                Ok(Measured::of(&plan, self.captured(count, seconds, run)?))
            }
            Op::Linear => {
                let problem = Problem::floats(m, n, k, T::DTYPE, T::DTYPE);
                let plan = Plan::new(device, problem, by)?;
                let mut operands = slots.try_map(|i| {
                    let w = self.weights(n, k, i)?;
                    Ok((self.floats::<T>(m * k, i)?, w, self.zeros::<T>(m * n)?))
                })?;
                let mut workspace = self.zeros::<u8>(plan.workspace_bytes())?;
                let run = |i: usize| {
                    let (a, weights, out) = &mut operands[i];
                    let lhs = DeviceLhs::floats(Matrix::new(T::floats(a.as_view()), m, k));
                    let out = Matrix::new(T::output(out.as_view_mut()), m, n);
                    let operands = Operands::new(lhs, weights.view(), out);
                    plan.run(stream, operands, &mut workspace)?;
                    Ok(())
                };
                let count = slots.0;
                Ok(Measured::of(&plan, self.captured(count, seconds, run)?))
            }
        }
    }

    /// The float layer that int8 replaces, by cudarc's own wrapper.
    fn float_peer(&self, shape: Shape, seconds: f64) -> Result<Measured, Failure> {
        let Shape { m, k, n } = shape;
        let library = CudaBlasLT::new(self.stream.clone()).map_err(cuda("cublasLtCreate"))?;
        let bytes = 2.0 * (m * k + k * n + m * n) as f64;
        let slots = self.slots(bytes);
        let mut operands = slots.try_map(|i| {
            let w = self.floats::<f16>(n * k, i + 100)?;
            Ok((self.floats::<f16>(m * k, i)?, w, self.zeros::<f16>(m * n)?))
        })?;
        // By columns it is C^T [N, M] = W [N, K] x A^T [K, M].
        let config = MatmulConfig {
            transa: true,
            transb: false,
            transc: false,
            m: n as u64,
            n: m as u64,
            k: k as u64,
            alpha: 1.0,
            lda: k as i64,
            ldb: k as i64,
            beta: 0.0,
            ldc: n as i64,
            stride_a: None,
            stride_b: None,
            stride_c: None,
            stride_bias: None,
            batch_size: None,
        };
        let run = |i: usize| {
            let (a, w, out) = &mut operands[i];
            // SAFETY: the matrices have the sizes of the configuration.
            unsafe { library.matmul(config, w, a, out, None, None) }
                .map_err(cuda("cublasLtMatmul in f16"))
        };
        let timing = self.captured(slots.0, seconds, run)?;
        Ok(Measured {
            kernel: "cuBLASLt f16".into(),
            timing,
            predicted: None,
        })
    }

    /// As many sets of operands as are twice the L2 cache.
    fn slots(&self, bytes: f64) -> Slots {
        let cache = 2.0 * f64::from(self.device.properties().l2);
        let most = (BYTES / bytes).max(1.0);
        Slots((cache / bytes).ceil().clamp(1.0, (SLOTS as f64).min(most)) as usize)
    }

    fn weights(&self, n: usize, k: usize, seed: usize) -> Result<DeviceWeights, Failure> {
        let w = self.integers(n * k, seed + 100)?;
        let w = Matrix::new(&w, n, k);
        let (order, scales) = (WeightOrder::Outputs, Some(&[0.011f32][..]));
        Ok(DeviceWeights::pack_int8(
            &self.device,
            &self.stream,
            w,
            order,
            scales,
        )?)
    }

    /// Full-range bytes: zeros or small values would draw less power and run faster.
    fn integers(&self, len: usize, seed: usize) -> Result<CudaSlice<i8>, Failure> {
        let bytes: Vec<i8> = random(len, seed).collect();
        self.upload(&bytes)
    }

    fn floats<T: Element + DeviceRepr>(
        &self,
        len: usize,
        seed: usize,
    ) -> Result<CudaSlice<T>, Failure> {
        let floats: Vec<T> = random(len, seed)
            .map(|x| T::from_f32(f32::from(x) * 0.37))
            .collect();
        self.upload(&floats)
    }

    fn upload<T: DeviceRepr>(&self, data: &[T]) -> Result<CudaSlice<T>, Failure> {
        self.stream.clone_htod(data).map_err(cuda("cuMemcpyHtoD"))
    }

    pub(super) fn zeros<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        len: usize,
    ) -> Result<CudaSlice<T>, Failure> {
        let zeros = self.stream.alloc_zeros(len.max(1));
        zeros.map_err(cuda("cuMemAlloc"))
    }

    /// Times graphs of one run for each set of operands.
    pub(super) fn captured(
        &self,
        slots: usize,
        seconds: f64,
        run: impl FnMut(usize) -> Result<(), Failure>,
    ) -> Result<Timing, Failure> {
        let time = time_graph(&self.stream, slots, Sampling::seconds(seconds), run)?;
        Ok(timing(time))
    }

    /// Times plain launches.
    fn eager(
        &self,
        slots: usize,
        seconds: f64,
        run: impl FnMut(usize) -> Result<(), Failure>,
    ) -> Result<Timing, Failure> {
        let sampling = Sampling::seconds(seconds);
        let time = time_launches(&self.stream, slots, sampling, run)?;
        Ok(timing(time))
    }

    /// `mma.sync` on registers, and copies from memory to memory.
    pub fn ceiling(&self, seconds: f64) -> Result<Ceiling, Failure> {
        let mut sums = self.zeros::<i32>(peak_len(&self.device))?;
        let iterations = 2000;
        let mut operations = 0;
        let pattern = (0x9E37_79B9, 0x85EB_CA6B);
        let peak = self.eager(1, seconds, |_| {
            operations = peak_mma(&self.device, &self.stream, iterations, pattern, &mut sums)?;
            Ok(())
        })?;
        let bytes = 4 * self.device.properties().l2.max(1 << 24) as usize;
        let from = self.zeros::<u8>(bytes)?;
        let mut to = self.zeros::<u8>(bytes)?;
        let copy = self.eager(1, seconds, |_| {
            let copied = self.stream.memcpy_dtod(&from, &mut to);
            copied.map_err(cuda("cuMemcpyDtoD"))
        })?;
        Ok(Ceiling {
            operations: operations as f64 / peak.median,
            bytes: 2.0 * bytes as f64 / copy.median,
        })
    }
}

fn timing(time: RunTime) -> Timing {
    Timing {
        median: time.median,
        min: time.min,
        samples: time.samples,
    }
}

/// How many sets of operands.
#[derive(Clone, Copy)]
struct Slots(usize);

impl Slots {
    fn try_map<T>(self, make: impl FnMut(usize) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
        (0..self.0).map(make).collect()
    }
}

fn random(len: usize, seed: usize) -> impl Iterator<Item = i8> {
    let mut state =
        0x9E37_79B9_7F4A_7C15u64 ^ (seed as u64 + 1).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as i8
    })
    .take(len)
}
