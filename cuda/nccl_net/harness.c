// Conformance: every entry of the three tables, between two processes, with what goes wrong between
// hospitals.
//
//   harness PLUGIN.so all               what a few seconds allow
//   harness PLUGIN.so large             as all, messages up to 64 MiB
//   harness PLUGIN.so NAME              one of the cases below
//   harness PLUGIN.so device            with driver.c's libcuda.so.1 in LD_LIBRARY_PATH
//   harness PLUGIN.so speed [BYTES MESSAGES ROUNDS]
//
// HARNESS_LOG=1 shows what the plug-in logs. The exit status says whether all is as it should be.
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

static const char *plugin;
static char key_file[64], other_key_file[64];

static void write_key(char *path, const char *text, mode_t mode) {
    strcpy(path, "/tmp/vitalstream-key-XXXXXX");
    int fd = mkstemp(path);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) &&
          fchmod(fd, mode) == 0);
    close(fd);
}

// -------- two processes

struct plan {
    int versions[2]; // receiver, sender
    int streams;
    enum meddling between;
    bool relayed, other_key; // the sender has another key
    int by_openssl;          // 1 + the side that leaves the multi-buffer library alone
    void (*receive)(struct side *), (*send)(struct side *);
};
enum { RECEIVER = 0, SENDER = 1, NOBODY = -1 };

static void set_streams(int streams) {
    char text[8];
    snprintf(text, sizeof text, "%d", streams);
    setenv("VITALSTREAM_NET_STREAMS", text, 1);
}

