//! The transformer block of the example: on the device as on the CPU, captured in a graph and replayed, and near the block
//! in floats.

#[path = "../../examples/transformer_block/block.rs"]
mod block;
#[path = "../../examples/transformer_block/sharded.rs"]
mod sharded;
#[path = "../../examples/transformer_block/device.rs"]
mod transformer;

use crate::support::{fake, own_device, stream};
use block::{random_rows, BlockWeights, HostBlock, Shape, EPSILON};
use half::bf16;
use imma::{Backend, Cpu};
use ndarray::{s, Array1, Array2, ArrayView2};
use std::sync::Arc;
use transformer::{capture, DeviceBlock, SingleToken};

/// Ragged on purpose: widths that are no multiples of 16, one token, more tokens than a tile has rows.
const SHAPES: [Shape; 4] = [
    shape(5, 64, 96),
    shape(1, 100, 150),
    shape(33, 128, 320),
    shape(70, 72, 36),
];

const fn shape(tokens: usize, hidden: usize, inner: usize) -> Shape {
    Shape {
        tokens,
        hidden,
        inner,
    }
}

#[test]
fn two_blocks_are_captured_and_replayed_with_the_bits_of_the_cpu() {
    let (own, stream) = (own_device(), stream());
    let device = &*own;
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let weights = [0, 1].map(|layer| BlockWeights::random(shape, 10 * i as u64 + layer));
        let host = weights
            .each_ref()
            .map(|weights| HostBlock::new(shape, weights).unwrap());
        let mut blocks = weights
            .each_ref()
            .map(|weights| DeviceBlock::new(device, &stream, shape, weights).unwrap());
        for kernel in blocks.iter().flat_map(DeviceBlock::kernels) {
            assert!(kernel.starts_with("igemm_"), "{shape:?}: {kernel}");
        }
        let elements = shape.tokens * shape.hidden;
        let mut x = stream.alloc_zeros::<bf16>(elements).unwrap();
        let mut y = stream.alloc_zeros::<bf16>(elements).unwrap();
        stream.synchronize().unwrap();

        let before = device.launches();
        if let Some(fake) = fake() {
            fake.mark();
        }
        let graph = capture(&stream, || {
            for block in &mut blocks {
                block.forward(&stream, &mut SingleToken, &mut x, &mut y)?;
                std::mem::swap(&mut x, &mut y);
            }
            Ok(())
        })
        .unwrap();
        if let Some(fake) = fake() {
            assert_eq!(fake.allocations_since_mark(), 0, "{shape:?}");
            assert_eq!(fake.synchronisations_since_mark(), 0, "{shape:?}");
        }
        // Four products, the two norms, SiLU and the attention's result, twice; every one on a kernel of this crate.
        let enqueued: Vec<_> = device
            .launches()
            .iter()
            .zip(&before)
            .map(|(after, before)| (after.0, after.1 - before.1))
            .filter(|(_, count)| *count > 0)
            .collect();
        let of = |family: &str| -> u64 {
            let mine = enqueued.iter().filter(|(name, _)| name.starts_with(family));
            mine.map(|(_, count)| count).sum()
        };
        for (family, count) in [
            ("rmsnorm_quantize_bf16", 2),
            ("add_rmsnorm_quantize_bf16", 2),
            ("silu_mul_quantize_bf16", 2),
            ("quantize_rows_bf16", 2),
            ("igemm_", 8),
        ] {
            assert_eq!(of(family), count, "{family} of {enqueued:?}");
        }
        let untouched = stream.clone_dtoh(&x).unwrap();
        assert!(
            untouched.iter().all(|x| *x == bf16::ZERO),
            "captured, not run"
        );

        for seed in [100, 101, 102] {
            let input = random_rows(shape, seed + i as u64);
            stream
                .memcpy_htod(input.as_slice().unwrap(), &mut x)
                .unwrap();
            graph.launch().unwrap();
            let found = stream.clone_dtoh(&x).unwrap();
            stream.synchronize().unwrap();
            let expected = host
                .iter()
                .fold(input, |x, block| block.forward(x.view()).unwrap());
            assert!(expected.iter().all(|y| y.is_finite()));
            for (j, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!(
                    found.to_bits(),
                    expected.to_bits(),
                    "{shape:?}, element {j}"
                );
            }
        }
    }
}

