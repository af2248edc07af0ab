// Norms: a block a run of values, sums in double.

// Where `quantized` is given, `length` is a multiple of 32, and the runs of the result are written there too.
extern "C" __global__ void rms_norm(float* out, const float* x, const float* w, Quantized* quantized, u32 length, float eps) {
    u64 first = (u64)blockIdx.x * length;
    const float* in = x + first;
    double squares = 0;
    for (u32 i = threadIdx.x; i < length; i += blockDim.x) squares += (double)in[i] * in[i];
    squares = block_sum(squares);
    float inverse = 1.0f / sqrtf((float)(squares / length) + eps);
    for (u32 i = threadIdx.x; i < length; i += blockDim.x) {
        float v = in[i] * inverse * w[i];
        out[first + i] = v;
        // A warp has 32 values in order.
        if (quantized) quantize_run(quantized[(first + i) / 32], v);
    }
}

extern "C" __global__ void layer_norm(float* out, const float* x, const float* w, const float* b, u32 length, float eps) {
    const float* in = x + (u64)blockIdx.x * length;
    double sum = 0;
    for (u32 i = threadIdx.x; i < length; i += blockDim.x) sum += in[i];
    double mean = block_sum(sum) / length, squares = 0;
    for (u32 i = threadIdx.x; i < length; i += blockDim.x) squares += (in[i] - mean) * (in[i] - mean);
    squares = block_sum(squares);
    float inverse = (float)(1.0 / sqrt(squares / length + eps)), centre = (float)mean;
    for (u32 i = threadIdx.x; i < length; i += blockDim.x)
        out[(u64)blockIdx.x * length + i] = (in[i] - centre) * inverse * w[i] + b[i];
}

// Mean and sum of squared distances to it of a group of channels; a block a group, out is [groups, 2].
extern "C" __global__ void group_moments(double* out, const float* x, u64 rows, u64 cols, u64 width) {
    u64 first = blockIdx.x * width, count = rows * width;
    double sum = 0;
    for (u64 i = threadIdx.x; i < count; i += blockDim.x) sum += x[i / width * cols + first + i % width];
    double mean = block_sum(sum) / (count ? count : 1), squares = 0;
    for (u64 i = threadIdx.x; i < count; i += blockDim.x) {
        double apart = x[i / width * cols + first + i % width] - mean;
        squares += apart * apart;
    }
    squares = block_sum(squares);
    if (threadIdx.x == 0) {
        out[2 * blockIdx.x] = mean;
        out[2 * blockIdx.x + 1] = squares;
    }
}

// moments: mean and 1 / sqrt(variance + eps) a group; one thread a value.
extern "C" __global__ void group_norm(float* out, const float* x, const float* moments, const float* w, const float* b, u64 count,
                                      u64 cols, u64 width, u32 swish) {
    u64 i = index_here();
    if (i < count) {
        u64 c = i % cols, g = c / width;
        float v = (x[i] - moments[2 * g]) * moments[2 * g + 1] * w[c] + b[c];
        out[i] = swish ? silu_of(v) : v;
    }
}

// Scales a run of x by clamp(|reference| / (|x| + 1e-8), min, 1); a block a run.
extern "C" __global__ void renorm(float* x, const float* reference, u64 length, float min) {
    float* run = x + blockIdx.x * length;
    const float* other = reference + blockIdx.x * length;
    double squares = 0, wanted = 0;
    for (u64 i = threadIdx.x; i < length; i += blockDim.x) {
        squares += (double)run[i] * run[i];
        wanted += (double)other[i] * other[i];
    }
    squares = block_sum(squares);
    wanted = block_sum(wanted);
    float ratio = fminf(fmaxf((float)sqrt(wanted) / ((float)sqrt(squares) + 1e-8f), min), 1.0f);
    for (u64 i = threadIdx.x; i < length; i += blockDim.x) run[i] *= ratio;
}
