// int8 GEMM with group-wise weight scales, one for each column and each scale group of 32, 64 or 128 k: the loop of
// igemm_mma.cuh, which says how. Tiles have room in their registers for two sets of accumulators.
#include "igemm_mma.cuh"

// src/cuda/igemm/tile.rs lists the same instances; tests hold both to each other.
#define ENTRY(BM, BN, BK, STAGES, WARPS_M, WARPS_N, BLOCKS, ALIGNED, suffix)                                      \
    extern "C" __global__ void __launch_bounds__(32 * WARPS_M * WARPS_N, BLOCKS)                                  \
        igemm_groupwise_##BM##x##BN##x##BK##suffix(const __grid_constant__ IgemmGroupwiseParams p) {                  \
        const imma::ScaleGroups groups{p.group_scales, p.group_stride, p.group_shift};                            \
        imma::igemm<imma::Tile<BM, BN, BK, STAGES, WARPS_M, WARPS_N, ALIGNED>, true>(p.igemm, groups);            \
    }
ENTRY(16, 64, 128, 5, 1, 4, 3, true, )
ENTRY(64, 64, 128, 4, 2, 2, 2, true, )
ENTRY(128, 128, 64, 4, 2, 4, 1, true, )
ENTRY(16, 64, 128, 5, 1, 4, 3, false, _any)
ENTRY(64, 64, 128, 4, 2, 2, 2, false, _any)
