//! netlink(7): what ip(8) and ss(8) ask: interfaces, addresses, routes, sockets.

use crate::cases;
use crate::net::{bound_udp, listener, pair};
use crate::sys::{Addr, Fd, Net, socket, sys};
use libc::{
    AF_INET, AF_INET6, AF_NETLINK, EAGAIN, ECONNREFUSED, EINVAL, ENODEV, ENOENT, EOPNOTSUPP, MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, POLLIN,
    SOCK_DGRAM, SOCK_RAW,
};

cases! {
    one: [
        names, bound_twice, two_of_one_process, connected, to_nobody, stream_refused, dgram_or_raw, nothing_to_read, links, link_by_index, link_by_name, no_such_link,
        link_unnamed, addresses, addresses_by_family, route_table_local, acknowledged, not_a_request, control_message, two_requests, short_request,
        message_too_long, peeked_and_cut, readable_by_poll, options, refused_change, unknown_diag, unix_diag_or_none, other_types, listen_and_accept, sender_is_the_kernel,
    ],
    net: [diag_listener, diag_connection, diag_one, diag_one_missing, diag_udp, diag_by_port, diag_by_state],
}

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A message: type, flags, sequence number, body.
struct Message {
    kind: u16,
    seq: u32,
    pid: u32,
    body: Vec<u8>,
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(b[at..at + 2].try_into().unwrap())
}
fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(b[at..at + 4].try_into().unwrap())
}

impl Message {
    fn attr(&self, fixed: usize, kind: u16) -> Option<&[u8]> {
        let mut rest = &self.body[fixed..];
        while rest.len() >= 4 {
            let len = usize::from(u16_at(rest, 0));
            if u16_at(rest, 2) & 0x3fff == kind {
                return Some(&rest[4..len]);
            }
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        }
        None
    }
    fn error(&self) -> i32 {
        assert_eq!(self.kind, ERROR);
        -(u32_at(&self.body, 0) as i32)
    }
}

fn route() -> Fd {
    socket(AF_NETLINK, SOCK_RAW, libc::NETLINK_ROUTE)
}
fn diag() -> Fd {
    socket(AF_NETLINK, SOCK_RAW, libc::NETLINK_SOCK_DIAG)
}

fn request(kind: u16, flags: u16, seq: u32, body: &[u8]) -> Vec<u8> {
    let mut m = Vec::new();
    m.extend(((16 + body.len()) as u32).to_ne_bytes());
    m.extend(kind.to_ne_bytes());
    m.extend(flags.to_ne_bytes());
    m.extend(seq.to_ne_bytes());
    m.extend(0u32.to_ne_bytes());
    m.extend(body);
    m
}

fn ask(s: &Fd, m: &[u8]) {
    s.send(m, 0).is(m.len() as isize);
}

