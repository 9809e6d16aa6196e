//! Products on a GPU, timed by its events: our plans, cuBLASLt with our epilogue, and the quantising step alone.
//!
//! `cargo bench -p benches --features cuda --bench device`; without a device it says 'not run'. Shapes are M x K x N; `imma bench`
//! rotates operands past the L2 cache, this does not.
#![allow(missing_docs)]

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion, Throughput};
use half::bf16;
use imma::cuda::cudarc::driver::sys::CUevent_flags;
use imma::cuda::cudarc::driver::CudaStream;
use imma::cuda::kernels::quantize_rows;
use imma::cuda::{
    Algorithm, Device, DeviceLhs, DeviceWeights, Instance, Matrix, Operands, Plan, Problem,
    WeightOrder,
};
use imma::rounding::Rounding;
use imma::DType;
use std::sync::Arc;
use std::time::Duration;

const SHAPES: [(usize, usize, usize); 5] = [
    (1, 8192, 4096),
    (16, 8192, 4096),
    (128, 4096, 6144),
    (2048, 4096, 4096),
    (4096, 4096, 4096),
];

/// Full-range bytes: a xorshift generator, so that every run multiplies the same data.
fn bytes(len: usize, mut seed: u64) -> Vec<i8> {
    std::iter::repeat_with(|| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as i8
    })
    .take(len)
    .collect()
}

/// The device's time of so many runs.
fn timed(stream: &Arc<CudaStream>, runs: u64, mut run: impl FnMut()) -> Duration {
    let event = || {
        stream
            .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
            .expect("an event")
    };
    let start = event();
    for _ in 0..runs {
        run();
    }
    let ms = start.elapsed_ms(&event()).expect("both recorded");
    Duration::from_secs_f64((f64::from(ms) * 1e-3).max(1e-9))
}

fn device(c: &mut Criterion) {
    let gpu = match Device::open(0) {
        Ok(gpu) => gpu,
        Err(error) => return println!("not run: {error}"),
    };
    let stream = gpu.context().new_stream().expect("a stream");
    for (m, k, n) in SHAPES {
        let id = |name: &str| BenchmarkId::new(name, format!("{m}x{k}x{n}"));
        let operations = Throughput::Elements(2 * (m * n * k) as u64);
        let upload = |bytes: &[i8]| stream.clone_htod(bytes).expect("memory");
        let w = upload(&bytes(n * k, 2));
        let w = Matrix::new(&w, n, k);
        let order = WeightOrder::Outputs;
        let weights = DeviceWeights::pack_int8(&gpu, &stream, w, order, Some(&[0.011]));
        let weights = weights.expect("packed");
        let integers = upload(&bytes(m * k, 1));
        let floats: Vec<_> = bytes(m * k, 1)
            .into_iter()
            .map(|x| bf16::from_f32(f32::from(x)))
            .collect();
        let floats = stream.clone_htod(&floats).expect("memory");
        let mut sums = stream.alloc_zeros::<i32>(m * n).expect("memory");
        let mut out = stream.alloc_zeros::<bf16>(m * n).expect("memory");
        for (name, algorithm) in [
            ("imma", Algorithm::Heuristic),
            ("cublaslt", Instance::CublasLt(0).into()),
        ] {
            let plan = match Plan::new(&gpu, Problem::int8(m, n, k), algorithm) {
                Ok(plan) => plan,
                Err(error) => {
                    println!("not run: {name}: {error}");
                    continue;
                }
            };
            let mut workspace = stream
                .alloc_zeros::<u8>(plan.workspace_bytes().max(1))
                .expect("memory");
            let mut group = c.benchmark_group("device_i8_i32");
            group.throughput(operations.clone());
            group.bench_function(id(name), |bench| {
                bench.iter_custom(|runs| {
                    timed(&stream, runs, || {
                        let lhs = DeviceLhs::int8(Matrix::new(integers.as_view(), m, k));
                        let out = Matrix::new(&mut sums, m, n);
                        let operands = Operands::new(lhs, weights.view(), out);
                        plan.run(&stream, operands, &mut workspace)
                            .expect("enqueued");
                    })
                })
            });
            group.finish();

            let problem = Problem::floats(m, n, k, DType::BF16, DType::BF16);
            let plan = Plan::new(&gpu, problem, algorithm).expect("a plan");
            let mut workspace = stream
                .alloc_zeros::<u8>(plan.workspace_bytes().max(1))
                .expect("memory");
            let mut group = c.benchmark_group("device_bf16_bf16");
            group.throughput(operations.clone());
            group.bench_function(id(name), |bench| {
                bench.iter_custom(|runs| {
                    timed(&stream, runs, || {
                        let lhs = DeviceLhs::floats(Matrix::new(&floats, m, k));
                        let out = Matrix::new(&mut out, m, n);
                        let operands = Operands::new(lhs, weights.view(), out);
                        plan.run(&stream, operands, &mut workspace)
                            .expect("enqueued");
                    })
                })
            });
            group.finish();
        }
        let mut quantized = stream.alloc_zeros::<i8>(m * k).expect("memory");
        let mut scales = stream.alloc_zeros::<f32>(m).expect("memory");
        let mut group = c.benchmark_group("device_quantize_rows_bf16");
        group.throughput(Throughput::Bytes(3 * (m * k) as u64));
        group.bench_function(id("imma"), |bench| {
            bench.iter_custom(|runs| {
                timed(&stream, runs, || {
                    let x = Matrix::new(&floats, m, k);
                    let q = Matrix::new(&mut quantized, m, k);
                    quantize_rows(&gpu, &stream, x, q, &mut scales, Rounding::NearestEven)
                        .expect("enqueued");
                })
            })
        });
    }
}

criterion_group!(benches, device);
criterion_main!(benches);
