// Which network interfaces there are, and settings from the environment, which is all that NCCL
// lets reach a plug-in.
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

struct device devices[MAX_DEVICES];
int device_count;

// An integer of the environment within its bounds; what is none is said and not taken.
int setting(const char *name, int otherwise, int low, int high) {
    const char *text = getenv(name);
    if (text == NULL || *text == 0) return otherwise;
    char *end;
    long value = strtol(text, &end, 10);
    if (*end != 0 || value < low || value > high) {
        WARN("%s=%s is not a number from %d to %d; %d is taken", name, text, low, high, otherwise);
        return otherwise;
    }
    return (int)value;
}

static int speed_of(const char *name) {
    char path[128];
    int speed = 0;
    snprintf(path, sizeof path, "/sys/class/net/%s/speed", name);
    FILE *file = fopen(path, "re");
    if (file != NULL) {
        if (fscanf(file, "%d", &speed) != 1) speed = 0;
        fclose(file);
    }
    return speed > 0 ? speed : 10000;
}

static bool usable(const struct ifaddrs *one, const char *wanted) {
    if (one->ifa_addr == NULL || !(one->ifa_flags & IFF_UP) || !(one->ifa_flags & IFF_RUNNING))
        return false;
    if (wanted != NULL && *wanted != 0) {
        if (strncmp(one->ifa_name, wanted, strlen(wanted)) != 0) return false;
    } else if ((one->ifa_flags & IFF_LOOPBACK) || strncmp(one->ifa_name, "docker", 6) == 0) {
        return false;
    }
    if (one->ifa_addr->sa_family == AF_INET) return true;
    return one->ifa_addr->sa_family == AF_INET6 &&
           !IN6_IS_ADDR_LINKLOCAL(&((struct sockaddr_in6 *)one->ifa_addr)->sin6_addr);
}

static void add(const struct ifaddrs *one) {
    for (int i = 0; i < device_count; i++)
        if (strcmp(devices[i].name, one->ifa_name) == 0) {
            // The first IPv4 address of an interface wins over its IPv6 ones.
            if (devices[i].address.sin6_family == AF_INET6 && one->ifa_addr->sa_family == AF_INET)
                memcpy(&devices[i].address, one->ifa_addr, sizeof(struct sockaddr_in));
            return;
        }
    if (device_count == MAX_DEVICES) return;
    struct device *d = &devices[device_count];
    memset(d, 0, sizeof *d);
    snprintf(d->name, sizeof d->name, "%s", one->ifa_name);
    memcpy(&d->address, one->ifa_addr,
           one->ifa_addr->sa_family == AF_INET ? sizeof(struct sockaddr_in)
                                               : sizeof(struct sockaddr_in6));
    d->speed = speed_of(d->name);
    char path[128], real[4096];
    snprintf(path, sizeof path, "/sys/class/net/%s/device", d->name);
    if (realpath(path, real) != NULL && strlen(real) < sizeof d->pci_path)
        strcpy(d->pci_path, real);
    device_count++;
}

// Devices are the interfaces that are up: all but loopback, or those whose name begins as
// VITALSTREAM_NET_INTERFACE says.
static ncclResult_t look(void) {
    struct ifaddrs *all;
    if (getifaddrs(&all) != 0) return ncclSystemError;
    const char *wanted = getenv("VITALSTREAM_NET_INTERFACE");
    for (const struct ifaddrs *one = all; one != NULL; one = one->ifa_next)
        if (usable(one, wanted)) add(one);
    freeifaddrs(all);
    if (device_count == 0) {
        WARN("no network interface is up%s%s", wanted && *wanted ? " whose name begins with " : "",
             wanted ? wanted : "");
        return ncclSystemError;
    }
    return ncclSuccess;
}

// Looks once: the numbers of devices that NCCL has been told hold for the life of the process.
ncclResult_t devices_find(void) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    ncclResult_t result = device_count > 0 ? ncclSuccess : look();
    pthread_mutex_unlock(&lock);
    return result;
}
