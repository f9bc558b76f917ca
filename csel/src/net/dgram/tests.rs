//! Datagrams between instances and within one, under a virtual clock.
use super::*;
use crate::call::socket as call;
use crate::net::Via;
use crate::net::option;
use crate::testing::{Host, World};
use std::vec::Vec;

const UDP: (i32, i32) = (libc::SOCK_DGRAM, 0);

fn v4(h: &Host) -> Ip {
    h.env.inst.facts.get().addrs().iter().map(|p| p.ip).find(|ip| ip.is_v4()).unwrap_or(Ip::ANY4)
}
fn v6(h: &Host) -> Ip {
    h.env.inst.facts.get().addrs().iter().map(|p| p.ip).find(|ip| !ip.is_v4()).unwrap_or(Ip::ANY6)
}
fn udp(h: &Host, family: i32) -> Held {
    h.socket(family, UDP.0, UDP.1)
}
fn family(ip: Ip) -> i32 {
    if ip.is_v4() { libc::AF_INET } else { libc::AF_INET6 }
}
fn bound(h: &Host, ip: Ip) -> (Held, Endpoint) {
    let s = udp(h, family(ip));
    h.call(|cx| bind(cx, &s, &Endpoint::new(ip, 0))).unwrap();
    let at = h.call(|cx| local(cx, &s)).unwrap();
    (s, at)
}
fn send_to(h: &Host, s: &Held, to: Option<Endpoint>, data: &[u8]) -> Result<usize> {
    send_with(h, s, to, data, 0, &[])
}
fn send_with(h: &Host, s: &Held, to: Option<Endpoint>, data: &[u8], flags: i32, control: &[u8]) -> Result<usize> {
    let msg = SendMsg { flags, to, control };
    h.call(|cx| send(cx, s, &[IoIn::new(data)], &msg))
}
struct Got {
    data: Vec<u8>,
    n: usize,
    from: Option<Endpoint>,
    flags: i32,
    control: Vec<u8>,
}
fn recv_with(h: &Host, s: &Held, room: usize, flags: i32) -> Result<Got> {
    let (mut data, mut control) = (vec![0; room], vec![0; 512]);
    let mut msg = RecvMsg { flags: flags | libc::MSG_DONTWAIT, control: &mut control, ..RecvMsg::default() };
    let n = h.call(|cx| {
        crate::net::progress(cx);
        recv(cx, s, &mut [IoOut::new(&mut data)], &mut msg)
    })?;
    let (from, out_flags, len) = (msg.from, msg.out_flags, msg.control_len);
    data.truncate(n);
    control.truncate(len);
    Ok(Got { data, n, from, flags: out_flags, control })
}
fn recv_from(h: &Host, s: &Held) -> Result<(Vec<u8>, Endpoint)> {
    recv_with(h, s, 70_000, 0).map(|g| (g.data, g.from.unwrap()))
}
fn set(h: &Host, s: &Held, level: i32, name: i32, value: &[u8]) -> Result<()> {
    h.call(|cx| option::set(cx, s, level, name, value))
}
fn set_int(h: &Host, s: &Held, level: i32, name: i32, value: i32) {
    set(h, s, level, name, &value.to_ne_bytes()).unwrap();
}
fn done(h: &Host, socks: impl IntoIterator<Item = Held>) {
    for s in socks {
        h.call(|cx| s.release(cx));
    }
}

#[test]
fn within_and_between() {
    let w = World::new(2);
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    for (here, there) in [(Ip::LOOPBACK4, Ip::LOOPBACK4), (Ip::LOOPBACK6, Ip::LOOPBACK6), (v4(a), v4(a)), (v6(a), v6(a))] {
        let ((s, at_s), (t, at_t)) = (bound(a, here), bound(a, there));
        assert_eq!(send_to(a, &s, Some(at_t), b"inside"), Ok(6));
        assert_eq!(recv_from(a, &t), Ok((b"inside".to_vec(), at_s)));
        done(a, [s, t]);
    }
    for (here, there) in [(v4(a), v4(b)), (v6(a), v6(b))] {
        let ((s, at_s), (t, at_t)) = (bound(a, here), bound(b, there));
        assert_eq!(send_to(a, &s, Some(at_t), b"across"), Ok(6));
        assert_eq!(recv_from(b, &t), Ok((b"across".to_vec(), at_s)));
        assert!(matches!(recv_from(b, &t), Err(Errno::EAGAIN)));
        done(a, [s]);
        done(b, [t]);
    }
}

