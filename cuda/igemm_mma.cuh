// int8 GEMM on the tensor cores of compute capability 8.0 and later: c [M, N] = a [M, K] x w [N, K]^T, int32 sums,
// the shared epilogue.
//
//   global --cp.async, 16 bytes--> shared, STAGES deep, swizzled --ldmatrix--> registers, twice --mma.m16n8k32--> sums
//   sums --> shared, a strip of 16 rows a warp --> epilogue, four columns a thread --> global
//
// A block computes one tile BM x BN over K or one split of it, its warps WM x WN each. Rows beyond M or N and bytes
// beyond K are copied as zeros, so any shape works; where base or leading dimension is no multiple of 16 bytes, the
// instances without ALIGNED copy words or bytes.
//
// Group-wise, where weight scales change along K, the sums of each scale group become f32 in registers, are scaled and
// added up there: one more set of accumulators, and K is not split, as the order of these additions is part of the result.
#pragma once

#include "epilogue.cuh"
#include "raster.cuh"

namespace imma {

// Bytes that one row of a stage has: BK. 16-byte chunks are permuted within rows so that the eight rows which one
// phase of ldmatrix reads, and the chunks that one phase of cp.async writes, lie in different banks.
template <unsigned BK>
__device__ __forceinline__ unsigned swizzled(unsigned row, unsigned chunk) {
    static_assert(BK == 64 || BK == 128, "swizzles of 64 and 128 bytes");
    const unsigned turn = BK == 128 ? row & 7 : (row >> 1) & 3;
    return row * BK + ((chunk ^ turn) << 4);
}

// One chunk of an operand into shared memory: `valid` bytes (0 to 16) from global memory, zeros after them.
template <bool ALIGNED>
__device__ __forceinline__ void copy_chunk(uint32_t to, const int8_t* from, unsigned valid) {
    if constexpr (ALIGNED) {
        ptx::cp_async<16>(to, from, valid);
    } else if (reinterpret_cast<uintptr_t>(from) % 4 == 0) {
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
            const unsigned left = valid > 4 * i ? min(valid - 4 * i, 4u) : 0;
            ptx::cp_async<4>(to + 4 * i, left ? from + 4 * i : from, left);
        }
    } else {
        // No copy without registers is this narrow.
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
            uint32_t word = 0;
#pragma unroll
            for (unsigned j = 0; j < 4; ++j) {
                if (4 * i + j < valid) {
                    word |= uint32_t(uint8_t(from[4 * i + j])) << (8 * j);
                }
            }
            ptx::st_shared(to + 4 * i, word);
        }
    }
}

// One operand of a tile: ROWS rows from `first_row` on, at K `k`.
template <unsigned ROWS, unsigned BK, unsigned THREADS, bool ALIGNED>
__device__ __forceinline__ void copy_operand(uint32_t to, const int8_t* base, uint64_t stride, unsigned first_row,
                                             unsigned rows, unsigned k, unsigned k_end) {
    constexpr unsigned CHUNKS = BK / 16, COUNT = ROWS * CHUNKS;
    static_assert(COUNT % THREADS == 0 || COUNT < THREADS, "whole rounds");
#pragma unroll
    for (unsigned i = 0; i < (COUNT + THREADS - 1) / THREADS; ++i) {
        const unsigned id = i * THREADS + threadIdx.x;
        if (COUNT % THREADS != 0 && id >= COUNT) {
            break;
        }
        const unsigned row = id / CHUNKS, chunk = id % CHUNKS;
        const unsigned at = k + chunk * 16;
        const bool inside = first_row + row < rows && at < k_end;
        const unsigned valid = inside ? min(k_end - at, 16u) : 0;
        // Nothing is read where nothing is valid; the base keeps the address one that exists.
        const int8_t* from = inside ? base + (first_row + row) * stride + at : base;
        copy_chunk<ALIGNED>(to + swizzled<BK>(row, chunk), from, valid);
    }
}

template <unsigned BM_, unsigned BN_, unsigned BK_, unsigned STAGES_, unsigned WARPS_M_, unsigned WARPS_N_,
          bool ALIGNED_>
