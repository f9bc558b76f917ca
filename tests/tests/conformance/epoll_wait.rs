//! Waiting on epoll: nested, from several threads, changed while somebody waits, and the newer calls.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::cases;
use crate::epoll::{ET, Ep, HUP, IN, ONESHOT, OUT, RDHUP};
use crate::net::{LIMIT, QUIET, listener, pair, sleep, take, udp_pair, wait, wait_in};
use crate::poll::{eventfd, kick, pipe};
use crate::sys::{Fd, Net, R, sys};
use libc::{EINVAL, EPOLL_CTL_ADD, POLLIN};

cases! {
    one: [nested_loop, nested_too_deep, pwait2_bad_timeout, pwait2_timeout],
    net: [
        nested, nested_edge, nested_in_poll, nested_mixed, nested_close_inner, add_while_waiting, mod_while_waiting, del_while_waiting,
        close_while_waiting, shutdown_while_waiting, fin_while_waiting, reset_while_waiting, connect_while_waiting, accept_while_waiting,
        edge_wakes_one, level_wakes, oneshot_wakes_one, threads_share_work, threads_with_own_epolls, pwait_plain, pwait2_plain, pwait2_short,
        echo_server, edge_echo_server, waiter_and_reader, wait_during_bulk, many_epolls, epoll_and_poll_together, udp_while_waiting, infinite,
        kernel_event_while_spinning, writer_wakes_by_drain,
    ],
}

fn nested(net: Net) {
    let (c, s) = pair(net);
    let (inner, outer) = (Ep::new(), Ep::new());
    inner.add(&s, IN);
    outer.add(&inner.0, IN);
    outer.quiet();
    c.write(b"x").is(1);
    outer.gives(&inner.0, IN);
    inner.gives(&s, IN);
    take(&s, 1);
    outer.quiet();
}

fn nested_edge(net: Net) {
    let (c, s) = pair(net);
    let (inner, outer) = (Ep::new(), Ep::new());
    inner.add(&s, IN);
    outer.add(&inner.0, IN | ET);
    c.write(b"x").is(1);
    outer.gives(&inner.0, IN);
    outer.quiet();
    c.write(b"y").is(1);
    outer.gives(&inner.0, IN);
}

fn nested_in_poll(net: Net) {
    let (c, s) = pair(net);
    let (inner, outer) = (Ep::new(), Ep::new());
    inner.add(&s, IN);
    outer.add(&inner.0, IN);
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(wait(&outer.0, POLLIN), POLLIN));
        sleep(40);
        c.write(b"x").is(1);
    });
}

fn nested_mixed(net: Net) {
    let (c, s) = pair(net);
    let ev = eventfd();
    let (inner, outer) = (Ep::new(), Ep::new());
    inner.add(&ev, IN);
    outer.add(&inner.0, IN);
    outer.add(&s, IN);
    kick(&ev);
    outer.gives(&inner.0, IN);
    ev.read(&mut [0; 8]).is(8);
    c.write(b"x").is(1);
    outer.gives(&s, IN);
}

fn nested_close_inner(net: Net) {
    let (c, s) = pair(net);
    let (inner, outer) = (Ep::new(), Ep::new());
    inner.add(&s, IN);
    outer.add(&inner.0, IN);
    c.write(b"x").is(1);
    outer.gives(&inner.0, IN);
    inner.0.close().is(0);
    outer.quiet();
}

fn nested_loop() {
    let (a, b) = (Ep::new(), Ep::new());
    a.add(&b.0, IN);
    b.ctl(EPOLL_CTL_ADD, a.0.raw(), IN, 0).fails(libc::ELOOP);
}

fn nested_too_deep() {
    let all: Vec<Ep> = (0..7).map(|_| Ep::new()).collect();
    let mut last = 0;
    for pair in all.windows(2) {
        match pair[1].ctl(EPOLL_CTL_ADD, pair[0].0.raw(), IN, 0).get() {
            Ok(_) => {}
            Err(e) => {
                last = e;
                break;
            }
        }
    }
    assert_eq!(last, libc::ELOOP);
}

/// Runs `act` while another thread waits on `e`; what that got.
fn meanwhile(e: &Ep, timeout: i32, act: impl FnOnce()) -> Vec<(u64, u32)> {
    thread::scope(|scope| {
        let t = scope.spawn(|| e.wait(8, timeout));
        sleep(50);
        act();
        t.join().expect("waiter")
    })
}

