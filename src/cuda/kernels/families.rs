//! The kernel families: which parameters the entries of each `cuda/*.cu` take, and how their names begin. That of
//! `igemm_sm90`, which takes tensor maps too, is beside its kernel.

use super::params;
use crate::cuda::runtime::{one, Arguments, Family};
use std::ffi::c_void;

macro_rules! families {
    ($($(#[$doc:meta])* $family:ident: $prefix:literal, $params:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $family {}

        impl Family for $family {
            type Params = params::$params;
            const PREFIX: &'static str = $prefix;
        }

        // SAFETY: the C struct that every kernel of the family takes as its one parameter.
        unsafe impl Arguments for params::$params {
            fn pointers(&self) -> [*mut c_void; 4] {
                one(self)
            }
        }
    )*};
}

families! {
    /// `cuda/quantize_rows.cu`.
    QuantizeRows: "quantize_rows_", QuantizeRowsParams;
    /// `cuda/quantize_cols.cu`.
    QuantizeCols: "quantize_cols_", QuantizeColsParams;
    /// `cuda/quantize_static.cu`.
    QuantizeStatic: "quantize_static_", QuantizeStaticParams;
    /// `cuda/dequantize.cu`.
    Dequantize: "dequantize_", DequantizeParams;
    /// `cuda/transpose_s8.cu`.
    Transpose: "transpose_", TransposeParams;
    /// `cuda/rmsnorm_quantize.cu`.
    RmsnormQuantize: "rmsnorm_quantize_", RmsnormQuantizeParams;
    /// `cuda/silu_mul_quantize.cu`.
    SiluMulQuantize: "silu_mul_quantize_", SiluMulQuantizeParams;
    /// `cuda/epilogue.cu`: to any output but int8 with a scale a row.
    EpilogueSums: "epilogue_i", FinishParams;
    /// `cuda/epilogue.cu`: to int8 with a scale a row.
    EpiloguePerRow: "epilogue_q", FinishQuantizeParams;
    /// `cuda/igemm_sm80.cu`.
    IgemmSm80: "igemm_sm80_", IgemmParams;
    /// `cuda/igemm_groupwise.cu`.
    IgemmGroupwise: "igemm_groupwise_", IgemmGroupwiseParams;
    /// `cuda/igemm_grouped.cu`.
    IgemmGrouped: "igemm_grouped_", IgemmGroupedParams;
    /// `cuda/quantize_grouped.cu`.
    QuantizeGrouped: "quantize_grouped_", QuantizeGroupedParams;
    /// `cuda/moe_sort.cu`.
    MoeSort: "moe_sort_", MoeSortParams;
    /// `cuda/moe_permute.cu`.
    MoePermute: "moe_permute_", MoePermuteParams;
    /// `cuda/moe_combine.cu`.
    MoeCombine: "moe_combine_", MoeCombineParams;
    /// `cuda/peak.cu`.
    Peak: "peak_", PeakParams;
}

/// `cuda/rmsnorm_quantize.cu`, a residual added first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddRmsnormQuantize {}

impl Family for AddRmsnormQuantize {
    type Params = params::RmsnormQuantizeParams;
    const PREFIX: &'static str = "add_rmsnorm_quantize_";
}
