//! After a death inside: datagram, ping and raw sockets. The instance is halted ([`crate::desk`]).
use super::{frag, multicast, raw};
use crate::call::Kind;
use crate::instance::Cx;
use crate::net::port;
use core::sync::atomic::Ordering::*;

/// A socket whose holder died inside loses what it had received and not yet given out; a body that is no socket's is freed.
pub(crate) fn repair(cx: &Cx<'_>) {
    let d = &cx.inst.net.dgram;
    d.bodies.repair();
    frag::repair(cx);
    for (id, lock) in d.bodies.iter() {
        let Some(mut b) = lock.take_over(cx.me) else { continue };
        if b.inherited() {
            b.queue.reset();
            b.errors.reset();
            b.cork.reset();
        }
        let socket = cx
            .inst
            .socks
            .get(b.id())
            .filter(|s| b.sock != 0 && s.body.load(Relaxed) == id.0 && !matches!(s.kind(), Kind::Tcp | Kind::Epoll));
        if let Some(s) = socket {
            if let Some(space) = b.space().filter(|_| b.bound) {
                port::restore(cx, space, b.id(), &b.local, false);
            }
            b.publish(cx, s, 0);
            continue;
        }
        if let Some(space) = b.space().filter(|_| b.sock != 0 && b.bound) {
            port::release(cx, space, b.id());
        }
        b.sock = 0;
        b.members.reset();
        b.queue.reset();
        drop(b);
        d.bodies.free(id);
    }
    raw::repair(cx);
    multicast::recount(cx, |each| {
        for (_, lock) in d.bodies.iter() {
            if let Some(b) = lock.take_over(cx.me) {
                each(&b.members);
            }
        }
    });
}
