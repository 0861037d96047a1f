// Throughput beside a plain TCP stream over the same interface, in turns, so that both see the same
// machine; and the processor time of both sides together, which other work on the machine disturbs
// less.
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

enum { UNDER_WAY = 8 };

static void whole(int fd, uint8_t *data, size_t n, bool sends) {
    while (n > 0) {
        ssize_t moved = sends ? send(fd, data, n, MSG_NOSIGNAL) : recv(fd, data, n, 0);
        CHECK(moved > 0);
        data += moved;
        n -= (size_t)moved;
    }
}

struct cost {
    double wall_ms, cpu_ms;
};

static struct cost cost_now(void) {
    struct timespec wall;
    struct rusage used;
    clock_gettime(CLOCK_MONOTONIC, &wall);
    CHECK(getrusage(RUSAGE_SELF, &used) == 0);
    return (struct cost){(double)wall.tv_sec * 1e3 + (double)wall.tv_nsec / 1e6,
                         (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e3 +
                             (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e3};
}

// What has been spent since; at the sender the other side's processor time is added, which comes
// with the word that all has arrived.
static struct cost cost_since(struct cost before, int fd, bool sends) {
    double other = 0;
    if (sends) CHECK(recv(fd, &other, sizeof other, MSG_WAITALL) == sizeof other);
    struct cost now = cost_now();
    now.wall_ms -= before.wall_ms;
    now.cpu_ms -= before.cpu_ms;
    if (!sends) CHECK(send(fd, &now.cpu_ms, sizeof now.cpu_ms, 0) == sizeof now.cpu_ms);
    now.cpu_ms += other;
    return now;
}

static struct cost plain(int fd, uint8_t *data, size_t bytes, int messages, bool sends) {
    struct cost before = cost_now();
    for (int i = 0; i < messages; i++) whole(fd, data, bytes, sends);
    return cost_since(before, fd, sends);
}

// Asks until it is done, as NCCL's proxy does, which has a thread for that.
static void poll_done(struct side *s, void *request) {
    for (int done = 0; !done;) {
        CHECK(s->net.v9->test(request, &done, NULL) == ncclSuccess);
        if (!done) sched_yield();
    }
}

static void *poll_post(struct side *s, void *data, size_t bytes, bool sends) {
    void *request = NULL;
    for (int tag = 0; request == NULL; sched_yield())
        CHECK((sends ? try_send(s, data, bytes, 0, NULL, &request)
                     : try_receive(s, 1, &data, &bytes, &tag, NULL, &request)) == ncclSuccess);
    return request;
}

// As many messages under way as NCCL has (NCCL_STEPS).
static struct cost plugin_cost(struct side *s, uint8_t *data, size_t bytes, int messages,
                               bool sends, int fd) {
    void *request[UNDER_WAY];
    struct cost before = cost_now();
    for (int i = 0; i < messages + UNDER_WAY; i++) {
        if (i >= UNDER_WAY) poll_done(s, request[i % UNDER_WAY]);
        if (i < messages) request[i % UNDER_WAY] = poll_post(s, data, bytes, sends);
    }
    return cost_since(before, fd, sends);
}

static void side_run(const char *plugin, int talk, int fd, bool sends, size_t bytes, int messages,
                     int rounds) {
    struct side s = {.talk = talk, .net = net_load(plugin, 11)};
    uint8_t *data = malloc(bytes);
    fill(data, bytes, 1);
    CHECK(net_init(&s.net) == ncclSuccess);
    if (sends) {
        CHECK(recv(talk, &s.handle, sizeof s.handle, MSG_WAITALL) == sizeof s.handle);
        CHECK(wait_connect(&s) == ncclSuccess);
    } else {
        CHECK(start_listen(&s) == ncclSuccess &&
              send(talk, &s.handle, sizeof s.handle, 0) == sizeof s.handle);
        CHECK(wait_accept(&s) == ncclSuccess);
    }
    for (int round = -1; round < rounds; round++) { // the first warms up
        struct cost tcp = plain(fd, data, bytes, messages, sends);
        struct cost ours = plugin_cost(&s, data, bytes, messages, sends, fd);
        if (sends && round >= 0)
            printf("{\"bytes\": %zu, \"messages\": %d, \"plugin_ms\": %.2f, \"tcp_ms\": %.2f, "
                   "\"plugin_cpu_ms\": %.2f, "
                   "\"tcp_cpu_ms\": %.2f}\n",
                   bytes, messages, ours.wall_ms, tcp.wall_ms, ours.cpu_ms, tcp.cpu_ms);
    }
    close_side(&s, sends);
    free(data);
    exit(0);
}

void speed_run(const char *plugin, size_t bytes, int messages, int rounds) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof address;
    int talk[2], status, listener = socket(AF_INET, SOCK_STREAM, 0),
                         out = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, talk) == 0);
    CHECK(bind(listener, (struct sockaddr *)&address, n) == 0 && listen(listener, 1) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&address, &n) == 0);
    CHECK(connect(out, (struct sockaddr *)&address, n) == 0);
    int in = accept(listener, NULL, NULL);
    fflush(stdout);
    for (int sends = 0; sends < 2; sends++)
        if (fork() == 0)
            side_run(plugin, talk[sends], sends ? out : in, sends, bytes, messages, rounds);
    for (int i = 0; i < 2; i++) CHECK(wait(&status) > 0 && status == 0);
}
