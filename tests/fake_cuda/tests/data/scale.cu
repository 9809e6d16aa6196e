// Kernels of the driver's own tests. Made into fatbins by
//   nvcc -fatbin -no-compress                -gencode arch=compute_80,code=[sm_80,compute_80] scale.cu -o scale.fatbin
//   nvcc -fatbin -Xfatbin --compress-all     ... -o scale_zstd.fatbin
//   nvcc -fatbin -Xfatbin --compress-mode=speed ... -o scale_lz4.fatbin
extern "C" __global__ void scale(const float* __restrict__ in, float* __restrict__ out, unsigned n, float a) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = __fmul_rn(in[i], a);
}

// Reverses blockDim.x integers through dynamic shared memory.
extern "C" __global__ void reverse(int* data) {
    extern __shared__ int buffer[];
    buffer[threadIdx.x] = data[threadIdx.x];
    __syncthreads();
    data[threadIdx.x] = buffer[blockDim.x - 1 - threadIdx.x];
}
