//! NETLINK_SOCK_DIAG: sockets, as ss(8) asks for them.
use super::{Answer, Request};
use crate::arena::Id;
use crate::call::Kind;
use crate::errno::{Errno, Result};
use crate::instance::Cx;
use crate::net::addr::{Endpoint, Ip};
use crate::net::{dgram, option, tcp};
use core::sync::atomic::Ordering::Relaxed;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// TCP_ESTABLISHED, TCP_CLOSE, TCP_LISTEN.
const ESTABLISHED: u8 = 1;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;

/// A socket, as struct inet_diag_msg tells of it.
struct Row {
    family: u8,
    state: u8,
    local: Endpoint,
    remote: Endpoint,
    queues: (u32, u32),
    inode: u32,
    v6only: bool,
}

/// struct inet_diag_req_v2.
struct Wanted {
    family: u8,
    states: u32,
    id: [u8; 48],
}

impl Wanted {
    /// Does the row meet what the request says? A dump may leave ports and addresses open, a request for one says them all.
    fn is(&self, row: &Row, exact: bool) -> bool {
        let id = row.id();
        let same = |a: core::ops::Range<usize>| self.id[a.clone()] == id[a];
        let open = |a: core::ops::Range<usize>| !exact && self.id[a].iter().all(|b| *b == 0);
        self.family == row.family
            && (exact || self.states >> row.state & 1 == 1)
            && (open(0..2) || same(0..2))
            && (open(2..4) || same(2..4))
            && (!exact || same(4..36))
    }
}

impl Row {
    /// struct inet_diag_sockid.
    fn id(&self) -> [u8; 48] {
        let mut out = [0; 48];
        out[..2].copy_from_slice(&self.local.port.to_be_bytes());
        out[2..4].copy_from_slice(&self.remote.port.to_be_bytes());
        let mut address = |at: usize, ip: Ip| {
            if i32::from(self.family) == libc::AF_INET {
                out[at..at + 4].copy_from_slice(&ip.0[12..]);
            } else {
                out[at..at + 16].copy_from_slice(&ip.0);
            }
        };
        address(4, self.local.ip);
        address(20, self.remote.ip);
        // The cookie: what tells two sockets of one address apart.
        out[40..44].copy_from_slice(&self.inode.to_ne_bytes());
        out
    }
    fn tell(&self, to: &mut Answer<'_, '_>) {
        const INET_DIAG_SKV6ONLY: u16 = 11;
        let uid = to.cx().inst.header.uid.load(Relaxed);
        to.begin(SOCK_DIAG_BY_FAMILY);
        to.put(&[self.family, self.state, 0, 0]);
        to.put(&self.id());
        for word in [0, self.queues.0, self.queues.1, uid, self.inode] {
            to.put(&word.to_ne_bytes());
        }
        if i32::from(self.family) == libc::AF_INET6 && matches!(self.state, LISTEN | CLOSE) {
            to.attr(INET_DIAG_SKV6ONLY, &[u8::from(self.v6only)]);
        }
        to.end();
    }
}

/// Answers one request. `Ok(true)`: it was a dump.
pub fn answer(to: &mut Answer<'_, '_>, r: &Request<'_>) -> Result<bool> {
    if r.kind != SOCK_DIAG_BY_FAMILY {
        return Err(Errno::EINVAL);
    }
    let family = i32::from(r.u8(0));
    let Some(id) = r.body().get(8..56).filter(|_| matches!(family, libc::AF_INET | libc::AF_INET6)) else {
        // unix(7), packet(7), netlink(7): their sockets are told of by /proc/net.
        return Err(if matches!(family, libc::AF_INET | libc::AF_INET6) { Errno::EINVAL } else { Errno::ENOENT });
    };
    let mut wanted = Wanted { family: r.u8(0), states: r.u32(4), id: [0; 48] };
    wanted.id.copy_from_slice(id);
    let protocol = i32::from(r.u8(1));
    let cx = to.cx();
    let dumps = r.dumps();
    let mut found = false;
    let mut each = |row: &Row| {
        if wanted.is(row, !dumps) && (dumps || !found) {
            found = true;
            row.tell(to);
        }
    };
    match protocol {
        libc::IPPROTO_TCP => connections(cx, &mut each),
        libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE | libc::IPPROTO_RAW => datagrams(cx, protocol, &mut each),
        _ => return Err(Errno::ENOENT),
    }
    if dumps || found { Ok(dumps) } else { Err(Errno::ENOENT) }
}

/// What an open description adds to its row: family, inode, IPV6_V6ONLY. None: it is closed to the application.
fn described(cx: &Cx<'_>, sock: u32) -> Option<(u8, u32, bool)> {
    let s = cx.inst.socks.get(Id::new(sock)).filter(|_| sock != 0)?;
    let v6only = s.bits.load(Relaxed) & option::bits::V6ONLY != 0;
    Some((s.family.load(Relaxed) as u8, s.inode.load(Relaxed) as u32, v6only))
}

fn by_address(ip: Ip) -> (u8, u32, bool) {
    ((if ip.is_v4() { libc::AF_INET } else { libc::AF_INET6 }) as u8, 0, false)
}

fn connections(cx: &Cx<'_>, each: &mut impl FnMut(&Row)) {
    let mut row = |r: &tcp::Row| {
        let (family, inode, v6only) = described(cx, r.sock).unwrap_or_else(|| by_address(r.tuple.local.ip));
        let queues = (r.recv_q, r.send_q);
        // tcp_diag tells of no socket that is neither bound nor connected.
        if r.state != CLOSE {
            each(&Row { family, state: r.state, local: r.tuple.local, remote: r.tuple.remote, queues, inode, v6only });
        }
    };
    tcp::each(cx.inst, cx.me, &mut row);
    tcp::each_resting(cx, &mut row);
}

fn datagrams(cx: &Cx<'_>, protocol: i32, each: &mut impl FnMut(&Row)) {
    dgram::info::each(cx.inst, cx.me, |r| {
        let kind = if protocol == libc::IPPROTO_RAW { Kind::Raw } else { Kind::Udp };
        let of_protocol = |n: u32| cx.inst.socks.get(Id::new(n)).is_some_and(|s| i32::from(s.protocol.load(Relaxed)) == protocol);
        if r.kind != kind || kind == Kind::Udp && (!of_protocol(r.sock) || r.local.port == 0) {
            return;
        }
        let Some((family, inode, v6only)) = described(cx, r.sock) else { return };
        let state = if r.remote.is_some() { ESTABLISHED } else { CLOSE };
        each(&Row { family, state, local: r.local, remote: r.remote.unwrap_or_default(), queues: (r.recv_q, 0), inode, v6only });
    });
}
