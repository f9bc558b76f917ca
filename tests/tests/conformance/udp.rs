//! Datagrams: who gets them, how much of them, and what comes back when nobody does.

use std::thread;

use crate::cases;
use crate::net::{bound_udp, nobody, quiet, sleep, take, udp_pair, until, wait, wait_in, wait_ready};
use crate::sys::{Addr, Fd, Net, sys};
use libc::{
    EADDRINUSE, ECONNREFUSED, EINVAL, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC, POLLERR, POLLIN, POLLOUT, POLLRDHUP, SO_BROADCAST,
    SO_REUSEADDR, SO_REUSEPORT, SOCK_DGRAM, SOL_SOCKET,
};

cases! {
    one: [
        broadcast_needs_leave, broadcast_connect_needs_leave, broadcast_on_lo, any_127_address, source_is_destination_of_other, unspec_family_to,
        v4_to_v6_address, v6_to_v4_address, oob, largest_v4, largest_v6,
    ],
    net: [
        sendto_and_recvfrom, connected_pair, connected_filter, connected_sends_elsewhere, disconnect, reconnect, queued_before_connect, truncation,
        truncation_length, truncation_peek, empty_datagram, empty_write, zero_read_keeps, zero_room_eats, boundaries, too_big, refused_connected,
        refused_once, refused_by_so_error, refused_poll, refused_wakes_reader, unconnected_is_not_told, fresh_readiness, data_readiness,
        unconnected_send, unconnected_names, shutdown_unconnected, shutdown_wakes_reader, shutdown_rd, shutdown_wr, in_use, beside_tcp,
        reuseaddr_last_wins, reuseaddr_one, reuseport_spreads, wildcard_receives, wildcard_replies, specific_beats_wildcard,
        connected_beats_unconnected, autobind, autobind_by_connect, empty_is_eagain, timeout, overflow_drops, peek, fionread, waitall_is_ignored,
        to_port_zero, to_wrong_family, to_short_address, to_null, from_short_room, from_null_length, from_none_wanted, bind_after_connect,         to_unspecified, many_senders, order, two_readers, to_itself, close_drops_queue, rebind_after_close, send_to_bound_not_connected,
        connect_names, blocked_reader_wakes, flags_ignored, unbound_recv_is_eagain, big_then_small, connect_to_closed_is_fine,
    ],
}

fn sendto_and_recvfrom(net: Net) {
    let ((a, at_a), (b, at_b)) = (bound_udp(net), bound_udp(net));
    a.sendto(b"dgram", 0, &at_b).is(5);
    let (mut room, mut from) = ([0; 32], Addr::room());
    b.recvfrom(&mut room, 0, &mut from).is(5);
    assert_eq!(&room[..5], b"dgram");
    assert_eq!(from, at_a);
    assert_eq!(from.len, if net == Net::V4 { 16 } else { 28 });
}

fn connected_pair(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"one").is(3);
    b.write(b"two!").is(4);
    assert_eq!(take(&a, 32), b"two!");
    assert_eq!(take(&b, 32), b"one");
}

fn connected_filter(net: Net) {
    let (a, b) = udp_pair(net);
    let (other, _) = bound_udp(net);
    other.sendto(b"stranger", 0, &b.name()).is(8);
    a.write(b"friend").is(6);
    assert_eq!(take(&b, 32), b"friend");
    quiet(&b, POLLIN);
}

fn connected_sends_elsewhere(net: Net) {
    let (a, b) = udp_pair(net);
    let (c, at_c) = bound_udp(net);
    a.sendto(b"aside", 0, &at_c).is(5);
    assert_eq!(take(&c, 32), b"aside");
    a.write(b"main").is(4);
    assert_eq!(take(&b, 32), b"main");
}

fn unspec() -> Addr {
    Addr::bare(libc::AF_UNSPEC, 16)
}

fn disconnect(net: Net) {
    let (a, b) = udp_pair(net);
    a.connect(&unspec()).is(0);
    a.getpeername(&mut Addr::room()).fails(libc::ENOTCONN);
    a.send(b"x", 0).fails(libc::EDESTADDRREQ);
    let (c, _) = bound_udp(net);
    c.sendto(b"any", 0, &a.name()).is(3);
    assert_eq!(take(&a, 32), b"any");
    drop(b);
}

