//! `imma bench`.

#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
mod device_moe;
mod host;
mod moe;
mod plot;
mod report;
pub mod shapes;

use crate::device::DeviceArgs;
use crate::{say, Failure};
use clap::{Subcommand, ValueEnum};
pub use host::read_bandwidth;
use imma::Backend;
use report::Row;
use shapes::{Shape, Suite};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// [M, K] x [K, N] products of random full-range data.
    Gemm(GemmArgs),
    /// The experts of mixture-of-experts models, with made-up routing.
    Moe(moe::MoeArgs),
}

#[derive(clap::Args)]
struct GemmArgs {
    /// Rows of the left operand (tokens); several with commas.
    #[arg(long, value_delimiter = ',')]
    m: Vec<usize>,
    /// Columns of the right operand (default: 1024).
    #[arg(long)]
    n: Option<usize>,
    /// The contracted dimension (default: 1024).
    #[arg(long)]
    k: Option<usize>,
    /// Several shapes instead, each MxKxN: 1x4096x4096,1024x1024x1024.
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["m", "n", "k", "suite"])]
    shapes: Vec<String>,
    /// The layers of a model, or a sweep; --m replaces its numbers of tokens.
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with_all = ["n", "k"])]
    suite: Vec<Suite>,
    /// What is measured.
    #[arg(long, value_enum, default_value = "gemm", value_delimiter = ',')]
    op: Vec<Op>,
    #[command(flatten)]
    device: DeviceArgs,
    /// The type of the floats of `linear` and `q_matmul`, in and out.
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Float,
    /// On a device: this algorithm (`heuristic`, `autotuned`, `igemm_sm80:TILE/SPLITS`, `igemm_sm90:TILE/SPLITS`,
    /// `cublaslt:N`; several with commas); for `gemm` and `linear`.
    #[arg(long, value_delimiter = ',', default_value = "heuristic")]
    algorithm: Vec<String>,
    /// On a device: also cuBLASLt, for `linear` with our epilogue behind it, and cuBLASLt in f16.
    #[arg(long)]
    peers: bool,
    /// Seconds a measurement takes, about.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Also measure what the machine can do at most, and print the share reached.
    #[arg(long)]
    ceiling: bool,
    /// One JSON object a line.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Comma-separated values under a line of names.
    #[arg(long)]
    csv: bool,
    /// Draw the measurements under the machine's roofline (implies --ceiling).
    #[arg(long, value_name = "OUT.svg")]
    plot: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Op {
    /// int8 x int8 -> int32, weights packed beforehand.
    Gemm,
    /// int8 x int8 -> int32, weights packed in each call.
    Matmul,
    /// Floats in and out, activations quantised per token in each call, weights quantised and packed beforehand.
    Linear,
    /// Floats in and out, both sides quantised in each call.
    #[value(name = "q_matmul")]
    QMatmul,
}

/// A float type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    fn name(self) -> &'static str {
        match self {
            Float::F32 => "f32",
            Float::F16 => "f16",
            Float::Bf16 => "bf16",
        }
    }

    fn bytes(self) -> f64 {
        match self {
            Float::F32 => 4.0,
            Float::F16 | Float::Bf16 => 2.0,
        }
    }
}

impl Op {
    const ALL: [Op; 4] = [Op::Gemm, Op::Matmul, Op::Linear, Op::QMatmul];

    fn name(self) -> &'static str {
        match self {
            Op::Gemm => "gemm",
            Op::Matmul => "matmul",
            Op::Linear => "linear",
            Op::QMatmul => "q_matmul",
        }
    }

    /// Bytes of the operands and the output, each counted once; `float` of them a float.
    fn bytes(self, Shape { m, k, n }: Shape, float: f64) -> f64 {
        let (lhs, rhs, out) = match self {
            Op::Gemm | Op::Matmul => (1.0, 1.0, 4.0),
            Op::Linear => (float, 1.0, float),
            Op::QMatmul => (float, float, float),
        };
        let [m, k, n] = [m, k, n].map(|x| x as f64);
        lhs * m * k + rhs * k * n + out * m * n
    }
}

impl GemmArgs {
    fn wants_ceiling(&self) -> bool {
        self.ceiling || self.plot.is_some()
    }

    fn all_shapes(&self) -> Result<Vec<Shape>, Failure> {
        if !self.shapes.is_empty() {
            return self.shapes.iter().map(|s| Shape::parse(s)).collect();
        }
        if !self.suite.is_empty() {
            let of_suite = |suite: &Suite| suite.shapes(&self.m);
            return Ok(self.suite.iter().flat_map(of_suite).collect());
        }
        let (k, n) = (self.k.unwrap_or(1024), self.n.unwrap_or(1024));
        let rows = if self.m.is_empty() {
            &[1024]
        } else {
            &self.m[..]
        };
        Ok(rows.iter().map(|&m| Shape { m, k, n }).collect())
    }
}

pub fn run(args: Args) -> Result<(), Failure> {
    match args.what {
        What::Gemm(args) => products(args),
        What::Moe(args) => moe::run(&args),
    }
}

