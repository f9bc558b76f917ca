//! Wait queues: the hooks on one open description.
//!
//! # Theory of operation
//! **Purpose.** To find, from a socket on which something happened, the threads and epoll items that care; for next to nothing if there are none.
//! **How it works.** The commonest case, one thread blocked on one socket, is a word of its own ([`WaitQueue::one`]): hooked on and off by one
//! compare-and-swap, no lock, no allocation. All others are [`Hook`]s in a list under the queue's lock, which is Linux's: those that want every
//! event first, exclusive ones behind them in the order they came. A wake-up visits all of the former and one of the latter; an exclusive thread is
//! taken off the queue by its wake-up (or the next event would be given to the same thread again, and lost for those behind it) and hooks on
//! again at the tail if it goes on waiting.
//! **Limits.** [`super::HOOKS`]. **Locks.** QUEUE. Waking an epoll item wakes the queue of its set from inside, a second lock of the same rank: sound,
//! because sets are nested without cycles (epoll_ctl refuses them), so there is an order: from the inner queue to the outer one.
//! **Failure.** [`add`] says so if there is no hook left. **See also.** `kernel/sched/wait.c`.
use super::ev;
use crate::arena::{Id, Shared};
use crate::fd::Sock;
use crate::instance::{Cx, Instance};
use crate::sync::{Lock, Me, rank};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// In [`Hook::who`]: the rest is an epoll item's number, not a waiting thread's slot.
const ITEM: u32 = 1 << 31;
/// In a mask: one such hook is enough for one event.
const EXCLUSIVE: u32 = 1 << 31;

/// Who waits for one open description.
#[repr(C)]
#[derive(Shared)]
pub struct WaitQueue {
    /// The only thread: its slot in the high half, its mask in the low half; 0: nobody.
    one: AtomicU64,
    /// First hook of the list; written under the lock, read without.
    head: AtomicU32,
    /// The last hook.
    tail: Lock<u32, { rank::QUEUE }>,
}

/// One hook in a queue. All fields but `sibling` belong to the queue's lock.
#[repr(C)]
#[derive(Shared)]
pub struct Hook {
    next: AtomicU32,
    prev: AtomicU32,
    /// Is it in the queue's list?
    linked: AtomicU32,
    who: AtomicU32,
    mask: AtomicU32,
    /// Whose queue.
    pub(crate) sock: AtomicU32,
    /// The next hook of the same waiting thread.
    pub(crate) sibling: AtomicU32,
    /// The waiter is content with the hint in the level (an epoll set's own).
    pub(crate) hint: AtomicU32,
    /// A repair has found whose it is.
    pub(crate) kept: AtomicU32,
}

/// Who is to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// A waiting thread's slot.
    Thread(u32),
    /// An epoll item.
    Item(u32),
}

impl WaitQueue {
    /// An empty queue (a recycled socket).
    pub fn reset(&self, cx: &Cx<'_>) {
        self.one.store(0, Relaxed);
        if self.head.load(Relaxed) != 0 {
            *self.tail.lock(cx.me) = 0;
            self.head.store(0, SeqCst);
        }
    }

    /// Events happened: tells the hooks that want them. May be called under any protocol lock; the system calls come in [`Cx::flush`].
    #[inline]
    pub fn wake(&self, cx: &Cx<'_>, events: u32) {
        // SeqCst: see Sock::publish.
        let one = self.one.load(SeqCst);
        let head = self.head.load(SeqCst);
        if one != 0 || head != 0 {
            self.wake_as(cx, cx.me, events, true);
        }
    }

    /// [`Self::wake`] of threads only: what an epoll_wait(2) leaves behind is for others who wait for the same set, and no news for sets around it.
    pub(crate) fn wake_threads(&self, cx: &Cx<'_>, events: u32) {
        if self.one.load(SeqCst) != 0 || self.head.load(SeqCst) != 0 {
            self.wake_as(cx, cx.me, events, false);
        }
    }

    /// [`Self::wake`] for a queue behind another one, whose lock is held. True if anybody waits there.
    pub(crate) fn wake_outer(&self, cx: &Cx<'_>, events: u32) -> bool {
        let any = self.one.load(SeqCst) != 0 || self.head.load(SeqCst) != 0;
        if any {
            // A second lock of the same rank, inner before outer: a fresh `Me` tells the rank check so.
            self.wake_as(cx, &Me::new(cx.me.pid, cx.me.tid), events, true);
        }
        any
    }

