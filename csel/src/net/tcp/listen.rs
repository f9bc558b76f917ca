//! Listening sockets: the SYN queue, the accept queue, backlog.
//!
//! # Theory of operation
//! **Purpose.** listen(2) and accept(2) as Linux has them; smoltcp has neither queue nor backlog.
//! **How it works.** A SYN makes a flow at once ([`Phase::Embryo`]), whose engine listens and is fed that SYN. The third segment of the handshake is
//! let in only if the accept queue has a place ([`admit`]), else it is dropped and the SYN|ACK goes out again, as in Linux. An established
//! flow is queued when its own lock is let go of ([`enqueue`]); accept(2) gives it a socket. The accept queue holds backlog + 1; a SYN that comes
//! while it is full is dropped.
//! **Limits.** [`LISTENERS`] sockets; [`EMBRYOS`] half-open connections each; a backlog of at most [`SOMAXCONN`].
//! **Locks.** [`Listener::queue`], rank LISTENER, before a flow's; counts are atomics. **Failure.** ENFILE from accept(2) leaves the connection queued.
use super::demux::{self, Words};
use super::flow::{self, Flow, HUP, IN, Inner, OUT, Phase, RDHUP, State};
use super::meter::Segment;
use super::wire::Port;
use crate::arena::{Id, Shared};
use crate::call::Kind;
use crate::clock::SEC;
use crate::errno::{Errno, Result};
use crate::fd::{self, Held};
use crate::instance::Cx;
use crate::net::Packet;
use crate::net::addr::{Endpoint, Ip, Tuple};
use crate::net::link::tx;
use crate::net::port::{self, Space};
use crate::stats::bump;
use crate::sync::{Lock, rank};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// Listening sockets of an instance.
pub(super) const LISTENERS: usize = 8192;
/// net.core.somaxconn.
const SOMAXCONN: i32 = 4096;
/// Half-open connections of one listener.
const EMBRYOS: u32 = 8192;

/// A listening socket's slab item.
#[repr(C)]
#[derive(Shared)]
pub(super) struct Listener {
    pub(super) chain: AtomicU32,
    ip: [AtomicU64; 2],
    port: AtomicU32,
    pub(super) v6only: AtomicU32,
    backlog: AtomicU32,
    /// Connections in the accept queue, and those promised a place.
    accepting: AtomicU32,
    embryos: AtomicU32,
    /// The socket, its flow.
    sock: AtomicU32,
    flow: AtomicU32,
    queue: Lock<Queue, { rank::LISTENER }>,
}

/// The accept queue.
#[repr(C)]
#[derive(Shared)]
struct Queue {
    head: u32,
    tail: u32,
    open: bool,
}

impl Listener {
    /// Its flow.
    pub(super) fn flow(&self) -> u32 {
        self.flow.load(Relaxed)
    }
    /// Where it listens.
    pub(super) fn at(&self) -> (Ip, u16) {
        let mut ip = [0; 16];
        ip[..8].copy_from_slice(&self.ip[0].load(Relaxed).to_ne_bytes());
        ip[8..].copy_from_slice(&self.ip[1].load(Relaxed).to_ne_bytes());
        (Ip(ip), self.port.load(Relaxed) as u16)
    }
    fn set_at(&self, at: &Endpoint) {
        for (i, w) in self.ip.iter().enumerate() {
            let mut b = [0; 8];
            b.copy_from_slice(&at.ip.0[i * 8..i * 8 + 8]);
            w.store(u64::from_ne_bytes(b), Relaxed);
        }
        self.port.store(u32::from(at.port), Relaxed);
    }
    /// Connections waiting for accept(2), and how many may.
    pub(super) fn waiting(&self) -> (u32, u32) {
        (self.accepting.load(Relaxed), self.backlog.load(Relaxed))
    }
}

