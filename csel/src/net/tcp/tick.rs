//! Deadlines: what ends or prods a connection when nothing is heard.
//!
//! # Theory of operation
//! **Purpose.** smoltcp retransmits for ever, has no FIN-WAIT-2 timer and a keep-alive without a count. What Linux's timers do beyond that is here.
//! **How it works.** [`deadline`] is the earliest moment at which something is to be done about a flow besides what its engine asks for; [`tick`]
//! does it. The limits are Linux's defaults: a connect gives up after 131 s (tcp_syn_retries 6), a SYN|ACK after 63 s (tcp_synack_retries 5), data
//! after 924 s (tcp_retries2 15), an orphan after 105 s (tcp_orphan_retries 8), FIN-WAIT-2 after 60 s (tcp_fin_timeout).
//! A second after a connection was last used, the pages of its empty rings go back to the system.
//! **Locks.** The flow's. **Failure.** ETIMEDOUT, or what an ICMP error said.
use super::flow::{self, Inner, Phase, State};
use crate::arena::Shared;
use crate::clock::{NEVER, Nanos, SEC};
use crate::errno::Errno;
use crate::instance::Cx;
use crate::net::timer::{self, Owner};

/// tcp_synack_retries 5.
const SYN_ACK: Nanos = 63 * SEC;
/// tcp_retries2 15.
const DATA: Nanos = 924 * SEC;
/// tcp_orphan_retries (0 means 8).
const ORPHAN: Nanos = 105 * SEC;
/// tcp_fin_timeout.
pub(super) const FIN_TIMEOUT: Nanos = 60 * SEC;
/// How long a connection rests before its pages go back.
const IDLE: Nanos = SEC;

/// Moments of a flow; 0 is none.
#[repr(C)]
#[derive(Clone, Copy, Default, Shared, Debug)]
pub(super) struct Times {
    /// When the handshake began.
    pub(super) began_at: Nanos,
    /// Held-back data goes out then.
    pub(super) cork_until: Nanos,
    /// An orphan in FIN-WAIT-2 since.
    pub(super) fin2_since: Nanos,
    /// It became an orphan.
    pub(super) orphan_since: Nanos,
    /// No challenge before.
    pub(super) challenge_at: Nanos,
    /// Keep-alive probes sent since something was heard, the last of them.
    pub(super) probes: u32,
    pub(super) probed_at: Nanos,
    /// Since when there is no way to the peer.
    pub(super) stranded_since: Nanos,
    /// The rings were last used.
    pub(super) used_at: Nanos,
    /// What an ICMP error said of the way (sk_err_soft).
    pub(super) soft_error: u16,
}

impl Times {
    #[inline]
    pub(super) fn heard(&mut self, now: Nanos) {
        self.probes = 0;
        self.used_at = now;
    }
}

/// When to give up on what is not acknowledged.
fn give_up_at(i: &Inner) -> Nanos {
    let m = &i.meter;
    if m.waiting_since == 0 && (i.times.orphan_since == 0 || m.snd_wnd != 0) {
        return NEVER;
    }
    let user = u64::from(i.opts.user_timeout) * 1_000_000;
    let mut since = m.waiting_since;
    if m.snd_wnd == 0 && i.times.orphan_since == 0 && user == 0 {
        // A peer that answers probes with a closed window may do so for ever.
        since = since.max(m.heard_at);
    }
    if i.times.orphan_since != 0 {
        return since.max(i.times.orphan_since) + ORPHAN;
    }
    since.saturating_add(if user != 0 { user } else { DATA })
}

/// When the next keep-alive probe is due, or the last one has gone unanswered.
fn keepalive_at(i: &Inner, state: State) -> Nanos {
    let o = &i.opts;
    let quiet = !matches!(state, State::Established | State::CloseWait | State::FinWait1 | State::FinWait2);
    if !o.keepalive || quiet || i.meter.waiting_since != 0 {
        return NEVER;
    }
    if i.times.probes == 0 {
        i.meter.heard_at.max(i.meter.data_sent_at).saturating_add(u64::from(o.keepidle) * SEC)
    } else {
        i.times.probed_at.saturating_add(u64::from(o.keepintvl) * SEC)
    }
}

