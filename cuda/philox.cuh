// Philox 4x32-10: counter-based random numbers, a function of (seed, linear element index) alone.
// Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011; src/rounding.rs has the same.
#pragma once

#include <cstdint>

namespace imma {

// The four words of elements 4 * group .. 4 * group + 3.
__device__ __forceinline__ uint4 philox(uint64_t seed, uint64_t group) {
    uint32_t c0 = uint32_t(group), c1 = uint32_t(group >> 32), c2 = 0, c3 = 0;
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint32_t hi0 = __umulhi(0xD2511F53u, c0), lo0 = 0xD2511F53u * c0;
        const uint32_t hi1 = __umulhi(0xCD9E8D57u, c2), lo1 = 0xCD9E8D57u * c2;
        c0 = hi1 ^ c1 ^ k0;
        c1 = lo1;
        c2 = hi0 ^ c3 ^ k1;
        c3 = lo0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return make_uint4(c0, c1, c2, c3);
}

// [0, 1) in steps of 2^-24.
__device__ __forceinline__ float unit(uint32_t word) { return __fmul_rn(__uint2float_rn(word >> 8), 0x1p-24f); }

__device__ __forceinline__ float uniform(uint64_t seed, uint64_t index) {
    const uint4 words = philox(seed, index >> 2);
    const uint32_t low = index & 1 ? words.y : words.x, high = index & 1 ? words.w : words.z;
    return unit(index & 2 ? high : low);
}

// The numbers of N consecutive elements from `index` on, N a multiple of 4.
//
//   groups   | w0 w1 w2 w3 | w4 w5 w6 w7 | w8 ..         index & 3 = 1, N = 4: w1 w2 w3 w4
//
// The shift goes through registers in two steps of selects; one group more is made only where it is needed.
template <unsigned N>
__device__ __forceinline__ void uniforms(uint64_t seed, uint64_t index, float (&u)[N]) {
    static_assert(N % 4 == 0, "whole groups");
    uint32_t w[N + 4];
    const uint64_t group = index >> 2;
    const bool straddles = (index & 3) != 0;
#pragma unroll
    for (unsigned g = 0; g <= N / 4; ++g) {
        uint4 words = make_uint4(0, 0, 0, 0);
        if (g < N / 4 || straddles) {
            words = philox(seed, group + g);
        }
        w[4 * g] = words.x;
        w[4 * g + 1] = words.y;
        w[4 * g + 2] = words.z;
        w[4 * g + 3] = words.w;
    }
#pragma unroll
    for (unsigned i = 0; i < N + 3; ++i) {
        w[i] = index & 1 ? w[i + 1] : w[i];
    }
#pragma unroll
    for (unsigned i = 0; i < N; ++i) {
        u[i] = unit(index & 2 ? w[i + 2] : w[i]);
    }
}

}  // namespace imma