/// Two blocks on 1, 2 and 4 ranks give the bits of the undivided ones, with each rank's products on the CPU and on a device.
#[test]
fn any_number_of_shards_gives_the_bits_of_the_undivided_block() {
    let device: Arc<dyn Backend> = own_device().clone();
    let cpu: Arc<dyn Backend> = Arc::new(Cpu::new());
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let weights = [0, 1].map(|layer| BlockWeights::random(shape, 70 + 2 * i as u64 + layer));
        let x = random_rows(shape, 200 + i as u64);
        let want = weights.iter().fold(x.clone(), |x, weights| {
            let block = HostBlock::new(shape, weights).unwrap();
            block.forward(x.view()).unwrap()
        });
        for backend in [&cpu, &device] {
            for shards in [1, 2, 4] {
                let found = sharded::forward(shards, backend, shape, &weights, x.view()).unwrap();
                assert_eq!(found.len(), shards);
                for y in found {
                    assert_eq!(y, want, "{shape:?} on {shards} ranks, {}", backend.name());
                }
            }
        }
    }
}

/// The block in f32, with the softmax written out: each token attends to itself alone.
fn float_block(x: ArrayView2<'_, bf16>, weights: &BlockWeights) -> Array2<f32> {
    let wide = |w: &Array2<bf16>| w.mapv(f32::from);
    let norm = |x: &Array2<f32>, weight: &Array1<bf16>| {
        let mut y = x.clone();
        for mut row in y.rows_mut() {
            let mean = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
            let root = (mean + EPSILON).sqrt();
            row.iter_mut()
                .zip(weight)
                .for_each(|(x, w)| *x = *x / root * w.to_f32());
        }
        y
    };
    let x = x.mapv(f32::from);
    let hidden = x.ncols();
    let qkv = norm(&x, &weights.norm).dot(&wide(&weights.qkv).t());
    let mut attended = Array2::zeros(x.dim());
    for token in 0..x.nrows() {
        // The positions that this one sees: its own alone.
        let seen = token..token + 1;
        let part = |which: usize, token| qkv.slice(s![token, which * hidden..(which + 1) * hidden]);
        let score = |other| part(0, token).dot(&part(1, other)) / (hidden as f32).sqrt();
        let largest = seen.clone().map(score).fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = seen.clone().map(|o| (score(o) - largest).exp()).sum();
        for other in seen {
            let probability = (score(other) - largest).exp() / total;
            attended
                .row_mut(token)
                .scaled_add(probability, &part(2, other));
        }
    }
    let x = x + attended.dot(&wide(&weights.out).t());
    let gate_up = norm(&x, &weights.inner_norm).dot(&wide(&weights.gate_up).t());
    let inner = gate_up.ncols() / 2;
    let (gate, up) = (
        gate_up.slice(s![.., ..inner]),
        gate_up.slice(s![.., inner..]),
    );
    let silu = gate.mapv(|g| g / (1.0 + (-g).exp()));
    x + (silu * up).dot(&wide(&weights.down).t())
}

#[test]
fn the_block_is_near_the_one_in_floats() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let weights = BlockWeights::random(shape, i as u64);
        let x = random_rows(shape, 50 + i as u64);
        let y = HostBlock::new(shape, &weights)
            .unwrap()
            .forward(x.view())
            .unwrap()
            .mapv(f32::from);
        let want = float_block(x.view(), &weights);
        // Of what the block adds to the residual stream, not of the stream.
        let x = x.mapv(f32::from);
        let (y, want) = (y - &x, want - &x);
        let error = (&y - &want).mapv(|e| e * e).sum() / want.mapv(|w| w * w).sum();
        assert!(error.sqrt() < 0.04, "{shape:?}: {}", error.sqrt());
        println!("{shape:?}: relative error {:.4}", error.sqrt());
    }
}
