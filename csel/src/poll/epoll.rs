//! epoll(7): sets of interest in virtual sockets.
//!
//! # Theory of operation
//! **Purpose.** What `fs/eventpoll.c` does, event for event, for sockets that are ours. The application's epoll descriptor is a real one of the
//! kernel's, in which its kernel descriptors (and nested epoll descriptors, so that the kernel judges loops and depth) are registered; this is its
//! other half.
//! **How it works.** An [`Item`] is an interest, keyed as Linux keys it on (open description, descriptor). Its hook on the socket's queue fires it:
//! it is pushed onto its set's *incoming* stack, without the set's lock (a protocol's lock may be held), and the set's own queue is woken.
//! [`wait`] takes the set's lock, turns the stack into the tail of the *ready list*, and goes through the list from its head as Linux does: an item
//! leaves the list, is asked for its level, is reported if that is not empty, and goes back to the tail if it is level-triggered. What was not reached
//! stays at the head. EPOLLET so needs no counter: an item is on the list if something happened since it was last reported. An item is at most once
//! on stack or list ([`Item::linked`]); one deleted while there is freed when it is met.
//! The set's `Sock::ready` is a hint: EPOLLIN if the list may not be empty. [`is_ready`] is the truth, for poll(2) and sets around this one.
//! An edge-triggered interest in a nested set whose kernel's half is not empty needs both halves: the edge may be the one's and the level the
//! other's. So its level asks the kernel too ([`level`]), and a *watch* ([`crate::gate::edge`], made by the front end) tells of the kernel's edges.
//! **Limits.** [`SETS`], [`ITEMS`]; EPOLLWAKEUP is taken and means nothing. The set of a nested descriptor with EPOLLONESHOT is disarmed on this
//! side only. A thread asleep is not woken by a kernel's edge whose level is ours only. **Locks.** EPOLL: one set; a nested set's is taken inside (outer before inner: there are no cycles), under a fresh `Me`; a
//! socket's QUEUE inside. The stack needs none.
//! **Failure.** ENOSPC: no item left. **See also.** epoll_ctl(2), epoll_wait(2).
use super::{ev, now, queue};
use crate::arena::{Id, Shared};
use crate::errno::{Errno, Result};
use crate::fd::{self, Held, Sock};
use crate::gate::edge;
use crate::instance::Cx;
use crate::sync::{Guard, Lock, Me, rank};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// Epoll sets of an instance.
pub const SETS: usize = 16_384;
/// Interests of all sets.
pub const ITEMS: usize = 262_144;

/// Flags that an interest keeps when EPOLLONESHOT disarms it.
const PRIVATE: u32 = (libc::EPOLLWAKEUP | libc::EPOLLONESHOT | libc::EPOLLET | libc::EPOLLEXCLUSIVE) as u32;
/// All that EPOLLEXCLUSIVE goes with.
const EXCLUSIVE_OK: u32 = ev::IN | ev::OUT | ev::ERR | ev::HUP | (libc::EPOLLWAKEUP | libc::EPOLLET | libc::EPOLLEXCLUSIVE) as u32;

/// One epoll set.
#[repr(C)]
#[derive(Shared)]
pub struct Set {
    /// Its own open description.
    sock: AtomicU32,
    /// Stack of items that have fired.
    incoming: AtomicU32,
    /// Registrations of kernel descriptors: 0 means the kernel's half is empty and need not be asked.
    pub kernel: AtomicU32,
    /// The last report filled the caller's room with our half only: the kernel's goes first next time.
    pub turn: AtomicU32,
    /// Items with a watch.
    watches: AtomicU32,
    lists: Lock<Lists, { rank::EPOLL }>,
}

/// What the set's lock guards.
#[repr(C)]
#[derive(Shared)]
struct Lists {
    head: u32,
    tail: u32,
    /// All items, doubly linked.
    all: u32,
}

/// One interest.
#[repr(C)]
#[derive(Shared)]
pub struct Item {
    /// Its set; 0: deleted.
    set: AtomicU32,
    sock: AtomicU32,
    fd: AtomicU32,
    events: AtomicU32,
    data: AtomicU64,
    hook: AtomicU32,
    /// The watch on its kernel's half, plus one; a descriptor of the process that registered it.
    watch: AtomicU32,
    /// It is on the incoming stack or the ready list.
    linked: AtomicU32,
    /// The next one there.
    next: AtomicU32,
    after: AtomicU32,
    before: AtomicU32,
}

