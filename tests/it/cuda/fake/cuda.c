// A CUDA driver without a device: what the host side calls of it, over the host's memory. Kernels do nothing.
//
// What is started on the stream waits until somebody waits for it, as late as a real device might do it: memory that is
// written again too early, or read too early, shows.
//
// FAKE_CUDA_FAULT=NAME:N:CODE lets the Nth call of NAME return CODE; from 700 on every call after it, too.
// FAKE_CUDA_VERSION, FAKE_CUDA_CAPABILITY (75 is 7.5), FAKE_CUDA_DEVICES, FAKE_CUDA_FREE: what it says.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult;
typedef uint64_t CUdeviceptr;

static int sticky;

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static CUresult fault(const char *call) {
    static char name[64];
    static int at, code, seen, is_read;
    if (!is_read) {
        is_read = 1;
        const char *text = getenv("FAKE_CUDA_FAULT");
        if (text) sscanf(text, "%63[^:]:%d:%d", name, &at, &code);
    }
    if (sticky) return sticky;
    if (!strcmp(call, name) && ++seen == at) {
        if (code >= 700) sticky = code;
        return code;
    }
    return 0;
}

#define FAULT                              \
    do {                                   \
        CUresult code = fault(__func__);   \
        if (code) return code;             \
    } while (0)

// Work that was started. A launch reads its parameters when it is started, and does nothing after that.
enum kind { COPY, SET, LAUNCH };
struct work {
    enum kind kind;
    char *to;
    const char *from;
    size_t n;
    int byte;
};
static struct work queue[1 << 16];
static size_t n_queued, n_recorded;
static struct work recorded[1 << 12];
static int is_recording;
static size_t n_live;

static void finish(void) {
    for (size_t i = 0; i < n_queued; i++) {
        struct work *w = &queue[i];
        if (w->kind == COPY) memmove(w->to, w->from, w->n);
        if (w->kind == SET) memset(w->to, w->byte, w->n);
    }
    n_queued = 0;
}

static CUresult start(struct work work) {
    if (is_recording) {
        // CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        if (work.kind != LAUNCH) return 900;
        recorded[n_recorded++] = work;
        return 0;
    }
    if (n_queued == sizeof queue / sizeof *queue) finish();
    queue[n_queued++] = work;
    return 0;
}

