// wgmma m64nNk32 over int8: d [64, N] (+)= a [64, 32] x b [N, 32]^T, both K-major in shared memory.
//
// Accumulator i of lane l, warp w of the warpgroup holds
//
//   row 16 w + l / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2 (l % 4) + i % 2
//
//            column 0 1   2 3   4 5   6 7
//   row 0         l0:0,1  l1    l2    l3        (+ 4 registers every 8 columns)
//   row 8         l0:2,3  ...
#pragma once

#include <cstdint>

namespace imma::ptx {

// Registers of the sums, sixteen at a time.
#define IMMA_L0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define IMMA_L1 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define IMMA_L2 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define IMMA_L3 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define IMMA_L4 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define IMMA_L5 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define IMMA_L6 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define IMMA_L7 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define IMMA_R4(i) "+r"(d[i]), "+r"(d[(i) + 1]), "+r"(d[(i) + 2]), "+r"(d[(i) + 3])
#define IMMA_R8(i) IMMA_R4(i), IMMA_R4((i) + 4)
#define IMMA_R16(i) IMMA_R8(i), IMMA_R8((i) + 8)
#define IMMA_R32(i) IMMA_R16(i), IMMA_R16((i) + 16)
#define IMMA_R64(i) IMMA_R32(i), IMMA_R32((i) + 32)

// `accumulate` 0: the sums start at zero, whatever d holds. A and B: the numbers of the operands after the sums.
template <unsigned N>
struct Wgmma;
#define IMMA_WGMMA(N, LIST, A, B, P, ...)                                                                       \
    template <>                                                                                                 \
    struct Wgmma<N> {                                                                                           \
        static __device__ __forceinline__ void s8(int (&d)[N / 2], uint64_t a, uint64_t b, unsigned accumulate) { \
            asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %" #P ", 0;\n"                                       \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k32.s32.s8.s8 {" LIST "}, %" #A ", %" #B ", p;\n}" \
                         : __VA_ARGS__                                                                          \
                         : "l"(a), "l"(b), "r"(accumulate));                                                    \
        }                                                                                                       \
    };
IMMA_WGMMA(8, "%0, %1, %2, %3", 4, 5, 6, IMMA_R4(0))
IMMA_WGMMA(16, "%0, %1, %2, %3, %4, %5, %6, %7", 8, 9, 10, IMMA_R8(0))
IMMA_WGMMA(24, "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11", 12, 13, 14, IMMA_R8(0), IMMA_R4(8))
IMMA_WGMMA(32, IMMA_L0, 16, 17, 18, IMMA_R16(0))
IMMA_WGMMA(48, IMMA_L0 ", %16, %17, %18, %19, %20, %21, %22, %23", 24, 25, 26, IMMA_R16(0), IMMA_R8(16))
IMMA_WGMMA(64, IMMA_L0 ", " IMMA_L1, 32, 33, 34, IMMA_R32(0))
IMMA_WGMMA(96, IMMA_L0 ", " IMMA_L1 ", " IMMA_L2, 48, 49, 50, IMMA_R32(0), IMMA_R16(32))
IMMA_WGMMA(128, IMMA_L0 ", " IMMA_L1 ", " IMMA_L2 ", " IMMA_L3, 64, 65, 66, IMMA_R64(0))
IMMA_WGMMA(192, IMMA_L0 ", " IMMA_L1 ", " IMMA_L2 ", " IMMA_L3 ", " IMMA_L4 ", " IMMA_L5, 96, 97, 98, IMMA_R64(0), IMMA_R32(64))
IMMA_WGMMA(256, IMMA_L0 ", " IMMA_L1 ", " IMMA_L2 ", " IMMA_L3 ", " IMMA_L4 ", " IMMA_L5 ", " IMMA_L6 ", " IMMA_L7, 128, 129, 130, IMMA_R64(0), IMMA_R64(64))
#undef IMMA_WGMMA
#undef IMMA_L0
#undef IMMA_L1
#undef IMMA_L2
#undef IMMA_L3
#undef IMMA_L4
#undef IMMA_L5
#undef IMMA_L6
#undef IMMA_L7
#undef IMMA_R4
#undef IMMA_R8
#undef IMMA_R16
#undef IMMA_R32
#undef IMMA_R64

// Orders the registers of the sums before and after: once ahead of a stage's first wgmma.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most N of the warpgroup's groups are in flight.
template <int N>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Rows of 128 bytes under the 128-byte swizzle, 8 rows 1024 bytes from the next 8.
//   bits 0-13 address / 16, 16-29 leading offset (not used under a swizzle), 32-45 stride / 16, 62-63 swizzle: 1
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t shared) {
    return uint64_t((shared & 0x3ffff) >> 4) | 1ull << 16 | uint64_t(1024 >> 4) << 32 | 1ull << 62;
}

}  // namespace imma::ptx
