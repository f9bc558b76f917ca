//! What only IPv6 sockets have: V6ONLY, mapped addresses, scopes, flow labels, IPPROTO_IPV6 options.

use std::net::Ipv6Addr;

use crate::cases;
use crate::net::{bound_udp, listener, nobody, quiet, take, udp_pair};
use crate::sys::{Addr, Fd, Net, sys};
use libc::{EADDRINUSE, EINVAL, ENOPROTOOPT, IPPROTO_IPV6, IPV6_V6ONLY};

cases! {
    one: [
        v6only_default, v6only_value, v6only_after_bind, dual_stack_accepts_v4, v6only_refuses_v4, dual_stack_udp, v6only_udp_hears_no_v4,
        connect_mapped, connect_mapped_refused, connect_mapped_v6only, bind_mapped, bind_mapped_v6only, bind_conflicts_across, v6only_beside_v4,
        bind_reuse_across, mapped_names, send_udp_mapped, scope_of_lo, scope_needed, scope_wrong, unspecified_is_loopback, unicast_hops, tclass,
        recv_options_default, mtu, mtu_discover, multicast_defaults, addrform, checksum_option, dontfrag, unknown_option, v6_option_on_v4_socket,
        short_value, dual_udp_reply, mapped_to_v4_server_udp, pktinfo_mapped, freebind_and_transparent, autoflowlabel, tcp_mapped_data, addr_preferences,
    ],
    net: [],
}

fn mapped(v4: [u8; 4], port: u16) -> Addr {
    let [a, b, c, d] = v4;
    Addr::v6(std::net::Ipv4Addr::new(a, b, c, d).to_ipv6_mapped(), port)
}

fn lo_mapped(port: u16) -> Addr {
    mapped([127, 0, 0, 1], port)
}

fn only(fd: &Fd) {
    fd.on(IPPROTO_IPV6, IPV6_V6ONLY, 1);
}

fn lo_index() -> u32 {
    sys!(libc::if_nametoindex(c"lo".as_ptr())).ok() as u32
}

fn v6only_default() {
    assert_eq!(Net::V6.tcp().opt(IPPROTO_IPV6, IPV6_V6ONLY), 0);
    assert_eq!(Net::V6.udp().opt(IPPROTO_IPV6, IPV6_V6ONLY), 0);
}

fn v6only_value() {
    let t = Net::V6.tcp();
    t.on(IPPROTO_IPV6, IPV6_V6ONLY, 7);
    assert_eq!(t.opt(IPPROTO_IPV6, IPV6_V6ONLY), 1);
}

fn v6only_after_bind() {
    let t = Net::V6.tcp();
    t.bind(&Net::V6.lo()).is(0);
    t.set(IPPROTO_IPV6, IPV6_V6ONLY, &1).fails(EINVAL);
}

/// A v6 listener on the wildcard address.
fn wildcard(v6only: bool) -> Fd {
    let l = Net::V6.tcp();
    if v6only {
        only(&l);
    }
    l.bind(&Net::V6.any()).is(0);
    l.listen(4).is(0);
    l
}

fn dual_stack_accepts_v4() {
    let l = wildcard(false);
    let c = Net::V4.tcp();
    c.connect(&Net::V4.lo().at(l.name().port())).is(0);
    let s = l.accept().fd();
    assert_eq!(s.peer(), lo_mapped(c.name().port()));
    assert_eq!(s.name(), lo_mapped(l.name().port()));
    c.write(b"dual").is(4);
    assert_eq!(take(&s, 9), b"dual");
}

fn v6only_refuses_v4() {
    let l = wildcard(true);
    Net::V4.tcp().connect(&Net::V4.lo().at(l.name().port())).fails(libc::ECONNREFUSED);
    Net::V6.tcp().connect(&Net::V6.lo().at(l.name().port())).is(0);
}

fn dual_stack_udp() {
    let u = Net::V6.udp();
    u.bind(&Net::V6.any()).is(0);
    let (v, at_v) = bound_udp(Net::V4);
    v.sendto(b"x", 0, &Net::V4.lo().at(u.name().port())).is(1);
    let mut from = Addr::room();
    u.recvfrom(&mut [0; 4], 0, &mut from).is(1);
    assert_eq!(from, lo_mapped(at_v.port()));
}