/// An event reported: `struct epoll_event` without its packing.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Event {
    /// EPOLL* bits.
    pub events: u32,
    /// The application's.
    pub data: u64,
    /// It is about a nested epoll descriptor, of which the kernel's half may speak too.
    pub nested: bool,
}

fn set_of<'a>(cx: &Cx<'a>, s: &Sock) -> Option<(Id<Set>, &'static Set)> {
    if s.kind() != crate::call::Kind::Epoll {
        return None;
    }
    let id = Id::new(s.body.load(Acquire));
    cx.inst.poll.sets.get(id).map(|set| (id, set))
}

fn item<'a>(cx: &Cx<'a>, id: u32) -> Option<&'static Item> {
    cx.inst.poll.items.get(Id::new(id))
}

/// A new set with one reference. ENFILE.
pub fn create(cx: &Cx<'_>) -> Result<Held> {
    let held = fd::open(cx, crate::call::Kind::Epoll, 0, 0, 0, libc::O_RDWR as u32)?;
    let Some((id, set)) = cx.inst.poll.sets.alloc() else {
        held.release(cx);
        return Err(Errno::ENFILE);
    };
    set.sock.store(held.id().0, Relaxed);
    set.incoming.store(0, Relaxed);
    set.kernel.store(0, Relaxed);
    set.turn.store(0, Relaxed);
    set.watches.store(0, Relaxed);
    *set.lists.lock(cx.me) = Lists { head: 0, tail: 0, all: 0 };
    held.body.store(id.0, Release);
    Ok(held)
}

