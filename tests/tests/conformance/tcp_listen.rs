//! bind(2), listen(2), accept(2): who may have a port, how many may queue, what is inherited.

use std::mem;
use std::thread;

use crate::cases;
use crate::net::{listener, nobody, pair, quiet, sleep, take, until, wait, wait_in, wait_out};
use crate::sys::{Addr, Fd, Net, sys};
use libc::{EADDRINUSE, EADDRNOTAVAIL, EINVAL, POLLIN, POLLOUT, SO_REUSEADDR, SO_REUSEPORT, SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET};

cases! {
    one: [
        bad_fd, not_a_socket, bind_unspec_family, bind_v6_address_to_v4, bind_v4_address_to_v6, bind_two_127_addresses, bind_is_seen_by_all_of_127,
        bind_broadcast_tcp, bind_multicast_tcp,
    ],
    net: [
        bind_in_use, bind_both_reuseaddr, bind_reuseaddr_listening, bind_one_reuseaddr, bind_reuseport, bind_one_reuseport, bind_wildcard_conflicts,
        bind_not_ours, bind_twice, bind_short, bind_wrong_family, bind_null, bind_after_connect, bind_zero_differs, bind_after_close, bind_in_time_wait,
        bind_in_time_wait_reuseaddr, bind_beside_child, bind_beside_child_reuseaddr, listen_unbound, listen_udp, accept_udp, listen_connected,
        listen_again, bind_listening, listener_has_no_peer, listener_sends_nothing, shutdown_rd_stops_listening, shutdown_wr_does_nothing,
        shutdown_wakes_accept, listen_after_shutdown, accept_not_listening, accept_nonblocking_empty, accept4_flags, accept4_bad_flags,
        accept_does_not_inherit_nonblock, accept_inherits_options, accept_short_room, accept_negative_room, accept_null_length, accept_timeout,
        accept_closed_client, accept_reset_client, backlog_is_plus_one, backlog_zero, backlog_negative, backlog_raised, acceptconn, reuseport_shares,
        specific_beats_wildcard, readiness, emfile_socket, emfile_accept, many_acceptors, accepted_on_wildcard_has_address, close_listener_keeps_children,
        listen_conflict_of_reuseaddr, accept_from_blocked,
    ],
}

fn bad_fd() {
    let a = Net::V4.lo();
    sys!(libc::bind(-1, a.ptr(), a.len)).fails(libc::EBADF);
    sys!(libc::listen(777, 1)).fails(libc::EBADF);
    sys!(libc::accept(-1, std::ptr::null_mut(), std::ptr::null_mut())).fails(libc::EBADF);
    sys!(libc::accept4(777, std::ptr::null_mut(), std::ptr::null_mut(), 0)).fails(libc::EBADF);
}

fn not_a_socket() {
    let f = sys!(libc::open(c"/dev/null".as_ptr(), libc::O_RDWR)).fd();
    f.bind(&Net::V4.lo()).fails(libc::ENOTSOCK);
    f.listen(1).fails(libc::ENOTSOCK);
    f.accept().fails(libc::ENOTSOCK);
}

/// A socket bound to `a` with `option` on, or 0 for none.
fn bound(a: &Addr, option: i32) -> Fd {
    let fd = if a.family() == libc::AF_INET { Net::V4.tcp() } else { Net::V6.tcp() };
    if option != 0 {
        fd.on(SOL_SOCKET, option, 1);
    }
    fd.bind(a).is(0);
    fd
}

fn with(net: Net, option: i32) -> Fd {
    let fd = net.tcp();
    fd.on(SOL_SOCKET, option, 1);
    fd
}

fn bind_in_use(net: Net) {
    let a = bound(&net.lo(), 0);
    net.tcp().bind(&a.name()).fails(EADDRINUSE);
    a.listen(1).is(0);
    net.tcp().bind(&a.name()).fails(EADDRINUSE);
}

fn bind_both_reuseaddr(net: Net) {
    let a = bound(&net.lo(), SO_REUSEADDR);
    let _b = bound(&a.name(), SO_REUSEADDR);
}

fn listen_conflict_of_reuseaddr(net: Net) {
    let a = bound(&net.lo(), SO_REUSEADDR);
    let b = bound(&a.name(), SO_REUSEADDR);
    a.listen(1).is(0);
    b.listen(1).fails(EADDRINUSE);
}