fn reconnect(net: Net) {
    let (a, _b) = udp_pair(net);
    let (c, at_c) = bound_udp(net);
    let port = a.name().port();
    a.connect(&at_c).is(0);
    assert_eq!(a.peer(), at_c);
    assert_eq!(a.name().port(), port);
    a.write(b"to c").is(4);
    assert_eq!(take(&c, 32), b"to c");
}

fn queued_before_connect(net: Net) {
    let ((a, at_a), (b, _)) = (bound_udp(net), bound_udp(net));
    b.sendto(b"early", 0, &at_a).is(5);
    wait_in(&a);
    let (_c, at_c) = bound_udp(net);
    a.connect(&at_c).is(0);
    assert_eq!(take(&a, 32), b"early");
}

fn truncation(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"0123456789").is(10);
    a.write(b"next").is(4);
    assert_eq!(take(&b, 4), b"0123");
    assert_eq!(take(&b, 32), b"next");
}

fn truncation_length(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"0123456789").is(10);
    let mut room = [b'.'; 6];
    b.recv(&mut room[..4], MSG_TRUNC).is(10);
    assert_eq!(&room, b"0123..");
    b.recv(&mut room, MSG_DONTWAIT).fails(libc::EAGAIN);
}

fn truncation_peek(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"0123456789").is(10);
    b.recv(&mut [], MSG_TRUNC | MSG_PEEK).is(10);
    assert_eq!(take(&b, 32), b"0123456789");
}

fn empty_datagram(net: Net) {
    let (a, b) = udp_pair(net);
    a.send(b"", 0).is(0);
    wait_in(&b);
    assert_eq!(b.ioctl_int(libc::FIONREAD), 0);
    assert_eq!(take(&b, 32), b"");
    assert_eq!(b.ready(), POLLOUT);
}

fn empty_write(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"").is(0);
    wait_in(&b);
    assert_eq!(take(&b, 32), b"");
}

fn zero_read_keeps(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"kept").is(4);
    wait_in(&b);
    b.read(&mut []).is(0);
    assert_eq!(take(&b, 32), b"kept");
}

fn zero_room_eats(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"eaten").is(5);
    b.recv(&mut [], 0).is(0);
    b.recv(&mut [0; 8], MSG_DONTWAIT).fails(libc::EAGAIN);
}

fn boundaries(net: Net) {
    let (a, b) = udp_pair(net);
    for n in [1, 100, 2, 1400, 3] {
        a.write(&vec![n as u8; n]).is(n as isize);
    }
    for n in [1, 100, 2, 1400, 3] {
        assert_eq!(take(&b, 2000), vec![n as u8; n]);
    }
}

fn largest(net: Net, n: usize) {
    let (a, b) = udp_pair(net);
    let data = crate::net::pattern(n);
    a.send(&data, 0).is(n as isize);
    assert!(take(&b, 70_000) == data);
    a.send(&vec![0; n + 1], 0).fails(libc::EMSGSIZE);
}

fn largest_v4() {
    largest(Net::V4, 65_507);
}

fn largest_v6() {
    largest(Net::V6, 65_527);
}

fn too_big(net: Net) {
    let (a, b) = udp_pair(net);
    a.send(&vec![0; 65_528], 0).fails(libc::EMSGSIZE);
    a.send(&vec![0; 1 << 20], 0).fails(libc::EMSGSIZE);
    a.write(b"ok").is(2);
    assert_eq!(take(&b, 9), b"ok");
}

/// Connected to nobody.
fn to_nobody(net: Net) -> Fd {
    let a = net.udp();
    a.connect(&nobody(net, SOCK_DGRAM)).is(0);
    a
}

fn connect_to_closed_is_fine(net: Net) {
    let a = to_nobody(net);
    assert_eq!(a.error(), 0);
    assert_eq!(a.ready(), POLLOUT);
}

fn refused_connected(net: Net) {
    let a = to_nobody(net);
    a.write(b"x").is(1);
    a.recv(&mut [0; 8], 0).fails(ECONNREFUSED);
}

