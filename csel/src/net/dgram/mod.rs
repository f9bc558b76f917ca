//! Datagram, ping and raw sockets, ICMP, fragments.
//!
//! # Theory of operation
//! **Purpose.** Everything of IP that is not TCP.
//! **How it works.** A [`Body`] is what is behind a UDP, ping or raw socket: addresses, a copy of its options, a [`queue::Queue`] of received datagrams and
//! one of errors. [`udp`], [`ping`] and [`raw`] say what a call means for each kind; [`output`] builds packets and cuts them into fragments;
//! [`input`] takes packets from a link, [`frag`] puts fragments together, [`icmp`] answers and reports errors.
//! A UDP datagram for one of our own addresses does not go through a link at all: the sender finds the receiving socket in [`super::port`] and copies
//! straight from the application's buffers into its queue (one copy in, one copy out), unless somebody watches (a raw socket, a pcap).
//! **Limits.** [`BODIES`] sockets; see [`queue`]. Sending never blocks: what does not fit at the receiver is lost, as with any datagram.
//! **Locks.** One for each body (rank DGRAM); no two of them are ever held at once, and none while a packet goes into [`input`].
//! **Failure.** As udp(7), ip(7), ipv6(7), raw(7), icmp(7) say. **See also.** [`super::option`], [`super::port`].
use super::addr::{Endpoint, Ip};
use super::iface;
use super::option::{Options, flag};
use super::port::{self, Space};
use crate::arena::{Id, Shared, Slab};
use crate::call::{Kind, RecvMsg, SendMsg};
use crate::errno::{Errno, Result};
use crate::fd::{Held, Sock};
use crate::gate::user::{IoIn, IoOut, scatter, total_out};
use crate::instance::Cx;
use crate::sync::{Guard, Lock, rank};
use core::sync::atomic::Ordering::*;

pub mod cmsg;
pub mod frag;
pub mod icmp;
pub mod info;
pub mod input;
pub mod multicast;
pub mod output;
pub mod ping;
pub mod queue;
pub mod raw;
pub(crate) mod repair;
pub mod udp;

#[cfg(test)]
mod tests;

pub use input::input;

/// Datagram, ping and raw sockets an instance can have at once.
pub const BODIES: usize = 8192;
/// How many times the default SO_RCVBUF a socket holds that has not set it.
const BURST: u32 = 8;

/// The tables.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    /// What is behind the sockets.
    pub bodies: Slab<Lock<Body, { rank::DGRAM }>, BODIES>,
    /// Which sockets are raw.
    pub raws: raw::Registry,
    /// Which groups have members.
    pub groups: multicast::Groups,
    /// Fragments that wait for others.
    pub frags: frag::State,
}

/// What is behind a datagram, ping or raw socket.
#[repr(C)]
#[derive(Shared)]
pub struct Body {
    /// The socket; 0: nobody's.
    pub sock: u32,
    /// [`Kind`] as a number.
    kind: u8,
    /// An AF_INET6 socket?
    pub v6: bool,
    /// UDP-Lite (RFC 3828)?
    pub lite: bool,
    /// connect(2) has been called.
    pub connected: bool,
    /// The application chose the address itself (SOCK_BINDADDR_LOCK).
    addr_lock: bool,
    /// The application chose the port itself (SOCK_BINDPORT_LOCK).
    port_lock: bool,
    /// There is a reservation in [`super::port`].
    pub bound: bool,
    /// Bits 0 and 1: shut down for receiving, for sending.
    pub shut: u8,
    /// Our address and port (host order; a raw socket's protocol).
    pub local: Endpoint,
    /// The other's.
    pub remote: Endpoint,
    /// The socket's options, as they are now.
    pub opt: Options,
    /// Stamps are taken though no option asks for them (SIOCGSTAMP was asked).
    pub stamps: bool,
    /// When the last datagram given to the application came (SIOCGSTAMP).
    pub last_stamp: u64,
    /// What it is a member of.
    pub members: multicast::Members,
    /// What MSG_MORE or UDP_CORK holds back.
    pub cork: udp::Cork,
    /// Errors about what it sent.
    pub errors: queue::Errors,
    /// What it has received.
    pub queue: queue::Queue,
}

