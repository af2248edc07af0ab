// Softmax attention with a running maximum (Milakov and Gimelshein, 2018), in floats, for few queries or exact results.

#define MOST_RUNS 16
#define MOST_HEAD 256
#define KEY_WARPS 4

// Keys and values of some tokens, [tokens, kv_heads * head]: in halves where `half` is set.
struct KeyRun {
    const void *keys, *values;
    u32 tokens, half;
};
struct KeyRuns {
    KeyRun run[MOST_RUNS];
    u32 count;
};

// Eight values from `i` on, of which `count` are there; the others are 0. Heads of whole eights are read 16 bytes at once.
__device__ __forceinline__ void key_values(float v[8], const void* at, u32 half, u64 i, u32 head, u32 count) {
    if (head % 8 == 0 && half)
        halves_of(v, *(const uint4*)((const u16*)at + i));
    else if (head % 8 == 0)
        eight_floats(v, (const float*)at + i);
    else
#pragma unroll
        for (u32 j = 0; j < 8; j++)
            v[j] = j < count ? half ? half_to_float(((const u16*)at)[i + j]) : ((const float*)at)[i + j] : 0;
}

// What one warp knows of its keys.
struct Attended {
    float largest, total, sums[8];
};

// The keys `start` to `start` + 32 of a run, of which `here` count. A lane has a key, and then eight values of every
// `groups`-th key.
__device__ __forceinline__ void attend(Attended& a, const float* query, const KeyRun& run, u32 start, u32 here, u64 width,
                                       u64 first, u32 head) {
    u32 lane = threadIdx.x % WARP, eights = (head + 7) / 8, groups = WARP / eights, group = lane / eights, mine = lane % eights * 8;
    float score = -INFINITE, v[8];
    if (lane < here) {
        score = 0;
        for (u32 i = 0; i < head; i += 8) {
            key_values(v, run.keys, run.half, (start + lane) * width + first + i, head, head - i);
#pragma unroll
            for (u32 j = 0; j < 8; j++) score += query[i + j] * v[j];
        }
    }
    float now = fmaxf(a.largest, warp_max(score)), shrink = expf(a.largest - now), weight = expf(score - now);
    a.largest = now;
    a.total = a.total * shrink + warp_sum(weight);
#pragma unroll
    for (u32 j = 0; j < 8; j++) a.sums[j] *= shrink;
    for (u32 k = group; k - group < here; k += groups) {
        // Lanes beyond the last group, and keys beyond the last one, add nothing.
        float share = __shfl_sync(ALL, weight, k % WARP);
        if (group < groups && k < here) {
            key_values(v, run.values, run.half, (start + k) * width + first + mine, head, head - mine);
#pragma unroll
            for (u32 j = 0; j < 8; j++) a.sums[j] += share * v[j];
        }
    }
}

