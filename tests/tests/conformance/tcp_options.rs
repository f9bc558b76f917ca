//! getsockopt(2) and setsockopt(2) on streams: SOL_SOCKET, IPPROTO_TCP, IPPROTO_IP.

use crate::cases;
use crate::net::{listener, pair, quiet, sleep, take, take_all, until, wait_in, wait_ready};
use crate::sys::{Fd, Net, sys};
use libc::{
    EINVAL, ENOPROTOOPT, IPPROTO_IP, IPPROTO_TCP, POLLIN, POLLOUT, SOL_SOCKET, TCP_DEFER_ACCEPT, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL,
};

cases! {
    one: [bad_fd, not_a_socket, ip_ttl, ip_tos, ip_option_on_v6_socket, mss_default_v4, unknown_level, tcp_option_on_udp],
    net: [
        type_protocol_domain, read_only, flags_are_booleans, sndbuf_doubles, rcvbuf_doubles, buffers_have_a_floor, buffers_have_a_ceiling,
        sndlowat, rcvlowat_value, rcvlowat_and_poll, rcvlowat_and_recv, timeouts_default, timeouts_kept, timeout_negative_usec, timeout_short,
        error_is_zero, bindtodevice, bindtodevice_unknown, unknown_options, short_value, null_value, negative_length, long_value_is_fine,
        get_short_room, get_zero_room, get_negative_room, get_null, cookie, peercred_of_inet, priority, mark, incoming_cpu, meminfo, max_pacing_rate,
        nodelay, cork_holds, cork_released_by_nodelay, cork_value, maxseg_range, maxseg_of_connection, maxseg_limits, keepalive_defaults,
        keepalive_values, keepalive_ranges, keepalive_idle_connection, syncnt, linger2, defer_accept_value, defer_accept_waits_for_data, quickack,
        user_timeout, window_clamp, congestion_default, congestion_unknown, congestion_reno, info_states, info_is_short, info_of_connection,
        info_after_data, notsent_lowat, tcp_unknown, tcp_short_value, fastopen_connect_value, set_after_close_is_kept_by_dup, option_on_listener_later,
        oobinline, thin_and_timestamp, inq_value, save_syn_value,
    ],
}

fn bad_fd() {
    let mut v = 0i32;
    let mut len: libc::socklen_t = 4;
    sys!(libc::getsockopt(-1, SOL_SOCKET, libc::SO_TYPE, (&raw mut v).cast(), &raw mut len)).fails(libc::EBADF);
    sys!(libc::setsockopt(777, SOL_SOCKET, libc::SO_KEEPALIVE, (&raw const v).cast(), 4)).fails(libc::EBADF);
}

fn not_a_socket() {
    let f = sys!(libc::open(c"/dev/null".as_ptr(), libc::O_RDWR)).fd();
    f.get_opt(SOL_SOCKET, libc::SO_TYPE).fails(libc::ENOTSOCK);
    f.set(SOL_SOCKET, libc::SO_KEEPALIVE, &1).fails(libc::ENOTSOCK);
}

fn type_protocol_domain(net: Net) {
    let t = net.tcp();
    assert_eq!(t.opt(SOL_SOCKET, libc::SO_TYPE), libc::SOCK_STREAM);
    assert_eq!(t.opt(SOL_SOCKET, libc::SO_PROTOCOL), IPPROTO_TCP);
    assert_eq!(t.opt(SOL_SOCKET, libc::SO_DOMAIN), net.af());
    let u = net.udp();
    assert_eq!(u.opt(SOL_SOCKET, libc::SO_TYPE), libc::SOCK_DGRAM);
    assert_eq!(u.opt(SOL_SOCKET, libc::SO_PROTOCOL), libc::IPPROTO_UDP);
    assert_eq!(u.opt(SOL_SOCKET, libc::SO_DOMAIN), net.af());
}

fn read_only(net: Net) {
    let t = net.tcp();
    for option in [libc::SO_TYPE, libc::SO_PROTOCOL, libc::SO_DOMAIN, libc::SO_ERROR, libc::SO_SNDLOWAT] {
        t.set(SOL_SOCKET, option, &1).fails(ENOPROTOOPT);
    }
    t.set(SOL_SOCKET, libc::SO_PEERCRED, &1).fails(ENOPROTOOPT);
}

