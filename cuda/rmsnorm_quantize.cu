// RMSNorm and per-token quantisation in one pass, with the bits of the two done one after the other; with `add`, the
// input is first added to the residual, which is written back.
//
//   block (T, R): T threads a row, R rows           row r = blockIdx.x * R + threadIdx.y
//
//   gather     thread t loads chunks t, t + T, .. into registers (IMMA_ROWS_HELD of them; a longer row is read again)
//   squares    a balanced tree over the row's elements by index, whatever T is: within a chunk, within the 32 chunks of
//              a warp, and over those groups through shared memory
//
//                group g = chunks 32 g .. 32 g + 31    | 0 | 1 | .. | W-1 | W | .. |     warp g % W sums it
//
//   normalise  in registers, rounded to the input's type as the norm alone would store it; the largest magnitude
//   quantise   from registers; thread 0 of the row stores its scale
#include "row_chunks.cuh"

namespace imma {

template <typename T, bool ADD>
__device__ __forceinline__ void rmsnorm_quantize(const RmsnormQuantizeParams& p) {
    constexpr unsigned V = LANES<T>, HELD = IMMA_ROWS_HELD;
    static_assert(V * sizeof(T) == IMMA_VECTOR_BYTES, "whole vectors");
    static_assert((V & (V - 1)) == 0, "chunks are nodes of the tree");
    extern __shared__ float shared_sums[];

    const unsigned t = threadIdx.x, threads = blockDim.x, lane = t % 32, warp = t / 32, warps = threads / 32;
    const uint64_t row = uint64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    // Threads past the last row stay for the barriers, with nothing to read.
    const bool live = row < p.rows;
    const uint32_t cols = live ? p.cols : 0, chunks = (cols + V - 1) / V, groups = (chunks + 31) / 32;
    const T* input = static_cast<const T*>(p.input) + (live ? row * p.input_stride : 0);
    T* residual = static_cast<T*>(p.residual) + (ADD && live ? row * p.residual_stride : 0);
    const T* weight = static_cast<const T*>(p.weight);
    float* sums = shared_sums + threadIdx.y * p.sums;

    // Adds the residual's chunk to the input's, and stores the sum.
    const auto add = [&](const uint4& raw, const uint4& to, uint32_t chunk) {
        float x[V], r[V];
        widen<T>(raw, x);
        widen<T>(to, r);
#pragma unroll
        for (unsigned j = 0; j < V; ++j) {
            r[j] = __fadd_rn(r[j], x[j]);
        }
        uint4 sum = narrow<T>(r);
        // Kept packed, not as its parts.
        ptx::opaque(sum);
        store_chunk(residual, chunk, cols, sum);
        return sum;
    };
    // A whole warp at a time: `group` is the same for its lanes.
    const auto add_group = [&](uint32_t group, const uint4& raw) {
        const float sum = warp_sum(chunk_squares<T>(raw));
        if (lane == 0) {
            sums[group] = sum;
        }
    };
    uint4 held[HELD];
#pragma unroll
    for (unsigned i = 0; i < HELD; ++i) {
        held[i] = load_chunk(input, t + i * threads, cols);
    }
    if constexpr (ADD) {
        // Two loads are under way before a store, which the compiler can't move them over; more would spill.
        constexpr unsigned AHEAD = 2;
        static_assert(HELD % AHEAD == 0, "whole turns");
#pragma unroll
        for (unsigned first = 0; first < HELD; first += AHEAD) {
            uint4 to[AHEAD];
#pragma unroll
            for (unsigned i = 0; i < AHEAD; ++i) {
                to[i] = load_chunk<T>(residual, t + (first + i) * threads, cols);
            }
#pragma unroll
            for (unsigned i = 0; i < AHEAD; ++i) {
                held[first + i] = add(held[first + i], to[i], t + (first + i) * threads);
            }
        }
    }
#pragma unroll
    for (unsigned i = 0; i < HELD; ++i) {
        const uint32_t group = warp + i * warps;
        if (group < groups) {
            add_group(group, held[i]);
        }
    }
    for (uint32_t group = warp + HELD * warps; group < groups; group += warps) {
        const uint32_t chunk = group * 32 + lane;
        uint4 raw = load_chunk(input, chunk, cols);
        if constexpr (ADD) {
            raw = add(raw, load_chunk<T>(residual, chunk, cols), chunk);
        }
        add_group(group, raw);
    }
    const float multiplier = inverse_rms(tree_sum(sums, groups, warp, warps), cols, p.epsilon);

    const auto normalize = [&](const uint4& raw, uint32_t chunk) {
        float x[V], w[V];
        widen<T>(raw, x);
        widen<T>(load_chunk(weight, chunk, cols), w);
#pragma unroll
        for (unsigned j = 0; j < V; ++j) {
            x[j] = __fmul_rn(widen(narrow<T>(__fmul_rn(x[j], multiplier))), w[j]);
        }
        return narrow<T>(x);
    };
    // What this thread itself stored is the sum with the residual.
    const auto again = [&](uint32_t chunk) {
        return normalize(load_chunk<T>(ADD ? residual : input, chunk, cols), chunk);
    };
    AbsMax gathered;
#pragma unroll
    for (unsigned i = 0; i < HELD; ++i) {
        const uint32_t chunk = t + i * threads;
        if (chunk < chunks) {
            // The floats squared above are not kept: widening again costs less than their registers.
            ptx::opaque(held[i]);
            held[i] = normalize(held[i], chunk);
            gather<T>(gathered, held[i]);
        }
    }
    for (uint32_t chunk = t + HELD * threads; chunk < chunks; chunk += threads) {
        gather<T>(gathered, again(chunk));
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
            ptx::opaque(held[i]);
            quantize_to<T>(output, chunk, cols, held[i], c.multiplier);
        }
    }
    for (uint32_t chunk = t + HELD * threads; chunk < chunks; chunk += threads) {
        quantize_to<T>(output, chunk, cols, again(chunk), c.multiplier);
    }
    for (uint32_t col = cols + t; col < p.padded; col += threads) {
        output[col] = 0;
    }
}

}  // namespace imma

// The GEMM that follows may set up its ring meanwhile; it waits for the end of this before it reads anything of it.
#define ENTRY(name, T, ADD)                                                                                \
    extern "C" __global__ void __launch_bounds__(IMMA_ROWS_MAX_THREADS) name(const RmsnormQuantizeParams p) { \
        imma::ptx::griddepcontrol_launch_dependents();                                                      \
        imma::rmsnorm_quantize<imma::T, ADD>(p);                                                            \
    }
ENTRY(rmsnorm_quantize_f32, F32, false)
ENTRY(rmsnorm_quantize_f16, F16, false)
ENTRY(rmsnorm_quantize_bf16, BF16, false)
ENTRY(add_rmsnorm_quantize_f32, F32, true)
ENTRY(add_rmsnorm_quantize_f16, F16, true)
ENTRY(add_rmsnorm_quantize_bf16, BF16, true)
