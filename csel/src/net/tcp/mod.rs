//! TCP.
//!
//! # Theory of operation
//! **Purpose.** tcp(7): connections, listeners, and everything Linux does around the state machine.
//! **How it works.** Each connection is a [`flow`]: a smoltcp engine of its own ([`crate::arena::engine`]), so a segment costs the same whether there
//! are ten connections or ten thousand. [`demux`] finds it, [`input`] judges and feeds it, [`io`] moves bytes, [`connect`], [`listen`] and
//! [`close`] begin and end it, [`tick`] ends what nobody answers, [`meter`] counts what smoltcp does not tell, [`wire`] is the way out,
//! [`option`] and [`info`] are getsockopt(2). smoltcp does sequence numbers, retransmission, reassembly and windows; what it lacks or does otherwise
//! than Linux (`reference/smoltcp.md` sections 7 and 8) is done in the module named.
//!
//! *Acknowledgements* ride on data: smoltcp holds one back for 40 ms (at most; not beyond a full segment, nor when the window has opened), which an
//! answer of the application nearly always uses. Nobody waits for them: Nagle's algorithm is off inside the host, whatever TCP_NODELAY shows.
//! *A full ring* never loses a segment: room is taken before the engine is asked ([`wire`]), the flow is put on a list, and [`room`] or a timer goes
//! on. *A call* emits straight into the receiver's ring; our own ring (loopback) is drained after the last lock, so no two flows are ever locked.
//! **Limits.** [`crate::instance::FLOWS`] connections. No urgent data (MSG_OOB is EOPNOTSUPP), no Fast Open, no timestamps option, no SYN cookies.
//! **Locks.** [`crate::sync::rank`]: LISTENER, then FLOW, then TABLE, TIMER.
//! **Failure.** errno as tcp(7); a connection whose holder died inside is reset.
//! **See also.** tcp(7), RFC 9293, RFC 5961, RFC 6528.
use super::Packet;
use super::addr::Endpoint;
use crate::arena::{Id, Shared, Slab};
use crate::call::{RecvMsg, SendMsg};
use crate::errno::{Errno, Result};
use crate::fd::{Held, Sock};
use crate::gate::user::{IoIn, IoOut};
use crate::instance::{Cx, FLOWS};
use crate::sync::{Lock, rank};
use core::sync::atomic::{AtomicU32, Ordering::*};

mod close;
mod connect;
mod demux;
mod flow;
mod info;
mod input;
mod io;
mod listen;
mod meter;
mod option;
mod repair;
mod tick;
mod wire;

#[cfg(test)]
mod tests;

pub use connect::is_fresh;
pub(crate) use repair::{each_ticket, repair};

pub use info::{Row, each, each_resting};

/// Size of a ring whose SO_RCVBUF or SO_SNDBUF nobody has set.
const RING: u32 = 512 << 10;
/// Ends the list of those that wait for room.
const LAST: u32 = u32::MAX;

/// TCP's tables.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    flows: Slab<flow::Flow, FLOWS>,
    listeners: Slab<listen::Listener, { listen::LISTENERS }>,
    demux: demux::State,
    /// First of those that wait for room in a ring.
    jam: AtomicU32,
    /// Connections without a socket.
    orphans: AtomicU32,
    /// Room for what has no other.
    scratch: Lock<[u8; 65536], { rank::LEAF }>,
}

/// What is in use: flows, listeners, connections in TIME-WAIT, orphans.
pub(crate) fn census(t: &State) -> [u64; 4] {
    [t.flows.used() as u64, t.listeners.used() as u64, t.demux.resting() as u64, u64::from(t.orphans.load(Relaxed))]
}

/// The highest flow ever used.
pub(crate) fn high(cx: &Cx<'_>) -> u32 {
    cx.inst.net.tcp.flows.high()
}