fn flags_are_booleans(net: Net) {
    let t = net.tcp();
    for option in [libc::SO_KEEPALIVE, libc::SO_REUSEADDR, libc::SO_REUSEPORT, libc::SO_BROADCAST, libc::SO_DONTROUTE, libc::SO_DEBUG] {
        assert_eq!(t.opt(SOL_SOCKET, option), 0, "option {option}");
        t.on(SOL_SOCKET, option, 42);
        assert_eq!(t.opt(SOL_SOCKET, option), 1, "option {option}");
        t.on(SOL_SOCKET, option, 0);
        assert_eq!(t.opt(SOL_SOCKET, option), 0, "option {option}");
    }
}

fn sndbuf_doubles(net: Net) {
    for fd in [net.tcp(), net.udp()] {
        assert!(fd.opt(SOL_SOCKET, libc::SO_SNDBUF) > 4096);
        fd.on(SOL_SOCKET, libc::SO_SNDBUF, 20_000);
        assert_eq!(fd.opt(SOL_SOCKET, libc::SO_SNDBUF), 40_000);
    }
}

fn rcvbuf_doubles(net: Net) {
    for fd in [net.tcp(), net.udp()] {
        assert!(fd.opt(SOL_SOCKET, libc::SO_RCVBUF) > 4096);
        fd.on(SOL_SOCKET, libc::SO_RCVBUF, 20_000);
        assert_eq!(fd.opt(SOL_SOCKET, libc::SO_RCVBUF), 40_000);
    }
}

fn buffers_have_a_floor(net: Net) {
    for fd in [net.tcp(), net.udp()] {
        fd.on(SOL_SOCKET, libc::SO_SNDBUF, 1);
        fd.on(SOL_SOCKET, libc::SO_RCVBUF, 1);
        assert_eq!(fd.opt(SOL_SOCKET, libc::SO_SNDBUF), 4608);
        assert_eq!(fd.opt(SOL_SOCKET, libc::SO_RCVBUF), 2304);
    }
}

fn buffers_have_a_ceiling(net: Net) {
    for fd in [net.tcp(), net.udp()] {
        for option in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
            fd.on(SOL_SOCKET, option, i32::MAX);
            let got = fd.opt(SOL_SOCKET, option);
            assert!((100_000..i32::MAX / 2).contains(&got), "{got}");
        }
    }
}

fn sndlowat(net: Net) {
    assert_eq!(net.tcp().opt(SOL_SOCKET, libc::SO_SNDLOWAT), 1);
}

fn rcvlowat_value(net: Net) {
    let t = net.tcp();
    assert_eq!(t.opt(SOL_SOCKET, libc::SO_RCVLOWAT), 1);
    t.on(SOL_SOCKET, libc::SO_RCVLOWAT, 100);
    assert_eq!(t.opt(SOL_SOCKET, libc::SO_RCVLOWAT), 100);
    t.on(SOL_SOCKET, libc::SO_RCVLOWAT, 0);
    assert_eq!(t.opt(SOL_SOCKET, libc::SO_RCVLOWAT), 1);
}

fn rcvlowat_and_poll(net: Net) {
    let (c, s) = pair(net);
    s.on(SOL_SOCKET, libc::SO_RCVLOWAT, 5);
    c.write(b"1234").is(4);
    quiet(&s, POLLIN);
    c.write(b"5").is(1);
    wait_in(&s);
    assert_eq!(take(&s, 9), b"12345");
    c.shutdown(libc::SHUT_WR).is(0);
    wait_in(&s);
}

fn rcvlowat_and_recv(net: Net) {
    let (c, s) = pair(net);
    s.on(SOL_SOCKET, libc::SO_RCVLOWAT, 5);
    c.write(b"123").is(3);
    std::thread::scope(|scope| {
        scope.spawn(|| s.recv(&mut [0; 9], 0).is(9));
        sleep(40);
        // As many as the mark in one go: Linux does not wake for fewer, whatever has been copied already.
        c.write(b"456789").is(6);
    });
}

fn timeval(fd: &Fd, option: i32) -> (i64, i64) {
    let mut tv = libc::timeval { tv_sec: 7, tv_usec: 7 };
    assert_eq!(fd.get_into(SOL_SOCKET, option, &mut tv), 16);
    (tv.tv_sec, tv.tv_usec)
}

const TIMEOUTS: [i32; 2] = [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO];

fn timeouts_default(net: Net) {
    for option in TIMEOUTS {
        assert_eq!(timeval(&net.tcp(), option), (0, 0));
    }
}

