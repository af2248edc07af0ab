// ggml's matrix product as a peer of tools/bench.
//
// Reads lines "TYPE M K N COPIES THREADS REPEATS" and answers each with one line: for every way in which ggml
// can hold the weight (its buffer types, repacked ones among them) "NAME=SECONDS", the best of the
// repeats for one product; COPIES weights take turns, so that they come out of memory. The activations are f32; ggml quantizes them itself, inside the time.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

static ggml_type type_named(const std::string &name) {
    for (int t = 0; t < GGML_TYPE_COUNT; ++t) {
        const char *known = ggml_type_name((ggml_type)t);
        if (known && strcasecmp(known, name.c_str()) == 0) return (ggml_type)t;
    }
    return GGML_TYPE_COUNT;
}

static double measure(ggml_backend_t backend, ggml_backend_buffer_type_t kind, ggml_type type, int64_t m,
                      int64_t k, int64_t n, int copies, int repeats) {
    ggml_init_params params = {(16 + 2 * copies) * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true};
    ggml_context *weights = ggml_init(params), *work = ggml_init(params);
    std::vector<ggml_tensor *> all_weights;
    for (int i = 0; i < copies; ++i) all_weights.push_back(ggml_new_tensor_2d(weights, type, k, m));
    ggml_backend_buffer_t held = ggml_backend_alloc_ctx_tensors_from_buft(weights, kind);
    ggml_tensor *x = ggml_new_tensor_2d(work, GGML_TYPE_F32, k, n);
    std::vector<ggml_tensor *> results;
    for (auto *w : all_weights) results.push_back(ggml_mul_mat(work, w, x));
    double best = -1;
    if (held && ggml_backend_supports_op(backend, results[0])) {
        std::mt19937 random(1);
        std::uniform_real_distribution<float> value(-1, 1);
        std::vector<float> values(k * 16);
        for (auto &v : values) v = value(random);
        std::vector<uint8_t> row(ggml_row_size(type, k) * 16), all;
        if (type == GGML_TYPE_F32)
            memcpy(row.data(), values.data(), row.size());
        else
            ggml_quantize_chunk(type, values.data(), row.data(), 0, 16, k, nullptr);
        for (int64_t i = 0; i < m; ++i) {
            const uint8_t *at = row.data() + (i % 16) * ggml_row_size(type, k);
            all.insert(all.end(), at, at + ggml_row_size(type, k));
        }
        for (auto *w : all_weights) ggml_backend_tensor_set(w, all.data(), 0, all.size());
        ggml_cgraph *graph = ggml_new_graph(work);
        for (auto *y : results) ggml_build_forward_expand(graph, y);
        ggml_gallocr_t allocator = ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend));
        ggml_gallocr_alloc_graph(allocator, graph);
        std::vector<float> input(k * n);
        for (auto &v : input) v = value(random);
        ggml_backend_tensor_set(x, input.data(), 0, input.size() * sizeof(float));
        for (int i = 0; i <= repeats; ++i) {
            auto start = std::chrono::steady_clock::now();
            ggml_backend_graph_compute(backend, graph);
            double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
            s /= copies;
            if (i > 0 && (best < 0 || s < best)) best = s;
        }
        ggml_gallocr_free(allocator);
    }
    if (held) ggml_backend_buffer_free(held);
    ggml_free(weights);
    ggml_free(work);
    return best;
}

int main() {
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    std::vector<ggml_backend_buffer_type_t> kinds = {ggml_backend_cpu_buffer_type()};
    auto extra = (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts");
    if (extra)
        for (auto *kind = extra(device); kind && *kind; ++kind) kinds.push_back(*kind);
    char name[32];
    long long m, k, n;
    int copies, threads, repeats;
    while (scanf("%31s %lld %lld %lld %d %d %d", name, &m, &k, &n, &copies, &threads, &repeats) == 7) {
        ggml_type type = type_named(name);
        if (type == GGML_TYPE_COUNT) {
            puts("");
            fflush(stdout);
            continue;
        }
        ggml_backend_t backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
        ggml_backend_cpu_set_n_threads(backend, threads);
        for (auto kind : kinds) {
            double s = measure(backend, kind, type, m, k, n, copies, repeats);
            if (s > 0) printf("%s=%.9f ", ggml_backend_buft_name(kind), s);
        }
        puts("");
        fflush(stdout);
        ggml_backend_free(backend);
    }
}
