// Experts: the router's choice, tokens in the order of their experts, and the products of all experts in one launch.
// A token has a slot with each expert that it uses; slots stand one expert after another.

// A matrix [rows, cols] of an expert. Without an address it is another launch's.
struct ExpertMatrix {
    const u8* at;
    u32 rows, cols;
};

// A number whose order among integers is that of f32::total_cmp; bits are those of the float.
__device__ __forceinline__ int order_of(int bits) { return bits ^ (int)((u32)(bits >> 31) >> 1); }

// chosen[token, expert] = whether the expert is among the `used` largest, the first of equals. A thread each.
extern "C" __global__ void choose_experts(u32* chosen, const int* logits, u64 count, u32 experts, u32 used) {
    u64 i = index_here();
    if (i >= count) return;
    u32 mine = (u32)(i % experts), before = 0;
    const int* row = logits + (i - mine);
    int value = order_of(row[mine]);
    for (u32 e = 0; e < experts; e++) {
        int other = order_of(row[e]);
        before += other > value || (other == value && e < mine);
    }
    chosen[i] = before < used;
}

// A block an expert: where its slots begin, whose they are, and for every token its experts and slots in the order of
// experts. The last offset is the number of slots.
extern "C" __global__ void __launch_bounds__(256)
    sort_tokens(u32* offsets, u32* token_of, u32* slots, u32* experts_of, const u32* chosen, u32 tokens, u32 experts, u32 used) {
    __shared__ u32 counts[256];
    u32 expert = blockIdx.x, thread = threadIdx.x, before = 0, mine = 0;
    // Every thread has a run of tokens, so that an expert's tokens stay in order.
    u32 share = (tokens + blockDim.x - 1) / blockDim.x, from = thread * share;
    u32 to = from + share < tokens ? from + share : tokens;
    for (u32 token = from; token < to; token++) {
        const u32* row = chosen + (u64)token * experts;
        for (u32 e = 0; e < expert; e++) before += row[e];
        mine += row[expert];
    }
    counts[thread] = mine;
    // Also the barrier after which the counts are there.
    u32 begin = (u32)block_sum(before), slot = begin;
    for (u32 t = 0; t < thread; t++) slot += counts[t];
    if (thread == 0) {
        offsets[expert] = begin;
        if (expert == experts - 1) offsets[experts] = tokens * used;
    }
    for (u32 token = from; token < to; token++) {
        const u32* row = chosen + (u64)token * experts;
        if (!row[expert]) continue;
        u32 place = 0;
        for (u32 e = 0; e < expert; e++) place += row[e];
        token_of[slot] = token;
        slots[(u64)token * used + place] = slot++;
        experts_of[(u64)token * used + place] = expert;
    }
}

// out[token] = the sum of (1 + logit) * y[slot] over its experts, in their order.
extern "C" __global__ void add_experts(float* out, const float* y, const float* logits, const u32* slots, const u32* experts_of,
                                       u64 count, u64 cols, u32 experts, u32 used) {
    u64 i = index_here();
    if (i >= count) return;
    u64 token = i / cols;
    float sum = 0;
    for (u32 k = 0; k < used; k++) {
        u64 at = token * used + k;
        sum += (1.0f + logits[token * experts + experts_of[at]]) * y[slots[at] * cols + i % cols];
    }
    out[i] = sum;
}

// What a block computes: a tile of one expert's slots.
struct Share {
    const u8* weights;
    u32 rows, cols, begin, slots, tile;
};

// The share of this block, tiles being of so many slots; false for a block that has none.
__device__ __forceinline__ bool share_of(Share& share, const ExpertMatrix* matrices, const u32* offsets, u32 experts, u32 side) {
    u32 tile = blockIdx.y;
    for (u32 e = 0; e < experts; e++) {
        u32 slots = offsets[e + 1] - offsets[e], tiles = (slots + side - 1) / side;
        if (tile < tiles) {
            const ExpertMatrix* matrix = matrices + blockIdx.z * experts + e;
            share = {matrix->at, matrix->rows, matrix->cols, offsets[e], slots, tile};
            return share.weights != nullptr;
        }
        tile -= tiles;
    }
    return false;
}

