// Messages over links.
//
// The receiver grants before the sender sends: irecv tells the sender, in one record over link 0,
// which buffers wait with which tags and sizes ("a grant"); isend takes the first waiting buffer of
// its tag, or says "not yet". So every record that arrives knows where it belongs, nothing waits
// behind anything else, and at most what NCCL asked for is on its way. A message is cut into
// chunks; each link's thread takes the next chunk, seals it and sends it. The receiver opens a
// record in memory of its own and copies it out only when it has proved true: NCCL's kernels may
// look at a buffer before `test` says that it is done.
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "comm.h"

enum { CLOSE_S = 1 };

// The first failure counts: it is what every later call returns, and all threads of the comm end.
void comm_fail(struct comm *c, ncclResult_t result, const char *why) {
    int none = ncclSuccess;
    if (!atomic_compare_exchange_strong(&c->error, &none, result)) return;
    if (!atomic_load(&c->closing)) {
        int waiting = 0;
        for (int i = 0; i < c->request_count; i++)
            waiting += atomic_load(&c->requests[i].state) == BUSY;
        if (waiting > 0)
            WARN("%s; %d requests will not end", why, waiting);
        else
            INFO("%s", why);
    }
    for (int i = 0; i < c->lanes; i++) shutdown(c->lane[i].link.fd, SHUT_RDWR);
    pthread_mutex_lock(&c->lock);
    pthread_cond_broadcast(&c->work);
    pthread_mutex_unlock(&c->lock);
}

// A thread that touches buffers says so first and looks for a failure then. So when a failure is
// told, which is when NCCL frees its buffers, nobody touches them any more, and nobody will.
bool comm_touch(struct comm *c) {
    atomic_fetch_add(&c->touching, 1);
    if (atomic_load(&c->error) == ncclSuccess) return true;
    atomic_fetch_sub(&c->touching, 1);
    return false;
}

void comm_let_go(struct comm *c) { atomic_fetch_sub(&c->touching, 1); }

// The failure, once it may be told.
ncclResult_t comm_failure(struct comm *c) {
    int error = atomic_load(&c->error);
    return atomic_load(&c->touching) == 0 ? (ncclResult_t)error : ncclSuccess;
}

ncclResult_t comm_socket_error(void) {
    return errno == ECONNRESET || errno == EPIPE || errno == ETIMEDOUT || errno == EHOSTUNREACH
               ? ncclRemoteError
               : ncclSystemError;
}

void comm_thread_ends(struct comm *c) {
    memory_thread_ends();
    pthread_mutex_lock(&c->lock);
    bool last = --c->running == 0;
    pthread_cond_broadcast(&c->ended);
    pthread_mutex_unlock(&c->lock);
    if (last && !c->sends) comm_fail(c, ncclRemoteError, "the peer has closed");
}

struct request *comm_take_request(struct comm *c) {
    for (int i = 0; i < c->request_count; i++)
        if (atomic_load(&c->requests[i].state) == FREE) return &c->requests[i];
    return NULL;
}

// What has arrived was copied and waited for before `test` said so: there is nothing left to flush.
ncclResult_t comm_iflush(struct comm *c, void **request) {
    if (c->sends) return ncclInvalidArgument;
    pthread_mutex_lock(&c->lock);
    struct request *r = comm_take_request(c);
    if (r != NULL) {
        r->receives = true;
        r->parts = 0;
        atomic_store(&r->state, DONE);
    }
    pthread_mutex_unlock(&c->lock);
    *request = r;
    return ncclSuccess;
}

// Never waits: looks at a few words. The failure is read first, for what ended before it has ended
// well.
ncclResult_t comm_test(void *request, int *done, int *sizes) {
    struct request *r = request;
    struct comm *c = r->comm;
    *done = 0;
    if (!c->sends && c->out_have > 0 && pthread_mutex_trylock(&c->out_lock) == 0) {
        ncclResult_t result = receive_flush(c);
        pthread_mutex_unlock(&c->out_lock);
        if (result != ncclSuccess) comm_fail(c, result, "the peer is gone");
    }
    ncclResult_t failed = comm_failure(c);
    if (atomic_load(&r->state) != DONE) return failed;
    for (int i = 0; sizes != NULL && i < r->parts; i++)
        sizes[i] = (int)(r->receives ? r->part[i].total : r->part[i].size);
    *done = 1;
    atomic_store(&r->state, FREE);
    return ncclSuccess;
}

