// What happens to int32 sums on their way out, four columns of a row at a time: the steps of src/epilogue.rs, for
// every kernel that has sums.
//
// Which parts there are is the same for all threads of a launch: plain branches, taken together, after the main loop.
#pragma once

#include "activation.cuh"
#include "numerics.cuh"
#include "vector.cuh"

namespace imma {

// Columns that a thread finishes together.
constexpr unsigned GROUP = 4;

// 8 bytes of a 16-bit type.
template <typename T>
__device__ __forceinline__ void widen_half(const uint2& v, float (&x)[GROUP]) {
    x[0] = widen(T{uint16_t(v.x & 0xffff)});
    x[1] = widen(T{uint16_t(v.x >> 16)});
    x[2] = widen(T{uint16_t(v.y & 0xffff)});
    x[3] = widen(T{uint16_t(v.y >> 16)});
}

// Elements `at .. at + count` of a vector of type T, or whole groups in one access.
template <typename T>
__device__ __forceinline__ void load_group(const void* base, uint64_t at, unsigned count, bool vector,
                                           float (&x)[GROUP]) {
    const T* p = static_cast<const T*>(base) + at;
    if (vector && count == GROUP) {
        if constexpr (sizeof(T) == 4) {
            widen<T>(load_vector(p), x);
        } else {
            widen_half<T>(*reinterpret_cast<const uint2*>(p), x);
        }
    } else {
#pragma unroll
        for (unsigned i = 0; i < GROUP; ++i) {
            x[i] = i < count ? widen(p[i]) : 0.0f;
        }
    }
}

__device__ __forceinline__ void load_typed(unsigned type, const void* base, uint64_t at, unsigned count, bool vector,
                                           float (&x)[GROUP]) {
    switch (type) {
        case IMMA_TYPE_F16: return load_group<F16>(base, at, count, vector, x);
        case IMMA_TYPE_BF16: return load_group<BF16>(base, at, count, vector, x);
        default: return load_group<F32>(base, at, count, vector, x);
    }
}

template <typename T>
__device__ __forceinline__ void store_group(void* base, uint64_t at, unsigned count, bool vector,
                                            const float (&x)[GROUP]) {
    T* p = static_cast<T*>(base) + at;
    if (vector && count == GROUP) {
        if constexpr (sizeof(T) == 4) {
            *reinterpret_cast<uint4*>(p) = narrow<T>(x);
        } else {
            const uint32_t low = narrow<T>(x[0]).bits | uint32_t(narrow<T>(x[1]).bits) << 16;
            const uint32_t high = narrow<T>(x[2]).bits | uint32_t(narrow<T>(x[3]).bits) << 16;
            *reinterpret_cast<uint2*>(p) = make_uint2(low, high);
        }
    } else {
#pragma unroll
        for (unsigned i = 0; i < GROUP; ++i) {
            if (i < count) {
                p[i] = narrow<T>(x[i]);
            }
        }
    }
}

// One or two elements, in one access where two are aligned: columns of a gated output, or a thread's of a wgmma.
template <typename T>
__device__ __forceinline__ void load_pair(const void* base, uint64_t at, unsigned count, bool vector, float* x) {
    const T* p = static_cast<const T*>(base) + at;
    if (vector && count == 2) {
        if constexpr (sizeof(T) == 4) {
            const float2 v = *reinterpret_cast<const float2*>(p);
            x[0] = v.x;
            x[1] = v.y;
        } else {
            const uint32_t v = *reinterpret_cast<const uint32_t*>(p);
            x[0] = widen(T{uint16_t(v & 0xffff)});
            x[1] = widen(T{uint16_t(v >> 16)});
        }
    } else {
        x[0] = widen(p[0]);
        x[1] = count == 2 ? widen(p[1]) : 0.0f;
    }
}

template <typename T>
__device__ __forceinline__ void store_pair(void* base, uint64_t at, unsigned count, bool vector,
                                           const float (&x)[GROUP]) {
    T* p = static_cast<T*>(base) + at;
    if (vector && count == 2) {
        if constexpr (sizeof(T) == 4) {
            *reinterpret_cast<float2*>(p) = make_float2(x[0], x[1]);
        } else {
            *reinterpret_cast<uint32_t*>(p) = narrow<T>(x[0]).bits | uint32_t(narrow<T>(x[1]).bits) << 16;
        }
    } else {
        p[0] = narrow<T>(x[0]);
        if (count == 2) {
            p[1] = narrow<T>(x[1]);
        }
    }
}

// Where a group goes in the output: its column there, and how many. A gated group has half of each.
struct Place {
    unsigned col, count;
};
__device__ __forceinline__ Place place(const EpilogueParams& p, unsigned col, unsigned count) {
    return p.gated ? Place{col / 2, count / 2} : Place{col, count};
}

// Takes the zero point's share off sums of columns `col .. col + count`.
__device__ __forceinline__ void correct(const EpilogueParams& p, unsigned batch, unsigned row, unsigned col,
                                        unsigned count, int (&sum)[GROUP]) {
    if (p.row_zeros) {
        const uint32_t zero = p.row_zeros[batch * p.row_batch + row * p.zero_step];
        const int* sums = p.col_sums + batch * p.col_batch + col;
#pragma unroll
        for (unsigned i = 0; i < GROUP; ++i) {
            // Unsigned: wraps as the CPU's does.
            sum[i] = int(uint32_t(sum[i]) - zero * uint32_t(i < count ? sums[i] : 0));
        }
    }
}

// What follows scales and bias: the gate or activation, and the residual. The values are then those of place().
__device__ __forceinline__ void after_scaling(const EpilogueParams& p, unsigned batch, unsigned row, unsigned col,
                                              unsigned count, float (&x)[GROUP]) {
    if (p.gated) {
        // Both gates before both ups.
        const float up = x[1];
        x[1] = x[2];
        x[2] = up;
    }
    if (p.activation != IMMA_ACTIVATION_NONE) {
        const unsigned activated = p.gated ? GROUP / 2 : GROUP;
        // Not unrolled: the polynomials once in the code, not four times.
#pragma unroll 1
        for (unsigned i = 0; i < activated; ++i) {
            const float y = activate(p.activation, i == 0 ? x[0] : i == 1 ? x[1] : i == 2 ? x[2] : x[3]);
            x[0] = i == 0 ? y : x[0];
            x[1] = i == 1 ? y : x[1];
            x[2] = i == 2 ? y : x[2];
            x[3] = i == 3 ? y : x[3];
        }
    }
    if (p.gated) {
        x[0] = __fmul_rn(x[0], x[2]);
        x[1] = __fmul_rn(x[1], x[3]);
    }
    if (p.residual_type) {
        float residual[GROUP] = {0.0f, 0.0f, 0.0f, 0.0f};
        const Place to = place(p, col, count);
        const uint64_t from = batch * p.residual_batch + row * p.residual_stride + to.col;
        const bool vector = p.vectors & IMMA_VECTOR_RESIDUAL;
        if (p.gated) {
            switch (p.residual_type) {
                case IMMA_TYPE_F16: load_pair<F16>(p.residual, from, to.count, vector, residual); break;
                case IMMA_TYPE_BF16: load_pair<BF16>(p.residual, from, to.count, vector, residual); break;
                default: load_pair<F32>(p.residual, from, to.count, vector, residual); break;
            }
        } else {
            load_typed(p.residual_type, p.residual, from, to.count, vector, residual);
        }
#pragma unroll
        for (unsigned i = 0; i < GROUP; ++i) {
            x[i] = __fadd_rn(x[i], residual[i]);
        }
    }
}

// The f32 values that corrected sums of columns `col .. col + count` become, residual included: those of place().
__device__ __forceinline__ void values(const EpilogueParams& p, unsigned batch, unsigned row, unsigned col,
                                       unsigned count, const int (&sum)[GROUP], float (&x)[GROUP]) {
    const unsigned col_at = batch * p.col_batch + col;
    float scale[GROUP] = {1.0f, 1.0f, 1.0f, 1.0f};
    const float row_scale = p.row_scales ? p.row_scales[batch * p.row_batch + row * p.row_step] : 1.0f;
    if (p.col_scales) {
        if (p.col_step) {
            load_group<F32>(p.col_scales, col_at, count, p.vectors & IMMA_VECTOR_COL_SCALES, scale);
        } else {
            scale[0] = scale[1] = scale[2] = scale[3] = p.col_scales[batch * p.col_batch];
        }
    }
#pragma unroll
    for (unsigned i = 0; i < GROUP; ++i) {
        x[i] = __fmul_rn(__int2float_rn(sum[i]), row_scale);
    }
    if (p.bias_type) {
        float bias[GROUP];
        load_typed(p.bias_type, p.bias, col_at, count, p.vectors & IMMA_VECTOR_BIAS, bias);
#pragma unroll
        for (unsigned i = 0; i < GROUP; ++i) {
            x[i] = __fmaf_rn(x[i], scale[i], bias[i]);
        }
    } else {
#pragma unroll
        for (unsigned i = 0; i < GROUP; ++i) {
            x[i] = __fmul_rn(x[i], scale[i]);
        }
    }
    after_scaling(p, batch, row, col, count, x);
}

// Quantises values with a multiplier and stores them from element `at` of an int8 output on.
__device__ __forceinline__ void store_quantized(const EpilogueParams& p, uint64_t at, unsigned count, float multiplier,
                                                const float (&x)[GROUP]) {
    int q[GROUP];
#pragma unroll
    for (unsigned i = 0; i < GROUP; ++i) {
        q[i] = NearestEven::quantize(x[i], multiplier, 0, 0.0f);
    }
    int8_t* out = static_cast<int8_t*>(p.output) + at;
    if (count == GROUP) {
        store_bytes(out, q);
    } else {
#pragma unroll
        for (unsigned i = 0; i < GROUP; ++i) {
            if (i < count) {
                out[i] = int8_t(q[i]);
            }
        }
    }
}

// Stores finished values as the output's type, from its element `at` on.
__device__ __forceinline__ void store(const EpilogueParams& p, uint64_t at, unsigned count, const float (&x)[GROUP]) {
    const bool vector = p.vectors & IMMA_VECTOR_OUTPUT;
    if (p.gated) {
        switch (p.output_type) {
            case IMMA_TYPE_F32: return store_pair<F32>(p.output, at, count, vector, x);
            case IMMA_TYPE_F16: return store_pair<F16>(p.output, at, count, vector, x);
            case IMMA_TYPE_BF16: return store_pair<BF16>(p.output, at, count, vector, x);
            default: break;
        }
    } else {
        switch (p.output_type) {
            case IMMA_TYPE_F32: return store_group<F32>(p.output, at, count, vector, x);
            case IMMA_TYPE_F16: return store_group<F16>(p.output, at, count, vector, x);
            case IMMA_TYPE_BF16: return store_group<BF16>(p.output, at, count, vector, x);
            default: break;
        }
    }
    store_quantized(p, at, count, p.out_multiplier, x);
}

// Finishes columns `col .. col + count` (col a multiple of four, count 1 to 4, even when gated) of a row of product
// `batch`.
__device__ __forceinline__ void finish(const EpilogueParams& p, unsigned batch, unsigned row, unsigned col,
                                       unsigned count, int (&sum)[GROUP]) {
    correct(p, batch, row, col, count, sum);
    const Place to = place(p, col, count);
    const uint64_t at = batch * p.output_batch + row * p.output_stride + to.col;
    const bool vector = p.vectors & IMMA_VECTOR_OUTPUT;
    if (p.output_type == IMMA_TYPE_I32) {
        int* out = static_cast<int*>(p.output) + at;
        if (vector && count == GROUP) {
            *reinterpret_cast<int4*>(out) = make_int4(sum[0], sum[1], sum[2], sum[3]);
        } else {
#pragma unroll
            for (unsigned i = 0; i < GROUP; ++i) {
                if (i < count) {
                    out[i] = sum[i];
                }
            }
        }
        return;
    }
    float x[GROUP];
    values(p, batch, row, col, count, sum, x);
    store(p, at, to.count, x);
}

}  // namespace imma