/// Locked body.
pub type Locked<'a> = Guard<'a, Body, { rank::DGRAM }>;

impl Body {
    /// What kind it is.
    #[inline]
    pub fn kind(&self) -> Kind {
        Kind::from_u8(self.kind)
    }
    /// The socket.
    #[inline]
    pub fn id(&self) -> Id<Sock> {
        Id::new(self.sock)
    }
    /// The port space of its kind.
    fn space(&self) -> Option<Space> {
        match self.kind() {
            Kind::Udp if self.lite => Some(Space::Lite),
            Kind::Udp => Some(Space::Udp),
            Kind::Ping => Some(Space::Ping),
            _ => None,
        }
    }
    /// `0.0.0.0` or `::`, by the socket's family.
    fn any(&self) -> Ip {
        if self.v6 { Ip::ANY6 } else { Ip::ANY4 }
    }
    /// Says what poll(2) sees now (datagram_poll) and that `edges` just happened.
    #[inline]
    pub fn publish(&self, cx: &Cx<'_>, s: &Sock, edges: i32) {
        let mut ready = libc::EPOLLOUT | libc::EPOLLWRNORM | libc::EPOLLWRBAND;
        if !self.queue.is_empty() {
            ready |= libc::EPOLLIN | libc::EPOLLRDNORM;
        }
        if s.error.load(Relaxed) != 0 || !self.errors.is_empty() {
            ready |= libc::EPOLLERR;
            if self.opt.has(flag::SELECT_ERR_QUEUE) {
                ready |= libc::EPOLLPRI;
            }
        }
        if self.shut & 1 != 0 {
            ready |= libc::EPOLLIN | libc::EPOLLRDNORM | libc::EPOLLRDHUP;
        }
        if self.shut == 3 {
            ready |= libc::EPOLLHUP;
        }
        s.publish(cx, ready as u32, edges as u32);
    }
    /// Puts a received datagram into the queue.
    #[inline]
    pub fn enqueue(&mut self, cx: &Cx<'_>, s: &Sock, head: &queue::Head, data: &queue::Data<'_>) -> Result<bool> {
        let stamp = if self.opt.timestamp != 0 || self.stamps { crate::gate::clock_gettime(libc::CLOCK_REALTIME) } else { 0 };
        // Linux fills a socket's buffer while its reader runs on another CPU; here the reader itself empties the ring, in bursts. So a buffer
        // whose size nobody has asked for takes a burst.
        let limit = if self.opt.buf_lock & 2 != 0 { self.opt.rcvbuf } else { self.opt.rcvbuf * BURST };
        if self.queue.push(&queue::Head { stamp, ..*head }, data, limit)? {
            self.publish(cx, s, libc::EPOLLIN | libc::EPOLLRDNORM);
            Ok(true)
        } else {
            crate::stats::bump(&cx.inst.stats.udp_rcvbuf_errors);
            Ok(false)
        }
    }
    /// An error about something it sent: SO_ERROR, and the error queue if it wants that.
    pub fn fail(&mut self, cx: &Cx<'_>, s: &Sock, report: &queue::Report, data: &[u8], hard: bool) {
        let wants = self.opt.has(if self.v6 && !report.to.ip.is_v4() { flag::RECVERR6 } else { flag::RECVERR });
        if wants {
            self.errors.push(report, data);
        } else if !hard || !self.connected {
            return;
        }
        s.fail(Errno(report.errno));
        self.publish(cx, s, libc::EPOLLERR);
    }
}

/// The body of a socket, locked.
#[inline]
pub fn lock<'a>(cx: &'a Cx<'_>, s: &Held) -> Result<Locked<'a>> {
    of(cx, s.id()).map(|(_, b)| b).ok_or(Errno::ENOTSOCK)
}

