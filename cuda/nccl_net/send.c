// The sending side: messages cut into chunks, a thread for each link, and what the receiver grants.
#include <string.h>

#include "comm.h"

enum { LEAST_CHUNK_BYTES = 64 * 1024 }; // less is done before a second thread is awake

struct chunk {
    struct request *request;
    const uint8_t *from;
    struct memory *mr;
    size_t offset, bytes, total;
};

// The next chunk of the oldest message; false where the comm ends.
static bool take_chunk(struct comm *c, struct chunk *chunk) {
    pthread_mutex_lock(&c->lock);
    while (c->queue_count == 0 && !atomic_load(&c->closing) && !atomic_load(&c->error))
        pthread_cond_wait(&c->work, &c->lock);
    bool found = c->queue_count > 0 && !atomic_load(&c->closing) && !atomic_load(&c->error);
    if (found) {
        struct request *r = c->queue[c->queue_first];
        size_t rest = r->part[0].size - r->next;
        *chunk = (struct chunk){r,       r->part[0].data + r->next,         r->part[0].mr,
                                r->next, rest < r->chunk ? rest : r->chunk, r->part[0].size};
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

void *send_thread(void *argument) {
    struct lane *lane = argument;
    struct comm *c = lane->comm;
    struct chunk chunk;
    uint8_t frame[FRAME_BYTES];
    pthread_setname_np(pthread_self(), "vitalnet-send");
    while (take_chunk(c, &chunk)) {
        wire_frame(frame, DATA, chunk.request->place, chunk.request->group, chunk.offset,
                   chunk.total);
        if (!comm_touch(c)) break;
        const uint8_t *body = memory_read(chunk.mr, chunk.from, chunk.bytes, lane->staging);
        size_t n = body == NULL
                       ? 0
                       : record_seal(&lane->link.seal, lane->record, frame, body, chunk.bytes);
        comm_let_go(c);
        if (body == NULL)
            comm_fail(c, ncclUnhandledCudaError, "device memory cannot be read");
        else if (n == 0)
            comm_fail(c, ncclSystemError, "a record cannot be sealed");
        if (n == 0 || !wire_send(c, lane->link.fd, lane->record, n)) break;
        chunk_sent(c, &chunk);
    }
    if (!atomic_load(&c->error)) { // so that the receiver can tell an end from a cut
        wire_frame(frame, BYE, 0, 0, 0, 0);
        size_t n = record_seal(&lane->link.seal, lane->record, frame, NULL, 0);
        if (n > 0 && wire_send(c, lane->link.fd, lane->record, n)) shutdown(lane->link.fd, SHUT_WR);
    }
    comm_thread_ends(c);
    return NULL;
}

static bool add_grant(struct comm *c, const uint8_t *frame, const uint8_t *body, size_t n) {
    size_t parts = n / GRANT_BYTES;
    if (wire_get(frame, 4) != GRANT || parts < 1 || parts > MAX_RECVS || n % GRANT_BYTES != 0)
        return false;
    struct grant g = {.group = wire_get(frame + 8, 8),
                      .place = (uint32_t)wire_get(frame + 4, 4),
                      .parts = (int)parts,
                      .left = (int)parts};
    for (size_t i = 0; i < parts; i++) {
        g.tag[i] = (int)(uint32_t)wire_get(body + i * GRANT_BYTES, 4);
        g.size[i] = wire_get(body + i * GRANT_BYTES + 8, 8);
    }
    pthread_mutex_lock(&c->lock);
    bool room = c->grant_count < RECEIVES;
    if (room) c->grant[c->grant_count++] = g;
    pthread_mutex_unlock(&c->lock);
    return room;
}

void *grants_thread(void *argument) {
    struct comm *c = argument;
    struct link *link = &c->lane[0].link;
    size_t record_bytes;
    ssize_t n;
    pthread_setname_np(pthread_self(), "vitalnet-grant");
    while ((n = wire_next(c, link, c->grant_record, &c->grant_have, &record_bytes)) >= 0) {
        const uint8_t *frame = c->grant_record + HEAD_BYTES;
        if (wire_get(frame, 4) == BYE) {
            pthread_mutex_lock(&c->lock);
            c->peer_left = true;
            pthread_mutex_unlock(&c->lock);
            break;
        }
        if (!add_grant(c, frame, frame + FRAME_BYTES, (size_t)n)) {
            comm_fail(c, ncclRemoteError, "the peer grants what cannot be");
            break;
        }
        wire_drop(c->grant_record, &c->grant_have, record_bytes);
    }
    comm_thread_ends(c);
    return NULL;
}

ncclResult_t comm_isend(struct comm *c, void *data, size_t size, int tag, struct memory *mr,
                        void **request) {
    *request = NULL;
    if (!c->sends) return ncclInvalidArgument;
    if (atomic_load(&c->error)) return comm_failure(c);
    ncclResult_t result = ncclSuccess;
    pthread_mutex_lock(&c->lock);
    int g = 0, part = -1;
    for (; g < c->grant_count && part < 0; g++)
        for (int i = 0; i < c->grant[g].parts && part < 0; i++)
            if (!c->grant[g].used[i] && c->grant[g].tag[i] == tag) part = i;
    struct request *r = part < 0 ? NULL : comm_take_request(c);
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
            r->chunk = share > CHUNK_BYTES         ? CHUNK_BYTES
                       : share < LEAST_CHUNK_BYTES ? LEAST_CHUNK_BYTES
                                                   : share;
            atomic_store(&r->state, BUSY);
            grant->used[part] = true;
            if (--grant->left == 0) {
                c->grant_count--;
                memmove(grant, grant + 1, (size_t)(c->grant_count - g) * sizeof *grant);
            }
            c->queue[(c->queue_first + c->queue_count++) % SENDS] = r;
            size_t chunks = size == 0 ? 1 : (size + r->chunk - 1) / r->chunk;
            for (int i = 0; i < c->lanes && (size_t)i < chunks; i++)
                pthread_cond_signal(&c->work); // wakes no thread that has nothing to do
            *request = r;
        }
    }
    pthread_mutex_unlock(&c->lock);
    if (result == ncclInvalidUsage)
        WARN("a send of %zu bytes with tag %d is larger than what the peer receives", size, tag);
    return result;
}
