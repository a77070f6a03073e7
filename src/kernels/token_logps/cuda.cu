// Log-probabilities of tokens from logits in f32, and the errors of logits: a block a row.
#include "kernel.cuh"

struct Reduce {
    const float *logits;
    const long long *targets;
    float *logps;
    float *lses;
    int vocabulary;
};

// The largest logit of a set, and the sum of exp(logit - largest).
struct Sum {
    float largest, weights;
};

__device__ inline Sum joined(Sum a, Sum b) {
    float largest = fmaxf(a.largest, b.largest);
    // No difference of infinities: a set of nothing but -inf weighs 0, and one with NaN NaN.
    if (largest == MINUS_INFINITY) return {largest, a.weights + b.weights};
    return {largest, a.weights * expf(a.largest - largest) + b.weights * expf(b.largest - largest)};
}

// Numbers that a thread reads before it computes.
#define AT_ONCE 8

// Those of a row from `start` on, `blockDim.x` apart; MINUS_INFINITY behind its end.
__device__ inline void read(float *to, const float *row, int start, int end) {
#pragma unroll
    for (int n = 0; n < AT_ONCE; n++) {
        int i = start + n * blockDim.x;
        to[n] = i < end ? row[i] : MINUS_INFINITY;
    }
}

extern "C" __global__ void reduce(Reduce a) {
    __shared__ Sum of_warp[32];
    long long row = blockIdx.x;
    const float *logits = a.logits + row * a.vocabulary;
    Sum sum = {MINUS_INFINITY, 0};
    for (int start = threadIdx.x; start < a.vocabulary; start += AT_ONCE * blockDim.x) {
        float x[AT_ONCE];
        read(x, logits, start, a.vocabulary);
        float largest = sum.largest;
#pragma unroll
        for (int n = 0; n < AT_ONCE; n++) largest = fmaxf(largest, x[n]);
        if (largest > sum.largest) sum = joined(sum, {largest, 0});
#pragma unroll
        for (int n = 0; n < AT_ONCE; n++) sum.weights += x[n] == MINUS_INFINITY ? 0 : expf(x[n] - largest);
    }
    for (int apart = 16; apart > 0; apart /= 2) {
        Sum other = {__shfl_xor_sync(0xffffffff, sum.largest, apart), __shfl_xor_sync(0xffffffff, sum.weights, apart)};
        sum = joined(sum, other);
    }
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int warp = 1; warp < blockDim.x / 32; warp++) sum = joined(sum, of_warp[warp]);
    float lse = sum.largest + logf(sum.weights);
    a.lses[row] = lse;
    a.logps[row] = logits[a.targets[row]] - lse;
}

// (onehot - softmax) * grad. Errors in f32 may lie where the logits are.
struct Errors {
    const float *logits;
    const long long *targets;
    const float *lses;
    const float *grads;
    void *errors;
    int vocabulary;
};

template <class T> __device__ void errors(Errors a) {
    long long row = blockIdx.x, start = row * a.vocabulary;
    float lse = a.lses[row], grad = a.grads[row];
    int target = (int)a.targets[row];
    for (int first = threadIdx.x; first < a.vocabulary; first += AT_ONCE * blockDim.x) {
        float x[AT_ONCE];
        read(x, a.logits + start, first, a.vocabulary);
#pragma unroll
        for (int n = 0; n < AT_ONCE; n++) {
            int i = first + n * blockDim.x;
            if (i < a.vocabulary) ((T *)a.errors)[start + i] = nearest<T>(((i == target) - expf(x[n] - lse)) * grad);
        }
    }
}

extern "C" __global__ void errors_f32(Errors a) { errors<float>(a); }
extern "C" __global__ void errors_bf16(Errors a) { errors<bf16>(a); }
