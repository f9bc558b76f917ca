//! Open descriptions and the descriptor tables of an instance's processes.
//!
//! # Theory of operation
//! **Purpose.** Linux keeps three things apart: a descriptor (a number in one process, with close-on-exec), an open description (shared by dup
//! and fork, with flags), and the object behind it. [`Sock`] is the open description of a virtual socket or epoll set; [`Proc::fds`] maps a
//! process's descriptors to them.
//! **How it works.** Each virtual descriptor is a real kernel descriptor too (the *shadow*, an AF_UNIX socket), so numbers are the kernel's. The
//! table word of descriptor `n` is the [`Sock`]'s id, 0 if the kernel's own. A [`Sock`] counts references: one for each table word, one for
//! each operation in flight ([`Held`]). The last one gone closes it ([`crate::call::socket::release`]).
//! A process's table lies in the arena, so that whoever outlives it can drop its references ([`Procs::bury`]).
//! **Limits.** Descriptors below [`FDS`] can be virtual; [`PROCS`] processes.
//! **Locks.** None: table words are swapped atomically. **Failure.** EMFILE from [`Proc::set`], ENFILE when processes run out.
//! **See also.** open(2), dup(2), fork(2); design section 7.
use crate::arena::{Id, Shared, Slab};
use crate::call::Kind;
use crate::clock::Nanos;
use crate::config::Str;
use crate::errno::{Errno, Result};
use crate::gate::file;
use crate::instance::{Cx, Instance};
use crate::poll::WaitQueue;
use crate::sync::{Lock, rank};
use core::fmt::Write as _;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::*};

pub mod flight;

/// Descriptors of a process that can be virtual.
pub const FDS: usize = 65536;
/// How long an announced process has to come if its parent is dead.
const STILLBORN: Nanos = 900 * crate::clock::MS;
/// What is lately, of forks.
const RECENT: Nanos = crate::clock::SEC;
/// File actions put sockets on numbers below this, as far as [`Proc::find_elsewhere`] looks.
const ELSEWHERE: usize = 32;
/// Processes of an instance.
pub const PROCS: usize = 1024;

/// In [`Sock::owner_about`]: the owner is a thread (F_OWNER_TID).
pub const OWNED_BY_THREAD: u32 = 1 << 31;

/// An open description: what dup and fork share.
#[repr(C)]
#[derive(Shared)]
pub struct Sock {
    /// Table words and operations in flight.
    pub refs: AtomicU32,
    /// References that a repair has found ([`crate::repair`]).
    pub(crate) tally: AtomicU32,
    kind: AtomicU8,
    /// SO_REUSEADDR and friends that the hot paths look at; see [`crate::net::option`].
    pub bits: AtomicU8,
    /// AF_INET or AF_INET6.
    pub family: AtomicU16,
    /// O_NONBLOCK, O_ASYNC as fcntl(2) F_GETFL shows them.
    pub flags: AtomicU32,
    /// What poll(2) would say now: EPOLL* bits, kept up to date by [`Sock::publish`].
    pub ready: AtomicU32,
    /// The object's number in its own slab (flow, listener, datagram socket, epoll set); 0 while there is none.
    pub body: AtomicU32,
    /// The socket's protocol (IPPROTO_*).
    pub protocol: AtomicU16,
    /// SOCK_STREAM, SOCK_DGRAM, SOCK_RAW.
    pub kind_type: AtomicU16,
    /// SO_ERROR: set once, taken once.
    pub error: AtomicU32,
    /// Who waits for it.
    pub queue: WaitQueue,
    /// References that messages under way have ([`flight`]).
    pub flights: AtomicU32,
    /// Inode of the shadow: the socket's identity outside.
    pub inode: AtomicU64,
    /// SO_RCVTIMEO in nanoseconds, 0 for none.
    pub rcvtimeo: AtomicU64,
    /// SO_SNDTIMEO in nanoseconds, 0 for none.
    pub sndtimeo: AtomicU64,
    /// F_SETOWN (pid, or minus a process group).
    pub owner: AtomicU32,
    /// F_SETSIG.
    pub owner_signal: AtomicU32,
    /// The descriptor that O_ASYNC was last set on, plus one; [`OWNED_BY_THREAD`].
    pub owner_about: AtomicU32,
    /// Options that no hot path looks at.
    pub options: Lock<crate::net::option::Options, { rank::SOCK }>,
}