/// The earliest deadline that is not the engine's.
#[inline]
pub(super) fn deadline(i: &mut Inner) -> Nanos {
    match i.phase {
        Phase::Connecting => return (i.times.began_at + i.opts.connect_limit()).min(user_limit(i)),
        Phase::Embryo => return i.times.began_at + SYN_ACK + SEC * u64::from(i.opts.defer_accept),
        Phase::Open => {}
        _ => return NEVER,
    }
    let mut at = give_up_at(i);
    if i.opts.keepalive || i.orphan {
        let state = i.look().state;
        at = at.min(keepalive_at(i, state));
        if i.orphan && state == State::FinWait2 {
            at = at.min(i.times.orphan_since.max(i.times.fin2_since) + i.opts.fin2());
        }
    }
    if i.rx_high > 0 || i.tx_high > 0 {
        at = at.min(i.times.used_at + IDLE);
    }
    at
}

fn user_limit(i: &Inner) -> Nanos {
    if i.opts.user_timeout == 0 { NEVER } else { i.times.began_at + u64::from(i.opts.user_timeout) * 1_000_000 }
}

/// The timer of flow `n` is due.
pub(super) fn tick(cx: &Cx<'_>, n: u32) {
    let Some(f) = cx.inst.net.tcp.flows.get(crate::arena::Id::new(n)) else { return };
    let mut i = flow::lock(cx, n, f);
    let now = cx.now();
    if !i.live() {
        return;
    }
    let timed_out = |i: &Inner| match i.times.soft_error {
        0 => Errno::ETIMEDOUT,
        e => Errno(e),
    };
    let due = deadline(&mut i) <= now;
    match i.phase {
        Phase::Connecting if now >= (i.times.began_at + i.opts.connect_limit()).min(user_limit(&i)) => {
            let e = timed_out(&i);
            return flow::finish(cx, n, &mut i, Some(e));
        }
        Phase::Embryo if due => return flow::finish(cx, n, &mut i, None),
        Phase::Open => {
            let look = i.look();
            if i.orphan && flow::hop(cx, &mut i).is_none() {
                // Nobody reads it here, and nobody is there any more: the peer's instance has left the segment.
                return flow::finish(cx, n, &mut i, None);
            }
            if now >= give_up_at(&i) {
                // Linux tells the peer only when an orphan is given up.
                if i.orphan {
                    flow::reset_peer(cx, &mut i);
                }
                let e = timed_out(&i);
                return flow::finish(cx, n, &mut i, Some(e));
            }
            if i.orphan && look.state == State::FinWait2 && now >= i.times.orphan_since.max(i.times.fin2_since) + i.opts.fin2() {
                return flow::finish(cx, n, &mut i, None);
            }
            if core::mem::replace(&mut i.nudge, false) && i.meter.waiting_since != 0 {
                let seq = i.meter.snd_una.wrapping_sub(1);
                flow::probe(cx, &mut i, seq);
            }
            if now >= keepalive_at(&i, look.state) {
                if i.times.probes >= u32::from(i.opts.keepcnt) {
                    flow::reset_peer(cx, &mut i);
                    let e = timed_out(&i);
                    return flow::finish(cx, n, &mut i, Some(e));
                }
                i.times.probes += 1;
                i.times.probed_at = now;
                let seq = i.meter.snd_una.wrapping_sub(1);
                flow::probe(cx, &mut i, seq);
            }
            if now >= i.times.used_at + IDLE && (i.rx_high > 0 || i.tx_high > 0) {
                let hole = i.meter.rcv_max != i.meter.rcv_nxt && !i.fin;
                if look.rq == 0 && look.sq == 0 && !hole {
                    flow::give_back(cx, n, &mut i, 0);
                } else {
                    i.times.used_at = now;
                }
            }
        }
        _ => {}
    }
    if i.meter.in_flight() > 0 {
        i.rewound = true;
    }
    flow::drive(cx, n, &mut i, false);
    if i.phase == Phase::Open && i.engine.get_mut().is_none() {
        timer::arm(cx, Owner::Flow(n), NEVER);
    }
    if i.times.probes > 0 {
        flow::publish(cx, &mut i, 0);
    }
}
