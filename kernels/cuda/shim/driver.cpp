// A stand-in for NVIDIA's driver and its compiler, for tests: the functions of libcuda.so and libnvrtc.so that Kinglet
// calls, as their public documentation has them, over the kernels of table.cpp. KINGLET_STAND_IN says what is wrong:
// "old" a driver that is too old, "none" no processor, "chip" one that is too old, "memory=N" N MiB of memory,
// "lost=N" nothing works from the Nth kernel on, "compiler" one that refuses the text, "graphs" one that makes no graphs,
// "shared" a processor in the host's memory, "unregistered" one that takes no pages of it.
// What is compiled and loaded, and at the end how much was launched, is told in the file that KINGLET_STAND_IN_LOG names.
#include "table.cpp"

#include <map>
#include <mutex>
#include <string>

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NOT_FOUND = 500, LAUNCH_FAILED = 719 };

static std::mutex one;
static std::map<uint64_t, size_t> pieces;
static size_t used;
static long kernels_run;
static struct Counts {
    long launches, graphs, made, reads, writes, most, shared;
    ~Counts();
} counts;
static bool lost;

static std::string wrong() {
    const char* text = getenv("KINGLET_STAND_IN");
    return text ? text : "";
}

// The number of a fault of this name, or `otherwise`.
static long number(const std::string& name, long otherwise) {
    std::string fault = wrong();
    return fault.rfind(name + "=", 0) == 0 ? atol(fault.c_str() + name.size() + 1) : otherwise;
}

static void tell(const char* what) {
    if (const char* path = getenv("KINGLET_STAND_IN_LOG"))
        if (FILE* file = fopen(path, "a")) {
            fprintf(file, "%s\n", what);
            fclose(file);
        }
}

static std::map<uint64_t, uint64_t> pages;  // of the host, ends by beginnings

Counts::~Counts() {
    char text[200];
    snprintf(text, sizeof text, "%ld bytes at most, %ld shared, %zu pages left", most, shared, pages.size());
    if (launches) tell(text);
    snprintf(text, sizeof text, "%ld launches, %ld graphs made, %ld launched, %ld reads, %ld writes", launches, made, graphs, reads,
             writes);
    if (launches) tell(text);
}

static size_t memory() { return (size_t)number("memory", 4096) << 20; }
static int state() { return lost ? LAUNCH_FAILED : OK; }

