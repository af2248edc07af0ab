// GGUF's blocks, 32 values at a time. What a format means: kernels/src/blocks.
//
// A run of 32 values is q (8 bits each, four in an int) + bias, times a scale, plus an offset; scale and offset may
// differ between its halves of 16.
struct Run {
    int q[8];
    int bias;
    float scale[2], offset[2];
};

__device__ __forceinline__ void one_scale(Run& r, float scale, float offset) {
    r.scale[0] = r.scale[1] = scale;
    r.offset[0] = r.offset[1] = offset;
}

// 16 bytes of nibbles: the low ones are values 0..16, the high ones 16..32.
__device__ __forceinline__ void nibbles(Run& r, const u8* at) {
    for (int i = 0; i < 4; i++) {
        u32 w = load4(at + 4 * i);
        r.q[i] = w & 0x0f0f0f0f;
        r.q[i + 4] = w >> 4 & 0x0f0f0f0f;
    }
}

// Four bits to bit `to` of four bytes.
__device__ __forceinline__ int spread(u32 bits, int to) {
    return (int)(((bits & 1) | (bits & 2) << 7 | (bits & 4) << 14 | (bits & 8) << 21) << to);
}

__device__ __forceinline__ void fifth_bits(Run& r, const u8* at) {
    u32 bits = load4(at);
    for (int i = 0; i < 8; i++) r.q[i] |= spread(bits >> 4 * i & 15, 4);
}

struct Q4_0 {
    enum { RUNS = 1, BYTES = 18, SHORT = 0, OFFSET = 0 };
    static __device__ __forceinline__ void run(Run& r, const u8* b, int) {
        r.bias = -8;
        one_scale(r, half_to_float(load2(b)), 0);
        nibbles(r, b + 2);
    }
};

struct Q4_1 {
    enum { RUNS = 1, BYTES = 20, SHORT = 0, OFFSET = 1 };
    static __device__ __forceinline__ void run(Run& r, const u8* b, int) {
        r.bias = 0;
        one_scale(r, half_to_float(load2(b)), half_to_float(load2(b + 2)));
        nibbles(r, b + 4);
    }
};

struct Q5_0 {
    enum { RUNS = 1, BYTES = 22, SHORT = 0, OFFSET = 0 };
    static __device__ __forceinline__ void run(Run& r, const u8* b, int) {
        r.bias = -16;
        one_scale(r, half_to_float(load2(b)), 0);
        nibbles(r, b + 6);
        fifth_bits(r, b + 2);
    }
};

struct Q5_1 {
    enum { RUNS = 1, BYTES = 24, SHORT = 0, OFFSET = 1 };
    static __device__ __forceinline__ void run(Run& r, const u8* b, int) {
        r.bias = 0;
        one_scale(r, half_to_float(load2(b)), half_to_float(load2(b + 2)));
        nibbles(r, b + 8);
        fifth_bits(r, b + 4);
    }
};

struct Q8_0 {
    enum { RUNS = 1, BYTES = 34, SHORT = 0, OFFSET = 0 };
    static __device__ __forceinline__ void run(Run& r, const u8* b, int) {
        r.bias = 0;
        one_scale(r, half_to_float(load2(b)), 0);
        for (int i = 0; i < 8; i++) r.q[i] = load4(b + 2 + 4 * i);
    }
};

// 2 bits of a run: quarter `run % 4` of half `run / 4`.
__device__ __forceinline__ void two_bits(Run& r, const u8* at, int run) {
    for (int i = 0; i < 8; i++) r.q[i] = load4(at + run / 4 * 32 + 4 * i) >> 2 * (run % 4) & 0x03030303;
}

struct Q2_K {
    enum { RUNS = 8, BYTES = 84, SHORT = 1, OFFSET = 1 };
    static __device__ __forceinline__ void run(Run& r, const u8* b, int run) {
        float d = half_to_float(load2(b + 80)), least = half_to_float(load2(b + 82));
        r.bias = 0;
        for (int h = 0; h < 2; h++) {
            u32 s = b[2 * run + h];
            r.scale[h] = d * (s & 15);
            r.offset[h] = -(least * (s >> 4));
        }
        two_bits(r, b + 16, run);
    }
};

