// llama.cpp's language models as a peer of tools/bench.
//
// usage: language MODEL.gguf THREADS [own]
// With "own" weights lie in memory of the program's own, not in the mapped file: only that can have large pages.
// Reads lines "prefill N" or "decode N" and answers each with one line: for weights that are
// repacked while loading (llama.cpp's default) and for plain ones "NAME=SECONDS". A prefill is N tokens in one
// batch into an empty context, a decode N tokens one after another behind 16 others.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "llama.h"

struct Loaded {
    const char *name;
    llama_model *model;
    llama_context *context;
};

static Loaded load(const char *path, const char *name, bool repack, bool own, int threads) {
    llama_model_params m = llama_model_default_params();
    m.use_extra_bufts = repack;
    if (own) m.load_mode = LLAMA_LOAD_MODE_NONE;
    Loaded loaded = {name, llama_model_load_from_file(path, m), nullptr};
    if (!loaded.model) return loaded;
    llama_context_params c = llama_context_default_params();
    c.n_ctx = 2048;
    c.n_batch = c.n_ubatch = 512;
    c.n_threads = c.n_threads_batch = threads;
    loaded.context = llama_init_from_model(loaded.model, c);
    return loaded;
}

static bool push(const Loaded &on, std::vector<llama_token> &tokens) {
    return llama_decode(on.context, llama_batch_get_one(tokens.data(), (int)tokens.size())) == 0;
}

static double run(const Loaded &on, bool prefill, int n) {
    llama_memory_clear(llama_get_memory(on.context), true);
    std::vector<llama_token> tokens;
    for (int i = 0; i < (prefill ? n : 16); ++i) tokens.push_back(i * 37 % 1000);
    if (!prefill && !push(on, tokens)) return -1;
    auto start = std::chrono::steady_clock::now();
    if (prefill) {
        if (!push(on, tokens)) return -1;
    } else {
        for (int i = 0; i < n; ++i) {
            std::vector<llama_token> one = {i * 41 % 1000};
            if (!push(on, one)) return -1;
        }
    }
    llama_synchronize(on.context);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    bool own = argc > 3 && !strcmp(argv[3], "own");
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    int threads = atoi(argv[2]);
    std::vector<Loaded> all = {load(argv[1], "default", true, own, threads), load(argv[1], "plain", false, own, threads)};
    for (auto &one : all)
        if (!one.context) {
            fprintf(stderr, "%s cannot be loaded\n", argv[1]);
            return 1;
        }
    char what[16];
    int n;
    while (scanf("%15s %d", what, &n) == 2) {
        for (auto &one : all) printf("%s=%.9f ", one.name, run(one, !strcmp(what, "prefill"), n));
        printf("\n");
        fflush(stdout);
    }
}
