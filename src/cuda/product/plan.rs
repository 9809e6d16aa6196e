//! A product with everything decided beforehand: kernels and workspace.

use super::candidates::{library, predict, Prediction};
use super::choose::Choice;
use super::instance::Instance;
use super::problem::{Input, Problem, PAD};
use crate::cuda::kernels::cublaslt::LtProduct;
use crate::cuda::kernels::igemm_sm90::{self, TensorMaps};
use crate::cuda::runtime::{Device, Layout};
use crate::epilogue::Output;
use crate::error::{Error, Result};
use crate::gemm::ActivationQuant;
use std::fmt;
use std::sync::Arc;

/// A product of one shape on one device, ready to run any number of times.
///
/// [`run`](Self::run) allocates nothing and waits for nothing, so it can be captured in a graph (cudarc's event
/// tracking must be off before the buffers are allocated). May be used from any thread; runs that may overlap need
/// workspaces of their own. The bits of the result are those of the CPU backend, whatever the algorithm.
///
/// Cheap to clone: clones share what was decided.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) device: Arc<Device>,
    pub(super) core: Arc<Core>,
}

/// What was decided, apart from the device that it is for: a device can keep it.
#[derive(Debug)]
pub(super) struct Core {
    pub problem: Problem,
    choice: Choice,
    pub multiply: Multiply,
    /// The left operand is copied to rows of `lda` first: quantised, or padded for cuBLASLt.
    pub staged: Staging,
    pub lda: usize,
    pub layout: Layout<PARTS>,
    /// What TMA knows of the operands, made by the first run.
    pub maps: TensorMaps,
}

/// The parts of a plan's workspace: rows of integers, what they are turned in, their scales and zero points, sums, what the
/// library asks for.
pub(super) const PARTS: usize = 6;
pub(super) const STAGED: usize = 0;
pub(super) const TURNED: usize = 1;
pub(super) const SCALES: usize = 2;
pub(super) const ZEROS: usize = 3;
pub(super) const SUMS: usize = 4;
pub(super) const LIBRARY: usize = 5;

