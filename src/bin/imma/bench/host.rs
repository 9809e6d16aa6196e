//! Products on the CPU backend, and what this machine can do at most.

use super::report::Ceiling;
use super::shapes::Shape;
use super::{Float, Op};
use crate::timing::{measure, Timing};
use crate::Failure;
use imma::element::OutputMut;
use imma::epilogue::Output;
use imma::gemm::{Gemm, Lhs, Weights};
use imma::{Backend, Cpu, Element, Epilogue};
use ndarray::Array2;

/// Times one product through the contract that every backend fulfils.
pub fn time(
    backend: &dyn Backend,
    op: Op,
    float: Float,
    shape: Shape,
    seconds: f64,
) -> Result<Timing, Failure> {
    let Shape { m, k, n } = shape;
    let (a, w) = (bytes(m, k, 0x9E37_79B9), bytes(k, n, 0x85EB_CA6B));
    let timing = match op {
        Op::Gemm => {
            let packed = backend.pack(Weights::Int8(w.view()))?;
            let gemm = Gemm::new(Lhs::Int8(a.view()), &packed, Epilogue::to(Output::Raw))?;
            let mut out = Array2::<i32>::zeros((m, n));
            measure(seconds, || {
                backend.gemm(&gemm, OutputMut::I32(out.view_mut()))
            })?
        }
        Op::Matmul => {
            let mut out = Array2::<i32>::zeros((m, n));
            measure(seconds, || {
                backend.matmul_int8(a.view(), w.view(), out.view_mut())
            })?
        }
        Op::Linear | Op::QMatmul => match float {
            Float::F32 => floats::<f32>(backend, op, &a, &w, seconds)?,
            Float::F16 => floats::<half::f16>(backend, op, &a, &w, seconds)?,
            Float::Bf16 => floats::<half::bf16>(backend, op, &a, &w, seconds)?,
        },
    };
    Ok(timing)
}

fn floats<T: Element>(
    backend: &dyn Backend,
    op: Op,
    a: &Array2<i8>,
    w: &Array2<i8>,
    seconds: f64,
) -> Result<Timing, Failure> {
    let (m, n) = (a.nrows(), w.ncols());
    let a = a.mapv(|x| T::from_f32(f32::from(x) * 0.37));
    let w = w.mapv(|x| T::from_f32(f32::from(x) * 0.011));
    let mut out = Array2::<T>::default((m, n));
    if let Op::QMatmul = op {
        return Ok(measure(seconds, || {
            let (a, w) = (T::tag(a.view()), T::tag(w.view()));
            backend.matmul_quantized(a, w, T::tag_mut(out.view_mut()))
        })?);
    }
    let packed = backend.pack(Weights::Float(T::tag(w.view())))?;
    let lhs = Lhs::Float {
        data: T::tag(a.view()),
        quant: Default::default(),
    };
    let gemm = Gemm::new(lhs, &packed, Epilogue::to(Output::of::<T>()))?;
    Ok(measure(seconds, || {
        backend.gemm(&gemm, T::tag_mut(out.view_mut()))
    })?)
}

/// Full-range bytes from a xorshift generator: zeros or small values would draw less power and run faster.
fn bytes(rows: usize, cols: usize, mut seed: u64) -> Array2<i8> {
    Array2::from_shape_simple_fn((rows, cols), || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as i8
    })
}

/// The backend's dot-product instructions on operands that stay in the first-level cache, and reads of a buffer
/// that fits no cache.
pub fn ceiling(cpu: &Cpu, seconds: f64) -> Result<Ceiling, Failure> {
    Ok(Ceiling {
        operations: cpu.peak(seconds),
        bytes: read_bandwidth(cpu.threads(), seconds)?,
    })
}

/// Bytes a second that `threads` threads read from memory.
pub fn read_bandwidth(threads: usize, seconds: f64) -> Result<f64, Failure> {
    const BYTES: usize = 512 << 20;
    let buffer = vec![1u64; BYTES / 8];
    let share = buffer.len().div_ceil(threads);
    let timing = measure(seconds, || {
        std::thread::scope(|scope| {
            for part in buffer.chunks(share) {
                scope.spawn(move || {
                    // Eight sums, so that none waits for the one before.
                    let mut sums = [0u64; 8];
                    for words in part.chunks_exact(8) {
                        for (sum, word) in sums.iter_mut().zip(words) {
                            *sum = sum.wrapping_add(*word);
                        }
                    }
                    std::hint::black_box(sums);
                });
            }
        });
        Ok::<_, Failure>(())
    })?;
    Ok(BYTES as f64 / timing.median)
}
