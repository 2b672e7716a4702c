// The floor under a launch: the same groups and limits, clone3 into the v2 group, execve, wait, remove.
// No namespaces unless asked, no user, no init, no pipes, no mounts: what no agent can do without.
//
// floor COUNT WORKERS NAMESPACES V2_PARENT [V1_PARENT:file=value,file=value]...
// Limits of the v2 group stand behind its parent in the same way.
// Prints nanoseconds: those of everything, then those of each launch.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void put(const char *path, const char *value) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, value, strlen(value)) < 0) die(path);
    close(fd);
}

struct group {
    char *parent;
    char *files[8];
    char *values[8];
    int count;
};

static struct group parse(char *text) {
    struct group group = {.parent = text};
    char *limits = strchr(text, ':');
    if (!limits) return group;
    *limits++ = 0;
    for (char *item = strtok(limits, ","); item && group.count < 8; item = strtok(NULL, ",")) {
        char *value = strchr(item, '=');
        *value++ = 0;
        group.files[group.count] = item;
        group.values[group.count++] = value;
    }
    return group;
}

static void launch(const struct group *groups, int count, int worker, int turn, uint64_t namespaces) {
    char path[512];
    int tasks[16], v2 = -1;
    for (int i = 0; i < count; i++) {
        int length = snprintf(path, sizeof path, "%s/f%d.%d", groups[i].parent, worker, turn);
        if (mkdir(path, 0755)) die(path);
        if (i == 0) {
            v2 = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        } else {
            strcpy(path + length, "/tasks");
            tasks[i] = open(path, O_WRONLY | O_CLOEXEC);
            if (tasks[i] < 0) die(path);
        }
        for (int j = 0; j < groups[i].count; j++) {
            snprintf(path + length, sizeof path - length, "/%s", groups[i].files[j]);
            put(path, groups[i].values[j]);
        }
    }
    struct clone_args args = {
        .flags = CLONE_INTO_CGROUP | namespaces, .exit_signal = SIGCHLD, .cgroup = v2};
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid < 0) die("clone3");
    if (pid == 0) {
        for (int i = 1; i < count; i++)
            if (write(tasks[i], "0", 1) < 0) _exit(1);
        char *argv[] = {"true", NULL}, *envp[] = {NULL};
        execve("/bin/true", argv, envp);
        _exit(1);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid || status != 0) die("the task");
    close(v2);
    for (int i = 0; i < count; i++) {
        if (i) close(tasks[i]);
        snprintf(path, sizeof path, "%s/f%d.%d", groups[i].parent, worker, turn);
        for (int tries = 0; rmdir(path); tries++) {
            if (errno != EBUSY || tries == 1000) die(path);
            usleep(100);
        }
    }
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc < 5 || argc > 5 + 15) return 2;
    int count = atoi(argv[1]), workers = atoi(argv[2]);
    uint64_t namespaces = atoi(argv[3]) ? CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC : 0;
    struct group groups[16];
    for (int i = 4; i < argc; i++) groups[i - 4] = parse(argv[i]);
    int64_t *each = mmap(NULL, count * sizeof *each + 1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (each == MAP_FAILED) die("mmap");
    int64_t start = now();
    int share = count / workers;
    for (int worker = 0; worker < workers; worker++) {
        if (fork() == 0) {
            for (int turn = 0; turn < share; turn++) {
                int64_t began = now();
                launch(groups, argc - 4, worker, turn, namespaces);
                each[worker * share + turn] = now() - began;
            }
            _exit(0);
        }
    }
    int status, failed = 0;
    while (wait(&status) > 0) failed |= status;
    printf("%lld\n", (long long)(now() - start));
    for (int i = 0; i < share * workers; i++) printf("%lld\n", (long long)each[i]);
    return failed != 0;
}
