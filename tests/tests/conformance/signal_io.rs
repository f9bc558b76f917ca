//! Signals that sockets send (SIGPIPE, SIGIO and F_SETSIG's) and signals taken without a handler (signalfd, sigwait, sigsuspend) beside sockets.

use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use crate::cases;
use crate::epoll::{Ep, IN};
use crate::net::{LIMIT, bound_udp, listener, pair, sleep, take, udp_pair, until, wait_in};
use crate::sys::{Fd, Net, sys};
use libc::{EPIPE, F_GETOWN, F_SETFL, F_SETOWN, O_ASYNC, POLLIN, SIG_BLOCK, SIGIO, SIGPIPE, SIGUSR1};

const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const POLL_IN: i32 = 1;

cases! {
    one: [],
    net: [
        sigpipe_kills, sigpipe_handled, sigpipe_ignored, sigpipe_of_each_call, sigpipe_goes_to_the_thread, nosignal_sends_none, reset_first_then_pipe,
        no_sigpipe_for_udp, owner_is_kept, signal_is_kept, no_owner_no_signal, no_async_no_signal, sigio_of_listener, sigio_of_udp, sigio_of_connect,
        sigio_of_hang_up, signal_tells_which, several_tell_which, owner_may_be_a_thread, owner_may_be_a_group, owner_may_be_another, dup_shares_owner,
        sigwait_takes_sigio, sigsuspend_for_sigio, signalfd_beside, signalfd_tells_of_sigio, fioasync, owner_after_fork,
    ],
}

static HITS: AtomicI32 = AtomicI32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static BAND: AtomicI32 = AtomicI32::new(0);
static FDS: [AtomicI32; 4] = [const { AtomicI32::new(-1) }; 4];
static THREAD: AtomicI32 = AtomicI32::new(0);

fn hits() -> i32 {
    HITS.load(Ordering::SeqCst)
}

extern "C" fn note(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's siginfo; si_band and si_fd lie at 16 and 24 on x86-64.
    unsafe {
        CODE.store((*info).si_code, Ordering::SeqCst);
        BAND.store(info.cast::<i64>().add(2).read() as i32, Ordering::SeqCst);
        let n = HITS.load(Ordering::SeqCst) as usize;
        FDS[n.min(3)].store(info.cast::<i32>().add(6).read(), Ordering::SeqCst);
        THREAD.store(libc::gettid(), Ordering::SeqCst);
    }
    HITS.fetch_add(1, Ordering::SeqCst);
}

fn handle(signal: i32, flags: i32) {
    // SAFETY: all-zero is a valid sigaction; the handler only notes.
    unsafe {
        let mut act: libc::sigaction = std::mem::zeroed();
        act.sa_sigaction = note as *const () as usize;
        act.sa_flags = flags | libc::SA_SIGINFO;
        sys!(libc::sigaction(signal, &act, std::ptr::null_mut())).is(0);
    }
}

fn set_of(signal: i32) -> libc::sigset_t {
    // SAFETY: the set is ours.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        set
    }
}

fn mask(how: i32, signal: i32) {
    let set = set_of(signal);
    sys!(libc::pthread_sigmask(how, &set, std::ptr::null_mut())).is(0);
}

fn fcntl(fd: &Fd, cmd: i32, arg: i32) -> crate::sys::R {
    sys!(libc::fcntl(fd.raw(), cmd, arg))
}

/// Its owner gets signals from now on.
fn asynchronous(fd: &Fd, owner: i32) {
    fcntl(fd, F_SETOWN, owner).is(0);
    fcntl(fd, F_SETFL, O_ASYNC | libc::O_NONBLOCK).is(0);
}

fn me() -> i32 {
    sys!(libc::getpid()).ok() as i32
}

/// One end of a connection whose peer will not take data any more: it has answered with a reset, and that has been told.
fn broken(net: Net) -> Fd {
    let (c, s) = pair(net);
    c.shutdown(libc::SHUT_WR).is(0);
    drop(s);
    c
}

