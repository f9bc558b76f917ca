//! Datagrams with control messages, the error queue, many at once, and groups.

use std::net::Ipv6Addr;

use crate::cases;
use crate::msg::{Got, as_int, header, int, iov, iov_mut, recvmsg, sendmsg, space};
use crate::net::{bound_udp, nobody, quiet, take, udp_pair, until, wait, wait_in};
use crate::sys::{Addr, Fd, Net, sys};
use libc::{
    ECONNREFUSED, EINVAL, IPPROTO_IP, IPPROTO_IPV6, MSG_CTRUNC, MSG_DONTWAIT, MSG_ERRQUEUE, MSG_MORE, MSG_TRUNC, POLLERR, POLLIN, POLLOUT,
    SOCK_DGRAM, SOL_SOCKET,
};

cases! {
    one: [
        pktinfo_v4, pktinfo_v6, pktinfo_source_v4, pktinfo_source_v6, ttl_received, tos_received, hoplimit_received, tclass_received, ttl_sent_once,
        hoplimit_sent_once, tos_sent_once, tclass_sent_once, origdstaddr, ttl_as_set, tos_as_set, mtu_v4, mtu_discover_values, recverr_v4, recverr_v6,
        multicast_v4, membership_v6, multicast_defaults, multicast_values, membership_errors, membership_v6_errors, mreqn, multicast_to_two,
        not_a_member, drop_membership, source_membership, pktinfo_of_other_127, bad_pktinfo_source,
    ],
    net: [
        recvmsg_name, recvmsg_truncated, recvmsg_truncated_length, recvmsg_scatter, sendmsg_gather, sendmsg_too_many, control_truncated,
        control_none_asked, timestamp, timestampns, rxq_ovfl_value, sendmmsg_many, sendmmsg_addresses, recvmmsg_many, recvmmsg_waitforone, recvmmsg_truncates,
        recvmmsg_timeout, recvmmsg_partial_error, more_is_one_datagram, cork_is_one_datagram, segment_splits, segment_cmsg, gro_value, errqueue_empty,
        recverr_off_by_default, recverr_connected, recverr_poll, control_bad_length, control_unknown, sendmsg_no_name, recvmsg_no_name_room,
    ],
}

fn recvmsg_name(net: Net) {
    let (a, b) = udp_pair(net);
    sendmsg(&a, &[b"abc"], None, &[], 0).is(3);
    let got = recvmsg(&b, &[9], 0, 64);
    assert_eq!((got.data.as_slice(), got.flags), (&b"abc"[..], 0));
    assert_eq!(got.from, a.name());
    assert_eq!(got.controls, []);
}

fn recvmsg_truncated(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"0123456789").is(10);
    let got = recvmsg(&b, &[2, 2], 0, 0);
    got.result.is(4);
    assert_eq!((got.data.as_slice(), got.flags), (&b"0123"[..], MSG_TRUNC));
}

fn recvmsg_truncated_length(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"0123456789").is(10);
    let got = recvmsg(&b, &[4], MSG_TRUNC, 0);
    got.result.is(10);
    assert_eq!(got.flags, MSG_TRUNC);
}

fn recvmsg_scatter(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"0123456789").is(10);
    let got = recvmsg(&b, &[1, 0, 4, 20], 0, 0);
    assert_eq!((got.data.as_slice(), got.flags), (&b"0123456789"[..], 0));
}

fn sendmsg_gather(net: Net) {
    let (a, b) = udp_pair(net);
    sendmsg(&a, &[b"ab", b"", b"cde"], None, &[], 0).is(5);
    assert_eq!(take(&b, 9), b"abcde");
}

fn sendmsg_too_many(net: Net) {
    let (a, _b) = udp_pair(net);
    let one: &[u8] = b"x";
    sendmsg(&a, &vec![one; 1025], None, &[], 0).fails(libc::EMSGSIZE);
}

fn sendmsg_no_name(net: Net) {
    sendmsg(&net.udp(), &[b"x"], None, &[], 0).fails(libc::EDESTADDRREQ);
}

fn recvmsg_no_name_room(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"abc").is(3);
    let mut bufs = [vec![0; 8]];
    let mut v = iov_mut(&mut bufs);
    let mut hdr = header(&mut v);
    hdr.msg_namelen = 77;
    sys!(libc::recvmsg(b.raw(), &raw mut hdr, 0)).is(3);
    assert_eq!(bufs[0][..3], *b"abc");
}

