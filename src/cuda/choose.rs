//! Which algorithm serves a product: a pure function of problem and device.

use super::device::Properties;
use super::igemm::{self, Igemm, Limits};
use super::igemm90::{choose90, Igemm90};
use super::spec::{Algorithm, Spec};

/// Who multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Multiplier {
    /// Our GEMM, its epilogue with it.
    Igemm(Igemm),
    /// The same for compute capability 9.0.
    Igemm90(Igemm90),
    /// This one of cuBLASLt's candidates, and the epilogue behind it.
    CublasLt(usize),
}

impl Multiplier {
    /// The algorithm that asks for it by name.
    pub fn algorithm(self) -> Algorithm {
        match self {
            Multiplier::Igemm(igemm) => Algorithm::Igemm(igemm),
            Multiplier::Igemm90(igemm) => Algorithm::Igemm90(igemm),
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

/// The algorithm for a product on a device of these properties, for which the build has igemm_sm90 or has not.
pub(super) fn choose(spec: &Spec, properties: &Properties, has_igemm90: bool) -> Choice {
    let asked = |multiplier| Choice {
        multiplier,
        why: "as asked for".into(),
    };
    match spec.algorithm {
        Algorithm::Igemm(igemm) => asked(Multiplier::Igemm(igemm)),
        Algorithm::Igemm90(igemm) => asked(Multiplier::Igemm90(igemm)),
        Algorithm::CublasLtCandidate(i) => asked(Multiplier::CublasLt(i)),
        Algorithm::CublasLt => asked(Multiplier::CublasLt(0)),
        Algorithm::Heuristic | Algorithm::Autotuned if properties.capability < IGEMM => Choice {
            multiplier: Multiplier::CublasLt(0),
            why: format!("our GEMM needs sm_80, this is {}", properties.arch()),
        },
        // TMA reads aligned rows, and none of length zero.
        Algorithm::Heuristic | Algorithm::Autotuned
            if has_igemm90 && spec.aligned() && spec.k > 0 =>
        {
            let best = choose90(spec.m, spec.n, spec.k, properties);
            Choice {
                multiplier: Multiplier::Igemm90(best.igemm),
                why: format!(
                    "{} items, {:.2} waves, {:.1} us by the model",
                    best.items, best.waves, best.microseconds
                ),
            }
        }
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
