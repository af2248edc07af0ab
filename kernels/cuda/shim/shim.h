// Runs CUDA C++ on the CPU, for tests: one fibre a CUDA thread, one block after another.
//
// It shows that a kernel's arithmetic, indexes and barriers are right: threads run in an order of its choice until
// they stand at a barrier or an exchange, memory is the host's (so that sanitizers see it). It shows neither speed nor
// what the memory model of a GPU allows beyond barriers.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tuple>
#include <utility>
#include <vector>

#define SHIM 1
// Products run on (emulated) tensor cores; with -DTENSOR_CORES=0 on dp4a, as on chips before sm_80.
#ifndef TENSOR_CORES
#define TENSOR_CORES 1
#endif
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

#define __align__(N) alignas(N)

struct __attribute__((may_alias, aligned(16))) uint4 {
    unsigned x, y, z, w;
};
struct __attribute__((may_alias, aligned(16))) float4 {
    float x, y, z, w;
};
struct Index3 {
    unsigned x, y, z;
};

namespace shim {

enum State { READY, AT_BARRIER, AT_EXCHANGE, ENDED };
struct Fibre {
    void* stack;
    State state;
    Index3 thread;
};

static Fibre* running;
static void* main_stack;
static Index3 block, blocks, threads;
static void (*body)(void*);
static void* body_data;
static unsigned char exchanged[32][32][32];  // warp, lane, bytes
static int removed_barrier = -1;
static uint32_t order;

// Saves what a call must keep and the stack pointer, and takes up another stack.
extern "C" void shim_switch(void** from, void* to);
#if defined(__x86_64__)
enum { KEPT = 6 };
__asm__(
    ".text\n.globl shim_switch\nshim_switch:\n"
    "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n");
#elif defined(__aarch64__)
enum { KEPT = 20 };
__asm__(
    ".text\n.globl shim_switch\nshim_switch:\n"
    "sub sp, sp, #160\n"
    "stp x19, x20, [sp]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\nstp x25, x26, [sp, #48]\n"
    "stp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\n"
    "stp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\nstp d12, d13, [sp, #128]\nstp d14, d15, [sp, #144]\n"
    "mov x9, sp\nstr x9, [x0]\nmov sp, x1\n"
    "ldp x19, x20, [sp]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\nldp x25, x26, [sp, #48]\n"
    "ldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\n"
    "ldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\nldp d12, d13, [sp, #128]\nldp d14, d15, [sp, #144]\n"
    "add sp, sp, #160\nret\n");
#else
#error "the shim knows x86-64 and AArch64"
#endif

static inline void wait(State state) {
    Fibre* mine = running;
    mine->state = state;
    shim_switch(&mine->stack, main_stack);
}

static void enter() {
    body(body_data);
    wait(ENDED);
    abort();
}

static void* prepared(char* stack, size_t bytes) {
    void** top = (void**)(((uintptr_t)stack + bytes) & ~(uintptr_t)15);
#if defined(__x86_64__)
    *--top = nullptr;  // what enter() would return to
    *--top = (void*)enter;
    for (int i = 0; i < KEPT; i++) *--top = nullptr;
#else
    top -= KEPT;
    memset(top, 0, KEPT * sizeof *top);
    top[11] = (void*)enter;  // x30
#endif
    return top;
}

// Runs one block; whether its threads agreed on their barriers.
static bool run_block(std::vector<Fibre>& fibres, const std::vector<unsigned>& turn) {
    const unsigned count = fibres.size();
    for (;;) {
        bool moved = false;
        for (unsigned i : turn)
            if (fibres[i].state == READY) {
                moved = true;
                running = &fibres[i];
                shim_switch(&main_stack, fibres[i].stack);
            }
        unsigned ended = 0, waiting = 0;
        for (unsigned warp = 0; warp < count; warp += 32) {
            unsigned end = warp + 32 < count ? warp + 32 : count, here = 0, gone = 0;
            for (unsigned i = warp; i < end; i++) {
                here += fibres[i].state == AT_EXCHANGE;
                gone += fibres[i].state == ENDED;
                waiting += fibres[i].state == AT_BARRIER;
            }
            ended += gone;
            if (here && here + gone == end - warp) {
                moved = true;
                for (unsigned i = warp; i < end; i++)
                    if (fibres[i].state == AT_EXCHANGE) fibres[i].state = READY;
            }
        }
        if (ended == count) return true;
        if (waiting == count) {
            for (Fibre& f : fibres) f.state = READY;
        } else if (!moved) {
            fprintf(stderr, "shim: block %u,%u: %u of %u threads wait at a barrier, %u have ended, others wait for their warp\n",
                    block.x, block.y, waiting, count, ended);
            return false;
        }
    }
}

static bool run_all(unsigned count) {
    const size_t STACK = 32 << 10;
    static std::vector<char> stacks;
    if (stacks.size() < STACK * count) stacks.resize(STACK * count);
    std::vector<Fibre> fibres(count);
    std::vector<unsigned> turn(count);
    uint32_t random = order * 2654435761u + 1;
    for (unsigned i = 0; i < count; i++) turn[i] = i;
    for (unsigned i = count - 1; order && i; i--) {
        random = random * 1664525u + 1013904223u;
        std::swap(turn[i], turn[(random >> 8) % (i + 1)]);
    }
    for (block.z = 0; block.z < blocks.z; block.z++)
        for (block.y = 0; block.y < blocks.y; block.y++)
            for (block.x = 0; block.x < blocks.x; block.x++) {
                for (unsigned i = 0; i < count; i++)
                    fibres[i] = Fibre{prepared(stacks.data() + STACK * i, STACK), READY, Index3{i, 0, 0}};
                if (!run_block(fibres, turn)) return false;
            }
    return true;
}

template <class... A> struct Call {
    void (*kernel)(A...);
    void** arguments;
    template <size_t... I> void apply(std::index_sequence<I...>) {
        kernel(*(std::remove_const_t<std::remove_reference_t<A>>*)arguments[I]...);
    }
    static void enter(void* call) { ((Call*)call)->apply(std::index_sequence_for<A...>()); }
};

template <class... A> bool launch(void (*kernel)(A...), unsigned count, void** arguments) {
    Call<A...> call = {kernel, arguments};
    body = Call<A...>::enter;
    body_data = &call;
    return run_all(count);
}

// The bytes of each argument of a kernel.
template <class... A> std::vector<size_t> sizes(void (*)(A...)) { return {sizeof(A)...}; }

static inline unsigned lane() { return running->thread.x % 32; }
static inline unsigned warp() { return running->thread.x / 32; }

static inline void barrier(int id) {
    if (id != removed_barrier) wait(AT_BARRIER);
}

template <class T> T from_lane(T value, unsigned lane_of) {
    static_assert(sizeof(T) <= sizeof exchanged[0][0], "");
    unsigned w = warp();
    memcpy(exchanged[w][lane()], &value, sizeof value);
    wait(AT_EXCHANGE);
    memcpy(&value, exchanged[w][lane_of], sizeof value);
    wait(AT_EXCHANGE);
    return value;
}

}  // namespace shim

