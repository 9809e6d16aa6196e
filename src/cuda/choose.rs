//! Which algorithm serves a product: a pure function of problem and device.

use super::device::Properties;
use super::igemm::{self, Igemm, Limits};
use super::spec::{Algorithm, Spec};

/// Who multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Multiplier {
    /// Our GEMM, its epilogue with it.
    Igemm(Igemm),
    /// This one of cuBLASLt's candidates, and the epilogue behind it.
    CublasLt(usize),
}

impl Multiplier {
    /// The algorithm that asks for it by name.
    pub fn algorithm(self) -> Algorithm {
        match self {
            Multiplier::Igemm(igemm) => Algorithm::Igemm(igemm),
            Multiplier::CublasLt(candidate) => Algorithm::CublasLtCandidate(candidate),
        }
    }
}

/// An algorithm, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub multiplier: Multiplier,
    /// The reason, in words.
    pub why: String,
}

/// Compute capability that our GEMM needs.
const IGEMM: (u32, u32) = (8, 0);

/// The algorithm for a product on a device of these properties.
pub(super) fn choose(spec: &Spec, properties: &Properties) -> Choice {
    let asked = |multiplier| Choice {
        multiplier,
        why: "as asked for".into(),
    };
    match spec.algorithm {
        Algorithm::Igemm(igemm) => asked(Multiplier::Igemm(igemm)),
        Algorithm::CublasLtCandidate(i) => asked(Multiplier::CublasLt(i)),
        Algorithm::CublasLt => asked(Multiplier::CublasLt(0)),
        Algorithm::Heuristic | Algorithm::Autotuned if properties.capability < IGEMM => Choice {
            multiplier: Multiplier::CublasLt(0),
            why: format!("our GEMM needs sm_80, this is {}", properties.arch()),
        },
        Algorithm::Heuristic | Algorithm::Autotuned => {
            let limits = Limits::from(properties);
            let best = igemm::choose(spec.m, spec.n, spec.k, spec.aligned(), limits);
            Choice {
                multiplier: Multiplier::Igemm(Igemm {
                    tile: best.tile,
                    splits: best.splits,
                }),
                why: format!(
                    "{} blocks, {:.2} waves, {:.0} clocks by the model",
                    best.blocks, best.waves, best.clocks
                ),
            }
        }
    }
}
