// Attention of single queries to rows of a cache, which are read where they are: a block for a query, the heads that share keys, and one of
// the parts into which a long list of rows is split.
//
// A team of threads computes two keys at a time: their scores, and the running maximum, sum and output of each query (arXiv 2205.14135). At
// the end the teams of a block are joined, and by a kernel of their own the splits of a list.
#include "kernel.cuh"

// Threads of a team. A thread holds four numbers of the first 64 of a head and four of the next.
#define TEAM 16
// Teams of a block.
#define TEAMS 8
// The widest head.
#define WIDTH 128
// Keys that a team reads before it computes.
#define KEYS 2

struct Recall {
    const void *q;
    const void *keys;
    const void *values;
    void *out;
    // Where there are several splits: what each of them adds to `out`, [splits, queries, heads, head_dim], and the largest score and the
    // sum of the weights of each, [splits, queries, heads].
    float *outs;
    float *largest;
    float *sums;
    // The rows that each query attends to: a list of all, and where those of each query end, from 0.
    const int *rows;
    const int *ends;
    int heads;
    int kv_heads;
    int head_dim;
    // The most rows that a query sees, the last of its list; 0 for all.
    int window;
    int splits;
    float scale;
};

struct Eight {
    float4 a, b;
};

__device__ inline float4 times(float4 x, float y) { return make_float4(x.x * y, x.y * y, x.z * y, x.w * y); }
__device__ inline float4 plus(float4 x, float4 y) { return make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w); }
__device__ inline float dot(Eight x, Eight y) {
    return x.a.x * y.a.x + x.a.y * y.a.y + x.a.z * y.a.z + x.a.w * y.a.w + x.b.x * y.b.x + x.b.y * y.b.y + x.b.z * y.b.z +
           x.b.w * y.b.w;
}

// The numbers of a head that a thread holds, the first at `i`; those that a narrow head lacks are 0.
template <class T> __device__ inline Eight held(const T *head, int i, int head_dim) {
    const float4 zero = make_float4(0, 0, 0, 0);
    return {i < head_dim ? load4(head + i) : zero, i + 64 < head_dim ? load4(head + i + 64) : zero};
}