#[test]
fn large_ones_are_cut_and_joined() {
    let w = World::with(2, |_, c| c.mtu = 1500);
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    let big: Vec<u8> = (0..60_000u32).map(|i| (i * 7 + i / 256) as u8).collect();
    for (here, there) in [(v4(a), v4(b)), (v6(a), v6(b))] {
        let ((s, at_s), (t, at_t)) = (bound(a, here), bound(b, there));
        for n in [1472, 1473, 2960, 9000, 60_000] {
            assert_eq!(send_to(a, &s, Some(at_t), &big[..n]), Ok(n));
            assert_eq!(recv_from(b, &t), Ok((big[..n].to_vec(), at_s)), "{n}");
        }
        done(a, [s]);
        done(b, [t]);
    }
    // One byte more than fits is refused; the largest IPv6 datagram goes in two pieces even at home.
    let ((s, _), (t, at)) = (bound(a, Ip::LOOPBACK4), bound(a, Ip::LOOPBACK4));
    assert_eq!(send_to(a, &s, Some(at), &[0; 65_508]), Err(Errno::EMSGSIZE));
    assert_eq!(send_to(a, &s, Some(at), &[1; 65_507]), Ok(65_507));
    assert_eq!(recv_from(a, &t).unwrap().0.len(), 65_507);
    let ((s6, _), (t6, at6)) = (bound(a, Ip::LOOPBACK6), bound(a, Ip::LOOPBACK6));
    assert_eq!(send_to(a, &s6, Some(at6), &[2; 65_527]), Ok(65_527));
    assert_eq!(recv_from(a, &t6).unwrap().0, [2; 65_527]);
    done(a, [s, t, s6, t6]);
}

#[test]
fn a_lost_piece_times_out() {
    let w = World::with(2, |_, c| c.mtu = 1500);
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    let (s, at) = bound(b, v4(b));
    // The first piece only, by hand.
    let data = [0u8; 808];
    let ip = output::Ipv { src: v4(a), dst: v4(b), proto: 17, ttl: 64, tos: 0, df: false, echo: false };
    let mut packet = vec![0; 828];
    output::header4(&mut packet, &ip, 828, 77, 0x2000);
    packet[20..].copy_from_slice(&data);
    b.call(|cx| input(cx, &packet, Via::Segment));
    let fails = || b.env.inst.stats.ip_reasm_fails.load(Relaxed);
    assert_eq!(fails(), 0);
    w.advance(31 * crate::clock::SEC);
    b.call(tick);
    assert_eq!(fails(), 1);
    assert!(recv_from(b, &s).is_err());
    let _ = at;
    done(b, [s]);
}

#[test]
fn a_connected_socket_hears_of_a_closed_port() {
    let w = World::new(2);
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    for ip in [Ip::LOOPBACK4, Ip::LOOPBACK6, v4(b), v6(b)] {
        let s = udp(a, family(ip));
        let nobody = Endpoint::new(ip, 9);
        a.call(|cx| connect(cx, &s, Some(&nobody))).unwrap();
        assert_eq!(send_to(a, &s, None, b"x"), Ok(1));
        w.run();
        assert!(s.ready.load(Relaxed) & libc::EPOLLERR as u32 != 0, "{ip}");
        assert_eq!(send_to(a, &s, None, b"x"), Err(Errno::ECONNREFUSED), "{ip}");
        assert_eq!(s.ready.load(Relaxed) & libc::EPOLLERR as u32, 0);
        assert!(matches!(recv_from(a, &s), Err(Errno::EAGAIN)));
        // An unconnected one is told nothing.
        let t = udp(a, family(ip));
        assert_eq!(send_to(a, &t, Some(nobody), b"x"), Ok(1));
        w.run();
        assert!(matches!(recv_from(a, &t), Err(Errno::EAGAIN)));
        done(a, [s, t]);
    }
}

#[test]
fn truncation_peek_and_order() {
    let w = World::new(1);
    let h = &w.hosts[0];
    let ((s, _), (t, at)) = (bound(h, Ip::LOOPBACK4), bound(h, Ip::LOOPBACK4));
    for d in [&b"first"[..], b"", b"third"] {
        assert_eq!(send_to(h, &s, Some(at), d), Ok(d.len()));
    }
    let g = recv_with(h, &t, 2, libc::MSG_PEEK | libc::MSG_TRUNC).unwrap();
    assert_eq!((g.n, g.flags & libc::MSG_TRUNC != 0), (5, true));
    let g = recv_with(h, &t, 2, 0).unwrap();
    assert_eq!((&g.data[..], g.flags), (&b"fi"[..], libc::MSG_TRUNC));
    assert_eq!(recv_with(h, &t, 9, 0).unwrap().n, 0);
    assert_eq!(recv_with(h, &t, 9, 0).unwrap().data, b"third");
    assert!(recv_with(h, &t, 9, 0).is_err());
    assert_eq!(t.ready.load(Relaxed) & libc::EPOLLIN as u32, 0);
    done(h, [s, t]);
}

