//! `imma info`.

use crate::device::cuda_status;
use crate::{line, Failure};
use imma::Cpu;

#[derive(clap::Args)]
pub struct Args {
    /// Say which kernel would serve the product [M, K] x [K, N] on device 0, and why.
    #[arg(long, num_args = 3, value_names = ["M", "N", "K"])]
    plan: Option<Vec<usize>>,
}

pub fn run(args: Args) -> Result<(), Failure> {
    if let Some([m, n, k]) = args.plan.as_deref() {
        return plan(*m, *n, *k);
    }
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

/// On the device where there is one, else on the CPU; bf16 in and out, as pipelines have it.
fn plan(m: usize, n: usize, k: usize) -> Result<(), Failure> {
    #[cfg(feature = "cuda")]
    if imma::cuda::status().is_usable() {
        use imma::cuda::{Device, Plan, Spec};
        let device = Device::open(0)?;
        line(format!("device  {}", device.properties()));
        let spec = Spec::floats(m, n, k, imma::DType::BF16, imma::DType::BF16);
        line(format!("plan    {}", Plan::new(&device, spec)?));
        return Ok(());
    }
    line(format!("device  the CPU: {}", cuda_status()));
    let kernel = imma::Backend::kernel(&Cpu::new(), m, n, k);
    line(format!(
        "plan    [{m}, {k}] x [{k}, {n}]: {kernel}, the best leaf of this CPU"
    ));
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