fn refused_once(net: Net) {
    let a = to_nobody(net);
    a.write(b"x").is(1);
    wait(&a, POLLIN);
    a.send(b"x", MSG_NOSIGNAL).fails(ECONNREFUSED);
    a.recv(&mut [0; 8], MSG_DONTWAIT).fails(libc::EAGAIN);
}

fn refused_by_so_error(net: Net) {
    let a = to_nobody(net);
    a.write(b"x").is(1);
    wait(&a, POLLIN);
    assert_eq!(a.error(), ECONNREFUSED);
    assert_eq!(a.error(), 0);
}

fn refused_poll(net: Net) {
    let a = to_nobody(net);
    a.write(b"x").is(1);
    wait_ready(&a, POLLOUT | POLLERR);
    assert_eq!(a.error(), ECONNREFUSED);
    assert_eq!(a.ready(), POLLOUT);
}

fn refused_wakes_reader(net: Net) {
    let a = to_nobody(net);
    thread::scope(|scope| {
        scope.spawn(|| a.recv(&mut [0; 8], 0).fails(ECONNREFUSED));
        sleep(40);
        a.write(b"x").is(1);
    });
}

fn unconnected_is_not_told(net: Net) {
    let (a, _) = bound_udp(net);
    let gone = nobody(net, SOCK_DGRAM);
    a.sendto(b"x", 0, &gone).is(1);
    quiet(&a, POLLIN);
    assert_eq!(a.error(), 0);
    a.sendto(b"x", 0, &gone).is(1);
}

fn fresh_readiness(net: Net) {
    assert_eq!(net.udp().ready(), POLLOUT);
    assert_eq!(bound_udp(net).0.ready(), POLLOUT);
}

fn data_readiness(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"1").is(1);
    a.write(b"2").is(1);
    wait_ready(&b, POLLIN | POLLOUT);
    take(&b, 9);
    wait_ready(&b, POLLIN | POLLOUT);
    take(&b, 9);
    assert_eq!(b.ready(), POLLOUT);
}

fn unconnected_send(net: Net) {
    let a = net.udp();
    a.send(b"x", 0).fails(libc::EDESTADDRREQ);
    a.write(b"x").fails(libc::EDESTADDRREQ);
}

fn unconnected_names(net: Net) {
    let a = net.udp();
    assert_eq!(a.name(), net.any());
    a.getpeername(&mut Addr::room()).fails(libc::ENOTCONN);
}

fn shutdown_unconnected(net: Net) {
    let (a, _) = bound_udp(net);
    // It says so and does it all the same: readers wake up.
    a.shutdown(libc::SHUT_RDWR).fails(libc::ENOTCONN);
    a.recv(&mut [0; 8], 0).is(0);
}

fn shutdown_wakes_reader(net: Net) {
    let (a, _b) = udp_pair(net);
    thread::scope(|scope| {
        scope.spawn(|| a.recv(&mut [0; 8], 0).is(0));
        sleep(40);
        a.shutdown(libc::SHUT_RD).is(0);
    });
}

fn shutdown_rd(net: Net) {
    let (a, b) = udp_pair(net);
    a.shutdown(libc::SHUT_RD).is(0);
    assert_eq!(a.ready(), POLLIN | POLLOUT | POLLRDHUP);
    a.recv(&mut [0; 8], MSG_DONTWAIT).fails(libc::EAGAIN);
    a.recv(&mut [0; 8], 0).is(0);
    a.write(b"x").is(1);
    assert_eq!(take(&b, 9), b"x");
}

fn shutdown_wr(net: Net) {
    let (a, b) = udp_pair(net);
    a.shutdown(libc::SHUT_WR).is(0);
    a.send(b"x", MSG_NOSIGNAL).fails(libc::EPIPE);
    b.write(b"y").is(1);
    assert_eq!(take(&a, 9), b"y");
}

fn in_use(net: Net) {
    let (_a, at) = bound_udp(net);
    net.udp().bind(&at).fails(EADDRINUSE);
    net.udp().bind(&net.any().at(at.port())).fails(EADDRINUSE);
}

fn beside_tcp(net: Net) {
    let (_a, at) = bound_udp(net);
    net.tcp().bind(&at).is(0);
}

