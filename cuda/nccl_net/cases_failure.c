// Cases in which something goes wrong: a side dies or stands still, somebody meddles, strangers
// call, calls are misused.
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"

// -------- one side is killed

enum { STREAM_BYTES = 300000 };

// Sends or receives until it fails. Returns the messages that came through; `after` of them it
// stops itself once.
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
            if (!sends)
                CHECK(got == STREAM_BYTES && filled(buffer[done % 4], size, (uint64_t)done));
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
    CHECK((sends ? post_send(s, data, size, tag, mr[0], &again)
                 : post_receive(s, 1, &data, &size, &tag, mr, &again)) == *result);
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

void receive_survives(struct side *s) { survive(s, false); }
void send_survives(struct side *s) { survive(s, true); }
void receive_killed(struct side *s) { be_killed(s, false); }
void send_killed(struct side *s) { be_killed(s, true); }

// -------- somebody between

void receive_until_failure(struct side *s) {
    ncclResult_t result;
    CHECK(wait_accept(s) == ncclSuccess);
    until_failure(s, false, -1, &result);
    CHECK(result == ncclRemoteError);
}

void send_until_failure(struct side *s) {
    ncclResult_t result;
    CHECK(wait_connect(s) == ncclSuccess);
    until_failure(s, true, -1, &result);
    CHECK(result == ncclRemoteError);
}

void refused_accept(struct side *s) {
    CHECK(wait_accept(s) == ncclRemoteError && s->comm == NULL && log_lines > 0);
}
void refused_connect(struct side *s) {
    CHECK(wait_connect(s) == ncclRemoteError && s->comm == NULL && log_lines > 0);
}
// The connector has said all it has to say when the listener refuses: it may hear so at its first
// message only.
void refused_late(struct side *s) {
    ncclResult_t result = wait_connect(s);
    if (result == ncclSuccess) until_failure(s, true, -1, &result);
    CHECK(result == ncclRemoteError);
}

// A changed hello no longer bears the token of the listener, or fails to confirm: the connector
// hears no.
void no_comm(struct side *s) {
    hear(s);
    CHECK(try_accept(s) == ncclRemoteError || s->comm == NULL);
    CHECK(s->comm == NULL);
}

void refused_and_tell(struct side *s) {
    refused_connect(s);
    tell(s);
}

// -------- peers of another kind

static int dial(struct side *s) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(fd, (struct sockaddr *)&s->handle.address, sizeof(struct sockaddr_in)) == 0);
    return fd;
}

void strangers_call(struct side *s) {
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
    CHECK(send(fd, &hello, sizeof hello, 0) == sizeof hello &&
          recv(fd, answer, sizeof answer, 0) <= 0);
    close(fd);
    CHECK(send(half, &hello, 20, 0) == 20); // and one who never ends
    int crowd[100];                         // and many who say nothing at all
    for (int i = 0; i < 100; i++) crowd[i] = dial(s);
    send_sizes(s);
    for (int i = 0; i < 100; i++) close(crowd[i]);
    close(half);
}

void stranger_answers(struct side *s) {
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

void listen_only(struct side *s) {
    hear(s);
    CHECK(try_accept(s) == ncclSuccess && s->comm == NULL);
}

// -------- nothing blocks while the peer stands still

static void quick(int64_t since_ms) { CHECK(clock_ms() - since_ms < 5000); }

static void stand_still(struct side *s, bool sends) {
    CHECK((sends ? wait_connect(s) : wait_accept(s)) == ncclSuccess);
    if (!sends) {
        size_t size = 8 << 20;
        int tag = 0;
        void *data = malloc(size), *request;
        for (int i = 0; i < 4; i++)
            CHECK(post_receive(s, 1, &data, &size, &tag, NULL, &request) == ncclSuccess);
        tell(s);
        raise(SIGSTOP); // killed later
    }
    hear(s);
    size_t size = 8 << 20;
    uint8_t *buffer = calloc(1, size);
    void *request[4];
    for (int i = 0; i < 4; i++)
        CHECK(post_send(s, buffer, size, 0, NULL, &request[i]) == ncclSuccess);
    int done = 0, ended = 0;
    for (int i = 0; i < 400; i++) { // more is on its way than the sockets hold
        int64_t since_ms = clock_ms();
        void *more = NULL;
        CHECK(s->net.v9->test(request[3], &done, NULL) == ncclSuccess);
        ended += done;
        CHECK((s->net.version == 9
                   ? s->net.v9->isend(s->comm, buffer, 1, 0, NULL, &more)
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
    CHECK(clock_ms() - since_ms < 10000);
    free(buffer);
}

void receive_stands_still(struct side *s) { stand_still(s, false); }
void send_stands_still(struct side *s) { stand_still(s, true); }

// -------- misuse, registrations, settings

void receive_misuse(struct side *s) {
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
    CHECK(s->net.v9->reg_mr(s->comm, small, 4, NCCL_PTR_CUDA, &mr) == ncclInvalidUsage &&
          mr == NULL);
    CHECK(pipe(fds) == 0);
    CHECK(s->net.v9->reg_mr_dma_buf(s->comm, small, 4, NCCL_PTR_CUDA, 0, fds[0], &mr) ==
              ncclInvalidUsage &&
          mr == NULL);
    CHECK(s->net.v9->reg_mr_dma_buf(s->comm, small, 4, NCCL_PTR_CUDA, 0, -1, &mr) ==
              ncclInvalidUsage &&
          mr == NULL);
    close(fds[0]);
    close(fds[1]);
    CHECK(post_receive(s, 1, &data, &size, &tag, NULL, &request) == ncclSuccess);
    int got;
    CHECK(wait_done(s, request, &got) == ncclSuccess && got == 3 && memcmp(small, "abc", 3) == 0);
}

void send_misuse(struct side *s) {
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
    ncclResult_t result =
        post_send(s, text, 8, 5, NULL, &request); // larger than the four bytes that wait
    CHECK(result == ncclInvalidUsage && request == NULL);
    CHECK(post_send(s, text, 3, 5, NULL, &request) == ncclSuccess &&
          wait_done(s, request, NULL) == ncclSuccess);
}
