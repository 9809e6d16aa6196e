//! Small products on the portable kernel and on emulated tiles, for tools that watch every memory access (Miri, valgrind).
//!
//! `IMMA_TEST_KERNEL` chooses another kernel.

use imma::activation::Activation;
use imma::element::{FloatSlice, FloatView, OutputMut};
use imma::epilogue::Output;
use imma::gemm::{Gemm, Lhs, Weights};
use imma::{Backend, Cpu, Epilogue};
use ndarray::{s, Array2};

fn cpu() -> Cpu {
    let kernel = std::env::var("IMMA_TEST_KERNEL").unwrap_or_else(|_| "portable".into());
    named(&kernel)
}

fn named(kernel: &str) -> Cpu {
    Cpu::new()
        .with_kernel(kernel)
        .unwrap()
        .with_threads(1)
        .unwrap()
}

/// One strip of rows by several panels, two strips by two panels and by one, two panels of rows; steps of K with padding.
#[test]
fn emulated_tiles_are_exact_and_stay_in_bounds() {
    let cpu = named("amx_emulated");
    for (m, n, k) in [(1, 1, 1), (3, 52, 5), (18, 35, 65), (33, 17, 64), (2, 3, 0)] {
        let (a, b) = (matrix(m, k, 1), matrix(k, n, 2));
        let want = naive(&a, &b);
        let mut out = Array2::from_elem((m, n), -1);
        cpu.matmul_int8(a.view(), b.view(), out.view_mut()).unwrap();
        assert_eq!(out, want, "unpacked {m}x{k}x{n}");

        let transposed = b.t().as_standard_layout().into_owned();
        let packed = cpu.pack(Weights::Int8(transposed.t())).unwrap();
        let gemm = Gemm::new(Lhs::Int8(a.view()), &packed, Epilogue::to(Output::Raw)).unwrap();
        out.fill(-1);
        cpu.gemm(&gemm, OutputMut::I32(out.view_mut())).unwrap();
        assert_eq!(out, want, "packed {m}x{k}x{n}");
    }
}

/// `value(i, j)` is any spread-out pattern that reaches both ends of int8.
fn matrix(rows: usize, cols: usize, seed: usize) -> Array2<i8> {
    Array2::from_shape_fn((rows, cols), |(i, j)| {
        ((i * 89 + j * 57 + seed) * 31 % 256) as u8 as i8
    })
}

fn naive(a: &Array2<i8>, b: &Array2<i8>) -> Array2<i32> {
    let mut c = Array2::zeros((a.nrows(), b.ncols()));
    for ((i, j), c) in c.indexed_iter_mut() {
        for k in 0..a.ncols() {
            *c += i32::from(a[[i, k]]) * i32::from(b[[k, j]]);
        }
    }
    c
}

#[test]
fn ragged_products_are_exact_and_stay_in_bounds() {
    let cpu = cpu();
    for (m, n, k) in [
        (1, 1, 1),
        (3, 9, 5),
        (5, 8, 4),
        (4, 17, 13),
        (9, 7, 2),
        (2, 3, 0),
        (0, 3, 2),
        (3, 0, 2),
    ] {
        let (a, b) = (matrix(m, k, 1), matrix(k, n, 2));
        let want = naive(&a, &b);
        let mut out = Array2::from_elem((m, n), -1);
        cpu.matmul_int8(a.view(), b.view(), out.view_mut()).unwrap();
        assert_eq!(out, want, "unpacked {m}x{k}x{n}");

        // A K-major right operand, and a left one that is a slice of something larger.
        let (wide, transposed) = (matrix(m, 2 * k, 1), b.t().as_standard_layout().into_owned());
        let left = wide.slice(s![.., ..k]);
        let packed = cpu.pack(Weights::Int8(transposed.t())).unwrap();
        let gemm = Gemm::new(Lhs::Int8(left), &packed, Epilogue::to(Output::Raw)).unwrap();
        cpu.gemm(&gemm, OutputMut::I32(out.view_mut())).unwrap();
        assert_eq!(out, naive(&left.to_owned(), &b), "packed {m}x{k}x{n}");
    }
}

#[test]
fn a_fused_epilogue_writes_every_element() {
    let cpu = cpu();
    let (m, n, k) = (5, 11, 7);
    let (a, b) = (
        matrix(m, k, 3).mapv(f32::from),
        matrix(k, n, 4).mapv(f32::from),
    );
    let bias: Vec<f32> = (0..n).map(|j| j as f32 - 4.0).collect();
    let residual = matrix(m, n, 5).mapv(f32::from);
    let packed = cpu.pack(Weights::Float(FloatView::F32(b.view()))).unwrap();
    let lhs = Lhs::Float {
        data: FloatView::F32(a.view()),
        quant: Default::default(),
    };
    let epilogue = Epilogue {
        bias: Some(FloatSlice::F32(&bias)),
        activation: Activation::Relu,
        residual: Some(FloatView::F32(residual.view())),
        ..Epilogue::default()
    };
    let mut out = Array2::from_elem((m, n), f32::NAN);
    let gemm = Gemm::new(lhs, &packed, epilogue).unwrap();
    cpu.gemm(&gemm, OutputMut::F32(out.view_mut())).unwrap();
    let float = a.dot(&b);
    for ((i, j), got) in out.indexed_iter() {
        let want = (float[[i, j]] + bias[j]).max(0.0) + residual[[i, j]];
        // Each operand is off by half a step at most.
        let bound = k as f32 * 128.0 * 1.1;
        assert!((got - want).abs() <= bound, "[{i}, {j}]: {got} for {want}");
    }
}
