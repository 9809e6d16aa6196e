// Per-token quantisation: each row with its own constants, or with given ones, read once.
//
//   block (T, R): T threads a row, R rows           row r = blockIdx.x * R + threadIdx.y
//
//   gather     thread t loads chunks t, t + T, .. into registers (IMMA_ROWS_HELD of them; a longer row is read again)
//   reduce     within warps, then across the T / 32 warps of the row through shared memory
//   quantise   from registers; thread 0 of the row stores its scale (and zero point)
//
// With given constants the row is quantised while it is gathered, and its scale is stored last.
//
// A row that lies in slices on several devices is gathered slice by slice (extents); the maximum of what each found is the
// whole row's, by which every slice is then quantised (by).
#include "vector.cuh"

namespace imma {

// What the threads of a row gathered, in each of them. All threads of the block come here.
template <typename Gathered, unsigned MAX_WARPS>
__device__ __forceinline__ void reduce_row(Gathered& gathered, uint32_t (&found)[Gathered::WORDS][MAX_WARPS]) {
    static_assert(MAX_WARPS <= 32, "one warp reduces what the warps of a row found");
    const unsigned t = threadIdx.x, threads = blockDim.x;
    const unsigned warp = (threadIdx.y * threads + t) / 32, lane = t % 32, warps = threads / 32;
#pragma unroll
    for (unsigned w = 0; w < Gathered::WORDS; ++w) {
        gathered.word[w] = __reduce_max_sync(0xffffffffu, gathered.word[w]);
        if (warps > 1 && lane == 0) {
            found[w][warp] = gathered.word[w];
        }
    }
    if (warps > 1) {
        __syncthreads();
        const unsigned first = warp - t / 32;
#pragma unroll
        for (unsigned w = 0; w < Gathered::WORDS; ++w) {
            gathered.word[w] = __reduce_max_sync(0xffffffffu, lane < warps ? found[w][first + lane] : 0u);
        }
    }
}

template <typename T, typename Rule>
__device__ __forceinline__ void quantize_rows(const QuantizeRowsParams& p) {
    using Gathered = typename Rule::Gathered;
    constexpr unsigned V = LANES<T>, HELD = IMMA_ROWS_HELD, MAX_WARPS = IMMA_ROWS_MAX_THREADS / 32;
    static_assert(V * sizeof(T) == IMMA_VECTOR_BYTES, "whole vectors");
    __shared__ uint32_t found[Gathered::WORDS][MAX_WARPS];

    const unsigned t = threadIdx.x, threads = blockDim.x;
    const uint64_t row = uint64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    // Threads past the last row stay for the barrier, with nothing to read.
    const bool live = row < p.rows;
    const T* input = static_cast<const T*>(p.input) + (live ? row * p.input_stride : 0);
    const Split<T, uint32_t> split(input, live ? p.cols : 0);

    Gathered gathered;
    uint4 held[HELD];
#pragma unroll
    for (unsigned i = 0; i < HELD; ++i) {
        const uint32_t chunk = t + i * threads;
        // Zeros change no maximum.
        held[i] = chunk < split.chunks ? load_vector(input + split.at(chunk)) : make_uint4(0, 0, 0, 0);
    }
    const uint32_t edge = split.edge(t);
    const float edge_value = edge != split.NONE ? widen(input[edge]) : 0.0f;
    gathered.add(edge_value);
    const auto gather = [&](const uint4& raw) {
        float x[V];
        widen<T>(raw, x);
#pragma unroll
        for (unsigned j = 0; j < V; ++j) {
            gathered.add(x[j]);
        }
    };
#pragma unroll
    for (unsigned i = 0; i < HELD; ++i) {
        gather(held[i]);
    }
    for (uint32_t chunk = t + HELD * threads; chunk < split.chunks; chunk += threads) {
        gather(load_vector(input + split.at(chunk)));
    }

    reduce_row(gathered, found);
    if (!live) {
        return;
    }

    const Constants c = constants(gathered);
    if (t == 0) {
        p.scales[row] = c.scale;
        if constexpr (Rule::ZERO_POINT) {
            p.zero_points[row] = c.zero_point;
        }
    }
    int8_t* output = reinterpret_cast<int8_t*>(p.output) + row * p.output_stride;
    const uint64_t index = row * p.cols;
    const auto store = [&](const uint4& raw, uint32_t chunk) {
        int q[V];
        quantize_chunk<T, Rule>(raw, c.multiplier, c.zero_point, p.seed, index + split.at(chunk), q);
        store_bytes(output + split.at(chunk), q);
    };
#pragma unroll
    for (unsigned i = 0; i < HELD; ++i) {
        const uint32_t chunk = t + i * threads;
        if (chunk < split.chunks) {
            // The floats gathered above are not kept: widening again costs less than their registers.
            ptx::opaque(held[i]);
            store(held[i], chunk);
        }
    }
    for (uint32_t chunk = t + HELD * threads; chunk < split.chunks; chunk += threads) {
        store(load_vector(input + split.at(chunk)), chunk);
    }
    if (edge != split.NONE) {
        output[edge] = quantize_one<Rule>(edge_value, c.multiplier, c.zero_point, p.seed, index + edge);
    }
    for (uint32_t col = p.cols + t; col < p.padded; col += threads) {
        output[col] = 0;
    }
}

// With constants known beforehand nothing waits for the row's end: chunks are quantised as they come, and what was gathered
// on the way says whether the row is finite.
template <typename T, typename Rule>
__device__ __forceinline__ void quantize_rows_given(const QuantizeRowsParams& p) {
    using Gathered = typename Rule::Gathered;
    constexpr unsigned V = LANES<T>, HELD = IMMA_ROWS_HELD, MAX_WARPS = IMMA_ROWS_MAX_THREADS / 32;
    __shared__ uint32_t found[Gathered::WORDS][MAX_WARPS];

    const unsigned t = threadIdx.x, threads = blockDim.x;
    const uint64_t row = uint64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    const bool live = row < p.rows;
    const T* input = static_cast<const T*>(p.input) + (live ? row * p.input_stride : 0);
    int8_t* output = reinterpret_cast<int8_t*>(p.output) + (live ? row * p.output_stride : 0);
    const Split<T, uint32_t> split(input, live ? p.cols : 0);

    Gathered gathered;
    for (uint32_t first = t; first < split.chunks; first += HELD * threads) {
        uint4 held[HELD];
#pragma unroll
        for (unsigned i = 0; i < HELD; ++i) {
            const uint32_t chunk = first + i * threads;
            held[i] = chunk < split.chunks ? load_vector(input + split.at(chunk)) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (unsigned i = 0; i < HELD; ++i) {
            const uint32_t chunk = first + i * threads;
            float x[V];
            widen<T>(held[i], x);
            int q[V];
#pragma unroll
            for (unsigned j = 0; j < V; ++j) {
                gathered.add(x[j]);
                q[j] = Rule::quantize(x[j], p.multiplier, p.zero_point, 0.0f);
            }
            if (chunk < split.chunks) {
                store_bytes(output + split.at(chunk), q);
            }
        }
    }
    const uint32_t edge = split.edge(t);
    if (edge != split.NONE) {
        const float x = widen(input[edge]);
        gathered.add(x);
        output[edge] = int8_t(Rule::quantize(x, p.multiplier, p.zero_point, 0.0f));
    }
    if (live) {
        for (uint32_t col = p.cols + t; col < p.padded; col += threads) {
            output[col] = 0;
        }
    }
    reduce_row(gathered, found);
    if (live && t == 0) {
        p.scales[row] = given_scale(gathered, p.scale);
    }
}

// What the row's constants are made of, as integers that are never negative: their maximum over slices of a row is the row's.
template <typename T, typename Rule>
__device__ __forceinline__ void quantize_rows_extents(const QuantizeRowsParams& p) {
    using Gathered = typename Rule::Gathered;
    constexpr unsigned V = LANES<T>, MAX_WARPS = IMMA_ROWS_MAX_THREADS / 32;
    __shared__ uint32_t found[Gathered::WORDS][MAX_WARPS];

    const unsigned t = threadIdx.x, threads = blockDim.x;
    const uint64_t row = uint64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    const bool live = row < p.rows;
    const T* input = static_cast<const T*>(p.input) + (live ? row * p.input_stride : 0);
    const Split<T, uint32_t> split(input, live ? p.cols : 0);

    Gathered gathered;
    for (uint32_t chunk = t; chunk < split.chunks; chunk += threads) {
        float x[V];
        widen<T>(load_vector(input + split.at(chunk)), x);
#pragma unroll
        for (unsigned j = 0; j < V; ++j) {
            gathered.add(x[j]);
        }
    }
    const uint32_t edge = split.edge(t);
    if (edge != split.NONE) {
        gathered.add(widen(input[edge]));
    }
    reduce_row(gathered, found);
    if (live && t == 0) {
#pragma unroll
        for (unsigned w = 0; w < Gathered::WORDS; ++w) {
            p.extents[w * uint64_t(p.rows) + row] = int(gathered.word[w]);
        }
    }
}

// With extents that were found before, here and elsewhere.
template <typename T, typename Rule>
__device__ __forceinline__ void quantize_rows_by(const QuantizeRowsParams& p) {
    using Gathered = typename Rule::Gathered;
    constexpr unsigned V = LANES<T>;
    const unsigned t = threadIdx.x, threads = blockDim.x;
    const uint64_t row = uint64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= p.rows) {
        return;
    }
    const T* input = static_cast<const T*>(p.input) + row * p.input_stride;
    int8_t* output = reinterpret_cast<int8_t*>(p.output) + row * p.output_stride;
    const Split<T, uint32_t> split(input, p.cols);

    Gathered gathered;
#pragma unroll
    for (unsigned w = 0; w < Gathered::WORDS; ++w) {
        gathered.word[w] = uint32_t(p.extents[w * uint64_t(p.rows) + row]);
    }
    const Constants c = constants(gathered);
    if (t == 0) {
        p.scales[row] = c.scale;
        if constexpr (Rule::ZERO_POINT) {
            p.zero_points[row] = c.zero_point;
        }
    }
    for (uint32_t chunk = t; chunk < split.chunks; chunk += threads) {
        int q[V];
        const uint4 raw = load_vector(input + split.at(chunk));
        quantize_chunk<T, Rule>(raw, c.multiplier, c.zero_point, 0, 0, q);
        store_bytes(output + split.at(chunk), q);
    }
    const uint32_t edge = split.edge(t);
    if (edge != split.NONE) {
        output[edge] = quantize_one<Rule>(widen(input[edge]), c.multiplier, c.zero_point, 0, 0);
    }
    for (uint32_t col = p.cols + t; col < p.padded; col += threads) {
        output[col] = 0;
    }
}

}  // namespace imma