/// Level and option that ask for where a datagram was sent to, and the type of what comes.
fn ask_pktinfo(net: Net, fd: &Fd) -> (i32, i32) {
    if net == Net::V4 {
        fd.on(IPPROTO_IP, libc::IP_PKTINFO, 1);
        (IPPROTO_IP, libc::IP_PKTINFO)
    } else {
        fd.on(IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1);
        (IPPROTO_IPV6, libc::IPV6_PKTINFO)
    }
}

fn control_truncated(net: Net) {
    let (a, b) = udp_pair(net);
    ask_pktinfo(net, &b);
    a.write(b"abc").is(3);
    let got = recvmsg(&b, &[9], 0, 8);
    assert_eq!((got.data.as_slice(), got.flags), (&b"abc"[..], MSG_CTRUNC));
    assert_eq!(got.controls, []);
}

fn control_none_asked(net: Net) {
    let (a, b) = udp_pair(net);
    let (level, kind) = ask_pktinfo(net, &b);
    if net == Net::V4 {
        b.on(level, kind, 0);
    } else {
        b.on(level, libc::IPV6_RECVPKTINFO, 0);
    }
    a.write(b"abc").is(3);
    assert_eq!(recvmsg(&b, &[9], 0, 128).controls, []);
}

/// What `fd` gets next.
fn next(fd: &Fd) -> Got {
    let got = recvmsg(fd, &[64], 0, 256);
    got.result.ok();
    got
}

fn ifindex_lo() -> u32 {
    sys!(libc::if_nametoindex(c"lo".as_ptr())).ok() as u32
}

fn pktinfo_v4() {
    let (a, b) = udp_pair(Net::V4);
    ask_pktinfo(Net::V4, &b);
    a.write(b"x").is(1);
    let got = next(&b);
    let info = got.control(IPPROTO_IP, libc::IP_PKTINFO);
    assert_eq!(info.len(), 12);
    assert_eq!(info[..4], ifindex_lo().to_ne_bytes());
    assert_eq!((&info[4..8], &info[8..12]), (&[127, 0, 0, 1][..], &[127, 0, 0, 1][..]));
}

fn pktinfo_of_other_127() {
    let b = Net::V4.udp();
    b.bind(&Net::V4.any()).is(0);
    ask_pktinfo(Net::V4, &b);
    Net::V4.udp().sendto(b"x", 0, &Addr::v4([127, 0, 0, 44], b.name().port())).is(1);
    let got = next(&b);
    assert_eq!(got.control(IPPROTO_IP, libc::IP_PKTINFO)[4..], [127, 0, 0, 44, 127, 0, 0, 44]);
}

fn pktinfo_v6() {
    let (a, b) = udp_pair(Net::V6);
    ask_pktinfo(Net::V6, &b);
    a.write(b"x").is(1);
    let got = next(&b);
    let info = got.control(IPPROTO_IPV6, libc::IPV6_PKTINFO);
    assert_eq!(info.len(), 20);
    assert_eq!(info[..16], Ipv6Addr::LOCALHOST.octets());
    assert_eq!(info[16..], ifindex_lo().to_ne_bytes());
}

fn pktinfo_source_v4() {
    let ((a, at_a), (b, at_b)) = (bound_udp(Net::V4), bound_udp(Net::V4));
    let mut info = vec![0; 12];
    info[4..8].copy_from_slice(&[127, 0, 0, 77]);
    drop((a, at_a));
    let a = Net::V4.udp();
    sendmsg(&a, &[b"x"], Some(&at_b), &[(IPPROTO_IP, libc::IP_PKTINFO, info)], 0).is(1);
    assert_eq!(next(&b).from.ip().to_string(), "127.0.0.77");
}

fn bad_pktinfo_source() {
    let (_b, at_b) = bound_udp(Net::V4);
    let a = Net::V4.udp();
    sendmsg(&a, &[b"x"], Some(&at_b), &[(IPPROTO_IP, libc::IP_PKTINFO, vec![0; 4])], 0).fails(EINVAL);
}

fn pktinfo_source_v6() {
    let (b, at_b) = bound_udp(Net::V6);
    let mut info = Ipv6Addr::LOCALHOST.octets().to_vec();
    info.extend(0u32.to_ne_bytes());
    let a = Net::V6.udp();
    sendmsg(&a, &[b"x"], Some(&at_b), &[(IPPROTO_IPV6, libc::IPV6_PKTINFO, info)], 0).is(1);
    assert_eq!(next(&b).from.ip().to_string(), "::1");
    // An address that is not ours cannot be the source.
    let mut info = "2001:db8::9".parse::<Ipv6Addr>().expect("address").octets().to_vec();
    info.extend(0u32.to_ne_bytes());
    sendmsg(&a, &[b"x"], Some(&at_b), &[(IPPROTO_IPV6, libc::IPV6_PKTINFO, info)], 0).fails(EINVAL);
}

