// Stochastic rounding of f32 to bf16 with the noise that `noise` of mod.rs computes: the numbers of `cpu`.
#include "kernel.cuh"

struct Round {
    const float *x;
    bf16 *out;
    unsigned long long seed;
    long long count;
};

__device__ inline unsigned noise(unsigned long long seed, long long index) {
    unsigned long long z = seed + (unsigned long long)(index + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (unsigned)((z ^ (z >> 31)) >> 48);
}

extern "C" __global__ void rounded(Round a) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.count) return;
    unsigned bits = __float_as_uint(a.x[i]);
    bool finite = (bits & 0x7f800000) != 0x7f800000;
    a.out[i] = finite ? bf16{(unsigned short)((bits + noise(a.seed, i)) >> 16)} : nearest<bf16>(a.x[i]);
}
