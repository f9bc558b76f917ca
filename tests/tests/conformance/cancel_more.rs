//! pthread_cancel(3) in the rest of the calls that wait, and what a thread that is gone leaves to the others.

use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use crate::cancel::{join, pthread_cancel, start};
use crate::cases;
use crate::epoll::{Ep, IN};
use crate::net::{asleep, bound_udp, fill, listener, pair, sleep, take, until, wait_in};
use crate::poll::pipe;
use crate::sys::{Net, sys};
use libc::POLLIN;

cases! {
    one: [],
    net: [
        accept4, connect, send, write, sendto_is_no_wait, recvmsg, recvfrom, readv, ppoll_of_both, pselect, epoll_pwait, recvmmsg, close_with_linger,
        leaves_the_connection_to_another, leaves_the_event_to_another, leaves_the_datagram_to_another, many_in_turn, all_at_once, after_a_signal,
    ],
}

static TID: AtomicI32 = AtomicI32::new(0);

/// Which call, and on what.
struct Job {
    call: fn(i32, i32),
    a: i32,
    b: i32,
}

/// The calls, as functions that cancellation may unwind through.
mod c {
    use super::c_void;
    unsafe extern "C-unwind" {
        pub(super) fn accept4(fd: i32, addr: *mut libc::sockaddr, len: *mut libc::socklen_t, flags: i32) -> i32;
        pub(super) fn connect(fd: i32, addr: *const libc::sockaddr, len: libc::socklen_t) -> i32;
        pub(super) fn send(fd: i32, data: *const c_void, len: usize, flags: i32) -> isize;
        pub(super) fn write(fd: i32, data: *const c_void, len: usize) -> isize;
        pub(super) fn recv(fd: i32, room: *mut c_void, len: usize, flags: i32) -> isize;
        pub(super) fn recvmsg(fd: i32, m: *mut libc::msghdr, flags: i32) -> isize;
        pub(super) fn recvfrom(fd: i32, room: *mut c_void, len: usize, flags: i32, a: *mut c_void, n: *mut u32) -> isize;
        pub(super) fn recvmmsg(fd: i32, m: *mut libc::mmsghdr, n: u32, flags: i32, t: *mut libc::timespec) -> i32;
        pub(super) fn readv(fd: i32, v: *const libc::iovec, n: i32) -> isize;
        pub(super) fn ppoll(p: *mut libc::pollfd, n: libc::nfds_t, t: *const libc::timespec, m: *const libc::sigset_t) -> i32;
        pub(super) fn pselect(
            n: i32,
            r: *mut libc::fd_set,
            w: *mut libc::fd_set,
            e: *mut libc::fd_set,
            t: *const libc::timespec,
            m: *const libc::sigset_t,
        ) -> i32;
        pub(super) fn epoll_pwait(fd: i32, e: *mut libc::epoll_event, n: i32, t: i32, m: *const libc::sigset_t) -> i32;
        pub(super) fn close(fd: i32) -> i32;
    }
}

extern "C-unwind" fn run(job: *mut c_void) -> *mut c_void {
    // SAFETY: the job outlives the thread, which is joined.
    let job = unsafe { &*job.cast::<Job>() };
    TID.store(sys!(libc::gettid()).ok() as i32, Ordering::SeqCst);
    (job.call)(job.a, job.b);
    std::ptr::null_mut()
}

/// A thread that is inside `call`.
fn inside(job: &Job) -> libc::pthread_t {
    TID.store(0, Ordering::SeqCst);
    let thread = start(job, run);
    until(|| TID.load(Ordering::SeqCst) != 0);
    asleep(TID.load(Ordering::SeqCst));
    thread
}

fn cancelled(call: fn(i32, i32), a: i32, b: i32) {
    let job = Job { call, a, b };
    let thread = inside(&job);
    sys!(pthread_cancel(thread)).is(0);
    assert!(join(thread), "it returned instead");
}

fn recv_call(fd: i32, _: i32) {
    let mut room = [0u8; 8];
    // SAFETY: room for what is asked.
    unsafe { c::recv(fd, room.as_mut_ptr().cast(), 8, 0) };
}

fn talks(c: &crate::sys::Fd, s: &crate::sys::Fd) {
    c.write(b"hello").is(5);
    assert_eq!(take(s, 9), b"hello");
}

fn accept_call(fd: i32, _: i32) {
    // SAFETY: no address asked for.
    unsafe { c::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), 0) };
}

fn accept4(net: Net) {
    let (l, at) = listener(net);
    cancelled(accept_call, l.raw(), 0);
    let c = net.tcp();
    c.connect(&at).is(0);
    talks(&c, &l.accept().fd());
}

