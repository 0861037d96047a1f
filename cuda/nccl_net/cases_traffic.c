// Cases in which all goes well: sizes, many in flight, both ways, shared and device memory.
#include <dlfcn.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"

bool large; // messages of up to 64 MiB

// -------- messages of all sizes, one after the other, into buffers that are larger

static size_t sizes_of(size_t sizes[16]) {
    const size_t all[] = {0,      1,          7,       4097,          16384,
                          131071, 131072 * 3, 1000003, (8 << 20) + 1, 64 << 20};
    size_t n = large ? 10 : 8;
    memcpy(sizes, all, n * sizeof *all);
    return n;
}

void receive_sizes(struct side *s) {
    size_t sizes[16], n = sizes_of(sizes);
    CHECK(wait_accept(s) == ncclSuccess);
    for (size_t i = 0; i < n; i++) {
        size_t room = sizes[i] + 13;
        uint8_t *buffer = malloc(room);
        memset(buffer, 0xEE, room);
        void *mr = registered(s, buffer, room), *data = buffer, *request;
        int tag = (int)i, got = -1;
        CHECK(post_receive(s, 1, &data, &room, &tag, &mr, &request) == ncclSuccess);
        CHECK(wait_done(s, request, &got) == ncclSuccess);
        CHECK((size_t)got == sizes[i] && filled(buffer, sizes[i], i));
        for (size_t k = sizes[i]; k < room; k++) CHECK(buffer[k] == 0xEE);
        CHECK(s->net.v9->iflush(s->comm, 1, &data, &got, &mr, &request) == ncclSuccess);
        CHECK(wait_done(s, request, NULL) == ncclSuccess);
        deregister(s, mr);
        free(buffer);
    }
}

void send_sizes(struct side *s) {
    size_t sizes[16], n = sizes_of(sizes);
    CHECK(wait_connect(s) == ncclSuccess);
    for (size_t i = 0; i < n; i++) {
        uint8_t *buffer = malloc(sizes[i] + 1);
        fill(buffer, sizes[i], i);
        void *mr = registered(s, buffer, sizes[i]), *request;
        int got = -1;
        CHECK(post_send(s, buffer, sizes[i], (int)i, mr, &request) == ncclSuccess);
        CHECK(wait_done(s, request, &got) == ncclSuccess && (size_t)got == sizes[i]);
        deregister(s, mr);
        free(buffer);
    }
}

// -------- many at once: groups of up to eight, tags in any order, as many in flight as NCCL may
// have

enum { GROUPS = 100, TAGS = 3 }; // fewer tags than parts: equal tags go in order

static int group_parts(int g) { return 1 + (int)(mix((uint64_t)g) % MAX_RECVS); }
static int part_tag(int g, int part) {
    return (int)(mix((uint64_t)(g * 8 + part)) % TAGS) + g % 2 * 100;
}
static size_t part_size(int g, int part) {
    uint64_t x = mix((uint64_t)(1000 + g * 8 + part));
    return x % 5 == 0 ? x / 8 % 100000 : x / 8 % 700;
}

static void check_group(struct side *s, struct flight *f, int g) {
    int got[MAX_RECVS];
    CHECK(wait_done(s, f->request, got) == ncclSuccess);
    for (int i = 0; i < f->parts; i++) {
        CHECK((size_t)got[i] == part_size(g, i) &&
              filled(f->buffer[i], part_size(g, i), (uint64_t)(g * 8 + i)));
        deregister(s, f->mr[i]);
        free(f->buffer[i]);
    }
}

void receive_many(struct side *s) {
    static struct flight flight[MAX_REQUESTS];
    CHECK(wait_accept(s) == ncclSuccess);
    for (int g = 0; g < GROUPS + MAX_REQUESTS; g++) {
        struct flight *f = &flight[g % MAX_REQUESTS];
        if (g >= MAX_REQUESTS) check_group(s, f, g - MAX_REQUESTS);
        if (g >= GROUPS) continue;
        int tags[MAX_RECVS];
        void *data[MAX_RECVS];
        f->parts = group_parts(g);
        for (int i = 0; i < f->parts; i++) {
            f->size[i] = part_size(g, i) + (size_t)(i % 2);
            data[i] = f->buffer[i] = malloc(f->size[i] + 1);
            f->mr[i] = registered(s, f->buffer[i], f->size[i]);
            tags[i] = part_tag(g, i);
        }
        CHECK(post_receive(s, f->parts, data, f->size, tags, f->mr, &f->request) == ncclSuccess);
    }
}

