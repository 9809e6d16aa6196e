//! One product: checked shape, descriptors, candidates, and the call.

use super::descriptor::{lt, Descriptor, Handle, Layout, Preference};
use super::shape::{LtOutput, LtShape, ALIGNMENT};
use crate::cuda::runtime::{same_context, Held, Region};
use crate::error::{Error, Result};
use cudarc::cublaslt::result;
use cudarc::cublaslt::sys::{self, cublasStatus_t as Status, cudaDataType as Type};
use cudarc::driver::{
    CudaContext, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice,
};
use std::ffi::c_void;
use std::sync::Arc;

/// How many candidates are asked for.
const CANDIDATES: usize = 8;
/// Address of the workspace, in bytes.
const WORKSPACE_ALIGNMENT: u64 = 256;

/// An algorithm that the library proposed.
#[derive(Clone, Copy)]
pub struct LtCandidate {
    algo: sys::cublasLtMatmulAlgo_t,
    workspace: usize,
    waves: f32,
}

impl LtCandidate {
    /// Bytes of workspace that it needs.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace
    }

    /// How many times over its blocks fill the device.
    pub fn waves(&self) -> f32 {
        self.waves
    }
}

impl std::fmt::Debug for LtCandidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LtCandidate")
            .field("workspace", &self.workspace)
            .field("waves", &self.waves)
            .finish_non_exhaustive()
    }
}

/// Where a product's result goes.
#[derive(Debug)]
pub enum LtResult<'a, 'b> {
    /// The exact sums.
    I32(&'a mut CudaViewMut<'b, i32>),
    /// `clip(round_half_even(factor * sum))`; overflow ends at -128 and 127.
    I8(&'a mut CudaViewMut<'b, i8>, f32),
}

/// A product ready to run.
#[derive(Debug)]
pub struct LtProduct {
    shape: LtShape,
    handle: Arc<Handle>,
    context: Arc<CudaContext>,
    descriptor: Descriptor,
    /// Of W, A and C, in the library's order.
    layouts: [Layout; 3],
    candidates: Vec<LtCandidate>,
}

impl LtProduct {
    /// The shape must have been checked, and the context be current.
    pub(super) fn new(
        handle: &Arc<Handle>,
        context: &Arc<CudaContext>,
        shape: LtShape,
        workspace: usize,
    ) -> Result<Self> {
        let LtShape {
            m,
            n,
            k,
            ld: [lda, ldw, ldc],
            stride: [sa, sw, sc],
            batch,
            output,
        } = shape;
        let (factor, result) = match output {
            LtOutput::I32 => (Type::CUDA_R_32I, Type::CUDA_R_32I),
            LtOutput::I8 => (Type::CUDA_R_32F, Type::CUDA_R_8I),
        };
        let descriptor = Descriptor::int8_tn(factor)?;
        let layouts = [
            Layout::new(Type::CUDA_R_8I, (k, n), ldw, (batch, sw))?,
            Layout::new(Type::CUDA_R_8I, (k, m), lda, (batch, sa))?,
            Layout::new(result, (n, m), ldc, (batch, sc))?,
        ];
        let preference = Preference::new(workspace, ALIGNMENT as u32)?;
        let candidates = candidates(handle, &descriptor, &layouts, &preference)?;
        Ok(LtProduct {
            shape,
            handle: handle.clone(),
            context: context.clone(),
            descriptor,
            layouts,
            candidates,
        })
    }

    /// What is multiplied.
    pub fn shape(&self) -> LtShape {
        self.shape
    }

    /// The library's candidates, best first by its own estimate; at least one.
    pub fn candidates(&self) -> &[LtCandidate] {
        &self.candidates
    }

    /// Enqueues the product with one of the candidates.
    ///
    /// Allocates nothing and waits for nothing. All of C inside its rows is written.
    ///
    /// # Errors
    /// [`Error::Length`] for a matrix or workspace that is too small, [`Error::Value`] for memory or a stream of
    /// another context, a misaligned address, a result of another type, or a candidate that is not there;
    /// [`Error::Cuda`] when the library refuses.
    pub fn run(
        &self,
        stream: &CudaStream,
        candidate: usize,
        a: &CudaView<'_, i8>,
        w: &CudaView<'_, i8>,
        c: LtResult<'_, '_>,
        workspace: &mut CudaViewMut<'_, u8>,
    ) -> Result<()> {
        same_context("the stream", &self.context, stream.context())?;
        let algorithm = self.candidate(candidate)?;
        let [a_span, w_span, c_span] = self.shape.spans();
        self.check_span("A", a, a_span)?;
        self.check_span("W", w, w_span)?;
        let room = Some(algorithm.workspace);
        self.check_span("the workspace", workspace, room)?;
        let (a, _a) = a.device_ptr(stream);
        let (w, _w) = w.device_ptr(stream);
        let (workspace, _workspace) = workspace.device_ptr_mut(stream);
        let (c, _c, factors) = match (c, self.shape.output) {
            (LtResult::I32(c), LtOutput::I32) => {
                self.check_span("C", c, c_span)?;
                let (c, guard) = c.device_ptr_mut(stream);
                (c, guard, Factors::INT)
            }
            (LtResult::I8(c, factor), LtOutput::I8) => {
                self.check_span("C", c, c_span)?;
                let (c, guard) = c.device_ptr_mut(stream);
                (c, guard, Factors::Float([factor, 0.0]))
            }
            (_, expected) => {
                return Err(Error::Value {
                    what: "the type of C",
                    found: "another".into(),
                    expected: format!("{expected:?}"),
                })
            }
        };
        // SAFETY: every matrix was checked to lie in its slice, whose guards live here; the workspace has what the
        // algorithm asked for.
        unsafe { self.enqueue(stream, algorithm, [a, w, c, workspace], factors) }
    }

