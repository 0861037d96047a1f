// Messages over links.
//
// The receiver grants before the sender sends: irecv tells the sender, in one record over link 0, which buffers wait with
// which tags and sizes ("a grant"); isend takes the first waiting buffer of its tag, or says "not yet". So every record
// that arrives knows where it belongs, nothing waits behind anything else, and at most what NCCL asked for is on its way.
// A message is cut into chunks; each link's thread takes the next chunk, seals it and sends it. The receiver opens a
// record in memory of its own and copies it out only when it has proved true: NCCL's kernels may look at a buffer before
// `test` says that it is done.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "net.h"

enum { SENDS = MAX_REQUESTS * MAX_RECVS, RECEIVES = 2 * MAX_REQUESTS, GRANT_BYTES = 16, FIRST_READ_BYTES = 16 * 1024 };
enum { CLOSE_MS = 1000, LEAST_CHUNK_BYTES = 16 * 1024 };
enum kind { DATA = 1, GRANT = 2, BYE = 3 };
enum { FREE = 0, BUSY = 1, DONE = 2 };

struct part { // one buffer of a receive
    uint8_t *data;
    struct memory *mr;
    size_t size, total, claimed, got;
    bool begun;
};
struct request {
    struct comm *comm;
    atomic_int state;
    bool receives;
    uint64_t group; // number of the receive
    int parts;
    struct part part[MAX_RECVS]; // a send uses the first
    uint32_t place;              // where the receiver keeps the buffer
    size_t chunk, next, left;    // bytes: a chunk's, those taken, those not yet sent
};
struct grant {
    uint64_t group;
    uint32_t place;
    int parts, left;
    int tag[MAX_RECVS];
    size_t size[MAX_RECVS];
    bool used[MAX_RECVS];
};
struct lane { // a link with the memory of its threads
    struct comm *comm;
    struct link link;
    pthread_t thread;
    uint8_t *record, *staging;
    size_t have;
};
struct comm {
    bool sends;
    int lanes, started, running;
    bool reads_grants;
    struct lane lane[MAX_LINKS];
    pthread_t grants_thread;
    atomic_int error, touching; // touching: threads that read or write a buffer of NCCL's just now
    atomic_bool closing;
    pthread_mutex_t lock;
    pthread_cond_t work, ended;
    struct request *requests;
    int request_count;
    uint64_t groups;
    // of a sender
    struct request *queue[SENDS];
    int queue_first, queue_count;
    struct grant grant[RECEIVES];
    int grant_count;
    bool peer_left; // it said goodbye: it will grant no more
    uint8_t *grant_record;
    size_t grant_have;
    // of a receiver: sealed grants that the socket did not take at once
    pthread_mutex_t out_lock;
    uint8_t out[RECEIVES * 256];
    _Atomic size_t out_have;
};