fn bind_reuseaddr_listening(net: Net) {
    let a = bound(&net.lo(), SO_REUSEADDR);
    a.listen(1).is(0);
    with(net, SO_REUSEADDR).bind(&a.name()).fails(EADDRINUSE);
}

fn bind_one_reuseaddr(net: Net) {
    let a = bound(&net.lo(), 0);
    with(net, SO_REUSEADDR).bind(&a.name()).fails(EADDRINUSE);
}

fn bind_reuseport(net: Net) {
    let a = bound(&net.lo(), SO_REUSEPORT);
    let b = bound(&a.name(), SO_REUSEPORT);
    a.listen(1).is(0);
    b.listen(1).is(0);
}

fn bind_one_reuseport(net: Net) {
    let a = bound(&net.lo(), SO_REUSEPORT);
    net.tcp().bind(&a.name()).fails(EADDRINUSE);
    let b = bound(&net.lo(), 0);
    with(net, SO_REUSEPORT).bind(&b.name()).fails(EADDRINUSE);
}

fn bind_wildcard_conflicts(net: Net) {
    let a = bound(&net.any(), 0);
    net.tcp().bind(&net.lo().at(a.name().port())).fails(EADDRINUSE);
    let b = bound(&net.lo(), 0);
    net.tcp().bind(&net.any().at(b.name().port())).fails(EADDRINUSE);
}

fn bind_two_127_addresses() {
    let a = bound(&Net::V4.lo(), 0);
    let _b = bound(&Addr::v4([127, 0, 0, 2], a.name().port()), 0);
}

fn bind_is_seen_by_all_of_127() {
    let a = bound(&Net::V4.any(), 0);
    Net::V4.tcp().bind(&Addr::v4([127, 1, 2, 3], a.name().port())).fails(EADDRINUSE);
}

fn bind_not_ours(net: Net) {
    let a = if net == Net::V4 { Addr::v4([192, 0, 2, 1], 0) } else { Addr::v6("2001:db8::1".parse().expect("address"), 0) };
    net.tcp().bind(&a).fails(EADDRNOTAVAIL);
    net.udp().bind(&a).fails(EADDRNOTAVAIL);
}

fn bind_broadcast_tcp() {
    // Nobody's on a host without that network; never an address of a stream.
    Net::V4.tcp().bind(&Addr::v4([203, 0, 113, 255], 0)).fails(EADDRNOTAVAIL);
}

fn bind_multicast_tcp() {
    // Linux lets even a stream be bound to a group (inet_addr_valid_or_nonlocal).
    Net::V4.tcp().bind(&Addr::v4([224, 0, 0, 7], 0)).is(0);
}

fn bind_twice(net: Net) {
    let a = bound(&net.lo(), 0);
    a.bind(&net.lo()).fails(EINVAL);
    a.bind(&a.name()).fails(EINVAL);
}

fn bind_short(net: Net) {
    let mut a = net.lo();
    a.len = 15;
    net.tcp().bind(&a).fails(EINVAL);
    a.len = 0;
    net.tcp().bind(&a).fails(EINVAL);
}

fn bind_wrong_family(net: Net) {
    net.tcp().bind(&Addr::bare(libc::AF_UNIX, 28)).fails(libc::EAFNOSUPPORT);
    net.tcp().bind(&Addr::bare(250, 28)).fails(libc::EAFNOSUPPORT);
}

fn bind_null(net: Net) {
    let c = net.tcp();
    sys!(libc::bind(c.raw(), std::ptr::null(), 28)).fails(libc::EFAULT);
}

fn bind_unspec_family() {
    // Old programs forget sin_family; Linux takes it for AF_INET if the address is 0.0.0.0.
    Net::V4.tcp().bind(&Addr::bare(libc::AF_UNSPEC, 16)).is(0);
    let mut a = Net::V4.lo();
    a.store.ss_family = libc::AF_UNSPEC as u16;
    Net::V4.tcp().bind(&a).fails(libc::EAFNOSUPPORT);
}

fn bind_v6_address_to_v4() {
    Net::V4.tcp().bind(&Net::V6.lo()).fails(libc::EAFNOSUPPORT);
}

fn bind_v4_address_to_v6() {
    let mut a = Net::V4.lo();
    Net::V6.tcp().bind(&a).fails(EINVAL);
    a.len = 28;
    Net::V6.tcp().bind(&a).fails(libc::EAFNOSUPPORT);
}

fn bind_after_connect(net: Net) {
    let (c, _s) = pair(net);
    c.bind(&net.lo()).fails(EINVAL);
}

