// What mma.sync can do at most: products of registers with registers, nothing read and nothing waited for.
//
// Eight independent accumulators a warp cover the instruction's latency; the sums are written once at the end, so that
// they can be checked.
#include "params.h"
#include "ptx.cuh"

extern "C" __global__ void __launch_bounds__(IMMA_PEAK_THREADS) peak_mma_s8(const PeakParams p) {
    const unsigned thread = blockIdx.x * IMMA_PEAK_THREADS + threadIdx.x;
    int c[IMMA_PEAK_CHAINS][4] = {};
    uint32_t a[4], b[2];
    uint32_t word = p.word ^ (thread * p.spread);
    // Not all bits the same from register to register where there is a spread.
    for (unsigned i = 0; i < 4; ++i) {
        a[i] = word;
        word += p.spread;
    }
    for (unsigned i = 0; i < 2; ++i) {
        b[i] = word;
        word += p.spread;
    }
#pragma unroll 1
    for (unsigned i = 0; i < p.iterations; ++i) {
#pragma unroll
        for (unsigned j = 0; j < IMMA_PEAK_CHAINS; ++j) {
            imma::ptx::mma_s8(c[j], a, b);
        }
    }
    unsigned sum = 0;
#pragma unroll
    for (unsigned j = 0; j < IMMA_PEAK_CHAINS; ++j) {
        for (unsigned i = 0; i < 4; ++i) {
            sum += unsigned(c[j][i]);
        }
    }
    p.sums[thread] = int(sum);
}