struct Tile {
    static constexpr unsigned BM = BM_, BN = BN_, BK = BK_, STAGES = STAGES_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_;
    static constexpr bool ALIGNED = ALIGNED_;
    static constexpr unsigned THREADS = 32 * WARPS_M * WARPS_N;
    static constexpr unsigned WM = BM / WARPS_M, WN = BN / WARPS_N, MI = WM / 16, NI = WN / 8, KS = BK / 32;
    static constexpr unsigned STAGE_BYTES = (BM + BN) * BK;
    // A strip of sums, 16 rows a warp; 8 words more a row, so that the pairs that mma leaves in a thread go to
    // different banks.
    static constexpr unsigned STRIP_STRIDE = WN + 8, STRIP_BYTES = 16 * STRIP_STRIDE * 4;
    static_assert(WM % 16 == 0 && WN % 16 == 0, "whole fragments, two of w at a time");
    static_assert(STAGES >= 3 && KS >= 2, "the pipeline below");
    static_assert(THREADS / 32 * STRIP_BYTES <= STAGES * STAGE_BYTES, "strips reuse the stages");
};

// Weight scales that change along K.
struct ScaleGroups {
    const float* scales; // [scale groups, cols]
    uint64_t stride;
    unsigned shift; // log2 of the k of a scale group, a multiple of 32
};

// What a block computes: a tile of one product of the batch, over one part of K.
struct Part {
    unsigned m0, n0, batch;
    unsigned rows, cols; // of the product; those of `a` from `rows` on are another's
    const int8_t *a, *w; // the product's operands
    unsigned k_begin, k_end, steps;
};
template <typename T>
__device__ __forceinline__ Part part_of(const IgemmParams& p) {
    Part part;
    const RasterTile tile = raster(blockIdx.x, p.tiles_m, p.tiles_n, p.raster_rows);
    part.m0 = tile.tall * T::BM, part.n0 = tile.wide * T::BN;
    part.rows = p.epilogue.rows, part.cols = p.epilogue.cols;
    part.batch = blockIdx.y / p.splits;
    const unsigned split = blockIdx.y % p.splits;
    part.a = p.a + part.batch * p.a_batch;
    part.w = p.w + part.batch * p.w_batch;
    part.k_begin = split * p.k_split;
    part.k_end = min(p.k, part.k_begin + p.k_split);
    part.steps = part.k_end > part.k_begin ? (part.k_end - part.k_begin + T::BK - 1) / T::BK : 0;
    return part;
}

// Both operands' stages, from global memory to shared.
template <typename T>
struct Stages {
    const IgemmParams& p;
    const Part& part;
    uint32_t shared;

    __device__ __forceinline__ uint32_t at(unsigned step) const { return shared + step % T::STAGES * T::STAGE_BYTES; }
    __device__ __forceinline__ void copy(unsigned step) const {
        const uint32_t to = at(step);
        const unsigned k = part.k_begin + step * T::BK;
        copy_operand<T::BM, T::BK, T::THREADS, T::ALIGNED>(to, part.a, p.a_stride, part.m0, part.rows, k, part.k_end);
        copy_operand<T::BN, T::BK, T::THREADS, T::ALIGNED>(to + T::BM * T::BK, part.w, p.w_stride, part.n0, part.cols,
                                                           k, part.k_end);
    }
};

// A thread's warp in the tile: its first row and column there.
struct WarpTile {
    unsigned lane, m, n;
};

// What a warp multiplies: two sets, one of which is multiplied while the other is read.
template <typename T>
struct Fragments {
    uint32_t a[2][T::MI][4], w[2][T::NI][2];

    __device__ __forceinline__ void load(const WarpTile& warp, unsigned set, uint32_t stage, unsigned ks) {
        const unsigned lane = warp.lane;
#pragma unroll
        for (unsigned i = 0; i < T::MI; ++i) {
            // Matrices: rows 0-7 and 8-15 of the first 16 k, then of the second.
            const unsigned row = warp.m + i * 16 + lane % 16, chunk = 2 * ks + lane / 16;
            uint32_t(&f)[4] = a[set][i];
            ptx::ldmatrix_x4(stage + swizzled<T::BK>(row, chunk), f[0], f[1], f[2], f[3]);
        }
#pragma unroll
        for (unsigned j = 0; j < T::NI; j += 2) {
            // Matrices: both halves of k of columns 0-7, then of columns 8-15.
            const unsigned col = warp.n + j * 8 + lane % 8 + lane / 16 * 8, chunk = 2 * ks + lane / 8 % 2;
            uint32_t(&f)[2] = w[set][j];
            uint32_t(&g)[2] = w[set][j + 1];
            ptx::ldmatrix_x4(stage + T::BM * T::BK + swizzled<T::BK>(col, chunk), f[0], f[1], g[0], g[1]);
        }
    }
};

// A warp's accumulators: of all K or, GROUPWISE, of a scale group, with the scaled total of those before it.
template <typename T, bool GROUPWISE>
struct Accumulators {
    int sum[T::MI][T::NI][4] = {};
    float total[GROUPWISE ? T::MI : 1][GROUPWISE ? T::NI : 1][4] = {};