#[test]
fn the_queue_is_bounded_and_wraps() {
    let w = World::new(1);
    let h = &w.hosts[0];
    let ((s, _), (t, at)) = (bound(h, Ip::LOOPBACK4), bound(h, Ip::LOOPBACK4));
    let mut x = 12345u32;
    let (mut sent, mut got) = (0u32, 0u32);
    let mut waiting = std::collections::VecDeque::new();
    for _ in 0..4000 {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let len = (x >> 8) as usize % 9000;
        let data: Vec<u8> = (0..len).map(|i| (i as u32 ^ x) as u8).collect();
        let before = h.env.inst.stats.udp_rcvbuf_errors.load(Relaxed);
        assert_eq!(send_to(h, &s, Some(at), &data), Ok(len));
        if h.env.inst.stats.udp_rcvbuf_errors.load(Relaxed) == before {
            sent += 1;
            waiting.push_back(data);
        }
        if x & 3 != 0 && !waiting.is_empty() {
            assert_eq!(recv_from(h, &t).unwrap().0, waiting.pop_front().unwrap());
            got += 1;
        }
    }
    while let Some(data) = waiting.pop_front() {
        assert_eq!(recv_from(h, &t).unwrap().0, data);
        got += 1;
    }
    assert_eq!(sent, got);
    // 212992 bytes of 768 each, and one more.
    set_int(h, &t, libc::SOL_SOCKET, libc::SO_RCVBUF, 106_496);
    for _ in 0..1000 {
        assert_eq!(send_to(h, &s, Some(at), b"x"), Ok(1));
    }
    let mut n = 0;
    while recv_from(h, &t).is_ok() {
        n += 1;
    }
    assert!((200..400).contains(&n), "{n}");
    done(h, [s, t]);
}

#[test]
fn bind_conflicts() {
    let w = World::new(1);
    let h = &w.hosts[0];
    let bits = option::bits::REUSEADDR;
    let try_bind = |ip: Ip, fam: i32, port: u16, reuse: u8| {
        let s = udp(h, fam);
        s.bits.fetch_or(reuse, Relaxed);
        let r = h.call(|cx| bind(cx, &s, &Endpoint::new(ip, port)));
        (s, r)
    };
    let (s, r) = try_bind(Ip::LOOPBACK4, 2, 5000, 0);
    assert_eq!(r, Ok(()));
    for (ip, fam, want) in [
        (Ip::LOOPBACK4, 2, Err(Errno::EADDRINUSE)),
        (Ip::ANY4, 2, Err(Errno::EADDRINUSE)),
        (Ip::ANY6, 10, Err(Errno::EADDRINUSE)),
        (v4(h), 2, Ok(())),
        (Ip::LOOPBACK6, 10, Ok(())),
        (Ip::v4([9, 9, 9, 9]), 2, Err(Errno::EADDRNOTAVAIL)),
    ] {
        let (t, r) = try_bind(ip, fam, 5000, 0);
        assert_eq!(r, want, "{ip}");
        done(h, [t]);
    }
    // V6ONLY keeps out of IPv4's way.
    let (t, r) = try_bind(Ip::ANY6, 10, 5000, option::bits::V6ONLY);
    assert_eq!(r, Ok(()));
    done(h, [s, t]);
    let (s, r) = try_bind(Ip::ANY4, 2, 5001, bits);
    assert_eq!(r, Ok(()));
    let (t, r) = try_bind(Ip::ANY4, 2, 5001, bits);
    assert_eq!(r, Ok(()));
    let (u, r) = try_bind(Ip::ANY4, 2, 5001, 0);
    assert_eq!(r, Err(Errno::EADDRINUSE));
    done(h, [s, t, u]);
    // All gone: free again.
    let (s, r) = try_bind(Ip::ANY4, 2, 5001, 0);
    assert_eq!(r, Ok(()));
    assert_eq!(h.call(|cx| bind(cx, &s, &Endpoint::new(Ip::ANY4, 5002))), Err(Errno::EINVAL));
    done(h, [s]);
}