fn ttl_received() {
    let (a, b) = udp_pair(Net::V4);
    b.on(IPPROTO_IP, libc::IP_RECVTTL, 1);
    a.write(b"x").is(1);
    assert_eq!(as_int(next(&b).control(IPPROTO_IP, libc::IP_TTL)), 64);
}

fn ttl_as_set() {
    let (a, b) = udp_pair(Net::V4);
    b.on(IPPROTO_IP, libc::IP_RECVTTL, 1);
    a.on(IPPROTO_IP, libc::IP_TTL, 7);
    a.write(b"x").is(1);
    assert_eq!(as_int(next(&b).control(IPPROTO_IP, libc::IP_TTL)), 7);
}

fn ttl_sent_once() {
    let (a, b) = udp_pair(Net::V4);
    b.on(IPPROTO_IP, libc::IP_RECVTTL, 1);
    sendmsg(&a, &[b"x"], None, &[(IPPROTO_IP, libc::IP_TTL, int(9))], 0).is(1);
    a.write(b"y").is(1);
    assert_eq!(as_int(next(&b).control(IPPROTO_IP, libc::IP_TTL)), 9);
    assert_eq!(as_int(next(&b).control(IPPROTO_IP, libc::IP_TTL)), 64);
    sendmsg(&a, &[b"x"], None, &[(IPPROTO_IP, libc::IP_TTL, int(0))], 0).fails(EINVAL);
    sendmsg(&a, &[b"x"], None, &[(IPPROTO_IP, libc::IP_TTL, int(256))], 0).fails(EINVAL);
}

fn tos_received() {
    let (a, b) = udp_pair(Net::V4);
    b.on(IPPROTO_IP, libc::IP_RECVTOS, 1);
    a.write(b"x").is(1);
    // One byte, not an int.
    assert_eq!(next(&b).control(IPPROTO_IP, libc::IP_TOS), [0]);
}

fn tos_as_set() {
    let (a, b) = udp_pair(Net::V4);
    b.on(IPPROTO_IP, libc::IP_RECVTOS, 1);
    a.on(IPPROTO_IP, libc::IP_TOS, 0x2e);
    assert_eq!(a.opt(IPPROTO_IP, libc::IP_TOS), 0x2e);
    a.write(b"x").is(1);
    assert_eq!(next(&b).control(IPPROTO_IP, libc::IP_TOS), [0x2e]);
}

fn tos_sent_once() {
    let (a, b) = udp_pair(Net::V4);
    b.on(IPPROTO_IP, libc::IP_RECVTOS, 1);
    sendmsg(&a, &[b"x"], None, &[(IPPROTO_IP, libc::IP_TOS, int(0x20))], 0).is(1);
    a.write(b"y").is(1);
    assert_eq!(next(&b).control(IPPROTO_IP, libc::IP_TOS), [0x20]);
    assert_eq!(next(&b).control(IPPROTO_IP, libc::IP_TOS), [0]);
}

fn hoplimit_received() {
    let (a, b) = udp_pair(Net::V6);
    b.on(IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1);
    a.write(b"x").is(1);
    assert_eq!(as_int(next(&b).control(IPPROTO_IPV6, libc::IPV6_HOPLIMIT)), 64);
    a.on(IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, 5);
    a.write(b"x").is(1);
    assert_eq!(as_int(next(&b).control(IPPROTO_IPV6, libc::IPV6_HOPLIMIT)), 5);
}

fn hoplimit_sent_once() {
    let (a, b) = udp_pair(Net::V6);
    b.on(IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1);
    sendmsg(&a, &[b"x"], None, &[(IPPROTO_IPV6, libc::IPV6_HOPLIMIT, int(11))], 0).is(1);
    assert_eq!(as_int(next(&b).control(IPPROTO_IPV6, libc::IPV6_HOPLIMIT)), 11);
    sendmsg(&a, &[b"x"], None, &[(IPPROTO_IPV6, libc::IPV6_HOPLIMIT, int(300))], 0).fails(EINVAL);
}

fn tclass_received() {
    let (a, b) = udp_pair(Net::V6);
    b.on(IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1);
    a.on(IPPROTO_IPV6, libc::IPV6_TCLASS, 0x28);
    a.write(b"x").is(1);
    assert_eq!(as_int(next(&b).control(IPPROTO_IPV6, libc::IPV6_TCLASS)), 0x28);
}

