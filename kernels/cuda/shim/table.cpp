// All kernels behind one door: by name, with pointers to their arguments, as the driver's launch has it.
#include "shim.h"

// Nameless, so that what stands for a block's memory is not shared by two of these libraries in one process.
namespace {
#include "../common.cuh"
#include "../blocks.cuh"
#include "../planes.cuh"
#include "../rows.cu"
#include "../quantize.cu"
#include "../norm.cu"
#include "../matmul.cu"
#include "../floats.cu"
#include "../halves.cu"
#include "../experts.cu"
#include "../heads.cu"
#include "../attention.cu"
#include "../flash.cu"
#include "../roof.cu"
}  // namespace

static const int barriers = __COUNTER__;

extern "C" int shim_barriers() { return barriers; }
extern "C" void shim_remove_barrier(int id) { shim::removed_barrier = id; }
extern "C" void shim_order(uint32_t order) { shim::order = order; }
extern "C" void* shim_allocate(size_t bytes) { return malloc(bytes); }
extern "C" void shim_free(void* at) { free(at); }

// What `with` gives for the kernel of this name; `otherwise` if there is none.
template <class V> static int with_kernel(const char* name, int otherwise, V with) {
#define KERNEL(K) \
    if (!strcmp(name, #K)) return with(K);
#define OF_FORMAT(F) \
    KERNEL(embed_##F) KERNEL(vector_##F) KERNEL(gated_##F) KERNEL(matrix_##F) KERNEL(experts_vector_##F) KERNEL(experts_matrix_##F)
    FOR_BLOCK_FORMATS(OF_FORMAT)
    KERNEL(embed_F32) KERNEL(embed_F16) KERNEL(embed_BF16)
    KERNEL(vector_F32) KERNEL(vector_F16) KERNEL(vector_BF16)
    KERNEL(matrix_F32) KERNEL(matrix_F16) KERNEL(matrix_BF16)
    KERNEL(round_F16) KERNEL(round_BF16) KERNEL(rounded_F16) KERNEL(rounded_BF16)
    KERNEL(experts_matrix_F32) KERNEL(experts_matrix_F16) KERNEL(experts_matrix_BF16)
    KERNEL(choose_experts) KERNEL(sort_tokens) KERNEL(add_experts)
    KERNEL(add) KERNEL(add_scaled) KERNEL(affine) KERNEL(silu) KERNEL(gelu_tanh) KERNEL(swiglu) KERNEL(extrapolate)
    KERNEL(scale_rows) KERNEL(gather_rows) KERNEL(scatter_rows) KERNEL(upsample_nearest) KERNEL(gaussian)
    KERNEL(halve) KERNEL(restore) KERNEL(half_factor) KERNEL(put)
    KERNEL(rms_norm) KERNEL(layer_norm) KERNEL(group_moments) KERNEL(group_norm) KERNEL(renorm)
    KERNEL(rope) KERNEL(turn_heads)
    KERNEL(quantize) KERNEL(conv2d) KERNEL(attention) KERNEL(attention_join) KERNEL(append_half) KERNEL(read_half)
    KERNEL(flash_64) KERNEL(flash_80) KERNEL(flash_128)
    KERNEL(roof_integers)
    return otherwise;
}

// 0: done; 1: no such kernel; 2: its threads did not agree.
extern "C" int shim_launch(const char* name, const unsigned grid[3], unsigned count, void** arguments) {
    shim::blocks = Index3{grid[0], grid[1], grid[2]};
    shim::threads = Index3{count, 1, 1};
    return with_kernel(name, 1, [&](auto kernel) { return shim::launch(kernel, count, arguments) ? 0 : 2; });
}
