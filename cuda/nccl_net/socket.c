// Sockets: what every connection sets, and the clock that their deadlines go by.
#include <fcntl.h>
#include <netinet/tcp.h>
#include <time.h>

#include "net.h"

enum { USER_TIMEOUT_MS = 120000 };

int64_t net_now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

socklen_t net_address_bytes(const struct sockaddr_in6 *a) {
    return a->sin6_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

static void set(int fd, int level, int option, int value) {
    setsockopt(fd, level, option, &value, sizeof value);
}

// A peer that vanishes without a word is noticed within two minutes, whether it is being sent to or
// not.
void net_tune(int fd, int family, int traffic_class) {
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 20);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, 9);
    set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT_MS);
    if (traffic_class >= 0)
        family == AF_INET ? set(fd, IPPROTO_IP, IP_TOS, traffic_class)
                          : set(fd, IPPROTO_IPV6, IPV6_TCLASS, traffic_class);
}

// From here on threads wait in the socket, and its shutdown wakes them.
void net_let_block(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK); }
