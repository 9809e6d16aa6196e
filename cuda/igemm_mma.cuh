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
// With scales that change along K the sums of a group become f32 in registers, are scaled and added up there: one more set of
// accumulators, and K is not split, as the order of these additions is part of the result.
#pragma once

#include "epilogue.cuh"

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
            asm volatile("st.shared.u32 [%0], %1;" ::"r"(to + 4 * i), "r"(word) : "memory");
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

// The scales of weights that change along K.
struct GroupScales {
    const float* scales; // [groups, cols]
    uint64_t stride;
    unsigned shift; // log2 of the k of a group, a multiple of 32
};

// Finishes sums that were scaled group by group: the steps of finish() in epilogue.cuh without scales of columns.
__device__ __forceinline__ void finish_grouped(const EpilogueParams& p, unsigned row, unsigned col, unsigned count,
                                               float (&x)[GROUP]) {
    const float row_scale = p.row_scales ? p.row_scales[row * p.row_step] : 1.0f;
    if (p.bias_type) {
        float bias[GROUP];
        load_typed(p.bias_type, p.bias, col, count, p.vectors & IMMA_VECTOR_BIAS, bias);
#pragma unroll
        for (unsigned i = 0; i < GROUP; ++i) {
            x[i] = __fmaf_rn(x[i], row_scale, bias[i]);
        }
    } else {
#pragma unroll
        for (unsigned i = 0; i < GROUP; ++i) {
            x[i] = __fmul_rn(x[i], row_scale);
        }
    }
    after_scaling(p, 0, row, col, count, x);
    const Place to = place(p, col, count);
    store(p, row * p.output_stride + to.col, to.count, x);
}

