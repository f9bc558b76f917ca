//! epoll(7): level, edge, oneshot, what ctl refuses, and what closing and duplicating do.

use crate::cases;
use crate::net::{LIMIT, QUIET, bound_udp, fill, listener, nobody, pair, put_all, sleep, take, take_all, udp_pair, wait, wait_in};
use crate::poll::{eventfd, kick, pipe, timerfd, unixpair};
use crate::sys::{Fd, Net, R, sys};
use libc::{EINVAL, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, POLLIN, SOL_SOCKET};

pub(crate) const IN: u32 = libc::EPOLLIN as u32;
pub(crate) const OUT: u32 = libc::EPOLLOUT as u32;
pub(crate) const ERR: u32 = libc::EPOLLERR as u32;
pub(crate) const HUP: u32 = libc::EPOLLHUP as u32;
pub(crate) const RDHUP: u32 = libc::EPOLLRDHUP as u32;
pub(crate) const ET: u32 = libc::EPOLLET as u32;
pub(crate) const ONESHOT: u32 = libc::EPOLLONESHOT as u32;
pub(crate) const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;

cases! {
    one: [],
    net: [
        add_twice, mod_and_del_unknown, del_null_event, level_repeats, level_until_drained, out_at_once, in_and_out_together, data_is_kept,
        mod_changes_data, mod_changes_events, del_stops, edge_once, edge_again_on_new_data, edge_rearmed_by_mod, edge_present_at_add, edge_out_once,
        edge_out_after_full, edge_no_event_for_read, edge_listener, edge_connect, edge_hangup, oneshot_once, oneshot_rearmed, oneshot_hup_is_silent,
        exclusive_rules, exclusive_delivers, rdhup, rdhup_only_if_asked, hup_without_asking, err_on_refused, fresh_tcp_is_hup, events_zero_gets_reset,
        maxevents, maxevents_is_fair, close_removes, close_with_dup_stays, del_after_close, readd_same_number, dup_is_another, two_epolls_one_socket,
        dup_of_epfd, mixed_kinds, mixed_wakes_by_pipe, mixed_wakes_by_socket, mixed_is_fair, timerfd_beside, unix_beside, udp_edge_each, udp_level,
        poll_on_epfd, empty_epfd_is_quiet, wakeup_flag, unknown_bits_ignored, accept_and_add, ready_taken_by_other, order_of_many, rcvlowat,
        shutdown_own_side, error_read_clears,
    ],
}

/// An epoll instance.
pub(crate) struct Ep(pub(crate) Fd);

impl Ep {
    pub(crate) fn new() -> Self {
        Self(sys!(libc::epoll_create1(libc::EPOLL_CLOEXEC)).fd())
    }
    pub(crate) fn ctl(&self, op: i32, fd: i32, events: u32, data: u64) -> R {
        let mut e = libc::epoll_event { events, u64: data };
        sys!(libc::epoll_ctl(self.0.raw(), op, fd, &raw mut e))
    }
    /// Adds `fd` with its number as data.
    #[track_caller]
    pub(crate) fn add(&self, fd: &Fd, events: u32) {
        self.ctl(EPOLL_CTL_ADD, fd.raw(), events, fd.raw() as u64).is(0);
    }
    #[track_caller]
    pub(crate) fn modify(&self, fd: &Fd, events: u32) {
        self.ctl(EPOLL_CTL_MOD, fd.raw(), events, fd.raw() as u64).is(0);
    }
    #[track_caller]
    pub(crate) fn del(&self, fd: &Fd) {
        self.ctl(EPOLL_CTL_DEL, fd.raw(), 0, 0).is(0);
    }
    /// One epoll_wait for up to `max` events: (data, events).
    #[track_caller]
    pub(crate) fn wait(&self, max: usize, timeout: i32) -> Vec<(u64, u32)> {
        let mut all = vec![libc::epoll_event { events: 0, u64: 0 }; max];
        let n = sys!(libc::epoll_wait(self.0.raw(), all.as_mut_ptr(), max as i32, timeout)).ok() as usize;
        all[..n].iter().map(|e| (e.u64, e.events)).collect()
    }
    /// Exactly one event comes: this.
    #[track_caller]
    pub(crate) fn gives(&self, fd: &Fd, events: u32) {
        assert_eq!(self.wait(16, LIMIT), [(fd.raw() as u64, events)]);
    }
    /// Waits until `fd`, which must be the only one ready, shows exactly these; for states that come about in steps.
    #[track_caller]
    pub(crate) fn reaches(&self, fd: &Fd, events: u32) {
        let mut last = Vec::new();
        let came = crate::net::eventually(|| {
            last = self.wait(16, 0);
            last == [(fd.raw() as u64, events)]
        });
        assert!(came, "{last:x?}, expected {events:#x}");
    }
    #[track_caller]
    pub(crate) fn quiet(&self) {
        assert_eq!(self.wait(16, QUIET), []);
    }
}

