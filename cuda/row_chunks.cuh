// Rows of which several go side by side, each at its own alignment: elements are taken by index, not by address.
//
//   chunk c = elements c * V .. c * V + V - 1        thread t of T takes chunks t, t + T, ..
//
// A chunk that lies on a 16-byte boundary and within the row is one access; any other goes element by element.
// (vector.cuh, for one row alone, starts its chunks at the first 16-byte boundary instead.)
#pragma once

#include "vector.cuh"

namespace imma {

template <typename T>
__device__ __forceinline__ uint32_t bits(T x) {
    if constexpr (sizeof(T) == 4) {
        return __float_as_uint(x);
    } else {
        return x.bits;
    }
}

// The elements of a chunk, zeros beyond the row's end.
template <typename T>
__device__ __forceinline__ uint4 load_chunk(const T* row, uint32_t chunk, uint32_t cols) {
    constexpr unsigned V = LANES<T>, PER_WORD = 4 / sizeof(T);
    const uint32_t first = chunk * V;
    if (first + V <= cols && reinterpret_cast<uintptr_t>(row) % IMMA_VECTOR_BYTES == 0) {
        return load_vector(row + first);
    }
    uint32_t word[4] = {0, 0, 0, 0};
#pragma unroll
    for (unsigned j = 0; j < V; ++j) {
        if (first + j < cols) {
            word[j / PER_WORD] |= bits(row[first + j]) << (8 * sizeof(T) * (j % PER_WORD));
        }
    }
    return make_uint4(word[0], word[1], word[2], word[3]);
}

template <typename T>
__device__ __forceinline__ void store_chunk(T* row, uint32_t chunk, uint32_t cols, const uint4& raw) {
    constexpr unsigned V = LANES<T>, PER_WORD = 4 / sizeof(T);
    const uint32_t first = chunk * V;
    if (first + V <= cols && reinterpret_cast<uintptr_t>(row) % IMMA_VECTOR_BYTES == 0) {
        *reinterpret_cast<uint4*>(row + first) = raw;
        return;
    }
    const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (unsigned j = 0; j < V; ++j) {
        if (first + j < cols) {
            if constexpr (sizeof(T) == 4) {
                row[first + j] = __uint_as_float(word[j]);
            } else {
                row[first + j] = T{uint16_t(word[j / PER_WORD] >> (16 * (j % PER_WORD)))};
            }
        }
    }
}

// Adds the magnitudes of a chunk to what is gathered. Zeros beyond the row's end change no maximum.
template <typename T>
__device__ __forceinline__ void gather(AbsMax& gathered, const uint4& chunk) {
    float x[LANES<T>];
    widen<T>(chunk, x);
#pragma unroll
    for (unsigned j = 0; j < LANES<T>; ++j) {
        gathered.add(x[j]);
    }
}

// Quantises a chunk to its place in the output.
template <typename T>
__device__ __forceinline__ void quantize_to(int8_t* output, uint32_t chunk, uint32_t cols, const uint4& raw,
                                            float multiplier) {
    constexpr unsigned V = LANES<T>;
    int q[V];
    quantize_chunk<T, NearestEven>(raw, multiplier, 0, 0, 0, q);
    const uint32_t first = chunk * V;
    if (first + V <= cols) {
        store_bytes(output + first, q);
        return;
    }
#pragma unroll
    for (unsigned j = 0; j < V; ++j) {
        if (first + j < cols) {
            output[first + j] = int8_t(q[j]);
        }
    }
}

// The maximum over the threads of a row, for each of them. Every thread of the block comes here.
__device__ __forceinline__ void reduce_row(AbsMax& gathered) {
    __shared__ uint32_t found[IMMA_ROWS_MAX_THREADS / 32];
    const unsigned t = threadIdx.x, warps = blockDim.x / 32;
    gathered.word[0] = __reduce_max_sync(0xffffffffu, gathered.word[0]);
    if (warps > 1) {
        const unsigned first = threadIdx.y * warps;
        if (t % 32 == 0) {
            found[first + t / 32] = gathered.word[0];
        }
        __syncthreads();
        const unsigned lane = t % 32;
        gathered.word[0] = __reduce_max_sync(0xffffffffu, lane < warps ? found[first + lane] : 0u);
    }
}

// The sum over a warp as a balanced tree over its lanes, for each of them.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (unsigned apart = 1; apart < 32; apart *= 2) {
        // Both lanes of a pair add the same two numbers, and addition doesn't care which comes first.
        x = __fadd_rn(x, __shfl_xor_sync(0xffffffffu, x, apart));
    }
    return x;
}

// The sum of the squares of a chunk as a balanced tree.
template <typename T>
__device__ __forceinline__ float chunk_squares(const uint4& raw) {
    constexpr unsigned V = LANES<T>;
    float x[V];
    widen<T>(raw, x);
#pragma unroll
    for (unsigned j = 0; j < V; ++j) {
        x[j] = __fmul_rn(x[j], x[j]);
    }
#pragma unroll
    for (unsigned width = V / 2; width > 0; width /= 2) {
#pragma unroll
        for (unsigned j = 0; j < width; ++j) {
            x[j] = __fadd_rn(x[2 * j], x[2 * j + 1]);
        }
    }
    return x[0];
}

// The sum of `count` sums in shared memory as a balanced tree; room for the levels above them follows. `warp` of
// `warps` is the warp's place in the row, which has the block to itself when `count` is above 32.
__device__ __forceinline__ float tree_sum(float* sums, uint32_t count, unsigned warp, unsigned warps) {
    const unsigned lane = threadIdx.x % 32;
    __syncthreads();
    while (count > 32) {
        const uint32_t above = (count + 31) / 32;
        for (uint32_t i = warp; i < above; i += warps) {
            const uint32_t at = i * 32 + lane;
            const float sum = warp_sum(at < count ? sums[at] : 0.0f);
            if (lane == 0) {
                sums[count + i] = sum;
            }
        }
        sums += count;
        count = above;
        __syncthreads();
    }
    return warp_sum(lane < count ? sums[lane] : 0.0f);
}

}  // namespace imma
