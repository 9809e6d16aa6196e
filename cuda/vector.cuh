// 16-byte accesses to rows of any length and alignment.
//
//   a row of T    | head | chunk 0 | chunk 1 | ... | tail |
//                        ^ first 16-byte boundary
//
// Head and tail are shorter than a vector each, so together they are fewer elements than a warp has threads:
// thread t takes at most one of them, `edge(t)`, and whole chunks besides.
#pragma once

#include <cstdint>

#include "element.cuh"
#include "numerics.cuh"
#include "philox.cuh"

namespace imma {

// How the elements of a row fall on 16-byte boundaries of `address`. Index is uint32_t where columns are fewer than
// 2^31, which saves registers.
template <typename T, typename Index>
struct Split {
    static_assert(2 * (LANES<T> - 1) <= 32, "a warp covers both edges");
    static constexpr Index NONE = ~Index(0);
    Index head, chunks, cols;

    __device__ __forceinline__ Split(const void* address, Index cols) : cols(cols) {
        const unsigned past = unsigned(reinterpret_cast<uintptr_t>(address)) % IMMA_VECTOR_BYTES;
        const Index lead = past ? (IMMA_VECTOR_BYTES - past) / sizeof(T) : 0;
        head = lead < cols ? lead : cols;
        chunks = (cols - head) / LANES<T>;
    }
    // First element of a chunk.
    __device__ __forceinline__ Index at(Index chunk) const { return head + chunk * LANES<T>; }
    // The element outside all chunks that thread t takes, or NONE.
    __device__ __forceinline__ Index edge(unsigned t) const {
        const Index element = t < head ? t : t + chunks * LANES<T>;
        return element < cols ? element : NONE;
    }
};

__device__ __forceinline__ uint4 load_vector(const void* address) { return *static_cast<const uint4*>(address); }

// The low bytes of four integers in one word, the first lowest.
__device__ __forceinline__ uint32_t pack(int a, int b, int c, int d) {
    const uint32_t low = __byte_perm(uint32_t(a), uint32_t(b), 0x0040);
    const uint32_t high = __byte_perm(uint32_t(c), uint32_t(d), 0x0040);
    return __byte_perm(low, high, 0x5410);
}

// N quantised elements to `address`, in one access where it is aligned.
template <unsigned N>
__device__ __forceinline__ void store_bytes(int8_t* address, const int (&q)[N]) {
    static_assert(N == 4 || N == 8, "one chunk");
    if (reinterpret_cast<uintptr_t>(address) % N == 0) {
        if constexpr (N == 4) {
            *reinterpret_cast<uint32_t*>(address) = pack(q[0], q[1], q[2], q[3]);
        } else {
            *reinterpret_cast<uint2*>(address) =
                make_uint2(pack(q[0], q[1], q[2], q[3]), pack(q[4], q[5], q[6], q[7]));
        }
    } else {
#pragma unroll
        for (unsigned i = 0; i < N; ++i) {
            address[i] = int8_t(q[i]);
        }
    }
}

// Quantises a chunk whose first element has the linear index `index`.
template <typename T, typename Rule>
__device__ __forceinline__ void quantize_chunk(const uint4& raw, float multiplier, int zero_point, uint64_t seed,
                                               uint64_t index, int (&q)[LANES<T>]) {
    float x[LANES<T>], u[LANES<T>] = {};
    widen<T>(raw, x);
    if constexpr (Rule::STOCHASTIC) {
        uniforms(seed, index, u);
    }
#pragma unroll
    for (unsigned i = 0; i < LANES<T>; ++i) {
        q[i] = Rule::quantize(x[i], multiplier, zero_point, u[i]);
    }
}

// The same for one element.
template <typename Rule>
__device__ __forceinline__ int8_t quantize_one(float x, float multiplier, int zero_point, uint64_t seed,
                                               uint64_t index) {
    float u = 0.0f;
    if constexpr (Rule::STOCHASTIC) {
        u = uniform(seed, index);
    }
    return int8_t(Rule::quantize(x, multiplier, zero_point, u));
}

}  // namespace imma
