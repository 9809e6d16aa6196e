// What happens to int32 sums on their way out, four columns of a row at a time: the steps of src/epilogue.rs, for
// every kernel that has sums.
//
// Which parts there are is the same for all threads of a launch: plain branches, taken together, after the main loop.
#pragma once

#include "activation.cuh"
#include "numerics.cuh"
#include "vector.cuh"

namespace imma {

// Columns that a thread finishes together: a quad.
constexpr unsigned QUAD = 4;

// 8 bytes of a 16-bit type.
template <typename T>
__device__ __forceinline__ void widen_half(const uint2& v, float (&x)[QUAD]) {
    x[0] = widen(T{uint16_t(v.x & 0xffff)});
    x[1] = widen(T{uint16_t(v.x >> 16)});
    x[2] = widen(T{uint16_t(v.y & 0xffff)});
    x[3] = widen(T{uint16_t(v.y >> 16)});
}

// Elements `at .. at + count` of a vector of type T, or a whole quad in one access.
template <typename T>
__device__ __forceinline__ void load_quad(const void* base, uint64_t at, unsigned count, bool vector,
                                           float (&x)[QUAD]) {
    const T* p = static_cast<const T*>(base) + at;
    if (vector && count == QUAD) {
        if constexpr (sizeof(T) == 4) {
            widen<T>(load_vector(p), x);
        } else {
            widen_half<T>(*reinterpret_cast<const uint2*>(p), x);
        }
    } else {
#pragma unroll
        for (unsigned i = 0; i < QUAD; ++i) {
            x[i] = i < count ? widen(p[i]) : 0.0f;
        }
    }
}

__device__ __forceinline__ void load_typed(unsigned type, const void* base, uint64_t at, unsigned count, bool vector,
                                           float (&x)[QUAD]) {
    switch (type) {
        case IMMA_TYPE_F16: return load_quad<F16>(base, at, count, vector, x);
        case IMMA_TYPE_BF16: return load_quad<BF16>(base, at, count, vector, x);
        default: return load_quad<F32>(base, at, count, vector, x);
    }
}

template <typename T>
__device__ __forceinline__ void store_quad(void* base, uint64_t at, unsigned count, bool vector,
                                            const float (&x)[QUAD]) {
    T* p = static_cast<T*>(base) + at;
    if (vector && count == QUAD) {
        if constexpr (sizeof(T) == 4) {
            *reinterpret_cast<uint4*>(p) = narrow<T>(x);
        } else {
            const uint32_t low = narrow<T>(x[0]).bits | uint32_t(narrow<T>(x[1]).bits) << 16;
            const uint32_t high = narrow<T>(x[2]).bits | uint32_t(narrow<T>(x[3]).bits) << 16;
            *reinterpret_cast<uint2*>(p) = make_uint2(low, high);
        }
    } else {
#pragma unroll
        for (unsigned i = 0; i < QUAD; ++i) {
            if (i < count) {
                p[i] = narrow<T>(x[i]);
            }
        }
    }
}

// Two aligned elements in one access.
template <typename T>
struct Pair {
    uint32_t bits;
    __device__ __forceinline__ void widen_to(float* x) const {
        x[0] = widen(T{uint16_t(bits & 0xffff)});
        x[1] = widen(T{uint16_t(bits >> 16)});
    }
};
template <>
struct Pair<F32> {
    float2 v;
    __device__ __forceinline__ void widen_to(float* x) const {
        x[0] = v.x;
        x[1] = v.y;
    }
};

// One or two elements, in one access where two are aligned: columns of a gated output, or a thread's of a wgmma.
template <typename T>
__device__ __forceinline__ void load_pair(const void* base, uint64_t at, unsigned count, bool vector, float* x) {
    const T* p = static_cast<const T*>(base) + at;
    if (vector && count == 2) {
        reinterpret_cast<const Pair<T>*>(p)->widen_to(x);
    } else {
        x[0] = widen(p[0]);
        x[1] = count == 2 ? widen(p[1]) : 0.0f;
    }
}

template <typename T>
__device__ __forceinline__ void store_pair(void* base, uint64_t at, unsigned count, bool vector,
                                           const float (&x)[QUAD]) {
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

// Where a quad goes in the output: its column there, and how many. A gated quad has half of each.
struct Place {
    unsigned col, count;
};
__device__ __forceinline__ Place place(const EpilogueParams& p, unsigned col, unsigned count) {
    return p.gated ? Place{col / 2, count / 2} : Place{col, count};
}

// Takes the zero point's share off sums of columns `col .. col + count`.
__device__ __forceinline__ void correct(const EpilogueParams& p, unsigned batch, unsigned row, unsigned col,
                                        unsigned count, int (&sum)[QUAD]) {
    if (p.col_sums) {
        const uint32_t zero = p.row_zeros ? p.row_zeros[batch * p.row_batch + row * p.zero_step] : p.row_zero;
        const int* sums = p.col_sums + batch * p.col_batch + col;
#pragma unroll
        for (unsigned i = 0; i < QUAD; ++i) {
            // Unsigned: wraps as the CPU's does.
            sum[i] = int(uint32_t(sum[i]) - zero * uint32_t(i < count ? sums[i] : 0));
        }
    }
}

// What follows scales and bias: the gate or activation, and the residual. The values are then those of place().
__device__ __forceinline__ void after_scaling(const EpilogueParams& p, unsigned batch, unsigned row, unsigned col,
                                              unsigned count, float (&x)[QUAD]) {
    if (p.gated) {
        // Both gates before both ups.
        const float up = x[1];
        x[1] = x[2];
        x[2] = up;
    }
    if (p.activation != IMMA_ACTIVATION_NONE) {
        const unsigned activated = p.gated ? QUAD / 2 : QUAD;
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
        float residual[QUAD] = {0.0f, 0.0f, 0.0f, 0.0f};
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
        for (unsigned i = 0; i < QUAD; ++i) {
            x[i] = __fadd_rn(x[i], residual[i]);
        }
    }
}

// The scale of a row. Where rows have none the host gives 1, by which a product is exact.
__device__ __forceinline__ float row_scale_at(const EpilogueParams& p, unsigned batch, unsigned row) {
    return p.row_scales ? p.row_scales[batch * p.row_batch + row * p.row_step] : p.row_scale;
}

// The scales of columns `col .. col + count`.
__device__ __forceinline__ void col_scales_at(const EpilogueParams& p, unsigned batch, unsigned col, unsigned count,
                                              float (&scale)[QUAD]) {
    scale[0] = scale[1] = scale[2] = scale[3] = 1.0f;
    if (p.col_scales) {
        if (p.col_step) {
            load_quad<F32>(p.col_scales, batch * p.col_batch + col, count, p.vectors & IMMA_VECTOR_COL_SCALES, scale);
        } else {
            scale[0] = scale[1] = scale[2] = scale[3] = p.col_scales[batch * p.col_batch];
        }
    }
}

// The bias of columns `col .. col + count`.
__device__ __forceinline__ void bias_at(const EpilogueParams& p, unsigned batch, unsigned col, unsigned count,
                                        float (&bias)[QUAD]) {
    bias[0] = bias[1] = bias[2] = bias[3] = NO_BIAS;
    if (p.bias_type) {
        load_typed(p.bias_type, p.bias, batch * p.col_batch + col, count, p.vectors & IMMA_VECTOR_BIAS, bias);
    }
}

// The f32 values that corrected sums of columns `col .. col + count` become, residual included: those of place().
__device__ __forceinline__ void values(const EpilogueParams& p, unsigned batch, unsigned row, unsigned col,
                                       unsigned count, const int (&sum)[QUAD], float (&x)[QUAD]) {
    const float row_scale = row_scale_at(p, batch, row);
    float scale[QUAD];
    col_scales_at(p, batch, col, count, scale);
    if (p.bias_type) {
        float bias[QUAD];
        bias_at(p, batch, col, count, bias);
#pragma unroll
        for (unsigned i = 0; i < QUAD; ++i) {
            x[i] = scaled(sum[i], row_scale, scale[i], bias[i]);
        }
    } else {
#pragma unroll
        for (unsigned i = 0; i < QUAD; ++i) {
            x[i] = scaled(sum[i], row_scale, scale[i], NO_BIAS);
        }
    }
    after_scaling(p, batch, row, col, count, x);
}

// Quantises values with a multiplier and stores them from element `at` of an int8 output on.
__device__ __forceinline__ void store_quantized(const EpilogueParams& p, uint64_t at, unsigned count, float multiplier,
                                                const float (&x)[QUAD]) {
    int q[QUAD];
#pragma unroll
    for (unsigned i = 0; i < QUAD; ++i) {
        q[i] = NearestEven::quantize(x[i], multiplier, 0, 0.0f);
    }
    int8_t* out = static_cast<int8_t*>(p.output) + at;
    if (count == QUAD) {
        store_bytes(out, q);
    } else {
#pragma unroll
        for (unsigned i = 0; i < QUAD; ++i) {
            if (i < count) {
                out[i] = int8_t(q[i]);
            }
        }
    }
}

// Stores finished values as the output's type, from its element `at` on.
__device__ __forceinline__ void store(const EpilogueParams& p, uint64_t at, unsigned count, const float (&x)[QUAD]) {
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
            case IMMA_TYPE_F32: return store_quad<F32>(p.output, at, count, vector, x);
            case IMMA_TYPE_F16: return store_quad<F16>(p.output, at, count, vector, x);
            case IMMA_TYPE_BF16: return store_quad<BF16>(p.output, at, count, vector, x);
            default: break;
        }
    }
    store_quantized(p, at, count, p.out_multiplier, x);
}

// Finishes columns `col .. col + count` (col a multiple of four, count 1 to 4, even when gated) of a row of product
// `batch`.
__device__ __forceinline__ void finish(const EpilogueParams& p, unsigned batch, unsigned row, unsigned col,
                                       unsigned count, int (&sum)[QUAD]) {
    correct(p, batch, row, col, count, sum);
    const Place to = place(p, col, count);
    const uint64_t at = batch * p.output_batch + row * p.output_stride + to.col;
    const bool vector = p.vectors & IMMA_VECTOR_OUTPUT;
    if (p.output_type == IMMA_TYPE_I32) {
        int* out = static_cast<int*>(p.output) + at;
        if (vector && count == QUAD) {
            *reinterpret_cast<int4*>(out) = make_int4(sum[0], sum[1], sum[2], sum[3]);
        } else {
#pragma unroll
            for (unsigned i = 0; i < QUAD; ++i) {
                if (i < count) {
                    out[i] = sum[i];
                }
            }
        }
        return;
    }
    float x[QUAD];
    values(p, batch, row, col, count, sum, x);
    store(p, at, to.count, x);
}

}  // namespace imma
