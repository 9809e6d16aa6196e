// Sums to output through the shared epilogue: for products whose int32 sums lie in memory, from a split along K (the
// splits are added here, exact in any order) or from a library.
//
// A thread finishes four columns of a row; the grid is (groups of four columns, rows x batch).
#include "epilogue.cuh"

namespace imma {

__device__ __forceinline__ void epilogue(const FinishParams& p) {
    const EpilogueParams& e = p.epilogue;
    const unsigned col = (blockIdx.x * IMMA_EPILOGUE_THREADS + threadIdx.x) * GROUP;
    if (col >= e.cols) {
        return;
    }
    const unsigned count = min(e.cols - col, GROUP);
    const unsigned batch = blockIdx.z;
    for (unsigned row = blockIdx.y; row < e.rows; row += gridDim.y) {
        const int* from = p.sums + batch * p.batch_stride + row * p.stride + col;
        int sum[GROUP] = {0, 0, 0, 0};
        for (unsigned split = 0; split < p.splits; ++split, from += p.split_stride) {
            if (p.vector && count == GROUP) {
                const int4 v = *reinterpret_cast<const int4*>(from);
                // Unsigned: what the splits add to on the way may wrap, the whole does not.
                sum[0] = int(uint32_t(sum[0]) + uint32_t(v.x));
                sum[1] = int(uint32_t(sum[1]) + uint32_t(v.y));
                sum[2] = int(uint32_t(sum[2]) + uint32_t(v.z));
                sum[3] = int(uint32_t(sum[3]) + uint32_t(v.w));
            } else {
#pragma unroll
                for (unsigned i = 0; i < GROUP; ++i) {
                    sum[i] = int(uint32_t(sum[i]) + uint32_t(i < count ? from[i] : 0));
                }
            }
        }
        finish(e, batch, row, col, count, sum);
    }
}

}  // namespace imma

extern "C" __global__ void __launch_bounds__(IMMA_EPILOGUE_THREADS) epilogue_i32(const FinishParams p) {
    imma::epilogue(p);
}
