//! Who multiplies: a pure function of problem and device, and the reason.

use super::candidates::{Ours, OURS};
use super::instance::{Algorithm, Instance};
use super::problem::Problem;
use crate::cuda::kernels::Candidate;
use crate::cuda::runtime::Properties;
use std::fmt;

/// An instance, and why.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    pub instance: Instance,
    pub reason: Reason,
}

/// Why an instance was chosen; put into words when it is printed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reason {
    Asked,
    /// Our GEMMs do not run on this architecture.
    TooOld((u32, u32)),
    /// No other kernel reads such weights.
    ScaleGroups,
    /// The quickest by the model, and what the best instance of another kernel would take.
    Model(Candidate<Instance>, Option<(Instance, f64)>),
    /// Microseconds, and of how many it was the best.
    Measured(f64, usize),
    /// Microseconds, from the cache.
    MeasuredEarlier(f64),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Asked => f.write_str("as asked for"),
            Reason::TooOld((major, minor)) => {
                write!(f, "our GEMM needs sm_80, this is sm_{major}{minor}")
            }
            Reason::ScaleGroups => f.write_str("scales change along K"),
            Reason::Model(best, other) => {
                write!(
                    f,
                    "{} blocks, {:.2} waves, {:.1} us by the model",
                    best.blocks, best.waves, best.microseconds
                )?;
                match other {
                    Some((instance, us)) => write!(f, ", {instance} {us:.1}"),
                    None => Ok(()),
                }
            }
            Reason::Measured(us, of) => write!(f, "measured: {us:.2} us, best of {of}"),
            Reason::MeasuredEarlier(us) => write!(f, "measured earlier: {us:.2} us"),
        }
    }
}

/// igemm_sm80 is taken where igemm_sm90 could run too only if the models, which share no constant, are this far apart.
const SURE: f64 = 0.9;

/// The instance for a problem on a device of these properties, for which the build has igemm_sm90 or does not: the quickest
/// by the models.
///
/// cuBLASLt is no candidate where ours can run: it reads the same operands, writes sums of four bytes and has them read
/// by another kernel. Where it is quicker all the same, autotuning finds it.
pub(super) fn choose(
    problem: &Problem,
    algorithm: Algorithm,
    device: &Properties,
    has_sm90: bool,
) -> Choice {
    if let Algorithm::Instance(instance) = algorithm {
        return Choice {
            instance,
            reason: Reason::Asked,
        };
    }
    let ours = Ours::of(problem, device, has_sm90);
    if let Some(instance) = ours.groupwise {
        return Choice {
            instance,
            reason: Reason::ScaleGroups,
        };
    }
    let of = |best: Candidate<Instance>, other: Option<Candidate<Instance>>| Choice {
        instance: best.instance,
        reason: Reason::Model(best, other.map(|o| (o.instance, o.microseconds))),
    };
    match (ours.sm80.first(), ours.sm90.first()) {
        (Some(sm80), Some(sm90)) if sm80.microseconds >= SURE * sm90.microseconds => {
            of(*sm90, Some(*sm80))
        }
        (Some(sm80), sm90) => of(*sm80, sm90.copied()),
        (None, _) => {
            debug_assert!(device.capability < OURS);
            Choice {
                instance: Instance::CublasLt(0),
                reason: Reason::TooOld(device.capability),
            }
        }
    }
}
