//! A flow: one TCP connection, or a socket that may become one.
//!
//! # Theory of operation
//! **Purpose.** What lies between a socket and its engine: the phase, the tuple, the options, the deadlines, what poll(2) sees.
//! **How it works.** Every TCP socket has a flow from socket(2) on ([`Phase::Fresh`]); accept(2) gives a socket to a flow that a SYN made. Whatever
//! happens to a flow (a call, a segment, a timer) happens under its lock and ends in [`drive`]: emit what can be emitted, tell poll(2), arm the
//! timer for the earliest deadline. A flow whose socket is gone goes on as an orphan until TCP is done with it.
//! **Limits.** One engine holds at most [`ROOM`] bytes a direction.
//! **Locks.** [`Flow::inner`], rank FLOW; never two at once. **Failure.** A lock inherited from a dead thread resets the connection: its engine may be
//! half changed.
use super::demux::{self, Key, Words};
use super::meter::{self, ACK, Meter, RST, Segment};
use super::option::Opts;
use super::tick;
use super::wire::{self, Port, ip_header};
use crate::arena::engine::{Engine, return_pages};
use crate::arena::pages::{PAGE, ROOM};
use crate::arena::{Id, Place, Shared};
use crate::clock::{MS, NEVER, Nanos, SEC};
use crate::errno::Errno;
use crate::fd::{Held, Sock};
use crate::instance::Cx;
use crate::net::addr::{Endpoint, Ip, Tuple};
use crate::net::link::route;
use crate::net::link::tx::{self, Hop};
use crate::net::option::Options;
use crate::net::port::{self, Space, Ticket};
use crate::net::timer::{self, Owner};
use crate::stats::bump;
use crate::sync::{Guard, Lock, rank};
use core::sync::atomic::{AtomicU32, Ordering::*};
use smoltcp::socket::tcp::CongestionControl;
pub(super) use smoltcp::socket::tcp::State;

/// The most segments one call emits: more go when acknowledgements come, or with the next tick.
const BURST: usize = 64;
/// smoltcp counts its own time: an acknowledgement waits 40 ms for data to ride on, as in Linux.
const ACK_DELAY_MS: u64 = 40;
/// A ring that was full is tried again after this, if nobody says earlier that there is room.
const RETRY: Nanos = 2 * MS;
/// How long a connection that waits for something without a timer is left alone.
const NUDGE: Nanos = 500 * MS;
/// A window closed out there is asked for so often, at least.
const PROBE: Nanos = 500 * MS;
/// MSG_MORE and TCP_CORK hold a part segment back so long.
pub(super) const CORK: Nanos = 200 * MS;

pub(super) const IN: u32 = (libc::EPOLLIN | libc::EPOLLRDNORM) as u32;
pub(super) const OUT: u32 = (libc::EPOLLOUT | libc::EPOLLWRNORM) as u32;
pub(super) const RDHUP: u32 = libc::EPOLLRDHUP as u32;
pub(super) const HUP: u32 = libc::EPOLLHUP as u32;
pub(super) const ERR: u32 = libc::EPOLLERR as u32;

/// Where a flow stands. The connection's own state is the engine's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Shared)]
#[repr(u8)]
pub(super) enum Phase {
    /// In no use.
    Free = 0,
    /// A socket without a connection.
    Fresh,
    /// A listening socket.
    Listening,
    /// connect(2) has begun.
    Connecting,
    /// Made by a SYN, not yet established.
    Embryo,
    /// Established, and all that follows.
    Open,
    /// Over, but the socket is still there (and may have unread data).
    Done,
}

/// A slab item. Everything outside [`Flow::inner`] may be read without the lock.
#[repr(C)]
#[derive(Shared)]
pub(super) struct Flow {
    pub(super) key: Key,
    /// Next in the demux chain.
    pub(super) chain: AtomicU32,
    /// Next in the accept queue.
    pub(super) next: AtomicU32,
    /// The listener that a listening socket is.
    pub(super) lid: AtomicU32,
    /// Next of those that wait for room in a ring; [`super::LAST`] ends the list, 0: does not wait.
    pub(super) jam: AtomicU32,
    pub(super) inner: Lock<Inner, { rank::FLOW }>,
}

