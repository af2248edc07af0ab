// stable-diffusion.cpp's transformer block as a peer of tools/bench.
//
// usage: block FORMAT THREADS
// Z-Image's block is the one that is most like BAGEL's layer (RMS norms, norms of heads, rotary embedding, gated
// feed-forward network). Here it has the widths of BAGEL-7B, and 28 heads of keys too: it shares none.
// Reads lines "block TOKENS" and answers each with one line: "plain=SECONDS flash=SECONDS", the second with
// stable-diffusion.cpp's --diffusion-fa.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "z_image.hpp"

static const int64_t HIDDEN = 3584, INNER = 18944, HEADS = 28, HEAD = 128;

struct Block : public GGMLRunner {
    ZImage::JointTransformerBlock block;
    std::vector<float> x, pe;
    int64_t tokens = 0;

    Block(ggml_backend_t backend, const String2TensorStorage &types)
        : GGMLRunner(backend, false),
          block(0, HIDDEN, HEAD, HEADS, HEADS, 256, (float)INNER / HIDDEN, 1e-6f, true, false) {
        block.init(params_ctx, types, "block");
        alloc_params_buffer();
        std::map<std::string, ggml_tensor *> tensors;
        block.get_param_tensors(tensors, "block");
        for (auto &one : tensors) fill(one.second);
    }

    std::string get_desc() override { return "block"; }

    // Evenly spread small numbers, in the tensor's own format: one row, again and again.
    static void fill(ggml_tensor *tensor) {
        int64_t cols = tensor->ne[0], rows = ggml_nrows(tensor);
        size_t bytes = ggml_row_size(tensor->type, cols);
        std::vector<float> values(cols);
        for (int64_t i = 0; i < cols; i++) values[i] = rows == 1 ? 1.0f : (float)(i * 7919 % 1009) / 10080.0f - 0.05f;
        std::vector<char> row(bytes);
        ggml_quantize_chunk(tensor->type, values.data(), row.data(), 0, 1, cols, nullptr);
        for (int64_t i = 0; i < rows; i++) ggml_backend_tensor_set(tensor, row.data(), i * bytes, bytes);
    }

    ggml_cgraph *graph() {
        ggml_cgraph *gf = new_graph_custom(1024);
        ggml_tensor *in = ggml_new_tensor_3d(compute_ctx, GGML_TYPE_F32, HIDDEN, tokens, 1);
        set_backend_tensor_data(in, x.data());
        ggml_tensor *turns = ggml_new_tensor_4d(compute_ctx, GGML_TYPE_F32, 2, 2, HEAD / 2, tokens);
        set_backend_tensor_data(turns, pe.data());
        auto context = get_context();
        ggml_build_forward_expand(gf, block.forward(&context, in, turns));
        return gf;
    }

    double run(int64_t count, int threads, bool flash) {
        tokens = count;
        x.assign(HIDDEN * tokens, 0.0f);
        for (size_t i = 0; i < x.size(); i++) x[i] = (float)(i % 101) / 101.0f - 0.5f;
        // Turned by nothing: cosine 1, sine 0.
        pe.assign(HEAD * 2 * tokens, 0.0f);
        for (size_t i = 0; i < pe.size(); i += 4) pe[i] = pe[i + 3] = 1.0f;
        set_flash_attention_enabled(flash);
        auto start = std::chrono::steady_clock::now();
        if (!compute<float>([&] { return graph(); }, threads, false)) return -1;
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
};

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    ggml_type type = GGML_TYPE_COUNT;
    for (int i = 0; i < GGML_TYPE_COUNT; i++)
        if (ggml_type_name((ggml_type)i) && !strcasecmp(ggml_type_name((ggml_type)i), argv[1])) type = (ggml_type)i;
    if (type == GGML_TYPE_COUNT) return 2;
    String2TensorStorage types;
    for (const char *name : {"attention.qkv", "attention.out", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"}) {
        TensorStorage storage;
        storage.name = std::string("block.") + name + ".weight";
        storage.type = type;
        types[storage.name] = storage;
    }
    Block block(ggml_backend_cpu_init(), types);
    char what[16];
    long tokens;
    while (scanf("%15s %ld", what, &tokens) == 2) {
        for (bool flash : {false, true}) printf("%s=%.9f ", flash ? "flash" : "plain", block.run(tokens, atoi(argv[2]), flash));
        printf("\n");
        fflush(stdout);
    }
}
