// Conformance: every entry of the three tables, between two processes, with what goes wrong between hospitals.
//
//   harness PLUGIN.so all               what a few seconds allow
//   harness PLUGIN.so large             as all, messages up to 64 MiB
//   harness PLUGIN.so NAME              one of the cases below
//   harness PLUGIN.so device            with driver.c's libcuda.so.1 in LD_LIBRARY_PATH
//   harness PLUGIN.so speed [BYTES MESSAGES ROUNDS]
//
// HARNESS_LOG=1 shows what the plug-in logs. The exit status says whether all is as it should be.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

static const char *plugin;
static char key_file[64], other_key_file[64];
static bool large;

static void write_key(char *path, const char *text, mode_t mode) {
    strcpy(path, "/tmp/vitalstream-key-XXXXXX");
    int fd = mkstemp(path);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && fchmod(fd, mode) == 0);
    close(fd);
}

// -------- two processes

struct plan {
    int versions[2]; // receiver, sender
    int streams;
    enum meddling between;
    bool relayed, other_key; // the sender has another key
    void (*receive)(struct side *), (*send)(struct side *);
};
enum { RECEIVER = 0, SENDER = 1, NOBODY = -1 };

static void set_streams(int streams) {
    char text[8];
    snprintf(text, sizeof text, "%d", streams);
    setenv("VITALSTREAM_NET_STREAMS", text, 1);
}

static pid_t side_start(const struct plan *plan, int role, int talk, struct handle *handle, int unused) {
    pid_t process = fork();
    CHECK(process >= 0);
    if (process != 0) return process;
    close(unused);
    struct side s = {.talk = talk, .streams = plan->streams};
    set_streams(plan->streams);
    if (role == SENDER && plan->other_key) setenv("VITALSTREAM_NET_KEY_FILE", other_key_file, 1);
    s.net = net_load(plugin, plan->versions[role]);
    CHECK(net_init(&s.net) == ncclSuccess);
    if (role == RECEIVER) {
        CHECK(start_listen(&s) == ncclSuccess);
        CHECK(write(talk, &s.handle, sizeof s.handle) == sizeof s.handle);
        plan->receive(&s);
    } else {
        s.handle = *handle;
        plan->send(&s);
    }
    close_side(&s, role == SENDER);
    close(talk);
    exit(0); // not _exit: the sanitizers look for leaks now
}

// Runs both sides; `killed` is the side that ends by SIGKILL when the other says so.
static void run_pair(const char *name, struct plan plan, int killed) {
    int talk[2], status[2];
    struct handle handle;
    pid_t between = 0, process[2];
    if (plan.streams == 0) plan.streams = 3;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, talk) == 0);
    process[RECEIVER] = side_start(&plan, RECEIVER, talk[0], NULL, talk[1]);
    CHECK(recv(talk[1], &handle, sizeof handle, MSG_WAITALL) == sizeof handle);
    if (plan.relayed) between = between_start(&handle, plan.between);
    process[SENDER] = side_start(&plan, SENDER, talk[1], &handle, talk[0]);
    if (killed != NOBODY) {
        // The survivor stops itself when enough has gone over; then the other is killed and it goes on.
        pid_t survivor = process[1 - killed];
        CHECK(waitpid(survivor, &status[0], WUNTRACED) == survivor && WIFSTOPPED(status[0]));
        kill(process[killed], SIGKILL);
        CHECK(waitpid(process[killed], &status[killed], 0) == process[killed]);
        kill(survivor, SIGCONT);
        CHECK(waitpid(survivor, &status[1 - killed], 0) == survivor);
        status[killed] = 0;
    } else {
        CHECK(waitpid(process[RECEIVER], &status[RECEIVER], 0) == process[RECEIVER]);
        CHECK(waitpid(process[SENDER], &status[SENDER], 0) == process[SENDER]);
    }
    if (between > 0) {
        kill(between, SIGKILL);
        waitpid(between, NULL, 0);
    }
    close(talk[0]);
    close(talk[1]);
    for (int role = 0; role < 2; role++)
        if (status[role] != 0) {
            fprintf(stderr, "%s: the %s ended with status %x\n", name, role == SENDER ? "sender" : "receiver", status[role]);
            exit(1);
        }
    printf("%s: as it should be\n", name);
    fflush(stdout);
}

static void tell(struct side *s) { CHECK(write(s->talk, "", 1) == 1); }

static void hear(struct side *s) {
    char one;
    CHECK(read(s->talk, &one, 1) == 1);
}

static void *registered(struct side *s, void *data, size_t size) {
    void *mr;
    CHECK(s->net.v9->reg_mr(s->comm, data, size, NCCL_PTR_HOST, &mr) == ncclSuccess && mr != NULL);
    return mr;
}

