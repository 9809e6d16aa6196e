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
    int *extents;     /* [1, rows], asymmetric [2, rows]: what a row's constants are made of; extents and by only */
    unsigned long long input_stride;
    unsigned long long output_stride;
    unsigned long long seed; /* stochastic only */
    unsigned int rows;
    unsigned int cols;
    unsigned int padded;
    float scale;      /* given constants only, as the two below */
    float multiplier;
    int zero_point;
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
    int zero_point; /* asymmetric only */
    unsigned int reserved;
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

/* [add_]rmsnorm_quantize_*: input [rows, cols] -> output [rows, padded] (zeros from cols on), scales [rows]. The block
 * is that of quantize_rows. */
struct RmsnormQuantizeParams {
    const void *input;
    void *residual; /* [rows, cols], input is added to it first; add_ only */
    const void *weight; /* [cols] */
    signed char *output;
    float *scales;
    unsigned long long input_stride;
    unsigned long long residual_stride;
    unsigned long long output_stride;
    unsigned int rows;
    unsigned int cols;
    unsigned int padded;
    unsigned int sums; /* floats of dynamic shared memory a row of the block */
    float epsilon;
    unsigned int reserved;
};

/* silu_mul_quantize: most threads of a block; more would leave too few registers for its arithmetic. */
#define IMMA_SILU_MAX_THREADS 768

/* silu_mul_quantize_*: gate, up [rows, cols] -> output [rows, padded] (zeros from cols on), scales [rows]. The block is
 * that of quantize_rows, with fewer threads at most. */
struct SiluMulQuantizeParams {
    const void *gate;
    const void *up;
    signed char *output;
    float *scales;
    unsigned long long gate_stride;
    unsigned long long up_stride;
    unsigned long long output_stride;
    unsigned int rows;
    unsigned int cols;
    unsigned int padded;
    unsigned int reserved;
};

/* Element types of the epilogue's parts; 0 where there is none. */
#define IMMA_TYPE_F32 1
#define IMMA_TYPE_F16 2
#define IMMA_TYPE_BF16 3
#define IMMA_TYPE_I32 4
#define IMMA_TYPE_I8 5

#define IMMA_ACTIVATION_NONE 0
#define IMMA_ACTIVATION_RELU 1
#define IMMA_ACTIVATION_SILU 2
#define IMMA_ACTIVATION_GELU 3
#define IMMA_ACTIVATION_GELU_TANH 4

/* Which parts have their quads, four columns of a row, aligned to one access. */
#define IMMA_VECTOR_OUTPUT 1
#define IMMA_VECTOR_RESIDUAL 2
#define IMMA_VECTOR_COL_SCALES 4
#define IMMA_VECTOR_COL_SUMS 8
#define IMMA_VECTOR_BIAS 16

/* epilogue: threads of a block; a thread finishes four columns of a row. */
#define IMMA_EPILOGUE_THREADS 256

/* What happens to the sums [rows, cols] on their way out: src/epilogue.rs. Absent parts are null. Output and residual are
 * [rows, cols], or [rows, cols / 2] when gated. */
struct EpilogueParams {
    void *output;
    const void *residual;
    const void *bias;        /* [cols] */
    const float *row_scales; /* read at row * row_step; null: row_scale */
    const float *col_scales; /* read at col * col_step */
    const int *row_zeros;    /* read at row * zero_step, with col_sums; null: row_zero */
    const int *col_sums;     /* [cols]: the sums of the weights' columns; null: no zero points */
    unsigned long long output_stride;
    unsigned long long residual_stride;
    unsigned long long output_batch;   /* elements from one product of a batch to the next */
    unsigned long long residual_batch;
    unsigned int row_batch; /* entries from one product's row scales and zero points to the next's */
    unsigned int col_batch; /* the same for column scales, column sums and bias */
    unsigned int rows;
    unsigned int cols;
    unsigned int row_step;
    unsigned int col_step;
    unsigned int zero_step;
    unsigned int output_type;
    unsigned int residual_type;
    unsigned int bias_type;
    unsigned int activation;
    unsigned int vectors; /* IMMA_VECTOR_* */
    float out_multiplier; /* 1 / out_scale, for int8 */
    unsigned int gated; /* whether columns are pairs, gate before up; cols is even */
    float row_scale; /* of every row, where row_scales is null: a static scale, or 1 */
    int row_zero;    /* of every row, where row_zeros is null and col_sums is not */
};

/* epilogue_i32: output = epilogue(sum of `splits` matrices of int32). */
struct FinishParams {
    const int *sums;
    unsigned long long stride;
    unsigned long long split_stride; /* elements from one split's sums to the next's */
    unsigned long long batch_stride;
    unsigned int splits;
    unsigned int vector; /* whether quads of sums are 16-byte aligned */
    struct EpilogueParams epilogue;
};

