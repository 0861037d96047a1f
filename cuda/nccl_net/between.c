// Somebody between the two sides who sees all and changes one thing: a process that relays every
// link.
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"

enum { FOURTH = 3 }; // the record that is meddled with, counted from 0, on the first link

struct way { // one direction of one link
    int from, to;
    bool upward; // connector to listener
    bool first_link;
    enum meddling what;
};

static bool read_all(int fd, uint8_t *data, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t got = recv(fd, data + done, n - done, 0);
        if (got <= 0) return false;
        done += (size_t)got;
    }
    return true;
}

static bool write_all(int fd, const uint8_t *data, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t got = send(fd, data + done, n - done, MSG_NOSIGNAL);
        if (got <= 0) return false;
        done += (size_t)got;
    }
    return true;
}

static bool relay(struct way *w, uint8_t *data, size_t n, bool flip) {
    if (!read_all(w->from, data, n)) return false;
    if (flip) data[n / 2] ^= 1;
    return write_all(w->to, data, n);
}

static bool handshake(struct way *w, uint8_t *data) {
    if (!w->upward) return relay(w, data, sizeof(struct answer), w->what == FLIP_ANSWER);
    return relay(w, data, sizeof(struct hello), w->what == FLIP_HELLO) &&
           relay(w, data, KEY_BYTES, w->what == FLIP_CONFIRMATION);
}

static size_t read_record(struct way *w, uint8_t *record) {
    if (!read_all(w->from, record, HEAD_BYTES)) return 0;
    size_t sealed = record[0] | (size_t)record[1] << 8 | (size_t)record[2] << 16;
    return read_all(w->from, record + HEAD_BYTES, sealed + TAG_BYTES)
               ? HEAD_BYTES + sealed + TAG_BYTES
               : 0;
}

// Passes the record on, changed where it is its turn; false ends the link.
static bool pass(struct way *w, int number, uint8_t *record, size_t n, uint8_t *other) {
    if (number != FOURTH || !w->first_link || w->upward == (w->what == FLIP_GRANT))
        return write_all(w->to, record, n);
    size_t next;
    switch (w->what) {
    case FLIP_RECORD:
    case FLIP_GRANT: record[n / 2] ^= 16; return write_all(w->to, record, n);
    case FLIP_LENGTH: record[0] ^= 1; return write_all(w->to, record, n);
    case REPLAY: return write_all(w->to, record, n) && write_all(w->to, record, n);
    case LEAVE_OUT: return true;
    case SWAP:
        next = read_record(w, other);
        return next > 0 && write_all(w->to, other, next) && write_all(w->to, record, n);
    case CUT: write_all(w->to, record, n / 2); return false;
    case END: return false;
    default: return write_all(w->to, record, n);
    }
}

static void *run(void *argument) {
    struct way *w = argument;
    uint8_t *record = malloc(RECORD_BYTES), *other = malloc(RECORD_BYTES);
    bool good = handshake(w, record);
    for (int number = 0; good; number++) {
        size_t n = read_record(w, record);
        good = n > 0 && pass(w, number, record, n, other);
    }
    shutdown(w->to, SHUT_WR);
    if (w->what == CUT || w->what == END) shutdown(w->from, SHUT_RD);
    free(record);
    free(other);
    return NULL;
}

static void serve(int listener, struct sockaddr_in to, enum meddling what) {
    for (bool first = true;; first = false) {
        int one = accept(listener, NULL, NULL), two = socket(AF_INET, SOCK_STREAM, 0);
        if (one < 0 || connect(two, (struct sockaddr *)&to, sizeof to) != 0) _exit(1);
        for (int up = 0; up < 2; up++) {
            struct way *w = malloc(sizeof *w);
            *w = (struct way){up ? one : two, up ? two : one, up == 1, first, what};
            pthread_t thread;
            if (pthread_create(&thread, NULL, run, w) != 0) _exit(1);
            pthread_detach(thread);
        }
    }
}

int between_start(struct handle *handle, enum meddling what) {
    struct sockaddr_in to,
        mine = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof mine;
    memcpy(&to, &handle->address, sizeof to);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(listener, (struct sockaddr *)&mine, n) == 0 && listen(listener, 64) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&mine, &n) == 0);
    memcpy(&handle->address, &mine, sizeof mine);
    pid_t process = fork();
    CHECK(process >= 0);
    if (process == 0) serve(listener, to, what);
    close(listener);
    return process;
}