static pid_t side_start(const struct plan *plan, int role, int talk, struct handle *handle,
                        int unused) {
    pid_t process = fork();
    CHECK(process >= 0);
    if (process != 0) return process;
    close(unused);
    struct side s = {.talk = talk, .streams = plan->streams};
    set_streams(plan->streams);
    if (role == SENDER && plan->other_key) setenv("VITALSTREAM_NET_KEY_FILE", other_key_file, 1);
    if (plan->by_openssl == 1 + role) setenv("VITALSTREAM_NET_WIDE", "0", 1);
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
        // The survivor stops itself when enough has gone over; then the other is killed and it goes
        // on.
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
            fprintf(stderr, "%s: the %s ended with status %x\n", name,
                    role == SENDER ? "sender" : "receiver", status[role]);
            exit(1);
        }
    printf("%s: as it should be\n", name);
    fflush(stdout);
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
        if (version == 11)
            CHECK(net.v11->get_properties(0, &p) == ncclSuccess && p.max_multi_request_size == 1);
        CHECK(strcmp(p.common.name, "lo") == 0 && p.common.ptr_support == NCCL_PTR_HOST &&
              p.common.max_recvs == MAX_RECVS);
        CHECK(p.common.pci_path == NULL && p.common.speed > 0 && p.common.device_type == 0 &&
              p.common.vdevice.ndevs == 1);
        CHECK(net.v9->get_properties(1, &p.common) == ncclInvalidArgument);
        if (version == 11) CHECK(net.v11->set_attributes(net.context, NULL) == ncclSuccess);
        CHECK(strcmp(net.v9->name, "vitalstream") == 0 &&
              strcmp(net.v10->name, "vitalstream") == 0);
        CHECK(net.v9->make_vdevice == NULL && net.v10->get_device_mr == NULL &&
              net.v11->irecv_consumed == NULL);
        if (version == 11) { // a connect that nobody waits for ends with the library
            struct side s = {.net = net};
            CHECK(start_listen(&s) == ncclSuccess &&
                  net.v9->close_listen(s.listener) == ncclSuccess);
            CHECK(try_connect(&s) == ncclSuccess && s.comm == NULL);
        }
        net_end(&net);
    }
    unlink(short_key);
    unlink(open_key);
    printf("tables: as it should be\n");
}

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
            run_pair(
                name,
                (struct plan){
                    {version, version}, version - 8, .receive = receive_sizes, .send = send_sizes},
                NOBODY);
        snprintf(name, sizeof name, "many, version %d", version);
        if (wanted("many", what))
            run_pair(
                name,
                (struct plan){
                    {version, version}, version - 7, .receive = receive_many, .send = send_many},
                NOBODY);
    }
    const struct {
        const char *name;
        struct plan plan;
        int killed;
    } cases[] = {
        {"versions mixed", {{9, 11}, .receive = receive_many, .send = send_many}, NOBODY},
        {"both ways", {{11, 11}, .receive = receive_both_ways, .send = send_both_ways}, NOBODY},
        {"relayed",
         {{11, 10}, .relayed = true, .receive = receive_many, .send = send_many},
         NOBODY},
        {"opened by OpenSSL",
         {{11, 11}, .by_openssl = 1 + RECEIVER, .receive = receive_sizes, .send = send_sizes},
         NOBODY},
        {"sealed by OpenSSL",
         {{11, 11}, .by_openssl = 1 + SENDER, .receive = receive_sizes, .send = send_sizes},
         NOBODY},
        {"sender killed", {{11, 11}, .receive = receive_survives, .send = send_killed}, SENDER},
        {"receiver killed", {{11, 11}, .receive = receive_killed, .send = send_survives}, RECEIVER},
        {"wrong key",
         {{11, 11}, .other_key = true, .receive = refused_accept, .send = refused_connect},
         NOBODY},
        {"hello changed",
         {{11, 11}, 0, FLIP_HELLO, true, .receive = no_comm, .send = refused_and_tell},
         NOBODY},
        {"answer changed",
         {{11, 11}, 0, FLIP_ANSWER, true, .receive = refused_accept, .send = refused_connect},
         NOBODY},
        {"confirmation changed",
         {{11, 11}, 0, FLIP_CONFIRMATION, true, .receive = refused_accept, .send = refused_late},
         NOBODY},
        {"byte changed",
         {{11, 11},
          0,
          FLIP_RECORD,
          true,
          .receive = receive_until_failure,
          .send = send_until_failure},
         NOBODY},
        {"length changed",
         {{10, 10},
          0,
          FLIP_LENGTH,
          true,
          .receive = receive_until_failure,
          .send = send_until_failure},
         NOBODY},
        {"record repeated",
         {{9, 9}, 0, REPLAY, true, .receive = receive_until_failure, .send = send_until_failure},
         NOBODY},
        {"record left out",
         {{11, 11},
          1,
          LEAVE_OUT,
          true,
          .receive = receive_until_failure,
          .send = send_until_failure},
         NOBODY},
        {"records swapped",
         {{11, 11}, 1, SWAP, true, .receive = receive_until_failure, .send = send_until_failure},
         NOBODY},
        {"stream cut in a record",
         {{11, 11}, 0, CUT, true, .receive = receive_until_failure, .send = send_until_failure},
         NOBODY},
        {"stream ended between records",
         {{11, 11}, 0, END, true, .receive = receive_until_failure, .send = send_until_failure},
         NOBODY},
        {"grant changed",
         {{11, 11},
          0,
          FLIP_GRANT,
          true,
          .receive = receive_until_failure,
          .send = send_until_failure},
         NOBODY},
        {"strangers call", {{11, 11}, .receive = receive_sizes, .send = strangers_call}, NOBODY},
        {"stranger answers", {{11, 11}, .receive = listen_only, .send = stranger_answers}, NOBODY},
        {"standing still",
         {{11, 11}, .receive = receive_stands_still, .send = send_stands_still},
         RECEIVER},
        {"misuse", {{10, 10}, .receive = receive_misuse, .send = send_misuse}, NOBODY},
        {"dma-buf", {{11, 11}, .receive = receive_dma_buf, .send = send_dma_buf}, NOBODY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (wanted(cases[i].name, what)) run_pair(cases[i].name, cases[i].plan, cases[i].killed);
    if (strcmp(what, "device") == 0) {
        setenv("VITALSTREAM_NET_CUDA", "1", 1);
        run_pair("device", (struct plan){{11, 9}, .receive = receive_device, .send = send_device},
                 NOBODY);
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
        speed_run(plugin, argc > 3 ? strtoull(argv[3], NULL, 10) : 64 << 20,
                  argc > 4 ? atoi(argv[4]) : 8, argc > 5 ? atoi(argv[5]) : 3);
    else
        run(argv[2]);
    unlink(key_file);
    unlink(other_key_file);
    return 0;
}
