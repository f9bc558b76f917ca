//! After a death inside: hooks, wait queues and epoll sets, anew from the waiting threads and the interests. The instance is halted ([`crate::desk`]).
use super::{epoll, queue};
use crate::arena::Id;
use crate::instance::Cx;
use crate::net::wait;
use core::sync::atomic::Ordering::*;

/// Puts them right.
pub(crate) fn repair(cx: &Cx<'_>) {
    let (p, socks) = (&cx.inst.poll, &cx.inst.socks);
    p.hooks.repair();
    p.sets.repair();
    p.items.repair();
    for (_, h) in p.hooks.iter() {
        h.kept.store(0, Relaxed);
    }
    wait::repair::repair(cx, |_, h| h.kept.store(1, Relaxed));
    epoll::repair(cx);
    for (id, s) in socks.iter() {
        s.queue.repair(cx, id);
    }
    for (id, h) in p.hooks.iter() {
        if h.kept.load(Relaxed) == 0 {
            p.hooks.free(id);
        } else if let Some(s) = socks.get(Id::new(h.sock.load(Relaxed))) {
            queue::relink(cx, s, id, h);
        }
    }
}
