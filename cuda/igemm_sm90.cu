// int8 GEMM of compute capability 9.0a: c [M, N] = a [M, K] x w [N, K]^T, int32 sums, the shared epilogue.
//
//   warpgroup 0    one thread: global --TMA, 128-byte swizzle--> ring of STAGES in shared memory
//   warpgroups 1, 2            ring --wgmma--> sums in registers --> epilogue --boxes of shared memory, TMA--> global
//                              or, where TMA or the plain epilogue does not do: strips --> four columns a thread --> global
//
//   full[s]   the stage's bytes have arrived        the producer arrives once, with their number
//   empty[s]  all who read the stage are done       a consumer warpgroup arrives once, in every block that fills it
//   turn[c]   consumer c may multiply (PINGPONG)    the other arrives when it has seen its tile's last stage full
//
// One operand is tall: 64 rows a wgmma, TALL a tile. The other is wide: WIDE rows a tile, any N that wgmma has. Normally
// a is tall and w wide; SWAPPED, for few tokens, w is tall and a wide, so that 8 tokens cost no more than they are.
//
// Both consumers share a tile (half of its rows each), or take tiles in turn (PINGPONG), so that one multiplies while
// the other finishes. In a cluster two blocks take two tiles along the tall side and load half of the wide side each,
// for both. Blocks are persistent: they walk over work items, which are tiles times parts of K.
//
// Parts of K add to int32 sums in memory, which are exact in any order; the last of a tile to come finishes it, and
// leaves sums and counters zero as it found them.
#include "finish_item.cuh"
#include "ring_sm90.cuh"
#include "wgmma.cuh"

namespace imma {

// The sums of one item; `at` counts the stages of the ring that were used before.
template <typename T>
__device__ __forceinline__ void multiply(const Ring<T>& ring, unsigned at, unsigned steps, unsigned consumer,
                                         Sums<T>& sum) {
    const unsigned first = T::PINGPONG ? 0 : consumer * T::BLOCKS;
#pragma unroll 1
    for (unsigned step = 0; step < steps; ++step, ++at) {
        const unsigned s = at % T::STAGES;
        ptx::mbarrier_wait(ring.full(s), at / T::STAGES % 2);
        const uint64_t tall = ptx::wgmma_descriptor(ring.tall(s)) + first * (64 * T::BK / 16);
        const uint64_t wide = ptx::wgmma_descriptor(ring.wide(s));
        ptx::wgmma_fence();
#pragma unroll
        for (unsigned ks = 0; ks < T::BK / 32; ++ks) {
#pragma unroll
            for (unsigned i = 0; i < T::BLOCKS; ++i) {
                // 32 bytes along K are 2 units of a descriptor's address.
                ptx::Wgmma<T::WIDE>::s8(sum[i], tall + i * (64 * T::BK / 16) + ks * 2, wide + ks * 2, step | ks);
            }
        }
        ptx::wgmma_commit();
        // Only the newest group may be in flight: the stage before is done with.
        ptx::wgmma_wait<1>();
        if (step > 0) {
            release<T>(ring, (at - 1) % T::STAGES);
        }
    }
    if constexpr (T::PINGPONG) {
        if (threadIdx.x % 128 == 0) {
            ptx::mbarrier_arrive(ring.turn(1 - consumer));
        }
    }
    ptx::wgmma_wait<0>();
    release<T>(ring, (at - 1) % T::STAGES);
}

// One thread: the barriers as they are before anything was loaded.
template <typename T>
__device__ __forceinline__ void init_barriers(const Ring<T>& ring) {
    for (unsigned s = 0; s < T::STAGES; ++s) {
        ptx::mbarrier_init(ring.full(s), 1);
        ptx::mbarrier_init(ring.empty(s), T::READERS * T::CLUSTER);
    }
    ptx::mbarrier_init(ring.turn(0), 1);
    ptx::mbarrier_init(ring.turn(1), 1);
    ptx::fence_mbarrier_init();
}

// A consumer warpgroup: multiplies and finishes the items that are its. `shared`: what `ring` is an address of.
template <typename T>
__device__ __forceinline__ void consume(const Ring<T>& ring, uint8_t* shared, const ptx::TensorMap* map_out,
                                        const IgemmSm90Params& p, unsigned rank, unsigned consumer) {
    uint8_t* strips = shared + T::STAGES * T::STAGE_BYTES;
    unsigned* flag = reinterpret_cast<unsigned*>(shared + T::SHARED - 16) + consumer;
    unsigned at = 0, turn = 0;
    for (unsigned id = blockIdx.x / T::CLUSTER; id < p.items; id += gridDim.x / T::CLUSTER, ++turn) {
        const Item item = item_at<T>(p, id, rank);
        if (!T::PINGPONG || turn % 2 == consumer) {
            if constexpr (T::PINGPONG) {
                // A parity tells a phase from the one before, not from one a whole ring earlier: a consumer that ran
                // ahead would take stages for full that are not. The first turn is the first consumer's.
                ptx::mbarrier_wait(ring.turn(consumer), turn / 2 % 2 ^ (consumer == 0));
            }
            Sums<T> sum;
            multiply<T>(ring, at, item.steps, consumer, sum);
            finish_item<T>(p, map_out, item, consumer, strips, flag, sum);
        }
        at += item.steps;
    }
    // Shared memory is there until the last box has been read.
    if (threadIdx.x % 32 == 0) {
        ptx::bulk_wait_read<0>();
    }
}

template <typename T>
__device__ __forceinline__ void igemm(const ptx::TensorMap* map_tall, const ptx::TensorMap* map_wide,
                                      const ptx::TensorMap* map_out, const IgemmSm90Params& p) {
    extern __shared__ __align__(1024) uint8_t shared[];
    const Ring<T> ring{ptx::shared_address(shared)};
    const unsigned warpgroup = threadIdx.x / 128;
    const unsigned rank = T::CLUSTER > 1 ? ptx::cluster_rank() : 0;
    if (threadIdx.x == 0) {
        ptx::prefetch_tensormap(map_tall);
        ptx::prefetch_tensormap(map_wide);
        if (p.tensor_store) {
            ptx::prefetch_tensormap(map_out);
        }
        init_barriers<T>(ring);
    }
    if constexpr (T::CLUSTER > 1) {
        // fence_mbarrier_init released the barriers, and there is nothing else to hand over.
        ptx::cluster_arrive_relaxed();
        ptx::cluster_wait();
    } else {
        __syncthreads();
    }
    // What came before may still run: until griddepcontrol.wait, operands, scales, workspace and output are its.
    if (warpgroup == 0) {
        ptx::setmaxnreg_dec<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) {
            produce<T>(ring, map_tall, map_wide, p, rank);
            ptx::griddepcontrol_launch_dependents();
        }
        __syncwarp();
    } else {
        ptx::setmaxnreg_inc<CONSUMER_REGISTERS>();
        ptx::griddepcontrol_wait();
        consume<T>(ring, shared, map_out, p, rank, warpgroup - 1);
    }
    if constexpr (T::CLUSTER > 1) {
        // Nobody leaves while the other may still arrive at its barriers: arrivals are performed before this one.
        __syncwarp();
        ptx::cluster_arrive();
        ptx::cluster_wait();
    }
}

}  // namespace imma