/// The body of a socket by number, locked, if it still is that socket's.
#[inline]
pub fn of<'a>(cx: &'a Cx<'_>, id: Id<Sock>) -> Option<(&'static Sock, Locked<'a>)> {
    let s = cx.inst.socks.get(id)?;
    let b = cx.inst.net.dgram.bodies.get(Id::new(s.body.load(Acquire)))?.lock(cx.me);
    // While the body is this socket's and locked, the socket cannot be closed to its end.
    (b.sock == id.0).then_some((s, b))
}

/// A fresh socket (UDP, ping, raw by `s.kind()`): allocates its body and publishes EPOLLOUT.
pub fn open(cx: &Cx<'_>, s: &Held) -> Result<()> {
    let (id, lock) = cx.inst.net.dgram.bodies.alloc().ok_or(Errno::ENFILE)?;
    let protocol = s.protocol.load(Relaxed);
    {
        let mut o = s.options.lock(cx.me);
        if matches!(s.kind(), Kind::Ping | Kind::Raw) {
            // ping_init_sock, raw: SK_CAN_REUSE from the start.
            o.reuseaddr = true;
            s.bits.fetch_or(super::option::bits::REUSEADDR, Relaxed);
        }
        o.sndbuf = super::option::MEM_DEFAULT;
        o.rcvbuf = super::option::MEM_DEFAULT;
        if s.kind() == Kind::Raw && i32::from(protocol) == libc::IPPROTO_RAW {
            // raw(7): IPPROTO_RAW implies IP_HDRINCL.
            o.on |= flag::HDRINCL | flag::HDRINCL6;
        }
        if s.is_v6() {
            // inet6_create leaves IPv4's IP_MULTICAST_ALL off.
            o.on &= !flag::MULTICAST_ALL;
        }
        if s.is_v6() && i32::from(protocol) == libc::IPPROTO_ICMPV6 {
            // RFC 3542 3.1: the checksum is always ours to fill in.
            o.checksum = if s.kind() == Kind::Raw { 2 } else { -1 };
            if s.kind() == Kind::Ping {
                o.v6only = true;
                s.bits.fetch_or(super::option::bits::V6ONLY, Relaxed);
            }
        }
    }
    let mut b = lock.lock(cx.me);
    b.sock = s.id().0;
    b.kind = s.kind() as u8;
    b.v6 = s.is_v6();
    b.lite = i32::from(protocol) == libc::IPPROTO_UDPLITE && s.kind() == Kind::Udp;
    b.connected = false;
    b.addr_lock = false;
    b.port_lock = false;
    b.bound = false;
    b.shut = 0;
    let any = b.any();
    b.local = Endpoint::new(any, if s.kind() == Kind::Raw { protocol } else { 0 });
    b.remote = Endpoint::default();
    b.opt = *s.options.lock(cx.me);
    b.last_stamp = 0;
    b.stamps = false;
    b.members.reset();
    b.cork.reset();
    b.errors.reset();
    b.queue.reset();
    s.body.store(id.0, Release);
    if s.kind() == Kind::Raw
        && let Err(e) = cx.inst.net.dgram.raws.add(cx, id.0)
    {
        s.body.store(0, Release);
        b.sock = 0;
        drop(b);
        cx.inst.net.dgram.bodies.free(id);
        return Err(e);
    }
    b.publish(cx, s, 0);
    Ok(())
}

/// The socket's options have changed.
pub fn option_changed(cx: &Cx<'_>, s: &Held) {
    if let Ok(mut b) = lock(cx, s) {
        b.opt = *s.options.lock(cx.me);
        if let Some(space) = b.space().filter(|_| b.bound) {
            port::set_device(cx, space, s.id(), b.opt.device);
        }
        let uncork = b.cork.active && !b.opt.has(flag::CORK) && b.cork.by_option;
        b.publish(cx, s, 0);
        if uncork {
            let _ = udp::flush_cork(cx, s, &mut b);
        }
    }
}

/// SO_ERROR was taken: EPOLLERR goes.
pub fn republish(cx: &Cx<'_>, s: &Held) {
    if let Ok(b) = lock(cx, s) {
        b.publish(cx, s, 0);
    }
}