fn bind_zero_differs(net: Net) {
    let all: Vec<Fd> = (0..10).map(|_| bound(&net.lo(), 0)).collect();
    let mut ports: Vec<u16> = all.iter().map(|fd| fd.name().port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 10);
}

fn bind_after_close(net: Net) {
    let (l, at) = listener(net);
    l.close().is(0);
    let l = bound(&at, 0);
    l.listen(1).is(0);
}

/// The address of a listener that is gone, with one of its connections, closed from its side, in TIME-WAIT.
fn time_wait(net: Net, option: i32) -> Addr {
    let l = bound(&net.lo(), option);
    l.listen(1).is(0);
    let at = l.name();
    let c = net.tcp();
    c.connect(&at).is(0);
    let s = l.accept().fd();
    l.close().is(0);
    s.close().is(0);
    assert_eq!(take(&c, 9), b"");
    c.close().is(0);
    sleep(30);
    at
}

fn bind_in_time_wait(net: Net) {
    let at = time_wait(net, 0);
    net.tcp().bind(&at).fails(EADDRINUSE);
}

fn bind_in_time_wait_reuseaddr(net: Net) {
    let at = time_wait(net, SO_REUSEADDR);
    let l = bound(&at, SO_REUSEADDR);
    l.listen(1).is(0);
    let c = net.tcp();
    c.connect(&at).is(0);
    let _s = l.accept().fd();
}

fn bind_beside_child(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.connect(&at).is(0);
    let _s = l.accept().fd();
    l.close().is(0);
    net.tcp().bind(&at).fails(EADDRINUSE);
}

fn bind_beside_child_reuseaddr(net: Net) {
    let l = bound(&net.lo(), SO_REUSEADDR);
    l.listen(1).is(0);
    let at = l.name();
    let c = net.tcp();
    c.connect(&at).is(0);
    let s = l.accept().fd();
    l.close().is(0);
    let l = bound(&at, SO_REUSEADDR);
    l.listen(1).is(0);
    c.write(b"old").is(3);
    assert_eq!(take(&s, 9), b"old");
    let c2 = net.tcp();
    c2.connect(&at).is(0);
    assert_eq!(l.accept().fd().peer(), c2.name());
}

fn listen_unbound(net: Net) {
    let l = net.tcp();
    l.listen(1).is(0);
    assert_ne!(l.name().port(), 0);
    assert_eq!(l.name().ip(), net.any().ip());
    let c = net.tcp();
    c.connect(&net.lo().at(l.name().port())).is(0);
    let _s = l.accept().fd();
}

fn listen_udp(net: Net) {
    net.udp().listen(1).fails(libc::EOPNOTSUPP);
}

fn accept_udp(net: Net) {
    net.udp().accept().fails(libc::EOPNOTSUPP);
}

fn listen_connected(net: Net) {
    let (c, s) = pair(net);
    c.listen(1).fails(EINVAL);
    s.listen(1).fails(EINVAL);
}

fn listen_again(net: Net) {
    let (l, at) = listener(net);
    l.listen(1).is(0);
    l.listen(100).is(0);
    let c = net.tcp();
    c.connect(&at).is(0);
    let _s = l.accept().fd();
}

fn bind_listening(net: Net) {
    let (l, _) = listener(net);
    l.bind(&net.lo()).fails(EINVAL);
}

fn listener_has_no_peer(net: Net) {
    let (l, _) = listener(net);
    l.getpeername(&mut Addr::room()).fails(libc::ENOTCONN);
}

fn listener_sends_nothing(net: Net) {
    let (l, _) = listener(net);
    l.send(b"x", libc::MSG_NOSIGNAL).fails(libc::EPIPE);
    l.recv(&mut [0; 4], 0).fails(libc::ENOTCONN);
}

fn shutdown_rd_stops_listening(net: Net) {
    let (l, at) = listener(net);
    l.shutdown(libc::SHUT_RD).is(0);
    l.accept().fails(EINVAL);
    net.tcp().connect(&at).fails(libc::ECONNREFUSED);
    l.shutdown(libc::SHUT_RD).fails(libc::ENOTCONN);
}

fn shutdown_wr_does_nothing(net: Net) {
    let (l, at) = listener(net);
    l.shutdown(libc::SHUT_WR).is(0);
    let c = net.tcp();
    c.connect(&at).is(0);
    let _s = l.accept().fd();
}

