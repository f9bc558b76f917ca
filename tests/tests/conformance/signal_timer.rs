//! Timers, children and handlers of every kind around calls that wait: EINTR, SA_RESTART, and what a handler may do.

use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use crate::cases;
use crate::epoll::{Ep, IN};
use crate::net::{LIMIT, asleep, bound_udp, fill, listener, pair, sleep, take, udp_pair, until, wait_in};
use crate::poll::pipe;
use crate::sys::{Fd, Net, R, sys};
use libc::{EAGAIN, EINTR, POLLIN, SA_RESTART, SIGALRM, SIGCHLD, SIGUSR2, SO_RCVTIMEO, SOL_SOCKET};

cases! {
    one: [],
    net: [
        alarm_interrupts, itimer_interrupts_each, itimer_with_restart, timer_create_signal, timer_of_a_thread, timerfd_is_not_a_signal, sigchld_default_is_nothing,
        sigchld_interrupts, sigchld_restarts, sigchld_ignored, recvmsg_interrupted, recvmmsg_interrupted, sendmsg_restarts, connect_with_timeout_interrupted,
        readv_restarts, poll_of_both_interrupted, poll_timeout_after_restart,
    ],
}

pub(crate) static HITS: AtomicI32 = AtomicI32::new(0);
pub(crate) static SEEN: [AtomicI32; 8] = [const { AtomicI32::new(-1) }; 8];

pub(crate) type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

pub(crate) fn hits() -> i32 {
    HITS.load(Ordering::SeqCst)
}

pub(crate) extern "C" fn count(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    HITS.fetch_add(1, Ordering::SeqCst);
}

pub(crate) fn install(signal: i32, handler: Handler, flags: i32, mask: &[i32]) {
    // SAFETY: all-zero is a valid sigaction; the handlers here do what a handler may.
    unsafe {
        let mut act: libc::sigaction = std::mem::zeroed();
        act.sa_sigaction = handler as *const () as usize;
        act.sa_flags = flags | libc::SA_SIGINFO;
        for &m in mask {
            libc::sigaddset(&raw mut act.sa_mask, m);
        }
        sys!(libc::sigaction(signal, &act, std::ptr::null_mut())).is(0);
    }
}

pub(crate) fn handle(signal: i32, flags: i32) {
    install(signal, count, flags, &[]);
}

pub(crate) fn me() -> i32 {
    sys!(libc::gettid()).ok() as i32
}

pub(crate) fn kill(tid: i32, signal: i32) {
    let _ = sys!(libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal));
}

pub(crate) fn recv(s: &Fd) -> R {
    s.recv(&mut [0; 16], 0)
}

/// SIGALRM every so often, from now on; 0: no more.
fn every(ms: i64) {
    let t = libc::timeval { tv_sec: 0, tv_usec: ms * 1000 };
    let it = libc::itimerval { it_interval: t, it_value: t };
    sys!(libc::setitimer(libc::ITIMER_REAL, &raw const it, std::ptr::null_mut())).is(0);
}

/// Runs `f` on this thread while another one does `then` a moment later.
pub(crate) fn meanwhile(f: impl FnOnce(), then: impl FnOnce() + Send) {
    let tid = me();
    thread::scope(|scope| {
        scope.spawn(|| {
            asleep(tid);
            then();
        });
        f();
    });
}

/// Keeps signals of a process from the helper threads: those that are made later.
pub(crate) fn keep_here(signal: i32) -> impl Drop {
    struct Back(libc::sigset_t);
    impl Drop for Back {
        fn drop(&mut self) {
            sys!(libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut())).is(0);
        }
    }
    // SAFETY: both sets are ours.
    unsafe {
        let (mut set, mut old) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigaddset(&raw mut set, signal);
        sys!(libc::pthread_sigmask(libc::SIG_BLOCK, &set, &raw mut old)).is(0);
        Back(old)
    }
}

extern "C" fn alarms_again(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    HITS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: a call that a handler may make.
    unsafe { libc::alarm(1) };
}

fn alarm_interrupts(net: Net) {
    let (_c, s) = pair(net);
    install(SIGALRM, alarms_again, 0, &[]);
    sys!(libc::alarm(1)).is(0);
    recv(&s).fails(EINTR);
    assert!(hits() > 0);
    sys!(libc::alarm(0)).ok();
}

fn itimer_interrupts_each(net: Net) {
    let (c, s) = pair(net);
    let (l, _) = listener(net);
    let (u, _) = bound_udp(net);
    let e = Ep::new();
    e.add(&s, IN);
    fill(&c);
    c.nonblock(false);
    let (d, t) = pair(net);
    handle(SIGALRM, 0);
    every(20);
    recv(&t).fails(EINTR);
    recv(&u).fails(EINTR);
    l.accept().fails(EINTR);
    c.send(&[0; 9], 0).fails(EINTR);
    let mut p = libc::pollfd { fd: t.raw(), events: POLLIN, revents: 0 };
    sys!(libc::poll(&raw mut p, 1, -1)).fails(EINTR);
    let mut one = libc::epoll_event { events: 0, u64: 0 };
    e.del(&s);
    sys!(libc::epoll_wait(e.0.raw(), &raw mut one, 1, -1)).fails(EINTR);
    every(0);
    d.write(b"x").is(1);
    assert_eq!(take(&t, 4), b"x");
}