// y = x W^T for every expert's slots; blockIdx.z is which of its matrices. An expert's slots begin at `in` runs and `out`
// values a slot before it; where experts differ in width, these are the widest ones'.
template <class F>
__device__ __forceinline__ void experts_vector(float* y, const ExpertMatrix* matrices, const Quantized* x, const u32* offsets,
                                               u32 experts, u32 in, u32 out) {
    Share s;
    if (!share_of(s, matrices, offsets, experts, MOST_TOKENS)) return;
    u32 first = s.tile * MOST_TOKENS, left = s.slots - first, runs = s.cols / 32;
    y += (u64)blockIdx.z * offsets[experts] * out + (u64)s.begin * out + (u64)first * s.rows;
    vector_product<F>(y, s.weights, x + (u64)s.begin * in + (u64)first * runs, nullptr, nullptr, s.rows, s.cols,
                      left < MOST_TOKENS ? left : MOST_TOKENS);
}

// Products of tiles take their tile from blockIdx.y: rows before the expert's first one are counted, and not touched.
__device__ __forceinline__ long long skipped(const Share& s, u32 side) { return ((long long)blockIdx.y - s.tile) * side; }

template <class F>
__device__ __forceinline__ void experts_matrix(float* y, const ExpertMatrix* matrices, const Quantized* x, const u32* offsets,
                                               u32 experts, u32 in, u32 out) {
    Share s;
    if (!share_of(s, matrices, offsets, experts, TILE) || blockIdx.x * TILE >= s.rows) return;
    long long skip = skipped(s, TILE), runs = s.cols / 32;
    y += (u64)blockIdx.z * offsets[experts] * out + (u64)s.begin * out;
    matrix_product<F>(y - skip * s.rows, s.weights, x + (u64)s.begin * in - skip * runs, nullptr, nullptr, s.rows,
                      s.cols, s.slots + (u32)skip);
}

#define EXPERTS(F)                                                                                                            \
    extern "C" __global__ void __launch_bounds__(32 * ROWS_A_BLOCK, 4) experts_vector_##F(                                    \
        float* y, const ExpertMatrix* w, const Quantized* x, const u32* offsets, u32 experts, u32 in, u32 out) {              \
        experts_vector<F>(y, w, x, offsets, experts, in, out);                                                                \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(2 * TILE, 3) experts_matrix_##F(                                                \
        float* y, const ExpertMatrix* w, const Quantized* x, const u32* offsets, u32 experts, u32 in, u32 out) {              \
        experts_matrix<F>(y, w, x, offsets, experts, in, out);                                                                \
    }
FOR_BLOCK_FORMATS(EXPERTS)

// The same in floats; `in` is values here.
#define FLOAT_EXPERTS(NAME, LOAD, TYPE)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256, 2) experts_matrix_##NAME(                                               \
        float* y, const ExpertMatrix* w, const float* x, const u32* offsets, u32 experts, u32 in, u32 out) {                  \
        Share s;                                                                                                              \
        if (!share_of(s, w, offsets, experts, SIDE) || blockIdx.x * SIDE >= s.rows) return;                            \
        long long skip = skipped(s, SIDE), cols = s.cols;                                                              \
        y += (u64)blockIdx.z * offsets[experts] * out + (u64)s.begin * out;                                                   \
        float_product(y - skip * s.rows, nullptr, nullptr, s.slots + (u32)skip, s.rows, s.cols,                   \
                      Floats{x + (u64)s.begin * in - skip * cols, s.cols}, LOAD{(const TYPE*)s.weights, s.cols}); \
    }
FLOAT_EXPERTS(F32, Floats, float)
FLOAT_EXPERTS(F16, Halves, u16)
FLOAT_EXPERTS(BF16, Brains, u16)
