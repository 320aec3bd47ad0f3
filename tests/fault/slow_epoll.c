/* Preloaded: whoever takes a descriptor out of an epoll set is slow about it, the loops more than the main thread.
 * Widens a race at the server's stop that is otherwise met once in 60. SPDX-License-Identifier: Apache-2.0 */
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

int epoll_ctl(int set, int what, int fd, struct epoll_event *event)
{
    if (what == EPOLL_CTL_DEL)
        usleep(gettid() != getpid() ? 40000 : 10000);
    return (int)syscall(SYS_epoll_ctl, set, what, fd, event);
}
