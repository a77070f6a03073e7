// SwiGLU and its gradients, four numbers a thread; `count` is a multiple of 4. Outputs may be inputs.
#include "kernel.cuh"

__device__ inline float sigmoid(float x) { return 1 / (1 + expf(-x)); }

struct Forward {
    const void *gate;
    const void *up;
    void *out;
    long long count;
};

template <class T> __device__ void forward(Forward a) {
    long long i = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= a.count) return;
    float4 g = load4((const T *)a.gate + i), u = load4((const T *)a.up + i);
    store4((T *)a.out + i, make_float4(g.x * sigmoid(g.x) * u.x, g.y * sigmoid(g.y) * u.y, g.z * sigmoid(g.z) * u.z,
                                       g.w * sigmoid(g.w) * u.w));
}

struct Backward {
    const void *gate;
    const void *up;
    const void *grad;
    void *grad_gate;
    void *grad_up;
    long long count;
};

// silu'(g) = s + silu (1 - s)
__device__ inline float slope(float g) {
    float s = sigmoid(g);
    return s + g * s * (1 - s);
}

template <class T> __device__ void backward(Backward a) {
    long long i = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= a.count) return;
    float4 g = load4((const T *)a.gate + i), u = load4((const T *)a.up + i), d = load4((const T *)a.grad + i);
    store4((T *)a.grad_gate + i,
           make_float4(d.x * u.x * slope(g.x), d.y * u.y * slope(g.y), d.z * u.z * slope(g.z), d.w * u.w * slope(g.w)));
    store4((T *)a.grad_up + i, make_float4(d.x * g.x * sigmoid(g.x), d.y * g.y * sigmoid(g.y), d.z * g.z * sigmoid(g.z),
                                           d.w * g.w * sigmoid(g.w)));
}

extern "C" __global__ void forward_f32(Forward a) { forward<float>(a); }
extern "C" __global__ void forward_bf16(Forward a) { forward<bf16>(a); }
extern "C" __global__ void backward_f32(Backward a) { backward<float>(a); }
extern "C" __global__ void backward_bf16(Backward a) { backward<bf16>(a); }
