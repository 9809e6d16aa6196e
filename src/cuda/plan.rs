//! A product with everything decided beforehand: kernels, workspace, constants.

use super::choose::{choose, Choice, Multiplier};
use super::finish::sums_before;
use super::igemm::{Igemm, Limits};
use super::igemm90::{Igemm90, TensorMaps};
use super::launch::driver;
use super::module::Device;
use super::spec::{Algorithm, Input, Spec};
use super::sums::Sums;
use super::weights::{upload, PAD};
use super::workspace::Parts;
use crate::error::{Error, Result};
use crate::gemm::ActivationQuant;
use cudarc::driver::CudaSlice;
use std::fmt;
use std::sync::Arc;

/// A product of one shape on one device, ready to run any number of times.
///
/// [`run`](Self::run) allocates nothing and waits for nothing, so it can be captured in a graph (cudarc's event
/// tracking must be off before the buffers are allocated). May be used from any thread; runs that may overlap need
/// workspaces of their own. The bits of the result are those of the CPU backend, whatever the algorithm.
#[derive(Debug)]
pub struct Plan {
    pub(super) device: Arc<Device>,
    pub(super) spec: Spec,
    choice: Choice,
    pub(super) multiply: Multiply,
    /// The left operand is copied to rows of `lda` first: quantised, or padded for cuBLASLt.
    pub(super) staged: Staging,
    pub(super) lda: usize,
    pub(super) parts: Parts,
    /// The scale and zero point of every row, where they are known beforehand.
    pub(super) static_scale: Option<CudaSlice<f32>>,
    pub(super) static_zero: Option<CudaSlice<i32>>,
}

/// How the integers are multiplied.
#[derive(Debug)]
pub(super) enum Multiply {
    /// With the epilogue in the same kernel; `any` serves integers of the caller's that start at odd addresses.
    Fused { by: Fused, any: Igemm },
    /// Sums with rows of `ldc`, padding included, and the epilogue behind them.
    Sums { sums: Sums, ldc: usize },
}

/// Which of our GEMMs.
#[derive(Debug)]
pub(super) enum Fused {
    Sm80(Igemm),
    /// With what TMA knows of the operands, made by the first run.
    Sm90(Igemm90, TensorMaps),
}

impl Fused {
    /// int32 elements of workspace for an `[m, n]` product; `whole`: whose sums are needed as such.
    pub fn workspace(&self, m: usize, n: usize, whole: bool) -> usize {
        match self {
            Fused::Sm80(igemm) => sm80_workspace(*igemm, m, n, whole),
            Fused::Sm90(igemm, _) if whole => sums_before(m, n) + igemm.workspace(m, n),
            Fused::Sm90(igemm, _) => igemm.workspace(m, n),
        }
    }
}

