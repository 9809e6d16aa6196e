//! `imma bench`.

mod host;
mod plot;
mod report;
mod shapes;

use crate::device::DeviceArgs;
use crate::{line, Failure};
use clap::{Subcommand, ValueEnum};
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
    /// f32 in, f32 out, activations quantised per token in each call, weights quantised and packed beforehand.
    Linear,
    /// f32 in, f32 out, both sides quantised in each call.
    #[value(name = "q_matmul")]
    QMatmul,
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

    /// Bytes of the operands and the output, each counted once.
    fn bytes(self, Shape { m, k, n }: Shape) -> f64 {
        let (lhs, rhs) = match self {
            Op::Gemm | Op::Matmul => (1.0, 1.0),
            Op::Linear => (4.0, 1.0),
            Op::QMatmul => (4.0, 4.0),
        };
        let [m, k, n] = [m, k, n].map(|x| x as f64);
        lhs * m * k + rhs * k * n + 4.0 * m * n
    }
}

impl GemmArgs {
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
    let What::Gemm(args) = args.what;
    if !(args.seconds > 0.0 && args.seconds <= 3600.0) {
        return Err(Failure::new(format!(
            "--seconds is {}, expected 0 to 3600",
            args.seconds
        )));
    }
    let shapes = args.all_shapes()?;
    if let Some(path) = &args.plot {
        plot::check(path)?;
    }
    let backend = args.device.cpu()?;
    let ceiling = if args.ceiling || args.plot.is_some() {
        Some(host::ceiling(&backend, args.seconds)?)
    } else {
        None
    };
    if args.csv {
        line(report::CSV);
    }
    let mut rows = Vec::new();
    for shape in shapes {
        for op in &args.op {
            let row = Row {
                device: backend.name(),
                kernel: backend.kernel(shape.m, shape.n, shape.k),
                threads: Some(backend.threads()),
                op: *op,
                shape,
                timing: host::time(&backend, *op, shape, args.seconds)?,
                ceiling,
            };
            line(match (args.json, args.csv) {
                (true, _) => row.json(),
                (_, true) => row.csv(),
                _ => row.text(),
            });
            rows.push(row);
        }
    }
    if let (Some(path), Some(ceiling)) = (&args.plot, ceiling) {
        plot::roofline(path, &rows, ceiling)?;
    }
    Ok(())
}