impl Sock {
    /// What kind of socket it is.
    #[inline]
    pub fn kind(&self) -> Kind {
        Kind::from_u8(self.kind.load(Relaxed))
    }
    /// Is O_NONBLOCK set?
    #[inline]
    pub fn nonblocking(&self) -> bool {
        self.flags.load(Relaxed) & libc::O_NONBLOCK as u32 != 0
    }
    /// Is it an AF_INET6 socket?
    #[inline]
    pub fn is_v6(&self) -> bool {
        i32::from(self.family.load(Relaxed)) == libc::AF_INET6
    }
    /// Says what poll(2) would see from now on, and which events happened just now (an edge happens even if the level was up already).
    /// Called under the lock of the object behind the socket, so that levels never go backwards.
    #[inline]
    pub fn publish(&self, cx: &Cx<'_>, ready: u32, edges: u32) {
        // SeqCst: a waiter first hooks on, then looks at the level; we first set the level, then look for hooks (poll::WaitQueue).
        let before = self.ready.swap(ready, SeqCst);
        let edges = edges | (ready & !before);
        if edges != 0 {
            self.queue.wake(cx, edges);
            if self.flags.load(Relaxed) & libc::O_ASYNC as u32 != 0 {
                cx.wakes.signal(self, edges);
            }
        }
    }
    /// Latches an error for SO_ERROR (the first one stays).
    pub fn fail(&self, e: Errno) {
        let _ = self.error.compare_exchange(0, u32::from(e.0), AcqRel, Relaxed);
    }
    /// Takes the pending error, once.
    #[inline]
    pub fn take_error(&self) -> Option<Errno> {
        if self.error.load(Relaxed) == 0 {
            return None;
        }
        match self.error.swap(0, AcqRel) {
            0 => None,
            e => {
                if self.kind() == Kind::Tcp {
                    // Nothing else is an EPOLLERR of a stream's.
                    self.ready.fetch_and(!(libc::EPOLLERR as u32), AcqRel);
                }
                Some(Errno(e as u16))
            }
        }
    }
    /// When a receive that starts now gives up.
    pub fn rcv_deadline(&self, cx: &Cx<'_>) -> Nanos {
        deadline(cx, self.rcvtimeo.load(Relaxed))
    }
    /// When a send that starts now gives up.
    pub fn snd_deadline(&self, cx: &Cx<'_>) -> Nanos {
        deadline(cx, self.sndtimeo.load(Relaxed))
    }
}

fn deadline(cx: &Cx<'_>, timeout: Nanos) -> Nanos {
    if timeout == 0 { Nanos::MAX } else { cx.now().saturating_add(timeout) }
}

/// A new open description with one reference (the caller's). ENFILE if there are too many.
pub fn open(cx: &Cx<'_>, kind: Kind, family: u16, ty: u16, protocol: u16, flags: u32) -> Result<Held> {
    let (id, s) = cx.inst.socks.alloc().ok_or(Errno::ENFILE)?;
    s.kind.store(kind as u8, Relaxed);
    s.bits.store(0, Relaxed);
    s.family.store(family, Relaxed);
    s.kind_type.store(ty, Relaxed);
    s.protocol.store(protocol, Relaxed);
    s.flags.store(flags, Relaxed);
    s.ready.store(0, Relaxed);
    s.body.store(0, Relaxed);
    s.error.store(0, Relaxed);
    s.inode.store(0, Relaxed);
    s.flights.store(0, Relaxed);
    s.rcvtimeo.store(0, Relaxed);
    s.sndtimeo.store(0, Relaxed);
    s.owner.store(0, Relaxed);
    s.owner_signal.store(0, Relaxed);
    s.owner_about.store(0, Relaxed);
    s.queue.reset(cx);
    *s.options.lock(cx.me) = crate::net::option::Options::fresh(cx);
    s.refs.store(1, Release);
    Ok(Held { inst: cx.inst, id })
}