/// A fresh SOCK_STREAM socket: what needs setting up (publishes EPOLLOUT|EPOLLHUP as Linux does for an unconnected one).
pub fn open(cx: &Cx<'_>, s: &Held) -> Result<()> {
    let (n, _, mut i) = flow::alloc(cx).ok_or(Errno::ENOBUFS)?;
    i.sock = s.id().0;
    s.body.store(n, Release);
    connect::adopt(cx, s, &mut i);
    flow::publish(cx, &mut i, 0);
    Ok(())
}
/// bind(2).
pub fn bind(cx: &Cx<'_>, s: &Held, at: &Endpoint) -> Result<()> {
    connect::bind(cx, s, at)
}
/// listen(2).
pub fn listen(cx: &Cx<'_>, s: &Held, backlog: i32) -> Result<()> {
    listen::listen(cx, s, backlog)
}
/// accept(2): a connection from the queue with one reference, flags not yet set; EAGAIN: none yet. EINVAL: not listening.
pub fn accept(cx: &Cx<'_>, s: &Held) -> Result<(Held, Endpoint)> {
    listen::accept(cx, s)
}
/// connect(2), first call: EINPROGRESS if it has begun, EALREADY/EISCONN/... as Linux.
pub fn connect(cx: &Cx<'_>, s: &Held, to: &Endpoint) -> Result<()> {
    connect::connect(cx, s, to)
}
/// A blocking connect(2) after a wake-up: Ok when established, EINPROGRESS while it goes on, else why it failed.
pub fn connected(cx: &Cx<'_>, s: &Held) -> Result<()> {
    connect::connected(cx, s)
}
/// connect(2) with AF_UNSPEC: dissolves the association.
pub fn disconnect(cx: &Cx<'_>, s: &Held) -> Result<()> {
    close::disconnect(cx, s)
}
/// Queues what fits of `data` from byte `skip` on; EAGAIN if nothing fits. EPIPE without signal: the caller raises it.
pub fn send(cx: &Cx<'_>, s: &Held, data: &[IoIn<'_>], skip: usize, msg: &SendMsg<'_>) -> Result<usize> {
    io::send(cx, s, data, skip, msg)
}
/// Takes what is there (MSG_PEEK leaves it) into `room` from byte `skip` on; Ok(0) at the end of the stream; EAGAIN if nothing is there.
pub fn recv(cx: &Cx<'_>, s: &Held, room: &mut [IoOut<'_>], skip: usize, msg: &mut RecvMsg<'_>) -> Result<usize> {
    io::recv(cx, s, room, skip, msg)
}
/// shutdown(2), `how` checked.
pub fn shutdown(cx: &Cx<'_>, s: &Held, how: i32) -> Result<()> {
    close::shutdown(cx, s, how)
}
/// The last reference is gone: close(2)'s FIN, RST or listener teardown. The open description is freed by the caller; what goes on lives
/// as an orphan.
pub fn close(cx: &Cx<'_>, s: &'static Sock) {
    close::close(cx, s);
}
/// close(2) of the last descriptor with SO_LINGER on: is there still something unsent or unacknowledged? The front end waits for EPOLLHUP.
pub fn lingers(cx: &Cx<'_>, s: &Held) -> bool {
    close::lingers(cx, s)
}
/// Is there a connection without a socket that still has something to deliver (unsent or unacknowledged bytes, a FIN)? TIME-WAIT has not. The
/// keeper stays for it.
pub fn undelivered(cx: &Cx<'_>) -> bool {
    let t = &cx.inst.net.tcp;
    t.orphans.load(Relaxed) != 0
        && t.flows.iter().any(|(_, f)| match f.inner.try_lock(cx.me) {
            Some(mut i) => {
                let look = i.look();
                i.orphan
                    && i.live()
                    && (look.sq > 0 || matches!(look.state, flow::State::FinWait1 | flow::State::Closing | flow::State::LastAck))
            }
            // Somebody is busy with it.
            None => true,
        })
}
/// getsockname(2).
pub fn local(cx: &Cx<'_>, s: &Held) -> Result<Endpoint> {
    let (_, _, i) = flow::must(cx, s)?;
    Ok(i.name(s))
}
/// getpeername(2).
pub fn peer(cx: &Cx<'_>, s: &Held) -> Result<Endpoint> {
    let (_, _, i) = flow::must(cx, s)?;
    if i.phase == flow::Phase::Open { Ok(i.tuple.remote) } else { Err(Errno::ENOTCONN) }
}
/// FIONREAD, SIOCOUTQ, SIOCOUTQNSD, SIOCATMARK: (bytes to read, bytes unacknowledged, bytes unsent).
pub fn queued(cx: &Cx<'_>, s: &Held) -> Result<(usize, usize, usize)> {
    io::queued(cx, s)
}
/// getsockopt(2) for IPPROTO_TCP: writes the value, the bytes written.
pub fn getsockopt(cx: &Cx<'_>, s: &Held, name: i32, out: &mut [u8]) -> Result<usize> {
    option::get(cx, s, name, out)
}
/// setsockopt(2) for IPPROTO_TCP.
pub fn setsockopt(cx: &Cx<'_>, s: &Held, name: i32, value: &[u8]) -> Result<()> {
    option::set(cx, s, name, value)
}
/// An option of SOL_SOCKET or IPPROTO_IP that TCP looks at has changed (keep-alive, buffers, linger...).
pub fn option_changed(cx: &Cx<'_>, s: &Held) {
    option::changed(cx, s);
}
/// A TCP segment for one of our addresses.
#[inline]
pub fn input(cx: &Cx<'_>, p: &Packet<'_>) {
    input::input(cx, p);
}
/// An ICMP error about a segment we sent, with sequence number `seq`; `mtu` with "fragmentation needed"/"packet too big".
pub fn icmp_error(cx: &Cx<'_>, about: &super::addr::Tuple, seq: u32, e: Errno, hard: bool, mtu: Option<u32>) {
    let w = demux::words(about);
    let Some((n, f)) = demux::find(cx, &w) else { return };
    let mut i = flow::lock(cx, n, f);
    if !f.key.is(&w) {
        return;
    }
    // RFC 5927 4.1: who does not know what is on its way has not seen it.
    let m = &i.meter;
    if i.hop.leaves() && i.phase != flow::Phase::Connecting && (meter::before(seq, m.snd_una) || meter::before(m.snd_nxt, seq)) {
        return;
    }
    if let Some(mtu) = mtu {
        // Links inside the host have one MTU.
        if i.hop.leaves() {
            super::link::uplink::narrowed(cx, about.remote.ip, mtu);
            flow::drive(cx, n, &mut i, true);
        }
        return;
    }
    // RFC 5461: what may pass does not end a connection, but says why it ended if it does.
    if i.phase == flow::Phase::Connecting || (hard && i.phase == flow::Phase::Embryo) {
        flow::finish(cx, n, &mut i, Some(e));
    } else {
        i.times.soft_error = e.0;
    }
}
/// The flow, listener or orphan `n`'s timer is due.
pub fn tick(cx: &Cx<'_>, n: u32) {
    tick::tick(cx, n);
}

