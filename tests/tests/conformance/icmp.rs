//! Ping sockets (SOCK_DGRAM with IPPROTO_ICMP or IPPROTO_ICMPV6) and raw sockets.

use std::net::Ipv6Addr;

use crate::cases;
use crate::msg::recvmsg;
use crate::net::{bound_udp, quiet, take, wait_in};
use crate::sys::{Addr, Fd, Net, socket, sys};
use libc::{
    AF_INET, AF_INET6, EINVAL, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IP, IPPROTO_UDP, POLLIN, POLLOUT, SOCK_DGRAM, SOCK_RAW, SOL_SOCKET,
};

cases! {
    one: [
        ping_ttl, raw_icmp_sees_echo, raw_needs_header_v4, raw_v6_has_no_header, raw_icmp_filter, raw_icmp6_filter, raw_udp_sees_datagrams,
        raw_hdrincl, raw_hdrincl_value, raw_protocol_filter, raw_connected_filter, raw_custom_protocol_v4, raw_custom_protocol_v6, raw_icmp6_checksum,
        raw_bound_address, raw_raw_implies_hdrincl, raw_send_port_is_protocol, raw_options, raw_icmp_to_nobody_udp,
    ],
    net: [
        ping_echo, ping_id_is_the_port, ping_readiness, ping_connected, ping_two_do_not_mix, ping_short, ping_not_an_echo, ping_unconnected_send,
        ping_socket_options, ping_bind_id, ping_bind_conflict, ping_payload, ping_recvmsg_name, ping_no_listen, raw_not_connected, raw_empty_is_eagain,
    ],
}

fn protocol(net: Net) -> i32 {
    if net == Net::V4 { IPPROTO_ICMP } else { IPPROTO_ICMPV6 }
}

fn ping(net: Net) -> Fd {
    socket(net.af(), SOCK_DGRAM, protocol(net))
}

/// An echo request, checksum left to the kernel.
fn echo(net: Net, seq: u16, payload: &[u8]) -> Vec<u8> {
    let mut all = vec![if net == Net::V4 { 8 } else { 128 }, 0, 0, 0, 0, 0];
    all.extend(seq.to_be_bytes());
    all.extend(payload);
    all
}

const fn reply(net: Net) -> u8 {
    match net {
        Net::V4 => 0,
        Net::V6 => 129,
    }
}

fn ping_echo(net: Net) {
    let p = ping(net);
    p.sendto(&echo(net, 7, b"data"), 0, &net.lo()).is(12);
    let (mut room, mut from) = ([0; 64], Addr::room());
    p.recvfrom(&mut room, 0, &mut from).is(12);
    assert_eq!((room[0], room[1]), (reply(net), 0));
    assert_eq!(room[6..12], [0, 7, b'd', b'a', b't', b'a']);
    assert_eq!(from.ip(), net.lo().ip());
}

fn ping_id_is_the_port(net: Net) {
    let p = ping(net);
    p.sendto(&echo(net, 1, b""), 0, &net.lo()).is(8);
    let got = take(&p, 64);
    assert_eq!(u16::from_be_bytes([got[4], got[5]]), p.name().port());
    assert_ne!(p.name().port(), 0);
}

fn ping_readiness(net: Net) {
    let p = ping(net);
    assert_eq!(p.ready(), POLLOUT);
    p.sendto(&echo(net, 1, b""), 0, &net.lo()).is(8);
    wait_in(&p);
    take(&p, 64);
    assert_eq!(p.ready(), POLLOUT);
}

fn ping_connected(net: Net) {
    let p = ping(net);
    p.connect(&net.lo()).is(0);
    p.write(&echo(net, 9, b"x")).is(9);
    assert_eq!(take(&p, 64)[7], 9);
}

fn ping_two_do_not_mix(net: Net) {
    let (a, b) = (ping(net), ping(net));
    a.sendto(&echo(net, 1, b"a"), 0, &net.lo()).is(9);
    b.sendto(&echo(net, 2, b"b"), 0, &net.lo()).is(9);
    assert_eq!(take(&a, 64)[8], b'a');
    assert_eq!(take(&b, 64)[8], b'b');
    quiet(&a, POLLIN);
}

fn ping_short(net: Net) {
    ping(net).sendto(&[8, 0, 0], 0, &net.lo()).fails(EINVAL);
}

fn ping_not_an_echo(net: Net) {
    let mut request = echo(net, 1, b"");
    request[0] = 13;
    ping(net).sendto(&request, 0, &net.lo()).fails(EINVAL);
}