fn forked(f: impl FnOnce()) -> i32 {
    let pid = sys!(libc::fork()).ok() as i32;
    if pid == 0 {
        f();
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    sys!(libc::waitpid(pid, &raw mut status, 0)).is(pid as isize);
    status
}

fn sigpipe_kills(net: Net) {
    sys!(libc::signal(SIGPIPE, libc::SIG_DFL)).ok();
    let c = broken(net);
    let status = forked(|| {
        let _ = c.write(b"x");
    });
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == SIGPIPE, "{status:#x}");
}

fn sigpipe_handled(net: Net) {
    let c = broken(net);
    handle(SIGPIPE, libc::SA_RESTART);
    for i in 1..=3 {
        c.write(b"x").fails(EPIPE);
        assert_eq!(hits(), i);
    }
}

fn sigpipe_ignored(net: Net) {
    let c = broken(net);
    sys!(libc::signal(SIGPIPE, libc::SIG_IGN)).ok();
    c.write(b"x").fails(EPIPE);
    c.send(b"x", 0).fails(EPIPE);
}

fn sigpipe_of_each_call(net: Net) {
    let c = broken(net);
    handle(SIGPIPE, 0);
    let data = *b"x";
    let v = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: 1 };
    c.write(&data).fails(EPIPE);
    c.send(&data, 0).fails(EPIPE);
    sys!(libc::writev(c.raw(), &raw const v, 1)).fails(EPIPE);
    // SAFETY: all-zero is a valid msghdr.
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    m.msg_iov = (&raw const v).cast_mut();
    m.msg_iovlen = 1;
    sys!(libc::sendmsg(c.raw(), &raw const m, 0)).fails(EPIPE);
    assert_eq!(hits(), 4);
}

fn sigpipe_goes_to_the_thread(net: Net) {
    let c = broken(net);
    handle(SIGPIPE, 0);
    thread::scope(|scope| {
        let t = scope.spawn(|| {
            c.write(b"x").fails(EPIPE);
            sys!(libc::gettid()).ok() as i32
        });
        assert_eq!(t.join().expect("writer"), THREAD.load(Ordering::SeqCst));
    });
    assert_eq!(hits(), 1);
    // Blocked: it waits for the thread.
    mask(SIG_BLOCK, SIGPIPE);
    c.write(b"x").fails(EPIPE);
    let (set, none) = (set_of(SIGPIPE), libc::timespec { tv_sec: 0, tv_nsec: 0 });
    sys!(libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const none)).is(SIGPIPE as isize);
    sys!(libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const none)).fails(libc::EAGAIN);
}

fn nosignal_sends_none(net: Net) {
    let c = broken(net);
    handle(SIGPIPE, 0);
    c.send(b"x", libc::MSG_NOSIGNAL).fails(EPIPE);
    assert_eq!(hits(), 0);
}

fn reset_first_then_pipe(net: Net) {
    let (c, s) = pair(net);
    handle(SIGPIPE, 0);
    c.write(b"unread").is(6);
    wait_in(&s);
    drop(s);
    until(|| c.ready() & libc::POLLHUP != 0);
    c.write(b"x").fails(libc::ECONNRESET);
    assert_eq!(hits(), 0);
    c.write(b"x").fails(EPIPE);
    assert_eq!(hits(), 1);
}

fn no_sigpipe_for_udp(net: Net) {
    let (a, _b) = udp_pair(net);
    handle(SIGPIPE, 0);
    a.shutdown(libc::SHUT_WR).is(0);
    a.write(b"x").fails(EPIPE);
    assert_eq!(hits(), 0);
}

#[repr(C)]
struct Owner {
    kind: i32,
    pid: i32,
}