fn split(mut b: &[u8]) -> Vec<Message> {
    let mut out = Vec::new();
    while b.len() >= 16 {
        let len = u32_at(b, 0) as usize;
        out.push(Message { kind: u16_at(b, 4), seq: u32_at(b, 8), pid: u32_at(b, 12), body: b[16..len].to_vec() });
        b = b.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    out
}

/// One datagram.
fn read(s: &Fd) -> Vec<Message> {
    let mut room = vec![0; 65536];
    let n = s.recv(&mut room, 0).ok() as usize;
    split(&room[..n])
}

/// A dump: everything up to NLMSG_DONE.
fn dump(s: &Fd, kind: u16, body: &[u8]) -> Vec<Message> {
    ask(s, &request(kind, REQUEST | DUMP, 9, body));
    let mut out = Vec::new();
    loop {
        for m in read(s) {
            assert_eq!(m.seq, 9);
            match m.kind {
                DONE => return out,
                ERROR => panic!("an error: {}", m.error()),
                _ => out.push(m),
            }
        }
    }
}

fn address(pid: u32) -> Addr {
    let mut a = Addr::bare(AF_NETLINK, 12);
    // SAFETY: sockaddr_storage is larger than sockaddr_nl.
    unsafe { (*(&raw mut a.store).cast::<libc::sockaddr_nl>()).nl_pid = pid };
    a
}

fn pid_of(a: &Addr) -> u32 {
    assert_eq!(a.family(), AF_NETLINK);
    // SAFETY: as above.
    unsafe { (*(&raw const a.store).cast::<libc::sockaddr_nl>()).nl_pid }
}

fn names() {
    let s = route();
    assert_eq!(pid_of(&s.name()), 0, "nothing before bind");
    s.bind(&address(0)).is(0);
    assert_eq!(s.name().len, 12);
    assert_ne!(pid_of(&s.name()), 0);
    assert_eq!(pid_of(&s.peer()), 0, "the kernel");
}

fn bound_twice() {
    let s = route();
    s.bind(&address(4_000_001)).is(0);
    s.bind(&address(4_000_001)).is(0);
    s.bind(&address(4_000_002)).fails(EINVAL);
    let t = route();
    t.bind(&address(4_000_001)).fails(libc::EADDRINUSE);
    // Another protocol's addresses are its own.
    diag().bind(&address(4_000_001)).is(0);
    t.bind(&Addr::bare(AF_NETLINK, 8)).fails(EINVAL);
}

fn two_of_one_process() {
    let (s, t) = (route(), route());
    s.bind(&address(0)).is(0);
    t.bind(&address(0)).is(0);
    assert_ne!(pid_of(&s.name()), pid_of(&t.name()));
}

fn connected() {
    let s = route();
    s.connect(&address(0)).is(0);
    assert_ne!(pid_of(&s.name()), 0, "connect binds");
    assert_eq!(pid_of(&s.peer()), 0);
    assert!(!dump(&s, libc::RTM_GETLINK, &[0; 16]).is_empty());
}

fn to_nobody() {
    let s = route();
    let m = request(libc::RTM_GETLINK, REQUEST | DUMP, 1, &[0; 16]);
    s.sendto(&m, 0, &address(4_000_009)).fails(ECONNREFUSED);
    s.sendto(&m, 0, &address(0)).is(m.len() as isize);
    assert!(!read(&s).is_empty());
}

fn stream_refused() {
    sys!(libc::socket(AF_NETLINK, libc::SOCK_STREAM, 0)).fails(libc::ESOCKTNOSUPPORT);
}

fn dgram_or_raw() {
    for kind in [SOCK_RAW, SOCK_DGRAM] {
        let s = socket(AF_NETLINK, kind, libc::NETLINK_ROUTE);
        assert_eq!(s.opt(libc::SOL_SOCKET, libc::SO_TYPE), kind);
        assert_eq!(s.opt(libc::SOL_SOCKET, libc::SO_DOMAIN), AF_NETLINK);
        assert_eq!(s.opt(libc::SOL_SOCKET, libc::SO_PROTOCOL), libc::NETLINK_ROUTE);
        assert!(!dump(&s, libc::RTM_GETLINK, &[0; 16]).is_empty());
    }
}

fn nothing_to_read() {
    let s = route();
    s.recv(&mut [0; 8], MSG_DONTWAIT).fails(EAGAIN);
    assert_eq!(s.poll(POLLIN, 0) & POLLIN, 0);
}

fn links() {
    let s = route();
    let all = dump(&s, libc::RTM_GETLINK, &[0; 16]);
    let lo = all.iter().find(|m| m.attr(16, libc::IFLA_IFNAME) == Some(b"lo\0")).expect("lo");
    assert_eq!(lo.kind, libc::RTM_NEWLINK);
    assert_eq!(lo.pid, pid_of(&s.name()));
    assert_eq!(u16_at(&lo.body, 2), libc::ARPHRD_LOOPBACK);
    assert_eq!(u32_at(&lo.body, 4), 1);
    let flags = u32_at(&lo.body, 8) as i32;
    assert_eq!(flags & (libc::IFF_UP | libc::IFF_LOOPBACK), libc::IFF_UP | libc::IFF_LOOPBACK);
    assert_eq!(lo.attr(16, libc::IFLA_MTU), Some(&65536u32.to_ne_bytes()[..]));
    assert_eq!(lo.attr(16, libc::IFLA_ADDRESS), Some(&[0; 6][..]));
}

fn one_link(body: &[u8]) -> Message {
    let s = route();
    ask(&s, &request(libc::RTM_GETLINK, REQUEST, 3, body));
    let m = read(&s).pop().expect("an answer");
    assert_eq!(m.seq, 3);
    m
}

fn link_by_index() {
    let mut body = [0; 16];
    body[4] = 1;
    assert_eq!(one_link(&body).attr(16, libc::IFLA_IFNAME), Some(&b"lo\0"[..]));
}

fn named(name: &[u8]) -> Vec<u8> {
    let mut body = vec![0; 16];
    body.extend((4 + name.len() as u16).to_ne_bytes());
    body.extend(libc::IFLA_IFNAME.to_ne_bytes());
    body.extend(name);
    body.resize(body.len().next_multiple_of(4), 0);
    body
}

fn link_by_name() {
    assert_eq!(u32_at(&one_link(&named(b"lo\0")).body, 4), 1);
}

fn no_such_link() {
    assert_eq!(one_link(&named(b"nope0\0")).error(), ENODEV);
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&4_000_000u32.to_ne_bytes());
    assert_eq!(one_link(&body).error(), ENODEV);
}