fn shutdown_wakes_accept(net: Net) {
    let (l, _) = listener(net);
    thread::scope(|scope| {
        scope.spawn(|| l.accept().fails(EINVAL));
        sleep(50);
        l.shutdown(libc::SHUT_RDWR).is(0);
    });
}

fn listen_after_shutdown(net: Net) {
    // A port asked for by number is kept; one that was chosen for it would be chosen anew.
    let at = nobody(net, libc::SOCK_STREAM);
    let l = bound(&at, 0);
    l.listen(1).is(0);
    l.shutdown(libc::SHUT_RDWR).is(0);
    l.listen(1).is(0);
    assert_eq!(l.name(), at);
    let c = net.tcp();
    c.connect(&at).is(0);
    let _s = l.accept().fd();
}

fn accept_not_listening(net: Net) {
    net.tcp().accept().fails(EINVAL);
    let (c, _s) = pair(net);
    c.accept().fails(EINVAL);
}

fn accept_nonblocking_empty(net: Net) {
    let (l, _) = listener(net);
    l.nonblock(true).accept().fails(libc::EAGAIN);
}

fn accept4(l: &Fd, flags: i32) -> Fd {
    sys!(libc::accept4(l.raw(), std::ptr::null_mut(), std::ptr::null_mut(), flags)).fd()
}

fn accept4_flags(net: Net) {
    let (l, at) = listener(net);
    for (flags, fd_flags, nonblock) in [
        (0, 0, false),
        (SOCK_CLOEXEC, libc::FD_CLOEXEC, false),
        (SOCK_NONBLOCK, 0, true),
        (SOCK_CLOEXEC | SOCK_NONBLOCK, libc::FD_CLOEXEC, true),
    ] {
        let c = net.tcp();
        c.connect(&at).is(0);
        let s = accept4(&l, flags);
        sys!(libc::fcntl(s.raw(), libc::F_GETFD)).is(fd_flags as isize);
        let fl = sys!(libc::fcntl(s.raw(), libc::F_GETFL)).ok() as i32;
        assert_eq!(fl & libc::O_NONBLOCK != 0, nonblock);
        assert_eq!(fl & libc::O_ACCMODE, libc::O_RDWR);
        if nonblock {
            s.read(&mut [0; 1]).fails(libc::EAGAIN);
        }
    }
}

fn accept4_bad_flags(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.connect(&at).is(0);
    sys!(libc::accept4(l.raw(), std::ptr::null_mut(), std::ptr::null_mut(), 1)).fails(EINVAL);
    let _s = accept4(&l, 0);
}

fn accept_does_not_inherit_nonblock(net: Net) {
    let (l, at) = listener(net);
    l.nonblock(true);
    let c = net.tcp();
    c.connect(&at).is(0);
    wait_in(&l);
    let s = l.accept().fd();
    assert_eq!(sys!(libc::fcntl(s.raw(), libc::F_GETFL)).ok() as i32 & libc::O_NONBLOCK, 0);
}

fn accept_inherits_options(net: Net) {
    let (l, at) = listener(net);
    l.on(SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    l.on(SOL_SOCKET, libc::SO_RCVBUF, 30_000);
    l.on(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    l.on(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 77);
    l.set(SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 5 }).is(0);
    l.set(SOL_SOCKET, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 9, tv_usec: 0 }).is(0);
    let c = net.tcp();
    c.connect(&at).is(0);
    let s = l.accept().fd();
    assert_eq!(s.opt(SOL_SOCKET, libc::SO_KEEPALIVE), 1);
    assert_eq!(s.opt(SOL_SOCKET, libc::SO_RCVBUF), 60_000);
    assert_eq!(s.opt(libc::IPPROTO_TCP, libc::TCP_NODELAY), 1);
    assert_eq!(s.opt(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE), 77);
    let mut linger = libc::linger { l_onoff: 0, l_linger: 0 };
    s.get_into(SOL_SOCKET, libc::SO_LINGER, &mut linger);
    assert_eq!((linger.l_onoff, linger.l_linger), (1, 5));
    let mut tv = libc::timeval { tv_sec: 0, tv_usec: 0 };
    s.get_into(SOL_SOCKET, libc::SO_RCVTIMEO, &mut tv);
    assert_eq!(tv.tv_sec, 9);
}

