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

__device__ inline bf16 one(Round a, float x, long long index) {
    unsigned bits = __float_as_uint(x);
    bool finite = (bits & 0x7f800000) != 0x7f800000;
    return finite ? bf16{(unsigned short)((bits + noise(a.seed, index)) >> 16)} : nearest<bf16>(x);
}

// Four numbers a thread, the last ones alone.
extern "C" __global__ void rounded(Round a) {
    long long i = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (i + 4 <= a.count) {
        float4 x = load4(a.x + i);
        store4(a.out + i, make_float4(wide(one(a, x.x, i)), wide(one(a, x.y, i + 1)), wide(one(a, x.z, i + 2)),
                                      wide(one(a, x.w, i + 3))));
        return;
    }
    for (; i < a.count; i++) a.out[i] = one(a, a.x[i], i);
}
