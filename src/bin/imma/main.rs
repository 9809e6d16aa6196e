//! `imma`: int8 matrix products of `.npy` files, quantising, measuring.

mod bench;
mod device;
mod info;
mod matmul;
mod quantize;
mod quantize_model;
mod say;
mod timing;
mod tune;

use clap::{Parser, Subcommand};
use std::fmt;
use std::process::ExitCode;

/// int8 matrix multiplication: quantise, multiply with exact int32 sums, dequantise in the same pass.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Multiply two .npy arrays by numpy.matmul's rules: int8 gives the exact int32 product, floats are quantised on the way.
    Matmul(matmul::Args),
    /// Quantise a .npy tensor to int8 with scales, written as .npz, or a model's folder to a W8A8 checkpoint.
    Quantize(quantize::Args),
    /// Measure products of random data.
    Bench(bench::Args),
    /// Measure on a GPU which kernel serves each layer of a model best, for autotuned plans to read; continues.
    Tune(tune::Args),
    /// Show the CPU's features, the kernels and the one chosen.
    Info(info::Args),
}

/// What stopped a command: one sentence for the user.
pub(crate) struct Failure {
    sentence: String,
    /// Whoever read the results has gone away; nothing went wrong.
    unread: bool,
}

impl Failure {
    pub(crate) fn new(sentence: impl Into<String>) -> Self {
        Failure {
            sentence: sentence.into(),
            unread: false,
        }
    }

    /// Nobody reads the results any more.
    pub(crate) fn unread() -> Self {
        Failure {
            sentence: "standard output: nobody reads it any more".into(),
            unread: true,
        }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(e: E) -> Self {
        Failure::new(e.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Matmul(args) => matmul::run(args),
        Command::Quantize(args) => quantize::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Tune(args) => tune::run(args),
        Command::Info(args) => info::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.unread => ExitCode::SUCCESS,
        Err(failure) => {
            say::note(failure);
            ExitCode::from(2)
        }
    }
}