/// The set behind an epoll description.
pub fn set(cx: &Cx<'_>, ep: &Sock) -> Option<&'static Set> {
    set_of(cx, ep).map(|(_, set)| set)
}

impl Set {
    /// Onto the stack, if it is not on it or the list already: true if it was not.
    fn push(&self, cx: &Cx<'_>, id: u32, it: &Item) -> bool {
        let fresh = it.linked.swap(1, SeqCst) == 0;
        if fresh {
            let mut head = self.incoming.load(Relaxed);
            loop {
                it.next.store(head, Relaxed);
                match self.incoming.compare_exchange_weak(head, id, SeqCst, Relaxed) {
                    Ok(_) => break,
                    Err(now) => head = now,
                }
            }
        }
        if let Some(s) = cx.inst.socks.get(Id::new(self.sock.load(Relaxed))) {
            s.ready.fetch_or(ev::IN, SeqCst);
        }
        fresh
    }

    /// Nothing can have fired.
    #[inline]
    fn is_quiet(&self, s: &Sock) -> bool {
        s.ready.load(SeqCst) == 0 && self.watches.load(Relaxed) == 0
    }

    /// Fires the items behind whose descriptor something has happened in the kernel's half.
    #[cold]
    fn listen(&self, cx: &Cx<'_>, lists: &Lists) {
        let mut at = lists.all;
        while let Some(it) = item(cx, at) {
            let watch = it.watch.load(Relaxed);
            if watch != 0 && edge::came(watch as i32 - 1) && it.events.load(SeqCst) & ev::ALL != 0 {
                self.push(cx, at, it);
            }
            at = it.after.load(Relaxed);
        }
    }

    /// Turns the stack into the list's tail, oldest first.
    fn collect(&self, cx: &Cx<'_>, lists: &mut Lists) {
        if self.watches.load(Relaxed) != 0 {
            self.listen(cx, lists);
        }
        let mut at = self.incoming.swap(0, SeqCst);
        let last = at;
        let mut first = 0;
        while let Some(it) = item(cx, at) {
            let next = it.next.load(Relaxed);
            it.next.store(first, Relaxed);
            first = at;
            at = next;
        }
        if first != 0 {
            match item(cx, lists.tail) {
                Some(t) => t.next.store(first, Relaxed),
                None => lists.head = first,
            }
            lists.tail = last;
        }
    }

    /// Sets the hint to what the lists say. The lock is held.
    fn hint(&self, s: &Sock, lists: &Lists) -> bool {
        if lists.head == 0 {
            s.ready.store(0, SeqCst);
            if self.incoming.load(SeqCst) == 0 {
                return false;
            }
            s.ready.store(ev::IN, SeqCst);
        }
        true
    }
}

impl Lists {
    fn pop(&mut self, cx: &Cx<'_>) -> Option<(u32, &'static Item)> {
        let id = self.head;
        let it = item(cx, id)?;
        self.head = it.next.load(Relaxed);
        if self.head == 0 {
            self.tail = 0;
        }
        Some((id, it))
    }
    fn append(&mut self, cx: &Cx<'_>, id: u32, it: &Item) {
        it.next.store(0, Relaxed);
        match item(cx, self.tail) {
            Some(t) => t.next.store(id, Relaxed),
            None => self.head = id,
        }
        self.tail = id;
    }
    fn prepend(&mut self, id: u32, it: &Item) {
        it.next.store(self.head, Relaxed);
        if self.head == 0 {
            self.tail = id;
        }
        self.head = id;
    }
    fn enlist(&mut self, cx: &Cx<'_>, id: u32, it: &Item) {
        it.before.store(0, Relaxed);
        it.after.store(self.all, Relaxed);
        if let Some(a) = item(cx, self.all) {
            a.before.store(id, Relaxed);
        }
        self.all = id;
    }
    fn delist(&mut self, cx: &Cx<'_>, it: &Item) {
        let (before, after) = (it.before.load(Relaxed), it.after.load(Relaxed));
        match item(cx, before) {
            Some(b) => b.after.store(after, Relaxed),
            None => self.all = after,
        }
        if let Some(a) = item(cx, after) {
            a.before.store(before, Relaxed);
        }
    }
}

/// After a death inside: sets that are no description's and interests that are no set's go; the lists of the others are made anew, with every interest
/// on the ready list: those that have nothing to say leave it when they are asked.
pub(super) fn repair(cx: &Cx<'_>) {
    let p = &cx.inst.poll;
    for (id, set) in p.sets.iter() {
        let theirs = cx.inst.socks.get(Id::new(set.sock.load(Relaxed)));
        if theirs.is_some_and(|s| s.kind() == crate::call::Kind::Epoll && s.body.load(Relaxed) == id.0) {
            if let Some(mut lists) = set.lists.take_over(cx.me) {
                *lists = Lists { head: 0, tail: 0, all: 0 };
            }
            set.incoming.store(0, SeqCst);
            set.watches.store(0, SeqCst);
        } else {
            drop(set.lists.take_over(cx.me));
            p.sets.free(id);
        }
    }
    for (id, it) in p.items.iter() {
        let set = p.sets.get(Id::new(it.set.load(Relaxed)));
        let hook = p.hooks.get(Id::new(it.hook.load(Relaxed))).filter(|h| {
            queue::is_item(h, id.0)
                && h.sock.load(Relaxed) == it.sock.load(Relaxed)
                && cx.inst.socks.get(Id::new(it.sock.load(Relaxed))).is_some()
        });
        match (set, hook) {
            (Some(set), Some(hook)) => {
                hook.kept.store(1, Relaxed);
                it.linked.store(0, SeqCst);
                set.watches.fetch_add(u32::from(it.watch.load(Relaxed) != 0), SeqCst);
                if let Some(mut lists) = set.lists.take_over(cx.me) {
                    lists.enlist(cx, id.0, it);
                }
                set.push(cx, id.0, it);
            }
            _ => {
                it.set.store(0, SeqCst);
                p.items.free(id);
            }
        }
    }
}

/// Locks a set's lists; made anew if whoever had them died.
fn lock<'a>(cx: &Cx<'_>, id: Id<Set>, set: &'a Set, me: &'a Me) -> Guard<'a, Lists, { rank::EPOLL }> {
    let mut lists = set.lists.lock(me);
    if lists.inherited() {
        *lists = Lists { head: 0, tail: 0, all: 0 };
        set.incoming.store(0, SeqCst);
        for (n, it) in cx.inst.poll.items.iter().filter(|(_, it)| it.set.load(Relaxed) == id.0) {
            it.linked.store(0, SeqCst);
            lists.enlist(cx, n.0, it);
            set.push(cx, n.0, it);
        }
    }
    lists
}

/// What an item would report now.
fn level(cx: &Cx<'_>, it: &Item) -> u32 {
    let events = it.events.load(SeqCst);
    match cx.inst.socks.get(Id::new(it.sock.load(Relaxed))) {
        Some(s) if events & ev::ALL != 0 => match now(cx, s) & events & ev::ALL {
            0 if events & libc::EPOLLET as u32 != 0 && s.kind() == crate::call::Kind::Epoll => kernel_level(cx, it, s) & events,
            level => level,
        },
        _ => 0,
    }
}

