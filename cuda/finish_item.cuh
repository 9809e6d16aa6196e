// The way out of igemm_sm90: a consumer's sums of an item, from its registers to the output.
//
//   whole K   plain, TMA does    finish_boxes      registers -> boxes -> TMA
//             plain              finish_strips     registers -> strips -> PlainStrip -> global
//             any epilogue                         registers -> strips -> four columns a thread -> global
//   split K                                        registers -> strips -> red.add -> int32 sums in memory, then
//             is_last            finish_added      the last part of the tile to come: sums -> epilogue -> global
#pragma once

#include "epilogue.cuh"
#include "finish_plain.cuh"
#include "finish_tensor.cuh"
#include "tile_sm90.cuh"

namespace imma {

// What a consumer has of an item: BLOCKS x 64 rows of the tall side by all of the wide side, strip by strip.
template <typename T>
struct Share {
    static constexpr unsigned PASSES = T::WIDE / T::PASS, STRIPS = T::BLOCKS * PASSES;
    // Rows and columns of the output.
    static constexpr unsigned ROWS = T::SWAPPED ? T::WIDE : T::BLOCKS * 64;
    static constexpr unsigned COLS = T::SWAPPED ? T::BLOCKS * 64 : T::WIDE;

    unsigned lane, warp; // of the warpgroup
    unsigned tall, wide;