/// The same for igemm_sm80.
pub(super) fn sm80_workspace(igemm: Igemm, m: usize, n: usize, whole: bool) -> usize {
    if whole {
        igemm.workspace_quantized(m, n)
    } else {
        igemm.workspace(m, n)
    }
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
    /// Decides everything for a product.
    ///
    /// May allocate a constant on the device, and measures where the algorithm is
    /// [`Autotuned`](Algorithm::Autotuned) and the cache has no answer.
    ///
    /// # Errors
    /// [`Error::Epilogue`] and [`Error::Value`] for parts that contradict each other, [`Error::KTooLong`] when int32
    /// could overflow, [`Error::Unavailable`] for an algorithm that this device has not.
    pub fn new(device: &Device, spec: Spec) -> Result<Self> {
        spec.check()?;
        let choice = match &spec.algorithm {
            Algorithm::Autotuned => super::autotune::choice(device, &spec)?,
            _ => choose(&spec, device.properties(), device.has_igemm90().is_ok()),
        };
        Self::with_choice(device, spec, choice)
    }

    pub(super) fn with_choice(device: &Device, spec: Spec, choice: Choice) -> Result<Self> {
        let (m, n, k) = (spec.m, spec.n, spec.k);
        let kp = k.next_multiple_of(PAD);
        let fused = !matches!(choice.multiplier, Multiplier::CublasLt(_));
        let (staged, lda) = match spec.input {
            Input::Float(..) => (Staging::Quantized, kp),
            // cuBLASLt wants multiples of four; our GEMM takes what there is.
            Input::Int8 { stride, .. }
                if fused || (k.is_multiple_of(4) && stride.is_multiple_of(4)) =>
            {
                (Staging::None, stride)
            }
            Input::Int8 { .. } => (Staging::Padded, kp),
        };
        let (multiply, library) = match choice.multiplier {
            Multiplier::Igemm(igemm) => (fused_by(device, &spec, igemm)?, 0),
            Multiplier::Igemm90(igemm) => (fused_by90(device, &spec, igemm)?, 0),
            Multiplier::CublasLt(candidate) => {
                // The rows of zeros that the weights are padded with make columns that nobody reads.
                let ldc = n.next_multiple_of(4);
                let depth = if staged == Staging::None { k } else { kp };
                let sums = if m == 0 || n == 0 {
                    Sums::Nothing
                } else {
                    Sums::cublaslt(device, [m, ldc, depth], [lda, kp, ldc], candidate)?
                };
                let library = sums.workspace_bytes();
                (Multiply::Sums { sums, ldc }, library)
            }
        };
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
        let per_row = matches!(
            spec.input,
            Input::Float(
                _,
                ActivationQuant::PerToken | ActivationQuant::PerTokenAsymmetric
            )
        );
        let parts = Parts::new([
            only(staged != Staging::None, [m, lda, 1])?,
            only(staged == Staging::Padded, [k, m, 1])?,
            only(per_row, [m, 4, 1])?,
            only(per_row && spec.zero_points(), [m, 4, 1])?,
            match &multiply {
                Multiply::Fused { by, any } => {
                    // Whether the numbers below can be written at all.
                    bytes([any.splits + 4, bytes([m, n, 1])?, 8])?;
                    let whole = spec.per_token_output;
                    4 * by
                        .workspace(m, n, whole)
                        .max(sm80_workspace(*any, m, n, whole))
                }
                // Written to the result itself.
                Multiply::Sums { ldc, .. } if spec.raw() && *ldc == n => 0,
                Multiply::Sums { ldc, .. } => bytes([m, *ldc, 4])?,
            },
            library,
        ])
        .ok_or_else(too_large)?;
        let (mut static_scale, mut static_zero) = (None, None);
        if let Input::Float(
            _,
            quant @ (ActivationQuant::Static { scale }
            | ActivationQuant::StaticAsymmetric { scale, .. }),
        ) = spec.input
        {
            let stream = device.stream()?;
            static_scale = Some(upload(stream, &[scale])?);
            if let ActivationQuant::StaticAsymmetric { zero_point, .. } = quant {
                static_zero = Some(upload(stream, &[zero_point])?);
            }
            // They are read on other streams.
            stream
                .synchronize()
                .map_err(driver("cuStreamSynchronize"))?;
        }
        Ok(Plan {
            device: device.arc(),
            spec,
            choice,
            multiply,
            staged,
            lda,
            parts,
            static_scale,
            static_zero,
        })
    }

    /// The kernel that multiplies.
    pub fn kernel(&self) -> String {
        match &self.multiply {
            Multiply::Fused { by, .. } => match by {
                Fused::Sm80(igemm) => format!("igemm_sm80 {igemm}"),
                Fused::Sm90(igemm, _) => format!("igemm_sm90 {igemm}"),
            },
            Multiply::Sums { sums, .. } => sums.to_string(),
        }
    }

    /// The product of cuBLASLt, where that multiplies.
    pub(super) fn sums(&self) -> Option<&Sums> {
        match &self.multiply {
            Multiply::Fused { .. } => None,
            Multiply::Sums { sums, .. } => Some(sums),
        }
    }

    /// The algorithm that was chosen, so that it can be asked for by name.
    pub fn algorithm(&self) -> Algorithm {
        self.choice.multiplier.algorithm()
    }

    /// What the cost model says of a run, in microseconds: quantising, the product and what finishes it. `None` where
    /// cuBLASLt multiplies, and for products without elements.
    ///
    /// Its constants are datasheets' and other projects' figures: compare it with a measurement, as `imma bench` does.
    pub fn predicted_microseconds(&self) -> Option<f64> {
        let properties = self.device.properties();
        super::choose::predicted(&self.spec, self.choice.multiplier, properties)
    }

    /// What it was made for.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The device that it runs on.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Bytes of workspace that a run needs, at an address that is a multiple of 256 (as any allocation's is).
    pub fn workspace_bytes(&self) -> usize {
        self.parts.bytes()
    }
}