/// A reference to an open description for the length of an operation. Let it go with [`Held::release`]: a plain drop cannot close the
/// socket, so the last one must not be lost that way.
pub struct Held {
    inst: &'static Instance,
    id: Id<Sock>,
}

impl Held {
    /// Takes a reference, if it is still open.
    #[inline]
    pub fn take(inst: &'static Instance, id: Id<Sock>) -> Option<Self> {
        let s = inst.socks.get(id)?;
        let mut n = s.refs.load(Relaxed);
        loop {
            if n == 0 {
                return None;
            }
            match s.refs.compare_exchange_weak(n, n + 1, AcqRel, Relaxed) {
                Ok(_) => return Some(Self { inst, id }),
                Err(now) => n = now,
            }
        }
    }
    /// Its number.
    pub fn id(&self) -> Id<Sock> {
        self.id
    }
    /// The open description. It stays at least as long as this reference.
    #[inline]
    pub fn sock(&self) -> &'static Sock {
        self.inst.socks.get(self.id).unwrap_or_else(|| unreachable!("a held socket is in use"))
    }
    /// One more reference.
    pub fn share(&self) -> Self {
        self.sock().refs.fetch_add(1, AcqRel);
        Self { inst: self.inst, id: self.id }
    }
    /// Lets go; the last one closes the socket.
    #[inline]
    pub fn release(self, cx: &Cx<'_>) {
        let (s, id) = (self.sock(), self.id);
        core::mem::forget(self);
        if s.refs.fetch_sub(1, AcqRel) == 1 {
            crate::call::socket::release(cx, s, id);
        }
    }
    /// Turns the reference into one that somebody else (a table word, a queue) counts.
    pub fn into_id(self) -> Id<Sock> {
        let id = self.id;
        core::mem::forget(self);
        id
    }
    /// Takes over a reference that [`Held::into_id`] put somewhere.
    pub fn from_id(inst: &'static Instance, id: Id<Sock>) -> Self {
        Self { inst, id }
    }
}

impl core::ops::Deref for Held {
    type Target = Sock;
    #[inline]
    fn deref(&self) -> &Sock {
        self.sock()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Without a Cx nothing can be closed: only the count is kept right; a leak is better than a dangling socket.
        let n = self.sock().refs.fetch_sub(1, AcqRel);
        debug_assert!(n > 1, "the last reference to a socket was dropped without release()");
    }
}

/// What [`Proc::pid`] says of a process that thread `me` is about to make: nobody else announces the same, so whoever fills in the pid
/// later cannot meet another process that has got the table meanwhile.
pub fn announcement(me: &crate::sync::Me) -> u32 {
    ANNOUNCED | me.tid
}

/// Is it a process's id, not "none" and not an announcement?
#[inline]
pub const fn is_pid(pid: u32) -> bool {
    pid != 0 && pid & ANNOUNCED == 0
}

/// The bit of an announcement.
const ANNOUNCED: u32 = 1 << 31;

/// What [`Proc::leaving`] says.
pub mod leaving {
    /// The program that runs is the one that keeps the table.
    pub const NO: u32 = 0;
    /// It calls exec(2) (or was spawned): the new program will say so when it has come.
    pub const COMES_BACK: u32 = 1;
    /// It calls exec(2) of a program that cannot be of the instance.
    pub const STRANGER: u32 = 2;
}

