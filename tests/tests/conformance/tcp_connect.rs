//! connect(2) on stream sockets: success, refusal, progress, disconnect, and what a socket answers before it is connected.

use crate::cases;
use crate::net::{LIMIT, listener, nobody, pair, put_all, quiet, take, take_all, until, wait, wait_in, wait_out, wait_ready};
use crate::sys::{Addr, Fd, Net, socket, sys};
use libc::{POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, SO_REUSEADDR, SOL_SOCKET};

cases! {
    one: [
        source_bound_elsewhere_in_127, source_for_other_127_address, broadcast_is_unreachable, multicast_is_unreachable,
        tcp6_to_af_inet_address, tcp4_to_af_inet6_address, ebadf, enotsock, any_127_address_listens, short_v6_address,
    ],
    net: [
        names_agree, refused, refused_then_connects, refused_nonblocking, refused_unread_then_connect_again, refused_read_then_connect_again,
        nonblocking_is_in_progress, connect_twice, already, completes_when_queue_drains, unspec_disconnects, unspec_resets_the_peer,
        unspec_when_unconnected, reconnects_after_unspec, short_address, wrong_family, null_address, to_unspecified_address, listening_is_connected,
        bound_source_port, to_itself, same_four_tuple, distinct_ports, accept_order, data_before_accept, fresh_readiness, fresh_recv, fresh_send,
        fresh_names, sendto_ignores_address, syn_sent_answers, shutdown_while_connecting, timeout_leaves_in_progress, listener_closes_before_accepting,
        local_address_is_chosen, close_while_connecting, accepted_peer_is_source, eisconn_keeps_connection, data_both_ways,
    ],
}

fn names_agree(net: Net) {
    let (c, s) = pair(net);
    assert_eq!(c.name(), s.peer());
    assert_eq!(s.name(), c.peer());
    assert_eq!(c.name().ip(), net.lo().ip());
    assert_ne!(c.name().port(), 0);
    assert_eq!(c.name().family(), net.af());
}

fn data_both_ways(net: Net) {
    let (c, s) = pair(net);
    c.write(b"ping").is(4);
    assert_eq!(take(&s, 100), b"ping");
    s.write(b"pong!").is(5);
    assert_eq!(take(&c, 100), b"pong!");
}

fn refused(net: Net) {
    net.tcp().connect(&nobody(net, libc::SOCK_STREAM)).fails(libc::ECONNREFUSED);
}

fn refused_then_connects(net: Net) {
    let c = net.tcp();
    c.connect(&nobody(net, libc::SOCK_STREAM)).fails(libc::ECONNREFUSED);
    assert_eq!(c.error(), 0, "connect has reported it");
    let (l, at) = listener(net);
    c.connect(&at).is(0);
    let s = l.accept().fd();
    c.write(b"x").is(1);
    assert_eq!(take(&s, 9), b"x");
}

/// A nonblocking connect to nobody, waited for.
fn fails_in_background(net: Net) -> Fd {
    let c = net.tcp();
    c.nonblock(true).connect(&nobody(net, libc::SOCK_STREAM)).fails(libc::EINPROGRESS);
    wait_ready(&c, POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP);
    c
}

fn refused_nonblocking(net: Net) {
    let c = fails_in_background(net);
    assert_eq!(c.error(), libc::ECONNREFUSED);
    assert_eq!(c.error(), 0);
    assert_eq!(c.ready() & POLLERR, 0);
}

fn refused_unread_then_connect_again(net: Net) {
    let c = fails_in_background(net);
    let (_l, at) = listener(net);
    c.connect(&at).fails(libc::ECONNREFUSED);
    c.connect(&at).fails(libc::EINPROGRESS);
    wait_out(&c);
    assert_eq!(c.error(), 0);
}

fn refused_read_then_connect_again(net: Net) {
    let c = fails_in_background(net);
    let (_l, at) = listener(net);
    assert_eq!(c.error(), libc::ECONNREFUSED);
    c.connect(&at).fails(libc::ECONNABORTED);
    c.connect(&at).fails(libc::EINPROGRESS);
    wait_out(&c);
    assert_eq!(c.error(), 0);
}

fn nonblocking_is_in_progress(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.nonblock(true).connect(&at).fails(libc::EINPROGRESS);
    assert_eq!(wait(&c, POLLOUT), POLLOUT);
    assert_eq!(c.error(), 0);
    wait_in(&l);
    let s = l.accept().fd();
    assert_eq!(s.peer(), c.name());
    c.connect(&at).is(0);
    c.connect(&at).fails(libc::EISCONN);
}

fn connect_twice(net: Net) {
    let (c, s) = pair(net);
    c.connect(&s.name()).fails(libc::EISCONN);
    c.connect(&nobody(net, libc::SOCK_STREAM)).fails(libc::EISCONN);
}

