// The activations of src/activation.rs: the same polynomials, the same fused steps, the same bits.
#pragma once

#include <cstdint>

#include "params.h"

namespace imma {

// Comparisons in this form keep NaN.
__device__ __forceinline__ float relu(float x) { return x < 0.0f ? 0.0f : x; }

// e^x
__device__ __forceinline__ float exponential(float x) {
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    // x = n ln 2 + f with |f| <= ln 2 / 2; adding 1.5 * 2^23 rounds to the integer n.
    constexpr float MAGIC = 12582912.0f;
    const float shifted = __fmaf_rn(x, 1.44269504088896341f, MAGIC);
    const float n = __fsub_rn(shifted, MAGIC);
    float f = __fmaf_rn(n, -6.93145752e-1f, x);
    f = __fmaf_rn(n, -1.42860677e-6f, f);
    float p = 1.37805939e-3f;
    p = __fmaf_rn(p, f, 8.37312452e-3f);
    p = __fmaf_rn(p, f, 4.16695364e-2f);
    p = __fmaf_rn(p, f, 1.66664720e-1f);
    p = __fmaf_rn(p, f, 4.99999851e-1f);
    p = __fmaf_rn(p, f, 1.0f);
    p = __fmaf_rn(p, f, 1.0f);
    // 2^n in two factors, each a normal number.
    const int i = int(__float_as_uint(shifted) - __float_as_uint(MAGIC));
    const int half = i >> 1;
    const float low = __uint_as_float(uint32_t(half + 127) << 23);
    const float high = __uint_as_float(uint32_t(i - half + 127) << 23);
    return __fmul_rn(__fmul_rn(p, low), high);
}

__device__ __forceinline__ float error_function(float x) {
    const float t = fabsf(x);
    const float s = __fmul_rn(x, x);
    float far = __fmaf_rn(-1.72853470e-5f, t, 3.83197126e-4f);
    const float u = __fmaf_rn(-3.88396438e-3f, t, 2.42546219e-2f);
    far = __fmaf_rn(far, s, u);
    far = __fmaf_rn(far, t, -1.06777877e-1f);
    far = __fmaf_rn(far, t, -6.34846687e-1f);
    far = __fmaf_rn(far, t, -1.28717512e-1f);
    far = __fmaf_rn(far, t, -t);
    far = t > 4.0f ? 1.0f : __fsub_rn(1.0f, exponential(far));
    far = copysignf(far, x);
    float near = -5.96761703e-4f;
    near = __fmaf_rn(near, s, 4.99119423e-3f);
    near = __fmaf_rn(near, s, -2.67681349e-2f);
    near = __fmaf_rn(near, s, 1.12819925e-1f);
    near = __fmaf_rn(near, s, -3.76125336e-1f);
    near = __fmaf_rn(near, s, 1.28379166e-1f);
    near = __fmaf_rn(near, x, x);
    return t > 0.927734375f ? far : near;
}

__device__ __forceinline__ float silu(float x) { return __fdiv_rn(x, __fadd_rn(1.0f, exponential(-x))); }

__device__ __forceinline__ float gelu(float x) {
    const float erf = error_function(__fmul_rn(x, 0.707106781186547524f));
    return __fmul_rn(__fmul_rn(0.5f, x), __fadd_rn(1.0f, erf));
}

__device__ __forceinline__ float gelu_tanh(float x) {
    const float cube = __fmul_rn(__fmul_rn(x, x), x);
    const float u = __fmaf_rn(0.044715f, cube, x);
    return __fdiv_rn(x, __fadd_rn(1.0f, exponential(__fmul_rn(-1.5957691f, u))));
}

// The same for every thread of a launch, so the branch costs nothing.
__device__ __forceinline__ float activate(unsigned which, float x) {
    switch (which) {
        case IMMA_ACTIVATION_RELU: return relu(x);
        case IMMA_ACTIVATION_SILU: return silu(x);
        case IMMA_ACTIVATION_GELU: return gelu(x);
        case IMMA_ACTIVATION_GELU_TANH: return gelu_tanh(x);
        default: return x;
    }
}

}  // namespace imma
