// Inline PTX lives here and nowhere else: one function an instruction, named after it.
#pragma once

#include <cstdint>

namespace imma::ptx {

// cvt.f32.f16: exact; a NaN stays one.
__device__ __forceinline__ float cvt_f32_f16(uint16_t x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}

// cvt.rn.f16.f32: one rounding, to nearest even.
__device__ __forceinline__ uint16_t cvt_rn_f16_f32(float x) {
    uint16_t y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

// cvt.rn.bf16.f32: one rounding, to nearest even.
__device__ __forceinline__ uint16_t cvt_rn_bf16_f32(float x) {
    uint16_t y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

// No instruction: hides where a value came from, so that what was computed from it before is computed again from
// the vector rather than kept in more registers.
__device__ __forceinline__ void opaque(uint4& v) { asm("" : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)); }

}  // namespace imma::ptx
