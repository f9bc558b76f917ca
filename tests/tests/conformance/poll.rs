//! poll(2), ppoll(2), select(2), pselect(2): over virtual and kernel descriptors at once.

use std::mem;
use std::thread;
use std::time::{Duration, Instant};

use crate::cases;
use crate::net::{LIMIT, bound_udp, listener, pair, sleep, take, udp_pair, wait_in};
use crate::sys::{Fd, Net, R, sys};
use libc::{EINVAL, POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLRDHUP};

cases! {
    one: [
        no_fds_is_a_sleep, negative_fd_is_skipped, bad_fd_is_nval, too_many_fds, null_array, ppoll_bad_timeout, select_bad_fd, select_negative_n,
        select_nothing_is_a_sleep, select_bad_timeout, pselect_bad_timeout, regular_file, kernel_only, pipe_hangup,
    ],
    net: [
        timeout_expires, data, count_is_of_fds, events_zero, same_fd_twice, revents_overwritten, norm_and_band, pipe_wakes_mixed_wait,
        socket_wakes_mixed_wait, eventfd_mixed, timerfd_mixed, unixpair_mixed, all_kinds_at_once, error_is_not_consumed, level, hundred_fds,
        poll_connect_completes, poll_accept, two_pollers_one_socket, ppoll_plain, ppoll_short_timeout, poll_infinite, poll_after_drain,
        poll_nval_beside_ready, poll_rdhup_only_if_asked, select_read, select_write, select_counts_bits, select_clears, select_timeout_is_updated,
        select_mixed, select_hangup_is_readable, select_error_is_both, select_ignores_beyond_n, select_except_is_quiet, pselect_plain,
        pselect_keeps_timeout, select_wakes, select_same_in_all, select_null_sets, poll_closed_number, udp_wakes, poll_many_idle,
    ],
}

fn pollfd(fd: i32, events: i16) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0x7777 }
}

fn poll(fds: &mut [libc::pollfd], timeout: i32) -> R {
    sys!(libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout))
}

pub(crate) fn pipe() -> (Fd, Fd) {
    let mut fds = [0; 2];
    sys!(libc::pipe(fds.as_mut_ptr())).is(0);
    (Fd(fds[0]), Fd(fds[1]))
}

pub(crate) fn eventfd() -> Fd {
    sys!(libc::eventfd(0, libc::EFD_NONBLOCK)).fd()
}

pub(crate) fn kick(eventfd: &Fd) {
    eventfd.write(&1u64.to_ne_bytes()).is(8);
}

/// A timer that goes off once, after `ms`.
pub(crate) fn timerfd(ms: i64) -> Fd {
    let fd = sys!(libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK)).fd();
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let at = libc::itimerspec { it_interval: zero, it_value: libc::timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 } };
    sys!(libc::timerfd_settime(fd.raw(), 0, &at, std::ptr::null_mut())).is(0);
    fd
}

pub(crate) fn unixpair() -> (Fd, Fd) {
    let mut fds = [0; 2];
    sys!(libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, fds.as_mut_ptr())).is(0);
    (Fd(fds[0]), Fd(fds[1]))
}

fn no_fds_is_a_sleep() {
    let start = Instant::now();
    sys!(libc::poll(std::ptr::null_mut(), 0, 30)).is(0);
    assert!(start.elapsed() >= Duration::from_millis(29));
}

fn negative_fd_is_skipped() {
    let mut fds = [pollfd(-1, POLLIN), pollfd(-77, POLLOUT)];
    poll(&mut fds, 0).is(0);
    assert_eq!((fds[0].revents, fds[1].revents), (0, 0));
}

fn bad_fd_is_nval() {
    let mut fds = [pollfd(777, POLLIN)];
    poll(&mut fds, LIMIT).is(1);
    assert_eq!(fds[0].revents, POLLNVAL);
}

fn too_many_fds() {
    let mut fds = [pollfd(-1, 0)];
    let limit = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
    sys!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit)).is(0);
    sys!(libc::poll(fds.as_mut_ptr(), 65, 0)).fails(EINVAL);
}

fn null_array() {
    sys!(libc::poll(std::ptr::null_mut(), 1, 0)).fails(libc::EFAULT);
}

fn timeout_expires(net: Net) {
    let (c, _s) = pair(net);
    let start = Instant::now();
    assert_eq!(c.poll(POLLIN, 40), 0);
    assert!(start.elapsed() >= Duration::from_millis(39));
}

fn data(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    let mut fds = [pollfd(s.raw(), POLLIN)];
    poll(&mut fds, LIMIT).is(1);
    assert_eq!(fds[0].revents, POLLIN);
}

