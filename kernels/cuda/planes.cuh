// Weights as products read them: a run of 32 at a time, first as it lies in memory, then taken apart, so that one can be on
// its way while another one is multiplied.
//
// Formats that are shipped lie in planes (kernels/src/cuda/planes.rs), each for all runs of the weight in order: the lower
// four (or eight) bits of the integers, their higher bits, scales. What a lane needs of a plane is 16 bytes or a part of them
// at a multiple of its size. Other formats lie in GGUF's blocks.

template <class F> struct Weights {
    typedef Run Raw;
    static __device__ __forceinline__ void load(Raw& raw, const u8* w, u32, u32 cols, u32 row, u32 k) {
        run_of<F>(raw, w + (u64)row * (cols / (32 * F::RUNS)) * F::BYTES, k);
    }
    static __device__ __forceinline__ void take_apart(Run& r, const Raw& raw) { r = raw; }
};

// Which run of the weight, and how many there are.
__device__ __forceinline__ u64 run_number(u32 cols, u32 row, u32 k) { return (u64)row * (cols / 32) + k; }

__device__ __forceinline__ void nibbles(Run& r, const uint4& w) {
    u32 all[4] = {w.x, w.y, w.z, w.w};
    for (int i = 0; i < 4; i++) {
        r.q[i] = all[i] & 0x0f0f0f0f;
        r.q[i + 4] = all[i] >> 4 & 0x0f0f0f0f;
    }
}

template <> struct Weights<Q4_0> {
    struct Raw {
        uint4 q;
        u16 scale;
    };
    static __device__ __forceinline__ void load(Raw& raw, const u8* w, u32 rows, u32 cols, u32 row, u32 k) {
        u64 i = run_number(cols, row, k), runs = run_number(cols, rows, 0);
        raw.q = *(const uint4*)(w + 16 * i);
        raw.scale = load2(w + 16 * runs + 2 * i);
    }
    static __device__ __forceinline__ void take_apart(Run& r, const Raw& raw) {
        r.bias = -8;
        one_scale(r, half_to_float(raw.scale), 0);
        nibbles(r, raw.q);
    }
};

template <> struct Weights<Q8_0> {
    struct Raw {
        uint4 q[2];
        u16 scale;
    };
    static __device__ __forceinline__ void load(Raw& raw, const u8* w, u32 rows, u32 cols, u32 row, u32 k) {
        u64 i = run_number(cols, row, k), runs = run_number(cols, rows, 0);
        raw.q[0] = *(const uint4*)(w + 32 * i);
        raw.q[1] = *(const uint4*)(w + 32 * i + 16);
        raw.scale = load2(w + 32 * runs + 2 * i);
    }
    static __device__ __forceinline__ void take_apart(Run& r, const Raw& raw) {
        r.bias = 0;
        one_scale(r, half_to_float(raw.scale), 0);
        for (int i = 0; i < 2; i++) {
            r.q[4 * i] = raw.q[i].x;
            r.q[4 * i + 1] = raw.q[i].y;
            r.q[4 * i + 2] = raw.q[i].z;
            r.q[4 * i + 3] = raw.q[i].w;
        }
    }
};

// The head of a block is as GGUF has it: two factors, and scales and offsets of 6 bits (long_scale).
template <> struct Weights<Q4_K> {
    struct Raw {
        uint4 q, head;
        u32 run;
    };
    static __device__ __forceinline__ void load(Raw& raw, const u8* w, u32 rows, u32 cols, u32 row, u32 k) {
        u64 i = run_number(cols, row, k), runs = run_number(cols, rows, 0);
        raw.q = *(const uint4*)(w + 16 * i);
        raw.head = *(const uint4*)(w + 16 * runs + 16 * (i / 8));
        raw.run = k % 8;
    }
    static __device__ __forceinline__ void take_apart(Run& r, const Raw& raw) {
        const uint4& head = raw.head;
        u32 at = 8 * (raw.run % 4), scale = head.y >> at & 63, offset = head.z >> at & 63;
        if (raw.run >= 4) {
            scale = (head.w >> at & 15) | (head.y >> at >> 6 & 3) << 4;
            offset = (head.w >> at >> 4 & 15) | (head.z >> at >> 6 & 3) << 4;
        }
        r.bias = 0;
        one_scale(r, half_to_float((u16)head.x) * scale, -(half_to_float((u16)(head.x >> 16)) * offset));
        nibbles(r, raw.q);
    }
};

// Of the higher bits an int has those of four ints of the run. The head of a block is 16 scales and a factor.
template <> struct Weights<Q6_K> {
    struct Raw {
        uint4 q;
        u32 high[2];
        u16 scales, factor;
    };
    static __device__ __forceinline__ void load(Raw& raw, const u8* w, u32 rows, u32 cols, u32 row, u32 k) {
        u64 i = run_number(cols, row, k), runs = run_number(cols, rows, 0);
        raw.q = *(const uint4*)(w + 16 * i);
        const u32* high = (const u32*)(w + 16 * runs + 8 * i);
        raw.high[0] = high[0];
        raw.high[1] = high[1];
        const u8* head = w + 24 * runs + 18 * (i / 8);
        raw.scales = load2(head + 2 * (i % 8));
        raw.factor = load2(head + 16);
    }
    static __device__ __forceinline__ void take_apart(Run& r, const Raw& raw) {
        r.bias = -32;
        for (int h = 0; h < 2; h++) {
            r.scale[h] = half_to_float(raw.factor) * (int)(signed char)(raw.scales >> 8 * h);
            r.offset[h] = 0;
        }
        nibbles(r, raw.q);
        for (int i = 0; i < 8; i++) r.q[i] |= (raw.high[i / 4] >> 2 * (i % 4) & 0x03030303) << 4;
    }
};
