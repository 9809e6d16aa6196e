//! One product: checked shape, descriptors, candidates, and the call.

use super::descriptor::{lt, Descriptor, Handle, Layout, Preference};
use super::shape::{LtOutput, LtShape, ALIGNMENT};
use crate::cuda::launch::same_context;
use crate::cuda::matrix::check_span;
use crate::error::{Error, Result};
use cudarc::cublaslt::result;
use cudarc::cublaslt::sys::{self, cublasStatus_t as Status, cudaDataType as Type};
use cudarc::driver::{CudaContext, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut};
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
        let context = &self.context;
        same_context("the stream", context, stream.context())?;
        let algorithm = self.candidates.get(candidate).ok_or_else(|| Error::Value {
            what: "the cuBLASLt candidate",
            found: candidate.to_string(),
            expected: format!("below {}", self.candidates.len()),
        })?;
        let [a_span, w_span, c_span] = self.shape.spans();
        check_span("A", context, a, a_span)?;
        check_span("W", context, w, w_span)?;
        check_span(
            "the workspace",
            context,
            workspace,
            Some(algorithm.workspace),
        )?;
        let (a, _a) = a.device_ptr(stream);
        let (w, _w) = w.device_ptr(stream);
        let (workspace, _workspace) = workspace.device_ptr_mut(stream);
        // Both are read by the library before it returns.
        let ints = [1i32, 0];
        let floats;
        let (c, _c, factors) = match (c, self.shape.output) {
            (LtResult::I32(c), LtOutput::I32) => {
                check_span("C", context, c, c_span)?;
                let (c, guard) = c.device_ptr_mut(stream);
                (c, guard, ints.as_ptr().cast::<c_void>())
            }
            (LtResult::I8(c, factor), LtOutput::I8) => {
                check_span("C", context, c, c_span)?;
                floats = [factor, 0.0f32];
                let (c, guard) = c.device_ptr_mut(stream);
                (c, guard, floats.as_ptr().cast())
            }
            (_, expected) => {
                return Err(Error::Value {
                    what: "the type of C",
                    found: "another".into(),
                    expected: format!("{expected:?}"),
                })
            }
        };
        for (what, address) in [("A", a), ("W", w), ("C", c)] {
            aligned(what, address, ALIGNMENT)?;
        }
        if algorithm.workspace > 0 {
            aligned("the workspace", workspace, WORKSPACE_ALIGNMENT)?;
        }
        let [w_layout, a_layout, c_layout] = &self.layouts;
        // SAFETY: handle, descriptors and the algorithm found for them live in `self`; alpha and beta are four
        // bytes each of the descriptor's scale type; every matrix was checked to lie in its slice, whose guards
        // live here; the workspace has what the algorithm asked for.
        unsafe {
            result::matmul(
                self.handle.raw(),
                self.descriptor.raw(),
                factors,
                factors.byte_add(4),
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
