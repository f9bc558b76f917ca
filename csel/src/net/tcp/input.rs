//! Segments in: which flow, what Linux and RFC 5961 demand that smoltcp does not do, and what has changed afterwards.
//!
//! # Theory of operation
//! **Purpose.** The receiving half of TCP around the engine.
//! **How it works.** [`input`] finds the flow by its tuple and locks it. Before the engine sees a segment, it is judged here: resets and SYNs in
//! a synchronized state (RFC 5961), data beyond the buffer (bug B), data for an application that has closed, pure acknowledgements with an old
//! sequence number (smoltcp would answer, not read them), whether the accept queue has room for the third step of the handshake. Afterwards
//! the state before and after tells what happened: established, closed, reset, refused. What concerns the listener is done when the flow's
//! lock is let go of, since the listener's comes first.
//! A segment for nobody is a new connection, belongs to TIME-WAIT, or is answered with a reset.
//! **Locks.** The flow's. **Failure.** Nonsense is counted and dropped.
use super::demux::{self, Words};
use super::flow::{self, Flow, HUP, IN, Inner, Look, OUT, Phase, RDHUP, State};
use super::listen;
use super::meter::{ACK, FIN, RST, SYN, Segment, before};
use super::wire::{self, Port};
use crate::clock::MS;
use crate::errno::Errno;
use crate::instance::Cx;
use crate::net::Packet;
use crate::net::addr::{Endpoint, Tuple};
use crate::net::link::tx;
use crate::stats::bump;

/// What is to be done when the flow's lock is let go of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Then {
    /// Nothing.
    Nothing,
    /// It is established: into the accept queue of this listener.
    Queue(u32),
    /// There is no connection any more: judge the segment as one for nobody.
    Nobody,
}

/// A TCP segment for one of our addresses.
pub(super) fn input(cx: &Cx<'_>, p: &Packet<'_>) {
    let Some(s) = Segment::parse(p.payload) else {
        return bump(&cx.inst.stats.ip_in_errors);
    };
    bump(&cx.inst.stats.tcp_in_segs);
    if !wire::is_whole(p.src, p.dst, p.payload) {
        return bump(&cx.inst.stats.ip_in_errors);
    }
    let port = |i: usize| u16::from_be_bytes([p.payload[i], p.payload[i + 1]]);
    let t = Tuple { local: Endpoint::new(p.dst, port(2)), remote: Endpoint::new(p.src, port(0)) };
    let w = demux::words(&t);
    // A tuple may change hands between the lookup and the lock: then look again.
    for _ in 0..4 {
        let Some((n, f)) = demux::find(cx, &w) else { break };
        match to_flow(cx, n, f, &w, p, &s) {
            Some(Then::Nothing) => return,
            Some(Then::Queue(listener)) => return listen::enqueue(cx, listener, n, f),
            Some(Then::Nobody) => break,
            None => {}
        }
    }
    to_nobody(cx, &t, &w, p, &s);
}

/// None: it is another's by now.
#[inline]
fn to_flow(cx: &Cx<'_>, n: u32, f: &'static Flow, w: &Words, p: &Packet<'_>, s: &Segment) -> Option<Then> {
    let mut i = flow::lock(cx, n, f);
    if !f.key.is(w) || !i.entered {
        return None;
    }
    Some(segment(cx, n, &mut i, p, s))
}

/// A segment without a flow: TIME-WAIT, a listener, or nobody.
fn to_nobody(cx: &Cx<'_>, t: &Tuple, w: &Words, p: &Packet<'_>, s: &Segment) {
    if let Some(r) = demux::resting(cx, w) {
        // A new connection may take the tuple over: its sequence number is beyond the old one's, or the old one has been quiet for long enough
        // that nothing of it is under way in this host.
        let fresh = before(r.rcv_nxt, s.seq) || r.age > 1000 * MS;
        match () {
            () if s.has(RST) => return demux::disturb(cx, &r),
            () if s.has(SYN) && !s.has(ACK) && fresh => demux::disturb(cx, &r),
            () => {
                // Only what takes sequence space is answered, or two who rest would talk for ever.
                if s.space() > 0 || s.seq != r.rcv_nxt {
                    let ack = Segment { seq: r.snd_nxt, ack: r.rcv_nxt, flags: ACK, ..Segment::default() };
                    answer(cx, t, &ack);
                }
                return;
            }
        }
    }
    if s.has(SYN) && !s.has(ACK) && !s.has(RST) && listen::syn(cx, t, w, p, s) {
        return;
    }
    bump(&cx.inst.stats.tcp_no_socket);
    refuse(cx, t, s);
}