#[test]
fn ephemeral_ports_are_shared_by_tuples() {
    let w = World::new(1);
    let h = &w.hosts[0];
    let a = h.socket(2, libc::SOCK_STREAM, 0);
    let b = h.socket(2, libc::SOCK_STREAM, 0);
    let (src, dst) = (Endpoint::new(Ip::LOOPBACK4, 0), Endpoint::new(Ip::LOOPBACK4, 80));
    h.call(|cx| {
        let only = |want: u16| move |p: u16| p != want;
        let p = port::ephemeral(cx, Space::Tcp, a.id(), &src, &dst, &|_| false).unwrap();
        assert_eq!(port::ephemeral(cx, Space::Tcp, b.id(), &src, &dst, &only(p)), Ok(p));
        port::release(cx, Space::Tcp, a.id());
        port::release(cx, Space::Tcp, b.id());
        // bind(2)'s ports are not.
        assert_eq!(port::bind(cx, Space::Tcp, a.id(), &Endpoint::new(Ip::ANY4, p)), Ok(p));
        assert_eq!(port::ephemeral(cx, Space::Tcp, b.id(), &src, &dst, &only(p)), Err(Errno::EADDRNOTAVAIL));
        // An orphan keeps it.
        let t = port::orphan(cx, Space::Tcp, a.id());
        assert_eq!(port::bind(cx, Space::Tcp, b.id(), &Endpoint::new(Ip::ANY4, p)), Err(Errno::EADDRINUSE));
        port::redeem(cx, Space::Tcp, t);
        assert_eq!(port::bind(cx, Space::Tcp, b.id(), &Endpoint::new(Ip::ANY4, p)), Ok(p));
        assert_eq!(port::may_listen(cx, b.id()), Ok(()));
        port::release(cx, Space::Tcp, b.id());
    });
    done(h, [a, b]);
}

#[test]
fn ping() {
    let w = World::new(2);
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    for (ip, proto, kind) in [(v4(b), libc::IPPROTO_ICMP, 8), (v6(b), libc::IPPROTO_ICMPV6, 128), (Ip::LOOPBACK4, libc::IPPROTO_ICMP, 8)] {
        let s = a.socket(family(ip), libc::SOCK_DGRAM, proto);
        let request = [kind, 0, 0, 0, 0, 0, 0, 7, b'h', b'i'];
        assert_eq!(send_to(a, &s, Some(Endpoint::new(ip, 0)), &request), Ok(10));
        w.run();
        let (got, from) = recv_from(a, &s).unwrap();
        let id = a.call(|cx| local(cx, &s)).unwrap().port.to_be_bytes();
        assert_eq!((got[0], &got[4..6], &got[6..], from.ip), (if kind == 8 { 0 } else { 129 }, &id[..], &request[6..], ip));
        assert_eq!(send_to(a, &s, Some(Endpoint::new(ip, 0)), &[1; 9]), Err(Errno::EINVAL));
        done(a, [s]);
    }
}

#[test]
fn raw_sockets_see_and_send() {
    let w = World::new(2);
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    let raw = b.socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP);
    let ((s, at_s), (t, at_t)) = (bound(a, v4(a)), bound(b, v4(b)));
    assert_eq!(send_to(a, &s, Some(at_t), b"seen"), Ok(4));
    w.run();
    let (packet, from) = recv_from(b, &raw).unwrap();
    assert_eq!((packet[0], packet[9], &packet[28..], from.ip), (0x45, 17, &b"seen"[..], at_s.ip));
    assert_eq!(output::fold(output::sum(0, &packet[..20])), 0);
    // The checksum, which the datagram did not carry, is there.
    assert_eq!(output::fold(output::sum(output::pseudo(at_s.ip, at_t.ip, 17, 12), &packet[20..])), 0);
    assert_eq!(recv_from(b, &t).unwrap().0, b"seen");
    // By hand: source, length, checksum are filled in.
    let hand = a.socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW);
    let mut p = vec![0u8; 20];
    p[0] = 0x45;
    p[8] = 9;
    p[9] = 17;
    p[16..20].copy_from_slice(&v4(b).as_v4().unwrap());
    p.extend([0x12, 0x34]);
    p.extend(at_t.port.to_be_bytes());
    p.extend([0, 11, 0, 0]);
    p.extend(b"raw");
    assert_eq!(send_to(a, &hand, Some(Endpoint::new(v4(b), 0)), &p), Ok(31));
    w.run();
    assert_eq!(recv_from(b, &t), Ok((b"raw".to_vec(), Endpoint::new(v4(a), 0x1234))));
    done(a, [s, hand]);
    done(b, [t, raw]);
}

#[test]
fn udplite_has_ports_of_its_own() {
    let w = World::new(2);
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    let lite = |h: &Host| h.socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE);
    let (s, t, u) = (lite(a), lite(b), udp(b, libc::AF_INET));
    let at = Endpoint::new(v4(b), 6000);
    for x in [&t, &u] {
        b.call(|cx| bind(cx, x, &at)).unwrap();
    }
    assert_eq!(send_to(a, &s, Some(at), b"light"), Ok(5));
    w.run();
    assert_eq!(recv_from(b, &t).unwrap().0, b"light");
    assert!(recv_from(b, &u).is_err());
    done(a, [s]);
    done(b, [t, u]);
}