// Sends a group's parts from the last tag to the first; parts of one tag stay in order.
void send_many(struct side *s) {
    static struct flight flight[GROUPS];
    CHECK(wait_connect(s) == ncclSuccess);
    for (int g = 0; g < GROUPS; g++) {
        struct flight *f = &flight[g];
        for (int tag = TAGS - 1; tag >= 0; tag--)
            for (int i = 0; i < group_parts(g); i++) {
                if (part_tag(g, i) % 100 != tag) continue;
                size_t n = part_size(g, i);
                f->buffer[f->parts] = malloc(n + 1);
                fill(f->buffer[f->parts], n, (uint64_t)(g * 8 + i));
                f->mr[f->parts] = registered(s, f->buffer[f->parts], n);
                void *request;
                CHECK(post_send(s, f->buffer[f->parts], n, part_tag(g, i), f->mr[f->parts],
                                &request) == ncclSuccess);
                // Requests of a group stay in flight together; the buffers' last owner is the last
                // request.
                f->size[f->parts++] = (size_t)(uintptr_t)request;
            }
        int old = g - 12;
        for (int k = g == GROUPS - 1 ? (old < 0 ? 0 : old) : old; k <= (g == GROUPS - 1 ? g : old);
             k++) {
            if (k < 0) continue;
            for (int i = 0; i < flight[k].parts; i++) {
                CHECK(wait_done(s, (void *)(uintptr_t)flight[k].size[i], NULL) == ncclSuccess);
                deregister(s, flight[k].mr[i]);
                free(flight[k].buffer[i]);
            }
        }
    }
}

// -------- both ways at once, over several connections of the same two processes

enum { CONNECTIONS = 3, TURNS = 20, TURN_BYTES = 150001 };

static void both_ways(struct side *s, bool first) {
    struct side in[CONNECTIONS], out[CONNECTIONS];
    static uint8_t sent[CONNECTIONS][TURN_BYTES], got[CONNECTIONS][TURN_BYTES];
    for (int i = 0; i < CONNECTIONS; i++) {
        in[i] = out[i] = (struct side){.net = s->net};
        CHECK(start_listen(&in[i]) == ncclSuccess);
        CHECK(write(s->talk, &in[i].handle, sizeof in[i].handle) == sizeof in[i].handle);
        CHECK(recv(s->talk, &out[i].handle, sizeof out[i].handle, MSG_WAITALL) ==
              sizeof out[i].handle);
    }
    for (int i = 0; i < CONNECTIONS; i++) CHECK(try_connect(&out[i]) == ncclSuccess);
    for (int i = 0; i < CONNECTIONS; i++)
        CHECK(wait_accept(&in[i]) == ncclSuccess && wait_connect(&out[i]) == ncclSuccess);
    for (int turn = 0; turn < TURNS; turn++) {
        void *request[CONNECTIONS][2];
        for (int i = 0; i < CONNECTIONS; i++) {
            uint64_t seed = (uint64_t)(turn * 2 + i * 1000);
            void *data = got[i];
            size_t size = TURN_BYTES;
            int tag = turn;
            fill(sent[i], size, seed + first);
            CHECK(post_receive(&in[i], 1, &data, &size, &tag, NULL, &request[i][0]) == ncclSuccess);
        }
        for (int i = 0; i < CONNECTIONS; i++)
            CHECK(post_send(&out[i], sent[i], TURN_BYTES, turn, NULL, &request[i][1]) ==
                  ncclSuccess);
        for (int i = 0; i < CONNECTIONS; i++) {
            CHECK(wait_done(&in[i], request[i][0], NULL) == ncclSuccess);
            CHECK(wait_done(&out[i], request[i][1], NULL) == ncclSuccess);
            CHECK(filled(got[i], TURN_BYTES, (uint64_t)(turn * 2 + i * 1000) + !first));
        }
    }
    for (int i = 0; i < CONNECTIONS; i++) {
        CHECK(s->net.v9->close_send(out[i].comm) == ncclSuccess &&
              s->net.v9->close_recv(in[i].comm) == ncclSuccess);
        CHECK(s->net.v9->close_listen(in[i].listener) == ncclSuccess);
    }
}

void receive_both_ways(struct side *s) { both_ways(s, false); }
void send_both_ways(struct side *s) { both_ways(s, true); }

// -------- memory that only its mapping reaches

