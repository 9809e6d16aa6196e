// The results of a token's experts back into one: a weighted sum in the order of the token's choices, each step rounded.
//
//   grid (blocks of chunks, tokens)          a thread has one chunk of 16 bytes of a token
#include "group_rows.cuh"
#include "row_chunks.cuh"

namespace imma {

template <typename T>
__device__ __forceinline__ void moe_combine(const MoeCombineParams& p) {
    constexpr unsigned V = LANES<T>;
    const uint32_t chunk = blockIdx.x * IMMA_COMBINE_THREADS + threadIdx.x;
    if (chunk * V >= p.cols) {
        return;
    }
    const T* results = static_cast<const T*>(p.results);
    for (unsigned token = blockIdx.y; token < p.tokens; token += gridDim.y) {
        const uint64_t first = uint64_t(token) * p.choices;
        float sum[V] = {};
        for (unsigned j = 0; j < p.choices; ++j) {
            const int row = __ldg(p.sources + first + j);
            if (row < 0) {
                continue;
            }
            if (unsigned(row) >= p.rows) {
                report(p.fault, IMMA_FAULT_ROW, unsigned(row));
                continue;
            }
            const float weight = __ldg(p.weights + first + j);
            float x[V];
            widen<T>(load_chunk(results + uint64_t(row) * p.results_stride, chunk, p.cols), x);
#pragma unroll
            for (unsigned i = 0; i < V; ++i) {
                sum[i] = __fadd_rn(sum[i], __fmul_rn(weight, x[i]));
            }
        }
        T* output = static_cast<T*>(p.output) + uint64_t(token) * p.output_stride;
        store_chunk(output, chunk, p.cols, narrow<T>(sum));
    }
}

}  // namespace imma

#define ENTRY(name, T)                                                                                \
    extern "C" __global__ void __launch_bounds__(IMMA_COMBINE_THREADS) name(const MoeCombineParams p) { \
        imma::moe_combine<imma::T>(p);                                                                \
    }
ENTRY(moe_combine_f32, F32)
ENTRY(moe_combine_f16, F16)
ENTRY(moe_combine_bf16, BF16)