/// Refuses what no measurement can take.
fn check_seconds(seconds: f64) -> Result<(), Failure> {
    if seconds > 0.0 && seconds <= 3600.0 {
        return Ok(());
    }
    Err(Failure::new(format!(
        "--seconds is {seconds}, expected 0 to 3600"
    )))
}

fn products(args: GemmArgs) -> Result<(), Failure> {
    check_seconds(args.seconds)?;
    let shapes = args.all_shapes()?;
    if let Some(path) = &args.plot {
        plot::check(path)?;
    }
    #[cfg(feature = "cuda")]
    if let Some(number) = args.device.gpu() {
        return on_device(&args, shapes, number);
    }
    if args.peers || args.algorithm != ["heuristic"] {
        return Err(Failure::new(
            "--peers and --algorithm are for devices: found a product on the CPU, expected --device cuda",
        ));
    }
    let backend = args.device.cpu()?;
    let ceiling = if args.wants_ceiling() {
        Some(host::ceiling(&backend, args.seconds)?)
    } else {
        None
    };
    let mut report = Report::new(&args, ceiling)?;
    for shape in shapes {
        for op in &args.op {
            report.add(Row {
                device: backend.name(),
                kernel: backend.kernel(shape.m, shape.n, shape.k),
                threads: Some(backend.threads()),
                op: *op,
                float: args.dtype,
                shape,
                timing: host::time(&backend, *op, args.dtype, shape, args.seconds)?,
                predicted: None,
                ceiling,
            })?;
        }
    }
    report.finish()
}

#[cfg(feature = "cuda")]
fn on_device(args: &GemmArgs, shapes: Vec<Shape>, number: usize) -> Result<(), Failure> {
    use device::{Contender, Gpu, Measured};
    use imma::cuda::{Algorithm, Instance};
    let ours = args.algorithm.iter().map(|a| a.parse::<Algorithm>());
    let ours = ours.collect::<Result<Vec<_>, _>>()?;
    let gpu = Gpu::open(number)?;
    let ceiling = if args.wants_ceiling() {
        Some(gpu.ceiling(args.seconds)?)
    } else {
        None
    };
    let mut report = Report::new(args, ceiling)?;
    for shape in shapes {
        for op in &args.op {
            // Weights that are used once are packed by the call, which chooses by itself.
            let packed = matches!(op, Op::Gemm | Op::Linear);
            let mut contenders = vec![Contender::Ours(Algorithm::Heuristic)];
            if packed {
                contenders = ours.iter().copied().map(Contender::Ours).collect();
            }
            if args.peers && packed {
                contenders.push(Contender::Ours(Instance::CublasLt(0).into()));
                contenders.push(Contender::CublasLtF16);
            }
            for contender in contenders {
                let peer = !matches!(&contender, Contender::Ours(a) if ours.contains(a));
                match gpu.time(&contender, *op, args.dtype, shape, args.seconds) {
                    Ok(Measured {
                        kernel,
                        timing,
                        predicted,
                    }) => report.add(Row {
                        device: gpu.name(),
                        kernel,
                        threads: None,
                        op: *op,
                        float: args.dtype,
                        shape,
                        timing,
                        predicted: predicted.map(|p| report::Predicted {
                            seconds: p.microseconds * 1e-6,
                            dominant: (p.dominant().0, p.dominant().1 * 1e-6),
                        }),
                        ceiling,
                    })?,
                    // A peer that is not here is no reason to stop.
                    Err(error) if peer => say::note(format!("not run: {contender:?}: {error}")),
                    Err(error) => return Err(error),
                }
            }
        }
    }
    report.finish()
}

/// The rows as they are measured, and the picture of them all.
struct Report<'a> {
    args: &'a GemmArgs,
    ceiling: Option<report::Ceiling>,
    rows: Vec<Row>,
    /// Why lines are no longer printed.
    unprinted: Option<Failure>,
}

impl<'a> Report<'a> {
    fn new(args: &'a GemmArgs, ceiling: Option<report::Ceiling>) -> Result<Self, Failure> {
        let mut report = Report {
            args,
            ceiling,
            rows: Vec::new(),
            unprinted: None,
        };
        if args.csv {
            report.print(report::CSV.into())?;
        }
        Ok(report)
    }

    fn add(&mut self, row: Row) -> Result<(), Failure> {
        self.print(match (self.args.json, self.args.csv) {
            (true, _) => row.json(),
            (_, true) => row.csv(),
            _ => row.text(),
        })?;
        self.rows.push(row);
        Ok(())
    }

    /// Prints a line; where a picture was asked for too, what stops the lines does not stop the picture.
    fn print(&mut self, text: String) -> Result<(), Failure> {
        if self.unprinted.is_some() {
            return Ok(());
        }
        match (say::result(text), &self.args.plot) {
            (Err(failure), Some(_)) => self.unprinted = Some(failure),
            (printed, _) => return printed,
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Failure> {
        if let (Some(path), Some(ceiling)) = (&self.args.plot, self.ceiling) {
            plot::roofline(path, &self.rows, ceiling)?;
        }
        self.unprinted.map_or(Ok(()), Err)
    }
}
