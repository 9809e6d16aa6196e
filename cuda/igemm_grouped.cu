// Grouped int8 GEMM: the rows of each group by weights of its own, one launch for all. The loop is igemm_mma.cuh's.
//
//   offsets on the device --a warp, 32 groups at a time--> tiles of group 0 | tiles of group 1 | ..
//                                                          block b takes b, b + blocks, b + 2 blocks, ..
//
// Nobody knows on the host which group has how many rows: blocks are persistent and find their next tile themselves, every
// warp for itself. Tiles of one group follow each other, so that its weights are read while they are in L2. A tile's rows
// that are the next group's are neither read nor written.
#include "group_rows.cuh"
#include "igemm_mma.cuh"

namespace imma {

// A tile of a group.
struct GroupTile {
    unsigned group, index, tiles_m;
    GroupRows rows;
};

// Finds tiles by their number, which only grows.
template <typename T>
class TileWalk {
   public:
    __device__ __forceinline__ TileWalk(const IgemmGroupedParams& p)
        : window(p.rows, blockIdx.x == 0 && threadIdx.x < 32), tiles_n(p.igemm.tiles_n) {
        count();
    }

    // False when there are not so many.
    __device__ __forceinline__ bool find(unsigned item, GroupTile& tile) {
        while (item >= end) {
            if (!window.advance()) {
                return false;
            }
            first = end;
            count();
        }
        const bool mine = item >= before && item - before < tiles;
        const unsigned lane = __ffs(int(__ballot_sync(0xffffffffu, mine))) - 1;
        tile.group = window.base + lane;
        tile.index = item - __shfl_sync(0xffffffffu, before, lane);
        tile.rows.first = __shfl_sync(0xffffffffu, window.rows.first, lane);
        tile.rows.end = __shfl_sync(0xffffffffu, window.rows.end, lane);
        tile.tiles_m = (tile.rows.end - tile.rows.first + T::BM - 1) / T::BM;
        return true;
    }

   private:
    GroupWindow window;
    unsigned tiles_n;
    unsigned first = 0, end = 0;   // of the window's tiles
    unsigned before = 0, tiles = 0; // the lane's group

    __device__ __forceinline__ void count() {
        const unsigned lane = threadIdx.x % 32;
        tiles = (window.rows.end - window.rows.first + T::BM - 1) / T::BM * tiles_n;
        unsigned upto = tiles;
#pragma unroll
        for (unsigned apart = 1; apart < 32; apart *= 2) {
            const unsigned other = __shfl_up_sync(0xffffffffu, upto, apart);
            upto += lane >= apart ? other : 0;
        }
        before = first + upto - tiles;
        end = first + __shfl_sync(0xffffffffu, upto, 31);
    }
};

template <typename T, bool GROUPWISE>
__device__ __forceinline__ void igemm_grouped(const IgemmGroupedParams& p) {
    extern __shared__ __align__(1024) uint8_t shared[];
    const IgemmParams& q = p.igemm;
    TileWalk<T> walk(p);
    GroupTile tile;
#pragma unroll 1
    for (unsigned item = blockIdx.x; walk.find(item, tile); item += gridDim.x) {
        const RasterTile at = raster(tile.index, tile.tiles_m, q.tiles_n, q.raster_rows);
        Part part;
        part.m0 = tile.rows.first + at.tall * T::BM, part.n0 = at.wide * T::BN;
        part.batch = tile.group;
        part.rows = tile.rows.end, part.cols = q.epilogue.cols;
        part.a = q.a;
        part.w = q.w + tile.group * q.w_batch;
        part.k_begin = 0, part.k_end = q.k;
        part.steps = (q.k + T::BK - 1) / T::BK;
        const ScaleGroups groups{p.group_scales + tile.group * p.group_batch, p.group_stride, p.group_shift};
        compute<T, GROUPWISE>(q, groups, part, shared);
        // The next tile's stages lie where strips were.
        __syncthreads();
    }
}

}  // namespace imma

// src/cuda/kernels/igemm_grouped/instance.rs lists the same instances; tests hold both to each other.
#define ENTRY(BM, BN, BK, STAGES, WARPS_M, WARPS_N, BLOCKS, ALIGNED, GROUPWISE, suffix)                                    \
    extern "C" __global__ void __launch_bounds__(32 * WARPS_M * WARPS_N, BLOCKS)                                        \
        igemm_grouped_##BM##x##BN##x##BK##suffix(const __grid_constant__ IgemmGroupedParams p) {                        \
        imma::igemm_grouped<imma::Tile<BM, BN, BK, STAGES, WARPS_M, WARPS_N, ALIGNED>, GROUPWISE>(p);                   \
    }
ENTRY(16, 64, 128, 5, 1, 4, 3, true, false, )
ENTRY(32, 64, 128, 4, 2, 2, 3, true, false, )
ENTRY(64, 64, 128, 4, 2, 2, 2, true, false, )
ENTRY(64, 128, 128, 4, 2, 2, 1, true, false, )
ENTRY(128, 128, 64, 4, 2, 4, 1, true, false, )
ENTRY(16, 64, 128, 5, 1, 4, 3, false, false, _any)
ENTRY(64, 64, 128, 4, 2, 2, 2, false, false, _any)
ENTRY(16, 64, 128, 5, 1, 4, 3, true, true, _groupwise)
ENTRY(64, 64, 128, 4, 2, 2, 2, true, true, _groupwise)
ENTRY(16, 64, 128, 5, 1, 4, 3, false, true, _groupwise_any)