fn owner_is_kept(net: Net) {
    let s = net.tcp();
    fcntl(&s, F_GETOWN, 0).is(0);
    fcntl(&s, F_SETOWN, me()).is(0);
    fcntl(&s, F_GETOWN, 0).is(me() as isize);
    let mut o = Owner { kind: -1, pid: -1 };
    sys!(libc::fcntl(s.raw(), F_GETOWN_EX, &raw mut o)).is(0);
    assert_eq!((o.kind, o.pid), (1, me()));
    let o = Owner { kind: 0, pid: sys!(libc::gettid()).ok() as i32 };
    sys!(libc::fcntl(s.raw(), F_SETOWN_EX, &raw const o)).is(0);
    let mut o = Owner { kind: -1, pid: -1 };
    sys!(libc::fcntl(s.raw(), F_GETOWN_EX, &raw mut o)).is(0);
    assert_eq!((o.kind, o.pid), (0, me()));
    let bad = Owner { kind: 7, pid: me() };
    sys!(libc::fcntl(s.raw(), F_SETOWN_EX, &raw const bad)).fails(libc::EINVAL);
    fcntl(&s, F_SETOWN, 0).is(0);
    fcntl(&s, F_GETOWN, 0).is(0);
}

fn signal_is_kept(net: Net) {
    let s = net.udp();
    fcntl(&s, F_GETSIG, 0).is(0);
    fcntl(&s, F_SETSIG, libc::SIGRTMIN() + 2).is(0);
    fcntl(&s, F_GETSIG, 0).is(libc::SIGRTMIN() as isize + 2);
    fcntl(&s, F_SETSIG, 65).fails(libc::EINVAL);
    fcntl(&s, F_SETSIG, 0).is(0);
    fcntl(&s, F_GETSIG, 0).is(0);
}

fn no_owner_no_signal(net: Net) {
    let (c, s) = pair(net);
    handle(SIGIO, libc::SA_RESTART);
    fcntl(&s, F_SETFL, O_ASYNC).is(0);
    c.write(b"x").is(1);
    assert_eq!(take(&s, 4), b"x");
    sleep(20);
    assert_eq!(hits(), 0);
}

fn no_async_no_signal(net: Net) {
    let (c, s) = pair(net);
    handle(SIGIO, libc::SA_RESTART);
    asynchronous(&s, me());
    c.write(b"x").is(1);
    until(|| hits() > 0);
    let before = hits();
    fcntl(&s, F_SETFL, 0).is(0);
    c.write(b"x").is(1);
    wait_in(&s);
    sleep(20);
    assert_eq!(hits(), before);
}

fn sigio_of_listener(net: Net) {
    let (l, at) = listener(net);
    handle(SIGIO, libc::SA_RESTART);
    asynchronous(&l, me());
    let c = net.tcp();
    c.connect(&at).is(0);
    until(|| hits() > 0);
    let _s = l.accept().fd();
}

fn sigio_of_udp(net: Net) {
    let (u, at) = bound_udp(net);
    handle(SIGIO, libc::SA_RESTART);
    asynchronous(&u, me());
    for i in 1..=3 {
        net.udp().sendto(b"x", 0, &at).is(1);
        until(|| hits() >= i);
        assert_eq!(take(&u, 4), b"x");
    }
}

fn sigio_of_connect(net: Net) {
    let (_l, at) = listener(net);
    handle(SIGIO, libc::SA_RESTART);
    let c = net.tcp();
    asynchronous(&c, me());
    let _ = c.connect(&at);
    until(|| hits() > 0);
    crate::net::wait_out(&c);
}

fn sigio_of_hang_up(net: Net) {
    let (c, s) = pair(net);
    handle(SIGIO, libc::SA_RESTART);
    asynchronous(&s, me());
    drop(c);
    until(|| hits() > 0);
    assert_eq!(take(&s, 4), b"");
}

fn signal_tells_which(net: Net) {
    let (c, s) = pair(net);
    let sig = libc::SIGRTMIN() + 1;
    handle(sig, libc::SA_RESTART);
    fcntl(&s, F_SETSIG, sig).is(0);
    asynchronous(&s, me());
    c.write(b"x").is(1);
    until(|| hits() > 0);
    assert_eq!(FDS[0].load(Ordering::SeqCst), s.raw());
    assert_eq!(CODE.load(Ordering::SeqCst), POLL_IN);
    assert_ne!(BAND.load(Ordering::SeqCst) & i32::from(POLLIN), 0);
}