/// How the integers are multiplied.
#[derive(Debug)]
pub(super) enum Multiply {
    /// By one of ours, with the epilogue in the same kernel or right behind it.
    Ours(Instance),
    /// By the library to sums with rows of `ldc`, padding included, and the epilogue behind them; without a product, zeros.
    Library {
        product: Option<Arc<LtProduct>>,
        candidate: usize,
        ldc: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Staging {
    /// Read where it lies.
    None,
    /// Quantised floats.
    Quantized,
    /// Integers turned twice, which brings the padding.
    Padded,
}

impl Plan {
    /// The plan for a problem that was checked, by an instance that was chosen.
    pub(super) fn with_choice(device: &Device, problem: Problem, choice: Choice) -> Result<Self> {
        let instance = ready(device, &problem, choice.instance)?;
        let k = problem.k;
        let ours = !matches!(instance, Instance::CublasLt(_));
        let (staged, lda) = match problem.input {
            Input::Float(..) => (Staging::Quantized, k.next_multiple_of(PAD)),
            // cuBLASLt wants aligned addresses and multiples of four; our GEMM takes what there is.
            Input::Int8 { stride, aligned }
                if ours || (aligned && k.is_multiple_of(4) && stride.is_multiple_of(4)) =>
            {
                (Staging::None, stride)
            }
            Input::Int8 { .. } => (Staging::Padded, k.next_multiple_of(PAD)),
        };
        let multiply = match instance {
            Instance::CublasLt(candidate) => by_library(device, &problem, candidate, staged, lda)?,
            ours => Multiply::Ours(ours),
        };
        let layout = layout(&problem, &multiply, staged, lda)?;
        let core = Core {
            problem,
            choice: Choice { instance, ..choice },
            multiply,
            staged,
            lda,
            layout,
            maps: TensorMaps::default(),
        };
        Ok(Plan {
            device: device.arc(),
            core: Arc::new(core),
        })
    }

    /// The kernel that multiplies, with its tile and split.
    pub fn kernel(&self) -> String {
        match &self.core.multiply {
            Multiply::Ours(Instance::Sm80(instance)) => format!("igemm_sm80 {instance}"),
            Multiply::Ours(Instance::Sm90(instance)) => format!("igemm_sm90 {instance}"),
            Multiply::Ours(Instance::Groupwise(instance)) => format!("igemm_groupwise {instance}"),
            Multiply::Ours(instance) => instance.to_string(),
            Multiply::Library { product: None, .. } => "zeros (K is 0)".into(),
            Multiply::Library {
                product: Some(product),
                candidate,
                ..
            } => {
                let all = product.candidates();
                let waves = all.get(*candidate).map_or(0.0, |c| c.waves());
                format!(
                    "cuBLASLt, candidate {candidate} of {}, {waves:.2} waves",
                    all.len()
                )
            }
        }
    }

    /// How many candidates the library offers, where it multiplies.
    pub(super) fn library_candidates(&self) -> usize {
        match &self.core.multiply {
            Multiply::Library {
                product: Some(product),
                ..
            } => product.candidates().len(),
            _ => 0,
        }
    }

    /// What was chosen, so that it can be asked for by name.
    pub fn instance(&self) -> Instance {
        self.core.choice.instance
    }

    /// What the cost model says of a run, in microseconds: quantising, the product and what finishes it. `None` where
    /// there is no model (cuBLASLt, scales along K), and for products without elements.
    ///
    /// Its constants are datasheets' and other projects' figures: compare it with a measurement, as `imma bench` does.
    pub fn predicted_microseconds(&self) -> Option<f64> {
        self.prediction().map(|p| p.microseconds)
    }

    /// The same by terms.
    pub fn prediction(&self) -> Option<Prediction> {
        predict(
            &self.core.problem,
            self.core.choice.instance,
            self.device.properties(),
        )
    }

    /// What it was made for.
    pub fn problem(&self) -> &Problem {
        &self.core.problem
    }

    /// The device that it runs on.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Bytes of workspace that a run needs, at an address that is a multiple of 256 (as any allocation's is).
    pub fn workspace_bytes(&self) -> usize {
        self.core.layout.bytes()
    }

    /// Whether the library's sums are the result as they are.
    pub(super) fn writes_sums(&self, ldc: usize) -> bool {
        sums_are_result(&self.core.problem, ldc)
    }
}

/// What runs, in one line.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem {
            m, n, k, epilogue, ..
        } = &self.core.problem;
        write!(
            f,
            "[{m}, {k}] x [{k}, {n}] -> {}: ",
            epilogue.output.dtype()
        )?;
        match self.core.staged {
            Staging::None => {}
            Staging::Quantized => f.write_str("quantise rows, ")?,
            Staging::Padded => f.write_str("pad rows, ")?,
        }
        write!(f, "{}", self.kernel())?;
        let apart = match &self.core.multiply {
            Multiply::Ours(Instance::Sm80(instance)) if instance.splits > 1 => true,
            // Else the epilogue is in the kernel.
            Multiply::Ours(_) => epilogue.output == Output::Int8PerRow,
            Multiply::Library { ldc, .. } => !self.writes_sums(*ldc),
        };
        if apart {
            f.write_str(", epilogue")?;
        }
        let bytes = self.core.layout.bytes();
        write!(f, "; workspace {bytes} bytes; {}", self.core.choice.reason)
    }
}

/// Refuses an instance that can't serve a problem on a device; an instance of igemm_sm90 learns when its weights are ready.
fn ready(device: &Device, problem: &Problem, instance: Instance) -> Result<Instance> {
    if problem.scale_group.is_some() && !matches!(instance, Instance::Groupwise(_)) {
        return Err(Error::Unavailable {
            what: "kernel",
            found: instance.to_string(),
            expected: "igemm_groupwise, for weights with scales along K".into(),
        });
    }
    match instance {
        Instance::Sm80(sm80) => {
            let tile = sm80.tile;
            check_tile(device, problem, tile.name, tile.shared(), tile.aligned)?;
        }
        Instance::Groupwise(groupwise) => {
            if problem.scale_group.is_none() {
                return Err(Error::Unavailable {
                    what: "kernel",
                    found: instance.to_string(),
                    expected: "weights with scales along K".into(),
                });
            }
            let tile = groupwise.tile;
            check_tile(device, problem, tile.name, tile.shared(), tile.aligned)?;
        }
        Instance::Sm90(sm90) => {
            igemm_sm90::available(device)?;
            if problem.k == 0 || !problem.aligned() {
                return Err(Error::Unavailable {
                    what: "igemm_sm90",
                    found: format!("K = {} with {:?}", problem.k, problem.input),
                    expected: "K of at least 1, and rows that start at multiples of 16 bytes; other operands go to igemm_sm80"
                        .into(),
                });
            }
            return Ok(Instance::Sm90(igemm_sm90::Instance {
                // Quantising runs ahead of the product, and weights were complete before that started. Integers come from
                // the caller: what ran ahead of them may have packed the weights.
                weights_ready: matches!(problem.input, Input::Float(..)),
                ..sm90
            }));
        }
        Instance::CublasLt(_) => {}
    }
    Ok(instance)
}