#[test]
fn shutdown_rules() {
    let w = World::new(1);
    let h = &w.hosts[0];
    let (s, at) = bound(h, Ip::LOOPBACK4);
    assert_eq!(h.call(|cx| call::shutdown(cx, &s, libc::SHUT_RD)), Err(Errno::ENOTCONN));
    let t = udp(h, libc::AF_INET);
    h.call(|cx| connect(cx, &t, Some(&at))).unwrap();
    assert_eq!(h.call(|cx| call::shutdown(cx, &t, libc::SHUT_WR)), Ok(()));
    assert_eq!(send_to(h, &t, None, b"x"), Err(Errno::EPIPE));
    assert_eq!(h.call(|cx| call::shutdown(cx, &t, libc::SHUT_RD)), Ok(()));
    assert!(t.ready.load(Relaxed) & libc::EPOLLHUP as u32 != 0);
    let u = udp(h, libc::AF_INET);
    assert_eq!(send_to(h, &u, None, b"x"), Err(Errno::EDESTADDRREQ));
    assert_eq!(send_to(h, &u, Some(Endpoint::new(Ip::LOOPBACK4, 0)), b"x"), Err(Errno::EINVAL));
    assert_eq!(send_to(h, &u, Some(Endpoint::new(Ip::BROADCAST, 9)), b"x"), Err(Errno::EACCES));
    done(h, [s, t, u]);
}

#[test]
fn fresh_options_are_linuxs() {
    let w = World::new(1);
    let h = &w.hosts[0];
    let get = |s: &Held, level, name, len: usize| {
        let mut b = vec![0xaa; len];
        let n = h.call(|cx| option::get(cx, s, level, name, &mut b))?;
        b.truncate(n);
        Ok(b)
    };
    let word = |n: i32| Ok(n.to_ne_bytes().to_vec());
    let s = udp(h, libc::AF_INET6);
    for (level, name, want) in [
        (libc::SOL_SOCKET, libc::SO_TYPE, word(2)),
        (libc::SOL_SOCKET, libc::SO_PROTOCOL, word(17)),
        (libc::SOL_SOCKET, libc::SO_DOMAIN, word(10)),
        (libc::SOL_SOCKET, libc::SO_RCVBUF, word(212_992)),
        (libc::SOL_SOCKET, libc::SO_INCOMING_CPU, word(-1)),
        (libc::SOL_SOCKET, libc::SO_LINGER, Ok(vec![0; 8])),
        (libc::SOL_SOCKET, libc::SO_PASSCRED, Err(Errno::EOPNOTSUPP)),
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE, Ok(vec![])),
        (libc::IPPROTO_IP, libc::IP_TTL, word(64)),
        (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, word(1)),
        (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, word(64)),
        (libc::IPPROTO_IPV6, libc::IPV6_MTU, Err(Errno::ENOTCONN)),
        (libc::IPPROTO_IPV6, libc::IPV6_ADDR_PREFERENCES, word(0x500)),
        (libc::IPPROTO_UDP, libc::UDP_SEGMENT, word(0)),
        (libc::IPPROTO_TCP, 1, Err(Errno::ENOPROTOOPT)),
    ] {
        assert_eq!(get(&s, level, name, 64), want, "{level} {name}");
    }
    assert_eq!(get(&s, libc::IPPROTO_IP, libc::IP_TTL, 1), Ok(vec![64]));
    assert_eq!(get(&s, libc::SOL_SOCKET, libc::SO_RCVBUF, 2), Ok(vec![0, 0x40]));
    set_int(h, &s, libc::SOL_SOCKET, libc::SO_RCVBUF, 1);
    assert_eq!(get(&s, libc::SOL_SOCKET, libc::SO_RCVBUF, 4), word(2304));
    set_int(h, &s, libc::SOL_SOCKET, libc::SO_SNDBUF, 10_000);
    assert_eq!(get(&s, libc::SOL_SOCKET, libc::SO_SNDBUF, 4), word(20_000));
    assert_eq!(set(h, &s, libc::SOL_SOCKET, libc::SO_SNDBUF, &[0; 3]), Err(Errno::EINVAL));
    assert_eq!(set(h, &s, libc::SOL_SOCKET, libc::SO_TYPE, &[0; 4]), Err(Errno::ENOPROTOOPT));
    assert_eq!(set(h, &s, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"nope"), Err(Errno::ENODEV));
    set(h, &s, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo").unwrap();
    assert_eq!(get(&s, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, 16), Ok(b"lo\0".to_vec()));
    done(h, [s]);
}

fn cmsgs(mut b: &[u8]) -> Vec<(i32, i32, Vec<u8>)> {
    let mut all = vec![];
    while b.len() >= 16 {
        let len = u64::from_ne_bytes(b[..8].try_into().unwrap()) as usize;
        let word = |at: usize| i32::from_ne_bytes(b[at..at + 4].try_into().unwrap());
        all.push((word(8), word(12), b[16..len].to_vec()));
        b = &b[len.next_multiple_of(8).min(b.len())..];
    }
    all
}