static void deregister(struct side *s, void *mr) { CHECK(s->net.v9->dereg_mr(s->comm, mr) == ncclSuccess); }

// -------- messages of all sizes, one after the other, into buffers that are larger

static size_t sizes_of(size_t sizes[16]) {
    const size_t all[] = {0, 1, 7, 4097, 16384, 131071, 131072 * 3, 1000003, (8 << 20) + 1, 64 << 20};
    size_t n = large ? 10 : 8;
    memcpy(sizes, all, n * sizeof *all);
    return n;
}

static void receive_sizes(struct side *s) {
    size_t sizes[16], n = sizes_of(sizes);
    CHECK(wait_accept(s) == ncclSuccess);
    for (size_t i = 0; i < n; i++) {
        size_t room = sizes[i] + 13;
        uint8_t *buffer = malloc(room);
        memset(buffer, 0xEE, room);
        void *mr = registered(s, buffer, room), *data = buffer, *request;
        int tag = (int)i, got = -1;
        CHECK(post_receive(s, 1, &data, &room, &tag, &mr, &request) == ncclSuccess);
        CHECK(wait_done(s, request, &got) == ncclSuccess);
        CHECK((size_t)got == sizes[i] && filled(buffer, sizes[i], i));
        for (size_t k = sizes[i]; k < room; k++) CHECK(buffer[k] == 0xEE);
        CHECK(s->net.v9->iflush(s->comm, 1, &data, &got, &mr, &request) == ncclSuccess);
        CHECK(wait_done(s, request, NULL) == ncclSuccess);
        deregister(s, mr);
        free(buffer);
    }
}

static void send_sizes(struct side *s) {
    size_t sizes[16], n = sizes_of(sizes);
    CHECK(wait_connect(s) == ncclSuccess);
    for (size_t i = 0; i < n; i++) {
        uint8_t *buffer = malloc(sizes[i] + 1);
        fill(buffer, sizes[i], i);
        void *mr = registered(s, buffer, sizes[i]), *request;
        int got = -1;
        CHECK(post_send(s, buffer, sizes[i], (int)i, mr, &request) == ncclSuccess);
        CHECK(wait_done(s, request, &got) == ncclSuccess && (size_t)got == sizes[i]);
        deregister(s, mr);
        free(buffer);
    }
}

// -------- many at once: groups of up to eight, tags in any order, as many in flight as NCCL may have

enum { GROUPS = 100, TAGS = 3 }; // fewer tags than parts: equal tags go in order

static int group_parts(int g) { return 1 + (int)(mix((uint64_t)g) % MAX_RECVS); }
static int part_tag(int g, int part) { return (int)(mix((uint64_t)(g * 8 + part)) % TAGS) + g % 2 * 100; }
static size_t part_size(int g, int part) {
    uint64_t x = mix((uint64_t)(1000 + g * 8 + part));
    return x % 5 == 0 ? x / 8 % 100000 : x / 8 % 700;
}

static void check_group(struct side *s, struct flight *f, int g) {
    int got[MAX_RECVS];
    CHECK(wait_done(s, f->request, got) == ncclSuccess);
    for (int i = 0; i < f->parts; i++) {
        CHECK((size_t)got[i] == part_size(g, i) && filled(f->buffer[i], part_size(g, i), (uint64_t)(g * 8 + i)));
        deregister(s, f->mr[i]);
        free(f->buffer[i]);
    }
}

static void receive_many(struct side *s) {
    static struct flight flight[MAX_REQUESTS];
    CHECK(wait_accept(s) == ncclSuccess);
    for (int g = 0; g < GROUPS + MAX_REQUESTS; g++) {
        struct flight *f = &flight[g % MAX_REQUESTS];
        if (g >= MAX_REQUESTS) check_group(s, f, g - MAX_REQUESTS);
        if (g >= GROUPS) continue;
        int tags[MAX_RECVS];
        void *data[MAX_RECVS];
        f->parts = group_parts(g);
        for (int i = 0; i < f->parts; i++) {
            f->size[i] = part_size(g, i) + (size_t)(i % 2);
            data[i] = f->buffer[i] = malloc(f->size[i] + 1);
            f->mr[i] = registered(s, f->buffer[i], f->size[i]);
            tags[i] = part_tag(g, i);
        }
        CHECK(post_receive(s, f->parts, data, f->size, tags, f->mr, &f->request) == ncclSuccess);
    }
}

