// The part of NCCL's network plug-in interface that this plug-in speaks, declared anew: versions 9,
// 10 and 11. Layouts are those of NCCL 2.24 to 2.30 (plugins/net of NVIDIA/nccl); nothing of NCCL
// is needed to build.
#ifndef VITALSTREAM_NCCL_ABI_H
#define VITALSTREAM_NCCL_ABI_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    ncclSuccess = 0,
    ncclUnhandledCudaError = 1,
    ncclSystemError = 2,
    ncclInternalError = 3,
    ncclInvalidArgument = 4,
    ncclInvalidUsage = 5,
    ncclRemoteError = 6,
} ncclResult_t;

enum { NCCL_LOG_WARN = 2, NCCL_LOG_INFO = 3 };
enum { NCCL_INIT = 1, NCCL_NET = 16 };
enum { NCCL_PTR_HOST = 1, NCCL_PTR_CUDA = 2, NCCL_PTR_DMABUF = 4 };
enum { HANDLE_BYTES = 128, MAX_REQUESTS = 32, MAX_DEVS_PER_NIC = 4 };

typedef void (*log_function)(int level, unsigned long flags, const char *file, int line,
                             const char *format, ...);
typedef ncclResult_t (*profiler_function)(void **event, int type, void *parent, int64_t plugin,
                                          void *extra);

typedef struct {
    int ndevs;
    int devs[MAX_DEVS_PER_NIC];
} net_vdevice;

typedef struct {
    int traffic_class; // -1: not set
} net_config;

// One layout for all three versions, but for the last field, which is of version 11 alone.
typedef struct {
    char *name;
    char *pci_path;
    uint64_t guid;
    int ptr_support;
    int reg_is_global;
    int force_flush;
    int speed; // Mbit/s
    int port;
    float latency; // microseconds
    int max_comms;
    int max_recvs;
    int device_type; // 0: no offload
    int device_version;
    net_vdevice vdevice;
    size_t max_p2p_bytes;
    size_t max_coll_bytes;
} net_properties_v9;
typedef net_properties_v9 net_properties_v10;
typedef struct {
    net_properties_v9 common;
    int max_multi_request_size;
} net_properties_v11;
_Static_assert(sizeof(net_properties_v9) == 104 &&
                   offsetof(net_properties_v9, max_p2p_bytes) == 88 &&
                   offsetof(net_properties_v11, max_multi_request_size) == 104,
               "NCCL's layout on a 64-bit machine");

// What stands between `connect` and `close_listen` is the same in all versions but for isend and
// irecv.
typedef struct {
    const char *name;
    ncclResult_t (*init)(log_function log);
    ncclResult_t (*devices)(int *count);
    ncclResult_t (*get_properties)(int device, net_properties_v9 *properties);
    ncclResult_t (*listen)(int device, void *handle, void **listen_comm);
    ncclResult_t (*connect)(int device, void *handle, void **send_comm, void **device_handle);
    ncclResult_t (*accept)(void *listen_comm, void **recv_comm, void **device_handle);
    ncclResult_t (*reg_mr)(void *comm, void *data, size_t size, int type, void **mr);
    ncclResult_t (*reg_mr_dma_buf)(void *comm, void *data, size_t size, int type, uint64_t offset,
                                   int fd, void **mr);
    ncclResult_t (*dereg_mr)(void *comm, void *mr);
    ncclResult_t (*isend)(void *comm, void *data, size_t size, int tag, void *mr, void **request);
    ncclResult_t (*irecv)(void *comm, int n, void **data, size_t *sizes, int *tags, void **mrs,
                          void **request);
    ncclResult_t (*iflush)(void *comm, int n, void **data, int *sizes, void **mrs, void **request);
    ncclResult_t (*test)(void *request, int *done, int *sizes);
    ncclResult_t (*close_send)(void *comm);
    ncclResult_t (*close_recv)(void *comm);
    ncclResult_t (*close_listen)(void *comm);
    ncclResult_t (*get_device_mr)(void *comm, void *mr, void **device_mr);
    ncclResult_t (*irecv_consumed)(void *comm, int n, void *request);
    ncclResult_t (*make_vdevice)(int *device, net_vdevice *properties);
} net_v9;