struct Q3_K {
    enum { RUNS = 8, BYTES = 110, SHORT = 1, OFFSET = 0 };
    static __device__ __forceinline__ void run(Run& r, const u8* b, int run) {
        float d = half_to_float(load2(b + 108));
        const u8* s = b + 96;
        r.bias = -4;
        for (int h = 0; h < 2; h++) {
            int n = 2 * run + h;
            u32 low = s[n % 8] >> (n / 8 * 4) & 15, high = s[8 + n % 4] >> (n / 4 * 2) & 3;
            r.scale[h] = d * ((int)(low | high << 4) - 32);
            r.offset[h] = 0;
        }
        two_bits(r, b + 32, run);
        for (int i = 0; i < 8; i++) r.q[i] |= (load4(b + 4 * i) >> run & 0x01010101) << 2;
    }
};

// The 6-bit scales and offsets of Q4_K and Q5_K.
__device__ __forceinline__ void long_scale(Run& r, const u8* b, int run) {
    const u8* s = b + 4;
    u32 scale, offset;
    if (run < 4) {
        scale = s[run] & 63;
        offset = s[run + 4] & 63;
    } else {
        scale = (s[run + 4] & 15) | s[run - 4] >> 6 << 4;
        offset = s[run + 4] >> 4 | s[run] >> 6 << 4;
    }
    r.bias = 0;
    one_scale(r, half_to_float(load2(b)) * scale, -(half_to_float(load2(b + 2)) * offset));
}

__device__ __forceinline__ void long_nibbles(Run& r, const u8* at, int run) {
    for (int i = 0; i < 8; i++) r.q[i] = load4(at + run / 2 * 32 + 4 * i) >> 4 * (run % 2) & 0x0f0f0f0f;
}

struct Q4_K {
    enum { RUNS = 8, BYTES = 144, SHORT = 0, OFFSET = 1 };
    static __device__ __forceinline__ void run(Run& r, const u8* b, int run) {
        long_scale(r, b, run);
        long_nibbles(r, b + 16, run);
    }
};

struct Q5_K {
    enum { RUNS = 8, BYTES = 176, SHORT = 0, OFFSET = 1 };
    static __device__ __forceinline__ void run(Run& r, const u8* b, int run) {
        long_scale(r, b, run);
        long_nibbles(r, b + 48, run);
        for (int i = 0; i < 8; i++) r.q[i] |= (load4(b + 16 + 4 * i) >> run & 0x01010101) << 4;
    }
};

struct Q6_K {
    enum { RUNS = 8, BYTES = 210, SHORT = 1, OFFSET = 0 };
    static __device__ __forceinline__ void run(Run& r, const u8* b, int run) {
        int part = run / 4, quarter = run % 4;
        float d = half_to_float(load2(b + 208));
        r.bias = -32;
        for (int h = 0; h < 2; h++) {
            r.scale[h] = d * (int)(signed char)b[192 + 2 * run + h];
            r.offset[h] = 0;
        }
        for (int i = 0; i < 8; i++) {
            u32 low = load4(b + part * 64 + quarter % 2 * 32 + 4 * i) >> (quarter / 2 * 4) & 0x0f0f0f0f;
            u32 two = load4(b + 128 + part * 32 + 4 * i) >> 2 * quarter & 0x03030303;
            r.q[i] = low | two << 4;
        }
    }
};

// The run of values 32 `index` and on of a row.
template <class F> __device__ __forceinline__ void run_of(Run& r, const u8* row, int index) {
    F::run(r, row + (u64)(index / F::RUNS) * F::BYTES, index % F::RUNS);
}

// Value `i` of a run.
__device__ __forceinline__ float value_of(const Run& r, int i) {
    int q = (signed char)(r.q[i / 4] >> 8 * (i % 4));
    return (float)(q + r.bias) * r.scale[i / 16] + r.offset[i / 16];
}

#define FOR_BLOCK_FORMATS(X) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K)
