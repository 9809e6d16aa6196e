//! `imma bench`.

use crate::device::DeviceArgs;
use crate::timing::measure;
use crate::{line, Failure};
use clap::{Subcommand, ValueEnum};
use imma::{Backend, Epilogue, FloatView, Gemm, Lhs, OutputMut, Weights};
use ndarray::Array2;
use serde_json::json;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// [M, K] x [K, N] products of random full-range data.
    Gemm(GemmArgs),
}

#[derive(clap::Args)]
struct GemmArgs {
    /// Rows of the left operand.
    #[arg(long, default_value_t = 1024)]
    m: usize,
    /// Columns of the right operand.
    #[arg(long, default_value_t = 1024)]
    n: usize,
    /// The contracted dimension.
    #[arg(long, default_value_t = 1024)]
    k: usize,
    /// Several shapes instead, each MxKxN: 1x4096x4096,1024x1024x1024.
    #[arg(long, value_delimiter = ',')]
    shapes: Vec<String>,
    /// What is measured.
    #[arg(long, value_enum, default_value = "gemm", value_delimiter = ',')]
    op: Vec<Op>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Seconds a measurement takes, about.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Op {
    /// int8 x int8 -> int32, weights packed beforehand.
    Gemm,
    /// int8 x int8 -> int32, weights packed in each call.
    Matmul,
    /// f32 in, f32 out, activations quantised per token in each call, weights quantised and packed beforehand.
    Linear,
    /// f32 in, f32 out, both sides quantised in each call.
    #[value(name = "q_matmul")]
    QMatmul,
}

impl Op {
    fn name(self) -> &'static str {
        match self {
            Op::Gemm => "gemm",
            Op::Matmul => "matmul",
            Op::Linear => "linear",
            Op::QMatmul => "q_matmul",
        }
    }
}

pub fn run(args: Args) -> Result<(), Failure> {
    let What::Gemm(args) = args.what;
    if !(args.seconds > 0.0 && args.seconds <= 3600.0) {
        return Err(Failure::new(format!(
            "--seconds is {}, expected 0 to 3600",
            args.seconds
        )));
    }
    let backend = args.device.backend()?;
    let shapes = if args.shapes.is_empty() {
        vec![(args.m, args.k, args.n)]
    } else {
        args.shapes
            .iter()
            .map(|s| parse(s))
            .collect::<Result<_, _>>()?
    };
    for (m, k, n) in shapes {
        for op in &args.op {
            let timing = run_one(&backend, *op, m, k, n, args.seconds)?;
            let tops = 2.0 * m as f64 * n as f64 * k as f64 / timing.median * 1e-12;
            if args.json {
                line(json!({
                    "device": backend.name(), "kernel": backend.kernel(m, n, k), "op": op.name(),
                    "m": m, "n": n, "k": k, "threads": backend.threads(),
                    "median_s": timing.median, "min_s": timing.min, "samples": timing.samples,
                    "tops": tops, "version": env!("CARGO_PKG_VERSION"),
                }));
            } else {
                line(format!(
                    "{:9} {m}x{k}x{n}  {} {} T{}  {:10.3} ms  {:8.1} GOPS",
                    op.name(),
                    backend.name(),
                    backend.kernel(m, n, k),
                    backend.threads(),
                    timing.median * 1e3,
                    tops * 1e3
                ));
            }
        }
    }
    Ok(())
}

fn parse(shape: &str) -> Result<(usize, usize, usize), Failure> {
    let sides: Vec<_> = shape.split('x').map(|s| s.parse::<usize>().ok()).collect();
    match sides[..] {
        [Some(m), Some(k), Some(n)] => Ok((m, k, n)),
        _ => Err(Failure::new(format!(
            "--shapes has '{shape}', expected MxKxN such as 128x1024x4096"
        ))),
    }
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

fn run_one(
    backend: &dyn Backend,
    op: Op,
    m: usize,
    k: usize,
    n: usize,
    seconds: f64,
) -> Result<crate::timing::Timing, Failure> {
    let (a, w) = (bytes(m, k, 0x9E37_79B9), bytes(k, n, 0x85EB_CA6B));
    let timing = match op {
        Op::Gemm => {
            let packed = backend.pack(Weights::Int8(w.view()))?;
            let gemm = Gemm::new(Lhs::Int8(a.view()), &packed, Epilogue::default())?;
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
        Op::Linear | Op::QMatmul => {
            let (a, w) = (
                a.mapv(|x| f32::from(x) * 0.37),
                w.mapv(|x| f32::from(x) * 0.011),
            );
            let (a, w) = (FloatView::F32(a.view()), FloatView::F32(w.view()));
            let mut out = Array2::<f32>::zeros((m, n));
            if let Op::QMatmul = op {
                let run =
                    || backend.matmul_quantized(a.view(), w.view(), OutputMut::F32(out.view_mut()));
                measure(seconds, run)?
            } else {
                let packed = backend.pack(Weights::Float(w.view()))?;
                let lhs = Lhs::Float {
                    data: a.view(),
                    quant: Default::default(),
                };
                let gemm = Gemm::new(lhs, &packed, Epilogue::default())?;
                measure(seconds, || {
                    backend.gemm(&gemm, OutputMut::F32(out.view_mut()))
                })?
            }
        }
    };
    Ok(timing)
}