fn add_twice(net: Net) {
    let (c, _s) = pair(net);
    let e = Ep::new();
    e.add(&c, IN);
    e.ctl(EPOLL_CTL_ADD, c.raw(), OUT, 0).fails(libc::EEXIST);
}

fn mod_and_del_unknown(net: Net) {
    let (c, _s) = pair(net);
    let e = Ep::new();
    e.ctl(EPOLL_CTL_MOD, c.raw(), OUT, 0).fails(libc::ENOENT);
    e.ctl(EPOLL_CTL_DEL, c.raw(), OUT, 0).fails(libc::ENOENT);
}

fn del_null_event(net: Net) {
    let (c, _s) = pair(net);
    let e = Ep::new();
    e.add(&c, OUT);
    sys!(libc::epoll_ctl(e.0.raw(), EPOLL_CTL_DEL, c.raw(), std::ptr::null_mut())).is(0);
    e.quiet();
}

fn level_repeats(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    e.quiet();
    c.write(b"x").is(1);
    for _ in 0..3 {
        e.gives(&s, IN);
    }
}

fn level_until_drained(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    c.write(b"xy").is(2);
    e.gives(&s, IN);
    take(&s, 1);
    e.gives(&s, IN);
    take(&s, 9);
    e.quiet();
}

fn out_at_once(net: Net) {
    let (c, _s) = pair(net);
    let e = Ep::new();
    e.add(&c, OUT);
    e.gives(&c, OUT);
    e.gives(&c, OUT);
}

fn in_and_out_together(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    wait_in(&s);
    let e = Ep::new();
    e.add(&s, IN | OUT);
    e.gives(&s, IN | OUT);
}

fn data_is_kept(net: Net) {
    let (c, _s) = pair(net);
    let e = Ep::new();
    e.ctl(EPOLL_CTL_ADD, c.raw(), OUT, 0xdead_beef_0123_4567).is(0);
    assert_eq!(e.wait(4, LIMIT), [(0xdead_beef_0123_4567, OUT)]);
}

fn mod_changes_data(net: Net) {
    let (c, _s) = pair(net);
    let e = Ep::new();
    e.ctl(EPOLL_CTL_ADD, c.raw(), OUT, 1).is(0);
    e.ctl(EPOLL_CTL_MOD, c.raw(), OUT, 2).is(0);
    assert_eq!(e.wait(4, LIMIT), [(2, OUT)]);
}

fn mod_changes_events(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, OUT);
    e.gives(&s, OUT);
    e.modify(&s, IN);
    e.quiet();
    c.write(b"x").is(1);
    e.gives(&s, IN);
    e.modify(&s, 0);
    e.quiet();
}

fn del_stops(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    c.write(b"x").is(1);
    e.gives(&s, IN);
    e.del(&s);
    e.quiet();
    e.add(&s, IN);
    e.gives(&s, IN);
}

fn edge_once(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN | ET);
    c.write(b"x").is(1);
    e.gives(&s, IN);
    e.quiet();
}

