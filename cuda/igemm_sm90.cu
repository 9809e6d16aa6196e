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
#include "epilogue.cuh"
#include "finish_plain.cuh"
#include "finish_tensor.cuh"
#include "params.h"
#include "ptx.cuh"
#include "ptx_sm90.cuh"
#include "wgmma.cuh"

namespace imma {

template <unsigned TALL_, unsigned WIDE_, unsigned STAGES_, unsigned CLUSTER_, bool PINGPONG_, bool SWAPPED_>
struct Hopper {
    static constexpr unsigned TALL = TALL_, WIDE = WIDE_, STAGES = STAGES_, CLUSTER = CLUSTER_;
    static constexpr bool PINGPONG = PINGPONG_, SWAPPED = SWAPPED_;
    static constexpr unsigned BK = 128;
    // 64-row blocks of a consumer, and its accumulators for each.
    static constexpr unsigned BLOCKS = TALL / 64 / (PINGPONG ? 1 : 2), SUMS = WIDE / 2;
    static constexpr unsigned TALL_BYTES = TALL * BK, WIDE_BYTES = WIDE * BK, STAGE_BYTES = TALL_BYTES + WIDE_BYTES;
    // Consumer warpgroups that read a stage.
    static constexpr unsigned READERS = PINGPONG ? 1 : 2;

    // A strip of sums in shared memory, one a warp, in the order of the output: STRIP_ROWS x STRIP_COLS. Its pitch
    // puts what a half warp writes, and what eight lanes read, into different banks.
    //   normal: 16 rows of a, 32 columns of the wide side at a time
    //   swapped: up to 32 tokens of the wide side at a time, 16 columns
    static constexpr unsigned PASS = SWAPPED ? (WIDE <= 32 ? WIDE : WIDE / 2) : 32;
    static constexpr unsigned STRIP_ROWS = SWAPPED ? PASS : 16, STRIP_COLS = SWAPPED ? 16 : PASS;
    static constexpr unsigned STRIP_PITCH = SWAPPED ? 20 : 40;
    static constexpr unsigned STRIP_BYTES = 2560;
    static constexpr unsigned SHARED = STAGES * STAGE_BYTES + 8 * STRIP_BYTES + (2 * STAGES + 2) * 8 + 16;

    static_assert(TALL % 64 == 0 && BLOCKS >= 1 && BLOCKS * (PINGPONG ? 1 : 2) * 64 == TALL, "whole wgmmas");
    static_assert(WIDE % 8 == 0 && WIDE / CLUSTER % 8 == 0 && WIDE <= 256, "whole groups of eight rows");
    static_assert(WIDE % PASS == 0 && PASS % 8 == 0 && BLOCKS * SUMS <= 128, "whole passes that fit registers");
    static_assert(STRIP_ROWS * STRIP_PITCH * 4 <= STRIP_BYTES, "a strip holds a pass");
    // A launch uses strips or boxes, in the same place.
    static_assert(2 * BOX_BYTES <= STRIP_BYTES && (STAGES * STAGE_BYTES) % BOX_BYTES == 0, "boxes fit and are aligned");
    static_assert(STAGE_BYTES % 1024 == 0 && TALL_BYTES % 1024 == 0, "swizzled rows start at multiples of 1024");
    static_assert(SHARED <= 232448, "227 KiB");
};

// Registers of a thread: 384 threads share 65,536, so the launch gives 168 each.
constexpr unsigned PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
static_assert(PRODUCER_REGISTERS + 2 * CONSUMER_REGISTERS <= 3 * 168, "what the launch gave");

// A part of K of a tile.
struct Item {
    unsigned tall, wide; // first rows of this block's tile
    unsigned tile;       // number of the tile
    unsigned k, steps;
};

template <typename T>
__device__ __forceinline__ Item item_at(const IgemmSm90Params& p, unsigned id, unsigned rank) {
    const unsigned tiles = p.tiles_tall * p.tiles_wide;
    const unsigned split = id / tiles, within_split = id % tiles;
    // Groups of tiles along the tall side are walked together, so that blocks in flight share rows of both in L2.
    const unsigned width = p.group * p.tiles_wide;
    const unsigned group = within_split / width, within = within_split % width;
    const unsigned first = group * p.group, height = min(p.tiles_tall - first, p.group);
    const unsigned tall = first + within % height, wide = within / height;
    Item item;
    item.tall = (tall * T::CLUSTER + rank) * T::TALL;
    item.wide = wide * T::WIDE;
    item.tile = (tall * T::CLUSTER + rank) * p.tiles_wide + wide;
    item.k = split * p.k_split;
    item.steps = (min(p.k - item.k, p.k_split) + T::BK - 1) / T::BK;
    return item;
}

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
            const unsigned parity = at / T::STAGES % 2 ^ 1;
            if constexpr (T::CLUSTER > 1) {
                ptx::mbarrier_wait_cluster(ring.empty(s), parity);
            } else {
                ptx::mbarrier_wait(ring.empty(s), parity);
            }
            ptx::mbarrier_arrive_expect_tx(ring.full(s), T::STAGE_BYTES);
            load_tall<T>(ring, map_tall, item, s, step);
            load_wide<T>(ring, map_wide, item, s, step, rank);
        }
    }
}