fn link_unnamed() {
    assert_eq!(one_link(&[0; 16]).error(), EINVAL);
}

fn has_loopback(all: &[Message], family: i32) -> bool {
    let ip: &[u8] = if family == AF_INET { &[127, 0, 0, 1] } else { &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] };
    all.iter().any(|m| i32::from(m.body[0]) == family && u32_at(&m.body, 4) == 1 && m.attr(8, libc::IFA_ADDRESS) == Some(ip))
}

fn addresses() {
    let all = dump(&route(), libc::RTM_GETADDR, &[0; 8]);
    assert!(has_loopback(&all, AF_INET) && has_loopback(&all, AF_INET6));
    let lo = all.iter().find(|m| m.attr(8, libc::IFA_LOCAL) == Some(&[127, 0, 0, 1])).unwrap();
    // Prefix length; RT_SCOPE_HOST.
    assert_eq!((lo.kind, lo.body[1], lo.body[3]), (libc::RTM_NEWADDR, 8, 254));
    assert_eq!(lo.attr(8, libc::IFA_LABEL), Some(&b"lo\0"[..]));
}

fn addresses_by_family() {
    let s = route();
    for family in [AF_INET, AF_INET6] {
        let mut body = [0; 8];
        body[0] = family as u8;
        let all = dump(&s, libc::RTM_GETADDR, &body);
        assert!(has_loopback(&all, family));
        assert!(all.iter().all(|m| i32::from(m.body[0]) == family));
    }
}

fn route_table_local() {
    let mut body = [0; 12];
    body[0] = AF_INET as u8;
    let all = dump(&route(), libc::RTM_GETROUTE, &body);
    // Length 8, table local, RTN_LOCAL.
    let lo = all.iter().any(|m| (m.body[1], m.body[4], m.body[7]) == (8, 255, 2) && m.attr(12, libc::RTA_DST) == Some(&[127, 0, 0, 0]));
    assert!(lo, "127.0.0.0/8 is local");
}

fn acknowledged() {
    let s = route();
    let mut body = [0; 16];
    body[4] = 1;
    ask(&s, &request(libc::RTM_GETLINK, REQUEST | ACK, 5, &body));
    let mut got = read(&s);
    while got.len() < 2 {
        got.extend(read(&s));
    }
    assert_eq!(got[0].kind, libc::RTM_NEWLINK);
    assert_eq!(got[1].error(), 0);
    // The acknowledgement quotes the request's header.
    assert_eq!(u32_at(&got[1].body, 4 + 8), 5);
}

fn not_a_request() {
    let s = route();
    ask(&s, &request(libc::RTM_GETLINK, DUMP, 1, &[0; 16]));
    s.recv(&mut [0; 8], MSG_DONTWAIT).fails(EAGAIN);
}

fn control_message() {
    let s = route();
    // NLMSG_NOOP
    ask(&s, &request(1, REQUEST | ACK, 6, &[]));
    assert_eq!(read(&s)[0].error(), 0);
    ask(&s, &request(1, REQUEST, 6, &[]));
    s.recv(&mut [0; 8], MSG_DONTWAIT).fails(EAGAIN);
}

fn two_requests() {
    let s = route();
    let mut body = [0; 16];
    body[4] = 1;
    let mut both = request(libc::RTM_GETLINK, REQUEST, 11, &body);
    both.extend(request(libc::RTM_GETLINK, REQUEST, 12, &body));
    ask(&s, &both);
    let mut seqs: Vec<u32> = read(&s).iter().map(|m| m.seq).collect();
    seqs.extend(read(&s).iter().map(|m| m.seq));
    assert_eq!(seqs, [11, 12]);
}

fn short_request() {
    let s = route();
    ask(&s, &[1; 8]);
    s.recv(&mut [0; 8], MSG_DONTWAIT).fails(EAGAIN);
    // A length that goes beyond the datagram's end.
    let mut m = request(libc::RTM_GETLINK, REQUEST, 1, &[0; 16]);
    m[0] = 200;
    ask(&s, &m);
    s.recv(&mut [0; 8], MSG_DONTWAIT).fails(EAGAIN);
}