fn several_tell_which(net: Net) {
    // Queued, since it is a real-time signal: each tells of its own.
    let (a, b) = (pair(net), udp_pair(net));
    let sig = libc::SIGRTMIN() + 1;
    handle(sig, libc::SA_RESTART);
    for s in [&a.1, &b.1] {
        fcntl(s, F_SETSIG, sig).is(0);
        asynchronous(s, me());
    }
    mask(SIG_BLOCK, sig);
    a.0.write(b"x").is(1);
    b.0.write(b"x").is(1);
    wait_in(&a.1);
    wait_in(&b.1);
    mask(libc::SIG_UNBLOCK, sig);
    until(|| hits() >= 2);
    assert_eq!([0, 1].map(|n: usize| FDS[n].load(Ordering::SeqCst)), [a.1.raw(), b.1.raw()]);
}

fn owner_may_be_a_thread(net: Net) {
    let (c, s) = pair(net);
    handle(SIGIO, libc::SA_RESTART);
    let (tid, done) = (AtomicI32::new(0), AtomicI32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            tid.store(sys!(libc::gettid()).ok() as i32, Ordering::SeqCst);
            until(|| done.load(Ordering::SeqCst) != 0);
        });
        until(|| tid.load(Ordering::SeqCst) != 0);
        let o = Owner { kind: 0, pid: tid.load(Ordering::SeqCst) };
        sys!(libc::fcntl(s.raw(), F_SETOWN_EX, &raw const o)).is(0);
        fcntl(&s, F_SETFL, O_ASYNC).is(0);
        c.write(b"x").is(1);
        until(|| hits() > 0);
        done.store(1, Ordering::SeqCst);
    });
    assert_eq!(THREAD.load(Ordering::SeqCst), tid.load(Ordering::SeqCst));
}

fn owner_may_be_a_group(net: Net) {
    let (c, s) = pair(net);
    handle(SIGIO, libc::SA_RESTART);
    sys!(libc::setpgid(0, 0)).is(0);
    fcntl(&s, F_SETOWN, -me()).is(0);
    fcntl(&s, F_GETOWN, 0).is(-me() as isize);
    fcntl(&s, F_SETFL, O_ASYNC).is(0);
    c.write(b"x").is(1);
    until(|| hits() > 0);
}

fn owner_may_be_another(net: Net) {
    let (c, s) = pair(net);
    handle(SIGIO, 0);
    mask(SIG_BLOCK, SIGIO);
    let pid = sys!(libc::fork()).ok() as i32;
    if pid == 0 {
        let set = set_of(SIGIO);
        let limit = libc::timespec { tv_sec: 10, tv_nsec: 0 };
        // SAFETY: a set and a time; then the child ends.
        unsafe { libc::_exit(libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const limit)) };
    }
    asynchronous(&s, pid);
    c.write(b"x").is(1);
    let mut status = 0;
    sys!(libc::waitpid(pid, &raw mut status, 0)).is(pid as isize);
    assert_eq!(libc::WEXITSTATUS(status), SIGIO, "{status:#x}");
    mask(libc::SIG_UNBLOCK, SIGIO);
    assert_eq!(hits(), 0);
}

fn dup_shares_owner(net: Net) {
    let (c, s) = pair(net);
    handle(SIGIO, libc::SA_RESTART);
    let d = sys!(libc::dup(s.raw())).fd();
    asynchronous(&d, me());
    fcntl(&s, F_GETOWN, 0).is(me() as isize);
    assert_ne!(fcntl(&s, libc::F_GETFL, 0).ok() as i32 & O_ASYNC, 0);
    c.write(b"x").is(1);
    until(|| hits() > 0);
}

fn sigwait_takes_sigio(net: Net) {
    let (c, s) = pair(net);
    mask(SIG_BLOCK, SIGIO);
    asynchronous(&s, me());
    thread::scope(|scope| {
        scope.spawn(|| {
            sleep(30);
            c.write(b"x").is(1);
        });
        let set = set_of(SIGIO);
        let limit = libc::timespec { tv_sec: i64::from(LIMIT) / 1000, tv_nsec: 0 };
        sys!(libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const limit)).is(SIGIO as isize);
    });
    assert_eq!(take(&s, 4), b"x");
}

