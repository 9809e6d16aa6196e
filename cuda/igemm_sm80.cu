// int8 GEMM on the tensor cores of compute capability 8.0 and later: c [M, N] = a [M, K] x w [N, K]^T, int32 sums,
// the shared epilogue. The loop is igemm_mma.cuh's; these are its instances.
#include "igemm_mma.cuh"

// src/cuda/igemm/tile.rs lists the same instances; tests hold both to each other.
#define ENTRY(BM, BN, BK, STAGES, WARPS_M, WARPS_N, BLOCKS, ALIGNED, suffix)                                      \
    extern "C" __global__ void __launch_bounds__(32 * WARPS_M * WARPS_N, BLOCKS)                                  \
        igemm_sm80_##BM##x##BN##x##BK##suffix(const __grid_constant__ IgemmParams p) {                            \
        imma::igemm<imma::Tile<BM, BN, BK, STAGES, WARPS_M, WARPS_N, ALIGNED>, false>(p, {});              \
    }
ENTRY(16, 64, 128, 5, 1, 4, 3, true, )
ENTRY(32, 64, 128, 4, 2, 2, 3, true, )
ENTRY(64, 64, 128, 4, 2, 2, 2, true, )
ENTRY(64, 128, 128, 4, 2, 2, 1, true, )
ENTRY(128, 64, 128, 4, 2, 2, 1, true, )
ENTRY(128, 128, 64, 4, 2, 2, 2, true, )
ENTRY(128, 128, 128, 3, 2, 4, 1, true, )
ENTRY(128, 256, 64, 4, 2, 4, 1, true, )
ENTRY(256, 128, 64, 4, 4, 2, 1, true, )
ENTRY(16, 64, 128, 5, 1, 4, 3, false, _any)
ENTRY(64, 64, 128, 4, 2, 2, 2, false, _any)
ENTRY(128, 128, 64, 4, 2, 4, 1, false, _any)