// For heads that share keys in groups of at most QUERIES a block.
template <class T, int QUERIES> __device__ void recall(Recall a) {
    __shared__ float outs[TEAMS][QUERIES][WIDTH];
    __shared__ float largest[TEAMS][QUERIES], sums[TEAMS][QUERIES];
    int group = a.heads / a.kv_heads, chunks = (group + QUERIES - 1) / QUERIES;
    int split = blockIdx.y / (a.kv_heads * chunks), block = blockIdx.y % (a.kv_heads * chunks);
    int kv_head = block / chunks, first = block % chunks * QUERIES;
    int queries = group - first < QUERIES ? group - first : QUERIES;
    int team = threadIdx.x / TEAM, i = threadIdx.x % TEAM * 4;
    long long head = (long long)blockIdx.x * a.heads + kv_head * group + first;
    const float4 zero = make_float4(0, 0, 0, 0);

    Eight query[QUERIES], out[QUERIES];
    float most[QUERIES], sum[QUERIES];
#pragma unroll
    for (int g = 0; g < QUERIES; g++) {
        // A block with fewer queries computes its first one again.
        query[g] = held((const T *)a.q + (head + (g < queries ? g : 0)) * a.head_dim, i, a.head_dim);
        out[g] = {zero, zero};
        most[g] = MINUS_INFINITY;
        sum[g] = 0;
    }
    int begin = a.ends[blockIdx.x], end = a.ends[blockIdx.x + 1];
    if (a.window > 0 && end - begin > a.window) begin = end - a.window;
    int length = (end - begin + a.splits - 1) / a.splits;
    begin += split * length;
    end = begin + length < end ? begin + length : end;
    // All teams take as many turns, so that all threads of a warp are in a shuffle.
    for (int turn = begin; turn < end; turn += TEAMS * KEYS) {
        Eight k[KEYS], v[KEYS];
        float score[KEYS][QUERIES];
#pragma unroll
        for (int n = 0; n < KEYS; n++) {
            int at = turn + n * TEAMS + team;
            long long row = a.rows[at < end ? at : begin];
            long long from = (row * a.kv_heads + kv_head) * a.head_dim;
            k[n] = held((const T *)a.keys + from, i, a.head_dim);
            v[n] = held((const T *)a.values + from, i, a.head_dim);
        }
#pragma unroll
        for (int n = 0; n < KEYS; n++)
#pragma unroll
            for (int g = 0; g < QUERIES; g++) score[n][g] = dot(query[g], k[n]);
#pragma unroll
        for (int apart = TEAM / 2; apart > 0; apart /= 2)
#pragma unroll
            for (int n = 0; n < KEYS; n++)
#pragma unroll
                for (int g = 0; g < QUERIES; g++) score[n][g] += __shfl_xor_sync(0xffffffff, score[n][g], apart);
#pragma unroll
        for (int n = 0; n < KEYS; n++) {
            if (turn + n * TEAMS + team >= end) continue;
#pragma unroll
            for (int g = 0; g < QUERIES; g++) {
                float scaled = score[n][g] * a.scale, larger = fmaxf(most[g], scaled);
                float kept = expf(most[g] - larger), weight = expf(scaled - larger);
                most[g] = larger;
                sum[g] = sum[g] * kept + weight;
                out[g].a = plus(times(out[g].a, kept), times(v[n].a, weight));
                out[g].b = plus(times(out[g].b, kept), times(v[n].b, weight));
            }
        }
    }
#pragma unroll
    for (int g = 0; g < QUERIES; g++) {
        store4(&outs[team][g][i], out[g].a);
        store4(&outs[team][g][i + 64], out[g].b);
        if (i == 0) {
            largest[team][g] = most[g];
            sums[team][g] = sum[g];
        }
    }
    __syncthreads();
    long long place = (long long)split * gridDim.x * a.heads + head;
    for (int at = threadIdx.x; at < queries * a.head_dim; at += blockDim.x) {
        int g = at / a.head_dim, d = at % a.head_dim;
        float top = MINUS_INFINITY, weights = 0, total = 0;
        for (int t = 0; t < TEAMS; t++) top = fmaxf(top, largest[t][g]);
        for (int t = 0; t < TEAMS; t++) {
            // A team without a key weighs nothing.
            float weight = sums[t][g] == 0 ? 0 : expf(largest[t][g] - top);
            weights += weight * sums[t][g];
            total += weight * outs[t][g][d];
        }
        if (a.splits == 1) {
            ((T *)a.out)[head * a.head_dim + at] = nearest<T>(total / weights);
            continue;
        }
        a.outs[place * a.head_dim + at] = total;
        if (d == 0) {
            a.largest[place + g] = top;
            a.sums[place + g] = weights;
        }
    }
}

// Joins the splits, a thread a number of the output: `heads` of all queries.
struct Join {
    const float *outs;
    const float *largest;
    const float *sums;
    void *out;
    long long heads;
    int head_dim;
    int splits;
};

template <class T> __device__ void join(Join a) {
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x, head = at / a.head_dim;
    if (head >= a.heads) return;
    float top = MINUS_INFINITY, weights = 0, total = 0;
    for (int s = 0; s < a.splits; s++) top = fmaxf(top, a.largest[s * a.heads + head]);
    for (int s = 0; s < a.splits; s++) {
        float sum = a.sums[s * a.heads + head], weight = sum == 0 ? 0 : expf(a.largest[s * a.heads + head] - top);
        weights += weight * sum;
        total += weight * a.outs[s * a.heads * a.head_dim + at];
    }
    ((T *)a.out)[at] = nearest<T>(total / weights);
}

#define KERNELS(name, T)                                                            \
    extern "C" __global__ void alone_##name(Recall a) { recall<T, 1>(a); }          \
    extern "C" __global__ void grouped_##name(Recall a) { recall<T, 4>(a); }        \
    extern "C" __global__ void join_##name(Join a) { join<T>(a); }

KERNELS(f32, float)
KERNELS(bf16, bf16)
