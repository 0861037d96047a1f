// The receiving side: grants, and a thread for each link that puts what arrives where it belongs.
#include <errno.h>
#include <string.h>

#include "comm.h"

// Where a record's bytes belong, or NULL where it claims what was never granted.
static struct request *claim(struct comm *c, const uint8_t *frame, size_t n, int *part) {
    uint64_t place = wire_get(frame + 4, 4), group = wire_get(frame + 8, 8);
    uint64_t offset = wire_get(frame + 16, 8), total = wire_get(frame + 24, 8);
    if (wire_get(frame, 4) != DATA || place >> 8 >= RECEIVES || (place & 255) >= MAX_RECVS)
        return NULL;
    struct request *r = &c->requests[place >> 8];
    *part = (int)(place & 255);
    pthread_mutex_lock(&c->lock);
    struct part *p = &r->part[*part];
    bool good = atomic_load(&r->state) == BUSY && r->group == group && *part < r->parts &&
                total <= p->size && offset <= total && n <= total - offset &&
                n <= total - p->claimed && (!p->begun || (p->total == total && n > 0));
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

void *receive_thread(void *argument) {
    struct lane *lane = argument;
    struct comm *c = lane->comm;
    size_t record_bytes;
    ssize_t n;
    pthread_setname_np(pthread_self(), "vitalnet-recv");
    while ((n = wire_next(c, &lane->link, lane->record, &lane->have, &record_bytes)) >= 0) {
        const uint8_t *frame = lane->record + HEAD_BYTES;
        int part;
        if (wire_get(frame, 4) == BYE) {
            shutdown(lane->link.fd, SHUT_WR);
            break;
        }
        struct request *r = claim(c, frame, (size_t)n, &part);
        if (r == NULL) {
            comm_fail(c, ncclRemoteError, "the peer sends what was not granted");
            break;
        }
        if (!comm_touch(c)) break;
        bool wrote = memory_write(r->part[part].mr, r->part[part].data + wire_get(frame + 16, 8),
                                  frame + FRAME_BYTES, (size_t)n);
        if (wrote) arrived(c, r, part, (size_t)n);
        comm_let_go(c);
        if (!wrote) {
            comm_fail(c, ncclUnhandledCudaError, "device memory cannot be written");
            break;
        }
        wire_drop(lane->record, &lane->have, record_bytes);
    }
    comm_thread_ends(c);
    return NULL;
}

// Sends what is sealed, as far as the socket takes it now.
ncclResult_t receive_flush(struct comm *c) {
    while (c->out_have > 0) {
        ssize_t n = send(c->lane[0].link.fd, c->out, c->out_have, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno == EAGAIN ? ncclSuccess : comm_socket_error();
        memmove(c->out, c->out + n, c->out_have - (size_t)n);
        c->out_have -= (size_t)n;
    }
    return ncclSuccess;
}

// The receiver's goodbye, so that the sender can tell an end from a cut. What the socket does not
// take now is not waited for.
void receive_goodbye(struct comm *c) {
    uint8_t frame[FRAME_BYTES];
    pthread_mutex_lock(&c->out_lock);
    wire_frame(frame, BYE, 0, 0, 0, 0);
    if (c->out_have + HEAD_BYTES + FRAME_BYTES + TAG_BYTES <= sizeof c->out) {
        c->out_have += record_seal(&c->lane[0].link.seal, c->out + c->out_have, frame, NULL, 0);
        receive_flush(c);
    }
    pthread_mutex_unlock(&c->out_lock);
}

ncclResult_t comm_irecv(struct comm *c, int n, void **data, size_t *sizes, int *tags,
                        struct memory **mrs, void **request) {
    *request = NULL; // it may come in as a hint that the end of this receive is of no interest
    if (c->sends || n < 1 || n > MAX_RECVS) return ncclInvalidArgument;
    if (atomic_load(&c->error)) return comm_failure(c);
    pthread_mutex_lock(&c->out_lock);
    size_t need = HEAD_BYTES + FRAME_BYTES + (size_t)n * GRANT_BYTES + TAG_BYTES;
    struct request *r = c->out_have + need <= sizeof c->out ? comm_take_request(c) : NULL;
    ncclResult_t result = ncclSuccess;
    if (r != NULL) {
        uint8_t frame[FRAME_BYTES], body[MAX_RECVS * GRANT_BYTES] = {0};
        pthread_mutex_lock(&c->lock);
        r->receives = true;
        r->group = c->groups++;
        r->parts = n;
        r->left = (size_t)n;
        for (int i = 0; i < n; i++) {
            r->part[i] =
                (struct part){.data = data[i], .mr = mrs ? mrs[i] : NULL, .size = sizes[i]};
            wire_put(body + i * GRANT_BYTES, (uint32_t)tags[i], 4);
            wire_put(body + i * GRANT_BYTES + 8, sizes[i], 8);
        }
        atomic_store(&r->state, BUSY);
        pthread_mutex_unlock(&c->lock);
        wire_frame(frame, GRANT, (uint32_t)(r - c->requests), r->group, 0, 0);
        if (record_seal(&c->lane[0].link.seal, c->out + c->out_have, frame, body,
                        (size_t)n * GRANT_BYTES) != need) {
            result = ncclSystemError;
        } else {
            c->out_have += need;
            result = receive_flush(c);
        }
        *request = r;
    }
    pthread_mutex_unlock(&c->out_lock);
    if (result != ncclSuccess) {
        comm_fail(c, result, "the peer is gone");
        *request = NULL;
    }
    return result;
}
