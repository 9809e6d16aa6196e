// Per-token quantisation of the rows that are some group's, which only the device knows: what comes between two grouped
// products. The others are neither read nor written.
#include "copied_rows.cuh"
#include "group_rows.cuh"

extern "C" __global__ void __launch_bounds__(IMMA_ROWS_MAX_THREADS) quantize_grouped_f32(const QuantizeGroupedParams p) {
    const uint64_t row = uint64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    // A warp is of one row. Rows beyond the last stay for the barrier, with nothing to read.
    const bool live = row < p.rows.rows && imma::is_some_groups(p.rows, unsigned(row));
    const imma::RowPlaces to{reinterpret_cast<int8_t*>(p.output), p.scales, p.output_stride, p.padded};
    const float* input = p.input + (live ? row * p.input_stride : 0);
    imma::copy_row<imma::F32>(input, live ? p.cols : 0, to, live, [&](unsigned) { return int(row); });
}
