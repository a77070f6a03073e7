// Log-probabilities of tokens from logits in f32, and the errors of logits: a block a row.
#include "kernel.cuh"

struct Reduce {
    const float *logits;
    const long long *targets;
    float *logps;
    float *lses;
    int vocabulary;
};

// Less than every logit: minus infinity.
#define NONE __uint_as_float(0xff800000)

// The largest logit of a set, and the sum of exp(logit - largest).
struct Sum {
    float largest, weights;
};

__device__ inline Sum joined(Sum a, Sum b) {
    float largest = fmaxf(a.largest, b.largest);
    // No difference of infinities: a set of none, or of logits that are -inf, weighs nothing.
    if (largest == NONE) return {largest, 0};
    return {largest, a.weights * expf(a.largest - largest) + b.weights * expf(b.largest - largest)};
}

extern "C" __global__ void reduce(Reduce a) {
    __shared__ Sum of_warp[32];
    long long row = blockIdx.x;
    const float *logits = a.logits + row * a.vocabulary;
    Sum sum = {NONE, 0};
#pragma unroll 4
    for (int i = threadIdx.x; i < a.vocabulary; i += blockDim.x) {
        float x = logits[i];
        if (x > sum.largest) {
            sum.weights = sum.weights * expf(sum.largest - x) + 1;
            sum.largest = x;
        } else if (x != NONE) {
            sum.weights += expf(x - sum.largest);
        }
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
#pragma unroll 4
    for (int i = threadIdx.x; i < a.vocabulary; i += blockDim.x) {
        float softmax = expf(a.logits[start + i] - lse);
        ((T *)a.errors)[start + i] = nearest<T>(((i == target) - softmax) * grad);
    }
}

extern "C" __global__ void errors_f32(Errors a) { errors<float>(a); }
extern "C" __global__ void errors_bf16(Errors a) { errors<bf16>(a); }