fn tclass_sent_once() {
    let (a, b) = udp_pair(Net::V6);
    b.on(IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1);
    sendmsg(&a, &[b"x"], None, &[(IPPROTO_IPV6, libc::IPV6_TCLASS, int(0x14))], 0).is(1);
    a.write(b"y").is(1);
    assert_eq!(as_int(next(&b).control(IPPROTO_IPV6, libc::IPV6_TCLASS)), 0x14);
    assert_eq!(as_int(next(&b).control(IPPROTO_IPV6, libc::IPV6_TCLASS)), 0);
}

fn origdstaddr() {
    let (a, b) = udp_pair(Net::V4);
    b.on(IPPROTO_IP, libc::IP_RECVORIGDSTADDR, 1);
    a.write(b"x").is(1);
    let got = next(&b);
    let to = got.control(IPPROTO_IP, libc::IP_ORIGDSTADDR);
    assert_eq!(to[2..8], [(b.name().port() >> 8) as u8, b.name().port() as u8, 127, 0, 0, 1]);
}

fn timestamp(net: Net) {
    let (a, b) = udp_pair(net);
    b.on(SOL_SOCKET, libc::SO_TIMESTAMP, 1);
    a.write(b"x").is(1);
    let got = next(&b);
    let t = got.control(SOL_SOCKET, libc::SCM_TIMESTAMP);
    assert_eq!(t.len(), 16);
    let sec = i64::from_ne_bytes(t[..8].try_into().expect("8"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs() as i64;
    assert!((now - 30..=now + 1).contains(&sec), "{sec} at {now}");
}

fn timestampns(net: Net) {
    let (a, b) = udp_pair(net);
    b.on(SOL_SOCKET, libc::SO_TIMESTAMPNS, 1);
    assert_eq!(b.opt(SOL_SOCKET, libc::SO_TIMESTAMPNS), 1);
    a.write(b"x").is(1);
    let got = next(&b);
    let t = got.control(SOL_SOCKET, libc::SO_TIMESTAMPNS);
    assert_eq!(t.len(), 16);
    let nsec = i64::from_ne_bytes(t[8..].try_into().expect("8"));
    assert!((0..1_000_000_000).contains(&nsec));
}

fn rxq_ovfl_value(net: Net) {
    let a = net.udp();
    assert_eq!(a.opt(SOL_SOCKET, libc::SO_RXQ_OVFL), 0);
    a.on(SOL_SOCKET, libc::SO_RXQ_OVFL, 1);
    assert_eq!(a.opt(SOL_SOCKET, libc::SO_RXQ_OVFL), 1);
}

fn sendmmsg_many(net: Net) {
    let (a, b) = udp_pair(net);
    let mut iovs = [iov(&[b"one"]), iov(&[b"t", b"wo"]), iov(&[b""])];
    let mut all = iovs.each_mut().map(|v| libc::mmsghdr { msg_hdr: header(v), msg_len: 99 });
    sys!(libc::sendmmsg(a.raw(), all.as_mut_ptr(), 3, 0)).is(3);
    assert_eq!(all.map(|m| m.msg_len), [3, 3, 0]);
    for want in [&b"one"[..], b"two", b""] {
        assert_eq!(take(&b, 9), want);
    }
}

fn sendmmsg_addresses(net: Net) {
    let ((b, at_b), (c, at_c)) = (bound_udp(net), bound_udp(net));
    let mut iovs = [iov(&[b"for b"]), iov(&[b"for c"]), iov(&[b"bad"])];
    let mut all = iovs.each_mut().map(|v| libc::mmsghdr { msg_hdr: header(v), msg_len: 0 });
    for (m, at) in all.iter_mut().zip([&at_b, &at_c]) {
        m.msg_hdr.msg_name = at.ptr().cast_mut().cast();
        m.msg_hdr.msg_namelen = at.len;
    }
    // The third has no address: two are sent, and that is what is reported.
    let a = net.udp();
    sys!(libc::sendmmsg(a.raw(), all.as_mut_ptr(), 3, 0)).is(2);
    assert_eq!(take(&b, 9), b"for b");
    assert_eq!(take(&c, 9), b"for c");
    sys!(libc::sendmmsg(a.raw(), &raw mut all[2], 1, 0)).fails(libc::EDESTADDRREQ);
}

/// recvmmsg into `n` rooms of `size` bytes.
fn recvmmsg(fd: &Fd, n: usize, size: usize, flags: i32, timeout: *mut libc::timespec) -> (crate::sys::R, Vec<Vec<u8>>, Vec<i32>) {
    let mut bufs: Vec<Vec<u8>> = vec![vec![0; size]; n];
    let mut iovs: Vec<Vec<libc::iovec>> = bufs.iter_mut().map(|b| iov_mut(std::slice::from_mut(b))).collect();
    let mut all: Vec<libc::mmsghdr> = iovs.iter_mut().map(|v| libc::mmsghdr { msg_hdr: header(v), msg_len: 0 }).collect();
    let r = sys!(libc::recvmmsg(fd.raw(), all.as_mut_ptr(), n as u32, flags, timeout));
    let got = r.get().unwrap_or(0) as usize;
    let lens: Vec<usize> = all.iter().map(|m| m.msg_len as usize).collect();
    let flags = all[..got].iter().map(|m| m.msg_hdr.msg_flags).collect();
    let data = bufs.into_iter().zip(lens).take(got).map(|(b, n)| b[..n].to_vec()).collect();
    (r, data, flags)
}

const NEVER: *mut libc::timespec = std::ptr::null_mut();

fn recvmmsg_many(net: Net) {
    let (a, b) = udp_pair(net);
    for s in [&b"a"[..], b"bc", b"def"] {
        a.write(s).is(s.len() as isize);
    }
    let (r, data, _) = recvmmsg(&b, 3, 9, 0, NEVER);
    r.is(3);
    assert_eq!(data, [b"a".to_vec(), b"bc".to_vec(), b"def".to_vec()]);
}

fn recvmmsg_waitforone(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"a").is(1);
    wait_in(&b);
    let (r, data, _) = recvmmsg(&b, 3, 9, libc::MSG_WAITFORONE, NEVER);
    r.is(1);
    assert_eq!(data, [b"a".to_vec()]);
}

fn recvmmsg_truncates(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"long one").is(8);
    a.write(b"ok").is(2);
    let (r, data, flags) = recvmmsg(&b, 2, 4, 0, NEVER);
    r.is(2);
    assert_eq!(data, [b"long".to_vec(), b"ok".to_vec()]);
    assert_eq!(flags, [MSG_TRUNC, 0]);
}

