//! Who multiplies: a pure function of problem and device, and the reason.

use super::candidates::{Ours, OURS};
use super::instance::Instance;
use super::problem::Problem;
use crate::cuda::kernels::{cublaslt, igemm_sm90, Candidate, Shape};
use crate::cuda::runtime::{Device, Properties};
use std::fmt;

/// What a build and a machine have beyond igemm_sm80.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Kernels {
    pub sm90: bool,
    pub library: bool,
}

impl Kernels {
    /// Opens the library only where it could be chosen: that takes its time.
    pub fn of(device: &Device) -> Self {
        let one = Shape::new(1, 1, 1);
        let eligible = cublaslt::predict(one, device.properties()).is_some();
        Kernels {
            sm90: igemm_sm90::available(device).is_ok(),
            library: eligible && cublaslt::CublasLt::of(device).is_ok(),
        }
    }
}

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
    /// The library has instructions that ours lack: microseconds of both by the models.
    Library(f64, Candidate<Instance>),
    /// Microseconds, and of how many it was the best.
    Measured(f64, usize),
    /// Microseconds, from the cache.
    MeasuredEarlier(f64),
}

/// A choice of the caller's.
pub(super) fn asked(instance: Instance) -> Choice {
    Choice {
        instance,
        reason: Reason::Asked,
    }
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
            Reason::Library(us, ours) => write!(
                f,
                "{us:.1} us by the model, with instructions that no kernel of ours has here; {} {:.1}",
                ours.instance, ours.microseconds
            ),
            Reason::Measured(us, of) => write!(f, "measured: {us:.2} us, best of {of}"),
            Reason::MeasuredEarlier(us) => write!(f, "measured earlier: {us:.2} us"),
        }
    }
}

/// igemm_sm80 is taken where igemm_sm90 could run too only if the models, which share no constant, are this far apart.
const SURE: f64 = 0.9;

/// The instance for a problem on a device of these properties, with the kernels that there are: the quickest by the models.
///
/// cuBLASLt is no candidate where ours run on the architecture's own instructions: it reads the same operands, writes sums of
/// four bytes and has them read by another kernel. Where it is quicker all the same, autotuning finds it. On 10.0 ours are
/// `mma.sync`, a fraction of what `tcgen05` does: there large products are the library's.
pub(super) fn choose(problem: &Problem, device: &Properties, kernels: Kernels) -> Choice {
    let ours = Ours::of(problem, device, kernels.sm90);
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
        (Some(sm80), None) if kernels.library => match cublaslt::predict(problem.shape(), device) {
            Some(us) if us < SURE * sm80.microseconds => Choice {
                instance: Instance::CublasLt(0),
                reason: Reason::Library(us, *sm80),
            },
            _ => of(*sm80, None),
        },
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    fn device(capability: (u32, u32)) -> Properties {
        Properties {
            capability,
            multiprocessors: 148,
            shared_memory: 227 << 10,
            l2: 126 << 20,
            clock: 1850,
            bandwidth: 7_700_000,
            ..Properties::default()
        }
    }

    fn chosen(m: usize, capability: (u32, u32), library: bool) -> Choice {
        let problem = Problem::floats(m, 8192, 8192, DType::BF16, DType::BF16);
        let sm90 = capability == (9, 0);
        let kernels = Kernels { sm90, library };
        choose(&problem, &device(capability), kernels)
    }

    /// Large products are the library's where it alone has the architecture's int8 instructions, and nowhere else.
    #[test]
    fn the_library_is_chosen_where_ours_lack_the_instructions() {
        let library = |choice: &Choice| matches!(choice.instance, Instance::CublasLt(_));
        let large = chosen(8192, (10, 0), true);
        assert!(library(&large), "{large:?}");
        assert!(
            large.reason.to_string().contains("igemm_sm80:"),
            "{large:?}"
        );
        for ours in [
            chosen(1, (10, 0), true),
            chosen(16, (10, 0), true),
            chosen(8192, (10, 0), false),
            chosen(8192, (10, 3), true),
            chosen(8192, (8, 0), true),
            chosen(8192, (9, 0), true),
            chosen(8192, (12, 0), true),
        ] {
            assert!(!library(&ours), "{ours:?}");
        }
    }
}
