// What the kernels share: numbers in memory, four at a time, and sums over a warp.
//
// No header of CUDA is included, so that nvrtc alone compiles a kernel, and a C++ compiler after emulator.hpp.
#pragma once

#define MINUS_INFINITY __uint_as_float(0xff800000)

struct bf16 {
    unsigned short bits;
};

__device__ inline float wide(float x) { return x; }
__device__ inline float wide(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

// The nearest number of a type, of two equally near ones the even one.
template <class T> __device__ T nearest(float x);
template <> __device__ inline float nearest<float>(float x) { return x; }
template <> __device__ inline bf16 nearest<bf16>(float x) {
    unsigned bits = __float_as_uint(x);
    if (x != x) return {(unsigned short)(bits >> 16 | 0x40)};
    return {(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// Four numbers at an address that their size divides.
__device__ inline float4 load4(const float *from) { return *(const float4 *)from; }
__device__ inline float4 load4(const bf16 *from) {
    uint2 two = *(const uint2 *)from;
    return make_float4(__uint_as_float(two.x << 16), __uint_as_float(two.x & 0xffff0000), __uint_as_float(two.y << 16),
                       __uint_as_float(two.y & 0xffff0000));
}
__device__ inline void store4(float *to, float4 x) { *(float4 *)to = x; }
__device__ inline void store4(bf16 *to, float4 x) {
    unsigned a = nearest<bf16>(x.x).bits, b = nearest<bf16>(x.y).bits;
    unsigned c = nearest<bf16>(x.z).bits, d = nearest<bf16>(x.w).bits;
    *(uint2 *)to = make_uint2(a | b << 16, c | d << 16);
}

// The sum over the threads of a warp, in each of them.
__device__ inline float warp_sum(float x) {
    for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(0xffffffff, x, apart);
    return x;
}
__device__ inline float warp_max(float x) {
    for (int apart = 16; apart > 0; apart /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, apart));
    return x;
}
