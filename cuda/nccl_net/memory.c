// Buffers: host memory as it is, device memory by the CUDA driver's copies, dma-bufs that the
// processor may map.
//
// Device memory is offered where VITALSTREAM_NET_CUDA=1 and libcuda.so.1 is there; otherwise NCCL
// brings everything into host memory by itself. Copies go through a stream of their own that waits
// for no other: NCCL's kernels run meanwhile and wait for what these copies bring.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "net.h"

enum { STREAM_NON_BLOCKING = 1, CAPTURE_RELAXED = 2, ATTRIBUTE_DMA_BUF = 124 };

static struct {
    int (*init)(unsigned);
    int (*device_count)(int *);
    int (*device_attribute)(int *, int, int);
    int (*context_get)(void **);
    int (*context_set)(void *);
    int (*stream_create)(void **, unsigned);
    int (*stream_destroy)(void *);
    int (*stream_wait)(void *);
    int (*to_host)(void *, uint64_t, size_t, void *);
    int (*to_device)(uint64_t, const void *, size_t, void *);
    int (*capture_mode)(int *);
} cuda;
static int types = NCCL_PTR_HOST;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void load(void) {
    if (setting("VITALSTREAM_NET_CUDA", 0, 0, 1) == 0) return;
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        WARN("VITALSTREAM_NET_CUDA=1, but there is no CUDA driver: host memory only");
        return;
    }
    const struct {
        const char *name;
        void *to;
    } wanted[] = {
        {"cuInit", &cuda.init},
        {"cuDeviceGetCount", &cuda.device_count},
        {"cuDeviceGetAttribute", &cuda.device_attribute},
        {"cuCtxGetCurrent", &cuda.context_get},
        {"cuCtxSetCurrent", &cuda.context_set},
        {"cuStreamCreate", &cuda.stream_create},
        {"cuStreamDestroy_v2", &cuda.stream_destroy},
        {"cuStreamSynchronize", &cuda.stream_wait},
        {"cuMemcpyDtoHAsync_v2", &cuda.to_host},
        {"cuMemcpyHtoDAsync_v2", &cuda.to_device},
        {"cuThreadExchangeStreamCaptureMode", &cuda.capture_mode},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *found = dlsym(library, wanted[i].name);
        if (found == NULL) {
            WARN("the CUDA driver has no %s: host memory only", wanted[i].name);
            return;
        }
        memcpy(wanted[i].to, &found, sizeof found);
    }
    int count = 0, dma_buf = 0;
    if (cuda.init(0) != 0 || cuda.device_count(&count) != 0 || count == 0) {
        WARN("the CUDA driver finds no device: host memory only");
        return;
    }
    types |= NCCL_PTR_CUDA;
    if (cuda.device_attribute(&dma_buf, ATTRIBUTE_DMA_BUF, 0) == 0 && dma_buf)
        types |= NCCL_PTR_DMABUF;
}

int memory_types(void) {
    pthread_once(&once, load);
    return types;
}

static ncclResult_t make(void *data, size_t size, int type, struct memory **mr) {
    *mr = calloc(1, sizeof **mr);
    if (*mr == NULL) return ncclSystemError;
    **mr = (struct memory){.type = type, .start = data, .size = size, .fd = -1};
    return ncclSuccess;
}

ncclResult_t memory_register(void *data, size_t size, int type, struct memory **mr) {
    *mr = NULL;
    if (type == NCCL_PTR_HOST) return make(data, size, type, mr);
    void *context = NULL;
    if (type != NCCL_PTR_CUDA || !(memory_types() & NCCL_PTR_CUDA)) {
        WARN("memory of type %d was not offered", type);
        return ncclInvalidUsage;
    }
    if (cuda.context_get(&context) != 0 || context == NULL) {
        WARN("device memory is registered on a thread without a CUDA context");
        return ncclInvalidUsage;
    }
    ncclResult_t result = make(data, size, type, mr);
    if (result == ncclSuccess) (*mr)->cuda_context = context;
    return result;
}