/// After a death inside: queues and counts anew from the flows. The instance is halted.
pub(super) fn repair_queues(cx: &Cx<'_>) {
    let t = &cx.inst.net.tcp;
    for (id, l) in t.listeners.iter() {
        demux::enter_listener(cx, id.0, l);
        let Some(mut q) = l.queue.take_over(cx.me) else { continue };
        *q = Queue { head: 0, tail: 0, open: true };
        l.accepting.store(0, Relaxed);
        l.embryos.store(0, Relaxed);
    }
    for (id, f) in t.flows.iter() {
        let Some(i) = f.inner.take_over(cx.me) else { continue };
        let (phase, parent) = (i.phase, if i.sock == 0 { i.parent } else { 0 });
        drop(i);
        let Some(l) = get(cx, parent) else { continue };
        if phase == Phase::Embryo {
            l.embryos.fetch_add(1, Relaxed);
            continue;
        }
        if !matches!(phase, Phase::Open | Phase::Done) {
            continue;
        }
        let Some(mut q) = l.queue.take_over(cx.me) else { continue };
        l.accepting.fetch_add(1, Relaxed);
        q.append(cx, id.0, f);
        if let Some(s) = cx.inst.socks.get(Id::new(l.sock.load(Relaxed))) {
            s.publish(cx, IN, IN);
        }
    }
}

impl Queue {
    fn append(&mut self, cx: &Cx<'_>, n: u32, f: &Flow) {
        f.next.store(0, Relaxed);
        match cx.inst.net.tcp.flows.get(Id::new(self.tail)) {
            Some(last) => last.next.store(n, Relaxed),
            None => self.head = n,
        }
        self.tail = n;
    }
}

