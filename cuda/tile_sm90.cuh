// An instance of igemm_sm90: its tile, what it keeps in shared memory, and the items that its blocks walk over.
#pragma once

#include "finish_tensor.cuh"
#include "params.h"
#include "raster.cuh"

namespace imma {

template <unsigned TALL_, unsigned WIDE_, unsigned STAGES_, unsigned CLUSTER_, bool PINGPONG_, bool SWAPPED_>
struct Hopper {
    static constexpr unsigned TALL = TALL_, WIDE = WIDE_, STAGES = STAGES_, CLUSTER = CLUSTER_;
    static constexpr bool PINGPONG = PINGPONG_, SWAPPED = SWAPPED_;
    static constexpr unsigned BK = 128;
    // 64-row blocks of a consumer, and its accumulators for each.
    static constexpr unsigned BLOCKS = TALL / 64 / (PINGPONG ? 1 : 2), SUMS = WIDE / 2;
    static constexpr unsigned TALL_BYTES = TALL * BK, WIDE_BYTES = WIDE * BK, STAGE_BYTES = TALL_BYTES + WIDE_BYTES;
    // Consumer warpgroups that read a stage.
    static constexpr unsigned READERS = PINGPONG ? 1 : 2;

    // A strip of sums in shared memory, one a warp, in the order of the output: STRIP_ROWS x STRIP_COLS. Its pitch
    // puts what a half warp writes, and what eight lanes read, into different banks.
    //   normal: 16 rows of a, 32 columns of the wide side at a time
    //   swapped: up to 32 tokens of the wide side at a time, 16 columns
    static constexpr unsigned PASS = SWAPPED ? (WIDE <= 32 ? WIDE : WIDE / 2) : 32;
    static constexpr unsigned STRIP_ROWS = SWAPPED ? PASS : 16, STRIP_COLS = SWAPPED ? 16 : PASS;
    static constexpr unsigned STRIP_PITCH = SWAPPED ? 20 : 40;
    static constexpr unsigned STRIP_BYTES = 2560;
    static constexpr unsigned SHARED = STAGES * STAGE_BYTES + 8 * STRIP_BYTES + (2 * STAGES + 2) * 8 + 16;

    static_assert(TALL % 64 == 0 && BLOCKS >= 1 && BLOCKS * (PINGPONG ? 1 : 2) * 64 == TALL, "whole wgmmas");
    static_assert(WIDE % 8 == 0 && WIDE / CLUSTER % 8 == 0 && WIDE <= 256, "whole groups of eight rows");
    static_assert(WIDE % PASS == 0 && PASS % 8 == 0 && BLOCKS * SUMS <= 128, "whole passes that fit registers");
    static_assert(STRIP_ROWS * STRIP_PITCH * 4 <= STRIP_BYTES, "a strip holds a pass");
    // A launch uses strips or boxes, in the same place.
    static_assert(2 * BOX_BYTES <= STRIP_BYTES && (STAGES * STAGE_BYTES) % BOX_BYTES == 0, "boxes fit and are aligned");
    static_assert(STAGE_BYTES % 1024 == 0 && TALL_BYTES % 1024 == 0, "swizzled rows start at multiples of 1024");
    static_assert(SHARED <= 232448, "227 KiB");
};

// Registers of a thread: 384 threads share 65,536, so the launch gives 168 each.
constexpr unsigned PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
static_assert(PRODUCER_REGISTERS + 2 * CONSUMER_REGISTERS <= 3 * 168, "what the launch gave");

// A part of K of a tile.
struct Item {
    unsigned tall, wide; // first rows of this block's tile
    unsigned tile;       // number of the tile
    unsigned k, steps;
};

template <typename T>
__device__ __forceinline__ Item item_at(const IgemmSm90Params& p, unsigned id, unsigned rank) {
    const unsigned tiles = p.tiles_tall * p.tiles_wide;
    const unsigned split = id / tiles;
    const RasterTile at = raster(id % tiles, p.tiles_tall, p.tiles_wide, p.raster_rows);
    // The blocks of a cluster take tiles that follow one another along the tall side.
    const unsigned tall = at.tall * T::CLUSTER + rank;
    const unsigned k = split * p.k_split;
    const unsigned steps = (min(p.k - k, p.k_split) + T::BK - 1) / T::BK;
    return {tall * T::TALL, at.wide * T::WIDE, tall * p.tiles_wide + at.wide, k, steps};
}

}  // namespace imma