static void put(uint8_t *to, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) to[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get(const uint8_t *from, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value |= (uint64_t)from[i] << (8 * i);
    return value;
}

static void put_frame(uint8_t *frame, enum kind kind, uint32_t place, uint64_t group, uint64_t offset, uint64_t total) {
    put(frame, kind, 4);
    put(frame + 4, place, 4);
    put(frame + 8, group, 8);
    put(frame + 16, offset, 8);
    put(frame + 24, total, 8);
}

// The first failure counts: it is what every later call returns, and all threads of the comm end.
static void fail(struct comm *c, ncclResult_t result, const char *why) {
    int none = ncclSuccess;
    if (!atomic_compare_exchange_strong(&c->error, &none, result)) return;
    if (!atomic_load(&c->closing)) {
        int waiting = 0;
        for (int i = 0; i < c->request_count; i++) waiting += atomic_load(&c->requests[i].state) == BUSY;
        if (waiting > 0) WARN("%s; %d requests will not end", why, waiting);
        else INFO("%s", why);
    }
    for (int i = 0; i < c->lanes; i++) shutdown(c->lane[i].link.fd, SHUT_RDWR);
    pthread_mutex_lock(&c->lock);
    pthread_cond_broadcast(&c->work);
    pthread_mutex_unlock(&c->lock);
}

// A thread that touches buffers says so first and looks for a failure then. So when a failure is told, which is when
// NCCL frees its buffers, nobody touches them any more, and nobody will.
static bool touch(struct comm *c) {
    atomic_fetch_add(&c->touching, 1);
    if (atomic_load(&c->error) == ncclSuccess) return true;
    atomic_fetch_sub(&c->touching, 1);
    return false;
}

static void let_go(struct comm *c) { atomic_fetch_sub(&c->touching, 1); }

// The failure, once it may be told.
static ncclResult_t failure(struct comm *c) {
    int error = atomic_load(&c->error);
    return atomic_load(&c->touching) == 0 ? (ncclResult_t)error : ncclSuccess;
}

static ncclResult_t socket_error(void) {
    return errno == ECONNRESET || errno == EPIPE || errno == ETIMEDOUT || errno == EHOSTUNREACH ? ncclRemoteError
                                                                                                : ncclSystemError;
}

static void thread_ends(struct comm *c) {
    memory_thread_ends();
    pthread_mutex_lock(&c->lock);
    bool last = --c->running == 0;
    pthread_cond_broadcast(&c->ended);
    pthread_mutex_unlock(&c->lock);
    if (last && !c->sends) fail(c, ncclRemoteError, "the peer has closed");
}

// -------- records from and to a socket

static bool send_all(struct comm *c, int fd, const uint8_t *data, size_t n) {
    while (n > 0) {
        ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) {
            fail(c, socket_error(), "the peer is gone");
            return false;
        }
        data += sent;
        n -= (size_t)sent;
    }
    return true;
}

// Reads until `have` bytes of the record are there. Asks for a whole record at most: what follows stays in the socket.
static bool read_to(struct comm *c, int fd, uint8_t *record, size_t *have, size_t need, size_t ask) {
    while (*have < need) {
        ssize_t n = recv(fd, record + *have, ask - *have, ask == need ? MSG_WAITALL : 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            if (n == 0 && c->sends && atomic_load(&c->closing)) return false; // it heard the goodbye
            if (n == 0) fail(c, ncclRemoteError, "the peer closed the connection without a word");
            else fail(c, socket_error(), "the connection broke");
            return false;
        }
        *have += (size_t)n;
    }
    return true;
}

// The next record, opened in place: returns the bytes after its frame, -1 where there is none.
static ssize_t next_record(struct comm *c, struct link *link, uint8_t *record, size_t *have, size_t *record_bytes) {
    if (!read_to(c, link->fd, record, have, HEAD_BYTES, FIRST_READ_BYTES)) return -1;
    size_t sealed = head_open(&link->open, record);
    if (sealed > 0) {
        *record_bytes = HEAD_BYTES + sealed + TAG_BYTES;
        if (!read_to(c, link->fd, record, have, *record_bytes, *record_bytes)) return -1;
    }
    if (sealed == 0 || !record_open(&link->open, record, sealed)) {
        fail(c, ncclRemoteError, "a record does not open: changed, repeated or left out on the way");
        return -1;
    }
    return (ssize_t)(sealed - FRAME_BYTES);
}

static void drop_record(uint8_t *record, size_t *have, size_t record_bytes) {
    *have -= record_bytes;
    memmove(record, record + record_bytes, *have);
}

// -------- the sender

struct chunk {
    struct request *request;
    const uint8_t *from;
    struct memory *mr;
    size_t offset, bytes, total;
};