/// Resets whoever sent this.
pub(super) fn refuse(cx: &Cx<'_>, t: &Tuple, s: &Segment) {
    if s.has(RST) || t.remote.ip.is_multicast() || t.remote.ip.is_unspecified() || t.local.ip.is_multicast() {
        return;
    }
    let rst = if s.has(ACK) {
        Segment { seq: s.ack, flags: RST, ..Segment::default() }
    } else {
        Segment { ack: s.seq.wrapping_add(s.space()), flags: RST | ACK, ..Segment::default() }
    };
    answer(cx, t, &rst);
}

fn answer(cx: &Cx<'_>, t: &Tuple, s: &Segment) {
    if let Ok(hop) = tx::hop(cx, t.local.ip, t.remote.ip) {
        wire::emit(cx, &hop, t, s, 64, 0);
    }
}

/// What to do with a segment before the engine sees it.
enum Verdict {
    Take,
    /// With this sequence number instead, or as a bare acknowledgement with it.
    TakeAs(u32),
    Drop,
    /// Answer that the window is still closed, and take the acknowledgement in it.
    Probe,
    /// Answer with where we stand (RFC 5961).
    Challenge,
    /// Close on the application's behalf: it sent data to somebody who will not read it.
    Abort,
    Nobody,
}

fn judge(cx: &Cx<'_>, i: &mut Inner, look: &Look, s: &Segment) -> Verdict {
    let m = &i.meter;
    if look.state == State::SynSent {
        return if s.has(SYN) || s.has(RST) || s.has(ACK) { Verdict::Take } else { Verdict::Drop };
    }
    if s.has(RST) {
        let ahead = s.seq.wrapping_sub(m.rcv_nxt);
        return match () {
            () if ahead == 0 => Verdict::Take,
            () if ahead < m.rcv_edge.wrapping_sub(m.rcv_nxt).max(1) && ahead < 1 << 30 => Verdict::Challenge,
            () => Verdict::Drop,
        };
    }
    if s.has(SYN) {
        // Both called at once: the other's SYN|ACK is our acknowledgement.
        if look.state == State::SynReceived && s.has(ACK) && s.ack == m.iss.wrapping_add(1) && s.seq == m.irs {
            return Verdict::TakeAs(m.rcv_nxt);
        }
        return if look.state == State::SynReceived { Verdict::Drop } else { Verdict::Challenge };
    }
    if !s.has(ACK) {
        return Verdict::Drop;
    }
    // A probe of a window that we closed: the unit we hold back is not for it, or each probe would let a byte through.
    if s.len == 1 && s.seq == m.rcv_nxt && m.rcv_edge == m.rcv_nxt && m.scaled() > 0 && !super::io::opened(i, look.rq) {
        return Verdict::Probe;
    }
    let end = s.seq.wrapping_add(s.len as u32);
    let free = (i.rx_size as usize).saturating_sub(look.rq) as u32;
    if s.len > 1 && before(m.rcv_nxt.wrapping_add(free), end) {
        // Beyond what we announced, or (in SYN-RECEIVED) beyond what we could mean: bug B.
        return Verdict::Drop;
    }
    if s.len == 1 && s.seq == m.rcv_nxt && m.rcv_edge == m.rcv_nxt && free >> m.scaled() == 0 && i.phase == Phase::Open {
        // The engine probes a closed window with a byte of data, and would take it into what the window's scale leaves free: no byte may pass a
        // window that was announced as closed. It is answered as a keep-alive is.
        return Verdict::TakeAs(m.rcv_nxt.wrapping_sub(1));
    }
    if s.len > 0 && before(m.rcv_nxt, end) && i.rcv_shut && !i.fin && matches!(look.state, State::FinWait1 | State::FinWait2) {
        return Verdict::Abort;
    }
    if i.phase == Phase::Embryo && look.state == State::SynReceived {
        if s.ack != m.iss.wrapping_add(1) {
            return Verdict::Nobody;
        }
        return match listen::admit(cx, i, s) {
            listen::Admit::Yes => Verdict::Take,
            listen::Admit::NotNow => Verdict::Drop,
            listen::Admit::Gone => Verdict::Abort,
        };
    }
    let old = m.rcv_nxt.wrapping_sub(s.seq);
    let scale = if m.rcv_scale == 255 || m.snd_scale == 255 { 0 } else { m.snd_scale };
    let news = before(m.snd_una, s.ack) || u32::from(s.window) << scale != m.snd_wnd;
    let closing = matches!(look.state, State::FinWait1 | State::Closing | State::LastAck);
    if s.len == 0 && !s.has(FIN) && !news && old == 0 && look.sq == 0 && closing {
        // The engine's bug: three of these while only our FIN is out start its fast retransmission, which stops the timer and finds nothing to
        // send, so that a FIN that was lost (or came before its data, which it drops) is never sent again.
        return Verdict::Drop;
    }
    if s.len == 0 && !s.has(FIN) && old != 0 && old < 1 << 31 {
        // A sequence number that is one too low is a keep-alive, and wants an answer, unless it says something.
        return if old == 1 && !news { Verdict::Take } else { Verdict::TakeAs(m.rcv_nxt) };
    }
    Verdict::Take
}