// Sends a group's parts from the last tag to the first; parts of one tag stay in order.
static void send_many(struct side *s) {
    static struct flight flight[GROUPS];
    CHECK(wait_connect(s) == ncclSuccess);
    for (int g = 0; g < GROUPS; g++) {
        struct flight *f = &flight[g];
        for (int tag = TAGS - 1; tag >= 0; tag--)
            for (int i = 0; i < group_parts(g); i++) {
                if (part_tag(g, i) % 100 != tag) continue;
                size_t n = part_size(g, i);
                f->buffer[f->parts] = malloc(n + 1);
                fill(f->buffer[f->parts], n, (uint64_t)(g * 8 + i));
                f->mr[f->parts] = registered(s, f->buffer[f->parts], n);
                void *request;
                CHECK(post_send(s, f->buffer[f->parts], n, part_tag(g, i), f->mr[f->parts], &request) == ncclSuccess);
                // Requests of a group stay in flight together; the buffers' last owner is the last request.
                f->size[f->parts++] = (size_t)(uintptr_t)request;
            }
        int old = g - 12;
        for (int k = g == GROUPS - 1 ? (old < 0 ? 0 : old) : old; k <= (g == GROUPS - 1 ? g : old); k++) {
            if (k < 0) continue;
            for (int i = 0; i < flight[k].parts; i++) {
                CHECK(wait_done(s, (void *)(uintptr_t)flight[k].size[i], NULL) == ncclSuccess);
                deregister(s, flight[k].mr[i]);
                free(flight[k].buffer[i]);
            }
        }
    }
}

// -------- both ways at once, over several connections of the same two processes

enum { CONNECTIONS = 3, TURNS = 20, TURN_BYTES = 150001 };

static void both_ways(struct side *s, bool first) {
    struct side in[CONNECTIONS], out[CONNECTIONS];
    static uint8_t sent[CONNECTIONS][TURN_BYTES], got[CONNECTIONS][TURN_BYTES];
    for (int i = 0; i < CONNECTIONS; i++) {
        in[i] = out[i] = (struct side){.net = s->net};
        CHECK(start_listen(&in[i]) == ncclSuccess);
        CHECK(write(s->talk, &in[i].handle, sizeof in[i].handle) == sizeof in[i].handle);
        CHECK(recv(s->talk, &out[i].handle, sizeof out[i].handle, MSG_WAITALL) == sizeof out[i].handle);
    }
    for (int i = 0; i < CONNECTIONS; i++) CHECK(try_connect(&out[i]) == ncclSuccess);
    for (int i = 0; i < CONNECTIONS; i++) CHECK(wait_accept(&in[i]) == ncclSuccess && wait_connect(&out[i]) == ncclSuccess);
    for (int turn = 0; turn < TURNS; turn++) {
        void *request[CONNECTIONS][2];
        for (int i = 0; i < CONNECTIONS; i++) {
            uint64_t seed = (uint64_t)(turn * 2 + i * 1000);
            void *data = got[i];
            size_t size = TURN_BYTES;
            int tag = turn;
            fill(sent[i], size, seed + first);
            CHECK(post_receive(&in[i], 1, &data, &size, &tag, NULL, &request[i][0]) == ncclSuccess);
        }
        for (int i = 0; i < CONNECTIONS; i++)
            CHECK(post_send(&out[i], sent[i], TURN_BYTES, turn, NULL, &request[i][1]) == ncclSuccess);
        for (int i = 0; i < CONNECTIONS; i++) {
            CHECK(wait_done(&in[i], request[i][0], NULL) == ncclSuccess);
            CHECK(wait_done(&out[i], request[i][1], NULL) == ncclSuccess);
            CHECK(filled(got[i], TURN_BYTES, (uint64_t)(turn * 2 + i * 1000) + !first));
        }
    }
    for (int i = 0; i < CONNECTIONS; i++) {
        CHECK(s->net.v9->close_send(out[i].comm) == ncclSuccess && s->net.v9->close_recv(in[i].comm) == ncclSuccess);
        CHECK(s->net.v9->close_listen(in[i].listener) == ncclSuccess);
    }
}

static void receive_both_ways(struct side *s) { both_ways(s, false); }
static void send_both_ways(struct side *s) { both_ways(s, true); }

// -------- one side is killed

enum { STREAM_BYTES = 300000 };

