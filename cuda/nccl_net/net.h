// What the parts of the plug-in share. A *link* is one TCP connection with its keys; a *comm* is
// what NCCL sees: several links that carry messages one way, and permits to send ("credits") the
// other way on link 0.
#ifndef VITALSTREAM_NET_H
#define VITALSTREAM_NET_H

#include <netinet/in.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "nccl_abi.h"

#ifndef REKEY_RECORDS
#define REKEY_RECORDS                                                                              \
    (1u << 20) // a key seals so many records at most, then the next is derived from it
#endif
enum {
    KEY_BYTES = 32,
    TAG_BYTES = 16,
    LENGTH_BYTES = 4,
    CHECK_BYTES = 12,
    HEAD_BYTES = LENGTH_BYTES + CHECK_BYTES,
    FRAME_BYTES = 32,
    CHUNK_BYTES = 256 * 1024, // fits a core's cache with its copy
    RECORD_BYTES = HEAD_BYTES + FRAME_BYTES + CHUNK_BYTES + TAG_BYTES,
    MAX_LINKS = 16,
    MAX_RECVS = 8,
    MAX_DEVICES = 16,
    HANDSHAKE_MS = 10000,
};

// -------- plugin.c: NCCL's own function, told at init
extern _Atomic(log_function) net_log;
#define LOG(level, ...)                                                                            \
    do {                                                                                           \
        log_function log_ = atomic_load(&net_log);                                                 \
        if (log_)                                                                                  \
            log_((level), NCCL_INIT | NCCL_NET, __FILE__, __LINE__,                                \
                 "NET/vitalstream: " __VA_ARGS__);                                                 \
    } while (0)
#define WARN(...) LOG(NCCL_LOG_WARN, __VA_ARGS__)
#define INFO(...) LOG(NCCL_LOG_INFO, __VA_ARGS__)

// -------- gcm.c: AES-256-GCM by the better of two libraries
struct wide;
struct gcm {
    bool opens;             // decrypts
    EVP_CIPHER_CTX *cipher; // one of the two is there
    struct wide *wide;
};
const char *gcm_engine(void);
void gcm_end(void);
bool gcm_key(struct gcm *g, const uint8_t key[KEY_BYTES]);
void gcm_close(struct gcm *g);
bool gcm_begin(struct gcm *g, const uint8_t nonce[12], const uint8_t *said, size_t n);
bool gcm_next(struct gcm *g, uint8_t *to, const uint8_t *from, size_t n);
bool gcm_seal(struct gcm *g, uint8_t *tag, size_t n);
bool gcm_proves(struct gcm *g, const uint8_t *tag, size_t n);

// -------- keys.c: the shared secret, the handshake's key schedule, sealed records
struct sealer { // one direction of one link
    struct gcm gcm;
    uint8_t key[KEY_BYTES];
    uint64_t records;
};
struct schedule { // everything that one handshake yields
    uint8_t confirm_listener[KEY_BYTES], confirm_connector[KEY_BYTES];
    uint8_t to_listener[KEY_BYTES], to_connector[KEY_BYTES];
};
struct ephemeral {
    EVP_PKEY *pair;
    uint8_t public_key[32];
};

ncclResult_t key_load(const char *path);
bool ephemeral_make(struct ephemeral *e);
void ephemeral_free(struct ephemeral *e);
bool schedule_derive(struct schedule *s, struct ephemeral *mine, const uint8_t peer[32],
                     const uint8_t *transcript, size_t n);
bool same_bytes(const uint8_t *a, const uint8_t *b, size_t n);
bool sealer_open(struct sealer *s, const uint8_t key[KEY_BYTES], bool opens);
void sealer_close(struct sealer *s);
size_t record_seal(struct sealer *s, uint8_t *record, const uint8_t frame[FRAME_BYTES],
                   const uint8_t *body, size_t n);
