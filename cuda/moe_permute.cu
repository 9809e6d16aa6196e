// Tokens to the rows of their experts: each row quantised once, with a scale of its own, and copied to all of its places.
#include "copied_rows.cuh"
#include "group_rows.cuh"

namespace imma {

template <typename T>
__device__ __forceinline__ void moe_permute(const MoePermuteParams& p) {
    const uint64_t token = uint64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    // Threads past the last token stay for the barrier, with nothing to read.
    const bool live = token < p.tokens;
    const T* input = static_cast<const T*>(p.input) + (live ? token * p.input_stride : 0);
    const int* destinations = p.destinations + token * p.choices;
    const RowPlaces to{reinterpret_cast<int8_t*>(p.output), p.scales, p.output_stride, p.padded};
    copy_row<T>(input, live ? p.cols : 0, to, live ? p.choices : 0, [&](unsigned j) {
        const int row = __ldg(destinations + j);
        if (row >= 0 && unsigned(row) >= p.rows) {
            report(p.fault, IMMA_FAULT_ROW, unsigned(row));
            return -1;
        }
        return row;
    });
}

}  // namespace imma

#define ENTRY(name, T)                                                                                 \
    extern "C" __global__ void __launch_bounds__(IMMA_ROWS_MAX_THREADS) name(const MoePermuteParams p) { \
        imma::moe_permute<imma::T>(p);                                                                 \
    }
ENTRY(moe_permute_f32, F32)
ENTRY(moe_permute_f16, F16)
ENTRY(moe_permute_bf16, BF16)