// A consumer is done with stage `s`: tells every block that fills it.
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

// The sums of one item; `at` counts the stages of the ring that were used before.
template <typename T>
__device__ __forceinline__ void multiply(const Ring<T>& ring, unsigned at, unsigned steps, unsigned consumer,
                                         int (&sum)[T::BLOCKS][T::SUMS]) {
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

// An item's output through its tensor map: the rows that a consumer has, from (row0, col0) on.
template <typename T, typename Out>
__device__ __forceinline__ void finish_item_tensor(const EpilogueParams& e, const ptx::TensorMap* map_out, unsigned row0,
                                                   unsigned col0, uint8_t* strips, const int (&sum)[T::BLOCKS][T::SUMS]) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint8_t* boxes = strips + (warp - 4) * 2 * BOX_BYTES;
#pragma unroll
    for (unsigned i = 0; i < T::BLOCKS; ++i) {
        finish_tensor<Out, T::WIDE>(e, map_out, lane, boxes, row0 + i * 64 + warp % 4 * 16, col0, sum[i]);
    }
}

// The part of an item's output that a consumer has sums of: to memory, through the epilogue.
template <typename T>
__device__ __forceinline__ void finish_item(const IgemmSm90Params& p, const ptx::TensorMap* map_out, const Item& item,
                                            unsigned consumer, uint8_t* strips, unsigned* flag,
                                            int (&sum)[T::BLOCKS][T::SUMS]) {
    const EpilogueParams& e = p.epilogue;
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const unsigned tall0 = item.tall + (T::PINGPONG ? 0 : consumer * T::BLOCKS * 64);
    constexpr unsigned PASSES = T::WIDE / T::PASS;
    const bool plain = is_plain(e);
    if constexpr (!T::SWAPPED) {
        if (plain && p.tensor_store) {
            switch (e.output_type) {
                case IMMA_TYPE_F32: return finish_item_tensor<T, F32>(e, map_out, tall0, item.wide, strips, sum);
                case IMMA_TYPE_F16: return finish_item_tensor<T, F16>(e, map_out, tall0, item.wide, strips, sum);
                default: return finish_item_tensor<T, BF16>(e, map_out, tall0, item.wide, strips, sum);
            }
        }
    }
    int* strip = reinterpret_cast<int*>(strips + (threadIdx.x / 32 - 4) * T::STRIP_BYTES);
    using Plain = PlainStrip<T::STRIP_ROWS, T::STRIP_COLS, T::STRIP_PITCH>;
    // First row and column of a pass's strip.
    const auto row_of = [&](unsigned pass) {
        return T::SWAPPED ? item.wide + pass % PASSES * T::PASS : tall0 + pass / PASSES * 64 + warp * 16;
    };
    const auto col_of = [&](unsigned pass) {
        return T::SWAPPED ? tall0 + pass / PASSES * 64 + warp * 16 : item.wide + pass % PASSES * T::PASS;
    };

#pragma unroll 1
    for (unsigned pass = 0; pass < T::BLOCKS * PASSES; ++pass) {
        const unsigned row0 = row_of(pass), col0 = col_of(pass);
        Plain ahead;
        if (plain && p.splits == 1) {
            ahead.load(e, lane, row0, col0);
        }
#pragma unroll
        for (unsigned q = 0; q < T::BLOCKS * PASSES; ++q) {
            // Registers have no index at run time.
            if (q == pass) {
                int(&d)[T::SUMS] = sum[q / PASSES];
#pragma unroll
                for (unsigned j = 0; j < T::PASS / 8; ++j) {
                    const unsigned at = (q % PASSES * T::PASS / 8 + j) * 4;
                    const unsigned r = lane / 4, c = j * 8 + lane % 4 * 2;
                    if constexpr (T::SWAPPED) {
                        strip[c * T::STRIP_PITCH + r] = d[at];
                        strip[(c + 1) * T::STRIP_PITCH + r] = d[at + 1];
                        strip[c * T::STRIP_PITCH + r + 8] = d[at + 2];
                        strip[(c + 1) * T::STRIP_PITCH + r + 8] = d[at + 3];
                    } else {
                        int* to = strip + r * T::STRIP_PITCH + c;
                        *reinterpret_cast<int2*>(to) = make_int2(d[at], d[at + 1]);
                        *reinterpret_cast<int2*>(to + 8 * T::STRIP_PITCH) = make_int2(d[at + 2], d[at + 3]);
                    }
                }
            }
        }
        __syncwarp();
        if (p.splits > 1) {
#pragma unroll 4
            for (unsigned id = lane; id < T::STRIP_ROWS * T::STRIP_COLS; id += 32) {
                const unsigned r = id / T::STRIP_COLS, c = id % T::STRIP_COLS;
                if (row0 + r < e.rows && col0 + c < e.cols) {
                    atomicAdd(p.sums + uint64_t(row0 + r) * e.cols + col0 + c, strip[r * T::STRIP_PITCH + c]);
                }
            }
        } else if (plain) {
            ahead.take(lane, strip);
            ahead.store(e);
        } else {
            constexpr unsigned GROUPS = T::STRIP_COLS / GROUP;
#pragma unroll 1
            for (unsigned id = lane; id < T::STRIP_ROWS * GROUPS; id += 32) {
                const unsigned r = id / GROUPS, c = id % GROUPS * GROUP;
                if (row0 + r < e.rows && col0 + c < e.cols) {
                    const int4 v = *reinterpret_cast<const int4*>(strip + r * T::STRIP_PITCH + c);
                    int values[GROUP] = {v.x, v.y, v.z, v.w};
                    finish(e, 0, row0 + r, col0 + c, min(e.cols - col0 - c, GROUP), values);
                }
            }
        }
        __syncwarp();
    }
    if (p.splits == 1) {
        return;
    }

    // The last part of the tile to come finds all sums. Each consumer counts for its own rows.
    const unsigned thread = threadIdx.x % 128;
    unsigned* arrived = p.arrived + item.tile * T::READERS + (T::PINGPONG ? 0 : consumer);
    __threadfence();
    ptx::bar_sync(1 + consumer, 128);
    if (thread == 0) {
        *flag = atomicAdd(arrived, 1u);
        __threadfence();
    }
    ptx::bar_sync(1 + consumer, 128);
    if (*flag != p.splits - 1) {
        return;
    }
    __threadfence();
    if (plain) {
        // The next pass is on its way while this one is finished.
        Plain now, next;
        now.load(e, lane, row_of(0), col_of(0));
        now.take_added(e, p.sums);
#pragma unroll 1
        for (unsigned pass = 0; pass < T::BLOCKS * PASSES; ++pass) {
            if (pass + 1 < T::BLOCKS * PASSES) {
                next.load(e, lane, row_of(pass + 1), col_of(pass + 1));
                next.take_added(e, p.sums);
            }
            now.store(e);
            now = next;
        }
    } else {
        constexpr unsigned ROWS = T::SWAPPED ? T::WIDE : T::BLOCKS * 64, COLS = T::SWAPPED ? T::BLOCKS * 64 : T::WIDE;
        constexpr unsigned GROUPS = COLS / GROUP;
        const unsigned row0 = T::SWAPPED ? item.wide : tall0, col0 = T::SWAPPED ? tall0 : item.wide;
#pragma unroll 1
        for (unsigned id = thread; id < ROWS * GROUPS; id += 128) {
            const unsigned row = row0 + id / GROUPS, col = col0 + id % GROUPS * GROUP;
            if (row < e.rows && col < e.cols) {
                const unsigned count = min(e.cols - col, GROUP);
                int values[GROUP];
                take_sums(p.sums + uint64_t(row) * e.cols + col, count, e.cols % GROUP == 0, values);
                finish(e, 0, row, col, count, values);
            }
        }
    }
    if (thread == 0) {
        *arrived = 0;
    }
}