fn accept_short_room(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.connect(&at).is(0);
    let mut a = Addr::room();
    a.store = bytes(0xee);
    a.len = 4;
    let _s = sys!(libc::accept(l.raw(), a.mut_ptr(), &raw mut a.len)).fd();
    assert_eq!(a.len, if net == Net::V4 { 16 } else { 28 }, "the length there would have been");
    assert_eq!(a.family(), net.af());
    assert_eq!(a.port(), c.name().port());
    // SAFETY: sockaddr_storage is plain bytes.
    let raw: [u8; 8] = unsafe { (&raw const a.store).cast::<[u8; 8]>().read() };
    assert_eq!(raw[4..], [0xee; 4], "written beyond the room");
}

fn bytes(b: u8) -> libc::sockaddr_storage {
    // SAFETY: sockaddr_storage is plain bytes.
    unsafe { mem::transmute([b; size_of::<libc::sockaddr_storage>()]) }
}

fn accept_negative_room(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.connect(&at).is(0);
    let mut a = Addr::room();
    a.len = -1i32 as libc::socklen_t;
    sys!(libc::accept(l.raw(), a.mut_ptr(), &raw mut a.len)).fails(EINVAL);
}

fn accept_null_length(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.connect(&at).is(0);
    sys!(libc::accept(l.raw(), Addr::room().mut_ptr(), std::ptr::null_mut())).fails(libc::EFAULT);
}

fn accept_timeout(net: Net) {
    let (l, _) = listener(net);
    l.set(SOL_SOCKET, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 0, tv_usec: 40_000 }).is(0);
    l.accept().fails(libc::EAGAIN);
}

fn accept_closed_client(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.connect(&at).is(0);
    c.write(b"bye").is(3);
    let from = c.name();
    c.close().is(0);
    let s = l.accept().fd();
    assert_eq!(s.peer(), from);
    assert_eq!(take(&s, 9), b"bye");
    assert_eq!(take(&s, 9), b"");
}

fn accept_reset_client(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.connect(&at).is(0);
    wait_in(&l);
    c.set(SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 }).is(0);
    c.close().is(0);
    sleep(20);
    // It is accepted all the same, and then found to be dead.
    let s = l.accept().fd();
    s.recv(&mut [0; 4], 0).fails(libc::ECONNRESET);
    s.getpeername(&mut Addr::room()).fails(libc::ENOTCONN);
}

/// A listener with this backlog, full: the connected, and one who waits.
fn full(net: Net, backlog: i32, fits: usize) -> (Fd, Vec<Fd>, Fd) {
    let l = net.tcp();
    l.bind(&net.lo()).is(0);
    l.listen(backlog).is(0);
    let mut all = Vec::new();
    for _ in 0..fits {
        let c = net.tcp();
        c.connect(&l.name()).is(0);
        all.push(c);
        // The last ACK has to be in before the next SYN, or that is counted differently.
        wait_in(&l);
        sleep(5);
    }
    let c = net.tcp();
    c.nonblock(true).connect(&l.name()).fails(libc::EINPROGRESS);
    quiet(&c, POLLOUT);
    (l, all, c)
}

fn backlog_is_plus_one(net: Net) {
    let (l, all, c) = full(net, 2, 3);
    for _ in &all {
        let _s = l.accept().fd();
    }
    wait_out(&c);
}

fn backlog_zero(net: Net) {
    let (l, _all, c) = full(net, 0, 1);
    let _s = l.accept().fd();
    wait_out(&c);
}

fn backlog_negative(net: Net) {
    let l = net.tcp();
    l.bind(&net.lo()).is(0);
    // Taken as unsigned and cut to somaxconn.
    l.listen(-1).is(0);
    let all: Vec<Fd> = (0..20).map(|_| net.tcp()).collect();
    for c in &all {
        c.connect(&l.name()).is(0);
    }
}

fn backlog_raised(net: Net) {
    let (l, _all, c) = full(net, 0, 1);
    l.listen(10).is(0);
    wait_out(&c);
    let c = net.tcp();
    c.connect(&l.name()).is(0);
}

fn acceptconn(net: Net) {
    let c = net.tcp();
    assert_eq!(c.opt(SOL_SOCKET, libc::SO_ACCEPTCONN), 0);
    c.listen(1).is(0);
    assert_eq!(c.opt(SOL_SOCKET, libc::SO_ACCEPTCONN), 1);
    c.set(SOL_SOCKET, libc::SO_ACCEPTCONN, &1).fails(libc::ENOPROTOOPT);
}