typedef struct {
    const char *name;
    ncclResult_t (*init)(log_function log, profiler_function profiler);
    ncclResult_t (*devices)(int *count);
    ncclResult_t (*get_properties)(int device, net_properties_v10 *properties);
    ncclResult_t (*listen)(int device, void *handle, void **listen_comm);
    ncclResult_t (*connect)(int device, net_config *config, void *handle, void **send_comm,
                            void **device_handle);
    ncclResult_t (*accept)(void *listen_comm, void **recv_comm, void **device_handle);
    ncclResult_t (*reg_mr)(void *comm, void *data, size_t size, int type, void **mr);
    ncclResult_t (*reg_mr_dma_buf)(void *comm, void *data, size_t size, int type, uint64_t offset,
                                   int fd, void **mr);
    ncclResult_t (*dereg_mr)(void *comm, void *mr);
    ncclResult_t (*isend)(void *comm, void *data, size_t size, int tag, void *mr, void *event,
                          void **request);
    ncclResult_t (*irecv)(void *comm, int n, void **data, size_t *sizes, int *tags, void **mrs,
                          void **events, void **request);
    ncclResult_t (*iflush)(void *comm, int n, void **data, int *sizes, void **mrs, void **request);
    ncclResult_t (*test)(void *request, int *done, int *sizes);
    ncclResult_t (*close_send)(void *comm);
    ncclResult_t (*close_recv)(void *comm);
    ncclResult_t (*close_listen)(void *comm);
    ncclResult_t (*get_device_mr)(void *comm, void *mr, void **device_mr);
    ncclResult_t (*irecv_consumed)(void *comm, int n, void *request);
    ncclResult_t (*make_vdevice)(int *device, net_vdevice *properties);
} net_v10;

typedef struct {
    const char *name;
    ncclResult_t (*init)(void **context, uint64_t comm_id, net_config *config, log_function log,
                         profiler_function profiler);
    ncclResult_t (*devices)(int *count);
    ncclResult_t (*get_properties)(int device, net_properties_v11 *properties);
    ncclResult_t (*listen)(void *context, int device, void *handle, void **listen_comm);
    ncclResult_t (*connect)(void *context, int device, void *handle, void **send_comm,
                            void **device_handle);
    ncclResult_t (*accept)(void *listen_comm, void **recv_comm, void **device_handle);
    ncclResult_t (*reg_mr)(void *comm, void *data, size_t size, int type, void **mr);
    ncclResult_t (*reg_mr_dma_buf)(void *comm, void *data, size_t size, int type, uint64_t offset,
                                   int fd, void **mr);
    ncclResult_t (*dereg_mr)(void *comm, void *mr);
    ncclResult_t (*isend)(void *comm, void *data, size_t size, int tag, void *mr, void *event,
                          void **request);
    ncclResult_t (*irecv)(void *comm, int n, void **data, size_t *sizes, int *tags, void **mrs,
                          void **events, void **request);
    ncclResult_t (*iflush)(void *comm, int n, void **data, int *sizes, void **mrs, void **request);
    ncclResult_t (*test)(void *request, int *done, int *sizes);
    ncclResult_t (*close_send)(void *comm);
    ncclResult_t (*close_recv)(void *comm);
    ncclResult_t (*close_listen)(void *comm);
    ncclResult_t (*get_device_mr)(void *comm, void *mr, void **device_mr);
    ncclResult_t (*irecv_consumed)(void *comm, int n, void *request);
    ncclResult_t (*make_vdevice)(int *device, net_vdevice *properties);
    ncclResult_t (*finalize)(void *context);
    ncclResult_t (*set_attributes)(void *context, const void *attributes);
} net_v11;

#endif