/* igemm_sm80_*: a [rows, k] x w [cols, k]^T, rows and cols as in the epilogue. */
struct IgemmParams {
    const signed char *a;
    const signed char *w;
    int *partial; /* [batch, splits, rows, cols]: the sums of each split, or null to run the epilogue */
    unsigned long long a_stride;
    unsigned long long w_stride;
    unsigned long long a_batch;
    unsigned long long w_batch;
    unsigned int k;
    unsigned int k_split; /* k of a split: a multiple of the tile's */
    unsigned int splits;
    unsigned int tiles_m;
    unsigned int tiles_n;
    unsigned int raster_rows; /* rows of tiles that are walked together: cuda/raster.cuh */
    struct EpilogueParams epilogue;
};

/* igemm_sm90_*: a [rows, k] x w [cols, k]^T through two tensor maps, and a third for the output where it has one. The
 * tall operand takes the 64-row side of wgmma. */
struct IgemmSm90Params {
    int *sums;             /* splits > 1: [rows, cols], zeros before and after */
    unsigned int *arrived; /* splits > 1: counters of tiles, zeros before and after */
    unsigned int k;
    unsigned int k_split; /* k of a split: a multiple of 128; every split has some */
    unsigned int splits;
    unsigned int items;      /* tiles_tall * tiles_wide * splits */
    unsigned int tiles_tall; /* in tiles of a cluster */
    unsigned int tiles_wide;
    unsigned int raster_rows; /* tiles along the tall side that are walked together: cuda/raster.cuh */
    unsigned int weights_ready; /* whether w may be read while the kernel before still runs */
    unsigned int tensor_store;  /* whether the output's tensor map may be stored through */
    unsigned int reserved;
    struct EpilogueParams epilogue;
};

/* peak_mma_s8: how fast the tensor cores are when nothing else is in the way. */
#define IMMA_PEAK_THREADS 256
#define IMMA_PEAK_CHAINS 8 /* accumulators a warp */
struct PeakParams {
    int *sums; /* one a thread: of all its accumulators, modulo 2^32 */
    unsigned int word; /* four bytes of the operands */
    unsigned int spread; /* makes them differ from thread to thread; 0: all the same */
    unsigned int iterations;
    unsigned int reserved;
};

/* epilogue_quantize: output = int8 of epilogue(sum of `splits` matrices of int32), each row with a scale of its own. One
 * block a row; the epilogue's output type and multiplier count for nothing. */
struct FinishQuantizeParams {
    float *scales; /* [rows] */
    struct FinishParams finish;
};

/* igemm_groupwise_*: weights with a scale for each column and each scale group of k. */
struct IgemmGroupwiseParams {
    const float *group_scales; /* [scale groups, cols] */
    unsigned long long group_stride;
    unsigned int group_shift; /* log2 of the k of a scale group: 5, 6 or 7 */
    unsigned int reserved;
    struct IgemmParams igemm; /* one product, no partial sums */
};

/* What went wrong with numbers that only the device has seen; with the group, pair or row in the low bits. */
#define IMMA_FAULT_BITS 28
#define IMMA_FAULT_OFFSETS 1 /* offsets out of order or outside of the rows, or a count above its room */
#define IMMA_FAULT_INDEX 2   /* an index of an expert that there is not */
#define IMMA_FAULT_ROW 3     /* a row outside of the matrix */

/* Which rows of a matrix are whose in a grouped product: read on the device. */
struct GroupRowsParams {
    const int *offsets;  /* [groups + 1]: group g has rows offsets[g] .. offsets[g + 1]; or null, and */
    const int *counts;   /* [groups]: group g has the first counts[g] of the `each` rows from g * each on */
    unsigned int *fault; /* memory of the host, written when a group is bad */
    unsigned int groups;
    unsigned int each;
    unsigned int rows; /* there are at most */
    unsigned int reserved;
};

/* igemm_grouped_*: a product of the batch for each group, whose rows of the left operand and of the output are read on the
 * device. */
struct IgemmGroupedParams {
    struct GroupRowsParams rows;
    const float *group_scales; /* of the first group's weights, [scale groups, cols]; null without scale groups */
    unsigned long long group_stride;
    unsigned long long group_batch; /* elements from one group's to the next's */
    unsigned int group_shift;
    unsigned int reserved;
    struct IgemmParams igemm; /* no partial sums */
};