fn itimer_with_restart(net: Net) {
    let (c, s) = pair(net);
    handle(SIGALRM, SA_RESTART);
    {
        let blocked = keep_here(SIGALRM);
        thread::scope(|scope| {
            scope.spawn(|| {
                until(|| hits() >= 5);
                c.write(b"x").is(1);
            });
            drop(blocked);
            every(5);
            recv(&s).is(1);
            every(0);
        });
    }
    assert!(hits() >= 5);
}

#[repr(C)]
struct Sigevent {
    value: usize,
    signo: i32,
    notify: i32,
    tid: i32,
    rest: [i32; 11],
}

/// timer_create(2): `signal` every 30 ms, to the thread `tid` if that is not 0.
fn timer(signal: i32, tid: i32) {
    let ev = Sigevent { value: 42, signo: signal, notify: if tid == 0 { 0 } else { 4 }, tid, rest: [0; 11] };
    let mut id = 0i32;
    sys!(libc::syscall(libc::SYS_timer_create, libc::CLOCK_MONOTONIC, &raw const ev, &raw mut id)).is(0);
    let often = libc::timespec { tv_sec: 0, tv_nsec: 30_000_000 };
    let it = libc::itimerspec { it_interval: often, it_value: often };
    sys!(libc::syscall(libc::SYS_timer_settime, id, 0, &raw const it, 0)).is(0);
}

pub(crate) extern "C" fn note_value(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let n = HITS.load(Ordering::SeqCst) as usize;
    // SAFETY: the kernel's siginfo: si_value lies at 24.
    let value = unsafe { info.cast::<i32>().add(6).read() };
    SEEN[n.min(7)].store(value, Ordering::SeqCst);
    HITS.fetch_add(1, Ordering::SeqCst);
}

fn timer_create_signal(net: Net) {
    let (_c, s) = pair(net);
    let sig = libc::SIGRTMIN() + 4;
    install(sig, note_value, 0, &[]);
    timer(sig, 0);
    recv(&s).fails(EINTR);
    assert_eq!(SEEN[0].load(Ordering::SeqCst), 42);
}

fn timer_of_a_thread(net: Net) {
    let (c, s) = pair(net);
    let (_d, t) = pair(net);
    handle(SIGUSR2, 0);
    thread::scope(|scope| {
        let other = scope.spawn(|| recv(&s));
        timer(SIGUSR2, me());
        recv(&t).fails(EINTR);
        c.write(b"abc").is(3);
        other.join().expect("reader").is(3);
    });
}

fn timerfd_is_not_a_signal(net: Net) {
    let (c, s) = pair(net);
    let t = sys!(libc::timerfd_create(libc::CLOCK_MONOTONIC, 0)).fd();
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let it = libc::itimerspec { it_interval: zero, it_value: libc::timespec { tv_sec: 0, tv_nsec: 10_000_000 } };
    sys!(libc::timerfd_settime(t.raw(), 0, &raw const it, std::ptr::null_mut())).is(0);
    meanwhile(|| recv(&s).is(1), || c.write(b"x").is(1));
    assert_eq!(t.poll(POLLIN, LIMIT), POLLIN);
}

