// The epilogue of most products, scales and a bias to a float type, for a warp that has a strip of sums in shared memory:
// the steps of finish() in epilogue.cuh, bit for bit, with what its rows and columns share read once and ahead.
#pragma once

#include "epilogue.cuh"

namespace imma {

// Whether finish() would do no more than this. What is added to the epilogue must be looked for here.
static_assert(sizeof(EpilogueParams) == 152, "is_plain knows every part");
__device__ __forceinline__ bool is_plain(const EpilogueParams& e) {
    const bool floats = e.output_type == IMMA_TYPE_F32 || e.output_type == IMMA_TYPE_F16 || e.output_type == IMMA_TYPE_BF16;
    return floats && !e.gated && !e.col_sums && e.activation == IMMA_ACTIVATION_NONE && !e.residual_type;
}

// Four sums of a row that other blocks added to, past L1; zeros in their place.
__device__ __forceinline__ void take_sums(int* from, unsigned count, bool vector, int (&values)[QUAD]) {
    if (vector && count == QUAD) {
        const int4 v = __ldcg(reinterpret_cast<const int4*>(from));
        __stcg(reinterpret_cast<int4*>(from), make_int4(0, 0, 0, 0));
        values[0] = v.x, values[1] = v.y, values[2] = v.z, values[3] = v.w;
    } else {
#pragma unroll
        for (unsigned i = 0; i < QUAD; ++i) {
            values[i] = i < count ? __ldcg(from + i) : 0;
            if (i < count) {
                __stcg(from + i, 0);
            }
        }
    }
}

// A strip of ROWS x COLS sums, rows PITCH apart: lane l has columns 4 (l % (COLS / 4)) of every 128 / COLS-th row.
template <unsigned ROWS, unsigned COLS, unsigned PITCH>
struct PlainStrip {
    static constexpr unsigned QUADS = COLS / QUAD, STEP = 32 / QUADS, ROUNDS = ROWS / STEP;
    static_assert(32 % QUADS == 0 && ROWS % STEP == 0, "whole rounds of a warp");

    unsigned row, col, count;
    int4 sum[ROUNDS];
    float row_scale[ROUNDS], scale[QUAD], bias[QUAD];

    // Reads scales and bias; before the sums are there, so that the way from memory is hidden.
    __device__ __forceinline__ void load(const EpilogueParams& e, unsigned lane, unsigned row0, unsigned col0) {
        row = row0 + lane / QUADS;
        col = col0 + lane % QUADS * QUAD;
        count = col < e.cols ? min(e.cols - col, QUAD) : 0;
#pragma unroll
        for (unsigned i = 0; i < ROUNDS; ++i) {
            const unsigned r = row + i * STEP;
            row_scale[i] = r < e.rows ? row_scale_at(e, 0, r) : 1.0f;
        }
        col_scales_at(e, 0, col, count, scale);
        bias_at(e, 0, col, count, bias);
    }

    // The sums of a strip, four columns of a row each; rows are PITCH words apart.
    __device__ __forceinline__ void take(unsigned lane, const int* strip) {
#pragma unroll
        for (unsigned i = 0; i < ROUNDS; ++i) {
            sum[i] = *reinterpret_cast<const int4*>(strip + (lane / QUADS + i * STEP) * PITCH + lane % QUADS * QUAD);
        }
    }

    // The sums that blocks added to memory [rows, cols], past L1; zeros in their place.
    __device__ __forceinline__ void take_added(const EpilogueParams& e, int* sums) {
#pragma unroll
        for (unsigned i = 0; i < ROUNDS; ++i) {
            const unsigned r = row + i * STEP;
            int values[QUAD] = {};
            if (r < e.rows && count) {
                take_sums(sums + uint64_t(r) * e.cols + col, count, e.cols % QUAD == 0, values);
            }
            sum[i] = make_int4(values[0], values[1], values[2], values[3]);
        }
    }

    template <typename Out>
    __device__ __forceinline__ void store_as(const EpilogueParams& e) const {
#pragma unroll
        for (unsigned i = 0; i < ROUNDS; ++i) {
            const unsigned r = row + i * STEP;
            const int values[QUAD] = {sum[i].x, sum[i].y, sum[i].z, sum[i].w};
            float x[QUAD];
#pragma unroll
            for (unsigned j = 0; j < QUAD; ++j) {
                x[j] = scaled(values[j], row_scale[i], scale[j], bias[j]);
            }
            if (r < e.rows && count) {
                store_quad<Out>(e.output, r * e.output_stride + col, count, e.vectors & IMMA_VECTOR_OUTPUT, x);
            }
        }
    }

    __device__ __forceinline__ void store(const EpilogueParams& e) const {
        switch (e.output_type) {
            case IMMA_TYPE_F32: return store_as<F32>(e);
            case IMMA_TYPE_F16: return store_as<F16>(e);
            default: return store_as<BF16>(e);
        }
    }
};

}  // namespace imma