/// One process of the instance. Aligned so that a pointer to one has bits to spare.
#[repr(C, align(8))]
#[derive(Shared)]
pub struct Proc {
    /// Its pid; 0 once it is gone; an [`announcement`] before it is there.
    pub pid: AtomicU32,
    /// Who announced it, and when.
    parent: AtomicU32,
    announced: AtomicU64,
    /// One above the highest descriptor that was ever virtual: bounds the walks.
    pub high: AtomicU32,
    /// One above the descriptor of the process's own socket that rings bells ([`crate::gate::bell`]); 0: none.
    pub clapper: AtomicU32,
    /// A second process that shares the descriptors (clone(2) with CLONE_FILES); 0: none.
    pub partner: AtomicU32,
    /// Another program may run in the process by now ([`leaving`]): the keeper compares the table with what the process has open.
    pub leaving: AtomicU32,
    /// Descriptor -> [`Sock`] id, 0 if the kernel's own.
    pub fds: [AtomicU32; FDS],
}

/// The processes of an instance.
#[repr(C)]
#[derive(Shared)]
pub struct Procs {
    /// When a process was last forked: the keeper looks around for a while then, and is not woken for each ([`Procs::forked`]).
    pub forked_at: AtomicU64,
    /// How many references are in flight.
    pub flying: AtomicU32,
    /// The table.
    pub table: Slab<Proc, PROCS>,
}

impl Proc {
    /// The socket behind a descriptor, with a reference.
    #[inline]
    pub fn get(&self, inst: &'static Instance, fd: i32) -> Option<Held> {
        let word = self.fds.get(fd as usize)?;
        loop {
            let id = word.load(Acquire);
            if id == 0 {
                return None;
            }
            if let Some(h) = Held::take(inst, Id::new(id)) {
                return Some(h);
            }
            // Closed between the two loads: look again; if the word still names a dead socket it is stale.
            if word.load(Acquire) == id {
                return None;
            }
        }
    }
    /// Is any descriptor virtual?
    pub fn any(&self) -> bool {
        self.fds[..(self.high.load(Acquire) as usize).min(FDS)].iter().any(|w| w.load(Relaxed) != 0)
    }
    /// Is the descriptor virtual? One load.
    #[inline]
    pub fn is_virtual(&self, fd: i32) -> bool {
        self.fds.get(fd as usize).is_some_and(|w| w.load(Relaxed) != 0)
    }
    /// Does the descriptor mean this socket? One load.
    pub fn is(&self, fd: i32, id: Id<Sock>) -> bool {
        id.0 != 0 && self.fds.get(fd as usize).is_some_and(|w| w.load(Acquire) == id.0)
    }
    /// Makes `fd` mean this socket; whatever it meant before (a close that was missed) is let go. EMFILE if the number is too high.
    pub fn set(&self, cx: &Cx<'_>, fd: i32, held: Held) -> Result<()> {
        let Some(word) = self.fds.get(fd as usize) else {
            held.release(cx);
            return Err(Errno::EMFILE);
        };
        self.high.fetch_max(fd as u32 + 1, AcqRel);
        let old = word.swap(held.into_id().0, AcqRel);
        if old != 0 {
            Held::from_id(cx.inst, Id::new(old)).release(cx);
        }
        Ok(())
    }
    /// Notes `held` for the descriptors of the process that are it (by their links, `low`), though nobody said so.
    fn find_elsewhere(&self, held: &Held, low: &[Result<Str<40>>], not: u32) {
        for (word, link, fd) in self.fds.iter().zip(low).zip(0..).map(|((w, l), fd)| (w, l, fd)) {
            if fd != not && word.load(Acquire) == 0 && proves(held, link) {
                let id = held.share().into_id();
                self.high.fetch_max(fd + 1, AcqRel);
                if word.compare_exchange(0, id.0, AcqRel, Relaxed).is_err() {
                    drop(Held::from_id(held.inst, id));
                }
            }
        }
    }
    /// Forgets `fd` (it was closed, or now means something else). True if it was virtual.
    pub fn clear(&self, cx: &Cx<'_>, fd: i32) -> bool {
        let Some(word) = self.fds.get(fd as usize) else { return false };
        if word.load(Relaxed) == 0 {
            return false;
        }
        let old = word.swap(0, AcqRel);
        if old != 0 {
            crate::poll::forget_fd(cx, fd, Id::new(old));
            Held::from_id(cx.inst, Id::new(old)).release(cx);
        }
        old != 0
    }
}