fn connect(net: Net) {
    let l = net.tcp();
    l.bind(&net.lo()).is(0);
    l.listen(0).is(0);
    let first = net.tcp();
    first.connect(&l.name()).is(0);
    wait_in(&l);
    let c = net.tcp();
    cancelled(
        |fd, to| {
            let at = std::mem::ManuallyDrop::new(crate::sys::Fd(to)).name();
            // SAFETY: a valid address.
            unsafe { c::connect(fd, at.ptr(), at.len) };
        },
        c.raw(),
        l.raw(),
    );
    c.nonblock(true).connect(&l.name()).fails(libc::EALREADY);
    let _a = l.accept().fd();
    crate::net::wait_out(&c);
}

fn send(net: Net) {
    let (c, s) = pair(net);
    let n = fill(&c);
    c.nonblock(false);
    cancelled(
        |fd, _| {
            // SAFETY: as the man page asks.
            unsafe { c::send(fd, [0u8; 9].as_ptr().cast(), 9, 0) };
        },
        c.raw(),
        0,
    );
    c.shutdown(libc::SHUT_WR).is(0);
    assert_eq!(crate::net::take_to_end(&s).len(), n);
}

fn write(net: Net) {
    let (c, s) = pair(net);
    let n = fill(&c);
    c.nonblock(false);
    cancelled(
        |fd, _| {
            // SAFETY: as the man page asks.
            unsafe { c::write(fd, [0u8; 9].as_ptr().cast(), 9) };
        },
        c.raw(),
        0,
    );
    c.shutdown(libc::SHUT_WR).is(0);
    assert_eq!(crate::net::take_to_end(&s).len(), n);
}

fn sendto_is_no_wait(net: Net) {
    // A datagram does not wait, so the call is done before anybody asks.
    let (u, at) = bound_udp(net);
    net.udp().sendto(b"x", 0, &at).is(1);
    assert_eq!(take(&u, 4), b"x");
    cancelled(recv_call, u.raw(), 0);
}

fn recvmsg(net: Net) {
    let (c, s) = pair(net);
    cancelled(
        |fd, _| {
            let mut room = [0u8; 8];
            let mut v = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: 8 };
            // SAFETY: all-zero is a valid msghdr; room for what is asked.
            unsafe {
                let mut m: libc::msghdr = std::mem::zeroed();
                m.msg_iov = &raw mut v;
                m.msg_iovlen = 1;
                c::recvmsg(fd, &raw mut m, 0);
            }
        },
        s.raw(),
        0,
    );
    talks(&c, &s);
}

fn recvfrom(net: Net) {
    let (u, at) = bound_udp(net);
    cancelled(
        |fd, _| {
            // SAFETY: as the man page asks.
            unsafe { c::recvfrom(fd, [0u8; 8].as_mut_ptr().cast(), 8, 0, std::ptr::null_mut(), std::ptr::null_mut()) };
        },
        u.raw(),
        0,
    );
    net.udp().sendto(b"x", 0, &at).is(1);
    assert_eq!(take(&u, 4), b"x");
}

fn readv(net: Net) {
    let (c, s) = pair(net);
    cancelled(
        |fd, _| {
            let mut room = [0u8; 8];
            let v = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: 8 };
            // SAFETY: room for what is asked.
            unsafe { c::readv(fd, &raw const v, 1) };
        },
        s.raw(),
        0,
    );
    talks(&c, &s);
}

fn ppoll_of_both(net: Net) {
    let (c, s) = pair(net);
    let (r, _w) = pipe();
    cancelled(
        |a, b| {
            let mut p = [a, b].map(|fd| libc::pollfd { fd, events: POLLIN, revents: 0 });
            // SAFETY: two pollfds.
            unsafe { c::ppoll(p.as_mut_ptr(), 2, std::ptr::null(), std::ptr::null()) };
        },
        s.raw(),
        r.raw(),
    );
    talks(&c, &s);
}

fn pselect(net: Net) {
    let (c, s) = pair(net);
    cancelled(
        |fd, _| {
            // SAFETY: all-zero is the empty set; the number is below FD_SETSIZE.
            unsafe {
                let mut set: libc::fd_set = std::mem::zeroed();
                libc::FD_SET(fd, &raw mut set);
                let none = std::ptr::null_mut();
                c::pselect(100, &raw mut set, none, none, std::ptr::null(), std::ptr::null());
            }
        },
        s.raw(),
        0,
    );
    talks(&c, &s);
}

fn epoll_call(fd: i32, _: i32) {
    let mut e = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: room for one.
    unsafe { c::epoll_pwait(fd, &raw mut e, 1, -1, std::ptr::null()) };
}