/// A segment for a flow in the table.
pub(super) fn segment(cx: &Cx<'_>, n: u32, i: &mut Inner, p: &Packet<'_>, s: &Segment) -> Then {
    let was = i.look();
    let embryo = i.phase == Phase::Embryo;
    let parent = i.parent;
    let mut small = [0; 60];
    let mut fed = *s;
    let mut ip = p.ip;
    match judge(cx, i, &was, s) {
        Verdict::Take => {}
        verdict @ (Verdict::TakeAs(_) | Verdict::Probe) => {
            if matches!(verdict, Verdict::Probe) {
                flow::acknowledge(cx, i);
            }
            fed.seq = if let Verdict::TakeAs(seq) = verdict { seq } else { s.seq };
            fed.flags &= !(SYN | FIN);
            fed.len = 0;
            ip = bare(&mut small, p, &fed);
        }
        Verdict::Drop => {
            i.meter.heard_at = cx.now();
            return Then::Nothing;
        }
        Verdict::Challenge => {
            // At most one each 200 ms: two who disagree must not answer each other for ever.
            let now = cx.now();
            if now >= i.times.challenge_at {
                i.times.challenge_at = now + 200 * MS;
                flow::acknowledge(cx, i);
            }
            return Then::Nothing;
        }
        Verdict::Abort => {
            flow::reset_peer(cx, i);
            flow::finish(cx, n, i, Some(Errno::ECONNRESET));
            return Then::Nothing;
        }
        Verdict::Nobody => return Then::Nobody,
    }
    if was.state == State::SynSent && s.has(SYN) && !(s.has(ACK) && s.ack != i.meter.iss.wrapping_add(1)) {
        i.meter.peer_syn(s, p.payload);
    }
    let Some(hop) = flow::hop(cx, i) else { return Then::Nothing };
    let now = cx.now();
    let tos = i.opts.tos;
    let Inner { engine, meter, .. } = &mut *i;
    let Some(e) = engine.get_mut() else { return Then::Nobody };
    let mut port = Port::new(cx, &hop, meter, tos);
    port.rx = Some(ip);
    e.ingress(now, &mut port);
    i.owes |= port.lost;
    let is = i.look();
    let then = after(cx, n, i, &was, &is, &fed, embryo);
    if embryo && !s.has(RST) && then != Then::Queue(parent) {
        listen::unadmit(cx, parent);
    }
    then
}