/// bind(2).
pub fn bind(cx: &Cx<'_>, s: &Held, at: &Endpoint) -> Result<()> {
    let mut b = lock(cx, s)?;
    let mapped = b.v6 && at.ip.is_v4();
    if mapped && (b.opt.v6only || b.kind() != Kind::Udp) {
        return Err(Errno::EINVAL);
    }
    if b.kind() == Kind::Raw {
        return raw::bind(cx, &mut b, at);
    }
    if b.bound || b.port_lock {
        return Err(Errno::EINVAL);
    }
    let free = b.opt.has(flag::FREEBIND) || b.opt.has(flag::TRANSPARENT);
    let scope = if at.scope != 0 { at.scope } else { b.opt.device };
    iface::may_bind(cx, at.ip, scope, free, false)?;
    if b.kind() == Kind::Ping && matches!(iface::class(cx, at.ip), iface::Class::Multicast | iface::Class::Broadcast) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    let space = b.space().ok_or(Errno::EINVAL)?;
    let port = port::bind(cx, space, s.id(), at)?;
    let scope = if at.ip.is_link_local6() { scope } else { 0 };
    b.local = Endpoint::new(at.ip, port).with_scope(scope);
    b.bound = true;
    b.addr_lock = !at.ip.is_unspecified();
    b.port_lock = at.port != 0;
    Ok(())
}

/// Gives a socket that has none a port (inet_autobind).
pub(crate) fn autobind(cx: &Cx<'_>, b: &mut Body) -> Result<()> {
    let Some(space) = b.space().filter(|_| !b.bound) else { return Ok(()) };
    let at = Endpoint::new(b.local.ip, 0);
    b.local.port = port::bind(cx, space, b.id(), &at).map_err(|_| Errno::EAGAIN)?;
    b.bound = true;
    Ok(())
}

/// Where a datagram of socket `b` for `to` really goes: unspecified is ourselves, and an AF_INET6 socket may talk IPv4.
pub(crate) fn destination(b: &Body, mut to: Endpoint) -> Result<Endpoint> {
    if to.ip == Ip::ANY6 {
        let v4_bound = b.v6 && b.local.ip.is_v4();
        to.ip = if v4_bound { Ip::LOOPBACK4 } else { Ip::LOOPBACK6 };
    } else if to.ip == Ip::ANY4 {
        to.ip = Ip::LOOPBACK4;
    }
    if b.v6 {
        let v4 = to.ip.is_v4();
        // A socket bound to one family's address cannot speak the other's.
        if v4 && b.opt.v6only || !b.local.ip.is_unspecified() && b.local.ip.is_v4() != v4 {
            return Err(Errno::ENETUNREACH);
        }
    }
    Ok(to)
}

/// connect(2); `None` dissolves the association (AF_UNSPEC).
pub fn connect(cx: &Cx<'_>, s: &Held, to: Option<&Endpoint>) -> Result<()> {
    let mut b = lock(cx, s)?;
    let Some(to) = to else {
        disconnect(cx, &mut b);
        return Ok(());
    };
    let to = destination(&b, *to)?;
    if to.ip.is_link_local6() && to.scope == 0 && b.opt.device == 0 {
        return Err(Errno::EINVAL);
    }
    autobind(cx, &mut b)?;
    let class = iface::class(cx, to.ip);
    if class == iface::Class::Broadcast && !b.opt.broadcast {
        return Err(Errno::EACCES);
    }
    let src = if b.local.ip.is_unspecified() {
        let device = if class == iface::Class::Multicast { output::multicast_device(&b, to.ip) } else { b.opt.device };
        iface::source(cx, to.ip, device)?
    } else {
        if b.local.ip.is_loopback() && class == iface::Class::Remote {
            return Err(Errno::EINVAL);
        }
        b.local.ip
    };
    b.local.ip = src;
    b.remote = to;
    b.connected = true;
    if let Some(space) = b.space() {
        // A ping socket's replies are told by their identifier alone.
        port::associate(cx, space, b.id(), src, Some(&to).filter(|_| space != Space::Ping));
    }
    Ok(())
}