// The GEMM that follows may set up its ring meanwhile; it waits for the end of this before it reads anything.
#define ENTRY_BY(body, name, T, Rule)                                                                      \
    extern "C" __global__ void __launch_bounds__(IMMA_ROWS_MAX_THREADS) name(const QuantizeRowsParams p) { \
        imma::ptx::griddepcontrol_launch_dependents();                                                     \
        imma::body<imma::T, imma::Rule>(p);                                                                \
    }
#define ENTRY(name, T, Rule) ENTRY_BY(quantize_rows, name, T, Rule)
#define GIVEN(name, T, Rule) ENTRY_BY(quantize_rows_given, name, T, Rule)
ENTRY(quantize_rows_f32, F32, NearestEven)
ENTRY(quantize_rows_f16, F16, NearestEven)
ENTRY(quantize_rows_bf16, BF16, NearestEven)
ENTRY(quantize_rows_stochastic_f32, F32, Stochastic)
ENTRY(quantize_rows_stochastic_f16, F16, Stochastic)
ENTRY(quantize_rows_stochastic_bf16, BF16, Stochastic)
ENTRY(quantize_rows_asymmetric_f32, F32, Asymmetric)
ENTRY(quantize_rows_asymmetric_f16, F16, Asymmetric)
ENTRY(quantize_rows_asymmetric_bf16, BF16, Asymmetric)
GIVEN(quantize_rows_given_f32, F32, Given)
GIVEN(quantize_rows_given_f16, F16, Given)
GIVEN(quantize_rows_given_bf16, BF16, Given)
GIVEN(quantize_rows_given_asymmetric_f32, F32, GivenAsymmetric)
GIVEN(quantize_rows_given_asymmetric_f16, F16, GivenAsymmetric)
GIVEN(quantize_rows_given_asymmetric_bf16, BF16, GivenAsymmetric)
#define EXTENTS(name, T, Rule) ENTRY_BY(quantize_rows_extents, name, T, Rule)
#define BY(name, T, Rule) ENTRY_BY(quantize_rows_by, name, T, Rule)
EXTENTS(quantize_rows_extents_f32, F32, NearestEven)
EXTENTS(quantize_rows_extents_f16, F16, NearestEven)
EXTENTS(quantize_rows_extents_bf16, BF16, NearestEven)
EXTENTS(quantize_rows_extents_asymmetric_f32, F32, Asymmetric)
EXTENTS(quantize_rows_extents_asymmetric_f16, F16, Asymmetric)
EXTENTS(quantize_rows_extents_asymmetric_bf16, BF16, Asymmetric)
BY(quantize_rows_by_f32, F32, NearestEven)
BY(quantize_rows_by_f16, F16, NearestEven)
BY(quantize_rows_by_bf16, BF16, NearestEven)
BY(quantize_rows_by_asymmetric_f32, F32, Asymmetric)
BY(quantize_rows_by_asymmetric_f16, F16, Asymmetric)
BY(quantize_rows_by_asymmetric_bf16, BF16, Asymmetric)