CUresult cuInit(unsigned flags) { FAULT; return flags; }
CUresult cuDriverGetVersion(int *v) { FAULT; *v = number("FAKE_CUDA_VERSION", 12040); return 0; }
CUresult cuDeviceGetCount(int *n) { FAULT; *n = number("FAKE_CUDA_DEVICES", 1); return 0; }
CUresult cuDeviceGet(int *d, int i) { FAULT; *d = i; return 0; }
CUresult cuDeviceGetName(char *name, int n, int d) { FAULT; snprintf(name, n, "Fake GPU %d", d); return 0; }
CUresult cuDeviceTotalMem_v2(size_t *n, int d) { FAULT; *n = 1u << 30; return d; }
CUresult cuDeviceGetAttribute(int *value, int attribute, int d) {
    FAULT;
    int capability = number("FAKE_CUDA_CAPABILITY", 90);
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 16 ? number("FAKE_CUDA_MULTIPROCESSORS", 4)
        : number("FAKE_CUDA_SHARED", 101376);
    return d;
}
CUresult cuDevicePrimaryCtxRetain(void **c, int d) { FAULT; *c = &sticky; n_live++; return d; }
CUresult cuDevicePrimaryCtxRelease_v2(int d) { n_live--; return d; }
CUresult cuCtxSetCurrent(void *c) { FAULT; return c == &sticky ? 0 : 201; }
CUresult cuStreamCreate(void **s, unsigned f) { FAULT; *s = malloc(1); n_live++; return f ? 0 : 0; }
CUresult cuStreamDestroy_v2(void *s) { finish(); free(s); n_live--; return 0; }
CUresult cuStreamSynchronize(void *s) { FAULT; finish(); return s ? 0 : 400; }
CUresult cuModuleLoadData(void **m, const void *image) {
    FAULT;
    // CUDA_ERROR_INVALID_PTX
    if (!strstr(image, ".version ") || !strstr(image, ".target sm_80")) return 218;
    *m = strcpy(malloc(strlen(image) + 1), image);
    n_live++;
    return 0;
}
CUresult cuModuleUnload(void *m) { free(m); n_live--; return 0; }
CUresult cuModuleGetFunction(void **f, void *m, const char *name) {
    FAULT;
    char entry[80];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    *f = m;
    return strstr(m, entry) ? 0 : 500;
}
CUresult cuFuncSetAttribute(void *f, int attribute, int value) { FAULT; return f && attribute == 8 && value <= 101376 ? 0 : 1; }
CUresult cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned x, unsigned y, unsigned z,
                        unsigned shared, void *s, void **params, void **extra) {
    FAULT;
    // What the real one refuses.
    if (!f || !s || !params || extra || !gx || !gy || !gz || gy > 65535 || gz > 65535) return 1;
    if (!x || x > 1024 || y != 1 || z != 1 || shared > 101376) return 1;
    return params[0] ? start((struct work){.kind = LAUNCH}) : 1;
}
CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
    FAULT;
    *free = (size_t)number("FAKE_CUDA_FREE", 1 << 29);
    *total = 1u << 30;
    return 0;
}
CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t n) {
    FAULT;
    if (!n) return 1;
    void *bytes = aligned_alloc(256, (n + 255) / 256 * 256);
    if (!bytes) return 2;
    // Zeros, so that what kernels that do nothing leave behind are finite numbers.
    memset(bytes, 0, n);
    *p = (CUdeviceptr)(uintptr_t)bytes;
    n_live++;
    return 0;
}
CUresult cuMemFree_v2(CUdeviceptr p) { finish(); free((void *)(uintptr_t)p); n_live--; return 0; }
CUresult cuMemHostAlloc(void **p, size_t n, unsigned f) { FAULT; *p = malloc(n); n_live++; return *p ? (int)f : 2; }
CUresult cuMemFreeHost(void *p) { finish(); free(p); n_live--; return 0; }
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t n, void *s) {
    FAULT;
    return s ? start((struct work){.kind = COPY, .to = (char *)(uintptr_t)to, .from = from, .n = n}) : 400;
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t n, void *s) {
    FAULT;
    return s ? start((struct work){.kind = COPY, .to = to, .from = (char *)(uintptr_t)from, .n = n}) : 400;
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t n, void *s) {
    FAULT;
    return s ? start((struct work){.kind = COPY, .to = (char *)(uintptr_t)to, .from = (char *)(uintptr_t)from, .n = n}) : 400;
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char byte, size_t n, void *s) {
    FAULT;
    return s ? start((struct work){.kind = SET, .to = (char *)(uintptr_t)to, .n = n, .byte = byte}) : 400;
}
CUresult cuEventCreate(void **e, unsigned f) { FAULT; *e = malloc(1); n_live++; return f == 2 ? 0 : 1; }
CUresult cuEventDestroy_v2(void *e) { free(e); n_live--; return 0; }
CUresult cuEventRecord(void *e, void *s) { FAULT; return e && s ? 0 : 400; }
CUresult cuEventSynchronize(void *e) { FAULT; finish(); return e ? 0 : 400; }
CUresult cuStreamBeginCapture_v2(void *s, int mode) {
    FAULT;
    if (!s || mode != 1 || is_recording) return 901;
    is_recording = 1;
    n_recorded = 0;
    return 0;
}
CUresult cuStreamEndCapture(void *s, void **graph) {
    if (!s || !is_recording) return 901;
    is_recording = 0;
    FAULT;
    struct work *copy = malloc((n_recorded + 1) * sizeof *copy);
    copy[0].n = n_recorded;
    memcpy(copy + 1, recorded, n_recorded * sizeof *copy);
    *graph = copy;
    n_live++;
    return 0;
}
CUresult cuGraphInstantiateWithFlags(void **e, void *graph, unsigned long long f) {
    FAULT;
    size_t n = (((struct work *)graph)->n + 1) * sizeof(struct work);
    *e = memcpy(malloc(n), graph, n);
    n_live++;
    return f ? 1 : 0;
}
CUresult cuGraphDestroy(void *g) { free(g); n_live--; return 0; }
CUresult cuGraphExecDestroy(void *e) { finish(); free(e); n_live--; return 0; }
CUresult cuGraphLaunch(void *e, void *s) {
    FAULT;
    struct work *work = e;
    for (size_t i = 1; s && i <= work->n; i++) start(work[i]);
    return s ? 0 : 400;
}
CUresult cuGetErrorString(CUresult code, const char **text) {
    static char said[32];
    snprintf(said, sizeof said, "fake error %d", code);
    *text = said;
    return 0;
}
CUresult cuGetErrorName(CUresult code, const char **text) { return cuGetErrorString(code, text); }

// What was not given back when the process ends.
__attribute__((destructor)) static void tell(void) {
    if (n_live) fprintf(stderr, "fake driver: %zu leaked\n", n_live);
}
