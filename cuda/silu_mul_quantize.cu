// SiLU(gate) * up and per-token quantisation in one pass, with the bits of the two done one after the other.
//
//   block (T, R): T threads a row, R rows           row r = blockIdx.x * R + threadIdx.y
//
//   multiply   thread t takes chunks t, t + T, .. of both rows; the product, rounded to the inputs' type, stays in
//              registers (IMMA_ROWS_HELD chunks; the rest of a longer row is computed again)
//   reduce     the largest magnitude over the threads of the row
//   quantise   from registers; thread 0 of the row stores its scale
#include "activation.cuh"
#include "row_chunks.cuh"

namespace imma {

template <typename T>
__device__ __forceinline__ void silu_mul_quantize(const SiluMulQuantizeParams& p) {
    constexpr unsigned V = LANES<T>, HELD = IMMA_ROWS_HELD;
    static_assert(V * sizeof(T) == IMMA_VECTOR_BYTES, "whole vectors");

    const unsigned t = threadIdx.x, threads = blockDim.x;
    const uint64_t row = uint64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    // Threads past the last row stay for the barrier, with nothing to read.
    const bool live = row < p.rows;
    const uint32_t cols = live ? p.cols : 0, chunks = (cols + V - 1) / V;
    const T* gate = static_cast<const T*>(p.gate) + (live ? row * p.gate_stride : 0);
    const T* up = static_cast<const T*>(p.up) + (live ? row * p.up_stride : 0);

    const auto multiply = [&](const uint4& raw, const uint4& by) {
        float x[V], u[V];
        widen<T>(raw, x);
        widen<T>(by, u);
#pragma unroll
        for (unsigned j = 0; j < V; ++j) {
            x[j] = __fmul_rn(widen(narrow<T>(silu(x[j]))), u[j]);
        }
        return narrow<T>(x);
    };
    const auto product = [&](uint32_t chunk) {
        return multiply(load_chunk(gate, chunk, cols), load_chunk(up, chunk, cols));
    };
    AbsMax gathered;
    uint4 held[HELD], by[HELD];
    // All loads before the arithmetic, so that they are under way together.
#pragma unroll
    for (unsigned i = 0; i < HELD; ++i) {
        held[i] = load_chunk(gate, t + i * threads, cols);
    }
#pragma unroll
    for (unsigned i = 0; i < HELD; ++i) {
        by[i] = load_chunk(up, t + i * threads, cols);
    }
#pragma unroll
    for (unsigned i = 0; i < HELD; ++i) {
        if (t + i * threads < chunks) {
            held[i] = multiply(held[i], by[i]);
            gather<T>(gathered, held[i]);
        }
    }
    for (uint32_t chunk = t + HELD * threads; chunk < chunks; chunk += threads) {
        gather<T>(gathered, product(chunk));
    }
    reduce_row(gathered);
    if (!live) {
        return;
    }

    const Constants c = constants(gathered);
    if (t == 0) {
        p.scales[row] = c.scale;
    }
    int8_t* output = reinterpret_cast<int8_t*>(p.output) + row * p.output_stride;
#pragma unroll
    for (unsigned i = 0; i < HELD; ++i) {
        const uint32_t chunk = t + i * threads;
        if (chunk < chunks) {
            // The floats gathered above are not kept: widening again costs less than their registers.
            ptx::opaque(held[i]);
            quantize_to<T>(output, chunk, cols, held[i], c.multiplier);
        }
    }
    for (uint32_t chunk = t + HELD * threads; chunk < chunks; chunk += threads) {
        quantize_to<T>(output, chunk, cols, product(chunk), c.multiplier);
    }
    for (uint32_t col = cols + t; col < p.padded; col += threads) {
        output[col] = 0;
    }
}

}  // namespace imma

// The GEMM that follows may set up its ring meanwhile; it waits for the end of this before it reads anything of it.
#define ENTRY(name, T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(IMMA_SILU_MAX_THREADS) name(const SiluMulQuantizeParams p) { \
        imma::ptx::griddepcontrol_launch_dependents();                                                      \
        imma::silu_mul_quantize<imma::T>(p);                                                                \
    }
ENTRY(silu_mul_quantize_f32, F32)
ENTRY(silu_mul_quantize_f16, F16)
ENTRY(silu_mul_quantize_bf16, BF16)