fn ping_unconnected_send(net: Net) {
    ping(net).send(&echo(net, 1, b""), 0).fails(libc::EDESTADDRREQ);
}

fn ping_socket_options(net: Net) {
    let p = ping(net);
    assert_eq!(p.opt(SOL_SOCKET, libc::SO_TYPE), SOCK_DGRAM);
    assert_eq!(p.opt(SOL_SOCKET, libc::SO_PROTOCOL), protocol(net));
    assert_eq!(p.opt(SOL_SOCKET, libc::SO_DOMAIN), net.af());
}

fn ping_bind_id(net: Net) {
    let p = ping(net);
    p.bind(&net.lo().at(4321)).is(0);
    assert_eq!(p.name().port(), 4321);
    p.sendto(&echo(net, 1, b""), 0, &net.lo()).is(8);
    let got = take(&p, 64);
    assert_eq!(u16::from_be_bytes([got[4], got[5]]), 4321);
}

fn ping_bind_conflict(net: Net) {
    // Ping sockets are born with SO_REUSEADDR.
    let (a, b, c) = (ping(net), ping(net), ping(net));
    assert_eq!(a.opt(SOL_SOCKET, libc::SO_REUSEADDR), 1);
    a.bind(&net.lo().at(4321)).is(0);
    b.bind(&net.lo().at(4321)).is(0);
    c.on(SOL_SOCKET, libc::SO_REUSEADDR, 0);
    c.bind(&net.lo().at(4321)).fails(libc::EADDRINUSE);
}

fn ping_payload(net: Net) {
    let p = ping(net);
    let data = crate::net::pattern(1400);
    p.sendto(&echo(net, 1, &data), 0, &net.lo()).is(1408);
    assert!(take(&p, 2000)[8..] == data);
}

fn ping_recvmsg_name(net: Net) {
    let p = ping(net);
    p.sendto(&echo(net, 1, b""), 0, &net.lo()).is(8);
    let got = recvmsg(&p, &[64], 0, 128);
    got.result.is(8);
    assert_eq!((got.from.ip(), got.from.port(), got.flags), (net.lo().ip(), 0, 0));
}

fn ping_no_listen(net: Net) {
    ping(net).listen(1).fails(libc::EOPNOTSUPP);
    ping(net).accept().fails(libc::EOPNOTSUPP);
}

fn ping_ttl() {
    let p = ping(Net::V4);
    p.on(IPPROTO_IP, libc::IP_RECVTTL, 1);
    p.on(IPPROTO_IP, libc::IP_TTL, 9);
    p.sendto(&echo(Net::V4, 1, b""), 0, &Net::V4.lo()).is(8);
    let got = recvmsg(&p, &[64], 0, 128);
    // The reply has the other side's.
    assert_eq!(crate::msg::as_int(got.control(IPPROTO_IP, libc::IP_TTL)), 64);
}

fn raw(net: Net, protocol: i32) -> Fd {
    socket(net.af(), SOCK_RAW, protocol)
}

