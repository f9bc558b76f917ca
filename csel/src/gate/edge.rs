//! Edges: has anything happened behind a kernel epoll descriptor, though nothing may be left of it?
//!
//! # Theory of operation
//! **Purpose.** An edge-triggered interest in a nested epoll descriptor is reported if something has happened in there *and* there is something in
//! there now; with two halves of a set, one may have the edge and the other the level. The kernel forgets an edge whose level it does not find.
//! **How it works.** A *watch* is two epoll descriptors: one around the nested descriptor and around something that is always readable, and one, edge-
//! triggered, around that. The level of the first never goes, so what the second reports is an edge and nothing else.
//! **Limits.** Two more levels of nesting, of which the kernel allows five. **Locks.** None. **Failure.** An errno. **See also.** epoll(7).
use crate::errno::Result;
use crate::gate;
use libc::epoll_event;

/// Something that is always readable.
pub fn always() -> Result<i32> {
    // SAFETY: plain numbers.
    unsafe { gate::syscall(libc::SYS_eventfd2, [1, (libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) as usize, 0, 0, 0, 0]) }.map(|fd| fd as i32)
}

fn set() -> Result<i32> {
    // SAFETY: plain numbers.
    unsafe { gate::syscall(libc::SYS_epoll_create1, [libc::EPOLL_CLOEXEC as usize, 0, 0, 0, 0, 0]) }.map(|fd| fd as i32)
}

fn add(set: i32, fd: i32, events: i32) -> Result<usize> {
    let event = epoll_event { events: events as u32, u64: 0 };
    let a = [set as usize, libc::EPOLL_CTL_ADD as usize, fd as usize, &raw const event as usize, 0, 0];
    // SAFETY: a valid event.
    unsafe { gate::syscall(libc::SYS_epoll_ctl, a) }
}

/// A watch on `epfd`: the descriptor to ask ([`came`]), and one that must stay open with it.
pub fn watch(epfd: i32, always: i32) -> Result<(i32, i32)> {
    let inner = set()?;
    let made = set().and_then(|outer| {
        let joined = add(inner, epfd, libc::EPOLLIN)
            .and_then(|_| add(inner, always, libc::EPOLLIN))
            .and_then(|_| add(outer, inner, libc::EPOLLIN | libc::EPOLLET));
        if joined.is_err() {
            let _ = gate::close(outer);
        }
        joined.map(|_| outer)
    });
    match made {
        Ok(outer) => {
            // What there was before is no news.
            came(outer);
            Ok((outer, inner))
        }
        Err(e) => {
            let _ = gate::close(inner);
            Err(e)
        }
    }
}

/// Has anything happened since this was last asked?
pub fn came(watch: i32) -> bool {
    let mut event = epoll_event { events: 0, u64: 0 };
    // SAFETY: room for one event.
    let n = unsafe { gate::syscall(libc::SYS_epoll_pwait, [watch as usize, &raw mut event as usize, 1, 0, 0, 8]) };
    n == Ok(1)
}

/// poll(2): is it readable now?
pub fn is_readable(fd: i32) -> bool {
    let mut p = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: one pollfd and a timeout that live; no mask.
    let n = unsafe { gate::syscall(libc::SYS_ppoll, [&raw mut p as usize, 1, &raw const none as usize, 0, 8, 0]) };
    n == Ok(1) && p.revents & libc::POLLIN != 0
}