fn disconnect(cx: &Cx<'_>, b: &mut Body) {
    b.connected = false;
    b.remote = Endpoint::default();
    if !b.addr_lock {
        b.local.ip = b.any();
    }
    let Some(space) = b.space() else { return };
    if b.port_lock {
        port::associate(cx, space, b.id(), b.local.ip, None);
    } else {
        port::release(cx, space, b.id());
        b.bound = false;
        b.local.port = 0;
    }
}

/// sendmsg(2): all or nothing; the bytes. EAGAIN if it would block.
#[inline]
pub fn send(cx: &Cx<'_>, s: &Held, data: &[IoIn<'_>], msg: &SendMsg<'_>) -> Result<usize> {
    match s.kind() {
        Kind::Udp => udp::send(cx, s, data, msg),
        Kind::Ping => ping::send(cx, s, data, msg),
        Kind::Netlink => super::netlink::send(cx, s, data, msg),
        _ => raw::send(cx, s, data, msg),
    }
}

/// recvmsg(2): one datagram; the bytes (the whole length with MSG_TRUNC); fills `msg` with the source, flags, control data.
#[inline]
pub fn recv(cx: &Cx<'_>, s: &Held, room: &mut [IoOut<'_>], msg: &mut RecvMsg<'_>) -> Result<usize> {
    let mut b = lock(cx, s)?;
    if msg.flags & libc::MSG_ERRQUEUE != 0 {
        return recv_error(cx, s, &mut b, room, msg);
    }
    if msg.flags & libc::MSG_OOB != 0 && b.kind() != Kind::Udp {
        return Err(Errno::EOPNOTSUPP);
    }
    if let Some(e) = s.take_error() {
        b.publish(cx, s, 0);
        return Err(e);
    }
    let peek = msg.flags & libc::MSG_PEEK != 0;
    let (head, skip) = match peeked(&b, peek) {
        Some(found) => found,
        None => {
            let waits = !s.nonblocking() && msg.flags & libc::MSG_DONTWAIT == 0;
            // __skb_wait_for_more_packets: whoever would wait on a socket shut down for receiving gets nothing instead.
            return if b.shut & 1 != 0 && waits { Ok(0) } else { Err(Errno::EAGAIN) };
        }
    };
    let whole = head.len as usize - skip;
    let n = b.queue.read(&head, skip, room);
    if n < whole && n < total_out(room) {
        // A bad pointer: the datagram is gone all the same (udp_recvmsg).
        if !peek {
            b.queue.pop();
            b.publish(cx, s, 0);
        }
        return Err(Errno::EFAULT);
    }
    if n < whole {
        msg.out_flags |= libc::MSG_TRUNC;
    }
    let raw = b.kind() != Kind::Udp;
    msg.from = Some(if raw { Endpoint::new(head.src.ip, 0).with_scope(head.src.scope) } else { head.src });
    if !msg.control.is_empty() {
        let control = core::mem::take(&mut msg.control);
        let mut out = cmsg::Encoder::new(control);
        cmsg::received(cx, &b.opt, b.v6, &head, b.queue.drops, &mut out);
        let (len, cut) = out.finish();
        msg.control_len = len;
        if cut {
            msg.out_flags |= libc::MSG_CTRUNC;
        }
    }
    b.last_stamp = head.stamp;
    if peek {
        if b.opt.peek_off >= 0 {
            set_peek_off(cx, s, &mut b, |off| off + n as i32);
        }
    } else {
        b.queue.pop();
        if b.opt.peek_off > 0 {
            set_peek_off(cx, s, &mut b, |off| (off - head.len as i32).max(0));
        }
        if b.queue.is_empty() {
            b.publish(cx, s, 0);
        }
    }
    Ok(if msg.flags & libc::MSG_TRUNC != 0 { whole } else { n })
}

/// The datagram to give and how much of it to leave out (SO_PEEK_OFF).
#[inline]
fn peeked(b: &Body, peek: bool) -> Option<(queue::Head, usize)> {
    if !peek || b.opt.peek_off <= 0 {
        return b.queue.front().map(|h| (*h, 0));
    }
    let mut off = b.opt.peek_off as usize;
    let mut n = 0;
    loop {
        let head = b.queue.nth(n)?;
        if off < head.len as usize || head.len == 0 && off == 0 {
            return Some((*head, off));
        }
        off -= head.len as usize;
        n += 1;
    }
}