fn message_too_long() {
    let s = route();
    s.send(&vec![0; 1 << 20], 0).fails(libc::EMSGSIZE);
}

fn peeked_and_cut() {
    let s = route();
    let mut body = [0; 16];
    body[4] = 1;
    ask(&s, &request(libc::RTM_GETLINK, REQUEST, 1, &body));
    let whole = s.recv(&mut [], MSG_PEEK | MSG_TRUNC).ok();
    assert!(whole > 100, "{whole}");
    s.recv(&mut [0; 20], 0).is(20);
    s.recv(&mut [0; 20], MSG_DONTWAIT).fails(EAGAIN);
}

fn readable_by_poll() {
    let s = route();
    ask(&s, &request(libc::RTM_GETLINK, REQUEST | DUMP, 1, &[0; 16]));
    assert_eq!(s.poll(POLLIN, 1000) & POLLIN, POLLIN);
}

fn options() {
    let s = route();
    for name in [libc::NETLINK_PKTINFO, libc::NETLINK_NO_ENOBUFS, libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK, 12] {
        s.on(libc::SOL_NETLINK, name, 1);
    }
    s.set(libc::SOL_NETLINK, 99, &1).fails(libc::ENOPROTOOPT);
    // RTNLGRP_LINK
    s.on(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, 1);
    assert!(!dump(&s, libc::RTM_GETLINK, &[0; 16]).is_empty());
}

fn refused_change() {
    let s = route();
    // The child of fork is nobody's root.
    let pid = sys!(libc::fork()).ok() as i32;
    if pid == 0 {
        let gone = sys!(libc::setresuid(65534, 65534, 65534)).get() == Ok(0);
        ask(&s, &request(libc::RTM_DELLINK, REQUEST | ACK, 1, &[0; 16]));
        let refused = read(&s)[0].error() == libc::EPERM;
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(gone && !refused)) };
    }
    let mut status = -1;
    sys!(libc::waitpid(pid, &raw mut status, 0)).is(pid as isize);
    assert_eq!(status, 0);
}

fn other_types() {
    let s = route();
    ask(&s, &request(4000, REQUEST | ACK, 1, &[0; 16]));
    assert_eq!(read(&s)[0].error(), EOPNOTSUPP);
}

fn listen_and_accept() {
    let s = route();
    s.listen(1).fails(EOPNOTSUPP);
    s.accept().fails(EOPNOTSUPP);
    s.shutdown(libc::SHUT_RD).fails(EOPNOTSUPP);
}

fn sender_is_the_kernel() {
    let s = route();
    ask(&s, &request(libc::RTM_GETLINK, REQUEST | DUMP, 1, &[0; 16]));
    let mut from = Addr::room();
    s.recvfrom(&mut [0; 65536], 0, &mut from).ok();
    assert_eq!(from.len, 12);
    assert_eq!(pid_of(&from), 0);
}

/// struct inet_diag_req_v2.
fn wanted(family: i32, protocol: i32, states: u32, id: &[u8; 48]) -> Vec<u8> {
    let mut b = vec![family as u8, protocol as u8, 0, 0];
    b.extend(states.to_ne_bytes());
    b.extend(id);
    b
}

fn ip_of(a: &Addr) -> [u8; 16] {
    let mut out = [0; 16];
    match a.ip() {
        std::net::IpAddr::V4(ip) => out[..4].copy_from_slice(&ip.octets()),
        std::net::IpAddr::V6(ip) => out = ip.octets(),
    }
    out
}

/// struct inet_diag_sockid of a connection, or of a listener (without a far end).
fn id(local: &Addr, remote: Option<&Addr>) -> [u8; 48] {
    let mut out = [0; 48];
    out[..2].copy_from_slice(&local.port().to_be_bytes());
    out[4..20].copy_from_slice(&ip_of(local));
    if let Some(r) = remote {
        out[2..4].copy_from_slice(&r.port().to_be_bytes());
        out[20..36].copy_from_slice(&ip_of(r));
    }
    out[40..48].fill(0xff);
    out
}

const BY_FAMILY: u16 = 20;
const TCP: i32 = libc::IPPROTO_TCP;

/// The rows that name `local` as their near end.
fn rows(net: Net, protocol: i32, states: u32, local: &Addr) -> Vec<Message> {
    let mut all = dump(&diag(), BY_FAMILY, &wanted(net.af(), protocol, states, &[0; 48]));
    all.retain(|m| i32::from(m.body[0]) == net.af() && m.body[4..6] == local.port().to_be_bytes() && m.body[8..24] == ip_of(local));
    all
}