template <typename T>
__device__ __forceinline__ void igemm(const ptx::TensorMap* map_tall, const ptx::TensorMap* map_wide,
                                      const ptx::TensorMap* map_out, const IgemmSm90Params& p) {
    extern __shared__ __align__(1024) uint8_t shared[];
    const Ring<T> ring{ptx::shared_address(shared)};
    const unsigned group = threadIdx.x / 128;
    const unsigned rank = T::CLUSTER > 1 ? ptx::cluster_rank() : 0;
    if (threadIdx.x == 0) {
        ptx::prefetch_tensormap(map_tall);
        ptx::prefetch_tensormap(map_wide);
        if (p.tensor_store) {
            ptx::prefetch_tensormap(map_out);
        }
        for (unsigned s = 0; s < T::STAGES; ++s) {
            ptx::mbarrier_init(ring.full(s), 1);
            ptx::mbarrier_init(ring.empty(s), T::READERS * T::CLUSTER);
        }
        ptx::mbarrier_init(ring.turn(0), 1);
        ptx::mbarrier_init(ring.turn(1), 1);
        ptx::fence_mbarrier_init();
    }
    if constexpr (T::CLUSTER > 1) {
        ptx::cluster_sync();
    } else {
        __syncthreads();
    }
    // What came before may still run: until griddepcontrol.wait, operands, scales, workspace and output are its.
    if (group == 0) {
        ptx::setmaxnreg_dec<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) {
            produce<T>(ring, map_tall, map_wide, p, rank);
            ptx::griddepcontrol_launch_dependents();
        }
        __syncwarp();
    } else {
        ptx::setmaxnreg_inc<CONSUMER_REGISTERS>();
        ptx::griddepcontrol_wait();
        const unsigned consumer = group - 1;
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
                int sum[T::BLOCKS][T::SUMS];
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
    if constexpr (T::CLUSTER > 1) {
        // Nobody leaves while the other may still arrive at its barriers.
        __syncwarp();
        ptx::cluster_sync();
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
