//! After a death inside: TCP's tables.
//!
//! # Theory of operation
//! **Purpose.** What a thread that was killed inside TCP leaves: a flow half changed, a flow or a listener that belongs to nobody, chains and counts that
//! do not agree with what there is.
//! **How it works.** The instance is halted ([`crate::desk`]), so whatever lock is held is a dead thread's. A flow whose lock is held is reset: its engine
//! may be half changed, and that connection is what the death costs. Then each flow must be somebody's: a socket's, a listener's queue's, or an
//! orphan's; what is nobody's is freed. Chains, queues and counts are made anew from the flows and listeners themselves.
//! **Locks.** All of TCP's, one at a time. **Failure.** None. **See also.** [`crate::repair`].
use super::demux;
use super::flow::{self, Flow, HUP, IN, OUT, Phase, RDHUP};
use super::listen;
use crate::arena::Id;
use crate::call::Kind;
use crate::instance::Cx;
use crate::net::port::{self, Space};
use crate::net::timer::{self, Owner};
use core::sync::atomic::Ordering::*;

/// Puts TCP's tables right.
pub(crate) fn repair(cx: &Cx<'_>) {
    let t = &cx.inst.net.tcp;
    drop(t.scratch.take_over(cx.me));
    t.flows.repair();
    t.listeners.repair();
    demux::repair_chains(cx);
    listeners(cx);
    t.jam.store(0, SeqCst);
    let mut orphans = 0;
    for (id, f) in t.flows.iter() {
        f.jam.store(0, Relaxed);
        orphans += u32::from(flow(cx, id.0, f));
    }
    t.orphans.store(orphans, SeqCst);
    listen::repair_queues(cx);
    demux::repair_rests(cx);
}

/// Each listener must be a listening flow's.
fn listeners(cx: &Cx<'_>) {
    let t = &cx.inst.net.tcp;
    for (id, l) in t.listeners.iter() {
        let theirs = t.flows.get(Id::new(l.flow())).is_some_and(|f| f.lid.load(Relaxed) == id.0);
        if !theirs {
            t.listeners.free(id);
        }
    }
}

/// One flow. True: it is an orphan.
fn flow(cx: &Cx<'_>, n: u32, f: &'static Flow) -> bool {
    // Somebody who only looks (csel ss) may hold it: then it is whole.
    let Some(mut i) = f.inner.take_over(cx.me) else { return false };
    if i.inherited() {
        i.engine.clear();
        if f.key.is_set() && !i.entered {
            demux::leave(cx, n, &f.key.words());
        }
        if i.live() {
            flow::reset_peer(cx, &mut i);
        }
        if i.phase != Phase::Free && i.phase != Phase::Fresh && i.phase != Phase::Listening {
            // Counted again below; finish() would take it from a listener's counts.
            i.parent = 0;
            let embryo = i.phase == Phase::Embryo;
            flow::finish(cx, n, &mut i, Some(crate::errno::Errno::ECONNRESET));
            if embryo || i.phase == Phase::Free {
                return false;
            }
        }
    }
    let listens = i.phase == Phase::Listening;
    let lid = f.lid.load(Relaxed);
    if listens && cx.inst.net.tcp.listeners.get(Id::new(lid)).is_none() {
        f.lid.store(0, Relaxed);
        i.phase = Phase::Fresh;
        port::unlisten(cx, Id::new(i.sock));
        flow::publish(cx, &mut i, IN | OUT | HUP | RDHUP);
    }
    let socket = i.sock != 0 && i.sock(cx).is_some_and(|s| s.kind() == Kind::Tcp && s.body.load(Relaxed) == n);
    let waits = i.sock == 0
        && i.parent != 0
        && cx.inst.net.tcp.listeners.get(Id::new(i.parent)).is_some()
        && matches!(i.phase, Phase::Embryo | Phase::Open | Phase::Done);
    let orphan = i.sock == 0 && i.orphan && i.live();
    if !(socket || waits || orphan) {
        if i.live() && i.engine.get().is_some() {
            flow::reset_peer(cx, &mut i);
        }
        if !listens {
            f.lid.store(0, Relaxed);
        }
        i.parent = 0;
        flow::free(cx, n, &mut i);
        return false;
    }
    if socket && matches!(i.phase, Phase::Fresh | Phase::Listening) && (i.bound || listens) {
        port::restore(cx, Space::Tcp, Id::new(i.sock), &i.local, i.phase == Phase::Listening);
    }
    if i.live() {
        // A timer that the dead thread had taken and not run, or not yet queued: a tick too many does no harm.
        timer::arm(cx, Owner::Flow(n), cx.now());
    }
    orphan
}

/// The reservations of ports that connections without a socket have. False: not all of them, somebody who only looks holds a flow.
pub(crate) fn each_ticket(cx: &Cx<'_>, mut each: impl FnMut(u32)) -> bool {
    demux::each_ticket(cx, &mut each);
    let mut all = true;
    for (_, f) in cx.inst.net.tcp.flows.iter() {
        match f.inner.take_over(cx.me) {
            Some(i) => each(i.ticket.number()),
            None => all = false,
        }
    }
    all
}
