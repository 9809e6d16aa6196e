// Sums to output through the shared epilogue: for products whose int32 sums lie in memory, from a split along K (the
// splits are added here, exact in any order) or from a library.
//
//   epilogue_i32         a thread finishes four columns of a row; the grid is (blocks of quads, rows, batch)
//   epilogue_quantize    a block finishes a row, twice: for its absmax, then for its integers
#include "epilogue.cuh"

namespace imma {

// The sums of four columns, added up over the splits.
__device__ __forceinline__ void add_splits(const FinishParams& p, const int* from, unsigned count, int (&sum)[QUAD]) {
    for (unsigned split = 0; split < p.splits; ++split, from += p.split_stride) {
        if (p.vector && count == QUAD) {
            const int4 v = *reinterpret_cast<const int4*>(from);
            // Unsigned: what the splits add to on the way may wrap, the whole does not.
            sum[0] = int(uint32_t(sum[0]) + uint32_t(v.x));
            sum[1] = int(uint32_t(sum[1]) + uint32_t(v.y));
            sum[2] = int(uint32_t(sum[2]) + uint32_t(v.z));
            sum[3] = int(uint32_t(sum[3]) + uint32_t(v.w));
        } else {
#pragma unroll
            for (unsigned i = 0; i < QUAD; ++i) {
                sum[i] = int(uint32_t(sum[i]) + uint32_t(i < count ? from[i] : 0));
            }
        }
    }
}

__device__ __forceinline__ void epilogue(const FinishParams& p) {
    const EpilogueParams& e = p.epilogue;
    const unsigned col = (blockIdx.x * IMMA_EPILOGUE_THREADS + threadIdx.x) * QUAD;
    if (col >= e.cols) {
        return;
    }
    const unsigned count = min(e.cols - col, QUAD);
    const unsigned batch = blockIdx.z;
    for (unsigned row = blockIdx.y; row < e.rows; row += gridDim.y) {
        int sum[QUAD] = {0, 0, 0, 0};
        add_splits(p, p.sums + batch * p.batch_stride + row * p.stride + col, count, sum);
        finish(e, batch, row, col, count, sum);
    }
}

__device__ __forceinline__ void quantize(const FinishQuantizeParams& q) {
    const FinishParams& p = q.finish;
    const EpilogueParams& e = p.epilogue;
    constexpr unsigned WARPS = IMMA_EPILOGUE_THREADS / 32;
    static_assert(WARPS <= 32, "one warp reduces what the warps found");
    __shared__ uint32_t found[WARPS];
    const unsigned row = blockIdx.x;
    const auto value = [&](unsigned col, unsigned count, float(&x)[QUAD]) {
        int sum[QUAD] = {0, 0, 0, 0};
        add_splits(p, p.sums + row * p.stride + col, count, sum);
        correct(e, 0, row, col, count, sum);
        values(e, 0, row, col, count, sum, x);
    };

    AbsMax absmax;
    for (unsigned col = threadIdx.x * QUAD; col < e.cols; col += IMMA_EPILOGUE_THREADS * QUAD) {
        const unsigned count = min(e.cols - col, QUAD);
        float x[QUAD];
        value(col, count, x);
        const unsigned kept = place(e, col, count).count;
#pragma unroll
        for (unsigned i = 0; i < QUAD; ++i) {
            if (i < kept) {
                absmax.add(x[i]);
            }
        }
    }
    const unsigned lane = threadIdx.x % 32;
    absmax.word[0] = __reduce_max_sync(0xffffffffu, absmax.word[0]);
    if (lane == 0) {
        found[threadIdx.x / 32] = absmax.word[0];
    }
    __syncthreads();
    absmax.word[0] = __reduce_max_sync(0xffffffffu, lane < WARPS ? found[lane] : 0u);
    const Constants c = constants(absmax);
    if (threadIdx.x == 0) {
        q.scales[row] = c.scale;
    }

    // The same steps again give the same bits; kept, they would need memory of the output's size.
    for (unsigned col = threadIdx.x * QUAD; col < e.cols; col += IMMA_EPILOGUE_THREADS * QUAD) {
        const unsigned count = min(e.cols - col, QUAD);
        float x[QUAD];
        value(col, count, x);
        const Place to = place(e, col, count);
        store_quantized(e, row * e.output_stride + to.col, to.count, c.multiplier, x);
    }
}

}  // namespace imma

extern "C" __global__ void __launch_bounds__(IMMA_EPILOGUE_THREADS) epilogue_i32(const FinishParams p) {
    imma::epilogue(p);
}

extern "C" __global__ void __launch_bounds__(IMMA_EPILOGUE_THREADS) epilogue_quantize(const FinishQuantizeParams p) {
    imma::quantize(p);
}
