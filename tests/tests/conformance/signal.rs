//! Signals and time-outs: EINTR, SA_RESTART, SO_RCVTIMEO and SO_SNDTIMEO, masks of the p-calls, SIGIO.

use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::cases;
use crate::epoll::{Ep, IN};
use crate::net::{LIMIT, bound_udp, fill, listener, pair, put_all, sleep, take, until, wait_in};
use crate::sys::{Fd, Net, R, sys};
use libc::{EAGAIN, EINTR, POLLIN, POLLOUT, SA_RESTART, SIGUSR1, SO_RCVTIMEO, SO_SNDTIMEO, SOL_SOCKET};

cases! {
    one: [],
    net: [
        recv_interrupted, recv_restarts, recvfrom_udp_interrupted, recvfrom_udp_restarts, accept_interrupted, accept_restarts, send_interrupted,
        send_interrupted_partly, send_restarts, connect_interrupted, connect_restarts, poll_interrupted, poll_never_restarts, select_interrupted, epoll_interrupted,
        epoll_never_restarts, recv_with_timeout_never_restarts, handler_runs_once_per_signal, ignored_signal_does_not_interrupt, blocked_signal_does_not_interrupt,
        ppoll_mask_lets_in, pselect_mask_lets_in, epoll_pwait_mask_lets_in, ppoll_mask_pending, waitall_interrupted_partly, rcvtimeo, sndtimeo, rcvtimeo_is_remeasured,
        rcvtimeo_data_in_time, sndtimeo_partial, handler_uses_socket, signal_between_calls, sleep_and_socket_thread, sigio_on_data, read_interrupted_readv_too,
        timeouts_do_not_bind_poll, storm,
    ],
}

static HITS: AtomicI32 = AtomicI32::new(0);

extern "C" fn hit(_: i32) {
    HITS.fetch_add(1, Ordering::SeqCst);
}

fn hits() -> i32 {
    HITS.load(Ordering::SeqCst)
}

fn handle(signal: i32, flags: i32) {
    // SAFETY: all-zero is a valid sigaction; the handler only counts.
    unsafe {
        let mut act: libc::sigaction = std::mem::zeroed();
        act.sa_sigaction = hit as *const () as usize;
        act.sa_flags = flags;
        sys!(libc::sigaction(signal, &act, std::ptr::null_mut())).is(0);
    }
}

/// Runs `blocking` in a thread of its own and signals that thread until it has returned; what it returned.
fn interrupted(flags: i32, blocking: impl FnOnce() -> R + Send) -> R {
    handle(SIGUSR1, flags);
    let id = AtomicI32::new(0);
    let done = AtomicI32::new(0);
    thread::scope(|scope| {
        let t = scope.spawn(|| {
            id.store(sys!(libc::gettid()).ok() as i32, Ordering::SeqCst);
            let r = blocking();
            done.store(1, Ordering::SeqCst);
            r
        });
        until(|| id.load(Ordering::SeqCst) != 0);
        sleep(50);
        // Again and again: the first may come before the call has blocked.
        until(|| {
            kill(id.load(Ordering::SeqCst), SIGUSR1);
            sleep(10);
            done.load(Ordering::SeqCst) == 1
        });
        t.join().expect("blocked thread")
    })
}

fn kill(tid: i32, signal: i32) {
    let _ = sys!(libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal));
}

/// Runs `blocking` in a thread, signals it a few times, then `finish` lets it return; what it returned.
fn restarted(flags: i32, blocking: impl FnOnce() -> R + Send, finish: impl FnOnce()) -> R {
    handle(SIGUSR1, flags);
    let id = AtomicI32::new(0);
    thread::scope(|scope| {
        let t = scope.spawn(|| {
            id.store(sys!(libc::gettid()).ok() as i32, Ordering::SeqCst);
            blocking()
        });
        until(|| id.load(Ordering::SeqCst) != 0);
        sleep(50);
        for i in 1..=3 {
            kill(id.load(Ordering::SeqCst), SIGUSR1);
            until(|| hits() >= i);
            sleep(10);
        }
        finish();
        t.join().expect("blocked thread")
    })
}

