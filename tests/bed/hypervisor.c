/*
 * What xenstored asks of a hypervisor, answered from files in one directory, so that the real xenstored runs on any
 * Linux: LD_PRELOAD this library and name the directory in XENNETD_BED_DIR.
 *
 *   page.<domid>    the page a domain grants to xenstored (struct xenstore_domain_interface), made when xenstored
 *                   maps it; whoever plays the domain maps it too. A domain that never speaks needs no player.
 *   evtchn.<domid>  a FIFO that the player makes: one byte for each notification from xenstored to the domain.
 *   events          a FIFO: notifications to xenstored, each an event channel's port as a native uint32.
 *   dead.<domid>    the hypervisor knows no such domain. Every other domain is alive.
 *
 * A FIFO that is full already says "look again", which is all a notification means, so a write to one never waits.
 * Ports: PORT_VIRQ is VIRQ_DOM_EXC ("some domain changed"); PORT_FIRST + domid is the domain's xenstore channel.
 *
 * Both shapes of libxenctrl are here: xc_domain_getinfo (Xen <= 4.17) and xc_domain_getinfo_single (Xen >= 4.18).
 *
 * oxenstored knows its paths from when it was built. With XENNETD_BED_RUN it gets a mount namespace of its own in which
 * that directory is /run/xenstored, and /run, /var/lib and /var/log are empty otherwise.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096
#define DOMIDS 0x7ff0 /* DOMID_FIRST_RESERVED */
#define PORT_VIRQ 1
#define PORT_FIRST 16

static void enter_own_directories(const char *run)
{
    static const char *const empty[] = { "/run", "/var/lib", "/var/log" };
    static const char *const made[] = { "/run/xenstored", "/run/xen", "/var/lib/xenstored", "/var/log/xen" };
    char path[64];
    int failed = unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
    int fd = open(run, O_PATH | O_DIRECTORY | O_CLOEXEC); /* before it is covered: it may lie in one of these */

    for (size_t each = 0; !failed && each < sizeof(empty) / sizeof(*empty); each++)
        failed = mount("tmpfs", empty[each], "tmpfs", 0, "mode=755");
    for (size_t each = 0; !failed && each < sizeof(made) / sizeof(*made); each++)
        failed = mkdir(made[each], 0755);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (failed || mount(path, "/run/xenstored", NULL, MS_BIND, NULL)) {
        perror("a mount namespace for xenstored");
        _exit(1);
    }
    close(fd);
}

/* A test that is killed must not leave its xenstored behind. */
__attribute__((constructor)) static void start(void)
{
    const char *run = getenv("XENNETD_BED_RUN");

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (run)
        enter_own_directories(run);
}

static char token; /* every handle points here: there is one hypervisor */
static int events = -1;
static void *granted[DOMIDS];

static const char *bed(char *buffer, size_t size, const char *kind, unsigned int domid)
{
    const char *dir = getenv("XENNETD_BED_DIR");

    snprintf(buffer, size, "%s/%s.%u", dir ? dir : ".", kind, domid);
    return buffer;
}

static int alive(uint32_t domid)
{
    char path[4096];

    return domid < DOMIDS && access(bed(path, sizeof(path), "dead", domid), F_OK) != 0;
}

/* libxenctrl */

void *xc_interface_open(void *logger, void *dombuild_logger, unsigned int flags)
{
    return &token;
}

int xc_interface_close(void *xch)
{
    return 0;
}

/* The head of 4.17's xc_dominfo_t; a live domain has none of its flags (dying, crashed, shutdown, ...). */
struct dominfo {
    uint32_t domid, ssidref, flags, shutdown_reason;
};

int xc_domain_getinfo(void *xch, uint32_t first_domid, unsigned int max_doms, struct dominfo *info)
{
    if (!alive(first_domid) || max_doms == 0)
        return 0;
    *info = (struct dominfo){ .domid = first_domid };
    return 1;
}

/* The head of xen_domctl_getdomaininfo; oxenstored reads the whole of it (112 bytes in 4.17). */
struct domaininfo {
    uint16_t domid, pad;
    uint32_t flags;
    uint64_t rest[13];
};

int xc_domain_getinfolist(void *xch, uint32_t first_domid, unsigned int max_doms, struct domaininfo *info)
{
    if (!alive(first_domid) || max_doms == 0)
        return 0; /* a caller that asks for one domain looks whether it got that one */
    *info = (struct domaininfo){ .domid = first_domid };
    return 1;
}