fn eisconn_keeps_connection(net: Net) {
    let (c, s) = pair(net);
    s.connect(&c.name()).fails(libc::EISCONN);
    s.write(b"still").is(5);
    assert_eq!(take(&c, 9), b"still");
}

/// A listener whose queue is full, with those who fill it, and one whose SYN it therefore does not answer.
fn unanswered(net: Net) -> (Fd, Fd, Fd) {
    let l = net.tcp();
    l.bind(&net.lo()).is(0);
    l.listen(0).is(0);
    let at = l.name();
    let first = net.tcp();
    first.connect(&at).is(0);
    wait_in(&l);
    let c = net.tcp();
    c.nonblock(true).connect(&at).fails(libc::EINPROGRESS);
    (l, first, c)
}

fn already(net: Net) {
    let (l, _first, c) = unanswered(net);
    c.connect(&l.name()).fails(libc::EALREADY);
    quiet(&c, POLLIN | POLLOUT);
    c.connect(&l.name()).fails(libc::EALREADY);
    assert_eq!(c.error(), 0);
}

fn completes_when_queue_drains(net: Net) {
    let (l, _first, c) = unanswered(net);
    let _a = l.accept().fd();
    wait_out(&c);
    assert_eq!(c.error(), 0);
    let s = l.accept().fd();
    c.write(b"late").is(4);
    assert_eq!(take(&s, 9), b"late");
}

fn syn_sent_answers(net: Net) {
    let (l, _first, c) = unanswered(net);
    assert_eq!(c.ready(), 0);
    c.recv(&mut [0; 8], 0).fails(libc::EAGAIN);
    c.send(b"x", libc::MSG_NOSIGNAL).fails(libc::EAGAIN);
    c.getpeername(&mut Addr::room()).fails(libc::ENOTCONN);
    assert_ne!(c.name().port(), 0);
    assert_eq!(c.name().ip(), net.lo().ip());
    c.listen(1).fails(libc::EINVAL);
    drop(l);
}

fn shutdown_while_connecting(net: Net) {
    let (_l, _first, c) = unanswered(net);
    c.shutdown(libc::SHUT_WR).is(0);
    c.getpeername(&mut Addr::room()).fails(libc::ENOTCONN);
    assert_ne!(c.ready() & POLLHUP, 0);
}

fn close_while_connecting(net: Net) {
    let (l, _first, c) = unanswered(net);
    c.close().is(0);
    let _a = l.accept().fd();
    quiet(&l, POLLIN);
}

fn timeout_leaves_in_progress(net: Net) {
    let (l, _first, other) = unanswered(net);
    other.close().is(0);
    let c = net.tcp();
    c.set(SOL_SOCKET, libc::SO_SNDTIMEO, &libc::timeval { tv_sec: 0, tv_usec: 50_000 }).is(0);
    c.connect(&l.name()).fails(libc::EINPROGRESS);
    c.connect(&l.name()).fails(libc::EALREADY);
    let _a = l.accept().fd();
    wait_out(&c);
    assert_eq!(c.error(), 0);
}

fn listener_closes_before_accepting(net: Net) {
    let (l, first, c) = unanswered(net);
    l.close().is(0);
    wait(&c, POLLOUT);
    assert_eq!(c.error(), libc::ECONNREFUSED);
    // Whoever sat in the queue is reset.
    first.recv(&mut [0; 8], 0).fails(libc::ECONNRESET);
}

fn unspec() -> Addr {
    Addr::bare(libc::AF_UNSPEC, 16)
}

fn unspec_disconnects(net: Net) {
    let (c, _s) = pair(net);
    c.connect(&unspec()).is(0);
    c.getpeername(&mut Addr::room()).fails(libc::ENOTCONN);
    // A connection that still could send is reset, and this end is told too.
    c.recv(&mut [0; 8], 0).fails(libc::ECONNRESET);
    c.recv(&mut [0; 8], 0).fails(libc::ENOTCONN);
    c.send(b"x", libc::MSG_NOSIGNAL).fails(libc::EPIPE);
}

fn unspec_resets_the_peer(net: Net) {
    let (c, s) = pair(net);
    c.connect(&unspec()).is(0);
    wait(&s, POLLIN);
    s.recv(&mut [0; 8], 0).fails(libc::ECONNRESET);
}

fn unspec_when_unconnected(net: Net) {
    let c = net.tcp();
    c.connect(&unspec()).is(0);
    c.getpeername(&mut Addr::room()).fails(libc::ENOTCONN);
}

fn reconnects_after_unspec(net: Net) {
    let (c, _s) = pair(net);
    c.connect(&unspec()).is(0);
    let (l, at) = listener(net);
    c.connect(&at).is(0);
    let s = l.accept().fd();
    s.write(b"again").is(5);
    assert_eq!(take(&c, 9), b"again");
}

