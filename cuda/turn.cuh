// Turning bytes: 16 rows of one word become four 16-byte runs down the rows.
//
//   word[j] = row j's bytes of columns c .. c + 3           run[i] = column c + i's bytes of rows 0 .. 15
#pragma once

#include <cstdint>

namespace imma {

__device__ __forceinline__ void turn(const uint32_t (&word)[16], uint4 (&run)[4]) {
    uint32_t out[4][4];
#pragma unroll
    for (unsigned g = 0; g < 4; ++g) {
        // A 4x4 block of bytes: first pairs of rows, then pairs of pairs.
        const uint32_t a = word[4 * g], b = word[4 * g + 1], c = word[4 * g + 2], d = word[4 * g + 3];
        const uint32_t ab01 = __byte_perm(a, b, 0x5140), ab23 = __byte_perm(a, b, 0x7362);
        const uint32_t cd01 = __byte_perm(c, d, 0x5140), cd23 = __byte_perm(c, d, 0x7362);
        out[0][g] = __byte_perm(ab01, cd01, 0x5410);
        out[1][g] = __byte_perm(ab01, cd01, 0x7632);
        out[2][g] = __byte_perm(ab23, cd23, 0x5410);
        out[3][g] = __byte_perm(ab23, cd23, 0x7632);
    }
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
        run[i] = make_uint4(out[i][0], out[i][1], out[i][2], out[i][3]);
    }
}

// Bytes first .. first + 15 of a row that is `length` bytes long: whatever lies beyond is left out.
__device__ __forceinline__ void store_run(int8_t* row, uint64_t first, uint64_t length, const uint4& run) {
    int8_t* address = row + first;
    if (first + 16 <= length && reinterpret_cast<uintptr_t>(address) % 16 == 0) {
        *reinterpret_cast<uint4*>(address) = run;
        return;
    }
    const uint32_t word[4] = {run.x, run.y, run.z, run.w};
#pragma unroll
    for (unsigned i = 0; i < 16; ++i) {
        if (first + i < length) {
            address[i] = int8_t(word[i / 4] >> (8 * (i % 4)));
        }
    }
}

}  // namespace imma