/// A UDP socket bound to `at` with an option on.
fn shared(net: Net, at: &Addr, option: i32) -> Fd {
    let fd = net.udp();
    fd.on(SOL_SOCKET, option, 1);
    fd.bind(at).is(0);
    fd
}

fn reuseaddr_last_wins(net: Net) {
    let a = shared(net, &net.lo(), SO_REUSEADDR);
    let b = shared(net, &a.name(), SO_REUSEADDR);
    let (c, _) = bound_udp(net);
    for _ in 0..3 {
        c.sendto(b"x", 0, &a.name()).is(1);
        assert_eq!(take(&b, 9), b"x");
    }
    quiet(&a, POLLIN);
}

fn reuseaddr_one(net: Net) {
    let (_a, at) = bound_udp(net);
    let b = net.udp();
    b.on(SOL_SOCKET, SO_REUSEADDR, 1);
    b.bind(&at).fails(EADDRINUSE);
}

fn reuseport_spreads(net: Net) {
    let a = shared(net, &net.lo(), SO_REUSEPORT);
    let b = shared(net, &a.name(), SO_REUSEPORT);
    // By the hash of the addresses: one sender's all go to one.
    let senders: Vec<Fd> = (0..40).map(|_| bound_udp(net).0).collect();
    for s in &senders {
        s.sendto(b"1", 0, &a.name()).is(1);
        s.sendto(b"2", 0, &a.name()).is(1);
    }
    let mut count = [0, 0];
    until(|| {
        for (i, fd) in [&a, &b].into_iter().enumerate() {
            while fd.recv(&mut [0; 4], MSG_DONTWAIT).get().is_ok() {
                count[i] += 1;
            }
        }
        count[0] + count[1] == 80
    });
    assert!(count[0] > 0 && count[1] > 0 && count[0] % 2 == 0, "{count:?}");
}

fn wildcard(net: Net) -> Fd {
    let fd = net.udp();
    fd.bind(&net.any()).is(0);
    fd
}

fn wildcard_receives(net: Net) {
    let a = wildcard(net);
    let (b, _) = bound_udp(net);
    b.sendto(b"x", 0, &net.lo().at(a.name().port())).is(1);
    assert_eq!(take(&a, 9), b"x");
    assert_eq!(a.name().ip(), net.any().ip());
}

fn wildcard_replies(net: Net) {
    let a = wildcard(net);
    let (b, at_b) = bound_udp(net);
    a.sendto(b"x", 0, &at_b).is(1);
    let mut from = Addr::room();
    b.recvfrom(&mut [0; 8], 0, &mut from).is(1);
    assert_eq!(from, net.lo().at(a.name().port()));
}

fn specific_beats_wildcard(net: Net) {
    let any = shared(net, &net.any(), SO_REUSEADDR);
    let lo = shared(net, &net.lo().at(any.name().port()), SO_REUSEADDR);
    let (c, _) = bound_udp(net);
    c.sendto(b"x", 0, &lo.name()).is(1);
    assert_eq!(take(&lo, 9), b"x");
    quiet(&any, POLLIN);
}

fn connected_beats_unconnected(net: Net) {
    let a = shared(net, &net.lo(), SO_REUSEADDR);
    let b = shared(net, &a.name(), SO_REUSEADDR);
    let ((c, at_c), (d, _)) = (bound_udp(net), bound_udp(net));
    a.connect(&at_c).is(0);
    c.sendto(b"mine", 0, &a.name()).is(4);
    d.sendto(b"rest", 0, &a.name()).is(4);
    assert_eq!(take(&a, 9), b"mine");
    assert_eq!(take(&b, 9), b"rest");
}

fn autobind(net: Net) {
    let (b, at_b) = bound_udp(net);
    let a = net.udp();
    a.sendto(b"x", 0, &at_b).is(1);
    assert_eq!(a.name().ip(), net.any().ip());
    assert_ne!(a.name().port(), 0);
    let mut from = Addr::room();
    b.recvfrom(&mut [0; 8], 0, &mut from).is(1);
    assert_eq!(from, net.lo().at(a.name().port()));
}

