//! pthread_cancel(3) of a thread that waits on a socket: it ends there, and the socket stays usable.
//!
//! The cancelled threads are C threads with nothing to drop: unwinding through Rust frames of ours is not what is tested.

use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::cases;
use crate::epoll::{Ep, IN};
use crate::net::{bound_udp, listener, pair, sleep, take, until};
use crate::sys::{Net, sys};

cases! {
    one: [deferred_until_enabled],
    net: [recv, read, accept, poll, select, epoll_wait, recvfrom_udp, pending_cancel_hits_at_once, connection_survives],
}

static STARTED: AtomicI32 = AtomicI32::new(0);

/// What a thread does: 0 recv, 1 read, 2 accept, 3 poll, 4 select, 5 epoll_wait, 6 sleep then recv.
struct Job {
    what: i32,
    fd: i32,
}

extern "C-unwind" fn run(job: *mut c_void) -> *mut c_void {
    // SAFETY: the job outlives the thread, which is joined; the calls get room of their own.
    unsafe {
        let job = &*job.cast::<Job>();
        let mut room = [0u8; 16];
        STARTED.store(1, Ordering::SeqCst);
        match job.what {
            0 => {
                unwinding::recv(job.fd, room.as_mut_ptr().cast(), 16, 0);
            }
            1 => {
                unwinding::read(job.fd, room.as_mut_ptr().cast(), 16);
            }
            2 => {
                unwinding::accept(job.fd, std::ptr::null_mut(), std::ptr::null_mut());
            }
            3 => {
                let mut p = libc::pollfd { fd: job.fd, events: libc::POLLIN, revents: 0 };
                unwinding::poll(&raw mut p, 1, -1);
            }
            4 => {
                let mut set: libc::fd_set = std::mem::zeroed();
                libc::FD_SET(job.fd, &raw mut set);
                unwinding::select(job.fd + 1, &raw mut set, std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
            }
            5 => {
                let mut e = libc::epoll_event { events: 0, u64: 0 };
                unwinding::epoll_wait(job.fd, &raw mut e, 1, -1);
            }
            _ => {
                // Spins until told, with no cancellation point on the way.
                while STARTED.load(Ordering::SeqCst) != 2 {
                    std::hint::spin_loop();
                }
                unwinding::recv(job.fd, room.as_mut_ptr().cast(), 16, 0);
            }
        }
    }
    std::ptr::null_mut()
}

/// Calls that a cancelled thread does not return from: unwinding has to be allowed to pass.
mod unwinding {
    use super::c_void;
    unsafe extern "C-unwind" {
        pub(super) fn recv(fd: i32, room: *mut c_void, len: usize, flags: i32) -> isize;
        pub(super) fn read(fd: i32, room: *mut c_void, len: usize) -> isize;
        pub(super) fn accept(fd: i32, addr: *mut libc::sockaddr, len: *mut libc::socklen_t) -> i32;
        pub(super) fn poll(fds: *mut libc::pollfd, n: libc::nfds_t, timeout: i32) -> i32;
        pub(super) fn select(n: i32, r: *mut libc::fd_set, w: *mut libc::fd_set, e: *mut libc::fd_set, t: *mut libc::timeval) -> i32;
        pub(super) fn epoll_wait(fd: i32, events: *mut libc::epoll_event, max: i32, timeout: i32) -> i32;
    }
}

unsafe extern "C" {
    pub(crate) fn pthread_cancel(thread: libc::pthread_t) -> i32;
    fn pthread_setcancelstate(state: i32, old: *mut i32) -> i32;
}

type Start = extern "C" fn(*mut c_void) -> *mut c_void;

pub(crate) fn start<J>(job: &J, f: extern "C-unwind" fn(*mut c_void) -> *mut c_void) -> libc::pthread_t {
    let mut thread = 0;
    // SAFETY: the two function types differ in what unwinding does only, and C calls both alike.
    let f = unsafe { std::mem::transmute::<extern "C-unwind" fn(*mut c_void) -> *mut c_void, Start>(f) };
    sys!(libc::pthread_create(&raw mut thread, std::ptr::null(), f, std::ptr::from_ref(job).cast_mut().cast())).is(0);
    thread
}

/// Waits for the thread; whether it was cancelled (PTHREAD_CANCELED is -1).
pub(crate) fn join(thread: libc::pthread_t) -> bool {
    let mut result = std::ptr::null_mut();
    sys!(libc::pthread_join(thread, &raw mut result)).is(0);
    result.addr() == usize::MAX
}

fn cancelled(what: i32, fd: i32) {
    let job = Job { what, fd };
    let thread = start(&job, run);
    until(|| STARTED.load(Ordering::SeqCst) != 0);
    sleep(50);
    sys!(pthread_cancel(thread)).is(0);
    assert!(join(thread), "it returned instead");
}

fn recv(net: Net) {
    let (_c, s) = pair(net);
    cancelled(0, s.raw());
}

fn read(net: Net) {
    let (_c, s) = pair(net);
    cancelled(1, s.raw());
}

fn accept(net: Net) {
    let (l, at) = listener(net);
    cancelled(2, l.raw());
    let c = net.tcp();
    c.connect(&at).is(0);
    let _s = l.accept().fd();
}

fn poll(net: Net) {
    let (_c, s) = pair(net);
    cancelled(3, s.raw());
}

fn select(net: Net) {
    let (_c, s) = pair(net);
    cancelled(4, s.raw());
}

fn epoll_wait(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    cancelled(5, e.0.raw());
    c.write(b"x").is(1);
    e.gives(&s, IN);
}

fn recvfrom_udp(net: Net) {
    let (u, _) = bound_udp(net);
    cancelled(0, u.raw());
}

fn connection_survives(net: Net) {
    let (c, s) = pair(net);
    for _ in 0..3 {
        STARTED.store(0, Ordering::SeqCst);
        cancelled(0, s.raw());
        c.write(b"after").is(5);
        assert_eq!(take(&s, 16), b"after");
    }
}

fn pending_cancel_hits_at_once(net: Net) {
    let (c, s) = pair(net);
    // Asked for before the call: the call is a cancellation point even if it would not have to wait.
    c.write(b"kept").is(4);
    crate::net::wait_in(&s);
    let job = Job { what: 6, fd: s.raw() };
    let thread = start(&job, run);
    until(|| STARTED.load(Ordering::SeqCst) == 1);
    sys!(pthread_cancel(thread)).is(0);
    STARTED.store(2, Ordering::SeqCst);
    assert!(join(thread));
    assert_eq!(take(&s, 16), b"kept");
}

extern "C-unwind" fn disabled(job: *mut c_void) -> *mut c_void {
    // SAFETY: as in run.
    unsafe {
        let job = &*job.cast::<Job>();
        let mut room = [0u8; 16];
        pthread_setcancelstate(1, std::ptr::null_mut());
        STARTED.store(1, Ordering::SeqCst);
        let n = unwinding::recv(job.fd, room.as_mut_ptr().cast(), 16, 0);
        std::ptr::without_provenance_mut(n as usize)
    }
}

fn deferred_until_enabled() {
    let (c, s) = pair(Net::V4);
    let job = Job { what: 0, fd: s.raw() };
    let thread = start(&job, disabled);
    until(|| STARTED.load(Ordering::SeqCst) == 1);
    sleep(40);
    sys!(pthread_cancel(thread)).is(0);
    sleep(40);
    c.write(b"abc").is(3);
    let mut result = std::ptr::null_mut();
    sys!(libc::pthread_join(thread, &raw mut result)).is(0);
    assert_eq!(result.addr(), 3, "with cancellation off the call goes on");
}