fn sigsuspend_for_sigio(net: Net) {
    let (c, s) = pair(net);
    handle(SIGIO, libc::SA_RESTART);
    mask(SIG_BLOCK, SIGIO);
    asynchronous(&s, me());
    for i in 1..=3 {
        thread::scope(|scope| {
            scope.spawn(|| {
                mask(SIG_BLOCK, SIGIO);
                sleep(20);
                c.write(b"x").is(1);
            });
            let none = {
                let mut set = set_of(SIGIO);
                // SAFETY: the set is ours.
                unsafe { libc::sigdelset(&raw mut set, SIGIO) };
                set
            };
            sys!(libc::sigsuspend(&raw const none)).fails(libc::EINTR);
        });
        assert!(hits() >= i);
        assert_eq!(take(&s, 4), b"x");
    }
}

fn signalfd(signal: i32) -> Fd {
    let set = set_of(signal);
    sys!(libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC)).fd()
}

fn signalfd_beside(net: Net) {
    let (c, s) = pair(net);
    mask(SIG_BLOCK, SIGUSR1);
    let f = signalfd(SIGUSR1);
    let e = Ep::new();
    e.add(&s, IN);
    e.add(&f, IN);
    sys!(libc::kill(me(), SIGUSR1)).is(0);
    e.gives(&f, IN);
    let mut info = [0u8; 128];
    f.read(&mut info).is(128);
    assert_eq!(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]), SIGUSR1);
    e.quiet();
    c.write(b"x").is(1);
    e.gives(&s, IN);
    // It comes while somebody waits for both.
    assert_eq!(take(&s, 4), b"x");
    thread::scope(|scope| {
        scope.spawn(|| {
            sleep(30);
            sys!(libc::kill(me(), SIGUSR1)).is(0);
        });
        let mut p = [&s, &f].map(|fd| libc::pollfd { fd: fd.raw(), events: POLLIN, revents: 0 });
        sys!(libc::poll(p.as_mut_ptr(), 2, LIMIT)).is(1);
        assert_eq!((p[0].revents, p[1].revents), (0, POLLIN));
    });
}

fn signalfd_tells_of_sigio(net: Net) {
    let (c, s) = pair(net);
    let sig = libc::SIGRTMIN() + 3;
    mask(SIG_BLOCK, sig);
    fcntl(&s, F_SETSIG, sig).is(0);
    asynchronous(&s, me());
    let f = signalfd(sig);
    c.write(b"x").is(1);
    wait_in(&f);
    let mut info = [0u8; 128];
    f.read(&mut info).is(128);
    let at = |n: usize| i32::from_ne_bytes([info[n], info[n + 1], info[n + 2], info[n + 3]]);
    // ssi_signo, ssi_fd.
    assert_eq!((at(0), at(20)), (sig, s.raw()));
}

fn fioasync(net: Net) {
    let (c, s) = pair(net);
    handle(SIGIO, libc::SA_RESTART);
    fcntl(&s, F_SETOWN, me()).is(0);
    let on = 1;
    sys!(libc::ioctl(s.raw(), libc::FIOASYNC, &raw const on)).is(0);
    assert_ne!(fcntl(&s, libc::F_GETFL, 0).ok() as i32 & O_ASYNC, 0);
    c.write(b"x").is(1);
    until(|| hits() > 0);
}

fn owner_after_fork(net: Net) {
    // The owner stays who it was, whoever has the socket.
    let (c, s) = pair(net);
    handle(SIGIO, libc::SA_RESTART);
    asynchronous(&s, me());
    let status = forked(|| {
        c.write(b"x").is(1);
        sleep(30);
        assert_eq!(hits(), 0);
    });
    assert_eq!(status, 0);
    until(|| hits() > 0);
}