#[test]
fn control_messages_both_ways() {
    let w = World::new(1);
    let h = &w.hosts[0];
    let ((s, _), (t, at)) = (bound(h, Ip::LOOPBACK4), bound(h, Ip::LOOPBACK4));
    for name in [libc::IP_PKTINFO, libc::IP_RECVTTL, libc::IP_RECVTOS, libc::IP_RECVORIGDSTADDR] {
        set_int(h, &t, libc::IPPROTO_IP, name, 1);
    }
    set_int(h, &t, libc::SOL_SOCKET, libc::SO_TIMESTAMP, 1);
    let mut room = [0; 128];
    let mut e = cmsg::Encoder::new(&mut room);
    e.put(libc::IPPROTO_IP, libc::IP_TTL, &9i32.to_ne_bytes());
    e.put(libc::IPPROTO_IP, libc::IP_TOS, &[0x10]);
    let (n, cut) = e.finish();
    assert!(!cut);
    assert_eq!(send_with(h, &s, Some(at), b"x", 0, &room[..n]), Ok(1));
    let got = cmsgs(&recv_with(h, &t, 9, 0).unwrap().control);
    let ip = libc::IPPROTO_IP;
    assert_eq!((got[0].0, got[0].1, got[0].2.len()), (libc::SOL_SOCKET, libc::SO_TIMESTAMP, 16));
    assert_eq!(got[1], (ip, libc::IP_PKTINFO, [&[1, 0, 0, 0][..], &[127, 0, 0, 1], &[127, 0, 0, 1]].concat()));
    assert_eq!(got[2], (ip, libc::IP_TTL, vec![9, 0, 0, 0]));
    assert_eq!(got[3], (ip, libc::IP_TOS, vec![0x10]));
    assert_eq!((got[4].1, got[4].2.len(), got.len()), (libc::IP_ORIGDSTADDR, 16, 5));
    // Too little room: what fits, and MSG_CTRUNC.
    assert_eq!(send_to(h, &s, Some(at), b"y"), Ok(1));
    let mut control = [0; 40];
    let mut data = [0; 4];
    let mut msg = RecvMsg { flags: libc::MSG_DONTWAIT, control: &mut control, ..RecvMsg::default() };
    assert_eq!(h.call(|cx| recv(cx, &t, &mut [IoOut::new(&mut data)], &mut msg)), Ok(1));
    assert_eq!((msg.control_len, msg.out_flags & libc::MSG_CTRUNC != 0), (32, true));
    for bad in [&[1u8; 16][..], &[16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0]] {
        assert_eq!(send_with(h, &s, Some(at), b"z", 0, bad), Err(Errno::EINVAL));
    }
    done(h, [s, t]);
}

#[test]
fn the_error_queue() {
    let w = World::new(2);
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    let s = udp(a, libc::AF_INET);
    set_int(a, &s, libc::IPPROTO_IP, libc::IP_RECVERR, 1);
    let nobody = Endpoint::new(v4(b), 9);
    assert_eq!(send_to(a, &s, Some(nobody), b"hello"), Ok(5));
    w.run();
    assert_eq!(recv_from(a, &s), Err(Errno::ECONNREFUSED));
    let g = recv_with(a, &s, 64, libc::MSG_ERRQUEUE).unwrap();
    assert_eq!((&g.data[..], g.from, g.flags), (&b"hello"[..], Some(nobody), libc::MSG_ERRQUEUE));
    let c = cmsgs(&g.control);
    let want = [111, 0, 0, 0, libc::SO_EE_ORIGIN_ICMP, 3, 3, 0];
    assert_eq!((c[0].0, c[0].1, &c[0].2[..8], &c[0].2[20..24]), (0, libc::IP_RECVERR, &want[..], &v4(b).as_v4().unwrap()[..]));
    assert!(matches!(recv_with(a, &s, 64, libc::MSG_ERRQUEUE), Err(Errno::EAGAIN)));
    done(a, [s]);
}

