//! Which kernel serves: the best one this CPU has, or one forced by name.

use super::amx::AmxEmulated;
use super::engine::Engine;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
use super::neon::{Neon, NeonDot};
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
use super::neon_i8mm::NeonI8mm;
use super::portable::Portable;
#[cfg(target_arch = "x86_64")]
use super::{
    amx::Amx,
    avx2::Avx2,
    avx512_vnni::Avx512Vnni,
    vnni256::{Avx512VlVnni, AvxVnni},
};

/// A kernel family for one instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelInfo {
    /// Its name, as [`Cpu::with_kernel`](super::Cpu::with_kernel) takes it.
    pub name: &'static str,
    /// Whether this machine can run it.
    pub available: bool,
}

macro_rules! engines {
    ($($(#[$cfg:meta])* $engine:ident),* $(,)?) => {
        /// The kernel in use. Holding a variant proves that this CPU runs it.
        #[derive(Clone, Copy)]
        pub(crate) enum Selected {
            $($(#[$cfg])* $engine($engine)),*
        }

        impl Selected {
            /// The best kernel of this CPU.
            pub fn best() -> Self {
                $($(#[$cfg])* {
                    if let Some(engine) = <$engine as Engine>::new() {
                        return Selected::$engine(engine);
                    }
                })*
                unreachable!("the portable kernel runs everywhere")
            }

            /// The kernel of that name, where this CPU has it.
            pub fn by_name(name: &str) -> Option<Self> {
                $($(#[$cfg])* {
                    if name == <$engine as Engine>::NAME {
                        return <$engine as Engine>::new().map(Selected::$engine);
                    }
                })*
                None
            }

            /// Every kernel of this build, best first.
            pub fn all() -> Vec<KernelInfo> {
                vec![$($(#[$cfg])* KernelInfo {
                    name: <$engine as Engine>::NAME,
                    available: <$engine as Engine>::new().is_some(),
                }),*]
            }
        }

        /// Runs an expression with the engine's own type.
        macro_rules! with_engine {
            ($selected:expr, $bound:ident => $body:expr) => {
                match $selected {
                    $($(#[$cfg])* $crate::cpu::select::Selected::$engine($bound) => $body),*
                }
            };
        }
        pub(crate) use with_engine;
    };
}

engines! {
    #[cfg(target_arch = "x86_64")]
    Amx,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx512VlVnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    NeonI8mm,
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    NeonDot,
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    Neon,
    Portable,
    // Never the best: the portable kernel comes before it and runs everywhere.
    AmxEmulated,
}
