// Attention of many queries in halves (Dao, 2023): a block makes 64 queries of a head, a warp 16 of them; keys and values
// come to shared memory in tiles, the probabilities of a tile stay in registers.

#define QUERIES 64
#define LOG2_E 1.44269504f

// Eight values as halves that are finite, of which `count` are there.
__device__ __forceinline__ uint4 eight_halves(const void* at, u32 half, u64 i, u32 head, u32 count, float scale) {
    float v[8];
    key_values(v, at, half, i, head, count);
    for (int j = 0; j < 8; j++) v[j] = within_half(v[j] * scale);
    return uint4{two_halves(v[0], v[1]), two_halves(v[2], v[3]), two_halves(v[4], v[5]), two_halves(v[6], v[7])};
}

// Rows `start` and on of one head in shared memory, `HEAD` values of each; what is not there is 0.
template <u32 HEAD>
__device__ __forceinline__ void stage(uint4* to, u32 rows, const void* from, u32 half, u32 start, u32 end, u64 width, u64 first,
                                      u32 head, float scale) {
    for (u32 i = threadIdx.x; i < rows * (HEAD / 8); i += blockDim.x) {
        u32 row = i / (HEAD / 8), at = i % (HEAD / 8) * 8;
        uint4 v = {0, 0, 0, 0};
        if (start + row < end && at < head) {
            u64 source = (start + row) * width + first + at;
            // Kept halves go as they are.
            v = half && head % 8 == 0 ? *(const uint4*)((const u16*)from + source)
                                      : eight_halves(from, half, source, head, head - at, scale);
        }
        to[row * (HEAD / 8 + 1) + i % (HEAD / 8)] = v;
    }
}