/// What the lock protects.
#[repr(C)]
#[derive(Shared)]
pub(super) struct Inner {
    pub(super) phase: Phase,
    /// bind(2) gave it a port (and an address that is not the wildcard).
    pub(super) bound: bool,
    pub(super) hop_ok: bool,
    /// RCV_SHUTDOWN, SEND_SHUTDOWN.
    pub(super) rcv_shut: bool,
    pub(super) snd_shut: bool,
    /// The peer's FIN has come.
    pub(super) fin: bool,
    /// connect(2) has not yet told how it ended (SS_CONNECTING).
    pub(super) pending: bool,
    /// In the demux table.
    pub(super) entered: bool,
    /// close(2) waits for the end (SO_LINGER).
    pub(super) lingering: bool,
    /// What the next segment carries was sent before.
    pub(super) rewound: bool,
    /// An answer was lost to a full ring: acknowledge when there is room.
    pub(super) owes: bool,
    /// The SYN|ACK has been acknowledged, but without the data TCP_DEFER_ACCEPT wants.
    pub(super) deferred: bool,
    /// With the next tick the peer is asked where it stands.
    pub(super) nudge: bool,
    /// No longer the socket's: TCP ends it alone.
    pub(super) orphan: bool,
    /// What is to be told to the application that accepts it.
    pub(super) error: u16,
    pub(super) sock: u32,
    /// The listener whose SYN or accept queue it is in.
    pub(super) parent: u32,
    pub(super) ticket: Ticket,
    /// bind(2)'s endpoint, or all zero.
    pub(super) local: Endpoint,
    pub(super) tuple: Tuple,
    pub(super) hop: Hop,
    pub(super) meter: Meter,
    pub(super) opts: Opts,
    /// Of a connection nobody has accepted yet: what the listening socket's options were at the handshake.
    pub(super) inherited: Options,
    /// Sizes of the rings.
    pub(super) rx_size: u32,
    pub(super) tx_size: u32,
    /// How much of the send ring may be used: SO_SNDBUF lowered after the connection was made. The ring itself stays.
    pub(super) tx_limit: u32,
    /// How much of each ring has been touched since its pages were returned; bytes queued since the send ring was last empty.
    pub(super) rx_high: u32,
    pub(super) tx_high: u32,
    pub(super) tx_run: u32,
    /// Deadlines and times that [`tick`] looks at.
    pub(super) times: tick::Times,
    pub(super) engine: Place<Engine>,
}

/// What matters of the engine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) state: State,
    /// Bytes to read, bytes unacknowledged.
    pub(super) rq: usize,
    pub(super) sq: usize,
}