/// The Internet checksum.
fn checksum(data: &[u8]) -> u16 {
    let mut sum: u32 = data.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn echo_summed(seq: u16) -> Vec<u8> {
    let mut request = echo(Net::V4, seq, b"raw!");
    request[4..6].copy_from_slice(&[0x12, 0x34]);
    let sum = checksum(&request);
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    request
}

/// Receives until `want` holds; there are requests and replies on loopback.
fn take_where(fd: &Fd, want: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    for _ in 0..10 {
        wait_in(fd);
        let got = take(fd, 2000);
        if want(&got) {
            return got;
        }
    }
    panic!("ten packets, none of them the one");
}

fn raw_icmp_sees_echo() {
    let r = raw(Net::V4, IPPROTO_ICMP);
    r.sendto(&echo_summed(3), 0, &Net::V4.lo()).is(12);
    // Both the request and its answer pass.
    let got = take_where(&r, |p| p[20] == 0);
    assert_eq!(got[24..], [0x12, 0x34, 0, 3, b'r', b'a', b'w', b'!']);
}

fn raw_needs_header_v4() {
    let r = raw(Net::V4, IPPROTO_ICMP);
    r.sendto(&echo_summed(3), 0, &Net::V4.lo()).is(12);
    let got = take_where(&r, |p| p[20] == 8);
    assert_eq!((got[0], got[9]), (0x45, 1));
    assert_eq!(u16::from_be_bytes([got[2], got[3]]) as usize, got.len());
    assert_eq!((&got[12..16], &got[16..20]), (&[127, 0, 0, 1][..], &[127, 0, 0, 1][..]));
}

fn raw_v6_has_no_header() {
    let r = raw(Net::V6, IPPROTO_ICMPV6);
    r.sendto(&echo(Net::V6, 5, b"six"), 0, &Net::V6.lo()).is(11);
    let got = take_where(&r, |p| p[0] == 129);
    assert_eq!(got[6..], [0, 5, b's', b'i', b'x']);
}

fn raw_icmp6_checksum() {
    // Always computed for ICMPv6, whatever was in the field.
    let r = raw(Net::V6, IPPROTO_ICMPV6);
    let mut request = echo(Net::V6, 5, b"");
    request[2..4].copy_from_slice(&[0xde, 0xad]);
    r.sendto(&request, 0, &Net::V6.lo()).is(8);
    take_where(&r, |p| p[0] == 129);
}

fn raw_icmp_filter() {
    const ICMP_FILTER: i32 = 1;
    let r = raw(Net::V4, IPPROTO_ICMP);
    // Bits of types to drop: all but echo reply.
    r.set(libc::SOL_RAW, ICMP_FILTER, &!1u32).is(0);
    let mut back = 0u32;
    r.get_into(libc::SOL_RAW, ICMP_FILTER, &mut back);
    assert_eq!(back, !1);
    r.sendto(&echo_summed(1), 0, &Net::V4.lo()).is(12);
    assert_eq!(take(&r, 2000)[20], 0);
    quiet(&r, POLLIN);
}

fn raw_icmp6_filter() {
    const ICMP6_FILTER: i32 = 1;
    let r = raw(Net::V6, IPPROTO_ICMPV6);
    let mut block = [u32::MAX; 8];
    block[129 / 32] &= !(1 << (129 % 32));
    r.set(IPPROTO_ICMPV6, ICMP6_FILTER, &block).is(0);
    r.sendto(&echo(Net::V6, 1, b""), 0, &Net::V6.lo()).is(8);
    assert_eq!(take(&r, 2000)[0], 129);
    quiet(&r, POLLIN);
}

fn raw_udp_sees_datagrams() {
    let r = raw(Net::V4, IPPROTO_UDP);
    let (b, at) = bound_udp(Net::V4);
    Net::V4.udp().sendto(b"seen", 0, &at).is(4);
    let got = take(&r, 2000);
    assert_eq!(got[9], 17);
    assert_eq!(u16::from_be_bytes([got[22], got[23]]), at.port());
    assert_eq!(got[28..], *b"seen");
    // A copy: the datagram is delivered all the same.
    assert_eq!(take(&b, 9), b"seen");
}

fn raw_protocol_filter() {
    let r = raw(Net::V4, IPPROTO_UDP);
    raw(Net::V4, IPPROTO_ICMP).sendto(&echo_summed(1), 0, &Net::V4.lo()).is(12);
    quiet(&r, POLLIN);
}

fn raw_connected_filter() {
    let r = raw(Net::V4, 253);
    r.connect(&Addr::v4([127, 0, 0, 3], 0)).is(0);
    let s = raw(Net::V4, 253);
    s.sendto(b"from 1", 0, &Net::V4.lo()).is(6);
    s.bind(&Addr::v4([127, 0, 0, 3], 0)).is(0);
    s.sendto(b"from 3", 0, &Net::V4.lo()).is(6);
    assert_eq!(take(&r, 200)[20..], *b"from 3");
    quiet(&r, POLLIN);
}

fn raw_bound_address() {
    let r = raw(Net::V4, 253);
    r.bind(&Addr::v4([127, 0, 0, 6], 0)).is(0);
    let s = raw(Net::V4, 253);
    s.sendto(b"to 1", 0, &Net::V4.lo()).is(4);
    s.sendto(b"to 6", 0, &Addr::v4([127, 0, 0, 6], 0)).is(4);
    assert_eq!(take(&r, 200)[20..], *b"to 6");
    r.bind(&Addr::v4([192, 0, 2, 9], 0)).fails(libc::EADDRNOTAVAIL);
}

fn raw_custom_protocol_v4() {
    let (r, s) = (raw(Net::V4, 253), raw(Net::V4, 253));
    s.sendto(b"experiment", 0, &Net::V4.lo()).is(10);
    let mut from = Addr::room();
    let mut room = [0; 64];
    r.recvfrom(&mut room, 0, &mut from).is(30);
    assert_eq!(room[9], 253);
    assert_eq!(room[20..30], *b"experiment");
    assert_eq!((from.ip(), from.port()), (Net::V4.lo().ip(), 0));
}

fn raw_custom_protocol_v6() {
    let (r, s) = (raw(Net::V6, 253), raw(Net::V6, 253));
    s.sendto(b"experiment", 0, &Net::V6.lo()).is(10);
    let mut from = Addr::room();
    let mut room = [0; 64];
    r.recvfrom(&mut room, 0, &mut from).is(10);
    assert_eq!(room[..10], *b"experiment");
    assert_eq!(from.ip(), Ipv6Addr::LOCALHOST);
}

fn header(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut all = vec![0x45, 0, 0, (20 + payload.len()) as u8, 0, 0, 0, 0, 33, protocol, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1];
    all.extend(payload);
    all
}

fn raw_hdrincl() {
    let r = raw(Net::V4, 253);
    let s = raw(Net::V4, 253);
    s.on(IPPROTO_IP, libc::IP_HDRINCL, 1);
    s.sendto(&header(253, b"mine"), 0, &Net::V4.lo()).is(24);
    let got = take(&r, 200);
    // Our TTL; length, id and checksum are filled in.
    assert_eq!((got[8], &got[20..]), (33, &b"mine"[..]));
    assert_eq!(checksum(&got[..20]), 0);
}

fn raw_raw_implies_hdrincl() {
    let s = raw(Net::V4, libc::IPPROTO_RAW);
    assert_eq!(s.opt(IPPROTO_IP, libc::IP_HDRINCL), 1);
    let r = raw(Net::V4, 253);
    s.sendto(&header(253, b"any"), 0, &Net::V4.lo()).is(23);
    assert_eq!(take(&r, 200)[20..], *b"any");
    // It only sends.
    quiet(&s, POLLIN);
}

fn raw_hdrincl_value() {
    let r = raw(Net::V4, 253);
    assert_eq!(r.opt(IPPROTO_IP, libc::IP_HDRINCL), 0);
    Net::V4.udp().set(IPPROTO_IP, libc::IP_HDRINCL, &1).fails(libc::ENOPROTOOPT);
}

fn raw_send_port_is_protocol() {
    // The port field is ignored by IPv4's; by IPv6's it must be 0 or the protocol.
    let r = raw(Net::V4, 253);
    r.sendto(b"x", 0, &Net::V4.lo().at(7)).is(1);
    let s = raw(Net::V6, 253);
    s.sendto(b"x", 0, &Net::V6.lo().at(7)).fails(EINVAL);
    s.sendto(b"x", 0, &Net::V6.lo().at(253)).is(1);
}

fn raw_options() {
    let r = raw(Net::V4, 253);
    assert_eq!(r.opt(SOL_SOCKET, libc::SO_TYPE), SOCK_RAW);
    assert_eq!(r.opt(SOL_SOCKET, libc::SO_PROTOCOL), 253);
    assert_eq!(raw(Net::V6, 253).opt(SOL_SOCKET, libc::SO_DOMAIN), AF_INET6);
    assert_eq!(r.opt(SOL_SOCKET, libc::SO_DOMAIN), AF_INET);
    assert_eq!(r.ready(), POLLOUT);
    r.listen(1).fails(libc::EOPNOTSUPP);
}

fn raw_not_connected(net: Net) {
    let r = raw(net, 253);
    r.send(b"x", 0).fails(libc::EDESTADDRREQ);
    r.getpeername(&mut Addr::room()).fails(libc::ENOTCONN);
}

fn raw_empty_is_eagain(net: Net) {
    raw(net, 253).recv(&mut [0; 8], libc::MSG_DONTWAIT).fails(libc::EAGAIN);
}

fn raw_icmp_to_nobody_udp() {
    // The unreachable message a datagram to nobody causes is seen by a raw ICMP socket.
    let r = raw(Net::V4, IPPROTO_ICMP);
    let gone = crate::net::nobody(Net::V4, SOCK_DGRAM);
    Net::V4.udp().sendto(b"x", 0, &gone).is(1);
    let got = take(&r, 2000);
    assert_eq!((got[20], got[21]), (3, 3));
    assert_eq!(u16::from_be_bytes([got[50], got[51]]), gone.port(), "it quotes the datagram");
    assert!(sys!(libc::getuid()).get().is_ok());
}
