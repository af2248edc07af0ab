// Heads of queries and keys: RMS norm and rotary position embedding (Su and others, 2021), in which element j of a head is
// paired with j + head / 2.

__device__ __forceinline__ void turn(float& a, float& b, u32 position, float frequency) {
    float s, c, first = a, second = b;
    // Brought to one turn in double: the reduction of sincosf itself needs a stack.
    double turns = (double)((float)position * frequency) * 0.31830988618379067;
    sincospif((float)(turns - 2 * rint(turns / 2)), &s, &c);
    a = first * c - second * s;
    b = second * c + first * s;
}

// In place; one thread a pair.
extern "C" __global__ void rope(float* x, const u32* positions, const float* frequencies, u64 pairs, u64 cols, u32 head) {
    u64 i = index_here();
    if (i < pairs) {
        u32 half = head / 2;
        u64 row = i / (cols / 2), at = i % (cols / 2), j = at % half;
        float* first = x + row * cols + at / half * head + j;
        turn(first[0], first[half], positions[row], frequencies[j]);
    }
}

#define HEAD_WARPS 4

// The heads of a row's queries and then those of its keys, normed and turned; one warp a head.
extern "C" __global__ void turn_heads(float* q_out, float* k_out, const float* q, const float* k, const float* q_scale,
                                      const float* k_scale, const u32* positions, const float* frequencies, u64 count, u32 q_heads,
                                      u32 k_heads, u32 head, float eps) {
    u64 at = (u64)blockIdx.x * HEAD_WARPS + threadIdx.x / WARP;
    // A whole warp.
    if (at >= count) return;
    u64 row = at / (q_heads + k_heads), h = at % (q_heads + k_heads);
    bool query = h < q_heads;
    u64 first = query ? (row * q_heads + h) * head : (row * k_heads + h - q_heads) * head;
    const float *in = (query ? q : k) + first, *scale = query ? q_scale : k_scale;
    float* out = (query ? q_out : k_out) + first;
    u32 half = head / 2, lane = threadIdx.x % WARP;
    double squares = 0;
    for (u32 i = lane; i < head; i += WARP) squares += (double)in[i] * in[i];
    for (int o = WARP / 2; o; o >>= 1) squares += __shfl_xor_sync(ALL, squares, o);
    float inverse = 1.0f / sqrtf((float)(squares / head) + eps);
    for (u32 j = lane; j < half; j += WARP) {
        float a = in[j] * inverse * scale[j], b = in[j + half] * inverse * scale[j + half];
        turn(a, b, positions[row], frequencies[j]);
        out[j] = a;
        out[j + half] = b;
    }
}
