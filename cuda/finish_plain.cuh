// The epilogue of most products, scales and a bias to a float type, for a warp that has a strip of sums in shared memory:
// the steps of finish() in epilogue.cuh, bit for bit, with what its rows and columns share read once and ahead.
#pragma once

#include "epilogue.cuh"

namespace imma {

// Whether finish() would do no more than this.
__device__ __forceinline__ bool is_plain(const EpilogueParams& e) {
    const bool floats = e.output_type == IMMA_TYPE_F32 || e.output_type == IMMA_TYPE_F16 || e.output_type == IMMA_TYPE_BF16;
    return floats && !e.row_zeros && e.activation == IMMA_ACTIVATION_NONE && !e.residual_type;
}

// A strip of ROWS x COLS sums, rows PITCH apart: lane l has columns 4 (l % (COLS / 4)) of every 128 / COLS-th row.
template <unsigned ROWS, unsigned COLS, unsigned PITCH>
struct PlainStrip {
    static constexpr unsigned GROUPS = COLS / GROUP, STEP = 32 / GROUPS, ROUNDS = ROWS / STEP;
    static_assert(32 % GROUPS == 0 && ROWS % STEP == 0, "whole rounds of a warp");

    unsigned row, col, count;
    float row_scale[ROUNDS], scale[GROUP], bias[GROUP];

    // Reads scales and bias; before the sums are there, so that the way from memory is hidden.
    __device__ __forceinline__ void load(const EpilogueParams& e, unsigned lane, unsigned row0, unsigned col0) {
        row = row0 + lane / GROUPS;
        col = col0 + lane % GROUPS * GROUP;
        count = col < e.cols ? min(e.cols - col, GROUP) : 0;
#pragma unroll
        for (unsigned i = 0; i < ROUNDS; ++i) {
            const unsigned r = row + i * STEP;
            row_scale[i] = e.row_scales && r < e.rows ? e.row_scales[r * e.row_step] : 1.0f;
        }
        scale[0] = scale[1] = scale[2] = scale[3] = 1.0f;
        if (e.col_scales) {
            if (e.col_step) {
                load_group<F32>(e.col_scales, col, count, e.vectors & IMMA_VECTOR_COL_SCALES, scale);
            } else {
                scale[0] = scale[1] = scale[2] = scale[3] = e.col_scales[0];
            }
        }
        if (e.bias_type) {
            load_typed(e.bias_type, e.bias, col, count, e.vectors & IMMA_VECTOR_BIAS, bias);
        }
    }

    template <typename Out>
    __device__ __forceinline__ void store_as(const EpilogueParams& e, unsigned lane, const int* strip) const {
#pragma unroll
        for (unsigned i = 0; i < ROUNDS; ++i) {
            const unsigned r = row + i * STEP;
            const int4 v = *reinterpret_cast<const int4*>(strip + (lane / GROUPS + i * STEP) * PITCH + lane % GROUPS * GROUP);
            const int sum[GROUP] = {v.x, v.y, v.z, v.w};
            float x[GROUP];
#pragma unroll
            for (unsigned j = 0; j < GROUP; ++j) {
                x[j] = __fmul_rn(__int2float_rn(sum[j]), row_scale[i]);
                x[j] = e.bias_type ? __fmaf_rn(x[j], scale[j], bias[j]) : __fmul_rn(x[j], scale[j]);
            }
            if (r < e.rows && count) {
                store_group<Out>(e.output, r * e.output_stride + col, count, e.vectors & IMMA_VECTOR_OUTPUT, x);
            }
        }
    }

    __device__ __forceinline__ void store(const EpilogueParams& e, unsigned lane, const int* strip) const {
        switch (e.output_type) {
            case IMMA_TYPE_F32: return store_as<F32>(e, lane, strip);
            case IMMA_TYPE_F16: return store_as<F16>(e, lane, strip);
            default: return store_as<BF16>(e, lane, strip);
        }
    }
};

}  // namespace imma
