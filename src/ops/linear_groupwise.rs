//! Group-wise layers against their definition.

use crate::activation::Activation;
use crate::cpu::Cpu;
use crate::error::Result;
use crate::gemm::ActivationQuant;
use crate::ops::Int8Linear;
use crate::reference;
use ndarray::{Array1, Array2, Axis};
use std::sync::Arc;

fn noise(shape: (usize, usize), seed: u32) -> Array2<f32> {
    let mut state = seed;
    Array2::from_shape_simple_fn(shape, || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// The definition, one scalar at a time.
fn oracle(x: &Array2<f32>, w: &Array2<f32>, size: usize, bias: &Array1<f32>) -> Array2<f32> {
    let x = reference::quantize_rows(x.view());
    let groups: Vec<_> = w
        .axis_chunks_iter(Axis(1), size)
        .map(reference::quantize_rows)
        .collect();
    Array2::from_shape_fn((x.q.nrows(), w.nrows()), |(i, j)| {
        let mut v = 0f32;
        for (g, group) in groups.iter().enumerate() {
            let sum: i64 = (0..group.q.ncols())
                .map(|l| i64::from(x.q[[i, g * size + l]]) * i64::from(group.q[[j, l]]))
                .sum();
            v = (sum as i32 as f32).mul_add(group.scales[j], v);
        }
        Activation::Silu.apply(v.mul_add(x.scales[i], bias[j]))
    })
}

#[test]
fn every_kernel_and_thread_count_gives_the_oracles_bits() {
    let mut ran = 0;
    for (m, n, k) in [
        (1, 7, 32),
        (5, 33, 200),
        (3, 1, 1),
        (50, 65, 129),
        (2, 40, 3),
        (13, 96, 64),
    ] {
        for size in [32, 64, 128] {
            let (x, w) = (noise((m, k), 1), noise((n, k), 2));
            let bias = Array1::from_shape_fn(n, |j| j as f32 * 0.1 - 1.0);
            let want = oracle(&x, &w, size, &bias);
            for kernel in Cpu::kernels().iter().filter(|l| l.available) {
                for threads in [1, 3] {
                    let cpu = Cpu::new().with_kernel(kernel.name).unwrap();
                    let cpu = cpu.with_threads(threads).unwrap();
                    let bias = Some(bias.view());
                    let layer =
                        Int8Linear::from_float_groupwise_on(Arc::new(cpu), w.view(), size, bias)
                            .unwrap();
                    let layer = layer.with_activation(Activation::Silu);
                    let got = layer.forward(x.view()).unwrap();
                    assert_eq!(got, want, "{} {m}x{n}x{k} groups of {size}", kernel.name);
                    ran += 1;
                }
            }
        }
    }
    assert!(ran >= 36);
}

#[test]
fn one_group_over_all_of_k_differs_by_roundings_alone_and_more_groups_lose_less() {
    let (x, mut w) = (noise((9, 128), 3), noise((17, 128), 4));
    let off = |got: &Array2<f32>, want: &Array2<f32>| (got - want).mapv(f32::abs).sum();
    let plain = crate::Int8Linear::from_float(w.view(), None).unwrap();
    let grouped = Int8Linear::from_float_groupwise(w.view(), 128, None).unwrap();
    let (a, b) = (
        plain.forward(x.view()).unwrap(),
        grouped.forward(x.view()).unwrap(),
    );
    assert!(off(&a, &b) < 1e-4);
    w.column_mut(3).mapv_inplace(|w| w * 50.0);
    let want = x.dot(&w.t());
    let error = |size| {
        let layer = Int8Linear::from_float_groupwise(w.view(), size, None).unwrap();
        off(&layer.forward(x.view()).unwrap(), &want)
    };
    assert!(error(32) < error(64) && error(64) < error(128));
}

#[test]
fn shapes_and_values_that_do_not_fit_are_refused() {
    let w = noise((4, 40), 1);
    let refused = |r: Result<Int8Linear>| r.unwrap_err().to_string();
    let made = Int8Linear::from_float_groupwise(w.view(), 33, None);
    assert!(refused(made).contains("the group size is 33, expected 32, 64 or 128"));
    let bias = Array1::<f32>::zeros(5);
    let made = Int8Linear::from_float_groupwise(w.view(), 32, Some(bias.view()));
    assert!(refused(made).contains("bias has 5"));
    let q = Array2::<i8>::ones((4, 40));
    let made = |scales: Array2<f32>| {
        Int8Linear::from_int8_groupwise::<f32>(q.view(), scales.view(), 32, None)
    };
    assert!(refused(made(Array2::ones((4, 1)))).contains("expected [4, 2]"));
    assert!(refused(made(Array2::from_elem((4, 2), f32::NAN))).contains("is NaN"));
    let layer = made(Array2::ones((4, 2))).unwrap();
    assert_eq!(
        (layer.group_size(), layer.weights().group_size()),
        (Some(32), Some(32))
    );
    assert!(layer.forward(w.t()).is_err());
    let asymmetric = layer
        .clone()
        .with_activation_quant(ActivationQuant::PerTokenAsymmetric);
    assert!(refused(asymmetric).contains("zero points with f32 output"));
    let columns = layer.weights().clone().with_scales(&[1.0]);
    assert!(columns.unwrap_err().to_string().contains("every 32 inputs"));
    let empty = layer.forward(Array2::<f32>::zeros((0, 40)).view()).unwrap();
    assert_eq!(empty.dim(), (0, 4));
    // A row with NaN is NaN, the others are not.
    let mut x = noise((2, 40), 2);
    x[[0, 3]] = f32::NAN;
    let y = layer.forward(x.view()).unwrap();
    assert!(y.row(0).iter().all(|y| y.is_nan()) && y.row(1).iter().all(|y| y.is_finite()));
}