// Sends or receives until it fails. Returns the messages that came through; `after` of them it stops itself once.
static int until_failure(struct side *s, bool sends, int after, ncclResult_t *result) {
    uint8_t *buffer[4];
    void *mr[4], *request[4];
    size_t size = STREAM_BYTES;
    int done = 0, posted = 0, tag = 0, got;
    for (int i = 0; i < 4; i++) {
        buffer[i] = malloc(size);
        memset(buffer[i], 0xEE, size);
        mr[i] = registered(s, buffer[i], size);
    }
    *result = ncclSuccess;
    while (*result == ncclSuccess) {
        int slot = posted % 4;
        if (posted - done == 4 || (posted == 2 * 4 && posted > done && sends)) {
            *result = wait_done(s, request[done % 4], &got);
            if (*result != ncclSuccess) break;
            if (!sends) CHECK(got == STREAM_BYTES && filled(buffer[done % 4], size, (uint64_t)done));
            done++;
            if (done == after) raise(SIGSTOP);
            continue;
        }
        void *data = buffer[slot];
        if (sends) {
            fill(buffer[slot], size, (uint64_t)posted);
            *result = post_send(s, data, size, tag, mr[slot], &request[slot]);
        } else {
            memset(buffer[slot], 0xEE, size);
            *result = post_receive(s, 1, &data, &size, &tag, &mr[slot], &request[slot]);
        }
        posted += *result == ncclSuccess;
    }
    // What did not come through was not touched, or holds bytes that were proved: never others.
    for (int k = done; !sends && k < posted; k++)
        for (size_t at = 0; at < size; at += 8) {
            uint64_t word, right = mix((uint64_t)k + at), untouched = 0xEEEEEEEEEEEEEEEEu;
            memcpy(&word, buffer[k % 4] + at, 8);
            CHECK(word == right || word == untouched);
        }
    void *again = NULL, *data = buffer[0];
    CHECK((sends ? post_send(s, data, size, tag, mr[0], &again) : post_receive(s, 1, &data, &size, &tag, mr, &again)) == *result);
    CHECK(again == NULL);
    for (int i = 0; i < 4; i++) deregister(s, mr[i]);
    CHECK((sends ? s->net.v9->close_send : s->net.v9->close_recv)(s->comm) == ncclSuccess);
    s->comm = NULL;
    for (int i = 0; i < 4; i++) free(buffer[i]);
    return done;
}

static void survive(struct side *s, bool sends) {
    ncclResult_t result;
    CHECK((sends ? wait_connect(s) : wait_accept(s)) == ncclSuccess);
    CHECK(until_failure(s, sends, 5, &result) >= 5);
    CHECK(result == ncclRemoteError);
}

static void be_killed(struct side *s, bool sends) {
    ncclResult_t result;
    CHECK((sends ? wait_connect(s) : wait_accept(s)) == ncclSuccess);
    until_failure(s, sends, -1, &result);
}

static void receive_survives(struct side *s) { survive(s, false); }
static void send_survives(struct side *s) { survive(s, true); }
static void receive_killed(struct side *s) { be_killed(s, false); }
static void send_killed(struct side *s) { be_killed(s, true); }

// -------- somebody between

static void receive_until_failure(struct side *s) {
    ncclResult_t result;
    CHECK(wait_accept(s) == ncclSuccess);
    until_failure(s, false, -1, &result);
    CHECK(result == ncclRemoteError);
}

static void send_until_failure(struct side *s) {
    ncclResult_t result;
    CHECK(wait_connect(s) == ncclSuccess);
    until_failure(s, true, -1, &result);
    CHECK(result == ncclRemoteError);
}

static void refused_accept(struct side *s) { CHECK(wait_accept(s) == ncclRemoteError && s->comm == NULL && log_lines > 0); }
static void refused_connect(struct side *s) { CHECK(wait_connect(s) == ncclRemoteError && s->comm == NULL && log_lines > 0); }
// The connector has said all it has to say when the listener refuses: it may hear so at its first message only.
static void refused_late(struct side *s) {
    ncclResult_t result = wait_connect(s);
    if (result == ncclSuccess) until_failure(s, true, -1, &result);
    CHECK(result == ncclRemoteError);
}

// A changed hello no longer bears the token of the listener, or fails to confirm: the connector hears no.
static void no_comm(struct side *s) {
    hear(s);
    CHECK(try_accept(s) == ncclRemoteError || s->comm == NULL);
    CHECK(s->comm == NULL);
}

static void refused_and_tell(struct side *s) {
    refused_connect(s);
    tell(s);
}

// -------- peers of another kind

static int dial(struct side *s) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(fd, (struct sockaddr *)&s->handle.address, sizeof(struct sockaddr_in)) == 0);
    return fd;
}

static void strangers_call(struct side *s) {
    char answer[64];
    struct hello hello;
    const char *greetings[] = {"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\x00\x01", ""};
    for (size_t i = 0; i < 3; i++) {
        int fd = dial(s);
        CHECK(send(fd, greetings[i], strlen(greetings[i]), 0) == (ssize_t)strlen(greetings[i]));
        shutdown(fd, SHUT_WR);
        CHECK(recv(fd, answer, sizeof answer, 0) <= 0); // nothing is said to strangers
        close(fd);
    }
    memset(&hello, 0, sizeof hello); // one who knows the protocol and no token
    memcpy(hello.magic, "VSNET01\n", 8);
    hello.count = 1;
    int fd = dial(s), half = dial(s);
    CHECK(send(fd, &hello, sizeof hello, 0) == sizeof hello && recv(fd, answer, sizeof answer, 0) <= 0);
    close(fd);
    CHECK(send(half, &hello, 20, 0) == 20); // and one who never ends
    int crowd[100]; // and many who say nothing at all
    for (int i = 0; i < 100; i++) crowd[i] = dial(s);
    send_sizes(s);
    for (int i = 0; i < 100; i++) close(crowd[i]);
    close(half);
}

