//! `imma info`.

use crate::bench::read_bandwidth;
use crate::device::cuda_status;
use crate::{say, Failure};
use imma::Cpu;
use serde_json::json;

#[derive(clap::Args)]
pub struct Args {
    /// Measure what this machine can do at most: each kernel's dot products on operands in the first-level cache, and
    /// reads from memory.
    #[arg(long, conflicts_with = "plan")]
    peak: bool,
    /// Threads that are measured (default: all cores).
    #[arg(long, requires = "peak")]
    threads: Option<usize>,
    /// Seconds a measurement takes, about.
    #[arg(long, requires = "peak", default_value_t = 0.5)]
    seconds: f64,
    /// The measurements as one JSON object, and nothing else.
    #[arg(long, requires = "peak")]
    json: bool,
    /// Say which kernel would serve the product [M, K] x [K, N] on device 0, and why.
    #[arg(long, num_args = 3, value_names = ["M", "N", "K"])]
    plan: Option<Vec<usize>>,
}

pub fn run(args: Args) -> Result<(), Failure> {
    if let Some([m, n, k]) = args.plan.as_deref() {
        return plan(*m, *n, *k);
    }
    let peaks = match args.peak {
        true => Some(Peaks::measure(&args)?),
        false => None,
    };
    if let (Some(peaks), true) = (&peaks, args.json) {
        return say::result(peaks.json());
    }
    let cpu = Cpu::new();
    say::result(format!("imma {}", env!("CARGO_PKG_VERSION")))?;
    say::result(format!("cpu features  {}", features().join(" ")))?;
    for kernel in Cpu::kernels() {
        let state = match (kernel.available, kernel.name == cpu.kernel_name()) {
            (_, true) => "chosen",
            (true, _) => "available",
            (false, _) => "not on this machine",
        };
        say::result(format!("kernel        {:14} {state}", kernel.name))?;
    }
    say::result(format!("amx           {}", Cpu::amx()))?;
    say::result(format!("threads       {}", cpu.threads()))?;
    say::result(format!("cuda          {}", cuda_status()))?;
    say::result(format!("nccl          {}", imma::cuda::nccl_status()))?;
    #[cfg(feature = "cuda")]
    if imma::cuda::status().is_usable() {
        for text in device(imma::cuda::Device::open(0)?.properties()) {
            say::result(text)?;
        }
    }
    if let Some(peaks) = peaks {
        for text in peaks.text() {
            say::result(text)?;
        }
    }
    Ok(())
}

/// What the datasheet says of a device.
#[cfg(feature = "cuda")]
fn device(properties: &imma::cuda::Properties) -> Vec<String> {
    let rates = properties.int8_rates();
    let mut lines = vec![format!("device        {properties}")];
    if let Some(peak) = properties.int8_peak() {
        let ours = rates.mma / rates.native;
        let by = match properties.capability {
            (10, 3) => ": this architecture gave up int8, bf16 and fp8 are faster here".into(),
            (9, _) => ", by wgmma".into(),
            _ if ours < 1.0 => format!(
                ", by tcgen05, which cuBLASLt has; igemm_sm80 reaches at most {:.0} % of it",
                100.0 * ours
            ),
            _ => ", by mma.sync".to_string(),
        };
        let tops = peak * 1e-12;
        let clock = properties.clock;
        lines.push(format!(
            "int8          {tops:.0} TOPS by the datasheet{by} (its rate a clock, at the highest clock, {clock} MHz)"
        ));
    }
    lines
}

/// What the machine can do at most.
struct Peaks {
    threads: usize,
    /// int8 operations a second (2 a multiply-add) of each kernel this CPU has, best first.
    kernels: Vec<(&'static str, f64)>,
    /// Bytes a second read from memory.
    read: f64,
}

impl Peaks {
    fn measure(args: &Args) -> Result<Self, Failure> {
        let cpu = match args.threads {
            Some(threads) => Cpu::new().with_threads(threads)?,
            None => Cpu::new(),
        };
        if !(args.seconds > 0.0 && args.seconds <= 3600.0) {
            return Err(Failure::new(format!(
                "--seconds is {}, expected 0 to 3600",
                args.seconds
            )));
        }
        let mut kernels = Vec::new();
        for kernel in Cpu::kernels().iter().filter(|kernel| kernel.available) {
            let cpu = cpu.clone().with_kernel(kernel.name)?;
            kernels.push((kernel.name, cpu.peak(args.seconds)));
        }
        Ok(Peaks {
            threads: cpu.threads(),
            kernels,
            read: read_bandwidth(cpu.threads(), args.seconds)?,
        })
    }

    fn text(&self) -> Vec<String> {
        let threads = match self.threads {
            1 => "1 thread".to_string(),
            n => format!("{n} threads"),
        };
        let kernel = |(name, peak): &(&str, f64)| {
            format!(
                "peak          {name:14} {:8.1} GOPS on {threads}",
                peak * 1e-9
            )
        };
        let mut lines: Vec<_> = self.kernels.iter().map(kernel).collect();
        lines.push(format!(
            "peak          {:14} {:8.1} GB/s on {threads}",
            "memory read",
            self.read * 1e-9
        ));
        lines
    }

    fn json(&self) -> String {
        let kernel =
            |(name, peak): &(&str, f64)| (name.to_string(), json!({ "gops": peak * 1e-9 }));
        let kernels: serde_json::Map<_, _> = self.kernels.iter().map(kernel).collect();
        json!({
            "threads": self.threads, "kernels": kernels, "read_gb_per_s": self.read * 1e-9,
            "version": env!("CARGO_PKG_VERSION"),
        })
        .to_string()
    }
}

/// On the device where there is one, else on the CPU; bf16 in and out, as pipelines have it.
fn plan(m: usize, n: usize, k: usize) -> Result<(), Failure> {
    #[cfg(feature = "cuda")]
    if imma::cuda::status().is_usable() {
        use imma::cuda::{Algorithm, Device, Plan, Problem};
        let device = Device::open(0)?;
        say::result(format!("device  {}", device.properties()))?;
        let problem = Problem::floats(m, n, k, imma::DType::BF16, imma::DType::BF16);
        let plan = Plan::new(&device, problem, Algorithm::Heuristic)?;
        return say::result(format!("plan    {plan}"));
    }
    say::result(format!("device  the CPU: {}", cuda_status()))?;
    let kernel = imma::Backend::kernel(&Cpu::new(), m, n, k);
    say::result(format!(
        "plan    [{m}, {k}] x [{k}, {n}]: {kernel}, the best kernel of this CPU"
    ))
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
