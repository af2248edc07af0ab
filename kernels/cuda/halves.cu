// Products of many tokens with weights of 16 bits, on tensor cores: activations are rounded to the weights' format.

// A step of the sum: 64 values, and 16 bytes so that the rows of a matrix lie in different banks.
#define STEP 64
#define STEP_ROW (STEP / 8 + 1)

// Rows of x in 16 bits, with zeros up to `padded` values; a block a row. Halves are taken times a power of two that brings
// the largest of a row to 2^14 at least and below 2^15, so that none overflows; `scale` has its inverse.
template <bool BRAIN>
__device__ __forceinline__ void round_row(u16* out, float* scale, const float* x, u32 cols, u32 padded) {
    const float* in = x + (u64)blockIdx.x * cols;
    float inverse = 1, back = 1;
    if (!BRAIN) {
        float most = 0;
        for (u32 i = threadIdx.x; i < cols; i += blockDim.x) most = fmaxf(most, fabsf(in[i]));
        // The exponent, as it is stored; both powers must be normal numbers.
        int exponent = __float_as_int(block_max(most)) >> 23;
        exponent = exponent < 15 ? 15 : exponent;
        inverse = __int_as_float((268 - exponent) << 23);
        back = __int_as_float((exponent - 14) << 23);
    }
    for (u32 i = threadIdx.x; i < padded; i += blockDim.x) {
        float v = i < cols ? in[i] * inverse : 0;
        out[(u64)blockIdx.x * padded + i] = BRAIN ? float_to_brain(v) : float_to_half(v);
    }
    if (threadIdx.x == 0) scale[blockIdx.x] = back;
}

// Four times 16 bytes of a tile for each of 128 threads, out of global memory: eight values of a row, 0 past its end. The
// last row stands for those past it, which are not stored.
__device__ __forceinline__ void load_tile(uint4 to[4], const u16* from, u32 first, u32 rows, u32 cols, u32 k) {
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        u32 i = threadIdx.x + 2 * TILE * j, row = first + i / (STEP / 8), at = k + i % (STEP / 8) * 8;
        const u16* source = from + (u64)(row < rows ? row : rows - 1) * cols + at;
        if (cols % 8 == 0)
            to[j] = at < cols ? *(const uint4*)source : uint4{0, 0, 0, 0};
        else {
            u32 pairs[4];
            for (u32 p = 0; p < 4; p++)
                pairs[p] = (at + 2 * p < cols ? source[2 * p] : 0) | (at + 2 * p + 1 < cols ? (u32)source[2 * p + 1] << 16 : 0);
            to[j] = uint4{pairs[0], pairs[1], pairs[2], pairs[3]};
        }
    }
}

__device__ __forceinline__ void store_tile(uint4* to, const uint4 from[4]) {
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        u32 i = threadIdx.x + 2 * TILE * j;
        to[i / (STEP / 8) * STEP_ROW + i % (STEP / 8)] = from[j];
    }
}

// sums (32 tokens from m on by 32 outputs from n on) += the products of 16 values from k on.
template <bool BRAIN>
__device__ __forceinline__ void add_products(float sums[2][4][4], const uint4* x, const uint4* w, u32 m, u32 n, u32 k) {
    u32 lane = threadIdx.x % WARP;
#if TENSOR_CORES
    u32 a[2][4];
    for (u32 i = 0; i < 2; i++)
        load_matrices<false>(a[i], (const u16*)(x + (m + 16 * i + lane % 16) * STEP_ROW + k / 8 + lane / 16));
    for (u32 j = 0; j < 4; j += 2) {
        u32 b[4];
        load_matrices<false>(b, (const u16*)(w + (n + 8 * j + lane / 16 * 8 + lane % 8) * STEP_ROW + k / 8 + lane / 8 % 2));
        for (u32 i = 0; i < 2; i++)
            for (u32 half = 0; half < 2; half++)
                if (BRAIN)
                    mma_brains(sums[i][j + half], a[i], b + 2 * half);
                else
                    mma_halves(sums[i][j + half], a[i], b + 2 * half);
    }
#else
    const u16 *left = (const u16*)x + k, *right = (const u16*)w + k;
#pragma unroll 1
    for (u32 s = 0; s < 16; s++)
#pragma unroll
        for (u32 i = 0; i < 32; i++) {
            u16 a = left[(m + 16 * (i / 16) + lane / 4 + i % 4 / 2 * 8) * STEP_ROW * 8 + s];
            u16 b = right[(n + 8 * (i / 4 % 4) + 2 * (lane % 4) + i % 2) * STEP_ROW * 8 + s];
            float product = BRAIN ? brain_to_float(a) * brain_to_float(b) : half_to_float(a) * half_to_float(b);
            sums[i / 16][i / 4 % 4][i % 4] += product;
        }
#endif
}

// A block of 4 warps makes 64 tokens by 64 outputs, a warp 32 by 32. What comes next is on its way from memory while a step
// is multiplied.
template <bool BRAIN>
__device__ __forceinline__ void half_product(float* out, const u16* weights, const u16* x, const float* scales, const float* bias,
                                             const float* gate, u32 rows, u32 cols, u32 padded, u32 tokens) {
    __shared__ uint4 left[TILE * STEP_ROW], right[TILE * STEP_ROW];
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    u32 first_token = blockIdx.y * TILE, first_row = blockIdx.x * TILE, m = warp / 2 * 32, n = warp % 2 * 32;
    float sums[2][4][4] = {{{0}}};
    uint4 next_x[4], next_w[4];
    load_tile(next_x, x, first_token, tokens, padded, 0);
    load_tile(next_w, weights, first_row, rows, cols, 0);
    for (u32 k = 0; k < padded; k += STEP) {
        __syncthreads();
        store_tile(left, next_x);
        store_tile(right, next_w);
        __syncthreads();
        if (k + STEP < padded) {
            load_tile(next_x, x, first_token, tokens, padded, k + STEP);
            load_tile(next_w, weights, first_row, rows, cols, k + STEP);
        }
#pragma unroll
        for (u32 s = 0; s < STEP; s += 16) add_products<BRAIN>(sums, left, right, m, n, s);
    }
#pragma unroll
    for (u32 i = 0; i < 32; i++) {
        u32 token = first_token + m + 16 * (i / 16) + g + i % 4 / 2 * 8, row = first_row + n + 8 * (i / 4 % 4) + 2 * t + i % 2;
        if (token < tokens && row < rows)
            give(out, (u64)token * rows + row, sums[i / 16][i / 4 % 4][i % 4] * scales[token], bias, row, gate);
    }
}

#define HALF_PRODUCT(NAME, BRAIN)                                                                                             \
    extern "C" __global__ void round_##NAME(u16* out, float* scale, const float* x, u32 cols, u32 padded) {                   \
        round_row<BRAIN>(out, scale, x, cols, padded);                                                                        \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(2 * TILE)                                                                    \
        rounded_##NAME(float* out, const u16* w, const u16* x, const float* scales, const float* bias, const float* gate,     \
                       u32 rows, u32 cols, u32 padded, u32 tokens) {                                                          \
        half_product<BRAIN>(out, w, x, scales, bias, gate, rows, cols, padded, tokens);                                       \
    }
HALF_PRODUCT(F16, false)
HALF_PRODUCT(BF16, true)