    __device__ __forceinline__ void multiply(const Fragments<T>& f, unsigned set) {
#pragma unroll
        for (unsigned i = 0; i < T::MI; ++i) {
#pragma unroll
            for (unsigned j = 0; j < T::NI; ++j) {
                ptx::mma_s8(sum[i][j], f.a[set][i], f.w[set][j]);
            }
        }
    }

    // Adds what a scale group gave to the total, and begins the next. `col0`: the warp's first column.
    __device__ __forceinline__ void fold(const ScaleGroups& groups, unsigned group, unsigned lane, unsigned col0,
                                         unsigned cols) {
        const float* scales = groups.scales + group * groups.stride;
#pragma unroll
        for (unsigned j = 0; j < T::NI; ++j) {
            const unsigned col = col0 + j * 8 + lane % 4 * 2;
            const float s0 = col < cols ? __ldg(scales + col) : 0.0f;
            const float s1 = col + 1 < cols ? __ldg(scales + col + 1) : 0.0f;
#pragma unroll
            for (unsigned i = 0; i < T::MI; ++i) {
#pragma unroll
                for (unsigned c = 0; c < 4; ++c) {
                    total[i][j][c] = add_scaled(total[i][j][c], sum[i][j][c], c % 2 ? s1 : s0);
                    sum[i][j][c] = 0;
                }
            }
        }
    }

    // Four accumulators as words: the sums, or the bits of the totals.
    __device__ __forceinline__ int word(unsigned i, unsigned j, unsigned c) const {
        if constexpr (GROUPWISE) {
            return __float_as_int(total[i][j][c]);
        } else {
            return sum[i][j][c];
        }
    }
};

// The main loop.
template <typename T, bool GROUPWISE>
__device__ __forceinline__ void multiply(const Stages<T>& stages, const ScaleGroups& groups, const WarpTile& warp,
                                         Accumulators<T, GROUPWISE>& acc) {
    const IgemmParams& p = stages.p;
    const unsigned steps = stages.part.steps;
    Fragments<T> fragments;
#pragma unroll
    for (unsigned s = 0; s < T::STAGES - 1; ++s) {
        if (s < steps) {
            stages.copy(s);
        }
        ptx::cp_async_commit();
    }
    ptx::cp_async_wait<T::STAGES - 2>();
    __syncthreads();
    if (steps > 0) {
        fragments.load(warp, 0, stages.shared, 0);
    }
    for (unsigned step = 0; step < steps; ++step) {
        const uint32_t stage = stages.at(step);
#pragma unroll
        for (unsigned ks = 0; ks < T::KS; ++ks) {
            if (ks + 1 < T::KS) {
                fragments.load(warp, (ks + 1) % 2, stage, ks + 1);
            } else if (step + 1 < steps) {
                // The next stage has arrived, and nobody reads the one before this any more.
                ptx::cp_async_wait<T::STAGES - 2>();
                __syncthreads();
                fragments.load(warp, (ks + 1) % 2, stages.at(step + 1), 0);
            }
            if (ks == 0) {
                if (step + T::STAGES - 1 < steps) {
                    stages.copy(step + T::STAGES - 1);
                }
                // An empty group of copies keeps the count.
                ptx::cp_async_commit();
            }
            acc.multiply(fragments, ks % 2);
            if constexpr (GROUPWISE) {
                // At the end of a scale group, or of K inside one; what a stage has beyond K is of no group.
                const unsigned begin = step * T::BK + ks * 32, end = begin + 32;
                if (begin < p.k && (end >> groups.shift << groups.shift == end || end >= p.k)) {
                    acc.fold(groups, begin >> groups.shift, warp.lane, stages.part.n0 + warp.n, p.epilogue.cols);
                }
            }
        }
    }
    ptx::cp_async_wait<0>();
    __syncthreads();
}

// Finishes totals that were scaled group by group: the steps of finish() in epilogue.cuh without scales of columns.
__device__ __forceinline__ void finish_groupwise(const EpilogueParams& p, unsigned batch, unsigned row, unsigned col,
                                                 unsigned count, const int (&words)[QUAD]) {
    const float row_scale = row_scale_at(p, batch, row);
    float x[QUAD], bias[QUAD];
    bias_at(p, batch, col, count, bias);
#pragma unroll
    for (unsigned i = 0; i < QUAD; ++i) {
        x[i] = scaled_total(__int_as_float(words[i]), row_scale, bias[i]);
    }
    after_scaling(p, batch, row, col, count, x);
    const Place to = place(p, col, count);
    store(p, batch * p.output_batch + row * p.output_stride + to.col, to.count, x);
}