fn autobind_by_connect(net: Net) {
    let (_b, at_b) = bound_udp(net);
    let a = net.udp();
    a.connect(&at_b).is(0);
    assert_eq!(a.name().ip(), net.lo().ip());
    assert_ne!(a.name().port(), 0);
    a.connect(&unspec()).is(0);
    assert_eq!(a.name().ip(), net.any().ip());
}

fn connect_names(net: Net) {
    let (a, b) = udp_pair(net);
    assert_eq!(a.peer(), b.name());
    assert_eq!(b.peer(), a.name());
}

fn empty_is_eagain(net: Net) {
    let (a, _) = bound_udp(net);
    a.recv(&mut [0; 8], MSG_DONTWAIT).fails(libc::EAGAIN);
    a.nonblock(true).read(&mut [0; 8]).fails(libc::EAGAIN);
}

fn unbound_recv_is_eagain(net: Net) {
    net.udp().recv(&mut [0; 8], MSG_DONTWAIT).fails(libc::EAGAIN);
}

fn timeout(net: Net) {
    let (a, _) = bound_udp(net);
    a.set(SOL_SOCKET, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 0, tv_usec: 40_000 }).is(0);
    a.recv(&mut [0; 8], 0).fails(libc::EAGAIN);
}

fn overflow_drops(net: Net) {
    let (a, b) = udp_pair(net);
    b.on(SOL_SOCKET, libc::SO_RCVBUF, 4096);
    for i in 0..200u32 {
        let mut data = [0; 1000];
        data[..4].copy_from_slice(&i.to_ne_bytes());
        a.send(&data, 0).is(1000);
    }
    sleep(50);
    let mut last = None;
    let mut count = 0;
    let mut room = [0; 1000];
    while b.recv(&mut room, MSG_DONTWAIT).get().is_ok() {
        let i = u32::from_ne_bytes(room[..4].try_into().expect("4"));
        assert!(last < Some(i));
        last = Some(i);
        count += 1;
    }
    assert!((1..200).contains(&count), "{count} of 200 fit into 8 KiB");
    a.write(b"room again").is(10);
    assert_eq!(take(&b, 32), b"room again");
}

fn peek(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"first").is(5);
    a.write(b"second").is(6);
    let mut room = [0; 8];
    b.recv(&mut room, MSG_PEEK).is(5);
    b.recv(&mut room, MSG_PEEK).is(5);
    assert_eq!(take(&b, 9), b"first");
    assert_eq!(take(&b, 9), b"second");
}

fn fionread(net: Net) {
    let (a, b) = udp_pair(net);
    assert_eq!(b.ioctl_int(libc::FIONREAD), 0);
    a.write(b"12345").is(5);
    a.write(b"123").is(3);
    until(|| b.ioctl_int(libc::FIONREAD) == 5);
    take(&b, 2);
    assert_eq!(b.ioctl_int(libc::FIONREAD), 3);
}

fn waitall_is_ignored(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"abc").is(3);
    b.recv(&mut [0; 10], libc::MSG_WAITALL).is(3);
}

fn to_port_zero(net: Net) {
    net.udp().sendto(b"x", 0, &net.lo()).fails(EINVAL);
}

fn to_wrong_family(net: Net) {
    let errno = if net == Net::V4 { libc::EAFNOSUPPORT } else { EINVAL };
    net.udp().sendto(b"x", 0, &Addr::bare(libc::AF_UNIX, 28)).fails(errno);
    net.udp().connect(&Addr::bare(libc::AF_UNIX, 28)).fails(libc::EAFNOSUPPORT);
}

fn v6_to_v4_address() {
    // A v6 datagram socket that is not V6ONLY takes an AF_INET address for the mapped one.
    let (b, at) = bound_udp(Net::V4);
    let a = Net::V6.udp();
    a.sendto(b"mixed", 0, &at).is(5);
    assert_eq!(take(&b, 9), b"mixed");
}

fn v4_to_v6_address() {
    let (_b, at) = bound_udp(Net::V6);
    Net::V4.udp().sendto(b"x", 0, &at).fails(libc::EAFNOSUPPORT);
}

fn unspec_family_to() {
    let (b, mut at) = bound_udp(Net::V4);
    at.store.ss_family = libc::AF_UNSPEC as u16;
    // Taken for AF_INET, for old programs.
    Net::V4.udp().sendto(b"x", 0, &at).is(1);
    assert_eq!(take(&b, 9), b"x");
}