impl Inner {
    #[inline]
    pub(super) fn look(&mut self) -> Look {
        match self.engine.get_mut() {
            Some(e) => e.with(|s| Look { state: s.state(), rq: s.recv_queue(), sq: s.send_queue() }),
            None => Look { state: State::Closed, rq: 0, sq: 0 },
        }
    }
    /// The words its tuple has in the demux table.
    pub(super) fn words(&self) -> Words {
        demux::words(&self.tuple)
    }
    /// The socket, if it has one.
    #[inline]
    pub(super) fn sock(&self, cx: &Cx<'_>) -> Option<&'static Sock> {
        cx.inst.socks.get(Id::new(self.sock))
    }
    /// What poll(2) sees (tcp_poll).
    pub(super) fn ready(&self, look: &Look, error: bool) -> u32 {
        let mut m = if error { ERR } else { 0 };
        match self.phase {
            Phase::Free | Phase::Embryo => return 0,
            Phase::Fresh => {
                m |= HUP | OUT;
                if self.rcv_shut {
                    m |= IN | RDHUP;
                }
                return m;
            }
            Phase::Listening => return m,
            Phase::Connecting => return m,
            Phase::Open | Phase::Done => {}
        }
        let ending = self.lingering && matches!(look.state, State::FinWait1 | State::Closing | State::LastAck);
        if (self.phase == Phase::Done || (self.rcv_shut && self.snd_shut)) && !ending {
            m |= HUP;
        }
        if self.rcv_shut {
            m |= IN | RDHUP;
        }
        if look.rq >= self.opts.rcvlowat.max(1) as usize {
            m |= IN;
        }
        if self.snd_shut || self.writable(look) {
            m |= OUT;
        }
        m
    }
    /// sk_stream_is_writeable: a third of the room is free.
    #[inline]
    pub(super) fn writable(&self, look: &Look) -> bool {
        let free = (self.tx_limit as usize).saturating_sub(look.sq);
        let unsent = look.sq.saturating_sub(self.meter.in_flight());
        free >= look.sq / 2 && free > 0 && (self.opts.notsent_lowat == 0 || unsent < self.opts.notsent_lowat as usize)
    }
    /// Can the peer still be heard of?
    pub(super) fn live(&self) -> bool {
        matches!(self.phase, Phase::Connecting | Phase::Embryo | Phase::Open)
    }
    /// The local side as a socket of its family shows it.
    pub(super) fn name(&self, s: &Sock) -> Endpoint {
        match self.phase {
            Phase::Fresh | Phase::Listening | Phase::Free => {
                if self.local.port == 0 && self.local.ip == Ip::ANY6 && !s.is_v6() {
                    Endpoint::new(Ip::ANY4, 0)
                } else {
                    self.local
                }
            }
            _ => self.tuple.local,
        }
    }
}

/// A fresh flow for the socket `s`, in [`Phase::Fresh`].
pub(super) fn alloc<'c>(cx: &'c Cx<'_>) -> Option<(u32, &'static Flow, Guard<'c, Inner, { rank::FLOW }>)> {
    let Some((id, f)) = cx.inst.net.tcp.flows.alloc() else {
        bump(&cx.inst.stats.arena_full);
        return None;
    };
    f.next.store(0, Relaxed);
    f.lid.store(0, Relaxed);
    // A flow that was freed while it waited for room may still be in that list; it leaves it with the next round.
    if cx.inst.net.tcp.jam.load(Acquire) == 0 {
        f.jam.store(0, Relaxed);
    }
    let mut i = f.inner.lock(cx.me);
    let (rx_high, tx_high) = (i.rx_high, i.tx_high);
    i.phase = Phase::Fresh;
    (i.bound, i.hop_ok, i.rcv_shut, i.snd_shut, i.fin, i.pending, i.entered) = (false, false, false, false, false, false, false);
    (i.lingering, i.rewound, i.owes, i.deferred, i.orphan, i.nudge, i.error) = (false, false, false, false, false, false, 0);
    (i.sock, i.parent, i.ticket) = (0, 0, Ticket::NONE);
    (i.local, i.tuple) = (Endpoint::default(), Tuple::default());
    (i.rx_high, i.tx_high, i.tx_run) = (rx_high, tx_high, 0);
    i.meter = Meter::fresh(0, 0);
    i.opts = Opts::FRESH;
    i.times = tick::Times::default();
    i.engine.clear();
    Some((id.0, f, i))
}

/// The flow of a socket, locked.
#[inline]
pub(super) fn of<'c>(cx: &'c Cx<'_>, s: &Sock) -> Option<(u32, &'static Flow, Guard<'c, Inner, { rank::FLOW }>)> {
    let n = s.body.load(Acquire);
    let f = cx.inst.net.tcp.flows.get(Id::new(n))?;
    let i = lock(cx, n, f);
    Some((n, f, i))
}

/// Locks a flow. If its last holder died inside, the connection is reset.
#[inline]
pub(super) fn lock<'c>(cx: &'c Cx<'_>, n: u32, f: &'static Flow) -> Guard<'c, Inner, { rank::FLOW }> {
    let mut i = f.inner.lock(cx.me);
    if i.inherited() {
        repair(cx, n, &mut i);
    }
    i
}

#[cold]
fn repair(cx: &Cx<'_>, n: u32, i: &mut Inner) {
    // The engine is not to be trusted, not even to send its own reset.
    i.engine.clear();
    if i.live() {
        reset_peer(cx, i);
        finish(cx, n, i, Some(Errno::ECONNRESET));
    }
}

/// The next hop, looked up again if the last one is gone.
pub(super) fn hop(cx: &Cx<'_>, i: &mut Inner) -> Option<Hop> {
    if i.hop.leaves() && !route::is_valid(cx, &i.hop) {
        i.hop_ok = false;
    }
    if !i.hop_ok {
        let before = i.hop.mtu;
        i.hop = tx::hop(cx, i.tuple.local.ip, i.tuple.remote.ip).ok()?;
        i.hop_ok = true;
        i.times.stranded_since = 0;
        if i.hop.mtu != before {
            resize(cx, i);
        }
    }
    Some(i.hop)
}

/// The way to the peer has another MTU: segments are cut to it from now on. What is on its way and too long is sent again by the timer.
#[cold]
fn resize(cx: &Cx<'_>, i: &mut Inner) {
    let (hop, now) = (i.hop, cx.now());
    let most = (hop.mtu as usize).saturating_sub(ip_header(i.tuple.local.ip.is_v4()) + 20).min(usize::from(u16::MAX)) as u16;
    let Inner { engine, meter, tuple, .. } = i;
    meter.path_mss = most;
    if let Some(e) = engine.get_mut() {
        e.remake(&mut Port::new(cx, &hop, meter, 0), now, tuple.local.ip.wire());
    }
}

