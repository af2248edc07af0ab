// Products with quantized weights: activations in 8 bits, sums of integers.

// The product of a run of weights and one of activations.
__device__ __forceinline__ float run_product(const Run& w, const Quantized& x) {
    float all = 0;
    for (int h = 0; h < 2; h++) {
        int dot = 0;
        for (int i = 0; i < 4; i++) dot = __dp4a(w.q[4 * h + i], x.q[4 * h + i], dot);
        all += w.scale[h] * (float)(dot + w.bias * x.sum[h]) + w.offset[h] * (float)x.sum[h];
    }
    return all * x.scale;
}

#define MOST_TOKENS 8
#define ROWS_A_BLOCK 4

// A value of a product, with a bias if there is one, times silu of a gate's value if there is one (which may lie in the
// same place).
__device__ __forceinline__ void give(float* out, u64 at, float value, const float* bias, u32 row, const float* gate) {
    value += bias ? bias[row] : 0;
    out[at] = gate ? silu_of(gate[at]) * value : value;
}

// The products of a row of weights with some tokens, each weight read once: a lane every 32nd run.
template <class F>
__device__ __forceinline__ void row_products(float sums[MOST_TOKENS], const u8* weights, const Quantized* x, u32 rows, u32 cols,
                                             u32 tokens, u32 row) {
    u32 runs = cols / 32;
    for (u32 k = threadIdx.x % WARP; k < runs; k += WARP) {
        typename Weights<F>::Raw raw;
        Run r;
        Weights<F>::load(raw, weights, rows, cols, row, k);
        Weights<F>::take_apart(r, raw);
#pragma unroll
        for (u32 t = 0; t < MOST_TOKENS; t++)
            if (t < tokens) sums[t] += run_product(r, x[(u64)t * runs + k]);
    }
#pragma unroll
    for (u32 t = 0; t < MOST_TOKENS; t++)
        if (t < tokens) sums[t] = warp_sum(sums[t]);
}

// Few tokens: a warp an output; blocks of ROWS_A_BLOCK warps.
template <class F>
__device__ __forceinline__ void vector_product(float* out, const u8* weights, const Quantized* x, const float* bias,
                                               const float* gate, u32 rows, u32 cols, u32 tokens) {
    u32 row = blockIdx.x * ROWS_A_BLOCK + threadIdx.x / WARP;
    if (row >= rows) return;
    float sums[MOST_TOKENS] = {0};
    row_products<F>(sums, weights, x, rows, cols, tokens, row);
#pragma unroll
    for (u32 t = 0; t < MOST_TOKENS; t++)
        if (t < tokens && threadIdx.x % WARP == 0) give(out, (u64)t * rows + row, sums[t], bias, row, gate);
}

// silu(gate x) * (up x) of few tokens.
template <class F>
__device__ __forceinline__ void gated_product(float* out, const u8* gate, const u8* up, const Quantized* x, u32 rows, u32 cols,
                                              u32 tokens) {
    u32 row = blockIdx.x * ROWS_A_BLOCK + threadIdx.x / WARP;
    if (row >= rows) return;
    float gates[MOST_TOKENS] = {0}, sums[MOST_TOKENS] = {0};
    row_products<F>(gates, gate, x, rows, cols, tokens, row);
    row_products<F>(sums, up, x, rows, cols, tokens, row);
#pragma unroll
    for (u32 t = 0; t < MOST_TOKENS; t++)
        if (t < tokens && threadIdx.x % WARP == 0) out[(u64)t * rows + row] = silu_of(gates[t]) * sums[t];
}

// Many tokens: a block of 4 warps makes 64 tokens by 64 outputs, a warp 16 tokens; two runs of the sum at a time, while the
// next two are on their way from memory.
#define TILE 64
#define RUNS_A_STEP 2
#define STRIDE 12  // ints a run of 32 in shared memory, so that banks differ

// One run of all rows and tokens of a block; the integers of weights with their bias.
struct Tile {
    uint4 x[TILE * STRIDE / 4], w[TILE * STRIDE / 4];
    float x_scale[TILE], w_scale[2][TILE], w_offset[2][TILE];
    int x_sum[2][TILE];
};

// Four integers of q with the bias of each, which is -32 to 0: no byte borrows of the next one.
__device__ __forceinline__ int biased(int q, int bias) {
    return bias ? (int)((((u32)q | 0x80808080u) - 0x01010101u * (u32)-bias) ^ 0x80808080u) : q;
}

// c (16 x 8 of the tile from token `m` and output `n` on) = the sum of a half or of the whole run.
template <int SHORT> __device__ __forceinline__ void tile_product(int c[4], const Tile& tile, u32 m, u32 n, int half) {
    u32 lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int *x = (const int*)tile.x + (m + g) * STRIDE, *w = (const int*)tile.w;
#if TENSOR_CORES
    w += (n + g) * STRIDE;
    if (SHORT) {
        int a[2] = {x[4 * half + t], x[8 * STRIDE + 4 * half + t]};
        mma_k16(c, a, w[4 * half + t]);
    } else {
        int a[4] = {x[t], x[8 * STRIDE + t], x[4 + t], x[8 * STRIDE + 4 + t]};
        int b[2] = {w[t], w[4 + t]};
        mma_k32(c, a, b);
    }
#else
    w += (n + 2 * t) * STRIDE;
    for (int i = 0; i < 4; i++)
        for (int k = SHORT ? 4 * half : 0; k < (SHORT ? 4 * half + 4 : 8); k++)
            c[i] = __dp4a(x[i / 2 * 8 * STRIDE + k], w[i % 2 * STRIDE + k], c[i]);
#endif
}

