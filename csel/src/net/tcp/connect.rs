//! bind(2) and connect(2).
//!
//! # Theory of operation
//! **Purpose.** Addresses, ports and the active half of the handshake, with the answers inet_stream_connect gives: a connect(2) in progress is
//! reported once ([`super::flow::Inner::pending`] is Linux's SS_CONNECTING), how it failed once.
//! **Locks.** The flow's, then the port table's. **Failure.** errno as connect(2), bind(2) and ip(7) have it.
use super::close::to_fresh;
use super::demux;
use super::flow::{self, Inner, Phase};
use crate::errno::{Errno, Result};
use crate::fd::{Held, Sock};
use crate::instance::Cx;
use crate::net::addr::{Endpoint, Ip, Tuple};
use crate::net::iface;
use crate::net::link::tx;
use crate::net::option::flag;
use crate::net::port::{self, Space};
use crate::stats::bump;
use smoltcp::wire::IpEndpoint;

/// bind(2).
pub(super) fn bind(cx: &Cx<'_>, s: &Held, at: &Endpoint) -> Result<()> {
    let v6only = s.options.lock(cx.me).v6only;
    let ip = at.ip;
    if s.is_v6() && v6only && ip.is_v4() {
        return Err(Errno::EINVAL);
    }
    if ip.is_multicast() && !ip.is_v4() {
        return Err(Errno::EINVAL);
    }
    // Linux lets even a stream be bound to a group or to everybody (inet_addr_valid_or_nonlocal).
    let (free, device) = {
        let o = s.options.lock(cx.me);
        (o.has(flag::FREEBIND | flag::TRANSPARENT), o.device)
    };
    iface::may_bind(cx, ip, if at.scope != 0 { at.scope } else { device }, free, true)?;
    let (_, _, mut i) = flow::must(cx, s)?;
    if i.phase != Phase::Fresh || i.bound {
        return Err(Errno::EINVAL);
    }
    let port = port::bind(cx, Space::Tcp, s.id(), at)?;
    i.local = Endpoint::new(ip, port).with_scope(at.scope);
    i.bound = true;
    Ok(())
}

/// An address of several hosts?
fn group(ip: Ip) -> bool {
    ip.is_multicast() || ip == Ip::BROADCAST
}

/// The address a connection to `dst` comes from, if nobody says.
fn source(cx: &Cx<'_>, dst: Ip, device: u32) -> Result<Ip> {
    if dst.is_loopback() {
        return Ok(if dst.is_v4() { Ip::LOOPBACK4 } else { Ip::LOOPBACK6 });
    }
    iface::source(cx, dst, device)
}

/// Ring sizes from SO_RCVBUF and SO_SNDBUF, and all else of SOL_SOCKET that TCP looks at.
pub(super) fn adopt(cx: &Cx<'_>, s: &Sock, i: &mut Inner) {
    let o = *s.options.lock(cx.me);
    i.opts.adopt(&o);
    if !i.live() && i.engine.get().is_none() {
        let size = |now: u32, usual: u32| if now == usual { super::RING } else { now / 2 };
        i.rx_size = size(o.rcvbuf, crate::net::option::TCP_RMEM);
        i.tx_size = size(o.sndbuf, crate::net::option::TCP_WMEM);
    } else if o.sndbuf != crate::net::option::TCP_WMEM {
        // Never less than two full segments: with less in flight the peer would hold its acknowledgement back, and each round would take 40 ms.
        i.tx_limit = (o.sndbuf / 2).max(2 * 65536).min(i.tx_size);
    }
}

/// connect(2), first call.
pub(super) fn connect(cx: &Cx<'_>, s: &Held, to: &Endpoint) -> Result<()> {
    let (n, _, mut i) = flow::must(cx, s)?;
    match i.phase {
        Phase::Fresh => begin(cx, n, s, &mut i, to),
        Phase::Connecting => Err(Errno::EALREADY),
        Phase::Open | Phase::Done if i.pending => outcome(cx, n, s, &mut i),
        _ => Err(Errno::EISCONN),
    }
}

/// Is it neither connected nor about to be, and no listener? Then it may still become the kernel's (`--route`).
pub fn is_fresh(cx: &Cx<'_>, s: &Held) -> bool {
    flow::must(cx, s).is_ok_and(|(_, _, i)| i.phase == Phase::Fresh)
}