/// Makes the engine of a flow whose tuple and hop are set.
pub(super) fn start(cx: &Cx<'_>, n: u32, i: &mut Inner) {
    let now = cx.now();
    i.meter = Meter::fresh(i.opts.maxseg, now);
    i.times = tick::Times { used_at: now, ..tick::Times::default() };
    let w = i.words();
    // RFC 6528, with Linux's clock of 64 ns.
    let isn = (demux::hash(&w, demux::seed(cx).rotate_left(17)) as u32).wrapping_add((now >> 6) as u32);
    let hop = i.hop;
    let (leaves, nagle) = (hop.leaves(), !i.opts.nodelay);
    let Inner { meter, engine, tuple, rx_size, tx_size, tx_limit, tx_high, rx_high, opts, .. } = i;
    // What the ring's last user touched stays dirty until this one is done: no page is given back and taken again.
    (*rx_high, *tx_high) = ((*rx_high).min(PAGE as u32), (*tx_high).min(PAGE as u32));
    let mut port = Port::new(cx, &hop, meter, 0);
    let rings = ((*rx_size as usize).clamp(PAGE, ROOM), (*tx_size as usize).clamp(PAGE / 2, ROOM));
    (*rx_size, *tx_size) = (rings.0 as u32, rings.1 as u32);
    *tx_limit = *tx_size;
    let e = Engine::new(&mut port, now, tuple.local.ip.wire(), isn, &cx.inst.buffers, n as usize - 1, rings);
    let ttl = opts.hops();
    engine.set(e).with(|s| {
        s.set_hop_limit(Some(ttl));
        if leaves {
            // Out there a link may be full. (smoltcp's Cubic needs std: it takes cube roots.)
            s.set_congestion_control(CongestionControl::Reno);
            s.set_nagle_enabled(nagle);
        }
        s.set_ack_delay(Some(smoltcp::time::Duration::from_millis(ACK_DELAY_MS * crate::arena::engine::HASTE)));
    });
}

/// How long the next segment will be (IP header included), `base` bytes of the send queue having been sent.
fn guess(look: &Look, m: &Meter, v4: bool, base: usize) -> usize {
    let header = ip_header(v4) + 20;
    match look.state {
        State::SynSent => header + 12,
        State::SynReceived => header + if m.snd_scale == 255 { 4 } else { 12 } - if m.sack || m.snd_scale == 255 { 0 } else { 4 },
        State::Established | State::FinWait1 | State::Closing | State::CloseWait | State::LastAck => {
            let window = (m.snd_wnd as usize).saturating_sub(base);
            let unsent = look.sq.saturating_sub(base);
            header + unsent.min(window).min(m.mss())
        }
        _ => header,
    }
}

