//! Who multiplies: one name for a kernel with its tile and its split of K.

use crate::cuda::kernels::{igemm_groupwise, igemm_sm80, igemm_sm90};
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// A kernel, its tile, and the parts into which K is split.
///
/// Written as `igemm_sm80:TILE/SPLITS`, `igemm_sm90:TILE/SPLITS`, `igemm_groupwise:TILE` or `cublaslt:CANDIDATE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Instance {
    /// Our GEMM through `mma.sync`.
    Sm80(igemm_sm80::Instance),
    /// Our GEMM of compute capability 9.0.
    Sm90(igemm_sm90::Instance),
    /// Our GEMM for weights whose scales change along K.
    Groupwise(igemm_groupwise::Instance),
    /// cuBLASLt, with this one of its candidates, and the epilogue behind it.
    CublasLt(usize),
}

impl Instance {
    /// The same with K in one part.
    pub(super) fn unsplit(self) -> Self {
        match self {
            Instance::Sm80(instance) => Instance::Sm80(instance.with_splits(1)),
            Instance::Sm90(instance) => Instance::Sm90(instance.with_splits(1)),
            whole @ (Instance::Groupwise(_) | Instance::CublasLt(_)) => whole,
        }
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Instance::Sm80(instance) => write!(f, "igemm_sm80:{instance}"),
            Instance::Sm90(instance) => write!(f, "igemm_sm90:{instance}"),
            Instance::Groupwise(instance) => write!(f, "igemm_groupwise:{instance}"),
            Instance::CublasLt(candidate) => write!(f, "cublaslt:{candidate}"),
        }
    }
}

impl FromStr for Instance {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("igemm_sm80", tile)) => return tile.parse().map(Instance::Sm80),
            Some(("igemm_sm90", tile)) => return tile.parse().map(Instance::Sm90),
            Some(("igemm_groupwise", tile)) => return tile.parse().map(Instance::Groupwise),
            Some(("cublaslt", number)) => {
                if let Ok(number) = number.parse() {
                    return Ok(Instance::CublasLt(number));
                }
            }
            None if text == "cublaslt" => return Ok(Instance::CublasLt(0)),
            _ => {}
        }
        Err(Error::Value {
            what: "the instance",
            found: format!("'{text}'"),
            expected: "igemm_sm80:TILE[/SPLITS], igemm_sm90:TILE[/SPLITS], igemm_groupwise:TILE, cublaslt or cublaslt:N"
                .into(),
        })
    }
}

/// How it is decided who multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Algorithm {
    /// By a pure function of problem and device; [`Plan`](super::Plan) prints its answer with the reason.
    #[default]
    Heuristic,
    /// The fastest of all, measured when the plan is made, or read from the [cache](super::ChoiceCache).
    Autotuned,
    /// By name.
    Instance(Instance),
}

impl From<Instance> for Algorithm {
    fn from(instance: Instance) -> Self {
        Algorithm::Instance(instance)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Algorithm::Heuristic => f.write_str("heuristic"),
            Algorithm::Autotuned => f.write_str("autotuned"),
            Algorithm::Instance(instance) => instance.fmt(f),
        }
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "heuristic" => Ok(Algorithm::Heuristic),
            "autotuned" => Ok(Algorithm::Autotuned),
            name if name.contains(':') || name == "cublaslt" => {
                name.parse().map(Algorithm::Instance)
            }
            _ => Err(Error::Value {
                what: "the algorithm",
                found: format!("'{text}'"),
                expected:
                    "heuristic, autotuned, igemm_sm80:TILE[/SPLITS], igemm_sm90:TILE[/SPLITS], \
                    igemm_groupwise:TILE, cublaslt or cublaslt:N"
                        .into(),
            }),
        }
    }
}
