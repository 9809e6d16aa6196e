//! The quantised dot_general on a device: forward, both gradients and frozen operands have the bits of the CPU.

use crate::support::{own_device, same, Random, Type};
use half::bf16;
use imma::cuda::DeviceElement;
use imma::ops::{
    DimensionNumbers, DotGeneral, OperandQuant, Precision, ProductQuant, QuantDotGeneral,
};
use imma::rounding::Rounding;
use imma::{Backend, Cpu};
use ndarray::{ArrayD, IxDyn};
use std::sync::Arc;

fn array<T: Type>(random: &mut Random, shape: &[usize]) -> ArrayD<T> {
    ArrayD::from_shape_simple_fn(IxDyn(shape), || T::from_f32(random.unit() * 3.0))
}

fn assert_same<T: Type>(found: &ArrayD<T>, want: &ArrayD<T>, what: &str) {
    assert_eq!(found.shape(), want.shape(), "{what}");
    for ((at, f), w) in found.indexed_iter().zip(want) {
        assert!(same(*f, *w), "{what}: {f:?} at {at:?}, expected {w:?}");
    }
}

fn numbers(
    lhs_contracting: &[usize],
    rhs_contracting: &[usize],
    lhs_batch: &[usize],
    rhs_batch: &[usize],
) -> DimensionNumbers {
    DimensionNumbers {
        lhs_contracting: lhs_contracting.to_vec(),
        rhs_contracting: rhs_contracting.to_vec(),
        lhs_batch: lhs_batch.to_vec(),
        rhs_batch: rhs_batch.to_vec(),
    }
}

/// Shapes and their dimension numbers: a matrix product, batches, several contracted axes, a vector.
fn cases() -> Vec<(Vec<usize>, Vec<usize>, DimensionNumbers)> {
    vec![
        (vec![9, 40], vec![40, 13], numbers(&[1], &[0], &[], &[])),
        (
            vec![3, 5, 33],
            vec![33, 3, 7],
            numbers(&[2], &[0], &[0], &[1]),
        ),
        (
            vec![4, 6, 10],
            vec![10, 8, 6],
            numbers(&[1, 2], &[2, 0], &[], &[]),
        ),
        (vec![17], vec![5, 17], numbers(&[0], &[1], &[], &[])),
    ]
}

fn like_the_cpu<T: Type + DeviceElement>(seed: u64) {
    let mut random = Random(seed);
    let stochastic = OperandQuant::int(8).rounding(Rounding::Stochastic { seed: 5 });
    let noisy = ProductQuant::new(stochastic, stochastic);
    let configurations = [
        ("inference", QuantDotGeneral::int8_inference()),
        ("v3", QuantDotGeneral::v3()),
        ("8 and 8", QuantDotGeneral::fully_quantized(8, 8).unwrap()),
        (
            "4 and 8, stochastic gradients",
            QuantDotGeneral::fully_quantized(4, 8)
                .unwrap()
                .stochastic_gradients(11),
        ),
        (
            "stochastic forward",
            QuantDotGeneral::builder().fwd(noisy).build().unwrap(),
        ),
    ];
    let cpu: Arc<dyn Backend> = Arc::new(Cpu::new());
    let own = own_device();
    let gpu: Arc<dyn Backend> = own.clone();
    for (lhs, rhs, dims) in cases() {
        let (a, b) = (array::<T>(&mut random, &lhs), array::<T>(&mut random, &rhs));
        for (name, configuration) in &configurations {
            let what = format!("{name}, {lhs:?} x {rhs:?}, {}", T::DTYPE);
            let on = |backend: &Arc<dyn Backend>| {
                let builder = configuration
                    .to_builder()
                    .train(true)
                    .backend(backend.clone());
                builder.build().unwrap()
            };
            let launches = || -> u64 { own.launches().iter().map(|(_, n)| n).sum() };
            let before = launches();
            let run = |dot: &QuantDotGeneral| {
                let (y, pullback) = dot
                    .vjp(a.view(), b.view(), &dims, Precision::Default)
                    .unwrap();
                let g = y.mapv(|y| T::from_f32(y.to_f32() * 0.3 - 0.1));
                let (da, db) = pullback.backward(g.view()).unwrap();
                (y, da, db)
            };
            let found = run(&on(&gpu));
            assert!(launches() > before, "{what}: nothing ran on the device");
            let want = run(&on(&cpu));
            assert_same(&found.0, &want.0, &what);
            assert_same(&found.1, &want.1, &format!("{what}, dlhs"));
            assert_same(&found.2, &want.2, &format!("{what}, drhs"));

            // Served from a frozen side, frozen on the CPU.
            let frozen = on(&cpu).freeze_rhs(b.view(), &dims).unwrap();
            let serve = |backend| {
                let dot = on(backend);
                dot.dot_general_frozen_rhs(a.view(), &frozen, &dims)
                    .unwrap()
            };
            assert_same(&serve(&gpu), &serve(&cpu), &format!("{what}, frozen"));
        }
    }
}

#[test]
fn the_quantised_dot_general_has_the_bits_of_the_cpu() {
    like_the_cpu::<f32>(1);
    like_the_cpu::<bf16>(2);
}