fn add_while_waiting(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    let got = meanwhile(&e, LIMIT, || e.add(&c, OUT));
    assert_eq!(got, [(c.raw() as u64, OUT)]);
}

fn mod_while_waiting(net: Net) {
    let (_c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    let got = meanwhile(&e, LIMIT, || e.modify(&s, OUT));
    assert_eq!(got, [(s.raw() as u64, OUT)]);
}

fn del_while_waiting(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    let got = meanwhile(&e, 50 + 3 * QUIET, || {
        e.del(&s);
        c.write(b"x").is(1);
    });
    assert_eq!(got, []);
}

fn close_while_waiting(net: Net) {
    let (c, s) = pair(net);
    let (c2, s2) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    e.add(&s2, IN);
    // The closed one leaves without a word; the other still wakes.
    let got = meanwhile(&e, LIMIT, || {
        s.close().is(0);
        let _ = c.send(b"x", libc::MSG_NOSIGNAL);
        sleep(30);
        c2.write(b"x").is(1);
    });
    assert_eq!(got, [(s2.raw() as u64, IN)]);
}

fn shutdown_while_waiting(net: Net) {
    let (_c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN | RDHUP);
    let got = meanwhile(&e, LIMIT, || s.shutdown(libc::SHUT_RDWR).is(0));
    assert_eq!(got, [(s.raw() as u64, IN | RDHUP | HUP)]);
}

fn fin_while_waiting(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN | RDHUP);
    let got = meanwhile(&e, LIMIT, || c.close().is(0));
    assert_eq!(got, [(s.raw() as u64, IN | RDHUP)]);
}

fn reset_while_waiting(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    c.set(libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 }).is(0);
    let got = meanwhile(&e, LIMIT, || c.close().is(0));
    assert_eq!(got.len(), 1);
    assert_ne!(got[0].1 & libc::EPOLLERR as u32, 0, "{got:x?}");
}

fn connect_while_waiting(net: Net) {
    let (_l, at) = listener(net);
    let c = net.tcp();
    c.nonblock(true);
    let e = Ep::new();
    e.add(&c, IN | OUT | ET);
    assert_eq!(e.wait(4, LIMIT), [(c.raw() as u64, OUT | HUP)]);
    let got = meanwhile(&e, LIMIT, || c.connect(&at).fails(libc::EINPROGRESS));
    assert_eq!(got, [(c.raw() as u64, OUT)]);
}

fn accept_while_waiting(net: Net) {
    let (l, at) = listener(net);
    let e = Ep::new();
    e.add(&l, IN);
    let c = net.tcp();
    let got = meanwhile(&e, LIMIT, || c.connect(&at).is(0));
    assert_eq!(got, [(l.raw() as u64, IN)]);
}

fn udp_while_waiting(net: Net) {
    let (a, b) = udp_pair(net);
    let e = Ep::new();
    e.add(&b, IN);
    let got = meanwhile(&e, LIMIT, || a.write(b"x").is(1));
    assert_eq!(got, [(b.raw() as u64, IN)]);
}

fn infinite(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    assert_eq!(meanwhile(&e, -1, || c.write(b"x").is(1)), [(s.raw() as u64, IN)]);
    assert_eq!(e.wait(4, -1), [(s.raw() as u64, IN)]);
}

/// How many of `n` threads waiting on `e` are given an event by `act` within a while.
fn woken(e: &Ep, n: usize, act: impl FnOnce()) -> usize {
    let count = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..n {
            scope.spawn(|| count.fetch_add(e.wait(1, 700).len(), Ordering::SeqCst));
        }
        sleep(100);
        act();
    });
    count.into_inner()
}

fn edge_wakes_one(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN | ET);
    assert_eq!(woken(&e, 3, || c.write(b"x").is(1)), 1);
}

fn oneshot_wakes_one(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN | ONESHOT);
    assert_eq!(woken(&e, 3, || c.write(b"x").is(1)), 1);
}

fn level_wakes(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    assert!(woken(&e, 3, || c.write(b"x").is(1)) >= 1);
}

