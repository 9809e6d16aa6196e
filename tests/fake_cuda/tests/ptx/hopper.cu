// Source of hopper.ptx: `nvcc -ptx -std=c++17 -O3 -gencode=arch=compute_90a,code=compute_90a hopper.cu`. Committed
// compiled, so that the tests need no nvcc.
//
// A small GEMM with everything a Hopper kernel uses: C[M,N] = A[M,K] * B[N,K]^T in int32, K-major int8 operands.
//
// Clusters of two blocks along M share the B tile: each block loads half of it and multicasts. One producer warp,
// one consumer warpgroup, four stages of 64x128 A and 64x128 B under the 128-byte swizzle; the epilogue goes through
// shared memory and a TMA store.
#include <cstdint>
#include <cuda.h>

namespace {

constexpr int TILE_M = 64, TILE_N = 64, TILE_K = 128, STAGES = 4, CLUSTER = 2;
constexpr uint32_t A_BYTES = TILE_M * TILE_K, B_BYTES = TILE_N * TILE_K;

struct __align__(1024) Storage {
    uint8_t a[STAGES][A_BYTES];
    uint8_t b[STAGES][B_BYTES];
    int32_t c[TILE_M * TILE_N];
    uint64_t full[STAGES];
    uint64_t empty[STAGES];
};

__device__ uint32_t shared(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ void mbarrier_init(uint64_t* bar, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared(bar)), "r"(count) : "memory");
}
__device__ void expect_tx(uint64_t* bar, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared(bar)), "r"(bytes) : "memory");
}
__device__ void wait(uint64_t* bar, uint32_t parity) {
    asm volatile(
        "{\n.reg .pred P1;\nLAB_WAIT:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 P1, [%0], %1;\n@P1 bra DONE;\nbra LAB_WAIT;\nDONE:\n}" ::"r"(shared(bar)),
        "r"(parity)
        : "memory");
}
__device__ void arrive_at(uint64_t* bar, uint32_t rank) {
    asm volatile(
        "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n}" ::"r"(shared(bar)),
        "r"(rank)
        : "memory");
}
__device__ void load(void* to, const CUtensorMap* map, uint64_t* bar, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            shared(to)),
        "l"(map), "r"(shared(bar)), "r"(x), "r"(y)
        : "memory");
}
__device__ void load_multicast(void* to, const CUtensorMap* map, uint64_t* bar, int x, int y, uint16_t mask) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, "
        "%4}], [%2], %5;" ::"r"(shared(to)),
        "l"(map), "r"(shared(bar)), "r"(x), "r"(y), "h"(mask)
        : "memory");
}
__device__ void store(const CUtensorMap* map, const void* from, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map), "r"(shared(from)),
                 "r"(x), "r"(y)
                 : "memory");
}
__device__ uint32_t cluster_rank() {
    uint32_t r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
__device__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ uint64_t descriptor(const void* p) {
    // K-major, 128-byte swizzle: 8 rows take 1024 bytes.
    return (uint64_t)((shared(p) & 0x3FFFF) >> 4) | 1ull << 16 | (uint64_t)(1024 >> 4) << 32 | 1ull << 62;
}
__device__ void wgmma(int32_t (&d)[32], uint64_t a, uint64_t b, int scale_d) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p;\n}"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7]), "+r"(d[8]), "+r"(d[9]),
          "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]), "+r"(d[14]), "+r"(d[15]), "+r"(d[16]), "+r"(d[17]), "+r"(d[18]),
          "+r"(d[19]), "+r"(d[20]), "+r"(d[21]), "+r"(d[22]), "+r"(d[23]), "+r"(d[24]), "+r"(d[25]), "+r"(d[26]), "+r"(d[27]),
          "+r"(d[28]), "+r"(d[29]), "+r"(d[30]), "+r"(d[31])
        : "l"(a), "l"(b), "r"(scale_d));
}
__device__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
__device__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

}  // namespace

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(256, 1)
    hopper_igemm(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                 const __grid_constant__ CUtensorMap map_c, int k) {
    extern __shared__ __align__(1024) uint8_t raw[];
    Storage& s = *reinterpret_cast<Storage*>(raw + (1024 - shared(raw) % 1024) % 1024);
    const int warp = threadIdx.x / 32, rank = cluster_rank();
    const int steps = (k + TILE_K - 1) / TILE_K;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            mbarrier_init(&s.full[i], 1);
            mbarrier_init(&s.empty[i], CLUSTER);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    cluster_sync();
    if (warp < 4) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (warp == 0) {
            uint32_t elected;
            asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(elected));
            if (elected) {
                asm volatile("prefetch.tensormap [%0];" ::"l"(&map_a) : "memory");
                for (int i = 0; i < steps; ++i) {
                    const int stage = i % STAGES;
                    wait(&s.empty[stage], (i / STAGES & 1) ^ 1);
                    expect_tx(&s.full[stage], A_BYTES + B_BYTES);
                    load(s.a[stage], &map_a, &s.full[stage], i * TILE_K, blockIdx.x * TILE_M);
                    load_multicast(s.b[stage] + rank * B_BYTES / 2, &map_b, &s.full[stage], i * TILE_K,
                                   blockIdx.y * TILE_N + rank * TILE_N / 2, 3);
                }
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        int32_t d[32];
        for (int i = 0; i < steps; ++i) {
            const int stage = i % STAGES;
            wait(&s.full[stage], i / STAGES & 1);
            wgmma_fence();
#pragma unroll
            for (int j = 0; j < TILE_K / 32; ++j)
                wgmma(d, descriptor(s.a[stage]) + j * 2, descriptor(s.b[stage]) + j * 2, i + j > 0);
            wgmma_commit();
            // The stage before is done with when only the newest group may be in flight.
            wgmma_wait<1>();
            if (i > 0 && threadIdx.x % 128 < CLUSTER) arrive_at(&s.empty[(i - 1) % STAGES], threadIdx.x % 128);
        }
        wgmma_wait<0>();
        const int row = warp % 4 * 16 + threadIdx.x % 32 / 4, col = threadIdx.x % 4 * 2;
        for (int i = 0; i < 32; ++i)
            s.c[(row + (i / 2 % 2) * 8) * TILE_N + (i / 4) * 8 + col + i % 2] = d[i];
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        asm volatile("bar.sync 1, 128;" ::: "memory");
        if (threadIdx.x == 128) {
            store(&map_c, s.c, blockIdx.y * TILE_N, blockIdx.x * TILE_M);
            asm volatile("cp.async.bulk.commit_group;" ::: "memory");
            asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
        }
    }
    // Nobody leaves while a peer may still arrive at its barriers.
    cluster_sync();
}
