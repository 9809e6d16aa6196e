//! The library's objects, each destroyed when it is dropped.

use crate::error::{Error, Result};
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use std::ffi::c_void;

/// What the library refused: its status by number and name.
pub(super) fn lt(call: &'static str) -> impl Fn(CublasError) -> Error {
    move |error| Error::Cuda {
        call,
        code: error.0 as u32,
        name: format!("{:?}", error.0),
    }
}

macro_rules! owned {
    ($(#[$doc:meta])* $name:ident($raw:ty), $destroy:path) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name($raw);

        impl $name {
            pub fn raw(&self) -> $raw {
                self.0
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: made by the library, owned here, used nowhere after this. A refusal leaves nothing to do.
                let _ = unsafe { $destroy(self.0) };
            }
        }

        // SAFETY: the library's functions that use it may be called from any thread, by its documentation; it is
        // changed through `&mut` only, before it is shared.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}
    };
}

owned!(
    /// The library for one context: the current one when it was made.
    Handle(sys::cublasLtHandle_t),
    result::destroy_handle
);
owned!(
    /// Types of the sum and of its factor, and which operand is transposed.
    Descriptor(sys::cublasLtMatmulDesc_t),
    result::destroy_matmul_desc
);
owned!(
    /// Type, size, leading dimension and batch of a matrix.
    Layout(sys::cublasLtMatrixLayout_t),
    result::destroy_matrix_layout
);
owned!(
    /// What a search for algorithms may count on.
    Preference(sys::cublasLtMatmulPreference_t),
    result::destroy_matmul_pref
);

impl Handle {
    pub fn new() -> Result<Self> {
        Ok(Handle(
            result::create_handle().map_err(lt("cublasLtCreate"))?,
        ))
    }
}

impl Descriptor {
    /// An int8 product, the left operand transposed; `scale` is the type of alpha and beta.
    pub fn int8_tn(scale: sys::cudaDataType) -> Result<Self> {
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32I;
        let raw =
            result::create_matmul_desc(compute, scale).map_err(lt("cublasLtMatmulDescCreate"))?;
        let made = Descriptor(raw);
        // CUBLAS_OP_T, which these bindings leave out.
        let transposed = 1i32;
        let which = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        let (pointer, bytes) = of(&transposed);
        // SAFETY: the descriptor lives, and the value has the size stated.
        unsafe { result::set_matmul_desc_attribute(made.0, which, pointer, bytes) }
            .map_err(lt("cublasLtMatmulDescSetAttribute"))?;
        Ok(made)
    }
}

impl Layout {
    /// A matrix by columns, `batch` times at a distance of `stride` elements.
    pub fn new(
        dtype: sys::cudaDataType,
        (rows, cols): (usize, usize),
        ld: usize,
        (batch, stride): (usize, usize),
    ) -> Result<Self> {
        let raw = result::create_matrix_layout(dtype, rows as u64, cols as u64, ld as i64)
            .map_err(lt("cublasLtMatrixLayoutCreate"))?;
        let made = Layout(raw);
        if batch != 1 {
            use sys::cublasLtMatrixLayoutAttribute_t as Attribute;
            made.set(Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, batch as i32)?;
            made.set(
                Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                stride as i64,
            )?;
        }
        Ok(made)
    }

    fn set<T>(&self, which: sys::cublasLtMatrixLayoutAttribute_t, value: T) -> Result<()> {
        let (pointer, bytes) = of(&value);
        // SAFETY: the layout lives, and the value has the size stated.
        unsafe { result::set_matrix_layout_attribute(self.0, which, pointer, bytes) }
            .map_err(lt("cublasLtMatrixLayoutSetAttribute"))
    }
}

impl Preference {
    /// At most so much workspace, and matrices at addresses of this alignment (in bytes).
    pub fn new(workspace: usize, alignment: u32) -> Result<Self> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let raw = result::create_matmul_pref().map_err(lt("cublasLtMatmulPreferenceCreate"))?;
        let made = Preference(raw);
        made.set(
            Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            workspace as u64,
        )?;
        for which in [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            made.set(which, alignment)?;
        }
        Ok(made)
    }

    fn set<T>(&self, which: sys::cublasLtMatmulPreferenceAttributes_t, value: T) -> Result<()> {
        let (pointer, bytes) = of(&value);
        // SAFETY: the preference lives, and the value has the size stated.
        unsafe { result::set_matmul_pref_attribute(self.0, which, pointer, bytes) }
            .map_err(lt("cublasLtMatmulPreferenceSetAttribute"))
    }
}

/// Address and size of a value.
fn of<T>(value: &T) -> (*const c_void, usize) {
    ((&raw const *value).cast(), size_of::<T>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_by_name() {
        let status = sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED;
        let error = lt("cublasLtMatmul")(CublasError(status)).to_string();
        assert_eq!(
            error,
            "cublasLtMatmul: CUDA error 15 (CUBLAS_STATUS_NOT_SUPPORTED)"
        );
    }
}