fn epoll_pwait(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    cancelled(epoll_call, e.0.raw(), 0);
    c.write(b"x").is(1);
    e.gives(&s, IN);
}

fn recvmmsg(net: Net) {
    let (u, at) = bound_udp(net);
    cancelled(
        |fd, _| {
            let mut room = [0u8; 8];
            let mut v = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: 8 };
            // SAFETY: all-zero is a valid mmsghdr; room for what is asked.
            unsafe {
                let mut m: libc::mmsghdr = std::mem::zeroed();
                m.msg_hdr.msg_iov = &raw mut v;
                m.msg_hdr.msg_iovlen = 1;
                c::recvmmsg(fd, &raw mut m, 1, 0, std::ptr::null_mut());
            }
        },
        u.raw(),
        0,
    );
    net.udp().sendto(b"x", 0, &at).is(1);
    assert_eq!(take(&u, 4), b"x");
}

fn close_with_linger(net: Net) {
    // close(2) is a cancellation point only before it begins: the descriptor is gone, or was never closed.
    let (c, s) = pair(net);
    let fd = c.raw();
    let job = Job {
        call: |fd, _| {
            // SAFETY: as the man page asks.
            unsafe { c::close(fd) };
        },
        a: fd,
        b: 0,
    };
    let thread = start(&job, run);
    sys!(pthread_cancel(thread)).is(0);
    let gone = !join(thread);
    if gone {
        c.take();
        assert_eq!(take(&s, 4), b"");
    }
}

fn leaves_the_connection_to_another(net: Net) {
    let (l, at) = listener(net);
    for _ in 0..3 {
        let job = Job { call: accept_call, a: l.raw(), b: 0 };
        let thread = inside(&job);
        thread::scope(|scope| {
            let other = scope.spawn(|| l.accept().fd());
            sleep(20);
            sys!(pthread_cancel(thread)).is(0);
            assert!(join(thread));
            let c = net.tcp();
            c.connect(&at).is(0);
            talks(&c, &other.join().expect("acceptor"));
        });
    }
}

fn leaves_the_event_to_another(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    for _ in 0..3 {
        let job = Job { call: epoll_call, a: e.0.raw(), b: 0 };
        let thread = inside(&job);
        thread::scope(|scope| {
            let other = scope.spawn(|| e.gives(&s, IN));
            sleep(20);
            sys!(pthread_cancel(thread)).is(0);
            assert!(join(thread));
            c.write(b"x").is(1);
            other.join().expect("waiter");
            assert_eq!(take(&s, 4), b"x");
        });
    }
}

fn leaves_the_datagram_to_another(net: Net) {
    let (u, at) = bound_udp(net);
    for _ in 0..3 {
        let job = Job { call: recv_call, a: u.raw(), b: 0 };
        let thread = inside(&job);
        thread::scope(|scope| {
            let other = scope.spawn(|| take(&u, 4));
            sleep(20);
            sys!(pthread_cancel(thread)).is(0);
            assert!(join(thread));
            net.udp().sendto(b"x", 0, &at).is(1);
            assert_eq!(other.join().expect("reader"), b"x");
        });
    }
}

fn many_in_turn(net: Net) {
    let (c, s) = pair(net);
    let job = Job { call: recv_call, a: s.raw(), b: 0 };
    for _ in 0..200 {
        let thread = start(&job, run);
        sys!(pthread_cancel(thread)).is(0);
        join(thread);
    }
    talks(&c, &s);
}

fn all_at_once(net: Net) {
    let (c, s) = pair(net);
    let job = Job { call: recv_call, a: s.raw(), b: 0 };
    let threads: Vec<_> = (0..16).map(|_| inside(&job)).collect();
    for &t in &threads {
        sys!(pthread_cancel(t)).is(0);
    }
    assert!(threads.into_iter().all(join));
    talks(&c, &s);
}

extern "C" fn nothing(_: i32) {}

fn after_a_signal(net: Net) {
    // Restarted after a handler, and cancelled then.
    let (c, s) = pair(net);
    // SAFETY: all-zero is a valid sigaction.
    unsafe {
        let mut act: libc::sigaction = std::mem::zeroed();
        act.sa_sigaction = nothing as *const () as usize;
        act.sa_flags = libc::SA_RESTART;
        sys!(libc::sigaction(libc::SIGUSR1, &act, std::ptr::null_mut())).is(0);
    }
    let job = Job { call: recv_call, a: s.raw(), b: 0 };
    let thread = inside(&job);
    for _ in 0..5 {
        sys!(libc::pthread_kill(thread, libc::SIGUSR1)).is(0);
        sleep(5);
    }
    sys!(pthread_cancel(thread)).is(0);
    assert!(join(thread));
    talks(&c, &s);
}
