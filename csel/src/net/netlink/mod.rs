//! netlink(7): what ip(8) and ss(8) ask of the kernel, answered for the instance.
//!
//! # Theory of operation
//! **Purpose.** Programs that ask rtnetlink(7) or sock_diag(7) are told of the instance's interfaces, addresses, routes and sockets, not of the host's.
//! **How it works.** A netlink socket is a datagram socket ([`super::dgram`]) whose other end is this module: [`send`] reads the requests, and the answers
//! are put into the socket's own receive queue before it returns, so that poll(2), MSG_PEEK and MSG_TRUNC are those of any datagram. [`route`] answers
//! NETLINK_ROUTE from [`super::iface`], [`diag`] NETLINK_SOCK_DIAG from the rows of `csel ss`. In an [`Endpoint`] the scope is nl_pid.
//! **Limits.** Requests of up to [`MOST`] bytes. What changes the network is refused (EPERM); groups can be joined and nothing is ever sent to them, as
//! interfaces do not change; a dump is taken at once, not in pieces as it is read.
//! **Locks.** The socket's, never while rows are gathered. **Failure.** An NLMSG_ERROR in answer, as the kernel gives; ENOBUFS if answers do not fit.
//! **See also.** netlink(7), rtnetlink(7), sock_diag(7), libnetlink(3).
use super::addr::{Endpoint, Ip};
use super::dgram::{self, queue};
use crate::call::{Kind, SendMsg};
use crate::errno::{Errno, Result};
use crate::fd::Held;
use crate::gate::user::{IoIn, gather, total_in};
use crate::instance::Cx;
use core::sync::atomic::Ordering::Relaxed;

pub mod diag;
pub mod route;

/// Longest request.
pub const MOST: usize = 4096;
/// Bytes of an answer datagram: what iproute2 reads at once at least.
const PAGE: usize = 4096;
/// Longest single message of ours.
const LONGEST: usize = 768;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_MULTI: u16 = 2;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CAPPED: u16 = 0x100;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_MIN_TYPE: u16 = 16;
/// Bytes of struct nlmsghdr.
const HEAD: usize = 16;

/// The protocols there are.
pub fn speaks(protocol: i32) -> bool {
    matches!(protocol, libc::NETLINK_ROUTE | libc::NETLINK_SOCK_DIAG)
}

/// Whoever has the address (a port id) among the instance's netlink sockets of this protocol.
fn taken(cx: &Cx<'_>, s: &Held, pid: u32) -> bool {
    let mut found = false;
    dgram::info::each(cx.inst, cx.me, |r| {
        let alike =
            |n: u32| cx.inst.socks.get(crate::arena::Id::new(n)).is_some_and(|o| o.protocol.load(Relaxed) == s.protocol.load(Relaxed));
        found |= r.kind == Kind::Netlink && r.sock != s.id().0 && r.local.scope == pid && alike(r.sock);
    });
    found
}

/// bind(2). nl_pid 0: the process's, or one that nobody has.
pub fn bind(cx: &Cx<'_>, s: &Held, at: &Endpoint) -> Result<()> {
    let now = {
        let b = dgram::lock(cx, s)?;
        b.bound.then_some(b.local.scope)
    };
    let pid = match (now, at.scope) {
        (Some(now), want) if want != 0 && want != now => return Err(Errno::EINVAL),
        (Some(_), _) => return Ok(()),
        (None, 0) => {
            let mut pid = crate::gate::getpid();
            // netlink_autobind: numbers that no process has, from the top down.
            let mut other = (-4097i32) as u32;
            while taken(cx, s, pid) {
                pid = other;
                other = other.wrapping_sub(1);
            }
            pid
        }
        (None, want) if taken(cx, s, want) => return Err(Errno::EADDRINUSE),
        (None, want) => want,
    };
    let mut b = dgram::lock(cx, s)?;
    b.local.scope = pid;
    b.bound = true;
    Ok(())
}

/// connect(2); `None` dissolves the association.
pub fn connect(cx: &Cx<'_>, s: &Held, to: Option<&Endpoint>) -> Result<()> {
    bind(cx, s, &Endpoint::default())?;
    let mut b = dgram::lock(cx, s)?;
    b.connected = to.is_some();
    b.remote = to.copied().unwrap_or_default();
    Ok(())
}