/// What runs, in one line.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spec {
            m, n, k, output, ..
        } = &self.spec;
        write!(f, "[{m}, {k}] x [{k}, {n}] -> {output}: ")?;
        match self.staged {
            Staging::None => {}
            Staging::Quantized => f.write_str("quantise rows, ")?,
            Staging::Padded => f.write_str("pad rows, ")?,
        }
        write!(f, "{}", self.kernel())?;
        match &self.multiply {
            Multiply::Fused {
                by: Fused::Sm80(igemm),
                ..
            } if igemm.splits > 1 => f.write_str(", epilogue")?,
            Multiply::Fused { .. } if self.spec.per_token_output => f.write_str(", epilogue")?,
            // The epilogue is in the kernel.
            Multiply::Fused { .. } => {}
            Multiply::Sums { ldc, .. } if self.spec.raw() && ldc == n => {}
            _ => f.write_str(", epilogue")?,
        }
        write!(
            f,
            "; workspace {} bytes; {}",
            self.parts.bytes(),
            self.choice.why
        )
    }
}

/// Our GEMM, where it can serve.
fn fused_by(device: &Device, spec: &Spec, igemm: Igemm) -> Result<Multiply> {
    let limits = Limits::from(device.properties());
    let tile = igemm.tile;
    if tile.shared() > limits.shared {
        return Err(Error::Unavailable {
            what: "tile",
            found: tile.name.into(),
            expected: format!(
                "it takes {} bytes of shared memory a block, the device has {}",
                tile.shared(),
                limits.shared
            ),
        });
    }
    if tile.aligned && !spec.aligned() {
        return Err(Error::Value {
            what: "the left operand's row stride",
            found: match spec.input {
                Input::Int8 { stride, .. } => stride.to_string(),
                Input::Float(..) => "any".into(),
            },
            expected: format!(
                "a multiple of 16 for the tile {}; those named _any take any",
                tile.name
            ),
        });
    }
    let any = if tile.aligned {
        super::igemm::choose(spec.m, spec.n, spec.k, false, limits).tile
    } else {
        tile
    };
    let any = Igemm { tile: any, ..igemm };
    let by = Fused::Sm80(igemm);
    Ok(Multiply::Fused { by, any })
}

/// Our GEMM of compute capability 9.0, where it can serve.
fn fused_by90(device: &Device, spec: &Spec, igemm: Igemm90) -> Result<Multiply> {
    device.has_igemm90()?;
    if spec.k == 0 || !spec.aligned() {
        return Err(Error::Unavailable {
            what: "igemm_sm90",
            found: format!("K = {} with {:?}", spec.k, spec.input),
            expected: "K of at least 1 and row strides that are multiples of 16 bytes; other operands go to igemm_sm80".into(),
        });
    }
    let igemm = Igemm90 {
        // Quantising runs ahead of the product, and weights were complete before that started. Integers come from
        // the caller: what ran ahead of them may have packed the weights.
        weights_ready: matches!(spec.input, Input::Float(..)),
        ..igemm
    };
    let limits = Limits::from(device.properties());
    let any = Igemm {
        tile: super::igemm::choose(spec.m, spec.n, spec.k, false, limits).tile,
        splits: 1,
    };
    let by = Fused::Sm90(igemm, TensorMaps::default());
    Ok(Multiply::Fused { by, any })
}