fn short_address(net: Net) {
    let (_l, mut at) = listener(net);
    let c = net.tcp();
    at.len = 15;
    c.connect(&at).fails(libc::EINVAL);
    at.len = 1;
    c.connect(&at).fails(libc::EINVAL);
    at.len = 0;
    c.connect(&at).fails(libc::EINVAL);
}

fn short_v6_address() {
    let (l, mut at) = listener(Net::V6);
    let c = Net::V6.tcp();
    // RFC 2133's sockaddr_in6 has no scope: 24 bytes are enough.
    at.len = 23;
    c.connect(&at).fails(libc::EINVAL);
    at.len = 24;
    c.connect(&at).is(0);
    let _s = l.accept().fd();
}

fn wrong_family(net: Net) {
    let c = net.tcp();
    c.connect(&Addr::bare(libc::AF_UNIX, 110)).fails(libc::EAFNOSUPPORT);
    c.connect(&Addr::bare(77, 28)).fails(libc::EAFNOSUPPORT);
}

fn null_address(net: Net) {
    let c = net.tcp();
    sys!(libc::connect(c.raw(), std::ptr::null(), 28)).fails(libc::EFAULT);
    sys!(libc::connect(c.raw(), std::ptr::without_provenance(1), 28)).fails(libc::EFAULT);
}

fn tcp6_to_af_inet_address() {
    let (_l, at) = listener(Net::V4);
    let mut wide = at;
    wide.len = 28;
    Net::V6.tcp().connect(&wide).fails(libc::EAFNOSUPPORT);
}

fn tcp4_to_af_inet6_address() {
    let (_l, at) = listener(Net::V6);
    Net::V4.tcp().connect(&at).fails(libc::EAFNOSUPPORT);
}

fn ebadf() {
    let at = Addr::v4([127, 0, 0, 1], 9);
    sys!(libc::connect(-1, at.ptr(), at.len)).fails(libc::EBADF);
    sys!(libc::connect(777, at.ptr(), at.len)).fails(libc::EBADF);
}

fn enotsock() {
    let f = sys!(libc::open(c"/dev/null".as_ptr(), libc::O_RDWR)).fd();
    f.connect(&Addr::v4([127, 0, 0, 1], 9)).fails(libc::ENOTSOCK);
}

fn to_unspecified_address(net: Net) {
    let l = net.tcp();
    l.bind(&net.any()).is(0);
    l.listen(1).is(0);
    let c = net.tcp();
    c.connect(&net.any().at(l.name().port())).is(0);
    let s = l.accept().fd();
    assert_eq!(c.peer().ip(), net.lo().ip());
    assert_eq!(s.peer().ip(), net.lo().ip());
}

fn broadcast_is_unreachable() {
    Net::V4.tcp().connect(&Addr::v4([255; 4], 9)).fails(libc::ENETUNREACH);
}

fn multicast_is_unreachable() {
    Net::V4.tcp().connect(&Addr::v4([224, 0, 0, 1], 9)).fails(libc::ENETUNREACH);
}

fn listening_is_connected(net: Net) {
    let (l, at) = listener(net);
    l.connect(&at).fails(libc::EISCONN);
}

fn bound_source_port(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.bind(&net.lo()).is(0);
    let from = c.name();
    c.connect(&at).is(0);
    assert_eq!(c.name(), from);
    assert_eq!(l.accept().fd().peer(), from);
}

fn source_bound_elsewhere_in_127() {
    let (l, at) = listener(Net::V4);
    let c = Net::V4.tcp();
    c.bind(&Addr::v4([127, 0, 0, 9], 0)).is(0);
    c.connect(&at).is(0);
    assert_eq!(l.accept().fd().peer().ip().to_string(), "127.0.0.9");
}

fn source_for_other_127_address() {
    let l = Net::V4.tcp();
    l.bind(&Addr::v4([127, 0, 0, 7], 0)).is(0);
    l.listen(1).is(0);
    let c = Net::V4.tcp();
    c.connect(&l.name()).is(0);
    assert_eq!(c.name().ip().to_string(), "127.0.0.1");
    assert_eq!(c.peer().ip().to_string(), "127.0.0.7");
}

fn any_127_address_listens() {
    let (l, at) = listener(Net::V4);
    // Bound to 127.0.0.1 alone: another address of lo's is nobody.
    Net::V4.tcp().connect(&Addr::v4([127, 0, 0, 2], at.port())).fails(libc::ECONNREFUSED);
    drop(l);
    let l = Net::V4.tcp();
    l.bind(&Addr::v4([0; 4], 0)).is(0);
    l.listen(1).is(0);
    let c = Net::V4.tcp();
    c.connect(&Addr::v4([127, 99, 0, 2], l.name().port())).is(0);
    assert_eq!(l.accept().fd().name().ip().to_string(), "127.99.0.2");
}

