// Integers back to floats: (float(q - zero_point) * row_scale) * col_scale, each step rounded, then one rounding to
// the output's type.
//
// The grid is quantize_static's. Chunks follow the 16-byte boundaries of the output, which is most of the traffic.
#include "vector.cuh"

namespace imma {

// V integers from `address` on, in vector accesses where it is aligned.
template <unsigned V>
__device__ __forceinline__ void load_integers(const int8_t* address, int (&q)[V]) {
    if (reinterpret_cast<uintptr_t>(address) % V == 0) {
        uint32_t word[V / 4];
        if constexpr (V == 4) {
            word[0] = *reinterpret_cast<const uint32_t*>(address);
        } else {
            const uint2 words = *reinterpret_cast<const uint2*>(address);
            word[0] = words.x;
            word[1] = words.y;
        }
#pragma unroll
        for (unsigned i = 0; i < V; ++i) {
            q[i] = int8_t(word[i / 4] >> (8 * (i % 4)));
        }
    } else {
#pragma unroll
        for (unsigned i = 0; i < V; ++i) {
            q[i] = address[i];
        }
    }
}
template <unsigned V>
__device__ __forceinline__ void load_integers(const int32_t* address, int (&q)[V]) {
    if (reinterpret_cast<uintptr_t>(address) % IMMA_VECTOR_BYTES == 0) {
#pragma unroll
        for (unsigned i = 0; i < V; i += 4) {
            const int4 word = *reinterpret_cast<const int4*>(address + i);
            q[i] = word.x;
            q[i + 1] = word.y;
            q[i + 2] = word.z;
            q[i + 3] = word.w;
        }
    } else {
#pragma unroll
        for (unsigned i = 0; i < V; ++i) {
            q[i] = address[i];
        }
    }
}

template <typename Q, typename T>
__device__ __forceinline__ void dequantize(const DequantizeParams& p) {
    constexpr unsigned V = LANES<T>, THREADS = IMMA_FLAT_THREADS, VECTORS = IMMA_FLAT_VECTORS;
    static_assert(2 * V <= THREADS, "a block covers both edges");
    static_assert(V == 4 || V == 8, "one or two words of int8");
    const unsigned t = threadIdx.x;
    for (uint64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
        const Q* input = static_cast<const Q*>(p.input) + row * p.input_stride;
        T* output = static_cast<T*>(p.output) + row * p.output_stride;
        const Split<T, uint64_t> split(output, p.cols);
        const float row_scale = p.row_scales ? p.row_scales[row * p.row_step] : 1.0f;
        const int* zero_points = p.zero_points ? p.zero_points + row * p.zero_row_step : nullptr;
        // Times 1 changes nothing, so an absent scale needs no case of its own.
        const auto value = [&](int q, uint64_t col) {
            // Unsigned, so that a zero point given with int32 sums wraps as the CPU's does.
            const uint32_t zero = zero_points ? zero_points[col * p.zero_col_step] : 0;
            return scaled(int(uint32_t(q) - zero), row_scale, p.col_scales ? p.col_scales[col] : 1.0f, NO_BIAS);
        };
        const uint64_t first = uint64_t(blockIdx.x) * (THREADS * VECTORS) + t;
#pragma unroll
        for (unsigned i = 0; i < VECTORS; ++i) {
            const uint64_t chunk = first + i * THREADS;
            if (chunk < split.chunks) {
                const uint64_t col = split.at(chunk);
                int q[V];
                float x[V];
                load_integers<V>(input + col, q);
#pragma unroll
                for (unsigned j = 0; j < V; ++j) {
                    x[j] = value(q[j], col + j);
                }
                *reinterpret_cast<uint4*>(output + col) = narrow<T>(x);
            }
        }
        const uint64_t edge = split.edge(t);
        if (blockIdx.x == 0 && edge != split.NONE) {
            output[edge] = narrow<T>(value(input[edge], edge));
        }
    }
}

}  // namespace imma

#define ENTRY(name, Q, T)                                                                             \
    extern "C" __global__ void __launch_bounds__(IMMA_FLAT_THREADS) name(const DequantizeParams p) { \
        imma::dequantize<Q, imma::T>(p);                                                               \
    }
ENTRY(dequantize_i8_f32, int8_t, F32)
ENTRY(dequantize_i8_f16, int8_t, F16)
ENTRY(dequantize_i8_bf16, int8_t, BF16)
ENTRY(dequantize_i32_f32, int32_t, F32)
ENTRY(dequantize_i32_f16, int32_t, F16)
ENTRY(dequantize_i32_bf16, int32_t, BF16)
