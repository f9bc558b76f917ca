//! socket(2), socketpair(2): what can be made and what is refused; getsockname(2), getpeername(2) for every kind.

use crate::cases;
use crate::net::{bound_udp, listener, pair};
use crate::sys::{Addr, Net, deviation, socket, sys};
use libc::{AF_INET, AF_INET6, AF_UNIX, EINVAL, EPROTONOSUPPORT, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_RAW, SOCK_STREAM};

cases! {
    one: [
        bad_family, negative_family, bad_type, bad_flags, bad_protocol, protocol_of_other_type, icmp_of_other_version, raw_needs_protocol,
        seqpacket, unix_passes, unix_socketpair, unix_socketpair_dgram, inet_socketpair, getsockname_bad_fd, packet, vsock_or_clear,
    ],
    net: [
        type_flags, protocol_named, lowest_number, cloexec_is_of_the_fd, nonblock_works, many, getsockname_errors, getpeername_errors,
        getsockname_short_room, getsockname_zero_room, sctp_and_others, udplite_or_clear, mptcp_or_clear,
    ],
}

fn fails(family: i32, kind: i32, protocol: i32, errno: i32) {
    sys!(libc::socket(family, kind, protocol)).fails(errno);
}

fn bad_family() {
    fails(999, SOCK_STREAM, 0, libc::EAFNOSUPPORT);
    fails(45, SOCK_STREAM, 0, libc::EAFNOSUPPORT);
    fails(0, SOCK_STREAM, 0, libc::EAFNOSUPPORT);
}

fn negative_family() {
    fails(-1, SOCK_STREAM, 0, libc::EAFNOSUPPORT);
}

fn bad_type() {
    fails(AF_INET, 0, 0, libc::ESOCKTNOSUPPORT);
    fails(AF_INET, 11, 0, EINVAL);
    fails(AF_INET, 15, 0, EINVAL);
    fails(AF_INET, 9, 0, libc::ESOCKTNOSUPPORT);
    fails(AF_INET6, 4, 0, libc::ESOCKTNOSUPPORT);
}

fn bad_flags() {
    fails(AF_INET, SOCK_STREAM | 0x10, 0, EINVAL);
    fails(AF_INET6, SOCK_DGRAM | 0x4000_0000, 0, EINVAL);
}

fn bad_protocol() {
    fails(AF_INET, SOCK_STREAM, -1, EINVAL);
    fails(AF_INET, SOCK_STREAM, 999, EINVAL);
    fails(AF_INET, SOCK_STREAM, 200, EPROTONOSUPPORT);
    fails(AF_INET6, SOCK_DGRAM, 200, EPROTONOSUPPORT);
}

fn protocol_of_other_type() {
    fails(AF_INET, SOCK_STREAM, libc::IPPROTO_UDP, EPROTONOSUPPORT);
    fails(AF_INET, SOCK_DGRAM, libc::IPPROTO_TCP, EPROTONOSUPPORT);
    fails(AF_INET6, SOCK_STREAM, libc::IPPROTO_UDP, EPROTONOSUPPORT);
}

fn icmp_of_other_version() {
    fails(AF_INET, SOCK_DGRAM, libc::IPPROTO_ICMPV6, EPROTONOSUPPORT);
    fails(AF_INET6, SOCK_DGRAM, libc::IPPROTO_ICMP, EPROTONOSUPPORT);
}

fn raw_needs_protocol() {
    fails(AF_INET, SOCK_RAW, 0, EPROTONOSUPPORT);
    fails(AF_INET6, SOCK_RAW, 0, EPROTONOSUPPORT);
}

fn seqpacket() {
    fails(AF_INET, libc::SOCK_SEQPACKET, 0, libc::ESOCKTNOSUPPORT);
}