/// getpeername(2): the kernel, unless connected to somebody else.
pub fn peer(cx: &Cx<'_>, s: &Held) -> Result<Endpoint> {
    Ok(dgram::lock(cx, s)?.remote)
}

/// One request: its header's fields and its body.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// nlmsg_type.
    pub kind: u16,
    /// nlmsg_flags.
    pub flags: u16,
    seq: u32,
    /// The whole message, header included.
    whole: &'a [u8],
}

impl<'a> Request<'a> {
    /// What follows the header.
    pub fn body(&self) -> &'a [u8] {
        &self.whole[HEAD..]
    }
    /// Does it ask for all there is?
    pub fn dumps(&self) -> bool {
        self.flags & NLM_F_DUMP != 0
    }
    /// A byte of the body; 0 beyond its end.
    pub fn u8(&self, at: usize) -> u8 {
        self.body().get(at).copied().unwrap_or(0)
    }
    /// A word of the body; 0 beyond its end.
    pub fn u32(&self, at: usize) -> u32 {
        self.body().get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
    }
    /// The attribute `kind` after a fixed part of `fixed` bytes.
    pub fn attr(&self, fixed: usize, kind: u16) -> Option<&'a [u8]> {
        let mut rest = self.body().get(fixed.next_multiple_of(4)..)?;
        while let Some((head, _)) = rest.split_at_checked(4) {
            let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
            let value = rest.get(4..len)?;
            // NLA_TYPE_MASK
            if u16::from_ne_bytes([head[2], head[3]]) & 0x3fff == kind {
                return Some(value);
            }
            rest = rest.get(len.next_multiple_of(4)..)?;
        }
        None
    }
}

/// Answers under way: messages gathered into datagrams, which go into the socket's queue as they fill.
pub struct Answer<'a, 'c> {
    cx: &'a Cx<'c>,
    s: &'a Held,
    request: Request<'a>,
    pid: u32,
    page: [u8; PAGE],
    len: usize,
    /// Where the message being written begins.
    from: usize,
    lost: bool,
}

impl<'a, 'c> Answer<'a, 'c> {
    /// The call.
    pub fn cx(&self) -> &'a Cx<'c> {
        self.cx
    }
    /// Begins a message.
    pub fn begin(&mut self, kind: u16) {
        let flags = if self.request.dumps() { NLM_F_MULTI } else { 0 };
        self.begin_with(kind, flags);
    }
    fn begin_with(&mut self, kind: u16, flags: u16) {
        if self.len + LONGEST > PAGE {
            self.flush();
        }
        self.from = self.len;
        self.put(&[0; 4]);
        self.put(&kind.to_ne_bytes());
        self.put(&flags.to_ne_bytes());
        self.put(&self.request.seq.to_ne_bytes());
        self.put(&self.pid.to_ne_bytes());
    }
    /// Adds bytes of the fixed part.
    pub fn put(&mut self, bytes: &[u8]) {
        // A message longer than LONGEST is a bug of ours: what does not fit is left out, and the length tells the truth.
        let n = bytes.len().min(PAGE - self.len);
        self.page[self.len..self.len + n].copy_from_slice(&bytes[..n]);
        self.len += n;
    }
    /// Adds an attribute.
    pub fn attr(&mut self, kind: u16, value: &[u8]) {
        self.put(&((value.len() + 4) as u16).to_ne_bytes());
        self.put(&kind.to_ne_bytes());
        self.put(value);
        self.put(&[0; 3][..value.len().next_multiple_of(4) - value.len()]);
    }
    /// Adds an attribute of four bytes.
    pub fn attr_u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }
    /// Adds a text attribute, with the NUL that the kernel puts.
    pub fn attr_text(&mut self, kind: u16, text: &str) {
        let mut with = [0; 64];
        let n = text.len().min(63);
        with[..n].copy_from_slice(&text.as_bytes()[..n]);
        self.attr(kind, &with[..=n]);
    }
    /// Adds an address, 4 or 16 bytes by family.
    pub fn attr_ip(&mut self, kind: u16, ip: Ip) {
        match ip.as_v4() {
            Some(a) => self.attr(kind, &a),
            None => self.attr(kind, &ip.0),
        }
    }
    /// Ends the message.
    pub fn end(&mut self) {
        let len = (self.len - self.from) as u32;
        self.page[self.from..self.from + 4].copy_from_slice(&len.to_ne_bytes());
    }
    fn flush(&mut self) {
        if self.len == 0 {
            return;
        }
        let head = queue::Head::default();
        let data = queue::Data::Bytes(&self.page[..self.len]);
        let fits = dgram::lock(self.cx, self.s).and_then(|mut b| b.enqueue(self.cx, self.s, &head, &data));
        self.lost |= fits != Ok(true);
        self.len = 0;
    }
    fn error(&mut self, e: Option<Errno>) {
        let whole = self.request.whole;
        // An acknowledgement quotes the header only; an error the whole request.
        self.begin_with(NLMSG_ERROR, if e.is_none() { NLM_F_CAPPED } else { 0 });
        self.put(&e.map_or(0, |e| -i32::from(e.0)).to_ne_bytes());
        let quoted = if e.is_none() { HEAD } else { whole.len().min(LONGEST - HEAD - 4) };
        self.put(&whole[..quoted]);
        self.end();
    }
}