fn count_is_of_fds(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    wait_in(&s);
    let mut fds = [pollfd(c.raw(), POLLIN | POLLOUT), pollfd(s.raw(), POLLIN | POLLOUT), pollfd(c.raw(), POLLIN)];
    poll(&mut fds, LIMIT).is(2);
    assert_eq!(fds.map(|f| f.revents), [POLLOUT, POLLIN | POLLOUT, 0]);
}

fn events_zero(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    wait_in(&s);
    assert_eq!(s.poll(0, 0), 0);
    // Unread data, so this is a reset: reported though nothing was asked for.
    s.close().is(0);
    assert_eq!(c.poll(0, LIMIT), POLLERR | POLLHUP);
}

fn same_fd_twice(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    wait_in(&s);
    let mut fds = [pollfd(s.raw(), POLLIN), pollfd(s.raw(), POLLOUT)];
    poll(&mut fds, LIMIT).is(2);
    assert_eq!(fds.map(|f| f.revents), [POLLIN, POLLOUT]);
}

fn revents_overwritten(net: Net) {
    let (c, _s) = pair(net);
    let mut fds = [pollfd(c.raw(), POLLIN)];
    poll(&mut fds, 0).is(0);
    assert_eq!(fds[0].revents, 0);
    assert_eq!(fds[0].events, POLLIN);
}

fn norm_and_band(net: Net) {
    let (c, s) = pair(net);
    let all = POLLIN | POLLOUT | libc::POLLRDNORM | libc::POLLWRNORM | libc::POLLRDBAND | libc::POLLWRBAND;
    c.write(b"x").is(1);
    wait_in(&s);
    assert_eq!(s.poll(all, 0), POLLIN | POLLOUT | libc::POLLRDNORM | libc::POLLWRNORM);
    assert_eq!(s.poll(libc::POLLRDNORM, 0), libc::POLLRDNORM);
    let (u, _) = bound_udp(net);
    assert_eq!(u.poll(all, 0), POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND);
}

/// Waits for `a` and `b` in one poll, while `act` makes one of them ready; what each then is.
fn mixed(a: &Fd, b: &Fd, act: impl FnOnce()) -> (i16, i16) {
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut fds = [pollfd(a.raw(), POLLIN), pollfd(b.raw(), POLLIN)];
            poll(&mut fds, LIMIT).is(1);
            (fds[0].revents, fds[1].revents)
        });
        sleep(40);
        act();
        waiter.join().expect("waiter")
    })
}

fn pipe_wakes_mixed_wait(net: Net) {
    let (_c, s) = pair(net);
    let (r, w) = pipe();
    assert_eq!(mixed(&s, &r, || w.write(b"x").is(1)), (0, POLLIN));
}

fn socket_wakes_mixed_wait(net: Net) {
    let (c, s) = pair(net);
    let (r, _w) = pipe();
    assert_eq!(mixed(&s, &r, || c.write(b"x").is(1)), (POLLIN, 0));
}

fn eventfd_mixed(net: Net) {
    let (_c, s) = pair(net);
    let e = eventfd();
    assert_eq!(mixed(&s, &e, || kick(&e)), (0, POLLIN));
}

fn timerfd_mixed(net: Net) {
    let (_c, s) = pair(net);
    let t = timerfd(60);
    assert_eq!(mixed(&s, &t, || ()), (0, POLLIN));
}

fn unixpair_mixed(net: Net) {
    let (c, s) = pair(net);
    let (x, y) = unixpair();
    assert_eq!(mixed(&s, &x, || y.write(b"x").is(1)), (0, POLLIN));
    take(&x, 1);
    assert_eq!(mixed(&s, &x, || c.write(b"x").is(1)), (POLLIN, 0));
}

fn all_kinds_at_once(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    let e = eventfd();
    let (u, v) = udp_pair(net);
    for fd in [&c, &w, &u] {
        fd.write(b"x").is(1);
    }
    kick(&e);
    wait_in(&s);
    wait_in(&v);
    let mut fds = [&s, &r, &e, &v].map(|fd| pollfd(fd.raw(), POLLIN));
    poll(&mut fds, LIMIT).is(4);
    assert_eq!(fds.map(|f| f.revents), [POLLIN; 4]);
}

fn kernel_only() {
    let (r, w) = pipe();
    assert_eq!(r.poll(POLLIN, 0), 0);
    assert_eq!(w.poll(POLLOUT, 0), POLLOUT);
    w.write(b"x").is(1);
    assert_eq!(r.poll(POLLIN, 0), POLLIN);
}

