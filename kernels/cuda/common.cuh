// What all kernels share. No header of the toolkit is needed: NVRTC compiles this text alone, and a C++ compiler does
// after shim.h (kernels/cuda/shim).
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define WARP 32
#define ALL 0xffffffffu
#define INFINITE __int_as_float(0x7f800000)

#ifndef SHIM
__device__ __forceinline__ float half_to_float(u16 bits) {
    float value;
    asm("{ .reg .f16 h; mov.b16 h, %1; cvt.f32.f16 %0, h; }" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ u16 float_to_half(float value) {
    u16 bits;
    asm("{ .reg .f16 h; cvt.rn.f16.f32 h, %1; mov.b16 %0, h; }" : "=h"(bits) : "f"(value));
    return bits;
}

// c[16 x 8] += a[16 x 32] b[8 x 32]^T in 8 bits. Fragments: PTX ISA, "Matrix Fragments for mma.m16n8k32".
__device__ __forceinline__ void mma_k32(int c[4], const int a[4], const int b[2]) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// The same for 16 values.
__device__ __forceinline__ void mma_k16(int c[4], const int a[2], int b) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
#endif
}
#define TENSOR_CORES (__CUDA_ARCH__ >= 800)

// c[16 x 8] += a[16 x 16] b[8 x 16]^T, pairs of halves in and floats out: the fragments of mma_k32, with a pair in place
// of four bytes (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type").
__device__ __forceinline__ void mma_halves(float c[4], const u32 a[4], const u32 b[2]) {
#if TENSOR_CORES
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// The same for bfloat16.
__device__ __forceinline__ void mma_brains(float c[4], const u32 a[4], const u32 b[2]) {
#if TENSOR_CORES
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
#endif

__device__ __forceinline__ float brain_to_float(u16 bits) { return __int_as_float((int)((u32)bits << 16)); }

// The nearest one, the even one of two; no number stays none.
__device__ __forceinline__ u16 float_to_brain(float value) {
    u32 bits = (u32)__float_as_int(value);
    return value == value ? (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16) : (u16)0x7fc0;
}

// Eight halves, or floats, at a multiple of 16 bytes.
__device__ __forceinline__ void halves_of(float v[8], uint4 w) {
    u32 pairs[4] = {w.x, w.y, w.z, w.w};
    for (int i = 0; i < 8; i++) v[i] = half_to_float((u16)(pairs[i / 2] >> 16 * (i % 2)));
}
__device__ __forceinline__ void eight_floats(float v[8], const float* at) {
    const float4* four = (const float4*)at;
    float4 a = four[0], b = four[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

// Two bytes at once: every block of GGUF begins at an even address.
__device__ __forceinline__ u32 load2(const u8* at) { return *(const u16*)at; }
__device__ __forceinline__ u32 load4(const u8* at) { return load2(at) | load2(at + 2) << 16; }

__device__ __forceinline__ float warp_sum(float v) {
    for (int o = WARP / 2; o; o >>= 1) v += __shfl_xor_sync(ALL, v, o);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
    for (int o = WARP / 2; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL, v, o));
    return v;
}

// The sum over all threads of a block of at most 32 warps, in every thread. Sums of many values are taken in double.
__device__ __forceinline__ double block_sum(double v) {
    __shared__ double partial[WARP];
    for (int o = WARP / 2; o; o >>= 1) v += __shfl_xor_sync(ALL, v, o);
    __syncthreads();
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = v;
    __syncthreads();
    double all = 0;
    for (u32 w = 0; w < blockDim.x / WARP; w++) all += partial[w];
    return all;
}

// The largest over all threads of a block, in every thread.
__device__ __forceinline__ float block_max(float v) {
    __shared__ float partial[WARP];
    v = warp_max(v);
    __syncthreads();
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = v;
    __syncthreads();
    for (u32 w = 0; w < blockDim.x / WARP; w++) v = fmaxf(v, partial[w]);
    return v;
}

// Two halves in an int, the first one below.
__device__ __forceinline__ u32 two_halves(float low, float high) { return float_to_half(low) | (u32)float_to_half(high) << 16; }

// The nearest half that is finite; no number stays none.
#define MOST_HALF 65504.0f
__device__ __forceinline__ float within_half(float v) { return v > MOST_HALF ? MOST_HALF : v < -MOST_HALF ? -MOST_HALF : v; }

// Four matrices of 8 x 8 values of 16 bits from shared memory: lane 8 m + r names row r of the m-th one (at a multiple of
// 16 bytes) and gets two values of each: columns 2 (lane % 4) and the next one of row lane / 4, or, transposed, rows and
// columns exchanged. The fragments of mma_halves are made of such matrices (PTX ISA, "ldmatrix").
template <bool TRANSPOSED> __device__ __forceinline__ void load_matrices(u32 r[4], const u16* row) {
#if __CUDA_ARCH__ >= 750
    u32 at = (u32)__cvta_generic_to_shared(row);
    if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
#else
    u32 lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    for (u32 m = 0; m < 4; m++) {
        const u16* first = (const u16*)__shfl_sync(ALL, (u64)row, 8 * m + (TRANSPOSED ? 2 * t : g));
        const u16* second = (const u16*)__shfl_sync(ALL, (u64)row, 8 * m + (TRANSPOSED ? 2 * t + 1 : g));
        r[m] = first[TRANSPOSED ? g : 2 * t] | (u32)second[TRANSPOSED ? g : 2 * t + 1] << 16;
    }
#endif
}

__device__ __forceinline__ u64 index_here() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

__device__ __forceinline__ float silu_of(float x) { return x / (1.0f + expf(-x)); }