// The sums of one part of K, for epilogue_i32 to add: [batch and split, rows, cols].
__device__ __forceinline__ void store_partial(const IgemmParams& p, unsigned row, unsigned col, unsigned count,
                                              const int (&sum)[QUAD]) {
    const EpilogueParams& e = p.epilogue;
    int* to = p.partial + (uint64_t(blockIdx.y) * e.rows + row) * e.cols + col;
    if (e.cols % QUAD == 0) {
        *reinterpret_cast<int4*>(to) = make_int4(sum[0], sum[1], sum[2], sum[3]);
    } else {
#pragma unroll
        for (unsigned i = 0; i < QUAD; ++i) {
            if (i < count) {
                to[i] = sum[i];
            }
        }
    }
}

// Sixteen rows of a warp's accumulators to its strip of shared memory.
template <typename T, bool GROUPWISE>
__device__ __forceinline__ void fill_strip(int* strip, unsigned lane, unsigned pass,
                                           const Accumulators<T, GROUPWISE>& acc) {
#pragma unroll
    for (unsigned i = 0; i < T::MI; ++i) {
        // Registers have no index at run time.
        if (i == pass) {
#pragma unroll
            for (unsigned j = 0; j < T::NI; ++j) {
                int* to = strip + lane / 4 * T::STRIP_STRIDE + j * 8 + lane % 4 * 2;
                *reinterpret_cast<int2*>(to) = make_int2(acc.word(i, j, 0), acc.word(i, j, 1));
                *reinterpret_cast<int2*>(to + 8 * T::STRIP_STRIDE) = make_int2(acc.word(i, j, 2), acc.word(i, j, 3));
            }
        }
    }
}

// A strip to memory, from (row0, col0) on: a thread finishes four columns of a row.
template <typename T, bool GROUPWISE>
__device__ __forceinline__ void finish_strip(const IgemmParams& p, const Part& part, const int* strip, unsigned lane,
                                             unsigned row0, unsigned col0) {
    const EpilogueParams& e = p.epilogue;
    constexpr unsigned QUADS = T::WN / QUAD;
#pragma unroll 1
    for (unsigned id = lane; id < 16 * QUADS; id += 32) {
        const unsigned r = id / QUADS, c = id % QUADS * QUAD;
        const unsigned row = row0 + r, col = col0 + c;
        if (row < part.rows && col < e.cols) {
            const int4 v = *reinterpret_cast<const int4*>(strip + r * T::STRIP_STRIDE + c);
            int words[QUAD] = {v.x, v.y, v.z, v.w};
            const unsigned count = min(e.cols - col, QUAD);
            if constexpr (GROUPWISE) {
                finish_groupwise(e, part.batch, row, col, count, words);
            } else if (p.partial) {
                store_partial(p, row, col, count, words);
            } else {
                finish(e, part.batch, row, col, count, words);
            }
        }
    }
}

// One tile, from operands to output. GROUPWISE: the sums of each scale group are scaled and added up in f32, one after the
// other, before the epilogue.
template <typename T, bool GROUPWISE>
__device__ __forceinline__ void compute(const IgemmParams& p, const ScaleGroups& groups, const Part& part, uint8_t* shared) {
    const unsigned lane = threadIdx.x % 32, id = threadIdx.x / 32;
    const WarpTile warp{lane, id / T::WARPS_N * T::WM, id % T::WARPS_N * T::WN};
    const Stages<T> stages{p, part, ptx::shared_address(shared)};
    Accumulators<T, GROUPWISE> acc;
    multiply(stages, groups, warp, acc);

    int* strip = reinterpret_cast<int*>(shared) + id * (T::STRIP_BYTES / 4);
#pragma unroll 1
    for (unsigned pass = 0; pass < T::MI; ++pass) {
        fill_strip(strip, lane, pass, acc);
        __syncwarp();
        finish_strip<T, GROUPWISE>(p, part, strip, lane, part.m0 + warp.m + pass * 16, part.n0 + warp.n);
        __syncwarp();
    }
}

// A block's one tile of a product, or of a batch of them.
template <typename T, bool GROUPWISE>
__device__ __forceinline__ void igemm(const IgemmParams& p, const ScaleGroups& groups) {
    extern __shared__ __align__(1024) uint8_t shared[];
    compute<T, GROUPWISE>(p, groups, part_of<T>(p), shared);
}

}  // namespace imma
