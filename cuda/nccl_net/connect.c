// Comms from handles. Nothing here blocks NCCL's thread: a thread of its own makes each connection, one for each listener
// answers, and what NCCL calls over and over only looks whether it is ready.
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "net.h"

enum { MAX_CALLERS = 64, USER_TIMEOUT_MS = 120000 };
static const uint8_t HANDLE_MAGIC[8] = "VSHANDL";

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static socklen_t address_bytes(const struct sockaddr_in6 *a) {
    return a->sin6_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

static void set(int fd, int level, int option, int value) { setsockopt(fd, level, option, &value, sizeof value); }

// A peer that vanishes without a word is noticed within two minutes, whether it is being sent to or not.
static void tune(int fd, int family, int traffic_class) {
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 20);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, 9);
    set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT_MS);
    if (traffic_class >= 0)
        family == AF_INET ? set(fd, IPPROTO_IP, IP_TOS, traffic_class) : set(fd, IPPROTO_IPV6, IPV6_TCLASS, traffic_class);
}

// From here on threads wait in the socket, and its shutdown wakes them.
static void let_block(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK); }

// -------- connecting

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
    tune(fd, p->address.sin6_family, p->traffic_class);
    int64_t deadline_ms = now_ms() + HANDSHAKE_MS;
    int error = 0;
    if (connect(fd, (struct sockaddr *)&p->address, address_bytes(&p->address)) != 0) error = errno;
    if (error == EINPROGRESS) {
        struct pollfd wait = {.fd = fd, .events = POLLOUT};
        int got = 0;
        while (got == 0 && !atomic_load(&p->cancel) && now_ms() < deadline_ms) got = poll(&wait, 1, 50);
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
                           : handshake_connect(&links[made], fd, p->token, connection, made, count, &p->cancel);
        if (p->result == ncclSuccess) let_block(links[made++].fd);
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

// The first call begins, later ones look. The handle holds a number, not a pointer: it came over NCCL's bootstrap, which
// nobody authenticates.
ncclResult_t net_connect(int device, struct handle *handle, int traffic_class, void **comm) {
    *comm = NULL;
    if (device < 0 || device >= device_count) return ncclInvalidArgument;
    if (memcmp(handle->magic, HANDLE_MAGIC, 8) != 0 ||
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

// -------- listening

struct caller { // a socket whose handshake is under way
    int fd;
    int64_t deadline_ms;
    size_t have;
    bool answered;
    struct hello hello;
    uint8_t confirmation[KEY_BYTES];
    struct schedule schedule;
};
struct listener {
    int fd, wake, traffic_class;
    uint8_t token[16];
    pthread_t thread;
    atomic_bool closing;
    atomic_int error;
    struct caller callers[MAX_CALLERS];
    int caller_count;
    struct link links[MAX_LINKS]; // of the connection that is coming in
    uint8_t connection[16];
    int link_count, links_made;
    pthread_mutex_t lock;
    struct comm *ready;
};

static void drop(struct listener *l, int index, const char *why) {
    struct caller *c = &l->callers[index];
    // Who knew the token was sent here by NCCL: its failure is this connection's failure. Anybody else is a stray.
    if (c->answered) {
        WARN("a peer was refused: %s", why);
        atomic_store(&l->error, ncclRemoteError);
    } else {
        INFO("a stray connection was dropped: %s", why);
    }
    close(c->fd);
    OPENSSL_cleanse(&c->schedule, sizeof c->schedule);
    *c = l->callers[--l->caller_count];
}

static void settle(struct listener *l, int index) {
    struct caller *c = &l->callers[index];
    if (l->links_made == 0) {
        memcpy(l->connection, c->hello.connection, sizeof l->connection);
        l->link_count = c->hello.count;
        for (int i = 0; i < MAX_LINKS; i++) l->links[i].fd = -1;
    }
    struct link *link = &l->links[c->hello.index];
    if (memcmp(l->connection, c->hello.connection, sizeof l->connection) != 0 || l->link_count != c->hello.count ||
        link->fd >= 0) {
        drop(l, index, "its links do not belong together");
        return;
    }
    let_block(c->fd);
    if (!link_open(link, c->fd, &c->schedule, true)) {
        link_close(link);
        atomic_store(&l->error, ncclSystemError);
    } else if (++l->links_made == l->link_count) {
        struct comm *comm = comm_make(l->links, l->link_count, false);
        l->links_made = 0;
        pthread_mutex_lock(&l->lock);
        struct comm *before = l->ready;
        if (before == NULL) l->ready = comm;
        pthread_mutex_unlock(&l->lock);
        if (comm == NULL) atomic_store(&l->error, ncclSystemError);
        else if (before != NULL) comm_close(comm); // NCCL makes one connection of a listener
    }
    OPENSSL_cleanse(&c->schedule, sizeof c->schedule);
    *c = l->callers[--l->caller_count];
}

// Reads what has come; the handshake goes on where a message is whole.
static void hear(struct listener *l, int index) {
    struct caller *c = &l->callers[index];
    size_t whole = c->answered ? sizeof c->confirmation : sizeof c->hello;
    uint8_t *into = c->answered ? c->confirmation : (uint8_t *)&c->hello;
    ssize_t n = recv(c->fd, into + c->have, whole - c->have, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        drop(l, index, c->answered ? "it went away at the handshake; it may have another key" : "it said nothing");
        return;
    }
    c->have += (size_t)n;
    if (!c->answered && memcmp(&c->hello, "VSNET01\n", c->have < 8 ? c->have : 8) != 0) {
        drop(l, index, "it speaks another protocol");
    } else if (c->have < whole) {
        return;
    } else if (c->answered) {
        if (same_bytes(c->confirmation, c->schedule.confirm_connector, KEY_BYTES)) settle(l, index);
        else drop(l, index, "it has another key, or somebody between changed the handshake");
    } else {
        struct answer answer = {0};
        if (!hello_make_sense(&c->hello, l->token)) {
            drop(l, index, "it was not sent here");
        } else if (!handshake_answer(&c->hello, &answer, &c->schedule) ||
                   send(c->fd, &answer, sizeof answer, MSG_NOSIGNAL) != sizeof answer) {
            c->answered = true;
            drop(l, index, "its handshake cannot be answered");
        } else {
            c->answered = true;
            c->have = 0;
        }
    }
}

static void take_caller(struct listener *l) {
    int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    int oldest = -1; // strangers who hold all places and say nothing give way
    for (int i = 0; i < l->caller_count; i++)
        if (!l->callers[i].answered && (oldest < 0 || l->callers[i].deadline_ms < l->callers[oldest].deadline_ms)) oldest = i;
    if (l->caller_count == MAX_CALLERS && oldest >= 0) drop(l, oldest, "others wait");
    if (l->caller_count == MAX_CALLERS) {
        close(fd);
        return;
    }
    struct sockaddr_in6 from;
    socklen_t n = sizeof from;
    tune(fd, getsockname(fd, (struct sockaddr *)&from, &n) == 0 ? from.sin6_family : AF_INET, l->traffic_class);
    struct caller *c = &l->callers[l->caller_count++];
    memset(c, 0, sizeof *c);
    c->fd = fd;
    c->deadline_ms = now_ms() + HANDSHAKE_MS;
}

static void *listen_thread(void *argument) {
    struct listener *l = argument;
    while (!atomic_load(&l->closing)) {
        struct pollfd wait[MAX_CALLERS + 2];
        int n = l->caller_count;
        for (int i = 0; i < n; i++) wait[i] = (struct pollfd){.fd = l->callers[i].fd, .events = POLLIN};
        wait[n] = (struct pollfd){.fd = l->wake, .events = POLLIN};
        wait[n + 1] = (struct pollfd){.fd = l->fd, .events = POLLIN};
        poll(wait, (nfds_t)n + 2, n > 0 ? 500 : -1);
        for (int i = n - 1; i >= 0; i--) { // from the last, for one that is dropped gives its place to the last
            if (wait[i].revents != 0) hear(l, i);
            else if (now_ms() > l->callers[i].deadline_ms) drop(l, i, "its handshake takes too long");
        }
        if (wait[n + 1].revents & POLLIN) take_caller(l);
    }
    return NULL;
}

ncclResult_t net_listen(int device, struct handle *handle, int traffic_class, void **listener) {
    *listener = NULL;
    if (device < 0 || device >= device_count) return ncclInvalidArgument;
    struct listener *l = calloc(1, sizeof *l);
    if (l == NULL) return ncclSystemError;
    struct sockaddr_in6 address = devices[device].address;
    socklen_t n = address_bytes(&address);
    if (address.sin6_family == AF_INET) ((struct sockaddr_in *)&address)->sin_port = 0;
    else address.sin6_port = 0;
    l->traffic_class = traffic_class;
    pthread_mutex_init(&l->lock, NULL);
    l->wake = eventfd(0, EFD_CLOEXEC);
    l->fd = socket(address.sin6_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (l->wake < 0 || l->fd < 0 || RAND_bytes(l->token, sizeof l->token) != 1 ||
        bind(l->fd, (struct sockaddr *)&address, n) != 0 || listen(l->fd, 128) != 0 ||
        getsockname(l->fd, (struct sockaddr *)&address, &n) != 0 ||
        pthread_create(&l->thread, NULL, listen_thread, l) != 0) {
        WARN("no listening on %s: %s", devices[device].name, strerror(errno));
        if (l->fd >= 0) close(l->fd);
        if (l->wake >= 0) close(l->wake);
        free(l);
        return ncclSystemError;
    }
    memset(handle, 0, sizeof *handle);
    memcpy(handle->magic, HANDLE_MAGIC, 8);
    memcpy(handle->token, l->token, sizeof l->token);
    handle->address = address;
    *listener = l;
    return ncclSuccess;
}

ncclResult_t net_accept(void *listener, void **comm) {
    struct listener *l = listener;
    pthread_mutex_lock(&l->lock);
    *comm = l->ready;
    l->ready = NULL;
    pthread_mutex_unlock(&l->lock);
    return *comm != NULL ? ncclSuccess : (ncclResult_t)atomic_load(&l->error);
}

ncclResult_t net_close_listen(void *listener) {
    struct listener *l = listener;
    uint64_t one = 1;
    atomic_store(&l->closing, true);
    if (write(l->wake, &one, sizeof one) != sizeof one) return ncclSystemError;
    pthread_join(l->thread, NULL);
    while (l->caller_count > 0) {
        struct caller *c = &l->callers[--l->caller_count];
        close(c->fd);
        OPENSSL_cleanse(&c->schedule, sizeof c->schedule);
    }
    if (l->links_made > 0)
        for (int i = 0; i < l->link_count; i++) link_close(&l->links[i]);
    if (l->ready != NULL) comm_close(l->ready);
    close(l->fd);
    close(l->wake);
    pthread_mutex_destroy(&l->lock);
    free(l);
    return ncclSuccess;
}