fn edge_again_on_new_data(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN | ET);
    for _ in 0..3 {
        c.write(b"x").is(1);
        e.gives(&s, IN);
    }
    assert_eq!(take_all(&s, 3), b"xxx");
    e.quiet();
}

fn edge_rearmed_by_mod(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN | ET);
    c.write(b"x").is(1);
    e.gives(&s, IN);
    e.quiet();
    e.modify(&s, IN | ET);
    e.gives(&s, IN);
    e.quiet();
}

fn edge_present_at_add(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    wait_in(&s);
    let e = Ep::new();
    e.add(&s, IN | ET);
    e.gives(&s, IN);
    e.quiet();
}

fn edge_out_once(net: Net) {
    let (c, _s) = pair(net);
    let e = Ep::new();
    e.add(&c, OUT | ET);
    e.gives(&c, OUT);
    e.quiet();
}

fn edge_out_after_full(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&c, OUT | ET);
    e.gives(&c, OUT);
    let total = fill(&c);
    while !e.wait(4, 0).is_empty() {}
    take_all(&s, total);
    e.gives(&c, OUT);
}

fn edge_no_event_for_read(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN | ET);
    c.write(b"xyz").is(3);
    e.gives(&s, IN);
    take(&s, 1);
    e.quiet();
    take(&s, 1);
    e.quiet();
}

fn edge_listener(net: Net) {
    let (l, at) = listener(net);
    let e = Ep::new();
    e.add(&l, IN | ET);
    let (a, b) = (net.tcp(), net.tcp());
    a.connect(&at).is(0);
    e.gives(&l, IN);
    e.quiet();
    b.connect(&at).is(0);
    e.gives(&l, IN);
    let _s = l.accept().fd();
    let _t = l.accept().fd();
    e.quiet();
}

fn edge_connect(net: Net) {
    let (_l, at) = listener(net);
    let c = net.tcp();
    let e = Ep::new();
    c.nonblock(true);
    e.add(&c, IN | OUT | ET);
    e.gives(&c, OUT | HUP);
    c.connect(&at).fails(libc::EINPROGRESS);
    e.gives(&c, OUT);
    e.quiet();
}

fn edge_hangup(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN | RDHUP | ET);
    c.shutdown(libc::SHUT_WR).is(0);
    e.gives(&s, IN | RDHUP);
    e.quiet();
}

fn oneshot_once(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN | ONESHOT);
    c.write(b"x").is(1);
    e.gives(&s, IN);
    c.write(b"y").is(1);
    e.quiet();
}

fn oneshot_rearmed(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN | ONESHOT);
    c.write(b"x").is(1);
    e.gives(&s, IN);
    e.modify(&s, IN | ONESHOT);
    e.gives(&s, IN);
    e.quiet();
    e.ctl(EPOLL_CTL_ADD, s.raw(), IN, 0).fails(libc::EEXIST);
}

fn oneshot_hup_is_silent(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN | ONESHOT);
    c.write(b"x").is(1);
    e.gives(&s, IN);
    c.set(SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 }).is(0);
    c.close().is(0);
    e.quiet();
}

fn exclusive_rules(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.ctl(EPOLL_CTL_ADD, c.raw(), IN | EXCLUSIVE | ONESHOT, 0).fails(EINVAL);
    e.ctl(EPOLL_CTL_ADD, c.raw(), IN | EXCLUSIVE | RDHUP, 0).fails(EINVAL);
    e.add(&c, IN | EXCLUSIVE | ET);
    e.ctl(EPOLL_CTL_MOD, c.raw(), IN, 0).fails(EINVAL);
    e.add(&s, IN);
    e.ctl(EPOLL_CTL_MOD, s.raw(), IN | EXCLUSIVE, 0).fails(EINVAL);
    let inner = Ep::new();
    e.ctl(EPOLL_CTL_ADD, inner.0.raw(), IN | EXCLUSIVE, 0).fails(EINVAL);
}

fn exclusive_delivers(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN | EXCLUSIVE);
    c.write(b"x").is(1);
    e.gives(&s, IN);
    e.gives(&s, IN);
}