/// What `/proc/PID/fd/FD` says (0: of this process): the link's text, or why there is none.
pub fn link_of(pid: u32, fd: u32) -> Result<Str<40>> {
    let mut path = Str::<48>::EMPTY;
    let _ = if pid == 0 { write!(path, "/proc/self/fd/{fd}\0") } else { write!(path, "/proc/{pid}/fd/{fd}\0") };
    let mut text = [0; 40];
    let path = core::ffi::CStr::from_bytes_until_nul(path.as_bytes()).map_err(|_| Errno::EINVAL)?;
    file::readlink(path, &mut text).map(|n| Str::cut(&text[..n]))
}

/// Is a descriptor with this link still the shadow of `sock`? An epoll set's has no identity: it is taken for the one that was there.
pub fn proves(sock: &Sock, link: &Result<Str<40>>) -> bool {
    let Ok(link) = link else { return false };
    if sock.kind() == Kind::Epoll {
        return link.as_bytes() == b"anon_inode:[eventpoll]";
    }
    let mut own = Str::<40>::EMPTY;
    let _ = write!(own, "socket:[{}]", sock.inode.load(Relaxed));
    own == *link
}

impl Procs {
    /// A process has been forked. The first one in a while wakes the keeper, which then looks around until there has been none for [`RECENT`].
    pub fn forked(&self, cx: &Cx<'_>) {
        let now = cx.fresh_now();
        let last = self.forked_at.swap(now, AcqRel);
        if now.saturating_sub(last) >= RECENT / 2 {
            crate::net::wait::knock(cx);
        }
    }
    /// Has one been forked lately?
    pub fn forked_lately(&self, now: Nanos) -> bool {
        now.saturating_sub(self.forked_at.load(Acquire)) < RECENT
    }
    /// Compares the table of process `n`, in which another program may run, with the descriptors it has, and lets go of what is not there any more.
    pub fn compare(&'static self, cx: &Cx<'_>, n: u32) {
        let p = self.get(n);
        let pid = p.pid.load(Acquire);
        let mut low: Option<[Result<Str<40>>; ELSEWHERE]> = None;
        for fd in 0..p.high.load(Acquire).min(FDS as u32) {
            let word = &p.fds[fd as usize];
            let id = word.load(Acquire);
            let Some(held) = Held::take(cx.inst, Id::new(id)) else { continue };
            let link = link_of(pid, fd);
            let gone = match &link {
                Err(Errno::ENOENT) => crate::gate::process_exists(pid),
                // Another user's program: nobody knows.
                Err(_) => false,
                Ok(_) => !proves(&held, &link),
            };
            if gone && p.leaving.load(Acquire) != leaving::NO {
                // A file action of posix_spawn(3) may have put it on another number before close-on-exec took this one.
                let low = low.get_or_insert_with(|| core::array::from_fn(|fd| link_of(pid, fd as u32)));
                p.find_elsewhere(&held, low, fd);
            }
            if gone && p.leaving.load(Acquire) != leaving::NO && word.compare_exchange(id, 0, AcqRel, Relaxed).is_ok() {
                Held::from_id(cx.inst, Id::new(id)).release(cx);
            }
            held.release(cx);
            if matches!(link, Err(Errno::EACCES | Errno::EPERM)) {
                break;
            }
        }
    }
    /// The processes in which another program may run, and which have something open.
    pub fn leaving(&'static self) -> impl Iterator<Item = u32> {
        let is = |p: &Proc| is_pid(p.pid.load(Acquire)) && p.leaving.load(Relaxed) != leaving::NO && p.any();
        self.table.iter().filter(move |(_, p)| is(p)).map(|(id, _)| id.0)
    }
    /// Process `n` (from [`Procs::enter`]).
    #[inline]
    pub fn get(&'static self, n: u32) -> &'static Proc {
        self.table.get(Id::new(n)).unwrap_or_else(|| unreachable!("a process that runs is in the table"))
    }
    /// A table for process `pid`: the one it has already (it called exec), or a fresh, empty one.
    pub fn enter(&self, cx: &Cx<'_>, pid: u32) -> Result<u32> {
        if is_pid(pid)
            && let Some((id, _)) = self.table.iter().find(|(_, p)| p.pid.load(Relaxed) == pid)
        {
            return Ok(id.0);
        }
        let (id, p) = self.table.alloc().ok_or(Errno::ENFILE)?;
        for w in &p.fds[..p.high.load(Relaxed) as usize] {
            w.store(0, Relaxed);
        }
        p.high.store(0, Relaxed);
        p.clapper.store(0, Relaxed);
        p.parent.store(cx.me.pid, Relaxed);
        p.announced.store(cx.now(), Relaxed);
        p.leaving.store(leaving::NO, Relaxed);
        p.partner.store(0, Relaxed);
        p.pid.store(pid, Release);
        Ok(id.0)
    }
    /// A copy of process `parent`'s table for a child that is about to be forked; the child fills in its pid.
    pub fn fork(&'static self, cx: &Cx<'_>, parent: u32) -> Result<u32> {
        let n = self.enter(cx, announcement(cx.me))?;
        let (from, to) = (self.get(parent), self.get(n));
        let high = from.high.load(Acquire);
        to.high.store(high, Relaxed);
        to.clapper.store(from.clapper.load(Relaxed), Relaxed);
        for fd in 0..high as usize {
            if let Some(h) = from.get(cx.inst, fd as i32) {
                to.fds[fd].store(h.into_id().0, Relaxed);
            }
        }
        Ok(n)
    }
    /// Drops all references of process `n` (it has exited).
    pub fn bury(&'static self, cx: &Cx<'_>, n: u32) {
        let p = self.get(n);
        for fd in 0..p.high.load(Acquire) {
            p.clear(cx, fd as i32);
        }
        p.pid.store(0, Release);
        self.table.free(Id::new(n));
    }
    /// Is anyone there: a process that lives?
    pub fn anyone(&'static self) -> bool {
        self.table.iter().map(|(_, p)| p.pid.load(Relaxed)).any(|pid| is_pid(pid) && crate::gate::process_exists(pid))
    }
    /// The processes that are gone without having said so.
    pub fn dead(&'static self, now: Nanos) -> impl Iterator<Item = u32> {
        let gone = move |p: &Proc| {
            let pid = p.pid.load(Relaxed);
            if pid != 0 && !is_pid(pid) {
                // Its parent died around the fork: if there is a child, it comes at once or not at all.
                let late = now.saturating_sub(p.announced.load(Relaxed)) > STILLBORN;
                return late
                    && !crate::gate::process_exists(p.parent.load(Relaxed))
                    && p.pid.compare_exchange(pid, 0, AcqRel, Relaxed).is_ok();
            }
            if pid == 0 || crate::gate::process_exists(pid) {
                return false;
            }
            let partner = p.partner.swap(0, AcqRel);
            if partner != 0 && crate::gate::process_exists(partner) {
                p.pid.store(partner, Release);
                return false;
            }
            true
        };
        self.table.iter().filter(move |(_, p)| gone(p)).map(|(id, _)| id.0)
    }
}
