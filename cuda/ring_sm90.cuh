// The ring of stages that igemm_sm90's producer keeps full and its consumers read.
#pragma once

#include "ptx_sm90.cuh"
#include "tile_sm90.cuh"

namespace imma {

// Shared memory of a block.
template <typename T>
struct Ring {
    uint32_t stages;
    __device__ uint32_t tall(unsigned s) const { return stages + s * T::STAGE_BYTES; }
    __device__ uint32_t wide(unsigned s) const { return tall(s) + T::TALL_BYTES; }
    __device__ uint32_t full(unsigned s) const {
        return stages + T::STAGES * T::STAGE_BYTES + 8 * T::STRIP_BYTES + s * 8;
    }
    __device__ uint32_t empty(unsigned s) const { return full(s) + T::STAGES * 8; }
    __device__ uint32_t turn(unsigned consumer) const { return full(2 * T::STAGES + consumer); }
};

// One operand's part of a stage; the wide side of a cluster is loaded by halves, each to both blocks.
template <typename T>
__device__ __forceinline__ void load_tall(const Ring<T>& ring, const ptx::TensorMap* map, const Item& item, unsigned s,
                                          unsigned step) {
    ptx::tensor_load(ring.tall(s), map, ring.full(s), int(item.k + step * T::BK), int(item.tall));
}
template <typename T>
__device__ __forceinline__ void load_wide(const Ring<T>& ring, const ptx::TensorMap* map, const Item& item, unsigned s,
                                          unsigned step, unsigned rank) {
    const int k = int(item.k + step * T::BK);
    if constexpr (T::CLUSTER > 1) {
        constexpr unsigned PART = T::WIDE / T::CLUSTER;
        ptx::tensor_load_multicast(ring.wide(s) + rank * PART * T::BK, map, ring.full(s), k,
                                   int(item.wide + rank * PART), (1 << T::CLUSTER) - 1);
    } else {
        ptx::tensor_load(ring.wide(s), map, ring.full(s), k, int(item.wide));
    }
}

// One thread: keeps the ring full.
template <typename T>
__device__ __forceinline__ void produce(const Ring<T>& ring, const ptx::TensorMap* map_tall,
                                        const ptx::TensorMap* map_wide, const IgemmSm90Params& p, unsigned rank) {
    unsigned id = blockIdx.x / T::CLUSTER, ahead = 0;
    // Weights fill the ring while the kernel before, which makes the other operand, still runs.
    if (p.weights_ready && id < p.items) {
        const Item item = item_at<T>(p, id, rank);
        for (; ahead < min(item.steps, T::STAGES); ++ahead) {
            ptx::mbarrier_arrive_expect_tx(ring.full(ahead), T::STAGE_BYTES);
            if constexpr (T::SWAPPED) {
                load_tall<T>(ring, map_tall, item, ahead, ahead);
            } else {
                load_wide<T>(ring, map_wide, item, ahead, ahead, rank);
            }
        }
    }
    ptx::griddepcontrol_wait();
    unsigned at = 0;
    for (; id < p.items; id += gridDim.x / T::CLUSTER) {
        const Item item = item_at<T>(p, id, rank);
        for (unsigned step = 0; step < item.steps; ++step, ++at) {
            const unsigned s = at % T::STAGES;
            if (at < ahead) {
                if constexpr (T::SWAPPED) {
                    load_wide<T>(ring, map_wide, item, s, step, rank);
                } else {
                    load_tall<T>(ring, map_tall, item, s, step);
                }
                continue;
            }
            // The first round finds every stage empty.
            ptx::mbarrier_wait(ring.empty(s), at / T::STAGES % 2 ^ 1);
            ptx::mbarrier_arrive_expect_tx(ring.full(s), T::STAGE_BYTES);
            load_tall<T>(ring, map_tall, item, s, step);
            load_wide<T>(ring, map_wide, item, s, step, rank);
        }
    }
}

// A consumer is done with stage `s`: tells every block that fills it. A stage is written by TMA and read by wgmma alone,
// both complete here, so that nothing a thread did needs to be seen in the other block.
template <typename T>
__device__ __forceinline__ void release(const Ring<T>& ring, unsigned s) {
    const unsigned thread = threadIdx.x % 128;
    if constexpr (T::CLUSTER > 1) {
        if (thread < T::CLUSTER) {
            ptx::mbarrier_arrive_cluster(ring.empty(s), thread);
        }
    } else if (thread == 0) {
        ptx::mbarrier_arrive(ring.empty(s));
    }
}

}  // namespace imma