fn pipe_hangup() {
    let (r, w) = pipe();
    w.close().is(0);
    assert_eq!(r.poll(POLLIN, LIMIT), POLLHUP);
}

fn regular_file() {
    let f = sys!(libc::open(c"/proc/self/exe".as_ptr(), libc::O_RDONLY)).fd();
    assert_eq!(f.poll(POLLIN | POLLOUT, 0), POLLIN | POLLOUT);
}

fn error_is_not_consumed(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    wait_in(&s);
    s.close().is(0);
    assert_eq!(c.poll(0, LIMIT), POLLERR | POLLHUP);
    assert_eq!(c.poll(0, LIMIT), POLLERR | POLLHUP);
    assert_eq!(c.error(), libc::ECONNRESET);
    assert_eq!(c.poll(0, LIMIT), POLLHUP);
}

fn level(net: Net) {
    let (c, s) = pair(net);
    c.write(b"xy").is(2);
    for _ in 0..3 {
        assert_eq!(s.poll(POLLIN, LIMIT), POLLIN);
    }
    take(&s, 1);
    assert_eq!(s.poll(POLLIN, LIMIT), POLLIN);
}

fn poll_after_drain(net: Net) {
    let (c, s) = pair(net);
    c.write(b"xy").is(2);
    wait_in(&s);
    take(&s, 9);
    assert_eq!(s.poll(POLLIN, 0), 0);
}

fn hundred_fds(net: Net) {
    let (l, at) = listener(net);
    let all: Vec<(Fd, Fd)> = (0..100)
        .map(|_| {
            let c = net.tcp();
            c.connect(&at).is(0);
            (c, l.accept().fd())
        })
        .collect();
    let mut fds: Vec<_> = all.iter().map(|p| pollfd(p.1.raw(), POLLIN)).collect();
    for i in [0, 57, 99] {
        all[i].0.write(b"x").is(1);
        wait_in(&all[i].1);
    }
    poll(&mut fds, LIMIT).is(3);
    let ready: Vec<usize> = (0..100).filter(|i| fds[*i].revents == POLLIN).collect();
    assert_eq!(ready, [0, 57, 99]);
}

fn poll_many_idle(net: Net) {
    let idle: Vec<Fd> = (0..200).map(|_| net.udp()).collect();
    let (a, b) = udp_pair(net);
    let mut fds: Vec<_> = idle.iter().map(|fd| pollfd(fd.raw(), POLLIN)).collect();
    fds.push(pollfd(b.raw(), POLLIN));
    thread::scope(|scope| {
        scope.spawn(|| {
            sleep(40);
            a.write(b"x").is(1);
        });
        poll(&mut fds, LIMIT).is(1);
    });
    assert_eq!(fds[200].revents, POLLIN);
}

fn poll_connect_completes(net: Net) {
    let (_l, at) = listener(net);
    let c = net.tcp();
    c.nonblock(true).connect(&at).fails(libc::EINPROGRESS);
    assert_eq!(c.poll(POLLIN | POLLOUT, LIMIT), POLLOUT);
}

fn poll_accept(net: Net) {
    let (l, at) = listener(net);
    thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(l.poll(POLLIN | POLLOUT, LIMIT), POLLIN);
            let _s = l.accept().fd();
        });
        sleep(40);
        net.tcp().connect(&at).is(0);
    });
}

fn two_pollers_one_socket(net: Net) {
    let (c, s) = pair(net);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(s.poll(POLLIN, LIMIT), POLLIN));
        }
        sleep(40);
        c.write(b"x").is(1);
    });
}

fn ppoll(fd: &Fd, timeout: &libc::timespec) -> (R, i16) {
    let mut fds = [pollfd(fd.raw(), POLLIN)];
    (sys!(libc::ppoll(fds.as_mut_ptr(), 1, timeout, std::ptr::null())), fds[0].revents)
}

fn ppoll_plain(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    let (r, revents) = ppoll(&s, &libc::timespec { tv_sec: 10, tv_nsec: 0 });
    r.is(1);
    assert_eq!(revents, POLLIN);
}

fn ppoll_short_timeout(net: Net) {
    let (_c, s) = pair(net);
    let t = libc::timespec { tv_sec: 0, tv_nsec: 500_000 };
    ppoll(&s, &t).0.is(0);
    assert_eq!(t.tv_nsec, 500_000, "not changed by glibc's ppoll");
    ppoll(&s, &libc::timespec { tv_sec: 0, tv_nsec: 0 }).0.is(0);
}

