//! Candidates for a product, and the workspace that each needs.
use super::descriptor::Preference;
use super::problem::{Arithmetic, Problem};
use super::status::{Result, Status};
use crate::driver::abi::Host;

const MARK: u64 = u64::from_le_bytes(*b"imma-alg");
const ALGO_BYTES: usize = 64;

/// What a candidate asks for: the longer the sums, the more workspace pays off.
const KINDS: [Kind; 3] = [
    Kind {
        id: 2,
        workspace: 32 << 20,
        from_k: 4096,
    },
    Kind {
        id: 1,
        workspace: 4 << 20,
        from_k: 512,
    },
    Kind {
        id: 0,
        workspace: 0,
        from_k: 0,
    },
];

struct Kind {
    id: u64,
    workspace: u64,
    from_k: u64,
}

/// The 64 bytes of a `cublasLtMatmulAlgo_t`: mark, id, kind of product.
pub struct AlgoBytes([u64; 8]);

/// `cublasLtMatmulHeuristicResult_t`.
pub struct HeuristicResult {
    algo: [u64; 8],
    workspace: u64,
    waves: f32,
}

impl HeuristicResult {
    /// Size of the struct.
    pub const BYTES: usize = 96;

    /// Algorithm, workspace, state (success), waves, reserved.
    pub fn encode(&self) -> Vec<u8> {
        let mut out: Vec<u8> = self.algo.iter().flat_map(|w| w.to_le_bytes()).collect();
        out.extend(self.workspace.to_le_bytes());
        out.extend(0u32.to_le_bytes());
        out.extend(self.waves.to_le_bytes());
        out.resize(Self::BYTES, 0);
        out
    }
}

impl AlgoBytes {
    /// Copies the caller's struct.
    pub fn read(from: Host) -> Result<Self> {
        let bytes = from.read(ALGO_BYTES)?;
        let mut words = [0; 8];
        for (word, eight) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = eight.try_into().map_or(0, u64::from_le_bytes);
        }
        Ok(AlgoBytes(words))
    }
}

/// An algorithm serves products of the same types only.
fn fingerprint(problem: &Problem) -> u64 {
    let types = [&problem.a, &problem.b, &problem.c, &problem.d].map(|l| l.data_type.0);
    types
        .into_iter()
        .chain([
            problem.scale.0,
            u32::from(problem.arithmetic == Arithmetic::Int8),
        ])
        .fold(1, |hash, n| hash * 64 + u64::from(n))
}

fn result(problem: &Problem, kind: &Kind) -> HeuristicResult {
    let tiles = problem.m.div_ceil(128) * problem.n.div_ceil(128);
    HeuristicResult {
        algo: [MARK, kind.id, fingerprint(problem), 0, 0, 0, 0, 0],
        workspace: kind.workspace,
        waves: tiles as f32 / 132.0,
    }
}

/// The candidates within the preferences, best first.
///
/// # Errors
/// `CUBLAS_STATUS_NOT_SUPPORTED` if the promised alignment is not enough.
pub fn candidates(problem: &Problem, preference: &Preference) -> Result<Vec<HeuristicResult>> {
    for (promised, needed) in preference.min_alignment.iter().zip(problem.alignment()) {
        if u64::from(*promised) < needed {
            return Err(Status::NOT_SUPPORTED.because(format!(
                "matrices aligned to {promised} bytes, want {needed}"
            )));
        }
    }
    let fits = |k: &&Kind| k.workspace <= preference.max_workspace && k.from_k <= problem.k;
    Ok(KINDS
        .iter()
        .filter(fits)
        .map(|k| result(problem, k))
        .collect())
}

/// Whether an algorithm computes a product, and with what workspace.
///
/// # Errors
/// It came from elsewhere, or from a product of other types.
pub fn check(problem: &Problem, algo: &AlgoBytes) -> Result<HeuristicResult> {
    let [mark, id, made_for, ..] = algo.0;
    let kind = KINDS.iter().find(|k| k.id == id);
    match kind {
        Some(kind) if mark == MARK && made_for == fingerprint(problem) => Ok(result(problem, kind)),
        Some(_) if mark == MARK => {
            Err(Status::NOT_SUPPORTED.because("the algorithm was found for other types"))
        }
        _ => Err(Status::INVALID_VALUE.because("an algorithm that no heuristic gave out")),
    }
}

/// Device memory that a product overwrites at will: address and size.
///
/// # Errors
/// Less than the algorithm needs, or misaligned.
pub fn workspace(problem: &Problem, algo: Host, address: u64, bytes: usize) -> Result<(u64, u64)> {
    const ALIGN: u64 = 16;
    let needed = match algo.address() {
        0 => 0,
        _ => check(problem, &AlgoBytes::read(algo)?)?.workspace,
    };
    if needed > bytes as u64 || (needed > 0 && address == 0) {
        return Err(Status::INVALID_VALUE.because(format!(
            "the algorithm needs {needed} bytes of workspace, {bytes} given"
        )));
    }
    if !address.is_multiple_of(ALIGN) {
        return Err(Status::INVALID_VALUE.because(format!(
            "workspace at {address:#x}, want {ALIGN}-byte alignment"
        )));
    }
    Ok((address, needed))
}