fn to_itself(net: Net) {
    let c = net.tcp();
    c.bind(&net.lo()).is(0);
    c.connect(&c.name()).is(0);
    assert_eq!(c.name(), c.peer());
    c.write(b"echo").is(4);
    assert_eq!(take(&c, 9), b"echo");
}

fn same_four_tuple(net: Net) {
    let (l, at) = listener(net);
    let (a, b) = (net.tcp(), net.tcp());
    for fd in [&a, &b] {
        fd.on(SOL_SOCKET, SO_REUSEADDR, 1);
    }
    a.bind(&net.lo()).is(0);
    b.bind(&a.name()).is(0);
    a.connect(&at).is(0);
    b.connect(&at).fails(libc::EADDRNOTAVAIL);
    let (_other, elsewhere) = listener(net);
    b.connect(&elsewhere).is(0);
    assert_eq!(l.accept().fd().peer(), a.name());
}

fn distinct_ports(net: Net) {
    let (_l, at) = listener(net);
    let all: Vec<Fd> = (0..8).map(|_| net.tcp()).collect();
    let mut ports: Vec<u16> = all
        .iter()
        .map(|c| {
            c.connect(&at).is(0);
            c.name().port()
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 8);
    assert!(ports[0] >= 1024, "{ports:?}");
}

fn accept_order(net: Net) {
    let (l, at) = listener(net);
    let all: Vec<Fd> = (0..5).map(|_| net.tcp()).collect();
    for c in &all {
        c.connect(&at).is(0);
    }
    for c in &all {
        assert_eq!(l.accept().fd().peer(), c.name());
    }
}

fn accepted_peer_is_source(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.connect(&at).is(0);
    let mut from = Addr::room();
    let s = sys!(libc::accept(l.raw(), from.mut_ptr(), &raw mut from.len)).fd();
    assert_eq!(from, c.name());
    assert_eq!(from.len, if net == Net::V4 { 16 } else { 28 });
    assert_eq!(s.name(), at);
}

fn data_before_accept(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.connect(&at).is(0);
    put_all(&c, b"early bird");
    c.shutdown(libc::SHUT_WR).is(0);
    let s = l.accept().fd();
    assert_eq!(take_all(&s, 10), b"early bird");
    assert_eq!(take(&s, 9), b"");
}

fn fresh_readiness(net: Net) {
    let c = net.tcp();
    assert_eq!(c.ready(), POLLOUT | POLLHUP);
    c.bind(&net.lo()).is(0);
    assert_eq!(c.ready(), POLLOUT | POLLHUP);
    c.listen(1).is(0);
    assert_eq!(c.ready(), 0);
}

fn fresh_recv(net: Net) {
    let c = net.tcp();
    c.recv(&mut [0; 8], 0).fails(libc::ENOTCONN);
    c.read(&mut [0; 8]).fails(libc::ENOTCONN);
    c.recv(&mut [0; 8], libc::MSG_PEEK).fails(libc::ENOTCONN);
}

fn fresh_send(net: Net) {
    let c = net.tcp();
    c.send(b"x", libc::MSG_NOSIGNAL).fails(libc::EPIPE);
    let at = net.lo().at(9);
    c.sendto(b"x", libc::MSG_NOSIGNAL, &at).fails(libc::EPIPE);
}

fn fresh_names(net: Net) {
    let c = net.tcp();
    assert_eq!(c.name(), net.any());
    c.getpeername(&mut Addr::room()).fails(libc::ENOTCONN);
    c.shutdown(libc::SHUT_RDWR).fails(libc::ENOTCONN);
}

fn sendto_ignores_address(net: Net) {
    let (c, s) = pair(net);
    c.sendto(b"hey", 0, &net.lo().at(9)).is(3);
    assert_eq!(take(&s, 9), b"hey");
    let mut from = Addr::room();
    s.write(b"you").is(3);
    let before = from.len;
    // recvfrom on a stream leaves the address alone and says length 0.
    let mut room = [0; 8];
    sys!(libc::recvfrom(c.raw(), room.as_mut_ptr().cast(), 8, 0, from.mut_ptr(), &raw mut from.len)).is(3);
    assert!(from.len == 0, "address length {} (was {before})", from.len);
}

fn local_address_is_chosen(net: Net) {
    let (_l, at) = listener(net);
    let c = net.tcp();
    c.bind(&net.any()).is(0);
    assert_eq!(c.name().ip(), net.any().ip());
    assert_ne!(c.name().port(), 0);
    c.connect(&at).is(0);
    assert_eq!(c.name().ip(), net.lo().ip());
    until(|| c.poll(POLLOUT, LIMIT) == POLLOUT);
    drop(socket(net.af(), libc::SOCK_STREAM, libc::IPPROTO_TCP));
}