// One query of the head blockIdx.y, by KEY_WARPS warps, which take 32 keys each in turn. With `causal` query i sees i + 1
// tokens of the last run. A part alone writes the result; of several ones each writes what attention_join puts together:
// head values, their sum and the largest score.
__device__ __forceinline__ void attention_of(float* out, const float* q, const KeyRuns& runs, u32 row, u32 part, u32 parts,
                                             u32 heads, u32 kv_heads, u32 head, u32 causal, float scale) {
    __shared__ float query[MOST_HEAD], sums[KEY_WARPS][8 * WARP], largest[KEY_WARPS], totals[KEY_WARPS];
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, h = blockIdx.y;
    u64 width = (u64)kv_heads * head, first = (u64)(h / (heads / kv_heads)) * head, result = (u64)row * heads + h;
    for (u32 i = threadIdx.x; i < MOST_HEAD; i += blockDim.x) query[i] = i < head ? q[result * head + i] * scale : 0;
    __syncthreads();
    Attended a = {-INFINITE, 0, {0}};
    // Pieces of 32 keys are numbered through all runs.
    u32 turn = part * KEY_WARPS + warp, turns = parts * KEY_WARPS;
    for (u32 n = 0; n < runs.count; n++) {
        const KeyRun& run = runs.run[n];
        u32 tokens = causal && n + 1 == runs.count ? row + 1 : run.tokens, pieces = (tokens + WARP - 1) / WARP;
        for (; turn < pieces; turn += turns) {
            u32 start = turn * WARP;
            attend(a, query, run, start, tokens - start < WARP ? tokens - start : WARP, width, first, head);
        }
        turn -= pieces;
    }
#pragma unroll
    for (u32 j = 0; j < 8; j++) sums[warp][8 * lane + j] = a.sums[j];
    if (lane == 0) {
        largest[warp] = a.largest;
        totals[warp] = a.total;
    }
    __syncthreads();
    float most = -INFINITE, total = 0;
    for (u32 w = 0; w < KEY_WARPS; w++) most = fmaxf(most, largest[w]);
    // A warp without keys has no part in it.
    for (u32 w = 0; w < KEY_WARPS; w++) total += totals[w] > 0 ? totals[w] * expf(largest[w] - most) : 0;
    u32 eights = (head + 7) / 8, groups = WARP / eights;
    float* mine = out + (result * parts + part) * (head + 2);
    for (u32 i = threadIdx.x; i < head; i += blockDim.x) {
        float sum = 0;
        for (u32 w = 0; w < KEY_WARPS; w++) {
            float of_warp = 0;
            for (u32 g = 0; g < groups; g++) of_warp += sums[w][(g * eights + i / 8) * 8 + i % 8];
            sum += totals[w] > 0 ? of_warp * expf(largest[w] - most) : 0;
        }
        if (parts > 1)
            mine[i] = sum;
        else
            out[result * head + i] = total > 0 ? sum / total : 0;
    }
    if (parts > 1 && threadIdx.x == 0) {
        mine[head] = total;
        mine[head + 1] = most;
    }
}

// grid: (queries, heads, parts of the keys)
extern "C" __global__ void __launch_bounds__(32 * KEY_WARPS, 8)
    attention(float* out, const float* q, KeyRuns runs, u32 heads, u32 kv_heads, u32 head, u32 causal, float scale) {
    attention_of(out, q, runs, blockIdx.x, blockIdx.z, gridDim.z, heads, kv_heads, head, causal, scale);
}

// The parts of each query and head put together; a block a query and head.
extern "C" __global__ void attention_join(float* out, const float* parts, u32 count, u32 head) {
    const float* mine = parts + (u64)blockIdx.x * count * (head + 2);
    float most = -INFINITE, total = 0;
    for (u32 p = 0; p < count; p++) most = fmaxf(most, mine[p * (head + 2) + head + 1]);
    for (u32 p = 0; p < count; p++) {
        const float* part = mine + p * (head + 2);
        total += part[head] > 0 ? part[head] * expf(part[head + 1] - most) : 0;
    }
    for (u32 i = threadIdx.x; i < head; i += blockDim.x) {
        float sum = 0;
        for (u32 p = 0; p < count; p++) {
            const float* part = mine + p * (head + 2);
            sum += part[head] > 0 ? part[i] * expf(part[head + 1] - most) : 0;
        }
        out[(u64)blockIdx.x * head + i] = total > 0 ? sum / total : 0;
    }
}

// Appends rows of keys and of values to a cache from `at` (in values) on.
extern "C" __global__ void append_half(u16* keys, u16* values, const float* k, const float* v, u64 at, u64 count) {
    u64 i = index_here();
    if (i < count) {
        keys[at + i] = float_to_half(k[i]);
        values[at + i] = float_to_half(v[i]);
    }
}

extern "C" __global__ void read_half(float* out, const u16* cache, u64 count) {
    u64 i = index_here();
    if (i < count) out[i] = half_to_float(cache[i]);
}