fn to_short_address(net: Net) {
    let (_b, mut at) = bound_udp(net);
    at.len = 15;
    net.udp().sendto(b"x", 0, &at).fails(EINVAL);
    net.udp().connect(&at).fails(EINVAL);
}

fn to_null(net: Net) {
    let a = net.udp();
    sys!(libc::sendto(a.raw(), b"x".as_ptr().cast(), 1, 0, std::ptr::without_provenance(8), 28)).fails(libc::EFAULT);
    sys!(libc::sendto(a.raw(), b"x".as_ptr().cast(), 1, 0, std::ptr::null(), 0)).fails(libc::EDESTADDRREQ);
    let (_b, at) = bound_udp(net);
    sys!(libc::sendto(a.raw(), std::ptr::null(), 4, 0, at.ptr(), at.len)).fails(libc::EFAULT);
}

fn from_short_room(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"x").is(1);
    let mut from = Addr::room();
    from.len = 4;
    let mut room = [0u8; 8];
    sys!(libc::recvfrom(b.raw(), room.as_mut_ptr().cast(), 8, 0, from.mut_ptr(), &raw mut from.len)).is(1);
    assert_eq!(from.len, if net == Net::V4 { 16 } else { 28 });
    assert_eq!((from.family(), from.port()), (net.af(), a.name().port()));
}

fn from_null_length(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"x").is(1);
    wait_in(&b);
    let mut room = [0u8; 8];
    sys!(libc::recvfrom(b.raw(), room.as_mut_ptr().cast(), 8, 0, Addr::room().mut_ptr(), std::ptr::null_mut())).fails(libc::EFAULT);
}

fn from_none_wanted(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"x").is(1);
    let mut room = [0u8; 8];
    let mut len: libc::socklen_t = 99;
    sys!(libc::recvfrom(b.raw(), room.as_mut_ptr().cast(), 8, 0, std::ptr::null_mut(), &raw mut len)).is(1);
    assert_eq!(len, 99);
}

fn bind_after_connect(net: Net) {
    let (_b, at) = bound_udp(net);
    let a = net.udp();
    a.connect(&at).is(0);
    a.bind(&net.lo()).fails(EINVAL);
}

fn oob() {
    let (a, _b) = udp_pair(Net::V4);
    a.send(b"x", libc::MSG_OOB).fails(libc::EOPNOTSUPP);
    // Linux looks for it in IPv4 only.
    let (a, b) = udp_pair(Net::V6);
    a.send(b"x", libc::MSG_OOB).is(1);
    assert_eq!(take(&b, 9), b"x");
}

fn to_unspecified(net: Net) {
    let (b, at) = bound_udp(net);
    let (a, _) = bound_udp(net);
    a.sendto(b"x", 0, &net.any().at(at.port())).is(1);
    assert_eq!(take(&b, 9), b"x");
}

fn broadcast_needs_leave() {
    let a = Net::V4.udp();
    a.sendto(b"x", 0, &Addr::v4([127, 255, 255, 255], 9)).fails(libc::EACCES);
    a.on(SOL_SOCKET, SO_BROADCAST, 1);
    a.sendto(b"x", 0, &Addr::v4([127, 255, 255, 255], 9)).is(1);
}

fn broadcast_connect_needs_leave() {
    let a = Net::V4.udp();
    let to = Addr::v4([127, 255, 255, 255], 9);
    a.connect(&to).fails(libc::EACCES);
    a.on(SOL_SOCKET, SO_BROADCAST, 1);
    a.connect(&to).is(0);
}

fn broadcast_on_lo() {
    let a = wildcard(Net::V4);
    let port = a.name().port();
    let b = Net::V4.udp();
    b.on(SOL_SOCKET, SO_BROADCAST, 1);
    b.sendto(b"all", 0, &Addr::v4([127, 255, 255, 255], port)).is(3);
    assert_eq!(take(&a, 9), b"all");
}

fn any_127_address() {
    let a = wildcard(Net::V4);
    let (b, _) = bound_udp(Net::V4);
    b.sendto(b"x", 0, &Addr::v4([127, 8, 9, 10], a.name().port())).is(1);
    assert_eq!(take(&a, 9), b"x");
}