fn recvmmsg_timeout(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"a").is(1);
    wait_in(&b);
    // Looked at after each datagram only (see BUGS in the man page): over at once with the first.
    let mut none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let (r, _, _) = recvmmsg(&b, 3, 4, 0, &raw mut none);
    r.is(1);
}

fn recvmmsg_partial_error(net: Net) {
    let a = net.udp();
    a.connect(&nobody(net, SOCK_DGRAM)).is(0);
    a.write(b"x").is(1);
    wait(&a, POLLIN);
    let (r, _, _) = recvmmsg(&a, 2, 4, MSG_DONTWAIT, NEVER);
    r.fails(ECONNREFUSED);
    let (r, _, _) = recvmmsg(&a, 2, 4, MSG_DONTWAIT, NEVER);
    r.fails(libc::EAGAIN);
}

fn more_is_one_datagram(net: Net) {
    let (a, b) = udp_pair(net);
    a.send(b"one ", MSG_MORE).is(4);
    a.send(b"data", MSG_MORE).is(4);
    quiet(&b, POLLIN);
    a.send(b"gram", 0).is(4);
    assert_eq!(take(&b, 32), b"one datagram");
}

fn cork_is_one_datagram(net: Net) {
    let (a, b) = udp_pair(net);
    a.on(libc::IPPROTO_UDP, libc::UDP_CORK, 1);
    assert_eq!(a.opt(libc::IPPROTO_UDP, libc::UDP_CORK), 1);
    a.write(b"two ").is(4);
    a.write(b"parts").is(5);
    quiet(&b, POLLIN);
    a.on(libc::IPPROTO_UDP, libc::UDP_CORK, 0);
    assert_eq!(take(&b, 32), b"two parts");
}

fn segment_splits(net: Net) {
    let (a, b) = udp_pair(net);
    assert_eq!(a.opt(libc::IPPROTO_UDP, libc::UDP_SEGMENT), 0);
    a.on(libc::IPPROTO_UDP, libc::UDP_SEGMENT, 4);
    a.write(b"abcdefghij").is(10);
    for want in [&b"abcd"[..], b"efgh", b"ij"] {
        assert_eq!(take(&b, 32), want);
    }
}

fn segment_cmsg(net: Net) {
    let (a, b) = udp_pair(net);
    sendmsg(&a, &[b"abcdef"], None, &[(libc::SOL_UDP, libc::UDP_SEGMENT, 3u16.to_ne_bytes().to_vec())], 0).is(6);
    assert_eq!(take(&b, 32), b"abc");
    assert_eq!(take(&b, 32), b"def");
}

fn gro_value(net: Net) {
    let a = net.udp();
    assert_eq!(a.opt(libc::IPPROTO_UDP, libc::UDP_GRO), 0);
    a.on(libc::IPPROTO_UDP, libc::UDP_GRO, 1);
    assert_eq!(a.opt(libc::IPPROTO_UDP, libc::UDP_GRO), 1);
}

