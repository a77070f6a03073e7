// Rotary position embedding in place: a thread turns four pairs of a head. `half` is a multiple of 4.
#include "kernel.cuh"

struct Rotate {
    void *x;
    const void *cos;
    const void *sin;
    const void *minus_sin;
    long long rows;
    int heads;
    int head_dim;
    int half;
};

template <class T> __device__ void rotate(Rotate a) {
    int quarters = a.half / 4;
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    long long head = thread / quarters, row = head / a.heads;
    if (row >= a.rows) return;
    int i = 4 * (int)(thread % quarters);
    T *first = (T *)a.x + head * a.head_dim + i, *second = first + a.half;
    long long at = row * a.half + i;
    float4 c = load4((const T *)a.cos + at), s = load4((const T *)a.sin + at), m = load4((const T *)a.minus_sin + at);
    float4 x = load4(first), y = load4(second);
    store4(first,
           make_float4(x.x * c.x + y.x * m.x, x.y * c.y + y.y * m.y, x.z * c.z + y.z * m.z, x.w * c.w + y.w * m.w));
    store4(second,
           make_float4(y.x * c.x + x.x * s.x, y.y * c.y + x.y * s.y, y.z * c.z + x.z * s.z, y.w * c.w + x.w * s.w));
}

extern "C" __global__ void rotate_f32(Rotate a) { rotate<float>(a); }
extern "C" __global__ void rotate_bf16(Rotate a) { rotate<bf16>(a); }