// The next chunk of the oldest message; false where the comm ends.
static bool take_chunk(struct comm *c, struct chunk *chunk) {
    pthread_mutex_lock(&c->lock);
    while (c->queue_count == 0 && !atomic_load(&c->closing) && !atomic_load(&c->error)) pthread_cond_wait(&c->work, &c->lock);
    bool found = c->queue_count > 0 && !atomic_load(&c->closing) && !atomic_load(&c->error);
    if (found) {
        struct request *r = c->queue[c->queue_first];
        size_t rest = r->part[0].size - r->next;
        *chunk = (struct chunk){r, r->part[0].data + r->next, r->part[0].mr, r->next, rest < r->chunk ? rest : r->chunk,
                                r->part[0].size};
        r->next += chunk->bytes;
        if (r->next == r->part[0].size) {
            c->queue_first = (c->queue_first + 1) % SENDS;
            c->queue_count--;
        }
    }
    pthread_mutex_unlock(&c->lock);
    return found;
}

static void chunk_sent(struct comm *c, const struct chunk *chunk) {
    pthread_mutex_lock(&c->lock);
    chunk->request->left -= chunk->bytes;
    if (chunk->request->left == 0) atomic_store(&chunk->request->state, DONE);
    pthread_mutex_unlock(&c->lock);
}

static void *send_thread(void *argument) {
    struct lane *lane = argument;
    struct comm *c = lane->comm;
    struct chunk chunk;
    uint8_t frame[FRAME_BYTES];
    pthread_setname_np(pthread_self(), "vitalnet-send");
    while (take_chunk(c, &chunk)) {
        put_frame(frame, DATA, chunk.request->place, chunk.request->group, chunk.offset, chunk.total);
        if (!touch(c)) break;
        const uint8_t *body = memory_read(chunk.mr, chunk.from, chunk.bytes, lane->staging);
        size_t n = body == NULL ? 0 : record_seal(&lane->link.seal, lane->record, frame, body, chunk.bytes);
        let_go(c);
        if (body == NULL) fail(c, ncclUnhandledCudaError, "device memory cannot be read");
        else if (n == 0) fail(c, ncclSystemError, "OpenSSL cannot seal");
        if (n == 0 || !send_all(c, lane->link.fd, lane->record, n)) break;
        chunk_sent(c, &chunk);
    }
    if (!atomic_load(&c->error)) { // so that the receiver can tell an end from a cut
        put_frame(frame, BYE, 0, 0, 0, 0);
        size_t n = record_seal(&lane->link.seal, lane->record, frame, NULL, 0);
        if (n > 0 && send_all(c, lane->link.fd, lane->record, n)) shutdown(lane->link.fd, SHUT_WR);
    }
    thread_ends(c);
    return NULL;
}

static bool add_grant(struct comm *c, const uint8_t *frame, const uint8_t *body, size_t n) {
    size_t parts = n / GRANT_BYTES;
    if (get(frame, 4) != GRANT || parts < 1 || parts > MAX_RECVS || n % GRANT_BYTES != 0) return false;
    struct grant g = {.group = get(frame + 8, 8), .place = (uint32_t)get(frame + 4, 4), .parts = (int)parts, .left = (int)parts};
    for (size_t i = 0; i < parts; i++) {
        g.tag[i] = (int)(uint32_t)get(body + i * GRANT_BYTES, 4);
        g.size[i] = get(body + i * GRANT_BYTES + 8, 8);
    }
    pthread_mutex_lock(&c->lock);
    bool room = c->grant_count < RECEIVES;
    if (room) c->grant[c->grant_count++] = g;
    pthread_mutex_unlock(&c->lock);
    return room;
}