#define threadIdx (shim::running->thread)
#define blockIdx (shim::block)
#define blockDim (shim::threads)
#define gridDim (shim::blocks)
#define __syncthreads() shim::barrier(__COUNTER__)
static inline void __syncwarp() { shim::wait(shim::AT_EXCHANGE); }
template <class T> T __shfl_xor_sync(unsigned, T value, int mask) { return shim::from_lane(value, shim::lane() ^ mask); }
template <class T> T __shfl_sync(unsigned, T value, int lane) { return shim::from_lane(value, lane); }

static inline float __int_as_float(int bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline int __float_as_int(float value) {
    int bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline void sincospif(float x, float* s, float* c) {
    *s = (float)sin(x * 3.141592653589793);
    *c = (float)cos(x * 3.141592653589793);
}
static inline float half_to_float(uint16_t bits) {
    _Float16 half;
    memcpy(&half, &bits, sizeof half);
    return half;
}
static inline uint16_t float_to_half(float value) {
    _Float16 half = value;
    uint16_t bits;
    memcpy(&bits, &half, sizeof bits);
    return bits;
}
static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
    return c;
}

// The warp's matrices from the fragments of its lanes: INTS ints a row, of four values of 8 bits or two of 16 (PTX ISA,
// fragments of mma.m16n8k32 and m16n8k16 for 8 bits, and of m16n8k16 for 16 bits).
template <int INTS, class T, class Int, class F> void shim_mma(T c[4], const Int* a, const Int* b, F product) {
    struct Fragment {
        Int a[4], b[2];
    } mine = {};
    memcpy(mine.a, a, INTS / 2 * sizeof(int));
    memcpy(mine.b, b, INTS / 4 * sizeof(int));
    unsigned w = shim::warp(), g = shim::lane() / 4, t = shim::lane() % 4;
    memcpy(shim::exchanged[w][shim::lane()], &mine, sizeof mine);
    shim::wait(shim::AT_EXCHANGE);
    auto of = [&](unsigned lane) { return (const Fragment*)shim::exchanged[w][lane]; };
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = g + i / 2 * 8, column = 2 * t + i % 2;
        for (unsigned k = 0; k < INTS; k++)
            c[i] = product(of(row % 8 * 4 + k % 4)->a[row / 8 + k / 4 * 2], of(column * 4 + k % 4)->b[k / 4], c[i]);
    }
    shim::wait(shim::AT_EXCHANGE);
}
static inline void mma_k32(int c[4], const int a[4], const int b[2]) { shim_mma<8>(c, a, b, __dp4a); }
static inline void mma_k16(int c[4], const int a[2], int b) { shim_mma<4>(c, a, &b, __dp4a); }
static inline float brain_of(uint16_t bits) { return __int_as_float((int)((uint32_t)bits << 16)); }
template <float VALUE(uint16_t)> float shim_pair(uint32_t x, uint32_t y, float sum) {
    for (int i = 0; i < 32; i += 16) sum += VALUE((uint16_t)(x >> i)) * VALUE((uint16_t)(y >> i));
    return sum;
}
static inline void mma_halves(float c[4], const uint32_t a[4], const uint32_t b[2]) { shim_mma<8>(c, a, b, shim_pair<half_to_float>); }
static inline void mma_brains(float c[4], const uint32_t a[4], const uint32_t b[2]) { shim_mma<8>(c, a, b, shim_pair<brain_of>); }
