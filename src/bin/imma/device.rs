//! `--device` and `--threads`: which backend serves.

use crate::Failure;
use clap::ValueEnum;
use imma::Cpu;

#[derive(Clone, Copy, ValueEnum)]
pub enum Device {
    /// The fastest there is.
    Auto,
    /// The CPU backend.
    Cpu,
    /// A GPU.
    Cuda,
}

#[derive(clap::Args)]
pub struct DeviceArgs {
    /// Where to compute.
    #[arg(long, value_enum, default_value = "auto")]
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
        if let Device::Cuda = self.device {
            return Err(Failure::new(format!(
                "device cuda is not available: {}",
                cuda_status()
            )));
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