fn get(cx: &Cx<'_>, n: u32) -> Option<&'static Listener> {
    cx.inst.net.tcp.listeners.get(Id::new(n))
}

/// The listener behind a socket's flow.
pub(super) fn of_flow(cx: &Cx<'_>, n: u32) -> Option<&'static Listener> {
    let f = cx.inst.net.tcp.flows.get(Id::new(n))?;
    get(cx, f.lid.load(Acquire))
}

/// listen(2).
pub(super) fn listen(cx: &Cx<'_>, s: &Held, backlog: i32) -> Result<()> {
    let backlog = if (0..=SOMAXCONN).contains(&backlog) { backlog } else { SOMAXCONN } as u32;
    let (n, f, mut i) = flow::must(cx, s)?;
    match i.phase {
        Phase::Listening => {
            if let Some(l) = get(cx, f.lid.load(Relaxed)) {
                l.backlog.store(backlog, Relaxed);
            }
            return Ok(());
        }
        Phase::Fresh => {}
        // A connection that is over leaves a socket that may start anew.
        Phase::Done => super::close::to_fresh(cx, n, &mut i),
        _ => return Err(Errno::EINVAL),
    }
    if i.local.port == 0 {
        let any = if s.is_v6() { Ip::ANY6 } else { Ip::ANY4 };
        let ip = if i.local.ip == Ip::ANY6 { any } else { i.local.ip };
        let port = port::bind(cx, Space::Tcp, s.id(), &Endpoint::new(ip, 0))?;
        i.local = Endpoint::new(ip, port);
    }
    port::may_listen(cx, s.id())?;
    let Some((id, l)) = cx.inst.net.tcp.listeners.alloc() else {
        port::unlisten(cx, s.id());
        return Err(Errno::ENOBUFS);
    };
    l.set_at(&i.local);
    l.v6only.store(u32::from(s.options.lock(cx.me).v6only), Relaxed);
    l.backlog.store(backlog, Relaxed);
    l.accepting.store(0, Relaxed);
    l.embryos.store(0, Relaxed);
    l.sock.store(s.id().0, Relaxed);
    l.flow.store(n, Relaxed);
    f.lid.store(id.0, Release);
    i.phase = Phase::Listening;
    (i.rcv_shut, i.snd_shut) = (false, false);
    let at = i.local;
    flow::publish(cx, &mut i, 0);
    drop(i);
    // The listener's lock comes before the flow's.
    {
        let mut q = l.queue.lock(cx.me);
        *q = Queue { head: 0, tail: 0, open: true };
    }
    demux::listen(cx, id.0, &at);
    Ok(())
}

/// Stops listening: who waits in the queues is reset. The flow stays, in [`Phase::Fresh`].
pub(super) fn stop(cx: &Cx<'_>, n: u32, f: &'static Flow) {
    let lid = f.lid.swap(0, AcqRel);
    let Some(l) = get(cx, lid) else { return };
    let (ip, port) = l.at();
    demux::unlisten(cx, lid, &Endpoint::new(ip, port));
    let mut at = {
        let mut q = l.queue.lock(cx.me);
        core::mem::replace(&mut *q, Queue { head: 0, tail: 0, open: false }).head
    };
    while let Some(child) = cx.inst.net.tcp.flows.get(Id::new(at)) {
        let next = child.next.swap(0, Relaxed);
        drop_child(cx, at, child, lid);
        at = next;
    }
    // Half-open ones, and those established but not yet queued, are in no list.
    if l.embryos.load(Acquire) != 0 {
        for (id, child) in cx.inst.net.tcp.flows.iter() {
            drop_child(cx, id.0, child, lid);
        }
    }
    {
        let mut i = flow::lock(cx, n, f);
        if i.phase == Phase::Listening {
            i.phase = Phase::Fresh;
            port::unlisten(cx, Id::new(i.sock));
            flow::publish(cx, &mut i, IN | OUT | HUP | RDHUP);
        }
    }
    cx.inst.net.tcp.listeners.free(Id::new(lid));
}

/// Ends a connection that nobody has accepted.
fn drop_child(cx: &Cx<'_>, n: u32, f: &'static Flow, lid: u32) {
    let mut i = flow::lock(cx, n, f);
    if i.parent != lid || i.phase == Phase::Free {
        return;
    }
    if i.phase == Phase::Open {
        flow::reset_peer(cx, &mut i);
    }
    i.parent = 0;
    flow::free(cx, n, &mut i);
}

/// A SYN for a tuple without a connection. False if nobody listens there.
pub(super) fn syn(cx: &Cx<'_>, t: &Tuple, w: &Words, p: &Packet<'_>, s: &Segment) -> bool {
    let Some((lid, l)) = demux::listener(cx, t) else { return false };
    let (waiting, backlog) = l.waiting();
    if waiting > backlog || l.embryos.load(Relaxed) >= EMBRYOS {
        bump(&cx.inst.stats.tcp_listen_overflows);
        return true;
    }
    let Ok(hop) = tx::hop(cx, t.local.ip, t.remote.ip) else { return true };
    // What the connection inherits; the two flows' locks one after the other.
    let parent = l.flow.load(Relaxed);
    let (Some(of), Some(sock)) = (cx.inst.net.tcp.flows.get(Id::new(parent)), cx.inst.socks.get(Id::new(l.sock.load(Relaxed)))) else {
        return true;
    };
    let (opts, sizes) = {
        let i = flow::lock(cx, parent, of);
        (i.opts, (i.rx_size, i.tx_size))
    };
    let inherited = *sock.options.lock(cx.me);
    let Some((n, _, mut i)) = flow::alloc(cx) else { return true };
    (i.opts, i.inherited) = (opts, inherited);
    (i.rx_size, i.tx_size) = sizes;
    i.tuple = *t;
    (i.hop, i.hop_ok) = (hop, true);
    if !demux::enter(cx, n, w) {
        flow::free(cx, n, &mut i);
        return true;
    }
    i.entered = true;
    i.phase = Phase::Embryo;
    i.parent = lid;
    l.embryos.fetch_add(1, AcqRel);
    flow::start(cx, n, &mut i);
    let now = cx.now();
    i.times.began_at = now;
    i.meter.peer_syn(s, p.payload);
    let Inner { engine, meter, .. } = &mut *i;
    if let Some(e) = engine.get_mut() {
        let _ = e.with(|socket| socket.listen((t.local.ip.wire(), t.local.port)));
        let mut port = Port::new(cx, &hop, meter, 0);
        port.rx = Some(p.ip);
        e.ingress(now, &mut port);
    }
    i.meter.heard(s, 0, 0, false, now);
    if i.look().state == State::SynReceived {
        flow::drive(cx, n, &mut i, true);
    } else {
        flow::finish(cx, n, &mut i, None);
    }
    true
}

/// May an embryo become a connection?
pub(super) enum Admit {
    /// A place in the accept queue is reserved ([`unadmit`] gives it back).
    Yes,
    /// The queue is full, or the data that TCP_DEFER_ACCEPT waits for is missing.
    NotNow,
    /// Nobody listens any more.
    Gone,
}

/// The third segment of the handshake has come.
pub(super) fn admit(cx: &Cx<'_>, i: &mut Inner, s: &Segment) -> Admit {
    let Some(l) = get(cx, i.parent) else { return Admit::Gone };
    if i.opts.defer_accept > 0 && s.space() == 0 && cx.now() < i.times.began_at + u64::from(i.opts.defer_accept) * SEC {
        i.deferred = true;
        return Admit::NotNow;
    }
    if l.accepting.fetch_add(1, AcqRel) > l.backlog.load(Relaxed) {
        l.accepting.fetch_sub(1, AcqRel);
        bump(&cx.inst.stats.tcp_listen_overflows);
        return Admit::NotNow;
    }
    Admit::Yes
}

/// Gives back a place in the accept queue.
pub(super) fn unadmit(cx: &Cx<'_>, parent: u32) {
    if let Some(l) = get(cx, parent) {
        l.accepting.fetch_sub(1, AcqRel);
    }
}

/// An embryo is one no longer.
pub(super) fn embryo_gone(cx: &Cx<'_>, parent: u32) {
    if let Some(l) = get(cx, parent) {
        l.embryos.fetch_sub(1, AcqRel);
    }
}

/// Puts an established connection into the accept queue. No lock is held.
pub(super) fn enqueue(cx: &Cx<'_>, lid: u32, n: u32, f: &'static Flow) {
    let Some(l) = get(cx, lid) else { return };
    let mut q = l.queue.lock(cx.me);
    let mut i = flow::lock(cx, n, f);
    if i.parent != lid || !matches!(i.phase, Phase::Open | Phase::Done) {
        return;
    }
    if !q.open {
        if i.phase == Phase::Open {
            flow::reset_peer(cx, &mut i);
        }
        return flow::free(cx, n, &mut i);
    }
    drop(i);
    q.append(cx, n, f);
    bump(&cx.inst.stats.tcp_passive_opens);
    if let Some(s) = cx.inst.socks.get(Id::new(l.sock.load(Relaxed))) {
        s.publish(cx, IN, IN);
    }
}

/// accept(2).
pub(super) fn accept(cx: &Cx<'_>, s: &Held) -> Result<(Held, Endpoint)> {
    let Some(l) = of_flow(cx, s.body.load(Acquire)) else { return Err(Errno::EINVAL) };
    let mut q = l.queue.lock(cx.me);
    if !q.open {
        return Err(Errno::EINVAL);
    }
    let n = q.head;
    let Some(f) = cx.inst.net.tcp.flows.get(Id::new(n)) else { return Err(Errno::EAGAIN) };
    let new = fd::open(cx, Kind::Tcp, s.family.load(Relaxed), s.kind_type.load(Relaxed), s.protocol.load(Relaxed), libc::O_RDWR as u32)?;
    q.head = f.next.swap(0, Relaxed);
    if q.head == 0 {
        q.tail = 0;
    }
    l.accepting.fetch_sub(1, AcqRel);
    s.publish(cx, if q.head == 0 { 0 } else { IN }, 0);
    drop(q);
    new.bits.store(s.bits.load(Relaxed), Relaxed);
    new.rcvtimeo.store(s.rcvtimeo.load(Relaxed), Relaxed);
    new.sndtimeo.store(s.sndtimeo.load(Relaxed), Relaxed);
    let mut i = flow::lock(cx, n, f);
    i.parent = 0;
    i.sock = new.id().0;
    *new.options.lock(cx.me) = i.inherited;
    new.body.store(n, Release);
    if i.error != 0 {
        new.fail(Errno(core::mem::take(&mut i.error)));
    }
    // A port table that is full lets the connection be; only the port is not kept for it.
    let _ = port::share(cx, new.id(), &i.tuple.local, &i.tuple.remote);
    let peer = i.tuple.remote;
    flow::publish(cx, &mut i, 0);
    Ok((new, peer))
}
