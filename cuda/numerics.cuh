// The rounding rules, as src/numerics.rs and src/rounding.rs have them: the same bits.
//
// Every step is spelled (__fmul_rn, __fdiv_rn, ...), so that nothing is left to the compiler to contract.
#pragma once

#include <cstdint>

namespace imma {

// ---- One slice (a row, a column): what is gathered from its elements --------------------------------

// The maximum of the sign-cleared bit patterns: NaN lies above infinity, so neither is lost.
struct AbsMax {
    static constexpr unsigned WORDS = 1;
    uint32_t word[WORDS] = {0};
    __device__ __forceinline__ void add(float x) { word[0] = max(word[0], __float_as_uint(x) & 0x7fffffffu); }
    __device__ __forceinline__ uint32_t absmax() const { return word[0]; }
};

// The largest value and the largest negated value, both from 0 up, as bit patterns: read as signed integers,
// floats of the right sign are in order and the others are below zero.
struct MinMax {
    static constexpr unsigned WORDS = 2;
    uint32_t word[WORDS] = {0, 0};
    __device__ __forceinline__ void add(float x) {
        const int bits = __float_as_int(x);
        word[0] = max(int(word[0]), bits);
        word[1] = max(int(word[1]), bits ^ int(0x80000000u));
    }
    __device__ __forceinline__ float hi() const { return __uint_as_float(word[0]); }
    __device__ __forceinline__ float lo() const { return -__uint_as_float(word[1]); }
};

constexpr uint32_t INFINITY_BITS = 0x7f800000u;

// ---- What becomes of an element -----------------------------------------------------------------------

// __float2int_rn saturates and turns NaN into 0, which is what the rules ask for.
__device__ __forceinline__ int clip(int q, int lo, int hi) { return min(max(q, lo), hi); }

// clip(round_half_even(x * multiplier), -127, 127)
struct NearestEven {
    using Gathered = AbsMax;
    static constexpr bool STOCHASTIC = false;
    static constexpr bool ZERO_POINT = false;
    __device__ __forceinline__ static int quantize(float x, float multiplier, int, float) {
        return clip(__float2int_rn(__fmul_rn(x, multiplier)), -127, 127);
    }
};

// clip(floor(x * multiplier + u), -127, 127), u in [0, 1) from philox.cuh
struct Stochastic {
    using Gathered = AbsMax;
    static constexpr bool STOCHASTIC = true;
    static constexpr bool ZERO_POINT = false;
    __device__ __forceinline__ static int quantize(float x, float multiplier, int, float u) {
        return clip(__float2int_rd(__fadd_rn(__fmul_rn(x, multiplier), u)), -127, 127);
    }
};

// clip(round_half_even(x * multiplier) + zero_point, -128, 127), NaN -> 0
struct Asymmetric {
    using Gathered = MinMax;
    static constexpr bool STOCHASTIC = false;
    static constexpr bool ZERO_POINT = true;
    __device__ __forceinline__ static int quantize(float x, float multiplier, int zero_point, float) {
        // A NaN comes only from a slice that is not finite, whose zero point is 0. Clipping before the sum
        // keeps it from overflowing and changes nothing: zero points are in -128..=127.
        return clip(clip(__float2int_rn(__fmul_rn(x, multiplier)), -1024, 1024) + zero_point, -128, 127);
    }
};

// The same with constants known beforehand: a slice is looked at for what is not finite alone.
struct Given : NearestEven {};
struct GivenAsymmetric : Asymmetric {
    using Gathered = AbsMax;
};

// ---- The constants of a slice ---------------------------------------------------------------------------

struct Constants {
    float scale;
    float multiplier;
    int zero_point;
};

// bound = absmax, or 1 where 127 / absmax overflows; scale = bound / 127, multiplier = 127 / bound
__device__ __forceinline__ Constants constants(const AbsMax& gathered) {
    const float absmax = __uint_as_float(gathered.absmax());
    const bool tiny = __float_as_uint(__fdiv_rn(127.0f, absmax)) == INFINITY_BITS;
    const float bound = tiny ? 1.0f : absmax;
    return {__fdiv_rn(bound, 127.0f), __fdiv_rn(127.0f, bound), 0};
}

// A scale known beforehand, or NaN for a slice that is not finite.
__device__ __forceinline__ float given_scale(const AbsMax& gathered, float scale) {
    return gathered.absmax() < INFINITY_BITS ? scale : __uint_as_float(0x7fc00000u);
}

// range = hi - lo, or 255 where 255 / range overflows; NaN in scale and multiplier where range is not finite
__device__ __forceinline__ Constants constants(const MinMax& gathered) {
    const float lo = gathered.lo();
    float range = __fsub_rn(gathered.hi(), lo);
    // A NaN or an infinity among the elements is in one of the ends, so it shows here too.
    if (__float_as_uint(range) >= INFINITY_BITS) {
        const float nan = __uint_as_float(0x7fc00000u);
        return {nan, nan, 0};
    }
    if (__float_as_uint(__fdiv_rn(255.0f, range)) == INFINITY_BITS) {
        range = 255.0f;
    }
    const float multiplier = __fdiv_rn(255.0f, range);
    const int zero_point = __float2int_rn(__fsub_rn(-128.0f, __fmul_rn(lo, multiplier)));
    return {__fdiv_rn(range, 255.0f), multiplier, clip(zero_point, -128, 127)};
}

// What RMSNorm multiplies a row by, from the sum of its squares; NaN where that is not finite.
__device__ __forceinline__ float inverse_rms(float sum_of_squares, uint32_t length, float epsilon) {
    // The sum is never negative, so its bits are in order.
    if (__float_as_uint(sum_of_squares) >= INFINITY_BITS) {
        return __uint_as_float(0x7fc00000u);
    }
    const float mean = __fdiv_rn(sum_of_squares, __uint2float_rn(length));
    return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, epsilon)));
}

// ---- What becomes of a sum ----------------------------------------------------------------------------

// The bias of a product that has none: x + -0 is x to the bit, zeros' signs included.
constexpr float NO_BIAS = -0.0f;

// A product's exact sum, dequantised: times the row's scale, then times the column's plus the bias in one rounding.
__device__ __forceinline__ float scaled(int sum, float row, float col, float bias) {
    return __fmaf_rn(__fmul_rn(__int2float_rn(sum), row), col, bias);
}

// Scales that change along K: the exact sum of a scale group joins those before it, in one rounding, ...
__device__ __forceinline__ float add_scaled(float total, int sum, float col) {
    return __fmaf_rn(__int2float_rn(sum), col, total);
}
// ... and the total of all is dequantised: times the row's scale plus the bias in one rounding.
__device__ __forceinline__ float scaled_total(float total, float row, float bias) { return __fmaf_rn(total, row, bias); }

}  // namespace imma