fn reuseport_shares(net: Net) {
    let a = bound(&net.lo(), SO_REUSEPORT);
    let b = bound(&a.name(), SO_REUSEPORT);
    a.listen(40).is(0);
    b.listen(40).is(0);
    let clients: Vec<Fd> = (0..40).map(|_| net.tcp()).collect();
    for c in &clients {
        c.connect(&a.name()).is(0);
    }
    let mut count = [0, 0];
    until(|| {
        for (i, l) in [&a, &b].into_iter().enumerate() {
            while l.nonblock(true).accept().get().inspect(|fd| drop(Fd(*fd as i32))).is_ok() {
                count[i] += 1;
            }
        }
        count[0] + count[1] == 40
    });
    // The odds of one of them getting none are 2 to the -39.
    assert!(count[0] > 0 && count[1] > 0, "{count:?}");
}

fn specific_beats_wildcard(net: Net) {
    let any = bound(&net.any(), SO_REUSEPORT);
    let lo = bound(&net.lo().at(any.name().port()), SO_REUSEPORT);
    any.listen(8).is(0);
    lo.listen(8).is(0);
    for _ in 0..4 {
        let c = net.tcp();
        c.connect(&lo.name()).is(0);
        let _s = lo.accept().fd();
    }
    any.nonblock(true).accept().fails(libc::EAGAIN);
}

fn readiness(net: Net) {
    let (l, at) = listener(net);
    assert_eq!(l.ready(), 0);
    let (a, b) = (net.tcp(), net.tcp());
    a.connect(&at).is(0);
    assert_eq!(wait(&l, POLLIN | POLLOUT), POLLIN);
    b.connect(&at).is(0);
    let _s = l.accept().fd();
    wait_in(&l);
    let _t = l.accept().fd();
    assert_eq!(l.ready(), 0);
}

/// The soft limit on descriptors, set so that none is left.
fn no_descriptors() {
    let next = sys!(libc::dup(0)).fd();
    let limit = libc::rlimit { rlim_cur: next.raw() as u64, rlim_max: 20_000 };
    next.close().is(0);
    sys!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit)).is(0);
}

fn some_descriptors() {
    let limit = libc::rlimit { rlim_cur: 1024, rlim_max: 20_000 };
    sys!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit)).is(0);
}

fn emfile_socket(net: Net) {
    no_descriptors();
    let r = sys!(libc::socket(net.af(), libc::SOCK_STREAM, 0));
    let u = sys!(libc::socket(net.af(), libc::SOCK_DGRAM, 0));
    some_descriptors();
    r.fails(libc::EMFILE);
    u.fails(libc::EMFILE);
    let _fd = net.tcp();
}

fn emfile_accept(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.connect(&at).is(0);
    wait_in(&l);
    no_descriptors();
    let r = l.accept();
    some_descriptors();
    r.fails(libc::EMFILE);
    // The connection is still in the queue.
    let s = l.accept().fd();
    assert_eq!(s.peer(), c.name());
}

fn many_acceptors(net: Net) {
    let (l, at) = listener(net);
    thread::scope(|scope| {
        let all: Vec<_> = (0..6).map(|_| scope.spawn(|| l.accept().fd().peer().port())).collect();
        sleep(30);
        let clients: Vec<Fd> = (0..6).map(|_| net.tcp()).collect();
        for c in &clients {
            c.connect(&at).is(0);
        }
        let mut got: Vec<u16> = all.into_iter().map(|t| t.join().expect("acceptor")).collect();
        let mut want: Vec<u16> = clients.iter().map(|c| c.name().port()).collect();
        got.sort_unstable();
        want.sort_unstable();
        assert_eq!(got, want);
    });
}

fn accept_from_blocked(net: Net) {
    let (l, at) = listener(net);
    thread::scope(|scope| {
        let t = scope.spawn(|| l.accept().fd());
        sleep(50);
        let c = net.tcp();
        c.connect(&at).is(0);
        assert_eq!(t.join().expect("acceptor").peer(), c.name());
    });
}

fn accepted_on_wildcard_has_address(net: Net) {
    let l = bound(&net.any(), 0);
    l.listen(1).is(0);
    let c = net.tcp();
    c.connect(&net.lo().at(l.name().port())).is(0);
    let s = l.accept().fd();
    assert_eq!(s.name(), c.peer());
    assert_eq!(s.name().ip(), net.lo().ip());
}

fn close_listener_keeps_children(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.connect(&at).is(0);
    let s = l.accept().fd();
    l.close().is(0);
    c.write(b"on").is(2);
    assert_eq!(take(&s, 9), b"on");
    net.tcp().connect(&at).fails(libc::ECONNREFUSED);
}
