// What a comm is made of; shared by comm.c, send.c, receive.c and wire.c.
#ifndef VITALSTREAM_COMM_H
#define VITALSTREAM_COMM_H

#include "net.h"

enum {
    SENDS = MAX_REQUESTS * MAX_RECVS,
    RECEIVES = 2 * MAX_REQUESTS,
    GRANT_BYTES = 16,
    FIRST_READ_BYTES = 16 * 1024
};
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

// -------- comm.c
void comm_fail(struct comm *c, ncclResult_t result, const char *why);
bool comm_touch(struct comm *c);
void comm_let_go(struct comm *c);
ncclResult_t comm_failure(struct comm *c);
ncclResult_t comm_socket_error(void);
void comm_thread_ends(struct comm *c);
struct request *comm_take_request(struct comm *c);

// -------- wire.c
void wire_put(uint8_t *to, uint64_t value, int bytes);
uint64_t wire_get(const uint8_t *from, int bytes);
void wire_frame(uint8_t *frame, enum kind kind, uint32_t place, uint64_t group, uint64_t offset,
                uint64_t total);
bool wire_send(struct comm *c, int fd, const uint8_t *data, size_t n);
ssize_t wire_next(struct comm *c, struct link *link, uint8_t *record, size_t *have,
                  size_t *record_bytes);
void wire_drop(uint8_t *record, size_t *have, size_t record_bytes);

// -------- send.c and receive.c
void *send_thread(void *argument);
void *grants_thread(void *argument);
void *receive_thread(void *argument);
ncclResult_t receive_flush(struct comm *c);
void receive_goodbye(struct comm *c);

#endif