fn rdhup(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, RDHUP);
    c.write(b"x").is(1);
    e.quiet();
    c.shutdown(libc::SHUT_WR).is(0);
    e.gives(&s, RDHUP);
}

fn rdhup_only_if_asked(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    c.shutdown(libc::SHUT_WR).is(0);
    e.gives(&s, IN);
}

fn hup_without_asking(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, 0);
    c.shutdown(libc::SHUT_WR).is(0);
    e.quiet();
    s.shutdown(libc::SHUT_WR).is(0);
    e.gives(&s, HUP);
}

fn err_on_refused(net: Net) {
    let c = net.tcp();
    let e = Ep::new();
    c.nonblock(true).connect(&nobody(net, libc::SOCK_STREAM)).fails(libc::EINPROGRESS);
    e.add(&c, IN | OUT | RDHUP);
    e.reaches(&c, IN | OUT | ERR | HUP | RDHUP);
    assert_eq!(c.error(), libc::ECONNREFUSED);
    e.gives(&c, IN | OUT | HUP | RDHUP);
}

fn fresh_tcp_is_hup(net: Net) {
    let c = net.tcp();
    let e = Ep::new();
    e.add(&c, IN | OUT);
    e.gives(&c, OUT | HUP);
}

fn reset(fd: Fd) {
    fd.set(SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 }).is(0);
    fd.close().is(0);
}

fn events_zero_gets_reset(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, 0);
    reset(c);
    e.reaches(&s, ERR | HUP);
}

fn error_read_clears(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    reset(c);
    e.reaches(&s, IN | ERR | HUP);
    s.recv(&mut [0; 4], 0).fails(libc::ECONNRESET);
    e.gives(&s, IN | HUP);
}

/// `n` pairs whose accepted ends are readable.
fn readable(net: Net, n: usize) -> Vec<(Fd, Fd)> {
    let (l, at) = listener(net);
    (0..n)
        .map(|_| {
            let c = net.tcp();
            c.connect(&at).is(0);
            let s = l.accept().fd();
            c.write(b"x").is(1);
            wait_in(&s);
            (c, s)
        })
        .collect()
}

fn maxevents(net: Net) {
    let all = readable(net, 5);
    let e = Ep::new();
    all.iter().for_each(|p| e.add(&p.1, IN));
    assert_eq!(e.wait(3, LIMIT).len(), 3);
    assert_eq!(e.wait(16, LIMIT).len(), 5);
}

fn maxevents_is_fair(net: Net) {
    let all = readable(net, 4);
    let e = Ep::new();
    all.iter().for_each(|p| e.add(&p.1, IN));
    let mut seen: Vec<u64> = (0..4).map(|_| e.wait(1, LIMIT)[0].0).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 4, "what is ready takes turns");
}

fn mixed_is_fair(net: Net) {
    let all = readable(net, 2);
    let (r, w) = pipe();
    w.write(b"x").is(1);
    let ev = eventfd();
    kick(&ev);
    let e = Ep::new();
    all.iter().for_each(|p| e.add(&p.1, IN));
    e.add(&r, IN);
    e.add(&ev, IN);
    let mut seen = Vec::new();
    for _ in 0..16 {
        seen.push(e.wait(1, LIMIT)[0].0);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 4, "neither side starves the other");
}

fn close_removes(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN | OUT);
    e.gives(&s, OUT);
    s.close().is(0);
    e.quiet();
    drop(c);
}

fn close_with_dup_stays(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    let number = s.raw() as u64;
    let copy = sys!(libc::dup(s.raw())).fd();
    s.close().is(0);
    c.write(b"x").is(1);
    assert_eq!(e.wait(4, LIMIT), [(number, IN)], "the open description lives on");
    copy.close().is(0);
    e.quiet();
}

fn del_after_close(net: Net) {
    let (_c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, OUT);
    let number = s.raw();
    s.close().is(0);
    e.ctl(EPOLL_CTL_DEL, number, 0, 0).fails(libc::EBADF);
}