fn inode(s: &Fd) -> u32 {
    // SAFETY: all-zero is a valid stat.
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    sys!(libc::fstat(s.raw(), &raw mut st)).is(0);
    st.st_ino as u32
}

fn diag_listener(net: Net) {
    let (l, _) = listener(net);
    l.listen(7).is(0);
    let row = rows(net, TCP, u32::MAX, &l.name());
    assert_eq!(row.len(), 1);
    // TCP_LISTEN; the backlog; the inode that /proc/self/fd shows.
    assert_eq!(row[0].body[1], 10);
    assert_eq!(u32_at(&row[0].body, 60), 7);
    assert_eq!(u32_at(&row[0].body, 68), inode(&l));
}

fn diag_connection(net: Net) {
    let (c, s) = pair(net);
    s.write(b"hello").is(5);
    c.poll(POLLIN, 5000);
    let row = rows(net, TCP, u32::MAX, &c.name());
    assert_eq!(row.len(), 1);
    assert_eq!(row[0].body[1], 1, "TCP_ESTABLISHED");
    assert_eq!(row[0].body[6..8], c.peer().port().to_be_bytes());
    assert_eq!(u32_at(&row[0].body, 56), 5, "bytes to read");
    assert_eq!(u32_at(&row[0].body, 68), inode(&c));
}

fn diag_one(net: Net) {
    let (c, _s) = pair(net);
    let d = diag();
    ask(&d, &request(BY_FAMILY, REQUEST, 1, &wanted(net.af(), TCP, u32::MAX, &id(&c.name(), Some(&c.peer())))));
    let got = read(&d);
    assert_eq!((got.len(), got[0].kind), (1, BY_FAMILY));
    assert_eq!(u32_at(&got[0].body, 68), inode(&c));
}

fn diag_one_missing(net: Net) {
    let (c, _s) = pair(net);
    let d = diag();
    let other = c.peer().at(1);
    ask(&d, &request(BY_FAMILY, REQUEST, 1, &wanted(net.af(), TCP, u32::MAX, &id(&c.name(), Some(&other)))));
    assert_eq!(read(&d)[0].error(), ENOENT);
}

fn diag_udp(net: Net) {
    let (u, _) = bound_udp(net);
    let row = rows(net, libc::IPPROTO_UDP, u32::MAX, &u.name());
    assert_eq!(row.len(), 1);
    assert_eq!(row[0].body[1], 7, "TCP_CLOSE: not connected");
    assert_eq!(u32_at(&row[0].body, 68), inode(&u));
    let (v, _) = bound_udp(net);
    u.connect(&v.name()).is(0);
    assert_eq!(rows(net, libc::IPPROTO_UDP, u32::MAX, &u.name())[0].body[1], 1);
}

fn diag_by_port(net: Net) {
    let ((a, _), (b, _)) = (listener(net), listener(net));
    let mut id = [0; 48];
    id[..2].copy_from_slice(&a.name().port().to_be_bytes());
    let all = dump(&diag(), BY_FAMILY, &wanted(net.af(), TCP, u32::MAX, &id));
    assert!(all.iter().all(|m| m.body[4..6] == a.name().port().to_be_bytes()));
    assert_eq!(all.len(), 1);
    drop(b);
}

fn diag_by_state(net: Net) {
    let (l, _) = listener(net);
    // TCP_ESTABLISHED only, TCP_LISTEN only.
    assert!(rows(net, TCP, 1 << 1, &l.name()).is_empty());
    assert_eq!(rows(net, TCP, 1 << 10, &l.name()).len(), 1);
}

fn unknown_diag() {
    let d = diag();
    ask(&d, &request(99, REQUEST, 1, &[0; 56]));
    assert_eq!(read(&d)[0].error(), EINVAL);
    // A request shorter than struct inet_diag_req_v2.
    ask(&d, &request(BY_FAMILY, REQUEST | DUMP, 1, &[AF_INET as u8, TCP as u8, 0, 0]));
    assert_eq!(read(&d)[0].error(), EINVAL);
}

fn unix_diag_or_none() {
    let d = diag();
    ask(&d, &request(BY_FAMILY, REQUEST | DUMP, 1, &[libc::AF_UNIX as u8; 24]));
    let got = read(&d);
    // Without the module, and under csel: ENOENT. Else rows or an error about what was asked.
    assert!(!got.is_empty());
}
