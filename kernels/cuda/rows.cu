// Rows: tables, gathering, elementwise work, halves. One thread a value unless a kernel says otherwise.

extern "C" __global__ void add(float* x, const float* y, u64 count, u64 y_count) {
    u64 i = index_here();
    if (i < count) x[i] += y[i % y_count];
}

extern "C" __global__ void add_scaled(float* x, const float* y, float a, u64 count) {
    u64 i = index_here();
    if (i < count) x[i] += a * y[i];
}

extern "C" __global__ void affine(float* x, float mul, float add, u64 count) {
    u64 i = index_here();
    if (i < count) x[i] = mul * x[i] + add;
}

extern "C" __global__ void silu(float* x, u64 count) {
    u64 i = index_here();
    if (i < count) x[i] = silu_of(x[i]);
}

// Hendrycks and Gimpel, 2016, by its tanh approximation.
extern "C" __global__ void gelu_tanh(float* x, u64 count) {
    u64 i = index_here();
    if (i < count) {
        float v = x[i];
        x[i] = 0.5f * v * (1.0f + tanhf(0.7978846f * (v + 0.044715f * v * v * v)));
    }
}

extern "C" __global__ void swiglu(float* gate, const float* up, u64 count) {
    u64 i = index_here();
    if (i < count) gate[i] = silu_of(gate[i]) * up[i];
}

extern "C" __global__ void extrapolate(float* x, const float* base, float scale, u64 count) {
    u64 i = index_here();
    if (i < count) x[i] = base[i] + scale * (x[i] - base[i]);
}

extern "C" __global__ void scale_rows(float* x, const float* factors, u64 count, u64 cols) {
    u64 i = index_here();
    if (i < count) x[i] *= 1.0f + factors[i / cols];
}

// out[i] = x[ids[i]]
extern "C" __global__ void gather_rows(float* out, const float* x, const u32* ids, u64 count, u64 cols) {
    u64 i = index_here();
    if (i < count) out[i] = x[ids[i / cols] * cols + i % cols];
}

// x[ids[i]] = y[i]; ids are different.
extern "C" __global__ void scatter_rows(float* x, const float* y, const u32* ids, u64 count, u64 cols) {
    u64 i = index_here();
    if (i < count) x[ids[i / cols] * cols + i % cols] = y[i];
}

extern "C" __global__ void upsample_nearest(float* out, const float* x, u64 count, u64 channels, u64 width) {
    u64 i = index_here();
    if (i < count) {
        u64 pixel = i / channels, row = pixel / (2 * width), column = pixel % (2 * width);
        out[i] = x[(row / 2 * width + column / 2) * channels + i % channels];
    }
}

extern "C" __global__ void gaussian(float* out, const float* x, const float* noise, u64 count, u64 channels) {
    u64 i = index_here();
    if (i < count) {
        u64 row = i / channels, c = i % channels;
        float mean = x[row * 2 * channels + c];
        out[i] = noise ? mean + expf(0.5f * x[row * 2 * channels + channels + c]) * noise[i] : mean;
    }
}

extern "C" __global__ void halve(u16* out, const float* x, const float* factor, u64 count) {
    u64 i = index_here();
    if (i < count) out[i] = float_to_half(x[i] / *factor);
}

extern "C" __global__ void restore(float* out, const u16* x, const float* factor, u64 count) {
    u64 i = index_here();
    if (i < count) out[i] = half_to_float(x[i]) * *factor;
}

// One block: the factor that is taken out of values, so that the largest one is a half: a power of two, which costs no
// precision.
extern "C" __global__ void half_factor(float* factor, const float* x, u64 count) {
    float v = 0;
    for (u64 i = threadIdx.x; i < count; i += blockDim.x) v = fmaxf(v, fabsf(x[i]));
    v = block_max(v);
    if (threadIdx.x == 0) {
        float f = 1;
        while (v < INFINITE && v / f > 65504.0f) f *= 2;
        *factor = f;
    }
}

// Bytes that come with the launch itself: nobody waits for a copy from the host.
struct Words {
    u32 at[512];
};
extern "C" __global__ void put(u32* to, Words words, u32 count) {
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) to[i] = words.at[i];
}

// The rows ids of a table, by format; one thread a run of 32 values, or a value of a plain format.
template <class F> __device__ __forceinline__ void embed_runs(float* out, const u8* table, const u32* ids, u64 runs, u64 cols) {
    u64 i = index_here(), in_row = cols / 32;
    if (i < runs) {
        Run r;
        u64 row_bytes = cols / (32 * F::RUNS) * F::BYTES;
        run_of<F>(r, table + ids[i / in_row] * row_bytes, (int)(i % in_row));
        for (int k = 0; k < 32; k++) out[i * 32 + k] = value_of(r, k);
    }
}
#define EMBED(F) \
    extern "C" __global__ void embed_##F(float* out, const u8* table, const u32* ids, u64 runs, u64 cols) { embed_runs<F>(out, table, ids, runs, cols); }
FOR_BLOCK_FORMATS(EMBED)

extern "C" __global__ void embed_F32(float* out, const float* table, const u32* ids, u64 count, u64 cols) {
    u64 i = index_here();
    if (i < count) out[i] = table[ids[i / cols] * cols + i % cols];
}
extern "C" __global__ void embed_F16(float* out, const u16* table, const u32* ids, u64 count, u64 cols) {
    u64 i = index_here();
    if (i < count) out[i] = half_to_float(table[ids[i / cols] * cols + i % cols]);
}
extern "C" __global__ void embed_BF16(float* out, const u16* table, const u32* ids, u64 count, u64 cols) {
    u64 i = index_here();
    if (i < count) out[i] = brain_to_float(table[ids[i / cols] * cols + i % cols]);
}