/// What the kernel's half of a nested set says.
#[cold]
fn kernel_level(cx: &Cx<'_>, it: &Item, s: &Sock) -> u32 {
    let (fd, id) = (it.fd.load(Relaxed) as i32, Id::new(it.sock.load(Relaxed)));
    let asks = set_of(cx, s).is_some_and(|(_, set)| set.kernel.load(Acquire) != 0) && cx.inst.procs.get(cx.proc).is(fd, id);
    if asks && edge::is_readable(fd) { ev::IN | ev::RDNORM } else { 0 }
}

/// Its socket had events: the item goes to its set's ready list. The socket's QUEUE lock is held. True if a thread waits for the set (what
/// EPOLLEXCLUSIVE counts).
pub(super) fn fire(cx: &Cx<'_>, id: u32, _events: u32) -> bool {
    let Some(it) = item(cx, id) else { return false };
    if it.events.load(SeqCst) & ev::ALL == 0 {
        return false;
    }
    let Some(set) = cx.inst.poll.sets.get(Id::new(it.set.load(Relaxed))) else { return false };
    set.push(cx, id, it);
    tell(cx, set)
}

/// Wakes those who wait for the set, and sets around it.
fn tell(cx: &Cx<'_>, set: &Set) -> bool {
    match cx.inst.socks.get(Id::new(set.sock.load(Relaxed))) {
        Some(s) => s.queue.wake_outer(cx, ev::IN),
        None => false,
    }
}

/// Finds the interest of `set` in (sock, fd).
fn find(cx: &Cx<'_>, set: Id<Set>, target: &Sock, sock: Id<Sock>, fd: i32) -> Option<(u32, &'static Item)> {
    let mut found = None;
    target.queue.each_item(cx, |id| {
        let it = item(cx, id);
        if it.is_some_and(|it| it.set.load(Relaxed) == set.0 && it.sock.load(Relaxed) == sock.0 && it.fd.load(Relaxed) == fd as u32) {
            found = it.map(|it| (id, it));
        }
        found.is_none()
    });
    found
}

/// epoll_ctl(2) on a virtual descriptor. For a nested set the kernel has agreed already (ELOOP and its like are its).
pub fn ctl(cx: &Cx<'_>, ep: &Held, op: i32, target: &Held, fd: i32, event: Event) -> Result<()> {
    let Some((set_id, set)) = set_of(cx, ep) else { return Err(Errno::EINVAL) };
    if ep.id() == target.id() {
        return Err(Errno::EINVAL);
    }
    let exclusive = event.events & libc::EPOLLEXCLUSIVE as u32 != 0;
    let nested = target.kind() == crate::call::Kind::Epoll;
    match op {
        libc::EPOLL_CTL_MOD if exclusive => return Err(Errno::EINVAL),
        libc::EPOLL_CTL_ADD if exclusive && (nested || event.events & !EXCLUSIVE_OK != 0) => return Err(Errno::EINVAL),
        libc::EPOLL_CTL_ADD | libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL => {}
        _ => return Err(Errno::EINVAL),
    }
    let events = event.events | ev::ALWAYS;
    let mut lists = lock(cx, set_id, set, cx.me);
    let found = find(cx, set_id, target, target.id(), fd);
    match (op, found) {
        (libc::EPOLL_CTL_ADD, Some(_)) => return Err(Errno::EEXIST),
        (libc::EPOLL_CTL_ADD, None) => {
            let (id, it) = cx.inst.poll.items.alloc().ok_or(Errno::ENOSPC)?;
            it.set.store(set_id.0, Relaxed);
            it.sock.store(target.id().0, Relaxed);
            it.fd.store(fd as u32, Relaxed);
            it.events.store(events, SeqCst);
            it.data.store(event.data, Relaxed);
            it.linked.store(0, Relaxed);
            it.watch.store(0, Relaxed);
            let Some(hook) = queue::add(cx, target.id(), target, queue::Who::Item(id.0), events, exclusive) else {
                it.set.store(0, Relaxed);
                cx.inst.poll.items.free(id);
                return Err(Errno::ENOSPC);
            };
            it.hook.store(hook.0, Relaxed);
            lists.enlist(cx, id.0, it);
            if level(cx, it) != 0 {
                set.push(cx, id.0, it);
                drop(lists);
                tell(cx, set);
            }
        }
        (_, None) => return Err(Errno::ENOENT),
        (libc::EPOLL_CTL_DEL, Some((id, it))) => remove(cx, &mut lists, id, it, target),
        (_, Some((id, it))) => {
            if it.events.load(Relaxed) & libc::EPOLLEXCLUSIVE as u32 != 0 {
                return Err(Errno::EINVAL);
            }
            it.data.store(event.data, Relaxed);
            it.events.store(events, SeqCst);
            queue::ask(cx, target, Id::new(it.hook.load(Relaxed)), events);
            // To a set around this one an item that was ready anyway is no event (polldiff's sequence 100743).
            if level(cx, it) != 0 && set.push(cx, id, it) {
                drop(lists);
                tell(cx, set);
            }
        }
    }
    Ok(())
}