fn errqueue_empty(net: Net) {
    let (a, _) = bound_udp(net);
    recvmsg(&a, &[9], MSG_ERRQUEUE, 128).result.fails(libc::EAGAIN);
}

fn recverr(net: Net) -> (i32, i32) {
    if net == Net::V4 { (IPPROTO_IP, libc::IP_RECVERR) } else { (IPPROTO_IPV6, libc::IPV6_RECVERR) }
}

fn recverr_off_by_default(net: Net) {
    let (level, option) = recverr(net);
    let (a, _) = bound_udp(net);
    assert_eq!(a.opt(level, option), 0);
    a.sendto(b"x", 0, &nobody(net, SOCK_DGRAM)).is(1);
    quiet(&a, POLLIN);
    recvmsg(&a, &[9], MSG_ERRQUEUE, 128).result.fails(libc::EAGAIN);
}

/// The error queue's entry after an unconnected socket has sent to nobody.
fn unreachable(net: Net) -> (Got, Addr) {
    let (level, option) = recverr(net);
    let (a, _) = bound_udp(net);
    a.on(level, option, 1);
    let gone = nobody(net, SOCK_DGRAM);
    a.sendto(b"payload", 0, &gone).is(7);
    wait(&a, POLLIN);
    assert_eq!(a.ready() & POLLERR, POLLERR);
    let got = recvmsg(&a, &[32], MSG_ERRQUEUE, 256);
    assert_eq!(got.data, b"payload");
    assert_eq!(got.flags & MSG_ERRQUEUE, MSG_ERRQUEUE);
    assert_eq!(got.from, gone, "the name is where it was sent to");
    recvmsg(&a, &[32], MSG_ERRQUEUE, 256).result.fails(libc::EAGAIN);
    (got, gone)
}

/// sock_extended_err's errno, origin, type, code.
fn extended(payload: &[u8]) -> (u32, u8, u8, u8) {
    (u32::from_ne_bytes(payload[..4].try_into().expect("4")), payload[4], payload[5], payload[6])
}

fn recverr_v4() {
    let (got, _) = unreachable(Net::V4);
    let e = got.control(IPPROTO_IP, libc::IP_RECVERR);
    // Origin ICMP, destination unreachable, port unreachable; then who said so.
    assert_eq!(extended(e), (ECONNREFUSED as u32, 2, 3, 3));
    assert_eq!(e.len(), 16 + 16);
    assert_eq!((e[16], &e[20..24]), (libc::AF_INET as u8, &[127, 0, 0, 1][..]));
}

fn recverr_v6() {
    let (got, _) = unreachable(Net::V6);
    let e = got.control(IPPROTO_IPV6, libc::IPV6_RECVERR);
    assert_eq!(extended(e), (ECONNREFUSED as u32, 3, 1, 4));
    assert_eq!(e.len(), 16 + 28);
    assert_eq!((e[16], &e[24..40]), (libc::AF_INET6 as u8, &Ipv6Addr::LOCALHOST.octets()[..]));
}

fn recverr_connected(net: Net) {
    let (level, option) = recverr(net);
    let a = net.udp();
    a.on(level, option, 1);
    a.connect(&nobody(net, SOCK_DGRAM)).is(0);
    a.write(b"x").is(1);
    wait(&a, POLLIN);
    // Both ways: the queue and the plain error.
    recvmsg(&a, &[9], MSG_ERRQUEUE, 256).result.is(1);
    a.recv(&mut [0; 4], MSG_DONTWAIT).fails(libc::EAGAIN);
}

fn recverr_poll(net: Net) {
    let (level, option) = recverr(net);
    let a = net.udp();
    a.on(level, option, 1);
    a.connect(&nobody(net, SOCK_DGRAM)).is(0);
    a.write(b"x").is(1);
    wait(&a, POLLIN);
    // Reading the error leaves the queue, and POLLERR with it.
    a.recv(&mut [0; 4], MSG_DONTWAIT).fails(ECONNREFUSED);
    assert_eq!(a.ready(), POLLOUT | POLLERR);
    recvmsg(&a, &[9], MSG_ERRQUEUE, 256).result.is(1);
    assert_eq!(a.ready(), POLLOUT);
}

fn control_bad_length(net: Net) {
    let (a, _b) = udp_pair(net);
    let mut v = iov(&[b"x"]);
    let mut hdr = header(&mut v);
    let mut control = [8u64, 0, 0, 0];
    hdr.msg_control = control.as_mut_ptr().cast();
    hdr.msg_controllen = 32;
    sys!(libc::sendmsg(a.raw(), &raw const hdr, 0)).fails(EINVAL);
}