fn readd_same_number(net: Net) {
    let (c, s) = pair(net);
    let (c2, s2) = pair(net);
    let e = Ep::new();
    let number = s.raw();
    e.add(&s, IN);
    s.close().is(0);
    sys!(libc::dup2(s2.raw(), number)).is(number as isize);
    let s3 = Fd(number);
    e.add(&s3, IN);
    e.quiet();
    c2.write(b"x").is(1);
    e.gives(&s3, IN);
    drop(c);
}

fn dup_is_another(net: Net) {
    let (c, s) = pair(net);
    let copy = sys!(libc::dup(s.raw())).fd();
    let e = Ep::new();
    e.add(&s, IN);
    e.add(&copy, IN);
    c.write(b"x").is(1);
    wait_in(&s);
    let mut got = e.wait(4, LIMIT);
    got.sort_unstable();
    let mut want = [(s.raw() as u64, IN), (copy.raw() as u64, IN)];
    want.sort_unstable();
    assert_eq!(got, want);
}

fn two_epolls_one_socket(net: Net) {
    let (c, s) = pair(net);
    let (e, f) = (Ep::new(), Ep::new());
    e.add(&s, IN);
    f.add(&s, IN | ET);
    c.write(b"x").is(1);
    e.gives(&s, IN);
    f.gives(&s, IN);
    f.quiet();
    e.gives(&s, IN);
}

fn dup_of_epfd(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    let f = Ep(sys!(libc::dup(e.0.raw())).fd());
    e.add(&s, IN);
    c.write(b"x").is(1);
    f.gives(&s, IN);
    f.del(&s);
    e.quiet();
    e.0.close().is(0);
    f.add(&s, IN);
    f.gives(&s, IN);
}

fn mixed_kinds(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    let ev = eventfd();
    let e = Ep::new();
    for fd in [&s, &r, &ev] {
        e.add(fd, IN);
    }
    e.quiet();
    c.write(b"x").is(1);
    e.gives(&s, IN);
    take(&s, 1);
    w.write(b"x").is(1);
    e.gives(&r, IN);
    kick(&ev);
    c.write(b"x").is(1);
    wait_in(&s);
    let mut got = e.wait(8, LIMIT);
    got.sort_unstable();
    let mut want = [&s, &r, &ev].map(|fd| (fd.raw() as u64, IN));
    want.sort_unstable();
    assert_eq!(got, want);
}

/// Waits on both while `act` readies one; which it was.
fn woken(a: &Fd, b: &Fd, act: impl FnOnce()) -> Vec<(u64, u32)> {
    let e = Ep::new();
    e.add(a, IN);
    e.add(b, IN);
    std::thread::scope(|scope| {
        let t = scope.spawn(|| e.wait(8, LIMIT));
        sleep(40);
        act();
        t.join().expect("waiter")
    })
}

fn mixed_wakes_by_pipe(net: Net) {
    let (_c, s) = pair(net);
    let (r, w) = pipe();
    assert_eq!(woken(&s, &r, || w.write(b"x").is(1)), [(r.raw() as u64, IN)]);
}

fn mixed_wakes_by_socket(net: Net) {
    let (c, s) = pair(net);
    let (r, _w) = pipe();
    assert_eq!(woken(&s, &r, || c.write(b"x").is(1)), [(s.raw() as u64, IN)]);
}

fn timerfd_beside(net: Net) {
    let (_c, s) = pair(net);
    let t = timerfd(50);
    assert_eq!(woken(&s, &t, || ()), [(t.raw() as u64, IN)]);
}

fn unix_beside(net: Net) {
    let (_c, s) = pair(net);
    let (x, y) = unixpair();
    assert_eq!(woken(&s, &x, || y.write(b"x").is(1)), [(x.raw() as u64, IN)]);
}

fn udp_edge_each(net: Net) {
    let (a, b) = udp_pair(net);
    let e = Ep::new();
    e.add(&b, IN | ET);
    for _ in 0..3 {
        a.write(b"x").is(1);
        e.gives(&b, IN);
    }
    e.quiet();
}