fn set_peek_off(cx: &Cx<'_>, s: &Held, b: &mut Body, f: impl FnOnce(i32) -> i32) {
    b.opt.peek_off = f(b.opt.peek_off);
    s.options.lock(cx.me).peek_off = b.opt.peek_off;
}

/// recvmsg(2) with MSG_ERRQUEUE.
fn recv_error(cx: &Cx<'_>, s: &Held, b: &mut Body, room: &mut [IoOut<'_>], msg: &mut RecvMsg<'_>) -> Result<usize> {
    let Some(r) = b.errors.front().copied() else { return Err(Errno::EAGAIN) };
    let bytes = &r.data[..usize::from(r.len).min(queue::QUOTE)];
    let n = scatter(room, 0, &bytes[..bytes.len().min(total_out(room))]);
    msg.out_flags |= libc::MSG_ERRQUEUE;
    if n < bytes.len() {
        msg.out_flags |= libc::MSG_TRUNC;
    }
    msg.from = Some(r.to);
    let mut out = cmsg::Encoder::new(core::mem::take(&mut msg.control));
    cmsg::reported(&r, b.v6 && !r.to.ip.is_v4(), &mut out);
    let (len, cut) = out.finish();
    msg.control_len = len;
    if cut {
        msg.out_flags |= libc::MSG_CTRUNC;
    }
    b.errors.pop();
    // sock_dequeue_err_skb: SO_ERROR becomes the next ICMP error's, or none.
    let next = b.errors.front().filter(|r| r.origin != libc::SO_EE_ORIGIN_LOCAL).map_or(0, |r| u32::from(r.errno));
    s.error.store(next, Release);
    b.publish(cx, s, 0);
    Ok(n)
}

/// shutdown(2).
pub fn shutdown(cx: &Cx<'_>, s: &Held, how: i32) -> Result<()> {
    let mut b = lock(cx, s)?;
    // inet_shutdown: the bits are set even if the answer is ENOTCONN.
    b.shut |= match how {
        libc::SHUT_RD => 1,
        libc::SHUT_WR => 2,
        _ => 3,
    };
    b.publish(cx, s, libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLHUP);
    if b.connected { Ok(()) } else { Err(Errno::ENOTCONN) }
}

/// The last reference is gone.
pub fn close(cx: &Cx<'_>, s: &'static Sock) {
    let id = Id::new(s.body.load(Acquire));
    let Some(lock) = cx.inst.net.dgram.bodies.get(id) else { return };
    {
        let mut b = lock.lock(cx.me);
        if b.sock == 0 {
            return;
        }
        if let Some(space) = b.space().filter(|_| b.bound) {
            port::release(cx, space, b.id());
        }
        if b.kind() == Kind::Raw {
            cx.inst.net.dgram.raws.remove(cx, id.0);
        }
        multicast::leave_all(cx, &mut b.members);
        b.queue.reset();
        b.sock = 0;
    }
    s.body.store(0, Release);
    cx.inst.net.dgram.bodies.free(id);
}

/// getsockname(2).
pub fn local(cx: &Cx<'_>, s: &Held) -> Result<Endpoint> {
    let b = lock(cx, s)?;
    Ok(b.local)
}

/// getpeername(2).
pub fn peer(cx: &Cx<'_>, s: &Held) -> Result<Endpoint> {
    let b = lock(cx, s)?;
    if b.connected && b.remote.port != 0 { Ok(b.remote) } else { Err(Errno::ENOTCONN) }
}

/// FIONREAD (size of the next datagram), SIOCOUTQ.
pub fn queued(cx: &Cx<'_>, s: &Held) -> Result<(usize, usize, usize)> {
    let b = lock(cx, s)?;
    Ok((b.queue.front().map_or(0, |h| h.len as usize), 0, 0))
}

/// Reassembly timeouts are due.
pub fn tick(cx: &Cx<'_>) {
    frag::tick(cx);
}
