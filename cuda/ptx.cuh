// Inline PTX lives here, in ptx_sm90.cuh and in wgmma.cuh, nowhere else: one function an instruction, named after it.
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

// griddepcontrol.launch_dependents: a kernel that waits for this one's end itself may start; nothing before 9.0.
__device__ __forceinline__ void griddepcontrol_launch_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// The address of shared memory as the instructions below take it.
__device__ __forceinline__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// cp.async: BYTES to shared memory, past the registers; the first `valid` from global memory, zeros after them.
// `.cg` leaves L1 alone and exists for 16 bytes only.
template <unsigned BYTES>
__device__ __forceinline__ void cp_async(uint32_t to, const void* from, unsigned valid) {
    if constexpr (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(to), "l"(from), "r"(valid), "n"(BYTES)
                     : "memory");
    }
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of this thread's groups are in flight.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// st.shared: one word.
__device__ __forceinline__ void st_shared(uint32_t to, uint32_t word) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(word) : "memory");
}

// ldmatrix: four 8x8 matrices of 16 bits (8 rows of 16 bytes each); lane l gives the row l % 8 of matrix l / 8.
__device__ __forceinline__ void ldmatrix_x4(uint32_t address, uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
                 : "r"(address)
                 : "memory");
}

// mma: c [16, 8] += a [16, 32] * b [32, 8] in int8, exact modulo 2^32.
__device__ __forceinline__ void mma_s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// No instruction: hides where a value came from, so that what was computed from it before is computed again from
// the vector rather than kept in more registers.
__device__ __forceinline__ void opaque(uint4& v) { asm("" : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)); }

}  // namespace imma::ptx
