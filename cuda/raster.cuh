// Which tile a block takes. Tiles are walked down the tall side `rows` of them at a time, then along the wide side, so
// that the blocks in flight share rows of both operands in L2:
//
//   rows = 2       wide 0 1 2
//   tall 0              0 2 4        then the next two rows of tiles, the last of which may be fewer
//        1              1 3 5
//        2              6 7 8
#pragma once

namespace imma {

struct RasterTile {
    unsigned tall, wide;
};

__device__ __forceinline__ RasterTile raster(unsigned id, unsigned tiles_tall, unsigned tiles_wide, unsigned rows) {
    const unsigned band_tiles = rows * tiles_wide;
    const unsigned band = id / band_tiles, within = id % band_tiles;
    const unsigned first = band * rows, height = min(tiles_tall - first, rows);
    return {first + within % height, within / height};
}

}  // namespace imma