fn ppoll_bad_timeout() {
    let (_c, s) = pair(Net::V4);
    ppoll(&s, &libc::timespec { tv_sec: 0, tv_nsec: 1_000_000_000 }).0.fails(EINVAL);
    ppoll(&s, &libc::timespec { tv_sec: -1, tv_nsec: 0 }).0.fails(EINVAL);
}

fn poll_infinite(net: Net) {
    let (c, s) = pair(net);
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(s.poll(POLLIN, -1), POLLIN));
        scope.spawn(|| assert_eq!(s.poll(POLLIN, -5), POLLIN));
        sleep(40);
        c.write(b"x").is(1);
    });
}

fn poll_nval_beside_ready(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    wait_in(&s);
    let mut fds = [pollfd(s.raw(), POLLIN), pollfd(777, POLLIN), pollfd(-1, POLLIN)];
    poll(&mut fds, LIMIT).is(2);
    assert_eq!(fds.map(|f| f.revents), [POLLIN, POLLNVAL, 0]);
}

fn poll_rdhup_only_if_asked(net: Net) {
    let (c, s) = pair(net);
    c.shutdown(libc::SHUT_WR).is(0);
    assert_eq!(s.poll(POLLIN, LIMIT), POLLIN);
    assert_eq!(s.poll(POLLRDHUP, LIMIT), POLLRDHUP);
}

fn poll_closed_number(net: Net) {
    let (c, s) = pair(net);
    let number = s.raw();
    s.close().is(0);
    let mut fds = [pollfd(number, POLLIN)];
    poll(&mut fds, LIMIT).is(1);
    assert_eq!(fds[0].revents, POLLNVAL);
    drop(c);
}

fn udp_wakes(net: Net) {
    let (a, b) = udp_pair(net);
    let (r, _w) = pipe();
    assert_eq!(mixed(&b, &r, || a.write(b"x").is(1)), (POLLIN, 0));
}

/// fd_set of these.
fn set(fds: &[&Fd]) -> libc::fd_set {
    // SAFETY: all-zero is the empty set.
    let mut set: libc::fd_set = unsafe { mem::zeroed() };
    for fd in fds {
        assert!(fd.raw() < 1024);
        // SAFETY: below FD_SETSIZE.
        unsafe { libc::FD_SET(fd.raw(), &raw mut set) };
    }
    set
}

fn has(set: &libc::fd_set, fd: &Fd) -> bool {
    // SAFETY: below FD_SETSIZE.
    unsafe { libc::FD_ISSET(fd.raw(), &raw const *set) }
}

fn select(n: i32, r: Option<&mut libc::fd_set>, w: Option<&mut libc::fd_set>, e: Option<&mut libc::fd_set>, ms: i64) -> R {
    let mut t = libc::timeval { tv_sec: ms / 1000, tv_usec: ms % 1000 * 1000 };
    let ptr = |s: Option<&mut libc::fd_set>| s.map_or(std::ptr::null_mut(), std::ptr::from_mut);
    sys!(libc::select(n, ptr(r), ptr(w), ptr(e), &raw mut t))
}

const ALL: i32 = 1024;
const LONG: i64 = LIMIT as i64;

fn select_read(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    let mut r = set(&[&s, &c]);
    select(ALL, Some(&mut r), None, None, LONG).is(1);
    assert!(has(&r, &s) && !has(&r, &c));
}

fn select_write(net: Net) {
    let (c, s) = pair(net);
    let mut w = set(&[&s, &c]);
    select(ALL, None, Some(&mut w), None, LONG).is(2);
    assert!(has(&w, &s) && has(&w, &c));
}

fn select_counts_bits(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    wait_in(&s);
    let (mut r, mut w) = (set(&[&s]), set(&[&s]));
    select(ALL, Some(&mut r), Some(&mut w), None, LONG).is(2);
}

fn select_same_in_all(net: Net) {
    let (c, _s) = pair(net);
    let (mut r, mut w, mut e) = (set(&[&c]), set(&[&c]), set(&[&c]));
    select(ALL, Some(&mut r), Some(&mut w), Some(&mut e), LONG).is(1);
    assert!(!has(&r, &c) && has(&w, &c) && !has(&e, &c));
}

fn select_clears(net: Net) {
    let (_c, s) = pair(net);
    let mut r = set(&[&s]);
    select(ALL, Some(&mut r), None, None, 20).is(0);
    assert!(!has(&r, &s));
}