fn threads_share_work(net: Net) {
    let (l, at) = listener(net);
    let all: Vec<(Fd, Fd)> = (0..12)
        .map(|_| {
            let c = net.tcp();
            c.connect(&at).is(0);
            (c, l.accept().fd())
        })
        .collect();
    let e = Ep::new();
    for (i, p) in all.iter().enumerate() {
        e.ctl(EPOLL_CTL_ADD, p.1.raw(), IN | ONESHOT, i as u64).is(0);
    }
    let got = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while got.load(Ordering::SeqCst) < 120 {
                    for (i, events) in e.wait(2, 50) {
                        assert_eq!(events, IN);
                        let s = &all[i as usize].1;
                        take(s, 1);
                        got.fetch_add(1, Ordering::SeqCst);
                        e.ctl(libc::EPOLL_CTL_MOD, s.raw(), IN | ONESHOT, i).is(0);
                    }
                }
            });
        }
        for _ in 0..10 {
            for (c, _) in &all {
                c.write(b"x").is(1);
            }
        }
    });
    assert_eq!(got.into_inner(), 120);
}

fn threads_with_own_epolls(net: Net) {
    let (c, s) = pair(net);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let e = Ep::new();
                e.add(&s, IN);
                e.gives(&s, IN);
            });
        }
        sleep(60);
        c.write(b"x").is(1);
    });
}

fn pwait_plain(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    c.write(b"x").is(1);
    let mut one = [libc::epoll_event { events: 0, u64: 0 }; 2];
    sys!(libc::epoll_pwait(e.0.raw(), one.as_mut_ptr(), 2, LIMIT, std::ptr::null())).is(1);
    let events = one[0].events;
    assert_eq!(events, IN);
}

// glibc 2.35; the libc crate has no binding for this target.
unsafe extern "C" {
    fn epoll_pwait2(
        epfd: i32,
        events: *mut libc::epoll_event,
        max: i32,
        timeout: *const libc::timespec,
        mask: *const libc::sigset_t,
    ) -> i32;
}

fn pwait2(e: &Ep, sec: i64, nsec: i64) -> R {
    let mut one = [libc::epoll_event { events: 0, u64: 0 }; 2];
    let t = libc::timespec { tv_sec: sec, tv_nsec: nsec };
    sys!(epoll_pwait2(e.0.raw(), one.as_mut_ptr(), 2, &t, std::ptr::null()))
}

fn pwait2_plain(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    c.write(b"x").is(1);
    pwait2(&e, 10, 0).is(1);
    let mut one = [libc::epoll_event { events: 0, u64: 0 }; 2];
    sys!(epoll_pwait2(e.0.raw(), one.as_mut_ptr(), 2, std::ptr::null(), std::ptr::null())).is(1);
}

fn pwait2_short(net: Net) {
    let (_c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    pwait2(&e, 0, 200_000).is(0);
    pwait2(&e, 0, 0).is(0);
}

fn pwait2_timeout() {
    let e = Ep::new();
    let start = std::time::Instant::now();
    pwait2(&e, 0, 30_000_000).is(0);
    assert!(start.elapsed().as_millis() >= 29);
}

fn pwait2_bad_timeout() {
    let e = Ep::new();
    pwait2(&e, 0, 1_000_000_000).fails(EINVAL);
    pwait2(&e, -1, 0).fails(EINVAL);
}

/// A single-threaded echo server over epoll, for `n` clients of `rounds` messages each.
fn serve(net: Net, edge: u32) {
    let (l, at) = listener(net);
    let (n, rounds) = (6, 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            let e = Ep::new();
            l.nonblock(true);
            e.add(&l, IN | edge);
            let mut open: Vec<Fd> = Vec::new();
            let mut ended = 0;
            while ended < n {
                let all = e.wait(4, LIMIT);
                assert!(!all.is_empty(), "{ended} ended");
                for (data, _) in all {
                    if data == l.raw() as u64 {
                        while let Ok(fd) = l.accept().get() {
                            let s = Fd(fd as i32);
                            s.nonblock(true);
                            e.add(&s, IN | edge);
                            open.push(s);
                        }
                        continue;
                    }
                    let at = open.iter().position(|s| s.raw() as u64 == data).expect("ours");
                    let mut room = [0; 64];
                    loop {
                        match open[at].recv(&mut room, 0).get() {
                            Ok(0) => {
                                open.remove(at);
                                ended += 1;
                                break;
                            }
                            Ok(k) => open[at].send(&room[..k as usize], 0).is(k),
                            Err(e) => break assert_eq!(e, libc::EAGAIN),
                        }
                    }
                }
            }
        });
        for i in 0..n {
            let at = &at;
            scope.spawn(move || {
                let c = net.tcp();
                c.connect(at).is(0);
                for r in 0..rounds {
                    let m = [i as u8, r, 7];
                    c.write(&m).is(3);
                    assert_eq!(crate::net::take_all(&c, 3), m);
                }
            });
        }
    });
}

