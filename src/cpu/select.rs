//! Which leaf serves: the best one this CPU has, or one forced by name.

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
pub struct LeafInfo {
    /// Its name, as [`Cpu::with_leaf`](super::Cpu::with_leaf) takes it.
    pub name: &'static str,
    /// Whether this machine can run it.
    pub available: bool,
}

macro_rules! kernels {
    ($($(#[$cfg:meta])* $leaf:ident),* $(,)?) => {
        /// The leaf in use. Holding a variant proves that this CPU runs it.
        #[derive(Clone, Copy)]
        pub(crate) enum Kernel {
            $($(#[$cfg])* $leaf($leaf)),*
        }

        impl Kernel {
            /// The best leaf of this CPU.
            pub fn best() -> Self {
                $($(#[$cfg])* {
                    if let Some(leaf) = <$leaf as Engine>::new() {
                        return Kernel::$leaf(leaf);
                    }
                })*
                unreachable!("the portable leaf runs everywhere")
            }

            /// The leaf of that name, where this CPU has it.
            pub fn by_name(name: &str) -> Option<Self> {
                $($(#[$cfg])* {
                    if name == <$leaf as Engine>::NAME {
                        return <$leaf as Engine>::new().map(Kernel::$leaf);
                    }
                })*
                None
            }

            /// Every leaf of this build, best first.
            pub fn all() -> Vec<LeafInfo> {
                vec![$($(#[$cfg])* LeafInfo {
                    name: <$leaf as Engine>::NAME,
                    available: <$leaf as Engine>::new().is_some(),
                }),*]
            }
        }

        /// Runs an expression with the leaf's own type.
        macro_rules! with_leaf {
            ($kernel:expr, $bound:ident => $body:expr) => {
                match $kernel {
                    $($(#[$cfg])* $crate::cpu::select::Kernel::$leaf($bound) => $body),*
                }
            };
        }
        pub(crate) use with_leaf;
    };
}

kernels! {
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
    // Never the best: the portable leaf comes before it and runs everywhere.
    AmxEmulated,
}
