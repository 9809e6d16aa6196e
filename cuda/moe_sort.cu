// A stable counting sort of pairs of a token and an expert by expert: the same rows in every run.
//
//   moe_sort_count   a block counts its IMMA_SORT_PAIRS pairs by expert                    not where there is one block
//   moe_sort_place   a block adds up what comes before its own, and numbers its pairs, a warp after the other
//
//   row of a pair = pairs of lower experts + pairs of its expert in blocks, warps and lanes before its own
#include "group_rows.cuh"

namespace imma {

constexpr unsigned SORT_WARPS = IMMA_SORT_THREADS / 32;
constexpr int ELSEWHERE = -1;

// The expert of a pair, counted from the first here; ELSEWHERE for others and beyond the last pair.
__device__ __forceinline__ int expert_of(const MoeSortParams& p, unsigned pair, bool reports) {
    if (pair >= p.pairs) {
        return ELSEWHERE;
    }
    const int index = __ldg(p.indices + pair);
    if (unsigned(index) >= p.total) {
        if (reports) {
            report(p.fault, IMMA_FAULT_INDEX, pair);
        }
        return ELSEWHERE;
    }
    const unsigned expert = unsigned(index) - p.first;
    return expert < p.experts ? int(expert) : ELSEWHERE;
}

// A block's pairs by expert, into `count` [experts], which is shared.
__device__ __forceinline__ void count_pairs(const MoeSortParams& p, int* count) {
    for (unsigned e = threadIdx.x; e < p.experts; e += IMMA_SORT_THREADS) {
        count[e] = 0;
    }
    __syncthreads();
    const unsigned first = blockIdx.x * IMMA_SORT_PAIRS;
    for (unsigned i = threadIdx.x; i < IMMA_SORT_PAIRS; i += IMMA_SORT_THREADS) {
        const int expert = expert_of(p, first + i, false);
        if (expert != ELSEWHERE) {
            atomicAdd(count + expert, 1);
        }
    }
    __syncthreads();
}

__device__ __forceinline__ void moe_sort_count(const MoeSortParams& p) {
    extern __shared__ int count[];
    count_pairs(p, count);
    for (unsigned e = threadIdx.x; e < p.experts; e += IMMA_SORT_THREADS) {
        p.counts[uint64_t(blockIdx.x) * p.experts + e] = count[e];
    }
}

// Turns counts into where each expert's pairs start, in place, by the first warp: `count` [experts] is of all blocks. Block
// 0 writes them out.
__device__ __forceinline__ void starts_of(const MoeSortParams& p, int* count) {
    const unsigned lane = threadIdx.x % 32;
    int before = 0;
    for (unsigned base = 0; base < p.experts; base += 32) {
        const unsigned e = base + lane;
        const int mine = e < p.experts ? count[e] : 0;
        int upto = mine;
#pragma unroll
        for (unsigned apart = 1; apart < 32; apart *= 2) {
            const int other = __shfl_up_sync(0xffffffffu, upto, apart);
            upto += lane >= apart ? other : 0;
        }
        if (e < p.experts) {
            count[e] = before + upto - mine;
            if (blockIdx.x == 0) {
                p.offsets[e] = before + upto - mine;
            }
        }
        before += __shfl_sync(0xffffffffu, upto, 31);
    }
    if (blockIdx.x == 0 && lane == 0) {
        p.offsets[p.experts] = before;
    }
}

__device__ __forceinline__ void moe_sort_place(const MoeSortParams& p) {
    extern __shared__ int next[]; // the row of the next pair of each expert
    if (p.counts) {
        for (unsigned e = threadIdx.x; e < p.experts; e += IMMA_SORT_THREADS) {
            int all = 0;
            for (unsigned block = 0; block < gridDim.x; ++block) {
                all += p.counts[uint64_t(block) * p.experts + e];
            }
            next[e] = all;
        }
        __syncthreads();
    } else {
        count_pairs(p, next);
    }
    if (threadIdx.x < 32) {
        starts_of(p, next);
    }
    __syncthreads();
    if (p.counts) {
        for (unsigned e = threadIdx.x; e < p.experts; e += IMMA_SORT_THREADS) {
            int mine = next[e];
            for (unsigned block = 0; block < blockIdx.x; ++block) {
                mine += p.counts[uint64_t(block) * p.experts + e];
            }
            next[e] = mine;
        }
        __syncthreads();
    }
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * IMMA_SORT_PAIRS;
    for (unsigned i = 0; i < IMMA_SORT_PAIRS && first + i < p.pairs; i += IMMA_SORT_THREADS) {
        const unsigned pair = first + i + threadIdx.x;
        const int expert = expert_of(p, pair, true);
        const unsigned same = __match_any_sync(0xffffffffu, expert);
        const unsigned rank = __popc(same & ((1u << lane) - 1));
        int row = -1;
        // A warp after the other: the order of the pairs is that of the rows.
        for (unsigned turn = 0; turn < SORT_WARPS; ++turn) {
            if (turn == warp && expert != ELSEWHERE) {
                row = next[expert] + int(rank);
            }
            __syncwarp();
            if (turn == warp && expert != ELSEWHERE && rank == 0) {
                next[expert] += __popc(same);
            }
            __syncthreads();
        }
        if (pair < p.pairs) {
            p.rows[pair] = row;
        }
    }
}

}  // namespace imma

extern "C" __global__ void __launch_bounds__(IMMA_SORT_THREADS) moe_sort_count(const MoeSortParams p) {
    imma::moe_sort_count(p);
}
extern "C" __global__ void __launch_bounds__(IMMA_SORT_THREADS) moe_sort_place(const MoeSortParams p) {
    imma::moe_sort_place(p);
}
