// The element types: how a 16-byte vector of each becomes floats and back.
#pragma once

#include <cstdint>

#include "params.h"
#include "ptx.cuh"

namespace imma {

// binary16 and bfloat16 as bits; f32 is `float` itself.
using F32 = float;
struct F16 {
    uint16_t bits;
};
struct BF16 {
    uint16_t bits;
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(F16 x) { return ptx::cvt_f32_f16(x.bits); }
__device__ __forceinline__ float widen(BF16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }

template <typename T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ F16 narrow<F16>(float x) {
    return F16{ptx::cvt_rn_f16_f32(x)};
}
template <>
__device__ __forceinline__ BF16 narrow<BF16>(float x) {
    return BF16{ptx::cvt_rn_bf16_f32(x)};
}

// Elements of T in one vector access: 4 of f32, 8 of f16 and bf16.
template <typename T>
constexpr unsigned LANES = IMMA_VECTOR_BYTES / sizeof(T);

template <typename T>
__device__ __forceinline__ void widen(const uint4& v, float (&x)[LANES<T>]) {
    const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
        if constexpr (sizeof(T) == 4) {
            x[i] = __uint_as_float(word[i]);
        } else {
            x[2 * i] = widen(T{uint16_t(word[i] & 0xffff)});
            x[2 * i + 1] = widen(T{uint16_t(word[i] >> 16)});
        }
    }
}

template <typename T>
__device__ __forceinline__ uint4 narrow(const float (&x)[LANES<T>]) {
    uint32_t word[4];
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
        if constexpr (sizeof(T) == 4) {
            word[i] = __float_as_uint(x[i]);
        } else {
            word[i] = narrow<T>(x[2 * i]).bits | uint32_t(narrow<T>(x[2 * i + 1]).bits) << 16;
        }
    }
    return make_uint4(word[0], word[1], word[2], word[3]);
}

}  // namespace imma
