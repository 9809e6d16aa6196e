// Inline PTX of compute capability 9.0: mbarriers, clusters, the tensor memory accelerator, registers moved between
// warpgroups, dependent launches. One function an instruction, named after it; wgmma is in wgmma.cuh.
#pragma once

#include <cstdint>

namespace imma::ptx {

// What cuTensorMapEncodeTiled writes; a kernel takes it as a __grid_constant__ parameter and uses its address alone.
struct __align__(64) TensorMap {
    uint64_t opaque[16];
};

__device__ __forceinline__ void mbarrier_init(uint32_t bar, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}
// Makes initialised barriers known to the cluster and to copies that complete on them.
__device__ __forceinline__ void fence_mbarrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// One arrival, and so many bytes of copies that the phase waits for.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint32_t bar, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void mbarrier_arrive(uint32_t bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
// An arrival at the same barrier of block `rank` of the cluster, without a scope: it tells another block which wgmma and
// copies are complete, not what threads wrote. The scope of the cluster would be a fence of the whole device each time.
__device__ __forceinline__ void mbarrier_arrive_cluster(uint32_t bar, unsigned rank) {
    asm volatile(
        "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(bar),
        "r"(rank)
        : "memory");
}
// Until the phase of that parity is complete. What threads of other blocks wrote is not seen by it.
__device__ __forceinline__ void mbarrier_wait(uint32_t bar, unsigned parity) {
    asm volatile(
        "{\n.reg .pred done;\nagain:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra out;\nbra again;\nout:\n}" ::"r"(bar),
        "r"(parity)
        : "memory");
}

__device__ __forceinline__ void prefetch_tensormap(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// The box at (x, y) of a tensor to shared memory, its bytes counted by `bar`; zeros where it leaves the tensor.
__device__ __forceinline__ void tensor_load(uint32_t to, const TensorMap* map, uint32_t bar, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            to),
        "l"(map), "r"(bar), "r"(x), "r"(y)
        : "memory");
}
// The same to the same place of every block in `mask`, counted by each one's barrier.
__device__ __forceinline__ void tensor_load_multicast(uint32_t to, const TensorMap* map, uint32_t bar, int x, int y,
                                                      uint16_t mask) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
        "[%1, {%3, %4}], [%2], %5;" ::"r"(to),
        "l"(map), "r"(bar), "r"(x), "r"(y), "h"(mask)
        : "memory");
}

// A box of shared memory to (x, y) of a tensor, which it may leave: what lies outside is not written.
__device__ __forceinline__ void tensor_store(const TensorMap* map, uint32_t from, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map), "r"(from),
                 "r"(x), "r"(y)
                 : "memory");
}
// Makes this thread's writes to shared memory known to what TMA reads after it.
__device__ __forceinline__ void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// This thread's stores so far are a group.
__device__ __forceinline__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until all but N of this thread's groups have been read from shared memory.
template <int N>
__device__ __forceinline__ void bulk_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ unsigned cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
// The barrier of all threads of a cluster. Relaxed, an arrival hands over nothing that this thread did.
__device__ __forceinline__ void cluster_arrive_relaxed() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// Gives registers back, or takes what others gave; all four warps of a warpgroup.
template <unsigned COUNT>
__device__ __forceinline__ void setmaxnreg_dec() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <unsigned COUNT>
__device__ __forceinline__ void setmaxnreg_inc() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// A barrier of `threads` threads of the block; 0 is that of __syncthreads.
__device__ __forceinline__ void bar_sync(unsigned id, unsigned threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Until the kernels before this one have ended and what they wrote can be seen.
__device__ __forceinline__ void griddepcontrol_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

}  // namespace imma::ptx
