// The harness drives the plug-in as NCCL does: through the tables it exports, between processes.
#ifndef VITALSTREAM_HARNESS_H
#define VITALSTREAM_HARNESS_H

#include <stdio.h>
#include <stdlib.h>

#include "net.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

enum { PATIENCE_MS = 30000 };

// -------- side.c: one process's side, whatever the version of the table
struct net {
    int version;
    void *library, *context;
    const net_v9 *v9; // the entries that are the same in all versions are taken from here
    const net_v10 *v10;
    const net_v11 *v11;
};
struct side {
    struct net net;
    int talk; // a socket to the other side
    struct handle handle;
    void *listener, *comm;
    int streams;
};
struct flight { // a request under way
    void *request;
    uint8_t *buffer[MAX_RECVS];
    void *mr[MAX_RECVS];
    size_t size[MAX_RECVS];
    int parts;
    uint64_t seed;
};

extern int log_lines;
extern char last_log[512];
int64_t clock_ms(void);
void pause_us(int us);
uint64_t mix(uint64_t x);
void fill(uint8_t *data, size_t n, uint64_t seed);
bool filled(const uint8_t *data, size_t n, uint64_t seed);
struct net net_load(const char *plugin, int version);
ncclResult_t net_init(struct net *net);
void net_end(struct net *net);
ncclResult_t start_listen(struct side *s);
ncclResult_t try_connect(struct side *s);
ncclResult_t try_accept(struct side *s);
ncclResult_t wait_connect(struct side *s);
ncclResult_t wait_accept(struct side *s);
ncclResult_t try_send(struct side *s, void *data, size_t size, int tag, void *mr, void **request);
ncclResult_t try_receive(struct side *s, int n, void **data, size_t *sizes, int *tags, void **mrs,
                         void **request);
ncclResult_t post_send(struct side *s, void *data, size_t size, int tag, void *mr, void **request);
ncclResult_t post_receive(struct side *s, int n, void **data, size_t *sizes, int *tags, void **mrs,
                          void **request);
ncclResult_t wait_done(struct side *s, void *request, int *sizes);
void close_side(struct side *s, bool sends);

void tell(struct side *s);
void hear(struct side *s);
void *registered(struct side *s, void *data, size_t size);
void deregister(struct side *s, void *mr);

// -------- cases_traffic.c and cases_failure.c: what a side does
extern bool large;
void listen_only(struct side *s);
void no_comm(struct side *s);
void receive_both_ways(struct side *s);
void receive_device(struct side *s);
void receive_dma_buf(struct side *s);
void receive_killed(struct side *s);
void receive_many(struct side *s);
void receive_misuse(struct side *s);
void receive_sizes(struct side *s);
void receive_stands_still(struct side *s);
void receive_survives(struct side *s);
void receive_until_failure(struct side *s);
void refused_accept(struct side *s);
void refused_and_tell(struct side *s);
void refused_connect(struct side *s);
void refused_late(struct side *s);
void send_both_ways(struct side *s);
void send_device(struct side *s);
void send_dma_buf(struct side *s);
void send_killed(struct side *s);
void send_many(struct side *s);
void send_misuse(struct side *s);
void send_sizes(struct side *s);
void send_stands_still(struct side *s);
void send_survives(struct side *s);
void send_until_failure(struct side *s);
void stranger_answers(struct side *s);
void strangers_call(struct side *s);

// -------- between.c: somebody between the two sides
enum meddling {
    RELAY,
    FLIP_HELLO,
    FLIP_ANSWER,
    FLIP_CONFIRMATION,
    FLIP_RECORD,
    FLIP_LENGTH,
    REPLAY,
    LEAVE_OUT,
    SWAP,
    CUT,
    END,
    FLIP_GRANT
};
int between_start(struct handle *handle,
                  enum meddling what); // changes the handle; returns the process

// -------- speed.c
void speed_run(const char *plugin, size_t bytes, int messages, int rounds);

#endif