fn timeouts_kept(net: Net) {
    let t = net.tcp();
    for option in TIMEOUTS {
        t.set(SOL_SOCKET, option, &libc::timeval { tv_sec: 3, tv_usec: 500_000 }).is(0);
        assert_eq!(timeval(&t, option), (3, 500_000));
        t.set(SOL_SOCKET, option, &libc::timeval { tv_sec: 0, tv_usec: 0 }).is(0);
        assert_eq!(timeval(&t, option), (0, 0));
    }
}

fn timeout_negative_usec(net: Net) {
    let t = net.tcp();
    for option in TIMEOUTS {
        t.set(SOL_SOCKET, option, &libc::timeval { tv_sec: 0, tv_usec: -1 }).fails(libc::EDOM);
        t.set(SOL_SOCKET, option, &libc::timeval { tv_sec: 0, tv_usec: 1_000_000 }).fails(libc::EDOM);
        // Negative seconds: do not wait at all.
        t.set(SOL_SOCKET, option, &libc::timeval { tv_sec: -1, tv_usec: 0 }).is(0);
    }
    let (c, _s) = pair(net);
    c.set(SOL_SOCKET, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: -5, tv_usec: 0 }).is(0);
    c.recv(&mut [0; 4], 0).fails(libc::EAGAIN);
}

fn timeout_short(net: Net) {
    for option in TIMEOUTS {
        net.tcp().set(SOL_SOCKET, option, &1i32).fails(EINVAL);
        net.tcp().set(SOL_SOCKET, option, &1i64).fails(EINVAL);
    }
}

fn error_is_zero(net: Net) {
    assert_eq!(net.tcp().error(), 0);
    assert_eq!(net.udp().error(), 0);
}

