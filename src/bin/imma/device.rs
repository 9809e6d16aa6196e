//! `--device` and `--threads`: which backend serves.

use crate::Failure;
use imma::Cpu;
use std::str::FromStr;

/// `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Device {
    /// The fastest there is.
    Auto,
    /// The CPU backend.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text.split_once(':') {
            None => Some(0),
            Some(("cuda", number)) => number.parse().ok(),
            Some(_) => None,
        };
        match (text.split(':').next(), number) {
            (Some("auto"), Some(_)) => Ok(Device::Auto),
            (Some("cpu"), Some(_)) => Ok(Device::Cpu),
            (Some("cuda"), Some(number)) => Ok(Device::Cuda(number)),
            _ => Err("expected auto, cpu, cuda or cuda:N".into()),
        }
    }
}

#[derive(clap::Args)]
pub struct DeviceArgs {
    /// Where to compute: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// Threads of the CPU backend (default: all cores).
    #[arg(long)]
    pub threads: Option<usize>,
    /// Force a CPU kernel by name (see `imma info`).
    #[arg(long)]
    pub leaf: Option<String>,
}

impl DeviceArgs {
    pub fn backend(&self) -> Result<Cpu, Failure> {
        match self.device {
            Device::Cuda(number) => {
                return Err(Failure::new(format!(
                    "device cuda:{number} is not available: {}",
                    cuda_status()
                )));
            }
            // A build with CUDA was made to use a GPU: say why it does not.
            Device::Auto if cfg!(feature = "cuda") => {
                eprintln!("imma: computing on the CPU: {}", cuda_status());
            }
            Device::Auto | Device::Cpu => {}
        }
        let mut cpu = Cpu::new();
        if let Some(leaf) = &self.leaf {
            cpu = cpu.with_leaf(leaf)?;
        }
        if let Some(threads) = self.threads {
            cpu = cpu.with_threads(threads)?;
        }
        Ok(cpu)
    }
}

/// One sentence about the GPU.
pub fn cuda_status() -> String {
    let status = imma::cuda::status();
    if status.is_usable() {
        return format!("{status}; products on the GPU are not part of this version");
    }
    status.to_string()
}