fn control_unknown(net: Net) {
    let (a, b) = udp_pair(net);
    let level = if net == Net::V4 { IPPROTO_IP } else { IPPROTO_IPV6 };
    sendmsg(&a, &[b"x"], None, &[(level, 200, int(0))], 0).fails(EINVAL);
    sendmsg(&a, &[b"y"], None, &[(9999, 1, int(0))], 0).is(1);
    assert_eq!(take(&b, 9), b"y");
    assert_eq!(space(4), 24);
}

fn mtu_v4() {
    let (a, _b) = udp_pair(Net::V4);
    let mtu = a.opt(IPPROTO_IP, libc::IP_MTU);
    assert!((1280..=65_536).contains(&mtu), "{mtu}");
    Net::V4.udp().get_opt(IPPROTO_IP, libc::IP_MTU).fails(libc::ENOTCONN);
}

fn mtu_discover_values() {
    let a = Net::V4.udp();
    assert_eq!(a.opt(IPPROTO_IP, libc::IP_MTU_DISCOVER), libc::IP_PMTUDISC_WANT);
    for v in [libc::IP_PMTUDISC_DONT, libc::IP_PMTUDISC_DO, libc::IP_PMTUDISC_PROBE] {
        a.on(IPPROTO_IP, libc::IP_MTU_DISCOVER, v);
        assert_eq!(a.opt(IPPROTO_IP, libc::IP_MTU_DISCOVER), v);
    }
    a.set(IPPROTO_IP, libc::IP_MTU_DISCOVER, &9).fails(EINVAL);
}

const GROUP: [u8; 4] = [239, 7, 8, 9];

/// ip_mreq of a group on lo.
fn mreq(group: [u8; 4]) -> [[u8; 4]; 2] {
    [group, [127, 0, 0, 1]]
}

/// A socket on the group's port, joined.
fn member(port: u16) -> Fd {
    let fd = Net::V4.udp();
    fd.on(SOL_SOCKET, libc::SO_REUSEADDR, 1);
    fd.bind(&Net::V4.any().at(port)).is(0);
    fd.set(IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &mreq(GROUP)).is(0);
    fd
}

fn sender() -> Fd {
    let fd = Net::V4.udp();
    fd.set(IPPROTO_IP, libc::IP_MULTICAST_IF, &[127u8, 0, 0, 1]).is(0);
    fd
}

fn multicast_v4() {
    let m = member(0);
    sender().sendto(b"to all", 0, &Addr::v4(GROUP, m.name().port())).is(6);
    assert_eq!(take(&m, 32), b"to all");
}

fn multicast_to_two() {
    let a = member(0);
    let b = member(a.name().port());
    sender().sendto(b"both", 0, &Addr::v4(GROUP, a.name().port())).is(4);
    assert_eq!(take(&a, 32), b"both");
    assert_eq!(take(&b, 32), b"both");
}

fn not_a_member() {
    let a = member(0);
    let b = Net::V4.udp();
    b.on(SOL_SOCKET, libc::SO_REUSEADDR, 1);
    b.bind(&a.name()).is(0);
    b.on(IPPROTO_IP, libc::IP_MULTICAST_ALL, 0);
    sender().sendto(b"members", 0, &Addr::v4(GROUP, a.name().port())).is(7);
    assert_eq!(take(&a, 32), b"members");
    quiet(&b, POLLIN);
}

fn drop_membership() {
    let m = member(0);
    m.set(IPPROTO_IP, libc::IP_DROP_MEMBERSHIP, &mreq(GROUP)).is(0);
    sender().sendto(b"gone", 0, &Addr::v4(GROUP, m.name().port())).is(4);
    quiet(&m, POLLIN);
}

fn source_membership() {
    let m = Net::V4.udp();
    m.bind(&Net::V4.any()).is(0);
    // ip_mreq_source: group, interface, source.
    m.set(IPPROTO_IP, libc::IP_ADD_SOURCE_MEMBERSHIP, &[GROUP, [127, 0, 0, 1], [127, 0, 0, 1]]).is(0);
    sender().sendto(b"from lo", 0, &Addr::v4(GROUP, m.name().port())).is(7);
    assert_eq!(take(&m, 32), b"from lo");
}