fn recv(s: &Fd) -> R {
    s.recv(&mut [0; 8], 0)
}

fn recv_interrupted(net: Net) {
    let (_c, s) = pair(net);
    interrupted(0, || recv(&s)).fails(EINTR);
    assert!(hits() > 0);
}

fn recv_restarts(net: Net) {
    let (c, s) = pair(net);
    restarted(SA_RESTART, || recv(&s), || c.write(b"abc").is(3)).is(3);
}

fn read_interrupted_readv_too(net: Net) {
    let (_c, s) = pair(net);
    interrupted(0, || s.read(&mut [0; 8])).fails(EINTR);
    interrupted(0, || {
        let mut room = [0u8; 4];
        let v = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: 4 };
        sys!(libc::readv(s.raw(), &v, 1))
    })
    .fails(EINTR);
}

fn recvfrom_udp_interrupted(net: Net) {
    let (u, _) = bound_udp(net);
    interrupted(0, || recv(&u)).fails(EINTR);
}

fn recvfrom_udp_restarts(net: Net) {
    let (u, at) = bound_udp(net);
    restarted(SA_RESTART, || recv(&u), || net.udp().sendto(b"abc", 0, &at).is(3)).is(3);
}

fn accept_interrupted(net: Net) {
    let (l, _) = listener(net);
    interrupted(0, || l.accept()).fails(EINTR);
}

fn accept_restarts(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    let _s = restarted(SA_RESTART, || l.accept(), || c.connect(&at).is(0)).fd();
}

fn send_interrupted(net: Net) {
    let (c, _s) = pair(net);
    fill(&c);
    c.nonblock(false);
    interrupted(0, || c.send(&[0; 100_000], 0)).fails(EINTR);
}

fn send_interrupted_partly(net: Net) {
    let (c, _s) = pair(net);
    // Some of it fits, so that is the result.
    let big = vec![0; 64 << 20];
    let n = interrupted(0, || c.send(&big, 0)).ok();
    assert!(n > 0 && (n as usize) < big.len(), "{n}");
}

fn send_restarts(net: Net) {
    let (c, s) = pair(net);
    fill(&c);
    c.nonblock(false);
    restarted(
        SA_RESTART,
        || c.send(b"x", 0),
        || {
            while c.poll(POLLOUT, 5) == 0 {
                s.recv(&mut [0; 65536], libc::MSG_DONTWAIT).get().ok();
            }
        },
    )
    .is(1);
}

/// A listener that will not answer, and who fills it.
fn unanswering(net: Net) -> (Fd, Fd) {
    let l = net.tcp();
    l.bind(&net.lo()).is(0);
    l.listen(0).is(0);
    let first = net.tcp();
    first.connect(&l.name()).is(0);
    wait_in(&l);
    (l, first)
}

fn connect_interrupted(net: Net) {
    let (l, _first) = unanswering(net);
    let c = net.tcp();
    interrupted(0, || c.connect(&l.name())).fails(EINTR);
    // It goes on in the background.
    c.nonblock(true).connect(&l.name()).fails(libc::EALREADY);
    let _a = l.accept().fd();
    crate::net::wait_out(&c);
    assert_eq!(c.error(), 0);
}

fn connect_restarts(net: Net) {
    let (l, _first) = unanswering(net);
    let c = net.tcp();
    restarted(SA_RESTART, || c.connect(&l.name()), || drop(l.accept().fd())).is(0);
}

fn poll_one(fd: &Fd, timeout: i32) -> R {
    let mut p = libc::pollfd { fd: fd.raw(), events: POLLIN, revents: 0 };
    sys!(libc::poll(&raw mut p, 1, timeout))
}

