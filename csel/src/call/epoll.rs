//! epoll_create(2), epoll_ctl(2), epoll_wait(2): the virtual half of an epoll descriptor.
//!
//! The front end has the kernel's half: the application's descriptor is a real epoll descriptor, in which it registers the kernel's descriptors and
//! nested epoll descriptors first (so that EPERM, ELOOP and their like are the kernel's), and whose events it adds to ours.
use crate::call::Kind;
use crate::errno::{Errno, Result};
use crate::fd::Held;
use crate::gate;
use crate::instance::Cx;
use crate::net::link::rx;
use crate::net::wait::{HINT, How, Waiting};
pub use crate::poll::epoll::Event;
use crate::poll::{epoll, ev};
use core::sync::atomic::Ordering::*;

/// epoll_create(2) without the descriptor.
pub fn create(cx: &Cx<'_>) -> Result<Held> {
    epoll::create(cx)
}

/// epoll_ctl(2) on a virtual descriptor.
pub fn ctl(cx: &Cx<'_>, ep: &Held, op: i32, target: &Held, fd: i32, event: Event) -> Result<()> {
    epoll::ctl(cx, ep, op, target, fd, event)
}

/// The interest of `ep` in a nested descriptor has got a watch ([`crate::gate::edge`]); its number, none if there is no such interest or it has one.
pub fn watch(cx: &Cx<'_>, ep: &Held, target: &Held, fd: i32, watch: i32) -> Option<u32> {
    epoll::watch(cx, ep, target, fd, watch)
}

/// It is to do without.
pub fn unwatch(cx: &Cx<'_>, interest: u32, watch: i32) {
    epoll::unwatch(cx, interest, watch);
}

/// Does anybody need this watch any more?
pub fn is_watched(cx: &Cx<'_>, interest: u32, watch: i32) -> bool {
    epoll::is_watched(cx, interest, watch)
}

/// A kernel descriptor was registered in (or taken from) the kernel's half.
pub fn kernel(cx: &Cx<'_>, ep: &Held, added: bool) {
    epoll::kernel(cx, ep, added);
}

/// Is there anything in the kernel's half?
pub fn has_kernel(cx: &Cx<'_>, ep: &Held) -> bool {
    epoll::set(cx, ep).is_some_and(|set| set.kernel.load(Acquire) != 0)
}

/// May the kernel's half go first this time? It may every other time that ours alone filled the room.
pub fn kernel_first(cx: &Cx<'_>, ep: &Held) -> bool {
    epoll::set(cx, ep).is_some_and(|set| set.turn.swap(0, Relaxed) != 0)
}

/// Ours alone filled the room.
pub fn was_full(cx: &Cx<'_>, ep: &Held) {
    if let Some(set) = epoll::set(cx, ep) {
        set.turn.store(1, Relaxed);
    }
}

/// What is ready of the virtual half. EINVAL: not an epoll descriptor.
pub fn take(cx: &Cx<'_>, ep: &Held, out: &mut [Event]) -> Result<usize> {
    if ep.kind() != Kind::Epoll {
        return Err(Errno::EINVAL);
    }
    // What has arrived meanwhile counts, as it would in the kernel; a few loads if nothing has.
    crate::net::progress(cx);
    let n = epoll::wait(cx, ep, out);
    if n > 0 || !rx::is_draining(cx) {
        return Ok(n);
    }
    // Somebody else (the keeper, another thread) is delivering just now: a socket may be ready already while its set has not been told. In the
    // kernel a sender delivers over loopback before it returns; give them the moment it takes.
    for _ in 0..8 {
        gate::sched_yield();
        if !rx::is_draining(cx) {
            break;
        }
    }
    Ok(epoll::wait(cx, ep, out))
}

/// Hooks the calling thread on to the set. One event wakes one such thread.
pub fn begin(cx: &Cx<'_>, ep: &Held, bell: u64) -> Waiting {
    Waiting::begin(cx, &[(ep.id(), ev::IN | HINT)], How { exclusive: true, bell })
}