fn mreqn() {
    let m = Net::V4.udp();
    m.bind(&Net::V4.any()).is(0);
    let request = libc::ip_mreqn {
        imr_multiaddr: libc::in_addr { s_addr: u32::from_ne_bytes(GROUP) },
        imr_address: libc::in_addr { s_addr: 0 },
        imr_ifindex: ifindex_lo() as i32,
    };
    m.set(IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &request).is(0);
    let s = Net::V4.udp();
    s.set(IPPROTO_IP, libc::IP_MULTICAST_IF, &request).is(0);
    s.sendto(b"by index", 0, &Addr::v4(GROUP, m.name().port())).is(8);
    assert_eq!(take(&m, 32), b"by index");
}

fn multicast_defaults() {
    let a = Net::V4.udp();
    assert_eq!(a.opt(IPPROTO_IP, libc::IP_MULTICAST_TTL), 1);
    assert_eq!(a.opt(IPPROTO_IP, libc::IP_MULTICAST_LOOP), 1);
    assert_eq!(a.opt(IPPROTO_IP, libc::IP_MULTICAST_ALL), 1);
    let mut addr = [9u8; 4];
    a.get_into(IPPROTO_IP, libc::IP_MULTICAST_IF, &mut addr);
    assert_eq!(addr, [0; 4]);
}

fn multicast_values() {
    let a = Net::V4.udp();
    a.on(IPPROTO_IP, libc::IP_MULTICAST_TTL, 33);
    a.set(IPPROTO_IP, libc::IP_MULTICAST_LOOP, &0u8).is(0);
    assert_eq!(a.opt(IPPROTO_IP, libc::IP_MULTICAST_TTL), 33);
    assert_eq!(a.opt(IPPROTO_IP, libc::IP_MULTICAST_LOOP), 0);
    a.set(IPPROTO_IP, libc::IP_MULTICAST_TTL, &256).fails(EINVAL);
    a.set(IPPROTO_IP, libc::IP_MULTICAST_IF, &[127u8, 0, 0, 1]).is(0);
    let mut addr = [9u8; 4];
    a.get_into(IPPROTO_IP, libc::IP_MULTICAST_IF, &mut addr);
    assert_eq!(addr, [127, 0, 0, 1]);
    // A stream has no such thing.
    Net::V4.tcp().set(IPPROTO_IP, libc::IP_MULTICAST_IF, &[127u8, 0, 0, 1]).fails(EINVAL);
}

fn membership_errors() {
    let a = Net::V4.udp();
    a.set(IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &mreq([10, 0, 0, 1])).fails(EINVAL);
    a.set(IPPROTO_IP, libc::IP_DROP_MEMBERSHIP, &mreq(GROUP)).fails(libc::EADDRNOTAVAIL);
    a.set(IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &mreq(GROUP)).is(0);
    a.set(IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &mreq(GROUP)).fails(libc::EADDRINUSE);
    a.set(IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &[0u8; 4]).fails(EINVAL);
    Net::V4.tcp().set(IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &mreq(GROUP)).fails(libc::EPROTO);
}

/// ipv6_mreq of a group on lo.
fn mreq6(group: Ipv6Addr) -> libc::ipv6_mreq {
    libc::ipv6_mreq { ipv6mr_multiaddr: libc::in6_addr { s6_addr: group.octets() }, ipv6mr_interface: ifindex_lo() }
}

fn group6() -> Ipv6Addr {
    "ff01::1234".parse().expect("address")
}

fn membership_v6() {
    // Joining and leaving; lo has no route to ff00::/8, so nothing can be sent there.
    let m = Net::V6.udp();
    m.set(IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &mreq6(group6())).is(0);
    m.set(IPPROTO_IPV6, libc::IPV6_DROP_MEMBERSHIP, &mreq6(group6())).is(0);
    m.set(IPPROTO_IPV6, libc::IPV6_DROP_MEMBERSHIP, &mreq6(group6())).fails(libc::EADDRNOTAVAIL);
    m.on(IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, ifindex_lo() as i32);
    assert_eq!(m.opt(IPPROTO_IPV6, libc::IPV6_MULTICAST_IF), ifindex_lo() as i32);
    m.on(IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, 3);
    assert_eq!(m.opt(IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS), 3);
}

fn membership_v6_errors() {
    let a = Net::V6.udp();
    a.set(IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &mreq6(Ipv6Addr::LOCALHOST)).fails(EINVAL);
    a.set(IPPROTO_IPV6, libc::IPV6_DROP_MEMBERSHIP, &mreq6(group6())).fails(libc::EADDRNOTAVAIL);
    a.set(IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &mreq6(group6())).is(0);
    a.set(IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &mreq6(group6())).fails(libc::EADDRINUSE);
    let mut nowhere = mreq6(group6());
    nowhere.ipv6mr_interface = 12_345;
    a.set(IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &nowhere).fails(libc::ENODEV);
    until(|| a.opt(IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP) == 1);
}
