//! The end of a connection: shutdown(2), close(2), connect(2) with AF_UNSPEC.
//!
//! # Theory of operation
//! **Purpose.** Linux's rules for FIN and RST: a close(2) with unread data resets, so does SO_LINGER of 0; else the FIN goes out after all that
//! was sent, and the flow lives on as an orphan, so no byte is lost.
//! **Locks.** The flow's; for a listener its own first. **Failure.** ENOTCONN.
use super::flow::{self, HUP, IN, Inner, OUT, Phase, State};
use super::listen;
use crate::arena::Id;
use crate::errno::{Errno, Result};
use crate::fd::{Held, Sock};
use crate::instance::Cx;
use crate::net::addr::{Endpoint, Tuple};
use crate::net::port::{self, Space};
use crate::poll::ev;
use core::sync::atomic::Ordering::*;

/// Back to a socket without a connection (tcp_disconnect): what bind(2) gave stays.
pub(super) fn to_fresh(cx: &Cx<'_>, n: u32, i: &mut Inner) {
    flow::leave(cx, n, i);
    i.engine.clear();
    i.phase = Phase::Fresh;
    i.tuple = Tuple::default();
    (i.rcv_shut, i.snd_shut, i.fin, i.pending, i.lingering, i.owes) = (false, false, false, false, false, false);
    if !i.bound {
        port::release(cx, Space::Tcp, Id::new(i.sock));
        i.local = Endpoint::default();
    }
    crate::net::timer::arm(cx, crate::net::timer::Owner::Flow(n), crate::clock::NEVER);
    flow::publish(cx, i, 0);
}

/// connect(2) with AF_UNSPEC.
pub(super) fn disconnect(cx: &Cx<'_>, s: &Held) -> Result<()> {
    let (n, f, mut i) = flow::must(cx, s)?;
    match i.phase {
        Phase::Listening => {
            drop(i);
            listen::stop(cx, n, f);
            return Ok(());
        }
        Phase::Open => {
            // Those that can still send are told (tcp_need_reset).
            if matches!(i.look().state, State::Established | State::CloseWait | State::FinWait1 | State::FinWait2 | State::SynReceived) {
                flow::reset_peer(cx, &mut i);
                s.fail(Errno::ECONNRESET);
            }
        }
        Phase::Connecting => s.fail(Errno::ECONNRESET),
        _ => {}
    }
    to_fresh(cx, n, &mut i);
    flow::publish(cx, &mut i, IN | OUT | HUP);
    Ok(())
}

/// shutdown(2).
pub(super) fn shutdown(cx: &Cx<'_>, s: &Held, how: i32) -> Result<()> {
    let (rd, wr) = (how != libc::SHUT_WR, how != libc::SHUT_RD);
    let (n, f, mut i) = flow::must(cx, s)?;
    match i.phase {
        Phase::Listening => {
            drop(i);
            if rd {
                listen::stop(cx, n, f);
            }
            s.queue.wake(cx, ev::ALL);
            return Ok(());
        }
        Phase::Connecting => {
            to_fresh(cx, n, &mut i);
            flow::publish(cx, &mut i, ev::ALL);
            return Ok(());
        }
        Phase::Open => {}
        _ => {
            // inet_shutdown() wakes everybody (sk_state_change), even where it does nothing else.
            flow::publish(cx, &mut i, ev::ALL);
            return Err(Errno::ENOTCONN);
        }
    }
    i.rcv_shut |= rd;
    if wr && !i.snd_shut {
        i.snd_shut = true;
        send_fin(cx, n, &mut i);
    }
    flow::publish(cx, &mut i, ev::ALL);
    Ok(())
}

/// Closes the sending half: the FIN goes after what is queued, corked or not.
fn send_fin(cx: &Cx<'_>, n: u32, i: &mut Inner) {
    i.opts.uncork();
    if let Some(e) = i.engine.get_mut() {
        e.with(|s| s.close());
    }
    flow::drive(cx, n, i, true);
}

/// close(2) with SO_LINGER: is there something to wait for?
pub(super) fn lingers(cx: &Cx<'_>, s: &Held) -> bool {
    let linger = s.options.lock(cx.me).linger;
    let Some((n, _, mut i)) = flow::of(cx, s) else { return false };
    if linger <= 0 || i.phase != Phase::Open || i.look().rq > 0 {
        return false;
    }
    i.lingering = true;
    (i.rcv_shut, i.snd_shut) = (true, true);
    send_fin(cx, n, &mut i);
    let state = i.look().state;
    flow::publish(cx, &mut i, 0);
    matches!(state, State::FinWait1 | State::Closing | State::LastAck)
}

/// The last reference to the socket is gone.
pub(super) fn close(cx: &Cx<'_>, s: &'static Sock) {
    let linger = s.options.lock(cx.me).linger;
    let Some((n, f, mut i)) = flow::of(cx, s) else { return };
    if i.phase == Phase::Listening {
        drop(i);
        listen::stop(cx, n, f);
        i = flow::lock(cx, n, f);
    }
    s.body.store(0, Release);
    let id = Id::new(i.sock);
    if i.phase != Phase::Open {
        i.sock = 0;
        port::release(cx, Space::Tcp, id);
        return flow::free(cx, n, &mut i);
    }
    let look = i.look();
    if look.rq > 0 || linger == 0 {
        flow::reset_peer(cx, &mut i);
        i.sock = 0;
        port::release(cx, Space::Tcp, id);
        return flow::free(cx, n, &mut i);
    }
    i.ticket = port::orphan(cx, Space::Tcp, id);
    i.sock = 0;
    i.orphan = true;
    cx.inst.net.tcp.orphans.fetch_add(1, Relaxed);
    (i.rcv_shut, i.snd_shut) = (true, true);
    i.times.orphan_since = cx.now();
    send_fin(cx, n, &mut i);
    if look.state == State::FinWait2 && i.opts.linger2 < 0 {
        flow::reset_peer(cx, &mut i);
        flow::finish(cx, n, &mut i, None);
    }
}