int xc_domain_getinfo_single(void *xch, uint32_t domid, struct domaininfo *info)
{
    if (!alive(domid)) {
        errno = ESRCH;
        return -1;
    }
    if (info) {
        info->domid = domid;
        info->flags = 0;
    }
    return 0;
}

/* libxenevtchn */

void *xenevtchn_open(void *logger, unsigned int flags)
{
    const char *dir = getenv("XENNETD_BED_DIR");
    char path[4096];

    snprintf(path, sizeof(path), "%s/events", dir ? dir : ".");
    events = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    return events < 0 ? NULL : &token;
}

int xenevtchn_close(void *xce)
{
    return 0;
}

int xenevtchn_fd(void *xce)
{
    return events;
}

int xenevtchn_bind_virq(void *xce, unsigned int virq)
{
    return PORT_VIRQ;
}

int xenevtchn_bind_interdomain(void *xce, uint32_t domid, uint32_t remote_port)
{
    return PORT_FIRST + domid;
}

int xenevtchn_unbind(void *xce, uint32_t port)
{
    return 0;
}

int xenevtchn_notify(void *xce, uint32_t port)
{
    char path[4096];
    /* Opened each time: a thousand domains would need a thousand descriptors, and few have a player at all. */
    int fd = open(bed(path, sizeof(path), "evtchn", port - PORT_FIRST), O_WRONLY | O_NONBLOCK | O_CLOEXEC);

    if (fd >= 0) {
        if (write(fd, "!", 1) < 0 && errno != EAGAIN)
            perror(path);
        close(fd);
    }
    return 0;
}

int xenevtchn_pending(void *xce)
{
    uint32_t port;

    return read(events, &port, sizeof(port)) == sizeof(port) ? (int)port : -1;
}

int xenevtchn_unmask(void *xce, uint32_t port)
{
    return 0;
}

/* libxengnttab */

void *xengnttab_open(void *logger, unsigned int flags)
{
    return &token;
}

int xengnttab_close(void *xgt)
{
    return 0;
}

int xengnttab_set_max_grants(void *xgt, uint32_t count)
{
    return 0;
}

void *xengnttab_map_grant_ref(void *xgt, uint32_t domid, uint32_t ref, int prot)
{
    char path[4096];
    void *page;
    int fd;

    if (!alive(domid)) {
        errno = ESRCH;
        return NULL;
    }
    fd = open(bed(path, sizeof(path), "page", domid), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return NULL;
    page = ftruncate(fd, PAGE) ? MAP_FAILED : mmap(NULL, PAGE, prot, MAP_SHARED, fd, 0);
    close(fd);
    if (page == MAP_FAILED)
        return NULL;
    return granted[domid] = page;
}

/* oxenstored maps a domain's page by its frame number, and unmaps it with munmap itself. */
void *xc_map_foreign_range(void *xch, uint32_t domid, int size, int prot, unsigned long mfn)
{
    return xengnttab_map_grant_ref(NULL, domid, mfn, prot);
}

/* A page is unmapped when its domain is gone for good; the next domain with this number gets a fresh one. */
int munmap(void *page, size_t length)
{
    char path[4096];

    for (unsigned int domid = 0; page && domid < DOMIDS; domid++)
        if (granted[domid] == page) {
            granted[domid] = NULL;
            unlink(bed(path, sizeof(path), "page", domid));
        }
    return syscall(SYS_munmap, page, length);
}

int xengnttab_unmap(void *xgt, void *page, uint32_t count)
{
    return munmap(page, PAGE);
}

/* /proc/xen/xsd_kva (dom0's own page) and /proc/xen/xsd_port (its channel) */

static int memory(const void *content, size_t size, off_t length)
{
    int fd = memfd_create("xen", MFD_CLOEXEC);

    if (fd >= 0 && (ftruncate(fd, length) || pwrite(fd, content, size, 0) != (ssize_t)size)) {
        close(fd);
        return -1;
    }
    return fd;
}

int open(const char *path, int flags, ...)
{
    mode_t mode = 0;

    if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) {
        va_list arguments;

        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
    }
    if (strcmp(path, "/proc/xen/xsd_kva") == 0)
        return memory("", 0, PAGE);
    if (strcmp(path, "/proc/xen/xsd_port") == 0)
        return memory("1", 1, 1);
    return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

/* oxenstored wants more open files than a container may allow it; here it needs few. */
int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    return 0;
}