// GROUPED: the sums of each group are scaled and added up in f32, group after group, before the epilogue.
template <typename T, bool GROUPED>
__device__ __forceinline__ void igemm(const IgemmParams& p, const GroupScales& scales) {
    extern __shared__ __align__(1024) uint8_t shared[];
    const uint32_t stages = ptx::shared_address(shared);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned warp_m = warp / T::WARPS_N * T::WM, warp_n = warp % T::WARPS_N * T::WN;

    // Tiles in groups of rows, so that blocks in flight share rows of a and columns of w in L2.
    const unsigned width = p.group_m * p.tiles_n;
    const unsigned group = blockIdx.x / width, within = blockIdx.x % width;
    const unsigned first = group * p.group_m, height = min(p.tiles_m - first, p.group_m);
    const unsigned m0 = (first + within % height) * T::BM, n0 = within / height * T::BN;
    const unsigned batch = blockIdx.y / p.splits, split = blockIdx.y % p.splits;

    const int8_t* a = p.a + batch * p.a_batch;
    const int8_t* w = p.w + batch * p.w_batch;
    const unsigned k_begin = split * p.k_split;
    const unsigned k_end = min(p.k, k_begin + p.k_split);
    const unsigned steps = k_end > k_begin ? (k_end - k_begin + T::BK - 1) / T::BK : 0;
    const EpilogueParams& e = p.epilogue;

    const auto copy = [&](unsigned step) {
        const uint32_t to = stages + step % T::STAGES * T::STAGE_BYTES;
        const unsigned k = k_begin + step * T::BK;
        copy_operand<T::BM, T::BK, T::THREADS, T::ALIGNED>(to, a, p.a_stride, m0, e.rows, k, k_end);
        copy_operand<T::BN, T::BK, T::THREADS, T::ALIGNED>(to + T::BM * T::BK, w, p.w_stride, n0, e.cols, k, k_end);
    };

    int sum[T::MI][T::NI][4] = {};
    float total[GROUPED ? T::MI : 1][GROUPED ? T::NI : 1][4] = {};
    // Adds what a group gave to the totals, and begins the next.
    const auto fold = [&](unsigned group) {
        const float* of_group = scales.scales + group * scales.stride;
#pragma unroll
        for (unsigned j = 0; j < T::NI; ++j) {
            const unsigned col = n0 + warp_n + j * 8 + lane % 4 * 2;
            const float s0 = col < e.cols ? __ldg(of_group + col) : 0.0f;
            const float s1 = col + 1 < e.cols ? __ldg(of_group + col + 1) : 0.0f;
#pragma unroll
            for (unsigned i = 0; i < T::MI; ++i) {
#pragma unroll
                for (unsigned c = 0; c < 4; ++c) {
                    float& to = total[i][j][c];
                    to = __fmaf_rn(__int2float_rn(sum[i][j][c]), c % 2 ? s1 : s0, to);
                    sum[i][j][c] = 0;
                }
            }
        }
    };
    // Two sets: one is multiplied while the other is read.
    uint32_t fa[2][T::MI][4], fw[2][T::NI][2];
    const auto fragments = [&](unsigned set, uint32_t stage, unsigned ks) {
#pragma unroll
        for (unsigned i = 0; i < T::MI; ++i) {
            // Matrices: rows 0-7 and 8-15 of the first 16 k, then of the second.
            const unsigned row = warp_m + i * 16 + lane % 16, chunk = 2 * ks + lane / 16;
            uint32_t(&f)[4] = fa[set][i];
            ptx::ldmatrix_x4(stage + swizzled<T::BK>(row, chunk), f[0], f[1], f[2], f[3]);
        }
#pragma unroll
        for (unsigned j = 0; j < T::NI; j += 2) {
            // Matrices: both halves of k of columns 0-7, then of columns 8-15.
            const unsigned col = warp_n + j * 8 + lane % 8 + lane / 16 * 8, chunk = 2 * ks + lane / 8 % 2;
            uint32_t(&f)[2] = fw[set][j];
            uint32_t(&g)[2] = fw[set][j + 1];
            ptx::ldmatrix_x4(stage + T::BM * T::BK + swizzled<T::BK>(col, chunk), f[0], f[1], g[0], g[1]);
        }
    };

#pragma unroll
    for (unsigned s = 0; s < T::STAGES - 1; ++s) {
        if (s < steps) {
            copy(s);
        }
        ptx::cp_async_commit();
    }
    ptx::cp_async_wait<T::STAGES - 2>();
    __syncthreads();
    if (steps > 0) {
        fragments(0, stages, 0);
    }
    for (unsigned step = 0; step < steps; ++step) {
        const uint32_t stage = stages + step % T::STAGES * T::STAGE_BYTES;
#pragma unroll
        for (unsigned ks = 0; ks < T::KS; ++ks) {
            if (ks + 1 < T::KS) {
                fragments((ks + 1) % 2, stage, ks + 1);
            } else if (step + 1 < steps) {
                // The next stage has arrived, and nobody reads the one before this any more.
                ptx::cp_async_wait<T::STAGES - 2>();
                __syncthreads();
                fragments((ks + 1) % 2, stages + (step + 1) % T::STAGES * T::STAGE_BYTES, 0);
            }
            if (ks == 0) {
                if (step + T::STAGES - 1 < steps) {
                    copy(step + T::STAGES - 1);
                }
                // An empty group keeps the count.
                ptx::cp_async_commit();
            }
#pragma unroll
            for (unsigned i = 0; i < T::MI; ++i) {
#pragma unroll
                for (unsigned j = 0; j < T::NI; ++j) {
                    ptx::mma_s8(sum[i][j], fa[ks % 2][i], fw[ks % 2][j]);
                }
            }
            if constexpr (GROUPED) {
                // At the end of a group, or of K inside one; what a stage has beyond K is of no group.
                const unsigned begin = step * T::BK + ks * 32, end = begin + 32;
                if (begin < p.k && (end >> scales.shift << scales.shift == end || end >= p.k)) {
                    fold(begin >> scales.shift);
                }
            }
        }
    }
    ptx::cp_async_wait<0>();
    __syncthreads();

    int* strip = reinterpret_cast<int*>(shared) + warp * (T::STRIP_BYTES / 4);
#pragma unroll 1
    for (unsigned pass = 0; pass < T::MI; ++pass) {
#pragma unroll
        for (unsigned i = 0; i < T::MI; ++i) {
            // Registers have no index at run time.
            if (i == pass) {
#pragma unroll
                for (unsigned j = 0; j < T::NI; ++j) {
                    int* to = strip + lane / 4 * T::STRIP_STRIDE + j * 8 + lane % 4 * 2;
                    int v[4];
#pragma unroll
                    for (unsigned c = 0; c < 4; ++c) {
                        if constexpr (GROUPED) {
                            v[c] = __float_as_int(total[i][j][c]);
                        } else {
                            v[c] = sum[i][j][c];
                        }
                    }
                    *reinterpret_cast<int2*>(to) = make_int2(v[0], v[1]);
                    *reinterpret_cast<int2*>(to + 8 * T::STRIP_STRIDE) = make_int2(v[2], v[3]);
                }
            }
        }
        __syncwarp();
        constexpr unsigned GROUPS = T::WN / GROUP;
#pragma unroll 1
        for (unsigned id = lane; id < 16 * GROUPS; id += 32) {
            const unsigned r = id / GROUPS, c = id % GROUPS * GROUP;
            const unsigned row = m0 + warp_m + pass * 16 + r, col = n0 + warp_n + c;
            if (row < e.rows && col < e.cols) {
                const int4 v = *reinterpret_cast<const int4*>(strip + r * T::STRIP_STRIDE + c);
                int values[GROUP] = {v.x, v.y, v.z, v.w};
                const unsigned count = min(e.cols - col, GROUP);
                if constexpr (GROUPED) {
                    float x[GROUP];
#pragma unroll
                    for (unsigned i = 0; i < GROUP; ++i) {
                        x[i] = __int_as_float(values[i]);
                    }
                    finish_grouped(e, row, col, count, x);
                } else if (p.partial) {
                    const uint64_t at = (uint64_t(blockIdx.y) * e.rows + row) * e.cols + col;
                    if (e.cols % GROUP == 0) {
                        *reinterpret_cast<int4*>(p.partial + at) = v;
                    } else {
#pragma unroll
                        for (unsigned i = 0; i < GROUP; ++i) {
                            if (i < count) {
                                p.partial[at + i] = values[i];
                            }
                        }
                    }
                } else {
                    finish(e, batch, row, col, count, values);
                }
            }
        }
        __syncwarp();
    }
}

}  // namespace imma
