//! Which algorithm serves a product: a pure function of problem and device.

use super::device::Properties;
use super::igemm::{self, Igemm, Limits};
use super::igemm90::{choose90, predict90, Igemm90};
use super::spec::{Algorithm, Input, Spec};

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

/// igemm_sm80 is taken where igemm_sm90 could run too only if the models, which share no constant, are this far apart.
const SURE: f64 = 0.9;

/// The algorithm for a product on a device of these properties, for which the build has igemm_sm90 or has not: the quicker by
/// the models of both, swapped operands being instances of igemm_sm90.
///
/// cuBLASLt is no candidate here where ours can run: it reads the same operands, writes sums of four bytes and has them read
/// by another kernel. Where it is quicker all the same, autotuning finds it.
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
        Algorithm::Heuristic | Algorithm::Autotuned => {
            let limits = Limits::from(properties);
            let best = igemm::choose(spec.m, spec.n, spec.k, spec.aligned(), limits);
            let sm80 = Choice {
                multiplier: Multiplier::Igemm(Igemm {
                    tile: best.tile,
                    splits: best.splits,
                }),
                why: format!(
                    "{} blocks, {:.2} waves, {:.1} us by the model",
                    best.blocks, best.waves, best.microseconds
                ),
            };
            // TMA reads aligned rows, and none of length zero.
            if !has_igemm90 || !spec.aligned() || spec.k == 0 {
                return sm80;
            }
            let best90 = choose90(spec.m, spec.n, spec.k, properties);
            if best.microseconds < SURE * best90.microseconds {
                return Choice {
                    why: format!("{}, igemm_sm90 {:.1}", sm80.why, best90.microseconds),
                    ..sm80
                };
            }
            Choice {
                multiplier: Multiplier::Igemm90(best90.igemm),
                why: format!(
                    "{} items, {:.2} waves, {:.1} us by the model, igemm_sm80 {:.1}",
                    best90.items, best90.waves, best90.microseconds, best.microseconds
                ),
            }
        }
    }
}

/// What the model says of a whole run in microseconds; `None` where cuBLASLt multiplies, of which there is none.
pub(super) fn predicted(
    spec: &Spec,
    multiplier: Multiplier,
    properties: &Properties,
) -> Option<f64> {
    let shape @ [m, n, k] = [spec.m, spec.n, spec.k];
    if m == 0 || n == 0 {
        return None;
    }
    let limits = Limits::from(properties);
    let product = match multiplier {
        Multiplier::Igemm(igemm) => igemm::predict(igemm, shape, limits).microseconds,
        Multiplier::Igemm90(igemm) => predict90(igemm, shape, properties).microseconds,
        Multiplier::CublasLt(_) => return None,
    };
    let another = |bytes: usize| igemm::NEXT_LAUNCH + bytes as f64 / limits.memory;
    let quantise = match spec.input {
        Input::Float(dtype, _) => another(m * k * (dtype.bytes() + 1)),
        Input::Int8 { .. } => 0.0,
    };
    // Sums that are finished once they are all there.
    let finish = if spec.per_token_output {
        another(9 * m * n)
    } else {
        0.0
    };
    Some(quantise + product + finish)
}