fn poll_interrupted(net: Net) {
    let (_c, s) = pair(net);
    interrupted(0, || poll_one(&s, -1)).fails(EINTR);
}

fn poll_never_restarts(net: Net) {
    let (_c, s) = pair(net);
    interrupted(SA_RESTART, || poll_one(&s, -1)).fails(EINTR);
}

fn select_interrupted(net: Net) {
    let (_c, s) = pair(net);
    interrupted(SA_RESTART, || {
        // SAFETY: all-zero is the empty set; the number is below FD_SETSIZE.
        unsafe {
            let mut set: libc::fd_set = std::mem::zeroed();
            libc::FD_SET(s.raw(), &raw mut set);
            sys!(libc::select(100, &raw mut set, std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut()))
        }
    })
    .fails(EINTR);
}

fn epoll_one(e: &Ep) -> R {
    let mut one = [libc::epoll_event { events: 0, u64: 0 }; 2];
    sys!(libc::epoll_wait(e.0.raw(), one.as_mut_ptr(), 2, -1))
}

fn epoll_interrupted(net: Net) {
    let (_c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    interrupted(0, || epoll_one(&e)).fails(EINTR);
}

fn epoll_never_restarts(net: Net) {
    let (_c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    interrupted(SA_RESTART, || epoll_one(&e)).fails(EINTR);
}

fn timeout(fd: &Fd, option: i32, ms: i64) {
    fd.set(SOL_SOCKET, option, &libc::timeval { tv_sec: ms / 1000, tv_usec: ms % 1000 * 1000 }).is(0);
}

fn recv_with_timeout_never_restarts(net: Net) {
    let (_c, s) = pair(net);
    timeout(&s, SO_RCVTIMEO, 20_000);
    interrupted(SA_RESTART, || recv(&s)).fails(EINTR);
}

fn handler_runs_once_per_signal(net: Net) {
    let (c, s) = pair(net);
    restarted(SA_RESTART, || recv(&s), || c.write(b"abc").is(3)).is(3);
    assert_eq!(hits(), 3);
}

fn ignored_signal_does_not_interrupt(net: Net) {
    let (c, s) = pair(net);
    sys!(libc::signal(libc::SIGUSR2, libc::SIG_IGN)).ok();
    thread::scope(|scope| {
        let t = scope.spawn(|| recv(&s));
        sleep(50);
        sys!(libc::kill(libc::getpid(), libc::SIGUSR2)).is(0);
        sleep(20);
        c.write(b"abc").is(3);
        t.join().expect("reader").is(3);
    });
}

fn mask(how: i32, signal: i32) -> libc::sigset_t {
    // SAFETY: both sets are ours.
    unsafe {
        let (mut set, mut old) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        sys!(libc::pthread_sigmask(how, &set, &raw mut old)).is(0);
        old
    }
}

fn blocked_signal_does_not_interrupt(net: Net) {
    let (c, s) = pair(net);
    handle(SIGUSR1, 0);
    mask(libc::SIG_BLOCK, SIGUSR1);
    let me = sys!(libc::gettid()).ok() as i32;
    thread::scope(|scope| {
        scope.spawn(|| {
            sleep(40);
            kill(me, SIGUSR1);
            sleep(30);
            c.write(b"abc").is(3);
        });
        recv(&s).is(3);
    });
    assert_eq!(hits(), 0);
    mask(libc::SIG_UNBLOCK, SIGUSR1);
    assert_eq!(hits(), 1);
}

/// With SIGUSR1 blocked and then sent: `call` gets a mask that lets it in.
fn lets_in(call: impl FnOnce(*const libc::sigset_t) -> R) {
    handle(SIGUSR1, SA_RESTART);
    let open = mask(libc::SIG_BLOCK, SIGUSR1);
    let me = sys!(libc::gettid()).ok() as i32;
    thread::scope(|scope| {
        scope.spawn(|| {
            sleep(50);
            kill(me, SIGUSR1);
        });
        call(&open).fails(EINTR);
    });
    assert_eq!(hits(), 1);
    // The mask is as before: blocked.
    kill(me, SIGUSR1);
    sleep(10);
    assert_eq!(hits(), 1);
}

fn long() -> libc::timespec {
    libc::timespec { tv_sec: i64::from(LIMIT) / 1000, tv_nsec: 0 }
}

fn ppoll_mask_lets_in(net: Net) {
    let (_c, s) = pair(net);
    lets_in(|m| {
        let mut p = libc::pollfd { fd: s.raw(), events: POLLIN, revents: 0 };
        sys!(libc::ppoll(&raw mut p, 1, &long(), m))
    });
}

fn pselect_mask_lets_in(net: Net) {
    let (_c, s) = pair(net);
    lets_in(|m| {
        // SAFETY: all-zero is the empty set; the number is below FD_SETSIZE.
        unsafe {
            let mut set: libc::fd_set = std::mem::zeroed();
            libc::FD_SET(s.raw(), &raw mut set);
            sys!(libc::pselect(100, &raw mut set, std::ptr::null_mut(), std::ptr::null_mut(), &long(), m))
        }
    });
}

fn epoll_pwait_mask_lets_in(net: Net) {
    let (_c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    lets_in(|m| {
        let mut one = [libc::epoll_event { events: 0, u64: 0 }; 2];
        sys!(libc::epoll_pwait(e.0.raw(), one.as_mut_ptr(), 2, LIMIT, m))
    });
}

fn ppoll_mask_pending(net: Net) {
    // Pending already: taken at once, unless something is ready.
    let (c, s) = pair(net);
    handle(SIGUSR1, 0);
    let open = mask(libc::SIG_BLOCK, SIGUSR1);
    kill(sys!(libc::gettid()).ok() as i32, SIGUSR1);
    let mut p = libc::pollfd { fd: s.raw(), events: POLLIN, revents: 0 };
    sys!(libc::ppoll(&raw mut p, 1, &long(), &open)).fails(EINTR);
    assert_eq!(hits(), 1);
    drop(c);
}

fn waitall_interrupted_partly(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abc").is(3);
    wait_in(&s);
    interrupted(0, || s.recv(&mut [0; 8], libc::MSG_WAITALL)).is(3);
}

fn rcvtimeo(net: Net) {
    let (_c, s) = pair(net);
    timeout(&s, SO_RCVTIMEO, 60);
    let start = Instant::now();
    recv(&s).fails(EAGAIN);
    assert!(start.elapsed() >= Duration::from_millis(55), "{:?}", start.elapsed());
}

fn sndtimeo(net: Net) {
    let (c, _s) = pair(net);
    fill(&c);
    c.nonblock(false);
    timeout(&c, SO_SNDTIMEO, 60);
    let start = Instant::now();
    c.send(&[0; 100_000], 0).fails(EAGAIN);
    assert!(start.elapsed() >= Duration::from_millis(55), "{:?}", start.elapsed());
}

fn rcvtimeo_is_remeasured(net: Net) {
    let (c, s) = pair(net);
    timeout(&s, SO_RCVTIMEO, 50);
    recv(&s).fails(EAGAIN);
    c.write(b"x").is(1);
    wait_in(&s);
    recv(&s).is(1);
    recv(&s).fails(EAGAIN);
    timeout(&s, SO_RCVTIMEO, 0);
    thread::scope(|scope| {
        let t = scope.spawn(|| recv(&s));
        sleep(100);
        c.write(b"y").is(1);
        t.join().expect("reader").is(1);
    });
}

fn rcvtimeo_data_in_time(net: Net) {
    let (c, s) = pair(net);
    timeout(&s, SO_RCVTIMEO, 9000);
    thread::scope(|scope| {
        let t = scope.spawn(|| recv(&s));
        sleep(40);
        c.write(b"abc").is(3);
        t.join().expect("reader").is(3);
    });
}

fn sndtimeo_partial(net: Net) {
    let (c, _s) = pair(net);
    timeout(&c, SO_SNDTIMEO, 60);
    let big = vec![0; 64 << 20];
    let n = c.send(&big, 0).ok() as usize;
    assert!(n > 0 && n < big.len(), "{n}");
}

static FROM_HANDLER: AtomicI32 = AtomicI32::new(-1);

extern "C" fn write_from_handler(_: i32) {
    let fd = FROM_HANDLER.load(Ordering::SeqCst);
    // SAFETY: write(2) is allowed in a handler.
    unsafe { libc::write(fd, b"!".as_ptr().cast(), 1) };
    HITS.fetch_add(1, Ordering::SeqCst);
}

fn handler_uses_socket(net: Net) {
    // A handler writes to the very connection whose reader it interrupts.
    let (c, s) = pair(net);
    FROM_HANDLER.store(c.raw(), Ordering::SeqCst);
    // SAFETY: all-zero is a valid sigaction; the handler is safe in a signal.
    unsafe {
        let mut act: libc::sigaction = std::mem::zeroed();
        act.sa_sigaction = write_from_handler as *const () as usize;
        act.sa_flags = SA_RESTART;
        sys!(libc::sigaction(SIGUSR1, &act, std::ptr::null_mut())).is(0);
    }
    let me = sys!(libc::gettid()).ok() as i32;
    thread::scope(|scope| {
        scope.spawn(|| {
            sleep(50);
            kill(me, SIGUSR1);
        });
        assert_eq!(take(&s, 8), b"!");
    });
}

fn signal_between_calls(net: Net) {
    let (c, s) = pair(net);
    handle(SIGUSR1, 0);
    let me = sys!(libc::gettid()).ok() as i32;
    for i in 0..200u8 {
        kill(me, SIGUSR1);
        c.write(&[i]).is(1);
        assert_eq!(take(&s, 8), [i]);
    }
    assert_eq!(hits(), 200);
}

fn sleep_and_socket_thread(net: Net) {
    // A signal to one thread leaves another's wait alone.
    let (c, s) = pair(net);
    handle(SIGUSR1, 0);
    let me = sys!(libc::gettid()).ok() as i32;
    thread::scope(|scope| {
        let t = scope.spawn(|| recv(&s));
        sleep(50);
        for _ in 0..5 {
            kill(me, SIGUSR1);
        }
        c.write(b"abc").is(3);
        t.join().expect("reader").is(3);
    });
}

fn sigio_on_data(net: Net) {
    let (c, s) = pair(net);
    handle(libc::SIGIO, SA_RESTART);
    sys!(libc::fcntl(s.raw(), libc::F_SETOWN, libc::getpid())).is(0);
    sys!(libc::fcntl(s.raw(), libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK)).is(0);
    c.write(b"x").is(1);
    until(|| hits() > 0);
}

fn timeouts_do_not_bind_poll(net: Net) {
    let (c, s) = pair(net);
    timeout(&s, SO_RCVTIMEO, 10);
    thread::scope(|scope| {
        scope.spawn(|| {
            sleep(80);
            c.write(b"x").is(1);
        });
        poll_one(&s, LIMIT).is(1);
    });
}

fn storm(net: Net) {
    // Data both ways under a rain of signals: nothing is lost, nothing is doubled.
    let (c, s) = pair(net);
    handle(SIGUSR1, SA_RESTART);
    let data = crate::net::pattern(1 << 20);
    let me = sys!(libc::gettid()).ok() as i32;
    let done = AtomicI32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while done.load(Ordering::SeqCst) == 0 {
                kill(me, SIGUSR1);
                thread::sleep(Duration::from_micros(200));
            }
        });
        scope.spawn(|| put_all(&c, &data));
        let got = crate::net::take_all(&s, data.len());
        done.store(1, Ordering::SeqCst);
        assert!(got == data);
    });
}