    #[inline(never)]
    fn wake_as(&self, cx: &Cx<'_>, me: &Me, events: u32, items: bool) {
        let events = key(events);
        let mut given = false;
        let one = self.one.load(SeqCst);
        if one != 0 && one as u32 & events & ev::ALL != 0 {
            cx.wakes.note(cx, (one >> 32) as u32);
            given = one as u32 & EXCLUSIVE != 0;
        }
        if self.head.load(SeqCst) == 0 {
            return;
        }
        let hooks = &cx.inst.poll.hooks;
        let mut tail = self.tail.lock(me);
        let mut at = self.head.load(Relaxed);
        // Bounded: a thread that died here may have left the list in any order, until it is put right.
        for _ in 0..super::HOOKS {
            let Some(h) = hooks.get(Id::new(at)) else { break };
            let id = at;
            at = h.next.load(Relaxed);
            let mask = h.mask.load(Relaxed);
            let exclusive = mask & EXCLUSIVE != 0;
            if exclusive && given {
                break;
            }
            if mask & events & ev::ALL == 0 {
                continue;
            }
            let who = h.who.load(Relaxed);
            if who & ITEM != 0 {
                given |= items && super::epoll::fire(cx, who & !ITEM, events) && exclusive;
            } else {
                if exclusive {
                    self.unlink(cx.inst, &mut tail, id, h);
                    given = true;
                }
                cx.wakes.note(cx, who);
            }
        }
    }

    /// Hooks the only thread on, if there is no other in that place. It is not taken off by a wake-up, so an exclusive one must pass on what it
    /// leaves (epoll_wait(2) does; accept(2) does not and is never here).
    #[inline]
    pub(crate) fn add_one(&self, slot: u32, mask: u32, exclusive: bool) -> bool {
        let word = u64::from(slot) << 32 | u64::from(mask & ev::ALL | if exclusive { EXCLUSIVE } else { 0 });
        self.one.compare_exchange(0, word, SeqCst, Relaxed).is_ok()
    }
    /// Unhooks the only thread.
    #[inline]
    pub(crate) fn remove_one(&self, slot: u32) {
        let one = self.one.load(Relaxed);
        if (one >> 32) as u32 == slot {
            let _ = self.one.compare_exchange(one, 0, SeqCst, Relaxed);
        }
    }

    /// After a death inside: an empty list, and the only thread if it says so itself. [`relink`] puts the others back.
    pub(crate) fn repair(&self, cx: &Cx<'_>, sock: Id<Sock>) {
        let one = self.one.load(Relaxed);
        if one != 0 && !crate::net::wait::repair::is_only(cx, (one >> 32) as u32, sock.0) {
            self.one.store(0, SeqCst);
        }
        if let Some(mut tail) = self.tail.take_over(cx.me) {
            *tail = 0;
            self.head.store(0, SeqCst);
        }
    }

    fn link(&self, inst: &Instance, tail: &mut u32, id: u32, h: &Hook) {
        let hooks = &inst.poll.hooks;
        let head = self.head.load(Relaxed);
        h.linked.store(1, Relaxed);
        if h.mask.load(Relaxed) & EXCLUSIVE != 0 {
            h.next.store(0, Relaxed);
            h.prev.store(*tail, Relaxed);
            if let Some(t) = hooks.get(Id::new(*tail)) {
                t.next.store(id, Relaxed);
            }
            *tail = id;
            if head == 0 {
                self.head.store(id, SeqCst);
            }
        } else {
            h.prev.store(0, Relaxed);
            h.next.store(head, Relaxed);
            if let Some(f) = hooks.get(Id::new(head)) {
                f.prev.store(id, Relaxed);
            } else {
                *tail = id;
            }
            self.head.store(id, SeqCst);
        }
    }

    fn unlink(&self, inst: &Instance, tail: &mut u32, id: u32, h: &Hook) {
        if h.linked.swap(0, Relaxed) == 0 {
            return;
        }
        let hooks = &inst.poll.hooks;
        let (prev, next) = (h.prev.load(Relaxed), h.next.load(Relaxed));
        match hooks.get(Id::new(prev)) {
            Some(p) => p.next.store(next, Relaxed),
            None => self.head.store(next, SeqCst),
        }
        match hooks.get(Id::new(next)) {
            Some(n) => n.prev.store(prev, Relaxed),
            None => *tail = prev,
        }
        debug_assert!(id != 0);
    }

