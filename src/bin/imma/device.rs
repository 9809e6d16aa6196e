//! `--device` and `--threads`: which backend serves.

use crate::{say, Failure};
use imma::{Backend, Cpu};
use std::str::FromStr;
use std::sync::Arc;

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

#[cfg(feature = "cuda")]
impl Device {
    /// The GPU of which number serves: one that was asked for, or the first where there is one.
    pub fn number(self) -> Option<usize> {
        match self {
            Device::Cuda(number) => Some(number),
            Device::Auto if imma::cuda::status().is_usable() => Some(0),
            Device::Auto | Device::Cpu => None,
        }
    }
}

#[derive(clap::Args)]
pub struct DeviceArgs {
    /// Where to compute: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// Threads of the CPU backend (default: all cores; at most 8 for each).
    #[arg(long)]
    pub threads: Option<usize>,
    /// Force a CPU kernel by name (see `imma info`).
    #[arg(long)]
    pub kernel: Option<String>,
}

impl DeviceArgs {
    /// Which backend serves, on this device or why not.
    pub fn backend(&self) -> Result<Chosen, Failure> {
        match self.device {
            Device::Cuda(number) => return Ok(Chosen::Device(cuda(number)?)),
            // A build with CUDA was made to use a GPU: say why it does not.
            Device::Auto if cfg!(feature = "cuda") => match cuda(0) {
                Ok(device) => return Ok(Chosen::Device(device)),
                Err(_) => say::note(format!("computing on the CPU: {}", cuda_status())),
            },
            Device::Auto | Device::Cpu => {}
        }
        self.made().map(Chosen::Cpu)
    }

    /// The GPU of which number is to be measured.
    #[cfg(feature = "cuda")]
    pub fn gpu(&self) -> Option<usize> {
        // Threads and kernels are the CPU's.
        if self.device == Device::Auto && (self.threads.is_some() || self.kernel.is_some()) {
            return None;
        }
        let number = self.device.number();
        if self.device == Device::Auto && number.is_none() {
            say::note(format!("measuring the CPU: {}", cuda_status()));
        }
        number
    }

    /// The CPU backend.
    pub fn cpu(&self) -> Result<Cpu, Failure> {
        match self.device {
            Device::Cuda(number) => Err(Failure::new(format!(
                "device cuda:{number} is not available: {}",
                cuda_status()
            ))),
            Device::Auto | Device::Cpu => self.made(),
        }
    }

    fn made(&self) -> Result<Cpu, Failure> {
        let mut cpu = Cpu::new();
        if let Some(kernel) = &self.kernel {
            cpu = cpu.with_kernel(kernel)?;
        }
        if let Some(threads) = self.threads {
            cpu = cpu.with_threads(threads)?;
        }
        Ok(cpu)
    }
}

/// The backend that serves.
pub enum Chosen {
    Cpu(Cpu),
    Device(Arc<dyn Backend>),
}

impl Chosen {
    pub fn as_backend(&self) -> &dyn Backend {
        match self {
            Chosen::Cpu(cpu) => cpu,
            Chosen::Device(device) => device.as_ref(),
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda(number: usize) -> Result<Arc<dyn Backend>, Failure> {
    match imma::cuda::Device::open(number) {
        Ok(device) => Ok(device),
        Err(error) => Err(Failure::new(format!(
            "device cuda:{number} is not available: {error}"
        ))),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(number: usize) -> Result<Arc<dyn Backend>, Failure> {
    Err(Failure::new(format!(
        "device cuda:{number} is not available: {}",
        cuda_status()
    )))
}

/// One sentence about the GPU.
pub fn cuda_status() -> String {
    imma::cuda::status().to_string()
}