#[test]
fn groups_and_everybody() {
    let w = World::new(2);
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    let group = Ip::v4([239, 1, 2, 3]);
    let member = |h: &Host| {
        let s = udp(h, libc::AF_INET);
        set_int(h, &s, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
        h.call(|cx| bind(cx, &s, &Endpoint::new(Ip::ANY4, 7000))).unwrap();
        let mreq = [&group.as_v4().unwrap()[..], &v4(h).as_v4().unwrap()].concat();
        set(h, &s, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &mreq).unwrap();
        assert_eq!(set(h, &s, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &mreq), Err(Errno::EADDRINUSE));
        s
    };
    let s = udp(a, libc::AF_INET);
    let to = Endpoint::new(group, 7000);
    // Nobody is a member: nobody gets it.
    let idle = udp(b, libc::AF_INET);
    b.call(|cx| bind(cx, &idle, &Endpoint::new(Ip::ANY4, 7000))).unwrap();
    assert_eq!(send_to(a, &s, Some(to), b"lost"), Ok(4));
    w.run();
    assert!(recv_from(b, &idle).is_err());
    done(b, [idle]);
    let members = [member(a), member(b), member(b)];
    let hosts = [a, b, b];
    assert_eq!(send_to(a, &s, Some(to), b"all"), Ok(3));
    w.run();
    for (h, m) in hosts.iter().zip(&members) {
        assert_eq!(recv_from(h, m).unwrap().0, b"all");
    }
    set_int(a, &s, libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, 0);
    assert_eq!(send_to(a, &s, Some(to), b"others"), Ok(6));
    w.run();
    assert!(recv_from(a, &members[0]).is_err());
    assert_eq!(recv_from(b, &members[1]).unwrap().0, b"others");
    assert_eq!(recv_from(b, &members[2]).unwrap().0, b"others");
    // Broadcast.
    set_int(a, &s, libc::SOL_SOCKET, libc::SO_BROADCAST, 1);
    assert_eq!(send_to(a, &s, Some(Endpoint::new(Ip::BROADCAST, 7000)), b"hear"), Ok(4));
    w.run();
    for (h, m) in hosts.iter().zip(&members) {
        assert_eq!(recv_from(h, m).unwrap().0, b"hear");
    }
    let drop = [&group.as_v4().unwrap()[..], &[0; 4]].concat();
    set(b, &members[1], libc::IPPROTO_IP, libc::IP_DROP_MEMBERSHIP, &drop).unwrap();
    assert_eq!(set(b, &members[1], libc::IPPROTO_IP, libc::IP_DROP_MEMBERSHIP, &drop), Err(Errno::EADDRNOTAVAIL));
    for (h, m) in hosts.iter().zip(members) {
        done(h, [m]);
    }
    done(a, [s]);
}

#[test]
fn corks_and_segments() {
    let w = World::new(1);
    let h = &w.hosts[0];
    let ((s, _), (t, at)) = (bound(h, Ip::LOOPBACK4), bound(h, Ip::LOOPBACK4));
    assert_eq!(send_with(h, &s, Some(at), b"one", libc::MSG_MORE, &[]), Ok(3));
    assert!(recv_from(h, &t).is_err());
    assert_eq!(send_with(h, &s, None, b"two", 0, &[]), Ok(3));
    assert_eq!(recv_from(h, &t).unwrap().0, b"onetwo");
    set_int(h, &s, libc::IPPROTO_UDP, libc::UDP_CORK, 1);
    assert_eq!(send_to(h, &s, Some(at), b"a"), Ok(1));
    assert_eq!(send_to(h, &s, Some(at), b"b"), Ok(1));
    assert!(recv_from(h, &t).is_err());
    set_int(h, &s, libc::IPPROTO_UDP, libc::UDP_CORK, 0);
    assert_eq!(recv_from(h, &t).unwrap().0, b"ab");
    set_int(h, &s, libc::IPPROTO_UDP, libc::UDP_SEGMENT, 4);
    assert_eq!(send_to(h, &s, Some(at), b"0123456789"), Ok(10));
    for want in [&b"0123"[..], b"4567", b"89"] {
        assert_eq!(recv_from(h, &t).unwrap().0, want);
    }
    done(h, [s, t]);
}

#[test]
fn interfaces_agree() {
    let w = World::new(1);
    let h = &w.hosts[0];
    let s = udp(h, libc::AF_INET);
    let ask = |request: u64, name: &str| {
        let mut b = [0u8; 40];
        b[..name.len()].copy_from_slice(name.as_bytes());
        h.call(|cx| option::ioctl(cx, &s, request, &mut b)).map(|_| b)
    };
    assert_eq!(ask(0x8915, "lo").unwrap()[16..24], [2, 0, 0, 0, 127, 0, 0, 1]);
    assert_eq!(ask(0x8915, "eth0").unwrap()[20..24], v4(h).as_v4().unwrap());
    assert_eq!(ask(0x891b, "lo").unwrap()[20..24], [255, 0, 0, 0]);
    assert_eq!(ask(0x8933, "eth0").unwrap()[16], 2);
    assert_eq!(ask(0x8913, "lo").unwrap()[16], 0x49);
    assert_eq!(ask(0x8913, "eth1"), Err(Errno::ENODEV));
    assert_eq!(ask(0x8914, "lo"), Err(Errno::EPERM));
    assert_eq!(ask(0x1234, "lo"), Err(Errno::ENOTTY));
    done(h, [s]);
}

/// Random packets into the entrance: nothing may panic, hang or leak. FUZZ_SECONDS says for how long.
#[test]
fn fuzz_packet() {
    let w = World::with(1, |_, c| c.mtu = 1500);
    let h = &w.hosts[0];
    let (s, at) = bound(h, v4(h));
    let (s6, at6) = bound(h, v6(h));
    let raw = h.socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP);
    fuzz(|rng, round| {
        let mut b = vec![0u8; (rng() % 200) as usize + (rng() % 16 / 15 * 3000) as usize];
        b.iter_mut().for_each(|x| *x = rng() as u8);
        let v4_packet = rng() & 1 == 0;
        if b.len() >= 60 && rng() & 15 != 0 {
            let ip = |v4: bool, ours: bool| match (v4, ours) {
                (true, true) => at.ip,
                (false, true) => at6.ip,
                (true, false) => Ip::v4([10, 111, 9, 9]),
                (false, false) => Ip([0xfd; 16]),
            };
            let proto = [1, 17, 6, 58, 44, 0, 43, 60, 2][(rng() % 9) as usize];
            let ours = rng() & 3 == 0;
            let p = output::Ipv { src: ip(v4_packet, ours), dst: ip(v4_packet, true), proto, ttl: 1, tos: 0, df: false, echo: false };
            let len = b.len();
            if v4_packet {
                let frag = if rng() & 3 == 0 { (rng() & 0x2007) as u16 } else { 0 };
                output::header4(&mut b, &p, len, (rng() & 3) as u16, frag);
            } else {
                output::header6(&mut b, &p, len - 40, proto);
            }
            let at_payload = if v4_packet { 20 } else { 40 };
            match proto {
                17 => {
                    b[at_payload + 2..at_payload + 4].copy_from_slice(&at.port.to_be_bytes());
                    b[at_payload + 4..at_payload + 6].copy_from_slice(&((len - at_payload) as u16).to_be_bytes());
                }
                1 => b[at_payload] = [0, 3, 8, 11, 12][(rng() % 5) as usize],
                58 => b[at_payload] = [1, 2, 3, 4, 128, 129][(rng() % 6) as usize],
                _ => {}
            }
            if rng() & 3 != 0 {
                // Mostly a checksum that holds, so that what is behind it is reached.
                match proto {
                    1 => output::fill(output::Sum::Plain(2), p.src, p.dst, proto, &mut b[at_payload..]),
                    58 => output::fill(output::Sum::Pseudo(2), p.src, p.dst, proto, &mut b[at_payload..]),
                    17 => b[at_payload + 6..at_payload + 8].fill(0),
                    _ => {}
                }
            } else {
                let i = rng() as usize % len;
                b[i] = rng() as u8;
            }
        }
        h.call(|cx| input(cx, &b, if rng() & 1 == 0 { Via::Lo } else { Via::Segment }));
        while recv_from(h, &raw).is_ok() {}
        let _ = (recv_from(h, &s), recv_from(h, &s6));
        if round % 1000 == 0 {
            w.advance(crate::clock::SEC);
        }
    });
    done(h, [s, s6, raw]);
}

