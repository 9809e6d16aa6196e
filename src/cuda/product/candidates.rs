//! Who could multiply a problem on a device, and what the models say of each.

use super::instance::Instance;
use super::problem::{Input, Problem};
use crate::cuda::kernels::cublaslt::{CublasLt, LtProduct, LtShape};
use crate::cuda::kernels::{
    igemm_groupwise, igemm_sm80, igemm_sm90, memory, Candidate, Terms, NEXT_LAUNCH,
};
use crate::cuda::runtime::{Device, Properties};
use crate::epilogue::Output;
use crate::error::{Error, Result};
use std::sync::Arc;

/// Compute capability that our GEMMs need.
pub(super) const OURS: (u32, u32) = (8, 0);

/// Our instances for a problem, the quickest of each kernel first; `has_sm90`: whether the device and the build have
/// igemm_sm90.
pub(super) struct Ours {
    pub sm80: Vec<Candidate<Instance>>,
    pub sm90: Vec<Candidate<Instance>>,
    pub groupwise: Option<Instance>,
}

impl Ours {
    pub fn of(problem: &Problem, device: &Properties, has_sm90: bool) -> Self {
        let (shape, aligned) = (problem.shape(), problem.aligned());
        let none = Ours {
            sm80: Vec::new(),
            sm90: Vec::new(),
            groupwise: None,
        };
        if device.capability < OURS {
            return none;
        }
        if problem.scale_group.is_some() {
            let instance = igemm_groupwise::choose(shape, aligned, device);
            return Ours {
                groupwise: Some(Instance::Groupwise(instance)),
                ..none
            };
        }
        let sm80 = igemm_sm80::candidates(shape, aligned, device);
        // TMA reads aligned rows, and none of length zero.
        let sm90 = if has_sm90 && aligned && problem.k > 0 {
            igemm_sm90::candidates(shape, device)
        } else {
            Vec::new()
        };
        let sm80 = sm80.into_iter().map(|c| c.map(Instance::Sm80));
        let sm90 = sm90.into_iter().map(|c| c.map(Instance::Sm90));
        Ours {
            sm80: sm80.collect(),
            sm90: sm90.collect(),
            groupwise: None,
        }
    }
}

/// cuBLASLt's product for a problem whose left operand has rows of `lda`, with `depth` of them to read, and whose sums have
/// rows of `ldc`; none without a contracted dimension.
///
/// # Errors
/// Those of the library, and [`Error::Unavailable`] where it is not there.
pub(super) fn library(
    device: &Device,
    problem: &Problem,
    [lda, depth, ldc]: [usize; 3],
) -> Result<Option<Arc<LtProduct>>> {
    if problem.scale_group.is_some() {
        return Err(Error::Unavailable {
            what: "cuBLASLt for",
            found: "weights with scales along K".into(),
            expected: "one scale an output; igemm_groupwise runs others".into(),
        });
    }
    let kp = problem.k.next_multiple_of(super::problem::PAD);
    if problem.shape().outputs() == 0 || depth == 0 {
        return Ok(None);
    }
    let shape = LtShape {
        ld: [lda, kp, ldc],
        ..LtShape::new(problem.m, ldc, depth)
    };
    CublasLt::of(device)?.product(shape).map(Some)
}

/// What the models say of a whole run, quantising and finishing included; `None` where there is no model.
pub(super) fn predict(
    problem: &Problem,
    instance: Instance,
    device: &Properties,
) -> Option<Prediction> {
    let shape = problem.shape();
    if shape.outputs() == 0 {
        return None;
    }
    let terms = match instance {
        Instance::Sm80(instance) => igemm_sm80::predict(instance, shape, device).terms,
        Instance::Sm90(instance) => igemm_sm90::predict(instance, shape, device).terms,
        Instance::Groupwise(_) | Instance::CublasLt(_) => return None,
    };
    let another = |bytes: usize| NEXT_LAUNCH + bytes as f64 / memory(device);
    let quantise = match problem.input {
        Input::Float(dtype, _) => another(shape.m * shape.k * (dtype.bytes() + 1)),
        Input::Int8 { .. } => 0.0,
    };
    // Sums that are finished once they are all there.
    let finish = match problem.epilogue.output {
        Output::Int8PerRow => another(9 * shape.outputs()),
        _ => 0.0,
    };
    Some(Prediction {
        microseconds: quantise + terms.whole() + finish,
        product: terms,
        quantise,
        finish,
    })
}

/// What the cost models say of a run, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Prediction {
    /// The whole run.
    pub microseconds: f64,
    /// The product's kernel, by terms.
    pub product: Terms,
    /// The kernel that quantises the left operand's rows ahead of it.
    pub quantise: f64,
    /// The kernel that finishes sums behind it.
    pub finish: f64,
}

impl Prediction {
    /// The term that the run spends most of its time in, by name: the first to doubt where a measurement differs.
    pub fn dominant(&self) -> (&'static str, f64) {
        let all = [
            ("multiply", self.product.multiply),
            ("memory", self.product.memory),
            ("launch", self.product.fixed),
            ("quantise", self.quantise),
            ("finish", self.finish),
        ];
        let larger = |a: (&'static str, f64), b: (&'static str, f64)| if b.1 > a.1 { b } else { a };
        all.into_iter().reduce(larger).expect("there are terms")
    }
}