/// Emits what can be emitted now, and arms the timer. `eager`: the caller knows that there is something.
#[inline]
pub(super) fn drive(cx: &Cx<'_>, n: u32, i: &mut Inner, eager: bool) {
    let now = cx.now();
    let v4 = i.tuple.local.ip.is_v4();
    let Some(hop) = hop(cx, i) else {
        return stranded(cx, n, i);
    };
    let held = i.opts.corked() && hold_back(i, now);
    let rewound = core::mem::replace(&mut i.rewound, false);
    let (tos, owes, size) = (i.opts.tos, i.owes, i.rx_size);
    let Inner { engine, meter, .. } = &mut *i;
    let Some(e) = engine.get_mut() else { return };
    let (mut full, mut gone, mut quiet) = (false, false, false);
    let mut at = if eager { Some(0) } else { e.poll_at(now) };
    let mut base = if rewound { 0 } else { meter.in_flight() };
    if !held {
        for _ in 0..BURST {
            if at != Some(0) {
                break;
            }
            let look = e.with(|s| Look { state: s.state(), rq: s.recv_queue(), sq: s.send_queue() });
            let before = meter.bytes_sent;
            let mut port = Port::new(cx, &hop, meter, tos);
            port.guess = guess(&look, port.meter, v4, base);
            // Bug A: in these states an empty segment without cause would be emitted for ever.
            port.mute = port.meter.rcv_acked == port.meter.rcv_nxt
                && match look.state {
                    State::TimeWait => true,
                    State::FinWait2 => (size - look.rq as u32).wrapping_sub(port.meter.rcv_edge.wrapping_sub(port.meter.rcv_nxt)) < 64,
                    _ => false,
                };
            quiet = port.mute;
            e.egress(now, &mut port);
            (full, gone) = (port.full, port.gone);
            let idle = port.sent == 0;
            base += (meter.bytes_sent - before) as usize;
            at = e.poll_at(now);
            if idle || gone {
                break;
            }
        }
    }
    let closed = hop.leaves() && meter.synced && meter.snd_wnd == 0;
    if let Some(t) = at.filter(|&t| closed && t > now + PROBE && e.with(|s| s.send_queue()) > 0) {
        // The window is closed. Some out there open it without a word (passt), and the engine's probes come ever later.
        e.hasten(t - (now + PROBE));
        at = Some(now + PROBE);
    }
    if owes && !full && !gone && acknowledge(cx, i) {
        i.owes = false;
    }
    if gone {
        i.hop_ok = false;
    }
    let at = match at {
        Some(0) if full => {
            super::wait_for_room(cx, n);
            now + RETRY
        }
        Some(0) if gone => now + 200 * MS,
        Some(0) if held => i.times.cork_until,
        Some(0) if quiet => NEVER,
        // The floor under an overdue deadline (bug A, and whatever else would spin).
        Some(0) => now + MS,
        Some(t) => t,
        // The engine has let its timer go although something is not acknowledged (an RTO while the window was closed): ask how things stand.
        None if i.meter.waiting_since != 0 && i.phase == Phase::Open => {
            i.nudge = true;
            now + NUDGE
        }
        None => NEVER,
    };
    let at = if i.owes { at.min(now + RETRY) } else { at };
    timer::arm(cx, Owner::Flow(n), at.min(tick::deadline(i)));
}

/// Is there only a part segment to send, that an application wants held back?
fn hold_back(i: &mut Inner, now: Nanos) -> bool {
    let look = i.look();
    let unsent = look.sq.saturating_sub(i.meter.in_flight());
    if unsent == 0
        || unsent >= i.meter.mss()
        || !matches!(look.state, State::Established | State::CloseWait)
        || i.meter.rcv_nxt != i.meter.rcv_acked
    {
        i.times.cork_until = 0;
        return false;
    }
    if i.times.cork_until == 0 {
        i.times.cork_until = now + CORK;
    }
    now < i.times.cork_until
}

/// There is no way to the peer: its instance has left the segment. Try again for a while, it may be a moment's; then it is over, as when a
/// neighbour does not answer (EHOSTUNREACH for who calls it), or as when the kernel of a program that died tells its peers (ECONNRESET).
#[cold]
fn stranded(cx: &Cx<'_>, n: u32, i: &mut Inner) {
    if !i.live() {
        return;
    }
    let now = cx.now();
    if i.times.stranded_since == 0 {
        i.times.stranded_since = now;
    }
    let calling = i.phase == Phase::Connecting;
    if now >= i.times.stranded_since + if calling { 3 * SEC } else { SEC } {
        return finish(cx, n, i, Some(if calling { Errno::EHOSTUNREACH } else { Errno::ECONNRESET }));
    }
    timer::arm(cx, Owner::Flow(n), (now + 200 * MS).min(tick::deadline(i)));
}

/// Sends a bare acknowledgement (a challenge, an answer that was lost). False if it could not be sent.
pub(super) fn acknowledge(cx: &Cx<'_>, i: &mut Inner) -> bool {
    let m = i.meter;
    probe(cx, i, m.snd_nxt)
}

/// Sends an empty segment with sequence number `seq`: keep-alive probes have one that is too low.
pub(super) fn probe(cx: &Cx<'_>, i: &mut Inner, seq: u32) -> bool {
    let Some(hop) = hop(cx, i) else { return false };
    // The edge announced stays where it is: only the engine moves it.
    let m = &i.meter;
    let left = m.rcv_edge.wrapping_sub(m.rcv_nxt);
    let left = if (left as i32) < 0 { 0 } else { left };
    let window = (left >> m.scaled()).min(65535) as u16;
    let s = Segment { seq, ack: m.rcv_nxt, flags: ACK, window, ..Segment::default() };
    i.meter.segs_out = i.meter.segs_out.wrapping_add(1);
    wire::emit(cx, &hop, &i.tuple, &s, i.opts.hops(), i.opts.tos)
}

