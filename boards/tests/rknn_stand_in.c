/* A stand-in for librknnrt.so: the functions of its C interface (versions 2.x) that Kinglet calls, for one graph that
 * doubles a picture of 2 x 3 pixels. The byte after a graph's "RKNN" says what goes wrong. Declarations are written
 * anew from the interface's description, so that a C compiler lays the structures out. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t rknn_context;
typedef enum { FORMAT_NCHW, FORMAT_NHWC, FORMAT_NC1HWC2, FORMAT_UNDEFINED } format;
typedef enum { TYPE_FLOAT32, TYPE_FLOAT16, TYPE_INT8 } type;
typedef enum { QUANT_NONE, QUANT_DFP, QUANT_AFFINE } quant;
typedef struct { uint32_t n_input, n_output; } in_out_num;
typedef struct {
    uint32_t index, n_dims, dims[16];
    char name[256];
    uint32_t n_elems, size;
    format fmt;
    type kind;
    quant qnt_type;
    int8_t fl;
    int32_t zp;
    float scale;
    uint32_t w_stride, size_with_stride;
    uint8_t pass_through;
    uint32_t h_stride;
} tensor_attr;
typedef struct { char api_version[256], drv_version[256]; } sdk_version;
typedef struct { uint32_t index; void *buf; uint32_t size; uint8_t pass_through; type kind; format fmt; } input;
typedef struct { uint8_t want_float, is_prealloc; uint32_t index; void *buf; uint32_t size; } output;

#define H 2
#define W 3
#define C 3
struct context { char fault; int runs; float in[H * W * C]; };

/* What has not been given back: contexts and outputs. */
static int live;
int stand_in_live(void) { return live; }

int rknn_init(rknn_context *out, void *model, uint32_t size, uint32_t flag, void *extend) {
    if (size < 5 || flag || extend) return -5;
    char fault = ((char *)model)[4];
    if (fault == 'i') return -13;
    struct context *c = calloc(1, sizeof *c);
    c->fault = fault;
    *out = (rknn_context)(uintptr_t)c;
    live++;
    return 0;
}

int rknn_destroy(rknn_context context) {
    free((void *)(uintptr_t)context);
    live--;
    return 0;
}

int rknn_query(rknn_context context, int command, void *info, uint32_t size) {
    struct context *c = (void *)(uintptr_t)context;
    if (command == 0) {
        if (size != sizeof(in_out_num)) return -5;
        *(in_out_num *)info = (in_out_num){c->fault == 'n' ? 2 : 1, 1};
        return 0;
    }
    if (command == 5) {
        if (size != sizeof(sdk_version)) return -5;
        sdk_version *v = info;
        strcpy(v->api_version, c->fault == 'v' ? "1.5.2 (aaaa@2023)" : "2.3.0 (bbbb@2024-11-07T08:11:34)");
        strcpy(v->drv_version, c->fault == 'd' ? "0.8.8" : "0.9.8");
        return 0;
    }
    if (command != 1 && command != 2) return -5;
    if (size != sizeof(tensor_attr)) return -5;
    tensor_attr *a = info;
    if (a->index != 0) return -5;
    memset(a, 0, sizeof *a);
    a->n_dims = c->fault == 'D' ? 17 : 4;
    a->n_elems = c->fault == 'm' ? 5 : H * W * C;
    a->kind = TYPE_INT8;
    a->qnt_type = QUANT_AFFINE;
    a->scale = 1;
    if (command == 1) {
        uint32_t dims[4] = {1, H, W, C};
        memcpy(a->dims, dims, sizeof dims);
        strcpy(a->name, "picture");
        a->fmt = FORMAT_NHWC;
    } else {
        uint32_t dims[4] = {1, C, H, W};
        memcpy(a->dims, dims, sizeof dims);
        strcpy(a->name, "doubled");
        a->fmt = c->fault == 'l' ? FORMAT_NHWC : FORMAT_NCHW;
    }
    return 0;
}

int rknn_inputs_set(rknn_context context, uint32_t n, input *in) {
    struct context *c = (void *)(uintptr_t)context;
    if (n != 1 || in->index || in->pass_through || in->kind != TYPE_FLOAT32 || in->fmt != FORMAT_NHWC) return -8;
    if (in->size != sizeof c->in) return -8;
    memcpy(c->in, in->buf, sizeof c->in);
    return 0;
}

int rknn_run(rknn_context context, void *extend) {
    struct context *c = (void *)(uintptr_t)context;
    if (extend) return -5;
    return c->fault == 'r' || (c->fault == '2' && c->runs++ > 0) ? -2 : 0;
}

int rknn_outputs_get(rknn_context context, uint32_t n, output *out, void *extend) {
    struct context *c = (void *)(uintptr_t)context;
    if (n != 1 || extend || out->index || !out->want_float || out->is_prealloc) return -9;
    float *values = malloc(sizeof c->in);
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++)
            for (int k = 0; k < C; k++) values[(k * H + y) * W + x] = 2 * c->in[(y * W + x) * C + k];
    out->buf = values;
    out->size = c->fault == 's' ? 4 : sizeof c->in;
    live++;
    return 0;
}

int rknn_outputs_release(rknn_context context, uint32_t n, output *out) {
    (void)context;
    if (n != 1) return -9;
    free(out->buf);
    live--;
    return 0;
}