extern "C" {
int cuInit(unsigned) { return OK; }
int cuDriverGetVersion(int* version) { return *version = wrong() == "old" ? 10020 : 12060, OK; }
int cuDeviceGetCount(int* count) { return *count = wrong() != "none", OK; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal ? 101 : OK; }
int cuDeviceGetName(char* name, int room, int) { return snprintf(name, room, "Stand-in"), OK; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = memory(), OK; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
    bool old = wrong() == "chip";
    bool shared = wrong() == "shared" || wrong() == "unregistered";
    *value = attribute == 75 ? (old ? 6 : 8) : attribute == 76 ? (old ? 1 : 7) : attribute == 18 && shared;
    return OK;
}
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &pieces, OK; }
int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
int cuCtxSetCurrent(void* context) { return context == &pieces ? OK : 201; }
int cuMemGetInfo_v2(size_t* free, size_t* total) {
    std::lock_guard<std::mutex> guard(one);
    return *total = memory(), *free = *total - used, state();
}
int cuMemAlloc_v2(uint64_t* at, size_t bytes) {
    std::lock_guard<std::mutex> guard(one);
    if (state()) return state();
    if (used + bytes > memory()) return NO_MEMORY;
    *at = (uint64_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
    pieces[*at] = bytes;
    used += bytes;
    if ((long)used > counts.most) counts.most = used;
    return OK;
}
int cuMemFree_v2(uint64_t at) {
    std::lock_guard<std::mutex> guard(one);
    auto piece = pieces.find(at);
    if (piece == pieces.end()) return INVALID;
    used -= piece->second;
    pieces.erase(piece);
    free((void*)at);
    return state();
}

int cuMemHostRegister_v2(void* page, size_t bytes, unsigned flags) {
    std::lock_guard<std::mutex> guard(one);
    uint64_t from = (uint64_t)page, to = from + bytes;
    if (wrong() != "shared" || flags != (2 | 8) || from % 4096 || bytes % 4096) return INVALID;
    for (auto& other : pages)
        if (from < other.second && other.first < to) return 712;
    pages[from] = to;
    counts.shared += bytes;
    return OK;
}
int cuMemHostGetDevicePointer_v2(uint64_t* at, void* page, unsigned) { return *at = (uint64_t)page, pages.count(*at) ? OK : INVALID; }
int cuMemHostUnregister(void* page) { return pages.erase((uint64_t)page) ? OK : INVALID; }

// Whether these bytes lie in one piece.
static bool inside(uint64_t at, size_t bytes) {
    std::lock_guard<std::mutex> guard(one);
    auto piece = pieces.upper_bound(at);
    return piece != pieces.begin() && (--piece, at + bytes <= piece->first + piece->second);
}
int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t bytes) {
    if (state() || !inside(to, bytes)) return lost ? LAUNCH_FAILED : INVALID;
    counts.writes++;
    return memcpy((void*)to, from, bytes), OK;
}
int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t bytes) {
    if (state() || !inside(from, bytes)) return lost ? LAUNCH_FAILED : INVALID;
    counts.reads++;
    return memcpy(to, (void*)from, bytes), OK;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void*) {
    if (state() || !inside(to, bytes) || !inside(from, bytes)) return lost ? LAUNCH_FAILED : INVALID;
    return memcpy((void*)to, (void*)from, bytes), OK;
}
int cuMemsetD8Async(uint64_t at, unsigned char value, size_t bytes, void*) {
    if (state() || !inside(at, bytes)) return lost ? LAUNCH_FAILED : INVALID;
    return memset((void*)at, value, bytes), OK;
}
int cuModuleLoadData(void** module, const char* image) {
    if (strncmp(image, "a stand-in's kernels", 20)) return 200;
    return *module = &kernels_run, tell("loaded"), OK;
}
int cuModuleUnload(void*) { return OK; }
int cuModuleGetFunction(const char** function, void*, const char* name) {
    *function = strdup(name);  // as long as the program runs
    return OK;
}
static int run(const char* name, const unsigned grid[3], unsigned threads, void** arguments) {
    if (++kernels_run >= number("lost", 1L << 62)) lost = true;
    if (lost) return LAUNCH_FAILED;
    int code = shim_launch(name, grid, threads, arguments);
    return code == 0 ? OK : code == 1 ? NOT_FOUND : LAUNCH_FAILED;
}
int cuLaunchKernel(const char* name, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned, unsigned, void*,
                   void** arguments, void**) {
    std::lock_guard<std::mutex> guard(one);
    unsigned grid[3] = {x, y, z};
    counts.launches++;
    return run(name, grid, threads, arguments);
}
int cuGetErrorName(int code, const char** name) {
    return *name = code == NO_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : code == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR",
           OK;
}
int cuGetErrorString(int code, const char** text) {
    return *text = code == NO_MEMORY ? "out of memory" : code == LAUNCH_FAILED ? "unspecified launch failure" : "an error", OK;
}

#include "graphs.h"

int nvrtcVersion(int* major, int* minor) { return *major = 12, *minor = 6, OK; }
int nvrtcCreateProgram(void** program, const char*, const char*, int, const char* const*, const char* const*) {
    return *program = &kernels_run, OK;
}
int nvrtcCompileProgram(void*, int, const char* const*) { return wrong() == "compiler" ? 6 : (tell("compiled"), OK); }
int nvrtcGetProgramLogSize(void*, size_t* bytes) { return *bytes = 22, OK; }
int nvrtcGetProgramLog(void*, char* log) { return memcpy(log, "line 1: it is refused", 22), OK; }
int nvrtcGetCUBINSize(void*, size_t* bytes) { return *bytes = 21, OK; }
int nvrtcGetCUBIN(void*, char* bytes) { return memcpy(bytes, "a stand-in's kernels", 21), OK; }
int nvrtcDestroyProgram(void**) { return OK; }
}
