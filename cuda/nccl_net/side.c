// One process's side of a test: the three tables in one form, and waiting that gives up.
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

int log_lines;
char last_log[512];
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((format(printf, 5, 6))) static void
log_line(int level, unsigned long flags, const char *file, int line, const char *format, ...) {
    va_list rest;
    (void)flags;
    va_start(rest, format);
    pthread_mutex_lock(&log_lock);
    vsnprintf(last_log, sizeof last_log, format, rest);
    log_lines++;
    if (getenv("HARNESS_LOG"))
        fprintf(stderr, "[%d] %d %s:%d %s\n", getpid(), level, file, line, last_log);
    pthread_mutex_unlock(&log_lock);
    va_end(rest);
}

int64_t clock_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void pause_us(int us) {
    struct timespec t = {0, us * 1000L};
    nanosleep(&t, NULL);
}

uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

// Bytes that depend on their place, so that a chunk in the wrong place shows.
void fill(uint8_t *data, size_t n, uint64_t seed) {
    for (size_t i = 0; i < n; i += 8) {
        uint64_t word = mix(seed + i);
        memcpy(data + i, &word, n - i < 8 ? n - i : 8);
    }
}

bool filled(const uint8_t *data, size_t n, uint64_t seed) {
    for (size_t i = 0; i < n; i += 8) {
        uint64_t word = mix(seed + i);
        if (memcmp(data + i, &word, n - i < 8 ? n - i : 8) != 0) return false;
    }
    return true;
}

struct net net_load(const char *plugin, int version) {
    struct net net = {.version = version, .library = dlopen(plugin, RTLD_NOW | RTLD_LOCAL)};
    if (net.library == NULL) fprintf(stderr, "%s\n", dlerror());
    CHECK(net.library != NULL);
    net.v9 = dlsym(net.library, "ncclNetPlugin_v9");
    net.v10 = dlsym(net.library, "ncclNetPlugin_v10");
    net.v11 = dlsym(net.library, "ncclNetPlugin_v11");
    CHECK(net.v9 && net.v10 && net.v11);
    return net;
}

ncclResult_t net_init(struct net *net) {
    net_config config = {.traffic_class = -1};
    if (net->version == 9) return net->v9->init(log_line);
    if (net->version == 10) return net->v10->init(log_line, NULL);
    return net->v11->init(&net->context, 7, &config, log_line, NULL);
}

void net_end(struct net *net) {
    if (net->version == 11) CHECK(net->v11->finalize(net->context) == ncclSuccess);
    CHECK(dlclose(net->library) == 0);
}

ncclResult_t start_listen(struct side *s) {
    uint8_t handle[HANDLE_BYTES];
    ncclResult_t result = s->net.version == 9 ? s->net.v9->listen(0, handle, &s->listener)
                          : s->net.version == 10
                              ? s->net.v10->listen(0, handle, &s->listener)
                              : s->net.v11->listen(s->net.context, 0, handle, &s->listener);
    memcpy(&s->handle, handle, sizeof s->handle);
    return result;
}

ncclResult_t try_connect(struct side *s) {
    net_config config = {.traffic_class = -1};
    if (s->net.version == 9) return s->net.v9->connect(0, &s->handle, &s->comm, NULL);
    if (s->net.version == 10) return s->net.v10->connect(0, &config, &s->handle, &s->comm, NULL);
    return s->net.v11->connect(s->net.context, 0, &s->handle, &s->comm, NULL);
}

ncclResult_t try_accept(struct side *s) { return s->net.v9->accept(s->listener, &s->comm, NULL); }

static ncclResult_t wait_comm(struct side *s, ncclResult_t (*attempt)(struct side *)) {
    int64_t until = clock_ms() + PATIENCE_MS;
    for (;;) {
        ncclResult_t result = attempt(s);
        if (result != ncclSuccess || s->comm != NULL) return result;
        CHECK(clock_ms() < until);
        pause_us(200);
    }
}

ncclResult_t wait_connect(struct side *s) { return wait_comm(s, try_connect); }
ncclResult_t wait_accept(struct side *s) { return wait_comm(s, try_accept); }

ncclResult_t try_send(struct side *s, void *data, size_t size, int tag, void *mr, void **request) {
    if (s->net.version == 9) return s->net.v9->isend(s->comm, data, size, tag, mr, request);
    if (s->net.version == 10) return s->net.v10->isend(s->comm, data, size, tag, mr, NULL, request);
    return s->net.v11->isend(s->comm, data, size, tag, mr, NULL, request);
}

ncclResult_t try_receive(struct side *s, int n, void **data, size_t *sizes, int *tags, void **mrs,
                         void **request) {
    *request =
        n == 1 ? (void *)1
               : NULL; // NCCL's hint that it does not wait for the end: allowed, and of no effect
    if (s->net.version == 9) return s->net.v9->irecv(s->comm, n, data, sizes, tags, mrs, request);
    if (s->net.version == 10)
        return s->net.v10->irecv(s->comm, n, data, sizes, tags, mrs, NULL, request);
    return s->net.v11->irecv(s->comm, n, data, sizes, tags, mrs, NULL, request);
}

ncclResult_t post_send(struct side *s, void *data, size_t size, int tag, void *mr, void **request) {
    int64_t until = clock_ms() + PATIENCE_MS;
    for (;;) {
        ncclResult_t result = try_send(s, data, size, tag, mr, request);
        if (result != ncclSuccess || *request != NULL) return result;
        CHECK(clock_ms() < until);
        pause_us(50);
    }
}

ncclResult_t post_receive(struct side *s, int n, void **data, size_t *sizes, int *tags, void **mrs,
                          void **request) {
    int64_t until = clock_ms() + PATIENCE_MS;
    for (;;) {
        ncclResult_t result = try_receive(s, n, data, sizes, tags, mrs, request);
        if (result != ncclSuccess || *request != NULL) return result;
        CHECK(clock_ms() < until);
        pause_us(50);
    }
}

ncclResult_t wait_done(struct side *s, void *request, int *sizes) {
    int64_t until = clock_ms() + PATIENCE_MS;
    for (int done = 0;;) {
        ncclResult_t result = s->net.v9->test(request, &done, sizes);
        if (result != ncclSuccess || done) return result;
        CHECK(clock_ms() < until);
        pause_us(200);
    }
}

void close_side(struct side *s, bool sends) {
    if (s->comm != NULL)
        CHECK((sends ? s->net.v9->close_send : s->net.v9->close_recv)(s->comm) == ncclSuccess);
    if (s->listener != NULL) CHECK(s->net.v9->close_listen(s->listener) == ncclSuccess);
    net_end(&s->net);
}

void tell(struct side *s) { CHECK(write(s->talk, "", 1) == 1); }

void hear(struct side *s) {
    char one;
    CHECK(read(s->talk, &one, 1) == 1);
}

void *registered(struct side *s, void *data, size_t size) {
    void *mr;
    CHECK(s->net.v9->reg_mr(s->comm, data, size, NCCL_PTR_HOST, &mr) == ncclSuccess && mr != NULL);
    return mr;
}

void deregister(struct side *s, void *mr) {
    CHECK(s->net.v9->dereg_mr(s->comm, mr) == ncclSuccess);
}