static void stranger_answers(struct side *s) {
    struct sockaddr_in mine = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof mine;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(listener, (struct sockaddr *)&mine, n) == 0 && listen(listener, 8) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&mine, &n) == 0);
    for (int kind = 0; kind < 3; kind++) {
        memcpy(&s->handle.address, &mine, sizeof mine);
        CHECK(try_connect(s) == ncclSuccess && s->comm == NULL);
        int fd = accept(listener, NULL, NULL);
        char banner[104] = "SSH-2.0-OpenSSH_9.2\r\n";
        if (kind > 0) CHECK(send(fd, banner, kind == 1 ? 21 : sizeof banner, 0) > 0);
        close(fd);
        CHECK(wait_connect(s) == ncclRemoteError);
        CHECK(s->handle.pending == 0);
    }
    close(listener);
    memcpy(&s->handle.address, &mine, sizeof mine); // nobody listens there any more
    CHECK(wait_connect(s) == ncclRemoteError);
    tell(s);
}

static void listen_only(struct side *s) {
    hear(s);
    CHECK(try_accept(s) == ncclSuccess && s->comm == NULL);
}

// -------- nothing blocks while the peer stands still

static void quick(int64_t since_ms) { CHECK(clock_ms() - since_ms < 1000); }

static void stand_still(struct side *s, bool sends) {
    CHECK((sends ? wait_connect(s) : wait_accept(s)) == ncclSuccess);
    if (!sends) {
        size_t size = 8 << 20;
        int tag = 0;
        void *data = malloc(size), *request;
        for (int i = 0; i < 4; i++) CHECK(post_receive(s, 1, &data, &size, &tag, NULL, &request) == ncclSuccess);
        tell(s);
        raise(SIGSTOP); // killed later
    }
    hear(s);
    size_t size = 8 << 20;
    uint8_t *buffer = calloc(1, size);
    void *request[4];
    for (int i = 0; i < 4; i++) CHECK(post_send(s, buffer, size, 0, NULL, &request[i]) == ncclSuccess);
    int done = 0, ended = 0;
    for (int i = 0; i < 400; i++) { // more is on its way than the sockets hold
        int64_t since_ms = clock_ms();
        void *more = NULL;
        CHECK(s->net.v9->test(request[3], &done, NULL) == ncclSuccess);
        ended += done;
        CHECK((s->net.version == 9 ? s->net.v9->isend(s->comm, buffer, 1, 0, NULL, &more)
                                   : s->net.v11->isend(s->comm, buffer, 1, 0, NULL, NULL, &more)) == ncclSuccess);
        CHECK(more == NULL); // no buffer of the peer waits for it
        quick(since_ms);
        pause_us(500);
    }
    CHECK(ended == 0);
    raise(SIGSTOP);
    int64_t since_ms = clock_ms();
    CHECK(s->net.v9->close_send(s->comm) == ncclSuccess);
    s->comm = NULL;
    CHECK(clock_ms() - since_ms < 5000);
    free(buffer);
}

static void receive_stands_still(struct side *s) { stand_still(s, false); }
static void send_stands_still(struct side *s) { stand_still(s, true); }

// -------- misuse, registrations, settings

static void receive_misuse(struct side *s) {
    CHECK(try_accept(s) == ncclSuccess && s->comm == NULL); // nobody there yet: not an error
    tell(s);
    CHECK(wait_accept(s) == ncclSuccess);
    uint8_t small[4];
    void *data = small, *request, *mr;
    size_t size = sizeof small;
    int tag = 5, fds[2];
    CHECK(post_send(s, small, 4, 5, NULL, &request) == ncclInvalidArgument);
    CHECK(post_receive(s, 0, &data, &size, &tag, NULL, &request) == ncclInvalidArgument);
    CHECK(post_receive(s, 9, &data, &size, &tag, NULL, &request) == ncclInvalidArgument);
    CHECK(s->net.v9->reg_mr(s->comm, small, 4, NCCL_PTR_CUDA, &mr) == ncclInvalidUsage && mr == NULL);
    CHECK(pipe(fds) == 0);
    CHECK(s->net.v9->reg_mr_dma_buf(s->comm, small, 4, NCCL_PTR_CUDA, 0, fds[0], &mr) == ncclInvalidUsage && mr == NULL);
    CHECK(s->net.v9->reg_mr_dma_buf(s->comm, small, 4, NCCL_PTR_CUDA, 0, -1, &mr) == ncclInvalidUsage && mr == NULL);
    close(fds[0]);
    close(fds[1]);
    CHECK(post_receive(s, 1, &data, &size, &tag, NULL, &request) == ncclSuccess);
    int got;
    CHECK(wait_done(s, request, &got) == ncclSuccess && got == 3 && memcmp(small, "abc", 3) == 0);
}