// src/cuda/igemm90/tile.rs lists the same instances; tests hold both to each other.
#define ENTRY(name, TALL, WIDE, STAGES, CLUSTER, PINGPONG, SWAPPED, ...)                                          \
    extern "C" __global__ void __VA_ARGS__ __launch_bounds__(384, 1)                                              \
        igemm_sm90_##name(const __grid_constant__ imma::ptx::TensorMap map_tall,                                  \
                          const __grid_constant__ imma::ptx::TensorMap map_wide,                                  \
                          const __grid_constant__ imma::ptx::TensorMap map_out,                                   \
                          const __grid_constant__ IgemmSm90Params p) {                                            \
        imma::igemm<imma::Hopper<TALL, WIDE, STAGES, CLUSTER, PINGPONG, SWAPPED>>(&map_tall, &map_wide, &map_out, p); \
    }
ENTRY(128x256_cluster, 128, 256, 4, 2, false, false, __cluster_dims__(2, 1, 1))
ENTRY(64x256_cluster, 64, 256, 5, 2, true, false, __cluster_dims__(2, 1, 1))
ENTRY(128x192, 128, 192, 5, 1, false, false)
ENTRY(128x128, 128, 128, 6, 1, false, false)
ENTRY(128x128_pingpong, 128, 128, 6, 1, true, false)
ENTRY(64x256, 64, 256, 5, 1, true, false)
ENTRY(64x192, 64, 192, 6, 1, true, false)
ENTRY(64x128, 64, 128, 8, 1, true, false)
ENTRY(64x64, 64, 64, 12, 1, true, false)
ENTRY(swapped_64x64, 64, 64, 12, 1, true, true)
ENTRY(swapped_64x48, 64, 48, 14, 1, true, true)
ENTRY(swapped_64x32, 64, 32, 16, 1, true, true)
ENTRY(swapped_64x24, 64, 24, 16, 1, true, true)
ENTRY(swapped_64x16, 64, 16, 20, 1, true, true)
ENTRY(swapped_64x8, 64, 8, 20, 1, true, true)