/// The bare acknowledgement that a segment amounts to, as a packet of its own.
fn bare<'a>(into: &'a mut [u8; 60], p: &Packet<'_>, s: &Segment) -> &'a [u8] {
    let v4 = p.dst.is_v4();
    let at = wire::ip_header(v4);
    let ip = &mut into[..at + 20];
    let from = p.ip.len().min(at);
    ip[..from].copy_from_slice(&p.ip[..from]);
    ip[at..].copy_from_slice(&p.payload[..20]);
    if v4 {
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&40u16.to_be_bytes());
    } else {
        ip[4..6].copy_from_slice(&20u16.to_be_bytes());
        ip[6] = 6;
    }
    ip[at + 4..at + 8].copy_from_slice(&s.seq.to_be_bytes());
    ip[at + 12] = 5 << 4;
    ip[at + 13] = s.flags;
    ip
}

/// The engine has taken a segment: what has happened?
#[inline]
fn after(cx: &Cx<'_>, n: u32, i: &mut Inner, was: &Look, is: &Look, s: &Segment, embryo: bool) -> Then {
    let now = cx.now();
    let fin = matches!(
        (was.state, is.state),
        (State::Established | State::SynReceived, State::CloseWait)
            | (State::FinWait1, State::Closing | State::TimeWait)
            | (State::FinWait2, State::TimeWait)
    );
    let syn_acked = matches!(was.state, State::SynSent | State::SynReceived)
        && matches!(is.state, State::Established | State::CloseWait | State::FinWait1 | State::FinWait2);
    let fin_acked =
        matches!((was.state, is.state), (State::FinWait1, State::FinWait2 | State::TimeWait) | (State::Closing, State::TimeWait))
            || (was.state == State::LastAck && is.state == State::Closed && !s.has(RST));
    let fresh = is.rq.saturating_sub(was.rq) as u32;
    let acked = was.sq.saturating_sub(is.sq) as u32 + u32::from(syn_acked) + u32::from(fin_acked);
    i.meter.heard(s, fresh + u32::from(fin), acked, fin_acked, now);
    i.times.heard(now);
    if s.len > 0 {
        let end = i.meter.bytes_received.saturating_add(u64::from(i.meter.rcv_max.wrapping_sub(i.meter.rcv_nxt) & 0x7fff_ffff));
        i.rx_high = i.rx_high.max(end.min(u64::from(i.rx_size)) as u32);
    }
    if was.state == is.state {
        // The common case: data, or room.
        if i.meter.dup_acks >= 3 {
            i.rewound = true;
        }
        flow::drive(cx, n, i, false);
        if fresh > 0 || acked > 0 {
            flow::publish(cx, i, if fresh > 0 { IN } else { 0 });
        }
        return Then::Nothing;
    }
    let mut then = Then::Nothing;
    let mut edges = if fresh > 0 { IN } else { 0 };
    if syn_acked {
        i.meter.synced = true;
        i.phase = Phase::Open;
        edges |= OUT;
        if embryo {
            listen::embryo_gone(cx, i.parent);
            then = Then::Queue(i.parent);
        }
    }
    if fin {
        i.fin = true;
        i.rcv_shut = true;
        edges |= IN | RDHUP | HUP;
    }
    match is.state {
        State::Closed | State::Listen => {
            let error = match was.state {
                _ if !s.has(RST) => None,
                State::SynSent | State::SynReceived => Some(Errno::ECONNREFUSED),
                State::CloseWait => Some(Errno::EPIPE),
                State::Closed | State::TimeWait => None,
                _ => Some(Errno::ECONNRESET),
            };
            flow::finish(cx, n, i, error);
        }
        State::TimeWait => {
            flow::drive(cx, n, i, true);
            // An acknowledgement that was being held back holds that of the FIN back too; nobody would send it from here on.
            if i.meter.rcv_acked != i.meter.rcv_nxt {
                flow::acknowledge(cx, i);
            }
            flow::put_to_rest(cx, n, i);
        }
        _ => {
            flow::drive(cx, n, i, false);
            flow::publish(cx, i, edges);
        }
    }
    then
}
