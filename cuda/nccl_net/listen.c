// The listening side: one thread answers all who call, as far as they have come, and puts links
// together into comms.
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "net.h"

enum { MAX_CALLERS = 64 };

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
    // Who knew the token was sent here by NCCL: its failure is this connection's failure. Anybody
    // else is a stray.
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
    if (memcmp(l->connection, c->hello.connection, sizeof l->connection) != 0 ||
        l->link_count != c->hello.count || link->fd >= 0) {
        drop(l, index, "its links do not belong together");
        return;
    }
    net_let_block(c->fd);
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
        if (comm == NULL)
            atomic_store(&l->error, ncclSystemError);
        else if (before != NULL)
            comm_close(comm); // NCCL makes one connection of a listener
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
        drop(l, index,
             c->answered ? "it went away at the handshake; it may have another key"
                         : "it said nothing");
        return;
    }
    c->have += (size_t)n;
    if (!c->answered && memcmp(&c->hello, "VSNET01\n", c->have < 8 ? c->have : 8) != 0) {
        drop(l, index, "it speaks another protocol");
    } else if (c->have < whole) {
        return;
    } else if (c->answered) {
        if (same_bytes(c->confirmation, c->schedule.confirm_connector, KEY_BYTES))
            settle(l, index);
        else
            drop(l, index, "it has another key, or somebody between changed the handshake");
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
        if (!l->callers[i].answered &&
            (oldest < 0 || l->callers[i].deadline_ms < l->callers[oldest].deadline_ms))
            oldest = i;
    if (l->caller_count == MAX_CALLERS && oldest >= 0) drop(l, oldest, "others wait");
    if (l->caller_count == MAX_CALLERS) {
        close(fd);
        return;
    }
    struct sockaddr_in6 from;
    socklen_t n = sizeof from;
    net_tune(fd, getsockname(fd, (struct sockaddr *)&from, &n) == 0 ? from.sin6_family : AF_INET,
             l->traffic_class);
    struct caller *c = &l->callers[l->caller_count++];
    memset(c, 0, sizeof *c);
    c->fd = fd;
    c->deadline_ms = net_now_ms() + HANDSHAKE_MS;
}

static void *listen_thread(void *argument) {
    struct listener *l = argument;
    while (!atomic_load(&l->closing)) {
        struct pollfd wait[MAX_CALLERS + 2];
        int n = l->caller_count;
        for (int i = 0; i < n; i++)
            wait[i] = (struct pollfd){.fd = l->callers[i].fd, .events = POLLIN};
        wait[n] = (struct pollfd){.fd = l->wake, .events = POLLIN};
        wait[n + 1] = (struct pollfd){.fd = l->fd, .events = POLLIN};
        poll(wait, (nfds_t)n + 2, n > 0 ? 500 : -1);
        for (int i = n - 1; i >= 0;
             i--) { // from the last, for one that is dropped gives its place to the last
            if (wait[i].revents != 0)
                hear(l, i);
            else if (net_now_ms() > l->callers[i].deadline_ms)
                drop(l, i, "its handshake takes too long");
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
    socklen_t n = net_address_bytes(&address);
    if (address.sin6_family == AF_INET)
        ((struct sockaddr_in *)&address)->sin_port = 0;
    else
        address.sin6_port = 0;
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
    memcpy(handle->magic, NET_HANDLE_MAGIC, 8);
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