/// Tells the peer that the connection is no more.
pub(super) fn reset_peer(cx: &Cx<'_>, i: &mut Inner) {
    let Some(hop) = hop(cx, i) else { return };
    // tcp_acceptable_seq: beyond the peer's window (a probe's byte) a reset would not be believed.
    let m = &i.meter;
    let edge = m.snd_una.wrapping_add(m.snd_wnd);
    let seq = if m.snd_una != m.iss && meter::before(edge, m.snd_nxt) { edge } else { m.snd_nxt };
    let s = Segment { seq, ack: m.rcv_nxt, flags: RST | ACK, ..Segment::default() };
    wire::emit(cx, &hop, &i.tuple, &s, i.opts.hops(), i.opts.tos);
}

/// Tells poll(2).
#[inline]
pub(super) fn publish(cx: &Cx<'_>, i: &mut Inner, edges: u32) {
    let Some(s) = i.sock(cx) else { return };
    let look = i.look();
    s.publish(cx, i.ready(&look, s.error.load(Relaxed) != 0), edges);
}

/// The connection is over (reset, refused, timed out, closed by both): it leaves the table. `error` is what the application is told once.
/// What was received stays readable.
pub(super) fn finish(cx: &Cx<'_>, n: u32, i: &mut Inner, error: Option<Errno>) {
    leave(cx, n, i);
    let embryo = i.phase == Phase::Embryo;
    (i.rcv_shut, i.snd_shut) = (true, true);
    if embryo {
        super::listen::embryo_gone(cx, i.parent);
    }
    i.phase = Phase::Done;
    if let Some(e) = error {
        match i.sock(cx) {
            Some(s) => s.fail(e),
            None => i.error = e.0,
        }
        bump(&cx.inst.stats.tcp_estab_resets);
    }
    timer::arm(cx, Owner::Flow(n), NEVER);
    if i.orphan || embryo {
        free(cx, n, i);
    } else {
        publish(cx, i, IN | OUT | RDHUP | HUP | if error.is_some() { ERR } else { 0 });
    }
}

/// Takes the tuple out of the table.
pub(super) fn leave(cx: &Cx<'_>, n: u32, i: &mut Inner) {
    if i.entered {
        i.entered = false;
        demux::leave(cx, n, &i.words());
    }
}

/// Gives the flow back. Its lock is still held: whoever gets the item next waits for it.
pub(super) fn free(cx: &Cx<'_>, n: u32, i: &mut Inner) {
    leave(cx, n, i);
    i.phase = Phase::Free;
    i.engine.clear();
    i.sock = 0;
    if core::mem::replace(&mut i.orphan, false) {
        cx.inst.net.tcp.orphans.fetch_sub(1, Relaxed);
    }
    let ticket = core::mem::replace(&mut i.ticket, Ticket::NONE);
    if ticket != Ticket::NONE {
        port::redeem(cx, Space::Tcp, ticket);
    }
    give_back(cx, n, i, PAGE);
    timer::arm(cx, Owner::Flow(n), NEVER);
    cx.inst.net.tcp.flows.free(Id::new(n));
}

/// Returns the pages that the rings have touched beyond `keep` bytes.
pub(super) fn give_back(cx: &Cx<'_>, n: u32, i: &mut Inner, keep: usize) {
    let (rx, tx) = (i.rx_high as usize, i.tx_high as usize);
    if rx > keep || tx > keep {
        return_pages(&cx.inst.buffers, n as usize - 1, rx, tx, keep);
        (i.rx_high, i.tx_high) = (i.rx_high.min(keep as u32), i.tx_high.min(keep as u32));
    }
}

/// The connection is in TIME-WAIT: a small entry remembers it, the socket is done with it.
pub(super) fn put_to_rest(cx: &Cx<'_>, n: u32, i: &mut Inner) {
    let w = i.words();
    leave(cx, n, i);
    // An orphan's port goes with the entry; a socket still holds its own.
    let ticket = core::mem::replace(&mut i.ticket, Ticket::NONE);
    demux::rest(cx, &w, i.meter.snd_nxt, i.meter.rcv_nxt, ticket.0);
    finish(cx, n, i, None);
}

/// A flow of a socket that the caller holds must exist.
pub(super) fn must<'c>(cx: &'c Cx<'_>, s: &Held) -> crate::errno::Result<(u32, &'static Flow, Guard<'c, Inner, { rank::FLOW }>)> {
    of(cx, s.sock()).ok_or(Errno::ENOTCONN)
}