/// Whether a tile fits the device, and the operands the tile.
fn check_tile(
    device: &Device,
    problem: &Problem,
    name: &str,
    shared: usize,
    aligned: bool,
) -> Result<()> {
    let most = device.properties().shared_memory as usize;
    if shared > most {
        return Err(Error::Unavailable {
            what: "tile",
            found: name.into(),
            expected: format!(
                "it takes {shared} bytes of shared memory a block, the device has {most}"
            ),
        });
    }
    if aligned && !problem.aligned() {
        return Err(Error::Value {
            what: "the left operand's rows",
            found: format!("{:?}", problem.input),
            expected: format!(
                "rows that start at multiples of 16 bytes for the tile {name}; those named _any take any"
            ),
        });
    }
    Ok(())
}

/// Whether sums in rows of `ldc` are the result as they are.
fn sums_are_result(problem: &Problem, ldc: usize) -> bool {
    problem.raw() && ldc == problem.n
}

fn by_library(
    device: &Device,
    problem: &Problem,
    candidate: usize,
    staged: Staging,
    lda: usize,
) -> Result<Multiply> {
    // The rows of zeros that the weights are padded with make columns that nobody reads.
    let ldc = problem.n.next_multiple_of(4);
    let depth = match staged {
        Staging::None => problem.k,
        _ => problem.k.next_multiple_of(PAD),
    };
    let product = library(device, problem, [lda, depth, ldc])?;
    if let Some(product) = &product {
        let count = product.candidates().len();
        if candidate >= count {
            return Err(Error::Unavailable {
                what: "cuBLASLt candidate",
                found: candidate.to_string(),
                expected: format!("there are {count}, counted from 0"),
            });
        }
    }
    Ok(Multiply::Library {
        product,
        candidate,
        ldc,
    })
}

/// The sizes of the workspace's parts.
fn layout(
    problem: &Problem,
    multiply: &Multiply,
    staged: Staging,
    lda: usize,
) -> Result<Layout<PARTS>> {
    let (m, n, k) = (problem.m, problem.n, problem.k);
    let too_large = || Error::Value {
        what: "the product",
        found: format!("[{m}, {k}] x [{k}, {n}]"),
        expected: "one whose operands the address space holds".into(),
    };
    let bytes = |sizes: [usize; 3]| {
        let product = sizes.iter().try_fold(1usize, |p, s| p.checked_mul(*s));
        product.ok_or_else(too_large)
    };
    let only = |condition: bool, sizes| if condition { bytes(sizes) } else { Ok(0) };
    let floats = matches!(problem.input, Input::Float(..));
    let own_zeros = matches!(
        problem.input,
        Input::Float(_, ActivationQuant::PerTokenAsymmetric)
    );
    let output = problem.epilogue.output;
    let (sums, library) = match multiply {
        Multiply::Ours(instance) => {
            let splits = match instance {
                Instance::Sm80(instance) => instance.splits,
                _ => 1,
            };
            // Whether the numbers below can be written at all.
            bytes([splits + 4, bytes([m, n, 1])?, 8])?;
            let elements = match instance {
                Instance::Sm80(instance) => instance.workspace(m, n, output),
                Instance::Sm90(instance) => instance.workspace(m, n, output),
                Instance::Groupwise(_) | Instance::CublasLt(_) => 0,
            };
            (4 * elements, 0)
        }
        Multiply::Library {
            product,
            candidate,
            ldc,
        } => {
            let direct = sums_are_result(problem, *ldc);
            let library = product
                .as_ref()
                .and_then(|p| p.candidates().get(*candidate));
            (
                only(!direct, [m, *ldc, 4])?,
                library.map_or(0, |c| c.workspace_bytes()),
            )
        }
    };
    let mut parts = [0; PARTS];
    parts[STAGED] = only(staged != Staging::None, [m, lda, 1])?;
    parts[TURNED] = only(staged == Staging::Padded, [k, m, 1])?;
    parts[SCALES] = only(floats, [m, 4, 1])?;
    parts[ZEROS] = only(own_zeros, [m, 4, 1])?;
    parts[SUMS] = sums;
    parts[LIBRARY] = library;
    Layout::new(parts).ok_or_else(too_large)
}
