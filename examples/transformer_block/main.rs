//! Transformer blocks in int8 on a device: built from cudarc slices, captured once in a graph and replayed, with the bits of
//! the CPU.
//!
//! ```text
//! cargo run --release --features cuda --example transformer_block -- [--shards N] [tokens hidden inner]
//! ```
//!
//! Two blocks of random weights, bf16 in and out. What a pipeline can take from here:
//!
//! * `device.rs`: weights packed once (`DeviceWeights::pack`), a `Plan` for each product, `rmsnorm_quantize`, `add_rmsnorm_quantize` and
//!   `silu_mul_quantize` between them, all memory allocated beforehand, eight launches per block (more where K is split);
//! * where its own attention goes: `Attention`. Here each row is a sequence of one token, whose attention is its values;
//! * `block.rs`: the same on the CPU;
//! * `sharded.rs`: the same over N ranks (threads), tensor-parallel, with the same bits.
//!
//! Without a device it says why and runs the CPU alone.

mod block;
mod device;
mod sharded;

use block::{random_rows, BlockWeights, HostBlock, Shape};
use device::{capture, DeviceBlock, SingleToken};
use half::bf16;
use imma::cuda::{status, Device};
use imma::{Backend, Cpu};
use ndarray::Array2;
use std::error::Error;
use std::sync::Arc;

const LAYERS: u64 = 2;

/// The number after `--shards`, which is taken out.
fn take_shards(arguments: &mut Vec<String>) -> Result<Option<usize>, String> {
    let Some(at) = arguments.iter().position(|a| a == "--shards") else {
        return Ok(None);
    };
    let number = arguments.get(at + 1).and_then(|n| n.parse().ok());
    let number = number.filter(|n| (1..=64).contains(n));
    arguments.drain(at..(at + 2).min(arguments.len()));
    match number {
        Some(number) => Ok(Some(number)),
        None => Err("--shards takes a number of ranks from 1 to 64".into()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let shards = take_shards(&mut arguments)?;
    let sizes: Vec<usize> = arguments
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tokens hidden inner: {error}"))?;
    let shape = match sizes[..] {
        [] => Shape {
            tokens: 16,
            hidden: 1024,
            inner: 2816,
        },
        [tokens, hidden, inner] if sizes.iter().all(|size| *size > 0) => Shape {
            tokens,
            hidden,
            inner,
        },
        _ => return Err("expected three sizes above zero: tokens hidden inner".into()),
    };
    let weights: Vec<_> = (0..LAYERS)
        .map(|layer| BlockWeights::random(shape, layer))
        .collect();
    let host: Vec<_> = weights
        .iter()
        .map(|weights| HostBlock::new(shape, weights))
        .collect::<Result<_, _>>()?;
    let on_cpu = |x: &Array2<bf16>| -> imma::Result<Array2<bf16>> {
        host.iter()
            .try_fold(x.clone(), |x, block| block.forward(x.view()))
    };

    println!("{LAYERS} blocks, {shape:?}");
    if let Some(shards) = shards {
        let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
        let x = random_rows(shape, 100);
        let one = on_cpu(&x)?;
        for (rank, y) in sharded::forward(shards, &backend, shape, &weights, x.view())?
            .iter()
            .enumerate()
        {
            let differ = y.iter().zip(&one).filter(|(a, b)| a != b).count();
            println!("rank {rank} of {shards}: {differ} of {} elements differ from the undivided blocks'", y.len());
            if differ > 0 {
                return Err("any number of ranks should give the same bits".into());
            }
        }
    }
    let status = status();
    if !status.is_usable() {
        println!("no device: {status}");
        let y = on_cpu(&random_rows(shape, 100))?;
        println!(
            "on the CPU: y[0, ..4] = {:?}",
            &y.row(0).as_slice().unwrap_or(&[])[..4.min(shape.hidden)]
        );
        return Ok(());
    }

    let device = Device::open(0)?;
    println!("{}", device.properties());
    // SAFETY: all buffers are used on this one stream, which is waited for before they are dropped.
    unsafe { device.context().disable_event_tracking() };
    let stream = device.context().new_stream()?;
    let mut blocks: Vec<_> = weights
        .iter()
        .map(|weights| DeviceBlock::new(&device, &stream, shape, weights))
        .collect::<Result<_, _>>()?;
    for (name, kernel) in ["qkv", "out", "gate_up", "down"]
        .iter()
        .zip(blocks[0].kernels())
    {
        println!("{name:>8}: {kernel}");
    }
    let elements = shape.tokens * shape.hidden;
    let mut x = stream.alloc_zeros::<bf16>(elements)?;
    let mut y = stream.alloc_zeros::<bf16>(elements)?;
    stream.synchronize()?;
    let before: u64 = device.launches().iter().map(|(_, count)| count).sum();
    let graph = capture(&stream, || {
        for block in &mut blocks {
            block.forward(&stream, &mut SingleToken, &mut x, &mut y)?;
            std::mem::swap(&mut x, &mut y);
        }
        Ok(())
    })?;
    let after: u64 = device.launches().iter().map(|(_, count)| count).sum();
    println!("captured {} launches", after - before);

    // An even number of blocks: the result is where the input was.
    for seed in 100..103 {
        let input = random_rows(shape, seed);
        stream.memcpy_htod(input.as_slice().ok_or("rows in order")?, &mut x)?;
        graph.launch()?;
        let found = stream.clone_dtoh(&x)?;
        stream.synchronize()?;
        let expected = on_cpu(&input)?;
        let differ = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
        println!("input {seed}: {differ} of {elements} elements differ from the CPU's");
        if differ > 0 {
            return Err("the device and the CPU should give the same bits".into());
        }
    }
    Ok(())
}