/// Flow `n` could not emit because a ring is full: [`room`] goes on with it. Its lock is held.
fn wait_for_room(cx: &Cx<'_>, n: u32) {
    let t = &cx.inst.net.tcp;
    let Some(f) = t.flows.get(Id::new(n)) else { return };
    if f.jam.compare_exchange(0, LAST, AcqRel, Relaxed).is_err() {
        return;
    }
    loop {
        let head = t.jam.load(Acquire);
        f.jam.store(if head == 0 { LAST } else { head }, Release);
        if t.jam.compare_exchange(head, n, AcqRel, Relaxed).is_ok() {
            return;
        }
    }
}

/// There is room again in a ring that was full: those that wait for room try again.
pub fn room(cx: &Cx<'_>) {
    let t = &cx.inst.net.tcp;
    let mut n = t.jam.swap(0, AcqRel);
    while n != 0 && n != LAST {
        let Some(f) = t.flows.get(Id::new(n)) else {
            // One that waited is gone, and with it the way to those behind it: look for them.
            for (id, f) in t.flows.iter() {
                go_on(cx, id.0, f);
            }
            return;
        };
        n = go_on(cx, n, f);
    }
}

/// Lets a flow that may wait for room try again; the next in the list.
fn go_on(cx: &Cx<'_>, n: u32, f: &'static flow::Flow) -> u32 {
    if f.jam.load(Acquire) == 0 {
        return 0;
    }
    let mut i = flow::lock(cx, n, f);
    let next = f.jam.swap(0, AcqRel);
    if i.live() {
        flow::drive(cx, n, &mut i, false);
    }
    next
}