    /// Enqueues the exact sums over memory that is held.
    pub(in crate::cuda) fn sums(
        &self,
        held: &Held<'_>,
        candidate: usize,
        [a, w, c]: [Region<'_>; 3],
        workspace: Option<Region<'_>>,
    ) -> Result<()> {
        let algorithm = self.candidate(candidate)?;
        let spans = self.shape.spans();
        for ((what, region), span) in [("A", a), ("W", w), ("C", c)].into_iter().zip(spans) {
            enough(what, region.len, span)?;
        }
        let room = workspace.map_or(0, |w| w.len);
        enough("the workspace", room, Some(algorithm.workspace))?;
        let workspace = workspace.map_or(0, |w| w.address);
        let addresses = [a.address, w.address, c.address, workspace];
        // SAFETY: all regions are held, and were just seen to hold what the shape spans.
        unsafe { self.enqueue(held.stream(), algorithm, addresses, Factors::INT) }
    }

    fn candidate(&self, number: usize) -> Result<&LtCandidate> {
        self.candidates.get(number).ok_or_else(|| Error::Value {
            what: "the cuBLASLt candidate",
            found: number.to_string(),
            expected: format!("below {}", self.candidates.len()),
        })
    }

    /// Checks that a slice of this context has at least so many elements; `None` is more than any has.
    fn check_span<T>(
        &self,
        what: &'static str,
        data: &impl DeviceSlice<T>,
        needed: Option<usize>,
    ) -> Result<()> {
        same_context(what, &self.context, data.stream().context())?;
        enough(what, data.len(), needed)
    }

    /// Calls the library.
    ///
    /// # Safety
    /// The addresses (of A, W, C and the workspace) are those of live memory that holds what the shape spans and what the
    /// algorithm asks for.
    unsafe fn enqueue(
        &self,
        stream: &CudaStream,
        algorithm: &LtCandidate,
        [a, w, c, workspace]: [u64; 4],
        factors: Factors,
    ) -> Result<()> {
        for (what, address) in [("A", a), ("W", w), ("C", c)] {
            aligned(what, address, ALIGNMENT)?;
        }
        if algorithm.workspace > 0 {
            aligned("the workspace", workspace, WORKSPACE_ALIGNMENT)?;
        }
        let pointer = factors.pointer();
        let [w_layout, a_layout, c_layout] = &self.layouts;
        // SAFETY: handle, descriptors and the algorithm found for them live in `self`; alpha and beta are four bytes each
        // of the descriptor's scale type, read before the call returns; the caller answers for the memory.
        unsafe {
            result::matmul(
                self.handle.raw(),
                self.descriptor.raw(),
                pointer,
                pointer.byte_add(4),
                w as *const c_void,
                w_layout.raw(),
                a as *const c_void,
                a_layout.raw(),
                c as *const c_void,
                c_layout.raw(),
                c as *mut c_void,
                c_layout.raw(),
                &algorithm.algo,
                workspace as *mut c_void,
                algorithm.workspace,
                stream.cu_stream() as sys::cudaStream_t,
            )
        }
        .map_err(lt("cublasLtMatmul"))
    }
}

/// Alpha and beta, in the type that the output asks for.
enum Factors {
    Int([i32; 2]),
    Float([f32; 2]),
}

impl Factors {
    const INT: Self = Factors::Int([1, 0]);

    fn pointer(&self) -> *const c_void {
        match self {
            Factors::Int(factors) => factors.as_ptr().cast(),
            Factors::Float(factors) => factors.as_ptr().cast(),
        }
    }
}

/// Refuses memory that is too small; `None` is more than any has.
fn enough(what: &'static str, found: usize, needed: Option<usize>) -> Result<()> {
    match needed {
        Some(needed) if needed <= found => Ok(()),
        _ => Err(Error::Length {
            what,
            found,
            expected: needed.unwrap_or(usize::MAX),
        }),
    }
}

fn aligned(what: &'static str, address: u64, alignment: u64) -> Result<()> {
    if address.is_multiple_of(alignment) {
        return Ok(());
    }
    Err(Error::Value {
        what,
        found: format!("at address {address:#x}"),
        expected: format!("an address that is a multiple of {alignment} for cuBLASLt"),
    })
}

fn candidates(
    handle: &Handle,
    descriptor: &Descriptor,
    [w, a, c]: &[Layout; 3],
    preference: &Preference,
) -> Result<Vec<LtCandidate>> {
    const CALL: &str = "cublasLtMatmulAlgoGetHeuristic";
    // SAFETY: a C struct of integers and floats, for which zeros are values.
    let mut found: [sys::cublasLtMatmulHeuristicResult_t; CANDIDATES] =
        unsafe { std::mem::zeroed() };
    let mut count = 0;
    // SAFETY: all objects live, and there is room for as many results as are asked for.
    unsafe {
        sys::cublasLtMatmulAlgoGetHeuristic(
            handle.raw(),
            descriptor.raw(),
            w.raw(),
            a.raw(),
            c.raw(),
            c.raw(),
            preference.raw(),
            CANDIDATES as i32,
            found.as_mut_ptr(),
            &mut count,
        )
    }
    .result()
    .map_err(lt(CALL))?;
    let usable: Vec<_> = found[..(count.max(0) as usize).min(CANDIDATES)]
        .iter()
        .filter(|result| result.state == Status::CUBLAS_STATUS_SUCCESS)
        .map(|result| LtCandidate {
            algo: result.algo,
            workspace: result.workspaceSize,
            waves: result.wavesCount,
        })
        .collect();
    if usable.is_empty() {
        let status = Status::CUBLAS_STATUS_NOT_SUPPORTED;
        return Err(lt(CALL)(result::CublasError(status)));
    }
    Ok(usable)
}
