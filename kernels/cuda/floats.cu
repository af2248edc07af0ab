// Products in floats, for weights that are floats and for convolutions: a block of 16 x 16 threads makes 32 x 32 values,
// a thread 2 x 2 of them. The operands come from functions of (row, k), which give 0 past their ends.
#define SIDE 32
#define DEPTH 16

template <class A, class B>
__device__ __forceinline__ void float_product(float* out, const float* bias, const float* gate, u32 tokens, u32 rows, u32 depth, const A& a, const B& b) {
    __shared__ float x[SIDE][DEPTH + 1], w[SIDE][DEPTH + 1];
    u32 tx = threadIdx.x % 16, ty = threadIdx.x / 16, first_token = blockIdx.y * SIDE, first_row = blockIdx.x * SIDE;
    float sums[2][2] = {{0, 0}, {0, 0}};
    for (u32 k = 0; k < depth; k += DEPTH) {
        for (u32 i = threadIdx.x; i < SIDE * DEPTH; i += 256) {
            u32 line = i / DEPTH, at = k + i % DEPTH;
            x[line][i % DEPTH] = first_token + line < tokens && at < depth ? a(first_token + line, at) : 0;
            w[line][i % DEPTH] = first_row + line < rows && at < depth ? b(first_row + line, at) : 0;
        }
        __syncthreads();
        for (u32 j = 0; j < DEPTH; j++)
            for (u32 m = 0; m < 2; m++)
                for (u32 n = 0; n < 2; n++) sums[m][n] += x[ty + 16 * m][j] * w[tx + 16 * n][j];
        __syncthreads();
    }
    for (u32 m = 0; m < 2; m++)
        for (u32 n = 0; n < 2; n++) {
            u32 token = first_token + ty + 16 * m, row = first_row + tx + 16 * n;
            if (token < tokens && row < rows) give(out, (u64)token * rows + row, sums[m][n], bias, row, gate);
        }
}

// Eight weights of a row, and a row's weights one by one: where a row is not made of eights.
struct Floats {
    const float* at;
    u64 cols;
    __device__ __forceinline__ float operator()(u32 row, u32 k) const { return at[row * cols + k]; }
    __device__ __forceinline__ void eight(float v[8], u32 row, u32 k) const { eight_floats(v, at + row * cols + k); }
};
struct Halves {
    const u16* at;
    u64 cols;
    __device__ __forceinline__ float operator()(u32 row, u32 k) const { return half_to_float(at[row * cols + k]); }
    __device__ __forceinline__ void eight(float v[8], u32 row, u32 k) const {
        halves_of(v, *(const uint4*)(at + row * cols + k));
    }
};
struct Brains {
    const u16* at;
    u64 cols;
    __device__ __forceinline__ float operator()(u32 row, u32 k) const { return brain_to_float(at[row * cols + k]); }
    __device__ __forceinline__ void eight(float v[8], u32 row, u32 k) const {
        uint4 w = *(const uint4*)(at + row * cols + k);
        u32 pairs[4] = {w.x, w.y, w.z, w.w};
        for (int i = 0; i < 8; i++) v[i] = brain_to_float((u16)(pairs[i / 2] >> 16 * (i % 2)));
    }
};

// Few tokens: a warp an output, each weight read once, 16 bytes at a time where rows are made of eights.
template <class W>
__device__ __forceinline__ void float_vector_product(float* out, const W& w, const float* x, const float* bias, const float* gate,
                                                     u32 rows, u32 cols, u32 tokens) {
    u32 row = blockIdx.x * ROWS_A_BLOCK + threadIdx.x / WARP, lane = threadIdx.x % WARP, eights = cols % 8 ? 0 : cols;
    if (row >= rows) return;
    float sums[MOST_TOKENS] = {0};
    // Loops are not unrolled, so that registers are left for more warps.
#pragma unroll 1
    for (u32 k = 8 * lane; k < eights; k += 8 * WARP) {
        float v[8], y[8];
        w.eight(v, row, k);
#pragma unroll
        for (u32 t = 0; t < MOST_TOKENS; t++)
            if (t < tokens) {
                eight_floats(y, x + (u64)t * cols + k);
#pragma unroll
                for (u32 i = 0; i < 8; i++) sums[t] += v[i] * y[i];
            }
    }
#pragma unroll 1
    for (u32 k = eights + lane; k < cols; k += WARP) {
        float v = w(row, k);
#pragma unroll
        for (u32 t = 0; t < MOST_TOKENS; t++)
            if (t < tokens) sums[t] += v * x[(u64)t * cols + k];
    }
#pragma unroll
    for (u32 t = 0; t < MOST_TOKENS; t++)
        if (t < tokens) {
            float sum = warp_sum(sums[t]);
            if (lane == 0) give(out, (u64)t * rows + row, sum, bias, row, gate);
        }
}

#define FLOAT_PRODUCT(NAME, LOAD, TYPE)                                                                                       \
    extern "C" __global__ void __launch_bounds__(32 * ROWS_A_BLOCK, 4)                                                        \
        vector_##NAME(float* out, const TYPE* w, const float* x, const float* bias, const float* gate, u32 rows, u32 cols,    \
                      u32 tokens) {                                                                                           \
        float_vector_product(out, LOAD{w, cols}, x, bias, gate, rows, cols, tokens);                                          \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        matrix_##NAME(float* out, const TYPE* w, const float* x, const float* bias, const float* gate, u32 rows, u32 cols,    \
                      u32 tokens) {                                                                                           \
        float_product(out, bias, gate, tokens, rows, cols, Floats{x, cols}, LOAD{w, cols});                                   \
    }
FLOAT_PRODUCT(F32, Floats, float)
FLOAT_PRODUCT(F16, Halves, u16)
FLOAT_PRODUCT(BF16, Brains, u16)

// A picture's windows as rows: value (row, column, channel) of the window of an output pixel.
struct Windows {
    const float* picture;
    u32 height, width, channels, kernel, stride, pad, out_width;
    __device__ __forceinline__ float operator()(u32 pixel, u32 k) const {
        u32 tap = k / channels, c = k % channels;
        int y = (int)(pixel / out_width * stride + tap / kernel) - (int)pad;
        int x = (int)(pixel % out_width * stride + tap % kernel) - (int)pad;
        if (y < 0 || x < 0 || y >= (int)height || x >= (int)width) return 0;
        return picture[((u64)y * width + x) * channels + c];
    }
};

// w is [out, (row, column, in)].
extern "C" __global__ void __launch_bounds__(256)
    conv2d(float* out, const float* w, const float* picture, const float* bias, u32 outputs, u32 height, u32 width, u32 channels,
           u32 kernel, u32 stride, u32 pad, u32 out_height, u32 out_width) {
    u32 window = kernel * kernel * channels;
    Windows windows = {picture, height, width, channels, kernel, stride, pad, out_width};
    float_product(out, bias, nullptr, out_height * out_width, outputs, window, windows, Floats{w, window});
}
