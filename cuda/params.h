/* What both sides know: the one parameter struct of each kernel family, and the constants of tiles and blocks.
 *
 * nvcc includes this file; bindgen makes src/cuda/params.rs of it. Sizes and offsets are asserted here and there.
 * Strides and linear positions count elements, not bytes. A pointer that a kernel does not need is null.
 */
#ifndef IMMA_PARAMS_H
#define IMMA_PARAMS_H

#ifdef __CUDACC__
#include <cstddef>
#endif

/* Bytes of a vector access. */
#define IMMA_VECTOR_BYTES 16

/* quantize_rows: block (threads of a row, rows); a thread holds up to IMMA_ROWS_HELD vectors of its row. */
#define IMMA_ROWS_HELD 4
#define IMMA_ROWS_MAX_THREADS 1024

/* quantize_cols: a block owns a strip of this many columns and walks down K in slabs of this many rows. */
#define IMMA_COLS_STRIP 16
#define IMMA_COLS_SLAB 1024
#define IMMA_COLS_THREADS 256

/* quantize_static and dequantize: threads of a block, vectors of a thread. */
#define IMMA_FLAT_THREADS 256
#define IMMA_FLAT_VECTORS 4

/* transpose_s8: a block turns a square tile of this side. */
#define IMMA_TRANSPOSE_TILE 128
#define IMMA_TRANSPOSE_THREADS 256

/* quantize_rows_*: input [rows, cols] -> output [rows, padded] (zeros from cols on), scales [rows]. */
struct QuantizeRowsParams {
    const void *input;
    signed char *output;
    float *scales;
    int *zero_points; /* [rows]; asymmetric only */
    unsigned long long input_stride;
    unsigned long long output_stride;
    unsigned long long seed; /* stochastic only */
    unsigned int rows;
    unsigned int cols;
    unsigned int padded;
    unsigned int reserved;
};

/* quantize_cols_*: input [rows, cols] -> output [cols, padded] (K-major, zeros from rows on), scales [cols]. */
struct QuantizeColsParams {
    const void *input;
    signed char *output;
    float *scales;
    int *zero_points; /* [cols]; asymmetric only */
    unsigned long long input_stride;
    unsigned long long output_stride;
    unsigned long long seed; /* stochastic only */
    unsigned int rows;
    unsigned int cols;
    unsigned int padded;
    unsigned int held_rows; /* rows of a strip that fit the dynamic shared memory of the launch */
};

/* quantize_static_*: input [rows, cols] -> output [rows, cols] with one multiplier. */
struct QuantizeStaticParams {
    const void *input;
    signed char *output;
    unsigned long long input_stride;
    unsigned long long output_stride;
    unsigned long long cols;
    unsigned long long seed; /* stochastic only */
    unsigned int rows;
    float multiplier;
};

/* dequantize_*: output[r, c] = (input[r, c] - zero_point) * row_scale * col_scale. */
struct DequantizeParams {
    const void *input;
    void *output;
    const float *row_scales; /* null, or read at r * row_step */
    const float *col_scales; /* null, or read at c */
    const int *zero_points;  /* null, or read at r * zero_row_step + c * zero_col_step */
    unsigned long long input_stride;
    unsigned long long output_stride;
    unsigned long long cols;
    unsigned int rows;
    unsigned int row_step;
    unsigned int zero_row_step;
    unsigned int zero_col_step;
};

/* transpose_s8: input [rows, cols] -> output [cols, padded], zeros from rows on. */
struct TransposeParams {
    const signed char *input;
    signed char *output;
    unsigned long long input_stride;
    unsigned long long output_stride;
    unsigned int rows;
    unsigned int cols;
    unsigned int padded;
    unsigned int reserved;
};

#ifdef __CUDACC__
static_assert(sizeof(QuantizeRowsParams) == 72 && offsetof(QuantizeRowsParams, rows) == 56, "layout");
static_assert(sizeof(QuantizeColsParams) == 72 && offsetof(QuantizeColsParams, rows) == 56, "layout");
static_assert(sizeof(QuantizeStaticParams) == 56 && offsetof(QuantizeStaticParams, rows) == 48, "layout");
static_assert(sizeof(DequantizeParams) == 80 && offsetof(DequantizeParams, rows) == 64, "layout");
static_assert(sizeof(TransposeParams) == 48 && offsetof(TransposeParams, rows) == 32, "layout");
#endif

#endif