/// sendmsg(2): every request in the datagram is answered.
pub fn send(cx: &Cx<'_>, s: &Held, data: &[IoIn<'_>], msg: &SendMsg<'_>) -> Result<usize> {
    let len = total_in(data);
    if msg.flags & libc::MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    bind(cx, s, &Endpoint::default())?;
    let (to, pid) = {
        let b = dgram::lock(cx, s)?;
        (msg.to.unwrap_or(b.remote), b.local.scope)
    };
    if to.scope != 0 {
        // Nobody but the kernel listens.
        return Err(Errno::ECONNREFUSED);
    }
    let mut bytes = [0; MOST];
    let Some(room) = bytes.get_mut(..len) else { return Err(Errno::EMSGSIZE) };
    if gather(data, 0, room) < len {
        return Err(Errno::EFAULT);
    }
    let protocol = i32::from(s.protocol.load(Relaxed));
    let mut rest = &bytes[..len];
    while rest.len() >= HEAD {
        let n = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let Some(whole) = rest.get(..n).filter(|_| n >= HEAD) else { break };
        one(cx, s, protocol, pid, whole);
        rest = rest.get(n.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(len)
}

fn one(cx: &Cx<'_>, s: &Held, protocol: i32, pid: u32, whole: &[u8]) {
    let request = Request {
        kind: u16::from_ne_bytes([whole[4], whole[5]]),
        flags: u16::from_ne_bytes([whole[6], whole[7]]),
        seq: u32::from_ne_bytes([whole[8], whole[9], whole[10], whole[11]]),
        whole,
    };
    if request.flags & NLM_F_REQUEST == 0 {
        return;
    }
    let mut to = Answer { cx, s, request, pid, page: [0; PAGE], len: 0, from: 0, lost: false };
    let control = request.kind < NLMSG_MIN_TYPE;
    let answered = match protocol {
        _ if control => Ok(false),
        libc::NETLINK_ROUTE => route::answer(&mut to, &request),
        _ => diag::answer(&mut to, &request),
    };
    match answered {
        Ok(true) => {
            to.begin_with(NLMSG_DONE, NLM_F_MULTI);
            to.put(&[0; 4]);
            to.end();
        }
        Ok(false) if request.flags & NLM_F_ACK == 0 => {}
        Ok(false) => to.error(None),
        Err(e) => to.error(Some(e)),
    }
    to.flush();
    if to.lost {
        s.fail(Errno::ENOBUFS);
        dgram::republish(cx, s);
    }
}

/// getsockopt(2) and setsockopt(2) at SOL_NETLINK: what is there to be set; nothing of it changes what is answered.
pub fn option(name: i32) -> Result<()> {
    // NETLINK_ADD_MEMBERSHIP to NETLINK_GET_STRICT_CHK, but for the rings that are gone.
    if matches!(name, 1..=5 | 8..=12) { Ok(()) } else { Err(Errno::ENOPROTOOPT) }
}
