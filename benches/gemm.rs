//! int8 GEMM beside rten-gemm, on one thread: prepacked weights, and float in to float out.
//!
//! `cargo bench -p benches --bench gemm`; the shapes are M x K x N.
#![allow(missing_docs)]

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion, Throughput};
use imma::element::{FloatView, OutputMut};
use imma::epilogue::Output;
use imma::gemm::{Gemm, Lhs, Weights};
use imma::{Backend, Cpu, Epilogue};
use ndarray::Array2;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;

const SHAPES: [(usize, usize, usize); 6] = [
    (1, 4096, 4096),
    (16, 4096, 4096),
    (128, 1024, 1024),
    (512, 1024, 4096),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
];

/// Full-range bytes: a xorshift generator, so that every run multiplies the same data.
fn bytes(rows: usize, cols: usize, mut seed: u64) -> Array2<i8> {
    Array2::from_shape_simple_fn((rows, cols), || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as i8
    })
}

fn gemm(c: &mut Criterion) {
    let one = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a pool of one thread");
    let cpu = Cpu::new().with_threads(1).expect("one thread");
    let rten = GemmExecutor::<u8, i8, i32>::default();
    let mut group = c.benchmark_group("prepacked_i8_i32");
    for (m, k, n) in SHAPES {
        group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
        let id = |name: &str| BenchmarkId::new(name, format!("{m}x{k}x{n}"));
        let (a, b) = (bytes(m, k, 1), bytes(k, n, 2));
        let weights = cpu.pack(Weights::Int8(b.view())).expect("packed");
        let mut out = Array2::<i32>::zeros((m, n));
        let problem = Gemm::new(Lhs::Int8(a.view()), &weights, Epilogue::to(Output::Raw))
            .expect("shapes fit");
        group.bench_function(id("imma"), |bench| {
            bench.iter(|| {
                cpu.gemm(&problem, OutputMut::I32(out.view_mut()))
                    .expect("computed")
            })
        });
        let unsigned = a.mapv(|x| x as u8 ^ 0x80);
        let a = NdTensorView::from_data([m, k], unsigned.as_slice().expect("contiguous"));
        let b = NdTensorView::from_data([k, n], b.as_slice().expect("contiguous"));
        let packed = rten.prepack_b(b);
        let out = out.as_slice_mut().expect("contiguous");
        group.bench_function(id("rten-gemm"), |bench| {
            bench.iter(|| {
                one.install(|| {
                    rten.gemm(
                        out,
                        GemmInputA::Unpacked(a),
                        GemmInputB::Packed(&packed),
                        GemmOptions::default(),
                    )
                    .expect("computed")
                })
            })
        });
    }
}

fn float_to_float(c: &mut Criterion) {
    let cpu = Cpu::new().with_threads(1).expect("one thread");
    let mut group = c.benchmark_group("prepacked_f32_f32");
    for (m, k, n) in SHAPES {
        group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
        let (a, b) = (
            bytes(m, k, 1).mapv(f32::from),
            bytes(k, n, 2).mapv(f32::from),
        );
        let weights = cpu
            .pack(Weights::Float(FloatView::F32(b.view())))
            .expect("packed");
        let lhs = Lhs::Float {
            data: FloatView::F32(a.view()),
            quant: Default::default(),
        };
        let problem = Gemm::new(lhs, &weights, Epilogue::default()).expect("shapes fit");
        let mut out = Array2::<f32>::zeros((m, n));
        group.bench_function(BenchmarkId::new("imma", format!("{m}x{k}x{n}")), |bench| {
            bench.iter(|| {
                cpu.gemm(&problem, OutputMut::F32(out.view_mut()))
                    .expect("computed")
            })
        });
    }
}

criterion_group!(benches, gemm, float_to_float);
criterion_main!(benches);
