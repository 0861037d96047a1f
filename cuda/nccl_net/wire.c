// Numbers, frames and sealed records, from and to a socket.
#include <errno.h>
#include <string.h>

#include "comm.h"

void wire_put(uint8_t *to, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) to[i] = (uint8_t)(value >> (8 * i));
}

uint64_t wire_get(const uint8_t *from, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value |= (uint64_t)from[i] << (8 * i);
    return value;
}

void wire_frame(uint8_t *frame, enum kind kind, uint32_t place, uint64_t group, uint64_t offset,
                uint64_t total) {
    wire_put(frame, kind, 4);
    wire_put(frame + 4, place, 4);
    wire_put(frame + 8, group, 8);
    wire_put(frame + 16, offset, 8);
    wire_put(frame + 24, total, 8);
}

bool wire_send(struct comm *c, int fd, const uint8_t *data, size_t n) {
    while (n > 0) {
        ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) {
            comm_fail(c, comm_socket_error(), "the peer is gone");
            return false;
        }
        data += sent;
        n -= (size_t)sent;
    }
    return true;
}

// Reads until `have` bytes of the record are there. Asks for a whole record at most: what follows
// stays in the socket.
static bool read_to(struct comm *c, int fd, uint8_t *record, size_t *have, size_t need,
                    size_t ask) {
    while (*have < need) {
        ssize_t n = recv(fd, record + *have, ask - *have, ask == need ? MSG_WAITALL : 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            if (n == 0 && c->sends && atomic_load(&c->closing))
                return false; // it heard the goodbye
            if (n == 0)
                comm_fail(c, ncclRemoteError, "the peer closed the connection without a word");
            else
                comm_fail(c, comm_socket_error(), "the connection broke");
            return false;
        }
        *have += (size_t)n;
    }
    return true;
}

// The next record, opened in place: returns the bytes after its frame, -1 where there is none.
ssize_t wire_next(struct comm *c, struct link *link, uint8_t *record, size_t *have,
                  size_t *record_bytes) {
    if (!read_to(c, link->fd, record, have, HEAD_BYTES, FIRST_READ_BYTES)) return -1;
    size_t sealed = head_open(&link->open, record);
    if (sealed > 0) {
        *record_bytes = HEAD_BYTES + sealed + TAG_BYTES;
        if (!read_to(c, link->fd, record, have, *record_bytes, *record_bytes)) return -1;
    }
    if (sealed == 0 || !record_open(&link->open, record, sealed)) {
        comm_fail(c, ncclRemoteError,
                  "a record does not open: changed, repeated or left out on the way");
        return -1;
    }
    return (ssize_t)(sealed - FRAME_BYTES);
}

void wire_drop(uint8_t *record, size_t *have, size_t record_bytes) {
    *have -= record_bytes;
    memmove(record, record + record_bytes, *have);
}
