/* Makes the n-th call to the operating system that touches a file below given folders fail once.
 *
 * Loaded with LD_PRELOAD by alexnet_lab/faults/calls.py, which arms and reads it through the functions at the end.
 * A failing close closes the file first, as Linux does. Calls that the C library makes inside itself (the buffers
 * of stdio) do not pass here, except fwrite and fflush, which are wrapped too.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define FOLDERS 8

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static char folders[FOLDERS][PATH_MAX];
static int folder_count, armed, wanted_errno;
static long wanted, count;
static char failed_call[64];

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) {
        static const char message[] = "failing_calls: the C library lacks a function\n";
        ssize_t ignored = ((ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(2, message, sizeof message - 1);
        (void)ignored;
        abort();
    }
    return found;
}

static int is_below(const char *path)
{
    for (int i = 0; i < folder_count; i++) {
        size_t length = strlen(folders[i]);
        if (!strncmp(path, folders[i], length) && (path[length] == '/' || !path[length]))
            return 1;
    }
    return 0;
}

/* Counts a call on an absolute path; returns 1, and sets errno, if this is the one that fails. */
static int fails_on(const char *name, const char *path)
{
    int fails = 0;
    if (!armed || !is_below(path))
        return 0;
    pthread_mutex_lock(&guard);
    count++;
    if (count == wanted) {
        snprintf(failed_call, sizeof failed_call, "%s", name);
        fails = 1;
    }
    pthread_mutex_unlock(&guard);
    if (fails)
        errno = wanted_errno;
    return fails;
}

static int fails(const char *name, int handle)
{
    char link[64], path[PATH_MAX];
    if (!armed || handle < 0)
        return 0;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length <= 0)
        return 0;
    path[length] = 0;
    return fails_on(name, path);
}

/* The same for a path, which may be relative to a folder that is open as handle. */
static int fails_at(const char *name, int handle, const char *path)
{
    char folder[PATH_MAX], whole[2 * PATH_MAX + 2], link[64];
    if (!armed || !path)
        return 0;
    if (path[0] == '/')
        return fails_on(name, path);
    int before = errno;
    if (handle == AT_FDCWD) {
        if (!getcwd(folder, sizeof folder))
            return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
        ssize_t length = readlink(link, folder, sizeof folder - 1);
        if (length <= 0)
            return 0;
        folder[length] = 0;
    }
    errno = before;
    snprintf(whole, sizeof whole, "%s/%s", folder, path);
    return fails_on(name, whole);
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = (flags & (O_CREAT | __O_TMPFILE)) ? va_arg(rest, mode_t) : 0;                                    \
        va_end(rest);                                                                                                  \
        return fails_at(#name, AT_FDCWD, path) ? -1 : REAL(name)(path, flags, mode);                                   \
    }
#define OPENAT(name)                                                                                                   \
    int name(int handle, const char *path, int flags, ...)                                                             \
    {                                                                                                                  \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = (flags & (O_CREAT | __O_TMPFILE)) ? va_arg(rest, mode_t) : 0;                                    \
        va_end(rest);                                                                                                  \
        return fails_at(#name, handle, path) ? -1 : REAL(name)(handle, path, flags, mode);                             \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

#define ON_HANDLE(type, name, error, parameters, values, handle)                                                       \
    type name parameters { return fails(#name, handle) ? error : REAL(name) values; }

ON_HANDLE(ssize_t, write, -1, (int f, const void *data, size_t n), (f, data, n), f)
ON_HANDLE(ssize_t, pwrite, -1, (int f, const void *data, size_t n, off_t at), (f, data, n, at), f)
ON_HANDLE(ssize_t, pwrite64, -1, (int f, const void *data, size_t n, off64_t at), (f, data, n, at), f)
ON_HANDLE(ssize_t, writev, -1, (int f, const struct iovec *parts, int n), (f, parts, n), f)
ON_HANDLE(ssize_t, pwritev, -1, (int f, const struct iovec *parts, int n, off_t at), (f, parts, n, at), f)
ON_HANDLE(ssize_t, pwritev64, -1, (int f, const struct iovec *parts, int n, off64_t at), (f, parts, n, at), f)
ON_HANDLE(int, fsync, -1, (int f), (f), f)
ON_HANDLE(int, fdatasync, -1, (int f), (f), f)
ON_HANDLE(int, ftruncate, -1, (int f, off_t size), (f, size), f)
ON_HANDLE(int, ftruncate64, -1, (int f, off64_t size), (f, size), f)
ON_HANDLE(int, fallocate, -1, (int f, int mode, off_t at, off_t size), (f, mode, at, size), f)
ON_HANDLE(int, fallocate64, -1, (int f, int mode, off64_t at, off64_t size), (f, mode, at, size), f)
ON_HANDLE(int, posix_fallocate, wanted_errno, (int f, off_t at, off_t size), (f, at, size), f)
ON_HANDLE(int, posix_fallocate64, wanted_errno, (int f, off64_t at, off64_t size), (f, at, size), f)
ON_HANDLE(void *, mmap, MAP_FAILED, (void *at, size_t n, int protection, int flags, int f, off_t from),
          (at, n, protection, flags, f, from), f)
ON_HANDLE(void *, mmap64, MAP_FAILED, (void *at, size_t n, int protection, int flags, int f, off64_t from),
          (at, n, protection, flags, f, from), f)
ON_HANDLE(size_t, fwrite, 0, (const void *data, size_t size, size_t n, FILE *f), (data, size, n, f), fileno(f))

int fflush(FILE *file)
{
    return file && fails("fflush", fileno(file)) ? EOF : REAL(fflush)(file);
}

int close(int handle)
{
    int broken = fails("close", handle), status = REAL(close)(handle);
    if (!broken)
        return status;
    errno = wanted_errno;
    return -1;
}

int rename(const char *from, const char *to)
{
    return fails_at("rename", AT_FDCWD, to) ? -1 : REAL(rename)(from, to);
}

int renameat(int a, const char *from, int b, const char *to)
{
    return fails_at("renameat", b, to) ? -1 : REAL(renameat)(a, from, b, to);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned int flags)
{
    return fails_at("renameat2", b, to) ? -1 : REAL(renameat2)(a, from, b, to, flags);
}

int mkdir(const char *path, mode_t mode)
{
    return fails_at("mkdir", AT_FDCWD, path) ? -1 : REAL(mkdir)(path, mode);
}

int mkdirat(int handle, const char *path, mode_t mode)
{
    return fails_at("mkdirat", handle, path) ? -1 : REAL(mkdirat)(handle, path, mode);
}

/* Count from 0; the call number nth (none if 0) fails with error. paths: absolute folders, separated by ':'. */
void failing_calls_arm(long nth, int error, const char *paths)
{
    armed = 0;
    folder_count = 0;
    count = 0;
    failed_call[0] = 0;
    wanted = nth;
    wanted_errno = error;
    while (*paths && folder_count < FOLDERS) {
        size_t length = strcspn(paths, ":");
        snprintf(folders[folder_count++], PATH_MAX, "%.*s", (int)length, paths);
        paths += length + (paths[length] == ':');
    }
    armed = 1;
}

/* Stop counting; returns the number of calls. */
long failing_calls_disarm(void)
{
    armed = 0;
    return count;
}

/* The name of the call that failed, "" if there were fewer calls. */
const char *failing_calls_failed(void) { return failed_call; }
