//! Readiness: who waits for what, and how they are told.
//!
//! # Theory of operation
//! **Purpose.** select(2), poll(2), epoll(7) and every blocking call are one model: a [`Sock`] has a level ([`Sock::ready`], kept by its protocol)
//! and a [`WaitQueue`]; a waiter hooks on first and looks at the level second, a protocol sets the level first and looks for hooks second, so one
//! of them sees the other and no wake-up is lost (both sides SeqCst; `tests/tests/wakeup.rs` tries all interleavings of the model).
//! **How it works.** [`queue`] holds the hooks: of threads ([`crate::net::wait::Waiting`]) and of epoll items ([`epoll`]). A wake-up under a
//! protocol's lock only *notes* the sleeping thread in [`Wakes`]; the system call comes in [`Wakes::flush`], when no lock is held.
//! [`now`] is what poll(2) would answer; [`model`] maps it to pollfd and fd_set.
//! **Limits.** [`HOOKS`] hooks; a wait that finds none left naps instead of sleeping. An epoll descriptor passed by SCM_RIGHTS loses its virtual
//! side. **Locks.** QUEUE, see [`queue`]; EPOLL, see [`epoll`]. **Failure.** ENOSPC from a full item table, as epoll_ctl(2)'s max_user_watches.
//! **See also.** design section 7; `fs/eventpoll.c`, `fs/select.c`.
use crate::arena::{Id, Shared, Slab};
use crate::call::Kind;
use crate::fd::{OWNED_BY_THREAD, Sock};
use crate::gate::sigio::SigIo;
use crate::instance::Cx;
use crate::net::wait;
use core::cell::Cell;
use core::sync::atomic::Ordering::*;

pub mod epoll;
pub mod model;
pub mod queue;
pub(crate) mod repair;

pub use queue::WaitQueue;

/// Hooks of an instance: one for each (waiting thread, socket) beyond a thread's only one, and one for each epoll item.
pub const HOOKS: usize = 262_144;

/// EPOLLIN and friends as the bits poll(2) and epoll(7) share.
#[allow(missing_docs)]
pub mod ev {
    pub const IN: u32 = libc::EPOLLIN as u32;
    pub const PRI: u32 = libc::EPOLLPRI as u32;
    pub const OUT: u32 = libc::EPOLLOUT as u32;
    pub const ERR: u32 = libc::EPOLLERR as u32;
    pub const HUP: u32 = libc::EPOLLHUP as u32;
    pub const RDHUP: u32 = libc::EPOLLRDHUP as u32;
    pub const RDNORM: u32 = libc::EPOLLRDNORM as u32;
    pub const RDBAND: u32 = libc::EPOLLRDBAND as u32;
    pub const WRNORM: u32 = libc::EPOLLWRNORM as u32;
    pub const WRBAND: u32 = libc::EPOLLWRBAND as u32;
    /// Every event there is; as an edge: "its state changed", which matches every hook.
    pub const ALL: u32 = 0xffff;
    /// What is always asked for.
    pub const ALWAYS: u32 = ERR | HUP;
}

/// The replica's tables.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    /// Who hangs on which queue.
    pub hooks: Slab<queue::Hook, HOOKS>,
    /// Epoll sets.
    pub sets: Slab<epoll::Set, { epoll::SETS }>,
    /// Their interests.
    pub items: Slab<epoll::Item, { epoll::ITEMS }>,
}

/// What poll(2) would say of a socket now, all names of each bit included.
#[inline]
pub fn now(cx: &Cx<'_>, s: &Sock) -> u32 {
    match s.kind() {
        Kind::Epoll if epoll::is_ready(cx, s) => ev::IN | ev::RDNORM,
        Kind::Epoll => 0,
        kind => widen(kind, s.ready.load(SeqCst)),
    }
}

/// Linux says "readable" and "writable" by two or three bits at once.
#[inline]
pub(crate) fn widen(kind: Kind, mut r: u32) -> u32 {
    if r & ev::IN != 0 {
        r |= ev::RDNORM;
    }
    if r & ev::OUT != 0 {
        // datagram_poll() sets WRBAND, tcp_poll() does not.
        r |= if kind == Kind::Tcp { ev::WRNORM } else { ev::WRNORM | ev::WRBAND };
    }
    r
}

const NOTED: usize = 12;

/// Sleepers to wake and owners to signal when no lock is held any more.
#[derive(Default)]
pub struct Wakes {
    n: Cell<usize>,
    slots: [Cell<u32>; NOTED],
    /// The last one noted since it was set to 0.
    pub(crate) last: Cell<u32>,
    signals: Cell<usize>,
    owners: [Cell<SigIo>; 4],
}

impl Wakes {
    /// Notes a sleeping thread. With no room left it is woken at once: slower, since it will run into the caller's lock, and as good.
    #[inline]
    pub(crate) fn note(&self, cx: &Cx<'_>, slot: u32) {
        self.last.set(slot);
        let n = self.n.get();
        if self.slots[..n].iter().any(|s| s.get() == slot) {
            return;
        }
        if n == NOTED {
            wait::wake(cx, slot);
            return;
        }
        self.slots[n].set(slot);
        self.n.set(n + 1);
    }
    /// SIGIO (or F_SETSIG's) to the socket's owner.
    pub fn signal(&self, s: &Sock, edges: u32) {
        let owner = s.owner.load(Relaxed) as i32;
        if owner == 0 {
            return;
        }
        let about = s.owner_about.load(Relaxed);
        let what = SigIo {
            owner,
            thread: about & OWNED_BY_THREAD != 0,
            signal: s.owner_signal.load(Relaxed) as i32,
            fd: (about & !OWNED_BY_THREAD) as i32 - 1,
            events: edges & (ev::IN | ev::OUT | ev::ERR | ev::HUP),
        };
        let n = self.signals.get();
        if self.owners[..n].iter().any(|o| o.get() == what) {
            return;
        }
        if n == self.owners.len() {
            what.send();
            return;
        }
        self.owners[n].set(what);
        self.signals.set(n + 1);
    }
    /// Wakes them. No lock is held.
    #[inline]
    pub fn flush(&self, cx: &Cx<'_>) {
        if self.n.get() | self.signals.get() != 0 {
            self.deliver(cx);
        }
    }
    #[cold]
    fn deliver(&self, cx: &Cx<'_>) {
        for s in &self.slots[..self.n.replace(0)] {
            wait::wake(cx, s.get());
        }
        for o in &self.owners[..self.signals.replace(0)] {
            o.get().send();
        }
    }
}

/// A descriptor of the calling process was closed. Linux drops epoll registrations only when the last descriptor of the open description
/// goes; they are keyed (description, fd): epoll(7) Q6. So nothing happens here.
pub fn forget_fd(_cx: &Cx<'_>, _fd: i32, _sock: Id<Sock>) {}

/// The last reference to `sock` is gone: its epoll registrations and (if it is an epoll set) its items go.
pub fn release(cx: &Cx<'_>, s: &Sock, id: Id<Sock>) {
    epoll::release(cx, s, id);
}

#[cfg(test)]
mod tests;
