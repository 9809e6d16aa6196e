// A row quantised once, with a scale of its own, and written to any number of places.
//
//   block (T, R): T threads a row, R rows
//
//   gather     thread t takes chunks t, t + T, .. into registers (IMMA_ROWS_HELD of them; a longer row is read again)
//   reduce     the largest magnitude over the threads of the row
//   quantise   from registers, each chunk to all of its places
#pragma once

#include "row_chunks.cuh"

namespace imma {

// Where rows go: [rows, padded], and a scale each.
struct RowPlaces {
    int8_t* output;
    float* scales;
    uint64_t stride;
    unsigned padded;
};

// `place(j)`: the j-th of `count` places, below 0 for none. Every thread of the block comes here; those of a row without
// places with no columns.
template <typename T, typename Place>
__device__ __forceinline__ void copy_row(const T* input, uint32_t cols, const RowPlaces& to, unsigned count,
                                         const Place& place) {
    constexpr unsigned V = LANES<T>, HELD = IMMA_ROWS_HELD;
    const unsigned t = threadIdx.x, threads = blockDim.x;
    const uint32_t chunks = (cols + V - 1) / V;
    AbsMax gathered;
    uint4 held[HELD];
#pragma unroll
    for (unsigned i = 0; i < HELD; ++i) {
        held[i] = load_chunk(input, t + i * threads, cols);
    }
#pragma unroll
    for (unsigned i = 0; i < HELD; ++i) {
        gather<T>(gathered, held[i]);
    }
    for (uint32_t chunk = t + HELD * threads; chunk < chunks; chunk += threads) {
        gather<T>(gathered, load_chunk(input, chunk, cols));
    }
    reduce_row(gathered);
    const Constants c = constants(gathered);

#pragma unroll 1
    for (unsigned j = 0; j < count; ++j) {
        const int row = place(j);
        if (row < 0) {
            continue;
        }
        int8_t* output = to.output + uint64_t(row) * to.stride;
        if (t == 0) {
            to.scales[row] = c.scale;
        }
#pragma unroll
        for (unsigned i = 0; i < HELD; ++i) {
            const uint32_t chunk = t + i * threads;
            if (chunk < chunks) {
                // The floats gathered above are not kept: widening again costs less than their registers.
                ptx::opaque(held[i]);
                quantize_to<T>(output, chunk, cols, held[i], c.multiplier);
            }
        }
        for (uint32_t chunk = t + HELD * threads; chunk < chunks; chunk += threads) {
            quantize_to<T>(output, chunk, cols, load_chunk(input, chunk, cols), c.multiplier);
        }
        for (uint32_t col = cols + t; col < to.padded; col += threads) {
            output[col] = 0;
        }
    }
}

}  // namespace imma