fn udp_level(net: Net) {
    let (a, b) = udp_pair(net);
    let e = Ep::new();
    e.add(&b, IN | OUT);
    e.gives(&b, OUT);
    a.write(b"x").is(1);
    wait_in(&b);
    e.gives(&b, IN | OUT);
    take(&b, 1);
    e.gives(&b, OUT);
    assert_eq!(bound_udp(net).0.ready(), libc::POLLOUT);
}

fn poll_on_epfd(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    assert_eq!(e.0.poll(POLLIN | libc::POLLOUT, 0), 0);
    c.write(b"x").is(1);
    assert_eq!(wait(&e.0, POLLIN), POLLIN);
    take(&s, 1);
    assert_eq!(e.0.poll(POLLIN, 0), 0);
}

fn empty_epfd_is_quiet(net: Net) {
    let e = Ep::new();
    e.quiet();
    let (c, _s) = pair(net);
    e.add(&c, 0);
    e.quiet();
    e.0.read(&mut [0; 4]).fails(EINVAL);
    e.0.write(b"x").fails(EINVAL);
}

fn wakeup_flag(net: Net) {
    let (c, _s) = pair(net);
    let e = Ep::new();
    e.add(&c, OUT | libc::EPOLLWAKEUP as u32);
    e.gives(&c, OUT);
}

fn unknown_bits_ignored(net: Net) {
    let (c, _s) = pair(net);
    let e = Ep::new();
    e.add(&c, OUT | 0x0100_0000);
    e.gives(&c, OUT);
}

fn accept_and_add(net: Net) {
    let (l, at) = listener(net);
    let e = Ep::new();
    e.add(&l, IN);
    let mut served = Vec::new();
    let clients: Vec<Fd> = (0..5)
        .map(|i| {
            let c = net.tcp();
            c.connect(&at).is(0);
            c.write(&[i]).is(1);
            c
        })
        .collect();
    let mut conns: Vec<Fd> = Vec::new();
    while served.len() < 5 {
        for (data, events) in e.wait(8, LIMIT) {
            assert_eq!(events, IN);
            if data == l.raw() as u64 {
                let s = l.accept().fd();
                e.add(&s, IN);
                conns.push(s);
            } else {
                let s = conns.iter().find(|s| s.raw() as u64 == data).expect("ours");
                served.extend(take(s, 1));
            }
        }
    }
    served.sort_unstable();
    assert_eq!(served, [0, 1, 2, 3, 4]);
    drop(clients);
}

fn ready_taken_by_other(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    c.write(b"x").is(1);
    wait_in(&s);
    take(&s, 1);
    e.quiet();
}

fn order_of_many(net: Net) {
    let (l, at) = listener(net);
    let e = Ep::new();
    let all: Vec<(Fd, Fd)> = (0..50)
        .map(|_| {
            let c = net.tcp();
            c.connect(&at).is(0);
            let s = l.accept().fd();
            e.add(&s, IN | ET);
            (c, s)
        })
        .collect();
    for (c, _) in &all {
        put_all(c, b"x");
    }
    let mut seen = Vec::new();
    while seen.len() < 50 {
        let got = e.wait(7, LIMIT);
        assert!(!got.is_empty());
        seen.extend(got.iter().map(|g| g.0));
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 50, "each once, none lost");
}

fn rcvlowat(net: Net) {
    let (c, s) = pair(net);
    s.on(SOL_SOCKET, libc::SO_RCVLOWAT, 3);
    let e = Ep::new();
    e.add(&s, IN);
    c.write(b"xy").is(2);
    e.quiet();
    c.write(b"z").is(1);
    e.gives(&s, IN);
}

fn shutdown_own_side(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&c, IN | RDHUP | ET);
    e.quiet();
    c.shutdown(libc::SHUT_RD).is(0);
    e.gives(&c, IN | RDHUP);
    drop(s);
}
