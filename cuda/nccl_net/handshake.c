// The handshake of one link, three messages:
//
//   connector -> listener   hello: the listener's token, connection, which link of how many, nonce,
//   public key listener  -> connector  answer: nonce, public key, confirmation over hello and
//   answer connector -> listener   confirmation over the same
//
// Each side proves that it has the shared secret and that it is alive now: its confirmation depends
// on the other's nonce.
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "net.h"

static const uint8_t MAGIC[8] = {'V', 'S', 'N', 'E', 'T', '0', '1', '\n'};
_Static_assert(sizeof(struct hello) == 112 && sizeof(struct answer) == 104,
               "messages have no padding");

// Sends or receives all of n bytes on a socket that does not block; false past the deadline, on its
// end or on cancel.
static bool transfer(int fd, void *data, size_t n, bool sending, int64_t deadline_ms,
                     atomic_bool *cancel) {
    for (size_t done = 0; done < n;) {
        ssize_t got = sending ? send(fd, (uint8_t *)data + done, n - done, MSG_NOSIGNAL)
                              : recv(fd, (uint8_t *)data + done, n - done, 0);
        if (got > 0) {
            done += (size_t)got;
            continue;
        }
        if (got == 0 || (errno != EAGAIN && errno != EINTR)) return false;
        struct pollfd wait = {.fd = fd, .events = sending ? POLLOUT : POLLIN};
        if (atomic_load(cancel) || net_now_ms() > deadline_ms) return false;
        poll(&wait, 1, 50);
    }
    return true;
}

bool link_open(struct link *link, int fd, const struct schedule *schedule, bool listener) {
    link->fd = fd;
    const uint8_t *out = listener ? schedule->to_connector : schedule->to_listener;
    const uint8_t *in = listener ? schedule->to_listener : schedule->to_connector;
    return sealer_open(&link->seal, out, false) && sealer_open(&link->open, in, true);
}

void link_close(struct link *link) {
    sealer_close(&link->seal);
    sealer_close(&link->open);
    if (link->fd >= 0) close(link->fd);
    link->fd = -1;
}

static bool derive(const struct hello *hello, const struct answer *answer, struct ephemeral *mine,
                   const uint8_t *peer, struct schedule *schedule) {
    uint8_t said[sizeof *hello + CONFIRMED_BYTES];
    memcpy(said, hello, sizeof *hello);
    memcpy(said + sizeof *hello, answer, CONFIRMED_BYTES);
    return schedule_derive(schedule, mine, peer, said, sizeof said);
}

// The connector's side of one link; takes the socket, which must not block, whatever comes out.
ncclResult_t handshake_connect(struct link *link, int fd, const uint8_t token[16],
                               const uint8_t connection[16], int index, int count,
                               atomic_bool *cancel) {
    struct hello hello = {.index = (uint8_t)index, .count = (uint8_t)count};
    struct answer answer;
    struct schedule schedule = {0};
    struct ephemeral mine = {0};
    int64_t deadline_ms = net_now_ms() + HANDSHAKE_MS;
    ncclResult_t result = ncclRemoteError;
    memset(link, 0, sizeof *link);
    link->fd = fd;
    memcpy(hello.magic, MAGIC, 8);
    memcpy(hello.token, token, 16);
    memcpy(hello.connection, connection, 16);
    bool made = ephemeral_make(&mine) && RAND_bytes(hello.nonce, sizeof hello.nonce) == 1;
    memcpy(hello.public_key, mine.public_key, 32);
    if (!made) {
        WARN("OpenSSL gave no key pair");
        result = ncclSystemError;
    } else if (!transfer(fd, &hello, sizeof hello, true, deadline_ms, cancel) ||
               !transfer(fd, &answer, sizeof answer, false, deadline_ms, cancel)) {
        if (!atomic_load(cancel)) WARN("the peer did not answer the handshake");
    } else if (memcmp(answer.magic, MAGIC, 8) != 0) {
        WARN("the peer speaks another protocol");
    } else if (!derive(&hello, &answer, &mine, answer.public_key, &schedule) ||
               !same_bytes(answer.confirmation, schedule.confirm_listener, KEY_BYTES)) {
        WARN("the peer has another key, or somebody between changed the handshake");
    } else if (!transfer(fd, schedule.confirm_connector, KEY_BYTES, true, deadline_ms, cancel)) {
        WARN("the peer went away during the handshake");
    } else {
        result = link_open(link, fd, &schedule, false) ? ncclSuccess : ncclSystemError;
    }
    ephemeral_free(&mine);
    OPENSSL_cleanse(&schedule, sizeof schedule);
    if (result != ncclSuccess) link_close(link);
    return result;
}

// Whether a hello is one of ours and meant for this listener: a stray or hostile caller does not
// know the token.
bool hello_make_sense(const struct hello *hello, const uint8_t token[16]) {
    return memcmp(hello->magic, MAGIC, 8) == 0 && same_bytes(hello->token, token, 16) &&
           hello->count >= 1 && hello->count <= MAX_LINKS && hello->index < hello->count;
}

// The listener's answer to a hello, and the keys that hold once the connector has confirmed.
bool handshake_answer(const struct hello *hello, struct answer *answer, struct schedule *schedule) {
    struct ephemeral mine = {0};
    bool good = ephemeral_make(&mine) && RAND_bytes(answer->nonce, sizeof answer->nonce) == 1;
    memcpy(answer->magic, MAGIC, 8);
    memcpy(answer->public_key, mine.public_key, 32);
    good = good && derive(hello, answer, &mine, hello->public_key, schedule);
    memcpy(answer->confirmation, schedule->confirm_listener, KEY_BYTES);
    ephemeral_free(&mine);
    return good;
}
