// The plain epilogue (finish_plain.cuh) through the tensor memory accelerator, for a warp that holds sums of wgmma:
//
//   registers --scales, bias, output type--> 8 rows x 128 bytes of shared memory, 128-byte swizzle --TMA--> global
//
// The accelerator writes whole lines and leaves out what lies beyond the output; the warp only hands boxes over. The bits
// are those of finish().
#pragma once

#include "epilogue.cuh"
#include "ptx.cuh"
#include "ptx_sm90.cuh"

namespace imma {

// Two boxes a warp, for the upper and the lower eight of its rows: one is filled while the other is read.
constexpr unsigned BOX_ROWS = 8, BOX_ROW_BYTES = 128, BOX_BYTES = BOX_ROWS * BOX_ROW_BYTES;

template <typename Out>
struct TensorStrip {
    static constexpr unsigned COLS = BOX_ROW_BYTES / sizeof(Out);
    static constexpr unsigned PAIRS = COLS / 8; // pairs of columns that a thread has of a row

    float scale[PAIRS][2], bias[PAIRS][2];

    // A thread's pairs of a vector [cols] from column `col0` on. One test for all of them, and every load is under way
    // before the first is widened.
    template <typename T>
    __device__ __forceinline__ static void load_pairs(const void* base, const EpilogueParams& e, unsigned lane,
                                                      unsigned col0, bool vector, float (&x)[PAIRS][2]) {
        const T* from = static_cast<const T*>(base);
        if (vector && e.cols % 2 == 0) {
            Pair<T> raw[PAIRS] = {};
#pragma unroll
            for (unsigned j = 0; j < PAIRS; ++j) {
                const unsigned col = col0 + j * 8 + lane % 4 * 2;
                if (col < e.cols) {
                    raw[j] = *reinterpret_cast<const Pair<T>*>(from + col);
                }
            }
#pragma unroll
            for (unsigned j = 0; j < PAIRS; ++j) {
                raw[j].widen_to(x[j]);
            }
        } else {
#pragma unroll
            for (unsigned j = 0; j < PAIRS; ++j) {
                const unsigned col = col0 + j * 8 + lane % 4 * 2;
                if (col < e.cols) {
                    load_pair<T>(from, col, min(e.cols - col, 2), false, x[j]);
                }
            }
        }
    }

    // Reads the scales of columns `col0 ..`.
    __device__ __forceinline__ void load_scales(const EpilogueParams& e, unsigned lane, unsigned col0) {
#pragma unroll
        for (unsigned j = 0; j < PAIRS; ++j) {
            scale[j][0] = scale[j][1] = 1.0f;
        }
        if (e.col_scales) {
            if (e.col_step) {
                load_pairs<F32>(e.col_scales, e, lane, col0, e.vectors & IMMA_VECTOR_COL_SCALES, scale);
            } else {
                const float one = e.col_scales[0];
#pragma unroll
                for (unsigned j = 0; j < PAIRS; ++j) {
                    scale[j][0] = scale[j][1] = one;
                }
            }
        }
    }

    // Reads the bias of columns `col0 ..`.
    __device__ __forceinline__ void load_bias(const EpilogueParams& e, unsigned lane, unsigned col0) {
#pragma unroll
        for (unsigned j = 0; j < PAIRS; ++j) {
            bias[j][0] = bias[j][1] = NO_BIAS;
        }
        const bool vector = e.vectors & IMMA_VECTOR_BIAS;
        switch (e.bias_type) {
            case IMMA_TYPE_F32: return load_pairs<F32>(e.bias, e, lane, col0, vector, bias);
            case IMMA_TYPE_F16: return load_pairs<F16>(e.bias, e, lane, col0, vector, bias);
            case IMMA_TYPE_BF16: return load_pairs<BF16>(e.bias, e, lane, col0, vector, bias);
            default: return;
        }
    }

    // Fills a box at `box` with a thread's share of 8 rows, and sends it to column `col`, row `row` of the output.
    // `sum` holds pairs of columns, 4 words from one to the next.
    __device__ __forceinline__ void store(const ptx::TensorMap* map, unsigned lane, uint8_t* box, unsigned col, unsigned row,
                                          float row_scale, const int* sum) const {
        // The box before the last has been read: this one may be written.
        if (lane == 0) {
            ptx::bulk_wait_read<1>();
        }
        __syncwarp();
        const unsigned r = lane / 4;
#pragma unroll
        for (unsigned j = 0; j < PAIRS; ++j) {
            float x[2];
#pragma unroll
            for (unsigned i = 0; i < 2; ++i) {
                x[i] = scaled(sum[j * 4 + i], row_scale, scale[j][i], bias[j][i]);
            }
            if constexpr (sizeof(Out) == 4) {
                const unsigned chunk = (j * 2 + lane % 4 / 2) ^ r;
                *reinterpret_cast<float2*>(box + r * BOX_ROW_BYTES + chunk * 16 + lane % 2 * 8) = make_float2(x[0], x[1]);
            } else {
                const unsigned chunk = j ^ r;
                *reinterpret_cast<uint32_t*>(box + r * BOX_ROW_BYTES + chunk * 16 + lane % 4 * 4) =
                    narrow<Out>(x[0]).bits | uint32_t(narrow<Out>(x[1]).bits) << 16;
            }
        }
        ptx::fence_proxy_async();
        __syncwarp();
        if (lane == 0) {
            ptx::tensor_store(map, ptx::shared_address(box), int(col), int(row));
            ptx::bulk_commit();
        }
    }
};

// 64 rows of a warpgroup, `WIDE` columns from (row0, col0) on: this warp's 16 rows, `boxes` its two boxes.
template <typename Out, unsigned WIDE>
__device__ __forceinline__ void finish_tensor(const EpilogueParams& e, const ptx::TensorMap* map, unsigned lane,
                                              uint8_t* boxes, unsigned row0, unsigned col0, const int (&sum)[WIDE / 2]) {
    using Strip = TensorStrip<Out>;
    static_assert(WIDE % Strip::COLS == 0, "whole boxes");
    float row_scale[2];
#pragma unroll
    for (unsigned half = 0; half < 2; ++half) {
        const unsigned row = row0 + half * BOX_ROWS + lane / 4;
        row_scale[half] = row < e.rows ? row_scale_at(e, 0, row) : 1.0f;
    }
#pragma unroll
    for (unsigned c = 0; c < WIDE; c += Strip::COLS) {
        const unsigned col = col0 + c;
        // In flight while the box before is read; for those of the next columns too there are no registers.
        Strip strip;
        strip.load_scales(e, lane, col);
        strip.load_bias(e, lane, col);
        // Both boxes or none: they are filled in turn.
        if (col < e.cols) {
#pragma unroll
            for (unsigned half = 0; half < 2; ++half) {
                strip.store(map, lane, boxes + half * BOX_BYTES, col, row0 + half * BOX_ROWS, row_scale[half],
                          sum + c / 2 + half * 2);
            }
        }
    }
}

}  // namespace imma
