//! Datagrams between instances and within one, under a virtual clock.
use super::*;
use crate::call::socket as call;
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
    b.call(|cx| input(cx, &packet, false));
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
