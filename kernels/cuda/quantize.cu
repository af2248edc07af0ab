// Activations in 8 bits with a scale for every 32.

// An activation's run of 32: the same on every path.
struct __align__(16) Quantized {
    int q[8];
    float scale;
    int sum[2];  // of each half
    int unused;
};

// A warp a run, a lane a value: q = round(x / scale), scale = largest / 127.
__device__ __forceinline__ void quantize_run(Quantized& out, float v) {
    u32 lane = threadIdx.x % WARP;
    float most = warp_max(fabsf(v)), scale = most / 127.0f, inverse = scale == 0 ? 0 : 1.0f / scale;
    int q = (int)rintf(v * inverse), sum = q;
    for (int o = 8; o; o >>= 1) sum += __shfl_xor_sync(ALL, sum, o);
    int bytes = (q & 255) << 8 * (lane % 4);
    bytes |= __shfl_xor_sync(ALL, bytes, 1);
    bytes |= __shfl_xor_sync(ALL, bytes, 2);
    if (lane % 4 == 0) out.q[lane / 4] = bytes;
    if (lane % 16 == 0) out.sum[lane / 16] = sum;
    if (lane == 0) out.scale = scale;
}

extern "C" __global__ void quantize(Quantized* out, const float* x, u64 runs) {
    u64 i = index_here();
    // Every lane of a warp has the same run, and leaves with the others.
    if (i / WARP < runs) quantize_run(out[i / WARP], x[i]);
}
