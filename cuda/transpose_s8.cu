// int8 [rows, cols] -> [cols, rows]: `[K, N]` weights to the K-major order that the 8-bit tensor cores read.
//
//   a block turns a tile of 128 rows x 128 bytes; word w (of 32) of row r lies at  32 r + (w ^ 4 (r / 16))
//
//   load    a thread 16 bytes of a row, 4 times           store: 4 words of a row keep together, 16-byte aligned
//   turn    a thread 16 rows of one word; the swizzle puts the 8 x 4 words that a warp reads in 32 banks
#include "params.h"
#include "turn.cuh"

namespace imma {

__device__ __forceinline__ void transpose_s8(const TransposeParams& p) {
    constexpr unsigned TILE = IMMA_TRANSPOSE_TILE, THREADS = IMMA_TRANSPOSE_THREADS, WORDS = TILE / 4;
    static_assert(TILE == 128, "the swizzle is made for 32 words a row");
    static_assert(TILE / 16 * WORDS == THREADS, "each thread turns 16 rows of one word");
    __shared__ uint4 tile[TILE * WORDS / 4];
    uint32_t* words = reinterpret_cast<uint32_t*>(tile);

    const unsigned t = threadIdx.x;
    const uint64_t col0 = uint64_t(blockIdx.x) * TILE;
    for (uint64_t row0 = uint64_t(blockIdx.y) * TILE; row0 < p.padded; row0 += uint64_t(gridDim.y) * TILE) {
#pragma unroll
        for (unsigned i = 0; i < TILE * TILE / 16 / THREADS; ++i) {
            const unsigned r = (t + i * THREADS) / (TILE / 16), c = (t + i * THREADS) % (TILE / 16);
            const uint64_t row = row0 + r, col = col0 + 16 * c;
            uint4 v = make_uint4(0, 0, 0, 0);
            if (row < p.rows && col < p.cols) {
                const signed char* address = p.input + row * p.input_stride + col;
                if (col + 16 <= p.cols && reinterpret_cast<uintptr_t>(address) % 16 == 0) {
                    v = *reinterpret_cast<const uint4*>(address);
                } else {
                    uint32_t word[4] = {0, 0, 0, 0};
#pragma unroll
                    for (unsigned j = 0; j < 16; ++j) {
                        const uint32_t byte = col + j < p.cols ? uint8_t(address[j]) : 0;
                        word[j / 4] |= byte << (8 * (j % 4));
                    }
                    v = make_uint4(word[0], word[1], word[2], word[3]);
                }
            }
            tile[(WORDS * r + (4 * c ^ 4 * (r / 16))) / 4] = v;
        }
        __syncthreads();
        const unsigned rows16 = t % (TILE / 16), word = t / (TILE / 16);
        uint32_t column[16];
#pragma unroll
        for (unsigned j = 0; j < 16; ++j) {
            column[j] = words[WORDS * (16 * rows16 + j) + (word ^ 4 * rows16)];
        }
        uint4 run[4];
        turn(column, run);
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
            const uint64_t col = col0 + 4 * word + i;
            if (col < p.cols) {
                store_run(reinterpret_cast<int8_t*>(p.output) + col * p.output_stride, row0 + 16 * rows16, p.padded,
                          run[i]);
            }
        }
        __syncthreads();
    }
}

}  // namespace imma

extern "C" __global__ void __launch_bounds__(IMMA_TRANSPOSE_THREADS) transpose_s8(const TransposeParams p) {
    imma::transpose_s8(p);
}