static void *grants_thread(void *argument) {
    struct comm *c = argument;
    struct link *link = &c->lane[0].link;
    size_t record_bytes;
    ssize_t n;
    pthread_setname_np(pthread_self(), "vitalnet-grant");
    while ((n = next_record(c, link, c->grant_record, &c->grant_have, &record_bytes)) >= 0) {
        const uint8_t *frame = c->grant_record + HEAD_BYTES;
        if (get(frame, 4) == BYE) {
            pthread_mutex_lock(&c->lock);
            c->peer_left = true;
            pthread_mutex_unlock(&c->lock);
            break;
        }
        if (!add_grant(c, frame, frame + FRAME_BYTES, (size_t)n)) {
            fail(c, ncclRemoteError, "the peer grants what cannot be");
            break;
        }
        drop_record(c->grant_record, &c->grant_have, record_bytes);
    }
    thread_ends(c);
    return NULL;
}

static struct request *take_request(struct comm *c) {
    for (int i = 0; i < c->request_count; i++)
        if (atomic_load(&c->requests[i].state) == FREE) return &c->requests[i];
    return NULL;
}

ncclResult_t comm_isend(struct comm *c, void *data, size_t size, int tag, struct memory *mr, void **request) {
    *request = NULL;
    if (!c->sends) return ncclInvalidArgument;
    if (atomic_load(&c->error)) return failure(c);
    ncclResult_t result = ncclSuccess;
    pthread_mutex_lock(&c->lock);
    int g = 0, part = -1;
    for (; g < c->grant_count && part < 0; g++)
        for (int i = 0; i < c->grant[g].parts && part < 0; i++)
            if (!c->grant[g].used[i] && c->grant[g].tag[i] == tag) part = i;
    struct request *r = part < 0 ? NULL : take_request(c);
    if (part < 0 && c->peer_left) {
        result = ncclRemoteError;
    } else if (r != NULL) {
        struct grant *grant = &c->grant[--g];
        if (size > grant->size[part]) {
            result = ncclInvalidUsage;
        } else {
            size_t share = (size / (size_t)c->lanes + 4095) / 4096 * 4096;
            r->receives = false;
            r->group = grant->group;
            r->place = grant->place << 8 | (uint32_t)part;
            r->parts = 1;
            r->part[0] = (struct part){.data = data, .mr = mr, .size = size};
            r->next = 0;
            r->left = size;
            r->chunk = share > CHUNK_BYTES ? CHUNK_BYTES : share < LEAST_CHUNK_BYTES ? LEAST_CHUNK_BYTES : share;
            atomic_store(&r->state, BUSY);
            grant->used[part] = true;
            if (--grant->left == 0) {
                c->grant_count--;
                memmove(grant, grant + 1, (size_t)(c->grant_count - g) * sizeof *grant);
            }
            c->queue[(c->queue_first + c->queue_count++) % SENDS] = r;
            pthread_cond_broadcast(&c->work);
            *request = r;
        }
    }
    pthread_mutex_unlock(&c->lock);
    if (result == ncclInvalidUsage) WARN("a send of %zu bytes with tag %d is larger than what the peer receives", size, tag);
    return result;
}

// -------- the receiver

// Where a record's bytes belong, or NULL where it claims what was never granted.
static struct request *claim(struct comm *c, const uint8_t *frame, size_t n, int *part) {
    uint64_t place = get(frame + 4, 4), group = get(frame + 8, 8), offset = get(frame + 16, 8), total = get(frame + 24, 8);
    if (get(frame, 4) != DATA || place >> 8 >= RECEIVES || (place & 255) >= MAX_RECVS) return NULL;
    struct request *r = &c->requests[place >> 8];
    *part = (int)(place & 255);
    pthread_mutex_lock(&c->lock);
    struct part *p = &r->part[*part];
    bool good = atomic_load(&r->state) == BUSY && r->group == group && *part < r->parts && total <= p->size &&
                offset <= total && n <= total - offset && n <= total - p->claimed && (!p->begun || (p->total == total && n > 0));
    if (good) {
        p->begun = true;
        p->total = total;
        p->claimed += n;
    }
    pthread_mutex_unlock(&c->lock);
    return good ? r : NULL;
}