static void send_misuse(struct side *s) {
    struct handle right = s->handle;
    hear(s);
    s->handle.magic[0] ^= 1; // another plug-in's handle
    CHECK(try_connect(s) == ncclInvalidUsage);
    s->handle = right;
    s->handle.pending = 12345; // a number that nobody gave out
    CHECK(try_connect(s) == ncclInvalidArgument);
    s->handle = right;
    CHECK(wait_connect(s) == ncclSuccess);
    char text[8] = "abcdefg";
    void *request, *data = text;
    size_t size = 8;
    int tag = 5;
    CHECK(post_receive(s, 1, &data, &size, &tag, NULL, &request) == ncclInvalidArgument);
    CHECK(s->net.v9->iflush(s->comm, 1, &data, NULL, NULL, &request) == ncclInvalidArgument);
    ncclResult_t result = post_send(s, text, 8, 5, NULL, &request); // larger than the four bytes that wait
    CHECK(result == ncclInvalidUsage && request == NULL);
    CHECK(post_send(s, text, 3, 5, NULL, &request) == ncclSuccess && wait_done(s, request, NULL) == ncclSuccess);
}

static void *shared_memory(struct side *s, size_t size, void **mr) {
    int fd = memfd_create("dma-buf", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, 3 * 4096 + (off_t)size) == 0);
    void *seen = mmap(NULL, 3 * 4096 + size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(seen != MAP_FAILED);
    // The address is one that only a device could use: the plug-in has to go through its mapping.
    CHECK(s->net.v9->reg_mr_dma_buf(s->comm, (void *)0x7000000000, size, NCCL_PTR_CUDA, 5000, fd, mr) == ncclSuccess);
    close(fd); // as NCCL does
    return seen;
}

static void receive_dma_buf(struct side *s) {
    size_t size = 200000;
    void *mr, *request, *data = (void *)0x7000000000;
    int tag = 1, got;
    CHECK(wait_accept(s) == ncclSuccess);
    uint8_t *seen = shared_memory(s, size, &mr);
    CHECK(post_receive(s, 1, &data, &size, &tag, &mr, &request) == ncclSuccess);
    CHECK(wait_done(s, request, &got) == ncclSuccess && got == 200000 && filled(seen + 5000, size, 3));
    deregister(s, mr);
    munmap(seen, 3 * 4096 + size);
}

static void send_dma_buf(struct side *s) {
    size_t size = 200000;
    void *mr, *request;
    CHECK(wait_connect(s) == ncclSuccess);
    uint8_t *seen = shared_memory(s, size, &mr);
    fill(seen + 5000, size, 3);
    CHECK(post_send(s, (void *)0x7000000000, size, 1, mr, &request) == ncclSuccess && wait_done(s, request, NULL) == ncclSuccess);
    deregister(s, mr);
    munmap(seen, 3 * 4096 + size);
}

// Init with a bad key in a process of its own, and the tables as they are.
static void tables(void) {
    char short_key[64], open_key[64];
    write_key(short_key, "too short\n", 0600);
    write_key(open_key, "0123456789abcdef0123456789abcdef\n", 0644);
    const char *bad[] = {"", "/nonexistent/key", short_key, open_key, key_file};
    for (int version = 9; version <= 11; version++) {
        struct net net = net_load(plugin, version);
        for (int i = 0; i < 5; i++) {
            setenv("VITALSTREAM_NET_KEY_FILE", bad[i], 1);
            log_lines = 0;
            CHECK(net_init(&net) == (i < 4 ? ncclSystemError : ncclSuccess));
            CHECK(log_lines > 0);
        }
        int count = 0;
        CHECK(net.v9->devices(&count) == ncclSuccess && count == 1); // loopback alone was asked for
        net_properties_v11 p;
        memset(&p, 0xEE, sizeof p);
        if (version == 9) CHECK(net.v9->get_properties(0, &p.common) == ncclSuccess);
        if (version == 10) CHECK(net.v10->get_properties(0, &p.common) == ncclSuccess);
        if (version == 11) CHECK(net.v11->get_properties(0, &p) == ncclSuccess && p.max_multi_request_size == 1);
        CHECK(strcmp(p.common.name, "lo") == 0 && p.common.ptr_support == NCCL_PTR_HOST && p.common.max_recvs == MAX_RECVS);
        CHECK(p.common.pci_path == NULL && p.common.speed > 0 && p.common.device_type == 0 && p.common.vdevice.ndevs == 1);
        CHECK(net.v9->get_properties(1, &p.common) == ncclInvalidArgument);
        if (version == 11) CHECK(net.v11->set_attributes(net.context, NULL) == ncclSuccess);
        CHECK(strcmp(net.v9->name, "vitalstream") == 0 && strcmp(net.v10->name, "vitalstream") == 0);
        CHECK(net.v9->make_vdevice == NULL && net.v10->get_device_mr == NULL && net.v11->irecv_consumed == NULL);
        if (version == 11) { // a connect that nobody waits for ends with the library
            struct side s = {.net = net};
            CHECK(start_listen(&s) == ncclSuccess && net.v9->close_listen(s.listener) == ncclSuccess);
            CHECK(try_connect(&s) == ncclSuccess && s.comm == NULL);
        }
        net_end(&net);
    }
    unlink(short_key);
    unlink(open_key);
    printf("tables: as it should be\n");
}