/// Protocols the kernel may or may not have are refused like unknown ones where they are not there.
fn refused_or_made(family: i32, kind: i32, protocol: i32) {
    match sys!(libc::socket(family, kind, protocol)).get() {
        Ok(fd) => sys!(libc::close(fd as i32)).is(0),
        Err(e) => assert!([EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT, libc::EAFNOSUPPORT].contains(&e), "errno {e}"),
    }
}

fn sctp_and_others(net: Net) {
    refused_or_made(net.af(), SOCK_STREAM, libc::IPPROTO_SCTP);
    refused_or_made(net.af(), SOCK_DGRAM, libc::IPPROTO_DCCP);
}

fn udplite_or_clear(net: Net) {
    refused_or_made(net.af(), SOCK_DGRAM, libc::IPPROTO_UDPLITE);
}

fn mptcp_or_clear(net: Net) {
    refused_or_made(net.af(), SOCK_STREAM, libc::IPPROTO_MPTCP);
}

fn vsock_or_clear() {
    refused_or_made(libc::AF_VSOCK, SOCK_STREAM, 0);
}

fn packet() {
    deviation(
        "AF_PACKET cannot be virtual yet: EAFNOSUPPORT",
        || match sys!(libc::socket(libc::AF_PACKET, SOCK_RAW, 0)).get() {
            Ok(fd) => sys!(libc::close(fd as i32)).is(0),
            Err(e) => assert_eq!(e, libc::EPERM),
        },
        || fails(libc::AF_PACKET, SOCK_RAW, 0, libc::EAFNOSUPPORT),
    );
}

fn unix_passes() {
    let l = socket(AF_UNIX, SOCK_STREAM, 0);
    // An abstract name the kernel chooses.
    l.bind(&Addr::bare(AF_UNIX, 2)).is(0);
    l.listen(1).is(0);
    let mut at = Addr::room();
    l.getsockname(&mut at).is(0);
    let c = socket(AF_UNIX, SOCK_STREAM, 0);
    c.connect(&at).is(0);
    let s = l.accept().fd();
    c.write(b"unix").is(4);
    assert_eq!(crate::net::take(&s, 9), b"unix");
    assert_eq!(s.opt(libc::SOL_SOCKET, libc::SO_DOMAIN), AF_UNIX);
}

fn pair_of(kind: i32) {
    let mut fds = [0; 2];
    sys!(libc::socketpair(AF_UNIX, kind | SOCK_CLOEXEC, 0, fds.as_mut_ptr())).is(0);
    let (a, b) = (crate::sys::Fd(fds[0]), crate::sys::Fd(fds[1]));
    a.write(b"pair").is(4);
    assert_eq!(crate::net::take(&b, 9), b"pair");
    sys!(libc::fcntl(a.raw(), libc::F_GETFD)).is(libc::FD_CLOEXEC as isize);
}

fn unix_socketpair() {
    pair_of(SOCK_STREAM);
    pair_of(libc::SOCK_SEQPACKET);
}

fn unix_socketpair_dgram() {
    pair_of(SOCK_DGRAM);
}

fn inet_socketpair() {
    let mut fds = [0; 2];
    sys!(libc::socketpair(AF_INET, SOCK_STREAM, 0, fds.as_mut_ptr())).fails(libc::EOPNOTSUPP);
    sys!(libc::socketpair(AF_INET6, SOCK_DGRAM, 0, fds.as_mut_ptr())).fails(libc::EOPNOTSUPP);
}

fn type_flags(net: Net) {
    for kind in [SOCK_STREAM, SOCK_DGRAM] {
        for (flags, fd_flags, nonblock) in [
            (0, 0, 0),
            (SOCK_CLOEXEC, libc::FD_CLOEXEC, 0),
            (SOCK_NONBLOCK, 0, libc::O_NONBLOCK),
            (SOCK_CLOEXEC | SOCK_NONBLOCK, libc::FD_CLOEXEC, libc::O_NONBLOCK),
        ] {
            let fd = net.socket(kind | flags);
            sys!(libc::fcntl(fd.raw(), libc::F_GETFD)).is(fd_flags as isize);
            sys!(libc::fcntl(fd.raw(), libc::F_GETFL)).is((libc::O_RDWR | nonblock) as isize);
            assert_eq!(fd.opt(libc::SOL_SOCKET, libc::SO_TYPE), kind, "without the flags");
        }
    }
}

