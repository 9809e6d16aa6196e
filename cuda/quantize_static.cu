// Quantisation with a scale known beforehand: elementwise, nothing is looked at first.
//
//   blockIdx.x  segments of IMMA_FLAT_THREADS * IMMA_FLAT_VECTORS chunks of a row; the first also takes its edges
//   blockIdx.y  rows, with a stride of gridDim.y
#include "vector.cuh"

namespace imma {

template <typename T, typename Rule>
__device__ __forceinline__ void quantize_static(const QuantizeStaticParams& p) {
    constexpr unsigned V = LANES<T>, THREADS = IMMA_FLAT_THREADS, VECTORS = IMMA_FLAT_VECTORS;
    static_assert(2 * V <= THREADS, "a block covers both edges");
    const unsigned t = threadIdx.x;
    for (uint64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
        const T* input = static_cast<const T*>(p.input) + row * p.input_stride;
        int8_t* output = reinterpret_cast<int8_t*>(p.output) + row * p.output_stride;
        const uint64_t index = row * p.cols;
        const Split<T, uint64_t> split(input, p.cols);
        const uint64_t first = uint64_t(blockIdx.x) * (THREADS * VECTORS) + t;
        uint4 raw[VECTORS];
#pragma unroll
        for (unsigned i = 0; i < VECTORS; ++i) {
            const uint64_t chunk = first + i * THREADS;
            raw[i] = chunk < split.chunks ? load_vector(input + split.at(chunk)) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (unsigned i = 0; i < VECTORS; ++i) {
            const uint64_t chunk = first + i * THREADS;
            if (chunk < split.chunks) {
                int q[V];
                quantize_chunk<T, Rule>(raw[i], p.multiplier, p.zero_point, p.seed, index + split.at(chunk), q);
                store_bytes(output + split.at(chunk), q);
            }
        }
        const uint64_t edge = split.edge(t);
        if (blockIdx.x == 0 && edge != split.NONE) {
            output[edge] = quantize_one<Rule>(widen(input[edge]), p.multiplier, p.zero_point, p.seed, index + edge);
        }
    }
}

}  // namespace imma

// The GEMM that follows may set up its ring meanwhile; it waits for the end of this before it reads anything.
#define ENTRY(name, T, Rule)                                                                              \
    extern "C" __global__ void __launch_bounds__(IMMA_FLAT_THREADS) name(const QuantizeStaticParams p) { \
        imma::ptx::griddepcontrol_launch_dependents();                                                     \
        imma::quantize_static<imma::T, imma::Rule>(p);                                                     \
    }
ENTRY(quantize_static_f32, F32, NearestEven)
ENTRY(quantize_static_f16, F16, NearestEven)
ENTRY(quantize_static_bf16, BF16, NearestEven)
ENTRY(quantize_static_stochastic_f32, F32, Stochastic)
ENTRY(quantize_static_stochastic_f16, F16, Stochastic)
ENTRY(quantize_static_stochastic_bf16, BF16, Stochastic)
ENTRY(quantize_static_asymmetric_f32, F32, Asymmetric)
ENTRY(quantize_static_asymmetric_f16, F16, Asymmetric)
ENTRY(quantize_static_asymmetric_bf16, BF16, Asymmetric)
