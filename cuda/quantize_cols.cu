// Per-channel quantisation of [K, N] weights, written K-major: output [N, K].
//
//   a block owns IMMA_COLS_STRIP columns of all K rows, a thread the same V columns of every STEP-th row
//
//        16 columns                     slab in shared memory            output
//      +-----+-----+ row 0            +--------+                        column 0: k ......... k + 1023
//      | t=0 | t=1 |          q       | 1024   |       turn             column 1: ..
//      | t=2 | t=3 |  K  -------->    | rows x | ----------------->     (a thread: 16 bytes of each
//      |    ...    |                  | 16 B   |                         of 4 columns)
//      +-----+-----+                  +--------+
//
// First pass: gather each column's constants; the first `held_rows` rows stay in shared memory as they came, and
// the second pass reads only the rest again.
#include "turn.cuh"
#include "vector.cuh"

namespace imma {

// V elements of a row from `address` on, of which only `valid` exist; zeros stand for the others.
template <typename T>
__device__ __forceinline__ uint4 load_some(const T* address, unsigned valid) {
    constexpr unsigned V = LANES<T>;
    if (valid >= V && reinterpret_cast<uintptr_t>(address) % IMMA_VECTOR_BYTES == 0) {
        return load_vector(address);
    }
    float x[V];
#pragma unroll
    for (unsigned i = 0; i < V; ++i) {
        x[i] = i < valid ? widen(address[i]) : 0.0f;
    }
    return narrow<T>(x);  // exact: each came from a T
}

template <typename T, typename Rule>
__device__ __forceinline__ void quantize_cols(const QuantizeColsParams& p) {
    using Gathered = typename Rule::Gathered;
    constexpr unsigned V = LANES<T>, STRIP = IMMA_COLS_STRIP, THREADS = IMMA_COLS_THREADS, SLAB = IMMA_COLS_SLAB;
    constexpr unsigned ACROSS = STRIP / V;       // threads that share a row
    constexpr unsigned STEP = THREADS / ACROSS;  // rows that the block covers at once
    constexpr unsigned WARPS = THREADS / 32;
    static_assert(STRIP % V == 0 && STRIP == 16, "a strip is four words of bytes");
    static_assert(SLAB % STEP == 0, "every thread has as many rows of a slab");
    static_assert(SLAB / 16 * (STRIP / 4) == THREADS, "each thread turns 16 rows of one word");

    extern __shared__ uint4 held[];  // [held_rows][ACROSS]
    // One word more every 16 rows keeps the columns' reads apart: word w of row r is at 4 r + r / 16 + w.
    __shared__ uint32_t slab[SLAB * 4 + SLAB / 16];
    __shared__ uint32_t found[Gathered::WORDS][WARPS][STRIP];
    __shared__ float multipliers[STRIP];
    __shared__ int zero_points[STRIP];

    const unsigned t = threadIdx.x, across = t % ACROSS, down = t / ACROSS;
    const uint64_t strip = uint64_t(blockIdx.x) * STRIP;
    const unsigned width = unsigned(min(uint64_t(STRIP), p.cols - strip));
    const unsigned mine = across * V;  // first of this thread's columns in the strip
    const unsigned valid = width > mine ? min(width - mine, V) : 0;
    const T* input = static_cast<const T*>(p.input) + strip + mine;

    Gathered gathered[V];
#pragma unroll 4
    for (uint64_t k = down; k < p.rows; k += STEP) {
        const uint4 raw = load_some(input + k * p.input_stride, valid);
        if (k < p.held_rows) {
            held[k * ACROSS + across] = raw;
        }
        float x[V];
        widen<T>(raw, x);
#pragma unroll
        for (unsigned i = 0; i < V; ++i) {
            gathered[i].add(x[i]);
        }
    }
#pragma unroll
    for (unsigned i = 0; i < V; ++i) {
#pragma unroll
        for (unsigned w = 0; w < Gathered::WORDS; ++w) {
            uint32_t word = gathered[i].word[w];
#pragma unroll
            for (unsigned distance = ACROSS; distance < 32; distance *= 2) {
                word = max(word, __shfl_xor_sync(0xffffffffu, word, distance));
            }
            if (t % 32 < ACROSS) {
                found[w][t / 32][mine + i] = word;
            }
        }
    }
    __syncthreads();
    if (t < STRIP) {
        Gathered column;
#pragma unroll
        for (unsigned w = 0; w < Gathered::WORDS; ++w) {
#pragma unroll
            for (unsigned warp = 0; warp < WARPS; ++warp) {
                column.word[w] = max(column.word[w], found[w][warp][t]);
            }
        }
        const Constants c = constants(column);
        multipliers[t] = c.multiplier;
        zero_points[t] = c.zero_point;
        if (t < width) {
            p.scales[strip + t] = c.scale;
            if constexpr (Rule::ZERO_POINT) {
                p.zero_points[strip + t] = c.zero_point;
            }
        }
    }
    __syncthreads();
    float multiplier[V];
    int zero_point[V];
#pragma unroll
    for (unsigned i = 0; i < V; ++i) {
        multiplier[i] = multipliers[mine + i];
        zero_point[i] = zero_points[mine + i];
    }

    // What this thread turns: 16 rows of one word.
    const unsigned rows16 = t % (SLAB / 16), word = t / (SLAB / 16);
    for (uint64_t first = 0; first < p.padded; first += SLAB) {
#pragma unroll 1
        for (unsigned r = down; r < SLAB; r += STEP) {
            const uint64_t k = first + r;
            uint32_t bytes[V / 4] = {};  // zeros past the last row: the padding
            if (k < p.rows) {
                const uint4 raw = k < p.held_rows ? held[k * ACROSS + across]
                                                  : load_some(input + k * p.input_stride, valid);
                float x[V], u[V] = {};
                widen<T>(raw, x);
                if constexpr (Rule::STOCHASTIC) {
                    uniforms(p.seed, k * p.cols + strip + mine, u);
                }
#pragma unroll
                for (unsigned i = 0; i < V; i += 4) {
                    int q[4];
#pragma unroll
                    for (unsigned j = 0; j < 4; ++j) {
                        q[j] = Rule::quantize(x[i + j], multiplier[i + j], zero_point[i + j], u[i + j]);
                    }
                    bytes[i / 4] = pack(q[0], q[1], q[2], q[3]);
                }
            }
#pragma unroll
            for (unsigned i = 0; i < V / 4; ++i) {
                slab[4 * r + r / 16 + mine / 4 + i] = bytes[i];
            }
        }
        __syncthreads();
        uint32_t column[16];
#pragma unroll
        for (unsigned j = 0; j < 16; ++j) {
            column[j] = slab[65 * rows16 + 4 * j + word];
        }
        uint4 run[4];
        turn(column, run);
        const uint64_t k = first + 16 * rows16;
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
            if (4 * word + i < width) {
                int8_t* output = reinterpret_cast<int8_t*>(p.output) + (strip + 4 * word + i) * p.output_stride;
                store_run(output, k, p.padded, run[i]);
            }
        }
        __syncthreads();
    }
}

}  // namespace imma

#define ENTRY(name, T, Rule)                                                                            \
    extern "C" __global__ void __launch_bounds__(IMMA_COLS_THREADS) name(const QuantizeColsParams p) { \
        imma::quantize_cols<imma::T, imma::Rule>(p);                                                     \
    }
ENTRY(quantize_cols_f32, F32, NearestEven)
ENTRY(quantize_cols_f16, F16, NearestEven)
ENTRY(quantize_cols_bf16, BF16, NearestEven)
ENTRY(quantize_cols_stochastic_f32, F32, Stochastic)
ENTRY(quantize_cols_stochastic_f16, F16, Stochastic)
ENTRY(quantize_cols_stochastic_bf16, BF16, Stochastic)
ENTRY(quantize_cols_asymmetric_f32, F32, Asymmetric)
ENTRY(quantize_cols_asymmetric_f16, F16, Asymmetric)
ENTRY(quantize_cols_asymmetric_bf16, BF16, Asymmetric)