// HEAD: the values of a head, up to a multiple of 16; KEYS: those of a tile.
//
// Scores are made of halves: a query (times the scale and log2 e) or a key beyond 65504 is taken as 65504. Queries and keys
// that are normed, as those of the models here, stay below 12 times the largest weight of their norm (the root of the head's
// length, 128); and with scores that large softmax has chosen one key long before.
template <u32 HEAD, u32 KEYS>
__device__ __forceinline__ void flash_attention(float* out, const float* q, const KeyRuns& runs, u32 queries, u32 heads,
                                                u32 kv_heads, u32 head, u32 causal, float scale) {
    // Rows are 16 bytes longer than their values, so that the rows of a matrix lie in different banks.
    const u32 ROW = HEAD / 8 + 1;
    __shared__ uint4 query[QUERIES * ROW], keys[KEYS * ROW], values[KEYS * ROW];
    u32 lane = threadIdx.x % WARP, m = threadIdx.x / WARP * 16, h = blockIdx.y, g = lane / 4, t = lane % 4;
    u32 begin = blockIdx.x * QUERIES;
    u64 width = (u64)kv_heads * head, first = (u64)(h / (heads / kv_heads)) * head;
    stage<HEAD>(query, QUERIES, q, 0, begin, queries, (u64)heads * head, (u64)h * head, head, scale * LOG2_E);
    float sums[HEAD / 8][4] = {{0}}, largest[2] = {-INFINITE, -INFINITE}, total[2] = {0, 0};
    for (u32 n = 0; n < runs.count; n++) {
        const KeyRun& run = runs.run[n];
        bool last = causal && n + 1 == runs.count;
        u32 end = last && begin + QUERIES < run.tokens ? begin + QUERIES : run.tokens;
        for (u32 start = 0; start < end; start += KEYS) {
            __syncthreads();
            stage<HEAD>(keys, KEYS, run.keys, run.half, start, end, width, first, head, 1);
            stage<HEAD>(values, KEYS, run.values, run.half, start, end, width, first, head, 1);
            __syncthreads();
            float scores[KEYS / 8][4] = {{0}};
#pragma unroll
            for (u32 d = 0; d < HEAD / 8; d += 2) {
                u32 a[4];
                load_matrices<false>(a, (const u16*)(query + (m + lane % 16) * ROW + d + lane / 16));
#pragma unroll
                for (u32 k = 0; k < KEYS / 8; k += 2) {
                    u32 b[4];
                    load_matrices<false>(b, (const u16*)(keys + (k * 8 + lane / 16 * 8 + lane % 8) * ROW + d + lane / 8 % 2));
                    mma_halves(scores[k], a, b);
                    mma_halves(scores[k + 1], a, b + 2);
                }
            }
            // A lane has values of the rows g and g + 8 of its warp.
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                u32 seen = last && begin + m + g + 8 * half + 1 < end ? begin + m + g + 8 * half + 1 : end;
                float now = largest[half];
#pragma unroll
                for (u32 k = 0; k < KEYS / 8; k++)
#pragma unroll
                    for (u32 i = 0; i < 2; i++) {
                        float& score = scores[k][2 * half + i];
                        if (start + k * 8 + 2 * t + i >= seen) score = -INFINITE;
                        now = fmaxf(now, score);
                    }
                now = fmaxf(now, __shfl_xor_sync(ALL, now, 1));
                now = fmaxf(now, __shfl_xor_sync(ALL, now, 2));
                // Every row sees the first key of its first tile: `now` is finite.
                float shrink = exp2f(largest[half] - now), sum = 0;
                largest[half] = now;
#pragma unroll
                for (u32 k = 0; k < KEYS / 8; k++)
#pragma unroll
                    for (u32 i = 0; i < 2; i++) {
                        float& score = scores[k][2 * half + i];
                        score = exp2f(score - now);
                        sum += score;
                    }
                total[half] = total[half] * shrink + sum;
#pragma unroll
                for (u32 d = 0; d < HEAD / 8; d++) {
                    sums[d][2 * half] *= shrink;
                    sums[d][2 * half + 1] *= shrink;
                }
            }
            // Sums of a product are laid out as the left side of the next one.
#pragma unroll
            for (u32 k = 0; k < KEYS / 8; k += 2) {
                u32 a[4] = {two_halves(scores[k][0], scores[k][1]), two_halves(scores[k][2], scores[k][3]),
                            two_halves(scores[k + 1][0], scores[k + 1][1]), two_halves(scores[k + 1][2], scores[k + 1][3])};
#pragma unroll
                for (u32 d = 0; d < HEAD / 8; d += 2) {
                    u32 b[4];
                    load_matrices<true>(b, (const u16*)(values + (k * 8 + lane % 16) * ROW + d + lane / 16));
                    mma_halves(sums[d], a, b);
                    mma_halves(sums[d + 1], a, b + 2);
                }
            }
        }
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        float all = total[half];
        all += __shfl_xor_sync(ALL, all, 1);
        all += __shfl_xor_sync(ALL, all, 2);
        u32 row = begin + m + g + 8 * half;
        if (row < queries)
#pragma unroll
            for (u32 d = 0; d < HEAD / 8; d++)
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    u32 at = 8 * d + 2 * t + i;
                    if (at < head) out[((u64)row * heads + h) * head + at] = all > 0 ? sums[d][2 * half + i] / all : 0;
                }
    }
}

// Chips without these instructions make one query after another.
__device__ __forceinline__ void attention_in_turn(float* out, const float* q, const KeyRuns& runs, u32 queries, u32 heads,
                                                  u32 kv_heads, u32 head, u32 causal, float scale) {
    for (u32 row = blockIdx.x * QUERIES; row < queries && row < (blockIdx.x + 1) * QUERIES; row++) {
        attention_of(out, q, runs, row, 0, 1, heads, kv_heads, head, causal, scale);
        __syncthreads();
    }
}

#if TENSOR_CORES
#define MANY_QUERIES(HEAD, KEYS) flash_attention<HEAD, KEYS>
#else
#define MANY_QUERIES(HEAD, KEYS) attention_in_turn
#endif

// grid: (queries / 64, heads); heads of at most HEAD values.
#define FLASH(HEAD, KEYS)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(2 * QUERIES)                                                                 \
        flash_##HEAD(float* out, const float* q, KeyRuns runs, u32 queries, u32 heads, u32 kv_heads, u32 head, u32 causal,    \
                     float scale) {                                                                                           \
        MANY_QUERIES(HEAD, KEYS)(out, q, runs, queries, heads, kv_heads, head, causal, scale);                             \
    }
FLASH(64, 64)
FLASH(80, 64)
FLASH(128, 32)