// A dma-buf of device memory that CUDA can copy is copied, for a processor reads over PCIe one word
// at a time. Without CUDA it is mapped, where its exporter lets the processor do that.
ncclResult_t memory_register_dma_buf(void *data, size_t size, int type, uint64_t offset, int fd,
                                     struct memory **mr) {
    *mr = NULL;
    struct stat about;
    if (fd < 0 || fstat(fd, &about) != 0) {
        WARN("a dma-buf was registered without its file");
        return ncclInvalidUsage;
    }
    if (type == NCCL_PTR_CUDA && (memory_types() & NCCL_PTR_CUDA))
        return memory_register(data, size, type, mr);
    long page = sysconf(_SC_PAGESIZE);
    size_t skip = offset % (size_t)page, bytes = size + skip;
    void *mapped = size == 0 ? MAP_FAILED
                             : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                                    (off_t)(offset - skip));
    if (mapped == MAP_FAILED) {
        WARN("the processor cannot map this dma-buf: %s",
             size == 0 ? "it is empty" : strerror(errno));
        return ncclInvalidUsage;
    }
    ncclResult_t result = make(data, size, type, mr);
    if (result != ncclSuccess || ((*mr)->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0) {
        munmap(mapped, bytes);
        free(*mr);
        *mr = NULL;
        return ncclSystemError;
    }
    (*mr)->mapped = mapped;
    (*mr)->map_bytes = bytes;
    (*mr)->map_skip = skip;
    return ncclSuccess;
}

void memory_deregister(struct memory *mr) {
    if (mr == NULL) return;
    if (mr->mapped != NULL) munmap(mr->mapped, mr->map_bytes);
    if (mr->fd >= 0) close(mr->fd);
    free(mr);
}

static _Thread_local void *thread_stream, *thread_context;

void memory_thread_ends(void) {
    if (thread_stream != NULL) cuda.stream_destroy(thread_stream);
    thread_stream = thread_context = NULL;
}

static bool enter(void *context) {
    if (thread_context == context) return true;
    memory_thread_ends();
    int mode =
        CAPTURE_RELAXED; // a graph that NCCL's caller records is none of this thread's business
    if (cuda.context_set(context) != 0 || cuda.capture_mode(&mode) != 0 ||
        cuda.stream_create(&thread_stream, STREAM_NON_BLOCKING) != 0)
        return false;
    thread_context = context;
    return true;
}

static uint8_t *in_map(const struct memory *mr, const uint8_t *address, size_t n) {
    if (address < mr->start || n > mr->size || (size_t)(address - mr->start) > mr->size - n)
        return NULL;
    return mr->mapped + mr->map_skip + (address - mr->start);
}

// Memory that is no real dma-buf (shared memory, say) needs no such word and knows none.
static bool sync_map(const struct memory *mr, uint64_t flags) {
    struct dma_buf_sync sync = {.flags = flags};
    return ioctl(mr->fd, DMA_BUF_IOCTL_SYNC, &sync) == 0 || errno == ENOTTY;
}

// Where n bytes can be read by the processor: in place, or in the staging memory into which they
// were copied.
const uint8_t *memory_read(struct memory *mr, const uint8_t *from, size_t n, uint8_t *staging) {
    if (mr != NULL && mr->mapped != NULL) {
        const uint8_t *mapped = in_map(mr, from, n);
        if (mapped == NULL || !sync_map(mr, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ)) return NULL;
        memcpy(staging, mapped, n);
        return sync_map(mr, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ) ? staging : NULL;
    }
    if (n == 0) return staging;
    if (mr == NULL || mr->type == NCCL_PTR_HOST) return from;
    bool good = enter(mr->cuda_context) &&
                cuda.to_host(staging, (uint64_t)(uintptr_t)from, n, thread_stream) == 0 &&
                cuda.stream_wait(thread_stream) == 0;
    return good ? staging : NULL;
}

bool memory_write(struct memory *mr, uint8_t *to, const uint8_t *from, size_t n) {
    if (n == 0) return true;
    if (mr != NULL && mr->mapped != NULL) {
        uint8_t *mapped = in_map(mr, to, n);
        if (mapped == NULL || !sync_map(mr, DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE)) return false;
        memcpy(mapped, from, n);
        return sync_map(mr, DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE);
    }
    if (mr == NULL || mr->type == NCCL_PTR_HOST) {
        memcpy(to, from, n);
        return true;
    }
    return enter(mr->cuda_context) &&
           cuda.to_device((uint64_t)(uintptr_t)to, from, n, thread_stream) == 0 &&
           cuda.stream_wait(thread_stream) == 0;
}
