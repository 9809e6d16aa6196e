//! What the kernels of `cuda/igemm_sm90.cu` take: three tensor maps and a struct.

use super::tensor_map::TensorMap;
use crate::cuda::kernels::params::IgemmSm90Params;
use crate::cuda::runtime::{Arguments, Family};
use std::ffi::c_void;

/// `cuda/igemm_sm90.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IgemmSm90 {}

impl Family for IgemmSm90 {
    type Params = WithMaps;
    const PREFIX: &'static str = "igemm_sm90_";
}

/// What a kernel takes: the maps of both operands and of the output, and the rest.
#[derive(Debug, Clone, Copy)]
pub struct WithMaps {
    pub(super) tall: TensorMap,
    pub(super) wide: TensorMap,
    pub(super) output: TensorMap,
    pub(super) params: IgemmSm90Params,
}

// SAFETY: the four parameters of every kernel of the family, in order: three maps by value and the C struct.
unsafe impl Arguments for WithMaps {
    fn pointers(&self) -> [*mut c_void; 4] {
        [
            (&raw const self.tall).cast_mut().cast(),
            (&raw const self.wide).cast_mut().cast(),
            (&raw const self.output).cast_mut().cast(),
            (&raw const self.params).cast_mut().cast(),
        ]
    }
}