fn protocol_named(net: Net) {
    drop(socket(net.af(), SOCK_STREAM, libc::IPPROTO_TCP));
    drop(socket(net.af(), SOCK_DGRAM, libc::IPPROTO_UDP));
}

fn lowest_number(net: Net) {
    let a = net.tcp();
    let b = net.udp();
    assert_eq!(b.raw(), a.raw() + 1);
    let number = a.raw();
    a.close().is(0);
    assert_eq!(net.udp().raw(), number);
}

fn cloexec_is_of_the_fd(net: Net) {
    let a = net.socket(SOCK_STREAM | SOCK_CLOEXEC);
    let copy = sys!(libc::dup(a.raw())).fd();
    sys!(libc::fcntl(copy.raw(), libc::F_GETFD)).is(0);
    sys!(libc::fcntl(a.raw(), libc::F_GETFD)).is(libc::FD_CLOEXEC as isize);
}

fn nonblock_works(net: Net) {
    net.socket(SOCK_DGRAM | SOCK_NONBLOCK).read(&mut [0; 4]).fails(libc::EAGAIN);
    let l = net.socket(SOCK_STREAM | SOCK_NONBLOCK);
    l.listen(1).is(0);
    l.accept().fails(libc::EAGAIN);
}

fn many(net: Net) {
    for _ in 0..5 {
        let all: Vec<_> = (0..200).map(|i| if i % 2 == 0 { net.tcp() } else { net.udp() }).collect();
        assert_eq!(all.len(), 200);
    }
}

fn getsockname_bad_fd() {
    let mut a = Addr::room();
    sys!(libc::getsockname(-1, a.mut_ptr(), &raw mut a.len)).fails(libc::EBADF);
    sys!(libc::getpeername(777, a.mut_ptr(), &raw mut a.len)).fails(libc::EBADF);
    sys!(libc::getsockname(0, a.mut_ptr(), &raw mut a.len)).fails(libc::ENOTSOCK);
}

fn getsockname_errors(net: Net) {
    let (l, _) = listener(net);
    let mut a = Addr::room();
    sys!(libc::getsockname(l.raw(), std::ptr::null_mut(), &raw mut a.len)).fails(libc::EFAULT);
    sys!(libc::getsockname(l.raw(), a.mut_ptr(), std::ptr::null_mut())).fails(libc::EFAULT);
    a.len = -1i32 as libc::socklen_t;
    l.getsockname(&mut a).fails(EINVAL);
}

fn getpeername_errors(net: Net) {
    let (c, _s) = pair(net);
    let mut a = Addr::room();
    sys!(libc::getpeername(c.raw(), a.mut_ptr(), std::ptr::null_mut())).fails(libc::EFAULT);
    a.len = -1i32 as libc::socklen_t;
    c.getpeername(&mut a).fails(EINVAL);
    net.udp().getpeername(&mut Addr::room()).fails(libc::ENOTCONN);
}

fn getsockname_short_room(net: Net) {
    let (u, at) = bound_udp(net);
    let mut a = Addr::room();
    a.len = 4;
    u.getsockname(&mut a).is(0);
    assert_eq!(a.len, if net == Net::V4 { 16 } else { 28 });
    assert_eq!((a.family(), a.port()), (net.af(), at.port()));
}

fn getsockname_zero_room(net: Net) {
    let (u, _) = bound_udp(net);
    let mut a = Addr::room();
    a.len = 0;
    u.getsockname(&mut a).is(0);
    assert_eq!((a.len, a.family()), (if net == Net::V4 { 16 } else { 28 }, 0));
}