static void *shared_memory(struct side *s, size_t size, void **mr) {
    int fd = memfd_create("dma-buf", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, 3 * 4096 + (off_t)size) == 0);
    void *seen = mmap(NULL, 3 * 4096 + size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(seen != MAP_FAILED);
    // The address is one that only a device could use: the plug-in has to go through its mapping.
    CHECK(s->net.v9->reg_mr_dma_buf(s->comm, (void *)0x7000000000, size, NCCL_PTR_CUDA, 5000, fd,
                                    mr) == ncclSuccess);
    close(fd); // as NCCL does
    return seen;
}

void receive_dma_buf(struct side *s) {
    size_t size = 200000;
    void *mr, *request, *data = (void *)0x7000000000;
    int tag = 1, got;
    CHECK(wait_accept(s) == ncclSuccess);
    uint8_t *seen = shared_memory(s, size, &mr);
    CHECK(post_receive(s, 1, &data, &size, &tag, &mr, &request) == ncclSuccess);
    CHECK(wait_done(s, request, &got) == ncclSuccess && got == 200000 &&
          filled(seen + 5000, size, 3));
    deregister(s, mr);
    munmap(seen, 3 * 4096 + size);
}

void send_dma_buf(struct side *s) {
    size_t size = 200000;
    void *mr, *request;
    CHECK(wait_connect(s) == ncclSuccess);
    uint8_t *seen = shared_memory(s, size, &mr);
    fill(seen + 5000, size, 3);
    CHECK(post_send(s, (void *)0x7000000000, size, 1, mr, &request) == ncclSuccess &&
          wait_done(s, request, NULL) == ncclSuccess);
    deregister(s, mr);
    munmap(seen, 3 * 4096 + size);
}

// -------- device memory, by the stand-in for the driver: touching it other than by a copy is a
// fault

static uint8_t *(*device_memory)(size_t);

static void use_driver(struct side *s) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    CHECK(driver != NULL);
    *(void **)&device_memory = dlsym(driver, "driver_alloc");
    CHECK(device_memory != NULL);
    net_properties_v9 p;
    CHECK(s->net.v9->get_properties(0, &p) == ncclSuccess);
    CHECK(p.ptr_support == (NCCL_PTR_HOST | NCCL_PTR_CUDA | NCCL_PTR_DMABUF));
}

static void *on_device(struct side *s, uint8_t *data, size_t size, bool dma_buf) {
    void *mr;
    int fd = memfd_create("dma-buf", MFD_CLOEXEC);
    ncclResult_t result =
        dma_buf ? s->net.v9->reg_mr_dma_buf(s->comm, data, size, NCCL_PTR_CUDA, 0, fd, &mr)
                : s->net.v9->reg_mr(s->comm, data, size, NCCL_PTR_CUDA, &mr);
    close(fd);
    CHECK(result == ncclSuccess);
    return mr;
}

static void device_both(struct side *s, bool sends) {
    int (*to_device)(uint64_t, const void *, size_t, void *),
        (*to_host)(void *, uint64_t, size_t, void *);
    size_t size = 300001;
    uint8_t *host = malloc(size);
    CHECK((sends ? wait_connect(s) : wait_accept(s)) == ncclSuccess);
    use_driver(s);
    *(void **)&to_device = dlsym(RTLD_DEFAULT, "cuMemcpyHtoDAsync_v2");
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    *(void **)&to_device = dlsym(driver, "cuMemcpyHtoDAsync_v2");
    *(void **)&to_host = dlsym(driver, "cuMemcpyDtoHAsync_v2");
    for (int i = 0; i < 4; i++) {
        uint8_t *memory = device_memory(size);
        void *mr = on_device(s, memory, size, i % 2 == 1), *request, *data = memory;
        int tag = i, got;
        if (sends) {
            fill(host, size, (uint64_t)i);
            CHECK(to_device((uint64_t)(uintptr_t)memory, host, size, NULL) == 0);
            CHECK(post_send(s, memory, size, i, mr, &request) == ncclSuccess &&
                  wait_done(s, request, NULL) == ncclSuccess);
        } else {
            CHECK(post_receive(s, 1, &data, &size, &tag, &mr, &request) == ncclSuccess);
            CHECK(wait_done(s, request, &got) == ncclSuccess && (size_t)got == size);
            CHECK(s->net.v9->iflush(s->comm, 1, &data, &got, &mr, &request) == ncclSuccess);
            CHECK(wait_done(s, request, NULL) == ncclSuccess);
            CHECK(to_host(host, (uint64_t)(uintptr_t)memory, size, NULL) == 0 &&
                  filled(host, size, (uint64_t)i));
        }
        deregister(s, mr);
    }
    free(host);
}

void receive_device(struct side *s) { device_both(s, false); }
void send_device(struct side *s) { device_both(s, true); }