/// connect(2), after a wait.
pub(super) fn connected(cx: &Cx<'_>, s: &Held) -> Result<()> {
    let (n, _, mut i) = flow::must(cx, s)?;
    match i.phase {
        Phase::Connecting => Err(Errno::EINPROGRESS),
        Phase::Open | Phase::Done if i.pending => outcome(cx, n, s, &mut i),
        Phase::Open => Ok(()),
        _ => Err(s.take_error().unwrap_or(Errno::ECONNABORTED)),
    }
}

/// Says once how a connect(2) went.
fn outcome(cx: &Cx<'_>, n: u32, s: &Held, i: &mut Inner) -> Result<()> {
    i.pending = false;
    if i.phase == Phase::Open {
        return Ok(());
    }
    let e = s.take_error().unwrap_or(Errno::ECONNABORTED);
    to_fresh(cx, n, i);
    Err(e)
}

fn begin(cx: &Cx<'_>, n: u32, s: &Held, i: &mut Inner, to: &Endpoint) -> Result<()> {
    let mut to = *to;
    if to.ip.is_unspecified() {
        // RFC 1122 forbids it, BSD and Linux mean this host.
        to.ip = if to.ip == Ip::ANY4 || (s.is_v6() && i.local.ip.is_v4()) { Ip::LOOPBACK4 } else { Ip::LOOPBACK6 };
    }
    if to.ip.is_multicast() || to.ip == Ip::BROADCAST {
        return Err(Errno::ENETUNREACH);
    }
    // tcp_v6_connect: a link-local address says nothing without its link.
    if to.ip.is_link_local6() && to.scope == 0 && s.options.lock(cx.me).device == 0 {
        return Err(Errno::EINVAL);
    }
    if s.is_v6() && to.ip.is_v4() && s.options.lock(cx.me).v6only {
        return Err(Errno::ENETUNREACH);
    }
    let bound = s.options.lock(cx.me).device;
    let device = if bound == iface::UP || bound == 0 && to.ip.is_link_local6() && to.scope == iface::UP { iface::UP } else { 0 };
    let from = if i.local.ip.is_unspecified() || group(i.local.ip) { source(cx, to.ip, device)? } else { i.local.ip };
    if from.is_v4() != to.ip.is_v4() {
        return Err(if from.is_v4() { Errno::ENETUNREACH } else { Errno::EINVAL });
    }
    let hop = tx::hop(cx, from, to.ip)?;
    if hop.port == tx::Hop::FLOOD {
        return Err(Errno::ENETUNREACH);
    }
    // What went wrong before is forgotten (tcp_connect_init).
    s.take_error();
    i.tuple = Tuple { local: Endpoint::new(from, i.local.port), remote: to };
    if i.local.port == 0 {
        // Another thread may be told the same port: the connection table has the last word.
        let mut tries = 0;
        loop {
            let taken = |port: u16| {
                let w = demux::words(&Tuple { local: Endpoint::new(from, port), remote: to });
                demux::find(cx, &w).is_some() || demux::resting(cx, &w).is_some_and(|r| r.age < crate::clock::SEC)
            };
            i.tuple.local.port = port::ephemeral(cx, Space::Tcp, s.id(), &Endpoint::new(from, 0), &to, &taken)?;
            if demux::enter(cx, n, &i.words()) {
                break;
            }
            tries += 1;
            if tries == 16 {
                port::release(cx, Space::Tcp, s.id());
                return Err(Errno::EADDRNOTAVAIL);
            }
        }
    } else if !demux::enter(cx, n, &i.words()) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    i.entered = true;
    let w = i.words();
    if let Some(r) = demux::resting(cx, &w) {
        demux::disturb(cx, &r);
    }
    (i.hop, i.hop_ok) = (hop, true);
    (i.rcv_shut, i.snd_shut, i.fin, i.pending) = (false, false, false, true);
    adopt(cx, s, i);
    flow::start(cx, n, i);
    i.times.began_at = cx.now();
    i.phase = Phase::Connecting;
    bump(&cx.inst.stats.tcp_active_opens);
    let end = |e: &Endpoint| IpEndpoint::new(e.ip.wire(), e.port);
    let (local, remote) = (end(&i.tuple.local), end(&i.tuple.remote));
    if !i.engine.get_mut().is_some_and(|e| e.connect(local, remote)) {
        // Port 0: nobody can listen there.
        flow::finish(cx, n, i, Some(Errno::ECONNREFUSED));
        return Err(Errno::EINPROGRESS);
    }
    flow::publish(cx, i, 0);
    flow::drive(cx, n, i, true);
    Err(Errno::EINPROGRESS)
}