static void arrived(struct comm *c, struct request *r, int part, size_t n) {
    pthread_mutex_lock(&c->lock);
    r->part[part].got += n;
    if (r->part[part].got == r->part[part].total && --r->left == 0) atomic_store(&r->state, DONE);
    pthread_mutex_unlock(&c->lock);
}

static void *receive_thread(void *argument) {
    struct lane *lane = argument;
    struct comm *c = lane->comm;
    size_t record_bytes;
    ssize_t n;
    pthread_setname_np(pthread_self(), "vitalnet-recv");
    while ((n = next_record(c, &lane->link, lane->record, &lane->have, &record_bytes)) >= 0) {
        const uint8_t *frame = lane->record + HEAD_BYTES;
        int part;
        if (get(frame, 4) == BYE) {
            shutdown(lane->link.fd, SHUT_WR);
            break;
        }
        struct request *r = claim(c, frame, (size_t)n, &part);
        if (r == NULL) {
            fail(c, ncclRemoteError, "the peer sends what was not granted");
            break;
        }
        if (!touch(c)) break;
        bool wrote = memory_write(r->part[part].mr, r->part[part].data + get(frame + 16, 8), frame + FRAME_BYTES, (size_t)n);
        if (wrote) arrived(c, r, part, (size_t)n);
        let_go(c);
        if (!wrote) {
            fail(c, ncclUnhandledCudaError, "device memory cannot be written");
            break;
        }
        drop_record(lane->record, &lane->have, record_bytes);
    }
    thread_ends(c);
    return NULL;
}

