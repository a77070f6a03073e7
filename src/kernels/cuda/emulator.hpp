// Runs a kernel of CUDA on the host, for tests: each thread of a block is a fiber, blocks come one after the other.
//
// A fiber runs until it waits: for its block in `__syncthreads`, for its warp in a shuffle. Threads take turns in ascending or descending
// order, so that a result that depends on the order differs between two runs. A shuffle among threads that are not all in it ends the
// process, where a device would give any number.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>
#include <ucontext.h>

#define __device__
#define __global__
#define __shared__ static thread_local

struct uint2 {
    unsigned x, y;
};
struct uint3 {
    unsigned x, y, z;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float __uint_as_float(unsigned bits) { return __builtin_bit_cast(float, bits); }
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }

static thread_local uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(64 << 10);
    bool ended = false;
    // Of the last shuffle: what the thread gave, and how many it was in.
    float given = 0;
    unsigned shuffles = 0;
};
struct Block {
    std::vector<Fiber> fibers;
    ucontext_t scheduler;
    unsigned running = 0, waiting = 0, generation = 0;
    void (*call)(const void *) = nullptr;
    const void *arguments = nullptr;

    Fiber &own() { return fibers[threadIdx.x]; }
    void wait() { swapcontext(&own().context, &scheduler); }
};
static thread_local Block *block;

inline void run() {
    block->call(block->arguments);
    block->own().ended = true;
    block->running--;
}

inline void check(bool holds, const char *what) {
    if (holds) return;
    std::fprintf(stderr, "block %u %u, thread %u: %s\n", blockIdx.x, blockIdx.y, threadIdx.x, what);
    std::abort();
}
} // namespace emulator

inline void __syncthreads() {
    emulator::Block &block = *emulator::block;
    unsigned generation = block.generation;
    block.waiting++;
    while (block.generation == generation) block.wait();
}

inline float __shfl_xor_sync(unsigned, float x, int apart) {
    emulator::Block &block = *emulator::block;
    emulator::Fiber &own = block.own(), &other = block.fibers[threadIdx.x ^ apart];
    own.given = x;
    own.shuffles++;
    block.wait();
    emulator::check(!other.ended && other.shuffles == own.shuffles, "a shuffle with a thread that is not in it");
    float found = other.given;
    block.wait();
    return found;
}

extern "C" void emulate(unsigned grid_x, unsigned grid_y, unsigned threads, bool descending, void (*call)(const void *),
                        const void *arguments) {
    gridDim = {grid_x, grid_y, 1};
    blockDim = {threads, 1, 1};
    emulator::Block block;
    emulator::block = &block;
    block.fibers.resize(threads);
    block.call = call;
    block.arguments = arguments;
    for (unsigned index = 0; index < grid_x * grid_y; index++) {
        blockIdx = {index % grid_x, index / grid_x, 0};
        block.running = threads;
        for (emulator::Fiber &fiber : block.fibers) {
            fiber.ended = false;
            fiber.shuffles = 0;
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.data();
            fiber.context.uc_stack.ss_size = fiber.stack.size();
            fiber.context.uc_link = &block.scheduler;
            makecontext(&fiber.context, emulator::run, 0);
        }
        while (block.running > 0) {
            for (unsigned turn = 0; turn < threads; turn++) {
                threadIdx = {descending ? threads - 1 - turn : turn, 0, 0};
                emulator::Fiber &fiber = block.fibers[threadIdx.x];
                if (!fiber.ended) swapcontext(&block.scheduler, &fiber.context);
            }
            if (block.waiting == block.running) {
                block.waiting = 0;
                block.generation++;
            }
        }
    }
}
