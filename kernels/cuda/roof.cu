// What the processor can do at best: products on operands that lie in registers.

#define ROOF_CHAINS 8

// A warp multiplies 16 x 8 x 32 in 8 bits, ROOF_CHAINS times independently, `rounds` times over. One int a thread is
// written, so that nothing is left out.
extern "C" __global__ void roof_integers(int* out, u32 rounds) {
    int a[4], b[2], c[ROOF_CHAINS][4] = {{0}};
    for (int i = 0; i < 4; i++) a[i] = (int)(threadIdx.x * 0x01010101u) + i;
    for (int i = 0; i < 2; i++) b[i] = (int)(threadIdx.x * 0x01020301u) - i;
    for (u32 r = 0; r < rounds; r++) {
#pragma unroll
        for (int j = 0; j < ROOF_CHAINS; j++) {
#if TENSOR_CORES
            mma_k32(c[j], a, b);
#else
            // 4 products of 4 values a thread and sum: 32 threads make what the warp's instruction makes.
            for (int i = 0; i < 4; i++)
                for (int k = 0; k < 8; k++) c[j][i] = __dp4a(a[k % 4] + j, b[k % 2], c[j][i]);
#endif
        }
    }
    int all = 0;
    for (int j = 0; j < ROOF_CHAINS; j++)
        for (int i = 0; i < 4; i++) all ^= c[j][i];
    out[index_here()] = all;
}