fn echo_server(net: Net) {
    serve(net, 0);
}

fn edge_echo_server(net: Net) {
    serve(net, ET);
}

fn waiter_and_reader(net: Net) {
    // One thread waits, another reads; the waiter may be woken for nothing but never hangs.
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..50 {
                take(&s, 1);
            }
            c.shutdown(libc::SHUT_WR).is(0);
        });
        scope.spawn(|| {
            for _ in 0..50 {
                c.write(b"x").is(1);
            }
        });
        loop {
            let got = e.wait(4, LIMIT);
            assert!(!got.is_empty());
            if s.recv(&mut [0; 1], libc::MSG_PEEK | libc::MSG_DONTWAIT).get() == Ok(0) {
                break;
            }
        }
    });
}

fn wait_during_bulk(net: Net) {
    let (c, s) = pair(net);
    let data = crate::net::pattern(4 << 20);
    let ev = eventfd();
    let e = Ep::new();
    s.nonblock(true);
    e.add(&s, IN);
    e.add(&ev, IN);
    thread::scope(|scope| {
        scope.spawn(|| {
            crate::net::put_all(&c, &data);
            kick(&ev);
            c.shutdown(libc::SHUT_WR).is(0);
        });
        let mut got = Vec::new();
        let mut kicked = false;
        let mut room = vec![0; 65536];
        'all: loop {
            for (fd, _) in e.wait(4, LIMIT) {
                if fd == ev.raw() as u64 {
                    ev.read(&mut [0; 8]).is(8);
                    kicked = true;
                    continue;
                }
                match s.recv(&mut room, 0).get() {
                    Ok(0) => break 'all,
                    Ok(n) => got.extend_from_slice(&room[..n as usize]),
                    Err(e) => assert_eq!(e, libc::EAGAIN),
                }
            }
        }
        assert!(got == data);
        if !kicked {
            wait_in(&ev);
        }
    });
}

fn many_epolls(net: Net) {
    let (c, s) = pair(net);
    let all: Vec<Ep> = (0..40).map(|_| Ep::new()).collect();
    all.iter().for_each(|e| e.add(&s, IN));
    c.write(b"x").is(1);
    all.iter().for_each(|e| e.gives(&s, IN));
    take(&s, 1);
    all.iter().for_each(|e| assert_eq!(e.wait(4, 0), []));
}

fn epoll_and_poll_together(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN | ET);
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(s.poll(POLLIN, LIMIT), POLLIN));
        scope.spawn(|| e.gives(&s, IN));
        sleep(50);
        c.write(b"x").is(1);
    });
}

fn kernel_event_while_spinning(net: Net) {
    // A steady stream of socket events, all of them consumed, does not keep a pipe's from coming through.
    let (c, s) = pair(net);
    let (r, w) = pipe();
    let e = Ep::new();
    e.add(&s, IN);
    e.add(&r, IN);
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while done.load(Ordering::SeqCst) == 0 {
                c.write(b"x").is(1);
            }
        });
        scope.spawn(|| {
            sleep(60);
            w.write(b"x").is(1);
        });
        let mut room = [0; 4096];
        'all: loop {
            for (fd, _) in e.wait(1, LIMIT) {
                if fd == r.raw() as u64 {
                    break 'all;
                }
                s.recv(&mut room, 0).ok();
            }
        }
        done.store(1, Ordering::SeqCst);
        // The writer may be stuck in a full queue.
        while s.poll(POLLIN, QUIET) != 0 {
            s.recv(&mut room, 0).ok();
        }
    });
}

fn writer_wakes_by_drain(net: Net) {
    let (c, s) = pair(net);
    crate::net::fill(&c);
    let e = Ep::new();
    e.add(&c, OUT);
    let mut room = vec![0; 1 << 20];
    let got = meanwhile(&e, LIMIT, || while s.recv(&mut room, libc::MSG_DONTWAIT).get().is_ok() || c.poll(libc::POLLOUT, 20) == 0 {});
    assert_eq!(got, [(c.raw() as u64, OUT)]);
    drop(room);
}