/// Takes an interest away. The set's lock is held.
fn remove(cx: &Cx<'_>, lists: &mut Lists, id: u32, it: &'static Item, target: &Sock) {
    queue::remove(cx, target, Id::new(it.hook.swap(0, Relaxed)));
    lists.delist(cx, it);
    if it.watch.swap(0, Relaxed) != 0
        && let Some(set) = cx.inst.poll.sets.get(Id::new(it.set.load(Relaxed)))
    {
        set.watches.fetch_sub(1, Relaxed);
    }
    it.set.store(0, SeqCst);
    // On stack or list: freed when met there. Nobody pushes it any more.
    if it.linked.load(SeqCst) == 0 {
        cx.inst.poll.items.free(Id::new(id));
    }
}

/// Gives the interest of `ep` in (`target`, `fd`) a watch; its number, for [`is_watched`].
pub fn watch(cx: &Cx<'_>, ep: &Held, target: &Held, fd: i32, watch: i32) -> Option<u32> {
    let (set_id, set) = set_of(cx, ep)?;
    let _lists = lock(cx, set_id, set, cx.me);
    let (id, it) = find(cx, set_id, target, target.id(), fd)?;
    if it.watch.compare_exchange(0, watch as u32 + 1, Relaxed, Relaxed).is_err() {
        return None;
    }
    set.watches.fetch_add(1, Relaxed);
    Some(id)
}

/// Takes an interest's watch away.
pub fn unwatch(cx: &Cx<'_>, id: u32, watch: i32) {
    let Some(it) = item(cx, id) else { return };
    let Some(set) = cx.inst.poll.sets.get(Id::new(it.set.load(Relaxed))) else { return };
    let _lists = set.lists.lock(cx.me);
    if it.watch.compare_exchange(watch as u32 + 1, 0, Relaxed, Relaxed).is_ok() {
        set.watches.fetch_sub(1, Relaxed);
    }
}

/// Has this interest still got this watch?
pub fn is_watched(cx: &Cx<'_>, id: u32, watch: i32) -> bool {
    item(cx, id).is_some_and(|it| it.set.load(Relaxed) != 0 && it.watch.load(Relaxed) == watch as u32 + 1)
}

/// What is ready, into `out`, as epoll_wait(2) would report it; how many. Never waits.
pub fn wait(cx: &Cx<'_>, ep: &Held, out: &mut [Event]) -> usize {
    let Some((set_id, set)) = set_of(cx, ep) else { return 0 };
    if set.is_quiet(ep) || out.is_empty() {
        return 0;
    }
    let mut lists = lock(cx, set_id, set, cx.me);
    set.collect(cx, &mut lists);
    let mut rest = Lists { head: core::mem::take(&mut lists.head), tail: core::mem::take(&mut lists.tail), all: 0 };
    let mut n = 0;
    while n < out.len() {
        let Some((id, it)) = rest.pop(cx) else { break };
        // Off the list first, level second: what happens from now on fires it anew.
        it.linked.store(0, SeqCst);
        if it.set.load(Relaxed) == 0 {
            cx.inst.poll.items.free(Id::new(id));
            continue;
        }
        let events = level(cx, it);
        if events == 0 {
            continue;
        }
        let nested = cx.inst.socks.get(Id::new(it.sock.load(Relaxed))).is_some_and(|s| s.kind() == crate::call::Kind::Epoll);
        out[n] = Event { events, data: it.data.load(Relaxed), nested };
        n += 1;
        let asked = it.events.load(Relaxed);
        if asked & libc::EPOLLONESHOT as u32 != 0 {
            it.events.store(asked & PRIVATE, SeqCst);
        } else if asked & libc::EPOLLET as u32 == 0 && it.linked.swap(1, SeqCst) == 0 {
            lists.append(cx, id, it);
        }
    }
    if let Some(t) = item(cx, rest.tail) {
        t.next.store(lists.head, Relaxed);
        if lists.head == 0 {
            lists.tail = rest.tail;
        }
        lists.head = rest.head;
    }
    let more = set.hint(ep, &lists);
    drop(lists);
    if more {
        // Somebody else who waits may have them.
        ep.queue.wake_threads(cx, ev::IN);
    }
    n
}

