// The connecting side. Nothing here blocks NCCL's thread: a thread of its own makes each
// connection, and what NCCL calls over and over only looks whether it is ready.
#include <errno.h>
#include <openssl/rand.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net.h"

struct pending {
    uint64_t id;
    uint8_t token[16];
    struct sockaddr_in6 address;
    int traffic_class;
    pthread_t thread;
    atomic_bool cancel, ready;
    ncclResult_t result;
    struct comm *comm;
    struct pending *next;
};
static pthread_mutex_t pending_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pending *pending_first;
static uint64_t pending_last_id;

static int reach(struct pending *p) {
    int fd = socket(p->address.sin6_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    net_tune(fd, p->address.sin6_family, p->traffic_class);
    int64_t deadline_ms = net_now_ms() + HANDSHAKE_MS;
    int error = 0;
    if (connect(fd, (struct sockaddr *)&p->address, net_address_bytes(&p->address)) != 0)
        error = errno;
    if (error == EINPROGRESS) {
        struct pollfd wait = {.fd = fd, .events = POLLOUT};
        int got = 0;
        while (got == 0 && !atomic_load(&p->cancel) && net_now_ms() < deadline_ms)
            got = poll(&wait, 1, 50);
        socklen_t n = sizeof error;
        if (got <= 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) != 0) error = ETIMEDOUT;
    }
    if (error == 0) return fd;
    if (!atomic_load(&p->cancel)) WARN("the peer cannot be reached: %s", strerror(error));
    close(fd);
    return -1;
}

static void *connect_thread(void *argument) {
    struct pending *p = argument;
    struct link links[MAX_LINKS];
    uint8_t connection[16];
    int count = setting("VITALSTREAM_NET_STREAMS", 4, 1, MAX_LINKS), made = 0;
    p->result = RAND_bytes(connection, sizeof connection) == 1 ? ncclSuccess : ncclSystemError;
    while (p->result == ncclSuccess && made < count) {
        int fd = reach(p);
        p->result = fd < 0 ? ncclRemoteError
                           : handshake_connect(&links[made], fd, p->token, connection, made, count,
                                               &p->cancel);
        if (p->result == ncclSuccess) net_let_block(links[made++].fd);
    }
    if (p->result == ncclSuccess) {
        p->comm = comm_make(links, count, true);
        if (p->comm == NULL) p->result = ncclSystemError;
    } else {
        while (made > 0) link_close(&links[--made]);
    }
    atomic_store(&p->ready, true);
    return NULL;
}

static ncclResult_t begin(struct handle *handle, int traffic_class) {
    struct pending *p = calloc(1, sizeof *p);
    if (p == NULL) return ncclSystemError;
    memcpy(p->token, handle->token, sizeof p->token);
    p->address = handle->address;
    p->traffic_class = traffic_class;
    pthread_mutex_lock(&pending_lock);
    p->id = ++pending_last_id;
    if (pthread_create(&p->thread, NULL, connect_thread, p) != 0) {
        pthread_mutex_unlock(&pending_lock);
        free(p);
        return ncclSystemError;
    }
    p->next = pending_first;
    pending_first = p;
    handle->pending = p->id;
    pthread_mutex_unlock(&pending_lock);
    return ncclSuccess;
}

// The first call begins, later ones look. The handle holds a number, not a pointer: it came over
// NCCL's bootstrap, which nobody authenticates.
ncclResult_t net_connect(int device, struct handle *handle, int traffic_class, void **comm) {
    *comm = NULL;
    if (device < 0 || device >= device_count) return ncclInvalidArgument;
    if (memcmp(handle->magic, NET_HANDLE_MAGIC, 8) != 0 ||
        (handle->address.sin6_family != AF_INET && handle->address.sin6_family != AF_INET6)) {
        WARN("the peer's handle is of another plug-in: every rank needs this one");
        return ncclInvalidUsage;
    }
    if (handle->pending == 0) return begin(handle, traffic_class);
    pthread_mutex_lock(&pending_lock);
    struct pending **at = &pending_first, *p;
    while ((p = *at) != NULL && p->id != handle->pending) at = &p->next;
    bool found = p != NULL && same_bytes(p->token, handle->token, sizeof p->token);
    bool ready = found && atomic_load(&p->ready);
    if (ready) *at = p->next;
    pthread_mutex_unlock(&pending_lock);
    if (!found) return ncclInvalidArgument;
    if (!ready) return ncclSuccess;
    pthread_join(p->thread, NULL);
    ncclResult_t result = p->result;
    *comm = p->comm;
    free(p);
    handle->pending = 0;
    return result;
}

// Ends what is under way: the library may not be unloaded below its threads.
void connects_cancel(void) {
    for (;;) {
        pthread_mutex_lock(&pending_lock);
        struct pending *p = pending_first;
        if (p != NULL) pending_first = p->next;
        pthread_mutex_unlock(&pending_lock);
        if (p == NULL) return;
        atomic_store(&p->cancel, true);
        pthread_join(p->thread, NULL);
        if (p->comm != NULL) comm_close(p->comm);
        free(p);
    }
}
