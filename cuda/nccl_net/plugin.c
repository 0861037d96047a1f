// The tables that NCCL looks up: ncclNetPlugin_v9, _v10 and _v11. Thin: each entry hands over to
// connect.c, comm.c or memory.c; versions differ in what init, connect, isend and irecv are given.
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

_Atomic(log_function) net_log;

static ncclResult_t begin(log_function log) {
    if (log != NULL) atomic_store(&net_log, log);
    ncclResult_t result = key_load(getenv("VITALSTREAM_NET_KEY_FILE"));
    if (result == ncclSuccess) result = devices_find();
    if (result == ncclSuccess)
        INFO("AES-256-GCM by %s over %d interface(s), memory types %d", gcm_engine(), device_count,
             memory_types());
    return result;
}

static ncclResult_t net_devices(int *count) {
    *count = device_count;
    return ncclSuccess;
}

static ncclResult_t net_properties(int device, net_properties_v9 *p) {
    if (device < 0 || device >= device_count) return ncclInvalidArgument;
    struct device *d = &devices[device];
    *p = (net_properties_v9){
        .name = d->name,
        .pci_path = d->pci_path[0] != 0 ? d->pci_path : NULL,
        .guid = (uint64_t)device,
        .ptr_support = memory_types(),
        .speed = d->speed,
        .max_comms = 65536,
        .max_recvs = MAX_RECVS,
        .vdevice = {.ndevs = 1, .devs = {device}},
        .max_p2p_bytes = INT_MAX, // `test` gives sizes back as int
        .max_coll_bytes = INT_MAX,
    };
    return ncclSuccess;
}

static ncclResult_t net_properties_11(int device, net_properties_v11 *p) {
    p->max_multi_request_size = 1;
    return net_properties(device, &p->common);
}

static ncclResult_t reg_mr(void *comm, void *data, size_t size, int type, void **mr) {
    (void)comm;
    return memory_register(data, size, type, (struct memory **)mr);
}

static ncclResult_t reg_mr_dma_buf(void *comm, void *data, size_t size, int type, uint64_t offset,
                                   int fd, void **mr) {
    (void)comm;
    return memory_register_dma_buf(data, size, type, offset, fd, (struct memory **)mr);
}

static ncclResult_t dereg_mr(void *comm, void *mr) {
    comm_release(comm, mr);
    memory_deregister(mr);
    return ncclSuccess;
}

static ncclResult_t accept_comm(void *listener, void **comm, void **device_handle) {
    (void)device_handle; // no work is offloaded to the device
    return net_accept(listener, comm);
}

static ncclResult_t isend(void *comm, void *data, size_t size, int tag, void *mr, void *event,
                          void **request) {
    (void)event;
    return comm_isend(comm, data, size, tag, mr, request);
}

static ncclResult_t irecv(void *comm, int n, void **data, size_t *sizes, int *tags, void **mrs,
                          void **events, void **request) {
    (void)events;
    return comm_irecv(comm, n, data, sizes, tags, (struct memory **)mrs, request);
}

static ncclResult_t iflush(void *comm, int n, void **data, int *sizes, void **mrs, void **request) {
    (void)n, (void)data, (void)sizes, (void)mrs;
    return comm_iflush(comm, request);
}

static ncclResult_t close_comm(void *comm) { return comm_close(comm); }

// -------- version 9

static ncclResult_t listen_9(int device, void *handle, void **listener) {
    return net_listen(device, handle, -1, listener);
}

static ncclResult_t connect_9(int device, void *handle, void **comm, void **device_handle) {
    (void)device_handle;
    return net_connect(device, handle, -1, comm);
}

static ncclResult_t isend_9(void *comm, void *data, size_t size, int tag, void *mr,
                            void **request) {
    return comm_isend(comm, data, size, tag, mr, request);
}

static ncclResult_t irecv_9(void *comm, int n, void **data, size_t *sizes, int *tags, void **mrs,
                            void **request) {
    return comm_irecv(comm, n, data, sizes, tags, (struct memory **)mrs, request);
}

// -------- version 10

static ncclResult_t init_10(log_function log, profiler_function profiler) {
    (void)profiler;
    return begin(log);
}

static ncclResult_t connect_10(int device, net_config *config, void *handle, void **comm,
                               void **device_handle) {
    (void)device_handle;
    return net_connect(device, handle, config ? config->traffic_class : -1, comm);
}

// -------- version 11: every communicator of NCCL has a context

struct context {
    int traffic_class;
};

static ncclResult_t init_11(void **context, uint64_t comm_id, net_config *config, log_function log,
                            profiler_function profiler) {
    (void)comm_id, (void)profiler;
    *context = NULL;
    ncclResult_t result = begin(log);
    if (result != ncclSuccess) return result;
    struct context *made = malloc(sizeof *made);
    if (made == NULL) return ncclSystemError;
    made->traffic_class = config ? config->traffic_class : -1;
    *context = made;
    return ncclSuccess;
}

static int traffic_class(const struct context *context) {
    return context ? context->traffic_class : -1;
}

static ncclResult_t listen_11(void *context, int device, void *handle, void **listener) {
    return net_listen(device, handle, traffic_class(context), listener);
}

static ncclResult_t connect_11(void *context, int device, void *handle, void **comm,
                               void **device_handle) {
    (void)device_handle;
    return net_connect(device, handle, traffic_class(context), comm);
}

static ncclResult_t finalize_11(void *context) {
    free(context);
    return ncclSuccess;
}

static ncclResult_t set_attributes_11(void *context, const void *attributes) {
    (void)context,
        (void)attributes; // hints of how many peers there will be; nothing here depends on them
    return ncclSuccess;
}

__attribute__((destructor)) static void unload(void) {
    connects_cancel();
    gcm_end();
}

#define EXPORT __attribute__((visibility("default")))
#define SAME                                                                                       \
    .accept = accept_comm, .reg_mr = reg_mr, .reg_mr_dma_buf = reg_mr_dma_buf,                     \
    .dereg_mr = dereg_mr, .iflush = iflush, .test = comm_test, .close_send = close_comm,           \
    .close_recv = close_comm, .close_listen = net_close_listen

EXPORT const net_v9 ncclNetPlugin_v9 = {
    .name = "vitalstream",
    .init = begin,
    .devices = net_devices,
    .get_properties = net_properties,
    .listen = listen_9,
    .connect = connect_9,
    .isend = isend_9,
    .irecv = irecv_9,
    SAME,
};
EXPORT const net_v10 ncclNetPlugin_v10 = {
    .name = "vitalstream",
    .init = init_10,
    .devices = net_devices,
    .get_properties = net_properties,
    .listen = listen_9,
    .connect = connect_10,
    .isend = isend,
    .irecv = irecv,
    SAME,
};
EXPORT const net_v11 ncclNetPlugin_v11 = {
    .name = "vitalstream",
    .init = init_11,
    .devices = net_devices,
    .get_properties = net_properties_11,
    .listen = listen_11,
    .connect = connect_11,
    .isend = isend,
    .irecv = irecv,
    SAME,
    .finalize = finalize_11,
    .set_attributes = set_attributes_11,
};