/// Random control messages: parsed or refused, and what we write is always well formed.
#[test]
fn fuzz_cmsg() {
    fuzz(|rng, _| {
        let mut b = vec![0u8; (rng() % 160) as usize];
        b.iter_mut().for_each(|x| *x = rng() as u8);
        let mut at = 0;
        while rng() & 3 != 0 && at + 16 <= b.len() {
            let len = 16 + rng() as usize % 24;
            b[at..at + 8].copy_from_slice(&(len as u64).to_ne_bytes());
            b[at + 8..at + 12].copy_from_slice(&[0i32, 1, 41, 17][(rng() % 4) as usize].to_ne_bytes());
            b[at + 12..at + 16].copy_from_slice(&((rng() % 110) as i32).to_ne_bytes());
            at += len.next_multiple_of(8);
        }
        let _ = (cmsg::parse(&b, true), cmsg::parse(&b, false));
        let room_len = (rng() % 80) as usize;
        let mut room = vec![0x55; room_len + 8];
        let mut e = cmsg::Encoder::new(&mut room[..room_len]);
        let mut wrote = 0;
        for _ in 0..rng() % 4 {
            let data = vec![7; (rng() % 40) as usize];
            wrote += (16 + data.len()).next_multiple_of(8);
            e.put(1, 2, &data);
        }
        let (n, cut) = e.finish();
        assert!(n <= room_len && room[room_len..] == [0x55; 8]);
        assert!(cut || n == wrote || n == room_len);
        for (_, _, data) in cmsgs(&room[..n]) {
            assert!(data.iter().all(|b| *b == 7));
        }
    });
}

fn fuzz(mut one: impl FnMut(&mut dyn FnMut() -> u64, u64)) {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    let mut x = std::env::var("FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0x9e37_79b9_7f4a_7c15u64);
    let mut rng = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x >> 11
    };
    let mut round = 0;
    while std::time::Instant::now() < end {
        for _ in 0..100 {
            round += 1;
            one(&mut rng, round);
        }
    }
    println!("{round} rounds");
}