// -------- device memory, by the stand-in for the driver: touching it other than by a copy is a fault

static uint8_t *(*device_memory)(size_t);

static void use_driver(struct side *s) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    CHECK(driver != NULL);
    *(void **)&device_memory = dlsym(driver, "driver_alloc");
    CHECK(device_memory != NULL);
    net_properties_v9 p;
    CHECK(s->net.v9->get_properties(0, &p) == ncclSuccess);
    CHECK(p.ptr_support == (NCCL_PTR_HOST | NCCL_PTR_CUDA | NCCL_PTR_DMABUF));
}

static void *on_device(struct side *s, uint8_t *data, size_t size, bool dma_buf) {
    void *mr;
    int fd = memfd_create("dma-buf", MFD_CLOEXEC);
    ncclResult_t result = dma_buf ? s->net.v9->reg_mr_dma_buf(s->comm, data, size, NCCL_PTR_CUDA, 0, fd, &mr)
                                  : s->net.v9->reg_mr(s->comm, data, size, NCCL_PTR_CUDA, &mr);
    close(fd);
    CHECK(result == ncclSuccess);
    return mr;
}

static void device_both(struct side *s, bool sends) {
    int (*to_device)(uint64_t, const void *, size_t, void *), (*to_host)(void *, uint64_t, size_t, void *);
    size_t size = 300001;
    uint8_t *host = malloc(size);
    CHECK((sends ? wait_connect(s) : wait_accept(s)) == ncclSuccess);
    use_driver(s);
    *(void **)&to_device = dlsym(RTLD_DEFAULT, "cuMemcpyHtoDAsync_v2");
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    *(void **)&to_device = dlsym(driver, "cuMemcpyHtoDAsync_v2");
    *(void **)&to_host = dlsym(driver, "cuMemcpyDtoHAsync_v2");
    for (int i = 0; i < 4; i++) {
        uint8_t *memory = device_memory(size);
        void *mr = on_device(s, memory, size, i % 2 == 1), *request, *data = memory;
        int tag = i, got;
        if (sends) {
            fill(host, size, (uint64_t)i);
            CHECK(to_device((uint64_t)(uintptr_t)memory, host, size, NULL) == 0);
            CHECK(post_send(s, memory, size, i, mr, &request) == ncclSuccess && wait_done(s, request, NULL) == ncclSuccess);
        } else {
            CHECK(post_receive(s, 1, &data, &size, &tag, &mr, &request) == ncclSuccess);
            CHECK(wait_done(s, request, &got) == ncclSuccess && (size_t)got == size);
            CHECK(s->net.v9->iflush(s->comm, 1, &data, &got, &mr, &request) == ncclSuccess);
            CHECK(wait_done(s, request, NULL) == ncclSuccess);
            CHECK(to_host(host, (uint64_t)(uintptr_t)memory, size, NULL) == 0 && filled(host, size, (uint64_t)i));
        }
        deregister(s, mr);
    }
    free(host);
}

static void receive_device(struct side *s) { device_both(s, false); }
static void send_device(struct side *s) { device_both(s, true); }

// -------- the list

static bool wanted(const char *name, const char *what) {
    return strcmp(what, "all") == 0 || strcmp(what, "large") == 0 || strcmp(what, name) == 0;
}

