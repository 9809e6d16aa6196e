//! The machine the emulator pretends to be.

/// Limits and attributes of one emulated device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceProfile {
    /// Marketing name, as `cuDeviceGetName` answers it.
    pub name: &'static str,
    /// Compute capability, major.
    pub cc_major: u32,
    /// Compute capability, minor.
    pub cc_minor: u32,
    /// Number of multiprocessors.
    pub sm_count: u32,
    /// Threads in a warp.
    pub warp_size: u32,
    /// Shared memory a block may use without opting in.
    pub max_shared_per_block: u32,
    /// Shared memory (static + dynamic) a block may use after opting in.
    pub max_shared_per_block_optin: u32,
    /// Shared memory of a multiprocessor.
    pub max_shared_per_sm: u32,
    /// Shared memory the driver keeps for itself in each block.
    pub reserved_shared_per_block: u32,
    /// 32-bit registers a block may use.
    pub regs_per_block: u32,
    /// 32-bit registers of a multiprocessor.
    pub regs_per_sm: u32,
    /// Threads of a block.
    pub max_threads_per_block: u32,
    /// Threads resident on a multiprocessor.
    pub max_threads_per_sm: u32,
    /// Blocks resident on a multiprocessor.
    pub max_blocks_per_sm: u32,
    /// Largest block, per axis.
    pub max_block_dim: [u32; 3],
    /// Largest grid, per axis.
    pub max_grid_dim: [u32; 3],
    /// Size of the L2 cache in bytes.
    pub l2_bytes: u32,
    /// Device memory in bytes.
    pub global_bytes: u64,
    /// Constant memory in bytes.
    pub const_bytes: u32,
    /// Core clock in kHz.
    pub clock_khz: u32,
    /// Memory clock in kHz.
    pub memory_clock_khz: u32,
    /// Width of the memory bus in bits.
    pub memory_bus_bits: u32,
}

impl DeviceProfile {
    /// An A100-like device: compute capability 8.0, 163 KiB of shared memory a block.
    pub fn sm80() -> Self {
        DeviceProfile {
            name: "Emulated sm_80",
            cc_major: 8,
            cc_minor: 0,
            sm_count: 108,
            warp_size: 32,
            max_shared_per_block: 48 * 1024,
            max_shared_per_block_optin: 163 * 1024,
            max_shared_per_sm: 164 * 1024,
            reserved_shared_per_block: 1024,
            regs_per_block: 65536,
            regs_per_sm: 65536,
            max_threads_per_block: 1024,
            max_threads_per_sm: 2048,
            max_blocks_per_sm: 32,
            max_block_dim: [1024, 1024, 64],
            max_grid_dim: [0x7fff_ffff, 65535, 65535],
            l2_bytes: 40 << 20,
            global_bytes: 40 << 30,
            const_bytes: 64 * 1024,
            clock_khz: 1_410_000,
            memory_clock_khz: 1_215_000,
            memory_bus_bits: 5120,
        }
    }

    /// An H200-like device: compute capability 9.0, 227 KiB of shared memory a block.
    pub fn sm90() -> Self {
        DeviceProfile {
            name: "Emulated sm_90",
            cc_major: 9,
            sm_count: 132,
            max_shared_per_block_optin: 227 * 1024,
            max_shared_per_sm: 228 * 1024,
            l2_bytes: 50 << 20,
            global_bytes: 80 << 30,
            clock_khz: 1_980_000,
            memory_clock_khz: 2_619_000,
            ..Self::sm80()
        }
    }

    /// The device named by `IMMA_FAKE_DEVICE` (`sm_80` or `sm_90`; unset means `sm_90`).
    ///
    /// # Errors
    /// The unknown name: a typing error must not test the wrong machine.
    pub fn from_env() -> Result<Self, String> {
        match std::env::var("IMMA_FAKE_DEVICE") {
            Err(_) => Ok(Self::sm90()),
            Ok(name) => Self::by_name(&name)
                .ok_or_else(|| format!("IMMA_FAKE_DEVICE={name}: want sm_80 or sm_90")),
        }
    }

    /// The device called `sm_80` or `sm_90`.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "sm_80" => Some(Self::sm80()),
            "sm_90" => Some(Self::sm90()),
            _ => None,
        }
    }

    /// Compute capability as one number: 80, 90.
    pub fn cc(&self) -> u32 {
        self.cc_major * 10 + self.cc_minor
    }
}