/// Is anything in the set ready? The truth, by asking; items that are not leave the list.
pub(super) fn is_ready(cx: &Cx<'_>, s: &Sock) -> bool {
    let Some((set_id, set)) = set_of(cx, s) else { return false };
    if set.is_quiet(s) {
        return false;
    }
    // Maybe inside an outer set's lock of the same rank: outer before inner.
    let me = Me::new(cx.me.pid, cx.me.tid);
    let mut lists = lock(cx, set_id, set, &me);
    set.collect(cx, &mut lists);
    while let Some((id, it)) = lists.pop(cx) {
        it.linked.store(0, SeqCst);
        if it.set.load(Relaxed) == 0 {
            cx.inst.poll.items.free(Id::new(id));
        } else if level(cx, it) != 0 {
            if it.linked.swap(1, SeqCst) == 0 {
                lists.prepend(id, it);
            }
            return true;
        }
    }
    set.hint(s, &lists)
}

/// A kernel descriptor was added to (or removed from) the kernel's half. Those who sleep on the virtual half alone must think again.
pub fn kernel(cx: &Cx<'_>, ep: &Held, added: bool) {
    let Some((_, set)) = set_of(cx, ep) else { return };
    if !added {
        let _ = set.kernel.fetch_update(AcqRel, Relaxed, |n| n.checked_sub(1));
    } else if set.kernel.fetch_add(1, SeqCst) == 0 {
        ep.ready.fetch_or(ev::IN, SeqCst);
        // Threads only: to a set around this one it is no event (polldiff's sequence 40731).
        ep.queue.wake_threads(cx, ev::ALL);
    }
}

/// Calls `each` with every interest in (`target`, `fd`): the set's own description and what was asked. For a descriptor that becomes the kernel's.
pub fn interests(cx: &Cx<'_>, target: &Sock, fd: i32, mut each: impl FnMut(Id<Sock>, Event)) {
    target.queue.each_item(cx, |id| {
        if let Some(it) = item(cx, id)
            && it.fd.load(Relaxed) == fd as u32
            && let Some(set) = cx.inst.poll.sets.get(Id::new(it.set.load(Relaxed)))
        {
            let event = Event { events: it.events.load(Relaxed), data: it.data.load(Relaxed), nested: false };
            each(Id::new(set.sock.load(Relaxed)), event);
        }
        true
    });
}

/// The last reference to a description is gone: the interests in it go, and, if it is a set, its own.
pub(super) fn release(cx: &Cx<'_>, s: &Sock, id: Id<Sock>) {
    loop {
        let mut first = 0;
        s.queue.each_item(cx, |id| {
            first = id;
            false
        });
        let Some(it) = item(cx, first) else { break };
        let set_id = Id::new(it.set.load(Relaxed));
        let Some(set) = cx.inst.poll.sets.get(set_id) else { continue };
        let mut lists = lock(cx, set_id, set, cx.me);
        if it.set.load(Relaxed) == set_id.0 && it.sock.load(Relaxed) == id.0 {
            remove(cx, &mut lists, first, it, s);
        }
    }
    if s.kind() != crate::call::Kind::Epoll {
        return;
    }
    let Some((set_id, set)) = set_of(cx, s) else { return };
    let mut lists = lock(cx, set_id, set, cx.me);
    while let Some(it) = item(cx, lists.all) {
        let id = lists.all;
        match cx.inst.socks.get(Id::new(it.sock.load(Relaxed))) {
            Some(target) => remove(cx, &mut lists, id, it, target),
            None => lists.delist(cx, it),
        }
    }
    set.collect(cx, &mut lists);
    while let Some((id, _)) = lists.pop(cx) {
        cx.inst.poll.items.free(Id::new(id));
    }
    s.body.store(0, Release);
    drop(lists);
    cx.inst.poll.sets.free(set_id);
}