fn select_timeout_is_updated(net: Net) {
    let (_c, s) = pair(net);
    let mut r = set(&[&s]);
    let mut t = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
    sys!(libc::select(ALL, &raw mut r, std::ptr::null_mut(), std::ptr::null_mut(), &raw mut t)).is(0);
    assert_eq!((t.tv_sec, t.tv_usec), (0, 0));
    let mut w = set(&[&s]);
    let mut t = libc::timeval { tv_sec: 50, tv_usec: 0 };
    sys!(libc::select(ALL, std::ptr::null_mut(), &raw mut w, std::ptr::null_mut(), &raw mut t)).is(1);
    assert!(t.tv_sec == 49 || (t.tv_sec == 50 && t.tv_usec == 0) || t.tv_sec > 30, "{}", t.tv_sec);
}

fn select_mixed(net: Net) {
    let (c, s) = pair(net);
    let (pr, pw) = pipe();
    let mut r = set(&[&s, &pr]);
    thread::scope(|scope| {
        scope.spawn(|| {
            sleep(40);
            pw.write(b"x").is(1);
        });
        select(ALL, Some(&mut r), None, None, LONG).is(1);
    });
    assert!(has(&r, &pr) && !has(&r, &s));
    c.write(b"x").is(1);
    wait_in(&s);
    let mut r = set(&[&s, &pr]);
    select(ALL, Some(&mut r), None, None, LONG).is(2);
    assert!(has(&r, &pr) && has(&r, &s));
}

fn select_hangup_is_readable(net: Net) {
    let (c, s) = pair(net);
    c.close().is(0);
    let mut r = set(&[&s]);
    select(ALL, Some(&mut r), None, None, LONG).is(1);
    assert_eq!(take(&s, 1), b"");
}

fn select_error_is_both(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    wait_in(&s);
    s.close().is(0);
    assert_eq!(c.poll(0, LIMIT), POLLERR | POLLHUP);
    let (mut r, mut w, mut e) = (set(&[&c]), set(&[&c]), set(&[&c]));
    select(ALL, Some(&mut r), Some(&mut w), Some(&mut e), LONG).is(2);
    assert!(has(&r, &c) && has(&w, &c) && !has(&e, &c));
}

fn select_ignores_beyond_n(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    wait_in(&s);
    let mut r = set(&[&s]);
    select(s.raw(), Some(&mut r), None, None, 0).is(0);
    let mut r = set(&[&s]);
    select(s.raw() + 1, Some(&mut r), None, None, LONG).is(1);
}

fn select_except_is_quiet(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    wait_in(&s);
    let mut e = set(&[&s]);
    select(ALL, None, None, Some(&mut e), 20).is(0);
}

fn select_bad_fd() {
    // One that is closed, but within the table: what lies beyond that Linux does not look at.
    let gone = sys!(libc::dup(0)).fd();
    let mut r = set(&[&gone]);
    gone.close().is(0);
    select(ALL, Some(&mut r), None, None, 0).fails(libc::EBADF);
}

fn select_negative_n() {
    select(-1, None, None, None, 0).fails(EINVAL);
}

fn select_nothing_is_a_sleep() {
    let start = Instant::now();
    select(0, None, None, None, 30).is(0);
    assert!(start.elapsed() >= Duration::from_millis(29));
}

fn select_bad_timeout() {
    let mut t = libc::timeval { tv_sec: -1, tv_usec: 0 };
    sys!(libc::select(0, std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut(), &raw mut t)).fails(EINVAL);
}

fn select_null_sets(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    wait_in(&s);
    select(ALL, None, None, None, 10).is(0);
}

fn select_wakes(net: Net) {
    let (c, s) = pair(net);
    thread::scope(|scope| {
        scope.spawn(|| {
            sleep(40);
            c.write(b"x").is(1);
        });
        let mut r = set(&[&s]);
        select(ALL, Some(&mut r), None, None, LONG).is(1);
    });
}

fn pselect(r: &mut libc::fd_set, t: &libc::timespec) -> R {
    sys!(libc::pselect(ALL, &raw mut *r, std::ptr::null_mut(), std::ptr::null_mut(), t, std::ptr::null()))
}

fn pselect_plain(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    let mut r = set(&[&s]);
    pselect(&mut r, &libc::timespec { tv_sec: 10, tv_nsec: 0 }).is(1);
    assert!(has(&r, &s));
}

fn pselect_keeps_timeout(net: Net) {
    let (_c, s) = pair(net);
    let mut r = set(&[&s]);
    let t = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    pselect(&mut r, &t).is(0);
    assert_eq!(t.tv_nsec, 20_000_000);
}

fn pselect_bad_timeout() {
    pselect(&mut set(&[]), &libc::timespec { tv_sec: 0, tv_nsec: -1 }).fails(EINVAL);
}