/* quantize_grouped_*: input [rows, cols] -> output [rows, padded] (zeros from cols on), scales [rows], for rows that are some
 * group's. The block is that of quantize_rows. */
struct QuantizeGroupedParams {
    struct GroupRowsParams rows;
    const float *input;
    signed char *output;
    float *scales;
    unsigned long long input_stride;
    unsigned long long output_stride;
    unsigned int cols;
    unsigned int padded;
};

/* moe_sort_*: indices [pairs] of experts -> offsets [experts + 1], rows [pairs]; a block has IMMA_SORT_PAIRS of them. */
#define IMMA_SORT_PAIRS 1024
#define IMMA_SORT_THREADS 256
struct MoeSortParams {
    const int *indices;
    int *counts; /* [blocks, experts]: of each block's pairs; null where there is one block */
    int *offsets;
    int *rows; /* -1 for pairs of other experts */
    unsigned int *fault;
    unsigned int pairs;
    unsigned int first; /* of the experts here */
    unsigned int experts; /* here */
    unsigned int total; /* of all experts */
};

/* moe_permute_*: tokens [tokens, cols] -> output [rows, padded] (zeros from cols on), scales [rows]; token t goes to the rows
 * destinations[t * choices ..]. The block is that of quantize_rows. */
struct MoePermuteParams {
    const void *input;
    const int *destinations;
    signed char *output;
    float *scales;
    unsigned int *fault;
    unsigned long long input_stride;
    unsigned long long output_stride;
    unsigned int tokens;
    unsigned int cols;
    unsigned int padded;
    unsigned int choices;
    unsigned int rows;
    unsigned int reserved;
};

/* moe_combine_*: results [rows, cols] -> output [tokens, cols], the sum of weights[t, j] * results[sources[t, j], :]. */
#define IMMA_COMBINE_THREADS 128
struct MoeCombineParams {
    const void *results;
    const int *sources;    /* [tokens, choices]; -1 adds nothing */
    const float *weights;  /* [tokens, choices] */
    void *output;
    unsigned int *fault;
    unsigned long long results_stride;
    unsigned long long output_stride;
    unsigned int tokens;
    unsigned int cols;
    unsigned int choices;
    unsigned int rows;
};

#ifdef __CUDACC__
static_assert(sizeof(GroupRowsParams) == 40, "layout");
static_assert(sizeof(IgemmGroupedParams) == 304 && offsetof(IgemmGroupedParams, igemm) == 72, "layout");
static_assert(sizeof(QuantizeGroupedParams) == 88 && offsetof(QuantizeGroupedParams, cols) == 80, "layout");
static_assert(sizeof(MoeSortParams) == 56 && offsetof(MoeSortParams, pairs) == 40, "layout");
static_assert(sizeof(MoePermuteParams) == 80 && offsetof(MoePermuteParams, tokens) == 56, "layout");
static_assert(sizeof(MoeCombineParams) == 72 && offsetof(MoeCombineParams, tokens) == 56, "layout");
static_assert(sizeof(FinishQuantizeParams) == 200, "layout");
static_assert(sizeof(PeakParams) == 24, "layout");
static_assert(sizeof(EpilogueParams) == 152 && offsetof(EpilogueParams, row_batch) == 88, "layout");
static_assert(sizeof(FinishParams) == 192 && offsetof(FinishParams, epilogue) == 40, "layout");
static_assert(sizeof(IgemmParams) == 232 && offsetof(IgemmParams, epilogue) == 80, "layout");
static_assert(sizeof(IgemmSm90Params) == 208 && offsetof(IgemmSm90Params, epilogue) == 56, "layout");
static_assert(sizeof(IgemmGroupwiseParams) == 256 && offsetof(IgemmGroupwiseParams, igemm) == 24, "layout");
static_assert(sizeof(QuantizeRowsParams) == 88 && offsetof(QuantizeRowsParams, rows) == 64, "layout");
static_assert(sizeof(QuantizeColsParams) == 72 && offsetof(QuantizeColsParams, rows) == 56, "layout");
static_assert(sizeof(QuantizeStaticParams) == 64 && offsetof(QuantizeStaticParams, rows) == 48, "layout");
static_assert(sizeof(DequantizeParams) == 80 && offsetof(DequantizeParams, rows) == 64, "layout");
static_assert(sizeof(RmsnormQuantizeParams) == 88 && offsetof(RmsnormQuantizeParams, rows) == 64, "layout");
static_assert(sizeof(SiluMulQuantizeParams) == 72 && offsetof(SiluMulQuantizeParams, rows) == 56, "layout");
static_assert(sizeof(TransposeParams) == 48 && offsetof(TransposeParams, rows) == 32, "layout");
#endif

#endif
