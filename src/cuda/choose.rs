//! Which algorithm serves a product: a pure function of problem and device.

use super::device::Properties;
use super::spec::{Algorithm, Spec};

/// An algorithm, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    /// Which of cuBLASLt's candidates.
    pub candidate: usize,
    /// The reason, in words.
    pub why: String,
}

/// The algorithm for a product on a device of these properties.
pub(super) fn choose(spec: &Spec, properties: &Properties) -> Choice {
    let (candidate, why) = match spec.algorithm {
        Algorithm::CublasLtCandidate(i) => (i, "as asked for".into()),
        Algorithm::CublasLt => (0, "as asked for".into()),
        _ => (
            0,
            format!("cuBLASLt's own first choice on {}", properties.arch()),
        ),
    };
    Choice { candidate, why }
}