// sums += the products of a run.
template <class F> __device__ __forceinline__ void add_run(float sums[TILE / 8][4], const Tile& tile, u32 m) {
    u32 lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    float scale[2] = {tile.x_scale[m + g], tile.x_scale[m + g + 8]};
#pragma unroll
    for (u32 n = 0; n < TILE; n += 8)
#pragma unroll 1
        for (int half = 0; half < (F::SHORT ? 2 : 1); half++) {
            int c[4] = {0, 0, 0, 0};
            tile_product<F::SHORT>(c, tile, m, n, half);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                u32 token = m + g + j / 2 * 8, row = n + 2 * t + j % 2;
                float product = tile.w_scale[half][row] * (float)c[j];
                if (F::OFFSET) {
                    int sum = F::SHORT ? tile.x_sum[half][token] : tile.x_sum[0][token] + tile.x_sum[1][token];
                    product += tile.w_offset[half][row] * (float)sum;
                }
                sums[n / 8][j] += scale[j / 2] * product;
            }
        }
}

template <class F>
__device__ __forceinline__ void matrix_product(float* out, const u8* weights, const Quantized* x, const float* bias,
                                               const float* gate, u32 rows, u32 cols, u32 tokens) {
    __shared__ Tile tiles[RUNS_A_STEP];
    u32 lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, m = threadIdx.x / WARP * 16, runs = cols / 32;
    u32 first_token = blockIdx.y * TILE, first_row = blockIdx.x * TILE;
    // A thread brings a run of a row and of a token. Rows and tokens past the end are computed with the last one, and not
    // stored; of a run past the end nothing is added.
    u32 mine = threadIdx.x % TILE, part = threadIdx.x / TILE;
    u32 row = first_row + mine < rows ? first_row + mine : rows - 1;
    const Quantized* input = x + (u64)(first_token + mine < tokens ? first_token + mine : tokens - 1) * runs;
    float sums[TILE / 8][4] = {{0}};
    typename Weights<F>::Raw raw = {};
    Quantized next = {};
    if (part < runs) {
        Weights<F>::load(raw, weights, rows, cols, row, part);
        next = input[part];
    }
    for (u32 k = 0; k < runs; k += RUNS_A_STEP) {
        __syncthreads();
        if (k + part < runs) {
            Tile& tile = tiles[part];
            Run r;
            Weights<F>::take_apart(r, raw);
            int* w = (int*)tile.w + mine * STRIDE;
            int* y = (int*)tile.x + mine * STRIDE;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                w[j] = biased(r.q[j], r.bias);
                y[j] = next.q[j];
            }
            for (int h = 0; h < 2; h++) {
                tile.w_scale[h][mine] = r.scale[h];
                tile.w_offset[h][mine] = r.offset[h];
                tile.x_sum[h][mine] = next.sum[h];
            }
            tile.x_scale[mine] = next.scale;
        }
        __syncthreads();
        u32 after = k + RUNS_A_STEP + part;
        if (after < runs) {
            Weights<F>::load(raw, weights, rows, cols, row, after);
            next = input[after];
        }
        // One after the other: both at once would take more registers than there are.
#pragma unroll 1
        for (u32 i = 0; i < RUNS_A_STEP && k + i < runs; i++) add_run<F>(sums, tiles[i], m);
    }
#pragma unroll
    for (u32 n = 0; n < TILE; n += 8)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            u32 token = first_token + m + g + j / 2 * 8, at = first_row + n + 2 * t + j % 2;
            if (token < tokens && at < rows) give(out, (u64)token * rows + at, sums[n / 8][j], bias, at, gate);
        }
}

// The second number of launch bounds is of blocks that a multiprocessor is to have at once: up to 64 registers a thread of
// the first kind, and up to 128.
#define PRODUCTS(F)                                                                                                           \
    extern "C" __global__ void __launch_bounds__(32 * ROWS_A_BLOCK, 8)                                                           \
        vector_##F(float* out, const u8* w, const Quantized* x, const float* bias, const float* gate, u32 rows, u32 cols,     \
                   u32 tokens) {                                                                                              \
        vector_product<F>(out, w, x, bias, gate, rows, cols, tokens);                                                         \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(32 * ROWS_A_BLOCK, 8)                                                           \
        gated_##F(float* out, const u8* gate, const u8* up, const Quantized* x, u32 rows, u32 cols, u32 tokens) {             \
        gated_product<F>(out, gate, up, x, rows, cols, tokens);                                                               \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(2 * TILE, 4)                                                                    \
        matrix_##F(float* out, const u8* w, const Quantized* x, const float* bias, const float* gate, u32 rows, u32 cols,     \
                   u32 tokens) {                                                                                              \
        matrix_product<F>(out, w, x, bias, gate, rows, cols, tokens);                                                         \
    }
FOR_BLOCK_FORMATS(PRODUCTS)