fn dual_udp_reply() {
    let u = Net::V6.udp();
    u.bind(&Net::V6.any()).is(0);
    let (v, at_v) = bound_udp(Net::V4);
    u.sendto(b"reply", 0, &lo_mapped(at_v.port())).is(5);
    let mut from = Addr::room();
    v.recvfrom(&mut [0; 8], 0, &mut from).is(5);
    assert_eq!(from, Net::V4.lo().at(u.name().port()));
}

fn v6only_udp_hears_no_v4() {
    let u = Net::V6.udp();
    only(&u);
    u.bind(&Net::V6.any()).is(0);
    let v = Net::V4.udp();
    v.connect(&Net::V4.lo().at(u.name().port())).is(0);
    v.write(b"x").is(1);
    crate::net::wait(&v, libc::POLLIN);
    assert_eq!(v.error(), libc::ECONNREFUSED);
    quiet(&u, libc::POLLIN);
}

fn connect_mapped() {
    let (l, at) = listener(Net::V4);
    let c = Net::V6.tcp();
    c.connect(&lo_mapped(at.port())).is(0);
    let s = l.accept().fd();
    assert_eq!(s.peer().port(), c.name().port());
    assert_eq!(s.peer().family(), libc::AF_INET);
    assert_eq!(c.name(), lo_mapped(c.name().port()));
    assert_eq!(c.peer(), lo_mapped(at.port()));
}

fn tcp_mapped_data() {
    let (l, at) = listener(Net::V4);
    let c = Net::V6.tcp();
    c.connect(&lo_mapped(at.port())).is(0);
    let s = l.accept().fd();
    let data = crate::net::pattern(300_000);
    std::thread::scope(|scope| {
        scope.spawn(|| crate::net::put_all(&c, &data));
        assert!(crate::net::take_all(&s, data.len()) == data);
    });
    s.close().is(0);
    assert_eq!(take(&c, 9), b"");
}

fn connect_mapped_refused() {
    let gone = nobody(Net::V4, libc::SOCK_STREAM);
    Net::V6.tcp().connect(&lo_mapped(gone.port())).fails(libc::ECONNREFUSED);
}

fn connect_mapped_v6only() {
    let (_l, at) = listener(Net::V4);
    let c = Net::V6.tcp();
    only(&c);
    c.connect(&lo_mapped(at.port())).fails(libc::ENETUNREACH);
    let u = Net::V6.udp();
    only(&u);
    u.connect(&lo_mapped(at.port())).fails(libc::ENETUNREACH);
}

fn bind_mapped() {
    let l = Net::V6.tcp();
    l.bind(&lo_mapped(0)).is(0);
    l.listen(1).is(0);
    assert_eq!(l.name(), lo_mapped(l.name().port()));
    let c = Net::V4.tcp();
    c.connect(&Net::V4.lo().at(l.name().port())).is(0);
    let _s = l.accept().fd();
    Net::V6.tcp().connect(&Net::V6.lo().at(l.name().port())).fails(libc::ECONNREFUSED);
}

fn bind_mapped_v6only() {
    let l = Net::V6.tcp();
    only(&l);
    l.bind(&lo_mapped(0)).fails(EINVAL);
}

fn bind_conflicts_across() {
    let l = wildcard(false);
    let port = l.name().port();
    Net::V4.tcp().bind(&Net::V4.any().at(port)).fails(EADDRINUSE);
    Net::V4.tcp().bind(&Net::V4.lo().at(port)).fails(EADDRINUSE);
    let m = Net::V4.tcp();
    m.bind(&Net::V4.any()).is(0);
    Net::V6.tcp().bind(&Net::V6.any().at(m.name().port())).fails(EADDRINUSE);
    Net::V6.tcp().bind(&lo_mapped(m.name().port())).fails(EADDRINUSE);
    // ::1 is no address of IPv4's.
    Net::V6.tcp().bind(&Net::V6.lo().at(m.name().port())).is(0);
}

fn v6only_beside_v4() {
    let l = wildcard(true);
    let port = l.name().port();
    let m = Net::V4.tcp();
    m.bind(&Net::V4.any().at(port)).is(0);
    m.listen(1).is(0);
    let c = Net::V4.tcp();
    c.connect(&Net::V4.lo().at(port)).is(0);
    assert_eq!(m.accept().fd().peer(), c.name());
    let d = Net::V6.tcp();
    d.connect(&Net::V6.lo().at(port)).is(0);
    assert_eq!(l.accept().fd().peer(), d.name());
}