// NCCL takes memory back. Where a request still uses it, NCCL has given up: the comm ends, and
// nobody touches the memory when this returns.
void comm_release(struct comm *c, const struct memory *mr) {
    bool used = false;
    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < c->request_count; i++)
        for (int k = 0; atomic_load(&c->requests[i].state) == BUSY && k < c->requests[i].parts; k++)
            used = used || c->requests[i].part[k].mr == mr;
    pthread_mutex_unlock(&c->lock);
    if (!used) return;
    comm_fail(c, ncclSystemError, "memory was taken back before its request ended");
    const struct timespec moment = {0, 20000};
    while (atomic_load(&c->touching) > 0) nanosleep(&moment, NULL);
}

static bool prepare(struct comm *c, bool sends) {
    pthread_condattr_t steady;
    c->sends = sends;
    c->request_count = sends ? SENDS : RECEIVES;
    c->requests = calloc((size_t)c->request_count, sizeof *c->requests);
    c->grant_record = malloc(RECORD_BYTES + FIRST_READ_BYTES);
    for (int i = 0; c->requests != NULL && i < c->request_count; i++) c->requests[i].comm = c;
    pthread_mutex_init(&c->lock, NULL);
    pthread_mutex_init(&c->out_lock, NULL);
    pthread_cond_init(&c->work, NULL);
    pthread_condattr_init(&steady);
    pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
    pthread_cond_init(&c->ended, &steady);
    pthread_condattr_destroy(&steady);
    return c->requests != NULL && c->grant_record != NULL;
}

static bool start(struct comm *c) {
    bool good = true;
    pthread_mutex_lock(&c->lock); // no thread can end before all are counted
    for (int i = 0; i < c->lanes && good; i++) {
        good = pthread_create(&c->lane[i].thread, NULL, c->sends ? send_thread : receive_thread,
                              &c->lane[i]) == 0;
        c->started += good;
    }
    if (good && c->sends)
        c->reads_grants = good = pthread_create(&c->grants_thread, NULL, grants_thread, c) == 0;
    c->running = c->started + c->reads_grants;
    pthread_mutex_unlock(&c->lock);
    return good;
}

// A comm that owns the links from now on. NULL: no memory or no thread, and the links are closed.
struct comm *comm_make(struct link *links, int count, bool sends) {
    struct comm *c = calloc(1, sizeof *c);
    if (c == NULL) {
        for (int i = 0; i < count; i++) link_close(&links[i]);
        return NULL;
    }
    bool good = prepare(c, sends);
    for (int i = 0; i < count; i++) {
        struct lane *lane = &c->lane[c->lanes++];
        *lane = (struct lane){.comm = c, .link = links[i]};
        lane->record = malloc(RECORD_BYTES + FIRST_READ_BYTES);
        lane->staging = malloc(CHUNK_BYTES);
        good = good && lane->record != NULL && lane->staging != NULL;
    }
    if (good && start(c)) return c;
    WARN("no memory or no thread for a connection");
    comm_fail(c, ncclSystemError, "the connection is not made");
    comm_close(c);
    return NULL;
}

// Says goodbye where nothing failed, and frees everything. Waits for a second at most, and for a
// peer that is there only as long as it takes to hear so.
ncclResult_t comm_close(struct comm *c) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += CLOSE_S;
    atomic_store(&c->closing, true);
    pthread_mutex_lock(&c->lock);
    pthread_cond_broadcast(&c->work);
    int waited = 0;
    while (c->sends && c->running > 0 && atomic_load(&c->error) == ncclSuccess && waited == 0)
        waited = pthread_cond_timedwait(&c->ended, &c->lock, &until);
    pthread_mutex_unlock(&c->lock);
    if (!c->sends && atomic_load(&c->error) == ncclSuccess) receive_goodbye(c);
    for (int i = 0; i < c->lanes; i++) shutdown(c->lane[i].link.fd, SHUT_RDWR);
    for (int i = 0; i < c->started; i++) pthread_join(c->lane[i].thread, NULL);
    if (c->reads_grants) pthread_join(c->grants_thread, NULL);
    for (int i = 0; i < c->lanes; i++) {
        link_close(&c->lane[i].link);
        free(c->lane[i].record);
        free(c->lane[i].staging);
    }
    pthread_mutex_destroy(&c->lock);
    pthread_mutex_destroy(&c->out_lock);
    pthread_cond_destroy(&c->work);
    pthread_cond_destroy(&c->ended);
    free(c->grant_record);
    free(c->requests);
    free(c);
    return ncclSuccess;
}
