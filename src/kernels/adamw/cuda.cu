// An AdamW step in place, in f32: four numbers a thread, the last ones alone.
#include "kernel.cuh"

struct Step {
    float *parameter;
    float *first;
    float *second;
    const float *gradient;
    long long count;
    float decay, beta1, beta2, root, eps, rate, scale;
};

__device__ inline void update(Step a, float &parameter, float &first, float &second, float gradient) {
    float g = gradient * a.scale;
    first = first * a.beta1 + g * (1 - a.beta1);
    second = second * a.beta2 + g * g * (1 - a.beta2);
    parameter = parameter * a.decay - first / (sqrtf(second) * a.root + a.eps) * a.rate;
}

extern "C" __global__ void step(Step a) {
    long long i = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (i + 4 <= a.count) {
        float4 p = load4(a.parameter + i), m = load4(a.first + i), v = load4(a.second + i), g = load4(a.gradient + i);
        update(a, p.x, m.x, v.x, g.x);
        update(a, p.y, m.y, v.y, g.y);
        update(a, p.z, m.z, v.z, g.z);
        update(a, p.w, m.w, v.w, g.w);
        store4(a.parameter + i, p);
        store4(a.first + i, m);
        store4(a.second + i, v);
        return;
    }
    for (; i < a.count; i++) update(a, a.parameter[i], a.first[i], a.second[i], a.gradient[i]);
}