size_t head_open(struct sealer *s, const uint8_t *record);
bool record_open(struct sealer *s, uint8_t *record, size_t sealed);

// -------- device.c: interfaces and settings
struct device {
    char name[32], pci_path[256];
    int speed;                   // Mbit/s
    struct sockaddr_in6 address; // holds an IPv4 address too
};
extern struct device devices[MAX_DEVICES];
extern int device_count;
ncclResult_t devices_find(void);
int setting(const char *name, int otherwise, int low, int high);

// -------- memory.c: what a buffer is and how bytes get in and out of it
struct memory {
    int type;                // NCCL_PTR_HOST or NCCL_PTR_CUDA
    uint8_t *start, *mapped; // mapped: where a dma-buf lies for the processor
    size_t size, map_bytes, map_skip;
    int fd;
    void *cuda_context;
};
int memory_types(void);
ncclResult_t memory_register(void *data, size_t size, int type, struct memory **mr);
ncclResult_t memory_register_dma_buf(void *data, size_t size, int type, uint64_t offset, int fd,
                                     struct memory **mr);
void memory_deregister(struct memory *mr);
const uint8_t *memory_read(struct memory *mr, const uint8_t *from, size_t n,
                           uint8_t *staging); // NULL: failed
bool memory_write(struct memory *mr, uint8_t *to, const uint8_t *from, size_t n);
void memory_thread_ends(void);

// -------- handshake.c: a link from a socket
struct link {
    int fd;
    struct sealer seal, open;
};
struct hello { // the connector's first message; all fields are bytes, so it has no padding
    uint8_t magic[8], token[16], connection[16], nonce[32], public_key[32];
    uint8_t index, count, zero[6];
};
struct answer { // the listener's
    uint8_t magic[8], nonce[32], public_key[32], confirmation[KEY_BYTES];
};
enum { CONFIRMED_BYTES = sizeof(struct answer) - KEY_BYTES };
ncclResult_t handshake_connect(struct link *link, int fd, const uint8_t token[16],
                               const uint8_t connection[16], int index, int count,
                               atomic_bool *cancel);
bool hello_make_sense(const struct hello *hello, const uint8_t token[16]);
bool handshake_answer(const struct hello *hello, struct answer *answer, struct schedule *schedule);
bool link_open(struct link *link, int fd, const struct schedule *schedule, bool listener);
void link_close(struct link *link);

// -------- socket.c
int64_t net_now_ms(void);
socklen_t net_address_bytes(const struct sockaddr_in6 *a);
void net_tune(int fd, int family, int traffic_class);
void net_let_block(int fd);

// -------- connect.c and listen.c: comms from handles, without ever blocking
#define NET_HANDLE_MAGIC "VSHANDL"
struct handle {
    uint8_t magic[8], token[16];
    struct sockaddr_in6 address;
    uint64_t pending; // the connect that is under way; 0 before the first call
};
_Static_assert(sizeof(struct handle) <= HANDLE_BYTES, "NCCL gives a handle 128 bytes");
ncclResult_t net_listen(int device, struct handle *handle, int traffic_class, void **listener);
ncclResult_t net_connect(int device, struct handle *handle, int traffic_class, void **comm);
ncclResult_t net_accept(void *listener, void **comm);
ncclResult_t net_close_listen(void *listener);
void connects_cancel(void);

// -------- comm.c: messages over links
struct comm;
struct comm *comm_make(struct link *links, int count, bool sends);
ncclResult_t comm_isend(struct comm *c, void *data, size_t size, int tag, struct memory *mr,
                        void **request);
ncclResult_t comm_irecv(struct comm *c, int n, void **data, size_t *sizes, int *tags,
                        struct memory **mrs, void **request);
ncclResult_t comm_iflush(struct comm *c, void **request);
ncclResult_t comm_test(void *request, int *done, int *sizes);
void comm_release(struct comm *c, const struct memory *mr);
ncclResult_t comm_close(struct comm *c);

#endif
