// Root-mean-square norm and its gradients: a warp or a block a row, a weight's gradient in columns. Widths are multiples of 4.
#include "kernel.cuh"

// The sum over the threads of a row: a warp, or the whole block.
__device__ inline float row_sum(float x, int threads) {
    __shared__ float of_warp[32];
    x = warp_sum(x);
    if (threads == 32) return x;
    int lane = threadIdx.x % 32;
    if (lane == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_sum(lane < blockDim.x / 32 ? of_warp[lane] : 0);
}

struct Forward {
    const void *x;
    const float *weight;
    void *y;
    float *r;
    long long rows;
    int width;
    // Threads of a row: 32 or those of the block.
    int threads;
    float eps;
};

template <class X, class Y> __device__ void forward(Forward a) {
    long long row = (long long)blockIdx.x * (blockDim.x / a.threads) + threadIdx.x / a.threads;
    if (row >= a.rows) return;
    int first = 4 * (threadIdx.x % a.threads), next = 4 * a.threads;
    const X *x = (const X *)a.x + row * a.width;
    Y *y = (Y *)a.y + row * a.width;
    float squares = 0;
#pragma unroll 4
    for (int i = first; i < a.width; i += next) {
        float4 v = load4(x + i);
        squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    float r = 1 / sqrtf(row_sum(squares, a.threads) / a.width + a.eps);
    if (first == 0) a.r[row] = r;
    for (int i = first; i < a.width; i += next) {
        float4 v = load4(x + i), w = load4(a.weight + i);
        store4(y + i, make_float4(v.x * r * w.x, v.y * r * w.y, v.z * r * w.z, v.w * r * w.w));
    }
}

// With g = grad * weight: dx = r g - x r^3 mean(g x), added to `sum` where there is one.
struct Backward {
    const void *x;
    const float *weight;
    const float *r;
    const void *grad;
    const void *sum;
    void *grad_x;
    long long rows;
    int width;
    // As in Forward.
    int threads;
};

template <class X, class G> __device__ void backward(Backward a) {
    long long row = (long long)blockIdx.x * (blockDim.x / a.threads) + threadIdx.x / a.threads;
    if (row >= a.rows) return;
    int first = 4 * (threadIdx.x % a.threads), next = 4 * a.threads;
    long long start = row * a.width;
    const X *x = (const X *)a.x + start;
    const G *grad = (const G *)a.grad + start;
    float product = 0;
    for (int i = first; i < a.width; i += next) {
        float4 v = load4(x + i), g = load4(grad + i), w = load4(a.weight + i);
        product += v.x * g.x * w.x + v.y * g.y * w.y + v.z * g.z * w.z + v.w * g.w * w.w;
    }
    float r = a.r[row], factor = row_sum(product, a.threads) / a.width * r * r * r;
    for (int i = first; i < a.width; i += next) {
        float4 v = load4(x + i), g = load4(grad + i), w = load4(a.weight + i);
        float4 d = make_float4(g.x * w.x * r - v.x * factor, g.y * w.y * r - v.y * factor, g.z * w.z * r - v.z * factor,
                               g.w * w.w * r - v.w * factor);
        if (a.sum) {
            float4 s = load4((const X *)a.sum + start + i);
            d = make_float4(d.x + s.x, d.y + s.y, d.z + s.z, d.w + s.w);
        }
        store4((X *)a.grad_x + start + i, d);
    }
}

// The gradient of the weight, summed over the rows of each warp: `parts` [warps of a column of blocks, width].
struct OfWeight {
    const void *x;
    const float *r;
    const void *grad;
    float *parts;
    long long rows;
    int width;
};

template <class X, class G> __device__ void of_weight(OfWeight a) {
    int column = 128 * blockIdx.x + 4 * (threadIdx.x % 32);
    if (column >= a.width) return;
    long long warps = (long long)gridDim.y * (blockDim.x / 32);
    long long warp = (long long)blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32;
    float4 sum = make_float4(0, 0, 0, 0);
    for (long long row = warp; row < a.rows; row += warps) {
        long long at = row * a.width + column;
        float4 v = load4((const X *)a.x + at), g = load4((const G *)a.grad + at);
        float r = a.r[row];
        sum = make_float4(sum.x + v.x * g.x * r, sum.y + v.y * g.y * r, sum.z + v.z * g.z * r, sum.w + v.w * g.w * r);
    }
    store4(a.parts + warp * a.width + column, sum);
}

#define KERNELS(name, X, Y)                                                                    \
    extern "C" __global__ void forward_##name(Forward a) { forward<X, Y>(a); }                 \
    extern "C" __global__ void backward_##name(Backward a) { backward<X, Y>(a); }              \
    extern "C" __global__ void of_weight_##name(OfWeight a) { of_weight<X, Y>(a); }

KERNELS(f32_f32, float, float)
KERNELS(f32_bf16, float, bf16)
KERNELS(bf16_bf16, bf16, bf16)
