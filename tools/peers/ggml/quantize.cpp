// ggml's quantizer as a peer of `tools/bench formats`.
//
// Reads lines "TYPE ROWS COLS WEIGHTED", each followed by ROWS x COLS f32 and, if WEIGHTED is 1, COLS f32
// of importance, all little-endian. Answers each with a line "SECONDS BYTES" and so many bytes; 0 bytes
// stand for a type that it does not know or that needs importance.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "ggml.h"

static ggml_type type_named(const std::string &name) {
    for (int t = 0; t < GGML_TYPE_COUNT; ++t) {
        const char *known = ggml_type_name((ggml_type)t);
        if (known && strcasecmp(known, name.c_str()) == 0) return (ggml_type)t;
    }
    return GGML_TYPE_COUNT;
}

static bool take(std::vector<float> &values) {
    return fread(values.data(), sizeof(float), values.size(), stdin) == values.size();
}

int main() {
    char line[256], name[32];
    while (fgets(line, sizeof(line), stdin)) {
        long long rows, cols;
        int weighted;
        if (sscanf(line, "%31s %lld %lld %d", name, &rows, &cols, &weighted) != 4) return 1;
        std::vector<float> values(rows * cols), importance(weighted ? cols : 0);
        if (!take(values) || !take(importance)) return 1;
        ggml_type type = type_named(name);
        std::vector<unsigned char> out;
        double seconds = 0;
        if (type != GGML_TYPE_COUNT && cols % ggml_blck_size(type) == 0 &&
            (weighted || !ggml_quantize_requires_imatrix(type))) {
            out.resize(rows * ggml_row_size(type, cols));
            ggml_quantize_init(type);
            auto start = std::chrono::steady_clock::now();
            ggml_quantize_chunk(type, values.data(), out.data(), 0, rows, cols,
                                weighted ? importance.data() : nullptr);
            seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        }
        printf("%.9f %zu\n", seconds, out.size());
        fwrite(out.data(), 1, out.size(), stdout);
        fflush(stdout);
    }
}