    /// Visits the epoll items hooked on, until `f` says false. The lock is held meanwhile.
    pub(crate) fn each_item(&self, cx: &Cx<'_>, mut f: impl FnMut(u32) -> bool) {
        if self.head.load(SeqCst) == 0 {
            return;
        }
        let hooks = &cx.inst.poll.hooks;
        let _tail = self.tail.lock(cx.me);
        let mut at = self.head.load(Relaxed);
        for _ in 0..super::HOOKS {
            let Some(h) = hooks.get(Id::new(at)) else { break };
            let who = h.who.load(Relaxed);
            if who & ITEM != 0 && !f(who & !ITEM) {
                return;
            }
            at = h.next.load(Relaxed);
        }
    }
}

/// What a wake-up is matched by: sock_def_readable() and sock_def_write_space() say all names of their event at once.
#[inline]
fn key(mut events: u32) -> u32 {
    if events & ev::IN != 0 {
        events |= ev::PRI | ev::RDNORM | ev::RDBAND;
    }
    if events & ev::OUT != 0 {
        events |= ev::WRNORM | ev::WRBAND;
    }
    events
}

/// Hooks `who` on a socket's queue; `None` if there is no hook left.
pub(crate) fn add(cx: &Cx<'_>, sock: Id<Sock>, s: &Sock, who: Who, mask: u32, exclusive: bool) -> Option<Id<Hook>> {
    let (id, h) = cx.inst.poll.hooks.alloc()?;
    let who = match who {
        Who::Thread(slot) => slot,
        Who::Item(item) => item | ITEM,
    };
    h.who.store(who, Relaxed);
    h.mask.store(mask & ev::ALL | if exclusive { EXCLUSIVE } else { 0 }, Relaxed);
    h.sock.store(sock.0, Relaxed);
    h.sibling.store(0, Relaxed);
    h.hint.store(0, Relaxed);
    let mut tail = s.queue.tail.lock(cx.me);
    s.queue.link(cx.inst, &mut tail, id.0, h);
    Some(id)
}

/// Takes a hook off its queue and frees it. The socket must still be open (its hook holds, or its release is under way). True if it was
/// exclusive and had been told.
pub(crate) fn remove(cx: &Cx<'_>, s: &Sock, id: Id<Hook>) -> bool {
    let Some(h) = cx.inst.poll.hooks.get(id) else { return false };
    let told = {
        let mut tail = s.queue.tail.lock(cx.me);
        let told = h.linked.load(Relaxed) == 0;
        s.queue.unlink(cx.inst, &mut tail, id.0, h);
        told
    };
    cx.inst.poll.hooks.free(id);
    told
}

/// Hooks an exclusive thread on again if it was told. True if it had been.
pub(crate) fn again(cx: &Cx<'_>, s: &Sock, id: Id<Hook>) -> bool {
    let Some(h) = cx.inst.poll.hooks.get(id) else { return false };
    let mut tail = s.queue.tail.lock(cx.me);
    let told = h.linked.load(Relaxed) == 0;
    if told {
        s.queue.link(cx.inst, &mut tail, id.0, h);
    }
    told
}

/// Puts a hook back into its queue's list after [`WaitQueue::repair`], unless it had been taken off by a wake-up.
pub(crate) fn relink(cx: &Cx<'_>, s: &Sock, id: Id<Hook>, h: &Hook) {
    if h.linked.load(Relaxed) != 0
        && let Some(mut tail) = s.queue.tail.take_over(cx.me)
    {
        s.queue.link(cx.inst, &mut tail, id.0, h);
    }
}

/// Does the hook belong to this epoll item?
pub(crate) fn is_item(h: &Hook, item: u32) -> bool {
    h.who.load(Relaxed) == item | ITEM
}

/// Changes what a hook asks for.
pub(crate) fn ask(cx: &Cx<'_>, s: &Sock, id: Id<Hook>, mask: u32) {
    let Some(h) = cx.inst.poll.hooks.get(id) else { return };
    let _tail = s.queue.tail.lock(cx.me);
    h.mask.store(mask & ev::ALL | h.mask.load(Relaxed) & EXCLUSIVE, Relaxed);
}

/// What a thread's hook asks for.
pub(crate) fn asked(h: &Hook) -> u32 {
    h.mask.load(Relaxed) & ev::ALL
}
