// Which rows are whose in a grouped product: offsets or counts that only the device knows, read by a warp, 32 groups at a
// time, a lane each.
//
//   contiguous   group g has rows offsets[g] .. offsets[g + 1]
//   masked       group g has the first counts[g] of the `each` rows from g * each on
//
// A group is bad whose offsets are not 0 <= offsets[g] <= offsets[g + 1] <= rows, that starts before an earlier offset, or
// that counts more rows than there is room for: it has no rows here, so that rows of good groups are apart and inside.
#pragma once

#include <cstdint>

#include "params.h"

namespace imma {

// Tells the host: the last to come stays.
__device__ __forceinline__ void report(unsigned* fault, unsigned kind, unsigned which) {
    const unsigned most = (1u << IMMA_FAULT_BITS) - 1;
    *reinterpret_cast<volatile unsigned*>(fault) = kind << IMMA_FAULT_BITS | min(which, most);
}

struct GroupRows {
    unsigned first, end;
};

class GroupWindow {
   public:
    // The lane's group of this window; none beyond the last.
    unsigned base = 0;
    GroupRows rows;

    __device__ __forceinline__ GroupWindow(const GroupRowsParams& p, bool reports) : p(p), reports(reports) { read(); }

    // The next 32; false when there are none.
    __device__ __forceinline__ bool advance() {
        if (base + 32 >= p.groups) {
            return false;
        }
        base += 32;
        read();
        return true;
    }

   private:
    const GroupRowsParams& p;
    bool reports;
    int highest = 0; // of the offsets before the window

    __device__ __forceinline__ void read() {
        const unsigned lane = threadIdx.x % 32, group = base + lane;
        const bool there = group < p.groups;
        bool good = true;
        rows = {0, 0};
        if (p.offsets) {
            const int start = there ? __ldg(p.offsets + group) : 0, end = there ? __ldg(p.offsets + group + 1) : 0;
            // The largest offset up to this one's start, of all groups before it included.
            int upto = max(highest, start);
#pragma unroll
            for (unsigned apart = 1; apart < 32; apart *= 2) {
                const int other = __shfl_up_sync(0xffffffffu, upto, apart);
                upto = lane >= apart ? max(upto, other) : upto;
            }
            highest = __shfl_sync(0xffffffffu, upto, 31);
            good = start >= upto && start <= end && unsigned(end) <= p.rows;
            rows = {unsigned(start), unsigned(end)};
        } else if (there) {
            const int count = __ldg(p.counts + group);
            good = count >= 0 && unsigned(count) <= p.each;
            rows = {group * p.each, group * p.each + unsigned(count)};
        }
        if (!there || !good) {
            rows = {0, 0};
            if (there && reports) {
                report(p.fault, IMMA_FAULT_OFFSETS, group);
            }
        }
    }
};

// Whether a row is some group's. All lanes of the warp come here with the same row.
__device__ __forceinline__ bool is_some_groups(const GroupRowsParams& p, unsigned row) {
    GroupWindow window(p, false);
    do {
        if (__any_sync(0xffffffffu, window.rows.first <= row && row < window.rows.end)) {
            return true;
        }
    } while (window.advance());
    return false;
}

}  // namespace imma
