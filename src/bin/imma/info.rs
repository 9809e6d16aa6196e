//! `imma info`.

use crate::device::cuda_status;
use crate::{line, Failure};
use imma::Cpu;

#[derive(clap::Args)]
pub struct Args {}

pub fn run(_: Args) -> Result<(), Failure> {
    let cpu = Cpu::new();
    line(format!("imma {}", env!("CARGO_PKG_VERSION")));
    line(format!("cpu features  {}", features().join(" ")));
    for leaf in Cpu::leaves() {
        let state = match (leaf.available, leaf.name == cpu.leaf()) {
            (_, true) => "chosen",
            (true, _) => "available",
            (false, _) => "not on this machine",
        };
        line(format!("kernel        {:14} {state}", leaf.name));
    }
    line(format!("threads       {}", cpu.threads()));
    line(format!("cuda          {}", cuda_status()));
    Ok(())
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    macro_rules! present {
        ($($name:tt),*) => {
            [$(($name, std::arch::is_x86_feature_detected!($name))),*]
        };
    }
    let all = present!(
        "sse4.1",
        "avx2",
        "fma",
        "f16c",
        "avxvnni",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512vnni"
    );
    all.iter()
        .filter(|(_, have)| *have)
        .map(|(name, _)| *name)
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    vec![std::env::consts::ARCH]
}