    __device__ __forceinline__ unsigned tall_of(unsigned pass) const { return tall + pass / PASSES * 64 + warp * 16; }
    __device__ __forceinline__ unsigned wide_of(unsigned pass) const { return wide + pass % PASSES * T::PASS; }
    // First row and column of a pass's strip.
    __device__ __forceinline__ unsigned row_of(unsigned pass) const { return T::SWAPPED ? wide_of(pass) : tall_of(pass); }
    __device__ __forceinline__ unsigned col_of(unsigned pass) const { return T::SWAPPED ? tall_of(pass) : wide_of(pass); }
    __device__ __forceinline__ unsigned row0() const { return T::SWAPPED ? wide : tall; }
    __device__ __forceinline__ unsigned col0() const { return T::SWAPPED ? tall : wide; }
};

template <typename T>
using Sums = int[T::BLOCKS][T::SUMS];

template <typename T>
using Plain = PlainStrip<T::STRIP_ROWS, T::STRIP_COLS, T::STRIP_PITCH>;

// All sums through the output's tensor map; `boxes`: the warp's two.
template <typename T, typename Out>
__device__ __forceinline__ void finish_boxes(const EpilogueParams& e, const ptx::TensorMap* map, const Share<T>& share,
                                             uint8_t* boxes, const Sums<T>& sum) {
#pragma unroll
    for (unsigned i = 0; i < T::BLOCKS; ++i) {
        finish_tensor<Out, T::WIDE>(e, map, share.lane, boxes, share.tall + i * 64 + share.warp * 16, share.wide, sum[i]);
    }
}

// A pass's sums from wgmma's registers to the warp's strip, in the order of the output.
template <typename T>
__device__ __forceinline__ void fill_strip(int* strip, unsigned lane, unsigned pass, const Sums<T>& sum) {
    constexpr unsigned PASSES = Share<T>::PASSES;
#pragma unroll
    for (unsigned q = 0; q < Share<T>::STRIPS; ++q) {
        // Registers have no index at run time.
        if (q == pass) {
            const int(&d)[T::SUMS] = sum[q / PASSES];
#pragma unroll
            for (unsigned j = 0; j < T::PASS / 8; ++j) {
                const unsigned at = (q % PASSES * T::PASS / 8 + j) * 4;
                const unsigned r = lane / 4, c = j * 8 + lane % 4 * 2;
                if constexpr (T::SWAPPED) {
                    strip[c * T::STRIP_PITCH + r] = d[at];
                    strip[(c + 1) * T::STRIP_PITCH + r] = d[at + 1];
                    strip[c * T::STRIP_PITCH + r + 8] = d[at + 2];
                    strip[(c + 1) * T::STRIP_PITCH + r + 8] = d[at + 3];
                } else {
                    int* to = strip + r * T::STRIP_PITCH + c;
                    *reinterpret_cast<int2*>(to) = make_int2(d[at], d[at + 1]);
                    *reinterpret_cast<int2*>(to + 8 * T::STRIP_PITCH) = make_int2(d[at + 2], d[at + 3]);
                }
            }
        }
    }
}

// Adds a strip to the sums that the parts of K share.
template <typename T>
__device__ __forceinline__ void add_strip(const IgemmSm90Params& p, const int* strip, unsigned lane, unsigned row0,
                                          unsigned col0) {
    const EpilogueParams& e = p.epilogue;
#pragma unroll 4
    for (unsigned id = lane; id < T::STRIP_ROWS * T::STRIP_COLS; id += 32) {
        const unsigned r = id / T::STRIP_COLS, c = id % T::STRIP_COLS;
        if (row0 + r < e.rows && col0 + c < e.cols) {
            atomicAdd(p.sums + uint64_t(row0 + r) * e.cols + col0 + c, strip[r * T::STRIP_PITCH + c]);
        }
    }
}

// A strip through any epilogue, four columns a thread.
template <typename T>
__device__ __forceinline__ void finish_strip(const EpilogueParams& e, const int* strip, unsigned lane, unsigned row0,
                                             unsigned col0) {
    constexpr unsigned QUADS = T::STRIP_COLS / QUAD;
#pragma unroll 1
    for (unsigned id = lane; id < T::STRIP_ROWS * QUADS; id += 32) {
        const unsigned r = id / QUADS, c = id % QUADS * QUAD;
        if (row0 + r < e.rows && col0 + c < e.cols) {
            const int4 v = *reinterpret_cast<const int4*>(strip + r * T::STRIP_PITCH + c);
            int values[QUAD] = {v.x, v.y, v.z, v.w};
            finish(e, 0, row0 + r, col0 + c, min(e.cols - col0 - c, QUAD), values);
        }
    }
}

// All sums through the warp's strip, a pass at a time.
template <typename T>
__device__ __forceinline__ void finish_strips(const IgemmSm90Params& p, const Share<T>& share, bool plain, int* strip,
                                              const Sums<T>& sum) {
    const EpilogueParams& e = p.epilogue;
#pragma unroll 1
    for (unsigned pass = 0; pass < Share<T>::STRIPS; ++pass) {
        const unsigned row0 = share.row_of(pass), col0 = share.col_of(pass);
        Plain<T> ahead;
        if (plain && p.splits == 1) {
            ahead.load(e, share.lane, row0, col0);
        }
        fill_strip<T>(strip, share.lane, pass, sum);
        __syncwarp();
        if (p.splits > 1) {
            add_strip<T>(p, strip, share.lane, row0, col0);
        } else if (plain) {
            ahead.take(share.lane, strip);
            ahead.store(e);
        } else {
            finish_strip<T>(e, strip, share.lane, row0, col0);
        }
        __syncwarp();
    }
}

// Counts a part of the tile; whether it was the last to come, which finds all sums. `flag` is the consumer's.
__device__ __forceinline__ bool is_last(unsigned* arrived, unsigned splits, unsigned consumer, unsigned* flag) {
    __threadfence();
    ptx::bar_sync(1 + consumer, 128);
    if (threadIdx.x % 128 == 0) {
        *flag = atomicAdd(arrived, 1u);
        __threadfence();
    }
    ptx::bar_sync(1 + consumer, 128);
    const bool last = *flag == splits - 1;
    if (last) {
        __threadfence();
    }
    return last;
}

// The sums of all parts through the plain epilogue; the next pass is on its way while this one is finished.
template <typename T>
__device__ __forceinline__ void finish_added_plain(const IgemmSm90Params& p, const Share<T>& share) {
    const EpilogueParams& e = p.epilogue;
    Plain<T> now, next;
    now.load(e, share.lane, share.row_of(0), share.col_of(0));
    now.take_added(e, p.sums);
#pragma unroll 1
    for (unsigned pass = 0; pass < Share<T>::STRIPS; ++pass) {
        if (pass + 1 < Share<T>::STRIPS) {
            next.load(e, share.lane, share.row_of(pass + 1), share.col_of(pass + 1));
            next.take_added(e, p.sums);
        }
        now.store(e);
        now = next;
    }
}

// The same through any epilogue.
template <typename T>
__device__ __forceinline__ void finish_added(const IgemmSm90Params& p, const Share<T>& share) {
    const EpilogueParams& e = p.epilogue;
    constexpr unsigned QUADS = Share<T>::COLS / QUAD;
#pragma unroll 1
    for (unsigned id = threadIdx.x % 128; id < Share<T>::ROWS * QUADS; id += 128) {
        const unsigned row = share.row0() + id / QUADS, col = share.col0() + id % QUADS * QUAD;
        if (row < e.rows && col < e.cols) {
            const unsigned count = min(e.cols - col, QUAD);
            int values[QUAD];
            take_sums(p.sums + uint64_t(row) * e.cols + col, count, e.cols % QUAD == 0, values);
            finish(e, 0, row, col, count, values);
        }
    }
}

// The part of an item's output that a consumer has sums of: to memory, through the epilogue.
template <typename T>
__device__ __forceinline__ void finish_item(const IgemmSm90Params& p, const ptx::TensorMap* map_out, const Item& item,
                                            unsigned consumer, uint8_t* strips, unsigned* flag, const Sums<T>& sum) {
    const EpilogueParams& e = p.epilogue;
    const unsigned half = T::PINGPONG ? 0 : consumer;
    const Share<T> share{threadIdx.x % 32, threadIdx.x / 32 % 4, item.tall + half * T::BLOCKS * 64, item.wide};
    const bool plain = is_plain(e);
    const unsigned own = threadIdx.x / 32 - 4;
    if constexpr (!T::SWAPPED) {
        if (plain && p.tensor_store) {
            // Closer together than strips: boxes start at multiples of their size.
            uint8_t* boxes = strips + own * 2 * BOX_BYTES;
            switch (e.output_type) {
                case IMMA_TYPE_F32: return finish_boxes<T, F32>(e, map_out, share, boxes, sum);
                case IMMA_TYPE_F16: return finish_boxes<T, F16>(e, map_out, share, boxes, sum);
                default: return finish_boxes<T, BF16>(e, map_out, share, boxes, sum);
            }
        }
    }
    finish_strips<T>(p, share, plain, reinterpret_cast<int*>(strips + own * T::STRIP_BYTES), sum);
    if (p.splits == 1) {
        return;
    }
    // Each consumer counts for its own rows.
    unsigned* arrived = p.arrived + item.tile * T::READERS + half;
    if (!is_last(arrived, p.splits, consumer, flag)) {
        return;
    }
    if (plain) {
        finish_added_plain<T>(p, share);
    } else {
        finish_added<T>(p, share);
    }
    if (threadIdx.x % 128 == 0) {
        *arrived = 0;
    }
}

}  // namespace imma