/// A child that ends when this thread sleeps.
fn child() -> i32 {
    let tid = me();
    let pid = sys!(libc::fork()).ok() as i32;
    if pid == 0 {
        asleep(tid);
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    pid
}

fn reap(pid: i32) {
    sys!(libc::waitpid(pid, std::ptr::null_mut(), 0)).is(pid as isize);
}

fn sigchld_default_is_nothing(net: Net) {
    let (c, s) = pair(net);
    sys!(libc::signal(SIGCHLD, libc::SIG_DFL)).ok();
    let pid = child();
    thread::scope(|scope| {
        scope.spawn(|| {
            reap(pid);
            sleep(20);
            c.write(b"x").is(1);
        });
        recv(&s).is(1);
    });
}

fn sigchld_interrupts(net: Net) {
    let (_c, s) = pair(net);
    handle(SIGCHLD, 0);
    let pid = child();
    recv(&s).fails(EINTR);
    reap(pid);
    assert_eq!(hits(), 1);
    // One SIGCHLD for one child: nobody else's end is told.
    sleep(100);
    assert_eq!(hits(), 1);
}

fn sigchld_restarts(net: Net) {
    let (c, s) = pair(net);
    handle(SIGCHLD, SA_RESTART);
    let blocked = keep_here(SIGCHLD);
    let pid = child();
    thread::scope(|scope| {
        scope.spawn(|| {
            until(|| hits() == 1);
            sleep(10);
            c.write(b"x").is(1);
        });
        drop(blocked);
        recv(&s).is(1);
    });
    reap(pid);
}

fn sigchld_ignored(net: Net) {
    let (c, s) = pair(net);
    sys!(libc::signal(SIGCHLD, libc::SIG_IGN)).ok();
    let pid = child();
    thread::scope(|scope| {
        scope.spawn(|| {
            // Nobody is left to be waited for.
            sys!(libc::waitpid(pid, std::ptr::null_mut(), 0)).fails(libc::ECHILD);
            c.write(b"x").is(1);
        });
        recv(&s).is(1);
    });
}

/// A msghdr with one buffer.
fn with_msg(room: &mut [u8], f: impl FnOnce(*mut libc::msghdr) -> R) -> R {
    let mut v = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    m.msg_iov = &raw mut v;
    m.msg_iovlen = 1;
    f(&raw mut m)
}

fn recvmsg_interrupted(net: Net) {
    let (_c, s) = pair(net);
    handle(SIGALRM, 0);
    every(20);
    with_msg(&mut [0; 8], |m| sys!(libc::recvmsg(s.raw(), m, 0))).fails(EINTR);
    every(0);
}

fn recvmmsg_interrupted(net: Net) {
    let (a, b) = udp_pair(net);
    handle(SIGALRM, 0);
    let mut room = [[0u8; 8]; 2];
    let mut v = room.each_mut().map(|r| libc::iovec { iov_base: r.as_mut_ptr().cast(), iov_len: 8 });
    // SAFETY: all-zero is a valid mmsghdr.
    let mut m: [libc::mmsghdr; 2] = unsafe { std::mem::zeroed() };
    for (m, v) in m.iter_mut().zip(&mut v) {
        m.msg_hdr.msg_iov = &raw mut *v;
        m.msg_hdr.msg_iovlen = 1;
    }
    every(20);
    sys!(libc::recvmmsg(b.raw(), m.as_mut_ptr(), 2, 0, std::ptr::null_mut())).fails(EINTR);
    // One has come: that is the result.
    a.write(b"one").is(3);
    wait_in(&b);
    sys!(libc::recvmmsg(b.raw(), m.as_mut_ptr(), 2, 0, std::ptr::null_mut())).is(1);
    every(0);
}

fn sendmsg_restarts(net: Net) {
    let (c, s) = pair(net);
    let full = fill(&c);
    c.nonblock(false);
    handle(SIGALRM, SA_RESTART);
    thread::scope(|scope| {
        let blocked = keep_here(SIGALRM);
        scope.spawn(|| {
            until(|| hits() >= 3);
            assert_eq!(crate::net::take_all(&s, full + 1).len(), full + 1);
        });
        drop(blocked);
        every(5);
        with_msg(&mut [7], |m| sys!(libc::sendmsg(c.raw(), m, 0))).is(1);
        every(0);
    });
}

fn connect_with_timeout_interrupted(net: Net) {
    let l = net.tcp();
    l.bind(&net.lo()).is(0);
    l.listen(0).is(0);
    let first = net.tcp();
    first.connect(&l.name()).is(0);
    wait_in(&l);
    let c = net.tcp();
    c.set(SOL_SOCKET, libc::SO_SNDTIMEO, &libc::timeval { tv_sec: 20, tv_usec: 0 }).is(0);
    handle(SIGALRM, SA_RESTART);
    every(20);
    c.connect(&l.name()).fails(EINTR);
    every(0);
}

fn readv_restarts(net: Net) {
    let (c, s) = pair(net);
    handle(SIGALRM, SA_RESTART);
    let mut room = [0u8; 8];
    let v = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: 8 };
    thread::scope(|scope| {
        let blocked = keep_here(SIGALRM);
        scope.spawn(|| {
            until(|| hits() >= 3);
            c.write(b"abc").is(3);
        });
        drop(blocked);
        every(5);
        sys!(libc::readv(s.raw(), &raw const v, 1)).is(3);
        every(0);
    });
    assert_eq!(&room[..3], b"abc");
}

fn poll_of_both_interrupted(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    handle(SIGALRM, SA_RESTART);
    let both = || [&s, &r].map(|fd| libc::pollfd { fd: fd.raw(), events: POLLIN, revents: 0 });
    for _ in 0..3 {
        every(20);
        let mut p = both();
        sys!(libc::poll(p.as_mut_ptr(), 2, -1)).fails(EINTR);
        every(0);
    }
    c.write(b"x").is(1);
    w.write(b"x").is(1);
    wait_in(&s);
    let mut p = both();
    sys!(libc::poll(p.as_mut_ptr(), 2, -1)).is(2);
}

fn poll_timeout_after_restart(net: Net) {
    // SO_RCVTIMEO and signals: never longer than it says.
    let (_c, s) = pair(net);
    s.set(SOL_SOCKET, SO_RCVTIMEO, &libc::timeval { tv_sec: 0, tv_usec: 60_000 }).is(0);
    sys!(libc::signal(SIGALRM, libc::SIG_IGN)).ok();
    every(5);
    recv(&s).fails(EAGAIN);
    every(0);
}