fn bindtodevice(net: Net) {
    let t = net.tcp();
    let mut name = [0u8; 16];
    assert_eq!(t.get_into(SOL_SOCKET, libc::SO_BINDTODEVICE, &mut name), 0);
    t.set(SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo\0").is(0);
    assert_eq!(t.get_into(SOL_SOCKET, libc::SO_BINDTODEVICE, &mut name), 3);
    assert_eq!(&name[..3], b"lo\0");
    let (l, at) = listener(net);
    t.connect(&at).is(0);
    let _s = l.accept().fd();
}

fn bindtodevice_unknown(net: Net) {
    net.tcp().set(SOL_SOCKET, libc::SO_BINDTODEVICE, b"nodevice0\0").fails(libc::ENODEV);
}

fn unknown_options(net: Net) {
    let t = net.tcp();
    t.set(SOL_SOCKET, 9999, &1).fails(ENOPROTOOPT);
    t.get_opt(SOL_SOCKET, 9999).fails(ENOPROTOOPT);
    let level = if net == Net::V4 { IPPROTO_IP } else { libc::IPPROTO_IPV6 };
    t.set(level, 9999, &1).fails(ENOPROTOOPT);
    t.get_opt(level, 9999).fails(ENOPROTOOPT);
}

fn unknown_level() {
    let t = Net::V4.tcp();
    t.set(9999, 1, &1).fails(ENOPROTOOPT);
    t.get_opt(9999, 1).fails(libc::EOPNOTSUPP);
    let u = Net::V4.udp();
    u.set(9999, 1, &1).fails(ENOPROTOOPT);
    u.get_opt(9999, 1).fails(libc::EOPNOTSUPP);
}

fn short_value(net: Net) {
    let t = net.tcp();
    t.set(SOL_SOCKET, libc::SO_KEEPALIVE, &1u16).fails(EINVAL);
    t.set(SOL_SOCKET, libc::SO_SNDBUF, &1u8).fails(EINVAL);
    sys!(libc::setsockopt(t.raw(), SOL_SOCKET, libc::SO_KEEPALIVE, (&raw const t).cast(), 0)).fails(EINVAL);
}

fn null_value(net: Net) {
    let t = net.tcp();
    sys!(libc::setsockopt(t.raw(), SOL_SOCKET, libc::SO_KEEPALIVE, std::ptr::null(), 4)).fails(libc::EFAULT);
    sys!(libc::setsockopt(t.raw(), IPPROTO_TCP, libc::TCP_NODELAY, std::ptr::null(), 4)).fails(libc::EFAULT);
}

fn negative_length(net: Net) {
    let t = net.tcp();
    let v = 1i32;
    sys!(libc::setsockopt(t.raw(), SOL_SOCKET, libc::SO_KEEPALIVE, (&raw const v).cast(), -1i32 as libc::socklen_t)).fails(EINVAL);
}

fn long_value_is_fine(net: Net) {
    let t = net.tcp();
    t.set(SOL_SOCKET, libc::SO_KEEPALIVE, &[1i32, 2, 3]).is(0);
    assert_eq!(t.opt(SOL_SOCKET, libc::SO_KEEPALIVE), 1);
    t.set(IPPROTO_TCP, libc::TCP_NODELAY, &[1i32, 2, 3]).is(0);
    assert_eq!(t.opt(IPPROTO_TCP, libc::TCP_NODELAY), 1);
}

fn get_room(fd: &Fd, option: i32, room: i32) -> (crate::sys::R, i32, i32) {
    let mut v = -1i32;
    let mut len = room as libc::socklen_t;
    let r = sys!(libc::getsockopt(fd.raw(), SOL_SOCKET, option, (&raw mut v).cast(), &raw mut len));
    (r, v, len as i32)
}

fn get_short_room(net: Net) {
    let t = net.tcp();
    let (r, v, len) = get_room(&t, libc::SO_TYPE, 2);
    r.is(0);
    assert_eq!((v, len), (0xffff_0001u32 as i32, 2));
}

fn get_zero_room(net: Net) {
    let (r, v, len) = get_room(&net.tcp(), libc::SO_TYPE, 0);
    r.is(0);
    assert_eq!((v, len), (-1, 0));
}

fn get_negative_room(net: Net) {
    get_room(&net.tcp(), libc::SO_TYPE, -1).0.fails(EINVAL);
}

fn get_null(net: Net) {
    let t = net.tcp();
    let mut len: libc::socklen_t = 4;
    sys!(libc::getsockopt(t.raw(), SOL_SOCKET, libc::SO_TYPE, std::ptr::null_mut(), &raw mut len)).fails(libc::EFAULT);
    let mut v = 0i32;
    sys!(libc::getsockopt(t.raw(), SOL_SOCKET, libc::SO_TYPE, (&raw mut v).cast(), std::ptr::null_mut())).fails(libc::EFAULT);
    sys!(libc::getsockopt(t.raw(), IPPROTO_TCP, libc::TCP_NODELAY, (&raw mut v).cast(), std::ptr::null_mut())).fails(libc::EFAULT);
}

fn cookie(net: Net) {
    let (a, b) = (net.tcp(), net.tcp());
    let (mut x, mut y, mut z) = (0u64, 0u64, 0u64);
    assert_eq!(a.get_into(SOL_SOCKET, libc::SO_COOKIE, &mut x), 8);
    b.get_into(SOL_SOCKET, libc::SO_COOKIE, &mut y);
    a.get_into(SOL_SOCKET, libc::SO_COOKIE, &mut z);
    assert_eq!(x, z);
    assert!(x != y && x != 0);
}

fn peercred_of_inet(net: Net) {
    let mut cred = libc::ucred { pid: 5, uid: 5, gid: 5 };
    net.tcp().get_into(SOL_SOCKET, libc::SO_PEERCRED, &mut cred);
    assert_eq!((cred.pid, cred.uid, cred.gid), (0, u32::MAX, u32::MAX));
}

fn priority(net: Net) {
    let t = net.tcp();
    assert_eq!(t.opt(SOL_SOCKET, libc::SO_PRIORITY), 0);
    t.on(SOL_SOCKET, libc::SO_PRIORITY, 6);
    assert_eq!(t.opt(SOL_SOCKET, libc::SO_PRIORITY), 6);
}

fn mark(net: Net) {
    assert_eq!(net.tcp().opt(SOL_SOCKET, libc::SO_MARK), 0);
}

fn incoming_cpu(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    wait_in(&s);
    assert!(s.opt(SOL_SOCKET, libc::SO_INCOMING_CPU) >= -1);
}

fn meminfo(net: Net) {
    let mut info = [9u32; 9];
    assert_eq!(net.tcp().get_into(SOL_SOCKET, libc::SO_MEMINFO, &mut info), 36);
    assert_eq!(info[0], 0, "no memory is used yet");
    assert!(info[1] > 0 && info[3] > 0, "{info:?}");
}

fn max_pacing_rate(net: Net) {
    let t = net.tcp();
    let mut rate = 0u32;
    assert_eq!(t.get_into(SOL_SOCKET, libc::SO_MAX_PACING_RATE, &mut rate), 4);
    assert_eq!(rate, u32::MAX);
    t.set(SOL_SOCKET, libc::SO_MAX_PACING_RATE, &1_000_000u32).is(0);
    t.get_into(SOL_SOCKET, libc::SO_MAX_PACING_RATE, &mut rate);
    assert_eq!(rate, 1_000_000);
}

fn oobinline(net: Net) {
    let t = net.tcp();
    assert_eq!(t.opt(SOL_SOCKET, libc::SO_OOBINLINE), 0);
    t.on(SOL_SOCKET, libc::SO_OOBINLINE, 1);
    assert_eq!(t.opt(SOL_SOCKET, libc::SO_OOBINLINE), 1);
}

fn tcp(fd: &Fd, option: i32) -> i32 {
    fd.opt(IPPROTO_TCP, option)
}

fn nodelay(net: Net) {
    let t = net.tcp();
    assert_eq!(tcp(&t, libc::TCP_NODELAY), 0);
    t.on(IPPROTO_TCP, libc::TCP_NODELAY, 5);
    assert_eq!(tcp(&t, libc::TCP_NODELAY), 1);
    t.on(IPPROTO_TCP, libc::TCP_NODELAY, 0);
    assert_eq!(tcp(&t, libc::TCP_NODELAY), 0);
}

fn cork_holds(net: Net) {
    let (c, s) = pair(net);
    c.on(IPPROTO_TCP, libc::TCP_CORK, 1);
    c.write(b"held ").is(5);
    quiet(&s, POLLIN);
    c.write(b"back").is(4);
    c.on(IPPROTO_TCP, libc::TCP_CORK, 0);
    assert_eq!(take_all(&s, 9), b"held back");
}

fn cork_released_by_nodelay(net: Net) {
    let (c, s) = pair(net);
    c.on(IPPROTO_TCP, libc::TCP_CORK, 1);
    c.write(b"held").is(4);
    c.shutdown(libc::SHUT_WR).is(0);
    // FIN pushes what is held.
    assert_eq!(take_all(&s, 4), b"held");
    assert_eq!(take(&s, 4), b"");
}

fn cork_value(net: Net) {
    let t = net.tcp();
    assert_eq!(tcp(&t, libc::TCP_CORK), 0);
    t.on(IPPROTO_TCP, libc::TCP_CORK, 1);
    assert_eq!(tcp(&t, libc::TCP_CORK), 1);
}

fn mss_default_v4() {
    assert_eq!(tcp(&Net::V4.tcp(), libc::TCP_MAXSEG), 536);
}

fn maxseg_range(net: Net) {
    let t = net.tcp();
    t.set(IPPROTO_TCP, libc::TCP_MAXSEG, &87).fails(EINVAL);
    t.set(IPPROTO_TCP, libc::TCP_MAXSEG, &32_768).fails(EINVAL);
    t.set(IPPROTO_TCP, libc::TCP_MAXSEG, &-1).fails(EINVAL);
    t.on(IPPROTO_TCP, libc::TCP_MAXSEG, 88);
    t.on(IPPROTO_TCP, libc::TCP_MAXSEG, 1000);
}

fn maxseg_of_connection(net: Net) {
    let (c, s) = pair(net);
    for fd in [&c, &s] {
        let mss = tcp(fd, libc::TCP_MAXSEG);
        assert!((536..=65_535).contains(&mss), "{mss}");
    }
}

fn maxseg_limits(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.on(IPPROTO_TCP, libc::TCP_MAXSEG, 600);
    c.connect(&at).is(0);
    let s = l.accept().fd();
    assert!(tcp(&s, libc::TCP_MAXSEG) <= 600, "the peer was told");
    assert!(tcp(&c, libc::TCP_MAXSEG) <= 600);
    let data = crate::net::pattern(50_000);
    std::thread::scope(|scope| {
        scope.spawn(|| crate::net::put_all(&s, &data));
        assert_eq!(take_all(&c, data.len()), data);
    });
}

fn keepalive_defaults(net: Net) {
    let t = net.tcp();
    assert_eq!((tcp(&t, TCP_KEEPIDLE), tcp(&t, TCP_KEEPINTVL), tcp(&t, TCP_KEEPCNT)), (7200, 75, 9));
}

fn keepalive_values(net: Net) {
    let (c, _s) = pair(net);
    for (option, value) in [(TCP_KEEPIDLE, 11), (TCP_KEEPINTVL, 12), (TCP_KEEPCNT, 13)] {
        c.on(IPPROTO_TCP, option, value);
        assert_eq!(tcp(&c, option), value);
    }
}

fn keepalive_ranges(net: Net) {
    let t = net.tcp();
    for (option, high) in [(TCP_KEEPIDLE, 32_767), (TCP_KEEPINTVL, 32_767), (TCP_KEEPCNT, 127)] {
        t.set(IPPROTO_TCP, option, &0).fails(EINVAL);
        t.set(IPPROTO_TCP, option, &(high + 1)).fails(EINVAL);
        t.on(IPPROTO_TCP, option, high);
        t.on(IPPROTO_TCP, option, 1);
    }
}

fn keepalive_idle_connection(net: Net) {
    let (c, s) = pair(net);
    c.on(SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    c.on(IPPROTO_TCP, TCP_KEEPIDLE, 1);
    c.on(IPPROTO_TCP, TCP_KEEPINTVL, 1);
    c.on(IPPROTO_TCP, TCP_KEEPCNT, 1);
    // The peer answers the probes: nothing happens.
    assert_eq!(c.poll(POLLIN, 2500), 0);
    s.write(b"alive").is(5);
    assert_eq!(take(&c, 9), b"alive");
}

fn syncnt(net: Net) {
    let t = net.tcp();
    assert_eq!(tcp(&t, libc::TCP_SYNCNT), 6);
    t.on(IPPROTO_TCP, libc::TCP_SYNCNT, 3);
    assert_eq!(tcp(&t, libc::TCP_SYNCNT), 3);
    t.set(IPPROTO_TCP, libc::TCP_SYNCNT, &0).fails(EINVAL);
    t.set(IPPROTO_TCP, libc::TCP_SYNCNT, &128).fails(EINVAL);
}

fn linger2(net: Net) {
    let t = net.tcp();
    assert_eq!(tcp(&t, libc::TCP_LINGER2), 60);
    t.on(IPPROTO_TCP, libc::TCP_LINGER2, 5);
    assert_eq!(tcp(&t, libc::TCP_LINGER2), 5);
    t.on(IPPROTO_TCP, libc::TCP_LINGER2, -1);
    assert_eq!(tcp(&t, libc::TCP_LINGER2), -1);
}

fn defer_accept_value(net: Net) {
    let t = net.tcp();
    assert_eq!(tcp(&t, TCP_DEFER_ACCEPT), 0);
    t.on(IPPROTO_TCP, TCP_DEFER_ACCEPT, 1);
    assert_eq!(tcp(&t, TCP_DEFER_ACCEPT), 1);
    // Counted in retransmissions of the SYN-ACK: 1, 3, 7, ... seconds.
    t.on(IPPROTO_TCP, TCP_DEFER_ACCEPT, 5);
    assert_eq!(tcp(&t, TCP_DEFER_ACCEPT), 7);
    t.on(IPPROTO_TCP, TCP_DEFER_ACCEPT, 0);
    assert_eq!(tcp(&t, TCP_DEFER_ACCEPT), 0);
}

fn defer_accept_waits_for_data(net: Net) {
    let (l, at) = listener(net);
    l.on(IPPROTO_TCP, TCP_DEFER_ACCEPT, 30);
    let c = net.tcp();
    c.connect(&at).is(0);
    quiet(&l, POLLIN);
    c.write(b"now").is(3);
    wait_in(&l);
    assert_eq!(take(&l.accept().fd(), 9), b"now");
}

fn quickack(net: Net) {
    let (c, _s) = pair(net);
    c.on(IPPROTO_TCP, libc::TCP_QUICKACK, 0);
    assert_eq!(tcp(&c, libc::TCP_QUICKACK), 0);
    c.on(IPPROTO_TCP, libc::TCP_QUICKACK, 1);
    assert_eq!(tcp(&c, libc::TCP_QUICKACK), 1);
}

fn user_timeout(net: Net) {
    let t = net.tcp();
    assert_eq!(tcp(&t, libc::TCP_USER_TIMEOUT), 0);
    t.on(IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 12_345);
    assert_eq!(tcp(&t, libc::TCP_USER_TIMEOUT), 12_345);
    t.set(IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &-1).fails(EINVAL);
}

fn window_clamp(net: Net) {
    let (c, _s) = pair(net);
    c.on(IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, 20_000);
    assert_eq!(tcp(&c, libc::TCP_WINDOW_CLAMP), 20_000);
}

fn congestion(fd: &Fd) -> String {
    let mut name = [0u8; 16];
    assert_eq!(fd.get_into(IPPROTO_TCP, libc::TCP_CONGESTION, &mut name), 16);
    let end = name.iter().position(|b| *b == 0).expect("terminated");
    String::from_utf8(name[..end].to_vec()).expect("ascii")
}

fn congestion_default(net: Net) {
    // Which one is the host's choice; it can be set to what it is.
    let t = net.tcp();
    let name = congestion(&t);
    assert!(!name.is_empty());
    sys!(libc::setsockopt(t.raw(), IPPROTO_TCP, libc::TCP_CONGESTION, name.as_ptr().cast(), name.len() as u32)).is(0);
    assert_eq!(congestion(&t), name);
}

fn congestion_unknown(net: Net) {
    net.tcp().set(IPPROTO_TCP, libc::TCP_CONGESTION, b"nonesuch").fails(libc::ENOENT);
}

fn congestion_reno(net: Net) {
    let t = net.tcp();
    t.set(IPPROTO_TCP, libc::TCP_CONGESTION, b"reno").is(0);
    assert_eq!(congestion(&t), "reno");
}

fn info(fd: &Fd) -> libc::tcp_info {
    // SAFETY: all-zero is a valid tcp_info.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let len = fd.get_into(IPPROTO_TCP, libc::TCP_INFO, &mut info);
    assert_eq!(len, size_of::<libc::tcp_info>());
    info
}

fn state(fd: &Fd) -> u8 {
    info(fd).tcpi_state
}

fn info_states(net: Net) {
    // include/net/tcp_states.h
    const ESTABLISHED: u8 = 1;
    const FIN_WAIT2: u8 = 5;
    const CLOSE: u8 = 7;
    const CLOSE_WAIT: u8 = 8;
    const LISTEN: u8 = 10;
    let t = net.tcp();
    assert_eq!(state(&t), CLOSE);
    t.listen(1).is(0);
    assert_eq!(state(&t), LISTEN);
    let (c, s) = pair(net);
    assert_eq!((state(&c), state(&s)), (ESTABLISHED, ESTABLISHED));
    c.shutdown(libc::SHUT_WR).is(0);
    until(|| (state(&c), state(&s)) == (FIN_WAIT2, CLOSE_WAIT));
    s.shutdown(libc::SHUT_WR).is(0);
    until(|| (state(&c), state(&s)) == (CLOSE, CLOSE));
}

fn info_is_short(net: Net) {
    let mut some = [0xffu8; 4];
    assert_eq!(net.tcp().get_into(IPPROTO_TCP, libc::TCP_INFO, &mut some), 4);
    assert_eq!(some[0], 7);
    let mut more = [0xffu8; 600];
    assert!(net.tcp().get_into(IPPROTO_TCP, libc::TCP_INFO, &mut more) < 600);
}

fn info_of_connection(net: Net) {
    let (c, _s) = pair(net);
    let i = info(&c);
    assert!(i.tcpi_rto > 0 && i.tcpi_snd_cwnd > 0, "rto {} cwnd {}", i.tcpi_rto, i.tcpi_snd_cwnd);
    assert!(i.tcpi_snd_mss >= 536 && i.tcpi_rcv_mss >= 536 && i.tcpi_pmtu >= 576);
    assert_eq!((i.tcpi_retransmits, i.tcpi_unacked, i.tcpi_lost, i.tcpi_ca_state), (0, 0, 0, 0));
}

fn info_after_data(net: Net) {
    let (c, s) = pair(net);
    c.write(&[1; 5000]).is(5000);
    assert_eq!(take_all(&s, 5000).len(), 5000);
    until(|| info(&c).tcpi_unacked == 0);
    let mut long = [0u64; 32];
    let len = c.get_into(IPPROTO_TCP, libc::TCP_INFO, &mut long);
    assert!(len >= 136, "{len}");
    // tcpi_bytes_acked is at 120 (and counts the SYN), tcpi_bytes_received at 128.
    until(|| {
        c.get_into(IPPROTO_TCP, libc::TCP_INFO, &mut long);
        (5000..=5001).contains(&long[15])
    });
    s.get_into(IPPROTO_TCP, libc::TCP_INFO, &mut long);
    assert_eq!(long[16], 5000);
}

fn notsent_lowat(net: Net) {
    let t = net.tcp();
    t.on(IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, 16_384);
    assert_eq!(tcp(&t, libc::TCP_NOTSENT_LOWAT), 16_384);
}

fn tcp_unknown(net: Net) {
    let t = net.tcp();
    t.set(IPPROTO_TCP, 9999, &1).fails(ENOPROTOOPT);
    t.get_opt(IPPROTO_TCP, 9999).fails(ENOPROTOOPT);
}

fn tcp_short_value(net: Net) {
    net.tcp().set(IPPROTO_TCP, libc::TCP_NODELAY, &1u8).fails(EINVAL);
}

fn tcp_option_on_udp() {
    let u = Net::V4.udp();
    u.set(IPPROTO_TCP, libc::TCP_NODELAY, &1).fails(ENOPROTOOPT);
    u.get_opt(IPPROTO_TCP, libc::TCP_NODELAY).fails(libc::EOPNOTSUPP);
}

fn fastopen_connect_value(net: Net) {
    let t = net.tcp();
    assert_eq!(tcp(&t, libc::TCP_FASTOPEN_CONNECT), 0);
    t.set(IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, &2).fails(EINVAL);
}

fn thin_and_timestamp(net: Net) {
    let t = net.tcp();
    assert_eq!(tcp(&t, libc::TCP_THIN_LINEAR_TIMEOUTS), 0);
    t.on(IPPROTO_TCP, libc::TCP_THIN_LINEAR_TIMEOUTS, 1);
    assert_eq!(tcp(&t, libc::TCP_THIN_LINEAR_TIMEOUTS), 1);
    t.set(IPPROTO_TCP, libc::TCP_THIN_LINEAR_TIMEOUTS, &2).fails(EINVAL);
}

fn inq_value(net: Net) {
    let t = net.tcp();
    assert_eq!(tcp(&t, libc::TCP_INQ), 0);
    t.set(IPPROTO_TCP, libc::TCP_INQ, &2).fails(EINVAL);
}

fn save_syn_value(net: Net) {
    let t = net.tcp();
    assert_eq!(tcp(&t, libc::TCP_SAVE_SYN), 0);
    t.set(IPPROTO_TCP, libc::TCP_SAVE_SYN, &3).fails(EINVAL);
}

fn set_after_close_is_kept_by_dup(net: Net) {
    let t = net.tcp();
    let copy = sys!(libc::dup(t.raw())).fd();
    t.on(IPPROTO_TCP, libc::TCP_NODELAY, 1);
    t.close().is(0);
    assert_eq!(tcp(&copy, libc::TCP_NODELAY), 1);
}

fn option_on_listener_later(net: Net) {
    // Set between the client's connect and our accept: too late, the child was made at the handshake.
    let (l, at) = listener(net);
    let c = net.tcp();
    c.connect(&at).is(0);
    wait_ready(&l, POLLIN);
    l.on(SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    let s = l.accept().fd();
    assert_eq!(s.opt(SOL_SOCKET, libc::SO_KEEPALIVE), 0);
    assert_eq!(s.ready(), POLLOUT);
}

fn ip_ttl() {
    let t = Net::V4.tcp();
    assert_eq!(t.opt(IPPROTO_IP, libc::IP_TTL), 64);
    t.on(IPPROTO_IP, libc::IP_TTL, 200);
    assert_eq!(t.opt(IPPROTO_IP, libc::IP_TTL), 200);
    t.set(IPPROTO_IP, libc::IP_TTL, &0).fails(EINVAL);
    t.set(IPPROTO_IP, libc::IP_TTL, &256).fails(EINVAL);
    t.on(IPPROTO_IP, libc::IP_TTL, -1);
    assert_eq!(t.opt(IPPROTO_IP, libc::IP_TTL), 64);
}

fn ip_tos() {
    let t = Net::V4.tcp();
    assert_eq!(t.opt(IPPROTO_IP, libc::IP_TOS), 0);
    t.on(IPPROTO_IP, libc::IP_TOS, 0x10);
    assert_eq!(t.opt(IPPROTO_IP, libc::IP_TOS), 0x10);
    // A stream's ECN bits are TCP's own.
    t.on(IPPROTO_IP, libc::IP_TOS, 0x13);
    assert_eq!(t.opt(IPPROTO_IP, libc::IP_TOS), 0x10);
    t.set(IPPROTO_IP, libc::IP_TOS, &0x20u8).is(0);
    assert_eq!(t.opt(IPPROTO_IP, libc::IP_TOS), 0x20);
}

fn ip_option_on_v6_socket() {
    // A v6 stream takes IPPROTO_IP options too: it may carry mapped addresses.
    let t = Net::V6.tcp();
    t.on(IPPROTO_IP, libc::IP_TTL, 33);
    assert_eq!(t.opt(IPPROTO_IP, libc::IP_TTL), 33);
    assert_eq!(t.ready() & POLLOUT, POLLOUT);
}
