// Made from cuda/params.h (FNV-1a e79953aca145af14) by bindgen; see cuda/README.md. Not to be edited.

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
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct QuantizeRowsParams {
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
    pub reserved: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of QuantizeRowsParams",
    ][::core::mem::size_of::<QuantizeRowsParams>() - 72usize];
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
        "Offset of field: QuantizeRowsParams::input_stride",
    ][::core::mem::offset_of!(QuantizeRowsParams, input_stride) - 32usize];
    [
        "Offset of field: QuantizeRowsParams::output_stride",
    ][::core::mem::offset_of!(QuantizeRowsParams, output_stride) - 40usize];
    [
        "Offset of field: QuantizeRowsParams::seed",
    ][::core::mem::offset_of!(QuantizeRowsParams, seed) - 48usize];
    [
        "Offset of field: QuantizeRowsParams::rows",
    ][::core::mem::offset_of!(QuantizeRowsParams, rows) - 56usize];
    [
        "Offset of field: QuantizeRowsParams::cols",
    ][::core::mem::offset_of!(QuantizeRowsParams, cols) - 60usize];
    [
        "Offset of field: QuantizeRowsParams::padded",
    ][::core::mem::offset_of!(QuantizeRowsParams, padded) - 64usize];
    [
        "Offset of field: QuantizeRowsParams::reserved",
    ][::core::mem::offset_of!(QuantizeRowsParams, reserved) - 68usize];
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
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of QuantizeStaticParams",
    ][::core::mem::size_of::<QuantizeStaticParams>() - 56usize];
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
