// Made from cuda/params.h (FNV-1a 8906ace6aa78db1a) by bindgen; see cuda/README.md. Not to be edited.

pub const IMMA_VECTOR_BYTES: u32 = 16;
pub const IMMA_ROWS_HELD: u32 = 4;
pub const IMMA_ROWS_MAX_THREADS: u32 = 1024;
pub const IMMA_COLS_STRIP: u32 = 16;
pub const IMMA_COLS_SLAB: u32 = 1024;
pub const IMMA_COLS_THREADS: u32 = 256;
pub const IMMA_FLAT_THREADS: u32 = 256;
pub const IMMA_FLAT_VECTORS: u32 = 4;
pub const IMMA_TRANSPOSE_TILE: u32 = 128;
pub const IMMA_TRANSPOSE_THREADS: u32 = 256;
pub const IMMA_SILU_MAX_THREADS: u32 = 768;
pub const IMMA_TYPE_F32: u32 = 1;
pub const IMMA_TYPE_F16: u32 = 2;
pub const IMMA_TYPE_BF16: u32 = 3;
pub const IMMA_TYPE_I32: u32 = 4;
pub const IMMA_TYPE_I8: u32 = 5;
pub const IMMA_ACTIVATION_NONE: u32 = 0;
pub const IMMA_ACTIVATION_RELU: u32 = 1;
pub const IMMA_ACTIVATION_SILU: u32 = 2;
pub const IMMA_ACTIVATION_GELU: u32 = 3;
pub const IMMA_ACTIVATION_GELU_TANH: u32 = 4;
pub const IMMA_VECTOR_OUTPUT: u32 = 1;
pub const IMMA_VECTOR_RESIDUAL: u32 = 2;
pub const IMMA_VECTOR_COL_SCALES: u32 = 4;
pub const IMMA_VECTOR_COL_SUMS: u32 = 8;
pub const IMMA_VECTOR_BIAS: u32 = 16;
pub const IMMA_EPILOGUE_THREADS: u32 = 256;
pub const IMMA_PEAK_THREADS: u32 = 256;
pub const IMMA_PEAK_CHAINS: u32 = 8;
pub const IMMA_FAULT_BITS: u32 = 28;
pub const IMMA_FAULT_OFFSETS: u32 = 1;
pub const IMMA_FAULT_INDEX: u32 = 2;
pub const IMMA_FAULT_ROW: u32 = 3;
pub const IMMA_SORT_PAIRS: u32 = 1024;
pub const IMMA_SORT_THREADS: u32 = 256;
pub const IMMA_COMBINE_THREADS: u32 = 128;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct QuantizeRowsParams {
    pub input: *const ::core::ffi::c_void,
    pub output: *mut ::core::ffi::c_schar,
    pub scales: *mut f32,
    pub zero_points: *mut ::core::ffi::c_int,
    pub extents: *mut ::core::ffi::c_int,
    pub input_stride: ::core::ffi::c_ulonglong,
    pub output_stride: ::core::ffi::c_ulonglong,
    pub seed: ::core::ffi::c_ulonglong,
    pub rows: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
    pub padded: ::core::ffi::c_uint,
    pub scale: f32,
    pub multiplier: f32,
    pub zero_point: ::core::ffi::c_int,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of QuantizeRowsParams",
    ][::core::mem::size_of::<QuantizeRowsParams>() - 88usize];
    [
        "Alignment of QuantizeRowsParams",
    ][::core::mem::align_of::<QuantizeRowsParams>() - 8usize];
    [
        "Offset of field: QuantizeRowsParams::input",
    ][::core::mem::offset_of!(QuantizeRowsParams, input) - 0usize];
    [
        "Offset of field: QuantizeRowsParams::output",
    ][::core::mem::offset_of!(QuantizeRowsParams, output) - 8usize];
    [
        "Offset of field: QuantizeRowsParams::scales",
    ][::core::mem::offset_of!(QuantizeRowsParams, scales) - 16usize];
    [
        "Offset of field: QuantizeRowsParams::zero_points",
    ][::core::mem::offset_of!(QuantizeRowsParams, zero_points) - 24usize];
    [
        "Offset of field: QuantizeRowsParams::extents",
    ][::core::mem::offset_of!(QuantizeRowsParams, extents) - 32usize];
    [
        "Offset of field: QuantizeRowsParams::input_stride",
    ][::core::mem::offset_of!(QuantizeRowsParams, input_stride) - 40usize];
    [
        "Offset of field: QuantizeRowsParams::output_stride",
    ][::core::mem::offset_of!(QuantizeRowsParams, output_stride) - 48usize];
    [
        "Offset of field: QuantizeRowsParams::seed",
    ][::core::mem::offset_of!(QuantizeRowsParams, seed) - 56usize];
    [
        "Offset of field: QuantizeRowsParams::rows",
    ][::core::mem::offset_of!(QuantizeRowsParams, rows) - 64usize];
    [
        "Offset of field: QuantizeRowsParams::cols",
    ][::core::mem::offset_of!(QuantizeRowsParams, cols) - 68usize];
    [
        "Offset of field: QuantizeRowsParams::padded",
    ][::core::mem::offset_of!(QuantizeRowsParams, padded) - 72usize];
    [
        "Offset of field: QuantizeRowsParams::scale",
    ][::core::mem::offset_of!(QuantizeRowsParams, scale) - 76usize];
    [
        "Offset of field: QuantizeRowsParams::multiplier",
    ][::core::mem::offset_of!(QuantizeRowsParams, multiplier) - 80usize];
    [
        "Offset of field: QuantizeRowsParams::zero_point",
    ][::core::mem::offset_of!(QuantizeRowsParams, zero_point) - 84usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct QuantizeColsParams {
    pub input: *const ::core::ffi::c_void,
    pub output: *mut ::core::ffi::c_schar,
    pub scales: *mut f32,
    pub zero_points: *mut ::core::ffi::c_int,
    pub input_stride: ::core::ffi::c_ulonglong,
    pub output_stride: ::core::ffi::c_ulonglong,
    pub seed: ::core::ffi::c_ulonglong,
    pub rows: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
    pub padded: ::core::ffi::c_uint,
    pub held_rows: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of QuantizeColsParams",
    ][::core::mem::size_of::<QuantizeColsParams>() - 72usize];
    [
        "Alignment of QuantizeColsParams",
    ][::core::mem::align_of::<QuantizeColsParams>() - 8usize];
    [
        "Offset of field: QuantizeColsParams::input",
    ][::core::mem::offset_of!(QuantizeColsParams, input) - 0usize];
    [
        "Offset of field: QuantizeColsParams::output",
    ][::core::mem::offset_of!(QuantizeColsParams, output) - 8usize];
    [
        "Offset of field: QuantizeColsParams::scales",
    ][::core::mem::offset_of!(QuantizeColsParams, scales) - 16usize];
    [
        "Offset of field: QuantizeColsParams::zero_points",
    ][::core::mem::offset_of!(QuantizeColsParams, zero_points) - 24usize];
    [
        "Offset of field: QuantizeColsParams::input_stride",
    ][::core::mem::offset_of!(QuantizeColsParams, input_stride) - 32usize];
    [
        "Offset of field: QuantizeColsParams::output_stride",
    ][::core::mem::offset_of!(QuantizeColsParams, output_stride) - 40usize];
    [
        "Offset of field: QuantizeColsParams::seed",
    ][::core::mem::offset_of!(QuantizeColsParams, seed) - 48usize];
    [
        "Offset of field: QuantizeColsParams::rows",
    ][::core::mem::offset_of!(QuantizeColsParams, rows) - 56usize];
    [
        "Offset of field: QuantizeColsParams::cols",
    ][::core::mem::offset_of!(QuantizeColsParams, cols) - 60usize];
    [
        "Offset of field: QuantizeColsParams::padded",
    ][::core::mem::offset_of!(QuantizeColsParams, padded) - 64usize];
    [
        "Offset of field: QuantizeColsParams::held_rows",
    ][::core::mem::offset_of!(QuantizeColsParams, held_rows) - 68usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct QuantizeStaticParams {
    pub input: *const ::core::ffi::c_void,
    pub output: *mut ::core::ffi::c_schar,
    pub input_stride: ::core::ffi::c_ulonglong,
    pub output_stride: ::core::ffi::c_ulonglong,
    pub cols: ::core::ffi::c_ulonglong,
    pub seed: ::core::ffi::c_ulonglong,
    pub rows: ::core::ffi::c_uint,
    pub multiplier: f32,
    pub zero_point: ::core::ffi::c_int,
    pub reserved: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of QuantizeStaticParams",
    ][::core::mem::size_of::<QuantizeStaticParams>() - 64usize];
    [
        "Alignment of QuantizeStaticParams",
    ][::core::mem::align_of::<QuantizeStaticParams>() - 8usize];
    [
        "Offset of field: QuantizeStaticParams::input",
    ][::core::mem::offset_of!(QuantizeStaticParams, input) - 0usize];
    [
        "Offset of field: QuantizeStaticParams::output",
    ][::core::mem::offset_of!(QuantizeStaticParams, output) - 8usize];
    [
        "Offset of field: QuantizeStaticParams::input_stride",
    ][::core::mem::offset_of!(QuantizeStaticParams, input_stride) - 16usize];
    [
        "Offset of field: QuantizeStaticParams::output_stride",
    ][::core::mem::offset_of!(QuantizeStaticParams, output_stride) - 24usize];
    [
        "Offset of field: QuantizeStaticParams::cols",
    ][::core::mem::offset_of!(QuantizeStaticParams, cols) - 32usize];
    [
        "Offset of field: QuantizeStaticParams::seed",
    ][::core::mem::offset_of!(QuantizeStaticParams, seed) - 40usize];
    [
        "Offset of field: QuantizeStaticParams::rows",
    ][::core::mem::offset_of!(QuantizeStaticParams, rows) - 48usize];
    [
        "Offset of field: QuantizeStaticParams::multiplier",
    ][::core::mem::offset_of!(QuantizeStaticParams, multiplier) - 52usize];
    [
        "Offset of field: QuantizeStaticParams::zero_point",
    ][::core::mem::offset_of!(QuantizeStaticParams, zero_point) - 56usize];
    [
        "Offset of field: QuantizeStaticParams::reserved",
    ][::core::mem::offset_of!(QuantizeStaticParams, reserved) - 60usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DequantizeParams {
    pub input: *const ::core::ffi::c_void,
    pub output: *mut ::core::ffi::c_void,
    pub row_scales: *const f32,
    pub col_scales: *const f32,
    pub zero_points: *const ::core::ffi::c_int,
    pub input_stride: ::core::ffi::c_ulonglong,
    pub output_stride: ::core::ffi::c_ulonglong,
    pub cols: ::core::ffi::c_ulonglong,
    pub rows: ::core::ffi::c_uint,
    pub row_step: ::core::ffi::c_uint,
    pub zero_row_step: ::core::ffi::c_uint,
    pub zero_col_step: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DequantizeParams"][::core::mem::size_of::<DequantizeParams>() - 80usize];
    [
        "Alignment of DequantizeParams",
    ][::core::mem::align_of::<DequantizeParams>() - 8usize];
    [
        "Offset of field: DequantizeParams::input",
    ][::core::mem::offset_of!(DequantizeParams, input) - 0usize];
    [
        "Offset of field: DequantizeParams::output",
    ][::core::mem::offset_of!(DequantizeParams, output) - 8usize];
    [
        "Offset of field: DequantizeParams::row_scales",
    ][::core::mem::offset_of!(DequantizeParams, row_scales) - 16usize];
    [
        "Offset of field: DequantizeParams::col_scales",
    ][::core::mem::offset_of!(DequantizeParams, col_scales) - 24usize];
    [
        "Offset of field: DequantizeParams::zero_points",
    ][::core::mem::offset_of!(DequantizeParams, zero_points) - 32usize];
    [
        "Offset of field: DequantizeParams::input_stride",
    ][::core::mem::offset_of!(DequantizeParams, input_stride) - 40usize];
    [
        "Offset of field: DequantizeParams::output_stride",
    ][::core::mem::offset_of!(DequantizeParams, output_stride) - 48usize];
    [
        "Offset of field: DequantizeParams::cols",
    ][::core::mem::offset_of!(DequantizeParams, cols) - 56usize];
    [
        "Offset of field: DequantizeParams::rows",
    ][::core::mem::offset_of!(DequantizeParams, rows) - 64usize];
    [
        "Offset of field: DequantizeParams::row_step",
    ][::core::mem::offset_of!(DequantizeParams, row_step) - 68usize];
    [
        "Offset of field: DequantizeParams::zero_row_step",
    ][::core::mem::offset_of!(DequantizeParams, zero_row_step) - 72usize];
    [
        "Offset of field: DequantizeParams::zero_col_step",
    ][::core::mem::offset_of!(DequantizeParams, zero_col_step) - 76usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TransposeParams {
    pub input: *const ::core::ffi::c_schar,
    pub output: *mut ::core::ffi::c_schar,
    pub input_stride: ::core::ffi::c_ulonglong,
    pub output_stride: ::core::ffi::c_ulonglong,
    pub rows: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
    pub padded: ::core::ffi::c_uint,
    pub reserved: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TransposeParams"][::core::mem::size_of::<TransposeParams>() - 48usize];
    [
        "Alignment of TransposeParams",
    ][::core::mem::align_of::<TransposeParams>() - 8usize];
    [
        "Offset of field: TransposeParams::input",
    ][::core::mem::offset_of!(TransposeParams, input) - 0usize];
    [
        "Offset of field: TransposeParams::output",
    ][::core::mem::offset_of!(TransposeParams, output) - 8usize];
    [
        "Offset of field: TransposeParams::input_stride",
    ][::core::mem::offset_of!(TransposeParams, input_stride) - 16usize];
    [
        "Offset of field: TransposeParams::output_stride",
    ][::core::mem::offset_of!(TransposeParams, output_stride) - 24usize];
    [
        "Offset of field: TransposeParams::rows",
    ][::core::mem::offset_of!(TransposeParams, rows) - 32usize];
    [
        "Offset of field: TransposeParams::cols",
    ][::core::mem::offset_of!(TransposeParams, cols) - 36usize];
    [
        "Offset of field: TransposeParams::padded",
    ][::core::mem::offset_of!(TransposeParams, padded) - 40usize];
    [
        "Offset of field: TransposeParams::reserved",
    ][::core::mem::offset_of!(TransposeParams, reserved) - 44usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RmsnormQuantizeParams {
    pub input: *const ::core::ffi::c_void,
    pub residual: *mut ::core::ffi::c_void,
    pub weight: *const ::core::ffi::c_void,
    pub output: *mut ::core::ffi::c_schar,
    pub scales: *mut f32,
    pub input_stride: ::core::ffi::c_ulonglong,
    pub residual_stride: ::core::ffi::c_ulonglong,
    pub output_stride: ::core::ffi::c_ulonglong,
    pub rows: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
    pub padded: ::core::ffi::c_uint,
    pub sums: ::core::ffi::c_uint,
    pub epsilon: f32,
    pub reserved: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of RmsnormQuantizeParams",
    ][::core::mem::size_of::<RmsnormQuantizeParams>() - 88usize];
    [
        "Alignment of RmsnormQuantizeParams",
    ][::core::mem::align_of::<RmsnormQuantizeParams>() - 8usize];
    [
        "Offset of field: RmsnormQuantizeParams::input",
    ][::core::mem::offset_of!(RmsnormQuantizeParams, input) - 0usize];
    [
        "Offset of field: RmsnormQuantizeParams::residual",
    ][::core::mem::offset_of!(RmsnormQuantizeParams, residual) - 8usize];
    [
        "Offset of field: RmsnormQuantizeParams::weight",
    ][::core::mem::offset_of!(RmsnormQuantizeParams, weight) - 16usize];
    [
        "Offset of field: RmsnormQuantizeParams::output",
    ][::core::mem::offset_of!(RmsnormQuantizeParams, output) - 24usize];
    [
        "Offset of field: RmsnormQuantizeParams::scales",
    ][::core::mem::offset_of!(RmsnormQuantizeParams, scales) - 32usize];
    [
        "Offset of field: RmsnormQuantizeParams::input_stride",
    ][::core::mem::offset_of!(RmsnormQuantizeParams, input_stride) - 40usize];
    [
        "Offset of field: RmsnormQuantizeParams::residual_stride",
    ][::core::mem::offset_of!(RmsnormQuantizeParams, residual_stride) - 48usize];
    [
        "Offset of field: RmsnormQuantizeParams::output_stride",
    ][::core::mem::offset_of!(RmsnormQuantizeParams, output_stride) - 56usize];
    [
        "Offset of field: RmsnormQuantizeParams::rows",
    ][::core::mem::offset_of!(RmsnormQuantizeParams, rows) - 64usize];
    [
        "Offset of field: RmsnormQuantizeParams::cols",
    ][::core::mem::offset_of!(RmsnormQuantizeParams, cols) - 68usize];
    [
        "Offset of field: RmsnormQuantizeParams::padded",
    ][::core::mem::offset_of!(RmsnormQuantizeParams, padded) - 72usize];
    [
        "Offset of field: RmsnormQuantizeParams::sums",
    ][::core::mem::offset_of!(RmsnormQuantizeParams, sums) - 76usize];
    [
        "Offset of field: RmsnormQuantizeParams::epsilon",
    ][::core::mem::offset_of!(RmsnormQuantizeParams, epsilon) - 80usize];
    [
        "Offset of field: RmsnormQuantizeParams::reserved",
    ][::core::mem::offset_of!(RmsnormQuantizeParams, reserved) - 84usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SiluMulQuantizeParams {
    pub gate: *const ::core::ffi::c_void,
    pub up: *const ::core::ffi::c_void,
    pub output: *mut ::core::ffi::c_schar,
    pub scales: *mut f32,
    pub gate_stride: ::core::ffi::c_ulonglong,
    pub up_stride: ::core::ffi::c_ulonglong,
    pub output_stride: ::core::ffi::c_ulonglong,
    pub rows: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
    pub padded: ::core::ffi::c_uint,
    pub reserved: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of SiluMulQuantizeParams",
    ][::core::mem::size_of::<SiluMulQuantizeParams>() - 72usize];
    [
        "Alignment of SiluMulQuantizeParams",
    ][::core::mem::align_of::<SiluMulQuantizeParams>() - 8usize];
    [
        "Offset of field: SiluMulQuantizeParams::gate",
    ][::core::mem::offset_of!(SiluMulQuantizeParams, gate) - 0usize];
    [
        "Offset of field: SiluMulQuantizeParams::up",
    ][::core::mem::offset_of!(SiluMulQuantizeParams, up) - 8usize];
    [
        "Offset of field: SiluMulQuantizeParams::output",
    ][::core::mem::offset_of!(SiluMulQuantizeParams, output) - 16usize];
    [
        "Offset of field: SiluMulQuantizeParams::scales",
    ][::core::mem::offset_of!(SiluMulQuantizeParams, scales) - 24usize];
    [
        "Offset of field: SiluMulQuantizeParams::gate_stride",
    ][::core::mem::offset_of!(SiluMulQuantizeParams, gate_stride) - 32usize];
    [
        "Offset of field: SiluMulQuantizeParams::up_stride",
    ][::core::mem::offset_of!(SiluMulQuantizeParams, up_stride) - 40usize];
    [
        "Offset of field: SiluMulQuantizeParams::output_stride",
    ][::core::mem::offset_of!(SiluMulQuantizeParams, output_stride) - 48usize];
    [
        "Offset of field: SiluMulQuantizeParams::rows",
    ][::core::mem::offset_of!(SiluMulQuantizeParams, rows) - 56usize];
    [
        "Offset of field: SiluMulQuantizeParams::cols",
    ][::core::mem::offset_of!(SiluMulQuantizeParams, cols) - 60usize];
    [
        "Offset of field: SiluMulQuantizeParams::padded",
    ][::core::mem::offset_of!(SiluMulQuantizeParams, padded) - 64usize];
    [
        "Offset of field: SiluMulQuantizeParams::reserved",
    ][::core::mem::offset_of!(SiluMulQuantizeParams, reserved) - 68usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct EpilogueParams {
    pub output: *mut ::core::ffi::c_void,
    pub residual: *const ::core::ffi::c_void,
    pub bias: *const ::core::ffi::c_void,
    pub row_scales: *const f32,
    pub col_scales: *const f32,
    pub row_zeros: *const ::core::ffi::c_int,
    pub col_sums: *const ::core::ffi::c_int,
    pub output_stride: ::core::ffi::c_ulonglong,
    pub residual_stride: ::core::ffi::c_ulonglong,
    pub output_batch: ::core::ffi::c_ulonglong,
    pub residual_batch: ::core::ffi::c_ulonglong,
    pub row_batch: ::core::ffi::c_uint,
    pub col_batch: ::core::ffi::c_uint,
    pub rows: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
    pub row_step: ::core::ffi::c_uint,
    pub col_step: ::core::ffi::c_uint,
    pub zero_step: ::core::ffi::c_uint,
    pub output_type: ::core::ffi::c_uint,
    pub residual_type: ::core::ffi::c_uint,
    pub bias_type: ::core::ffi::c_uint,
    pub activation: ::core::ffi::c_uint,
    pub vectors: ::core::ffi::c_uint,
    pub out_multiplier: f32,
    pub gated: ::core::ffi::c_uint,
    pub row_scale: f32,
    pub row_zero: ::core::ffi::c_int,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of EpilogueParams"][::core::mem::size_of::<EpilogueParams>() - 152usize];
    ["Alignment of EpilogueParams"][::core::mem::align_of::<EpilogueParams>() - 8usize];
    [
        "Offset of field: EpilogueParams::output",
    ][::core::mem::offset_of!(EpilogueParams, output) - 0usize];
    [
        "Offset of field: EpilogueParams::residual",
    ][::core::mem::offset_of!(EpilogueParams, residual) - 8usize];
    [
        "Offset of field: EpilogueParams::bias",
    ][::core::mem::offset_of!(EpilogueParams, bias) - 16usize];
    [
        "Offset of field: EpilogueParams::row_scales",
    ][::core::mem::offset_of!(EpilogueParams, row_scales) - 24usize];
    [
        "Offset of field: EpilogueParams::col_scales",
    ][::core::mem::offset_of!(EpilogueParams, col_scales) - 32usize];
    [
        "Offset of field: EpilogueParams::row_zeros",
    ][::core::mem::offset_of!(EpilogueParams, row_zeros) - 40usize];
    [
        "Offset of field: EpilogueParams::col_sums",
    ][::core::mem::offset_of!(EpilogueParams, col_sums) - 48usize];
    [
        "Offset of field: EpilogueParams::output_stride",
    ][::core::mem::offset_of!(EpilogueParams, output_stride) - 56usize];
    [
        "Offset of field: EpilogueParams::residual_stride",
    ][::core::mem::offset_of!(EpilogueParams, residual_stride) - 64usize];
    [
        "Offset of field: EpilogueParams::output_batch",
    ][::core::mem::offset_of!(EpilogueParams, output_batch) - 72usize];
    [
        "Offset of field: EpilogueParams::residual_batch",
    ][::core::mem::offset_of!(EpilogueParams, residual_batch) - 80usize];
    [
        "Offset of field: EpilogueParams::row_batch",
    ][::core::mem::offset_of!(EpilogueParams, row_batch) - 88usize];
    [
        "Offset of field: EpilogueParams::col_batch",
    ][::core::mem::offset_of!(EpilogueParams, col_batch) - 92usize];
    [
        "Offset of field: EpilogueParams::rows",
    ][::core::mem::offset_of!(EpilogueParams, rows) - 96usize];
    [
        "Offset of field: EpilogueParams::cols",
    ][::core::mem::offset_of!(EpilogueParams, cols) - 100usize];
    [
        "Offset of field: EpilogueParams::row_step",
    ][::core::mem::offset_of!(EpilogueParams, row_step) - 104usize];
    [
        "Offset of field: EpilogueParams::col_step",
    ][::core::mem::offset_of!(EpilogueParams, col_step) - 108usize];
    [
        "Offset of field: EpilogueParams::zero_step",
    ][::core::mem::offset_of!(EpilogueParams, zero_step) - 112usize];
    [
        "Offset of field: EpilogueParams::output_type",
    ][::core::mem::offset_of!(EpilogueParams, output_type) - 116usize];
    [
        "Offset of field: EpilogueParams::residual_type",
    ][::core::mem::offset_of!(EpilogueParams, residual_type) - 120usize];
    [
        "Offset of field: EpilogueParams::bias_type",
    ][::core::mem::offset_of!(EpilogueParams, bias_type) - 124usize];
    [
        "Offset of field: EpilogueParams::activation",
    ][::core::mem::offset_of!(EpilogueParams, activation) - 128usize];
    [
        "Offset of field: EpilogueParams::vectors",
    ][::core::mem::offset_of!(EpilogueParams, vectors) - 132usize];
    [
        "Offset of field: EpilogueParams::out_multiplier",
    ][::core::mem::offset_of!(EpilogueParams, out_multiplier) - 136usize];
    [
        "Offset of field: EpilogueParams::gated",
    ][::core::mem::offset_of!(EpilogueParams, gated) - 140usize];
    [
        "Offset of field: EpilogueParams::row_scale",
    ][::core::mem::offset_of!(EpilogueParams, row_scale) - 144usize];
    [
        "Offset of field: EpilogueParams::row_zero",
    ][::core::mem::offset_of!(EpilogueParams, row_zero) - 148usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct FinishParams {
    pub sums: *const ::core::ffi::c_int,
    pub stride: ::core::ffi::c_ulonglong,
    pub split_stride: ::core::ffi::c_ulonglong,
    pub batch_stride: ::core::ffi::c_ulonglong,
    pub splits: ::core::ffi::c_uint,
    pub vector: ::core::ffi::c_uint,
    pub epilogue: EpilogueParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of FinishParams"][::core::mem::size_of::<FinishParams>() - 192usize];
    ["Alignment of FinishParams"][::core::mem::align_of::<FinishParams>() - 8usize];
    [
        "Offset of field: FinishParams::sums",
    ][::core::mem::offset_of!(FinishParams, sums) - 0usize];
    [
        "Offset of field: FinishParams::stride",
    ][::core::mem::offset_of!(FinishParams, stride) - 8usize];
    [
        "Offset of field: FinishParams::split_stride",
    ][::core::mem::offset_of!(FinishParams, split_stride) - 16usize];
    [
        "Offset of field: FinishParams::batch_stride",
    ][::core::mem::offset_of!(FinishParams, batch_stride) - 24usize];
    [
        "Offset of field: FinishParams::splits",
    ][::core::mem::offset_of!(FinishParams, splits) - 32usize];
    [
        "Offset of field: FinishParams::vector",
    ][::core::mem::offset_of!(FinishParams, vector) - 36usize];
    [
        "Offset of field: FinishParams::epilogue",
    ][::core::mem::offset_of!(FinishParams, epilogue) - 40usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct IgemmParams {
    pub a: *const ::core::ffi::c_schar,
    pub w: *const ::core::ffi::c_schar,
    pub partial: *mut ::core::ffi::c_int,
    pub a_stride: ::core::ffi::c_ulonglong,
    pub w_stride: ::core::ffi::c_ulonglong,
    pub a_batch: ::core::ffi::c_ulonglong,
    pub w_batch: ::core::ffi::c_ulonglong,
    pub k: ::core::ffi::c_uint,
    pub k_split: ::core::ffi::c_uint,
    pub splits: ::core::ffi::c_uint,
    pub tiles_m: ::core::ffi::c_uint,
    pub tiles_n: ::core::ffi::c_uint,
    pub raster_rows: ::core::ffi::c_uint,
    pub epilogue: EpilogueParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of IgemmParams"][::core::mem::size_of::<IgemmParams>() - 232usize];
    ["Alignment of IgemmParams"][::core::mem::align_of::<IgemmParams>() - 8usize];
    [
        "Offset of field: IgemmParams::a",
    ][::core::mem::offset_of!(IgemmParams, a) - 0usize];
    [
        "Offset of field: IgemmParams::w",
    ][::core::mem::offset_of!(IgemmParams, w) - 8usize];
    [
        "Offset of field: IgemmParams::partial",
    ][::core::mem::offset_of!(IgemmParams, partial) - 16usize];
    [
        "Offset of field: IgemmParams::a_stride",
    ][::core::mem::offset_of!(IgemmParams, a_stride) - 24usize];
    [
        "Offset of field: IgemmParams::w_stride",
    ][::core::mem::offset_of!(IgemmParams, w_stride) - 32usize];
    [
        "Offset of field: IgemmParams::a_batch",
    ][::core::mem::offset_of!(IgemmParams, a_batch) - 40usize];
    [
        "Offset of field: IgemmParams::w_batch",
    ][::core::mem::offset_of!(IgemmParams, w_batch) - 48usize];
    [
        "Offset of field: IgemmParams::k",
    ][::core::mem::offset_of!(IgemmParams, k) - 56usize];
    [
        "Offset of field: IgemmParams::k_split",
    ][::core::mem::offset_of!(IgemmParams, k_split) - 60usize];
    [
        "Offset of field: IgemmParams::splits",
    ][::core::mem::offset_of!(IgemmParams, splits) - 64usize];
    [
        "Offset of field: IgemmParams::tiles_m",
    ][::core::mem::offset_of!(IgemmParams, tiles_m) - 68usize];
    [
        "Offset of field: IgemmParams::tiles_n",
    ][::core::mem::offset_of!(IgemmParams, tiles_n) - 72usize];
    [
        "Offset of field: IgemmParams::raster_rows",
    ][::core::mem::offset_of!(IgemmParams, raster_rows) - 76usize];
    [
        "Offset of field: IgemmParams::epilogue",
    ][::core::mem::offset_of!(IgemmParams, epilogue) - 80usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct IgemmSm90Params {
    pub sums: *mut ::core::ffi::c_int,
    pub arrived: *mut ::core::ffi::c_uint,
    pub k: ::core::ffi::c_uint,
    pub k_split: ::core::ffi::c_uint,
    pub splits: ::core::ffi::c_uint,
    pub items: ::core::ffi::c_uint,
    pub tiles_tall: ::core::ffi::c_uint,
    pub tiles_wide: ::core::ffi::c_uint,
    pub raster_rows: ::core::ffi::c_uint,
    pub weights_ready: ::core::ffi::c_uint,
    pub tensor_store: ::core::ffi::c_uint,
    pub reserved: ::core::ffi::c_uint,
    pub epilogue: EpilogueParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of IgemmSm90Params"][::core::mem::size_of::<IgemmSm90Params>() - 208usize];
    [
        "Alignment of IgemmSm90Params",
    ][::core::mem::align_of::<IgemmSm90Params>() - 8usize];
    [
        "Offset of field: IgemmSm90Params::sums",
    ][::core::mem::offset_of!(IgemmSm90Params, sums) - 0usize];
    [
        "Offset of field: IgemmSm90Params::arrived",
    ][::core::mem::offset_of!(IgemmSm90Params, arrived) - 8usize];
    [
        "Offset of field: IgemmSm90Params::k",
    ][::core::mem::offset_of!(IgemmSm90Params, k) - 16usize];
    [
        "Offset of field: IgemmSm90Params::k_split",
    ][::core::mem::offset_of!(IgemmSm90Params, k_split) - 20usize];
    [
        "Offset of field: IgemmSm90Params::splits",
    ][::core::mem::offset_of!(IgemmSm90Params, splits) - 24usize];
    [
        "Offset of field: IgemmSm90Params::items",
    ][::core::mem::offset_of!(IgemmSm90Params, items) - 28usize];
    [
        "Offset of field: IgemmSm90Params::tiles_tall",
    ][::core::mem::offset_of!(IgemmSm90Params, tiles_tall) - 32usize];
    [
        "Offset of field: IgemmSm90Params::tiles_wide",
    ][::core::mem::offset_of!(IgemmSm90Params, tiles_wide) - 36usize];
    [
        "Offset of field: IgemmSm90Params::raster_rows",
    ][::core::mem::offset_of!(IgemmSm90Params, raster_rows) - 40usize];
    [
        "Offset of field: IgemmSm90Params::weights_ready",
    ][::core::mem::offset_of!(IgemmSm90Params, weights_ready) - 44usize];
    [
        "Offset of field: IgemmSm90Params::tensor_store",
    ][::core::mem::offset_of!(IgemmSm90Params, tensor_store) - 48usize];
    [
        "Offset of field: IgemmSm90Params::reserved",
    ][::core::mem::offset_of!(IgemmSm90Params, reserved) - 52usize];
    [
        "Offset of field: IgemmSm90Params::epilogue",
    ][::core::mem::offset_of!(IgemmSm90Params, epilogue) - 56usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct PeakParams {
    pub sums: *mut ::core::ffi::c_int,
    pub word: ::core::ffi::c_uint,
    pub spread: ::core::ffi::c_uint,
    pub iterations: ::core::ffi::c_uint,
    pub reserved: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PeakParams"][::core::mem::size_of::<PeakParams>() - 24usize];
    ["Alignment of PeakParams"][::core::mem::align_of::<PeakParams>() - 8usize];
    [
        "Offset of field: PeakParams::sums",
    ][::core::mem::offset_of!(PeakParams, sums) - 0usize];
    [
        "Offset of field: PeakParams::word",
    ][::core::mem::offset_of!(PeakParams, word) - 8usize];
    [
        "Offset of field: PeakParams::spread",
    ][::core::mem::offset_of!(PeakParams, spread) - 12usize];
    [
        "Offset of field: PeakParams::iterations",
    ][::core::mem::offset_of!(PeakParams, iterations) - 16usize];
    [
        "Offset of field: PeakParams::reserved",
    ][::core::mem::offset_of!(PeakParams, reserved) - 20usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct FinishQuantizeParams {
    pub scales: *mut f32,
    pub finish: FinishParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of FinishQuantizeParams",
    ][::core::mem::size_of::<FinishQuantizeParams>() - 200usize];
    [
        "Alignment of FinishQuantizeParams",
    ][::core::mem::align_of::<FinishQuantizeParams>() - 8usize];
    [
        "Offset of field: FinishQuantizeParams::scales",
    ][::core::mem::offset_of!(FinishQuantizeParams, scales) - 0usize];
    [
        "Offset of field: FinishQuantizeParams::finish",
    ][::core::mem::offset_of!(FinishQuantizeParams, finish) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct IgemmGroupwiseParams {
    pub group_scales: *const f32,
    pub group_stride: ::core::ffi::c_ulonglong,
    pub group_shift: ::core::ffi::c_uint,
    pub reserved: ::core::ffi::c_uint,
    pub igemm: IgemmParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of IgemmGroupwiseParams",
    ][::core::mem::size_of::<IgemmGroupwiseParams>() - 256usize];
    [
        "Alignment of IgemmGroupwiseParams",
    ][::core::mem::align_of::<IgemmGroupwiseParams>() - 8usize];
    [
        "Offset of field: IgemmGroupwiseParams::group_scales",
    ][::core::mem::offset_of!(IgemmGroupwiseParams, group_scales) - 0usize];
    [
        "Offset of field: IgemmGroupwiseParams::group_stride",
    ][::core::mem::offset_of!(IgemmGroupwiseParams, group_stride) - 8usize];
    [
        "Offset of field: IgemmGroupwiseParams::group_shift",
    ][::core::mem::offset_of!(IgemmGroupwiseParams, group_shift) - 16usize];
    [
        "Offset of field: IgemmGroupwiseParams::reserved",
    ][::core::mem::offset_of!(IgemmGroupwiseParams, reserved) - 20usize];
    [
        "Offset of field: IgemmGroupwiseParams::igemm",
    ][::core::mem::offset_of!(IgemmGroupwiseParams, igemm) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GroupRowsParams {
    pub offsets: *const ::core::ffi::c_int,
    pub counts: *const ::core::ffi::c_int,
    pub fault: *mut ::core::ffi::c_uint,
    pub groups: ::core::ffi::c_uint,
    pub each: ::core::ffi::c_uint,
    pub rows: ::core::ffi::c_uint,
    pub reserved: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupRowsParams"][::core::mem::size_of::<GroupRowsParams>() - 40usize];
    [
        "Alignment of GroupRowsParams",
    ][::core::mem::align_of::<GroupRowsParams>() - 8usize];
    [
        "Offset of field: GroupRowsParams::offsets",
    ][::core::mem::offset_of!(GroupRowsParams, offsets) - 0usize];
    [
        "Offset of field: GroupRowsParams::counts",
    ][::core::mem::offset_of!(GroupRowsParams, counts) - 8usize];
    [
        "Offset of field: GroupRowsParams::fault",
    ][::core::mem::offset_of!(GroupRowsParams, fault) - 16usize];
    [
        "Offset of field: GroupRowsParams::groups",
    ][::core::mem::offset_of!(GroupRowsParams, groups) - 24usize];
    [
        "Offset of field: GroupRowsParams::each",
    ][::core::mem::offset_of!(GroupRowsParams, each) - 28usize];
    [
        "Offset of field: GroupRowsParams::rows",
    ][::core::mem::offset_of!(GroupRowsParams, rows) - 32usize];
    [
        "Offset of field: GroupRowsParams::reserved",
    ][::core::mem::offset_of!(GroupRowsParams, reserved) - 36usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct IgemmGroupedParams {
    pub rows: GroupRowsParams,
    pub group_scales: *const f32,
    pub group_stride: ::core::ffi::c_ulonglong,
    pub group_batch: ::core::ffi::c_ulonglong,
    pub group_shift: ::core::ffi::c_uint,
    pub reserved: ::core::ffi::c_uint,
    pub igemm: IgemmParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of IgemmGroupedParams",
    ][::core::mem::size_of::<IgemmGroupedParams>() - 304usize];
    [
        "Alignment of IgemmGroupedParams",
    ][::core::mem::align_of::<IgemmGroupedParams>() - 8usize];
    [
        "Offset of field: IgemmGroupedParams::rows",
    ][::core::mem::offset_of!(IgemmGroupedParams, rows) - 0usize];
    [
        "Offset of field: IgemmGroupedParams::group_scales",
    ][::core::mem::offset_of!(IgemmGroupedParams, group_scales) - 40usize];
    [
        "Offset of field: IgemmGroupedParams::group_stride",
    ][::core::mem::offset_of!(IgemmGroupedParams, group_stride) - 48usize];
    [
        "Offset of field: IgemmGroupedParams::group_batch",
    ][::core::mem::offset_of!(IgemmGroupedParams, group_batch) - 56usize];
    [
        "Offset of field: IgemmGroupedParams::group_shift",
    ][::core::mem::offset_of!(IgemmGroupedParams, group_shift) - 64usize];
    [
        "Offset of field: IgemmGroupedParams::reserved",
    ][::core::mem::offset_of!(IgemmGroupedParams, reserved) - 68usize];
    [
        "Offset of field: IgemmGroupedParams::igemm",
    ][::core::mem::offset_of!(IgemmGroupedParams, igemm) - 72usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct QuantizeGroupedParams {
    pub rows: GroupRowsParams,
    pub input: *const f32,
    pub output: *mut ::core::ffi::c_schar,
    pub scales: *mut f32,
    pub input_stride: ::core::ffi::c_ulonglong,
    pub output_stride: ::core::ffi::c_ulonglong,
    pub cols: ::core::ffi::c_uint,
    pub padded: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of QuantizeGroupedParams",
    ][::core::mem::size_of::<QuantizeGroupedParams>() - 88usize];
    [
        "Alignment of QuantizeGroupedParams",
    ][::core::mem::align_of::<QuantizeGroupedParams>() - 8usize];
    [
        "Offset of field: QuantizeGroupedParams::rows",
    ][::core::mem::offset_of!(QuantizeGroupedParams, rows) - 0usize];
    [
        "Offset of field: QuantizeGroupedParams::input",
    ][::core::mem::offset_of!(QuantizeGroupedParams, input) - 40usize];
    [
        "Offset of field: QuantizeGroupedParams::output",
    ][::core::mem::offset_of!(QuantizeGroupedParams, output) - 48usize];
    [
        "Offset of field: QuantizeGroupedParams::scales",
    ][::core::mem::offset_of!(QuantizeGroupedParams, scales) - 56usize];
    [
        "Offset of field: QuantizeGroupedParams::input_stride",
    ][::core::mem::offset_of!(QuantizeGroupedParams, input_stride) - 64usize];
    [
        "Offset of field: QuantizeGroupedParams::output_stride",
    ][::core::mem::offset_of!(QuantizeGroupedParams, output_stride) - 72usize];
    [
        "Offset of field: QuantizeGroupedParams::cols",
    ][::core::mem::offset_of!(QuantizeGroupedParams, cols) - 80usize];
    [
        "Offset of field: QuantizeGroupedParams::padded",
    ][::core::mem::offset_of!(QuantizeGroupedParams, padded) - 84usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MoeSortParams {
    pub indices: *const ::core::ffi::c_int,
    pub counts: *mut ::core::ffi::c_int,
    pub offsets: *mut ::core::ffi::c_int,
    pub rows: *mut ::core::ffi::c_int,
    pub fault: *mut ::core::ffi::c_uint,
    pub pairs: ::core::ffi::c_uint,
    pub first: ::core::ffi::c_uint,
    pub experts: ::core::ffi::c_uint,
    pub total: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MoeSortParams"][::core::mem::size_of::<MoeSortParams>() - 56usize];
    ["Alignment of MoeSortParams"][::core::mem::align_of::<MoeSortParams>() - 8usize];
    [
        "Offset of field: MoeSortParams::indices",
    ][::core::mem::offset_of!(MoeSortParams, indices) - 0usize];
    [
        "Offset of field: MoeSortParams::counts",
    ][::core::mem::offset_of!(MoeSortParams, counts) - 8usize];
    [
        "Offset of field: MoeSortParams::offsets",
    ][::core::mem::offset_of!(MoeSortParams, offsets) - 16usize];
    [
        "Offset of field: MoeSortParams::rows",
    ][::core::mem::offset_of!(MoeSortParams, rows) - 24usize];
    [
        "Offset of field: MoeSortParams::fault",
    ][::core::mem::offset_of!(MoeSortParams, fault) - 32usize];
    [
        "Offset of field: MoeSortParams::pairs",
    ][::core::mem::offset_of!(MoeSortParams, pairs) - 40usize];
    [
        "Offset of field: MoeSortParams::first",
    ][::core::mem::offset_of!(MoeSortParams, first) - 44usize];
    [
        "Offset of field: MoeSortParams::experts",
    ][::core::mem::offset_of!(MoeSortParams, experts) - 48usize];
    [
        "Offset of field: MoeSortParams::total",
    ][::core::mem::offset_of!(MoeSortParams, total) - 52usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MoePermuteParams {
    pub input: *const ::core::ffi::c_void,
    pub destinations: *const ::core::ffi::c_int,
    pub output: *mut ::core::ffi::c_schar,
    pub scales: *mut f32,
    pub fault: *mut ::core::ffi::c_uint,
    pub input_stride: ::core::ffi::c_ulonglong,
    pub output_stride: ::core::ffi::c_ulonglong,
    pub tokens: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
    pub padded: ::core::ffi::c_uint,
    pub choices: ::core::ffi::c_uint,
    pub rows: ::core::ffi::c_uint,
    pub reserved: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MoePermuteParams"][::core::mem::size_of::<MoePermuteParams>() - 80usize];
    [
        "Alignment of MoePermuteParams",
    ][::core::mem::align_of::<MoePermuteParams>() - 8usize];
    [
        "Offset of field: MoePermuteParams::input",
    ][::core::mem::offset_of!(MoePermuteParams, input) - 0usize];
    [
        "Offset of field: MoePermuteParams::destinations",
    ][::core::mem::offset_of!(MoePermuteParams, destinations) - 8usize];
    [
        "Offset of field: MoePermuteParams::output",
    ][::core::mem::offset_of!(MoePermuteParams, output) - 16usize];
    [
        "Offset of field: MoePermuteParams::scales",
    ][::core::mem::offset_of!(MoePermuteParams, scales) - 24usize];
    [
        "Offset of field: MoePermuteParams::fault",
    ][::core::mem::offset_of!(MoePermuteParams, fault) - 32usize];
    [
        "Offset of field: MoePermuteParams::input_stride",
    ][::core::mem::offset_of!(MoePermuteParams, input_stride) - 40usize];
    [
        "Offset of field: MoePermuteParams::output_stride",
    ][::core::mem::offset_of!(MoePermuteParams, output_stride) - 48usize];
    [
        "Offset of field: MoePermuteParams::tokens",
    ][::core::mem::offset_of!(MoePermuteParams, tokens) - 56usize];
    [
        "Offset of field: MoePermuteParams::cols",
    ][::core::mem::offset_of!(MoePermuteParams, cols) - 60usize];
    [
        "Offset of field: MoePermuteParams::padded",
    ][::core::mem::offset_of!(MoePermuteParams, padded) - 64usize];
    [
        "Offset of field: MoePermuteParams::choices",
    ][::core::mem::offset_of!(MoePermuteParams, choices) - 68usize];
    [
        "Offset of field: MoePermuteParams::rows",
    ][::core::mem::offset_of!(MoePermuteParams, rows) - 72usize];
    [
        "Offset of field: MoePermuteParams::reserved",
    ][::core::mem::offset_of!(MoePermuteParams, reserved) - 76usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MoeCombineParams {
    pub results: *const ::core::ffi::c_void,
    pub sources: *const ::core::ffi::c_int,
    pub weights: *const f32,
    pub output: *mut ::core::ffi::c_void,
    pub fault: *mut ::core::ffi::c_uint,
    pub results_stride: ::core::ffi::c_ulonglong,
    pub output_stride: ::core::ffi::c_ulonglong,
    pub tokens: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
    pub choices: ::core::ffi::c_uint,
    pub rows: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MoeCombineParams"][::core::mem::size_of::<MoeCombineParams>() - 72usize];
    [
        "Alignment of MoeCombineParams",
    ][::core::mem::align_of::<MoeCombineParams>() - 8usize];
    [
        "Offset of field: MoeCombineParams::results",
    ][::core::mem::offset_of!(MoeCombineParams, results) - 0usize];
    [
        "Offset of field: MoeCombineParams::sources",
    ][::core::mem::offset_of!(MoeCombineParams, sources) - 8usize];
    [
        "Offset of field: MoeCombineParams::weights",
    ][::core::mem::offset_of!(MoeCombineParams, weights) - 16usize];
    [
        "Offset of field: MoeCombineParams::output",
    ][::core::mem::offset_of!(MoeCombineParams, output) - 24usize];
    [
        "Offset of field: MoeCombineParams::fault",
    ][::core::mem::offset_of!(MoeCombineParams, fault) - 32usize];
    [
        "Offset of field: MoeCombineParams::results_stride",
    ][::core::mem::offset_of!(MoeCombineParams, results_stride) - 40usize];
    [
        "Offset of field: MoeCombineParams::output_stride",
    ][::core::mem::offset_of!(MoeCombineParams, output_stride) - 48usize];
    [
        "Offset of field: MoeCombineParams::tokens",
    ][::core::mem::offset_of!(MoeCombineParams, tokens) - 56usize];
    [
        "Offset of field: MoeCombineParams::cols",
    ][::core::mem::offset_of!(MoeCombineParams, cols) - 60usize];
    [
        "Offset of field: MoeCombineParams::choices",
    ][::core::mem::offset_of!(MoeCombineParams, choices) - 64usize];
    [
        "Offset of field: MoeCombineParams::rows",
    ][::core::mem::offset_of!(MoeCombineParams, rows) - 68usize];
};