// Sends what is sealed, as far as the socket takes it now.
static ncclResult_t flush_grants(struct comm *c) {
    while (c->out_have > 0) {
        ssize_t n = send(c->lane[0].link.fd, c->out, c->out_have, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno == EAGAIN ? ncclSuccess : socket_error();
        memmove(c->out, c->out + n, c->out_have - (size_t)n);
        c->out_have -= (size_t)n;
    }
    return ncclSuccess;
}

// The receiver's goodbye, so that the sender can tell an end from a cut. What the socket does not take now is not waited for.
static void say_goodbye(struct comm *c) {
    uint8_t frame[FRAME_BYTES];
    pthread_mutex_lock(&c->out_lock);
    put_frame(frame, BYE, 0, 0, 0, 0);
    if (c->out_have + HEAD_BYTES + FRAME_BYTES + TAG_BYTES <= sizeof c->out) {
        c->out_have += record_seal(&c->lane[0].link.seal, c->out + c->out_have, frame, NULL, 0);
        flush_grants(c);
    }
    pthread_mutex_unlock(&c->out_lock);
}

ncclResult_t comm_irecv(struct comm *c, int n, void **data, size_t *sizes, int *tags, struct memory **mrs, void **request) {
    *request = NULL; // it may come in as a hint that the end of this receive is of no interest
    if (c->sends || n < 1 || n > MAX_RECVS) return ncclInvalidArgument;
    if (atomic_load(&c->error)) return failure(c);
    pthread_mutex_lock(&c->out_lock);
    size_t need = HEAD_BYTES + FRAME_BYTES + (size_t)n * GRANT_BYTES + TAG_BYTES;
    struct request *r = c->out_have + need <= sizeof c->out ? take_request(c) : NULL;
    ncclResult_t result = ncclSuccess;
    if (r != NULL) {
        uint8_t frame[FRAME_BYTES], body[MAX_RECVS * GRANT_BYTES] = {0};
        pthread_mutex_lock(&c->lock);
        r->receives = true;
        r->group = c->groups++;
        r->parts = n;
        r->left = (size_t)n;
        for (int i = 0; i < n; i++) {
            r->part[i] = (struct part){.data = data[i], .mr = mrs ? mrs[i] : NULL, .size = sizes[i]};
            put(body + i * GRANT_BYTES, (uint32_t)tags[i], 4);
            put(body + i * GRANT_BYTES + 8, sizes[i], 8);
        }
        atomic_store(&r->state, BUSY);
        pthread_mutex_unlock(&c->lock);
        put_frame(frame, GRANT, (uint32_t)(r - c->requests), r->group, 0, 0);
        if (record_seal(&c->lane[0].link.seal, c->out + c->out_have, frame, body, (size_t)n * GRANT_BYTES) != need) {
            result = ncclSystemError;
        } else {
            c->out_have += need;
            result = flush_grants(c);
        }
        *request = r;
    }
    pthread_mutex_unlock(&c->out_lock);
    if (result != ncclSuccess) {
        fail(c, result, "the peer is gone");
        *request = NULL;
    }
    return result;
}

// What has arrived was copied and waited for before `test` said so: there is nothing left to flush.
ncclResult_t comm_iflush(struct comm *c, void **request) {
    if (c->sends) return ncclInvalidArgument;
    pthread_mutex_lock(&c->lock);
    struct request *r = take_request(c);
    if (r != NULL) {
        r->receives = true;
        r->parts = 0;
        atomic_store(&r->state, DONE);
    }
    pthread_mutex_unlock(&c->lock);
    *request = r;
    return ncclSuccess;
}

// Never waits: looks at a few words. The failure is read first, for what ended before it has ended well.
ncclResult_t comm_test(void *request, int *done, int *sizes) {
    struct request *r = request;
    struct comm *c = r->comm;
    *done = 0;
    if (!c->sends && c->out_have > 0 && pthread_mutex_trylock(&c->out_lock) == 0) {
        ncclResult_t result = flush_grants(c);
        pthread_mutex_unlock(&c->out_lock);
        if (result != ncclSuccess) fail(c, result, "the peer is gone");
    }
    ncclResult_t failed = failure(c);
    if (atomic_load(&r->state) != DONE) return failed;
    for (int i = 0; sizes != NULL && i < r->parts; i++)
        sizes[i] = (int)(r->receives ? r->part[i].total : r->part[i].size);
    *done = 1;
    atomic_store(&r->state, FREE);
    return ncclSuccess;
}

// NCCL takes memory back. Where a request still uses it, NCCL has given up: the comm ends, and nobody touches the memory
// when this returns.
void comm_release(struct comm *c, const struct memory *mr) {
    bool used = false;
    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < c->request_count; i++)
        for (int k = 0; atomic_load(&c->requests[i].state) == BUSY && k < c->requests[i].parts; k++)
            used = used || c->requests[i].part[k].mr == mr;
    pthread_mutex_unlock(&c->lock);
    if (!used) return;
    fail(c, ncclSystemError, "memory was taken back before its request ended");
    const struct timespec moment = {0, 20000};
    while (atomic_load(&c->touching) > 0) nanosleep(&moment, NULL);
}

// -------- life

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
        good = pthread_create(&c->lane[i].thread, NULL, c->sends ? send_thread : receive_thread, &c->lane[i]) == 0;
        c->started += good;
    }
    if (good && c->sends) c->reads_grants = good = pthread_create(&c->grants_thread, NULL, grants_thread, c) == 0;
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
    fail(c, ncclSystemError, "the connection is not made");
    comm_close(c);
    return NULL;
}

// Says goodbye where nothing failed, and frees everything. Waits for a second at most, and for a peer that is there only
// as long as it takes to hear so.
ncclResult_t comm_close(struct comm *c) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += CLOSE_MS / 1000;
    atomic_store(&c->closing, true);
    pthread_mutex_lock(&c->lock);
    pthread_cond_broadcast(&c->work);
    int waited = 0;
    while (c->sends && c->running > 0 && atomic_load(&c->error) == ncclSuccess && waited == 0)
        waited = pthread_cond_timedwait(&c->ended, &c->lock, &until);
    pthread_mutex_unlock(&c->lock);
    if (!c->sends && atomic_load(&c->error) == ncclSuccess) say_goodbye(c);
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