static void run(const char *what) {
    if (wanted("tables", what)) {
        pid_t process = fork();
        int status;
        if (process == 0) {
            tables();
            exit(0);
        }
        CHECK(waitpid(process, &status, 0) == process && status == 0);
    }
    for (int version = 9; version <= 11; version++) {
        char name[32];
        snprintf(name, sizeof name, "sizes, version %d", version);
        if (wanted("sizes", what))
            run_pair(name, (struct plan){{version, version}, version - 8, .receive = receive_sizes, .send = send_sizes}, NOBODY);
        snprintf(name, sizeof name, "many, version %d", version);
        if (wanted("many", what))
            run_pair(name, (struct plan){{version, version}, version - 7, .receive = receive_many, .send = send_many}, NOBODY);
    }
    const struct {
        const char *name;
        struct plan plan;
        int killed;
    } cases[] = {
        {"versions mixed", {{9, 11}, .receive = receive_many, .send = send_many}, NOBODY},
        {"both ways", {{11, 11}, .receive = receive_both_ways, .send = send_both_ways}, NOBODY},
        {"relayed", {{11, 10}, .relayed = true, .receive = receive_many, .send = send_many}, NOBODY},
        {"sender killed", {{11, 11}, .receive = receive_survives, .send = send_killed}, SENDER},
        {"receiver killed", {{11, 11}, .receive = receive_killed, .send = send_survives}, RECEIVER},
        {"wrong key", {{11, 11}, .other_key = true, .receive = refused_accept, .send = refused_connect}, NOBODY},
        {"hello changed", {{11, 11}, 0, FLIP_HELLO, true, .receive = no_comm, .send = refused_and_tell}, NOBODY},
        {"answer changed", {{11, 11}, 0, FLIP_ANSWER, true, .receive = refused_accept, .send = refused_connect}, NOBODY},
        {"confirmation changed", {{11, 11}, 0, FLIP_CONFIRMATION, true, .receive = refused_accept, .send = refused_late}, NOBODY},
        {"byte changed", {{11, 11}, 0, FLIP_RECORD, true, .receive = receive_until_failure, .send = send_until_failure}, NOBODY},
        {"length changed", {{10, 10}, 0, FLIP_LENGTH, true, .receive = receive_until_failure, .send = send_until_failure}, NOBODY},
        {"record repeated", {{9, 9}, 0, REPLAY, true, .receive = receive_until_failure, .send = send_until_failure}, NOBODY},
        {"record left out", {{11, 11}, 1, LEAVE_OUT, true, .receive = receive_until_failure, .send = send_until_failure}, NOBODY},
        {"records swapped", {{11, 11}, 1, SWAP, true, .receive = receive_until_failure, .send = send_until_failure}, NOBODY},
        {"stream cut in a record", {{11, 11}, 0, CUT, true, .receive = receive_until_failure, .send = send_until_failure}, NOBODY},
        {"stream ended between records", {{11, 11}, 0, END, true, .receive = receive_until_failure, .send = send_until_failure}, NOBODY},
        {"grant changed", {{11, 11}, 0, FLIP_GRANT, true, .receive = receive_until_failure, .send = send_until_failure}, NOBODY},
        {"strangers call", {{11, 11}, .receive = receive_sizes, .send = strangers_call}, NOBODY},
        {"stranger answers", {{11, 11}, .receive = listen_only, .send = stranger_answers}, NOBODY},
        {"standing still", {{11, 11}, .receive = receive_stands_still, .send = send_stands_still}, RECEIVER},
        {"misuse", {{10, 10}, .receive = receive_misuse, .send = send_misuse}, NOBODY},
        {"dma-buf", {{11, 11}, .receive = receive_dma_buf, .send = send_dma_buf}, NOBODY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (wanted(cases[i].name, what)) run_pair(cases[i].name, cases[i].plan, cases[i].killed);
    if (strcmp(what, "device") == 0) {
        setenv("VITALSTREAM_NET_CUDA", "1", 1);
        run_pair("device", (struct plan){{11, 9}, .receive = receive_device, .send = send_device}, NOBODY);
    }
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s PLUGIN.so all|large|device|speed|CASE\n", argv[0]);
        return 2;
    }
    plugin = argv[1];
    large = strcmp(argv[2], "large") == 0;
    setenv("VITALSTREAM_NET_INTERFACE", "lo", 1);
    write_key(key_file, "6e0b5f1c6c2c4b1f9d0f6d1d8a7e3c5b\n", 0600);
    write_key(other_key_file, "another secret of thirty-two bytes", 0600);
    setenv("VITALSTREAM_NET_KEY_FILE", key_file, 1);
    if (strcmp(argv[2], "speed") == 0)
        speed_run(plugin, argc > 3 ? strtoull(argv[3], NULL, 10) : 64 << 20, argc > 4 ? atoi(argv[4]) : 8, argc > 5 ? atoi(argv[5]) : 3);
    else run(argv[2]);
    unlink(key_file);
    unlink(other_key_file);
    return 0;
}