fn source_is_destination_of_other() {
    let a = Net::V4.udp();
    a.bind(&Addr::v4([127, 0, 0, 4], 0)).is(0);
    let (b, at_b) = bound_udp(Net::V4);
    a.sendto(b"x", 0, &at_b).is(1);
    let mut from = Addr::room();
    b.recvfrom(&mut [0; 8], 0, &mut from).is(1);
    assert_eq!(from, a.name());
}

fn many_senders(net: Net) {
    let (b, at) = bound_udp(net);
    b.on(SOL_SOCKET, libc::SO_RCVBUF, 200_000);
    thread::scope(|scope| {
        for t in 0..4u8 {
            scope.spawn(move || {
                let a = net.udp();
                for i in 0..20 {
                    a.sendto(&[t, i], 0, &at).is(2);
                }
            });
        }
    });
    let mut next = [0; 4];
    for _ in 0..80 {
        let got = take(&b, 9);
        assert_eq!(got[1], next[got[0] as usize], "each sender's come in order");
        next[got[0] as usize] += 1;
    }
    assert_eq!(next, [20; 4]);
}

fn order(net: Net) {
    let (a, b) = udp_pair(net);
    for round in 0..20u8 {
        for i in 0..10u8 {
            a.write(&[round, i]).is(2);
        }
        for i in 0..10u8 {
            assert_eq!(take(&b, 9), [round, i]);
        }
    }
}

fn two_readers(net: Net) {
    let (a, b) = udp_pair(net);
    thread::scope(|scope| {
        let t: Vec<_> = (0..2).map(|_| scope.spawn(|| take(&b, 9))).collect();
        sleep(30);
        a.write(b"p").is(1);
        a.write(b"q").is(1);
        let mut got: Vec<u8> = t.into_iter().flat_map(|t| t.join().expect("reader")).collect();
        got.sort_unstable();
        assert_eq!(got, b"pq");
    });
}

fn to_itself(net: Net) {
    let (a, at) = bound_udp(net);
    a.sendto(b"me", 0, &at).is(2);
    assert_eq!(take(&a, 9), b"me");
    a.connect(&at).is(0);
    a.write(b"again").is(5);
    assert_eq!(take(&a, 9), b"again");
}

fn close_drops_queue(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"lost").is(4);
    wait_in(&b);
    b.close().is(0);
    // The one that was read by nobody says nothing; the next one is refused.
    a.write(b"x").is(1);
    wait(&a, POLLIN);
    assert_eq!(a.error(), ECONNREFUSED);
}

fn rebind_after_close(net: Net) {
    let (a, at) = bound_udp(net);
    a.close().is(0);
    net.udp().bind(&at).is(0);
}

fn send_to_bound_not_connected(net: Net) {
    let ((a, at_a), (b, at_b)) = (bound_udp(net), bound_udp(net));
    for i in 0..5u8 {
        a.sendto(&[i], 0, &at_b).is(1);
        assert_eq!(take(&b, 9), [i]);
        b.sendto(&[i + 100], 0, &at_a).is(1);
        assert_eq!(take(&a, 9), [i + 100]);
    }
}

fn blocked_reader_wakes(net: Net) {
    let (a, b) = udp_pair(net);
    thread::scope(|scope| {
        let t = scope.spawn(|| take(&b, 9));
        sleep(50);
        a.write(b"wake").is(4);
        assert_eq!(t.join().expect("reader"), b"wake");
    });
}

fn flags_ignored(net: Net) {
    let (a, b) = udp_pair(net);
    a.send(b"x", libc::MSG_CONFIRM | libc::MSG_EOR | MSG_NOSIGNAL | libc::MSG_DONTROUTE).is(1);
    assert_eq!(take(&b, 9), b"x");
}

fn big_then_small(net: Net) {
    let (a, b) = udp_pair(net);
    let data = crate::net::pattern(20_000);
    a.write(&data).is(20_000);
    a.write(b"s").is(1);
    assert!(take(&b, 65_536) == data);
    assert_eq!(take(&b, 9), b"s");
}