fn bind_reuse_across() {
    let l = Net::V6.udp();
    l.on(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    l.bind(&Net::V6.any()).is(0);
    let m = Net::V4.udp();
    m.on(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    m.bind(&Net::V4.any().at(l.name().port())).is(0);
}

fn mapped_names() {
    let u = Net::V6.udp();
    let (_v, at) = bound_udp(Net::V4);
    u.connect(&lo_mapped(at.port())).is(0);
    assert_eq!(u.peer(), lo_mapped(at.port()));
    assert_eq!(u.name().ip(), lo_mapped(0).ip());
}

fn send_udp_mapped() {
    let (v, at) = bound_udp(Net::V4);
    let u = Net::V6.udp();
    u.connect(&lo_mapped(at.port())).is(0);
    u.write(b"mapped").is(6);
    assert_eq!(take(&v, 9), b"mapped");
    v.sendto(b"back", 0, &Net::V4.lo().at(u.name().port())).is(4);
    assert_eq!(take(&u, 9), b"back");
}

fn mapped_to_v4_server_udp() {
    let u = Net::V6.udp();
    let gone = nobody(Net::V4, libc::SOCK_DGRAM);
    u.connect(&lo_mapped(gone.port())).is(0);
    u.write(b"x").is(1);
    u.recv(&mut [0; 4], 0).fails(libc::ECONNREFUSED);
}

fn scope_of_lo() {
    let (_l, at) = listener(Net::V6);
    assert_eq!(at.scope(), 0);
    // A scope on an address that needs none is ignored.
    let c = Net::V6.tcp();
    c.connect(&at.scoped(lo_index())).is(0);
    assert_eq!(c.peer().scope(), 0);
}

fn link_local() -> Addr {
    Addr::v6("fe80::1234:5678".parse::<Ipv6Addr>().expect("address"), 9)
}

fn scope_needed() {
    Net::V6.tcp().connect(&link_local()).fails(EINVAL);
    Net::V6.udp().connect(&link_local()).fails(EINVAL);
    Net::V6.udp().bind(&link_local()).fails(EINVAL);
}

fn scope_wrong() {
    Net::V6.udp().bind(&link_local().scoped(54_321)).fails(libc::ENODEV);
}

fn unspecified_is_loopback() {
    let (l, at) = listener(Net::V6);
    let c = Net::V6.tcp();
    c.connect(&Net::V6.any().at(at.port())).is(0);
    assert_eq!(c.peer(), at);
    let _s = l.accept().fd();
}

fn unicast_hops() {
    let t = Net::V6.tcp();
    assert_eq!(t.opt(IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS), 64);
    t.on(IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, 10);
    assert_eq!(t.opt(IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS), 10);
    t.set(IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &256).fails(EINVAL);
    t.set(IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &-2).fails(EINVAL);
    t.on(IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, -1);
    assert_eq!(t.opt(IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS), 64);
}

fn tclass() {
    let u = Net::V6.udp();
    assert_eq!(u.opt(IPPROTO_IPV6, libc::IPV6_TCLASS), 0);
    u.on(IPPROTO_IPV6, libc::IPV6_TCLASS, 0x2e);
    assert_eq!(u.opt(IPPROTO_IPV6, libc::IPV6_TCLASS), 0x2e);
    u.set(IPPROTO_IPV6, libc::IPV6_TCLASS, &256).fails(EINVAL);
}

fn recv_options_default() {
    let u = Net::V6.udp();
    for option in [libc::IPV6_RECVPKTINFO, libc::IPV6_RECVHOPLIMIT, libc::IPV6_RECVTCLASS, libc::IPV6_RECVERR] {
        assert_eq!(u.opt(IPPROTO_IPV6, option), 0);
        u.on(IPPROTO_IPV6, option, 1);
        assert_eq!(u.opt(IPPROTO_IPV6, option), 1);
    }
}

fn mtu() {
    let (a, _b) = udp_pair(Net::V6);
    let mtu = a.opt(IPPROTO_IPV6, libc::IPV6_MTU);
    assert!((1280..=65_536).contains(&mtu), "{mtu}");
    Net::V6.udp().get_opt(IPPROTO_IPV6, libc::IPV6_MTU).fails(libc::ENOTCONN);
    Net::V6.udp().set(IPPROTO_IPV6, libc::IPV6_MTU, &100).fails(EINVAL);
}

fn mtu_discover() {
    let u = Net::V6.udp();
    assert_eq!(u.opt(IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER), 1);
    u.on(IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, 2);
    assert_eq!(u.opt(IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER), 2);
    u.set(IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, &9).fails(EINVAL);
}

fn multicast_defaults() {
    let u = Net::V6.udp();
    assert_eq!(u.opt(IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS), 1);
    assert_eq!(u.opt(IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP), 1);
    assert_eq!(u.opt(IPPROTO_IPV6, libc::IPV6_MULTICAST_IF), 0);
    u.set(IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP, &2).fails(EINVAL);
    u.set(IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &54_321).fails(libc::ENODEV);
}

fn addrform() {
    // Only for a socket connected to a mapped address.
    let (a, _b) = udp_pair(Net::V6);
    a.set(IPPROTO_IPV6, 1, &libc::AF_INET).fails(libc::EADDRNOTAVAIL);
    assert_eq!(a.opt(IPPROTO_IPV6, 1), libc::AF_INET6);
}

fn checksum_option() {
    Net::V6.udp().set(IPPROTO_IPV6, 7, &2).fails(ENOPROTOOPT);
}

fn dontfrag() {
    let u = Net::V6.udp();
    assert_eq!(u.opt(IPPROTO_IPV6, libc::IPV6_DONTFRAG), 0);
    u.on(IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1);
    assert_eq!(u.opt(IPPROTO_IPV6, libc::IPV6_DONTFRAG), 1);
}

fn unknown_option() {
    Net::V6.udp().set(IPPROTO_IPV6, 250, &1).fails(ENOPROTOOPT);
    Net::V6.udp().get_opt(IPPROTO_IPV6, 250).fails(ENOPROTOOPT);
}

fn v6_option_on_v4_socket() {
    let t = Net::V4.tcp();
    t.set(IPPROTO_IPV6, IPV6_V6ONLY, &1).fails(ENOPROTOOPT);
    t.get_opt(IPPROTO_IPV6, IPV6_V6ONLY).fails(libc::EOPNOTSUPP);
}

fn short_value() {
    Net::V6.udp().set(IPPROTO_IPV6, IPV6_V6ONLY, &1u8).fails(EINVAL);
    Net::V6.udp().set(IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &1u16).fails(EINVAL);
}

fn pktinfo_mapped() {
    let u = Net::V6.udp();
    u.on(IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1);
    u.bind(&Net::V6.any()).is(0);
    Net::V4.udp().sendto(b"x", 0, &Addr::v4([127, 0, 0, 5], u.name().port())).is(1);
    let got = crate::msg::recvmsg(&u, &[4], 0, 128);
    let info = got.control(IPPROTO_IPV6, libc::IPV6_PKTINFO);
    assert_eq!(info[..16], std::net::Ipv4Addr::new(127, 0, 0, 5).to_ipv6_mapped().octets());
}

fn freebind_and_transparent() {
    let t = Net::V6.tcp();
    assert_eq!(t.opt(IPPROTO_IPV6, libc::IPV6_FREEBIND), 0);
    t.on(IPPROTO_IPV6, libc::IPV6_FREEBIND, 1);
    t.bind(&Addr::v6("2001:db8::77".parse().expect("address"), 0)).is(0);
    let u = Net::V4.udp();
    u.on(libc::IPPROTO_IP, libc::IP_FREEBIND, 1);
    u.bind(&Addr::v4([192, 0, 2, 77], 0)).is(0);
}

fn autoflowlabel() {
    let u = Net::V6.udp();
    u.on(IPPROTO_IPV6, libc::IPV6_AUTOFLOWLABEL, 1);
    assert_eq!(u.opt(IPPROTO_IPV6, libc::IPV6_AUTOFLOWLABEL), 1);
}

fn addr_preferences() {
    let u = Net::V6.udp();
    u.on(IPPROTO_IPV6, libc::IPV6_ADDR_PREFERENCES, 2);
    assert_eq!(u.opt(IPPROTO_IPV6, libc::IPV6_ADDR_PREFERENCES) & 2, 2);
}
