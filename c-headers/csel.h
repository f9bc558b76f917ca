/*
 * csel.h: what a program may ask libcsel.so about itself.
 *
 * libcsel.so gives the application that holds it (by LD_PRELOAD, by `csel run`, or linked with -lcsel) a TCP/IP stack of its own:
 * socket(2), connect(2), poll(2), getaddrinfo(3) and the rest then speak of that stack, under their usual names and with their
 * usual meaning. So there is nothing here to make a socket with; these functions say where one is.
 *
 * Options are CSEL_* variables (`csel man` lists them). With none, the instance is named after the program, is on the segment
 * "default" and leases an address from 10.111.0.0/16 and one from fdc5:e1::/64.
 *
 * A program that is not linked with -lcsel and wants to know whether it runs under csel looks for csel_active by
 * dlsym(RTLD_DEFAULT, "csel_active").
 *
 * All functions may be called from any thread, set errno only where said, and keep no pointer that was passed to them.
 */
#ifndef CSEL_H
#define CSEL_H

#include <stddef.h>
#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this header: major * 10000 + minor * 100 + patch. */
#define CSEL_VERSION 100

/* The library's version, for example "0.1.0". Static: do not free it. */
const char *csel_version(void);

/*
 * Whether this process has a network of its own: 1 if it is on an instance (the first call that needs one makes it; this call
 * does too), 0 if csel is switched off (CSEL_DISABLE=1) or could not start (it has said why on standard error).
 */
int csel_active(void);

/*
 * The instance's name, ended by a zero byte, in buf. Returns its length, or -1 with errno ENOTCONN (no instance), EFAULT (buf is
 * null) or ERANGE (size is too small: 64 is always enough).
 */
int csel_name(char *buf, size_t size);

/*
 * The instance's addresses on its segment, IPv4 and IPv6, with port 0, loopback not among them: at most max of them in
 * addresses, and into prefixes (if it is not null) the lengths of their networks. Returns how many the instance has, which may be
 * more than max, or -1 with errno ENOTCONN (no instance) or EFAULT (addresses is null and max is not 0).
 */
int csel_addresses(struct sockaddr_storage *addresses, unsigned char *prefixes, size_t max);

/*
 * Calls each with a line for every libc function the library stands before: its name, its family, "full", "partial" or "pass",
 * and in words what is not as Linux has it. The line ends with a newline, not with a zero byte. `csel symbols` prints them.
 */
void csel_symbols(void (*each)(void *cookie, const unsigned char *line, size_t length), void *cookie);

#ifdef __cplusplus
}
#endif

#endif
